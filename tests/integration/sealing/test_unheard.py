"""Without a socket nothing wakes the sealer: it must look by itself, whatever the pause of a quiet socket is."""

from __future__ import annotations

from tests.integration.sealing.rig import Chain, Process, chain, environment, waiting

import psycopg

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
    with chain(1) as it, Process(environment(db, it.node.rpc_url, NOTHING_LISTENS, INDEXER_IDLE_POLL_S=IDLE_S), "run") as daemon:
        daemon.wait_for("leading")
        follows(db, it)


def test_it_goes_on_at_once_when_the_socket_is_lost(db: str) -> None:
    with chain(2) as it, Process(environment(db, it.node.rpc_url, it.node.ws_url, INDEXER_IDLE_POLL_S=IDLE_S), "run") as daemon:
        daemon.wait_for("subscribed")
        it.rpc("devnode_setFault", "refuse_sockets", 1)
        it.rpc("devnode_dropSockets")
        daemon.wait_for("socket_lost")
        follows(db, it)
