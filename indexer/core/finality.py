"""The auditor: what was sealed at confirmed is compared with the finalized chain. Replay is the same over old slots.

A confirmed block can still die with its fork. The audit lists the finalized signatures of every program and compares them with the ledger:
what is missing is appended late, what the chain does not hold is retracted, and then the range is sealed as finalized. Before a row is
retracted, its block has the last word: a list may be incomplete, a finalized block is not. A list must join the ledger as it must for a seal.

A list that hides the same transaction every time looks like one in which nothing is missing. So a share of the slots is compared with their blocks:
which ones, nobody can know who does not know the salt. And `examine` looks at one block for a hint (hints.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from indexer.core import blocks, nulls, places
from indexer.core.hints import Hint, Hints
from indexer.core.join import joined
from indexer.core.members import keys_known
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    SAW_BLOCK,
    SAW_LIST,
    SAW_SOCKET,
    Address,
    AppendLate,
    Block,
    Commitment,
    Content,
    Correct,
    Correction,
    Details,
    Done,
    Failure,
    GetBlock,
    GetSlot,
    Halted,
    Held,
    Listed,
    Outcome,
    Pause,
    Range,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    Slot,
    Unproven,
    why_not,
)
from indexer.core.walk import SideBySide, SignatureWalk, WalkBroken
from programs.transaction import RawTransaction

BLOCK_ATTEMPTS = 10
# By blocks, where a list does not join: so many slots at once, and in one audit.
BY_BLOCK_SLOTS = 16
BY_BLOCK_SLOTS_MAX = 128


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """`sample`: the share of slots whose blocks are compared with the lists. `samples_max`: so many of them in one audit, which bounds its calls: it
    ends before the next one, and the audit after it goes on from there. `salt`: of the edge's choosing. `unjoined_max`: after so many audits in which
    a list did not join the ledger, blocks are read instead."""

    sample: float = 0.0
    samples_max: int = 256
    salt: bytes = b""
    unjoined_max: int = 3


@dataclass(slots=True)
class AuditTally:
    """Counts that only grow."""

    audits: int = 0
    compared: int = 0
    late: int = 0
    retracted: int = 0
    list_missed: int = 0
    list_wrong: int = 0
    forged: int = 0
    sampled: int = 0
    hidden: int = 0
    phantoms: int = 0
    lists_unjoined: int = 0


@dataclass(slots=True)
class _Findings:
    """`replaced`: positions of rows that say something else than the chain of the same transaction. `held` is what stands in the compared ranges, by
    place and program; `unread` the rows whose contents were the socket's, `unlisted` the places that sampled blocks show and no list names."""

    late: dict[tuple[Slot, str], set[Address]]
    foreign: dict[int, Held]
    replaced: set[int]
    held: dict[tuple[Slot, str], dict[Address, int]]
    unread: dict[tuple[Slot, str], Held]
    unlisted: set[tuple[Slot, str]] = field(default_factory=set)


