"""A list must come down to the last row that the ledger holds; a node's history must have no hole; where lists fail, blocks are read."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from msgspec.structs import replace

from indexer.core import blocks
from indexer.core.blocks import HOLES_MAX
from indexer.core.finality import Auditor
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    METHOD_NOT_FOUND,
    SAW_LIST,
    SLOT_SKIPPED,
    Block,
    Done,
    Failure,
    GetBlock,
    GetBlocks,
    Halted,
    Held,
    ListSignatures,
    ReadLastListed,
    Slot,
    Unproven,
)
from tests.unit.core.scripted import A, B, Ledger, Node, chain, content, drive, held_row, sealer

BLOCKS = chain(0, 20, s8=[content(8, 0, "last")], s12=[content(12, 0, "x")])


def lists(*signatures: str) -> Any:
    """The node lists these and no others."""

    def bend(request: ListSignatures, node: Node) -> Any:
        found = [e for e in node.entries(request.address) if e.signature in signatures]
        names = [e.signature for e in found]
        start = names.index(request.before) + 1 if request.before in names else len(found) * bool(request.before)
        return tuple(found[start : start + request.limit])

    return bend


def tick(node: Node, *rows: Held, times: int = 1, **policy: Any) -> tuple[Any, Ledger, Any]:
    it, ledger = sealer(**policy), Ledger(held=[(A, row) for row in rows])
    outcome: Any = None
    for _ in range(times):
        outcome = drive(it.tick(), node, ledger)
    return outcome, ledger, it


LAST = held_row(1, 8, "last")


def test_a_list_that_reaches_the_last_row_is_sealed_without_another_call() -> None:
    node = Node(dict(BLOCKS), 20)
    outcome, ledger, _ = tick(node, LAST)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]
    assert len(node.asked(ListSignatures)) == 1


@pytest.mark.parametrize("shown", [(), ("x",), ("x", "before"), ("before",)], ids=["empty", "short", "passes", "older"])
def test_a_list_that_lacks_the_last_row_is_incomplete(shown: tuple[str, ...]) -> None:
    node = Node(dict(BLOCKS), 20, bends={ListSignatures: lists(*shown)})
    outcome, ledger, it = tick(node, LAST)
    assert isinstance(outcome, Unproven)
    assert "last of slot 8: it is incomplete" in outcome.reason
    assert not ledger.plans
    assert it.sealed == 9
    assert it.tally.lists_unjoined == 1


def test_when_the_list_stays_so_the_blocks_are_read_instead() -> None:
    node = Node(dict(BLOCKS), 20, bends={ListSignatures: lists()})
    outcome, ledger, it = tick(node, LAST, times=3, by_block_slots_max=5)
    assert outcome == Done(Slot(14), 1)
    assert ledger.signatures == ["x"]
    assert not ledger.rows[0].witnesses & SAW_LIST
    assert it.tally.by_block == 5
    assert drive(it.tick(), node, ledger) == Done(Slot(19))


def test_by_block_a_stretch_of_dead_slots_is_passed_however_long_it_is() -> None:
    """Found by the simulator, seed 9873: the slots of a fork that had died had no block, and so many were never read at once."""
    blocks = {**chain(0, 9, s8=[content(8, 0, "last")]), **chain(40, 60, s41=[content(41, 0, "x")])}
    node = Node(blocks, 60, bends={ListSignatures: lists()})
    it, ledger = sealer(by_block_slots_max=16, unjoined_max=1), Ledger(held=[(A, LAST)])
    assert drive(it.tick(), node, ledger) == Done(Slot(25))
    assert drive(it.tick(), node, ledger) == Done(Slot(41), 1)
    # That the next slots have no block is said by the parent of one behind them, not by a refusal.
    node.bends[GetBlock] = lambda r, n: Failure("not available", SLOT_SKIPPED) if 41 < r.slot < 60 else NotImplemented
    assert isinstance(drive(it.tick(), node, ledger), Unproven)
    assert it.sealed == 41


def test_what_a_list_names_all_the_same_is_where_the_next_one_joins() -> None:
    """An index that lost what is old: the blocks carry over to the first row that it names again."""
    node = Node(dict(BLOCKS), 20, bends={ListSignatures: lists("x")})
    outcome, ledger, it = tick(node, LAST, times=3)
    assert isinstance(outcome, Done)
    assert ledger.rows[0].witnesses & SAW_LIST
    node.blocks.update(chain(21, 24, s22=[content(22, 0, "y")]))
    node.tip = 24
    node.bends[ListSignatures] = lists("x", "y")
    assert drive(it.tick(), node, ledger) == Done(Slot(24), 1)
    assert it.tally.lists_unjoined == 3


def test_by_block_it_can_begin_at_the_genesis() -> None:
    found = blocks.read_down(Slot(20), Slot(-1), "confirmed", 2)
    node, reply = Node(dict(BLOCKS), 20), None
    with contextlib.suppress(StopIteration):
        while True:
            reply = node.answer(found.send(reply))
    assert [r.slot for r in node.asked(GetBlock)] == list(range(20, -1, -1))


def test_by_block_a_hole_between_the_blocks_is_not_passed() -> None:
    node = Node(dict(BLOCKS), 20, bends={ListSignatures: lists()})
    node.bends[GetBlock] = lambda r, n: Failure("gone", SLOT_SKIPPED) if r.slot == 12 else NotImplemented
    outcome, ledger, it = tick(node, LAST, times=3)
    assert isinstance(outcome, Unproven)
    assert "slot 12" in outcome.reason
    assert not ledger.plans
    assert it.sealed == 9


def test_by_block_a_block_of_another_slot_passes_over_nothing_that_is_listed() -> None:
    """Its parent is another's parent: the slots in between would be sealed as if they had been skipped."""
    node = Node(chain(0, 20, s8=[content(8, 0, "last")], s12=[content(12, 0, "x")], s18=[content(18, 0, "y")]), 20)
    node.bends[ListSignatures] = lists("x", "y")
    node.bends[GetBlock] = lambda r, n: (
        replace(n.plain(replace(r, slot=Slot(15))), slot=Slot(20))
        if r.slot == 20 and r.details == "full"
        else NotImplemented
    )
    outcome, ledger, it = tick(node, LAST, times=4)
    assert isinstance(outcome, Unproven)
    assert "passes over slot 18" in outcome.reason
    assert not ledger.plans
    del node.bends[GetBlock]
    assert isinstance(drive(it.tick(), node, ledger), Done)
    assert ledger.signatures == ["x", "y"]


