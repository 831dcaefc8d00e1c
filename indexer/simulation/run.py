"""One seeded history: a model chain, the real sealer and auditor, a ledger in memory, and the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from indexer.core.finality import Auditor
from indexer.core.protocol import (
    SAW_BLOCK,
    SAW_TRANSACTION,
    Address,
    Append,
    Correct,
    Correction,
    Failure,
    Held,
    Outcome,
    Pause,
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
from indexer.simulation.chain import FINALIZED_DISTANCE, Faults, ModelChain, ModelNode

PROGRAMS = (Address("ProgramA"), Address("ProgramB"))
SLOTS = 60
REQUESTS_MAX = 20_000


class Divergence(AssertionError):
    """The ledger says something else than the chain. The message says what; the seed reproduces it."""


class Crash(Exception):
    """The process dies here; only what is committed stays."""


@dataclass(slots=True)
class ModelLedger:
    """Append-only, in memory, with the checks that the database makes and those that only an oracle can."""

    rows: list[Row] = field(default_factory=list)
    retracted: set[int] = field(default_factory=set)
    sealed: dict[Address, Slot] = field(default_factory=lambda: {address: Slot(0) for address in PROGRAMS})
    finalized: dict[Address, Slot] = field(default_factory=lambda: {address: Slot(0) for address in PROGRAMS})
    late: int = 0

    def append(self, plan: SealPlan) -> None:
        """Commit a seal."""
        for span in plan.ranges:
            if span.slot_first != self.sealed[span.address] + 1 or span.slot_last < span.slot_first:
                raise Divergence(
                    f"a seal of {span.address} {span.slot_first}..{span.slot_last} behind {self.sealed[span.address]}"
                )
        places = [(row.raw.slot, row.raw.transaction_index) for row in plan.rows]
        if places != sorted(set(places)):
            raise Divergence(f"rows out of chain order or doubled: {places}")
        last = max((row.raw.slot for row in self.rows[-1:]), default=0)
        if self.late == 0 and places and places[0][0] < last:
            raise Divergence(f"slot {places[0][0]} was appended behind slot {last}")
        for row in plan.rows:
            if not row.witnesses & (SAW_BLOCK | SAW_TRANSACTION):
                raise Divergence(f"{row.raw.signature} has no witness but the socket")
            if not any(s.address in row.programs and s.slot_first <= row.raw.slot <= s.slot_last for s in plan.ranges):
                raise Divergence(f"{row.raw.signature} of slot {row.raw.slot} is in no range of its seal")
        self.rows.extend(plan.rows)
        for span in plan.ranges:
            self.sealed[span.address] = span.slot_last

    def correct(self, correction: Correction) -> None:
        """Commit an audit's findings."""
        for held in correction.foreign:
            if held.position in self.retracted:
                raise Divergence(f"position {held.position} retracted twice")
            self.retracted.add(held.position)
        self.rows.extend(correction.late)
        self.late += len(correction.late)
        for span in correction.ranges:
            self.finalized[span.address] = span.slot_last

    def held(self, address: Address, first: Slot, last: Slot) -> list[Held]:
        """Rows that stand, in chain order."""
        found = [
            Held(position, Slot(row.raw.slot), row.raw.transaction_index, row.raw.signature, row.raw.err)
            for position, row in enumerate(self.rows)
            if position not in self.retracted and address in row.programs and first <= row.raw.slot <= last
        ]
        return sorted(found, key=lambda held: (held.slot, held.transaction_index))

    def contents(self, address: Address, first: Slot, last: Slot) -> list[object]:
        """The raw transactions that stand, in chain order."""
        return [self.rows[held.position].raw for held in self.held(address, first, last)]


@dataclass(slots=True)
class History:
    """What a run did, for the report and for tests that demand that a fault struck."""

    seed: int
    slots: int = 0
    transactions: int = 0
    requests: int = 0
    crashes: int = 0
    late: int = 0
    retracted: int = 0
    phantoms: int = 0
    forgeries: int = 0
    list_missed: int = 0


SealerFactory = Callable[[Mapping[Address, Slot], SealPolicy], Sealer]


