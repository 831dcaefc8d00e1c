"""The WebSocket edge at its ends: clients that leave in the very moment in which something is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from programs.devnode.chain import Chain
from programs.devnode.config import DevNodeConfig
from programs.devnode.faults import FaultEngine
from programs.devnode.pubsub import Delivery, PubSub
from programs.devnode.rpc import RpcService
from programs.devnode.sockets import SocketEdge


class _Transport:
    """What asyncio gives for a connection whose sending half is shut: open still, and nothing may be written."""

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        raise RuntimeError("Cannot call write() after write_eof()")


class _Client:
    transport = _Transport()
    state = State.CLOSING


def test_a_client_that_has_said_goodbye_is_told_nothing_and_stops_nobody() -> None:
    async def body() -> None:
        faults = FaultEngine(0)
        chain = Chain(DevNodeConfig(slot_ms=0), 1_700_000_000)
        edge = SocketEdge(PubSub(chain, RpcService(chain, faults), faults), 10)
        edge._clients[1] = cast(ServerConnection, cast(Any, _Client()))
        # This runs inside the node's clock: an exception here would end all slots.
        edge.deliver([Delivery(frozenset({1}), b"{}", 5)])

    asyncio.run(body())
