"""Blocks by their parents: a slot that was skipped is proven, a range is read without a hole.

A refusal proves no skip: -32007 and -32009 are also what a node says of a slot that it jumped over when it started from a newer snapshot. But each
block names its parent, so the first block behind a slot tells whether the chain went by it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    BLOCKS_RANGE_MAX,
    METHOD_NOT_FOUND,
    Block,
    Commitment,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    Halted,
    Pause,
    Reply,
    Request,
    Slot,
    Together,
    Unproven,
    why_not,
)

# A leader has four slots in a row, and a chain that skips more than some dozens has stopped.
SKIPPED_TOGETHER_MAX = 64
# Within so many slots each gap is looked at. In a longer stretch those of more than HOLE_SLOTS_MIN: a node takes longer than that to start anew.
NEAR_SLOTS = 1_000
HOLE_SLOTS_MIN = 32
HOLES_MAX = 3
# Slots of one getBlocks where many are asked: a megabyte of reply.
LISTED_TOGETHER_MAX = 100_000
ATTEMPTS = 6
SAMPLES_TOGETHER_MAX = 4
# Behind a slot of which a list hid something, so many slots are compared with their blocks, all of them.
ALERT_SLOTS = 1_000
Fate = Literal["there", "gone", "pruned"]


class Hole(Halted, frozen=True):
    """The node lacks blocks in the midst of its history. Two nodes behind one balancer, or a fork between two answers, look like that for a moment:
    believed when it is found in HOLES_MAX rounds in a row."""


def behind(slot: Slot, last: Slot, commitment: Commitment) -> Generator[Request, Reply, Block | None]:
    """The next block behind the slot, up to `last` and a little further; None when none is served. Each slot between its parent and itself was
    skipped. What the list of blocks leaves out can't harm: then the parent of the block that was taken for the next is what was left out, or lies
    above it."""
    end = min(max(last, slot + SKIPPED_TOGETHER_MAX), slot + BLOCKS_RANGE_MAX)
    listed = yield GetBlocks(Slot(slot + 1), Slot(end), commitment)
    for at in listed[:1] if isinstance(listed, tuple) else range(slot + 1, slot + SKIPPED_TOGETHER_MAX):
        reply = yield GetBlock(Slot(at), "none", commitment)
        if isinstance(reply, Block) and reply.slot == at and reply.parent_slot < at:
            return reply
    return None


def skipped(slot: Slot, last: Slot, commitment: Commitment) -> Generator[Request, Reply, bool]:
    """Whether the next block behind the slot shows by its parent that the chain went by the slot."""
    after = yield from behind(slot, last, commitment)
    return after is not None and after.parent_slot < slot


def fate(slot: Slot, signature: str, last: Slot, commitment: Commitment) -> Generator[Request, Reply, Fate | Unproven]:
    """What became of a transaction that the ledger holds in a slot: its block holds it, the chain does not, or the node has forgotten it."""
    why = ""
    for attempt in range(ATTEMPTS):
        reply = yield GetBlock(slot, "signatures", commitment)
        if isinstance(reply, Block):
            return "there" if signature in (reply.signatures or ()) else "gone"
        assert isinstance(reply, Failure)
        why = reply.message
        if reply.code is None:
            break
        if reply.code == BLOCK_CLEANED_UP:
            return "pruned"
        first = yield GetFirstAvailable()
        if isinstance(first, int) and first > slot:
            return "pruned"
        if (yield from skipped(slot, last, commitment)):
            return "gone"
        yield Pause(0.1 * 1.5**attempt, "join")
    return Unproven(
        f"the block of slot {slot}, which the ledger has a row of, is not served and not shown to be skipped: {why}"
    )


def without_hole(
    sealed: Slot, served: Slot, commitment: Commitment, parents: Mapping[Slot, Slot] | None = None
) -> Generator[Request, Reply, Unproven | Halted | None]:
    """Whether the node has the blocks between the last seal and a slot whose block it served. One that started anew from a snapshot lists what it
    has from before and after, and names an old block as its first; what lies in between looks as if nothing had happened, and so does pruned history.
    Slots without a block are believed when the block behind them names a parent before them. Ask after the lists: what is there now was there while
    they were read. `parents`: those of blocks that were served in this round."""
    parents = {} if parents is None else parents
    at = served
    while at > sealed and at in parents:
        at = parents[at]
    if at <= sealed:
        return None  # each block of the stretch was served
    before = floor = Slot(max(sealed, 0))
    doubted = 1 if served - sealed <= NEAR_SLOTS else HOLE_SLOTS_MIN
    for start in range(sealed + 1, served + 1, LISTED_TOGETHER_MAX):
        end = Slot(min(start + LISTED_TOGETHER_MAX - 1, served))
        reply = yield GetBlocks(Slot(start), end, commitment)
        if isinstance(reply, Failure):
            if reply.code == METHOD_NOT_FOUND:
                # A proxy that lets few methods through: what can't be asked can't hold the seal.
                return (yield from reaches_back(Slot(sealed + 1)))
            return Unproven(f"the blocks of slots {start}..{end} can't be listed: {reply.message}")
        assert isinstance(reply, tuple)
        if served == end and served not in reply:
            return Unproven(f"the node lists no block of slot {served}, which it has served")
        for slot in reply:
            # The first gap may be the upper end of a longer one.
            if slot - before > (1 if before == floor else doubted):
                lacking = yield from _gap(before, slot, commitment, parents)
                if lacking is not None:
                    return lacking
            before = slot
    return None


def _gap(
    before: Slot, slot: Slot, commitment: Commitment, parents: Mapping[Slot, Slot]
) -> Generator[Request, Reply, Unproven | Halted | None]:
    """Between two blocks that the node lists it lists none: has it none, or has the chain?"""
    parent = parents.get(slot)
    if parent is None:
        block = yield GetBlock(slot, "none", commitment)
        if not isinstance(block, Block):
            return Unproven(f"the block of slot {slot} is not served")
        parent = block.parent_slot
    if parent <= before:
        return None
    pruned_ = yield from reaches_back(Slot(before + 1))
    if pruned_ is not None:
        return pruned_
    block = yield GetBlock(parent, "none", commitment)
    if not isinstance(block, Failure) or block.code is None:
        return Unproven(f"the node serves the block of slot {parent} and does not list it")
    return Hole(
        f"the node lacks the blocks of slots {before + 1}..{parent}: it was started anew from a snapshot",
        f"use an RPC endpoint that has slots {before + 1}..{parent}",
    )


def reaches_back(need: Slot) -> Generator[Request, Reply, Unproven | Halted | None]:
    """Whether the node's history reaches the slot that is needed next."""
    reply = yield GetFirstAvailable()
    if not isinstance(reply, int):
        return Unproven(f"the node's first available block can't be read: {why_not(reply)}")
    # Slot 0 and 1 are the genesis: nodes without pruning may name either.
    if reply <= max(need, 1):
        return None
    return Halted(
        f"the node's history begins at slot {reply}, but slot {need} is needed next",
        f"use an RPC endpoint whose history reaches slot {need}, or, on a new ledger, set start_slot to {reply} or later",
    )


