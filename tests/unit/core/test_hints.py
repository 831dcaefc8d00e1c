"""Which hints are followed, and what comes of them."""

from __future__ import annotations

from typing import Any

import pytest

from indexer.core.blocks import draw
from indexer.core.finality import Auditor, AuditPolicy
from indexer.core.hints import WAITING_MAX, WRITES_MAX, AccountWrites, Hint, Hints
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    SAW_BLOCK,
    SAW_SOCKET,
    Block,
    Done,
    Failure,
    GetBlock,
    GetSlot,
    GetTransactions,
    Halted,
    ListSignatures,
    Slot,
    Unproven,
)
from tests.unit.core.scripted import A, B, Ledger, Node, chain, content, drive, held_row, note, sealer

S = Slot


# ---- which ----


def test_each_slot_is_followed_once() -> None:
    hints = Hints()
    for _ in range(3):
        hints.give("notification", S(7), "x")
    hints.give("notification", S(7), "y")
    assert hints.take(0.0) == Hint("notification", S(7), frozenset({"x", "y"}))
    assert not hints.give("notification", S(7), "z")
    assert hints.take(0.0) is None


def test_a_flood_of_notifications_is_bounded_by_the_minute_and_starves_no_other_kind() -> None:
    hints = Hints({"notification": 3, "account": 1, "list": 1})
    for slot in range(100):
        hints.give("notification", S(slot), "x")
    hints.give("account", S(500))
    taken = [hint for _ in range(10) if (hint := hints.take(0.0)) is not None]
    assert [hint.kind for hint in taken].count("notification") == 3
    assert [hint.kind for hint in taken].count("account") == 1
    assert hints.take(59.0) is None
    assert hints.take(61.0) is not None


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    hints = Hints()
    for slot in range(WAITING_MAX + 5):
        hints.give("account", S(slot))
    assert len(hints) == WAITING_MAX
    assert hints.tally.dropped["account"] == 5


def test_a_block_that_cannot_be_had_is_tried_again_a_few_times() -> None:
    hints = Hints()
    hints.give("notification", S(7), "x")
    tries = 0
    while (hint := hints.take(tries * 61.0)) is not None:
        tries += 1
        hints.again(hint)
        assert tries < 20
    assert 1 < tries < 10
    assert hints.tally.dropped["notification"] == 1


# ---- accounts ----


def test_an_account_that_changed_where_the_program_has_no_row_is_a_hint() -> None:
    writes = AccountWrites({A: S(9), B: S(9)})
    for slot, program in ((12, A), (13, A), (13, B), (20, A), (9, A)):
        writes.wrote(S(slot), program)
    assert writes.sealed(S(15), [(S(12), frozenset({A})), (S(13), frozenset({A}))]) == [13]
    assert writes.sealed(S(25), [(S(20), frozenset({A}))]) == []


def test_a_change_that_is_told_after_the_seal_is_explained_by_the_row() -> None:
    writes = AccountWrites({A: S(9)})
    writes.sealed(S(15), [(S(12), frozenset({A}))])
    writes.wrote(S(12), A)
    writes.wrote(S(14), A)
    assert writes.sealed(S(16), []) == [14]


def test_a_program_that_was_added_says_nothing_of_slots_from_before() -> None:
    writes = AccountWrites({A: S(9)})
    writes.wrote(S(12), B)
    writes.admit(B, S(15))
    writes.wrote(S(14), B)
    writes.wrote(S(17), B)
    assert writes.sealed(S(20), []) == [17]


def test_writes_are_bounded_and_what_is_forgotten_explains_nothing() -> None:
    writes = AccountWrites({A: S(0)})
    writes.sealed(S(5_000), [(S(slot), frozenset({A})) for slot in range(1, 5_000)])
    writes.wrote(S(100), A)
    assert writes.sealed(S(5_001), []) == []
    for slot in range(6_000, 6_000 + 2 * WRITES_MAX):
        writes.wrote(S(slot), A)
    assert len(writes.sealed(S(10**6), [])) == WRITES_MAX


