"""verify and the independent checker agree on a true ledger, and each planted lie is found."""

from __future__ import annotations

import asyncio
import random

import pytest

from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger
from schema.ledger import SealRange
from schema.verify import verify
from tests.integration.schema.checker import differences
from tests.integration.schema.make import rows as make_rows

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


def test_the_checker_finds_an_altered_row(db: str) -> None:
    asyncio.run(_fill(db, 7))
    with database.connect(db) as conn:
        conn.execute("ALTER TABLE ledger.transactions_s0 DISABLE TRIGGER append_only")
        conn.execute("ALTER TABLE ledger.transactions DISABLE TRIGGER append_only")
        conn.execute(
            "UPDATE ledger.transactions SET err = '1' WHERE position = (SELECT max(position) FROM ledger.transactions)"
        )
    assert len(differences(db)) >= 1
