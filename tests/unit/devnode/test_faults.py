"""The contract of every fault: the client sees it, it is counted, the same seed strikes the same, and switched off it does nothing.

Each scenario meets the node as a client does, over real sockets, a dozen times, and says each time whether it saw the fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from programs.devnode import DevNode, DevNodeConfig
from programs.devnode.faults import KINDS

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
PAYER = Keypair.from_seed(b"payer".ljust(32, b"."))
GENESIS_UNIX_S = 1_700_000_000
TIMES = 12
CONFIRMED = {"commitment": "confirmed"}
Seen = list[bool]


class Client:
    """A client of a node with one fault: plain HTTP, and a socket with subscriptions."""

    def __init__(self, node: DevNode) -> None:
        self.node = node
        self.http = httpx.AsyncClient(timeout=5, verify=False)
        self.sent = 0

    async def rpc(self, method: str, *params: Any) -> Any:
        """The result, or the error object."""
        reply = (await self.post(method, *params)).json()
        return reply.get("result", reply.get("error"))

    async def post(self, method: str, *params: Any) -> httpx.Response:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return await self.http.post(self.node.rpc_url, json=request)

    def land(self) -> str:
        """A memo in the working block; its signature. Sent in process, so that no fault of the HTTP edge is used up."""
        self.sent += 1
        blockhash = Hash.from_string(self.node.chain.tip.blockhash)
        message = Message.new_with_blockhash([Instruction(MEMO, b"memo %d" % self.sent, [])], PAYER.pubkey(), blockhash)
        transaction = VersionedTransaction(message, [PAYER])
        assert self.node.chain.submit(transaction, bytes(transaction)) is None
        return str(transaction.signatures[0])

    async def stored_logs(self, signature: str) -> Any:
        return (await self.rpc("getTransaction", signature, CONFIRMED))["meta"]["logMessages"]


@contextlib.asynccontextmanager
async def subscribed(node: DevNode, *more: tuple[Any, ...]) -> AsyncIterator[Any]:
    """A socket that hears slots and whatever `more` names, as (method, *params)."""
    async with connect(node.ws_url) as socket:
        for method, *params in (("slotSubscribe",), *more):
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            json.loads(await socket.recv())["result"]
        yield socket


LOGS = ("logsSubscribe", "all", CONFIRMED)


async def heard(socket: Any, at_least: int = 0) -> list[dict[str, Any]]:
    """Notifications up to the next slot's, which a node sends after those of the block; and further until there are `at_least`."""
    found: list[dict[str, Any]] = []
    passed = False
    while not passed or len(found) < at_least:
        frame = json.loads(await socket.recv())
        if frame["method"] == "slotNotification":
            passed = True
        else:
            found.append({**frame["params"]["result"], "late": passed})
    return found


def of_each_block(
    sees: Callable[[Client, list[str], list[dict[str, Any]]], Awaitable[bool]], transactions: int = 1, at_least: int = 0
) -> Callable[[Client], Awaitable[Seen]]:
    """A scenario that lands transactions in a block and looks at the log notifications of each."""

    async def scenario(client: Client) -> Seen:
        seen = []
        async with subscribed(client.node, LOGS) as socket:
            for _ in range(TIMES):
                signatures = [client.land() for _ in range(transactions)]
                await client.node.advance()
                seen.append(await sees(client, signatures, await heard(socket, at_least)))
        return seen

    return scenario


def names(notes: list[dict[str, Any]]) -> list[str]:
    return [note["value"]["signature"] for note in notes]