# ---- from the sealer ----


def hiding(*signatures: str) -> Any:
    return lambda r, n: (
        tuple(e for e in n.entries(r.address) if e.signature not in signatures) if r.before is None else ()
    )


def test_a_notification_after_the_seal_leads_to_its_block() -> None:
    blocks = chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "hidden")])
    node = Node(blocks, 20, finalized=-1, bends={ListSignatures: hiding("hidden")})
    it, ledger = sealer(), Ledger()
    drive(it.tick(), node, ledger)
    assert ledger.signatures == ["x"]
    it.notifications.observe(note(12, "hidden"))
    it.notifications.observe(note(13, "phantom"))
    node.blocks.update(chain(21, 22))
    node.tip = 22
    drive(it.tick(), node, ledger)
    assert it.notifications.tally.phantoms == 0
    assert it.notifications.tally.late == 2
    watcher = Auditor({A: S(9)})
    for _ in range(2):
        hint = it.hints.take(0.0)
        assert hint is not None
        assert isinstance(drive(watcher.follow(hint, it.hints, it.cursors, "confirmed"), node, with_rows(ledger)), Done)
    assert it.hints.take(0.0) is None
    assert [row.raw.signature for row in ledger.late] == ["hidden"]
    assert ledger.late[0].witnesses == SAW_BLOCK | SAW_SOCKET
    assert (watcher.tally.hidden, watcher.tally.phantoms) == (1, 1)


def test_a_block_that_was_read_for_one_program_does_not_settle_what_is_said_of_another() -> None:
    """Found by the simulator, seed 19245: a program that was added is sealed behind the others, and the slot is read for it."""
    blocks = chain(0, 20, s12=[content(12, 0, "hidden", A), content(12, 1, "y", B)])
    node = Node(blocks, 20, bends={ListSignatures: hiding("hidden", "y")})
    it, ledger = sealer({A: 15, B: 9}), Ledger()
    it.notifications.observe(note(12, "hidden"))
    it.writes = AccountWrites({A: S(9), B: S(9)})
    it.writes.wrote(S(12), A)
    drive(it.tick(), node, ledger)
    assert [(row.raw.signature, row.programs) for row in ledger.rows] == [("y", frozenset({B}))]
    assert it.hints.take(0.0) == Hint("notification", S(12), frozenset({"hidden"}))
    assert it.notifications.tally.phantoms == 0
    it, ledger = sealer({A: 15, B: 9}), Ledger()
    it.notifications.observe(note(12, "y"))
    it.writes = AccountWrites({A: S(9), B: S(9)})
    it.writes.wrote(S(12), A)
    drive(it.tick(), node, ledger)
    assert it.hints.take(0.0) == Hint("account", S(12))


def test_what_is_heard_of_sealed_slots_does_not_wait_for_a_seal() -> None:
    """Sealing may stand still for as long as it takes a person to come."""
    node = Node(chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "hidden")]), 20)
    node.bends[ListSignatures] = hiding("hidden")
    it, ledger = sealer(), Ledger()
    drive(it.tick(), node, ledger)
    it.notifications.observe(note(12, "hidden"))
    it.writes.wrote(S(14), A)
    node.blocks.update(chain(21, 22))
    node.tip = 22
    node.bends[GetBlock] = lambda r, n: Failure("time-out")
    assert isinstance(drive(it.tick(), node, ledger), Unproven)
    assert it.hints.take(0.0) == Hint("notification", S(12), frozenset({"hidden"}))
    assert it.hints.take(0.0) == Hint("account", S(14))


def with_rows(ledger: Ledger) -> Ledger:
    """What was appended, to be read again."""
    ledger.held = [
        (a, held_row(n, row.raw.slot, row.raw.signature, row.raw.transaction_index))
        for n, row in enumerate(ledger.rows, 1)
        for a in row.programs
    ]
    return ledger


