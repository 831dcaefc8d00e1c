"""The model: a chain that grows, forks and skips; a node that answers the core's requests about it, honestly or not. Deterministic by seed.

The truth is the list of blocks on the final fork. The node shows, at any moment, a tip some slots behind it, and on top of that whatever
faults are switched on. Contents are small: the core never looks into them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from indexer.core.notifications import Notification
from indexer.core.protocol import (
    BLOCK_NOT_AVAILABLE,
    LONG_TERM_SLOT_SKIPPED,
    MIN_CONTEXT_SLOT_NOT_REACHED,
    TRANSACTION_NOT_FOUND,
    Address,
    Block,
    Content,
    Failure,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Listed,
    ListSignatures,
    Reply,
    Request,
    Slot,
)
from programs.transaction import RawTransaction

CONFIRMED_DISTANCE = 1
FINALIZED_DISTANCE = 8
GENESIS = Slot(0)


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances, each in 0..1, that the fault strikes where it can."""

    transport: float = 0.0
    phantom: float = 0.0
    forged: float = 0.0
    lost: float = 0.0
    repeated: float = 0.0
    reordered: float = 0.0
    wrong_slot: float = 0.0
    lost_slot: float = 0.0
    null_transaction: float = 0.0
    incomplete_list: float = 0.0
    lagging_node: float = 0.0
    block_late: float = 0.0
    skipped: float = 0.0
    fork: float = 0.0
    null_logs: float = 0.0
    truncated: float = 0.0
    crash: float = 0.0
    commit_unknown: float = 0.0
    old_node: float = 0.0
    invented: float = 0.0

    @staticmethod
    def drawn(rng: random.Random) -> Faults:
        """A mix: each fault is off, rare or frequent."""
        chance = {name: rng.choice((0.0, 0.0, 0.03, 0.2)) for name in Faults.__dataclass_fields__}
        chance["crash"] = rng.choice((0.0, 0.01, 0.05))
        chance["commit_unknown"] = rng.choice((0.0, 0.02))
        chance["fork"] = rng.choice((0.0, 0.0, 0.05))
        chance["old_node"] = rng.choice((0.0, 0.0, 1.0))
        return Faults(**chance)


@dataclass(slots=True)
class ModelBlock:
    """A slot's block on the fork that the node shows; transactions in block order."""

    slot: Slot
    parent: Slot
    contents: list[Content]


@dataclass(slots=True)
class ModelChain:
    """Blocks by slot on the current fork. `produce` adds a slot; a fork replaces the last few blocks."""

    rng: random.Random
    faults: Faults
    programs: tuple[Address, ...]
    blocks: dict[Slot, ModelBlock] = field(default_factory=dict)
    tip: Slot = GENESIS
    _made: int = 0
    dropped: list[Content] = field(default_factory=list)
    _died: set[Slot] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.blocks[Slot(0)] = ModelBlock(Slot(0), Slot(0), [])

    def produce(self) -> list[Notification]:
        """One slot more. Returns what an honest socket would say about it, in execution order."""
        rng = self.rng
        self.tip = Slot(self.tip + 1)
        if rng.random() < self.faults.skipped:
            return []
        parent = max(self.blocks)
        if rng.random() < self.faults.fork:
            self._fork()
            parent = max(self.blocks)
        contents = self._fill(self.tip)
        self.blocks[self.tip] = ModelBlock(self.tip, parent, contents)
        return [_notification(content) for content in contents]

    def truth(self, program: Address, first: Slot, last: Slot) -> list[RawTransaction]:
        """What the ledger must hold of a program in a range."""
        return [
            content.raw
            for slot in sorted(self.blocks)
            if first <= slot <= last
            for content in self.blocks[slot].contents
            if program in content.programs
        ]

    def _fork(self) -> None:
        # Only what is confirmed and not finalized can die.
        floor = self.tip - FINALIZED_DISTANCE + 2
        dead = [slot for slot in self.blocks if slot > max(0, floor) and self.rng.random() < 0.5]
        for slot in dead:
            self.dropped.extend(self.blocks.pop(slot).contents)
        # A slot has one leader and one block: the fork that won has its blocks where the dead one had skipped.
        self._died.update(dead)
        for at in range(max(1, floor + 1), self.tip):
            slot = Slot(at)
            if dead and slot not in self.blocks and slot not in self._died and self.rng.random() < 0.5:
                self.blocks[slot] = ModelBlock(slot, Slot(slot - 1), self._fill(slot))

    def _fill(self, slot: Slot) -> list[Content]:
        rng = self.rng
        contents = []
        for index in range(rng.choice((0, 0, 1, 1, 2, 3, 12))):
            if self.dropped and rng.random() < 0.7:
                old = self.dropped.pop()
                contents.append(self._content(slot, index, old.raw.signature, old.programs))
            else:
                contents.append(self._content(slot, index, self._signature(), self._mentions()))
        return contents

    def _signature(self) -> str:
        self._made += 1
        return f"sig{self._made}"

    def _mentions(self) -> frozenset[Address]:
        some = [program for program in self.programs if self.rng.random() < 0.6]
        return frozenset(some or [self.rng.choice(self.programs)])

    def _content(self, slot: Slot, index: int, signature: str, programs: frozenset[Address]) -> Content:
        logs: tuple[str, ...] | None = (f"Program log: {signature}",)
        if self.rng.random() < self.faults.null_logs:
            logs = None
        elif self.rng.random() < self.faults.truncated:
            logs = ("Log truncated",)
        err = '{"InstructionError":[0,{"Custom":6000}]}' if self.rng.random() < 0.1 else None
        return Content(RawTransaction(slot, index, signature, None, err, b"wire", logs, (), (), None), programs)


