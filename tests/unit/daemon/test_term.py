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
