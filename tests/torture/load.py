"""How far the tables are behind the chain under a steady load, and what that costs.

`make load` or `python -m tests.torture.load [--rate 100] [--seconds 30] [--json]`: a development node, one daemon, a crowd. For each slot with
transactions it notes when the node called it confirmed and when its rows were visible to a reader. Exit code 1 when a transaction is not in the
tables at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
import websockets.sync.client

from programs.crowd.crowd import Crowd
from tests.torture.stage import Daemon, Stage, until

WATCH_S = 0.005
SETTLE_S = 30.0


@dataclass(slots=True)
class Watch:
    """When each slot was first seen: confirmed at the node, projected in the tables. Monotonic seconds."""

    confirmed: dict[int, float] = field(default_factory=dict)
    projected: dict[int, float] = field(default_factory=dict)
    sealed: dict[int, float] = field(default_factory=dict)
    lag_slots: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def chain(self, ws_url: str) -> None:
        """Note confirmed slots as the node publishes a block's first notification, and roots of its own tip otherwise."""
        with websockets.sync.client.connect(ws_url, max_size=None) as socket:
            ask = {"jsonrpc": "2.0", "id": 1, "method": "slotsUpdatesSubscribe", "params": []}
            socket.send(json.dumps(ask))
            while not self.stop.is_set():
                try:
                    frame = json.loads(socket.recv(timeout=0.5))
                except TimeoutError:
                    continue
                result = frame.get("params", {}).get("result", {})
                if result.get("type") == "optimisticConfirmation":
                    self.confirmed.setdefault(result["slot"], time.monotonic())

    def poll_chain(self, stage: Stage) -> None:
        """The same by asking, for nodes that do not tell."""
        while not self.stop.is_set():
            slot = stage.confirmed()
            self.confirmed.setdefault(slot, time.monotonic())
            time.sleep(WATCH_S)

    def tables(self, dsn: str) -> None:
        """Note what a reader sees."""
        query = (
            "SELECT (SELECT min(slot) FROM ledger.checkpoints WHERE name LIKE 'ingest:%'),"
            " (SELECT min(projected_slot) FROM events.freshness)"
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not self.stop.is_set():
                sealed, projected = connection.execute(query).fetchone() or (None, None)
                now = time.monotonic()
                if sealed is not None:
                    self.sealed.setdefault(sealed, now)
                if projected is not None:
                    self.projected.setdefault(projected, now)
                    if self.confirmed:
                        self.lag_slots.append(max(self.confirmed) - projected)
                time.sleep(WATCH_S)


def delays(begin: dict[int, float], end: dict[int, float], slots: list[int]) -> list[float]:
    """Seconds from `begin` to `end` by slot; a later slot's time stands for those that were passed over."""
    found, ends = [], sorted(end.items())
    for slot in slots:
        done = next((at for upto, at in ends if upto >= slot), None)
        if done is not None and slot in begin:
            found.append(max(0.0, done - begin[slot]))
    return found


def quantiles(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """p50, p95, p99 and max."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {name: round(value * scale, 1) for name, value in named.items()}


def run(rate: float, seconds: float, slot_ms: int, say: Any) -> dict[str, Any]:
    """One run; the figures."""
    with Stage(say) as stage:
        postgres = stage.postgres()
        stage.devnode("--slot-ms", str(slot_ms))
        daemon = stage.daemon("indexer", postgres.dsn, INDEXER_FINALITY_POLL_S="10", INDEXER_IDLE_POLL_S="5")
        daemon.start()
        until(daemon.ready, 60, "the daemon to be ready")
        watch = Watch()
        threads = [
            threading.Thread(target=watch.poll_chain, args=(stage,), daemon=True),
            threading.Thread(target=watch.tables, args=(postgres.dsn,), daemon=True),
        ]
        crowd = Crowd(1)
        before: dict[str, float] = {}

        async def play() -> Any:
            # The first seconds found communities and fund wallets; what is measured begins with the crowd's own run.
            return await crowd.run(stage.rpc_url, rate, seconds)

        for thread in threads:
            thread.start()
        before, cpu, begun = daemon.metrics(), daemon.cpu_s(), time.monotonic()
        result = asyncio.run(play())
        lasted = time.monotonic() - begun
        after, cpu = daemon.metrics(), daemon.cpu_s() - cpu
        tip = stage.confirmed()
        until(lambda: daemon.projected() >= tip, SETTLE_S, "the tables to reach the tip")
        watch.stop.set()
        for thread in threads:
            thread.join()
        return {
            **figures(watch, result, slot_ms),
            "visible": daemon.number("SELECT count(*) FROM ledger.transactions"),
            "differences": check(stage, daemon),
            **calls(before, after, lasted),
            "memory_mb": round(daemon.memory_mb(), 1),
            "memory_peak_mb": round(daemon.memory_peak_mb(), 1),
            "cpu_of_a_core": round(cpu / lasted, 2),
            "load_average": __import__("os").getloadavg()[0],
        }


def figures(watch: Watch, result: Any, slot_ms: int) -> dict[str, Any]:
    """Lag by slots and by time."""
    slots = [slot for slot in sorted(watch.confirmed) if result.slot_first + 5 <= slot < result.slot_last]
    sealing = delays(watch.confirmed, watch.sealed, slots)
    showing = delays(watch.confirmed, watch.projected, slots)
    lag = watch.lag_slots[len(watch.lag_slots) // 20 :]
    return {
        "landed": result.landed,
        "landed_per_second": round(result.landed / max(result.seconds, 0.1), 1),
        "slots": len(slots),
        "slot_ms": slot_ms,
        "sealed_after_ms": quantiles(sealing, 1e3),
        "visible_after_ms": quantiles(showing, 1e3),
        "lag_slots": quantiles([float(value) for value in lag]),
        "moments_by_lag_slots": {str(n): lag.count(n) for n in sorted(set(lag))},
    }


def calls(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, Any]:
    """RPC calls a second, by method."""
    name = "indexer_rpc_calls_total"
    grown = {key: value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name)}
    by_method = {key.split('"')[1]: round(value / seconds, 2) for key, value in grown.items() if value}
    return {"rpc_calls_per_second": round(sum(grown.values()) / seconds, 2), "rpc_by_method": by_method}


def check(stage: Stage, daemon: Daemon) -> dict[str, int]:
    """Tables against chain, ledger against itself; 0 is well."""
    return {
        "reconcile": daemon.command("reconcile")[0],
        "verify": daemon.command("verify")[0],
        "rebuild": daemon.command("rebuild", "--dry-run")[0],
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="community transactions a second (default 100)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long (default 30)")
    parser.add_argument("--slot-ms", type=int, default=400, help="the node's slot (default 400)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    found = run(arguments.rate, arguments.seconds, arguments.slot_ms, lambda text: print(text, file=sys.stderr))
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:24} {value}")
    return 1 if any(found["differences"].values()) or found["visible"] < found["landed"] else 0


if __name__ == "__main__":
    sys.exit(main())
