"""Appending and reading back on a real server: positions, seals, coverage, the fence, append-only."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from indexer.core.protocol import Address, Range, SealPlan, Slot
from indexer.edges import ahead
from indexer.edges.ahead import AheadLedger
from indexer.edges.ledger import TipClock
from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger, reads
from schema.ledger import SealRange
from schema.verify import verify
from tests.integration.schema.make import rows as make_rows

ROOT = Path(__file__).resolve().parents[3]
ADDRESS, OTHER = base58.encode(bytes([7] * 32)), base58.encode(bytes([8] * 32))


async def _writer(dsn: str, holder: str = "a", ttl_s: float = 30.0) -> tuple[psycopg.AsyncConnection, leases.Lease]:
    conn = await database.aconnect(dsn)
    await ledger.ensure_programs(conn, [("voting", ADDRESS, 0), ("other", OTHER, 10)])
    lease = await leases.acquire(conn, "writer", holder, ttl_s)
    assert lease is not None
    return conn, lease


async def _expire(dsn: str) -> None:
    async with await database.aconnect(dsn) as conn:
        await conn.execute("UPDATE ledger.leases SET expires_at = '-infinity'")


@pytest.mark.parametrize("seed", range(8))
def test_what_is_appended_is_read_back_exactly(db: str, seed: int) -> None:
    rng = random.Random(seed)
    width = rng.choice((1, 7, 432_000))
    with database.connect(db) as conn:
        conn.execute("UPDATE ledger.settings SET value = %s WHERE key = 'partition_width_slots'", (str(width),))
    expected = []

    async def write() -> ledger.LedgerState:
        conn, lease = await _writer(db)
        slot = 0
        async with conn:
            for _ in range(6):
                last = slot + rng.randrange(1, 9)
                raws, prepared = make_rows(rng, range(slot, last + 1), rng.randrange(3))
                await ledger.append_seal(conn, lease, [SealRange(1, slot, last)], prepared, tip_slot=last + 3)
                expected.extend(raws)
                slot = last + 1
            return await ledger.load_state(conn)

    state = asyncio.run(write())
    assert state.last_position == len(expected)
    assert state.programs[1].coverage == ((0, state.sealed_slot(1, 0)),)
    with database.connect(db) as conn:
        found: list[reads.LedgerRow] = []
        while batch := reads.read_batch(conn, found[-1].position if found else 0, 3, 2_000):
            found += batch
        assert [row.position for row in found] == list(range(1, len(expected) + 1))
        assert [row.raw for row in found] == expected
        assert [row.raw for row in reads.iter_chain_order(conn, program=1)] == expected
        if expected:
            assert [row.raw for row in reads.find_signature(conn, expected[0].signature)] == expected[:1]


def test_chain_depends_on_rows_and_not_on_where_seals_end(db: str, another_db: Callable[[], str]) -> None:
    _, prepared = make_rows(random.Random(1), range(20), 2)

    async def write(dsn: str, cuts: list[int]) -> bytes:
        conn, lease = await _writer(dsn)
        async with conn:
            first = 0
            for last in cuts:
                rows = [row for row in prepared if first <= row.slot <= last]
                await ledger.append_seal(conn, lease, [SealRange(1, first, last)], rows)
                first = last + 1
            return (await ledger.load_state(conn)).programs[1].digest

    value = sha256(b"community-voting-indexer/v1" + bytes([7] * 32) + bytes(8)).digest()
    for row in prepared:
        value = sha256(value + row.digest).digest()
    assert asyncio.run(write(db, [19])) == asyncio.run(write(another_db(), [0, 3, 4, 19])) == value


def test_gaps_overlaps_and_strangers_are_refused_and_write_nothing(db: str) -> None:
    async def play() -> None:
        conn, lease = await _writer(db)
        _, prepared = make_rows(random.Random(2), range(10, 20), 1)
        async with conn:
            await ledger.append_seal(conn, lease, [SealRange(1, 10, 19)], prepared)
            before = await ledger.load_state(conn)
            with pytest.raises(ledger.AlreadySealed):
                await ledger.append_seal(conn, lease, [SealRange(1, 19, 25)], [])
            with pytest.raises(ledger.LedgerConflict, match="gap"):
                await ledger.append_seal(conn, lease, [SealRange(1, 21, 25)], [])
            with pytest.raises(ledger.LedgerConflict, match="come after"):
                await ledger.append_seal(conn, lease, [SealRange(1, 0, 30)], prepared[::-1])
            with pytest.raises(ledger.LedgerConflict, match="no sealed range"):
                await ledger.append_seal(conn, lease, [SealRange(1, 20, 30)], prepared)
            with pytest.raises(ledger.LedgerConflict, match="no program 9"):
                await ledger.append_seal(conn, lease, [SealRange(9, 20, 30)], [])
            assert await ledger.load_state(conn) == before
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 9)], [], origin=1)
            state = await ledger.load_state(conn)
            assert state.programs[1].coverage == ((0, 19),)
            assert state.programs[1].sealed_slot == 19
            assert state.programs[1].backfill_slot == 9

    asyncio.run(play())


def test_finalized_chain_is_that_of_the_corrected_ledger(db: str) -> None:
    async def play() -> None:
        conn, lease = await _writer(db)
        _, prepared = make_rows(random.Random(3), range(10), 2)
        sealed = [row for n, row in enumerate(prepared) if n != 5]
        async with conn:
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 9)], sealed)
            gone = (await ledger.held(conn, 1, 2, 2))[0]
            retraction = ledger.Retraction(gone.position, gone.slot, gone.signature, "dead fork")
            await ledger.append_finalized_seal(
                conn, lease, [SealRange(1, 0, 9)], late=[prepared[5]], retractions=[retraction]
            )
            true = [row for row in prepared if row.signature != gone.signature]
            assert [row.signature for row in await ledger.held(conn, 1, 0, 9)] == [row.signature for row in true]
            value = sha256(b"community-voting-indexer/v1" + bytes([7] * 32) + bytes(8)).digest()
            for row in true:
                value = sha256(value + row.digest).digest()
            found = await (
                await conn.execute("SELECT digest, slot FROM ledger.checkpoints WHERE name = 'finalized:1'")
            ).fetchone()
            assert found == (value, 9)
            with pytest.raises(ledger.LedgerConflict, match="begins at slot 10"):
                await ledger.append_finalized_seal(conn, lease, [SealRange(1, 11, 12)])
            with pytest.raises(ledger.LedgerConflict, match="not all sealed"):
                await ledger.append_finalized_seal(conn, lease, [SealRange(1, 10, 12)])

    asyncio.run(play())


@pytest.mark.parametrize("inside_copy", [False, True])
def test_a_paused_writer_that_lost_its_lease_cannot_commit(db: str, inside_copy: bool) -> None:
    """The writer stops inside COPY or after its rows; another takes over and seals the same slots; the first wakes and fails."""

    async def play() -> None:
        conn, lease = await _writer(db)
        _, prepared = make_rows(random.Random(4), range(3), 2)
        reached, wake = asyncio.Event(), asyncio.Event()

        async def paused() -> None:
            async with ledger._unit(conn):
                head = await ledger._begin(conn, lease, [SealRange(1, 0, 2)], [0, 1, 2])
                if inside_copy:
                    async with conn.cursor() as cursor, cursor.copy("COPY ledger.transactions FROM STDIN") as copy:
                        await copy.write(b"")
                        reached.set()
                        await wake.wait()
                else:
                    appended, _ = await ledger._append_rows(conn, head, prepared, 0)
                    reached.set()
                    await wake.wait()
                    await ledger._finish(conn, lease, appended, ledger._appended(lease, appended, prepared, 0))

        writer = asyncio.create_task(paused())
        await reached.wait()
        await _expire(db)
        async with await database.aconnect(db) as standby:
            taken = await asyncio.wait_for(leases.acquire(standby, "writer", "b", 30), 60)
            assert taken is not None
            assert taken.epoch == lease.epoch + 1
            await asyncio.wait_for(ledger.append_seal(standby, taken, [SealRange(1, 0, 2)], prepared), 60)
        wake.set()
        with pytest.raises((ledger.LeaseLost, psycopg.Error)):
            await writer
        await conn.close()
        async with await database.aconnect(db) as late:
            # The same on a connection that nobody ended: the epoch alone keeps it out.
            with pytest.raises(ledger.LeaseLost):
                await ledger.append_seal(late, lease, [SealRange(1, 3, 4)], [])
            with pytest.raises(leases.LeaseLost):
                await leases.renew(late, lease, 30)

    asyncio.run(play())
    with database.connect(db) as conn:
        assert reads.head(conn) == 6
        assert conn.execute("SELECT count(*), count(DISTINCT signature) FROM ledger.transactions").fetchone() == (6, 6)


def test_a_backfill_sees_whether_a_daemon_leads(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it stands back beside one, and does not without."""
    rests = []

    async def rest(_: AheadLedger, seconds: float) -> None:
        rests.append(seconds)

    async def play() -> None:
        conn, lease = await _writer(db)
        behind = await leases.acquire(conn, "backfill", "b", 30)
        assert behind is not None
        backfill = AheadLedger(db, behind, {Address(ADDRESS): 1}, TipClock())
        for slot, leads in ((1, True), (2, False)):
            if not leads:
                await leases.release(conn, lease)
            span = Range(Address(ADDRESS), Slot(slot), Slot(slot))
            await backfill.append(SealPlan((span,), (), Slot(slot), "finalized"))
            await backfill.settle()
            assert bool(rests) is leads
            rests.clear()
        await backfill.close()
        await conn.close()

    monkeypatch.setattr(AheadLedger, "_rest", rest)
    monkeypatch.setattr(ahead, "LOOK_S", 0.0)
    asyncio.run(play())


