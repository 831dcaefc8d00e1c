"""Faults in the middle of an append: nothing is lost, nothing doubled, and the chain is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import psycopg
import pytest

from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger
from schema.errors import AlreadySealed, retryable
from schema.ledger import SealRange
from schema.verify import verify
from tests.integration.schema.make import rows as make_rows

ADDRESS = base58.encode(bytes([7] * 32))
STEPS = ("_begin", "_append_rows", "inside COPY", "_finish", "after commit")


async def _append_until_done(dsn: str, plans: list[Any], break_at: Any) -> int:
    """Append every plan, on a new connection after each failure; the number of failures."""
    failures = 0
    async with await database.aconnect(dsn) as conn:
        await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
        lease = await leases.acquire(conn, "writer", "a", 3_600)
    assert lease is not None
    conn = await database.aconnect(dsn)
    for seal, rows in plans:
        while True:
            try:
                break_at(conn)
                await ledger.append_seal(conn, lease, [seal], rows)
                if break_at(None):
                    raise psycopg.OperationalError("the answer to COMMIT was lost")
                break
            except AlreadySealed:
                break  # the commit whose answer was lost
            except psycopg.Error as error:
                if not retryable(error):
                    raise
                failures += 1
                await conn.close()
                conn = await database.aconnect(dsn)
    await conn.close()
    return failures


@pytest.mark.parametrize("seed", range(4))
def test_sessions_ended_at_any_step(db: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    plans = []
    for first in range(0, 60, 3):
        _, rows = make_rows(rng, range(first, first + 3), rng.randrange(4))
        plans.append((SealRange(1, first, first + 2), rows))
    planned: list[str | None] = [None]

    def arm(conn: psycopg.AsyncConnection[Any] | None) -> bool:
        if conn is None:
            return planned[0] == "after commit"
        planned[0] = rng.choice((*STEPS, None, None))
        return False

    def cut(name: str) -> None:
        real = getattr(ledger, name)

        async def with_cut(conn: psycopg.AsyncConnection[Any], *args: Any, **named: Any) -> Any:
            result = await real(conn, *args, **named)
            if planned[0] == name:
                async with await database.aconnect(db) as killer:
                    await killer.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
            return result

        monkeypatch.setattr(ledger, name, with_cut)

    for step in ("_begin", "_append_rows", "_finish"):
        cut(step)
    monkeypatch.setattr(ledger, "_COPY_CHUNK_ROWS", 2)
    write = psycopg.AsyncCopy.write

    async def cut_inside(copy: psycopg.AsyncCopy, data: bytes) -> None:
        await write(copy, data)
        if planned[0] == "inside COPY":
            async with await database.aconnect(db) as killer:
                await killer.execute("SELECT pg_terminate_backend(%s)", (copy.connection.info.backend_pid,))

    monkeypatch.setattr(psycopg.AsyncCopy, "write", cut_inside)
    failures = asyncio.run(_append_until_done(db, plans, arm))
    assert failures > 5
    expected = [row.signature for _, rows in plans for row in rows]
    with database.connect(db) as conn:
        found = [bytes(s) for (s,) in conn.execute("SELECT signature FROM ledger.transactions ORDER BY position")]
        assert found == expected
        assert verify(conn).differences == []
        value = conn.execute("SELECT digest FROM ledger.checkpoints WHERE name = 'ingest:1'").fetchone()
    undisturbed = ledger.digests.genesis(bytes([7] * 32), 0)
    assert value == (ledger.digests.chain(undisturbed, [row.digest for _, rows in plans for row in rows]),)


def test_a_statement_timeout_inside_the_append_writes_nothing(db: str) -> None:
    async def play() -> None:
        conn = await database.aconnect(db)
        async with conn, await database.aconnect(db) as other:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 3_600)
            assert lease is not None
            before = await ledger.load_state(conn)
            _, rows = make_rows(random.Random(1), range(5), 2)
            await conn.execute("SET statement_timeout = 50")
            async with other.transaction():
                await other.execute("SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE")
                with pytest.raises(psycopg.errors.QueryCanceled) as caught:
                    await ledger.append_seal(conn, lease, [SealRange(1, 0, 4)], rows)
            assert retryable(caught.value)
            assert await ledger.load_state(conn) == before
            await conn.execute("SET statement_timeout = 0")
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 4)], rows)
            assert (await ledger.load_state(conn)).last_position == 10

    asyncio.run(play())
