"""Bugs, each planted in the core's own path by overriding one step of it, or in the ledger behind it. Data for `test_planted_bugs`."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from msgspec import structs

from indexer.core import blocks, finality, walk
from indexer.core.finality import Auditor
from indexer.core.hints import AccountWrites
from indexer.core.protocol import (
    Append,
    Block,
    Content,
    Correct,
    Correction,
    Failure,
    GetBlock,
    Held,
    ListSignatures,
    Range,
    ReadLedger,
    Row,
    SealPlan,
    Slot,
)
from indexer.core.sealer import Sealer
from indexer.simulation.ledger import ModelLedger
from indexer.simulation.run import Crash

Routine = Generator[Any, Any, Any]


def through(routine: Routine, change: Callable[[Any, Any], Any]) -> Routine:
    """The same routine, with each reply passed through `change(request, reply)`."""
    reply: Any = None
    while True:
        try:
            request = routine.send(reply)
        except StopIteration as stop:
            return stop.value
        reply = change(request, (yield request))


class SkipsBarrier(Sealer):
    """Takes the tip for a barrier without waiting for its block."""

    def _barrier(self, tip: Slot) -> Routine:
        return Block(tip, tip, None)
        yield


class BarrierAfterList(Sealer):
    """Lists first and asks for the block then: in between the list may have been incomplete."""

    def _tick(self, *args: Any) -> Routine:
        routine = super()._tick(*args)
        seen: dict[Any, Any] = {}

        def early(request: Any, reply: Any) -> Any:
            return seen.get(_key(request), reply)

        for address in self._cursors:
            request = ListSignatures(address, self._policy.commitment, 1000)
            reply = yield request
            if isinstance(reply, tuple):
                seen[_key(request)] = reply
        return (yield from through(routine, early))


def _key(request: Any) -> Any:
    return (request.address, request.before) if isinstance(request, ListSignatures) else request


class IgnoresSocketWitness(Sealer):
    """What the socket named and the lists hide is not looked at."""

    def _suspicious(self, chunk: Any) -> Any:
        return ()


class RefusalMeansSkipped(Sealer):
    """A block that is refused is taken for a slot without a block."""

    def _is_skipped(self, slot: Slot) -> Routine:
        return True
        yield


class CheckpointFirst(Sealer):
    """Moves its cursor before the commit has succeeded."""

    def _seal_chunk(self, chunk: Any, tip: Slot) -> Routine:
        self._committed(chunk.upper, ())
        return (yield from super()._seal_chunk(chunk, tip))


class IgnoresRefusedAppend(Sealer):
    """Takes any answer to a commit for success."""

    def _seal_chunk(self, chunk: Any, tip: Slot) -> Routine:
        return (yield from through(super()._seal_chunk(chunk, tip), _blind_to_refusals))


def _blind_to_refusals(request: Any, reply: Any) -> Any:
    return None if isinstance(request, Append | Correct) and isinstance(reply, Failure) else reply


class DropsFailed(Sealer):
    """Leaves failed transactions out."""

    def _from_block(self, slot: Slot, chunk: Any) -> list[Row]:
        return [row for row in super()._from_block(slot, chunk) if row.raw.err is None]

    def _agreed(self, entry: Any, content: Any, chunk: Any) -> Row | None:
        row = super()._agreed(entry, content, chunk)
        return row if row is None or row.raw.err is None else Row(row.raw, frozenset(), row.witnesses)


class DedupesBySignature(Sealer):
    """Knows a transaction by its signature alone; after a fork the same one may land in another slot."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        if not isinstance(rows, list):
            return rows
        return [row for row in rows if row.raw.signature not in self._stored]


class WrongOrderOfSlots(Sealer):
    """Orders rows by signature."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        if isinstance(rows, list):
            rows.sort(key=lambda row: row.raw.signature)
        return rows


class WrongOrderWithinSlot(Sealer):
    """Numbers the transactions of a slot as the socket named them, not as the block holds them."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        if not isinstance(rows, list):
            return rows
        found: list[Row] = []
        for slot in sorted({row.raw.slot for row in rows}):
            mine = [row for row in rows if row.raw.slot == slot]
            indices = [row.raw.transaction_index for row in mine]
            heard = list(self.notifications.signatures(Slot(slot)))
            mine.sort(key=lambda row: heard.index(row.raw.signature) if row.raw.signature in heard else len(heard))
            pairs = zip(mine, indices, strict=True)
            found.extend(structs.replace(row, raw=replace(row.raw, transaction_index=index)) for row, index in pairs)
        return found