class Simulation:
    """Runs one history. `make_sealer` lets a test plant a bug."""

    def __init__(
        self, seed: int, *, slots: int = SLOTS, faults: Faults | None = None, make_sealer: SealerFactory | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.faults = faults if faults is not None else Faults.drawn(self.rng)
        self.chain = ModelChain(self.rng, self.faults, PROGRAMS)
        self.node = ModelNode(self.chain)
        self.ledger = ModelLedger()
        self.history = History(seed)
        self._slots = slots
        self._make = make_sealer or (lambda cursors, policy: Sealer(cursors, policy))
        self._policy = SealPolicy(
            block_hits_min=self.rng.choice((1, 3, 8)), rows_max=self.rng.choice((2, 10, 1000)), page_min=2
        )
        self._sealer = self._make(self.ledger.sealed, self._policy)
        self._auditor = Auditor(self.ledger.finalized)
        self._calm = False

    def run(self) -> History:
        """The whole history, then the oracle. Divergence when the ledger does not tell the truth."""
        while self.chain.tip < self._slots:
            self._advance()
            try:
                if self.rng.random() < 0.8:
                    self._drive(self._sealer.tick(self._hint()))
                if self.rng.random() < 0.2:
                    self._drive(self._auditor.audit(self._sealer.sealed))
            except Crash:
                self._restart()
        self._settle()
        self._judge()
        self._count()
        return self.history

    def _advance(self) -> None:
        for note in self.node.socket(self.chain.produce()):
            self._sealer.notifications.observe(note)

    def _hint(self) -> Slot | None:
        slots = self._sealer.notifications.slots(Slot(0), Slot(1 << 60))
        return slots[-1] if slots and self.rng.random() < 0.7 else None

    def _restart(self) -> None:
        self.history.crashes += 1
        self._count()
        self._sealer = self._make(self.ledger.sealed, self._policy)
        self._auditor = Auditor(self.ledger.finalized)

    def _count(self) -> None:
        tally = self._sealer.notifications.tally
        self.history.phantoms += tally.phantoms
        self.history.forgeries += tally.forgeries
        self.history.list_missed += self._sealer.tally.list_missed

    def _settle(self) -> None:
        """The storm is over: the network is kind, time goes on, and everything must come right."""
        self._calm = True
        self.node.chain.faults = Faults(old_node=self.faults.old_node)
        for _ in range(FINALIZED_DISTANCE + 3):
            self._advance()
        aim = self.node.finalized()
        for _ in range(8):
            self._drive(self._sealer.tick())
            self._drive(self._auditor.audit(self._sealer.sealed))
            if self._auditor.finalized >= aim:
                return
        raise Divergence(f"stuck: sealed {self._sealer.sealed}, finalized {self._auditor.finalized}, chain {aim}")

    def _drive(self, routine: Routine) -> Outcome:
        reply: Reply = None
        while True:
            try:
                request = routine.send(reply)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            reply = self._perform(request)

    def _perform(self, request: Request) -> Reply:
        self.history.requests += 1
        if self.history.requests > REQUESTS_MAX:
            raise Divergence("the core asks without end")
        if not self._calm and self.rng.random() < self.faults.crash:
            raise Crash
        match request:
            case Together(requests):
                return tuple(self._perform(part) for part in requests)
            case Pause():
                if not self._calm and self.rng.random() < 0.3:
                    self._advance()
                return None
            case Append(plan):
                return self._commit(lambda: self.ledger.append(plan))
            case Correct(correction):
                return self._commit(lambda: self.ledger.correct(correction))
            case ReadLedger(address, first, last):
                return tuple(self.ledger.held(address, first, last))
            case _:
                if not self._calm and self.rng.random() < 0.05:
                    self._advance()
                return self.node.answer(request)

    def _commit(self, work: Callable[[], None]) -> Reply:
        if not self._calm and self.rng.random() < self.faults.transport / 2:
            return Failure("the database said no")
        work()
        if not self._calm and self.rng.random() < self.faults.commit_unknown:
            # Committed, but the process died before it heard so.
            raise Crash
        return None

    def _judge(self) -> None:
        self.history.slots = self.chain.tip
        self.history.transactions = sum(len(block.contents) for block in self.chain.blocks.values())
        self.history.late = self.ledger.late
        self.history.retracted = len(self.ledger.retracted)
        last = self._auditor.finalized
        for program in PROGRAMS:
            truth = self.chain.truth(program, Slot(1), last)
            mine = self.ledger.contents(program, Slot(1), last)
            if mine != truth:
                missing = [raw.signature for raw in truth if raw not in mine]
                extra = [getattr(raw, "signature", raw) for raw in mine if raw not in truth]
                raise Divergence(
                    f"{program} up to slot {last}: missing {missing}, foreign {extra}, {len(mine)} rows for {len(truth)}"
                )
        if not self.faults.fork and (self.ledger.late or self.ledger.retracted):
            raise Divergence(
                f"without a fork the audit had to correct: {self.ledger.late} late, {len(self.ledger.retracted)} retracted"
            )


def simulate(
    seed: int, *, slots: int = SLOTS, faults: Faults | None = None, make_sealer: SealerFactory | None = None
) -> History:
    """One history by its seed."""
    return Simulation(seed, slots=slots, faults=faults, make_sealer=make_sealer).run()