def test_a_notification_that_names_the_slot_before_its_own_is_no_hint() -> None:
    blocks = chain(0, 20, s12=[content(12, 0, "x")])
    it, ledger = sealer(), Ledger()
    node = Node(blocks, 20)
    drive(it.tick(), node, ledger)
    it.notifications.observe(note(11, "x"))
    node.blocks.update(chain(21, 22))
    node.tip = 22
    drive(it.tick(), node, ledger)
    assert len(it.hints) == 0


def test_a_phantom_whose_slot_was_looked_at_is_no_hint() -> None:
    it, ledger = sealer(), Ledger()
    it.notifications.observe(note(12, "phantom"))
    drive(it.tick(), Node(chain(0, 20), 20), ledger)
    assert it.notifications.tally.phantoms == 1
    assert len(it.hints) == 0


def test_a_notification_that_comes_while_the_round_goes_on_is_no_phantom_where_the_block_holds_it() -> None:
    """The block of the slot was read for another signature, before this one was named."""
    blocks = chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "hidden")])
    it, ledger = sealer(), Ledger()

    def late(request: GetTransactions, node: Node) -> Any:
        it.notifications.observe(note(12, "hidden"))
        return NotImplemented

    node = Node(blocks, 20, bends={ListSignatures: hiding("hidden"), GetTransactions: late})
    it.notifications.observe(note(12, "phantom"))
    drive(it.tick(), node, ledger)
    assert ledger.signatures == ["x"]
    hint = it.hints.take(0.0)
    assert hint is not None
    assert hint.signatures == {"hidden"}
    assert it.notifications.tally.phantoms == 1


# ---- what comes of them ----


def follow(
    node: Node, ledger: Ledger, hint: Hint, finalized: int = 9, starts: dict[Any, Slot] | None = None
) -> tuple[Any, Auditor, Hints]:
    watcher, hints = Auditor({A: S(finalized), B: S(finalized)}, None, starts), Hints()
    hints.give(hint.kind, hint.slot, next(iter(hint.signatures), None))
    taken = hints.take(0.0)
    assert taken is not None
    return drive(watcher.follow(taken, hints, {A: S(20), B: S(20)}, "confirmed"), node, ledger), watcher, hints


def test_only_programs_that_lack_the_row_get_it() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x", A, B)]), 20, finalized=20)
    ledger = Ledger(held=[(A, held_row(1, 12, "x"))])
    outcome, _, _ = follow(node, ledger, Hint("account", S(12)))
    assert outcome == Done(S(12), late=1)
    assert [row.programs for row in ledger.late] == [frozenset({B})]


def test_what_lies_before_a_programs_first_slot_is_not_the_ledgers() -> None:
    """Anybody may make the node notify an old transaction."""
    blocks = chain(0, 20, s12=[content(12, 0, "x", A, B)])
    hint = Hint("notification", S(12), frozenset({"x"}))
    node, ledger = Node(blocks, 20), Ledger()
    assert follow(node, ledger, hint, starts={A: S(13), B: S(13)})[0] == Done(S(12))
    assert (node.log, ledger.late) == ([], [])
    assert follow(node, ledger, hint, starts={A: S(13), B: S(12)})[0] == Done(S(12), late=1)
    assert [row.programs for row in ledger.late] == [frozenset({B})]


def test_a_skipped_slot_holds_nothing() -> None:
    blocks = chain(0, 20)
    del blocks[12]
    outcome, watcher, _ = follow(Node(blocks, 20), Ledger(), Hint("notification", S(12), frozenset({"x"})))
    assert outcome == Done(S(12))
    assert watcher.tally.phantoms == 1


def test_a_slot_below_finality_is_read_at_finalized() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, finalized=20)
    follow(node, Ledger(), Hint("notification", S(12), frozenset({"x"})), finalized=15)
    assert {request.commitment for request in node.asked(GetBlock)} == {"finalized"}