def _notification(content: Content) -> Notification:
    raw = content.raw
    return Notification(Slot(raw.slot), raw.signature, raw.err, raw.logs or ())


class ModelNode:
    """Answers requests about the chain as a node at this moment would, faults included."""

    def __init__(self, chain: ModelChain) -> None:
        self.chain = chain
        self._rng = chain.rng
        self._listable: dict[Slot, int] = {}
        self._asked: dict[str, int] = {}
        self._block_asked: dict[Slot, int] = {}
        self.served: set[Slot] = set()

    def confirmed(self) -> Slot:
        """The confirmed tip: a slot with a block."""
        return max(slot for slot in self.chain.blocks if slot <= max(0, self.chain.tip - CONFIRMED_DISTANCE))

    def finalized(self) -> Slot:
        """The finalized tip."""
        return max(slot for slot in self.chain.blocks if slot <= max(0, self.chain.tip - FINALIZED_DISTANCE))

    def socket(self, honest: list[Notification]) -> list[Notification]:
        """What the socket delivers of it."""
        rng, faults = self._rng, self.chain.faults
        if honest and rng.random() < faults.lost_slot:
            return []
        said: list[Notification] = []
        for note in honest:
            if rng.random() < faults.lost:
                continue
            slot = Slot(note.slot - 1) if rng.random() < faults.wrong_slot else note.slot
            said.append(Notification(slot, note.signature, note.err, note.logs))
            if rng.random() < faults.repeated:
                said.append(said[-1])
            if rng.random() < faults.forged:
                said.append(Notification(note.slot, note.signature, None, ("Program data: Zm9yZ2Vk",)))
        if rng.random() < faults.phantom:
            said.append(Notification(self.chain.tip, f"phantom{self.chain.tip}", None, ("Program log: never",)))
        if rng.random() < faults.reordered:
            rng.shuffle(said)
        return said

    def answer(self, request: Request) -> Reply:
        """One request; time stands still while it is answered."""
        rng, faults = self._rng, self.chain.faults
        if rng.random() < faults.transport:
            return Failure("time-out")
        match request:
            case GetSlot(commitment):
                return int(self.confirmed() if commitment == "confirmed" else self.finalized())
            case GetFirstAvailable():
                return 0
            case GetBlock():
                return self._block(request)
            case ListSignatures():
                return self._list(request)
            case GetTransactions(signatures):
                return tuple(self._transaction(signature) for signature in signatures)
            case _:
                raise AssertionError(f"not a node's request: {request}")

    def _visible(self, commitment: str) -> Slot:
        return self.confirmed() if commitment == "confirmed" else self.finalized()

    def _block(self, request: GetBlock) -> Block | Failure:
        asked = self._block_asked[request.slot] = self._block_asked.get(request.slot, 0) + 1
        if request.slot > self._visible(request.commitment):
            return Failure("not available", BLOCK_NOT_AVAILABLE)
        if asked < 3 and self._rng.random() < self.chain.faults.block_late:
            return Failure("not available", BLOCK_NOT_AVAILABLE)
        block = self.chain.blocks.get(request.slot)
        if block is None:
            return Failure("skipped", LONG_TERM_SLOT_SKIPPED)
        self.served.add(request.slot)
        signatures = tuple(c.raw.signature for c in block.contents) if request.details == "signatures" else None
        contents = tuple(block.contents) if request.details == "full" else None
        return Block(block.slot, block.parent, None, signatures, contents)

    def _list(self, request: ListSignatures) -> tuple[Listed, ...] | Failure:
        rng, faults = self._rng, self.chain.faults
        upper = self._visible(request.commitment)
        if rng.random() < faults.lagging_node:
            upper = Slot(max(0, upper - 3))
        if request.min_context_slot is not None and upper < request.min_context_slot:
            return Failure("min context slot", MIN_CONTEXT_SLOT_NOT_REACHED)
        barrier = max(self.served, default=-1)
        entries = []
        for slot in sorted(self.chain.blocks, reverse=True):
            if slot > upper:
                continue
            for content in reversed(self.chain.blocks[slot].contents):
                if request.address not in content.programs:
                    continue
                # Without a served block at or above the slot, its index writes may be under way still.
                if slot > barrier and rng.random() < faults.incomplete_list:
                    continue
                index = None if faults.old_node else content.raw.transaction_index
                entries.append(Listed(content.raw.signature, slot, index, content.raw.err))
        if request.before is not None:
            places = [place for place, entry in enumerate(entries) if entry.signature == request.before]
            if not places:
                return () if faults.old_node else Failure("transaction not found", TRANSACTION_NOT_FOUND)
            entries = entries[places[0] + 1 :]
        return tuple(entries[: request.limit])

    def _transaction(self, signature: str) -> Content | None:
        asked = self._asked[signature] = self._asked.get(signature, 0) + 1
        if asked < 4 and self._rng.random() < self.chain.faults.null_transaction:
            return None
        upper = self.confirmed()
        for slot in sorted(self.chain.blocks, reverse=True):
            if slot > upper:
                continue
            for content in self.chain.blocks[slot].contents:
                if content.raw.signature == signature:
                    return content
        return None
