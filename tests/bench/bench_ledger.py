"""How fast replies become committed rows, beside psql's binary \\copy of the same rows into the same table.

`python -m tests.bench.bench_ledger [--rows N] [--json]`; a million rows with --rows 1000000. Ratios of one run on one machine are what
counts. The replies have real shape, 2.7 KB a transaction (wire, logs, inner instructions), each with signatures of its own. Measured are: all
rows by getBlock and all rows by getTransaction, each with the next batch read in steps while the database works on this one; and a tenth of
the rows one batch after the other. The server's settings are the embedded ones, fsync among them.

What it is held against: psql's binary \\copy of the same rows, as one file that is in memory, in one transaction, into an empty table of the same
definition: indexes, append-only triggers and partitions are there, and no seal, checkpoint, fence, digest or commit in between.

`floor_us` is what no rearrangement of Python takes away, processor microseconds a row, each part alone in the libraries' own code: reading the
JSON (msgspec), base58 of three inner instructions (based58), packing logs and instructions (msgpack), sha256 of row and chain. `ours_us` is
what our code takes for the same with everything around it: parse (reply → Content, block and single), encode (Content → digest and COPY
bytes). What is left of `cpu_us_per_row` is COPY through libpq and waiting for it. All of it is one thread: only the larger sha256 would let
another run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import based58
import psycopg

from indexer.core.protocol import Address, Content, Slot
from indexer.edges import parse
from programs import base58
from programs.collector import keep_all
from schema import db, ledger, rows
from schema import lease as leases
from schema.embedded import EmbeddedPostgres, binary_version, find_binaries

BATCH_ROWS = 1_000
AHEAD_BATCHES = 1
ADDRESS = bytes([7] * 32)
WATCHED = parse.Watched((Address(base58.encode(ADDRESS)),))
WITNESSES = 6
# The base64 of a wire: four characters of header and first bytes, then eight that are six bytes of its signature.
NUMBER_AT, NUMBER_CHARS = 4, 8


def result(rng: random.Random) -> dict[str, Any]:
    """A transaction as the node tells of it: eight keys, two instructions, fifteen log lines, three inner instructions."""
    keys = [rng.randbytes(32) for _ in range(7)] + [ADDRESS]
    instruction = bytes([7, 3, 0, 1, 2, 120]) + rng.randbytes(120)
    message = bytes([1, 0, 2, 8]) + b"".join(keys) + rng.randbytes(32) + bytes([2]) + instruction * 2
    wire = bytes([1]) + rng.randbytes(64) + message
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
    meta = {"err": None, "fee": 5000, "logMessages": logs, "innerInstructions": [{"index": 0, "instructions": inner}]}
    return {"transaction": [base64.b64encode(wire).decode(), "base64"], "meta": meta, "version": "legacy"}


class Feed:
    """Replies for one slot after another, cut where the slot's number and the signatures' go."""

    def __init__(self) -> None:
        rng = random.Random(1)
        results = [result(rng) for _ in range(BATCH_ROWS)]
        block = {"jsonrpc": "2.0", "id": 1, "result": {"parentSlot": 0, "blockTime": 1, "transactions": results}}
        self._block = self._cut(block, results)
        self._signatures = [base64.b64decode(entry["transaction"][0])[1:65] for entry in results]
        self._singles = []
        for index, entry in enumerate(results):
            told = {"slot": 0, "transactionIndex": index, "blockTime": 1, **entry}
            self._singles.append(self._cut({"jsonrpc": "2.0", "id": index, "result": told}, [entry]))
        self.bytes = sum(sum(map(len, parts)) for parts in self._singles) / BATCH_ROWS

    def signature(self, ordinal: int) -> bytes:
        """The signature of a transaction, counted from 0 over all slots."""
        plain = self._signatures[ordinal % BATCH_ROWS]
        return plain[:2] + ordinal.to_bytes(6, "big") + plain[8:]

    @staticmethod
    def ordinal(signature: bytes) -> int:
        """Which transaction has the signature."""
        return int.from_bytes(signature[2:8], "big")

    @staticmethod
    def _cut(document: Any, entries: list[dict[str, Any]]) -> list[bytes]:
        text, parts = json.dumps(document, separators=(",", ":")).encode(), []
        for entry in entries:
            at = text.index(entry["transaction"][0].encode()) + NUMBER_AT
            parts.append(text[:at])
            text = text[at + NUMBER_CHARS :]
        return [*parts, text]

    def block(self, slot: int) -> bytes:
        """A getBlock reply."""
        parts: list[bytes] = [b""] * (2 * BATCH_ROWS + 1)
        parts[::2], parts[1::2] = self._block, _numbers(slot)
        return b"".join(parts)

    def singles(self, slot: int) -> list[bytes]:
        """Replies of getTransaction."""
        there = b'"slot":%d' % slot
        return [
            head.replace(b'"slot":0', there, 1) + number + tail
            for (head, tail), number in zip(self._singles, _numbers(slot), strict=True)
        ]


def _numbers(slot: int) -> list[bytes]:
    first = slot * BATCH_ROWS
    text = base64.b64encode(b"".join([(first + n).to_bytes(6, "big") for n in range(BATCH_ROWS)]))
    return [text[at : at + NUMBER_CHARS] for at in range(0, len(text), NUMBER_CHARS)]


async def contents(feed: Feed, slot: int, whole: bool) -> list[Content]:
    """What the replies of a slot hold, a whole block or singles, through the edge's own parser, giving way to others now and then."""
    if whole:
        reply = parse.result(parse.block_envelope(feed.block(slot)))
        steps = parse.block_steps(reply, Slot(slot), WATCHED)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return list(stop.value.contents)
            await asyncio.sleep(0)
    found = []
    for n, body in enumerate(feed.singles(slot)):
        content = parse.stored_transaction(parse.result(parse.stored_envelope(body)), WATCHED)
        assert content is not None
        found.append(content)
        if n % parse.STEP_TRANSACTIONS == 0:
            await asyncio.sleep(0)
    return found


