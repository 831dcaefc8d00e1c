"""Samples of the programs' accounts: the socket's changes, and now and then a full listing for what the socket never reports.

programSubscribe never reports a close or a change of owner; a listing at a slot shows which of the known accounts are gone. Samples are not
the truth of the tables: they serve the account mirror and the audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Protocol

from indexer import metrics
from indexer.core.protocol import Address, Failure, Slot
from indexer.edges.parse import AccountChange
from indexer.log import log
from programs import base58

QUEUE_MAX = 20_000
# An account may hold 10 MiB.
QUEUE_BYTES_MAX = 64 << 20
FLUSH_S = 0.25
BATCH_MAX = 2_000
FROM_SOCKET, FROM_LISTING = 0, 1
OWNERS_MAX = 100


class AccountSource(Protocol):
    """Where full listings come from."""

    async def get_program_accounts(self, program: Address) -> tuple[Slot, list[AccountChange]] | Failure:
        """All accounts of a program and the slot for which they hold."""

    async def get_owners(self, addresses: Sequence[str]) -> tuple[Slot, list[tuple[int, bytes] | None]] | Failure:
        """Lamports and owner of at most OWNERS_MAX accounts."""


class AccountSink(Protocol):
    """Where samples go."""

    async def append_accounts(self, changes: list[AccountChange], source: int) -> Failure | None:
        """One transaction."""

    async def latest_accounts(self, program: Address) -> dict[bytes, tuple[int, bytes | None, Slot]] | Failure:
        """The open accounts as last sampled: lamports, data, slot of the sample."""

    async def set_accounts_slot(self, program: Address, slot: Slot) -> Failure | None:
        """A full listing of this slot was compared."""


class AccountSampler:
    """One sample a slot and account: a later one of the same slot replaces the earlier. Past the bound the newest are dropped and listed again."""

    def __init__(self, programs: tuple[Address, ...], source: AccountSource, sink: AccountSink, poll_s: float) -> None:
        self._programs = programs
        self._source = source
        self._sink = sink
        self._poll_s = poll_s
        self._queue: dict[tuple[Slot, bytes], AccountChange] = {}
        self._bytes = 0
        self._wanted = True

    def observe(self, change: AccountChange) -> None:
        """A change from the socket; only enqueues."""
        key = (change.slot, change.pubkey)
        known = self._queue.get(key)
        grown = self._bytes + _weight(change) - (0 if known is None else _weight(known))
        if (known is None and len(self._queue) >= QUEUE_MAX) or grown > QUEUE_BYTES_MAX:
            metrics.ACCOUNT_DROPPED.inc()
            self._wanted = True
            return
        self._queue[key] = change
        self._bytes = grown

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
                    self._bytes -= _weight(change)
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
        changed = [a for a in accounts if known.get(a.pubkey, (None, None))[:2] != (a.lamports, a.data)]
        # One that was sampled later than the listing holds may have been made since: a lower node behind the balancer must not close it.
        gone = [key for key, (_, _, sampled) in known.items() if key not in there and sampled <= slot]
        left = await self._left(program, slot, gone)
        if left is None:
            self._wanted = True
            return
        changed += left
        for start in range(0, len(changed), BATCH_MAX):
            part = changed[start : start + BATCH_MAX]
            if await self._sink.append_accounts(part, FROM_LISTING) is not None:
                self._wanted = True
                return
            self._count(part)
        if await self._sink.set_accounts_slot(program, slot) is None:
            metrics.ACCOUNTS_SLOT.labels(program=program).set(slot)

    async def _left(self, program: Address, slot: Slot, gone: list[bytes]) -> list[AccountChange] | None:
        """Those of a listing's missing accounts that are closed, or belong to another program now. None when it can't be known yet."""
        found: list[AccountChange] = []
        for start in range(0, len(gone), OWNERS_MAX):
            part = gone[start : start + OWNERS_MAX]
            reply = await self._source.get_owners([base58.encode(key) for key in part])
            if isinstance(reply, Failure) or len(reply[1]) != len(part):
                return None
            ours = base58.address_bytes(program)
            for key, account in zip(part, reply[1], strict=True):
                if account is None:
                    found.append(AccountChange(program, slot, key, 0, bytes(32), None, True))
                elif account[1] != ours:
                    found.append(AccountChange(program, slot, key, account[0], account[1], None, True))
                # Else it is there after all: made again since the listing, or the listing lacked it.
        return found

    def _count(self, batch: list[AccountChange]) -> None:
        for change in batch:
            with contextlib.suppress(KeyError):
                metrics.ACCOUNT_UPDATES.labels(program=change.program).inc()


def _weight(change: AccountChange) -> int:
    return 0 if change.data is None else len(change.data)
