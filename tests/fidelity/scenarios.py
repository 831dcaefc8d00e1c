"""Scenarios over sockets, as functions of a world. They are recorded from a real node and played with every node.

A scenario gives what it saw, normalised, or facts that it worked out of it where the order of things is left to chance.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import AssignParams, assign
from solders.transaction import VersionedTransaction
from spl.token import instructions as token
from spl.token.constants import TOKEN_PROGRAM_ID
from websockets.exceptions import ConnectionClosed

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import PROGRAM, Settings
from tests.fidelity.sockets import INBOUND_BYTES_MAX, QUIET_SECONDS, WAIT_SECONDS, Socket, socket
from tests.fidelity.world import MEMO, OLD_BLOCKHASH, SOL, SYSTEM, World, encoded, keypair, memo, send

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
        return client.notification(QUIET_SECONDS)


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
        until = time.monotonic() + WAIT_SECONDS
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
        return [note, client.notification(QUIET_SECONDS)]


@_scenario
def filters_keep_others_out(world: World) -> Any:
    with socket(world) as client:
        options = {"encoding": "base64", "commitment": "confirmed", "filters": [{"dataSize": 1}]}
        client.subscribe("programSubscribe", str(PROGRAM), options)
        world.landed(world.post(_update(world)))
        return client.notification(QUIET_SECONDS)


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
        until = time.monotonic() + WAIT_SECONDS
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
        fits = client.raw(request + " " * (INBOUND_BYTES_MAX - len(request)), wait=WAIT_SECONDS)
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


# --- subscriptions beside each other ---------------------------------------------------------------------------------


def _heard(client: Socket, signature: str, count: int, wait: float = WAIT_SECONDS) -> list[int]:
    """The subscriptions under which `count` notifications about a signature come, and whatever comes soon after them."""
    found: list[int] = []
    until = time.monotonic() + wait
    while time.monotonic() < until:
        note = client.about(signature, wait if len(found) < count else QUIET_SECONDS)
        if isinstance(note, str):
            break
        found.append(note["params"]["subscription"])
    return sorted(found)


_MENTIONS = {"commitment": "confirmed"}


@_scenario
def several_of_one_kind(world: World) -> Any:
    """One socket with three filters and one of them at another commitment, another socket with one of them again."""
    speaker = {"mentions": [str(world.speaker.pubkey())]}
    with socket(world) as one, socket(world) as other:
        numbers = [
            one.subscribe("logsSubscribe", "all", _MENTIONS),
            one.subscribe("logsSubscribe", speaker, _MENTIONS),
            one.subscribe("logsSubscribe", {"mentions": [str(keypair("silent").pubkey())]}, _MENTIONS),
            one.subscribe("logsSubscribe", speaker, {"commitment": "processed"}),
        ]
        again = other.subscribe("logsSubscribe", speaker, _MENTIONS)
        signature = world.post(spoken(world, words(world)))
        names = {number: place for place, number in enumerate(numbers)}
        return {
            "all differ": len(names) == len(numbers),
            "shared": again == numbers[1],
            "one": sorted(names[number] for number in _heard(one, signature, 3)),
            "other": sorted(names[number] for number in _heard(other, signature, 1)),
        }


@_scenario
def the_same_twice_on_one_socket_is_told_once(world: World) -> Any:
    speaker = {"mentions": [str(world.speaker.pubkey())]}
    with socket(world) as client:
        first, second = (client.subscribe("logsSubscribe", speaker, _MENTIONS) for _ in range(2))
        heard = _heard(client, world.post(spoken(world, words(world))), 1)
        return {"shared": first == second, "times": len(heard)}


@_scenario
def one_of_two_sockets_leaves(world: World) -> Any:
    speaker = {"mentions": [str(world.speaker.pubkey())]}
    with socket(world) as one, socket(world) as other:
        number = one.subscribe("logsSubscribe", speaker, _MENTIONS)
        shared = other.subscribe("logsSubscribe", speaker, _MENTIONS) == number
        ended = one.reply("logsUnsubscribe", number)
        signature = world.post(spoken(world, words(world)))
        heard = [len(_heard(other, signature, 1)), len(_heard(one, signature, 0, QUIET_SECONDS))]
        return {"shared": shared, "ended": ended, "heard by the other and by the one": heard}


@_scenario
def one_of_two_sockets_is_closed(world: World) -> Any:
    speaker = {"mentions": [str(world.speaker.pubkey())]}
    with socket(world) as other:
        with socket(world) as one:
            number = one.subscribe("logsSubscribe", speaker, _MENTIONS)
            shared = other.subscribe("logsSubscribe", speaker, _MENTIONS) == number
        return {"shared": shared, "heard": len(_heard(other, world.post(spoken(world, words(world))), 1))}


@_scenario
def a_number_is_not_given_again(world: World) -> Any:
    params = ("accountSubscribe", str(world.nobody), {"encoding": "base64", "commitment": "confirmed"})
    with socket(world) as client:
        first = client.subscribe(*params)
        client.reply("accountUnsubscribe", first)
        second = client.subscribe(*params)
        third = client.subscribe("accountSubscribe", str(world.nobody), {"encoding": "base64"})
        return {"grows": first < second < third, "by one": third - second}


@_scenario
def options_that_make_another_subscription(world: World) -> Any:
    """Which differences in the request give a number of its own."""
    target = str(world.nobody)
    base: dict[str, Any] = {"encoding": "base64", "commitment": "confirmed"}
    program = str(PROGRAM)
    requests: dict[str, tuple[str, Any, Any]] = {
        "account": ("accountSubscribe", target, base),
        "account, with a slice": ("accountSubscribe", target, {**base, "dataSlice": {"offset": 0, "length": 1}}),
        "account, with a null slice": ("accountSubscribe", target, {**base, "dataSlice": None}),
        "account, with a slot": ("accountSubscribe", target, {**base, "minContextSlot": 1}),
        "account, with an unknown option": ("accountSubscribe", target, {**base, "unknown": 1}),
        "account, in binary": ("accountSubscribe", target, {"commitment": "confirmed"}),
        "account, in binary by name": ("accountSubscribe", target, {"encoding": "binary", "commitment": "confirmed"}),
        "account, in base58": ("accountSubscribe", target, {"encoding": "base58", "commitment": "confirmed"}),
        "program": ("programSubscribe", program, base),
        "program, no filters": ("programSubscribe", program, {**base, "filters": []}),
        "program, null filters": ("programSubscribe", program, {**base, "filters": None}),
        "program, a filter": ("programSubscribe", program, {**base, "filters": [{"dataSize": 1}]}),
        "program, the filter twice": ("programSubscribe", program, {**base, "filters": [{"dataSize": 1}] * 2}),
        "program, two filters": (
            *("programSubscribe", program),
            {**base, "filters": [{"dataSize": 1}, {"memcmp": {"offset": 0, "bytes": "2"}}]},
        ),
        "program, the two in another order": (
            *("programSubscribe", program),
            {**base, "filters": [{"memcmp": {"offset": 0, "bytes": "2"}}, {"dataSize": 1}]},
        ),
        "program, bytes in another form": (
            *("programSubscribe", program),
            {**base, "filters": [{"dataSize": 1}, {"memcmp": {"offset": 0, "bytes": "AQ==", "encoding": "base64"}}]},
        ),
        "program, with context": ("programSubscribe", program, {**base, "withContext": True}),
        "program, without context": ("programSubscribe", program, {**base, "withContext": False}),
        "program, sorted": ("programSubscribe", program, {**base, "sortResults": False}),
        "logs": ("logsSubscribe", {"mentions": [target]}, _MENTIONS),
        "logs, finalized": ("logsSubscribe", {"mentions": [target]}, {"commitment": "finalized"}),
        "logs, by default": ("logsSubscribe", {"mentions": [target]}, {}),
        "logs, null": ("logsSubscribe", {"mentions": [target]}, None),
        "logs, nonsense": ("logsSubscribe", {"mentions": [target]}, {"commitment": "nonsense"}),
    }
    with socket(world) as client:
        numbers = {name: client.subscribe(*request) for name, request in requests.items()}
        first: dict[int, str] = {}
        return {name: first.setdefault(number, name) for name, number in numbers.items()}


@_scenario
def a_batch_of_subscriptions(world: World) -> Any:
    def request(number: int, method: str, *params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}

    speaker = {"mentions": [str(world.speaker.pubkey())]}
    batch = [
        request(1, "logsSubscribe", speaker, _MENTIONS),
        request(2, "logsSubscribe", speaker, _MENTIONS),
        request(3, "logsSubscribe", "nonsense"),
        request(4, "logsUnsubscribe", 10**9),
        request(5, "getSlot"),
    ]
    with socket(world) as client:
        reply = client.raw(json.dumps(batch), wait=WAIT_SECONDS)
        if not isinstance(reply, list):
            return reply
        signature = world.post(spoken(world, words(world)))
        numbers = {one["result"] for one in reply if "result" in one}
        shown = [{**one, "result": "<subscription>"} if "result" in one else one for one in reply]
        return {"reply": shown, "numbers": len(numbers), "heard": len(_heard(client, signature, 1))}


@_scenario
def a_request_in_fragments(world: World) -> Any:
    request = '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}'
    pieces = [request[:10], request[10:20], request[20:]]
    with socket(world) as client:
        return client.raw(pieces, wait=WAIT_SECONDS)


@_scenario
def too_much_in_fragments(world: World) -> Any:
    request = '{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}'
    seen = []
    for size in (INBOUND_BYTES_MAX, INBOUND_BYTES_MAX + 1):
        with socket(world) as client:
            text = request + " " * (size - len(request))
            seen.append(client.raw([text[:2_000], text[2_000:4_000], text[4_000:]], wait=3.0))
            for again in (request, [request[:5], request[5:]]):
                try:
                    seen.append(client.raw(again, wait=3.0))
                except ConnectionClosed:
                    seen.append("closed before")
    return seen


@_scenario
def a_binary_subscription_is_one(world: World) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe"}
    with socket(world) as client:
        reply = client.raw(json.dumps(request).encode(), wait=WAIT_SECONDS)
        note = client.notification()
        return [sorted(reply) if isinstance(reply, dict) else reply, note["method"], sorted(note["params"]["result"])]


@_scenario
def an_empty_frame_of_either_kind(world: World) -> Any:
    with socket(world) as client:
        return [client.raw(frame) for frame in ("", b"")]


@_scenario
def a_close_is_answered(world: World) -> Any:
    seen = []
    for code in (1000, 1001, 3000):
        with socket(world) as client:
            client.subscribe("slotSubscribe")
            seen.append(client.close(code))
    return seen


# --- logs ------------------------------------------------------------------------------------------------------------


@_scenario
def logs_come_in_the_order_of_execution(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, _MENTIONS)
        sent = [spoken(world, words(world)) for _ in range(8)]
        signatures = [world.post(transaction) for transaction in sent]
        slots = {signature: world.landed(signature) for signature in signatures}
        notes = [note["params"]["result"] for note in _told_within(client, 2.0)]
        # What ran at a block's end and was stored in the next is told of twice, or in the wrong block.
        heard = [n["value"]["signature"] for n in notes if slots.get(n["value"]["signature"]) == n["context"]["slot"]]
        options = {"commitment": "confirmed", "limit": 20}
        listed = world.node.call("getSignaturesForAddress", str(world.speaker.pubkey()), options)
        stored = [row["signature"] for row in reversed(listed) if row["signature"] in heard]
        return {"most": len(heard) > len(sent) // 2, "as stored": heard == stored}


@_scenario
def what_ran_before_is_not_told(world: World) -> Any:
    """Nobody listened when it ran; the slot is not final yet when somebody comes."""
    signature = world.post(spoken(world, words(world)))
    world.landed(signature)
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, {"commitment": "finalized"})
        client.subscribe("logsSubscribe", "all", {"commitment": "finalized"})
        world.landed(signature, "finalized")
        return client.about(signature, 1.0)


@_scenario
def what_ran_before_is_told_where_others_listened(world: World) -> Any:
    """Logs are kept for whoever listens, and then are there for all who come before the slot is final."""
    seen = []
    speaker, silent = ({"mentions": [str(keypair(name).pubkey())]} for name in ("speaker", "silent"))
    for others in ("all", speaker, silent):
        for wanted in ("all", speaker):
            with socket(world) as early, socket(world) as late:
                early.subscribe("logsSubscribe", others, {"commitment": "processed"})
                signature = world.post(spoken(world, words(world)))
                world.landed(signature)
                late.subscribe("logsSubscribe", wanted, {"commitment": "finalized"})
                world.landed(signature, "finalized")
                seen.append(isinstance(late.about(signature, 1.0), dict))
    return seen


@_scenario
def logs_of_all_commitments(world: World) -> Any:
    levels = ("processed", "confirmed", "finalized")
    with socket(world) as client:
        speaker = {"mentions": [str(world.speaker.pubkey())]}
        numbers = {client.subscribe("logsSubscribe", speaker, {"commitment": level}): level for level in levels}
        signature = world.post(spoken(world, words(world)))
        notes = [client.about(signature) for _ in levels]
        slots = {note["params"]["result"]["context"]["slot"] for note in notes}
        return {"order": [numbers[note["params"]["subscription"]] for note in notes], "slots": len(slots)}


@_scenario
def logs_of_a_program_and_of_a_table(world: World) -> Any:
    """Mentioned is what the message names itself, and what it takes from a lookup table."""
    seen = {}
    targets = {"a program": str(PROGRAM), "an account": str(world.community), "a signer": str(world.payer.pubkey())}
    for name, target in targets.items():
        with socket(world) as client:
            client.subscribe("logsSubscribe", {"mentions": [target]}, _MENTIONS)
            seen[name] = isinstance(client.about(world.post(_update(world)), 5.0), dict)
    return seen


@_scenario
def logs_beyond_the_limit(world: World) -> Any:
    """Sixty short memos write more than 10,000 bytes: cut in the notification and in what is stored."""
    with socket(world) as client:
        client.subscribe("logsSubscribe", {"mentions": [str(world.speaker.pubkey())]}, _MENTIONS)
        transaction = spoken(world, words(world), *(memo(f"{number:02d}") for number in range(60)))
        signature = world.post(transaction)
        told = client.about(signature)["params"]["result"]["value"]["logs"]
        world.landed(signature)
        options = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0}
        stored = world.node.call("getTransaction", signature, options)["meta"]["logMessages"]
        return {"alike": told == stored, "lines": len(told), "logs": _blank(told, world)}


# --- accounts --------------------------------------------------------------------------------------------------------


def _data_out(note: Any) -> Any:
    """A notification about an account without its data, whose bytes change every time."""
    value = note["params"]["result"]["value"]
    account = value.get("account", value)
    if isinstance(account["data"], list):
        account["data"][0] = "<data>"
    return note


@_scenario
def an_account_in_every_encoding(world: World) -> Any:
    """A long one: what it looks like, not its bytes."""
    seen = {}
    for encoding in ("base64", "base64+zstd", "jsonParsed", "base58", "binary", None):
        with socket(world) as client:
            options = {"commitment": "confirmed", **({} if encoding is None else {"encoding": encoding})}
            client.subscribe("accountSubscribe", str(world.community), options)
            world.post(_update(world))
            seen[str(encoding)] = _data_out(_note(world, client.notification()))
    return seen


@_scenario
def a_slice_of_an_account(world: World) -> Any:
    seen = []
    for encoding in ("base64", "base58", "jsonParsed"):
        for piece in ({"offset": 0, "length": 8}, {"offset": 8, "length": 0}, {"offset": 10**6, "length": 4}):
            with socket(world) as client:
                options = {"encoding": encoding, "commitment": "confirmed", "dataSlice": piece}
                client.subscribe("accountSubscribe", str(world.community), options)
                world.post(_update(world))
                data = _note(world, client.notification())["params"]["result"]["value"]["data"]
                seen.append([len(data[0]) < 30 or data[0].startswith("error: ") or "whole", data[1]])
    return seen


def _token_transfer(world: World, amount: int) -> VersionedTransaction:
    params = token.TransferParams(
        TOKEN_PROGRAM_ID, world.friend_token, world.token_account, world.friend.pubkey(), amount
    )
    return spoken(world, token.transfer(params), words(world), signers=(world.friend,))


def _token_return(world: World, amount: int) -> VersionedTransaction:
    params = token.TransferParams(
        TOKEN_PROGRAM_ID, world.token_account, world.friend_token, world.payer.pubkey(), amount
    )
    return spoken(world, token.transfer(params), words(world), signers=(world.payer,))


@_scenario
def a_token_account_that_changes(world: World) -> Any:
    seen = []
    for encoding in ("jsonParsed", "base64"):
        with socket(world) as client:
            client.subscribe(
                "accountSubscribe", str(world.friend_token), {"encoding": encoding, "commitment": "confirmed"}
            )
            for change in (_token_transfer, _token_return):
                world.landed(world.post(change(world, 7)))
                seen.append(_note(world, client.notification()))
    return seen


@_scenario
def an_account_that_is_closed(world: World) -> Any:
    """In every encoding; and what the program's subscribers hear of it."""
    seen = []
    target = Keypair.from_seed(bytes(reversed(world.friend.secret())))
    for encoding in ("base64", "base64+zstd", "jsonParsed", "base58"):
        with socket(world) as client:
            options = {"encoding": encoding, "commitment": "confirmed"}
            world.landed(world.post(spoken(world, words(world), send(world.speaker.pubkey(), target.pubkey(), 10**7))))
            client.subscribe("accountSubscribe", str(target.pubkey()), options)
            back = send(target.pubkey(), world.speaker.pubkey(), 10**7)
            world.landed(world.post(spoken(world, words(world), back, signers=(target,))))
            note = _note(world, client.notification())
            seen.append([_data_out(note) if encoding == "base64+zstd" else note, client.notification(QUIET_SECONDS)])
    return seen