async def phantom(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    strangers = set(names(notes)) - set(signatures)
    for stranger in strangers:
        assert await client.rpc("getTransaction", stranger, CONFIRMED) is None
    return bool(strangers)


async def forged_beside(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    if len(notes) == len(signatures):
        return False
    stored = [await client.stored_logs(signature) for signature in signatures]
    told = [note["value"]["logs"] for note in notes]
    assert all(logs in told for logs in stored), "the true ones are there too"
    assert set(names(notes)) == set(signatures)
    assert {note["context"]["slot"] for note in notes} == {client.node.chain.tip.slot}
    return any(logs not in stored for logs in told) or len(told) > len(stored)


async def forged_instead(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    assert names(notes) == signatures
    assert all(note["value"]["err"] is None for note in notes)
    return notes[0]["value"]["logs"] != await client.stored_logs(signatures[0])


async def another_slot(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    landed = (await client.rpc("getTransaction", signatures[0], CONFIRMED))["slot"]
    assert landed - notes[0]["context"]["slot"] in (0, 1)
    return bool(notes[0]["context"]["slot"] != landed)


async def silence(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    assert set(names(notes)) in (set(), set(signatures))
    assert await client.rpc("getTransaction", signatures[0], CONFIRMED) is not None
    return not notes


async def twice(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    assert notes[0] == notes[-1]
    return len(notes) == 2


async def disorder(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    assert set(names(notes)) == set(signatures)
    return names(notes) != signatures


async def late(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    assert names(notes) == signatures
    return bool(notes[0]["late"])


async def cut_logs(client: Client, signatures: list[str], notes: list[dict[str, Any]]) -> bool:
    stored = await client.stored_logs(signatures[0])
    assert "Log truncated" not in stored
    return bool(notes[0]["value"]["logs"][-1] == "Log truncated")


async def lost_accounts(client: Client) -> Seen:
    """A lost slot takes the account and program notifications with it."""
    seen = []
    account = ("accountSubscribe", str(PAYER.pubkey()), {"encoding": "base64", **CONFIRMED})
    program = ("programSubscribe", "1" * 32, {"encoding": "base64", **CONFIRMED})
    async with subscribed(client.node, LOGS, account, program) as socket:
        for _ in range(TIMES):
            client.land()
            await client.node.advance()
            notes = await heard(socket)
            assert len(notes) == 0 or len(notes) >= 3
            seen.append(not notes)
    return seen


def ended_sockets(with_close_frame: bool) -> Callable[[Client], Awaitable[Seen]]:
    async def scenario(client: Client) -> Seen:
        seen: Seen = []
        codes: set[int | None] = set()
        for _ in range(TIMES):
            async with subscribed(client.node) as socket:
                await client.node.advance()
                try:
                    await heard(socket)
                    await socket.send('{"jsonrpc":"2.0","id":2,"method":"rootSubscribe"}')
                    while "id" not in json.loads(await socket.recv()):
                        pass
                    seen.append(False)
                except ConnectionClosed as closed:
                    codes.add(None if closed.rcvd is None else closed.rcvd.code)
                    seen.append(True)
        assert codes <= ({1001} if with_close_frame else {None})
        return seen

    return scenario


async def deaf_sockets(client: Client) -> Seen:
    """The socket answers, and tells nothing of the slot after the one in which it was struck."""
    seen = []
    async with subscribed(client.node) as socket:
        for number in range(TIMES + 1):
            await client.node.advance()
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": 100 + number, "method": "rootSubscribe"}))
            methods = []
            while (frame := json.loads(await socket.recv())).get("id") != 100 + number:
                methods.append(frame["method"])
            seen.append("slotNotification" not in methods)
    return seen[1:]


async def short_lists(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        signature = client.land()
        await client.node.advance()
        rows = await client.rpc("getSignaturesForAddress", str(MEMO), CONFIRMED)
        seen.append(signature not in [row["signature"] for row in rows])
    await client.node.advance(4)
    rows = await client.rpc("getSignaturesForAddress", str(MEMO), CONFIRMED)
    assert len(rows) == TIMES, "what was missing at the tip came later"
    return seen


async def hidden_in_lists(client: Client) -> Seen:
    signatures = []
    for _ in range(TIMES):
        signatures.append(client.land())
        await client.node.advance()
    await client.node.advance(8)
    listed = {row["signature"] for row in await client.rpc("getSignaturesForAddress", str(MEMO), CONFIRMED)}
    for signature in signatures:
        assert await client.rpc("getTransaction", signature, CONFIRMED) is not None
    return [signature not in listed for signature in signatures]


async def invented_in_lists(client: Client) -> Seen:
    true, seen = set(), []
    for turn in range(TIMES):
        true.add(client.land())
        await client.node.advance()
        # A full page is no shelter: with a limit of two there is always more than fits.
        rows = await client.rpc("getSignaturesForAddress", str(MEMO), {"limit": 2, **CONFIRMED})
        assert len(rows) == 2 or turn == 0
        invented = {row["signature"] for row in rows} - true
        for signature in invented:
            assert await client.rpc("getTransaction", signature, CONFIRMED) is None
        seen.append(bool(invented))
    return seen


async def null_transactions(client: Client) -> Seen:
    signatures, seen = [], []
    for _ in range(TIMES):
        signatures.append(client.land())
        await client.node.advance()
        seen.append(await client.rpc("getTransaction", signatures[-1], CONFIRMED) is None)
    await client.node.advance(3)
    for signature in signatures:
        assert await client.rpc("getTransaction", signature, CONFIRMED) is not None
    return seen


async def null_logs(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        signature = client.land()
        await client.node.advance()
        meta = (await client.rpc("getTransaction", signature, CONFIRMED))["meta"]
        assert (meta["logMessages"] is None) == (meta["innerInstructions"] is None)
        seen.append(meta["logMessages"] is None)
    return seen


async def late_blocks(client: Client) -> Seen:
    slots, seen = [], []
    for _ in range(TIMES):
        slots.append(await client.node.advance())
        reply = await client.rpc("getBlock", slots[-1], CONFIRMED)
        assert "blockhash" in reply or reply["code"] == -32014
        seen.append("blockhash" not in reply)
    await client.node.advance(3)
    for slot in slots:
        assert "blockhash" in await client.rpc("getBlock", slot, CONFIRMED)
    return seen


async def limited_by_status(client: Client) -> Seen:
    replies = [await client.post("getSlot") for _ in range(TIMES)]
    assert all("retry-after" not in reply.headers for reply in replies)
    return [reply.status_code == 429 for reply in replies]


async def limited_by_code(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        reply = await client.post("getSlot")
        assert reply.status_code == 200
        seen.append(reply.json().get("error", {}).get("code") == 429)
    return seen


async def no_answer(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        try:
            await client.post("getSlot")
            seen.append(False)
        except httpx.RemoteProtocolError as error:
            seen.append("without sending a response" in str(error))
    return seen


async def cut_bodies(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        try:
            await client.post("getSlot")
            seen.append(False)
        except httpx.RemoteProtocolError as error:
            seen.append("without sending complete message body" in str(error))
    return seen


async def pieces(client: Client) -> Seen:
    """How a body comes in: the head, then nothing or a few pieces."""

    class Reader(asyncio.Protocol):
        def __init__(self) -> None:
            self.parts: list[bytes] = []
            self.done = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.parts.append(data)
            if data.endswith(b"\n"):
                self.done.set_result(None)

    body = b'{"jsonrpc":"2.0","id":1,"method":"getGenesisHash"}'
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    url = urlsplit(client.node.rpc_url)
    seen = []
    for _ in range(TIMES):
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(Reader, url.hostname, url.port)
        transport.write(head + body)
        await reader.done
        transport.close()
        assert json.loads(b"".join(reader.parts).split(b"\r\n\r\n", 1)[1])["result"]
        seen.append(len(reader.parts) > 2)
    return seen


async def no_json(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        reply = await client.post("getSlot")
        assert reply.status_code == 200
        try:
            seen.append("result" not in reply.json())
        except ValueError:
            seen.append(True)
    return seen


async def behind(client: Client) -> Seen:
    await client.node.advance(10)
    return [await client.rpc("getSlot", CONFIRMED) < client.node.chain.tip.slot for _ in range(TIMES)]


async def sick(client: Client) -> Seen:
    replies = [await client.rpc("getHealth") for _ in range(TIMES)]
    assert all(reply == "ok" or reply["data"]["numSlotsBehind"] == 50 for reply in replies)
    return [reply != "ok" for reply in replies]


async def refused(client: Client) -> Seen:
    signature = client.land()
    slot = await client.node.advance()
    seen = []
    for _ in range(TIMES // 4):
        for call in (
            ("getBlock", slot, CONFIRMED),
            ("getBlockTime", slot),
            ("getTransaction", signature, CONFIRMED),
            ("getSignaturesForAddress", str(MEMO), CONFIRMED),
        ):
            reply = await client.rpc(*call)
            is_refused = isinstance(reply, dict) and "code" in reply
            assert not is_refused or reply == {
                "code": -32019,
                "message": "Failed to query long-term storage; please try again",
            }
            seen.append(is_refused)
    return seen


async def pruned(client: Client) -> Seen:
    await client.node.advance(6)
    seen = []
    for _ in range(TIMES):
        before = await client.rpc("getFirstAvailableBlock")
        await client.node.advance()
        first = await client.rpc("getFirstAvailableBlock")
        if first > before:
            assert (await client.rpc("getBlock", first - 1, CONFIRMED))["code"] == -32001
        seen.append(first > before)
    return seen


async def skewed(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        slot = await client.node.advance()
        block_time = await client.rpc("getBlockTime", slot)
        true = GENESIS_UNIX_S + int(slot * 0.4)
        assert abs(block_time - true) <= 3_600
        seen.append(block_time != true)
    return seen


async def skipped(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        slot = await client.node.advance()
        await client.node.advance()
        after = await client.rpc("getBlocks", slot, CONFIRMED)
        seen.append(slot + 1 not in after)
    return seen


async def dying_blocks(client: Client) -> Seen:
    seen = []
    for _ in range(TIMES):
        slot = client.node.chain.working.slot
        signature = client.land()
        await client.node.advance()
        block = await client.rpc("getBlock", slot, CONFIRMED)
        await client.node.advance()
        found = await client.rpc("getTransaction", signature, CONFIRMED)
        dead = "blockhash" not in block
        # A fork after this block may have taken it too; a signature that landed again never stays in a slot that died.
        assert found is None or not dead or found["slot"] > slot
        seen.append(dead)
    return seen


SCENARIOS: dict[str, tuple[str, Callable[[Client], Awaitable[Seen]]]] = {
    "phantom-logs": ("", of_each_block(phantom)),
    "forged-logs": ("", of_each_block(forged_beside, transactions=1)),
    "forged-logs-only": ("", of_each_block(forged_instead)),
    "wrong-slot-logs": ("", of_each_block(another_slot)),
    "lost-notifications": ("", of_each_block(silence)),
    "repeated-notifications": ("", of_each_block(twice)),
    "reordered-notifications": ("", of_each_block(disorder, transactions=8)),
    "delayed-notifications": (",ms=15", of_each_block(late, at_least=1)),
    "lost-slots": ("", lost_accounts),
    "truncated-logs": ("", of_each_block(cut_logs)),
    "closed-sockets": ("", ended_sockets(with_close_frame=True)),
    "dropped-sockets": ("", ended_sockets(with_close_frame=False)),
    "silent-sockets": (",slots=1", deaf_sockets),
    "incomplete-lists": ("", short_lists),
    "null-transactions": ("", null_transactions),
    "null-logs": ("", null_logs),
    "late-blocks": ("", late_blocks),
    "http-429": ("", limited_by_status),
    "rpc-429": ("", limited_by_code),
    "timeouts": (",ms=5", no_answer),
    "slow-bodies": (",ms=10", pieces),
    "cut-bodies": ("", cut_bodies),
    "garbage": ("", no_json),
    "balancer": ("", behind),
    "unhealthy": ("", sick),
    "refusals": ("", refused),
    "pruned-history": (",slots=3", pruned),
    "hidden-signatures": ("", hidden_in_lists),
    "invented-signatures": ("", invented_in_lists),
    "clock-skew": (",slots=1", skewed),
    "skipped-slots": ("", skipped),
    "forks": (",depth=1", dying_blocks),
}
# A rate that is no chance: how many seconds.
RATES: dict[str, tuple[float, float]] = {"clock-skew": (3_600, 1_800)}


def played(fault: str, rate: float, seed: int) -> tuple[Seen, int, dict[str, int]]:
    """What the client saw, how often the fault struck, and all counters."""
    params, scenario = SCENARIOS[fault]

    async def play() -> tuple[Seen, int, dict[str, int]]:
        config = DevNodeConfig(slot_ms=0, seed=seed, genesis_unix_s=GENESIS_UNIX_S, finalized_lag_slots=3)
        async with DevNode(config) as node:
            client = Client(node)
            node.chain.airdrop(PAYER.pubkey(), 10**12)
            await node.advance(4)
            # As an operator does it at run time, and as the command line does it at the start.
            if rate:
                node.faults.set_text(fault, f"{rate}{params}")
            seen = await scenario(client)
            counts = await client_counts(client)
            await client.http.aclose()
            return seen, counts.get(fault, 0), counts

    return asyncio.run(asyncio.wait_for(play(), 300))


async def client_counts(client: Client) -> dict[str, int]:
    counts: dict[str, int] = await client.rpc("devnode_faultCounts")
    return counts


def test_every_fault_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(KINDS)


@pytest.mark.parametrize("fault", SCENARIOS)
def test_at_full_rate_the_client_sees_it_and_it_is_counted(fault: str) -> None:
    seen, struck, counts = played(fault, RATES.get(fault, (1, 0.5))[0], 1)
    assert seen.count(True) >= len(seen) - 2, seen
    assert struck >= seen.count(True)
    assert set(counts) == {fault}, "a fault counts as itself only"


@pytest.mark.parametrize("fault", SCENARIOS)
def test_the_same_seed_strikes_the_same_and_another_seed_otherwise(fault: str) -> None:
    rate = RATES.get(fault, (1, 0.5))[1]
    first, again, other = played(fault, rate, 7), played(fault, rate, 7), played(fault, rate, 8)
    assert first == again
    assert first[1] > 0
    if fault != "clock-skew":
        assert True in first[0]
        assert False in first[0]
        assert first[0] != other[0]


@pytest.mark.parametrize("fault", SCENARIOS)
def test_switched_off_it_does_nothing(fault: str) -> None:
    seen, struck, counts = played(fault, 0, 1)
    assert seen == [False] * len(seen)
    assert (struck, counts) == (0, {})


def test_two_skewed_clocks_of_one_seed_agree_and_of_two_seeds_do_not() -> None:
    async def times(seed: int) -> list[int]:
        config = DevNodeConfig(
            slot_ms=0, seed=seed, genesis_unix_s=GENESIS_UNIX_S, faults={"clock-skew": "3600,slots=2"}
        )
        async with DevNode(config) as node:
            return [node.chain.bank(await node.advance()).unix_s for _ in range(10)]  # type: ignore[union-attr]

    assert asyncio.run(times(1)) == asyncio.run(times(1)) != asyncio.run(times(2))


def control(*calls: tuple[Any, ...]) -> list[Any]:
    async def play() -> list[Any]:
        async with DevNode(DevNodeConfig(slot_ms=0, genesis_unix_s=GENESIS_UNIX_S)) as node:
            client = Client(node)
            found = [await client.rpc(*call) for call in calls]
            await client.http.aclose()
            return found

    return asyncio.run(asyncio.wait_for(play(), 300))


def test_the_control_methods_switch_faults_on_and_off_whatever_is_broken() -> None:
    on, listed, slot, off, after = control(
        ("devnode_setFault", "garbage", 1),
        ("devnode_faults",),
        ("devnode_faultCounts",),
        ("devnode_clearFaults",),
        ("getSlot",),
    )
    assert on == listed == {"garbage": {"rate": 1.0}}
    assert (slot, off, after) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (("no-such-fault", 1), "unknown fault"),
        (("garbage", 2), "is no rate"),
        (("garbage", -0.1), "is no rate"),
        (("garbage", True), "is no rate"),
        (("garbage", "1"), "is no rate"),
        (("garbage", 1, {"slots": 2}), "unknown parameter"),
        (("balancer", 1, {"slots": -1}), "is not a number"),
        (("refusals", 1, {"code": 32_004}), "is none of"),
    ],
)
def test_what_is_no_fault_is_refused_over_the_control_methods(params: tuple[Any, ...], words: str) -> None:
    error, settings = control(("devnode_setFault", *params), ("devnode_faults",))
    assert error["code"] == -32602
    assert words in error["message"]
    assert settings == {}


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "indexer", "devnode", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("value", ["nope=1", "garbage", "garbage=2", "garbage=x", "garbage=nan", "garbage=1,slots=2"])
def test_what_is_no_fault_ends_the_start_with_code_2(value: str) -> None:
    done = command_line("--rpc-port", "0", "--ws-port", "0", "--fault", value)
    assert done.returncode == 2, done
    assert value.split("=")[0] in done.stderr
    assert "Traceback" not in done.stderr
    if value.startswith("nope"):
        assert all(name in done.stderr for name in KINDS)


def test_the_listing_names_every_fault_with_its_units() -> None:
    done = command_line("--faults", "--json")
    listing = json.loads(done.stdout)
    assert set(listing) == set(KINDS)
    assert listing["timeouts"] == {
        "what": KINDS["timeouts"].summary,
        "rate": "chance for each HTTP request",
        "parameters": {"ms": 30_000.0},
    }
    assert listing["clock-skew"]["rate"] == "seconds at most"


@pytest.mark.parametrize(
    ("code", "call", "message"),
    [
        (32_009, ("getBlock", 0), "Slot 0 was skipped, or missing in long-term storage"),
        (32_009, ("getBlockTime", 0), "Slot 0 was skipped, or missing in long-term storage"),
        (32_011, ("getBlock", 0), "Transaction history is not available from this node"),
        (32_011, ("getTransaction", "1" * 64), "Transaction history is not available from this node"),
        (32_011, ("getSignaturesForAddress", str(MEMO)), "Transaction history is not available from this node"),
        (
            *(32_010, ("getProgramAccounts", str(MEMO))),
            f"{MEMO} excluded from account secondary indexes; this RPC method unavailable for key",
        ),
    ],
)
def test_other_kinds_of_nodes_refuse_in_their_words(code: int, call: tuple[Any, ...], message: str) -> None:
    _, error, slot = control(("devnode_setFault", "refusals", 1, {"code": code}), call, ("getSlot",))
    assert error == {"code": -code, "message": message}
    assert slot == 0


def test_a_retry_after_header_comes_when_it_is_asked_for() -> None:
    async def play() -> None:
        config = DevNodeConfig(slot_ms=0, faults={"http-429": "1,retry_after_s=7"})
        async with DevNode(config) as node, httpx.AsyncClient() as http:
            reply = await http.post(node.rpc_url, json={"jsonrpc": "2.0", "id": 1, "method": "getSlot"})
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")

    asyncio.run(play())


def test_one_named_signature_can_be_hidden_everywhere() -> None:
    async def play() -> None:
        config = DevNodeConfig(slot_ms=0, genesis_unix_s=GENESIS_UNIX_S)
        async with DevNode(config) as node:
            client = Client(node)
            node.chain.airdrop(PAYER.pubkey(), 10**12)
            await node.advance()
            hidden, shown = client.land(), client.land()
            slot = await node.advance()
            await client.rpc("devnode_setFault", "hidden-signatures", 0, {"everywhere": 1})
            await client.rpc("devnode_hideSignature", hidden)
            block = await client.rpc("getBlock", slot, {**CONFIRMED, "transactionDetails": "signatures"})
            listed = await client.rpc("getSignaturesForAddress", str(MEMO), CONFIRMED)
            assert block["signatures"] == [row["signature"] for row in listed] == [shown]
            assert await client.rpc("getTransaction", hidden, CONFIRMED) is None
            # Nor does a gap in the places betray it.
            found = await client.rpc("getTransaction", shown, CONFIRMED)
            assert [row["transactionIndex"] for row in (*listed, found)] == [0, 0]
            assert (await client_counts(client))["hidden-signatures"] >= 3
            await client.rpc("devnode_clearFaults")
            assert (await client.rpc("getTransaction", hidden, CONFIRMED))["transactionIndex"] == 0
            assert (await client.rpc("getTransaction", shown, CONFIRMED))["transactionIndex"] == 1
            await client.http.aclose()

    asyncio.run(asyncio.wait_for(play(), 300))


def test_delayed_frames_for_a_socket_that_is_closing_are_dropped() -> None:
    """A notification whose time comes when the close handshake is over and the connection is not has nowhere to go: that is no error."""

    def frame(opcode: int, payload: bytes) -> bytes:
        return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload

    async def play() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        faults = {"delayed-notifications": "1,ms=60", "closed-sockets": "1"}
        async with DevNode(DevNodeConfig(slot_ms=0, genesis_unix_s=GENESIS_UNIX_S, faults=faults)) as node:
            client = Client(node)
            node.chain.airdrop(PAYER.pubkey(), 10**12)
            url = urlsplit(node.ws_url)
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                frame(1, json.dumps({"jsonrpc": "2.0", "id": 1, "method": LOGS[0], "params": LOGS[1:]}).encode())
            )
            await reader.readuntil(b"}")
            client.land()
            await node.advance()
            # The close frame of the server, answered at once; the connection stays as long as this end does not let go.
            assert (await reader.readexactly(2))[0] == 0x88
            writer.write(frame(8, (1001).to_bytes(2, "big")))
            await asyncio.sleep(0.15)
            assert node.faults.counts["delayed-notifications"] >= 1
            writer.close()
            await client.http.aclose()
        assert errors == []

    asyncio.run(asyncio.wait_for(play(), 300))
