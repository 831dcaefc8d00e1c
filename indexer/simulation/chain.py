"""The truth: blocks that are produced, forks that die, transactions that land again. Deterministic by seed.

Contents are small, for the core never looks into them. A slot has one leader and one block: a block that died is in no other fork, but the
fork that won may have a block where the dead one had skipped.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field

from msgspec import Struct

from indexer.core.protocol import Address, Content, Listed, Slot
from indexer.simulation.dice import FILLED, Dice
from programs.transaction import RawTransaction

CONFIRMED_DISTANCE = 1
FINALIZED_DISTANCE = 8
STALL_SLOTS_MAX = 5
# For so many slots after a fork some node may still be on the dead one.
STALE_SLOTS = 4
GENESIS = Slot(0)
_SIZES = (1, 1, 1, 2, 2, 3, 5, 12)
_FAILED = '{"InstructionError":[0,{"Custom":6000}]}'


class ModelBlock(Struct, frozen=True):
    """A slot's block; transactions in block order."""

    slot: Slot
    parent: Slot
    contents: tuple[Content, ...]


@dataclass(slots=True)
class Branch:
    """One fork from the genesis on, with what a node indexes of it. Blocks are added in ascending order only."""

    programs: tuple[Address, ...]
    indexed: bool
    blocks: dict[Slot, ModelBlock] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    entries: dict[Address, list[Listed]] = field(default_factory=dict)
    places: dict[Address, dict[str, int]] = field(default_factory=dict)
    by_signature: dict[str, Content] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for program in self.programs:
            self.entries[program] = []
            self.places[program] = {}

    def add(self, block: ModelBlock) -> None:
        """The next block."""
        self.blocks[block.slot] = block
        self.slots.append(block.slot)
        for content in block.contents:
            raw = content.raw
            self.by_signature[raw.signature] = content
            index = raw.transaction_index if self.indexed else None
            listed = Listed(raw.signature, block.slot, index, raw.err)
            for program in content.programs:
                self.places[program][raw.signature] = len(self.entries[program])
                self.entries[program].append(listed)

    def upto(self, last: Slot) -> Branch:
        """A copy that ends at `last`."""
        slots = self.slots[: bisect_right(self.slots, last)]
        copy = Branch(self.programs, self.indexed, {slot: self.blocks[slot] for slot in slots}, slots)
        for program, entries in self.entries.items():
            copy.entries[program] = entries[: bisect_right(entries, last, key=slot_of)]
            copy.places[program] = {entry.signature: place for place, entry in enumerate(copy.entries[program])}
        copy.by_signature = {content.raw.signature: content for slot in slots for content in self.blocks[slot].contents}
        return copy

    def highest(self, upper: int) -> Slot:
        """The highest slot with a block, not above `upper`."""
        return self.slots[max(0, bisect_right(self.slots, upper) - 1)]


def slot_of(entry: Listed) -> Slot:
    """The key by which lists are sorted."""
    return entry.slot


