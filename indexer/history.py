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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from indexer.core.finality import Auditor
from indexer.core.protocol import Address, Correction, Done, Failure, GetSlot, Halted, Outcome, Slot
from indexer.core.sealer import Sealer, SealPolicy
from indexer.edges.driver import Driver
from indexer.edges.ledger import ORIGIN_BACKFILL, ORIGIN_LIVE, PostgresLedger, TipClock
from indexer.edges.parse import Watched
from indexer.edges.rpc import RpcClient, RpcPolicy
from indexer.settings import Settings
from indexer.startup import Prepared, prepare
from programs import base58
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError
from schema import lease as leases
from schema import ledger
from schema.db import aconnect
from schema.lease import Lease

CHUNK_SLOTS = 2_000
LEASE_TTL_S = 30.0
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


async def backfill(settings: Settings, first: int, last: int | None, progress: Progress) -> Result:
    """Seal slots first..last that are not sealed yet; `last` defaults to the slot before the first seal, or the tip on an empty ledger."""
    async with _session(settings, "backfill") as session:
        ids = session.prepared.program_ids
        spans = {a: _free(session.state, ids[a], first) for a in (Address(p.address) for p in settings.watched)}
        begun = {a: start for a, (start, _) in spans.items() if start is not None}
        if not begun:
            return Result(first, first - 1)
        ends = [end for _, end in spans.values() if end is not None]
        empty = not ends
        tip = await session.rpc.get_slot(GetSlot(settings.commitment))
        if not isinstance(tip, int):
            raise UserError(f"INDEXER_RPC_URL: {tip.message}", EXIT_UNREACHABLE)
        aim = min([tip, *ends, *([last] if last is not None else [])])
        origin = ORIGIN_LIVE if empty else ORIGIN_BACKFILL
        database = PostgresLedger(settings.need_database(), session.lease, ids, TipClock(), origin)
        policy = SealPolicy(commitment=settings.commitment, block_hits_min=settings.block_hits_min)
        sealer = Sealer({a: Slot(start - 1) for a, start in begun.items()}, policy)
        driver = Driver(session.rpc, database)
        low, rows = sealer.sealed + 1, 0
        try:
            while sealer.sealed < aim:
                upto = Slot(min(aim, sealer.sealed + CHUNK_SLOTS))
                outcome = await _insist(lambda upto=upto: driver.drive(sealer.tick(None, upto)))  # type: ignore[misc]
                rows += outcome.rows
                progress(sealer.sealed - low + 1, aim - low + 1, rows)
        finally:
            await database.close()
        return Result(low, sealer.sealed, rows=rows)


class _ReplayLedger(PostgresLedger):
    """Corrections of a replay lie in ranges that are sealed already: rows and retractions only."""

    def __init__(self, dsn: str, lease: Lease, ids: dict[Address, int]) -> None:
        super().__init__(dsn, lease, ids, TipClock())
        self._program_ids = ids

    async def correct(self, correction: Correction) -> Failure | None:
        """Append the late rows, then the retractions; a crash in between is found by the next replay."""
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

        async def work(connection: Any) -> None:
            if late:
                await ledger.append_late(connection, self._lease, late)
            if dead:
                await ledger.append_retractions(connection, self._lease, dead)

        return await self._transaction("replay", work)


async def replay(settings: Settings, first: int, last: int | None, progress: Progress) -> Result:
    """Compare sealed slots first..last with the finalized chain; append what is missing, retract what is foreign."""
    async with _session(settings, "replay") as session:
        ids = session.prepared.program_ids
        sealed = min(session.state.sealed_slot(ids[Address(p.address)], p.start_slot) for p in settings.watched)
        cursors = {Address(p.address): Slot(max(first, p.start_slot) - 1) for p in settings.watched}
        auditor = Auditor(cursors)
        low = auditor.finalized + 1
        aim = min(sealed, last if last is not None else sealed)
        if aim < low:
            raise UserError(
                f"--from-slot {first}: the ledger is sealed up to slot {sealed}; give a slot that is not later"
            )
        root = await session.rpc.get_slot(GetSlot("finalized"))
        if not isinstance(root, int):
            raise UserError(f"INDEXER_RPC_URL: {root.message}", EXIT_UNREACHABLE)
        aim = min(aim, root)
        database = _ReplayLedger(settings.need_database(), session.lease, ids)
        driver = Driver(session.rpc, database)
        late = retracted = 0
        try:
            while auditor.finalized < aim:
                upto = Slot(min(aim, auditor.finalized + CHUNK_SLOTS))
                outcome = await _insist(lambda upto=upto: driver.drive(auditor.audit(Slot(sealed), upto)))  # type: ignore[misc]
                late += outcome.late
                retracted += outcome.retracted
                progress(auditor.finalized - low + 1, aim - low + 1, auditor.tally.compared)
        finally:
            await database.close()
        return Result(low, auditor.finalized, compared=auditor.tally.compared, late=late, retracted=retracted)


@contextlib.asynccontextmanager
async def _session(settings: Settings, name: str) -> AsyncIterator[_Session]:
    prepared = await prepare(settings, migrate=True)
    dsn = settings.need_database()
    holder = f"{socket.gethostname()}:{os.getpid()}:{name}"
    async with await aconnect(dsn) as connection:
        lease = await leases.acquire(connection, name, holder, LEASE_TTL_S)
        if lease is None:
            raise UserError(f"another {name} is running on this database; wait for its end", EXIT_WRONG)
        state = await ledger.load_state(connection)
        keeper = asyncio.create_task(_keep(dsn, lease))
        watched = Watched(tuple(Address(p.address) for p in settings.watched))
        policy = RpcPolicy(timeout_s=settings.rpc_timeout_s, in_flight_max=settings.rpc_in_flight)
        try:
            async with RpcClient(settings.rpc_urls, watched, policy) as rpc:
                yield _Session(prepared, lease, rpc, state)
        finally:
            keeper.cancel()
            await leases.release(connection, lease)


async def _keep(dsn: str, lease: Lease) -> None:
    while True:
        await asyncio.sleep(LEASE_TTL_S / 4)
        async with await aconnect(dsn) as connection:
            await leases.renew(connection, lease, LEASE_TTL_S)


async def _insist(ask: Callable[[], Any]) -> Done:
    """Try until it is proven, for a while; then say what can't be proven."""
    deadline = time.monotonic() + UNPROVEN_S_MAX
    pause = 0.2
    while True:
        outcome: Outcome = await ask()
        if isinstance(outcome, Done):
            return outcome
        if isinstance(outcome, Halted):
            raise UserError(f"{outcome.reason}; {outcome.remedy}", EXIT_WRONG)
        if time.monotonic() > deadline:
            raise UserError(f"not proven in {UNPROVEN_S_MAX:g} s: {outcome.reason}", EXIT_UNREACHABLE)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)


def _free(state: ledger.LedgerState, program: int, first: int) -> tuple[int | None, int | None]:
    """The first slot from `first` on that is not sealed, and the last one before the next sealed range (None: no end)."""
    start = first
    for low, high in state.programs[program].coverage:
        if high < start:
            continue
        if low > start:
            return start, low - 1
        start = high + 1
    covered = bool(state.programs[program].coverage)
    # Behind the last seal live sealing goes on; it is not backfill's to overtake it.
    return (None, None) if covered else (start, None)
