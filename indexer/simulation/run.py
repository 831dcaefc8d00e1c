"""One seeded history: a model chain, the real sealer and auditor, a ledger, and the oracle.

The sealing and the auditing routine of a writer take turns at single commands, as they do in the daemon, and the chain goes on meanwhile.
A writer may die or fall asleep at any command; another one takes over from what the ledger says.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from indexer.core.finality import Auditor, AuditPolicy
from indexer.core.hints import Hints, Kind
from indexer.core.protocol import (
    Address,
    Append,
    AppendLate,
    AskWitness,
    Block,
    Correct,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Halted,
    ListSignatures,
    Pause,
    Range,
    ReadLastListed,
    ReadLedger,
    Reply,
    Request,
    Routine,
    Row,
    Slot,
    Together,
)
from indexer.core.sealer import Sealer, SealPolicy
from indexer.simulation.chain import FINALIZED_DISTANCE, ModelChain
from indexer.simulation.dice import Dice, Strike, drawn
from indexer.simulation.ledger import LeaseGone, ModelLedger, Moved, SimulatedLedger
from indexer.simulation.node import PRUNED_KEEP_SLOTS, ModelNode, ModelSocket, SecondNode
from indexer.simulation.oracle import Divergence, Oracle, Witness

PROGRAMS = (Address("ProgramA"), Address("ProgramB"))
# Is added to the running ledger where the dice say so.
ADDED = Address("ProgramC")
NEAR_SLOTS = 12
OF_THE_NODE = frozenset({GetBlock, ListSignatures, GetTransactions, GetSlot, GetFirstAvailable, GetBlocks, AskWitness})
HINTS_A_MINUTE: Mapping[Kind, int] = {"notification": 1_000, "account": 1_000, "list": 1_000}
JUMP_SLOTS_MAX = 12
SLOTS = 60
REQUESTS_MAX = 20_000
ROUNDS_TO_SETTLE_MAX = 24
# A sleeper wakes after at most so many turns of the others.
SLEEP_TURNS_MAX = 80
AWAKE_TURNS_MAX = 200
SLOT_PASSES_AT_COMMAND = 0.09
SLOT_PASSES_AT_PAUSE = 0.4


class Crash(Exception):
    """The process dies here; only what is committed stays."""


@dataclass(slots=True)
class History:
    """What a run did, for the report and for tests that demand that a fault struck. `digest` is over all that was committed."""

    seed: int
    slots: int = 0
    transactions: int = 0
    requests: int = 0
    rows: int = 0
    writers: int = 0
    moved: int = 0
    fenced: int = 0
    halted: int = 0
    late: int = 0
    found_late: int = 0
    retracted: int = 0
    phantoms: int = 0
    forgeries: int = 0
    list_missed: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    digest: str = ""


SealerFactory = Callable[[Mapping[Address, Slot], SealPolicy], Sealer]
AuditorFactory = Callable[[Mapping[Address, Slot], AuditPolicy, Mapping[Address, Slot]], Auditor]
LedgerFactory = Callable[[tuple[Address, ...]], SimulatedLedger]


@dataclass(slots=True)
class _Task:
    routine: Routine
    reply: Reply = None
    # Of the sealer that hears the socket; not that of a program which catches up.
    live: bool = True
    # Slots whose blocks it has sampled.
    shown: set[Slot] = field(default_factory=set)
    # The slot that a hint named, where a hint is followed.
    about: Slot | None = None
    # What it will know to be committed once the reply has reached it.
    sealed: tuple[Row, ...] = ()


class _Writer:
    """A process: its sealer and auditor, what they have under way, and what it could know."""

    def __init__(self, sealer: Sealer, auditor: Auditor, epoch: int) -> None:
        self.sealer = sealer
        self.auditor = auditor
        self.witness = Witness(epoch)
        self.sealing: _Task | None = None
        self.auditing: _Task | None = None
        self.sealer.hints = Hints(HINTS_A_MINUTE)
        # The added program while it is far behind: sealed by a sealer of its own, at finalized.
        self.catching_up: Sealer | None = None
        # A commit of its own whose answer it never got: then the ledger may be ahead of it, else never.
        self.unsure = False
        self.started = Slot(-1)


class Simulation:
    """Runs one history. The factories let a test plant a bug; `only` leaves out all other strikes; `tell` hears what happens."""

    def __init__(
        self,
        seed: int,
        *,
        slots: int = SLOTS,
        faults: Mapping[str, float] | None = None,
        only: frozenset[Strike] | None = None,
        make_sealer: SealerFactory = Sealer,
        make_auditor: AuditorFactory = Auditor,
        make_ledger: LedgerFactory = ModelLedger,
        crash_at: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.history = History(seed)
        self.dice = Dice(seed, drawn(seed) if faults is None else faults, only)
        self.chain = ModelChain(seed, self.dice, (*PROGRAMS, ADDED) if self.dice.on("added") else PROGRAMS)
        self.node = ModelNode(self.chain, self.dice)
        self.second = SecondNode(self.chain, self.dice)
        self.socket = ModelSocket(self.chain, self.dice)
        self.ledger = make_ledger((*PROGRAMS, ADDED))
        self.node.joinable = self._joinable
        self._watched: tuple[Address, ...] = PROGRAMS
        self._starts = dict.fromkeys((*PROGRAMS, ADDED), Slot(1))
        self._turns = random.Random(f"{seed}/turns")
        self._slots = slots
        # A history that is being shrunk may be as small as it likes.
        self._transactions_min = slots if only is None else 0
        self._make_sealer, self._make_auditor = make_sealer, make_auditor
        self._crash_at = crash_at
        self._tell = tell
        self._committed_rows: list[str] = []
        self._corrections = 0
        self._sampled: set[tuple[Address, Slot]] = set()
        self._policy = self._drawn_policy()
        self._task: _Task
        self._audits = AuditPolicy(
            self._turns.choice((0.0, 0.0, 0.2, 1.0)), random.Random(f"{seed}/audits").choice((10_000, 40)), b"salt"
        )
        # What is far behind is sealed at finalized, and no audit follows: its samples are its own.
        self._behind = replace(self._policy, commitment="finalized", sample=self._audits.sample, salt=b"salt")
        second = self.second if self._policy.witness_hold else None
        self.oracle = Oracle(self.chain, self.node, self.ledger, second)
        self._sleepers: list[tuple[int, _Writer]] = []
        self._leader = 0
        self._writer = self._take_over()

    def run(self) -> History:
        """The whole history, then the oracle. Divergence when the ledger does not tell the truth."""
        try:
            while self.chain.tip < self._slots or self.chain.transactions < self._transactions_min:
                self._turn()
            self._settle()
            writer = self._writer
            self.oracle.finished(self._watched, self._corrections, writer.witness, self._sampled, writer.sealer.sealed)
        except Divergence:
            raise
        except Exception as error:
            # A core that breaks is as wrong as one that lies.
            raise Divergence(f"the core broke: {type(error).__name__}: {error}") from error
        return self._report()

    # ---- turns ----

    def _turn(self) -> None:
        if self._sleepers:
            self._wake_sleepers()
        if self._crash_at is None and self.dice.strike("lease_lost"):
            self._fall_asleep()
        self._act(self._writer)

    def _act(self, writer: _Writer) -> None:
        self._guarded(writer, self._step)

    def _guarded(self, writer: _Writer, work: Callable[[_Writer], None]) -> None:
        """Whatever ends a writer ends it here, and another one takes over."""
        try:
            work(writer)
        except Crash:
            self._say("the process dies")
            self._bury(writer)
        except LeaseGone as gone:
            self.history.fenced += 1
            self._say(f"epoch {writer.witness.epoch} is refused: {gone}")
            if writer.witness.epoch == self._leader:
                raise Divergence(f"the leader's own lease was refused: {gone}") from None
            self._bury(writer)
        except Moved as moved:
            self.history.moved += 1
            self._say(f"the ledger refuses: {moved}")
            if not writer.unsure:
                raise Divergence(f"the writer lost its place in the ledger: {moved}") from None
            self._bury(writer)

    def _step(self, writer: _Writer) -> None:
        """One command of one of the writer's two routines; or a slot passes."""
        throw = self._turns.random()
        if throw < 0.8:
            if writer.sealing is None:
                writer.sealing = self._new_round(writer)
            if writer.sealing is not None and self._advance_task(writer, writer.sealing):
                writer.sealing = None
                self._pass_slot()
        else:
            if writer.auditing is None and throw > 0.97:
                writer.auditing = self._new_look(writer)
            if writer.auditing is not None and self._advance_task(writer, writer.auditing):
                writer.auditing = None

    def _new_look(self, writer: _Writer) -> _Task:
        """A hint that waits is followed before the audit."""
        hint = writer.sealer.hints.take(self.chain.tip * 0.4)
        if hint is None:
            return _Task(writer.auditor.audit(writer.sealer.sealed))
        self._say(f"epoch {writer.witness.epoch}: a {hint.kind} hints at slot {hint.slot}")
        cursors = writer.sealer.cursors
        routine = writer.auditor.follow(hint, writer.sealer.hints, cursors, self._policy.commitment)
        return _Task(routine, about=hint.slot)

    def _new_round(self, writer: _Writer) -> _Task:
        if writer.catching_up is not None:
            if writer.catching_up.sealed < writer.sealer.sealed - NEAR_SLOTS:
                if self._turns.random() < 0.5:
                    self._say(f"epoch {writer.witness.epoch}: a round of the added program")
                    return _Task(writer.catching_up.tick(None, writer.sealer.sealed), live=False)
            elif writer.auditing is None:
                sealed, finalized = self.ledger.cursors()
                writer.witness.admitted[ADDED] = writer.sealer.sealed
                writer.sealer.admit(ADDED, sealed[ADDED])
                writer.auditor.admit(ADDED, finalized[ADDED])
                writer.catching_up = None
        return self._live_round(writer)

    def _live_round(self, writer: _Writer) -> _Task:
        writer.witness.round_begins()
        slots = writer.sealer.notifications.slots(Slot(0), Slot(1 << 60))
        hint = slots[-1] if slots and self._turns.random() < 0.7 else None
        self._say(f"tip {self.chain.tip}, epoch {writer.witness.epoch}: a round, hint {hint}")
        return _Task(writer.sealer.tick(hint))

    def _advance_task(self, writer: _Writer, task: _Task) -> bool:
        """Perform the task's next request; True when it has come to its end."""
        try:
            request = task.routine.send(task.reply)
        except StopIteration as stop:
            if self._tell is not None:
                self._say(f"  {stop.value}")
            if isinstance(stop.value, Halted):
                self._halted(writer, stop.value, task.about)
            return True
        finally:
            if task.sealed:
                writer.witness.sealed(task.sealed)
                task.sealed = ()
        self._task = task
        task.reply = self._perform(writer, request)
        if isinstance(request, Append) and task.reply is None and task.live:
            task.sealed = request.plan.rows
        return False

    def _halted(self, writer: _Writer, outcome: Halted, about: Slot | None) -> None:
        self.history.halted += 1
        if about is not None and self.chain.lacks(about):
            return
        behind = [] if writer.catching_up is None else [writer.catching_up.sealed]
        need = 1 + min(writer.sealer.sealed, writer.auditor.finalized, *behind)
        if self.chain.hole is not None and self.chain.hole[1] >= need:
            return
        if self.chain.first_available <= max(1, need):
            raise Divergence(f"halted without need: {outcome.reason}")

    # ---- commands ----

    def _perform(self, writer: _Writer, request: Request) -> Reply:
        self.history.requests += 1
        if self.history.requests > REQUESTS_MAX:
            raise Divergence("the core asks without end")
        if self.history.requests == self._crash_at or self.dice.strike("crash"):
            raise Crash
        if type(request) in OF_THE_NODE:
            return self._ask(writer, request)
        match request:
            case Together(requests):
                return tuple([self._perform(writer, part) for part in requests])
            case Pause():
                if not self.dice.calm and self._turns.random() < SLOT_PASSES_AT_PAUSE:
                    self._pass_slot()
                return None
            case Append(plan):
                return self._commit(writer, lambda: self.ledger.append(writer.witness.epoch, plan), request)
            case Correct(correction):
                return self._commit(writer, lambda: self.ledger.correct(writer.witness.epoch, correction), request)
            case AppendLate(rows):
                return self._commit(writer, lambda: self.ledger.append_late(writer.witness.epoch, rows), request)
            case ReadLedger(address, first, last):
                return self.ledger.held(address, first, last)
            case ReadLastListed(address, last):
                return self.ledger.last_listed(address, last)
            case _:
                raise TypeError(f"unknown request: {request}")

    def _ask(self, writer: _Writer, request: Request) -> Reply:
        if not self.dice.calm and self._turns.random() < SLOT_PASSES_AT_COMMAND:
            self._pass_slot()
        if isinstance(request, AskWitness):
            reply = self.second.answer(request.request)
        else:
            reply = self.node.answer(request)
            if isinstance(reply, Block):
                if reply.mentions is not None:
                    self._task.shown.add(reply.slot)
                writer.witness.served = max(writer.witness.served, reply.slot)
        if self._tell is not None:
            whose = "  the witness: " if isinstance(request, AskWitness) else "  "
            self._say(
                f"{whose}{_short(request.request if isinstance(request, AskWitness) else request)} → {_short(reply)}"
            )
        return reply

    def _commit(self, writer: _Writer, work: Callable[[], None], request: Append | Correct | AppendLate) -> Reply:
        if self.dice.strike("refused"):
            return Failure("the database said no")
        work()
        if self._tell is not None:
            self._say(f"  committed {_short(request)}")
        self._committed(writer, request)
        if self.dice.strike("commit_unknown"):
            raise Crash
        if self.dice.strike("answer_lost"):
            writer.unsure = True
            return Failure("the connection was lost in COMMIT")
        return None

    def _committed(self, writer: _Writer, request: Append | Correct | AppendLate) -> None:
        if isinstance(request, AppendLate):
            rows = request.rows
            self.oracle.found_late(rows, writer.witness, self._leader)
            self.history.found_late += len(rows)
        elif isinstance(request, Append):
            live = writer.catching_up is None or all(r.address != ADDED for r in request.plan.ranges)
            self.oracle.appended(request.plan, writer.witness, self._leader, live)
            self._compared(request.plan.ranges)
            rows = request.plan.rows
            self.history.rows += len(rows)
        else:
            self.oracle.corrected(request.correction, writer.witness, self._leader)
            self._compared(request.correction.ranges)
            rows = request.correction.late
            self.history.late += len(rows)
            self.history.retracted += len(request.correction.foreign)
            found = [row for row in rows if row.raw.signature in self.node.hidden]
            self._corrections += len(rows) - len(found) + len(request.correction.foreign)
        self._committed_rows.extend([f"{row.raw.signature} {row.raw.slot} {row.witnesses} " for row in rows])

    def _compared(self, ranges: tuple[Range, ...]) -> None:
        for span in ranges:
            self._sampled.update((span.address, s) for s in self._task.shown if span.slot_first <= s <= span.slot_last)

    # ---- time and processes ----

    def _pass_slot(self) -> None:
        block = self.chain.produce()
        notes = self.socket.hear(block)
        self._lose_history()
        # An index that was lost before can't be noticed by a program of which the ledger holds nothing.
        if ADDED not in self._watched and not self.chain.indexed_from and self.dice.strike("added"):
            self._watched = (*PROGRAMS, ADDED)
            self._writer.catching_up = self._make_sealer({ADDED: Slot(0)}, self._behind)
        for program in self.socket.accounts(block):
            self._writer.sealer.writes.wrote(self.chain.tip, program)
            if block is not None and self.chain.tip > self._writer.started and program in self._writer.sealer.cursors:
                self._writer.witness.accounts.add((self.chain.tip, program))
        self._writer.witness.hear(notes)
        for note in notes:
            self._writer.sealer.notifications.observe(note)
        if self._tell is not None:
            named = " ".join(f"{note.signature}@{note.slot}" for note in notes)
            self._say(f"  slot {self.chain.tip}; the socket: {named or '-'}")

    def _lose_history(self) -> None:
        dice, chain = self.dice, self.chain
        if dice.strike("pruned"):
            chain.prune(PRUNED_KEEP_SLOTS)
        if chain.hole is None and dice.on("jumped") and chain.tip > JUMP_SLOTS_MAX and dice.strike("jumped"):
            chain.jump(dice.stream("jumped").randint(2, JUMP_SLOTS_MAX))
        if dice.on("index_lost") and all(map(self._joinable, self._watched)) and dice.strike("index_lost"):
            chain.indexed_from = Slot(chain.tip + 1)

    def _joinable(self, address: Address) -> bool:
        if self.dice.on("pruned") or self.dice.on("jumped"):
            return False  # what the ledger holds may be history that the node has forgotten
        sealed, finalized = self.ledger.cursors()
        # Without forks the last row that was sealed lives; with them only what is final does.
        upto = (finalized if self.dice.on("fork") else sealed)[address]
        return self.ledger.last_listed(address, upto) is not None and finalized[address] > 0

    def _take_over(self) -> _Writer:
        self._leader = self.ledger.acquire()
        sealed, finalized = self.ledger.cursors()
        self.history.writers += 1
        far = sealed[ADDED] < min(sealed[program] for program in PROGRAMS) - NEAR_SLOTS
        live = PROGRAMS if far else self._watched
        sealer = self._make_sealer({p: sealed[p] for p in live}, self._policy)
        auditor = self._make_auditor({p: finalized[p] for p in live}, self._audits, self._starts)
        writer = _Writer(sealer, auditor, self._leader)
        writer.started = self.chain.tip
        if live == self._watched:
            writer.witness.admitted = {p: max(sealed.values()) for p in live}
        if live != self._watched:
            writer.catching_up = self._make_sealer({ADDED: sealed[ADDED]}, self._behind)
        return writer

    def _bury(self, writer: _Writer) -> None:
        self._count(writer)
        if writer is self._writer:
            self._writer = self._take_over()
        else:
            self._sleepers = [item for item in self._sleepers if item[1] is not writer]

    def _fall_asleep(self) -> None:
        self._say(f"epoch {self._leader} falls asleep")
        self._sleepers.append((self.dice.stream("lease_lost").randint(1, SLEEP_TURNS_MAX), self._writer))
        self._writer = self._take_over()

    def _wake_sleepers(self) -> None:
        awake = [writer for turns, writer in self._sleepers if turns <= 0]
        worn_out = [writer for turns, writer in self._sleepers if turns < -AWAKE_TURNS_MAX]
        self._sleepers = [(turns - 1, writer) for turns, writer in self._sleepers]
        for writer in awake:
            self._act(writer)
        for writer in worn_out:
            if any(writer is sleeper for _, sleeper in self._sleepers):
                self._bury(writer)

    def _settle(self) -> None:
        """The storm is over: the network is kind, time goes on, sleepers wake, and everything must come right."""
        self.dice.calm_down()
        for _, sleeper in list(self._sleepers):
            self._act_until_refused(sleeper)
        for _ in range(FINALIZED_DISTANCE + 8):
            self._pass_slot()
        aim = self.chain.finalized()
        for _ in range(ROUNDS_TO_SETTLE_MAX):
            while self._writer.sealing is not None or self._writer.auditing is not None:
                self._finish_round(self._writer)
            for begin in (self._new_round, self._live_round):
                # The second where the first was one of an added program: only a live one settles what was heard.
                task = self._writer.sealing = begin(self._writer)
                self._finish_round(self._writer)
                if task.live:
                    break
            self._writer.auditing = _Task(self._writer.auditor.audit(self._writer.sealer.sealed))
            self._finish_round(self._writer)
            while len(self._writer.sealer.hints):
                self._writer.auditing = self._new_look(self._writer)
                self._finish_round(self._writer)
            sealed, finalized = (min(c[p] for p in self._watched) for c in self.ledger.cursors())
            if finalized >= aim and not len(self._writer.sealer.hints):
                break
            hole = self.chain.hole
            if self.chain.first_available > min(sealed, finalized) + 1 or (hole and hole[1] > min(sealed, finalized)):
                # Its history is gone: what is left is to say so, and not to go on.
                break
        else:
            raise Divergence(f"stuck: sealed {sealed}, finalized {finalized}, chain {aim}")
        self._count(self._writer)

    def _act_until_refused(self, sleeper: _Writer) -> None:
        # One that has nothing to commit learns of its loss when it renews the lease.
        for _ in range(AWAKE_TURNS_MAX):
            if all(sleeper is not writer for _, writer in self._sleepers):
                return
            self._act(sleeper)
        self._bury(sleeper)

    def _finish_round(self, writer: _Writer) -> None:
        while writer is self._writer and (writer.sealing is not None or writer.auditing is not None):
            self._guarded(writer, self._finish_turn)

    def _finish_turn(self, writer: _Writer) -> None:
        if writer.sealing is not None and self._advance_task(writer, writer.sealing):
            writer.sealing = None
        if writer.auditing is not None and self._advance_task(writer, writer.auditing):
            writer.auditing = None

    def _count(self, writer: _Writer) -> None:
        tally = writer.sealer.notifications.tally
        self.oracle.ended(writer.witness, tally.forgeries)
        self.history.phantoms += tally.phantoms
        self.history.forgeries += tally.forgeries
        self.history.list_missed += writer.sealer.tally.list_missed

    def _drawn_policy(self) -> SealPolicy:
        rng = self._turns
        return SealPolicy(
            commitment=rng.choice(("confirmed",) * 7 + ("finalized",)),
            block_hits_min=rng.choice((1, 3, 8)),
            rows_max=rng.choice((2, 10, 1000)),
            page_min=rng.choice((2, 64)),
            witness=(witness := rng.random() < 0.25),
            witness_hold=witness and rng.random() < 0.5,
            witness_attempts=2,
        )

    def _report(self) -> History:
        history = self.history
        history.slots = self.chain.tip
        history.transactions = self.chain.transactions
        history.strikes = self.dice.counts
        all_of_it = f"{''.join(self._committed_rows)}{history.requests} {sorted(history.strikes.items())}"
        history.digest = hashlib.sha256(all_of_it.encode()).hexdigest()
        return history

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(text)


