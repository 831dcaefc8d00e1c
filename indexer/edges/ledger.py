"""The database edge: the core's plans become transactions on one connection, under the writer's lease.

A failed transaction is rolled back as a whole and answered with `Failure`; the connection is made anew for the next one. A lost lease is no
failure to retry but the end of this writer: it raises `LeaseLost`, and the daemon becomes a standby.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from indexer import metrics
from indexer.core.protocol import (
    Address,
    Correction,
    Failure,
    Held,
    ReadContents,
    ReadLastListed,
    ReadLedger,
    Row,
    SealPlan,
    Slot,
)
from indexer.edges.parse import AccountChange
from indexer.log import log
from programs import base58
from programs.transaction import RawTransaction
from schema import ledger
from schema.db import aconnect
from schema.errors import LeaseLost, LedgerError
from schema.lease import Lease
from schema.rows import decode_logs


class LedgerMoved(Exception):
    """The ledger is further than this writer believed, as after a commit whose answer was lost. Begin anew from what it says."""


ORIGIN_LIVE, ORIGIN_BACKFILL, ORIGIN_LATE = 0, 1, 2
NO_SLOT = Slot(-1)
TIMES_KEPT_MAX = 4096


class TipClock:
    """When each slot was first seen as a tip, by our clock: what `lag_seconds` is measured against. Bounded."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Slot, datetime] = OrderedDict()

    def see(self, slot: Slot) -> None:
        """The chain has reached this slot."""
        if not self._seen or slot > next(reversed(self._seen)):
            self._seen[slot] = datetime.now(UTC)
            while len(self._seen) > TIMES_KEPT_MAX:
                self._seen.popitem(last=False)

    def at(self, slot: Slot) -> datetime | None:
        """When the chain reached it: the time of the first seen slot that is not lower. None for what was before our time."""
        found = None
        for seen in reversed(self._seen):
            if seen < slot:
                break
            found = self._seen[seen]
        oldest = next(iter(self._seen), None)
        return None if oldest is not None and slot < oldest else found