def test_a_block_that_is_not_served_is_asked_for_again_later() -> None:
    node = Node(chain(0, 20), 20, bends={GetBlock: lambda r, n: Failure("time-out")})
    outcome, _, hints = follow(node, Ledger(), Hint("notification", S(12), frozenset({"x"})))
    assert isinstance(outcome, Unproven)
    assert len(hints) == 1


def test_a_hint_is_not_used_up_while_nobody_answers() -> None:
    """Found by the simulator, seed 17384: a provider that limited the rate four times."""
    blocks = chain(0, 20, s12=[content(12, 0, "x")])
    watcher, hints, ledger = Auditor({A: S(9)}), Hints({"notification": 100, "account": 1, "list": 1}), Ledger()
    hints.give("notification", S(12), "x")
    down = Node(blocks, 20, bends={GetBlock: lambda r, n: Failure("HTTP 429")})
    for node in [down] * 10 + [Node(blocks, 20)]:
        hint = hints.take(0.0)
        assert hint is not None
        outcome = drive(watcher.follow(hint, hints, {A: S(20)}, "confirmed"), node, ledger)
    assert outcome == Done(S(12), late=1)
    assert (len(hints), hints.tally.dropped["notification"]) == (0, 0)


def test_a_pruned_block_is_given_up() -> None:
    node = Node(chain(0, 20), 20, bends={GetBlock: lambda r, n: Failure("cleaned up", BLOCK_CLEANED_UP)})
    outcome, _, hints = follow(node, Ledger(), Hint("notification", S(12), frozenset({"x"})))
    assert isinstance(outcome, Halted)
    assert len(hints) == 0
    assert hints.tally.dropped["notification"] == 1


# ---- samples ----


def sampled(node: Node, ledger: Ledger, share: float = 1.0, most: int = 60) -> tuple[Any, Auditor]:
    watcher = Auditor({A: S(9)}, AuditPolicy(share, most, b"salt"))
    return drive(watcher.audit(S(20)), node, ledger), watcher


def test_a_list_that_always_hides_the_same_is_found_by_a_sampled_block() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x"), content(12, 1, "hidden")]), 20, finalized=20)
    node.bends[ListSignatures] = hiding("hidden")
    ledger = Ledger(held=[(A, held_row(1, 12, "x"))])
    outcome, watcher = sampled(node, ledger)
    assert (outcome.late, outcome.retracted) == (1, 0)
    assert ledger.corrections[0].late[0].raw.signature == "hidden"
    assert watcher.tally.hidden == 1
    assert watcher.tally.sampled == 11
    # Without samples nobody could tell.
    outcome, watcher = sampled(node, Ledger(held=[(A, held_row(1, 12, "x"))]), 0.0)
    assert (outcome.late, watcher.tally.sampled) == (0, 0)


def test_after_a_find_every_slot_is_sampled_for_a_while() -> None:
    blocks = {slot: [content(slot, n, f"{slot}.{n}") for n in range(2)] for slot in range(100)}
    node = Node(blocks, 99, finalized=30)
    node.bends[ListSignatures] = lambda r, n: (
        tuple(e for e in n.entries(A) if not e.signature.endswith(".1")) if r.before is None else ()
    )
    ledger = Ledger(held=[(A, held_row(2 * slot, slot, f"{slot}.0")) for slot in range(100)])
    watcher = Auditor({A: S(9)}, AuditPolicy(0.15, 60, b"salt"))
    drive(watcher.audit(S(99)), node, ledger)
    assert 0 < watcher.tally.sampled < 21
    found, before = watcher.tally.hidden, watcher.tally.sampled
    assert found
    node.finalized = 50
    drive(watcher.audit(S(99)), node, ledger)
    assert watcher.tally.sampled - before == 20