def simulate(seed: int, **options: object) -> History:
    """One history by its seed. Options as for `Simulation`."""
    return Simulation(seed, **options).run()  # type: ignore[arg-type]


def _short(value: object) -> str:
    match value:
        case Append(plan):
            spans = " ".join(f"{span.address} {span.slot_first}..{span.slot_last}" for span in plan.ranges)
            return f"seal of {spans}, rows {' '.join(row.raw.signature for row in plan.rows) or '-'}"
        case Correct(correction):
            late = " ".join(row.raw.signature for row in correction.late) or "-"
            foreign = " ".join(held.signature for held in correction.foreign) or "-"
            return f"correction up to {max(span.slot_last for span in correction.ranges)}, late {late}, dead {foreign}"
        case Block(slot, _, _, signatures, contents):
            within = signatures if contents is None else tuple(content.raw.signature for content in contents)
            return f"block {slot} {'' if within is None else ' '.join(within)}"
        case AppendLate(rows):
            return f"late rows {' '.join(row.raw.signature for row in rows)}"
        case Failure(message, code):
            return f"{message} ({code})"
        case tuple():
            return "[" + " ".join(_one(part) for part in value) + "]"
        case _:
            return str(value)


def _one(part: object) -> str:
    signature = getattr(part, "signature", None)
    if signature is not None:
        return f"{signature}@{getattr(part, 'slot', '')}"
    raw = getattr(part, "raw", None)
    return _short(part) if raw is None else f"{raw.signature}@{raw.slot}"


__all__ = ["Divergence", "History", "Simulation", "simulate"]