def test_a_batch_may_be_on_its_way_where_the_server_is_on_this_machine(db: str) -> None:
    """A Unix socket holds more once a batch was appended; of TCP the kernel decides itself."""

    def room(conn: psycopg.AsyncConnection) -> tuple[int, int]:
        with socket.socket(fileno=os.dup(conn.pgconn.socket)) as same:
            return same.family, same.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    async def play() -> None:
        conn, lease = await _writer(db)
        async with conn:
            _, prepared = make_rows(random.Random(1), range(100), 3)
            family, before = room(conn)
            await ledger.append_seal(conn, lease, [SealRange(1, 0, 99)], prepared)
            assert len(prepared) > 128
            assert family != socket.AF_UNIX or room(conn)[1] > before

    asyncio.run(play())


def test_nobody_takes_a_lease_that_is_good(db: str) -> None:
    async def play() -> None:
        conn, lease = await _writer(db)
        async with await database.aconnect(db) as standby:
            assert await leases.acquire(standby, "writer", "b", 30) is None
            await leases.renew(conn, lease, 30)
            assert await leases.acquire(standby, "writer", "b", 30) is None
            assert (await leases.held(standby, "writer"), await leases.held(standby, "other")) == (True, False)
            await leases.release(conn, lease)
            assert not await leases.held(standby, "writer")
            taken = await leases.acquire(standby, "writer", "b", 30)
            assert taken is not None
            assert taken.epoch == lease.epoch + 1
        await conn.close()

    asyncio.run(play())


