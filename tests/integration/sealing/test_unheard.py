"""Without a socket nothing wakes the sealer: it must look by itself, whatever the pause of a quiet socket is."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg

from tests.integration.sealing.rig import Chain, Process, chain, environment, waiting
from tests.node.validator import CuttingTcpProxy

NOTHING_LISTENS = "ws://127.0.0.1:9"
# Far longer than the test: whoever waits for it is not seen to seal.
IDLE_S = "300"


def sealed(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT slot FROM ledger.checkpoints WHERE name = 'ingest:1'").fetchone()
    return -1 if row is None else int(row[0])


def follows(dsn: str, it: Chain) -> None:
    for _ in range(3):
        tip = it.confirmed() + 1
        waiting(lambda tip=tip: sealed(dsn) >= tip, 15)  # type: ignore[misc]


def test_it_seals_without_a_socket(db: str) -> None:
    with (
        chain(1) as it,
        Process(environment(db, it.node.rpc_url, NOTHING_LISTENS, INDEXER_IDLE_POLL_S=IDLE_S), "run") as daemon,
    ):
        daemon.wait_for("leading")
        follows(db, it)


def test_it_goes_on_at_once_when_the_socket_is_lost_for_good(db: str) -> None:
    with chain(2) as it:
        proxy = CuttingTcpProxy(urlsplit(it.node.ws_url).port or 0)
        here = environment(db, it.node.rpc_url, f"ws://127.0.0.1:{proxy.port}", INDEXER_IDLE_POLL_S=IDLE_S)
        with Process(here, "run") as daemon:
            daemon.wait_for("subscribed")
            proxy.close()
            # A listener that waits in accept still takes one connection.
            waiting(lambda: proxy.cut() is not None and "refused" in str(daemon.said("socket_lost")), 30)
            follows(db, it)
