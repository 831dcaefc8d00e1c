"""Appends that run while the next plan is fetched and parsed: for a backfill, where nobody waits for the checkpoint.

The routine is told that a plan is committed when it has only begun. That is sound because nothing but the routine's own memory relies on it:
plans are still committed one after the other, each in its transaction, so what is durable is always a complete beginning. When one fails,
the routine's memory is ahead of the ledger and must be thrown away: `NotAppended` says so.

Live first: while a daemon follows the tip, each append is followed by a rest. An append holds the lock of the ledger's end, and the machine
besides; without rests the next one would take both again before a seal of the tip had its turn. The process is not made nice to others: on a
machine that is full it would hold that lock for as long as it waits for its turn, and the daemon would wait with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from indexer.core.protocol import Failure, SealPlan
from indexer.edges.ledger import PostgresLedger
from schema import lease as leases

# Beside a daemon: seconds of rest for each second of appending.
REST = 1.0
# How often it is asked whether there is one.
LOOK_S = 1.0


class NotAppended(Exception):
    """A plan that the routine believes to be committed is not. Begin anew from what the ledger says."""


class AheadLedger(PostgresLedger):
    """With at most one append under way; whatever else is asked waits for its end."""

    _running: asyncio.Task[Failure | None] | None = None
    _looked_at = float("-inf")
    _beside = False

    async def append(self, plan: SealPlan) -> Failure | None:
        """Begin to append, once the plan before is committed. NotAppended when that one failed; then nothing of this one is written."""
        await self.settle()
        self._running = asyncio.create_task(self._one(plan))
        return None

    async def _one(self, plan: SealPlan) -> Failure | None:
        began = time.monotonic()
        failure = await super().append(plan)
        if failure is None and await self._beside_a_daemon():
            await self._rest((time.monotonic() - began) * REST)
        return failure

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _beside_a_daemon(self) -> bool:
        """Whether a daemon leads, as of LOOK_S ago at most. A database that can't say is none to spare: the next append tells of it."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            self._beside = await leases.held(connection, leases.WRITER)

        if time.monotonic() >= self._looked_at + LOOK_S:
            self._looked_at = time.monotonic()
            await self._transaction("read", work)
        return self._beside

    async def settle(self) -> None:
        """Wait until what was begun is committed; NotAppended when it is not, and whatever it raised."""
        if self._running is None:
            return
        failure = await self._running
        self._running = None
        if failure is not None:
            raise NotAppended(failure.message)

    async def close(self) -> None:
        """Give up what is under way (it is committed as a whole, or not at all), and the connection."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await running
        await super().close()

    async def _transaction(
        self, what: str, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]
    ) -> Failure | None:
        if asyncio.current_task() is not self._running:
            await self.settle()
        return await super()._transaction(what, work)