def test_the_samples_of_one_audit_are_bounded_and_the_next_goes_on() -> None:
    """The newest were read and the older ones left out, so that a start behind the chain by more than the bound never looked at them."""
    node, ledger = Node(chain(0, 20, s11=[content(11, 0, "hidden")]), 20, finalized=20), Ledger()
    node.bends[ListSignatures] = hiding("hidden")
    outcome, watcher = sampled(node, ledger, most=3)
    assert (watcher.tally.sampled, outcome, watcher.left_off) == (3, Done(S(12), late=1), True)
    for upto in (15, 18):
        assert (drive(watcher.audit(S(20)), node, ledger), watcher.left_off) == (Done(S(upto)), True)
    down = Node(chain(0, 20), 20, bends={GetSlot: lambda r, n: Failure("HTTP 503")})
    assert isinstance(drive(watcher.audit(S(20)), down, ledger), Unproven)
    assert not watcher.left_off, "a node that is down would be asked without a pause"
    assert (drive(watcher.audit(S(20)), node, ledger), watcher.left_off) == (Done(S(20)), False)
    assert watcher.tally.sampled == 11


def test_behind_a_find_too_no_sample_is_left_out() -> None:
    node, ledger = Node(chain(0, 99, s12=[content(12, 0, "hidden")]), 99, finalized=20), Ledger()
    node.bends[ListSignatures] = hiding("hidden")
    watcher = Auditor({A: S(9)}, AuditPolicy(draw(12, b"salt") + 1e-9, 30, b"salt"))
    assert drive(watcher.audit(S(99)), node, ledger) == Done(S(20), late=1)
    few, node.finalized = watcher.tally.sampled, 90
    ends = [drive(watcher.audit(S(99)), node, ledger) for _ in range(3)]
    assert ends == [Done(S(50)), Done(S(80)), Done(S(90))]
    assert watcher.tally.sampled - few == 70


def test_a_row_that_a_sampled_block_lacks_is_foreign() -> None:
    """A list and getTransaction that invent alike: the block is the truth."""
    node = Node(chain(0, 20), 20, finalized=20)
    invented = held_row(1, 12, "invented")
    from tests.unit.core.scripted import seen

    node.bends[ListSignatures] = lambda r, n: (seen(12, "invented"), *n.entries(A)) if r.before is None else ()
    outcome, _ = sampled(node, Ledger(held=[(A, invented)]))
    assert (outcome.late, outcome.retracted) == (0, 1)


def test_a_sample_that_is_not_served_holds_nothing_up() -> None:
    node = Node(chain(0, 20), 20, finalized=20)
    node.bends[GetBlock] = lambda r, n: Failure("time-out") if r.details == "accounts" else NotImplemented
    outcome, _ = sampled(node, Ledger())
    assert outcome == Done(S(20))


def sealed_behind(blocks: dict[int, Any], upto: int, share: float, most: int = 256) -> tuple[Any, Ledger, Any, Node]:
    """A stretch that is far behind: sealed at finalized, so that no audit follows, by lists that hide what is called hidden."""
    node = Node(blocks, 5_000, finalized=5_000)
    node.bends[ListSignatures] = lambda r, n: (
        tuple(e for e in n.entries(A) if not e.signature.startswith("hidden"))[: r.limit] if r.before is None else ()
    )
    it = sealer(commitment="finalized", sample=share, samples_max=most, salt=b"salt")
    ledger = Ledger()
    return drive(it.tick(None, S(upto)), node, ledger), ledger, it, node


def test_what_is_sealed_far_behind_is_sampled_too() -> None:
    blocks = chain(0, 5_000, s12=[content(12, 0, "x"), content(12, 1, "hidden")], s40=[content(40, 0, "hidden2")])
    outcome, ledger, it, _ = sealed_behind(blocks, 100, 1.0)
    assert outcome == Done(S(100), 3)
    assert ledger.signatures == ["x", "hidden", "hidden2"]
    assert it.tally.list_missed == 2
    outcome, ledger, it, _ = sealed_behind(blocks, 100, 0.0)
    assert (ledger.signatures, it.tally.sampled) == (["x"], 0)