class GivesUpOnNull(Sealer):
    """Takes a transaction that is null for a while for one that does not exist."""

    def _fetch_single(self, slots: Any, chunk: Any, *more: Any) -> Routine:
        routine = super()._fetch_single(slots, chunk, *more)
        reply: Any = None
        while True:
            try:
                request = routine.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = yield request
            if isinstance(reply, tuple) and any(part is None for part in reply):
                routine.close()
                return []


class ContentsOfAnotherSlot(Sealer):
    """Takes the contents that a signature has in any slot for those of the listed one."""

    def _agreed(self, entry: Any, content: Any, chunk: Any) -> Row | None:
        if isinstance(content, Content) and content.raw.slot != entry.slot:
            raw = replace(content.raw, slot=entry.slot, transaction_index=entry.transaction_index or 0, err=entry.err)
            content = structs.replace(content, raw=raw)
        return super()._agreed(entry, content, chunk)


class ContentsOfTheSlotBefore(Sealer):
    """Off by one in the map of blocks: a slot's rows come from the block before it when there is one."""

    def _from_block(self, slot: Slot, chunk: Any) -> list[Row]:
        before = self._blocks.get(Slot(slot - 1))
        if before is not None and before.contents is not None:
            self._blocks[slot] = before
        return super()._from_block(slot, chunk)


class SealsOneTooFar(Sealer):
    """Claims one slot more than it has proven."""

    def _ranges(self, upper: Slot) -> tuple[Range, ...]:
        return tuple(Range(r.address, r.slot_first, Slot(r.slot_last + 1)) for r in super()._ranges(upper))


class ForgetsSecondProgram(Sealer):
    """A transaction that mentions two programs is written for one of them."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        if not isinstance(rows, list):
            return rows
        return [structs.replace(row, programs=frozenset(sorted(row.programs)[:1])) for row in rows]


class TrustsSocketContents(Sealer):
    """Writes the logs that the socket gave under a true signature and slot: anybody's logs."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        return [self._socket_says(row) for row in rows] if isinstance(rows, list) else rows

    def _socket_says(self, row: Row) -> Row:
        notes = self.notifications._by_slot.get(Slot(row.raw.slot), {}).get(row.raw.signature, [])
        return row if not notes else structs.replace(row, raw=replace(row.raw, logs=notes[-1].logs))


class RowsWithoutWitness(Sealer):
    """A row for what only a list or a notification named."""

    def _contents(self, slots: Any, chunk: Any) -> Routine:
        rows = yield from super()._contents(slots, chunk)
        return [structs.replace(row, witnesses=1) for row in rows] if isinstance(rows, list) else rows


class MissesForgeries(Sealer):
    """Judges notifications against nothing: no forgery is ever seen."""

    def _committed(self, upper: Slot, rows: tuple[Row, ...]) -> None:
        super()._committed(upper, ())


class BelievesInventions(Sealer):
    """Makes a row of what a list names, though no block holds it."""

    def _agreed(self, entry: Any, content: Any, chunk: Any) -> Row | None:
        row = super()._agreed(entry, content, chunk)
        if row is not None or not entry.signature.startswith("invented") or entry.transaction_index is None:
            return row
        place = (entry.slot, entry.transaction_index, entry.signature)
        other = next(iter(self._stored), None)
        if other is None:
            return None
        from programs.transaction import RawTransaction

        raw = RawTransaction(*place, None, entry.err, b"wire", (), (), (), None)
        return Row(raw, frozenset(self._cursors), 8)


class IgnoresTheJoin(Sealer):
    """Takes a list that ends for one that has ended, also above what the ledger holds."""

    def _join(self, *args: Any) -> Routine:
        return None
        yield


class IgnoresHoles(Sealer):
    """Believes a node that has jumped over slots that nothing happened in them."""

    def _no_hole(self, *args: Any) -> Routine:
        return None
        yield


class TrustsShortStretches(Sealer):
    """Looks for missing blocks only where the last seal is far: after a failover a few slots may be missing."""

    def _no_hole(self, tip: Slot) -> Routine:
        return None if tip - self.sealed < 32 else (yield from super()._no_hole(tip))


class CatchesUpUnseeing(Sealer):
    """Reads the sampled blocks of what is far behind and believes the lists."""

    def _sample(self, chunk: Any) -> Routine:
        yield from super()._sample(chunk)
        chunk.doubted.clear()