@pytest.mark.parametrize("statement", ["UPDATE {} SET slot = 0", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("replica", [False, True])
def test_the_owner_cannot_change_what_is_appended(db: str, statement: str, replica: bool) -> None:
    with database.connect(db) as conn:
        conn.execute("SELECT ledger.ensure_partitions(0, 0)")
        conn.execute(f"SET session_replication_role = {'replica' if replica else 'origin'}")
        tables = conn.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'p')"
            " AND relname ~ '^(transactions|account_updates|seals|retractions|batches|idls)'"
        ).fetchall()
        assert len(tables) == 10
        for (table,) in tables:
            change = statement.format(table)
            if "slot = 0" in change:
                column = "epoch" if table.endswith("batches") else "source" if table.endswith("idls") else None
                change = (
                    change.replace("slot = 0", f"{column} = {column}")
                    if column
                    else change.replace("slot = 0", "slot_first = 0")
                    if table.endswith("seals")
                    else change
                )
            with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
                conn.execute(change)


def test_an_owner_without_special_rights_has_no_right_to_change_what_is_appended(database_url: str) -> None:
    """The ledger of a role that is no superuser: grants refuse before triggers do, and what no trigger can refuse is noticed by verify."""
    role = f"owner_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"CREATE DATABASE {role} OWNER {role} ENCODING 'UTF8' TEMPLATE template0")
        try:
            dsn = make_conninfo(database_url, dbname=role, user=role)
            database.upgrade(dsn)

            async def play() -> None:
                conn, lease = await _writer(dsn)
                async with conn:
                    _, prepared = make_rows(random.Random(1), range(5), 2)
                    await ledger.append_seal(conn, lease, [SealRange(1, 0, 4)], prepared)
                    gone = (await ledger.held(conn, 1, 0, 0))[:1]
                    dead = [ledger.Retraction(row.position, row.slot, row.signature, "dead fork") for row in gone]
                    await ledger.append_finalized_seal(conn, lease, [SealRange(1, 0, 4)], retractions=dead)

            asyncio.run(play())
            with database.connect(dsn) as conn:
                assert verify(conn).differences == []
                for table in (
                    "transactions",
                    "transactions_s0",
                    "seals",
                    "retractions",
                    "batches",
                    "account_updates_s0",
                ):
                    for change in ("DELETE FROM {}", "TRUNCATE {}"):
                        with pytest.raises(psycopg.errors.InsufficientPrivilege):
                            conn.execute(change.format(f"ledger.{table}"))
                conn.execute("DROP TABLE ledger.transactions_s0")
                assert any("10 are missing, the first is 1" in line for line in verify(conn).differences)
            database.downgrade(dsn)
        finally:
            admin.execute(f"DROP DATABASE {role} WITH (FORCE)")
            admin.execute(f"DROP ROLE {role}")


