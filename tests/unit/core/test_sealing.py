"""Proof before checkpoint: each rule of sealing, against a node that does the one thing that the rule is there for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    NODE_BEHIND,
    SAW_BLOCK,
    SAW_LIST,
    SAW_SOCKET,
    SAW_TRANSACTION,
    Block,
    Done,
    Failure,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Halted,
    ListSignatures,
    Slot,
    Unproven,
)
from programs.transaction import InnerInstruction
from tests.unit.core.scripted import A, B, Ledger, Node, chain, content, drive, note, sealer, seen


def one(node: Node, hint: int | None = None, **policy: Any) -> tuple[Any, Ledger, Any]:
    it, ledger = sealer(**policy), Ledger()
    return drive(it.tick(None if hint is None else Slot(hint)), node, ledger), ledger, it


# ---- what goes well ----


def test_an_empty_range_is_sealed() -> None:
    outcome, ledger, it = one(Node(chain(0, 20), 20))
    assert outcome == Done(Slot(20))
    assert [(r.slot_first, r.slot_last) for r in ledger.plans[0].ranges] == [(10, 20)]
    assert it.sealed == 20


def test_the_barrier_is_served_before_the_list_is_asked() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    one(node)
    kinds = [type(request) for request in node.log]
    assert kinds.index(GetBlock) < kinds.index(ListSignatures)
    assert node.asked(GetBlock)[0].slot == 20
    assert all(request.barrier == 20 and request.min_context_slot >= 20 for request in node.asked(ListSignatures))


def test_rows_come_in_chain_order_by_both_routes() -> None:
    many = [content(13, index, f"m{index}") for index in range(9)]
    blocks = chain(0, 20, s12=[content(12, 3, "a"), content(12, 7, "b")], s13=many)
    _, ledger, _ = one(Node(blocks, 20))
    places = [(row.raw.slot, row.raw.transaction_index) for row in ledger.rows]
    assert places == sorted(places)
    assert len(places) == 11
    assert {row.witnesses for row in ledger.rows[:2]} == {SAW_LIST | SAW_TRANSACTION}
    assert {row.witnesses for row in ledger.rows[2:]} == {SAW_LIST | SAW_BLOCK}


def test_failed_transactions_are_kept() -> None:
    _, ledger, _ = one(Node(chain(0, 20, s12=[content(12, 0, "x", err='"AccountInUse"')]), 20))
    assert ledger.rows[0].raw.err == '"AccountInUse"'


def test_a_transaction_of_two_programs_is_one_row() -> None:
    it, ledger = sealer({A: 9, B: 9}), Ledger()
    drive(it.tick(), Node(chain(0, 20, s12=[content(12, 0, "x", A, B)]), 20), ledger)
    assert [row.programs for row in ledger.rows] == [frozenset({A, B})]


def test_a_program_that_is_sealed_further_gets_no_second_row() -> None:
    it, ledger = sealer({A: 15, B: 9}), Ledger()
    blocks = chain(0, 20, s12=[content(12, 0, "old", A, B)], s17=[content(17, 0, "new", A, B)])
    drive(it.tick(), Node(blocks, 20), ledger)
    assert [(row.raw.signature, row.programs) for row in ledger.rows] == [
        ("old", frozenset({B})),
        ("new", frozenset({A, B})),
    ]


def test_a_program_is_admitted_at_its_own_cursor() -> None:
    it, ledger = sealer({A: 15}), Ledger()
    it.admit(B, Slot(9))
    drive(it.tick(), Node(chain(0, 20), 20), ledger)
    ranges = [(r.address, r.slot_first, r.slot_last) for plan in ledger.plans for r in plan.ranges]
    assert ranges == [(B, 10, 15), (A, 16, 20), (B, 16, 20)]


# ---- the target and the barrier ----


def test_without_a_served_block_nothing_is_listed() -> None:
    node = Node(chain(0, 20), 20, bends={GetBlock: lambda r, n: Failure("not available", BLOCK_NOT_AVAILABLE)})
    outcome, ledger, it = one(node)
    assert isinstance(outcome, Unproven)
    assert not node.asked(ListSignatures)
    assert not ledger.plans
    assert it.sealed == 9


def test_a_hint_without_a_block_is_left_aside_for_the_tip() -> None:
    """The slot that a notification named died with its fork; what was served in its place is sealed to."""
    blocks = chain(0, 20)
    del blocks[15]
    outcome, _, it = one(Node(blocks, 20), hint=15)
    assert (outcome, it.sealed) == (Done(Slot(20)), 20)


def test_a_forged_hint_costs_a_wait_and_not_the_round() -> None:
    outcome, _, it = one(Node(chain(0, 20), 20), hint=99)
    assert outcome == Done(Slot(20))
    assert it.sealed == 20


def test_a_tip_that_is_a_lie_is_not_sealed() -> None:
    outcome, ledger, _ = one(Node(chain(0, 20), 20, bends={GetSlot: lambda r, n: 2**60}))
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_a_tip_behind_the_last_seal_changes_nothing() -> None:
    outcome, ledger, _ = one(Node(chain(0, 5), 5))
    assert outcome == Done(Slot(9))
    assert not ledger.plans


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: Block(Slot(r.slot + 1), r.slot, None),
        lambda r: Block(r.slot, r.slot, None),
        lambda r: Block(r.slot, Slot(r.slot + 7), None),
        lambda r: Block(r.slot, Slot(-1), None),
    ],
    ids=["another slot", "its own parent", "a parent to come", "a negative parent"],
)
def test_a_block_that_does_not_fit_is_no_barrier(wrong: Any) -> None:
    node = Node(chain(0, 20), 20, bends={GetBlock: lambda r, n: wrong(r)})
    outcome, ledger, it = one(node)
    assert isinstance(outcome, Unproven)
    assert "does not fit" in outcome.reason
    assert not ledger.plans
    assert it.tally.unfit_blocks == 1


def test_two_replies_about_one_block_must_tell_the_same_number() -> None:
    """A light block and then a full one: a node behind a balancer that cuts the latter."""
    blocks = chain(0, 20, s20=[content(20, index, f"x{index}") for index in range(9)])

    def cut(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        if request.details == "full" and isinstance(reply, Block):
            assert reply.contents is not None
            return structs.replace(reply, contents=reply.contents[:4], transactions=4)
        return reply

    node = Node(blocks, 20, bends={GetBlock: cut})
    it, ledger = sealer(), Ledger()
    it.notifications.observe(note(20, "x0"))
    outcome = drive(it.tick(), node, ledger)
    assert isinstance(outcome, Unproven)
    assert not ledger.rows


# ---- the list ----


def test_a_list_that_hides_what_the_socket_named_is_overruled_by_the_block() -> None:
    blocks = chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "hidden")])

    def hide(request: ListSignatures, node: Node) -> Any:
        return (
            tuple(e for e in node.entries(request.address) if e.signature != "hidden") if request.before is None else ()
        )

    it, ledger = sealer(), Ledger()
    it.notifications.observe(note(12, "hidden"))
    drive(it.tick(), Node(blocks, 20, bends={ListSignatures: hide}), ledger)
    assert ledger.signatures == ["x", "hidden"]
    assert it.tally.list_missed == 1
    assert not ledger.rows[1].witnesses & SAW_LIST
    assert ledger.rows[1].witnesses & SAW_SOCKET


def test_a_whole_block_adds_what_the_list_lacks() -> None:
    full = [content(12, index, f"x{index}") for index in range(10)]

    def hide(request: ListSignatures, node: Node) -> Any:
        return tuple(e for e in node.entries(request.address) if e.signature != "x4") if request.before is None else ()

    _, ledger, it = one(Node(chain(0, 20, s12=full), 20, bends={ListSignatures: hide}))
    assert "x4" in ledger.signatures
    assert it.tally.list_missed == 1


def invents(*entries: Any) -> Any:
    def bend(request: ListSignatures, node: Node) -> Any:
        if request.before is not None:
            return ()
        every = [*node.entries(request.address), *entries]
        return tuple(sorted(every, key=lambda e: (-e.slot, -(e.transaction_index or 0))))

    return bend


def test_what_only_the_list_names_is_left_out_and_counted() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, bends={ListSignatures: invents(seen(12, "invented", 5))})
    outcome, ledger, it = one(node)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]
    assert it.tally.list_invented == 1


def test_a_listed_transaction_that_its_block_lacks_but_the_node_holds_is_not_left_out() -> None:
    """A block that was cut short: list and getTransaction stand against it."""
    full = [content(12, index, f"x{index}") for index in range(10)]

    def cut(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        if isinstance(reply, Block) and reply.contents:
            return structs.replace(reply, contents=reply.contents[:-1], transactions=9)
        return reply

    outcome, ledger, it = one(Node(chain(0, 20, s12=full), 20, bends={GetBlock: cut}))
    assert isinstance(outcome, Unproven)
    assert "x9" in outcome.reason
    assert not ledger.plans
    assert it.sealed == 9


def test_a_block_of_another_slot_adds_nothing_to_its_own() -> None:
    """No block names its slot. A forged notification makes the tip's block be read whole, and a cache answers with an older one."""
    full = [content(12, index, f"x{index}") for index in range(3)]
    cached = Node(chain(0, 20, s20=[structs.replace(c, raw=replace(c.raw, slot=20)) for c in full]), 20)
    node = Node(chain(0, 20, s12=full), 20)
    node.bends[GetBlock] = lambda r, n: cached.plain(r) if r.slot == 20 else NotImplemented
    it, ledger = sealer(block_hits_min=1), Ledger()
    it.notifications.observe(note(20, "forged"))
    outcome = drive(it.tick(), node, ledger)
    assert isinstance(outcome, Unproven)
    assert "which the node holds in slot 12" in outcome.reason
    assert not [row for row in ledger.rows if row.raw.slot == 20]
    del node.bends[GetBlock]
    assert isinstance(drive(it.tick(), node, ledger), Done)
    assert ledger.signatures == ["x0", "x1", "x2"]