def test_a_row_that_died_with_its_fork_need_not_be_listed() -> None:
    blocks = dict(BLOCKS)
    blocks[8] = []
    outcome, ledger, _ = tick(Node(blocks, 20), held_row(1, 5, "before"), held_row(2, 8, "dead"))
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]


def test_a_node_that_holds_none_of_many_last_rows_is_of_another_chain() -> None:
    """No fork is that deep. Its blocks fit together too, so they must not be read in the list's place, however often it is tried."""
    theirs = chain(0, 120, **{f"s{slot}": [content(slot, 0, f"theirs{slot}")] for slot in range(6, 120)})
    it, ledger = sealer({A: 99}), Ledger(held=[(A, held_row(slot, slot, f"ours{slot}")) for slot in range(10, 100)])
    for _ in range(6):
        outcome = drive(it.tick(), Node(theirs, 119), ledger)
        assert isinstance(outcome, Halted)
        assert "another chain" in outcome.reason
    assert not ledger.plans


def test_a_row_whose_slot_was_skipped_need_not_be_listed() -> None:
    blocks = dict(BLOCKS)
    del blocks[8]
    outcome, _, _ = tick(Node(blocks, 20), held_row(1, 5, "before"), held_row(2, 8, "dead"))
    assert isinstance(outcome, Done)


def test_a_refusal_alone_does_not_show_that_the_row_is_dead() -> None:
    """-32007 is also said of what the node has jumped over; the block behind names its parent."""
    node = Node(dict(BLOCKS), 20, bends={ListSignatures: lists("x", "before")})
    node.bends[GetBlock] = lambda r, n: Failure("skipped", SLOT_SKIPPED) if r.slot == 8 else NotImplemented
    outcome, ledger, _ = tick(node, held_row(1, 5, "before"), LAST)
    assert isinstance(outcome, Unproven)
    assert "not shown to be skipped" in outcome.reason
    assert not ledger.plans


def test_history_that_the_node_has_pruned_need_not_be_listed() -> None:
    """A node that keeps little, restarted: its list ends above what the ledger holds, and its first block lies above it too."""
    node = Node(dict(BLOCKS), 20, first_available=10, bends={ListSignatures: lists("x")})
    node.bends[GetBlock] = lambda r, n: Failure("cleaned up", BLOCK_CLEANED_UP) if r.slot < 10 else NotImplemented
    outcome, ledger, _ = tick(node, LAST)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]


