"""Old slots: `backfill` seals what lies before the ledger's first seal, `replay` proves what is there against the chain once more.

Both are the daemon's own sealer and auditor over a fixed range, under a lease of their own, so that a running daemon is not disturbed; the
ledger's row lock gives out positions one transaction at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from indexer.core.finality import Auditor
from indexer.core.protocol import (
    Address,
    Correction,
    Done,
    Failure,
    GetSlot,
    Halted,
    Held,
    ListSignatures,
    Outcome,
    ReadLedger,
    Routine,
    SealPlan,
    Slot,
    Unproven,
)
from indexer.core.sealer import Sealer, SealPolicy
from indexer.core.walk import PAGE_MAX
from indexer.edges.driver import Driver
from indexer.edges.ledger import ORIGIN_BACKFILL, LedgerMoved, PostgresLedger, TipClock
from indexer.edges.rpc import RpcClient
from indexer.log import log
from indexer.settings import Settings
from indexer.startup import Prepared, prepare, rpc_client
from programs import base58
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError
from schema import lease as leases
from schema import ledger
from schema.db import aconnect, connect
from schema.lease import Lease

LEASE_TTL_S = 10.0
UNPROVEN_S_MAX = 60.0

Progress = Callable[[int, int, int], None]
"""Called with (slots done, slots in all, transactions)."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run over old slots did. `slot_last` is the last slot that was proven."""

    slot_first: int
    slot_last: int
    rows: int = 0
    compared: int = 0
    late: int = 0
    retracted: int = 0


@dataclass(frozen=True, slots=True)
class _Session:
    prepared: Prepared
    lease: Lease
    rpc: RpcClient
    state: ledger.LedgerState


async def backfill(settings: Settings, first: int | None, last: int | None, progress: Progress) -> Result:
    """Seal what is not sealed yet of slots first..last, program by program; `last` defaults to the finalized tip, `first` (None) to the slot of
    the program's first transaction.

    Runs beside a daemon: it never touches what lies behind the last seal that the daemon makes. What was sealed stays when it is interrupted;
    the next run begins at the first gap.
    """
    async with _session(settings, "backfill") as session:
        root = await session.rpc.get_slot(GetSlot("finalized"))
        if not isinstance(root, int):
            raise UserError(f"INDEXER_RPC_URL: {root.message}", EXIT_UNREACHABLE)
        # Programs that lack the same slots are sealed together: one row for a transaction that they share.
        ranges: dict[tuple[int, int], list[Address]] = {}
        for program in settings.watched:
            address = Address(program.address)
            state = session.state.programs[session.prepared.program_ids[address]]
            start = await _first_slot(session, address) if first is None else first
            for free in _free(state, start, root if last is None else min(last, root)):
                ranges.setdefault(free, []).append(address)
        total = sum(end - start + 1 for start, end in ranges)
        done = rows = 0

        def more(slots: int, found: int) -> None:
            progress(done + slots, total, rows + found)

        for (start, end), addresses in sorted(ranges.items()):
            rows += await _backfill_range(settings, session, addresses, start, end, more)
            done += end - start + 1
        low = min((start for start, _ in ranges), default=first or 0)
        return Result(low, max((end for _, end in ranges), default=low - 1), rows=rows)


async def _backfill_range(
    settings: Settings,
    session: _Session,
    addresses: list[Address],
    start: int,
    end: int,
    progress: Callable[[int, int], None],
) -> int:
    states = [session.state.programs[session.prepared.program_ids[address]] for address in addresses]
    before = {s.program.start_slot - 1 if s.finalized_slot is None else s.finalized_slot for s in states}
    commitment = "finalized" if before == {start - 1} else "confirmed"
    database = PostgresLedger(
        settings.need_database(), session.lease, session.prepared.program_ids, TipClock(), ORIGIN_BACKFILL, commitment
    )
    rows = 0

    def appended(plan: SealPlan) -> None:
        nonlocal rows
        rows += len(plan.rows)
        progress(max(r.slot_last for r in plan.ranges) - start + 1, rows)

    database.on_appended = appended
    sealer = Sealer(
        dict.fromkeys(addresses, Slot(start - 1)),
        SealPolicy(commitment="finalized", block_hits_min=settings.block_hits_min),
    )
    driver = Driver(session.rpc, database)
    try:
        while sealer.sealed < end:
            await _insist(lambda: driver.drive(sealer.tick(None, Slot(end))), lambda: int(sealer.sealed))
    except LedgerMoved as moved:
        raise UserError(
            f"another process sealed some of slots {start}..{end} meanwhile ({moved}); run this again for what is left",
            EXIT_WRONG,
        ) from None
    finally:
        await database.close()
    return rows


