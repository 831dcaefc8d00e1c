"""How fast replies become committed rows, beside psql's binary \\copy of the same rows into the same table.

`python tests/bench/bench_ledger.py [--rows N] [--json]`; a million rows with --rows 1000000. Ratios of one run on one machine are what
counts. The replies have real shape, about 3 KB a transaction (wire, logs, inner instructions); both servers' settings are the embedded ones.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from programs import base58
from programs.transaction import from_rpc
from schema import db, ledger, rows
from schema import lease as leases
from schema.embedded import EmbeddedPostgres, find_binaries

BATCH_ROWS = 1_000
POOL = 2_000
ADDRESS = bytes([7] * 32)


def reply(rng: random.Random, slot: int, index: int) -> bytes:
    """A getTransaction reply: two signatures' worth of header, eight keys, two instructions, twenty log lines, three inner instructions."""
    signature = rng.randbytes(64)
    keys = [rng.randbytes(32) for _ in range(7)] + [ADDRESS]
    instruction = bytes([7, 3, 0, 1, 2, 120]) + rng.randbytes(120)
    message = bytes([1, 0, 2, 8]) + b"".join(keys) + rng.randbytes(32) + bytes([2]) + instruction * 2
    wire = bytes([1]) + signature + message
    program = base58.encode(ADDRESS)
    logs = [f"Program {program} invoke [1]", "Program log: Instruction: CastVote"]
    logs += [f"Program log: weight {rng.randrange(10**9)} of option {rng.randrange(9)}" for _ in range(8)]
    logs += ["Program data: " + base64.b64encode(rng.randbytes(150)).decode() for _ in range(3)]
    logs += [
        f"Program {program} consumed {rng.randrange(90_000)} of 200000 compute units",
        f"Program {program} success",
    ]
    inner = [
        {"programIdIndex": 6, "accounts": [0, 1, 2], "data": base58.encode(rng.randbytes(40)), "stackHeight": 2}
        for _ in range(3)
    ]
    body = {
        "jsonrpc": "2.0",
        "id": index,
        "result": {
            "slot": slot,
            "transactionIndex": index,
            "blockTime": 1_700_000_000 + slot,
            "version": "legacy",
            "transaction": [base64.b64encode(wire).decode(), "base64"],
            "meta": {
                "err": None,
                "fee": 5000,
                "logMessages": logs,
                "innerInstructions": [{"index": 0, "instructions": inner}],
            },
        },
    }
    return json.dumps(body, separators=(",", ":")).encode()


async def sealed(dsn: str, total: int) -> tuple[float, list[float], float]:
    """Seconds for all rows from bytes to commit; seconds of each append; seconds spent before the database."""
    rng = random.Random(1)
    pool = [reply(rng, 0, n) for n in range(POOL)]
    conn = await db.aconnect(dsn)
    async with conn:
        await ledger.ensure_programs(conn, [("voting", base58.encode(ADDRESS), 0)])
        lease = await leases.acquire(conn, "writer", "bench", 3_600)
        assert lease is not None
        batches: list[float] = []
        encoding: list[float] = []
        begun = time.perf_counter()
        for slot in range(total // BATCH_ROWS):
            # One after the other: a second thread only makes both wait for the interpreter's lock (tried, no faster).
            prepared = encode(pool, slot, encoding)
            started = time.perf_counter()
            await ledger.append_seal(conn, lease, [ledger.SealRange(1, slot, slot)], prepared, tip_slot=slot)
            batches.append(time.perf_counter() - started)
        return time.perf_counter() - begun, batches, sum(encoding)


def encode(pool: list[bytes], slot: int, took: list[float]) -> list[ledger.PreparedRow]:
    """A batch of replies as rows; the time it took goes to `took`."""
    started = time.thread_time()
    there = b'"slot":%d' % slot
    prepared = []
    for n in range(BATCH_ROWS):
        raw = from_rpc(pool[(slot * BATCH_ROWS + n) % POOL].replace(b'"slot":0', there, 1), n)
        prepared.append(ledger.prepare_row(raw, (1,), 10))
    prepared.sort(key=lambda row: row.transaction_index)
    took.append(time.thread_time() - started)
    return prepared


def copied(server: EmbeddedPostgres, psql: Path, source: str, total: int) -> float:
    """Seconds for psql's \\copy of the same rows into an empty ledger, in the same 1,000-row transactions' files as one file."""
    target = server.dsn_for("postgres", "copied")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.bin"
        export = f"\\copy (SELECT {rows.COLUMNS} FROM ledger.transactions ORDER BY position LIMIT {total}) TO '{file}' (FORMAT binary)"
        subprocess.run([str(psql), source, "-qc", export], check=True)
        started = time.perf_counter()
        load = f"\\copy ledger.transactions ({rows.COLUMNS}) FROM '{file}' (FORMAT binary)"
        subprocess.run([str(psql), target, "-qc", load], check=True)
        return time.perf_counter() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    total = max(2, arguments.rows // BATCH_ROWS) * BATCH_ROWS
    with EmbeddedPostgres() as server:
        for name in ("sealed", "copied"):
            with db.connect(server.dsn) as admin:
                admin.execute(f"CREATE DATABASE {name}".encode())
            db.upgrade(server.dsn_for("postgres", name))
        with db.connect(server.dsn_for("postgres", "copied")) as admin:
            admin.execute("SELECT ledger.ensure_partitions(0, 0)")
        source = server.dsn_for("postgres", "sealed")
        seconds, batches, encoding = asyncio.run(sealed(source, total))
        copy_seconds = copied(server, find_binaries() / "psql", source, total)
    tenth = max(1, len(batches) // 10)
    first, last = sorted(batches[:tenth])[tenth // 2], sorted(batches[-tenth:])[tenth // 2]
    result: dict[str, Any] = {
        "rows": total,
        "rows_per_second": round(total / seconds),
        "encoding_us_per_row": round(encoding / total * 1e6, 1),
        "append_rows_per_second": round(total / sum(batches)),
        "copy_rows_per_second": round(total / copy_seconds),
        "ratio_to_psql_copy": round(copy_seconds / seconds, 3),
        "append_ratio_to_psql_copy": round(copy_seconds / sum(batches), 3),
        "append_ms_first_tenth": round(first * 1e3, 1),
        "append_ms_last_tenth": round(last * 1e3, 1),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
