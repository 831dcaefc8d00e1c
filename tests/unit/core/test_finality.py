"""I10: what was sealed at confirmed is compared at finalized, row by row, for each program by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from indexer.core.finality import Auditor, AuditPolicy
from indexer.core.protocol import (
    Done,
    Failure,
    GetBlock,
    GetSlot,
    Halted,
    Held,
    Listed,
    ListSignatures,
    Slot,
    Unproven,
)
from tests.unit.core.scripted import LOGS, A, B, Ledger, Node, auditor, chain, content, drive


def held(position: int, slot: int, signature: str, index: int = 0, **more: Any) -> Held:
    return Held(position, Slot(slot), index, signature, more.pop("err", None), **more)


def audit(node: Node, ledger: Ledger, cursors: Any = None, sealed: int = 20) -> Any:
    return drive(auditor(cursors or {A: 9}).audit(Slot(sealed)), node, ledger)


def finalized(**blocks: Any) -> Node:
    return Node(chain(0, 20, **blocks), 20, finalized=20)


def test_an_equal_range_is_sealed_as_finalized() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x"))])
    outcome = audit(finalized(s12=[content(12, 0, "x")]), ledger)
    assert outcome == Done(Slot(20))
    assert [(r.slot_first, r.slot_last) for c in ledger.corrections for r in c.ranges] == [(10, 20)]
    assert not ledger.corrections[0].late
    assert not ledger.corrections[0].foreign


def test_what_is_missing_is_appended_late() -> None:
    ledger = Ledger()
    outcome = audit(finalized(s12=[content(12, 0, "x")]), ledger)
    assert outcome.late == 1
    assert ledger.corrections[0].late[0].raw.signature == "x"


def test_what_died_is_retracted_after_its_block_has_spoken() -> None:
    ledger = Ledger(held=[(A, held(7, 12, "dead"))])
    node = finalized()
    outcome = audit(node, ledger)
    assert outcome.retracted == 1
    assert [h.position for h in ledger.corrections[0].foreign] == [7]
    assert [request.slot for request in node.asked(GetBlock)] == [12]


def test_a_list_that_lost_an_entry_retracts_nothing() -> None:
    ledger = Ledger(held=[(A, held(7, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x")])
    node.bends[ListSignatures] = lambda r, n: tuple(e for e in n.entries(A) if e.slot < 10) if r.before is None else ()
    it = auditor({A: 9})
    outcome = drive(it.audit(Slot(20)), node, ledger)
    assert outcome.retracted == 0
    assert it.tally.list_missed == 1


def test_a_changed_outcome_replaces_the_row() -> None:
    ledger = Ledger(held=[(A, held(7, 12, "x"))])
    outcome = audit(finalized(s12=[content(12, 0, "x", err='"AccountInUse"')]), ledger)
    assert (outcome.late, outcome.retracted) == (1, 1)


def test_a_moved_transaction_replaces_the_row() -> None:
    ledger = Ledger(held=[(A, held(7, 12, "x"))])
    outcome = audit(finalized(s13=[content(13, 0, "x")]), ledger)
    assert (outcome.late, outcome.retracted) == (1, 1)
    assert ledger.corrections[-1].late[0].raw.slot == 13


def test_a_late_row_is_of_the_programs_that_lack_it_only() -> None:
    """A program that has its row already must not get a second one through another's gap."""
    ledger = Ledger(held=[(A, held(1, 12, "x"))])
    audit(finalized(s12=[content(12, 0, "x", A, B)]), ledger, {A: 9, B: 9})
    assert [row.programs for row in ledger.corrections[0].late] == [frozenset({B})]


def test_programs_at_different_cursors_get_only_what_is_theirs() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x"))])
    audit(finalized(s12=[content(12, 0, "x", A, B)]), ledger, {A: 15, B: 9})
    rows = [row for c in ledger.corrections for row in c.late]
    assert [row.programs for row in rows] == [frozenset({B})]


