"""verify and the independent checker agree on a true ledger, and each planted lie is found."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger
from schema.ledger import SealRange
from schema.verify import verify
from tests.integration.schema.checker import differences
from tests.integration.schema.make import rows as make_rows

ROOT = Path(__file__).resolve().parents[3]
ADDRESS, OTHER = base58.encode(bytes([7] * 32)), base58.encode(bytes([8] * 32))
LIES = {
    "altered": (
        "UPDATE ledger.transactions SET wire = wire || '\\x00' WHERE position = 3",
        "digest is not that of its contents",
    ),
    "logs": (
        "UPDATE ledger.transactions SET logs = '\\x91a161' WHERE position = 4",
        "digest is not that of its contents",
    ),
    "missing": ("DELETE FROM ledger.transactions WHERE position = 5", "positions"),
    "last missing": (
        "DELETE FROM ledger.transactions WHERE position = (SELECT max(position) FROM ledger.transactions)",
        "positions",
    ),
    "slipped in": (
        "INSERT INTO ledger.transactions SELECT 1000, slot, 77, signature, block_time, err, wire, logs, inner_instructions, loaded, version,"
        " programs, truncated, origin, witnesses, digest FROM ledger.transactions WHERE position = 2",
        "positions",
    ),
    "seal": ("UPDATE ledger.seals SET digest = sha256(digest) WHERE id = 1", "chain"),
    "seal gone": ("DELETE FROM ledger.seals WHERE id = 1", "chain"),
    "forged row": (
        "UPDATE ledger.transactions SET wire = '\\x00', digest = sha256(digest) WHERE position = 4",
        "digest is not that of its contents",
    ),
    "digest that fits its contents": (
        "UPDATE ledger.transactions t SET wire = o.wire, logs = o.logs, inner_instructions = o.inner_instructions, loaded = o.loaded,"
        " err = o.err, version = o.version, signature = o.signature, transaction_index = o.transaction_index, digest = o.digest, slot = o.slot"
        " FROM ledger.transactions o WHERE t.position = 4 AND o.position = 3",
        "digest is not that of its rows",
    ),
    "order": (
        "UPDATE ledger.transactions SET position = CASE position WHEN 2 THEN 3 ELSE 2 END WHERE position IN (2, 3)",
        "position 3 is not in chain order",
    ),
    "moved": ("UPDATE ledger.transactions SET slot = slot + 200 WHERE position = 4", "where it did not put them"),
    "batch gone": (
        "DELETE FROM ledger.batches WHERE position_first > 1 AND origin = 0",
        "batches: one begins at position",
    ),
    "last seal gone": (
        "DELETE FROM ledger.seals WHERE id = (SELECT max(id) FROM ledger.seals WHERE commitment = 'confirmed')",
        "not that of the last seal",
    ),
    "seal and its followers forged": (
        "UPDATE ledger.seals SET digest = sha256(digest), previous = CASE WHEN id > 1 THEN sha256(previous) ELSE previous END"
        " WHERE program = 1 AND commitment = 'confirmed'",
        "its digest is not that of its rows",
    ),
    "checkpoint": (
        "UPDATE ledger.checkpoints SET digest = sha256(digest) WHERE name = 'ingest:1'",
        "checkpoint ingest:1",
    ),
    "coverage": ("UPDATE ledger.coverage SET slot_last = slot_last + 9", "coverage"),
    "retraction": (
        "INSERT INTO ledger.retractions (position, slot, signature, reason, epoch) SELECT position, slot, signature, 'x', 1 FROM"
        " ledger.transactions WHERE position = 6",
        "finalized",
    ),
}


async def _fill(dsn: str, seed: int) -> None:
    rng = random.Random(seed)
    conn = await database.aconnect(dsn)
    async with conn:
        await ledger.ensure_programs(conn, [("voting", ADDRESS, 0), ("other", OTHER, 0)])
        lease = await leases.acquire(conn, "writer", "a", 60)
        assert lease is not None
        for first in range(0, 40, 10):
            _, prepared = make_rows(rng, range(first, first + 10), 2, rng.choice(((1,), (1, 2), (2,))))
            late = prepared.pop(rng.randrange(len(prepared)))
            await ledger.append_seal(conn, lease, [SealRange(p, first, first + 9) for p in (1, 2)], prepared)
            gone = [row for p in (1, 2) for row in await ledger.held(conn, p, first, first + 9)][:1]
            retractions = [ledger.Retraction(row.position, row.slot, row.signature, "dead fork") for row in gone]
            seals = [SealRange(p, first, first + 9) for p in (1, 2)]
            await ledger.append_finalized_seal(conn, lease, seals, late=[late], retractions=retractions)


@pytest.mark.parametrize("seed", range(3))
def test_a_true_ledger_verifies(db: str, seed: int) -> None:
    asyncio.run(_fill(db, seed))
    with database.connect(db) as conn:
        report = verify(conn)
        assert report.differences == []
        assert (report.rows, report.seals, report.last_position) == (80, 16, 80)
        assert verify(conn, 10, 19).rows == 20
    assert differences(db) == []


@pytest.mark.parametrize("place", [(15, 25), (0, 9), (39, 30), (21, 21)])
def test_what_is_corrected_below_the_finalized_seals_is_sealed_anew(
    db: str, another_db: Callable[[], str], place: tuple[int, int]
) -> None:
    """A ledger that lacked one row and held a dead one ends with the chain of a ledger that was right from the start."""
    other = another_db()
    _, truth = make_rows(random.Random(5), range(40), 2)
    foreign, _ = make_rows(random.Random(6), range(40), 1)
    missing = next(row for row in truth if row.slot == place[0])
    dead = ledger.prepare_row(dataclasses.replace(foreign[place[1]], transaction_index=7), (1,), 6)
    wrong = sorted([row for row in truth if row is not missing] + [dead], key=lambda r: (r.slot, r.transaction_index))

    async def fill(dsn: str, rows: list[ledger.PreparedRow], correct: bool) -> bytes:
        async with await database.aconnect(dsn) as conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 60)
            assert lease is not None
            for first in range(0, 40, 10):
                seal = SealRange(1, first, first + 9)
                await ledger.append_seal(conn, lease, [seal], [r for r in rows if first <= r.slot < first + 10])
                await ledger.append_finalized_seal(conn, lease, [seal])
            if correct:
                (held,) = [h for h in await ledger.held(conn, 1, 0, 39) if h.signature == dead.signature]
                gone = [ledger.Retraction(held.position, held.slot, held.signature, "dead")]
                await ledger.append_corrections(conn, lease, [1], [missing], gone)
            row = await (
                await conn.execute("SELECT digest FROM ledger.checkpoints WHERE name = 'finalized:1'")
            ).fetchone()
            assert row is not None
            # What comes next goes on from there.
            await ledger.append_seal(conn, lease, [SealRange(1, 40, 49)], [])
            await ledger.append_finalized_seal(conn, lease, [SealRange(1, 40, 49)])
            return bytes(row[0])

    corrected = asyncio.run(fill(db, wrong, True))
    assert corrected == asyncio.run(fill(other, truth, False))
    for dsn in (db, other):
        with database.connect(dsn) as conn:
            assert verify(conn).differences == []
    with database.connect(db) as conn:
        conn.execute("ALTER TABLE ledger.retractions DISABLE TRIGGER append_only")
        conn.execute("DELETE FROM ledger.retractions")
        conn.execute("ALTER TABLE ledger.retractions ENABLE ALWAYS TRIGGER append_only")
        assert any("finalized" in line for line in verify(conn).differences)


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_found(db: str, lie: str) -> None:
    asyncio.run(_fill(db, 7))
    statement, word = LIES[lie]
    with database.connect(db) as conn:
        tables = conn.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'append_only' AND tgrelid::regclass::text LIKE 'ledger.%'"
        ).fetchall()
        for (table,) in tables:
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only".encode())
        assert any("append-only trigger" in line for line in verify(conn).differences)
        conn.execute(statement.encode())
        for (table,) in tables:
            conn.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only".encode())
        report = verify(conn)
    assert not report.ok
    assert any(word in line for line in report.differences), report.differences
    assert all("; " in line for line in report.differences), "each line has a remedy"


def test_a_missing_row_is_named_by_place(db: str) -> None:
    asyncio.run(_fill(db, 7))
    with _unguarded(db) as conn:
        slot = conn.execute("DELETE FROM ledger.transactions WHERE position = 5 RETURNING slot").fetchone()
    with database.connect(db) as conn:
        line = next(line for line in verify(conn).differences if "missing" in line)
    assert slot is not None
    assert "1 are missing, the first is 5" in line
    assert "indexer replay --from-slot" in line


def test_a_missing_guard_and_a_detached_partition_are_found(db: str) -> None:
    asyncio.run(_fill(db, 7))
    with database.connect(db) as conn:
        conn.execute("DROP TRIGGER append_only ON ledger.seals")
        conn.execute("ALTER EVENT TRIGGER ledger_keeps_attached DISABLE")
        conn.execute("ALTER TABLE ledger.transactions DETACH PARTITION ledger.transactions_s0")
        report = verify(conn)
        assert (
            "table ledger.seals: the append-only trigger is missing; as the owner: SELECT ledger.guard"
            in report.differences[0]
        )
        found = next(line for line in report.differences if "detached" in line)
        # The remedy is a statement that works.
        conn.execute(found.partition("as the owner: ")[2].encode())
        conn.execute("SELECT ledger.guard('ledger.seals')")
        assert verify(conn).differences == []


def test_the_command_says_where_and_exits_1(db: str) -> None:
    asyncio.run(_fill(db, 7))
    assert _command(db).returncode == 0
    with _unguarded(db) as conn:
        conn.execute("UPDATE ledger.transactions SET err = '7' WHERE position = 9")
    done = _command(db)
    assert done.returncode == 1
    assert "row 9 (slot " in done.stdout
    assert "restore the ledger" in done.stdout


def test_memory_stays_bounded(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the rows, and the peak of what Python allocates stays where it was."""
    monkeypatch.setattr("schema.verify._READ_ROWS", 100)
    rng = random.Random(1)
    peaks = []
    for first, last in ((0, 2_000), (2_000, 8_000)):

        async def fill(first: int = first, last: int = last) -> None:
            conn = await database.aconnect(db)
            async with conn:
                await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
                lease = await leases.acquire(conn, "writer", str(first), 60)
                assert lease is not None
                for start in range(first, last, 500):
                    _, prepared = make_rows(rng, range(start, start + 500), 1)
                    await ledger.append_seal(conn, lease, [SealRange(1, start, start + 499)], prepared)
                await leases.release(conn, lease)

        asyncio.run(fill())
        with database.connect(db) as conn:
            tracemalloc.start()
            assert verify(conn).rows == last
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 100_000, peaks


