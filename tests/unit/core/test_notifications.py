"""The socket as a witness: what is kept of it, what is made of it, and when an operator may let it speak for the node."""

from __future__ import annotations

from typing import Any

import pytest

from indexer.core.notifications import AHEAD_SLOTS_MAX, NOTES_OF_ONE_MAX, NotificationBuffer
from indexer.core.protocol import SAW_BLOCK, SAW_LIST, SAW_SOCKET, Done, GetBlock, GetTransactions, Slot
from tests.unit.core.scripted import LOGS, Ledger, Node, chain, content, drive, note, sealer

FORGED = ("Program A invoke [1]", "Program data: Zm9yZ2Vk", "Program A success")


def judged(*notes: Any, stored: Any = None) -> NotificationBuffer:
    buffer = NotificationBuffer()
    for each in notes:
        buffer.observe(each)
    buffer.judge(Slot(50), {"x": (Slot(12), None, LOGS)} if stored is None else stored)
    return buffer


def test_what_agrees_is_matched() -> None:
    assert judged(note(12, "x")).tally.matched == 1


def test_the_slot_before_is_no_forgery() -> None:
    """A transaction that is executed at the end of a block and recorded in the next."""
    assert judged(note(11, "x")).tally.matched == 1


def test_a_signature_that_is_not_stored_is_a_phantom() -> None:
    assert judged(note(12, "never")).tally.phantoms == 1


def test_other_contents_under_a_true_place_are_a_forgery() -> None:
    buffer = judged(note(12, "x"), note(12, "x", FORGED))
    assert (buffer.tally.matched, buffer.tally.forgeries) == (1, 1)


def test_a_preflight_in_another_slot_is_an_echo() -> None:
    assert judged(note(7, "x", FORGED)).tally.echoes == 1


def test_the_buffer_is_bounded_in_bytes_too() -> None:
    """Sixty thousand notifications are few while each has ten lines; a node may send megabytes in one, for slots that are not sealed yet."""
    buffer = NotificationBuffer(bytes_max=1_000, note_bytes_max=600)
    for slot in range(10, 20):
        buffer.observe(note(slot, f"x{slot}", ("y" * 400,)))
    assert buffer.slots(Slot(0), Slot(50)) == [18, 19]
    assert buffer.tally.dropped == 8
    buffer.observe(note(20, "huge", ("y" * 601,)))
    assert not buffer.saw(Slot(20), "huge")
    assert buffer.tally.dropped == 9
    assert buffer.slots(Slot(0), Slot(50)) == [18, 19]
    buffer.judge(Slot(50), {})
    for slot in (51, 52):
        buffer.observe(note(slot, "x", ("y" * 400,)))
    assert len(buffer) == 2


def test_of_one_signature_in_one_slot_a_few_are_kept() -> None:
    """Each is compared with those that are there: a flood under one signature would cost the square of its length."""
    buffer = NotificationBuffer()
    for number in range(1_000):
        buffer.observe(note(12, "x", (f"forged {number}",)))
    assert len(buffer) == NOTES_OF_ONE_MAX
    assert buffer.tally.dropped == 1_000 - NOTES_OF_ONE_MAX
    assert len(buffer.judge(Slot(50), {"x": (Slot(12), None, LOGS)})) == NOTES_OF_ONE_MAX


def test_unknown_logs_accuse_nobody() -> None:
    assert judged(note(12, "x", FORGED), stored={"x": (Slot(12), None, None)}).tally.forgeries == 0


def test_the_buffer_has_a_bound_and_spills_the_oldest_to_a_later_fetch() -> None:
    """A database that is slow: seals wait, notifications come, memory does not grow, and the ledger still gets everything."""
    it, ledger = sealer(), Ledger()
    it.notifications = NotificationBuffer(limit=5)
    blocks = {5: [content(5, 0, "before")], **{slot: [content(slot, 0, f"x{slot}")] for slot in range(10, 40)}}
    for slot in range(10, 40):
        it.notifications.observe(note(slot, f"x{slot}"))
    assert len(it.notifications) == 5
    assert it.notifications.tally.dropped == 25
    assert drive(it.tick(), Node(blocks, 39), ledger) == Done(Slot(39), 30)
    assert ledger.signatures == [f"x{slot}" for slot in range(10, 40)]