DROPS = {
    "drop": "DROP TABLE ledger.transactions_s0",
    "drop cascade": "DROP TABLE ledger.account_updates_s0 CASCADE",
    "detach": "ALTER TABLE ledger.transactions DETACH PARTITION ledger.transactions_s0",
}


@pytest.mark.parametrize("what", DROPS)
def test_a_partition_is_not_dropped_or_detached_by_a_slip(db: str, what: str) -> None:
    with database.connect(db) as conn:
        conn.execute("SELECT ledger.ensure_partitions(0, 0)")
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            conn.execute(DROPS[what])
        conn.execute(
            "CREATE SCHEMA theirs; CREATE TABLE theirs.transactions_s0 (a int); DROP TABLE theirs.transactions_s0"
        )
        conn.execute("ALTER TABLE ledger.transactions_s0 SET (fillfactor = 100)")
        conn.execute("DROP SCHEMA ledger CASCADE")
    database.upgrade(db)


def test_partitions_are_made_ahead_and_only_where_rows_are(db: str) -> None:
    async def play() -> None:
        conn, lease = await _writer(db)
        async with conn:
            for slot in (0, 5, 10**9, 10**9 + 1):
                _, prepared = make_rows(random.Random(slot), range(slot, slot + 1), 1)
                seal = SealRange(1, slot, slot)
                await ledger.append_seal(conn, lease, [seal], prepared, origin=1)

    asyncio.run(play())
    with database.connect(db) as conn:
        names = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relname ~ '^transactions_s[0-9]+$' ORDER BY oid"
        ).fetchall()
    width = 432_000
    first = 10**9 // width * width
    assert [name for (name,) in names] == [f"transactions_s{s}" for s in (0, width, first, first + width)]