@pytest.mark.parametrize(
    "lie",
    [
        lambda e: structs.replace(e, err='"AccountInUse"'),
        lambda e: structs.replace(e, transaction_index=e.transaction_index + 1),
    ],
    ids=["outcome", "index"],
)
def test_a_list_that_is_wrong_about_a_row_replaces_nothing(lie: Callable[[Listed], Listed]) -> None:
    """The block has the last word: where it says what the row says, the list is wrong and the row stays."""
    ledger = Ledger(held=[(A, held(7, 12, "x")), (B, held(7, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x", A, B)])
    node.bends[ListSignatures] = lambda r, n: (
        tuple(lie(e) if e.slot == 12 else e for e in n.entries(r.address)) if r.before is None else NotImplemented
    )
    it = auditor({A: 9, B: 9})
    outcome = drive(it.audit(Slot(20)), node, ledger)
    assert outcome == Done(Slot(20))
    assert not [c for c in ledger.corrections if c.late or c.foreign]
    assert it.tally.list_wrong == 1


def test_a_wrong_list_saves_no_contents_of_the_socket_that_the_block_contradicts() -> None:
    ledger = Ledger(held=[(A, held(7, 12, "x", unfetched_logs=("forged",)))])
    node = finalized(s12=[content(12, 0, "x")])
    node.bends[ListSignatures] = lambda r, n: (
        tuple(structs.replace(e, err='"AccountInUse"') for e in n.entries(A)) if r.before is None else NotImplemented
    )
    outcome = audit(node, ledger)
    assert (outcome.late, outcome.retracted) == (1, 1)


def test_a_list_that_names_another_programs_transaction_appends_nothing() -> None:
    """All keys of the message are known and the program is not among them: the list is wrong, however often it says so."""
    ledger = Ledger(held=[(B, held(1, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x", B)])
    node.bends[ListSignatures] = lambda r, n: (
        tuple(n.entries(B)) if r.address == A and r.before is None else NotImplemented
    )
    outcome = audit(node, ledger, {A: 9, B: 9})
    assert outcome == Done(Slot(20))
    assert not [row for c in ledger.corrections for row in c.late]


def test_a_list_is_believed_where_the_keys_are_not_all_known() -> None:
    """A message whose loaded keys the node does not tell may mention the program all the same: the list says that it does."""
    ledger = Ledger(held=[(B, held(1, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x", B, wire=b"")])
    node.bends[ListSignatures] = lambda r, n: (
        tuple(n.entries(B)) if r.address == A and r.before is None else NotImplemented
    )
    outcome = audit(node, ledger, {A: 9, B: 9})
    assert outcome.late == 1
    assert [row.programs for c in ledger.corrections for row in c.late] == [frozenset({A})]


def test_a_block_of_another_slot_retracts_nothing_that_the_node_holds() -> None:
    """A proxy that caches blocks under the wrong key: its block lacks the row, and asked by name the node has it in that very slot."""
    ledger = Ledger(held=[(A, held(7, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x")])
    node.bends[ListSignatures] = lambda r, n: tuple(e for e in n.entries(A) if e.slot < 10) if r.before is None else ()
    node.bends[GetBlock] = lambda r, n: (
        structs.replace(n.plain(structs.replace(r, slot=Slot(11))), slot=r.slot) if r.slot == 12 else NotImplemented
    )
    outcome = audit(node, ledger)
    assert isinstance(outcome, Unproven)
    assert "which the node holds there" in outcome.reason
    assert not ledger.corrections


@pytest.mark.parametrize("sample", [True, False], ids=["sampled", "hinted"])
def test_a_block_of_another_slot_adds_nothing_that_is_elsewhere(sample: bool) -> None:
    ledger = Ledger(held=[(A, held(7, 12, "x"))])
    node = finalized(s12=[content(12, 0, "x")])
    cached = finalized(s14=[content(14, 0, "x")])
    node.bends[GetBlock] = lambda r, n: cached.plain(r) if r.slot == 14 else NotImplemented
    if sample:
        it = Auditor({A: Slot(9)}, AuditPolicy(sample=1.0))
        outcome = drive(it.audit(Slot(20)), node, ledger)
    else:
        it = auditor({A: 20})
        outcome = drive(it.examine(Slot(14), frozenset({"x"}), {A: Slot(20)}, "confirmed"), node, ledger)
    assert isinstance(outcome, Unproven)
    assert "slot 12" in outcome.reason
    assert not ledger.corrections
    assert not ledger.late


def test_a_node_of_another_chain_is_not_believed() -> None:
    """What was sealed at finalized can't die: a node whose finalized block lacks it is of another chain, whatever its genesis hash says. All that
    the ledger holds above would look like a dead fork to it."""
    ledger = Ledger(held=[(A, held(1, 5, "ours")), (A, held(2, 12, "x"))])
    node = finalized(s13=[content(13, 0, "theirs")])
    it = auditor({A: 9})
    for _ in range(5):
        outcome = drive(it.audit(Slot(20)), node, ledger)
        assert isinstance(outcome, Halted)
        assert "another chain" in outcome.reason
        assert "replay" in outcome.remedy
    assert not ledger.corrections
    ours = finalized(s5=[content(5, 0, "ours")], s12=[content(12, 0, "x")])
    assert drive(it.audit(Slot(20)), ours, ledger) == Done(Slot(20))


def test_nothing_is_compared_beyond_what_is_sealed() -> None:
    ledger = Ledger()
    assert audit(finalized(), ledger, sealed=13) == Done(Slot(13))
    assert ledger.corrections[-1].ranges[0].slot_last == 13


def test_a_pruned_node_halts_the_audit_and_retracts_nothing() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x"))])
    node = finalized()
    node.first_available = 15
    outcome = audit(node, ledger)
    assert isinstance(outcome, Halted)
    assert "endpoint" in outcome.remedy
    assert not ledger.corrections


def test_a_block_that_is_not_served_decides_nothing() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x"))])
    node = finalized()
    node.bends[GetBlock] = lambda r, n: Failure("time-out")
    assert isinstance(audit(node, ledger), Unproven)
    assert not ledger.corrections


def test_a_finalized_tip_that_cannot_be_read_decides_nothing() -> None:
    node = finalized()
    node.bends[GetSlot] = lambda r, n: Failure("time-out")
    assert isinstance(audit(node, Ledger()), Unproven)


# ---- rows with the socket's contents ----


def test_socket_contents_that_the_block_confirms_stay() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x", unfetched_logs=LOGS))])
    outcome = audit(finalized(s12=[content(12, 0, "x")]), ledger)
    assert outcome == Done(Slot(20))


def test_socket_contents_that_the_block_contradicts_are_replaced() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x", unfetched_logs=("Program data: Zm9yZ2Vk",)))])
    it = auditor({A: 9})
    outcome = drive(it.audit(Slot(20)), finalized(s12=[content(12, 0, "x")]), ledger)
    assert (outcome.late, outcome.retracted) == (1, 1)
    assert ledger.corrections[0].late[0].raw == content(12, 0, "x").raw
    assert it.tally.forged == 1


def test_socket_contents_that_cannot_be_compared_hold_the_finalized_seal() -> None:
    ledger = Ledger(held=[(A, held(1, 12, "x", unfetched_logs=LOGS))])
    node = finalized(s12=[content(12, 0, "x")])
    node.bends[GetBlock] = lambda r, n: Failure("time-out")
    assert isinstance(audit(node, ledger), Unproven)
    assert not ledger.corrections
