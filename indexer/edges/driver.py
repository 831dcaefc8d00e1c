"""Performs what the core's routines ask: HTTP through the RPC client, appends through the ledger edge, pauses through the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol, assert_never

from indexer.core.protocol import (
    Append,
    AskWitness,
    Correct,
    Correction,
    Failure,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Held,
    ListSignatures,
    Outcome,
    Pause,
    ReadLedger,
    Reply,
    Request,
    Routine,
    SealPlan,
    Together,
)
from indexer.edges.rpc import RpcClient


class LedgerEdge(Protocol):
    """The database side of the driver."""

    async def append(self, plan: SealPlan) -> Failure | None:
        """One transaction: rows, seals, checkpoints."""

    async def correct(self, correction: Correction) -> Failure | None:
        """One transaction: late rows, retractions, finalized seals."""

    async def held(self, request: ReadLedger) -> tuple[Held, ...] | Failure:
        """Rows of a program in a range of slots."""


class Driver:
    """Drives one routine at a time to its outcome. `witness` is the second endpoint, when there is one."""

    def __init__(self, rpc: RpcClient, ledger: LedgerEdge, witness: RpcClient | None = None) -> None:
        self._rpc = rpc
        self._ledger = ledger
        self._witness = witness

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
            case Together():
                return tuple(await asyncio.gather(*[self._perform(part) for part in request.requests]))
            case Pause():
                await asyncio.sleep(request.seconds)
                return None
            case Append():
                return await self._ledger.append(request.plan)
            case Correct():
                return await self._ledger.correct(request.correction)
            case ReadLedger():
                return await self._ledger.held(request)
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
