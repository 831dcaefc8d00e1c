"""Old slots: `backfill` seals what lies before the ledger's first seal, `replay` proves what is there against the chain once more.

Both are the daemon's own sealer and auditor over a fixed range, under a lease of their own, so that a running daemon is not disturbed; the
ledger's row lock gives out positions one transaction at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import psycopg

from indexer.core.protocol import (
    Address,
    Correction,
    Done,
    Failure,
    GetSlot,
    Halted,
    ListSignatures,
    Outcome,
    Routine,
    SealPlan,
    Slot,
    Unproven,
)
from indexer.core.replay import Replay
from indexer.core.sealer import Sealer, SealPolicy
from indexer.core.walk import PAGE_MAX
from indexer.edges.ahead import AheadLedger, NotAppended
from indexer.edges.driver import Driver
from indexer.edges.ledger import ORIGIN_BACKFILL, LedgerMoved, PostgresLedger, TipClock
from indexer.edges.rpc import RpcClient
from indexer.log import log
from indexer.settings import Settings
from indexer.startup import Prepared, prepare, rpc_client
from programs import base58
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError
from programs.transaction import RawTransaction
from schema import lease as leases
from schema import ledger
from schema.db import aconnect, connect
from schema.lease import Lease

LEASE_TTL_S = 10.0
UNPROVEN_S_MAX = 60.0
NOT_THERE = "not in the finalized chain (replay)"
OTHER_CONTENTS = "the finalized chain has other contents (replay)"
# How often a replay notes how far it is.
NOTED_S = 2.0

Progress = Callable[[int, int, int], None]
"""Called with (slots done, slots in all, transactions)."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run over old slots did. `slot_last` is the last slot that was proven; both are None where nothing was left to do."""

    slot_first: int | None
    slot_last: int | None
    rows: int = 0
    compared: int = 0
    late: int = 0
    retracted: int = 0
    corrected: int = 0
    unknown: int = 0
    blocks: int = 0
    examples: tuple[str, ...] = ()
    resumed_from: int | None = None


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
        if not ranges:
            return Result(None, None)
        return Result(min(start for start, _ in ranges), max(end for _, end in ranges), rows=rows)


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
    database = AheadLedger(
        settings.need_database(), session.lease, session.prepared.program_ids, TipClock(), ORIGIN_BACKFILL, commitment
    )
    rows = 0

    def appended(plan: SealPlan) -> None:
        nonlocal rows
        rows += len(plan.rows)
        progress(max(r.slot_last for r in plan.ranges) - start + 1, rows)

    database.on_appended = appended
    policy = SealPolicy(
        commitment="finalized",
        block_hits_min=settings.block_hits_min,
        sample=settings.audit_sample,
        salt=secrets.token_bytes(32),
    )
    ids = [session.prepared.program_ids[address] for address in addresses]
    reached, deadline = start, time.monotonic() + UNPROVEN_S_MAX
    try:
        while reached <= end:
            sealer = Sealer(dict.fromkeys(addresses, Slot(reached - 1)), policy)
            try:
                await _seal_ahead(Driver(session.rpc, database), database, sealer, end)
                break
            except NotAppended as failed:
                # What the sealer believes is thrown away with it.
                before_it, reached = reached, await _reached(settings, ids, reached, end)
                if reached > before_it:
                    deadline = time.monotonic() + UNPROVEN_S_MAX
                if time.monotonic() > deadline:
                    raise UserError(f"INDEXER_DATABASE_URL: {failed}", EXIT_UNREACHABLE) from None
                await asyncio.sleep(1.0)
    except LedgerMoved as moved:
        raise UserError(
            f"another process sealed some of slots {start}..{end} meanwhile ({moved}); run this again for what is left",
            EXIT_WRONG,
        ) from None
    finally:
        await database.close()
    return rows


async def _seal_ahead(driver: Driver, database: AheadLedger, sealer: Sealer, end: int) -> None:
    while sealer.sealed < end:
        await _insist(lambda: driver.drive(sealer.tick(None, Slot(end))), lambda: int(sealer.sealed))
    await database.settle()


async def _reached(settings: Settings, programs: list[int], first: int, last: int) -> int:
    """The first slot of first..last that the ledger does not have of all the programs; `first` while the database can't be asked."""
    try:
        async with await aconnect(settings.need_database()) as connection:
            state = await ledger.load_state(connection)
    except (psycopg.Error, OSError):
        return first
    starts = [next((low for low, _ in _free(state.programs[program], first, last)), last + 1) for program in programs]
    return min(starts)


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

    await _insist(lambda: Driver(session.rpc, None).drive(look()), lambda: oldest[0] if oldest else -1)
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


