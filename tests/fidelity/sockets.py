"""Subscriptions: requests as data, and scenarios as functions of a world. Both are recorded from a real node and asked of every node.

A scenario gives what it saw, normalised, or facts that it worked out of it where the order of things is left to chance.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.transaction import VersionedTransaction
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import PROGRAM, Settings
from tests.fidelity.corpus import Call
from tests.fidelity.world import SOL, World, encoded, keypair, memo, send

_WAIT_SECONDS = 20.0
_QUIET_SECONDS = 0.4
INBOUND_BYTES_MAX = 4_096


class Socket:
    """One WebSocket client. Notifications that come before a reply are kept for `notification`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._kept: list[Any] = []

    def raw(self, frame: str | bytes, *, wait: float = _QUIET_SECONDS) -> Any:
        """Send a frame; the next message, "silence", or how the connection was closed."""
        self._connection.send(frame)
        return self.message(wait)

    def message(self, wait: float = _WAIT_SECONDS) -> Any:
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
        until = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < until:
            message = self.message()
            if isinstance(message, dict) and "method" in message:
                self._kept.append(message)
                continue
            return message
        raise AssertionError(f"{method}: no reply")

    def is_alive(self) -> bool:
        """Whether a ping is answered."""
        return self._connection.ping().wait(5.0)

    def subscribe(self, method: str, *params: Any) -> int:
        """A subscription's id."""
        reply = self.reply(method, *params)
        assert "result" in reply, reply
        return int(reply["result"])

    def notification(self, wait: float = _WAIT_SECONDS) -> Any:
        """The next notification, kept or new."""
        return self._kept.pop(0) if self._kept else self.message(wait)

    def about(self, signature: str, wait: float = _WAIT_SECONDS) -> Any:
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


# --- scenarios -------------------------------------------------------------------------------------------------------

Scenario = Callable[[World], Any]
SCENARIOS: dict[str, Scenario] = {}


def _scenario(body: Scenario) -> Scenario:
    SCENARIOS[body.__name__] = body
    return body


def spoken(world: World, *instructions: Any, signers: tuple[Keypair, ...] = ()) -> VersionedTransaction:
    """A transaction that the speaker pays for."""
    return world.sign(*instructions, signers=signers, payer=world.speaker)


def _note(world: World, note: Any) -> Any:
    """A notification with its subscription's number left out."""
    if isinstance(note, dict):
        note["params"]["subscription"] = "<subscription>"
    return world.normal(note)


def words(world: World) -> Any:
    """A memo that nobody wrote before."""
    world.made += 1
    return memo(f"spoken {world.made:06d}")


def _blank(value: Any, world: World) -> Any:
    """The same with this memo's number left out."""
    return json.loads(json.dumps(value).replace(f"spoken {world.made:06d}", "spoken"))


@_scenario
def logs_of_a_mentioned_address(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "confirmed"})
        signature = world.post(spoken(world, words(world)))
        return _blank(_note(world, client.about(signature)), world)


@_scenario
def logs_of_a_failed_transaction(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("logsSubscribe", "all", {"commitment": "processed"})
        transaction = spoken(world, words(world), send(world.speaker.pubkey(), world.nobody, 10**6 * SOL))
        return _blank(_note(world, client.about(world.post(transaction))), world)


@_scenario
def logs_of_another_address_are_not_heard(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(keypair("silent").pubkey())]}, {"commitment": "confirmed"})
        world.landed(world.post(spoken(world, words(world))))
        return client.notification(_QUIET_SECONDS)


@_scenario
def a_simulation_is_heard_as_if_it_had_landed(world: World) -> Any:
    """SOLANA's forgery: other contents under the signature of a transaction that landed, with nobody's consent."""
    true = spoken(world, memo("vote A"), words(world))
    signature = world.post(true)
    world.landed(signature)
    false = Message.new_with_blockhash([memo("vote B")], world.speaker.pubkey(), Hash.default())
    forged = VersionedTransaction.populate(false, list(true.signatures))
    options = {"encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True, "commitment": "processed"}
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "confirmed"})
        # Heard only while the bank that it ran on is not confirmed yet: a matter of some milliseconds.
        until = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < until:
            world.node.call("simulateTransaction", encoded(forged), options)
            note = client.about(signature, 0.002)
            if isinstance(note, dict):
                value = note["params"]["result"]["value"]
                return {"err": value["err"], "is under the true signature": True, "logs": value["logs"]}
    return "not heard"


@_scenario
def a_preflight_is_heard_beside_the_landing(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "finalized"})
        signature = world.post(spoken(world, words(world)), preflight=True)
        notes = [client.about(signature), client.about(signature)]
        return {"slots differ": len({note["params"]["result"]["context"]["slot"] for note in notes}) == 2}


@_scenario
def an_account_that_changes(world: World) -> Any:
    seen = []
    target = Keypair.from_seed(world.speaker.secret()[::-1])
    for encoding in ("base64", "jsonParsed", "base58", "binary"):
        with socket(world) as client:
            options = {"encoding": encoding, "commitment": "confirmed"}
            client.subscribe("accountSubscribe", str(target.pubkey()), options)
            world.landed(world.post(spoken(world, send(world.speaker.pubkey(), target.pubkey(), 10**7))))
            opened = _note(world, client.notification())
            world.landed(
                world.post(spoken(world, send(target.pubkey(), world.speaker.pubkey(), 10**7), signers=(target,)))
            )
            seen.append([opened, _note(world, client.notification())])
    return seen


