"""How long after a slot's confirmation its rows are committed, and which RPC calls that takes, at several rates.

`python -m tests.bench.bench_live [--rates 0,10,100,1000] [--seconds N] [--trust] [--json]`. The development node, the crowd and the daemon are
processes of their own, beside an embedded PostgreSQL. A slot counts as confirmed when getSlot first names it or a later one, as committed when
the ledger's checkpoint does; both are asked every few milliseconds, and slots without rows are left out. Calls are those that the daemon
counts itself. Counting begins when the chain takes nearly the rate, and with no crowd it spans whole periods of both the idle
round (12 s) and the audit (20 s): a shorter window shows one round more or less. --trust: with INDEXER_TRUST_SOCKET_CONTENTS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from programs.community_voting import artifact
from schema import db
from schema.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
SLOT_MS = 400
POLL_S = 0.01
# Before the counted time: the last stage's slots are sealed and audited. At its end: the last slots are sealed.
SETTLE_S = 6.0
# Whole periods of an idle daemon: rounds come every 12 s, audits every 40 s.
IDLE_WINDOW_S = 120.0
# A wallet waits for its transaction to land, which takes a slot and a half; a crowd at a rate needs as many as it has in flight.
WALLETS_PER_RATE = 0.9
WALLETS_MIN = 96
# A crowd's rate is a most: its wallets rest between questions.
ASKED_PER_RATE = 1.15
# Making and funding the wallets, founding their communities.
RAMP_S_MAX = 90.0
RAMP_WINDOW_S = 2.0
RAMPED = 0.95


class Watch:
    """When each slot was first seen as confirmed, and when as committed; monotonic seconds."""

    def __init__(self, url: str, dsn: str) -> None:
        self._url, self._dsn = url, dsn
        self.confirmed: dict[int, float] = {}
        self.committed: dict[int, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._chain(), self._ledger())

    async def _chain(self) -> None:
        body = {"jsonrpc": "2.0", "id": 1, "method": "getSlot", "params": [{"commitment": "confirmed"}]}
        async with httpx.AsyncClient() as client:
            last = None
            while True:
                slot = (await client.post(self._url, json=body)).json()["result"]
                last = _note(self.confirmed, last, slot)
                await asyncio.sleep(POLL_S)

    async def _ledger(self) -> None:
        async with await db.aconnect(self._dsn) as conn:
            last = None
            while True:
                query = "SELECT coalesce(max(slot), -1) FROM ledger.checkpoints WHERE name = 'ingest:1'"
                row = await (await conn.execute(query)).fetchone()
                last = _note(self.committed, last, row[0] if row else -1)
                await asyncio.sleep(POLL_S)


def _note(times: dict[int, float], last: int | None, slot: int) -> int:
    now = time.monotonic()
    for passed in range(slot if last is None else last + 1, slot + 1):
        times[passed] = now
    return max(slot, -1 if last is None else last)


def calls(port: int) -> dict[str, float]:
    """RPC calls by method so far, as the daemon's /metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        m: float(v) for m, v in re.findall(r'^indexer_rpc_calls_total\{method="(\w+)"\} (\S+)$', text, re.MULTILINE)
    }