class PostgresLedger:
    """Implements driver.LedgerEdge and appends account samples. One transaction at a time."""

    def __init__(
        self,
        dsn: str,
        lease: Lease,
        program_ids: dict[Address, int],
        clock: TipClock,
        origin: int = ORIGIN_LIVE,
        commitment: str = "confirmed",
        highest: Slot = NO_SLOT,
    ) -> None:
        self._dsn = dsn
        self._lease = lease
        self._ids = program_ids
        self._clock = clock
        self._origin = origin
        # "finalized": what is sealed was read at finalized and needs no comparison later; the ranges must follow each other from the start slot.
        self._commitment = commitment
        self._highest = highest
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        self.on_appended: Callable[[SealPlan], None] = lambda plan: None
        self.failing: str | None = None
        """What the database last refused with, for /readyz; None since it last obeyed."""

    async def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def append(self, plan: SealPlan) -> Failure | None:
        """Rows, seals, checkpoints: one transaction."""
        seals = [ledger.SealRange(self._ids[r.address], r.slot_first, r.slot_last) for r in plan.ranges]
        # Nearly all rows are of the same programs.
        numbers: dict[frozenset[Address], tuple[int, ...]] = {}
        for programs in {row.programs for row in plan.rows}:
            numbers[programs] = tuple(sorted(self._ids[a] for a in programs if a in self._ids))
        rows = [ledger.pending_row(row.raw, numbers[row.programs], row.witnesses) for row in plan.rows]
        upper = max(r.slot_last for r in plan.ranges)
        slot_time = self._clock.at(upper) or _chain_time(plan)
        # A program that is a little behind the others: its rows come after later ones, and are marked as what they are (I2).
        origin = ORIGIN_BACKFILL if self._origin == ORIGIN_LIVE and upper <= self._highest else self._origin

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.append_seal(
                connection,
                self._lease,
                seals,
                rows,
                commitment=self._commitment,
                origin=origin,
                tip_slot=plan.tip,
                slot_time=slot_time,
            )

        started = time.monotonic()
        failure = await self._transaction("append", work)
        metrics.APPEND_SECONDS.observe(time.monotonic() - started)
        if failure is None:
            self._highest = Slot(max(self._highest, upper))
            metrics.ROWS.labels(origin=("live", "backfill", "late")[origin]).inc(len(rows))
            self.on_appended(plan)
        return failure

    async def correct(self, correction: Correction) -> Failure | None:
        """Late rows, retractions and the finalized seals of the ranges: one transaction."""
        seals = [ledger.SealRange(self._ids[r.address], r.slot_first, r.slot_last) for r in correction.ranges]
        late = [
            ledger.prepare_row(
                row.raw, tuple(sorted(self._ids[a] for a in row.programs if a in self._ids)), row.witnesses
            )
            for row in correction.late
        ]
        retractions = [
            ledger.Retraction(held.position, held.slot, base58.decode(held.signature), "not in the finalized chain")
            for held in correction.foreign
        ]

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.append_finalized_seal(connection, self._lease, seals, late=late, retractions=retractions)

        failure = await self._transaction("correct", work)
        if failure is None:
            metrics.LATE_ROWS.inc(len(late))
            metrics.RETRACTIONS.inc(len(retractions))
        return failure

    async def append_late(self, rows: tuple[Row, ...]) -> Failure | None:
        """Rows of slots that are sealed already; where these are sealed at finalized too, a seal that is true of them takes the old one's place."""
        late = [
            ledger.prepare_row(row.raw, tuple(sorted(self._ids[a] for a in row.programs)), row.witnesses)
            for row in sorted(rows, key=lambda row: (row.raw.slot, row.raw.transaction_index))
        ]
        programs = sorted({number for row in late for number in row.programs})

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.append_corrections(connection, self._lease, programs, late, [])

        failure = await self._transaction("late", work)
        if failure is None:
            metrics.LATE_ROWS.inc(len(late))
        return failure

    async def held(self, request: ReadLedger) -> tuple[Held, ...] | Failure:
        """The rows of a program in a range, retracted ones left out."""
        found: list[Held] = []

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            found[:] = [
                _held(row)
                for row in await ledger.held(
                    connection, self._ids[request.address], request.slot_first, request.slot_last
                )
            ]

        failure = await self._transaction("read", work)
        return failure if failure is not None else tuple(found)

    async def last_listed(self, request: ReadLastListed) -> Held | Failure | None:
        """The program's last standing row at or below a slot that a list has named; None when there is none near."""
        found: list[Held] = []

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            row = await ledger.last_listed(connection, self._ids[request.address], request.slot_last)
            found[:] = [] if row is None else [_held(row)]

        failure = await self._transaction("read", work)
        return failure if failure is not None else (found[0] if found else None)

    async def contents(self, request: ReadContents) -> tuple[RawTransaction, ...] | Failure:
        """Rows as they are stored."""
        found: list[RawTransaction] = []

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            found[:] = await ledger.contents(connection, [(row.slot, row.position) for row in request.rows])

        failure = await self._transaction("read", work)
        return failure if failure is not None else tuple(found)

    async def append_accounts(self, changes: Sequence[AccountChange], source: int) -> Failure | None:
        """Account samples, one transaction."""
        rows = [
            ledger.AccountUpdate(
                self._ids[c.program],
                c.slot,
                c.pubkey,
                c.lamports,
                c.owner,
                None if c.closed else c.data,
                c.closed,
                source,
            )
            for c in changes
            if c.program in self._ids
        ]

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.append_account_updates(connection, self._lease, rows)

        return await self._transaction("accounts", work)

    async def latest_accounts(self, program: Address) -> dict[bytes, tuple[int, bytes | None, Slot]] | Failure:
        """The open accounts of a program as last sampled: pubkey → (lamports, data, slot of the sample)."""
        found: dict[bytes, tuple[int, bytes | None, Slot]] = {}

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            # The newest sample of each account; closed ones are gone.
            query = (
                "SELECT pubkey, lamports, data, slot FROM (SELECT DISTINCT ON (pubkey) pubkey, lamports, data, slot, closed"
                " FROM ledger.account_updates WHERE program = %s ORDER BY pubkey, slot DESC, id DESC) newest WHERE NOT closed"
            )
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(query, (self._ids[program],))
                async for pubkey, lamports, data, slot in cursor:
                    found[bytes(pubkey)] = (int(lamports), None if data is None else bytes(data), Slot(slot))

        failure = await self._transaction("read", work)
        return failure if failure is not None else found

    async def set_accounts_slot(self, program: Address, slot: Slot) -> Failure | None:
        """The samples of the program were compared with a full listing of this slot."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.set_accounts_slot(connection, self._ids[program], slot)

        return await self._transaction("accounts", work)

    async def set_root(self, slot: Slot) -> Failure | None:
        """The highest finalized slot seen."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await ledger.set_root(connection, slot)

        return await self._transaction("root", work)

    async def _transaction(
        self, what: str, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]
    ) -> Failure | None:
        async with self._turn:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await aconnect(self._dsn)
                await work(self._connection)
            except LeaseLost:
                await self._drop()
                raise
            except LedgerError as error:
                await self._drop()
                raise LedgerMoved(str(error)) from error
            except (psycopg.Error, OSError) as error:
                metrics.DATABASE_FAILURES.inc()
                text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
                log.seldom(5.0, "warning", "database_failure", doing=what, error=text[:300])
                self.failing = f"{what}: {text[:300]}"
                await self._drop()
                return Failure(text[:300])
            except BaseException:
                # Cancelled in the middle: the connection's state is unknown.
                await self._drop()
                raise
            self.failing = None
            return None

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _held(row: ledger.HeldRow) -> Held:
    logs = None if row.unfetched_logs is None else decode_logs(row.unfetched_logs)
    signature = base58.encode(row.signature)
    return Held(row.position, Slot(row.slot), row.transaction_index, signature, row.err, logs, row.digest)


def _chain_time(plan: SealPlan) -> datetime | None:
    times = [row.raw.block_time for row in plan.rows[-1:] if row.raw.block_time is not None]
    return datetime.fromtimestamp(times[0], UTC) if times else None