async def one_by_one(feed: Feed, slots: range, whole: bool) -> AsyncIterator[tuple[int, list[Content]]]:
    """Each slot when it is asked for."""
    for slot in slots:
        yield slot, await contents(feed, slot, whole)


async def ahead(feed: Feed, slots: range, whole: bool) -> AsyncIterator[tuple[int, list[Content]]]:
    """Slots that were read while the ones before were being appended."""
    queue: asyncio.Queue[tuple[int, list[Content]]] = asyncio.Queue(AHEAD_BATCHES)

    async def read() -> None:
        for slot in slots:
            await queue.put((slot, await contents(feed, slot, whole)))

    reader = asyncio.create_task(read())
    for _ in slots:
        yield await queue.get()
    await reader


async def sealed(dsn: str, total: int, source: Any, whole: bool) -> tuple[float, float, list[float]]:
    """Seconds from bytes to commit for all rows, processor seconds of this process, seconds of each append."""
    feed = Feed()
    conn = await db.aconnect(dsn)
    async with conn:
        await ledger.ensure_programs(conn, [("voting", base58.encode(ADDRESS), 0)])
        lease = await leases.acquire(conn, "writer", "bench", 36_000)
        assert lease is not None
        appends: list[float] = []
        began, cpu = time.perf_counter(), time.process_time()
        async for slot, found in source(feed, range(total // BATCH_ROWS), whole):
            started = time.perf_counter()
            pending = [ledger.pending_row(content.raw, (1,), WITNESSES) for content in found]
            await ledger.append_seal(conn, lease, [ledger.SealRange(1, slot, slot)], pending, tip_slot=slot)
            appends.append(time.perf_counter() - started)
        return time.perf_counter() - began, time.process_time() - cpu, appends


def copied(psql: Path, source: str, target: str, total: int) -> float:
    """Seconds for psql's \\copy of the same rows, as one file in one transaction, into an empty ledger."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.bin"
        export = f"\\copy (SELECT {rows.COLUMNS} FROM ledger.transactions ORDER BY position LIMIT {total}) TO '{file}' (FORMAT binary)"
        subprocess.run([str(psql), source, "-qc", export], check=True)
        with psycopg.connect(target, autocommit=True) as conn:
            conn.execute("SELECT ledger.ensure_partitions(0, %s)", (total // BATCH_ROWS,))
            conn.execute("CHECKPOINT")
        started = time.perf_counter()
        load = f"\\copy ledger.transactions ({rows.COLUMNS}) FROM '{file}' (FORMAT binary)"
        subprocess.run([str(psql), target, "-qc", load], check=True)
        return time.perf_counter() - started


# A long ledger, made by the server itself: short rows, but entries of full size in every index.
_FILL = """
INSERT INTO ledger.transactions (position, origin, slot, transaction_index, signature, wire, loaded, programs, truncated, witnesses, digest)
SELECT n, 0, n / 1000, n %% 1000, sha256(int8send(n)) || sha256(int8send(-n)), '\\x00', '', '{1}', false, 6, sha256(int8send(n))
FROM generate_series(%s::bigint, %s::bigint) n
"""


class Long:
    """A ledger of a length, to be appended to."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], lease: leases.Lease, length: int) -> None:
        self._conn, self._lease, self._slot = conn, lease, length // BATCH_ROWS
        self.length = length
        self.appends: list[float] = []

    @classmethod
    async def fill(cls, conn: psycopg.AsyncConnection[Any], length: int) -> Long:
        """Make it."""
        await ledger.ensure_programs(conn, [("voting", base58.encode(ADDRESS), 0)])
        lease = await leases.acquire(conn, "writer", "bench", 36_000)
        assert lease is not None
        await conn.execute("SELECT ledger.ensure_partitions(0, 0)")
        await conn.execute(_FILL, (1, length - 1))
        await conn.execute("UPDATE ledger.checkpoints SET position = %s WHERE name = 'ledger'", (length - 1,))
        return cls(conn, lease, length)

    async def append(self, feed: Feed) -> None:
        """A thousand rows; its seconds go to `appends`."""
        slot, self._slot = self._slot, self._slot + 1
        found = await contents(feed, slot, bool(slot % 2))
        pending = [ledger.pending_row(content.raw, (1,), WITNESSES) for content in found]
        started = time.perf_counter()
        seal = [ledger.SealRange(1, slot, slot)]
        await ledger.append_seal(self._conn, self._lease, seal, pending, allow_gap=True)
        self.appends.append(time.perf_counter() - started)


async def growth(server: EmbeddedPostgres, lengths: list[int], rounds: int) -> list[list[float]]:
    """Seconds of appends of a thousand rows to ledgers of each of the lengths, in turns: whatever else the machine does meets all of them."""
    feed = Feed()
    async with contextlib.AsyncExitStack() as stack:
        ledgers = []
        for length in lengths:
            conn = await stack.enter_async_context(await db.aconnect(_database(server, f"of_{length}")))
            ledgers.append(await Long.fill(conn, length))
        await conn.execute("CHECKPOINT")
        for _ in range(rounds):
            for each in ledgers:
                await each.append(feed)
            ledgers.reverse()
    return [each.appends for each in sorted(ledgers, key=lambda each: each.length)]


def floors(rounds: int = 9) -> tuple[dict[str, float], dict[str, float]]:
    """Processor microseconds a row, the best of some rounds: of the libraries alone, and of our code around them."""
    feed = Feed()
    whole, singles = feed.block(1), feed.singles(2)
    raw_block: bytes = parse.result(parse.envelope(whole))
    told = parse._block(raw_block)
    assert told is not None
    metas = [parse._meta(entry.meta) for entry in told.transactions or ()]
    texts = [i.data for meta in metas if meta for group in meta.innerInstructions or () for i in group.instructions]
    encoded = [text.encode() for text in texts]
    found = parse.block(raw_block, Slot(1), WATCHED)
    assert found is not None
    raws = [content.raw for content in found.contents or ()]
    inner = [
        [(i.outer, i.index, i.program_id_index, i.accounts, i.data, i.stack_height) for i in raw.inner or ()]
        for raw in raws
    ]
    copies = [rows.prepare_row(raw, (1,), WITNESSES) for raw in raws]

    def microseconds(work: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(rounds):
            began = time.process_time()
            work()
            best = min(best, time.process_time() - began)
        return round(best / BATCH_ROWS * 1e6, 2)

    floor = {
        "json_of_a_block": microseconds(
            lambda: [
                parse._meta(e.meta) for e in (parse.result(parse._block_envelope(whole)) or told).transactions or ()
            ]
        ),
        "json_of_singles": microseconds(lambda: [parse._stored_envelope(body) for body in singles]),
        "base58": microseconds(lambda: [based58.b58decode(text) for text in encoded]),
        "msgpack": microseconds(
            lambda: [(rows._pack(raw.logs), rows._pack(i)) for raw, i in zip(raws, inner, strict=True)]
        ),
        "sha256_of_row_and_chain": microseconds(
            lambda: [sha256(sha256(row.encoded).digest() + row.digest).digest() for row in copies]
        ),
    }
    ours = {
        "parse_block": microseconds(lambda: parse.block(parse.result(parse.block_envelope(whole)), Slot(1), WATCHED)),
        "parse_singles": microseconds(
            lambda: [parse.stored_transaction(parse.result(parse.stored_envelope(body)), WATCHED) for body in singles]
        ),
        "encode": microseconds(lambda: [rows.prepare_row(raw, (1,), WITNESSES) for raw in raws]),
    }
    return floor, ours


def _database(server: EmbeddedPostgres, name: str) -> str:
    with db.connect(server.dsn) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        admin.execute(f"CREATE DATABASE {name}".encode())
    dsn = server.dsn_for("postgres", name)
    db.upgrade(dsn)
    with db.connect(dsn) as conn:
        conn.execute("CHECKPOINT")
    return dsn


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--long",
        type=int,
        metavar="ROWS",
        help="instead: an append at a tenth of ROWS and at ROWS (10000000), in turns",
    )
    arguments = parser.parse_args()
    keep_all()
    if arguments.long:
        lengths = [arguments.long // 10 // BATCH_ROWS * BATCH_ROWS, arguments.long // BATCH_ROWS * BATCH_ROWS]
        began = time.monotonic()
        with EmbeddedPostgres() as server:
            found_appends = asyncio.run(growth(server, lengths, min(200, lengths[0] // BATCH_ROWS)))
        short, long = (sorted(appends)[len(appends) // 2] for appends in found_appends)
        _show(
            {
                "rows": lengths,
                "append_ms": [round(short * 1e3, 1), round(long * 1e3, 1)],
                "append_ms_p90": [round(sorted(a)[len(a) * 9 // 10] * 1e3, 1) for a in found_appends],
                "growth": round(long / short, 3),
                "seconds": round(time.monotonic() - began),
            },
            arguments.json,
        )
        return
    total = max(2, arguments.rows // BATCH_ROWS) * BATCH_ROWS
    few = max(2, total // BATCH_ROWS // 10) * BATCH_ROWS
    found: dict[str, Any] = {
        "rows": total,
        "reply_bytes_per_row": round(Feed().bytes),
        "postgresql": binary_version(find_binaries()),
    }
    with EmbeddedPostgres() as server:
        for name, whole in (("singles", False), ("blocks", True)):
            seconds, cpu, appends = asyncio.run(sealed(_database(server, "ahead"), total, ahead, whole))
            plain, _, _ = asyncio.run(sealed(_database(server, "one_by_one"), few, one_by_one, whole))
            tenth = max(1, len(appends) // 10)
            found[name] = {
                "rows_per_second": round(total / seconds),
                "rows_per_second_one_by_one": round(few / plain),
                "cpu_us_per_row": round(cpu / total * 1e6, 1),
                "append_ms_first_tenth": round(sorted(appends[:tenth])[tenth // 2] * 1e3, 1),
                "append_ms_last_tenth": round(sorted(appends[-tenth:])[tenth // 2] * 1e3, 1),
            }
        copy_seconds = copied(
            find_binaries() / "psql", server.dsn_for("postgres", "ahead"), _database(server, "copied"), total
        )
    found["copy_rows_per_second"] = round(total / copy_seconds)
    for name in ("singles", "blocks"):
        found[name]["ratio_to_psql_copy"] = round(found[name]["rows_per_second"] * copy_seconds / total, 3)
    floor, ours = floors()
    found |= {
        "memory_mb_max": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "floor_us": floor,
        "ours_us": ours,
    }
    _show(found, arguments.json)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:32} {value}")


if __name__ == "__main__":
    main()
