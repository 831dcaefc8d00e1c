"""Senseless input over real sockets, seeded: the node answers in the protocol or closes, and afterwards works as before."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket as sockets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.fidelity import sockets as subscriptions
from tests.fidelity.corpus import CALLS, Call
from tests.fidelity.mutation import broken, mutated
from tests.fidelity.nodes import Node, devnode
from tests.fidelity.world import World

_SEED = 20261125
_HTTP_REQUESTS = 3_000
_FRAMES = 1_500
_RAW_STREAMS = 300
_WAIT_SECONDS = 10.0
_CODES = frozenset(
    {*(-32700, -32600, -32601, -32602, -32001, -32002, -32004, -32005, -32007, -32008, -32015, -32016, -32020)}
)


@pytest.fixture(scope="module")
def victim() -> Iterator[World]:
    """A development node of this file's own."""
    with devnode() as node:
        yield World(node).build()


def _request(world: World, call: Call) -> dict[str, Any]:
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": call.method}
    return body if call.params is None else {**body, "params": world.resolve(call.params)}


def _requests(world: World, calls: list[Call], dice: random.Random, count: int) -> Iterator[bytes]:
    """Requests of the corpus with something changed, some of them no JSON any more, some in batches."""
    valid = [_request(world, call) for call in calls if not str(call.params).startswith("['$replay")]
    for _ in range(count):
        request: Any = mutated(dice.choice(valid), dice)
        if dice.random() < 0.1:
            request = [request, mutated(dice.choice(valid), dice)]
        raw = json.dumps(request, ensure_ascii=dice.random() < 0.5).encode()
        yield broken(raw, dice) if dice.random() < 0.3 else raw


def _check(reply: Any, request: bytes) -> None:
    for one in reply if isinstance(reply, list) else [reply]:
        assert isinstance(one, dict), (request, one)
        assert ("result" in one) != ("error" in one), (request, one)
        assert "error" not in one or one["error"]["code"] in _CODES, (request, one)


def _still_works(world: World) -> None:
    assert world.node.call("getHealth") == "ok"
    with subscriptions.socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "confirmed"})
        signature = world.post(subscriptions.spoken(world, subscriptions.words(world)), preflight=True)
        assert isinstance(client.about(signature), dict)
    assert world.node.uncaught == []


def _connection(node: Node) -> http.client.HTTPConnection:
    where = urlsplit(node.rpc_url)
    return http.client.HTTPConnection(where.hostname or "", where.port, timeout=_WAIT_SECONDS)


def test_http_bodies(victim: World) -> None:
    connection = _connection(victim.node)
    for body in _requests(victim, CALLS, random.Random(_SEED), _HTTP_REQUESTS):
        connection.request("POST", "/", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        raw = reply.read()
        assert reply.status in (200, 413), (body, reply.status)
        if reply.status == 200 and raw:
            _check(json.loads(raw), body)
    connection.close()
    _still_works(victim)


def _exchange(connection: ClientConnection, frame: bytes, number: int) -> bool:
    """Send a frame, and one that is known to be answered; read up to that answer. False when the node closed instead."""
    known = f"after {number}"
    try:
        text = frame.decode()
    except UnicodeDecodeError:
        connection.send(frame)
    else:
        connection.send(text)
    with contextlib.suppress(ConnectionClosed):
        connection.send(json.dumps({"jsonrpc": "2.0", "id": known, "method": "noSuchMethod"}))
        while True:
            message = json.loads(connection.recv(_WAIT_SECONDS))
            if isinstance(message, dict) and message.get("id") == known:
                return True
            if not (isinstance(message, dict) and "method" in message):
                _check(message, frame)
    return False


def test_websocket_frames(victim: World) -> None:
    dice = random.Random(_SEED + 1)
    connection: ClientConnection | None = None
    for number, frame in enumerate(_requests(victim, subscriptions.REQUESTS, dice, _FRAMES)):
        if connection is None:
            connection = connect(victim.node.ws_url, compression=None, max_size=1 << 26, close_timeout=1)
        if not _exchange(connection, frame, number):
            # Only what is too long for it, or no text, makes the node close.
            assert len(frame) > subscriptions.INBOUND_BYTES_MAX or not _is_text(frame), frame
            connection = None
    if connection is not None:
        connection.close()
    _still_works(victim)
    assert victim.node.handle is not None


def _is_text(frame: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        frame.decode()
        return True
    return False


_HEADS = (
    b"POST / HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 45\r\n\r\n"
    b'{"jsonrpc":"2.0","id":1,"method":"getHealth"}',
    b"POST / HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b'2d\r\n{"jsonrpc":"2.0","id":1,"method":"getHealth"}\r\n0\r\n\r\n',
    b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"sec-websocket-version: 13\r\n\r\n\x81\x85\x00\x00\x00\x00hello",
)


@pytest.mark.parametrize("which", ["rpc_url", "ws_url"])
def test_raw_streams(victim: World, which: str) -> None:
    dice = random.Random(f"{_SEED}/{which}")
    where = urlsplit(getattr(victim.node, which))
    for _ in range(_RAW_STREAMS):
        stream = sockets.create_connection((where.hostname, where.port), timeout=_WAIT_SECONDS)
        # Either side may be the first to leave.
        with stream, contextlib.suppress(ConnectionError):
            stream.sendall(broken(dice.choice(_HEADS), dice))
            stream.shutdown(sockets.SHUT_WR)
            while stream.recv(65_536):
                pass
    _still_works(victim)
