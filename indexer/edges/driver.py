"""Performs what the core's routines ask: HTTP through the RPC client, appends through the ledger edge, pauses through the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol, assert_never

from indexer.core.protocol import (
    Append,
    AppendLate,
    AskWitness,
    Correct,
    Correction,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Held,
    ListSignatures,
    Outcome,
    Pause,
    ReadContents,
    ReadLastListed,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    SealPlan,
    Together,
)
from indexer.edges.rpc import RpcClient
from programs.transaction import RawTransaction


class LedgerEdge(Protocol):
    """The database side of the driver."""

    async def append(self, plan: SealPlan) -> Failure | None:
        """One transaction: rows, seals, checkpoints."""

    async def correct(self, correction: Correction) -> Failure | None:
        """One transaction: late rows, retractions, finalized seals."""

    async def append_late(self, rows: tuple[Row, ...]) -> Failure | None:
        """One transaction: rows of slots that are sealed already."""

    async def held(self, request: ReadLedger) -> tuple[Held, ...] | Failure:
        """Rows of a program in a range of slots."""

    async def last_listed(self, request: ReadLastListed) -> Held | Failure | None:
        """The last row of a program that a list has named."""

    async def contents(self, request: ReadContents) -> tuple[RawTransaction, ...] | Failure:
        """Rows as they are stored."""


class Driver:
    """Drives one routine at a time to its outcome. `ledger` is None for routines that only read the chain; `witness` is the second endpoint, when
    there is one."""

    def __init__(self, rpc: RpcClient, ledger: LedgerEdge | None, witness: RpcClient | None = None) -> None:
        self._rpc = rpc
        self._given = ledger
        self._witness = witness
        self._writes = 0

    @property
    def writing(self) -> bool:
        """Whether a transaction that writes is under way."""
        return self._writes > 0

    async def drive(self, routine: Routine) -> Outcome:
        """Perform the routine's requests until it decides."""
        reply: Reply = None
        while True:
            try:
                request = routine.send(reply)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            reply = await self._perform(request)

    async def _write(self, request: Append | Correct | AppendLate) -> Failure | None:
        match request:
            case Append():
                return await self._ledger.append(request.plan)
            case Correct():
                return await self._ledger.correct(request.correction)
            case AppendLate():
                return await self._ledger.append_late(request.rows)
            case _:
                assert_never(request)

    @property
    def _ledger(self) -> LedgerEdge:
        assert self._given is not None, "a look at the chain asks nothing of the ledger"
        return self._given

    async def _perform(self, request: Request) -> Reply:
        match request:
            case GetSlot() | GetBlock() | ListSignatures() | GetTransactions():
                return await _ask(self._rpc, request)
            case AskWitness():
                if self._witness is None:
                    return Failure("there is no second endpoint")
                return await _ask(self._witness, request.request)
            case GetFirstAvailable():
                return await self._rpc.get_first_available(request)
            case GetBlocks():
                return await self._rpc.get_blocks(request)
            case Together():
                return tuple(await asyncio.gather(*[self._perform(part) for part in request.requests]))
            case Pause():
                await asyncio.sleep(request.seconds)
                return None
            case Append() | Correct() | AppendLate():
                self._writes += 1
                try:
                    return await self._write(request)
                finally:
                    self._writes -= 1
            case ReadLedger():
                return await self._ledger.held(request)
            case ReadLastListed():
                return await self._ledger.last_listed(request)
            case ReadContents():
                return await self._ledger.contents(request)
            case _:
                assert_never(request)


async def _ask(rpc: RpcClient, request: GetSlot | GetBlock | ListSignatures | GetTransactions) -> Reply:
    match request:
        case GetSlot():
            return await rpc.get_slot(request)
        case GetBlock():
            return await rpc.get_block(request)
        case ListSignatures():
            return await rpc.list_signatures(request)
        case GetTransactions():
            return await rpc.get_transactions(request)
        case _:
            assert_never(request)