async def _first_slot(session: _Session, address: Address) -> int:
    """The slot of the program's oldest transaction that the node lists; its start slot when there is none."""
    oldest: list[int] = []

    def look() -> Routine:
        before, above = None, None
        while True:
            page = yield ListSignatures(address, "finalized", PAGE_MAX, before)
            if not isinstance(page, tuple):
                return Unproven(page.message if isinstance(page, Failure) else "no list")
            if not page or (above is not None and page[0].slot > above):
                return Done(Slot(0))
            before, above = page[-1].signature, page[-1].slot
            oldest[:] = [int(page[-1].slot)]

    await _insist(lambda: Driver(session.rpc, _NoLedger()).drive(look()), lambda: oldest[0] if oldest else -1)
    start = session.state.programs[session.prepared.program_ids[address]].program.start_slot
    return oldest[0] if oldest else start


def _project(dsn: str, specs: tuple[Any, ...]) -> None:
    """Bring the tables up to the ledger's end: only the scopes that the corrections touched are folded anew. A daemon's worker may run beside it;
    a row lock gives each batch to one of the two."""
    from projections.worker import Worker

    worker = Worker(dsn, specs)
    with connect(dsn, application="indexer-replay") as connection:
        while worker.step(connection):
            pass


class _NoLedger:
    """For routines that only read the chain."""

    async def append(self, plan: SealPlan) -> Failure | None:
        """Never asked."""
        raise AssertionError("a look at the chain appends nothing")

    async def correct(self, correction: Correction) -> Failure | None:
        """Never asked."""
        raise AssertionError("a look at the chain corrects nothing")

    async def held(self, request: ReadLedger) -> tuple[Held, ...] | Failure:
        """Never asked."""
        raise AssertionError("a look at the chain reads no ledger")


class _ReplayLedger(PostgresLedger):
    """Corrections of a replay lie in ranges that are sealed already."""

    def __init__(self, dsn: str, lease: Lease, ids: dict[Address, int]) -> None:
        super().__init__(dsn, lease, ids, TipClock())
        self._program_ids = ids
        self.on_corrected: Callable[[], None] = lambda: None

    async def correct(self, correction: Correction) -> Failure | None:
        """Late rows, retractions and the finalized seals that are true of the corrected ledger, in one transaction."""
        late = [
            ledger.prepare_row(row.raw, tuple(sorted(self._program_ids[a] for a in row.programs)), row.witnesses)
            for row in correction.late
        ]
        dead = [
            ledger.Retraction(
                held.position, held.slot, base58.decode(held.signature), "not in the finalized chain (replay)"
            )
            for held in correction.foreign
        ]

        programs = sorted({self._program_ids[span.address] for span in correction.ranges})

        async def work(connection: Any) -> None:
            await ledger.append_corrections(connection, self._lease, programs, late, dead)

        failure = await self._transaction("replay", work)
        if failure is None:
            self.on_corrected()
        return failure


async def replay(settings: Settings, first: int, last: int | None, progress: Progress) -> Result:
    """Compare sealed slots first..last with the finalized chain; append what is missing, retract what is foreign."""
    async with _session(settings, "replay") as session:
        ids = session.prepared.program_ids
        spans = {
            Address(p.address): _sealed_from(session.state.programs[ids[Address(p.address)]], first)
            for p in settings.watched
        }
        # A program that has nothing sealed there, as one that still catches up, has nothing to compare.
        cursors = {address: Slot(start - 1) for address, (start, end) in spans.items() if start <= end}
        upto = min(state.contiguous_slot() for state in session.state.programs.values())
        sealed = min((end for start, end in spans.values() if start <= end), default=upto)
        low = min((start for start, end in spans.values() if start <= end), default=first)
        aim = min(sealed, last if last is not None else sealed)
        if aim < low:
            raise UserError(
                f"--from-slot {first}: the ledger is sealed up to slot {sealed}; give a slot that is not later"
            )
        auditor = Auditor(cursors)
        root = await session.rpc.get_slot(GetSlot("finalized"))
        if not isinstance(root, int):
            raise UserError(f"INDEXER_RPC_URL: {root.message}", EXIT_UNREACHABLE)
        aim = min(aim, root)
        database = _ReplayLedger(settings.need_database(), session.lease, ids)
        driver = Driver(session.rpc, database)
        try:
            while auditor.finalized < aim:
                # One audit reads the lists once, however long the range; its corrections are committed piece by piece.
                database.on_corrected = lambda: progress(
                    auditor.finalized - low + 1, aim - low + 1, auditor.tally.compared
                )
                await _insist(
                    lambda: driver.drive(auditor.audit(Slot(sealed), Slot(aim))), lambda: int(auditor.finalized)
                )
                database.on_corrected()
        finally:
            await database.close()
        tally = auditor.tally
        if tally.late or tally.retracted:
            await asyncio.to_thread(_project, settings.need_database(), session.prepared.specs)
        return Result(low, auditor.finalized, compared=tally.compared, late=tally.late, retracted=tally.retracted)