def test_a_block_that_holds_a_transaction_elsewhere_than_the_list_was_cut() -> None:
    """What was left out in front moves all that follows."""
    full = [content(12, index, f"x{index}") for index in range(10)]

    def cut(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        if isinstance(reply, Block) and reply.contents:
            kept = [
                structs.replace(c, raw=replace(c.raw, transaction_index=c.raw.transaction_index - 1))
                for c in reply.contents[1:]
            ]
            return structs.replace(reply, contents=tuple(kept), transactions=9)
        return reply

    def hide(request: ListSignatures, node: Node) -> Any:
        return tuple(e for e in node.entries(request.address) if e.signature != "x0") if request.before is None else ()

    outcome, ledger, _ = one(Node(chain(0, 20, s12=full), 20, bends={GetBlock: cut, ListSignatures: hide}))
    assert isinstance(outcome, Unproven)
    assert "another place" in outcome.reason
    assert not ledger.plans


def test_a_list_cannot_attach_a_program_to_a_transaction_that_does_not_mention_it() -> None:
    foreign = content(12, 0, "others", B)
    node = Node(chain(0, 20, s12=[foreign]), 20, bends={ListSignatures: invents(seen(12, "others", 0))})
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Done)
    assert ledger.rows == []


def test_keys_that_cannot_be_read_leave_the_list_its_word() -> None:
    """A message of an unknown version, or tables that the node did not resolve: the list knows, we don't."""
    unreadable = content(12, 0, "v9", B, version=9, wire=b"\x89" + bytes(80))
    node = Node(chain(0, 20, s12=[unreadable]), 20, bends={ListSignatures: invents(seen(12, "v9", 0))})
    _, ledger, _ = one(node)
    assert [(row.raw.signature, row.programs) for row in ledger.rows] == [("v9", frozenset({A}))]


