"""The second endpoint as a witness: its signature lists over the same range, walked beside the first one's, compared slot by slot.

One node, or nodes behind one URL, can be wrong in a way that no look at the same node shows: an index that lost entries, a patched node. A
second endpoint that shares nothing with the first sees it. The witness is asked for a barrier and for lists; for contents only where the two
contradict each other.

A witness that lags or is down is waited for, a bounded time (`SealPolicy.witness_attempts`). Then either the round ends unproven (`hold`), or
it goes on without it, which is counted, and rows appended so lack the bit SAW_SECOND_ENDPOINT. A witness that was missed is not waited for again
for some rounds, twice as many each time, so that a dead one costs a wait now and then and not one a round.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from indexer.core.protocol import (
    Address,
    AskWitness,
    Block,
    Commitment,
    Failure,
    GetBlock,
    GetTransactions,
    Listed,
    ListSignatures,
    Pause,
    Reply,
    Request,
    Slot,
)
from indexer.core.walk import SignatureWalk, WalkBroken

ROUNDS_SKIPPED_MAX = 64
T = TypeVar("T")


@dataclass(slots=True)
class WitnessTally:
    """Counts that only grow."""

    compared: int = 0
    missed: int = 0
    absent: int = 0
    disputed: int = 0


class Absence:
    """Decides in which rounds an absent witness is asked again: after 1, 2, 4, … of them, at most ROUNDS_SKIPPED_MAX."""

    def __init__(self) -> None:
        self._misses = 0
        self._skip = 0

    def ask_now(self) -> bool:
        """Whether to ask in this round."""
        if self._skip:
            self._skip -= 1
            return False
        return True

    def missed(self) -> None:
        """It did not answer in time."""
        self._skip = min(2**self._misses, ROUNDS_SKIPPED_MAX)
        self._misses = min(self._misses + 1, 16)

    def heard(self) -> None:
        """It answered."""
        self._misses = self._skip = 0


class WitnessLists:
    """What the witness lists of the given programs, up to a slot. `open` first, then `upto` with growing slots."""

    def __init__(
        self, cursors: Mapping[Address, Slot], target: Slot, barrier: Slot, commitment: Commitment, page_hint: int
    ) -> None:
        self._target = target
        self._barrier = barrier
        self._commitment = commitment
        self._walks = {a: SignatureWalk(a, c, target, commitment, page_hint, barrier) for a, c in cursors.items()}
        self._complete = dict(cursors)
        self._pending: dict[Slot, dict[str, Listed]] = {}

    def open(self, attempts: int, pause_s: float) -> Generator[Request, Reply, str | None]:
        """Wait until the witness has the barrier, then read its lists. The reason when it can't be had, else None."""
        why = "not asked"
        for attempt in range(attempts):
            reply = yield AskWitness(GetBlock(self._barrier, "none", self._commitment))
            if isinstance(reply, Block):
                return (yield from self._descend())
            why = reply.message if isinstance(reply, Failure) else "no answer"
            if isinstance(reply, Failure) and reply.code is None:
                break  # it does not answer; one that lags refuses with a code
            if attempt + 1 < attempts:
                yield Pause(pause_s, "witness")
        return f"it serves no block of slot {self._barrier}: {why}"

    def upto(self, upper: Slot) -> Generator[Request, Reply, dict[Slot, dict[str, Listed]] | str]:
        """What it lists in slots up to `upper` that was not taken yet, by slot and signature; a reason when the list breaks."""
        try:
            for address, walk in self._walks.items():
                while self._complete[address] < upper:
                    piece = yield from _at_witness(walk.ascend())
                    if piece is None:
                        self._complete[address] = self._target
                        break
                    self._complete[address] = Slot(max(self._complete[address], piece[0]))
                    for entry in piece[1]:
                        self._pending.setdefault(entry.slot, {})[entry.signature] = entry
        except WalkBroken as broken:
            return broken.reason
        return {slot: self._pending.pop(slot) for slot in sorted(self._pending) if slot <= upper}

    def _descend(self) -> Generator[Request, Reply, str | None]:
        try:
            for walk in self._walks.values():
                yield from _at_witness(walk.descend())
        except WalkBroken as broken:
            return broken.reason
        return None


def _at_witness(routine: Generator[Request, Reply, T]) -> Generator[Request, Reply, T]:
    """The same routine, its questions asked of the witness."""
    reply: Reply = None
    while True:
        try:
            request = routine.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if isinstance(request, GetBlock | ListSignatures | GetTransactions):
            request = AskWitness(request)
        reply = yield request
