"""Programs that are far behind the live ones: sealed on their own, beside them, until they are near enough to be sealed together.

A program that is added to a running ledger has its whole history before it, and the tip must not wait for that. It is read at `finalized`, so that
each range is sealed once and for good, with a client of its own and few requests at once, from wherever the ledger's coverage has its first gap:
this is what makes it resumable, after a kill at any instruction too.

A transaction that an older program shares with it has a row in the ledger already. A row is never changed, so the new program gets one of its
own, with other `programs` and the same contents and digest. Whoever reads by program sees each transaction once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from indexer.core.protocol import Address, Done, GetSlot, Halted, SealPlan, Slot
from indexer.core.sealer import Sealer, SealPolicy
from indexer.edges.driver import Driver
from indexer.edges.ledger import ORIGIN_BACKFILL, PostgresLedger, TipClock
from indexer.edges.rpc import RpcClient
from indexer.log import log
from indexer.settings import Settings
from indexer.startup import Prepared, rpc_client
from schema import ledger
from schema.db import aconnect
from schema.lease import Lease

# Nearer than this a program is sealed with the others: one page of its list, and no look at the node's history.
NEAR_SLOTS = 1_000
REQUESTS_AT_ONCE = 2
RETRY_S_MIN, RETRY_S_MAX = 0.5, 15.0
PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Handover:
    """A program that is near: sealed up to `sealed`, of which up to `finalized` at finalized."""

    address: Address
    sealed: Slot
    finalized: Slot


def split(programs: Mapping[Address, ledger.ProgramState]) -> tuple[list[Address], list[Address]]:
    """(live, far behind). Live are those that are near the one that is furthest; a new ledger's programs with near start slots are all live."""
    furthest = max(state.contiguous_slot() for state in programs.values())
    live = [a for a, state in programs.items() if state.contiguous_slot() >= furthest - NEAR_SLOTS]
    return live, [a for a in programs if a not in live]


def free_range(state: ledger.ProgramState, first: int) -> tuple[int, int | None]:
    """The first slot from `first` on that is not sealed, and the last one before the next sealed range; None without such a range."""
    start = first
    for low, high in state.coverage:
        if high < start:
            continue
        if low > start:
            return start, low - 1
        start = high + 1
    return start, None


class CatchUp:
    """Runs until every program is handed over. One after the other: the bound on requests and memory is that of one."""

    def __init__(
        self,
        settings: Settings,
        prepared: Prepared,
        lease: Lease,
        behind: list[Address],
        live: Callable[[], Slot],
        hand_over: Callable[[Handover], None],
        progress: Callable[[Address, int], None],
        halted: Callable[[Halted | None], None],
    ) -> None:
        self._settings = settings
        self._prepared = prepared
        self._lease = lease
        self._behind = list(behind)
        self._live = live
        self._hand_over = hand_over
        self._progress = progress
        self._halted = halted

    async def run(self) -> None:
        """Seal and hand over, program by program."""
        async with rpc_client(self._settings, self._prepared, REQUESTS_AT_ONCE) as rpc:
            while self._behind:
                address = self._behind[0]
                pause = RETRY_S_MIN
                while not (done := await self._step(address, rpc)):
                    # Progress goes on at once; without any, the next look is a little later.
                    if done is None:
                        await asyncio.sleep(pause)
                    pause = min(pause * 1.5, RETRY_S_MAX) if done is None else RETRY_S_MIN
                self._behind.pop(0)

    async def _step(self, address: Address, rpc: RpcClient) -> bool | None:
        """Seal the next free range as far as it is finalized. True: the program was handed over; False: some was sealed; None: nothing was."""
        state = await self._state(address)
        start, end = free_range(state, state.program.start_slot)
        root = await rpc.get_slot(GetSlot("finalized"))
        if not isinstance(root, int):
            log.seldom(30.0, "warning", "catch_up_waits", program=address, reason=root.message)
            return None
        live = self._live()
        if end is None and live - (start - 1) <= NEAR_SLOTS:
            finalized = state.program.start_slot - 1 if state.finalized_slot is None else state.finalized_slot
            self._progress(address, 0)
            self._hand_over(Handover(address, Slot(start - 1), Slot(finalized)))
            return True
        aim = min(root, live, *([] if end is None else [end]))
        if aim < start:
            return None
        await self._seal(address, state, Slot(start), Slot(aim), rpc)
        return None if (await self._state(address)).coverage == state.coverage else False

    async def _seal(self, address: Address, state: ledger.ProgramState, start: Slot, aim: Slot, rpc: RpcClient) -> None:
        follows = start - 1 == (state.program.start_slot - 1 if state.finalized_slot is None else state.finalized_slot)
        database = PostgresLedger(
            self._settings.need_database(),
            self._lease,
            self._prepared.program_ids,
            TipClock(),
            ORIGIN_BACKFILL,
            "finalized" if follows else "confirmed",
        )
        rows = 0

        def appended(plan: SealPlan) -> None:
            nonlocal rows
            rows += len(plan.rows)
            left = aim - max(r.slot_last for r in plan.ranges)
            self._progress(address, self._live() - max(r.slot_last for r in plan.ranges))
            log.seldom(PROGRESS_S, "info", "catching_up", program=address, slots_left=left, transactions=rows)

        database.on_appended = appended
        policy = SealPolicy(
            commitment="finalized",
            block_hits_min=self._settings.block_hits_min,
            sample=self._settings.audit_sample,
            salt=secrets.token_bytes(32),
        )
        sealer = Sealer({address: Slot(start - 1)}, policy)
        try:
            outcome = await Driver(rpc, database).drive(sealer.tick(None, aim))
        finally:
            await database.close()
        self._halted(outcome if isinstance(outcome, Halted) else None)
        if isinstance(outcome, Halted):
            log.seldom(60.0, "error", "catch_up_halted", program=address, reason=outcome.reason, remedy=outcome.remedy)
        elif not isinstance(outcome, Done):
            log.seldom(10.0, "warning", "catch_up_unproven", program=address, reason=outcome.reason)

    async def _state(self, address: Address) -> ledger.ProgramState:
        async with await aconnect(self._settings.need_database()) as connection:
            known = await ledger.load_state(connection)
        return known.programs[self._prepared.program_ids[address]]
