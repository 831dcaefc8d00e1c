"""A term as the writer ends, whatever its loops do with a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from unittest.mock import Mock

import pytest

from indexer.app import Daemon, RunOptions
from indexer.settings import Settings
from schema.errors import LeaseLost


def test_a_loop_that_swallows_a_cancellation_does_not_keep_the_term_alive() -> None:
    """As `asyncio.wait_for` does before Python 3.12, when what it waits for comes in the same turn of the event loop."""

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def loses_the_lease() -> None:
        await asyncio.sleep(0)
        raise LeaseLost("another has it")

    async def play() -> None:
        daemon = Daemon(Settings(database_url="postgresql:///nowhere"), RunOptions())
        term = daemon._term(lambda: stubborn(), {"lease": loses_the_lease, "socket": stubborn})
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(term, 30)

    asyncio.run(play())


@pytest.mark.parametrize(("looks", "told"), [(3, ["written", "cancelled"]), (0, ["cancelled"])])
def test_an_end_waits_for_a_transaction_and_for_nothing_else(looks: int, told: list[str]) -> None:
    """A round that asks a silent node again and again would hold the end for as long as its patience; a commit is worth waiting for. The
    transaction here is over when the end has looked for it so often, and not before."""

    async def play() -> list[str]:
        # With such patience a wait for anything else would outlast the test's.
        daemon = Daemon(Settings(database_url="postgresql:///nowhere", shutdown_s=600), RunOptions())
        said: list[str] = []
        looked = 0
        committed = asyncio.Event()

        def writing() -> bool:
            nonlocal looked
            looked += 1
            if 0 < looks <= looked:
                committed.set()
            return looks > 0 and "written" not in said

        async def sealing() -> None:
            daemon._stop.set()
            try:
                await committed.wait()
                said.append("written")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                said.append("cancelled")
                raise

        await asyncio.wait_for(daemon._term(sealing, {}, writing), 30)
        return said

    assert asyncio.run(play()) == told


def test_a_closed_terminal_ends_it_cleanly_and_nohup_does_not() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, heeded in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, handler)
            loop, daemon = Mock(), Daemon(Settings(database_url="postgresql:///nowhere"), RunOptions())
            daemon._heed_signals(loop)
            assert (signal.SIGHUP in [call.args[0] for call in loop.add_signal_handler.call_args_list]) == heeded
    finally:
        signal.signal(signal.SIGHUP, before)
    daemon._on_signal(signal.SIGHUP)
    assert daemon._exit_code() == 129