def test_an_empty_ledger_has_nothing_to_join() -> None:
    outcome, _, _ = tick(Node(chain(0, 20, s5=[]), 20))
    assert isinstance(outcome, Done)


def test_a_program_without_rows_costs_the_ledger_one_question() -> None:
    """Rows are found by slot: in a busy ledger the question for a quiet program's last row reads many."""
    it, ledger = sealer(), Ledger(down_for=None)
    node = Node(chain(0, 20, s5=[]), 20)
    drive(it.tick(), node, ledger)
    ledger.down_for = ReadLastListed
    node.blocks.update(chain(21, 22))
    node.tip = 22
    assert drive(it.tick(), node, ledger) == Done(Slot(22))


def test_each_program_joins_by_itself() -> None:
    it = sealer({A: 9, B: 9})
    ledger = Ledger(held=[(A, LAST), (B, held_row(2, 7, "other"))])
    blocks = {**BLOCKS, 7: [content(7, 0, "other", B)]}
    hide = lambda r, n: tuple(e for e in n.entries(r.address) if e.signature != "other") if r.before is None else ()  # noqa: E731
    outcome = drive(it.tick(), Node(blocks, 20, bends={ListSignatures: hide}), ledger)
    assert isinstance(outcome, Unproven)
    assert "other of slot 7" in outcome.reason


def test_a_ledger_that_cannot_be_read_proves_nothing() -> None:
    it, ledger = sealer(), Ledger(down_for=ReadLastListed)
    assert isinstance(drive(it.tick(), Node(dict(BLOCKS), 20), ledger), Unproven)
    assert it.sealed == 9


def test_a_first_list_that_was_cut_is_found_out_by_the_next_one() -> None:
    """An empty ledger has no row that the list must reach."""
    blocks = chain(10, 20, s12=[content(12, 0, "old")], s14=[content(14, 0, "new")])
    node = Node(blocks, 20, bends={ListSignatures: lists("new")})
    it, ledger = sealer(), Ledger()
    assert drive(it.tick(), node, ledger) == Done(Slot(20), 1)
    node.bends.clear()
    node.blocks.update(chain(21, 22))
    node.tip = 22
    assert drive(it.tick(), node, ledger) == Done(Slot(22))
    hint = it.hints.take(0.0)
    assert hint is not None
    assert (hint.kind, hint.slot, hint.signatures) == ("list", 12, {"old"})
    assert it.hints.take(0.0) is None, "what this sealer has appended is no news"


def test_rows_of_before_this_sealer_and_rows_that_it_forgot_are_no_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.core.sealer.STORED_MAX", 1)
    blocks = chain(0, 20, s8=[content(8, 0, "last")], s12=[content(12, 0, "a")], s14=[content(14, 0, "b")])
    it, ledger = sealer(), Ledger(held=[(A, held_row(1, 8, "last"))])
    drive(it.tick(), Node(blocks, 20), ledger)
    drive(it.tick(), Node({**blocks, **chain(21, 22)}, 22), ledger)
    assert it.sealed == 22
    assert it.hints.take(0.0) is None


def test_what_the_list_names_in_a_sealed_slot_is_a_hint() -> None:
    blocks = {**BLOCKS, 9: [content(9, 0, "missed")]}
    _, _, it = tick(Node(blocks, 20), LAST)
    hint = it.hints.take(0.0)
    assert hint is not None
    assert (hint.kind, hint.slot, hint.signatures) == ("list", 9, {"missed"})
    assert it.hints.take(0.0) is None


# ---- holes ----