class ModelChain:
    """`produce` adds a slot. `branch` is the chain as it stands, `stale` the fork that died lately, if one did."""

    def __init__(self, seed: int, dice: Dice, programs: tuple[Address, ...]) -> None:
        self.tip: Slot = GENESIS
        self.branch = Branch(programs, not dice.on("old_node"))
        self.branch.add(ModelBlock(GENESIS, GENESIS, ()))
        self.stale: Branch | None = None
        self.first_available = GENESIS
        # Slots that the node jumped over, first and last.
        self.hole: tuple[Slot, Slot] | None = None
        self.indexed_from = GENESIS
        self.forks = 0
        # Every content that a slot ever had on some fork; a slot that was empty on one has None among them.
        self.versions: dict[Slot, list[ModelBlock | None]] = {}
        self.transactions = 0
        self._programs = programs
        self._dice = dice
        self._rng = random.Random(f"{seed}/chain")
        self._dropped: list[Content] = []
        self._died: set[Slot] = set()
        self._stale_until = GENESIS
        self._stall = 0
        self._confirmed = self._finalized = GENESIS

    def produce(self) -> ModelBlock | None:
        """One slot more; its block, or None when it is skipped."""
        block = self._produce()
        self._confirmed = self.branch.highest(self.tip - CONFIRMED_DISTANCE - min(self._stall, STALL_SLOTS_MAX))
        self._finalized = self.branch.highest(self.tip - FINALIZED_DISTANCE)
        return block

    def _produce(self) -> ModelBlock | None:
        dice = self._dice
        self.tip = Slot(self.tip + 1)
        if self._stall:
            self._stall -= 1
        elif dice.strike("tip_stalls"):
            self._stall = dice.stream("tip_stalls").randint(1, STALL_SLOTS_MAX)
        if self.tip > self._stale_until:
            self.stale = None
        if dice.strike("skipped"):
            self.versions[self.tip] = [None]
            return None
        if self.tip > 3 and dice.strike("fork"):
            self._fork()
        block = self._block(self.tip)
        self.branch.add(block)
        self.versions[self.tip] = [block]
        return block

    def prune(self, keep: int) -> None:
        """Forget what is older than `keep` slots."""
        self.first_available = Slot(max(self.first_available, self.tip - keep))

    def jump(self, slots: int) -> None:
        """The node starts anew from a snapshot: it has no block of the newest slots, up to the tip."""
        self.hole = (Slot(max(1, self.tip - slots)), self.tip)

    def lacks(self, slot: int) -> bool:
        """Whether the node has no block of a slot that has one: pruned, or jumped over."""
        return slot < self.first_available or (self.hole is not None and self.hole[0] <= slot <= self.hole[1])

    def confirmed(self) -> Slot:
        """The confirmed tip: a slot with a block."""
        return self._confirmed

    def finalized(self) -> Slot:
        """The finalized tip; nothing up to it can die."""
        return self._finalized

    def _fork(self) -> None:
        # Only what is not finalized can die; the chain goes on from an older block.
        rng = self._dice.stream("fork")
        keep = Slot(max(GENESIS, self.tip - rng.randint(2, FINALIZED_DISTANCE - 2)))
        dead = [slot for slot in self.branch.slots if slot > keep]
        if not dead:
            return
        self.forks += 1
        self.stale, self._stale_until = self.branch, Slot(self.tip + STALE_SLOTS)
        self.branch = self.branch.upto(keep)
        self._died.update(dead)
        lost = [content for slot in dead for content in self.stale.blocks[slot].contents]
        self._dropped.extend(lost)
        for at in range(keep + 1, self.tip):
            slot = Slot(at)
            if slot not in self._died and rng.random() < 0.5:
                block = self._block(slot)
                self.branch.add(block)
                self.versions[slot].append(block)
            else:
                self.versions[slot].append(None)

    def _block(self, slot: Slot) -> ModelBlock:
        rng, contents = self._rng, []
        count = rng.choice(_SIZES)
        if self._dice.strike(FILLED):
            for index in range(count):
                again = self._dropped.pop() if self._dropped and rng.random() < 0.7 else None
                if again is not None and again.raw.signature in self.branch.by_signature:
                    again = None
                contents.append(self._content(slot, index, again))
        return ModelBlock(slot, self.branch.slots[-1], tuple(contents))

    def _content(self, slot: Slot, index: int, again: Content | None) -> Content:
        rng = self._rng
        if again is None:
            self.transactions += 1
            signature = f"sig{self.transactions}"
            throw = rng.random
            some = [program for program in self._programs if throw() < 0.6]
            programs = frozenset(some or [rng.choice(self._programs)])
        else:
            signature, programs = again.raw.signature, again.programs
        logs: tuple[str, ...] | None = (f"Program log: {signature} at {slot}",)
        if self._dice.strike("null_logs"):
            logs = None
        elif self._dice.strike("truncated"):
            logs = ("Log truncated",)
        err = _FAILED if rng.random() < 0.1 else None
        return Content(RawTransaction(slot, index, signature, None, err, b"wire", logs, (), (), None), programs)
