"""The WebSocket edge at its ends: clients that leave in the very moment in which something is told, that do not read, that are no clients."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from programs.devnode import DevNode
from programs.devnode.chain import Chain
from programs.devnode.config import DevNodeConfig
from programs.devnode.faults import FaultEngine
from programs.devnode.pubsub import Delivery, PubSub
from programs.devnode.rpc import RpcService
from programs.devnode.sockets import Backlog, SocketEdge


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


def test_a_backlog_counts_the_frames_of_which_something_waits() -> None:
    """Against a plain list of bytes, each marked with its frame."""
    dice = random.Random(4)
    backlog, waiting, number = Backlog(), [], 0
    for _ in range(3_000):
        left = dice.choice((len(waiting), len(waiting) // 2, dice.randrange(len(waiting) + 1), 0))
        waiting = waiting[len(waiting) - left :]
        assert backlog.waiting(len(waiting)) == len(set(waiting))
        sizes = [dice.randint(1, 9) for _ in range(dice.randrange(4))]
        for size in sizes:
            number += 1
            waiting += [number] * size
        backlog.give(sizes)


async def read_to_the_end(client: Any) -> None:
    while True:
        await client.recv()


def test_a_client_that_does_not_read_is_cut_when_its_queue_is_full() -> None:
    """Long before so many bytes wait that memory would mind, and only then."""

    async def body() -> None:
        config = DevNodeConfig(slot_ms=0, ws_queue_items_max=20)
        async with DevNode(config) as node, connect(node.ws_url, max_size=None) as reader:
            target = Keypair().pubkey()
            request = {"jsonrpc": "2.0", "id": 1, "method": "accountSubscribe"}
            params = [str(target), {"encoding": "base64", "commitment": "confirmed"}]
            async with connect(node.ws_url, max_size=None) as sleeper:
                for client in (reader, sleeper):
                    await client.send(json.dumps({**request, "params": params}))
                    await client.recv()
                for size in range(100_000, 100_100):
                    node.chain.put_account(target, Account(10**9, bytes(size), Pubkey.default()))
                    await node.advance()
                    await reader.recv()
                    if node.sockets.lagging_dropped:
                        break
                assert node.sockets.lagging_dropped == 1
                with pytest.raises(ConnectionClosed) as closed:
                    await read_to_the_end(sleeper)
                assert closed.value.rcvd is None
            # Whoever reads has missed nothing.
            node.chain.put_account(target, None)
            await node.advance()
            assert json.loads(await reader.recv())["params"]["result"]["value"]["lamports"] == 0

    asyncio.run(body())


def test_strangers_at_the_sockets_port_are_sent_away_without_a_word_in_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(slot_ms=0)) as node:
            where = urlsplit(node.ws_url)
            for stranger in (b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"hello\r\n\r\n", b"\x16\x03\n"):
                reading, writing = await asyncio.open_connection(where.hostname, where.port)
                writing.write(stranger)
                writing.write_eof()
                await reading.read()
                writing.close()
            async with connect(node.ws_url) as client:
                await client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe"}))
                assert json.loads(await client.recv())["id"] == 1

    asyncio.run(body())
    assert caplog.records == []
    assert capfd.readouterr().err == ""
