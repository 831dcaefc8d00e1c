"""A second endpoint: compared in every round, asked for blocks where the lists differ, and waited for only so long."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec.structs import replace

from indexer.core.protocol import (
    BLOCK_NOT_AVAILABLE,
    SAW_SECOND_ENDPOINT,
    Block,
    Done,
    Failure,
    GetBlock,
    ListSignatures,
    Unproven,
)
from indexer.core.witness import ROUNDS_SKIPPED_MAX, Absence
from tests.unit.core.scripted import A, Ledger, Node, chain, content, drive, sealer, seen


def blocks() -> dict[int, Any]:
    return chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "y")], s14=[content(14, 0, "z")])


def without(*names: str) -> Any:
    def bend(request: ListSignatures, node: Node) -> Any:
        return (
            tuple(e for e in node.entries(request.address) if e.signature not in names)
            if request.before is None
            else ()
        )

    return bend


def cut(*names: str) -> Any:
    def bend(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        if isinstance(reply, Block) and reply.contents is not None:
            return replace(reply, contents=tuple(c for c in reply.contents if c.raw.signature not in names))
        return reply

    return bend


def run(node: Node, witness: Node, **policy: Any) -> tuple[Any, Ledger, Any]:
    it, ledger = sealer(witness=True, **policy), Ledger()
    return drive(it.tick(), node, ledger, witness), ledger, it


def test_what_both_list_is_marked_and_needs_no_block_of_the_witness() -> None:
    witness = Node(blocks(), 20)
    outcome, ledger, it = run(Node(blocks(), 20), witness)
    assert isinstance(outcome, Done)
    assert all(row.witnesses & SAW_SECOND_ENDPOINT for row in ledger.rows)
    assert [request.details for request in witness.asked(GetBlock)] == ["none"]
    assert it.witness.compared == 3


def test_the_witness_serves_its_own_barrier_before_it_is_asked_for_lists() -> None:
    witness = Node(blocks(), 20)
    run(Node(blocks(), 20), witness)
    kinds = [type(request) for request in witness.log]
    assert kinds[0] is GetBlock
    assert witness.asked(GetBlock)[0].slot == 20


def test_what_the_first_list_hides_is_found() -> None:
    """Nobody else would have known: no notification named it."""
    outcome, ledger, it = run(Node(blocks(), 20, bends={ListSignatures: without("y")}), Node(blocks(), 20))
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x", "y", "z"]
    assert it.tally.list_missed == 1
    assert it.witness.disputed == 1


def test_a_whole_slot_that_the_first_list_hides_is_found() -> None:
    outcome, ledger, _ = run(Node(blocks(), 20, bends={ListSignatures: without("z")}), Node(blocks(), 20))
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x", "y", "z"]


def test_what_the_witness_misses_is_counted_and_kept() -> None:
    outcome, ledger, it = run(Node(blocks(), 20), Node(blocks(), 20, bends={ListSignatures: without("x")}))
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x", "y", "z"]
    assert it.witness.missed == 1
    # Its block showed it.
    assert ledger.rows[0].witnesses & SAW_SECOND_ENDPOINT


def test_what_only_the_witness_invents_is_left_out() -> None:
    def invents(request: ListSignatures, node: Node) -> Any:
        return (*node.entries(A)[:1], seen(13, "never"), *node.entries(A)[1:]) if request.before is None else ()

    outcome, ledger, _ = run(Node(blocks(), 20), Node(blocks(), 20, bends={ListSignatures: invents}))
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x", "y", "z"]


def test_a_first_endpoint_that_hides_everywhere_is_not_believed() -> None:
    liar = Node(blocks(), 20, bends={ListSignatures: without("y"), GetBlock: cut("y")})
    outcome, ledger, it = run(liar, Node(blocks(), 20))
    assert isinstance(outcome, Unproven)
    assert outcome.disputed
    assert "y" in outcome.reason
    assert it.sealed == 9
    assert not ledger.plans


def test_a_witness_that_hides_everywhere_stops_the_seal_too() -> None:
    """Which of the two lies can't be told from here."""
    liar = Node(blocks(), 20, bends={ListSignatures: without("y"), GetBlock: cut("y")})
    outcome, ledger, _ = run(Node(blocks(), 20), liar)
    assert isinstance(outcome, Unproven)
    assert outcome.disputed
    assert not ledger.plans


def test_two_forks_are_not_decided_by_preference() -> None:
    other = chain(0, 20, s12=[content(12, 0, "x", err='"AccountInUse"')], s14=[content(14, 0, "z")])
    outcome, ledger, _ = run(Node(blocks(), 20), Node(other, 20))
    assert isinstance(outcome, Unproven)
    assert outcome.disputed
    assert not ledger.plans


def test_a_dispute_in_a_slot_that_the_first_endpoint_skipped_is_not_decided() -> None:
    mine = blocks()
    del mine[14]
    outcome, ledger, _ = run(Node(mine, 20), Node(blocks(), 20))
    assert isinstance(outcome, Unproven)
    assert not ledger.rows


def test_a_witness_that_lags_is_waited_for() -> None:
    left = iter(range(3))
    witness = Node(blocks(), 20)
    late = Failure("not available", BLOCK_NOT_AVAILABLE)
    witness.bends[GetBlock] = lambda r, n: late if next(left, None) is not None else NotImplemented
    outcome, ledger, it = run(Node(blocks(), 20), witness)
    assert isinstance(outcome, Done)
    assert it.witness.absent == 0
    assert len([pause for pause in ledger.pauses if pause.why == "witness"]) == 3


def behind() -> Node:
    return Node(blocks(), 3)


def dead() -> Node:
    down = Failure("connection refused")
    return Node(blocks(), 20, bends={GetBlock: lambda r, n: down, ListSignatures: lambda r, n: down})


def test_without_it_a_seal_goes_on_unmarked_and_counted() -> None:
    for witness in (behind(), dead()):
        outcome, ledger, it = run(Node(blocks(), 20), witness)
        assert isinstance(outcome, Done)
        assert it.witness.absent == 1
        assert not any(row.witnesses & SAW_SECOND_ENDPOINT for row in ledger.rows)


def test_held_no_seal_is_made_without_it() -> None:
    for witness in (behind(), dead()):
        outcome, ledger, it = run(Node(blocks(), 20), witness, witness_hold=True)
        assert isinstance(outcome, Unproven)
        assert "second endpoint" in outcome.reason
        assert it.sealed == 9
        assert not ledger.plans


def test_a_witness_whose_list_breaks_is_as_good_as_none() -> None:
    broken = Node(blocks(), 20, bends={ListSignatures: lambda r, n: (seen(12, "a"), seen(13, "b"))})
    outcome, ledger, it = run(Node(blocks(), 20), broken)
    assert isinstance(outcome, Done)
    assert it.witness.absent == 1
    outcome, ledger, _ = run(Node(blocks(), 20), broken, witness_hold=True)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_a_dead_witness_is_asked_ever_less() -> None:
    absence, asked = Absence(), []
    for number in range(400):
        if absence.ask_now():
            asked.append(number)
            absence.missed()
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert max(gaps) == ROUNDS_SKIPPED_MAX + 1
    absence.heard()
    assert absence.ask_now()