def mentioned(slots: Sequence[Slot], commitment: Commitment) -> Generator[Request, Reply, dict[Slot, Block]]:
    """The blocks of samples, with which of the watched programs each transaction mentions. One that is not served is no finding: a sample is only a
    look more than the proof needs."""
    found: dict[Slot, Block] = {}
    for start in range(0, len(slots), SAMPLES_TOGETHER_MAX):
        part = slots[start : start + SAMPLES_TOGETHER_MAX]
        replies = yield Together(tuple([GetBlock(slot, "accounts", commitment) for slot in part]))
        assert isinstance(replies, tuple)
        for slot, reply in zip(part, replies, strict=True):
            if isinstance(reply, Block) and reply.slot == slot and reply.mentions is not None:
                found[slot] = reply
    return found


def draw(seed: int, salt: bytes) -> float:
    """A number from 0 to 1 that nobody can foretell who does not know the salt."""
    digest = blake2b(seed.to_bytes(8, "little"), key=salt[:64], digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def read_down(
    top: Slot, floor: Slot, commitment: Commitment, attempts: int
) -> Generator[Request, Reply, list[Block] | Unproven | Halted]:
    """Every block of slots floor + 1 .. top, whole, ascending, each the parent of the next; `top` must have one."""
    found: list[Block] = []
    slot = top
    while slot > floor:
        block = yield from whole(slot, commitment, attempts)
        if not isinstance(block, Block):
            return block
        if block.slot != slot or block.parent_slot >= slot > 0:
            return Unproven(f"the block that was served for slot {slot} does not fit there")
        found.append(block)
        if slot == 0:
            break  # the genesis is its own parent
        slot = block.parent_slot
    return found[::-1]


def whole(slot: Slot, commitment: Commitment, attempts: int) -> Generator[Request, Reply, Block | Unproven | Halted]:
    """The block with its transactions of the watched programs, asked for with bounded patience."""
    why = ""
    for attempt in range(attempts):
        reply = yield GetBlock(slot, "full", commitment)
        if isinstance(reply, Block) and reply.contents is not None:
            return reply
        if isinstance(reply, Failure):
            why = reply.message
            if reply.code == BLOCK_CLEANED_UP:
                return pruned(slot, reply.message)
            if reply.code is None:
                break
        yield Pause(min(0.1 * 1.5**attempt, 2.0), "block")
    return Unproven(f"the block of slot {slot} is not served: {why}")


def pruned(slot: Slot, said: str) -> Halted:
    """The node had the block's transactions in its list and the block no more."""
    return Halted(
        f"the node has pruned slot {slot}: {said}",
        f"use an RPC endpoint whose history reaches slot {slot}, or one that keeps more of it",
    )
