"""Samples of the programs' accounts: the socket's changes, and now and then a full listing for what the socket never reports.

programSubscribe never reports a close or a change of owner; a listing at a slot shows which of the known accounts are gone. Samples are not
the truth of the tables: they serve the account mirror and the audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

from indexer import metrics
from indexer.core.protocol import Address, Failure, Slot
from indexer.edges.parse import AccountChange
from indexer.log import log

QUEUE_MAX = 20_000
FLUSH_S = 0.25
BATCH_MAX = 2_000
FROM_SOCKET, FROM_LISTING = 0, 1


class AccountSource(Protocol):
    """Where full listings come from."""

    async def get_program_accounts(self, program: Address) -> tuple[Slot, list[AccountChange]] | Failure:
        """All accounts of a program and the slot for which they hold."""


class AccountSink(Protocol):
    """Where samples go."""

    async def append_accounts(self, changes: list[AccountChange], source: int) -> Failure | None:
        """One transaction."""

    async def latest_accounts(self, program: Address) -> dict[bytes, tuple[int, bytes | None]] | Failure:
        """The open accounts as last sampled."""


class AccountSampler:
    """One sample a slot and account: a later one of the same slot replaces the earlier. Past the bound the newest are dropped and listed again."""

    def __init__(self, programs: tuple[Address, ...], source: AccountSource, sink: AccountSink, poll_s: float) -> None:
        self._programs = programs
        self._source = source
        self._sink = sink
        self._poll_s = poll_s
        self._queue: dict[tuple[Slot, bytes], AccountChange] = {}
        self._wanted = True

    def observe(self, change: AccountChange) -> None:
        """A change from the socket; only enqueues."""
        key = (change.slot, change.pubkey)
        if key not in self._queue and len(self._queue) >= QUEUE_MAX:
            metrics.ACCOUNT_DROPPED.inc()
            self._wanted = True
            return
        self._queue[key] = change

    def wanted(self) -> None:
        """The stream had a gap: list the accounts soon."""
        self._wanted = True

    async def run(self) -> None:
        """Flush and list until cancelled."""
        listed_at = float("-inf")
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush()
            now = time.monotonic()
            if now - listed_at > self._poll_s or (self._wanted and now - listed_at > 5.0):
                self._wanted = False
                listed_at = now
                for program in self._programs:
                    await self._list(program)

    async def _flush(self) -> None:
        metrics.ACCOUNT_QUEUE.set(len(self._queue))
        while self._queue:
            keys = list(self._queue)[:BATCH_MAX]
            batch = [self._queue[key] for key in keys]
            if await self._sink.append_accounts(batch, FROM_SOCKET) is not None:
                return  # kept; the next round tries again
            for key, change in zip(keys, batch, strict=True):
                # A newer sample may have come meanwhile; it stays.
                if self._queue.get(key) is change:
                    del self._queue[key]
            self._count(batch)

    async def _list(self, program: Address) -> None:
        known = await self._sink.latest_accounts(program)
        if isinstance(known, Failure):
            return
        reply = await self._source.get_program_accounts(program)
        if isinstance(reply, Failure):
            log.seldom(60.0, "warning", "accounts_not_listed", program=program, error=reply.message)
            return
        slot, accounts = reply
        there = {account.pubkey for account in accounts}
        changed = [a for a in accounts if known.get(a.pubkey) != (a.lamports, a.data)]
        changed += [AccountChange(program, slot, key, 0, bytes(32), None, True) for key in known if key not in there]
        for start in range(0, len(changed), BATCH_MAX):
            part = changed[start : start + BATCH_MAX]
            if await self._sink.append_accounts(part, FROM_LISTING) is not None:
                self._wanted = True
                return
            self._count(part)

    def _count(self, batch: list[AccountChange]) -> None:
        for change in batch:
            with contextlib.suppress(KeyError):
                metrics.ACCOUNT_UPDATES.labels(program=change.program).inc()