@pytest.mark.parametrize(
    "page",
    [
        (seen(12, "a"), seen(13, "b")),
        (seen(13, "a", 1), seen(13, "b", 2)),
        (seen(13, "a", 1), seen(13, "b", 1)),
        (seen(13, "a", 2), seen(13, "a", 1)),
        (seen(13, "a"), seen(-5, "b")),
        tuple(seen(13, f"s{n}", 5_000 - n) for n in range(1001)),
    ],
    ids=[
        "oldest first",
        "index upwards",
        "one place twice",
        "one name twice",
        "a negative slot",
        "more than asked for",
    ],
)
def test_a_page_that_breaks_the_order_proves_nothing(page: Any) -> None:
    outcome, ledger, it = one(Node(chain(0, 20), 20, bends={ListSignatures: lambda r, n: page}))
    assert isinstance(outcome, Unproven)
    assert not ledger.plans
    assert it.sealed == 9


def test_entries_beyond_the_target_are_left_for_later() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    node.bends[ListSignatures] = lambda r, n: (seen(2**62, "far"), *n.entries(A)) if r.before is None else ()
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]


def test_a_short_page_is_not_the_end_of_the_list() -> None:
    """Some providers give fewer entries than asked for: only an empty page behind a known signature ends the list."""
    blocks = {slot: [content(slot, 0, f"x{slot}")] if slot >= 10 else [] for slot in range(21)}

    def stingy(request: ListSignatures, node: Node) -> Any:
        return node.plain(structs.replace(request, limit=min(request.limit, 3)))

    _, ledger, _ = one(Node(blocks, 20, bends={ListSignatures: stingy}))
    assert ledger.signatures == [f"x{slot}" for slot in range(10, 21)]


