"""Subscriptions: a client, and requests and frames as data. They are recorded from a real node and asked of every node."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.fidelity.corpus import Call
from tests.fidelity.world import World

WAIT_SECONDS = 20.0
QUIET_SECONDS = 0.4
INBOUND_BYTES_MAX = 4_096


class Socket:
    """One WebSocket client. Notifications that come before a reply are kept for `notification`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._kept: list[Any] = []

    def raw(self, frame: str | bytes | list[str], *, wait: float = QUIET_SECONDS) -> Any:
        """Send a frame, or a list of fragments; the next message, "silence", or how the connection was closed."""
        self._connection.send(frame)
        return self.message(wait)

    def message(self, wait: float = WAIT_SECONDS) -> Any:
        """The next message, "silence", or how the connection was closed."""
        try:
            return json.loads(self._connection.recv(wait))
        except TimeoutError:
            return "silence"
        except ConnectionClosed as closed:
            return f"closed: {closed.rcvd.code if closed.rcvd else 'without a close frame'}"

    def reply(self, method: str, *params: Any) -> Any:
        """The reply to a request with these parameters."""
        return self.ask(method, list(params))

    def ask_all(self, requests: list[tuple[str, Any, Any]]) -> list[Any]:
        """The replies to many requests at once, in their order. A request whose second part is None has no "params"."""
        for number, (method, given, params) in enumerate(requests):
            body = {"jsonrpc": "2.0", "id": number, "method": method, **({} if given is None else {"params": params})}
            self._connection.send(json.dumps(body))
        seen: dict[int, Any] = {}
        while len(seen) < len(requests):
            message = self.message()
            assert isinstance(message, dict), message
            if "method" not in message:
                seen[message.pop("id")] = message
        return [seen[number] for number in range(len(requests))]

    def ask(self, method: str, *params: Any) -> Any:
        """The reply to a request whose member "params" is given as it is, or left out."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params[0]} if params else {})}
        self._connection.send(json.dumps(body))
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            message = self.message()
            if isinstance(message, dict) and "method" in message:
                self._kept.append(message)
                continue
            return message
        raise AssertionError(f"{method}: no reply")

    def close(self, code: int) -> Any:
        """Say goodbye; how the node answers."""
        self._connection.close(code)
        rest: Any = "silence"
        while rest == "silence" or isinstance(rest, dict):
            rest = self.message(QUIET_SECONDS)
        return rest

    def is_alive(self) -> bool:
        """Whether a ping is answered."""
        return self._connection.ping().wait(5.0)

    def subscribe(self, method: str, *params: Any) -> int:
        """A subscription's id."""
        reply = self.reply(method, *params)
        assert "result" in reply, reply
        return int(reply["result"])

    def notification(self, wait: float = WAIT_SECONDS) -> Any:
        """The next notification, kept or new."""
        return self._kept.pop(0) if self._kept else self.message(wait)

    def about(self, signature: str, wait: float = WAIT_SECONDS) -> Any:
        """The next logs notification under a signature."""
        until = time.monotonic() + wait
        while time.monotonic() < until:
            note = self.notification(wait)
            if isinstance(note, str):
                return note
            if note["params"]["result"]["value"]["signature"] == signature:
                return note
        return "silence"


@contextlib.contextmanager
def socket(world: World) -> Iterator[Socket]:
    """A connection to the node's PubSub."""
    options: dict[str, Any] = {"compression": None, "max_size": 1 << 26, "ping_interval": None, "close_timeout": 1}
    with connect(world.node.ws_url, **options) as connection:
        yield Socket(connection)


# --- requests --------------------------------------------------------------------------------------------------------


def _calls(method: str, *lists: Any) -> list[Call]:
    return [Call("socket", method, params) for params in lists]


_ODD: list[Any] = [None, True, 1, 1.5, "", "x", [], {}, ["$payer"], {"mentions": "$payer"}]
_CONFIGS: list[Any] = [
    {},
    None,
    {"commitment": "confirmed"},
    {"commitment": "nonsense"},
    {"commitment": 1},
    1,
    "confirmed",
    [],
]
_ENCODINGS = ("base58", "base64", "base64+zstd", "jsonParsed", "binary", "nonsense", 1, None)

