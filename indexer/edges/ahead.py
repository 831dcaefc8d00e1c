"""Appends that run while the next plan is fetched and parsed: for a backfill, where nobody waits for the checkpoint.

The routine is told that a plan is committed when it has only begun. That is sound because nothing but the routine's own memory relies on it:
plans are still committed one after the other, each in its transaction, so what is durable is always a complete beginning. When one fails,
the routine's memory is ahead of the ledger and must be thrown away: `NotAppended` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from indexer.core.protocol import Failure, SealPlan
from indexer.edges.ledger import PostgresLedger


class NotAppended(Exception):
    """A plan that the routine believes to be committed is not. Begin anew from what the ledger says."""


class AheadLedger(PostgresLedger):
    """With at most one append under way; whatever else is asked waits for its end."""

    _running: asyncio.Task[Failure | None] | None = None

    async def append(self, plan: SealPlan) -> Failure | None:
        """Begin to append, once the plan before is committed. NotAppended when that one failed; then nothing of this one is written."""
        await self.settle()
        self._running = asyncio.create_task(super().append(plan))
        return None

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
