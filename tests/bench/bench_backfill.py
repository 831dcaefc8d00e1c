"""What a backfill of many transactions takes: rows a second, memory, and what an append costs when the ledger is ten times as long.

`python -m tests.bench.bench_backfill [--rows N] [--json]`. The real `backfill` (RPC client, sealer, ledger) against a node in another process that
has a thousand transactions of 2.7 KB in each slot and does nothing else. --rows 1000000 is the promise: at most 200 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from indexer import history
from indexer.edges.ledger import PostgresLedger
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from programs import base58
from schema.embedded import EmbeddedPostgres
from tests.bench.bench_ledger import ADDRESS, BATCH_ROWS, Feed

ROOT = Path(__file__).parents[2]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Node:
    """Answers JSON-RPC over HTTP from a feed; slot 0 is empty, slots 1..tip hold a thousand transactions each."""

    def __init__(self, tip: int) -> None:
        self._feed = Feed()
        self._tip = tip

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


def run(dsn: str, url: str, slots: int) -> dict[str, Any]:
    """One backfill of all slots."""
    program = ProgramSetting(name="voting", address=base58.encode(ADDRESS), idl=BUILTIN_IDL)
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


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=int, metavar="SLOTS", help="be the node (for this program's own use)")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(Node(arguments.serve).serve())
        return
    slots = max(1, arguments.rows // BATCH_ROWS)
    command = [sys.executable, "-m", "tests.bench.bench_backfill", "--serve", str(slots)]
    node = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        port = int(node.stdout.readline())
        with EmbeddedPostgres() as server:
            found = run(server.dsn, f"http://127.0.0.1:{port}", slots)
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