@_scenario
def an_account_that_is_only_touched(world: World) -> Any:
    """Locked for writing and left as it was."""
    touched = AccountMeta(world.friend.pubkey(), False, True)
    with socket(world) as client:
        options = {"encoding": "base64", "commitment": "confirmed"}
        client.subscribe("accountSubscribe", str(world.friend.pubkey()), options)
        nothing = send(world.speaker.pubkey(), world.friend.pubkey(), 0)
        world.landed(world.post(spoken(world, words(world), nothing)))
        first = client.notification(1.0)
        world.landed(world.post(spoken(world, words(world), Instruction(MEMO, b"touched", [touched]))))
        return ["told" if isinstance(note, dict) else note for note in (first, client.notification(1.0))]


def _told_within(client: Socket, seconds: float) -> Iterator[Any]:
    """Notifications that come in this time. Where votes are cast, their payer's account changes in every slot."""
    until = time.monotonic() + seconds
    while (rest := until - time.monotonic()) > 0:
        if isinstance(note := client.notification(rest), dict):
            yield note


# --- programs --------------------------------------------------------------------------------------------------------


@_scenario
def filters_of_a_program(world: World) -> Any:
    """Which of them let a change of the community through."""
    size = len(base64.b64decode(world.node.call("getAccountInfo", *_in_base64(world))["value"]["data"][0]))
    founder = {"memcmp": {"offset": 8, "bytes": str(world.payer.pubkey())}}
    in_base64 = base64.b64encode(bytes(world.payer.pubkey())).decode()
    filters: dict[str, Any] = {
        "none": [],
        "null": None,
        "size": [{"dataSize": size}],
        "another size": [{"dataSize": size + 1}],
        "bytes": [founder],
        "bytes elsewhere": [{"memcmp": {"offset": 9, "bytes": str(world.payer.pubkey())}}],
        "bytes in base64": [{"memcmp": {"offset": 8, "bytes": in_base64, "encoding": "base64"}}],
        "bytes in a list": [{"memcmp": {"offset": 8, "bytes": list(bytes(world.payer.pubkey()))}}],
        "both": [{"dataSize": size}, founder],
        "one of both": [{"dataSize": size + 1}, founder],
        "four": [{"dataSize": size}, founder, founder, {"dataSize": size}],
        "no token account": [founder, "tokenAccountState"],
    }
    with socket(world) as client:
        numbers = {}
        for name, chosen in filters.items():
            options = {"encoding": "base64", "commitment": "confirmed", "filters": chosen}
            numbers[name] = client.subscribe("programSubscribe", str(PROGRAM), options)
        world.landed(world.post(_update(world)))
        heard = set()
        for note in _told_within(client, 2.0):
            if note["params"]["result"]["value"]["pubkey"] == str(world.community):
                heard.add(note["params"]["subscription"])
        return {name: number in heard for name, number in numbers.items()}