def test_a_flood_from_the_future_pushes_nothing_out() -> None:
    buffer = NotificationBuffer(limit=10)
    buffer.tip(Slot(100))
    buffer.observe(note(100, "honest"))
    for number in range(1_000):
        buffer.observe(note(100 + AHEAD_SLOTS_MAX + 1 + number, f"flood{number}"))
    assert list(buffer.signatures(Slot(100))) == ["honest"]
    assert len(buffer) == 1


# ---- trust_socket_contents ----


def trusting(*notes: Any, indexed: bool = True, **policy: Any) -> tuple[Node, Ledger, Any]:
    node = Node(chain(0, 20, s12=[content(12, 4, "x")]), 20, indexed=indexed)
    it, ledger = sealer(trust_socket_contents=True, **policy), Ledger()
    for each in notes:
        it.notifications.observe(each)
    assert drive(it.tick(), node, ledger) == Done(Slot(20), 1)
    return node, ledger, it


def fetched(node: Node) -> int:
    return len(node.asked(GetTransactions)) + len([b for b in node.asked(GetBlock) if b.details == "full"])


def test_confirmed_by_the_list_nothing_is_fetched() -> None:
    node, ledger, it = trusting(note(12, "x"))
    assert fetched(node) == 0
    assert ledger.rows[0].witnesses == SAW_LIST | SAW_SOCKET
    assert (ledger.rows[0].raw.transaction_index, ledger.rows[0].raw.logs) == (4, LOGS)
    assert it.tally.trusted == 1


def test_the_barrier_brings_the_contents_of_its_slot() -> None:
    """They would be read at finality otherwise: the same call, later."""
    blocks = chain(0, 20, s19=[content(19, 0, "x")], s20=[content(20, 3, "y")])
    node, ledger = Node(blocks, 20), Ledger()
    it = sealer(trust_socket_contents=True)
    it.notifications.observe(note(19, "x"))
    it.notifications.observe(note(20, "y", FORGED))
    assert drive(it.tick(Slot(20)), node, ledger) == Done(Slot(20), 2)
    assert [row.witnesses for row in ledger.rows] == [SAW_LIST | SAW_SOCKET, SAW_LIST | SAW_BLOCK | SAW_SOCKET]
    assert ledger.rows[1].raw == content(20, 3, "y").raw
    assert [(block.slot, block.details) for block in node.asked(GetBlock)] == [(20, "full")]
    assert [forgery.signature for forgery in it.take_forgeries()] == ["y"]


@pytest.mark.parametrize(
    "notes",
    [
        (),
        (note(12, "x"), note(12, "x", FORGED)),
        (note(12, "x", FORGED), note(11, "x")),
        (note(11, "x"),),
        (note(12, "x", ("Program A invoke [1]", "Log truncated")),),
        (note(12, "x", err='"AccountInUse"'),),
        (note(12, "x", ()),),
    ],
    ids=["none", "two that differ", "two around the slot", "another slot", "truncated", "another outcome", "no logs"],
)
def test_whatever_is_odd_leads_to_a_fetch(notes: Any) -> None:
    node, ledger, it = trusting(*notes)
    assert fetched(node) > 0
    assert ledger.rows[0].raw == content(12, 4, "x").raw
    assert it.tally.trusted == 0


def test_without_an_index_in_the_list_the_place_is_unknown_and_fetched() -> None:
    node, ledger, _ = trusting(note(12, "x"), indexed=False)
    assert fetched(node) > 0
    assert ledger.rows[0].raw.transaction_index == 4


def test_it_is_off_unless_it_is_asked_for() -> None:
    node, it, ledger = Node(chain(0, 20, s12=[content(12, 4, "x")]), 20), sealer(), Ledger()
    it.notifications.observe(note(12, "x"))
    drive(it.tick(), node, ledger)
    assert fetched(node) > 0