_PAUSED = """
import asyncio, os, pickle, signal, sys
import psycopg
from schema import db, lease as leases, ledger
from schema.lease import Lease
dsn, epoch, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
seal, rows = pickle.load(open(file, "rb"))
real = psycopg.AsyncCopy.write
async def write(copy, data):
    await real(copy, data)
    if sys.argv[4] == "inside":
        os.kill(os.getpid(), signal.SIGSTOP)
psycopg.AsyncCopy.write = write
async def main():
    conn = await db.aconnect(dsn)
    if sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGSTOP)
    lease = Lease("writer", epoch, "a")
    prepared = [ledger.PreparedRow(*row) for row in rows]
    try:
        await ledger.append_seal(conn, lease, [ledger.SealRange(*seal)], prepared)
    except (ledger.LeaseLost, psycopg.Error) as error:
        sys.exit(7)
asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["before", "inside"])
def test_a_writer_that_the_system_stopped_and_resumed_cannot_commit(db: str, tmp_path: Path, where: str) -> None:
    """A real process, SIGSTOP in the middle of its append, a standby that takes over and seals the same slots, SIGCONT."""
    _, prepared = make_rows(random.Random(4), range(3), 2)

    async def lead() -> leases.Lease:
        conn, lease = await _writer(db)
        await conn.close()
        return lease

    lease = asyncio.run(lead())
    file = tmp_path / "plan"
    fields = [(r.slot, r.transaction_index, r.signature, r.programs, r.digest, r.encoded) for r in prepared]
    file.write_bytes(pickle.dumps(((1, 0, 2), fields)))
    process = subprocess.Popen([sys.executable, "-c", _PAUSED, db, str(lease.epoch), str(file), where], cwd=ROOT)
    try:
        while "T" not in Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]:
            assert process.poll() is None, "it ended before it was stopped"
            time.sleep(0.02)

        async def take_over() -> None:
            await _expire(db)
            async with await database.aconnect(db) as standby:
                taken = await asyncio.wait_for(leases.acquire(standby, "writer", "b", 30), 60)
                assert taken is not None
                await asyncio.wait_for(ledger.append_seal(standby, taken, [SealRange(1, 0, 2)], prepared), 60)

        asyncio.run(take_over())
        while process.poll() is None:
            # It stops itself again at its next write.
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        assert process.returncode == 7
    finally:
        process.kill()
        process.wait()
    with database.connect(db) as conn:
        assert reads.head(conn) == 6
        assert conn.execute("SELECT count(*), count(DISTINCT signature) FROM ledger.transactions").fetchone() == (6, 6)
        assert verify(conn).differences == []


def test_the_lease_goes_by_the_databases_clock(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts whose clocks are years apart agree: no statement of the lease is given a time."""

    async def play() -> None:
        conn, lease = await _writer(db, ttl_s=30.0)
        for skew in (-(10**9), 10**9):
            monkeypatch.setattr(time, "time", lambda skew=skew: 1_700_000_000.0 + skew)
            async with await database.aconnect(db) as standby:
                assert await leases.acquire(standby, "writer", "b", 30) is None
                await leases.renew(conn, lease, 30)
                row = await (
                    await standby.execute("SELECT expires_at - clock_timestamp() < interval '31 s' FROM ledger.leases")
                ).fetchone()
                assert row == (True,)
        await conn.close()

    asyncio.run(play())


def test_chain_order_is_read_without_sorting_the_whole_ledger(db: str) -> None:
    with database.connect(db) as conn:
        conn.execute("SELECT ledger.ensure_partitions(0, 432000); ANALYZE ledger.transactions")
        # Of empty tables both sorts cost the same: it is asked whether the order of the index can be used at all.
        conn.execute("SET enable_seqscan = off; SET enable_sort = off")
        plan = "\n".join(
            line
            for (line,) in conn.execute(
                "EXPLAIN SELECT * FROM ledger.transactions t ORDER BY t.slot, t.transaction_index, t.position"
            )
        )
    assert "Incremental Sort" in plan, plan
