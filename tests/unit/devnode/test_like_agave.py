"""Rules of the real node that need a long history, or a state that no request shows. Each was seen on Agave 4.1.2."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from programs.devnode.chain import Chain
from programs.devnode.config import DevNodeConfig
from programs.devnode.faults import FaultEngine
from programs.devnode.parsed import parsed_instruction
from programs.devnode.pubsub import PubSub
from programs.devnode.rpc import RpcService
from programs.devnode.rpc_ledger import STATUS_CACHE_SLOTS

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
SOL = 10**9
START = 1_700_000_000


class Node:
    """A chain and its methods, without sockets or clock."""

    def __init__(self) -> None:
        self.chain = Chain(DevNodeConfig(slot_ms=0), START)
        self.rpc = RpcService(self.chain, FaultEngine(0))
        self.payer = Keypair()
        self.chain.airdrop(self.payer.pubkey(), SOL)
        self.advance()

    def advance(self, slots: int = 1) -> None:
        for _ in range(slots):
            self.chain.finish_slot(START)

    def ask(self, method: str, *params: Any, **members: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params), **members}
        return json.loads(self.rpc.answer(json.dumps(body).encode()))

    def signed(self, *instructions: Instruction) -> VersionedTransaction:
        blockhash = Hash.from_string(self.chain.tip.blockhash)
        message = Message.new_with_blockhash(instructions, self.payer.pubkey(), blockhash)
        return VersionedTransaction(message, [self.payer])

    def land(self, transaction: VersionedTransaction) -> str:
        self.chain.submit(transaction, bytes(transaction))
        self.advance()
        return str(transaction.signatures[0])

    def status(self, signature: str, **options: Any) -> Any:
        (found,) = self.ask("getSignatureStatuses", [signature], *([options] if options else []))["result"]["value"]
        return found


PARSED_PROGRAMS = (
    *("1" * 32, "Vote111111111111111111111111111111111111111", "Stake11111111111111111111111111111111111111"),
    *("BPFLoader2111111111111111111111111111111111", "BPFLoaderUpgradeab1e11111111111111111111111"),
    *("AddressLookupTab1e1111111111111111111111111", "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"),
    *("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL", "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"),
)


def memo(text: str) -> Instruction:
    return Instruction(MEMO, text.encode(), [])


def test_statuses_are_remembered_for_300_finalized_slots() -> None:
    node = Node()
    signature = node.land(node.signed(memo("old")))
    slot = node.status(signature)["slot"]
    node.advance(STATUS_CACHE_SLOTS + slot + node.chain.config.finalized_lag_slots - node.chain.tip.slot - 1)
    assert node.status(signature)["slot"] == slot
    node.advance()
    assert node.status(signature) is None
    assert node.status(signature, searchTransactionHistory=False) is None
    assert node.status(signature, searchTransactionHistory=True)["slot"] == slot


def test_a_signature_that_is_forgotten_is_not_notified() -> None:
    node = Node()
    pubsub = PubSub(node.chain, node.rpc, FaultEngine(0))
    signature = node.land(node.signed(memo("old")))
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "signatureSubscribe", "params": [signature]})
    node.advance(40)
    assert len(pubsub.answer(1, request)[1]) == 1
    node.advance(STATUS_CACHE_SLOTS)
    assert pubsub.answer(2, request)[1] == []


@pytest.mark.parametrize("heard_by", ["nobody", "all", "the payer's friends", "others"])
def test_logs_are_kept_for_those_who_listen_when_a_transaction_runs(heard_by: str) -> None:
    """No catch-up: who comes later hears of a block that is not final yet only what somebody wanted to hear when it ran."""
    node = Node()
    pubsub = PubSub(node.chain, node.rpc, FaultEngine(0))
    mentions = {"the payer's friends": node.payer.pubkey(), "others": Keypair().pubkey()}

    def subscribe(connection: int, what: Any, commitment: str) -> None:
        params = [what, {"commitment": commitment}]
        pubsub.answer(connection, json.dumps({"jsonrpc": "2.0", "id": 1, "method": "logsSubscribe", "params": params}))

    # Somebody who has left by then does not count.
    subscribe(7, "all", "processed")
    pubsub.forget(7)
    if heard_by != "nobody":
        subscribe(1, {"mentions": [str(mentions[heard_by])]} if heard_by in mentions else "all", "processed")
    signature = node.land(node.signed(memo("quiet")))
    pubsub.deliveries(list(node.chain.happenings))
    node.chain.happenings.clear()
    subscribe(2, {"mentions": [str(node.payer.pubkey())]}, "finalized")
    subscribe(3, "all", "finalized")
    node.advance(40)
    late = pubsub.deliveries(list(node.chain.happenings))
    told = {number for one in late if signature.encode() in one.payload for number in one.connections}
    # Who wants everything gets whatever was kept; an address is known only where somebody listened for it.
    assert told & {2, 3} == {"all": {3}, "the payer's friends": {2, 3}}.get(heard_by, set())


def test_what_was_pruned_is_spoken_of_as_by_a_validator_that_cleaned_its_ledger() -> None:
    """Seen on a validator that was started anew with a limit of 60 shreds: 761 was the lowest root, 762 skipped, 763 the first block."""
    node = Node()
    signature = node.land(node.signed(memo("old")))
    node.advance(10)
    parent = node.chain.tip.slot
    node.chain.finish_slot(START, skip=2)
    first = node.chain.working.slot
    node.advance(node.chain.config.finalized_lag_slots + 5)
    node.chain.prune_below(first)
    assert node.ask("getFirstAvailableBlock")["result"] == first
    assert node.ask("minimumLedgerSlot")["result"] == parent + 1 == first - 3

    def answers(method: str, slot: int) -> Any:
        reply = node.ask(method, slot)
        return reply.get("error", {}).get("code") or type(reply["result"]).__name__

    for method, found in (("getBlock", "dict"), ("getBlockTime", "int")):
        assert [answers(method, slot) for slot in (1, parent, first - 3, first - 2, first - 1, first)] == [
            *(-32001, -32001, -32001, -32007, -32007, found)
        ]
    assert answers("getBlock", 0) == -32001
    assert node.ask("getBlockTime", 0)["result"] == START
    message = f"Block 1 cleaned up, does not exist on node. First available block: {first}"
    assert node.ask("getBlock", 1)["error"]["message"] == message
    # Lists begin where the history does, and a place before it is not found.
    payer = str(node.payer.pubkey())
    assert node.ask("getBlocks", 0)["result"][0] == first
    assert node.ask("getBlocksWithLimit", 0, 1)["result"] == [first]
    assert node.ask("getSignaturesForAddress", payer)["result"] == []
    for name in ("before", "until"):
        assert node.ask("getSignaturesForAddress", payer, {name: signature})["error"]["code"] == -32020
    assert node.ask("getTransaction", signature)["result"] is None
    assert node.status(signature, searchTransactionHistory=True) is None


def test_an_account_may_not_be_left_below_its_rent() -> None:
    node = Node()
    poor = Keypair().pubkey()
    before = node.chain.machine.account(node.payer.pubkey())
    assert before is not None
    gift = TransferParams(from_pubkey=node.payer.pubkey(), to_pubkey=poor, lamports=1)
    signature = node.land(node.signed(memo("first"), transfer(gift)))
    assert node.status(signature)["err"] == {"InsufficientFundsForRent": {"account_index": 1}}
    # The fee is gone, and nothing else has happened.
    after = node.chain.machine.account(node.payer.pubkey())
    assert after is not None
    assert after.lamports == before.lamports - 5_000
    assert node.chain.machine.account(poor) is None


def test_other_contents_under_a_known_signature_are_new_to_the_node() -> None:
    node = Node()
    true = node.signed(memo("vote A"))
    node.land(true)
    forged = VersionedTransaction.populate(node.signed(memo("vote B")).message, list(true.signatures))
    options = {"encoding": "base64", "commitment": "confirmed"}
    replay, false = (
        node.ask("simulateTransaction", base64.b64encode(bytes(transaction)).decode(), options)["result"]["value"]
        for transaction in (true, forged)
    )
    assert replay["err"] == "AlreadyProcessed"
    assert false["err"] is None
    assert 'Program log: Memo (len 6): "vote B"' in false["logs"]


def test_a_notification_is_not_even_performed() -> None:
    node = Node()
    wire = base64.b64encode(bytes(node.signed(memo("unasked")))).decode()
    body = {"jsonrpc": "2.0", "method": "sendTransaction", "params": [wire, {"encoding": "base64"}]}
    count = node.chain.transaction_count
    assert node.rpc.answer(json.dumps(body).encode()) == b""
    assert node.chain.transaction_count == count
    assert "result" in node.ask("sendTransaction", wire, {"encoding": "base64", "preflightCommitment": "confirmed"})
    assert node.chain.transaction_count == count + 1


def test_the_priority_fee_counts_3000_units_for_a_builtin() -> None:
    node = Node()
    budget = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
    price = Instruction(budget, b"\x03" + (1_000_000).to_bytes(8, "little"), [])
    move = transfer(TransferParams(from_pubkey=node.payer.pubkey(), to_pubkey=node.payer.pubkey(), lamports=1))
    message = base64.b64encode(bytes(node.signed(price, move).message)).decode()
    assert node.ask("getFeeForMessage", message, {"commitment": "confirmed"})["result"]["value"] == 5_000 + 6_000


def test_blocks_are_told_to_who_subscribes_where_that_is_switched_on() -> None:
    chain = Chain(DevNodeConfig(slot_ms=0, block_subscription=True), START)
    rpc = RpcService(chain, FaultEngine(0))
    pubsub = PubSub(chain, rpc, FaultEngine(0))
    wallet = Keypair().pubkey()
    request = {"jsonrpc": "2.0", "id": 1, "method": "blockSubscribe"}
    params = ["all", {"commitment": "confirmed", "transactionDetails": "signatures"}]
    reply, _ = pubsub.answer(1, json.dumps({**request, "params": params}))
    signature = chain.airdrop(wallet, SOL)
    slot = chain.finish_slot(START).slot
    told = [json.loads(delivery.payload) for delivery in pubsub.deliveries(list(chain.happenings))]
    (note,) = [note for note in told if note["method"] == "blockNotification"][-1:]
    assert note["params"]["subscription"] == json.loads(reply)["result"]
    value = note["params"]["result"]["value"]
    assert (value["slot"], value["err"]) == (slot, None)
    assert value["block"]["signatures"] == [signature]


@pytest.mark.parametrize("program", PARSED_PROGRAMS)
def test_no_bytes_trip_the_parser_of_instructions(program: str) -> None:
    """What solders raises about a short address is no Exception: it would end the node, not the request."""
    dice = random.Random(program)
    accounts = [str(Pubkey.new_unique()) for _ in range(8)]
    for _ in range(3_000):
        head = bytes((dice.randrange(40),)) + (bytes(3) if dice.random() < 0.5 else b"")
        data = head + dice.randbytes(dice.randrange(120))
        shown = parsed_instruction(program, accounts[: dice.randrange(9)], data[: dice.randrange(len(data) + 1)], 1)
        assert ("parsed" in shown) != ("data" in shown)
        json.dumps(shown)