@contextlib.contextmanager
def _unguarded(dsn: str) -> Iterator[psycopg.Connection]:
    with database.connect(dsn) as conn:
        tables = conn.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'append_only' AND tgrelid::regclass::text LIKE 'ledger.%'"
        ).fetchall()
        for (table,) in tables:
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only".encode())
        yield conn
        for (table,) in tables:
            conn.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only".encode())


def _command(dsn: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
    return subprocess.run(
        [sys.executable, "-m", "indexer", "verify"],
        cwd=ROOT,
        env={**clean, "INDEXER_DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_checker_finds_an_altered_row(db: str) -> None:
    asyncio.run(_fill(db, 7))
    with database.connect(db) as conn:
        conn.execute("ALTER TABLE ledger.transactions_s0 DISABLE TRIGGER append_only")
        conn.execute("ALTER TABLE ledger.transactions DISABLE TRIGGER append_only")
        conn.execute(
            "UPDATE ledger.transactions SET err = '1' WHERE position = (SELECT max(position) FROM ledger.transactions)"
        )
    assert len(differences(db)) >= 1


@pytest.mark.parametrize("seed", range(3))
def test_two_indexers_agree_whatever_they_lived_through(db: str, another_db: Callable[[], str], seed: int) -> None:
    """One seals a whole range, sees no fork and nothing late; the other has other bounds, follows a fork that dies and finds rows late. At
    every slot where both have a finalized seal the digests are equal, and the checker computes the same from the rows alone."""
    rng = random.Random(seed)
    true, _ = make_rows(rng, range(60), 2)
    dead, _ = make_rows(rng, range(20, 30), 2)
    # A fork often holds the same transactions with other outcomes.
    dead[::3] = [
        dataclasses.replace(raw, signature=next(t.signature for t in true if t.slot == raw.slot)) for raw in dead[::3]
    ]
    ours, theirs = db, another_db()

    async def calm() -> None:
        conn = await database.aconnect(ours)
        async with conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 60)
            assert lease is not None
            rows = [ledger.prepare_row(raw, (1,), 6) for raw in true]
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 59)], rows)
            for first in range(0, 60, 10):
                await ledger.append_finalized_seal(conn, lease, [SealRange(1, first, first + 9)])

    async def storm() -> None:
        conn = await database.aconnect(theirs)
        async with conn:
            await ledger.ensure_programs(conn, [("other", OTHER, 0), ("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "b", 60)
            assert lease is not None
            certain = [raw for raw in true if not 20 <= raw.slot < 30]
            unseen = rng.sample(certain, 7)
            seen = [raw for raw in certain if raw not in unseen] + dead
            seen.sort(key=lambda raw: (raw.slot, raw.transaction_index))
            at = 0
            while at < 60:
                last = min(59, at + rng.randrange(7))
                rows = [ledger.prepare_row(raw, (2,), 6) for raw in seen if at <= raw.slot <= last]
                await ledger.append_seal(conn, lease, [SealRange(2, at, last)], rows)
                at = last + 1
            for first, last in ((0, 9), (10, 11), (12, 39), (40, 59)):
                gone = [
                    ledger.Retraction(held.position, held.slot, held.signature, "dead fork")
                    for held in await ledger.held(conn, 2, max(first, 20), min(last, 29))
                ]
                missing = [raw for raw in true if first <= raw.slot <= last and raw not in seen]
                late = [ledger.prepare_row(raw, (2,), 6) for raw in missing]
                seal = SealRange(2, first, last)
                await ledger.append_finalized_seal(conn, lease, [seal], late=late, retractions=gone)

    asyncio.run(calm())
    asyncio.run(storm())
    found = []
    for dsn, program in ((ours, 1), (theirs, 2)):
        with database.connect(dsn) as conn:
            assert verify(conn).differences == []
            found.append(
                {
                    slot: bytes(value)
                    for slot, value in conn.execute(
                        "SELECT slot_last, digest FROM ledger.seals WHERE commitment = 'finalized' AND program = %s",
                        (program,),
                    )
                }
            )
            retracted = conn.execute("SELECT count(*) FROM ledger.retractions").fetchone()
            assert (retracted == (0,)) == (dsn == ours)
        assert differences(dsn) == []
    common = found[0].keys() & found[1].keys()
    assert common == {9, 39, 59}
    assert {slot: found[0][slot] for slot in common} == {slot: found[1][slot] for slot in common}
