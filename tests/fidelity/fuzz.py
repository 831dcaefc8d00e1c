"""Senseless input over real sockets, seeded: the node answers in the protocol or closes, and afterwards works as before.

The suite plays a short portion. `python -m tests.fidelity.fuzz --seconds 600 --seed 7` plays it at length.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket as sockets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.fidelity import newcomers, scenarios
from tests.fidelity import sockets as subscriptions
from tests.fidelity.corpus import CALLS, Call
from tests.fidelity.mutation import broken, mutated
from tests.fidelity.nodes import Node, devnode
from tests.fidelity.world import World

_WAIT_SECONDS = 10.0
_CODES = frozenset(
    {*(-32700, -32600, -32601, -32602, -32001, -32002, -32004, -32005, -32007, -32008, -32015, -32016, -32020)}
)
_ROUND = 1_000


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


def still_works(world: World) -> None:
    """A transaction lands and is told of, and nothing was raised meanwhile."""
    assert world.node.call("getHealth") == "ok"
    with subscriptions.socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "confirmed"})
        signature = world.post(scenarios.spoken(world, scenarios.words(world)), preflight=True)
        assert isinstance(client.about(signature), dict)
    assert world.node.uncaught == []


def _connection(node: Node) -> http.client.HTTPConnection:
    where = urlsplit(node.rpc_url)
    return http.client.HTTPConnection(where.hostname or "", where.port, timeout=_WAIT_SECONDS)


def http_bodies(victim: World, dice: random.Random, count: int) -> None:
    """Bodies that are requests no more, or wrong ones."""
    connection = _connection(victim.node)
    for body in _requests(victim, CALLS, dice, count):
        connection.request("POST", "/", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        raw = reply.read()
        # 400: bytes that are no text, which the library in the real node refuses before JSON is read.
        assert reply.status in (200, 413) or (reply.status == 400 and not _is_text(body)), (body, reply.status)
        if reply.status == 200 and raw:
            _check(json.loads(raw), body)
    connection.close()
    still_works(victim)


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


def websocket_frames(victim: World, dice: random.Random, count: int) -> None:
    """The same as frames."""
    connection: ClientConnection | None = None
    for number, frame in enumerate(_requests(victim, subscriptions.REQUESTS, dice, count)):
        if connection is None:
            connection = connect(victim.node.ws_url, compression=None, max_size=1 << 26, close_timeout=1)
        if not _exchange(connection, frame, number):
            # Only what is too long for it, or no text, makes the node close.
            assert len(frame) > subscriptions.INBOUND_BYTES_MAX or not _is_text(frame), frame
            connection = None
    if connection is not None:
        connection.close()
    still_works(victim)


def _is_text(frame: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        frame.decode()
        return True
    return False


_UPGRADED = (
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"sec-websocket-version: 13\r\n\r\n\x81\x85\x00\x00\x00\x00hello",
)


def raw_streams(victim: World, dice: random.Random, count: int) -> None:
    """What newcomers' tools send, broken, to either port, in one piece or in several."""
    conversations = [*newcomers.CONVERSATIONS.values(), _UPGRADED]
    for _ in range(count):
        where = urlsplit(dice.choice((victim.node.rpc_url, victim.node.ws_url)))
        stream = broken(b"".join(dice.choice(conversations)), dice)
        cuts = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.choice((0, 0, 1, 3))))
        connection = sockets.create_connection((where.hostname, where.port), timeout=_WAIT_SECONDS)
        # Either side may be the first to leave.
        with connection, contextlib.suppress(ConnectionError):
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                connection.sendall(stream[start:end])
            with contextlib.suppress(OSError):
                connection.shutdown(sockets.SHUT_WR)
            while connection.recv(65_536):
                pass
    still_works(victim)


KINDS = {"bodies": http_bodies, "frames": websocket_frames, "streams": raw_streams}


def main() -> int:
    """0: whatever was sent, the node stood and answered in the protocol. Anything else ends with what tripped it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sent (default %(default)s)")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    sent: Counter[str] = Counter()
    with devnode() as node:
        world = World(node).build()
        number = 0
        while time.monotonic() < until:
            for kind, play in KINDS.items():
                play(world, random.Random(f"{arguments.seed}/{kind}/{number}"), _ROUND)
                sent[kind] += _ROUND
            number += 1
    print(json.dumps({"seed": arguments.seed, **sent, "uncaught": len(node.uncaught)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
