"""The auditor: what was sealed at confirmed is compared with the finalized chain. Replay is the same over old slots.

A confirmed block can still die with its fork. The audit lists the finalized signatures of every program and compares them with the ledger:
what is missing is appended late, what the chain does not hold is retracted, and then the range is sealed as finalized. Before a row is
retracted, its block has the last word: a list may be incomplete, a finalized block is not.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from indexer.core import nulls
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    LONG_TERM_SLOT_SKIPPED,
    SAW_BLOCK,
    SAW_LIST,
    SLOT_SKIPPED,
    Address,
    Block,
    Content,
    Correct,
    Correction,
    Done,
    Failure,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    Halted,
    Held,
    Listed,
    Pause,
    Range,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    Slot,
    Unproven,
)
from indexer.core.walk import SignatureWalk, WalkBroken

BLOCK_ATTEMPTS = 10


@dataclass(slots=True)
class AuditTally:
    """Counts that only grow."""

    audits: int = 0
    compared: int = 0
    late: int = 0
    retracted: int = 0
    list_missed: int = 0
    forged: int = 0


@dataclass(slots=True)
class _Findings:
    """`held` is what stands in the compared ranges, by place and program; `unread` the rows whose contents were the socket's."""

    late: dict[tuple[Slot, str], set[Address]]
    foreign: dict[int, Held]
    held: dict[tuple[Slot, str], dict[Address, int]]
    unread: dict[tuple[Slot, str], Held]


