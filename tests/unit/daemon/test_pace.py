"""When the loops go on: with the socket's contents sealing waits for two slots, and without rows the comparison rests, for the calls' sake."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from indexer import app
from indexer.app import Daemon, RunOptions
from indexer.core.protocol import Slot
from indexer.settings import Settings


def daemon(trust: bool) -> Daemon:
    return Daemon(Settings(database_url="postgresql:///nowhere", trust_socket_contents=trust), RunOptions())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def named(it: Daemon, slot: int) -> None:
    """As a notification does."""
    it._hint = Slot(slot)
    it._wake.set()


def waiting(it: Daemon) -> asyncio.Task[None]:
    return asyncio.create_task(it._next_wake(Mock(sealed=Slot(10)), 600.0))


def test_the_first_slot_waits_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SECOND_SLOT_S", 600.0)
    monkeypatch.setattr(app, "GATHER_S", 0.0)

    async def play() -> None:
        it = daemon(trust=True)
        wake = waiting(it)
        named(it, 11)
        await turns()
        assert not wake.done()
        named(it, 12)
        await asyncio.wait_for(wake, 30)

    asyncio.run(play())


def test_a_second_slot_that_does_not_come_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SECOND_SLOT_S", 0.0)

    async def play() -> None:
        it = daemon(trust=True)
        wake = waiting(it)
        named(it, 11)
        await asyncio.wait_for(wake, 30)
        assert it._hint == 11

    asyncio.run(play())


def test_an_end_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SECOND_SLOT_S", 600.0)

    async def play() -> None:
        it = daemon(trust=True)
        wake = waiting(it)
        named(it, 11)
        await turns()
        it._stop.set()
        it._wake.set()
        await asyncio.wait_for(wake, 30)

    asyncio.run(play())


def test_contents_that_are_fetched_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SECOND_SLOT_S", 600.0)

    async def play() -> None:
        it = daemon(trust=False)
        wake = waiting(it)
        named(it, 11)
        await asyncio.wait_for(wake, 30)

    asyncio.run(play())


def test_the_comparison_rests_while_no_row_waits_for_it() -> None:
    it = daemon(trust=False)
    it._newest_row = 10
    poll = it.settings.finality_poll_s
    assert (it._audit_pause(Slot(9)), it._audit_pause(Slot(10)), it._audit_pause(Slot(11))) == (
        poll,
        2 * poll,
        2 * poll,
    )
