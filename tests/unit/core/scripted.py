"""A node made of a table of blocks, whose answers a test may bend one by one, and a driver that runs a core's routine against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from indexer.core.finality import Auditor
from indexer.core.notifications import Notification
from indexer.core.protocol import (
    BLOCK_NOT_AVAILABLE,
    LONG_TERM_SLOT_SKIPPED,
    MIN_CONTEXT_SLOT_NOT_REACHED,
    SAW_LIST,
    TRANSACTION_NOT_FOUND,
    Address,
    Append,
    AppendLate,
    AskWitness,
    Block,
    Content,
    Correct,
    Correction,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Held,
    Listed,
    ListSignatures,
    Outcome,
    Pause,
    ReadContents,
    ReadLastListed,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    SealPlan,
    Slot,
    Together,
)
from indexer.core.sealer import Sealer, SealPolicy
from programs.transaction import InnerInstruction, RawTransaction

A, B = Address("ProgramA"), Address("ProgramB")
REQUESTS_MAX = 5_000
LOGS = ("Program A invoke [1]", "Program A success")
# A legacy message with one key, so that its keys are known to be all.
LEGACY_WIRE = bytes([1]) + bytes(64) + bytes([1, 0, 0, 1]) + bytes(32) + bytes(32) + bytes([0])


def content(
    slot: int,
    index: int,
    signature: str,
    *programs: Address,
    err: str | None = None,
    logs: tuple[str, ...] | None = LOGS,
    inner: tuple[InnerInstruction, ...] | None = (),
    version: int | None = None,
    wire: bytes = LEGACY_WIRE,
) -> Content:
    raw = RawTransaction(slot, index, signature, 1_700_000_000, err, wire, logs, inner, (), version)
    return Content(raw, frozenset(programs or (A,)))


def note(slot: int, signature: str, logs: tuple[str, ...] = LOGS, err: str | None = None) -> Notification:
    return Notification(Slot(slot), signature, err, logs)


def seen(slot: int, signature: str, index: int | None = 0, err: str | None = None) -> Listed:
    return Listed(signature, Slot(slot), index, err)


def held_row(position: int, slot: int, signature: str, index: int = 0, **more: Any) -> Held:
    return Held(position, Slot(slot), index, signature, more.pop("err", None), **more)


Bend = Callable[[Any, "Node"], Reply]


@dataclass
class Node:
    """Answers from `blocks`: slot → contents; one that is missing was skipped. `bends`, by request type, go first; NotImplemented passes on."""

    blocks: dict[int, list[Content]]
    tip: int
    finalized: int = -1
    first_available: int = 0
    indexed: bool = True
    old: bool = False
    bends: dict[type, Bend] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)

    def answer(self, request: Any) -> Reply:
        self.log.append(request)
        bend = self.bends.get(type(request))
        if bend is not None and (reply := bend(request, self)) is not NotImplemented:
            return reply
        return self.plain(request)

    def plain(self, request: Any) -> Reply:
        match request:
            case GetSlot(commitment):
                return self.tip if commitment == "confirmed" else self.finalized
            case GetFirstAvailable():
                return self.first_available
            case GetBlocks(first, last, _):
                lowest = max(first, self.first_available)
                return tuple(Slot(s) for s in sorted(self.blocks) if lowest <= s <= min(last, self.tip))
            case GetBlock(slot, details, _):
                if slot > self.tip:
                    return Failure("not available", BLOCK_NOT_AVAILABLE)
                if slot not in self.blocks:
                    return Failure("skipped", LONG_TERM_SLOT_SKIPPED)
                found = self.blocks[slot]
                signatures = tuple(c.raw.signature for c in found) if details == "signatures" else None
                full = tuple(found) if details == "full" else None
                count = None if details == "none" else len(found)
                named = tuple((c.raw.signature, c.programs) for c in found) if details == "accounts" else None
                parent = Slot(max((s for s in self.blocks if s < slot), default=0))
                return Block(slot, parent, None, signatures, full, count, 0, named)
            case ListSignatures(address, _, limit, before, height):
                if height is not None and height > self.tip:
                    return Failure("min context slot", MIN_CONTEXT_SLOT_NOT_REACHED)
                entries = [e for e in self.entries(address) if e.slot <= self.tip]
                if before is not None:
                    places = [n for n, e in enumerate(entries) if e.signature == before]
                    if not places:
                        return () if self.old else Failure("not found", TRANSACTION_NOT_FOUND)
                    entries = entries[places[0] + 1 :]
                return tuple(entries[:limit])
            case GetTransactions(signatures):
                every = {c.raw.signature: c for contents in self.blocks.values() for c in contents}
                return tuple(every.get(signature) for signature in signatures)
        raise AssertionError(f"not a node's request: {request}")

    def entries(self, address: Address) -> list[Listed]:
        """The whole list, newest first."""
        return [
            Listed(c.raw.signature, Slot(slot), c.raw.transaction_index if self.indexed else None, c.raw.err)
            for slot in sorted(self.blocks, reverse=True)
            for c in reversed(self.blocks[slot])
            if address in c.programs
        ]

    def asked(self, kind: type) -> list[Any]:
        return [request for request in self.log if isinstance(request, kind)]


@dataclass
class Ledger:
    """What was appended. `refusals`: answers to give instead of committing, in turn."""

    plans: list[SealPlan] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    held: list[tuple[Address, Held]] = field(default_factory=list)
    refusals: list[Failure] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    late: list[Row] = field(default_factory=list)
    # Requests of this type are refused.
    down_for: type | None = None
    contents: dict[int, RawTransaction] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [row for plan in self.plans for row in plan.rows]

    def listed(self, address: Address) -> list[Held]:
        """What was appended and a list has named."""
        return [
            Held(0, Slot(row.raw.slot), row.raw.transaction_index, row.raw.signature, row.raw.err)
            for row in self.rows
            if address in row.programs and row.witnesses & SAW_LIST
        ]

    @property
    def signatures(self) -> list[str]:
        return [row.raw.signature for row in self.rows]


def drive(routine: Routine, node: Node, ledger: Ledger, witness: Node | None = None) -> Outcome:
    """Run to the outcome. Pauses take no time; a routine that asks without end fails the test."""
    reply: Reply = None
    for _ in range(REQUESTS_MAX):
        try:
            request = routine.send(reply)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        reply = _perform(request, node, ledger, witness)
    raise AssertionError("the core asks without end")


def _perform(request: Request, node: Node, ledger: Ledger, witness: Node | None) -> Reply:
    if ledger.down_for is not None and isinstance(request, ledger.down_for):
        return Failure("the database is down")
    match request:
        case Together(parts):
            return tuple(_perform(part, node, ledger, witness) for part in parts)
        case Pause():
            ledger.pauses.append(request)
            return None
        case AskWitness(inner):
            assert witness is not None, "nobody asks a witness that does not exist"
            return witness.answer(inner)
        case Append(plan):
            if ledger.refusals:
                return ledger.refusals.pop(0)
            ledger.plans.append(plan)
            return None
        case Correct(correction):
            ledger.corrections.append(correction)
            return None
        case AppendLate(rows):
            ledger.late.extend(rows)
            return None
        case ReadLastListed(address, last):
            every = [*(h for a, h in ledger.held if a == address), *ledger.listed(address)]
            return max((h for h in every if h.slot <= last), key=lambda h: (h.slot, h.transaction_index), default=None)
        case ReadContents(held):
            return tuple(ledger.contents[row.position] for row in held)
        case ReadLedger(address, first, last):
            return tuple(h for a, h in ledger.held if a == address and first <= h.slot <= last)
    return node.answer(request)


def sealer(cursors: Mapping[Address, int] | None = None, **policy: Any) -> Sealer:
    """A sealer of program A from slot 10 on, unless told otherwise."""
    bounds: dict[str, Any] = {"block_hits_min": 8, "barrier_attempts": 6, "content_attempts": 4, **policy}
    return Sealer({a: Slot(s) for a, s in (cursors or {A: 9}).items()}, SealPolicy(**bounds))


def auditor(cursors: Mapping[Address, int]) -> Auditor:
    return Auditor({a: Slot(s) for a, s in cursors.items()})


def chain(first: int, last: int, **blocks: list[Content]) -> dict[int, list[Content]]:
    """Empty blocks first..last, some with contents: chain(10, 20, s12=[…]). In slot 5 a list's walk ends."""
    made: dict[int, list[Content]] = {slot: [] for slot in range(first, last + 1)}
    if 5 in made:
        made[5] = [content(5, 0, "before", A, B)]
    made.update({int(name[1:]): found for name, found in blocks.items()})
    return made


__all__ = [
    "A",
    "B",
    "LOGS",
    "Ledger",
    "Node",
    "auditor",
    "chain",
    "content",
    "drive",
    "held_row",
    "note",
    "replace",
    "sealer",
    "seen",
]