def _in_base64(world: World) -> tuple[str, dict[str, str]]:
    return str(world.community), {"encoding": "base64", "commitment": "confirmed"}


@_scenario
def a_program_in_every_encoding(world: World) -> Any:
    seen = {}
    founder = {"memcmp": {"offset": 8, "bytes": str(world.payer.pubkey())}}
    for encoding in ("base64", "base64+zstd", "jsonParsed", "base58", "binary", None):
        for more in ({}, {"dataSlice": {"offset": 0, "length": 8}}):
            with socket(world) as client:
                options = {"commitment": "confirmed", "filters": [founder], **more}
                if encoding is not None:
                    options["encoding"] = encoding
                client.subscribe("programSubscribe", str(PROGRAM), options)
                world.landed(world.post(_update(world)))
                note = _note(world, client.notification())
                data = note["params"]["result"]["value"]["account"]["data"]
                seen[f"{encoding} {sorted(more)}"] = [len(data[0]) < 30, data[1]] if isinstance(data, list) else data
    return seen


@_scenario
def tokens_of_a_mint(world: World) -> Any:
    """Two accounts change in one transaction."""
    filters = [{"dataSize": 165}, {"memcmp": {"offset": 0, "bytes": str(world.mint.pubkey())}}]
    with socket(world) as client:
        options = {"encoding": "jsonParsed", "commitment": "confirmed", "filters": filters}
        client.subscribe("programSubscribe", str(TOKEN_PROGRAM_ID), options)
        seen = []
        for change in (_token_transfer, _token_return):
            world.landed(world.post(change(world, 3)))
            notes = [_note(world, client.notification()) for _ in range(2)]
            seen.append(sorted(notes, key=lambda note: str(note["params"]["result"]["value"]["pubkey"])))
        return [seen, client.notification(QUIET_SECONDS)]


