"""A development node in a thread of its own, for tests and scripts that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from solders.pubkey import Pubkey

from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode

_Result = TypeVar("_Result")
_STOP_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that runs elsewhere: what is here may be called from any thread, and waits until it is done."""

    node: DevNode
    loop: asyncio.AbstractEventLoop

    @property
    def rpc_url(self) -> str:
        """Where JSON-RPC is answered."""
        return self.node.rpc_url

    @property
    def ws_url(self) -> str:
        """Where subscriptions are taken."""
        return self.node.ws_url

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of a coroutine that is run beside the node, where all of `node` may be used."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def advance(self, slots: int = 1) -> int:
        """Finish so many slots now; the newest block's slot."""
        return self.run(self.node.advance(slots))

    def airdrop(self, address: Pubkey | str, lamports: int) -> str:
        """Give lamports to an address, and finish the slot; the signature."""
        return self.run(self.node.airdrop(address, lamports))


@contextlib.contextmanager
def devnode(config: DevNodeConfig | None = None, **options: Any) -> Iterator[RunningNode]:
    """A node with this configuration, or with these fields of one; stopped at the end. UserError when it cannot start."""
    node = DevNode(config or DevNodeConfig(**options))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="devnode", daemon=True)
    thread.start()
    running = RunningNode(node, loop)
    try:
        running.run(node.start())
        try:
            yield running
        finally:
            running.run(node.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_SECONDS_MAX)
        loop.close()