@contextlib.asynccontextmanager
async def _session(settings: Settings, name: str) -> AsyncIterator[_Session]:
    prepared = await prepare(settings, migrate=True)
    dsn = settings.need_database()
    holder = f"{socket.gethostname()}:{os.getpid()}:{name}"
    async with await aconnect(dsn) as connection:
        lease = await _acquire(connection, name, holder)
        if lease is None:
            raise UserError(f"another {name} is running on this database; wait for its end", EXIT_WRONG)
        state = await ledger.load_state(connection)
        keeper = asyncio.create_task(_keep(dsn, lease))
        try:
            async with rpc_client(settings, prepared) as rpc:
                yield _Session(prepared, lease, rpc, state)
        finally:
            keeper.cancel()
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                async with asyncio.timeout(2.0), await aconnect(dsn) as fresh:
                    await leases.release(fresh, lease)


async def _acquire(connection: Any, name: str, holder: str) -> Lease | None:
    """The lease; one whose holder was killed ends by itself, and is waited for."""
    deadline = time.monotonic() + LEASE_TTL_S + 2
    while (lease := await leases.acquire(connection, name, holder, LEASE_TTL_S)) is None:
        if time.monotonic() > deadline:
            return None
        log.seldom(5.0, "info", "waiting", reason=f"another {name} holds the lease, or was killed a moment ago")
        await asyncio.sleep(0.5)
    return lease


async def _keep(dsn: str, lease: Lease) -> None:
    while True:
        await asyncio.sleep(LEASE_TTL_S / 4)
        try:
            async with await aconnect(dsn) as connection:
                await leases.renew(connection, lease, LEASE_TTL_S)
        except (psycopg.Error, OSError) as error:
            # The database decides: while nobody else took the lease, the next renewal keeps it.
            log.seldom(5.0, "warning", "lease_not_renewed", error=type(error).__name__)


async def _insist(ask: Callable[[], Awaitable[Outcome]], reached: Callable[[], int]) -> Done:
    """Try until it is proven; after UNPROVEN_S_MAX without any progress, say what can't be proven."""
    deadline = time.monotonic() + UNPROVEN_S_MAX
    pause = 0.2
    best = reached()
    while True:
        outcome = await ask()
        if isinstance(outcome, Done):
            return outcome
        if isinstance(outcome, Halted):
            raise UserError(f"{outcome.reason}; {outcome.remedy}", EXIT_WRONG)
        if reached() > best:
            best, pause, deadline = reached(), 0.2, time.monotonic() + UNPROVEN_S_MAX
        if time.monotonic() > deadline:
            raise UserError(f"not proven in {UNPROVEN_S_MAX:g} s: {outcome.reason}", EXIT_UNREACHABLE)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)


def _free(state: ledger.ProgramState, first: int, last: int) -> list[tuple[int, int]]:
    """The ranges of first..last that are not sealed. Behind the last seal live sealing goes on; it is not backfill's to overtake it."""
    ranges = []
    start = first
    for low, high in state.coverage:
        if low > start:
            ranges.append((start, min(low - 1, last)))
        start = max(start, high + 1)
    if state.sealed_slot is None:
        ranges.append((start, last))
    return [(low, high) for low, high in ranges if low <= high]


def _sealed_from(state: ledger.ProgramState, first: int) -> tuple[int, int]:
    """The sealed range at or behind `first`: its part from `first` on. Empty (the end before the start) when nothing is sealed there."""
    start = first if any(low <= first <= high for low, high in state.coverage) else max(first, state.program.start_slot)
    end = next((high for low, high in state.coverage if low <= start <= high), start - 1)
    return start, end