class Auditor:
    """Owns the finalized cursors. One routine at a time; `sealed` bounds it, for what is not sealed is not compared."""

    def __init__(
        self,
        cursors: Mapping[Address, Slot],
        policy: AuditPolicy | None = None,
        starts: Mapping[Address, Slot] | None = None,
    ) -> None:
        self.tally = AuditTally()
        self.root = Slot(-1)
        """The finalized tip as last read."""
        self.left_off = False
        """The last audit ended before its target, with all the samples read that one may read. The next one goes on."""
        self._policy = policy if policy is not None else AuditPolicy()
        self._cursors = dict(cursors)
        # The ledger's first slot of each program, those that will be admitted included: what lies before it is not the ledger's.
        self._starts = dict(starts or {})
        self._tip = Slot(-1)
        self._samples_left = 0
        # Up to here every block is compared, because a list was caught.
        self._alert_last = Slot(-1)
        # The last row below the cursor that a list has named, by program; None: there is none near. Asked anew when rows were compared.
        self._joints: dict[Address, Held | None] = {}
        self._unjoined = 0
        self._holes = 0

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
        self.left_off = False
        try:
            return (yield from self._audit(sealed, upto))
        except WalkBroken as broken:
            return Unproven(broken.reason)

    def _audit(self, sealed: Slot, upto: Slot | None) -> Routine:
        reply = yield GetSlot("finalized")
        if not isinstance(reply, int):
            return Unproven(f"the finalized tip can't be read: {why_not(reply)}")
        tip = reply
        self.root = Slot(max(self.root, tip))
        self._tip = Slot(tip)
        self._samples_left = self._policy.samples_max
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
        # Asked after the lists: what is there now was there while they were read. A pruned list would make every old row look foreign.
        lacking = yield from self._no_hole(Slot(tip))
        if lacking is not None:
            return lacking
        for address, walk in walks.items():
            if address in self._joints and self._joints[address] is None:
                continue
            # What lies at or below the cursor was compared at finalized: it can't have died with a fork.
            cursor, known = self._cursors[address], self._joints.get(address)
            row = yield from joined(walk, cursor, self._tip, "finalized", known, dead_max=0)
            if isinstance(row, Halted):
                self._joints.pop(address, None)
                return row
            if row is None or isinstance(row, Held):
                self._joints[address] = row
            else:
                self.tally.lists_unjoined += 1
                self._unjoined += 1
                return row if self._unjoined < self._policy.unjoined_max else (yield from self._by_block(target))
        self._unjoined = 0
        late = retracted = 0
        lists = SideBySide(walks, target)
        while self.finalized < target:
            upper, listed = yield from lists.ascend()
            while (floor := self.finalized) < upper:
                part, samples = self._draw(upper)
                if part == floor:
                    self.left_off = True
                    return Done(floor, late=late, retracted=retracted)
                within = {
                    address: [entry for entry in entries if floor < entry.slot <= part]
                    for address, entries in listed.items()
                }
                outcome = yield from self._compare(part, within, samples)
                if not isinstance(outcome, Done):
                    return outcome
                late += outcome.late
                retracted += outcome.retracted
        return Done(self.finalized, late=late, retracted=retracted)

    def _no_hole(self, tip: Slot) -> Generator[Request, Reply, Unproven | Halted | None]:
        failed = yield from blocks.without_hole(self.finalized, tip, "finalized")
        self._holes = self._holes + 1 if isinstance(failed, blocks.Hole) else 0
        return Unproven(failed.reason) if isinstance(failed, Halted) and 0 < self._holes < blocks.HOLES_MAX else failed

    def _by_block(self, target: Slot) -> Routine:
        """Compare some slots without the lists: every block of them is read."""
        late = retracted = 0
        last = Slot(min(target, self.finalized + BY_BLOCK_SLOTS_MAX))
        while self.finalized < last:
            upper = top = Slot(min(last, self.finalized + BY_BLOCK_SLOTS))
            block = yield from self._block(top, "none")
            while block is None and top > self.finalized + 1:
                top = Slot(top - 1)
                block = yield from self._block(top, "none")
            found = (
                [] if block is None else (yield from blocks.read_down(top, self.finalized, "finalized", BLOCK_ATTEMPTS))
            )
            if isinstance(block, Unproven | Halted):
                return block
            if not isinstance(found, list):
                return found
            shown: dict[Address, list[Listed]] = {address: [] for address in self._cursors}
            for each in found:
                for content in each.contents or ():
                    raw = content.raw
                    for address in content.programs & self._cursors.keys():
                        if self._cursors[address] < raw.slot:
                            shown[address].append(Listed(raw.signature, Slot(raw.slot), raw.transaction_index, raw.err))
            outcome = yield from self._compare(upper, shown)
            if not isinstance(outcome, Done):
                return outcome
            late += outcome.late
            retracted += outcome.retracted
        return Done(self.finalized, late=late, retracted=retracted)

    def _compare(self, upper: Slot, listed: Mapping[Address, list[Listed]], samples: Sequence[Slot] = ()) -> Routine:
        """The ledger with what is `listed` up to `upper`, and with the blocks of `samples`, then one correction and the finalized seals."""
        findings = _Findings({}, {}, set(), {}, {})
        ranges = []
        shown = yield from self._sample(samples)
        for address, cursor in sorted(self._cursors.items()):
            if cursor >= upper:
                continue
            ranges.append(Range(address, Slot(cursor + 1), upper))
            reply = yield ReadLedger(address, Slot(cursor + 1), upper)
            if not isinstance(reply, tuple):
                return Unproven(f"the ledger can't be read: {why_not(reply)}")
            if reply:
                self._joints.pop(address, None)
            self._differences(address, reply, listed[address], findings)
            self._unlisted(address, reply, listed[address], shown, findings)
        found = yield from self._truly_foreign(findings)
        if not isinstance(found, list):
            return found
        findings.foreign = {row.position: row for row in found}
        rows = yield from self._late_rows(findings)
        if not isinstance(rows, list):
            return rows
        foreign = list(findings.foreign.values())
        kept = {(row.raw.slot, row.raw.signature) for row in rows}
        wrong = yield from places.still_there(
            [row for row in foreign if (row.slot, row.signature) not in kept], "finalized"
        )
        if wrong is None:
            shown_alone = [row for row in rows if (row.raw.slot, row.raw.signature) in findings.unlisted]
            wrong = yield from places.elsewhere(shown_alone, "finalized")
        if wrong is not None:
            return wrong
        reply = yield Correct(Correction(tuple(ranges), tuple(rows), tuple(foreign)))
        if isinstance(reply, Failure):
            return Unproven(f"the ledger refused the correction: {reply.message}")
        for span in ranges:
            self._cursors[span.address] = upper
        self.tally.late += len(rows)
        self.tally.retracted += len(foreign)
        return Done(upper, late=len(rows), retracted=len(foreign))

    def _sampled(self, slot: Slot) -> bool:
        return slot <= self._alert_last or blocks.draw(slot, self._policy.salt) < self._policy.sample

    def _draw(self, upper: Slot) -> tuple[Slot, list[Slot]]:
        """How far towards `upper` this audit may go, and the samples up to there. A sample that is one too many ends it: none is left out."""
        if self._policy.sample <= 0:
            return upper, []
        chosen: list[Slot] = []
        for at in map(Slot, range(self.finalized + 1, upper + 1)):
            if not self._sampled(at):
                continue
            if len(chosen) == self._samples_left:
                return Slot(at - 1), chosen
            chosen.append(at)
        return upper, chosen

    def _sample(self, chosen: Sequence[Slot]) -> Generator[Request, Reply, dict[Slot, Block]]:
        self._samples_left -= len(chosen)
        found = yield from blocks.mentioned(chosen, "finalized")
        self.tally.sampled += len(found)
        return found

    def _unlisted(
        self,
        address: Address,
        held: tuple[Held, ...],
        listed: list[Listed],
        shown: Mapping[Slot, Block],
        into: _Findings,
    ) -> None:
        """What the sampled blocks hold of a program and its list does not, and what the ledger holds there and the block does not."""
        if not shown:
            return
        named: dict[Slot, set[str]] = {}
        for entry in listed:
            named.setdefault(entry.slot, set()).add(entry.signature)
        mine: dict[Slot, dict[str, Held]] = {}
        for row in held:
            mine.setdefault(row.slot, {})[row.signature] = row
        for slot, block in shown.items():
            if slot <= self._cursors[address]:
                continue
            there = {signature for signature, programs in block.mentions or () if address in programs}
            hidden = there - named.get(slot, set())
            if hidden:
                self.tally.hidden += len(hidden)
                self._alert_last = Slot(slot + blocks.ALERT_SLOTS)
            rows = mine.get(slot, {})
            for signature in hidden - rows.keys():
                into.late.setdefault((slot, signature), set()).add(address)
                into.unlisted.add((slot, signature))
            for signature in rows.keys() - there:
                into.foreign[rows[signature].position] = rows[signature]

    def follow(self, hint: Hint, hints: Hints, sealed: Mapping[Address, Slot], commitment: Commitment) -> Routine:
        """`examine` a slot for a hint that was taken, and say what came of it."""
        routine = self.examine(hint.slot, hint.signatures, sealed, commitment)
        reply: Reply = None
        outcome: Outcome | None = None
        try:
            while outcome is None:
                try:
                    request = routine.send(reply)
                except StopIteration as stop:
                    outcome = stop.value
                else:
                    reply = yield request
        except GeneratorExit:
            hints.again(hint)
            raise
        assert outcome is not None
        if isinstance(outcome, Unproven):
            hints.again(hint, answered=not isinstance(reply, Failure) or reply.code is not None)
        elif isinstance(outcome, Halted):
            hints.drop(hint)  # the node has forgotten the block: nobody can tell any more
        else:
            hints.done(hint)
        return outcome

    def examine(
        self, slot: Slot, signatures: frozenset[str], sealed: Mapping[Address, Slot], commitment: Commitment
    ) -> Routine:
        """Look at the block of a sealed slot for a hint: what it holds and the ledger does not is appended late. `sealed`: up to where each
        program is. Done's `late` tells how many. Unproven: the block can't be had now."""
        mine = sorted(a for a, upto in sealed.items() if self._starts.get(a, slot) <= slot <= upto)
        if not mine:
            return Done(slot)
        if slot <= self.finalized:
            commitment = "finalized"
        missing: dict[str, tuple[Content, set[Address]]] = {}
        block = yield from self._served(slot, "full", commitment, max(sealed.values()))
        if isinstance(block, Unproven | Halted):
            return block
        known: set[str] = set()
        for address in mine:
            reply = yield ReadLedger(address, slot, slot)
            if not isinstance(reply, tuple):
                return Unproven(f"the ledger can't be read: {why_not(reply)}")
            held = {row.signature for row in reply}
            known |= held
            for content in () if block is None else block.contents or ():
                if address in content.programs and content.raw.signature not in held:
                    missing.setdefault(content.raw.signature, (content, set()))[1].add(address)
        rows = [
            Row(
                content.raw, frozenset(programs), SAW_BLOCK | (SAW_SOCKET if content.raw.signature in signatures else 0)
            )
            for content, programs in missing.values()
        ]
        self.tally.phantoms += len(signatures - known - missing.keys())
        if not rows:
            return Done(slot)
        wrong = yield from places.elsewhere(rows, commitment)
        if wrong is not None:
            return wrong
        rows = yield from nulls.fill(rows, commitment)
        reply = yield AppendLate(tuple(rows))
        if isinstance(reply, Failure):
            return Unproven(f"the ledger refused the late rows: {reply.message}")
        self.tally.late += len(rows)
        self.tally.hidden += len(rows)
        return Done(slot, late=len(rows))

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
                into.replaced.add(known.position)
        for key, row in mine.items():
            if key not in truth:
                into.foreign[row.position] = row

    def _late_rows(self, findings: _Findings) -> Generator[Request, Reply, list[Row] | Unproven | Halted]:
        rows: list[Row] = []
        for slot in sorted({slot for slot, _ in (*findings.late, *findings.unread)}):
            block = yield from self._block(slot, "full")
            if block is None:
                continue  # a slot that was skipped: what list or socket told of it is no transaction, and a row of it will be retracted
            if isinstance(block, Unproven | Halted):
                return block
            if block.contents is None:
                return Unproven(f"the finalized block of slot {slot} came without its transactions")
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
                if self._keep_replaced(findings, (Slot(at), signature), content.raw):
                    self.tally.list_wrong += 1
                standing = self._standing(findings, Slot(at), signature)
                claimed = set() if keys_known(content.raw) else programs
                members = frozenset(a for a in (content.programs & self._cursors.keys()) | claimed if a not in standing)
                if members:
                    rows.append(Row(content.raw, members, SAW_LIST | SAW_BLOCK))
        rows = yield from nulls.fill(rows, "finalized")
        rows.sort(key=lambda row: (row.raw.slot, row.raw.transaction_index))
        return rows

    def _keep_replaced(self, findings: _Findings, place: tuple[Slot, str], block: RawTransaction) -> bool:
        """Keep the rows that a list contradicts and the block does not. Whether there are such."""
        kept = False
        for position in set(findings.held.get(place, {}).values()) & findings.replaced:
            row = findings.foreign.get(position)
            if (
                row is not None
                and (row.transaction_index, row.err) == (block.transaction_index, block.err)
                and row.unfetched_logs in (None, block.logs)
            ):
                del findings.foreign[position]
                kept = True
        return kept

    def _standing(self, findings: _Findings, slot: Slot, signature: str) -> set[Address]:
        """Programs that need no row of this transaction: they have one that stays, or were compared further than the slot already."""
        held = findings.held.get((slot, signature), {})
        kept = {address for address, position in held.items() if position not in findings.foreign}
        return kept | {address for address, cursor in self._cursors.items() if cursor >= slot}

    def _truly_foreign(self, findings: _Findings) -> Generator[Request, Reply, list[Held] | Unproven | Halted]:
        foreign: list[Held] = []
        by_slot: dict[Slot, list[Held]] = {}
        for row in findings.foreign.values():
            by_slot.setdefault(row.slot, []).append(row)
        for slot, rows in sorted(by_slot.items()):
            block = yield from self._block(slot, "signatures")
            if isinstance(block, Unproven | Halted):
                return block
            alive = set() if block is None else set(block.signatures or ())
            for row in rows:
                if row.signature in alive and row.position not in findings.replaced:
                    self.tally.list_missed += 1
                else:
                    foreign.append(row)
        return foreign

    def _block(self, slot: Slot, details: Details) -> Generator[Request, Reply, Block | Unproven | Halted | None]:
        """The finalized block, or None when the chain skipped the slot."""
        return (yield from self._served(slot, details, "finalized", Slot(max(self._tip, slot + 1))))

    def _served(
        self, slot: Slot, details: Details, commitment: Commitment, last: Slot
    ) -> Generator[Request, Reply, Block | Unproven | Halted | None]:
        failure = Failure("not asked")
        for attempt in range(BLOCK_ATTEMPTS):
            reply = yield GetBlock(slot, details, commitment)
            if isinstance(reply, Block):
                return reply
            assert isinstance(reply, Failure)
            failure = reply
            if failure.code == BLOCK_CLEANED_UP:
                return blocks.pruned(slot, failure.message)
            if failure.code is None:
                break
            # No refusal proves a skip; the next block's parent does.
            if (yield from blocks.skipped(slot, last, commitment)):
                return None
            yield Pause(min(0.1 * 1.5**attempt, 2.0), "finality")
        return Unproven(f"the {commitment} block of slot {slot} is not served: {failure.message}")