@_scenario
def an_account_that_is_too_long_for_base58(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("accountSubscribe", str(world.community), {"encoding": "base58", "commitment": "confirmed"})
        world.landed(world.post(_update(world)))
        return _note(world, client.notification())


def _update(world: World) -> VersionedTransaction:
    world.made += 1
    settings = Settings("Fidelity", f"Changed {world.made:06d}")
    change = voting.update_community(world.payer.pubkey(), world.community, settings)
    return spoken(world, change, signers=(world.payer,))


@_scenario
def accounts_of_a_program(world: World) -> Any:
    with socket(world) as client:
        options = {
            "encoding": "base64",
            "commitment": "confirmed",
            "filters": [{"memcmp": {"offset": 8, "bytes": str(world.payer.pubkey())}}],
        }
        client.subscribe("programSubscribe", str(PROGRAM), options)
        world.landed(world.post(_update(world)))
        note = _note(world, client.notification())
        shown = note["params"]["result"]["value"]["account"]["data"]
        shown[0] = f"<{len(shown[0])} characters>"
        return [note, client.notification(_QUIET_SECONDS)]


@_scenario
def filters_keep_others_out(world: World) -> Any:
    with socket(world) as client:
        options = {"encoding": "base64", "commitment": "confirmed", "filters": [{"dataSize": 1}]}
        client.subscribe("programSubscribe", str(PROGRAM), options)
        world.landed(world.post(_update(world)))
        return client.notification(_QUIET_SECONDS)


@_scenario
def a_signature_that_lands(world: World) -> Any:
    seen = []
    for commitment in ("processed", "confirmed", "finalized"):
        with socket(world) as client:
            transaction = spoken(world, words(world))
            signature = str(transaction.signatures[0])
            number = client.subscribe("signatureSubscribe", signature, {"commitment": commitment})
            world.post(transaction)
            # It speaks once, and is gone then.
            seen.append([_note(world, client.notification()), client.reply("signatureUnsubscribe", number)])
    return seen


@_scenario
def a_signature_that_landed_before(world: World) -> Any:
    with socket(world) as client:
        seen = []
        for wrong in (0, 10**6 * SOL):
            signature = world.post(
                spoken(world, words(world), send(world.speaker.pubkey(), world.friend.pubkey(), wrong))
            )
            world.landed(signature)
            client.subscribe("signatureSubscribe", signature, {"commitment": "confirmed"})
            seen.append(_note(world, client.notification()))
        return seen


@_scenario
def a_signature_that_is_received(world: World) -> Any:
    with socket(world) as client:
        transaction = spoken(world, words(world))
        options = {"commitment": "confirmed", "enableReceivedNotification": True}
        client.subscribe("signatureSubscribe", str(transaction.signatures[0]), options)
        world.post(transaction)
        return [_note(world, client.notification()), client.notification(1.0)]


@_scenario
def slots_and_roots(world: World) -> Any:
    seen = []
    for kind in ("slot", "root"):
        with socket(world) as client:
            client.subscribe(f"{kind}Subscribe")
            first, second = (client.notification()["params"]["result"] for _ in range(2))
            names = sorted(first) if isinstance(first, dict) else type(first).__name__
            grows = first["slot"] < second["slot"] if isinstance(first, dict) else first < second
            seen.append({"shape": names, "grows": grows})
    return seen


@_scenario
def updates_of_slots(world: World) -> Any:
    kinds: dict[str, Any] = {}
    with socket(world) as client:
        client.subscribe("slotsUpdatesSubscribe")
        until = time.monotonic() + _WAIT_SECONDS
        wanted = {"createdBank", "frozen", "optimisticConfirmation", "root"}
        while time.monotonic() < until and not wanted <= set(kinds):
            result = client.notification()["params"]["result"]
            kinds[result["type"]] = sorted(result)
    return {kind: kinds.get(kind) for kind in sorted(wanted)}


@_scenario
def equal_subscriptions_share_a_number(world: World) -> Any:
    target = str(world.nobody)
    with socket(world) as one, socket(world) as other:
        first = one.subscribe("accountSubscribe", target, {"encoding": "base64", "commitment": "confirmed"})
        again = one.subscribe("accountSubscribe", target, {"encoding": "base64", "commitment": "confirmed"})
        elsewhere = other.subscribe("accountSubscribe", target, {"encoding": "base64", "commitment": "confirmed"})
        unlike = one.subscribe("accountSubscribe", target, {"encoding": "base64", "commitment": "processed"})
        facts = {
            "the same in one connection": first == again,
            "the same in another": first == elsewhere,
            "another commitment": first == unlike,
        }
        ends = [client.reply("accountUnsubscribe", first) for client in (one, one, other, other)]
        # Any kind of unsubscribe ends any subscription, or does not.
        number = one.subscribe("accountSubscribe", target, {"encoding": "base64", "commitment": "confirmed"})
        return [facts, ends, one.reply("logsUnsubscribe", number), one.reply("accountUnsubscribe", number)]


@_scenario
def a_number_of_another_connection(world: World) -> Any:
    with socket(world) as one, socket(world) as other:
        number = one.subscribe("accountSubscribe", str(world.nobody), {"encoding": "base64"})
        return other.reply("accountUnsubscribe", number)


@_scenario
def frames_of_the_largest_size(world: World) -> Any:
    request = '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}'
    with socket(world) as client:
        fits = client.raw(request + " " * (INBOUND_BYTES_MAX - len(request)), wait=_WAIT_SECONDS)
        return [fits, client.raw(request + " " * (INBOUND_BYTES_MAX + 1 - len(request)), wait=5.0)]


@_scenario
def a_binary_frame(world: World) -> Any:
    with socket(world) as client:
        return client.raw(b'{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}', wait=2.0)


@_scenario
def bytes_that_are_no_text(world: World) -> Any:
    with socket(world) as client:
        return client.raw(b"\xff\xfe", wait=2.0)


@_scenario
def a_ping_is_answered(world: World) -> Any:
    with socket(world) as client:
        return client.is_alive()
