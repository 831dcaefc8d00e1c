"""Replay compares contents: what differs is replaced by what the chain holds, what a reply does not tell is no difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from indexer.core import replay
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    SLOT_SKIPPED,
    Block,
    Content,
    Correct,
    Done,
    Failure,
    GetBlock,
    GetBlocks,
    GetTransactions,
    Halted,
    Held,
    ListSignatures,
    Slot,
    Unproven,
)
from indexer.core.replay import Replay
from programs.transaction import InnerInstruction, RawTransaction
from tests.unit.core.scripted import A, B, Ledger, Node, chain, content, drive

S = Slot


def digest(raw: RawTransaction) -> bytes:
    return repr((raw.slot, raw.transaction_index, raw.signature, raw.err, raw.wire, raw.logs, raw.inner)).encode()


def ledger_of(*contents: Content, program: Any = A) -> Ledger:
    """A ledger that holds these."""
    it = Ledger()
    for position, each in enumerate(contents, 1):
        raw = each.raw
        row = Held(position, S(raw.slot), raw.transaction_index, raw.signature, raw.err, None, digest(raw))
        it.held.append((program, row))
        it.contents[position] = raw
    return it


def run(node: Node, ledger: Ledger, *, listed: bool = False, programs: Any = None) -> tuple[Any, Replay]:
    it = Replay(programs or {A: S(9)}, S(20), digest, listed=listed)
    return drive(it.run(), node, ledger), it


def node_of(**blocks: list[Content]) -> Node:
    return Node(chain(0, 30, **blocks), 30, finalized=30)


X, Y = content(12, 0, "x"), content(12, 1, "y")
MODES = pytest.mark.parametrize("listed", [False, True], ids=["every block", "listed"])


@MODES
def test_an_equal_ledger_is_equal(listed: bool) -> None:
    outcome, it = run(node_of(s12=[X, Y]), ledger_of(X, Y), listed=listed)
    assert isinstance(outcome, Done)
    assert it.tally.equal
    assert it.tally.compared == 2
    assert it.done == 20


@MODES
@pytest.mark.parametrize(
    "other",
    [
        content(12, 0, "x", logs=("Program data: Zm9yZ2Vk",)),
        content(12, 0, "x", wire=b"other"),
        content(12, 0, "x", inner=(InnerInstruction(0, 0, 1, b"", b"e", 2),)),
        content(12, 0, "x", err='"AccountInUse"'),
        content(12, 3, "x"),
    ],
    ids=["logs", "wire", "inner", "outcome", "place"],
)
def test_contents_that_differ_are_replaced_by_the_chains(listed: bool, other: Content) -> None:
    ledger = ledger_of(other, Y)
    _, it = run(node_of(s12=[X, Y]), ledger, listed=listed)
    assert (it.tally.corrected, it.tally.late, it.tally.retracted) == (1, 0, 0)
    assert not it.tally.equal
    assert it.tally.examples == ["other contents: x in slot 12"]
    correction = next(c for c in ledger.corrections if c.late)
    assert [row.raw for row in correction.late] == [X.raw]
    assert [row.position for row in correction.foreign] == [1]
    assert correction.differing == {1}


@MODES
def test_missing_and_foreign(listed: bool) -> None:
    ledger = ledger_of(content(12, 2, "foreign"), Y)
    _, it = run(node_of(s12=[X, Y]), ledger, listed=listed)
    assert (it.tally.late, it.tally.retracted, it.tally.corrected) == (1, 1, 0)
    correction = next(c for c in ledger.corrections if c.late)
    assert ([r.raw.signature for r in correction.late], [r.signature for r in correction.foreign]) == (
        ["x"],
        ["foreign"],
    )
    assert correction.differing == frozenset()


def test_what_a_list_hides_is_found_by_the_blocks_and_not_by_the_lists() -> None:
    hide = lambda r, n: tuple(e for e in n.entries(r.address) if e.signature != "x") if r.before is None else ()  # noqa: E731
    node = node_of(s11=[content(11, 0, "x")], s12=[Y])
    node.bends[ListSignatures] = hide
    assert run(node, ledger_of(Y))[1].tally.late == 1
    assert run(node, ledger_of(Y), listed=True)[1].tally.late == 0


@pytest.mark.parametrize(
    "told",
    [replace(X.raw, logs=None), replace(X.raw, logs=None, inner=None)],
    ids=["no logs", "nothing recorded"],
)
def test_what_a_reply_does_not_tell_is_no_difference(told: RawTransaction) -> None:
    ledger = ledger_of(X)
    node = node_of(s12=[structs.replace(X, raw=told)])
    _, it = run(node, ledger)
    assert it.tally.equal
    assert it.tally.unknown == 1
    assert not any(c.late or c.foreign for c in ledger.corrections)


@pytest.mark.parametrize("told", [X.raw.logs, ("Program data: Zm9yZ2Vk",)], ids=["true", "forged"])
def test_rows_of_a_trusted_socket_are_held_to_their_logs(told: tuple[str, ...]) -> None:
    ledger = ledger_of(structs.replace(X, raw=replace(X.raw, wire=b"", inner=None, logs=told)))
    address, row = ledger.held[0]
    ledger.held[0] = (address, structs.replace(row, unfetched_logs=told))
    assert run(node_of(s12=[X]), ledger)[1].tally.equal is (told == X.raw.logs)


def test_a_missing_stack_height_is_no_difference() -> None:
    mine = content(12, 0, "x", inner=(InnerInstruction(0, 0, 1, b"", b"e", 2),))
    told = content(12, 0, "x", inner=(InnerInstruction(0, 0, 1, b"", b"e", None),))
    assert run(node_of(s12=[told]), ledger_of(mine))[1].tally.equal


def test_a_block_of_another_slot_retracts_nothing_that_the_node_holds() -> None:
    node, other = node_of(s12=[X, Y]), node_of(s12=[content(12, 0, "z", B)])
    node.bends[GetBlock] = lambda r, n: other.plain(r) if r.slot == 12 else NotImplemented
    ledger = ledger_of(X, Y)
    outcome, _ = run(node, ledger)
    assert isinstance(outcome, Unproven)
    assert "which the node holds there" in outcome.reason
    assert not ledger.corrections


def test_where_the_rest_differs_what_is_unknown_stays_the_ledgers() -> None:
    told = replace(X.raw, logs=None, wire=b"true")
    ledger = ledger_of(X)
    node = node_of(s12=[structs.replace(X, raw=told)])
    _, it = run(node, ledger)
    assert it.tally.corrected == 1
    late = next(c for c in ledger.corrections if c.late).late[0].raw
    assert (late.wire, late.logs) == (b"true", X.raw.logs)


def test_a_row_whose_message_cannot_be_read_here_stays() -> None:
    """Its signature is in the block, and no key of it can be told: the list knew once."""
    node = node_of(s12=[content(12, 0, "future", B)])
    ledger = ledger_of(content(12, 0, "future"))
    _, it = run(node, ledger)
    assert it.tally.equal
    assert it.tally.unknown == 1


def test_a_row_of_two_programs_is_replaced_once_for_both() -> None:
    true, odd = content(12, 0, "x", A, B), content(12, 0, "x", wire=b"odd")
    ledger = ledger_of(odd)
    ledger.held.append((B, ledger.held[0][1]))
    _, it = run(node_of(s12=[true]), ledger, programs={A: S(9), B: S(9)})
    assert it.tally.corrected == 1
    correction = next(c for c in ledger.corrections if c.late)
    assert [row.programs for row in correction.late] == [frozenset({A, B})]
    assert len(correction.foreign) == 1


# ---- the chain of blocks ----


def test_a_block_that_the_list_of_blocks_leaves_out_is_read_all_the_same() -> None:
    node = node_of(s12=[X])
    node.bends[GetBlocks] = lambda r, n: tuple(s for s in n.plain(r) if s != 12)
    assert run(node, ledger_of())[1].tally.late == 1


def test_it_begins_at_the_genesis_whose_block_is_its_own_parent() -> None:
    node, ledger = node_of(s12=[X]), ledger_of(X)
    node.blocks[5] = []
    outcome, it = run(node, ledger, programs={A: S(-1)})
    assert isinstance(outcome, Done)
    assert it.tally.equal


def test_skipped_slots_are_passed() -> None:
    blocks = {slot: found for slot, found in chain(0, 30, s12=[X]).items() if slot not in (13, 14, 19, 20)}
    outcome, it = run(Node(blocks, 30, finalized=30), ledger_of(X))
    assert isinstance(outcome, Done)
    assert (it.done, it.tally.equal) == (20, True)


def test_a_block_whose_parent_is_another_proves_nothing() -> None:
    node = node_of(s12=[X])

    def odd(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        return structs.replace(reply, parent_slot=S(10)) if isinstance(reply, Block) and reply.slot == 15 else reply

    node.bends[GetBlock] = odd
    ledger = ledger_of(X)
    assert isinstance(run(node, ledger)[0], Unproven)
    assert not any(c.late or c.foreign for c in ledger.corrections)


def test_pruned_history_halts_and_retracts_nothing() -> None:
    node = node_of(s12=[X])
    node.bends[GetBlock] = lambda r, n: Failure("cleaned up", BLOCK_CLEANED_UP) if r.slot == 12 else NotImplemented
    ledger = ledger_of(X)
    outcome, _ = run(node, ledger)
    assert isinstance(outcome, Halted)
    assert not any(c.foreign for c in ledger.corrections)
    node.first_available = 15
    assert isinstance(run(node, ledger)[0], Halted)


def test_a_jumped_slot_is_not_taken_for_a_skipped_one() -> None:
    node = node_of(s12=[X])
    node.bends[GetBlock] = lambda r, n: Failure("jumped", SLOT_SKIPPED) if r.slot == 12 else NotImplemented
    ledger = ledger_of(X)
    assert isinstance(run(node, ledger, listed=True)[0], Unproven)
    assert not any(c.foreign for c in ledger.corrections)


# ---- commits ----


def test_it_goes_on_where_the_last_commit_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CORRECTIONS_TOGETHER", 1)
    monkeypatch.setattr(replay, "SLOTS_MAX", 2)
    node = node_of(s12=[X, Y], s18=[content(18, 0, "z")])
    node.bends[GetBlock] = lambda r, n: Failure("time-out") if r.slot == 18 else NotImplemented
    ledger = ledger_of()
    it = Replay({A: S(9)}, S(20), digest)
    it._slots = 2
    assert isinstance(drive(it.run(), node, ledger), Unproven)
    assert 12 <= it.done < 18
    assert it.tally.late == 2
    del node.bends[GetBlock]
    seen = len(node.log)
    assert isinstance(drive(it.run(), node, ledger), Done)
    assert it.done == 20
    assert it.tally.late == 3
    assert not any(isinstance(r, GetBlock) and r.slot <= 12 for r in node.log[seen:])
    assert [row.raw.signature for c in ledger.corrections for row in c.late] == ["x", "y", "z"]


def test_a_refused_correction_is_made_again() -> None:
    node, ledger = node_of(s12=[X]), ledger_of()
    it = Replay({A: S(9)}, S(20), digest)
    ledger.down_for = Correct
    assert isinstance(drive(it.run(), node, ledger), Unproven)
    ledger.down_for = None
    assert it.done == 9
    assert isinstance(drive(it.run(), node, ledger), Done)
    assert it.tally.late == 1


def test_null_logs_of_a_missing_row_are_asked_for_again() -> None:
    node = node_of(s12=[structs.replace(X, raw=replace(X.raw, logs=None))])
    node.bends[GetTransactions] = lambda r, n: tuple(X for _ in r.signatures)
    ledger = ledger_of()
    run(node, ledger)
    assert [row.raw for c in ledger.corrections for row in c.late] == [X.raw]