def test_a_program_whose_first_transaction_is_newer_than_the_target_is_sealed_up_to_it() -> None:
    it, ledger = sealer(), Ledger()
    blocks = {slot: [content(slot, 0, f"x{slot}")] if slot >= 15 else [] for slot in range(21)}
    assert drive(it.tick(None, Slot(12)), Node(blocks, 20), ledger) == Done(Slot(12))
    assert ledger.rows == []
    assert it.sealed == 12


def test_a_place_in_the_list_that_the_node_no_longer_knows_breaks_the_round() -> None:
    """-32020, of nodes since 4.0."""
    blocks = {slot: [content(slot, 0, f"x{slot}")] if slot >= 10 else [] for slot in range(21)}
    forgets = lambda r, n: n.plain(r) if r.before is None else n.plain(structs.replace(r, before="gone"))  # noqa: E731
    it, ledger = sealer(page_min=2), Ledger()
    outcome = drive(it.tick(), Node(blocks, 20, bends={ListSignatures: forgets}), ledger)
    assert isinstance(outcome, Done | Unproven)
    if isinstance(outcome, Unproven):
        assert not ledger.plans
    else:
        assert len(ledger.signatures) == 11


def paged(node: Node, **bends: Any) -> tuple[Any, Ledger, Any]:
    """A list of more than a page, so that `before` is needed."""
    it, ledger = sealer(page_min=64), Ledger()
    return drive(it.tick(), node, ledger), ledger, it


def long_list(**options: Any) -> Node:
    blocks = {slot: [content(slot, 0, f"x{slot}")] if slot >= 10 else [] for slot in range(300)}
    return Node(blocks, 299, **options)


def test_many_pages_are_read_in_order() -> None:
    outcome, ledger, _ = paged(long_list())
    assert isinstance(outcome, Done)
    assert ledger.signatures == [f"x{slot}" for slot in range(10, 300)]


@pytest.mark.parametrize("old", [False, True], ids=["-32020", "an empty page"])
def test_an_unknown_before_is_never_taken_for_the_end(old: bool) -> None:
    node = long_list(old=old)
    node.bends[ListSignatures] = lambda r, n: n.plain(r if r.before is None else structs.replace(r, before="gone"))
    node.bends[GetTransactions] = lambda r, n: tuple(None for _ in r.signatures)
    outcome, ledger, it = paged(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans
    assert it.sealed == 9


def test_an_old_node_that_begins_anew_is_noticed() -> None:
    """Before 4.0 an unknown `before` may bring the newest page once more."""
    node = long_list()
    node.bends[ListSignatures] = lambda r, n: n.plain(structs.replace(r, before=None))
    outcome, ledger, _ = paged(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_a_list_without_end_in_one_slot_is_given_up() -> None:
    made = iter(range(10**9))

    def endless(request: ListSignatures, node: Node) -> Any:
        return tuple(seen(15, f"e{next(made)}", None) for _ in range(request.limit))

    outcome, ledger, _ = one(Node(chain(0, 20), 20, bends={ListSignatures: endless}))
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_a_lower_node_behind_the_balancer_is_asked_again_and_not_believed() -> None:
    answers = iter([Failure("behind", NODE_BEHIND), Failure("behind", NODE_BEHIND)])
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    node.bends[ListSignatures] = lambda r, n: next(answers, NotImplemented)
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]


def test_a_node_that_stays_behind_ends_the_round() -> None:
    node = Node(chain(0, 20), 20, bends={ListSignatures: lambda r, n: Failure("behind", NODE_BEHIND)})
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_without_an_index_in_the_list_the_block_gives_the_order() -> None:
    blocks = chain(0, 20, s12=[content(12, 3, "first"), content(12, 8, "second")])
    _, ledger, _ = one(Node(blocks, 20, indexed=False))
    assert [(row.raw.signature, row.raw.transaction_index) for row in ledger.rows] == [("first", 3), ("second", 8)]
    assert all(row.witnesses & SAW_BLOCK for row in ledger.rows)


# ---- contents ----


def test_a_null_transaction_is_waited_for() -> None:
    left = iter(range(3))
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    node.bends[GetTransactions] = lambda r, n: (None,) if next(left, None) is not None else NotImplemented
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]
    assert len(ledger.pauses) == 3