@_scenario
def accounts_that_leave_a_program(world: World) -> Any:
    """One is given to another program, one is emptied: what subscribers of the system program and of the account hear."""
    seen: list[Any] = []
    for seed, spend in ((b"given", True), (b"emptied", False)):
        target = Keypair.from_seed(seed.ljust(32, b"%d" % (world.made % 10)))
        world.landed(world.post(spoken(world, words(world), send(world.speaker.pubkey(), target.pubkey(), 10**7))))
        with socket(world) as client:
            options = {"encoding": "base64", "commitment": "confirmed"}
            account = client.subscribe("accountSubscribe", str(target.pubkey()), options)
            client.subscribe("programSubscribe", str(SYSTEM), {**options, "filters": [{"dataSize": 0}]})
            if spend:
                change = assign(AssignParams(pubkey=target.pubkey(), owner=PROGRAM))
            else:
                change = send(target.pubkey(), world.speaker.pubkey(), 10**7)
            world.landed(world.post(spoken(world, words(world), change, signers=(target,))))
            told = []
            for note in _told_within(client, 2.0):
                result = note["params"]["result"]["value"]
                if note["params"]["subscription"] == account:
                    told.append({"account": {name: result[name] for name in ("lamports", "space")}})
                elif result["pubkey"] == str(target.pubkey()):
                    told.append({"program": result["account"]["lamports"]})
            seen.append(sorted(map(str, told)))
    return seen


