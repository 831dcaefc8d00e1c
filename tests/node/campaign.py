"""The whole path on a real validator: memo transactions and the crowd, sockets cut, the daemon killed, then the ledger against every block.

`make test-node` or `SOLANA_TEST_VALIDATOR=… python -m tests.node.campaign [--rate 320] [--seconds 60] [--kills 10] [--json]`. Two daemons watch the
voting program and the memo program: one with a socket, which is cut and which is killed, one that has no socket at all. Exit code 1 when a ledger
differs from a walk of all blocks, in order, outcome or logs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from programs.community_voting import artifact
from schema import db, reads
from schema.verify import verify
from tests.node import validator
from tests.torture.stage import Daemon, Stage, until

CROWD_RATE = 10
SETTLE_S = 120.0
NOTHING_LISTENS = "ws://127.0.0.1:9"
DROPS = "indexer_socket_drops_total"


def play(rate: float, seconds: float, kills: int, cuts: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """One run; the figures and what differs."""
    rng = random.Random(seed)
    with Stage(say) as stage:
        postgres = stage.postgres()
        validator.start(stage)
        say(f"validator at {stage.rpc_url}, slot {stage.confirmed()}")
        proxy = validator.CuttingTcpProxy(urlsplit(stage.ws_url).port or 0)
        config = _config(stage)
        daemons = _daemons(stage, postgres, config, proxy.port)
        for daemon in daemons:
            daemon.start()
        until(lambda: all(daemon.ready() for daemon in daemons), 90, "both daemons")
        memos = validator.Memos(stage, rate)
        memos.start()
        crowd = [sys.executable, "-m", "programs.crowd", "--url", stage.rpc_url, "--rate", str(CROWD_RATE)]
        stage.spawn("crowd", [*crowd, "--seconds", str(seconds), "--wallets", "24"], dict(os.environ))
        first, drops, cut, lag = stage.confirmed(), 0.0, 0, [0, 0]
        moments = sorted(
            [(rng.uniform(2, seconds), "kill") for _ in range(kills)]
            + [(rng.uniform(2, seconds), "cut") for _ in range(cuts)]
        )
        begun = time.monotonic()
        for at, what in [*moments, (seconds, "end")]:
            while time.monotonic() < begun + at:
                time.sleep(0.2)
                tip = stage.confirmed()
                lag = [max(before, tip - daemon.sealed()) for before, daemon in zip(lag, daemons, strict=True)]
            if what == "kill":
                drops += _drops(daemons[0])
                daemons[0].kill()
                daemons[0].start()
            elif what == "cut":
                cut += _cut(proxy)
        memos.stop()
        tip = stage.confirmed()
        landed_s = memos.seconds
        settled = time.monotonic()
        until(lambda: all(daemon.sealed() >= tip for daemon in daemons), SETTLE_S, f"both ledgers to reach slot {tip}")
        settled = time.monotonic() - settled
        walked = validator.walk(stage, 0, tip, (validator.MEMO, str(artifact.PROGRAM_ID)))
        until(lambda: all(d.sealed("finalized") >= tip for d in daemons), SETTLE_S, f"finality of slot {tip}", 0.5)
        wrong = {daemon.name: _differences(daemon, walked, tip) for daemon in daemons}
        per_slot: dict[int, int] = {}
        for slot, *_ in walked:
            per_slot[slot] = per_slot.get(slot, 0) + 1
        figures = {
            "transactions": len(walked),
            "landed_per_second": round(sum(n for s, n in per_slot.items() if s >= first) / landed_s, 1),
            "most_in_a_slot": max(per_slot.values(), default=0),
            "slots": tip,
            "kills": daemons[0].kills,
            "sockets_cut": cut,
            "socket_closings_seen": int(drops + _drops(daemons[0])),
            "largest_lag_slots": dict(zip((d.name for d in daemons), lag, strict=True)),
            "seconds_to_settle": round(settled, 1),
            "rpc_calls_without_socket": int(_sum(daemons[1], "indexer_rpc_calls_total")),
            "memory_mb": {daemon.name: round(daemon.memory_peak_mb(), 1) for daemon in daemons},
            "refused": memos.refused,
            "wrong": wrong,
        }
        proxy.close()
        return figures


def _cut(proxy: validator.CuttingTcpProxy) -> int:
    """The daemon's connections, all at once. One that is just starting has none yet; it is waited for."""
    found = 0

    def some() -> bool:
        nonlocal found
        found = proxy.cut()
        return found > 0

    until(some, 60, "a socket to cut")
    return found


def _config(stage: Stage) -> Path:
    """Voting and memo as watched programs; the memo program has no IDL, an empty one stands for it."""
    idl = {"address": validator.MEMO, "metadata": {"name": "memo", "version": "1.0.0", "spec": "0.1.0"}}
    path = stage.directory / "memo.json"
    path.write_text(json.dumps({**idl, "instructions": [], "accounts": [], "events": [], "types": [], "errors": []}))
    config = stage.directory / "indexer.toml"
    config.write_text(
        '[[programs]]\nname = "voting"\nidl = "builtin:community_voting"\nprojections = ["voting"]\n'
        f'[[programs]]\nname = "memo"\naddress = "{validator.MEMO}"\nidl = "{path}"\n'
    )
    return config


def _daemons(stage: Stage, postgres: Any, config: Path, port: int) -> tuple[Daemon, Daemon]:
    import psycopg

    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE without_socket")
    settings = {"INDEXER_CONFIG": str(config), "INDEXER_FINALITY_POLL_S": "2"}
    through = {**settings, "INDEXER_WS_URL": f"ws://127.0.0.1:{port}"}
    without = {**settings, "INDEXER_WS_URL": NOTHING_LISTENS}
    return (
        stage.daemon("with_socket", postgres.dsn, **through),
        stage.daemon("without_socket", postgres.dsn_for("postgres", "without_socket"), **without),
    )


def _differences(daemon: Daemon, walked: list[Any], tip: int) -> list[str]:
    with db.connect(daemon.dsn) as connection:
        held = [
            (row.raw.slot, row.raw.transaction_index, row.raw.signature, row.raw.err is not None, row.raw.logs or ())
            for row in reads.iter_chain_order(connection, 0, tip, None)
        ]
        wrong = [f"verify: {line}" for line in verify(connection).differences[:5]]
    if held != walked:
        missing, foreign = set(walked) - set(held), set(held) - set(walked)
        wrong.append(f"{len(missing)} missing, {len(foreign)} foreign, {len(held)} rows for {len(walked)}")
        wrong += [f"missing {place[:3]}" for place in sorted(missing)[:3]]
    for command in (("reconcile",), ("rebuild", "--dry-run")):
        code, _, said = daemon.command(*command)
        if code:
            wrong.append(f"{command[0]}: exit code {code} {said.strip()[-300:]}")
    return wrong


def _sum(daemon: Daemon, name: str) -> float:
    return sum(value for key, value in daemon.metrics().items() if key.startswith(name))


def _drops(daemon: Daemon) -> float:
    return _sum(daemon, DROPS)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=320.0, help="memo transactions a second (default 320)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default 60)")
    parser.add_argument("--kills", type=int, default=10, help="kill -9 of the daemon (default 10)")
    parser.add_argument("--cuts", type=int, default=10, help="cuts of its socket (default 10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    if not os.environ.get(validator.VARIABLE):
        parser.error(f"{validator.VARIABLE} is not set; give it the path of a solana-test-validator")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    a = arguments
    figures = play(a.rate, a.seconds, a.kills, a.cuts, a.seed, say)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:26} {value}")
    return 1 if any(figures["wrong"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