class OneBlockIsEnough(Sealer):
    """Where the list does not join, reads the newest block only, and not those between it and the last seal."""

    def _seal_by_block(self, walks: Any, target: Slot, *args: Any) -> Routine:
        def cut(request: Any, reply: Any) -> Any:
            return structs.replace(reply, parent_slot=self.sealed) if isinstance(reply, Block) else reply

        return (yield from through(super()._seal_by_block(walks, target, *args), cut))


class LateMeansPhantom(Sealer):
    """A notification that comes after the seal is a phantom; nobody looks."""

    def _looked_at(self, slot: Slot, signature: str) -> bool:
        return True


class DeafToAccounts(Sealer):
    """An account that changed in a slot without a row is nobody's business."""

    def _committed(self, upper: Slot, rows: tuple[Row, ...]) -> None:
        self.writes = AccountWrites(self._cursors)
        super()._committed(upper, rows)


class BelievesTheFirstEndpoint(Sealer):
    """The second endpoint is asked and not heard."""

    def _call_witness(self, *args: Any) -> Routine:
        yield from super()._call_witness(*args)
        return None


class AdmitsTooHigh(Sealer):
    """Takes an added program over as if it were sealed as far as the others."""

    def admit(self, address: Any, cursor: Slot) -> None:
        super().admit(address, self.sealed)


# Bugs that show themselves only where some faults come together: the histories in which they are looked for.
FOCUS: dict[Any, dict[str, float]] = {
    LateMeansPhantom: {"hidden": 0.3, "delayed": 0.5, "account_lost": 0.9, "skipped": 0.1},
    DeafToAccounts: {"hidden": 0.1, "lost": 0.5},
    CatchesUpUnseeing: {"hidden": 0.3, "added": 0.05},
}

SEALERS = (
    IgnoresTheJoin,
    IgnoresHoles,
    TrustsShortStretches,
    CatchesUpUnseeing,
    OneBlockIsEnough,
    LateMeansPhantom,
    DeafToAccounts,
    BelievesTheFirstEndpoint,
    AdmitsTooHigh,
    SkipsBarrier,
    BarrierAfterList,
    IgnoresSocketWitness,
    RefusalMeansSkipped,
    CheckpointFirst,
    IgnoresRefusedAppend,
    DropsFailed,
    DedupesBySignature,
    WrongOrderOfSlots,
    WrongOrderWithinSlot,
    GivesUpOnNull,
    ContentsOfAnotherSlot,
    ContentsOfTheSlotBefore,
    SealsOneTooFar,
    ForgetsSecondProgram,
    TrustsSocketContents,
    RowsWithoutWitness,
    MissesForgeries,
    BelievesInventions,
)


class FinalityIgnored(Auditor):
    """Seals as finalized what was sealed at confirmed, without comparing."""

    def _differences(self, *args: Any) -> None:
        return None


class NeverRetracts(Auditor):
    """What died stays."""

    def _truly_foreign(self, findings: Any) -> Routine:
        return []
        yield


class NeverAppendsLate(Auditor):
    """What the winning fork brought is not appended."""

    def _late_rows(self, findings: Any) -> Routine:
        return []
        yield


class RetractsWithoutBlock(Auditor):
    """Believes the list: what it lacks is dead. The block is not asked."""

    def _truly_foreign(self, findings: Any) -> Routine:
        return list(findings.foreign.values())
        yield


class AuditsAtConfirmed(Auditor):
    """Takes the confirmed tip for the finalized one."""

    def _audit(self, sealed: Slot, upto: Slot | None) -> Routine:
        routine = super()._audit(sealed, upto)
        reply: Any = None
        while True:
            try:
                request = routine.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = yield (
                structs.replace(request, commitment="confirmed") if hasattr(request, "commitment") else request
            )


class AuditIgnoresRefusal(Auditor):
    """Takes any answer to a correction for success."""

    def _compare(self, *args: Any) -> Routine:
        return (yield from through(super()._compare(*args), _blind_to_refusals))


class SamplesNothing(Auditor):
    """Reads the sampled blocks and does not compare them."""

    def _unlisted(self, *args: Any) -> None:
        return None


class LooksAndLeaves(Auditor):
    """Reads the block for a hint and appends nothing."""

    def examine(self, slot: Slot, *args: Any) -> Routine:
        def served(request: Any, reply: Any) -> Any:
            return structs.replace(reply, contents=()) if isinstance(reply, Block) else reply

        return (yield from through(super().examine(slot, *args), served))


