"""Replay: sealed slots are read from the finalized chain once more and compared with the ledger, contents and all.

Every block of the range is read, so that nothing rests on a signature list; or, `listed`, only the blocks of slots that the lists or the ledger
name, for a long range of a quiet program. What the chain holds and the ledger does not is late, what the ledger holds and the chain does not is
foreign, and where both hold a transaction with other contents the chain wins: the row is retracted and the chain's appended. What a reply does not
tell (null logs, a missing stack height) is unknown, never a difference.

Memory is bounded by a chunk of blocks and the corrections that wait; corrections are committed by the hundred, because each one seals the range
behind it anew. `done` is where the next run may begin.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace

from indexer.core import blocks, nulls, places
from indexer.core.join import joined
from indexer.core.protocol import (
    BLOCKS_RANGE_MAX,
    SAW_BLOCK,
    Address,
    Block,
    Content,
    Correct,
    Correction,
    Done,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    Halted,
    Held,
    Listed,
    Range,
    ReadContents,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    Slot,
    Together,
    Unproven,
    why_not,
)
from indexer.core.walk import SignatureWalk, WalkBroken
from programs.transaction import RawTransaction

SLOTS_MIN, SLOTS_MAX = 2, 64
ROWS_AIM = 2_000
TOGETHER_MAX = 8
ATTEMPTS = 12
CORRECTIONS_TOGETHER = 500
CHUNKS_UNCOMMITTED_MAX = 50
EXAMPLES_MAX = 10


@dataclass(slots=True)
class ReplayTally:
    """What was found; each count only grows. `unknown`: rows of which the chain's reply told less than the ledger holds."""

    compared: int = 0
    late: int = 0
    retracted: int = 0
    corrected: int = 0
    unknown: int = 0
    blocks: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the ledger was the chain."""
        return not (self.late or self.retracted or self.corrected)


class Replay:
    """One range. `cursors`: per program the slot before its first; `digest`: of contents, as the ledger's rows have it."""

    def __init__(
        self,
        cursors: Mapping[Address, Slot],
        last: Slot,
        digest: Callable[[RawTransaction], bytes],
        *,
        listed: bool = False,
    ) -> None:
        self.tally = ReplayTally()
        self.done = min(cursors.values())
        """Up to here everything was compared and the corrections are committed."""
        self._cursors = dict(cursors)
        self._last = last
        self._digest = digest
        self._listed = listed
        self._reached = self.done
        self._slots = 8
        self._late: list[Row] = []
        self._foreign: list[Held] = []
        self._differing: set[int] = set()
        self._waiting = 0
        self._tip = Slot(-1)
        self._counted = ReplayTally()

    def run(self) -> Routine:
        """Compare from `done` to the end. After Unproven it may be called again."""
        self._reached = self.done
        # What was counted and not committed is counted again.
        self.tally = replace(self._counted, examples=list(self._counted.examples))
        self._late.clear()
        self._foreign.clear()
        self._differing.clear()
        try:
            return (yield from self._run())
        except WalkBroken as broken:
            return Unproven(broken.reason)

    def _run(self) -> Routine:
        tip = yield GetSlot("finalized")
        if not isinstance(tip, int):
            return Unproven(f"the finalized tip can't be read: {why_not(tip)}")
        self._tip = Slot(tip)
        if tip < self._last:
            return Unproven(f"slot {self._last} is not finalized at the node, which is at slot {tip}")
        first = yield GetFirstAvailable()
        if not isinstance(first, int):
            return Unproven(f"the node's first available block can't be read: {why_not(first)}")
        if first > max(self.done + 1, 1):
            return Halted(
                f"the node's history begins at slot {first}, but slot {self.done + 1} is the next to compare",
                f"use an RPC endpoint whose history reaches slot {self.done + 1}, or give --from-slot {first} or later",
            )
        walk = _Lists(self._cursors, self.done, self._last, Slot(tip)) if self._listed else None
        if walk is not None:
            failed = yield from walk.open()
            if failed is not None:
                return failed
        while self._reached < self._last:
            found = yield from (self._every_block(Slot(tip)) if walk is None else self._named_blocks(walk, Slot(tip)))
            if not isinstance(found, tuple):
                return found
            upper, read = found
            odd = yield from self._compare(upper, read)
            if odd is not None:
                return odd
            rows = sum(len(block.contents or ()) for block in read)
            self._slots = max(SLOTS_MIN, self._slots // 2) if rows > ROWS_AIM else self._slots
            self._slots = min(SLOTS_MAX, self._slots * 2) if rows < ROWS_AIM // 4 else self._slots
            self._reached = upper
            failed = yield from self._commit()
            if failed is not None:
                return failed
        return Done(self.done, late=self.tally.late, retracted=self.tally.retracted)

    # ---- blocks ----

    def _every_block(self, tip: Slot) -> Generator[Request, Reply, tuple[Slot, list[Block]] | Unproven | Halted]:
        """(slot up to which it is complete, its blocks): each block's parent is the one before it, whatever the node's list of blocks says."""
        low, span = self._reached, self._slots
        while True:
            end = Slot(min(low + span, tip))
            reply = yield GetBlocks(Slot(low + 1), end, "finalized")
            if not isinstance(reply, tuple):
                return Unproven(f"the blocks of slots {low + 1}..{end} can't be listed: {why_not(reply)}")
            if reply:
                break
            if end >= tip:
                return Unproven(f"the node lists no block of slots {low + 1}..{tip}")
            span = min(span * 4, BLOCKS_RANGE_MAX)
        # One block at or behind the last slot shows that there is none in between.
        slots = [slot for slot in reply if slot < self._last]
        slots += [slot for slot in reply if slot >= self._last][:1]
        read = yield from self._read(slots)
        if not isinstance(read, list):
            return read
        found: list[Block] = []
        before = low
        for block in read:
            if block.parent_slot > before and block.slot > 0:
                left_out = yield from blocks.read_down(block.parent_slot, before, "finalized", ATTEMPTS)
                if not isinstance(left_out, list):
                    return left_out
                found.extend(left_out)
            elif found and block.parent_slot != before:
                return Unproven(
                    f"the block of slot {block.slot} names slot {block.parent_slot} as its parent, not {before}"
                )
            found.append(block)
            before = block.slot
        upper = Slot(min(before, self._last))
        self.tally.blocks += len(found)
        return upper, [block for block in found if block.slot <= upper]

    def _named_blocks(
        self, lists: _Lists, tip: Slot
    ) -> Generator[Request, Reply, tuple[Slot, list[Block]] | Unproven | Halted]:
        """The same with the blocks of slots that the lists or the ledger name."""
        upper = Slot(min(self._reached + 16 * self._slots, self._last))
        slots = yield from lists.slots(upper)
        for address, cursor in self._cursors.items():
            if cursor >= upper:
                continue
            reply = yield ReadLedger(address, Slot(max(cursor, self._reached) + 1), upper)
            if not isinstance(reply, tuple):
                return Unproven(f"the ledger can't be read: {why_not(reply)}")
            slots |= {row.slot for row in reply}
        chosen = sorted(slots)
        if len(chosen) > self._slots:
            chosen = chosen[: self._slots]
            upper = chosen[-1]
        read = yield from self._read(chosen, tip)
        if not isinstance(read, list):
            return read
        lists.taken(upper)
        self.tally.blocks += len(read)
        return upper, read

    def _read(
        self, slots: list[Slot], tip: Slot | None = None
    ) -> Generator[Request, Reply, list[Block] | Unproven | Halted]:
        """The blocks of slots, whole. With `tip`, a slot may be shown to have none."""
        found: list[Block] = []
        for start in range(0, len(slots), TOGETHER_MAX):
            part = slots[start : start + TOGETHER_MAX]
            replies = yield Together(tuple(GetBlock(slot, "full", "finalized") for slot in part))
            assert isinstance(replies, tuple)
            for slot, reply in zip(part, replies, strict=True):
                refused = isinstance(reply, Failure) and reply.code is not None
                if refused and tip is not None and (yield from blocks.skipped(slot, tip, "finalized")):
                    continue
                block: Block | Unproven | Halted = reply
                if not isinstance(reply, Block) or reply.contents is None:
                    block = yield from blocks.whole(slot, "finalized", ATTEMPTS)
                if not isinstance(block, Block):
                    return block
                if block.slot != slot or block.parent_slot >= slot > 0:
                    return Unproven(f"the block that was served for slot {slot} does not fit there")
                found.append(block)
        return found

    # ---- comparing ----

    def _compare(self, upper: Slot, read: list[Block]) -> Generator[Request, Reply, Unproven | Halted | None]:
        chain: dict[tuple[Slot, str], Content] = {
            (block.slot, content.raw.signature): content for block in read for content in block.contents or ()
        }
        missing: dict[tuple[Slot, str], set[Address]] = {}
        strange: dict[int, Held] = {}
        odd: dict[int, tuple[Held, Content]] = {}
        lacking: dict[tuple[Slot, str], set[Address]] = {}
        for address, cursor in self._cursors.items():
            low = Slot(max(cursor, self._reached) + 1)
            if low > upper:
                continue
            reply = yield ReadLedger(address, low, upper)
            if not isinstance(reply, tuple):
                return Unproven(f"the ledger can't be read: {why_not(reply)}")
            held = {(row.slot, row.signature): row for row in reply}
            if len(held) < len(reply):
                return Unproven(
                    f"the ledger holds a transaction of {address} twice in slots {low}..{upper}; run: indexer verify"
                )
            mine = {place for place, content in chain.items() if address in content.programs and place[0] >= low}
            self.tally.compared += len(mine)
            for place in mine - held.keys():
                missing.setdefault(place, set()).add(address)
            strange.update({held[place].position: held[place] for place in held.keys() - mine})
            for place in mine & held.keys():
                row, content = held[place], chain[place]
                raw = content.raw
                same_place = (row.transaction_index, row.err) == (raw.transaction_index, raw.err)
                if row.unfetched_logs is not None and same_place and raw.logs in (None, row.unfetched_logs):
                    # The socket's contents, which an operator trusts: logs and nothing else, and these are the chain's.
                    continue
                if not same_place or row.digest != self._digest(raw):
                    odd[row.position] = (row, content)
                    lacking.setdefault(place, set()).add(address)
        failed = yield from self._foreign_rows(strange)
        if failed is not None:
            return failed
        late = [Row(chain[place].raw, frozenset(of), SAW_BLOCK) for place, of in missing.items()]
        late = yield from nulls.fill(late, "finalized")
        for row_late in late:
            self._note("missing", row_late.raw)
        self.tally.late += len(late)
        self._late.extend(late)
        return (yield from self._contents(odd, lacking))

    def _foreign_rows(self, strange: Mapping[int, Held]) -> Generator[Request, Reply, Unproven | Halted | None]:
        """Rows that no block shows as the program's. One whose signature is in its block stays: its message can't be read here."""
        there: dict[Slot, frozenset[str]] = {}
        gone: list[Held] = []
        for row in strange.values():
            if row.slot not in there:
                reply = yield GetBlock(row.slot, "signatures", "finalized")
                if isinstance(reply, Block):
                    there[row.slot] = frozenset(reply.signatures or ())
                elif (yield from blocks.skipped(row.slot, self._tip, "finalized")):
                    there[row.slot] = frozenset()
                else:
                    return Unproven(f"the block of slot {row.slot} is not served: {why_not(reply)}")
            if row.signature in there[row.slot]:
                self.tally.unknown += 1
                continue
            gone.append(row)
        wrong = yield from places.still_there(gone, "finalized")
        if wrong is not None:
            return wrong
        for row in gone:
            self._note("foreign", row)
            self._foreign.append(row)
            self.tally.retracted += 1
        return None

    def _contents(
        self, odd: Mapping[int, tuple[Held, Content]], lacking: Mapping[tuple[Slot, str], set[Address]]
    ) -> Generator[Request, Reply, Unproven | None]:
        """Rows whose digest is not that of the chain's contents: is it the contents that differ, or what a reply tells of them?"""
        if not odd:
            return None
        rows = [row for row, _ in odd.values()]
        reply = yield ReadContents(tuple(rows))
        if not isinstance(reply, tuple):
            return Unproven(f"the ledger can't be read: {why_not(reply)}")
        told = yield from nulls.fill(
            [Row(content.raw, frozenset(), SAW_BLOCK) for _, content in odd.values()], "finalized"
        )
        done: set[tuple[Slot, str]] = set()
        for row, ours, theirs in zip(rows, reply, told, strict=True):
            whole = _informed(theirs.raw, ours)
            place = (row.slot, row.signature)
            if self._digest(whole) == row.digest and (row.err, row.transaction_index) == (
                whole.err,
                whole.transaction_index,
            ):
                self.tally.unknown += 1
                continue
            self._note("other contents", row)
            self._foreign.append(row)
            self._differing.add(row.position)
            if place not in done:
                done.add(place)
                self.tally.corrected += 1
                self._late.append(Row(whole, frozenset(lacking[place]), SAW_BLOCK))
        return None

    def _note(self, what: str, row: Held | RawTransaction) -> None:
        if len(self.tally.examples) < EXAMPLES_MAX:
            self.tally.examples.append(f"{what}: {row.signature} in slot {row.slot}")

    def _commit(self) -> Generator[Request, Reply, Unproven | None]:
        self._waiting += 1
        much = len(self._late) + len(self._foreign) >= CORRECTIONS_TOGETHER or self._waiting >= CHUNKS_UNCOMMITTED_MAX
        if (self._late or self._foreign) and not much and self._reached < self._last:
            return None
        ranges = tuple(
            Range(a, Slot(max(c, self.done) + 1), self._reached) for a, c in self._cursors.items() if c < self._reached
        )
        self._late.sort(key=lambda row: (row.raw.slot, row.raw.transaction_index))
        correction = Correction(ranges, tuple(self._late), tuple(self._foreign), frozenset(self._differing))
        before, self.done = self.done, self._reached
        reply = yield Correct(correction)
        if isinstance(reply, Failure):
            self.done = before
            return Unproven(f"the ledger refused the correction: {reply.message}")
        self._late.clear()
        self._foreign.clear()
        self._differing.clear()
        self._waiting = 0
        self._counted = replace(self.tally, examples=list(self.tally.examples))
        return None


class _Lists:
    """The programs' signature lists of the range, as slots."""

    def __init__(self, cursors: Mapping[Address, Slot], done: Slot, last: Slot, tip: Slot) -> None:
        self._cursors = {address: Slot(max(cursor, done)) for address, cursor in cursors.items()}
        self._tip = tip
        self._last = last
        self._walks = {
            a: SignatureWalk(a, cursor, last, "finalized", barrier=tip)
            for a, cursor in self._cursors.items()
            if cursor < last
        }
        self._complete = {address: self._cursors[address] for address in self._walks}
        self._slots: set[Slot] = set()

    def open(self) -> Generator[Request, Reply, Unproven | Halted | None]:
        for address, walk in self._walks.items():
            yield from walk.descend()
            row = yield from joined(walk, self._cursors[address], self._tip, "finalized", None)
            if isinstance(row, Unproven | Halted):
                return row
        return None

    def slots(self, upper: Slot) -> Generator[Request, Reply, set[Slot]]:
        """Slots up to `upper` that were not `taken`."""
        for address, walk in self._walks.items():
            while self._complete[address] < upper:
                piece: tuple[Slot, list[Listed]] | None = yield from walk.ascend()
                self._complete[address] = self._last if piece is None else Slot(max(self._complete[address], piece[0]))
                self._slots.update(entry.slot for entry in (piece[1] if piece is not None else ()))
        return {slot for slot in self._slots if slot <= upper}

    def taken(self, upper: Slot) -> None:
        """Everything up to here was read."""
        self._slots = {slot for slot in self._slots if slot > upper}


def _informed(theirs: RawTransaction, ours: RawTransaction) -> RawTransaction:
    """The chain's contents, with ours where its reply does not tell."""
    logs = ours.logs if theirs.logs is None else theirs.logs
    inner = theirs.inner
    if inner is None:
        inner = ours.inner
    elif ours.inner is not None and len(inner) == len(ours.inner):
        pairs = zip(inner, ours.inner, strict=True)
        inner = tuple(replace(t, stack_height=o.stack_height) if t.stack_height is None else t for t, o in pairs)
    return replace(theirs, logs=logs, inner=inner)