REQUESTS: list[Call] = [
    *_calls("logsSubscribe", None, [], ["all"], ["allWithVotes"], *([value] for value in _ODD)),
    *_calls("logsSubscribe", *(["all", config] for config in _CONFIGS), ["all", {}, 1], ["mentions"], [{"all": None}]),
    *_calls(
        "logsSubscribe",
        *(
            [{"mentions": value}]
            for value in (["$payer"], [], ["$payer", "$friend"], ["x"], ["1" * 33], [1], None, "x", ["$sig memo"])
        ),
        [{"mentions": ["$payer"], "all": 1}],
    ),
    *_calls(
        "accountSubscribe",
        None,
        [],
        ["$payer"],
        *([value] for value in _ODD),
        *(["$payer", config] for config in _CONFIGS),
    ),
    *_calls(
        "accountSubscribe",
        *(["$payer", {"encoding": word}] for word in _ENCODINGS),
        ["$payer", {}, 1],
        ["1" * 44],
        ["0" * 32],
    ),
    *_calls(
        "accountSubscribe",
        ["$payer", {"dataSlice": {"offset": 0, "length": 1}}],
        ["$payer", {"dataSlice": {"offset": 0}}],
    ),
    *_calls(
        "programSubscribe",
        None,
        [],
        ["$program"],
        *([value] for value in _ODD),
        *(["$program", config] for config in _CONFIGS),
    ),
    *_calls(
        "programSubscribe",
        ["$program", {"encoding": "base64", "filters": [{"dataSize": 1}]}],
        ["$program", {"filters": [{"dataSize": 1}] * 5}],
        *(
            ["$program", {"filters": [one]}]
            for one in ({}, 1, "x", {"memcmp": {"offset": 0}}, {"memcmp": {"offset": 0, "bytes": "0"}})
        ),
        ["$program", {"withContext": 1}],
    ),
    *_calls("signatureSubscribe", None, [], ["$unknown sig"], *([value] for value in _ODD), ["1" * 63], ["z" * 88]),
    *_calls("signatureSubscribe", *(["$unknown sig", config] for config in _CONFIGS)),
    *_calls("signatureSubscribe", ["$unknown sig", {"enableReceivedNotification": 1}]),
    *_calls("slotSubscribe", None, [], [1], [{}]),
    *_calls("rootSubscribe", None, [], [1]),
    *_calls("slotsUpdatesSubscribe", None, [], [1]),
    *_calls("blockSubscribe", None, ["all"], ["x"]),
    *_calls("voteSubscribe", None, []),
    *(
        call
        for kind in ("logs", "account", "program", "signature", "slot", "root", "slotsUpdates")
        for call in _calls(f"{kind}Unsubscribe", None, [], [10**9], ["x"], [None], [-1], [1.5], [True], [10**9, 1])
    ),
    *_calls("blockUnsubscribe", [1], None),
    *_calls("getSlot", None, []),
    *_calls("noSuchMethod", None),
]

FRAMES: list[str] = [
    "",
    " ",
    "x",
    "{",
    "[]",
    "[1]",
    "{}",
    "1",
    "null",
    '"x"',
    "true",
    '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"2.0","id":1}',
    '{"jsonrpc":"2.0","method":"slotSubscribe"}',
    '{"jsonrpc":"2.0","method":"slotUnsubscribe","params":[1000000000]}',
    '{"id":1,"method":"slotSubscribe"}',
    '{"jsonrpc":"1.0","id":1,"method":"slotSubscribe"}',
    '{"jsonrpc":null,"id":1,"method":"slotSubscribe"}',
    '{"jsonrpc":"2.0","id":null,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":"a","method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1.5,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":-1,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":true,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":[],"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":{},"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":99999999999999999999,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1,"method":1}',
    '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod","params":1}',
    '{"jsonrpc":"2.0","id":1,"method":"logsSubscribe","params":{"all":1}}',
    '{"jsonrpc":"2.0","id":1,"method":"logsSubscribe","params":{}}',
    '{"jsonrpc":"2.0","id":1,"method":"slotSubscribe","params":{}}',
    '{"jsonrpc":"2.0","id":1,"method":"slotSubscribe","params":null}',
    '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod","extra":1}',
    '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"} x',
    '[{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}]',
    '[{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"},{"jsonrpc":"2.0","id":2,"method":"noSuchMethod"}]',
    '[{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"},1]',
    '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod","params":[' + "[" * 200 + "]" * 200 + "]}",
    *(f'{{"jsonrpc":"2.0","id":1,"method":"noSuchMethod","params":{"[" * n}{"]" * n}}}' for n in (125, 126, 127, 128)),
    '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod","params":["' + "[" * 200 + '"]}',
    '{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1,"id":2,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":{}}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":{"a":[1,"b"]}}',
    '{"jsonrpc":"2.0","id":1,"method":"slotSubscribe","params":{"a":[1,"b",{"c":null}]}}',
    '{"jsonrpc":"2.0","id":18446744073709551615,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":18446744073709551616,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1,"method":"no\\ud800"}',
    '{"jsonrpc":"2.0","id":1,"method":null}',
    "NaN",
    '{"jsonrpc":"2.0","id":NaN,"method":"noSuchMethod"}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[1e400]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[-0]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[1e3]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[12345678901234567890123]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[0.1]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[1e-7]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[1.5e300]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":["\\u0001\\u007f\\"é\\n"]}',
    '{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[01]}',
    '\ufeff{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}',
]


def replies(world: World) -> dict[str, Any]:
    """The normalised replies to all subscription requests, over one connection."""
    with socket(world) as client:
        seen = client.ask_all([(call.method, call.params, world.resolve(call.params)) for call in REQUESTS])
        return {call.name: _numberless(world.normal(reply)) for call, reply in zip(REQUESTS, seen, strict=True)}


def _numberless(reply: Any) -> Any:
    is_id = isinstance(reply, dict) and type(reply.get("result")) is int
    return {**reply, "result": "<subscription>"} if is_id else reply


def reply_to_frame(world: World, frame: str) -> Any:
    """What a node does about one frame, whatever is in it."""
    with socket(world) as client:
        return _numberless(client.raw(frame))