def test_the_samples_of_a_long_stretch_are_spread_over_it_and_bounded() -> None:
    _, _, it, node = sealed_behind(chain(0, 5_000), 4_000, 0.5, 40)
    looked = [request.slot for request in node.asked(GetBlock) if request.details == "accounts"]
    assert len(looked) == len(set(looked)) <= 41
    assert all(any(low < slot <= low + 200 for slot in looked) for low in range(9, 3_800, 100))
    few = [
        r.slot for r in sealed_behind(chain(0, 5_000), 4_000, 0.005, 256)[3].asked(GetBlock) if r.details == "accounts"
    ]
    assert 19 <= len(few) <= 21
    assert it.tally.sampled == len(looked)


def test_behind_a_find_every_slot_is_looked_at() -> None:
    blocks = chain(0, 5_000, **{f"s{slot}": [content(slot, 0, f"hidden{slot}")] for slot in range(10, 4_000)})
    _, ledger, it, _ = sealed_behind(blocks, 200, 0.1)
    first = ledger.rows[0].raw.slot
    assert first < 30
    assert [row.raw.slot for row in ledger.rows] == list(range(first, 201))
    assert it.tally.sampled < 200


def test_a_sample_far_behind_that_is_not_served_holds_nothing_up() -> None:
    node = Node(chain(0, 300), 300, finalized=300)
    node.bends[GetBlock] = lambda r, n: Failure("time-out") if r.details == "accounts" else NotImplemented
    it = sealer(commitment="finalized", sample=1.0)
    assert drive(it.tick(None, S(100)), node, Ledger()) == Done(S(100))
    assert it.tally.sampled == 0


# ---- the audit's own list ----


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_audit_whose_list_does_not_join_reads_blocks_in_the_end(rounds: int) -> None:
    node = Node(chain(0, 20, s8=[content(8, 0, "last")], s12=[content(12, 0, "x")]), 20, finalized=20)
    node.bends[ListSignatures] = lambda r, n: ()
    ledger = Ledger(held=[(A, held_row(1, 8, "last"))])
    watcher = Auditor({A: S(9)})
    for _ in range(rounds):
        outcome = drive(watcher.audit(S(20)), node, ledger)
    if rounds == 1:
        assert isinstance(outcome, Unproven)
        assert not ledger.corrections
    else:
        assert outcome == Done(S(20), late=1)
        assert [row.raw.signature for c in ledger.corrections for row in c.late] == ["x"]


def test_a_refusal_alone_retracts_nothing() -> None:
    """A node that started from a newer snapshot says of an old slot that it was skipped."""
    node = Node(chain(0, 20, s12=[content(12, 0, "x")]), 20, finalized=20)
    node.bends[ListSignatures] = hiding("x")
    from indexer.core.protocol import LONG_TERM_SLOT_SKIPPED

    node.bends[GetBlock] = lambda r, n: Failure("gone", LONG_TERM_SLOT_SKIPPED) if r.slot == 12 else NotImplemented
    ledger = Ledger(held=[(A, held_row(1, 12, "x"))])
    assert isinstance(drive(Auditor({A: S(9)}).audit(S(20)), node, ledger), Unproven)
    assert not ledger.corrections


def test_a_row_of_one_program_is_not_retracted_for_what_another_lacks() -> None:
    node = Node(chain(0, 20, s12=[content(12, 0, "x", A, B)]), 20, finalized=20)
    node.bends[ListSignatures] = lambda r, n: (
        NotImplemented if r.address == B else tuple(n.entries(A)[1:]) if not r.before else ()
    )
    ledger = Ledger(held=[(A, held_row(1, 12, "x"))])
    outcome = drive(Auditor({A: S(9), B: S(9)}).audit(S(20)), node, ledger)
    assert (outcome.late, outcome.retracted) == (1, 0)
    assert ledger.corrections[0].late[0].programs == frozenset({B})
    assert isinstance(node.answer(GetBlock(S(12), "none", "finalized")), Block)
