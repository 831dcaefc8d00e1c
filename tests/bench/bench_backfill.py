"""What a backfill of many transactions takes: rows a second, memory, and what an append costs when the ledger is ten times as long.

`python -m tests.bench.bench_backfill [--rows N] [--beside] [--json]`. The real `backfill` (RPC client, sealer, ledger) against a node in another
process that has a thousand transactions of 2.7 KB in each slot and does nothing else. --rows 1000000 is the promise: at most 200 MB. The rate
stands beside psql's binary \\copy of the same rows into an empty ledger (see bench_ledger).

--beside: instead, how long a slot waits for its seal while the daemon follows a tip of a thousand transactions every SLOT_S seconds, first alone,
then with a backfill running in a process of its own. There is no socket; the daemon looks every LOOK_S seconds, which is part of the wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from indexer import history
from indexer.edges.ledger import PostgresLedger
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from programs import base58
from programs.collector import collect_seldom
from schema import db
from schema.embedded import EmbeddedPostgres, find_binaries
from tests.bench.bench_ledger import ADDRESS, BATCH_ROWS, Feed, _database, copied
from tests.bench.bench_live import Watch, free_port

SLOT_S = 0.8
LOOK_S = 0.1
ROOT = Path(__file__).parents[2]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


METHODS = frozenset({"getSlot", "getFirstAvailableBlock", "getAccountInfo", "getBlock", "getSignaturesForAddress"})


class Node:
    """Answers JSON-RPC over HTTP from a feed; slot 0 is empty, slots 1..tip hold a thousand transactions each."""

    def __init__(self, tip: int, moving: bool) -> None:
        self._feed = Feed()
        self._first_tip = tip
        self._moving = moving
        self._began = time.monotonic()

    @property
    def _tip(self) -> int:
        return self._first_tip + (int((time.monotonic() - self._began) / SLOT_S) if self._moving else 0)

    async def serve(self) -> None:
        """Print the port, then answer for ever."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                body = self._answer(json.loads(await reader.readexactly(size)))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, asked: Any) -> bytes:
        if isinstance(asked, list):
            return b"[" + b",".join(self._answer(one) for one in asked) + b"]"
        method, params = asked["method"], asked["params"]
        head = b'{"jsonrpc":"2.0","id":%d,"result":' % asked["id"]
        if method not in METHODS:
            return b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":"Method not found"}}' % asked["id"]
        if method == "getBlock" and params[0] > self._tip:
            return b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32004,"message":"Block not available"}}' % asked["id"]
        if method == "getBlock" and params[1]["transactionDetails"] == "full" and params[0] > 0:
            whole = self._feed.block(params[0])
            return head + whole[whole.index(b'"result":') + len(b'"result":') :]
        return head + json.dumps(self._result(method, params)).encode() + b"}"

    def _result(self, method: str, params: list[Any]) -> Any:
        if method == "getSlot":
            return self._tip
        if method == "getFirstAvailableBlock":
            return 0
        if method == "getAccountInfo":
            return {
                "context": {"slot": 1},
                "value": {"executable": True, "data": ["", "base64"], "lamports": 1, "owner": "1" * 32},
            }
        if method == "getBlock":
            return {"parentSlot": max(0, params[0] - 1), "blockTime": 1, "transactions": [] if params[0] == 0 else None}
        if method == "getSignaturesForAddress":
            return self._list(params[1])
        raise ValueError(method)

    def _list(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        newest = (self._tip + 1) * BATCH_ROWS
        if "before" in config:
            newest = Feed.ordinal(base58.decode(config["before"]))
        found = range(newest - 1, max(newest - 1 - config["limit"], BATCH_ROWS - 1), -1)
        return [
            {
                "signature": base58.encode(self._feed.signature(n)),
                "slot": n // BATCH_ROWS,
                "transactionIndex": n % BATCH_ROWS,
                "err": None,
                "blockTime": 1,
                "confirmationStatus": "finalized",
                "memo": None,
            }
            for n in found
        ]


def memory_mb() -> float:
    """What of this process is in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


def run(dsn: str, url: str, slots: int, start_slot: int = 0) -> dict[str, Any]:
    """One backfill of all slots."""
    program = ProgramSetting(name="voting", address=base58.encode(ADDRESS), idl=BUILTIN_IDL, start_slot=start_slot)
    settings = Settings(database_url=dsn, rpc_url=url, programs=(program,))
    memory: list[float] = []
    appends: list[float] = []
    real = PostgresLedger.append

    async def timed(self: PostgresLedger, plan: Any) -> Any:
        started = time.perf_counter()
        failure = await real(self, plan)
        if plan.rows:
            appends.append((time.perf_counter() - started) / len(plan.rows))
        memory.append(memory_mb())
        return failure

    PostgresLedger.append = timed  # type: ignore[method-assign]
    started, cpu = time.perf_counter(), time.process_time()
    result = asyncio.run(history.backfill(settings, 0, slots, lambda *_: None))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    PostgresLedger.append = real  # type: ignore[method-assign]
    tenth = max(1, len(appends) // 10)
    first, last = (sorted(part)[len(part) // 2] for part in (appends[:tenth], appends[-tenth:]))
    return {
        "rows": result.rows,
        "rows_per_second": round(result.rows / seconds),
        "cpu_us_per_row": round(cpu / max(1, result.rows) * 1e6, 1),
        "memory_mb_max": round(max(memory)),
        "memory_mb_by_tenths": [round(max(memory[at : at + tenth])) for at in range(0, len(memory), tenth)],
        "append_us_per_row_first_tenth": round(first * 1e6, 1),
        "append_us_per_row_last_tenth": round(last * 1e6, 1),
        "append_growth": round(last / first, 2),
    }


async def beside(server: EmbeddedPostgres, url: str, slots: int, tip: int, seconds: float = 20.0) -> dict[str, Any]:
    """Milliseconds from a slot's confirmation to its commit without and with a backfill of the slots before."""
    program = {"name": "voting", "address": base58.encode(ADDRESS), "idl": BUILTIN_IDL, "start_slot": tip}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
    settings = {
        "INDEXER_DATABASE_URL": server.dsn,
        "INDEXER_RPC_URL": url,
        "INDEXER_WS_URL": "ws://127.0.0.1:9",
        "INDEXER_METRICS_PORT": str(free_port()),
        "INDEXER_IDLE_POLL_S": str(LOOK_S),
        "INDEXER_PROGRAMS": json.dumps([program]),
    }
    daemon = subprocess.Popen(  # noqa: ASYNC220  # it outlives no await that fails
        [sys.executable, "-m", "indexer", "run"],
        cwd=ROOT,
        env={**clean, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    own = [sys.executable, "-m", "tests.bench.bench_backfill", "--join", server.dsn, url, str(slots), str(tip)]
    try:
        watch = Watch(url, server.dsn)
        await _sealing(server.dsn, daemon)
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(seconds)
        turn = max(watch.confirmed)
        filling = await asyncio.create_subprocess_exec(*own, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        told, _ = await filling.communicate()
        last = max(watch.committed)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    finally:
        daemon.terminate()
        daemon.wait()
    lags = {s: watch.committed[s] - at for s, at in watch.confirmed.items() if s in watch.committed}
    alone = sorted(lag for slot, lag in lags.items() if slot <= turn)
    along = sorted(lag for slot, lag in lags.items() if turn < slot <= last)
    return {"alone_ms": _spread(alone), "beside_a_backfill_ms": _spread(along), "backfill": json.loads(told)}


def _spread(lags: list[float]) -> dict[str, int]:
    if not lags:
        return {"slots": 0}
    picked = {"p50": len(lags) // 2, "p99": min(len(lags) - 1, len(lags) * 99 // 100)}
    return {"slots": len(lags), **{name: round(max(0.0, lags[at]) * 1e3) for name, at in picked.items()}}


async def _sealing(dsn: str, daemon: subprocess.Popen[bytes]) -> None:
    """Wait for the daemon's first seals."""
    for _ in range(600):
        if daemon.poll() is not None:
            raise SystemExit("the daemon ended")
        with contextlib.suppress(psycopg.Error):
            async with await db.aconnect(dsn) as conn:
                row = await (await conn.execute("SELECT count(*) FROM ledger.seals")).fetchone()
                if row and row[0] >= 3:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit("the daemon seals nothing")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument(
        "--beside", action="store_true", help="instead: the seals of a daemon, without and with a backfill"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--serve", nargs=2, metavar=("SLOTS", "MOVING"), help="be the node (for this program's own use)"
    )
    parser.add_argument("--join", nargs=4, metavar=("DSN", "URL", "SLOTS", "START"), help="be the backfill (the same)")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(Node(int(arguments.serve[0]), arguments.serve[1] == "1").serve())
        return
    collect_seldom()
    if arguments.join is not None:
        dsn, url, slots, start = arguments.join
        print(json.dumps(run(dsn, url, int(slots), int(start))))
        return
    slots = max(1, arguments.rows // BATCH_ROWS)
    command = [sys.executable, "-m", "tests.bench.bench_backfill", "--serve", str(slots), str(int(arguments.beside))]
    node = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        url = f"http://127.0.0.1:{int(node.stdout.readline())}"
        with EmbeddedPostgres() as server:
            if arguments.beside:
                found = asyncio.run(beside(server, url, slots, slots + 1))
            else:
                found = run(server.dsn, url, slots)
                seconds = copied(find_binaries() / "psql", server.dsn, _database(server, "copied"), found["rows"])
                found["copy_rows_per_second"] = round(found["rows"] / seconds)
                found["ratio_to_psql_copy"] = round(found["rows_per_second"] / found["copy_rows_per_second"], 3)
    finally:
        node.kill()
        node.wait()
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:32} {value}")


if __name__ == "__main__":
    main()