def jumped(first: int, last: int, tip: int = 200) -> Node:
    """A node that started anew from a snapshot: nothing of first..last, and an old block as its first."""
    kept = {slot: found for slot, found in chain(0, tip).items() if not first <= slot <= last}
    node = Node(kept, tip)

    def true_parent(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        if isinstance(reply, Block) and reply.slot == last + 1:
            return replace(reply, parent_slot=Slot(last))
        return reply

    node.bends[GetBlock] = true_parent
    return node


@pytest.mark.parametrize(("first", "last"), [(100, 160), (150, 150), (10, 12), (10, 199)])
def test_a_node_that_has_jumped_over_slots_halts_with_a_remedy(first: int, last: int) -> None:
    outcome, ledger, it = tick(jumped(first, last), times=HOLES_MAX)
    assert isinstance(outcome, Halted)
    assert f"slots {first}..{last}" in outcome.reason
    assert "endpoint" in outcome.remedy
    assert not ledger.plans
    assert it.sealed == 9


def test_what_looks_like_a_hole_once_calls_nobody() -> None:
    """Two nodes behind one balancer, one of which lags, or a fork between two answers."""
    it, ledger = sealer(), Ledger()
    for _ in range(HOLES_MAX - 1):
        assert isinstance(drive(it.tick(), jumped(100, 160), ledger), Unproven)
    assert isinstance(drive(it.tick(), Node(chain(0, 200), 200), ledger), Done)
    for _ in range(HOLES_MAX - 1):
        assert isinstance(drive(it.tick(), jumped(210, 220, 230), ledger), Unproven)


def test_a_block_that_is_served_and_not_listed_is_no_hole() -> None:
    node = Node(chain(0, 200), 200, bends={GetBlocks: lambda r, n: tuple(Slot(s) for s in range(10, 201) if s != 99)})
    for outcome in (tick(node, times=times)[0] for times in (1, HOLES_MAX)):
        assert isinstance(outcome, Unproven)
        assert "slot 99" in outcome.reason


def test_slots_that_the_chain_itself_went_by_are_no_hole() -> None:
    blocks = {slot: found for slot, found in chain(0, 200).items() if not 100 <= slot <= 160}
    outcome, _, it = tick(Node(blocks, 200))
    assert outcome == Done(Slot(200))
    assert it.sealed == 200


def test_in_a_long_stretch_only_long_gaps_are_looked_at_and_the_first_one() -> None:
    blocks = {
        slot: found
        for slot, found in chain(0, 5_000).items()
        if slot < 10 or (slot > 12 and slot % 50 and not 700 < slot < 750)
    }
    node = Node(blocks, 4_999)
    assert tick(node)[0] == Done(Slot(4_999))
    assert [request.slot for request in node.asked(GetBlock)] == [4_999, 13, 751]


@pytest.mark.parametrize(("hint", "calls"), [(10, 0), (11, 0), (12, 1)])
def test_where_every_block_was_served_in_the_round_no_blocks_are_listed(hint: int, calls: int) -> None:
    """10 is the slot behind the last seal, 11 is read whole for its rows, 12's barrier tells of 11 and 12 only."""
    blocks = chain(0, 12, s11=[content(11, n, f"x{n}") for n in range(9 if hint == 11 else 0)])
    if hint == 11:
        del blocks[10]
    node = Node(blocks, hint)
    it, ledger = sealer(), Ledger()
    assert isinstance(drive(it.tick(Slot(hint)), node, ledger), Done)
    assert len(node.asked(GetBlocks)) == calls


def test_a_node_that_jumps_between_two_rounds_is_not_believed_for_what_it_had() -> None:
    it, ledger = sealer(), Ledger()
    ledger.refusals = [Failure("no")]
    assert isinstance(drive(it.tick(), Node(chain(0, 200), 200), ledger), Unproven)
    for _ in range(HOLES_MAX):
        outcome = drive(it.tick(), jumped(100, 160), ledger)
    assert isinstance(outcome, Halted)
    assert it.sealed < 100


def test_an_audit_looks_for_missing_blocks_too() -> None:
    it, ledger = Auditor({A: Slot(9)}), Ledger()
    node = jumped(100, 101)
    node.finalized = 200
    outcomes = [drive(it.audit(Slot(200)), node, ledger) for _ in range(HOLES_MAX)]
    assert isinstance(outcomes[0], Unproven)
    assert isinstance(outcomes[-1], Halted)
    assert "slots 100..101" in outcomes[-1].reason
    assert not ledger.corrections


def test_a_proxy_without_getblocks_does_not_hold_the_seal() -> None:
    node = Node(chain(0, 200), 200, bends={GetBlocks: lambda r, n: Failure("no such method", METHOD_NOT_FOUND)})
    assert isinstance(tick(node)[0], Done)


def test_a_list_of_blocks_that_lacks_the_served_one_is_of_another_node() -> None:
    node = Node(chain(0, 200), 200, bends={GetBlocks: lambda r, n: tuple(Slot(s) for s in range(10, 150))})
    assert isinstance(tick(node)[0], Unproven)