class _ReplayLedger(PostgresLedger):
    """Corrections of a replay lie in ranges that are sealed already."""

    def __init__(self, dsn: str, lease: Lease, ids: dict[Address, int]) -> None:
        super().__init__(dsn, lease, ids, TipClock())
        self._program_ids = ids
        self.on_corrected: Callable[[], None] = lambda: None
        # Set by `on_corrected` when it is time to note how far the replay is.
        self.reached: int | None = None
        self.noting: Callable[[int], Awaitable[None]] | None = None

    async def correct(self, correction: Correction) -> Failure | None:
        """Late rows, retractions and the finalized seals that are true of the corrected ledger, in one transaction."""
        late = [
            ledger.prepare_row(row.raw, tuple(sorted(self._program_ids[a] for a in row.programs)), row.witnesses)
            for row in correction.late
        ]
        dead = [
            ledger.Retraction(
                held.position,
                held.slot,
                base58.decode(held.signature),
                OTHER_CONTENTS if held.position in correction.differing else NOT_THERE,
            )
            for held in correction.foreign
        ]

        programs = sorted({self._program_ids[span.address] for span in correction.ranges})

        async def work(connection: Any) -> None:
            await ledger.append_corrections(connection, self._lease, programs, late, dead)

        failure = await self._transaction("replay", work)
        if failure is None:
            self.on_corrected()
            if self.reached is not None and self.noting is not None:
                with contextlib.suppress(psycopg.Error, OSError):
                    await self.noting(self.reached)
        return failure


async def replay(
    settings: Settings, first: int, last: int | None, progress: Progress, *, listed: bool = False, restart: bool = False
) -> Result:
    """Compare sealed slots first..last with the finalized chain, contents and all; append what is missing or other, retract what is foreign or other.

    Every block is read, or those that `listed` signatures and the ledger name. A run that was interrupted is gone on with by the next one over
    the same range at the same endpoints, unless it is to `restart`.
    """
    async with _session(settings, "replay") as session:
        ids = session.prepared.program_ids
        spans = {
            Address(p.address): _sealed_from(session.state.programs[ids[Address(p.address)]], first)
            for p in settings.watched
        }
        # A program that has nothing sealed there, as one that still catches up, has nothing to compare.
        there = {address: span for address, span in spans.items() if span[0] <= span[1]}
        upto = min(state.contiguous_slot() for state in session.state.programs.values())
        sealed = min((end for _, end in there.values()), default=upto)
        low = min((start for start, _ in there.values()), default=first)
        aim = min(sealed, last if last is not None else sealed)
        if not any(state.coverage for state in session.state.programs.values()):
            raise UserError("the ledger holds nothing to compare yet; run `indexer run` or `indexer backfill` first")
        if aim < low or not there:
            raise UserError(
                f"--from-slot {first}: the ledger is sealed up to slot {sealed}; give a slot that is not later"
            )
        root = await session.rpc.get_slot(GetSlot("finalized"))
        if not isinstance(root, int):
            raise UserError(f"INDEXER_RPC_URL: {root.message}", EXIT_UNREACHABLE)
        aim = min(aim, root)
        dsn = settings.need_database()
        name = _replay_name(settings, first, last, listed, there)
        async with await aconnect(dsn) as connection:
            reached = None if restart else await ledger.replayed(connection, name)
            begin = low if reached is None else max(low, min(reached + 1, aim))
            if begin > low:
                log.info("replay_resumed", slot=begin, of=aim)
            cursors = {address: Slot(max(start, begin) - 1) for address, (start, end) in there.items() if begin <= end}
            it = Replay(cursors, Slot(aim), _digest, listed=listed)
            database = _ReplayLedger(dsn, session.lease, ids)
            driver = Driver(session.rpc, database)
            noted = time.monotonic()

            def proven() -> None:
                nonlocal noted
                progress(it.done - low + 1, aim - low + 1, it.tally.compared)
                database.reached = it.done if time.monotonic() - noted > NOTED_S else None
                noted = noted if database.reached is None else time.monotonic()

            database.on_corrected = proven
            database.noting = lambda slot: ledger.note_replayed(connection, name, slot)
            try:
                while it.done < aim:
                    await _insist(lambda: driver.drive(it.run()), lambda: int(it.done))
            finally:
                if low <= it.done < aim:
                    with contextlib.suppress(psycopg.Error, OSError):
                        await ledger.note_replayed(connection, name, it.done)
                await database.close()
            await ledger.note_replayed(connection, name, None)
        tally = it.tally
        if not tally.equal or begin > low:
            await asyncio.to_thread(_project, dsn, session.prepared.specs)
        return Result(
            low, int(it.done), compared=tally.compared, late=tally.late, retracted=tally.retracted, corrected=tally.corrected,
            unknown=tally.unknown, blocks=tally.blocks, examples=tuple(tally.examples),
            resumed_from=begin if begin > low else None,
        )  # fmt: skip


def _digest(raw: RawTransaction) -> bytes:
    return ledger.prepare_row(raw, (0,), 0).digest


def _replay_name(settings: Settings, first: int, last: int | None, listed: bool, programs: Iterable[str]) -> str:
    """Under which a replay of this range, of these programs, at these endpoints notes how far it is."""
    what = "\n".join([settings.rpc_url, str(listed), *sorted(programs)])
    return f"replay:{first}:{'' if last is None else last}:{sha256(what.encode()).hexdigest()[:12]}"


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
