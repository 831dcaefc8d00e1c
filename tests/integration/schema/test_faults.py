"""Faults in the middle of an append: nothing is lost, nothing doubled, and the chain is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any

import psycopg
import pytest

from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger
from schema.embedded import EmbeddedPostgres
from schema.errors import AlreadySealed, retryable
from schema.ledger import SealRange
from schema.verify import verify
from tests.integration.schema.conftest import SmallDisk
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


def test_a_deadlock_victim_writes_nothing_and_may_try_again(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append holds the ledger's row and wants the lease's; another session has them the other way round, and waits the longer."""
    real = ledger._append_rows

    async def play() -> None:
        conn, other = await database.aconnect(db), await database.aconnect(db)
        async with conn, other:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 3_600)
            assert lease is not None
            _, rows = make_rows(random.Random(1), range(5), 2)
            before = await ledger.load_state(conn)
            await conn.execute("SET deadlock_timeout = '50ms'")
            await other.execute("SET deadlock_timeout = '60s'")
            async with other.transaction():
                await other.execute("SELECT FROM ledger.leases FOR UPDATE")
                held: list[asyncio.Task[Any]] = []

                async def until_the_other_waits(*arguments: Any) -> Any:
                    query = "SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE"
                    held.append(asyncio.create_task(other.execute(query)))
                    await _until_one_waits(db)
                    return await real(*arguments)

                monkeypatch.setattr(ledger, "_append_rows", until_the_other_waits)
                with pytest.raises(psycopg.errors.DeadlockDetected) as caught:
                    await ledger.append_seal(conn, lease, [SealRange(1, 0, 4)], rows)
                await held[0]
            monkeypatch.setattr(ledger, "_append_rows", real)
            assert retryable(caught.value)
            assert await ledger.load_state(conn) == before
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 4)], rows)
            assert (await ledger.load_state(conn)).last_position == 10

    asyncio.run(play())
    with database.connect(db) as conn:
        assert verify(conn).differences == []


async def _until_one_waits(dsn: str) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with await database.aconnect(dsn) as conn:
        for _ in range(1_000):
            row = await (await conn.execute(query)).fetchone()
            if row is not None and row[0] > 0:
                return
            await asyncio.sleep(0.02)
    raise AssertionError("nobody waits for a lock")


def test_a_server_that_crashes_inside_an_append_keeps_whole_batches() -> None:
    """Immediate stops at random moments of a stream of appends: what is there afterwards is whole batches, and the rest can follow."""
    rng = random.Random(5)
    plans = []
    for first in range(0, 90, 3):
        _, rows = make_rows(rng, range(first, first + 3), 20)
        plans.append((SealRange(1, first, first + 2), rows))

    async def write(dsn: str) -> None:
        async with await database.aconnect(dsn) as conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 3_600) or leases.Lease("writer", 1, "a")
            done = (await ledger.load_state(conn)).sealed_slot(1, 0)
            for seal, rows in plans:
                if seal.slot_first > done:
                    await ledger.append_seal(conn, lease, [seal], rows)

    with EmbeddedPostgres() as server:
        database.upgrade(server.dsn)
        for _ in range(3):
            stopping = threading.Timer(rng.random() * 0.4, server.stop, kwargs={"immediate": True})
            stopping.start()
            with contextlib.suppress(psycopg.OperationalError):
                asyncio.run(write(server.dsn))
            stopping.join()
            server.start()
        asyncio.run(write(server.dsn))
        with database.connect(server.dsn) as conn:
            found = [bytes(s) for (s,) in conn.execute("SELECT signature FROM ledger.transactions ORDER BY position")]
            assert found == [row.signature for _, rows in plans for row in rows]
            assert verify(conn).differences == []


def test_a_full_disk_loses_nothing(small_disk: SmallDisk) -> None:
    """The data's file system has no byte left: appends fail as retryable and write nothing; with room again they go on."""
    rng = random.Random(6)
    _, first = make_rows(rng, range(10), 20)
    _, later = make_rows(rng, range(10, 40), 40)

    async def play(dsn: str) -> None:
        async with await database.aconnect(dsn) as conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 0)])
            lease = await leases.acquire(conn, "writer", "a", 3_600)
            assert lease is not None
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 9)], first)
            before = await ledger.load_state(conn)
            small_disk.fill()
            for _ in range(3):
                with pytest.raises(psycopg.Error) as caught:
                    await ledger.append_seal(conn, lease, [SealRange(1, 10, 39)], later)
                assert isinstance(caught.value, psycopg.errors.DiskFull), caught.value
                assert retryable(caught.value)
            assert await ledger.load_state(conn) == before
            small_disk.free()
            await ledger.append_seal(conn, lease, [SealRange(1, 10, 39)], later)

    with EmbeddedPostgres(small_disk.folder / "data") as server:
        database.upgrade(server.dsn)
        asyncio.run(play(server.dsn))
        with database.connect(server.dsn) as conn:
            found = [bytes(s) for (s,) in conn.execute("SELECT signature FROM ledger.transactions ORDER BY position")]
            assert found == [row.signature for row in [*first, *later]]
            assert verify(conn).differences == []