def test_patience_is_bounded_and_then_the_block_decides() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, bends={GetTransactions: lambda r, n: (None,)})
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Done)
    assert ledger.signatures == ["x"]
    assert ledger.rows[0].witnesses & SAW_BLOCK
    assert len(node.asked(GetTransactions)) == 4


def test_when_neither_transaction_nor_block_comes_nothing_is_sealed_and_it_is_said() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, bends={GetTransactions: lambda r, n: (None,)})
    node.bends[GetBlock] = lambda r, n: NotImplemented if r.slot == 20 else Failure("null", BLOCK_NOT_AVAILABLE)
    outcome, ledger, it = one(node)
    assert isinstance(outcome, Unproven)
    assert "block of slot 12" in outcome.reason
    assert not ledger.plans
    assert it.sealed == 9


@pytest.mark.parametrize(
    "wrong",
    [content(13, 0, "x"), content(12, 0, "y"), content(12, 0, "x", err='"AccountInUse"'), content(12, 5, "x")],
    ids=["another slot", "another signature", "another outcome", "another place"],
)
def test_contents_that_contradict_the_list_are_not_taken(wrong: Any) -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, bends={GetTransactions: lambda r, n: (wrong,)})
    _, ledger, _ = one(node)
    assert [row.raw for row in ledger.rows] in ([], [content(12, 0, "x").raw])


def test_the_same_signature_in_two_slots_is_taken_where_it_stands() -> None:
    """After a fork a transaction lands again; a list that still names both places is wrong about one."""
    blocks = chain(0, 20, s14=[content(14, 0, "w")], s15=[content(15, 0, "x")])
    node = Node(blocks, 20, bends={ListSignatures: _both})
    outcome, ledger, it = one(node)
    assert isinstance(outcome, Done)
    assert [(row.raw.slot, row.raw.signature) for row in ledger.rows] == [(14, "w"), (15, "x")]
    assert it.tally.list_invented == 1


def _both(request: ListSignatures, node: Node) -> Any:
    # In pages of their own: on one page the walk refuses a name that comes twice.
    pages = {None: (seen(15, "x"), seen(14, "w")), "x": (seen(14, "w"), seen(12, "x"), seen(5, "before"))}
    return pages.get(request.before, ())


def test_two_transactions_at_one_place_prove_nothing() -> None:
    blocks = chain(0, 20, s12=[content(12, 0, "a"), content(12, 0, "b")])
    node = Node(blocks, 20, indexed=False)
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_unknown_logs_stay_unknown() -> None:
    _, ledger, it = one(Node(chain(0, 20, s12=[content(12, 0, "x", logs=None, inner=None)]), 20))
    assert ledger.rows[0].raw.logs is None
    assert ledger.rows[0].raw.inner is None
    assert it.tally.logs_unknown == 1


def test_truncated_logs_keep_their_inner_instructions() -> None:
    inner = (InnerInstruction(0, 0, 1, b"\x00", b"\xe4\x45", 2),)
    cut = content(12, 0, "x", logs=("Program A invoke [1]", "Log truncated", "Program A success"), inner=inner)
    _, ledger, it = one(Node(chain(0, 20, s12=[cut]), 20))
    assert ledger.rows[0].raw == cut.raw
    assert it.tally.truncated == 1


def test_a_transaction_of_an_unknown_version_is_stored_as_it_is() -> None:
    future = content(12, 0, "x", version=7, wire=b"\x87" + bytes(200))
    _, ledger, _ = one(Node(chain(0, 20, s12=[future]), 20))
    assert ledger.rows[0].raw == future.raw


def test_a_skipped_slot_that_the_socket_named_holds_nothing() -> None:
    blocks = chain(0, 20)
    del blocks[12]
    it, ledger = sealer(), Ledger()
    it.notifications.observe(note(12, "phantom"))
    assert drive(it.tick(), Node(blocks, 20), ledger) == Done(Slot(20))
    assert it.notifications.tally.phantoms == 1