# --- signatures ------------------------------------------------------------------------------------------------------


@_scenario
def a_landed_signature_at_every_commitment(world: World) -> Any:
    signature = world.post(spoken(world, words(world)))
    world.landed(signature, "finalized")
    seen = []
    for commitment in ("processed", "confirmed", "finalized"):
        for received in (None, False, True):
            with socket(world) as client:
                options = {"commitment": commitment, "enableReceivedNotification": received}
                number = client.subscribe("signatureSubscribe", signature, options)
                note = _note(world, client.notification(2.0))
                seen.append([note, client.notification(QUIET_SECONDS), client.reply("signatureUnsubscribe", number)])
    return seen


@_scenario
def a_signature_that_is_only_confirmed(world: World) -> Any:
    """Subscribed at finalized, soon after it was confirmed: it is told when it is final, once."""
    signature = world.post(spoken(world, words(world)))
    world.landed(signature)
    with socket(world) as client:
        client.subscribe("signatureSubscribe", signature, {"commitment": "finalized"})
        return [_note(world, client.notification(3 * WAIT_SECONDS)), client.notification(QUIET_SECONDS)]


@_scenario
def a_signature_that_never_lands(world: World) -> Any:
    """Its blockhash is none: it is sent without a preflight, and dropped."""
    transaction = world.sign(words(world), blockhash=Hash.from_string(OLD_BLOCKHASH), payer=world.speaker)
    with socket(world) as client:
        seen = []
        for received in (True, False):
            options = {"commitment": "confirmed", "enableReceivedNotification": received}
            number = client.subscribe("signatureSubscribe", str(transaction.signatures[0]), options)
            world.post(transaction)
            seen.append([client.notification(2.0), client.reply("signatureUnsubscribe", number)])
        return seen


