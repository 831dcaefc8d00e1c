"""Null logs mean unknown: a node that has given logs is asked again before a row without them is sealed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from indexer.core import nulls
from indexer.core.protocol import (
    Address,
    Append,
    Block,
    Content,
    Done,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Listed,
    ListSignatures,
    Slot,
    Together,
    Unproven,
)
from indexer.core.sealer import Sealer, SealPolicy
from programs.transaction import RawTransaction

PROGRAM = Address("program")
LOGS = ("Program log: it happened",)


def content(slot: int, logs: tuple[str, ...] | None) -> Content:
    return Content(RawTransaction(slot, 0, f"sig{slot}", None, None, b"wire", logs, (), (), None), frozenset({PROGRAM}))


class OneASlot:
    """A chain with one transaction in each slot; `answers` says what the next replies hold as its logs (the last one stays)."""

    def __init__(self, *answers: tuple[str, ...] | None) -> None:
        self.tip = 5
        self.answers: Iterator[Any] = iter(answers)
        self.now: Any = None
        self.appended: list[Any] = []
        self.asked = 0

    def answer(self, request: Any) -> Any:
        if isinstance(request, Together):
            return tuple(self.answer(one) for one in request.requests)
        if isinstance(request, GetSlot):
            return self.tip
        if isinstance(request, GetFirstAvailable):
            return 0
        if isinstance(request, GetBlock):
            return Block(request.slot, Slot(request.slot - 1), None)
        if isinstance(request, ListSignatures):
            return tuple(Listed(f"sig{slot}", Slot(slot), 0, None) for slot in range(self.tip, 0, -1))
        if isinstance(request, GetTransactions):
            self.asked += 1
            self.now = next(self.answers, self.now)
            return tuple(content(int(signature[3:]), self.now) for signature in request.signatures)
        if isinstance(request, Append):
            self.appended += request.plan.rows
        return None


def tick(sealer: Sealer, node: OneASlot) -> Any:
    routine = sealer.tick()
    reply = None
    try:
        while True:
            reply = node.answer(routine.send(reply))
    except StopIteration as end:
        return end.value


def sealer() -> Sealer:
    return Sealer({PROGRAM: Slot(4)}, SealPolicy())


def test_logs_that_come_with_a_later_answer_are_what_is_sealed() -> None:
    node = OneASlot(None, None, LOGS)
    assert isinstance(tick(sealer(), node), Done)
    assert [row.raw.logs for row in node.appended] == [LOGS]
    assert node.asked == 3


def test_a_node_that_gave_logs_before_is_not_believed_at_once_and_not_waited_for_without_end() -> None:
    node, mine = OneASlot(LOGS), sealer()
    assert isinstance(tick(mine, node), Done)
    node.tip, node.answers, node.now = 6, iter(()), None
    for _ in range(nulls.ROUNDS_MAX):
        outcome = tick(mine, node)
        assert isinstance(outcome, Unproven)
        assert "sig6" in outcome.reason
    assert isinstance(tick(mine, node), Done)
    assert [row.raw.logs for row in node.appended] == [LOGS, None]
    assert mine.tally.logs_unknown == 1


def test_a_node_that_never_gives_logs_costs_no_further_requests_after_a_while() -> None:
    node, mine = OneASlot(None), sealer()
    for tip in range(5, 5 + nulls.IN_VAIN_MAX):
        node.tip = tip
        assert isinstance(tick(mine, node), Done)
    asked = node.asked
    node.tip += 1
    assert isinstance(tick(mine, node), Done)
    assert node.asked == asked + 1
    assert len(node.appended) == nulls.IN_VAIN_MAX + 1