class Auditor:
    """Owns the finalized cursors. One routine at a time; `sealed` bounds it, for what is not sealed is not compared."""

    def __init__(self, cursors: Mapping[Address, Slot]) -> None:
        self.tally = AuditTally()
        self._cursors = dict(cursors)

    @property
    def finalized(self) -> Slot:
        """Everything up to this slot was compared at finalized, for every program."""
        return min(self._cursors.values())

    def admit(self, address: Address, cursor: Slot) -> None:
        """Take over a program that was compared up to `cursor` elsewhere. Between two audits only."""
        self._cursors[address] = cursor

    def audit(self, sealed: Slot, upto: Slot | None = None) -> Routine:
        """Compare from the cursors to the finalized tip, the last seal or `upto`, whichever is lowest."""
        self.tally.audits += 1
        try:
            return (yield from self._audit(sealed, upto))
        except WalkBroken as broken:
            return Unproven(broken.reason)

    def _audit(self, sealed: Slot, upto: Slot | None) -> Routine:
        reply = yield GetSlot("finalized")
        if not isinstance(reply, int):
            return Unproven(f"the finalized tip can't be read: {_message(reply)}")
        tip = reply
        target = Slot(min(tip, sealed, upto if upto is not None else tip))
        if target <= self.finalized:
            return Done(self.finalized)
        walks = {
            address: SignatureWalk(address, cursor, target, "finalized", barrier=Slot(tip))
            for address, cursor in self._cursors.items()
            if cursor < target
        }
        for walk in walks.values():
            yield from walk.descend()
        # Asked after the lists: what is there now was there while they were read.
        reply = yield GetFirstAvailable()
        if not isinstance(reply, int):
            return Unproven(f"the node's first available block can't be read: {_message(reply)}")
        if reply > max(self.finalized + 1, 1):
            # A pruned list would make every old row look foreign.
            return Halted(
                f"the node's history begins at slot {reply}, but slot {self.finalized + 1} is the next to compare at finalized",
                f"use an RPC endpoint whose history reaches slot {self.finalized + 1}",
            )
        late = retracted = 0
        complete = {address: self._cursors[address] for address in walks}
        pending: dict[Address, list[Listed]] = {address: [] for address in walks}
        while self.finalized < target:
            low = min(complete.values())
            for address, walk in walks.items():
                while complete[address] <= low and complete[address] < target:
                    piece = yield from walk.ascend()
                    complete[address] = target if piece is None else Slot(max(complete[address], piece[0]))
                    pending[address].extend(piece[1] if piece is not None else ())
            upper = Slot(min(complete.values()))
            outcome = yield from self._compare(upper, pending)
            if not isinstance(outcome, Done):
                return outcome
            late += outcome.late
            retracted += outcome.retracted
            for address, entries in pending.items():
                pending[address] = [entry for entry in entries if entry.slot > upper]
        return Done(self.finalized, late=late, retracted=retracted)

    def _compare(self, upper: Slot, pending: Mapping[Address, list[Listed]]) -> Routine:
        findings = _Findings({}, {}, {}, {})
        ranges = []
        for address, cursor in sorted(self._cursors.items()):
            if cursor >= upper:
                continue
            ranges.append(Range(address, Slot(cursor + 1), upper))
            reply = yield ReadLedger(address, Slot(cursor + 1), upper)
            if not isinstance(reply, tuple):
                return Unproven(f"the ledger can't be read: {_message(reply)}")
            self._differences(address, reply, [entry for entry in pending[address] if entry.slot <= upper], findings)
        rows = yield from self._late_rows(findings)
        if isinstance(rows, Unproven):
            return rows
        foreign = yield from self._truly_foreign(findings)
        if isinstance(foreign, Unproven):
            return foreign
        reply = yield Correct(Correction(tuple(ranges), tuple(rows), tuple(foreign)))
        if isinstance(reply, Failure):
            return Unproven(f"the ledger refused the correction: {reply.message}")
        for span in ranges:
            self._cursors[span.address] = upper
        self.tally.late += len(rows)
        self.tally.retracted += len(foreign)
        return Done(upper, late=len(rows), retracted=len(foreign))

    def _differences(self, address: Address, held: tuple[Held, ...], listed: list[Listed], into: _Findings) -> None:
        truth = {(entry.slot, entry.signature): entry for entry in listed}
        mine = {(row.slot, row.signature): row for row in held}
        self.tally.compared += len(truth)
        for place, row in mine.items():
            into.held.setdefault(place, {})[address] = row.position
            if row.unfetched_logs is not None:
                into.unread[place] = row
        for key, entry in truth.items():
            known = mine.get(key)
            if (
                known is not None
                and known.err == entry.err
                and entry.transaction_index in (None, known.transaction_index)
            ):
                continue
            into.late.setdefault(key, set()).add(address)
            if known is not None:
                into.foreign[known.position] = known
        for key, row in mine.items():
            if key not in truth:
                into.foreign[row.position] = row

    def _late_rows(self, findings: _Findings) -> Generator[Request, Reply, list[Row] | Unproven]:
        rows: list[Row] = []
        for slot in sorted({slot for slot, _ in (*findings.late, *findings.unread)}):
            block = yield from self._block(slot, "full")
            if block is None and not any(at == slot for at, _ in findings.late):
                continue  # a slot that was skipped: what the socket told of it is foreign, and will be retracted
            if not isinstance(block, Block) or block.contents is None:
                return Unproven(f"the finalized block of slot {slot} is not served")
            by_signature: dict[str, Content] = {content.raw.signature: content for content in block.contents}
            for (at, signature), row in findings.unread.items():
                content = by_signature.get(signature) if at == slot else None
                if content is not None and (content.raw.logs, content.raw.err) != (row.unfetched_logs, row.err):
                    self.tally.forged += 1
                    findings.foreign[row.position] = row
                    findings.late.setdefault((at, signature), set()).update(findings.held[at, signature])
            for (at, signature), programs in findings.late.items():
                if at != slot:
                    continue
                content = by_signature.get(signature)
                if content is None:
                    # The list names what the block does not hold: invented, not late.
                    continue
                standing = self._standing(findings, Slot(at), signature)
                members = frozenset(
                    a for a in (content.programs & self._cursors.keys()) | programs if a not in standing
                )
                if members:
                    rows.append(Row(content.raw, members, SAW_LIST | SAW_BLOCK))
        rows = yield from nulls.fill(rows, "finalized")
        rows.sort(key=lambda row: (row.raw.slot, row.raw.transaction_index))
        return rows

    def _standing(self, findings: _Findings, slot: Slot, signature: str) -> set[Address]:
        """Programs that need no row of this transaction: they have one that stays, or were compared further than the slot already."""
        held = findings.held.get((slot, signature), {})
        kept = {address for address, position in held.items() if position not in findings.foreign}
        return kept | {address for address, cursor in self._cursors.items() if cursor >= slot}

    def _truly_foreign(self, findings: _Findings) -> Generator[Request, Reply, list[Held] | Unproven]:
        foreign: list[Held] = []
        by_slot: dict[Slot, list[Held]] = {}
        for row in findings.foreign.values():
            by_slot.setdefault(row.slot, []).append(row)
        for slot, rows in sorted(by_slot.items()):
            block = yield from self._block(slot, "signatures")
            if isinstance(block, Unproven):
                return block
            alive = set() if block is None else set(block.signatures or ())
            for row in rows:
                replaced = (row.slot, row.signature) in findings.late
                if row.signature in alive and not replaced:
                    self.tally.list_missed += 1
                else:
                    foreign.append(row)
        return foreign

    def _block(self, slot: Slot, details: str) -> Generator[Request, Reply, Block | Unproven | None]:
        """The finalized block, or None when the chain skipped the slot."""
        failure = Failure("not asked")
        for attempt in range(BLOCK_ATTEMPTS):
            reply = yield GetBlock(slot, "full" if details == "full" else "signatures", "finalized")
            if isinstance(reply, Block):
                return reply
            assert isinstance(reply, Failure)
            failure = reply
            if failure.code in (SLOT_SKIPPED, LONG_TERM_SLOT_SKIPPED):
                return None
            if failure.code is None or failure.code == BLOCK_CLEANED_UP:
                break
            yield Pause(min(0.1 * 1.5**attempt, 2.0), "finality")
        return Unproven(f"the finalized block of slot {slot} is not served: {failure.message}")


def _message(reply: Reply) -> str:
    return reply.message if isinstance(reply, Failure) else f"unexpected answer {reply!r:.80}"