@_scenario
def two_wait_for_one_signature(world: World) -> Any:
    transaction = spoken(world, words(world))
    signature = str(transaction.signatures[0])
    with socket(world) as one, socket(world) as other:
        numbers = [client.subscribe("signatureSubscribe", signature, _MENTIONS) for client in (one, one, other)]
        world.post(transaction)
        notes = [_note(world, client.notification()) for client in (one, other)]
        rest = one.notification(QUIET_SECONDS)
        return {"shared": len(set(numbers)), "notes": notes, "more": rest}


# --- slots -----------------------------------------------------------------------------------------------------------


@_scenario
def a_slot_and_its_parents(world: World) -> Any:
    with socket(world) as client:
        client.subscribe("slotSubscribe")
        rows = [client.notification()["params"]["result"] for _ in range(6)]
        return {
            "in order": all(a["slot"] < b["slot"] for a, b in pairwise(rows)),
            "parents": all(b["parent"] == a["slot"] for a, b in pairwise(rows)),
            "roots before parents": all(row["root"] <= row["parent"] < row["slot"] for row in rows),
            "roots never go back": all(a["root"] <= b["root"] for a, b in pairwise(rows)),
        }


@_scenario
def slots_on_two_sockets(world: World) -> Any:
    with socket(world) as one, socket(world) as other:
        numbers = [client.subscribe(f"{kind}Subscribe") for kind in ("slot", "root") for client in (one, one, other)]
        kinds: list[set[str]] = []
        for client in (one, other):
            kinds.append({client.notification()["method"] for _ in range(12)})
        ends = [one.reply("slotUnsubscribe", numbers[0]), one.reply("rootUnsubscribe", numbers[0])]
        still = {other.notification()["method"] for _ in range(12)}
        return {
            "numbers": len(set(numbers)),
            "kinds": [sorted(one) for one in kinds],
            "ends": ends,
            "still": sorted(still),
        }


@_scenario
def the_life_of_a_slot(world: World) -> Any:
    """What slotsUpdates tells of one slot, in order. The rest of the cluster is not there to be told of."""
    with socket(world) as client:
        client.subscribe("slotsUpdatesSubscribe")
        told: dict[int, list[str]] = {}
        until = time.monotonic() + 3 * WAIT_SECONDS
        while time.monotonic() < until:
            result = client.notification()["params"]["result"]
            told.setdefault(result["slot"], []).append(result["type"])
            # The first one may have begun before.
            whole = [kinds for kinds in told.values() if kinds[-1] == "root" and kinds[0] == "createdBank"]
            if whole:
                return whole[0]
    return "no whole life"


@_scenario
def null_in_place_of_parameters(world: World) -> Any:
    seen = {}
    for kind in ("logs", "account", "program", "signature", "slot", "root", "slotsUpdates", "block", "vote"):
        for verb in ("Subscribe", "Unsubscribe"):
            with socket(world) as client:
                reply = client.ask(f"{kind}{verb}", None)
                seen[f"{kind}{verb}"] = (
                    {**reply, "result": "<subscription>"} if isinstance(reply, dict) and "result" in reply else reply
                )
    return seen