def test_a_listed_transaction_in_a_slot_without_a_block_is_not_proven_away() -> None:
    blocks = chain(0, 20)
    del blocks[12]
    node = Node(blocks, 20, bends={ListSignatures: invents(seen(12, "x", None))})
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


# ---- history ----


def test_pruned_history_halts_with_a_remedy() -> None:
    outcome, ledger, it = one(without_blocks_below(15))
    assert isinstance(outcome, Halted)
    assert "15" in outcome.reason
    assert "endpoint" in outcome.remedy
    assert not ledger.plans
    assert it.sealed == 9


def without_blocks_below(slot: int, **more: Any) -> Node:
    """A node whose first block is of `slot` and names the one before as its parent."""
    node = Node(chain(slot, 30), 30, first_available=slot, **more)

    def true_parent(request: GetBlock, node: Node) -> Any:
        reply = node.plain(request)
        return structs.replace(reply, parent_slot=Slot(slot - 1)) if getattr(reply, "slot", None) == slot else reply

    node.bends[GetBlock] = true_parent
    return node


@pytest.mark.parametrize("first", [22, 23, 30])
def test_history_is_looked_at_in_every_round_however_few_slots_it_is(first: int) -> None:
    """After a failover it is another node's."""
    it, ledger = sealer(), Ledger()
    drive(it.tick(), Node(chain(0, 20), 20), ledger)
    outcome = drive(it.tick(), without_blocks_below(first), ledger)
    assert isinstance(outcome, Halted)
    assert it.sealed == 20
    assert drive(it.tick(), Node(chain(0, 30), 30), ledger) == Done(Slot(30))


def test_a_first_block_that_cannot_be_read_is_no_proof_of_history() -> None:
    node = without_blocks_below(15)
    node.bends[GetFirstAvailable] = lambda r, n: Failure("time-out")
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Unproven)
    assert not ledger.plans


def test_a_block_that_was_pruned_meanwhile_halts_with_a_remedy() -> None:
    node = Node(chain(0, 20, s12=[content(12, n, f"x{n}") for n in range(9)]), 20)
    node.bends[GetBlock] = lambda r, n: NotImplemented if r.slot == 20 else Failure("cleaned up", BLOCK_CLEANED_UP)
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Halted)
    assert "pruned slot 12" in outcome.reason
    assert "endpoint" in outcome.remedy
    assert not ledger.plans
    assert len(node.asked(GetBlock)) == 2, "it is not asked again and again"


def test_a_transaction_that_was_pruned_meanwhile_is_not_waited_for() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    gone = Failure("cleaned up", BLOCK_CLEANED_UP)
    node.bends[GetBlock] = lambda r, n: NotImplemented if r.slot == 20 else gone
    node.bends[GetTransactions] = lambda r, n: gone
    outcome, ledger, _ = one(node)
    assert isinstance(outcome, Halted)
    assert len(node.asked(GetTransactions)) == 1
    assert not ledger.plans


# ---- the commit ----


def test_a_refused_append_leaves_the_cursor_where_it_was() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20)
    it, ledger = sealer(), Ledger(refusals=[Failure("the database is down")])
    assert isinstance(drive(it.tick(), node, ledger), Unproven)
    assert it.sealed == 9
    assert drive(it.tick(), node, ledger) == Done(Slot(20), 1)
    assert ledger.signatures == ["x"]


def test_a_long_way_is_sealed_in_pieces_that_join() -> None:
    it, ledger = sealer(rows_max=25), Ledger()
    drive(it.tick(), long_list(), ledger)
    ends = [(plan.ranges[0].slot_first, plan.ranges[0].slot_last) for plan in ledger.plans]
    assert len(ends) > 5
    assert ends[0][0] == 10
    assert ends[-1][1] == 299
    assert all(after[0] == before[1] + 1 for before, after in pairwise(ends))


# ---- the choice of route ----


def test_the_cheaper_route_is_learned_from_the_size_of_blocks() -> None:
    it = sealer(block_hits_min=0, call_bytes=50_000)
    assert it._whole_is_cheaper(4)
    for _ in range(40):
        it._keep(Block(Slot(12), Slot(11), None, None, (), None, 5_000_000), Slot(12))
        it._blocks.clear()
    assert not it._whole_is_cheaper(50)
    assert it._whole_is_cheaper(100)
