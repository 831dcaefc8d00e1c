"""Blocks as lists of accounts, lists of blocks, and what a pruned transaction says of its batch."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from indexer.core.protocol import BLOCK_CLEANED_UP, Failure, GetTransactions, Halted, Slot, Unproven
from indexer.core.watchdog import Watchdog
from indexer.edges import parse
from indexer.edges.parse import Garbage, Watched
from indexer.edges.rpc import RpcClient
from indexer.state import AUDIT_UNPROVEN_SHOWN_S, State

MINE, OTHER = "11111111111111111111111111111111", "Vote111111111111111111111111111111111111111"
WATCHED = Watched((MINE,))  # type: ignore[arg-type]


def block(*transactions: tuple[str, list[str]], parent: int = 6) -> bytes:
    """The shape of Agave's transactionDetails "accounts"."""
    entries = [
        {
            "meta": {"err": None, "fee": 5000},
            "transaction": {
                "accountKeys": [
                    {"pubkey": k, "signer": False, "source": "transaction", "writable": True} for k in keys
                ],
                "signatures": [signature],
            },
            "version": 0,
        }
        for signature, keys in transactions
    ]
    return json.dumps({"blockhash": "x", "parentSlot": parent, "blockTime": 1, "transactions": entries}).encode()


def test_accounts_tell_who_is_mentioned() -> None:
    found = parse.block_accounts(block(("a", [OTHER, MINE]), ("b", [OTHER])), Slot(7), WATCHED)
    assert found is not None
    assert found.mentions == (("a", frozenset({MINE})),)
    assert (found.transactions, found.parent_slot, found.contents, found.signatures) == (2, 6, None, None)
    assert parse.block_accounts(b"null", Slot(7), WATCHED) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"[]",
        b'{"parentSlot": 6}',
        block(parent=7),
        block(("a", [MINE])).replace(b'["a"]', b"[]"),
        b'{"parentSlot":',
    ],
)
def test_what_is_no_such_block_is_garbage(raw: bytes) -> None:
    with pytest.raises(Garbage):
        parse.block_accounts(raw, Slot(7), WATCHED)


def test_slots_are_those_of_the_range_in_order() -> None:
    assert parse.slots(b"[5, 6, 9]", Slot(5), Slot(9)) == (5, 6, 9)
    assert parse.slots(b"[]", Slot(5), Slot(9)) == ()
    for raw in (b"[4, 5]", b"[9, 10]", b"[6, 5]", b"[5, 5]", b"null", b'["5"]', b"[-1]"):
        with pytest.raises(Garbage):
            parse.slots(raw, Slot(5), Slot(9))


def test_a_pruned_transaction_is_said_to_be_and_not_just_missing() -> None:
    gone = Failure("cleaned up", BLOCK_CLEANED_UP)

    class Pruned(RpcClient):
        async def batch(self, calls: Any, read: Any, envelopes: Any = None) -> Any:
            return [None, Failure("not yet", -32014), gone]

    async def go() -> Any:
        async with Pruned(["http://127.0.0.1:9"], WATCHED) as client:
            return await client.get_transactions(GetTransactions(("a", "b", "c"), "confirmed"))

    assert asyncio.run(go()) == gone


def test_an_audit_that_stays_unproven_is_a_reason() -> None:
    state = State(started=True, leader=True, tip=Slot(5), sealed=Slot(5))

    def reasons(now_s: float) -> list[str]:
        return [found["reason"] for found in state.reasons(now_s, 150, None, Watchdog(), ingest=True)]

    state.audit(Unproven("the list does not join"), 0.0)
    state.audit(Unproven("the list does not join"), 50.0)
    assert reasons(AUDIT_UNPROVEN_SHOWN_S - 1) == []
    assert reasons(AUDIT_UNPROVEN_SHOWN_S + 1) == ["audit_unproven"]
    state.audit(Halted("pruned", "another endpoint"), 70.0)
    assert reasons(200.0) == ["audit_halted"]