def cpu(process: subprocess.Popen[Any]) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stage(
    url: str, dsn: str, port: int, rate: float, seconds: float, daemon: subprocess.Popen[Any]
) -> dict[str, Any]:
    """One rate."""
    watch = Watch(url, dsn)
    await _ramped(url, rate)
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(SETTLE_S)
    seconds = seconds if rate else max(seconds, IDLE_WINDOW_S)
    first, began, spent = max(watch.confirmed), time.monotonic(), cpu(daemon)
    before = await asyncio.to_thread(calls, port)
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(calls, port)
    took, spent, last = time.monotonic() - began, cpu(daemon) - spent, max(watch.confirmed)
    for _ in range(1_200 if rate else 0):
        if max(watch.committed) >= last:
            break
        await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    async with await db.aconnect(dsn) as conn:
        query = "SELECT slot, count(*) FROM ledger.transactions WHERE slot > %s AND slot <= %s GROUP BY slot"
        rows = dict(await (await conn.execute(query, (first, last))).fetchall())
    lags = sorted(
        max(0.0, watch.committed[s] - watch.confirmed[s]) for s in rows if s in watch.committed and s in watch.confirmed
    )
    by_method = {
        m: round((after[m] - before.get(m, 0)) / took, 2) for m in sorted(after) if after[m] > before.get(m, 0)
    }
    return {
        "rate_asked": rate,
        "rate_landed": round(sum(rows.values()) / took, 1),
        "slots_with_rows": len(lags),
        "p50_ms": round(lags[len(lags) // 2] * 1e3) if lags else None,
        "p99_ms": round(lags[min(len(lags) - 1, len(lags) * 99 // 100)] * 1e3) if lags else None,
        "calls_per_second": round(sum(by_method.values()), 2),
        "by_method": by_method,
        "daemon_cores": round(spent / took, 2),
    }


async def _ramped(url: str, rate: float) -> None:
    """Wait until the chain takes nearly the asked rate; a machine that never does shows in `rate_landed`."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "getTransactionCount"}
    deadline = time.monotonic() + RAMP_S_MAX
    async with httpx.AsyncClient() as client:
        before = None
        while rate and time.monotonic() < deadline:
            count = (await client.post(url, json=body)).json()["result"]
            if before is not None and count - before >= RAMPED * rate * RAMP_WINDOW_S:
                return
            before = count
            await asyncio.sleep(RAMP_WINDOW_S)


@contextlib.contextmanager
def crowd(url: str, rate: float, seconds: float) -> Iterator[None]:
    """A crowd at work, none at rate 0."""
    if not rate:
        yield
        return
    asked = str(rate * ASKED_PER_RATE)
    command = [sys.executable, "-m", "programs.crowd", "--url", url, "--rate", asked, "--seed", str(int(rate))]
    size = ["--wallets", str(max(WALLETS_MIN, round(rate * WALLETS_PER_RATE * ASKED_PER_RATE)))]
    duration = ["--seconds", str(seconds + RAMP_S_MAX + 3 * SETTLE_S)]
    process = subprocess.Popen(
        [*command, *size, *duration], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(rates: list[float], seconds: float, trust: bool) -> list[dict[str, Any]]:
    """All stages on one chain and one ledger."""
    rpc, ws, metrics = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{rpc}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
    processes = []
    with EmbeddedPostgres() as server, tempfile.TemporaryFile() as log:
        try:
            node = [
                sys.executable,
                "-m",
                "indexer",
                "devnode",
                "--rpc-port",
                str(rpc),
                "--ws-port",
                str(ws),
                "--slot-ms",
                str(SLOT_MS),
                "--program",
                f"{artifact.PROGRAM_ID}={artifact.SO_PATH}",
            ]
            processes.append(
                subprocess.Popen(node, cwd=ROOT, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            settings = {
                "INDEXER_DATABASE_URL": server.dsn,
                "INDEXER_RPC_URL": url,
                "INDEXER_WS_URL": f"ws://127.0.0.1:{ws}",
                "INDEXER_METRICS_PORT": str(metrics),
                "INDEXER_TRUST_SOCKET_CONTENTS": str(trust).lower(),
            }
            _wait(lambda: _answers(url))
            daemon = subprocess.Popen(
                [sys.executable, "-m", "indexer", "run"],
                cwd=ROOT,
                env={**clean, **settings},
                stdout=log,
                stderr=log,
            )
            processes.append(daemon)
            _wait(lambda: bool(calls(metrics).get("getSlot")))
            found = []
            for rate in rates:
                with crowd(url, rate, seconds):
                    found.append(asyncio.run(stage(url, server.dsn, metrics, rate, seconds, daemon)))
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
            return found
        except SystemExit:
            log.seek(0)
            print(log.read()[-2_000:].decode("utf-8", "replace"), file=sys.stderr)
            raise
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
            for process in reversed(processes):
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _answers(url: str) -> bool:
    return httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "getSlot"}, timeout=5).status_code == 200


def _wait(ready: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, httpx.HTTPError):
            if ready():
                return
        time.sleep(0.1)
    raise SystemExit("a process did not come up")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="0,10,100,1000", help="transactions a second, comma separated; 0 is idle")
    parser.add_argument("--seconds", type=float, default=20.0, help="counted time at each rate")
    parser.add_argument(
        "--trust", action="store_true", help="contents from the socket, as where nobody else can call the node"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run([float(rate) for rate in arguments.rates.split(",")], arguments.seconds, arguments.trust)
    if arguments.json:
        print(json.dumps({"slot_ms": SLOT_MS, "trust_socket_contents": arguments.trust, "stages": found}))
        return
    print(
        f"slots of {SLOT_MS} ms; p50 at most {SLOT_MS + 50} ms, p99 at most {2 * SLOT_MS} ms; "
        f"idle at most 0.5 calls a second, else {5 if arguments.trust else 8}"
    )
    print(
        f"{'asked/s':>8} {'landed/s':>9} {'slots':>6} {'p50 ms':>7} {'p99 ms':>7} {'calls/s':>8} {'cores':>6}  by method"
    )
    for line in found:
        methods = ", ".join(f"{name} {value}" for name, value in line["by_method"].items())
        cells = (line["rate_asked"], line["rate_landed"], line["slots_with_rows"], line["p50_ms"], line["p99_ms"])
        shown = [
            f"{'-' if cell is None else cell:>{width}}" for cell, width in zip(cells, (8, 9, 6, 7, 7), strict=True)
        ]
        print(*shown, f"{line['calls_per_second']:>8} {line['daemon_cores']:>6}  {methods}")


if __name__ == "__main__":
    main()