class AppendsTwice(Auditor):
    """Appends what a hinted block holds, whether the ledger has it or not."""

    def examine(self, slot: Slot, *args: Any) -> Routine:
        def forgetful(request: Any, reply: Any) -> Any:
            return () if isinstance(request, ReadLedger) else reply

        return (yield from through(super().examine(slot, *args), forgetful))


class RetractsTheShared(Auditor):
    """A row that one program lacks is taken from the other too, and the block is not asked."""

    def _keep_replaced(self, findings: Any, place: Any, block: Any) -> bool:
        return False

    def _truly_foreign(self, findings: Any) -> Routine:
        findings.replaced.update(p for p, row in findings.foreign.items() if (row.slot, row.signature) in findings.late)
        return (yield from super()._truly_foreign(findings))


AUDITORS = (
    SamplesNothing,
    LooksAndLeaves,
    AppendsTwice,
    RetractsTheShared,
    FinalityIgnored,
    NeverRetracts,
    NeverAppendsLate,
    RetractsWithoutBlock,
    AuditsAtConfirmed,
    AuditIgnoresRefusal,
)


class _Torn(ModelLedger):
    """Dies between two transactions now and then."""

    def __init__(self, programs: Any) -> None:
        super().__init__(programs)
        self._rng = random.Random(1)

    def _tear(self) -> None:
        if self._rng.random() < 0.05:
            raise Crash


class CheckpointBeforeRows(_Torn):
    """Seal and checkpoint in one transaction, the rows in the next."""

    def append(self, epoch: int, plan: SealPlan) -> None:
        super().append(epoch, structs.replace(plan, rows=()))
        self._tear()
        self._write(plan.rows)


class RowsBeforeCheckpoint(_Torn):
    """The rows in one transaction, seal and checkpoint in the next: after a crash in between they are written again."""

    def append(self, epoch: int, plan: SealPlan) -> None:
        self._check_order(plan)
        self._fence(epoch)
        self._write(plan.rows)
        self._tear()
        super().append(epoch, structs.replace(plan, rows=()))


class NoFence(ModelLedger):
    """A writer that lost its lease may commit."""

    def _fence(self, epoch: int) -> None:
        return None


class CorrectionWithoutRetractions(ModelLedger):
    """Seals as finalized, and forgets to write the retractions."""

    def correct(self, epoch: int, correction: Correction) -> None:
        super().correct(epoch, structs.replace(correction, foreign=()))


class RetractedStillShown(ModelLedger):
    """Reads do not leave retracted rows out."""

    def _standing(self, *args: Any) -> Any:
        hidden, self.retracted = self.retracted, set()
        try:
            return super()._standing(*args)
        finally:
            self.retracted = hidden


LEDGERS = (CheckpointBeforeRows, RowsBeforeCheckpoint, NoFence, CorrectionWithoutRetractions, RetractedStillShown)


def losing_page_boundary(monkeypatch: Any) -> None:
    """The walk drops what waits for the next page."""
    original = walk.SignatureWalk.ascend

    def forgetful(self: walk.SignatureWalk) -> Routine:
        piece = yield from original(self)
        self._carry = []
        return piece

    monkeypatch.setattr(walk.SignatureWalk, "ascend", forgetful)
    monkeypatch.setattr(walk, "PAGE_MAX", 3)


def any_block_is_alive(monkeypatch: Any) -> None:
    """The auditor retracts nothing that any block, finalized or not, still shows."""

    def kept(self: finality.Auditor, findings: Any) -> Routine:
        foreign: list[Held] = []
        for row in findings.foreign.values():
            block = yield GetBlock(row.slot, "signatures", "confirmed")
            if isinstance(block, Failure) and block.code is None:
                continue
            if not isinstance(block, Block):
                foreign.append(row)
        return foreign

    monkeypatch.setattr(finality.Auditor, "_truly_foreign", kept)


def a_refusal_is_a_skip(monkeypatch: Any) -> None:
    """Whatever is refused was skipped: what a node has jumped over is dead."""

    def believed(slot: Slot, last: Slot, commitment: str) -> Routine:
        return True
        yield

    monkeypatch.setattr(blocks, "skipped", believed)


PATCHES = (losing_page_boundary, any_block_is_alive, a_refusal_is_a_skip)
