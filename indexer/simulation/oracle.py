"""What must be true, judged from outside: at each commit, and once more when the storm is over."""

from __future__ import annotations

from indexer.core.notifications import Notification
from indexer.core.protocol import SAW_BLOCK, SAW_TRANSACTION, Address, Content, Correction, Row, SealPlan, Slot
from indexer.simulation.chain import ModelBlock, ModelChain
from indexer.simulation.ledger import SimulatedLedger
from indexer.simulation.node import FORGED_LOGS, ModelNode, SecondNode
from programs.transaction import RawTransaction


class Divergence(AssertionError):
    """The ledger says something else than the chain. The message says what; the seed reproduces it."""


class Witness:
    """What one writer could know: blocks it was served, notifications it heard, forgeries among them."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        # Slots in which an account was said to have changed, by program.
        self.accounts: set[tuple[Slot, Address]] = set()
        # Of a program that was added: up to here the others were sealed when it joined them. What the socket had said before was judged with them.
        self.admitted: dict[Address, Slot] = {}
        self.served = Slot(-1)
        # Heard before the round in hand began: what came later need not be in it.
        self._heard: set[tuple[Slot, str]] = set()
        self._hearing: set[tuple[Slot, str]] = set()
        self._forged: set[tuple[Slot, str]] = set()
        self.forged_heard = 0
        self.forgeries_due = 0

    def hear(self, notes: list[Notification]) -> None:
        """Notifications that reached this writer's buffer."""
        for note in notes:
            place = (note.slot, note.signature)
            self._hearing.add(place)
            if note.logs == FORGED_LOGS and place not in self._forged:
                self._forged.add(place)
                self.forged_heard += 1

    def round_begins(self) -> None:
        """A sealing round begins."""
        self._heard |= self._hearing
        self._hearing.clear()

    def ever_heard(self, slot: Slot, signature: str, program: Address) -> bool:
        """Whether the socket has named it at any time."""
        place = (slot, signature)
        return (place in self._heard or place in self._hearing) and slot > self.admitted.get(program, -1)

    def heard(self, slot: Slot, signature: str, program: Address) -> bool:
        """Whether the socket had named it when the round began, and the sealer of the program still knew."""
        return (slot, signature) in self._heard and slot > self.admitted.get(program, -1)

    def sealed(self, rows: tuple[Row, ...]) -> None:
        """Rows were committed and the writer knows it: each forgery of them that it had heard must be counted."""
        judged = max(self.admitted.values(), default=-1)
        for row in rows:
            if (
                row.raw.slot > judged
                and row.raw.logs is not None
                and (Slot(row.raw.slot), row.raw.signature) in self._forged
            ):
                self.forgeries_due += 1


class Oracle:
    """Knows the truth. Each method raises Divergence."""

    def __init__(
        self, chain: ModelChain, node: ModelNode, ledger: SimulatedLedger, second: SecondNode | None = None
    ) -> None:
        # The second endpoint, when no seal is made without it.
        self._second = second
        self._live = True
        self._known = Slot(-1)
        self._chain = chain
        self._node = node
        self._ledger = ledger

    def appended(self, plan: SealPlan, witness: Witness, leader: int, live: bool = True) -> None:
        """A seal was committed: by the leader, behind a served block, complete, in order, with stored contents, and nothing else. `live`: by the
        sealer that hears the socket and asks the second endpoint."""
        self._fenced(witness, leader)
        self._live = live
        for row in plan.rows:
            if not row.witnesses & (SAW_BLOCK | SAW_TRANSACTION):
                raise Divergence(f"{row.raw.signature} has no witness but lists and notifications")
        for span in plan.ranges:
            if span.slot_last > witness.served:
                raise Divergence(f"sealed up to slot {span.slot_last}, but no block above {witness.served} was served")
            mine: dict[int, list[RawTransaction]] = {}
            for row in plan.rows:
                if span.address in row.programs:
                    mine.setdefault(row.raw.slot, []).append(row.raw)
            for slot in range(span.slot_first, span.slot_last + 1):
                self._slot(span.address, Slot(slot), mine.pop(slot, []), witness)
            if mine:
                raise Divergence(f"{span.address}: rows outside {span.slot_first}..{span.slot_last}: {mine}")

    def corrected(self, correction: Correction, witness: Witness, leader: int) -> None:
        """A correction was committed: only dead rows retracted, only living ones appended, nothing beyond finality."""
        self._fenced(witness, leader)
        last = max(span.slot_last for span in correction.ranges)
        if last > self._chain.finalized():
            raise Divergence(f"finalized up to slot {last}, but the chain up to {self._chain.finalized()}")
        for held in correction.foreign:
            block = self._chain.branch.blocks.get(held.slot)
            alive = block is not None and any(
                content.raw.signature == held.signature and content.raw.err == held.err for content in block.contents
            )
            if alive:
                raise Divergence(f"{held.signature} of slot {held.slot} was retracted and lives")
        for row in correction.late:
            block = self._chain.branch.blocks.get(Slot(row.raw.slot))
            if block is None or all(content.raw != row.raw for content in block.contents):
                raise Divergence(f"{row.raw.signature} was appended late and is not in slot {row.raw.slot}")

    def found_late(self, rows: tuple[Row, ...], witness: Witness, leader: int) -> None:
        """Rows were appended to sealed slots: each was in a block of its slot, and the ledger lacked it."""
        self._fenced(witness, leader)
        sealed, _ = self._ledger.cursors()
        for row in rows:
            slot = Slot(row.raw.slot)
            versions = self._chain.versions.get(slot, [])
            if not any(v is not None and any(c.raw == row.raw for c in v.contents) for v in versions):
                raise Divergence(f"{row.raw.signature} was appended late and was never in slot {slot}")
            for program in row.programs:
                twice = [r for r in self._ledger.rows(program, slot, slot) if r.raw.signature == row.raw.signature]
                if slot > sealed[program] or len(twice) > 1:
                    raise Divergence(
                        f"{row.raw.signature} of slot {slot} was appended late, and is there or not due yet"
                    )

    def ended(self, witness: Witness, counted: int) -> None:
        """A writer is no more: it counted every forgery that it could tell, and called no truth a forgery."""
        if self._chain.forks:
            # A signature that landed in two slots: what was said of the one may look forged, or an echo, beside the other.
            return
        if not witness.forgeries_due <= counted <= witness.forged_heard:
            due, heard = witness.forgeries_due, witness.forged_heard
            raise Divergence(f"{counted} forgeries counted, of {heard} heard and {due} under rows that were sealed")

    def finished(
        self,
        programs: tuple[Address, ...],
        corrections: int,
        witness: Witness,
        sampled: set[tuple[Address, Slot]],
        known: Slot,
    ) -> None:
        """The storm is over: the ledger up to finality is the chain, row for row. `witness`: what the last writer has heard; `sampled`: the slots
        that were compared with their blocks at finalized; `known`: up to where the last writer knows that it has sealed. It is less than was sealed
        when the answer to a commit was lost and then, for good, the node's history: what it says is that it can't go on. The next writer knows."""
        self._known = known
        sealed, finalized = self._ledger.cursors()
        if self._chain.forks == 0 and corrections:
            raise Divergence(f"no block died, yet the audit corrected {corrections} rows")
        for program in programs:
            last = sealed[program] if self._chain.forks == 0 else finalized[program]
            truth = [
                content.raw
                for slot in self._chain.branch.slots
                if 1 <= slot <= last
                for content in self._chain.branch.blocks[slot].contents
                if program in content.programs
            ]
            mine = [row.raw for row in self._ledger.rows(program, Slot(1), last)]
            if mine != truth:
                self._compare(program, last, mine, truth, witness, sampled)

    def _compare(
        self,
        program: Address,
        last: Slot,
        mine: list[RawTransaction],
        truth: list[RawTransaction],
        witness: Witness,
        sampled: set[tuple[Address, Slot]],
    ) -> None:
        # What every list hides and no notification named can't be found by anybody: `appended` has judged which those are.
        held, real = ({(raw.slot, raw.signature): raw for raw in rows} for rows in (mine, truth))
        since = witness.admitted.get(program, -1)
        told = {s for s, address in witness.accounts if address == program and s > since} - {raw.slot for raw in mine}
        missing = [
            raw.signature
            for raw in truth
            if held.get(_key(raw)) != raw
            and (
                raw.signature not in self._node.hidden
                or (program, raw.slot) in sampled
                or (
                    self._chain.forks == 0
                    and raw.slot <= self._known
                    and not self._chain.lacks(raw.slot)
                    and (witness.ever_heard(Slot(raw.slot), raw.signature, program) or raw.slot in told)
                )
            )
        ]
        extra = [raw.signature for raw in mine if real.get(_key(raw)) != raw]
        places = [(raw.slot, raw.transaction_index) for raw in mine]
        if missing or extra or places != sorted(set(places)):
            what = f"missing {missing}, foreign {extra}" if missing or extra else f"doubled or out of order: {places}"
            raise Divergence(f"{program} up to slot {last}: {what}; {len(mine)} rows for {len(truth)}")

    def _fenced(self, witness: Witness, leader: int) -> None:
        if witness.epoch != leader:
            raise Divergence(f"epoch {witness.epoch} committed while epoch {leader} had the lease")

    def _slot(self, program: Address, slot: Slot, mine: list[RawTransaction], witness: Witness) -> None:
        versions = self._chain.versions.get(slot)
        if versions is None:
            raise Divergence(f"slot {slot} was sealed before it was")
        if not any(self._is(version, program, mine, witness) for version in versions):
            held = [raw.signature for raw in mine]
            held_by_chain = [[c.raw.signature for c in self._of(version, program)] for version in versions]
            raise Divergence(f"{program} slot {slot}: sealed {held}, the chain has {held_by_chain}, or other contents")

    def _is(self, version: ModelBlock | None, program: Address, mine: list[RawTransaction], witness: Witness) -> bool:
        truth = [content.raw for content in self._of(version, program)]
        if mine == truth:
            return True
        if mine and len(self._chain.versions[Slot(mine[0].slot)]) > 1:
            # Two nodes on two forks may show a part of a block that is dying each; finality takes it back.
            return all(raw in truth for raw in mine)
        hidden = {
            raw.signature
            for raw in truth
            if raw.signature in self._node.hidden
            and (not self._live or self._second is None or raw.signature in self._second.hidden)
            and not (self._live and witness.heard(Slot(raw.slot), raw.signature, program))
        }
        shown = [raw for raw in truth if raw.signature not in hidden]
        return bool(hidden) and [raw for raw in mine if raw.signature not in hidden] == shown

    @staticmethod
    def _of(version: ModelBlock | None, program: Address) -> list[Content]:
        return [] if version is None else [content for content in version.contents if program in content.programs]


def _key(raw: RawTransaction) -> tuple[int, str]:
    return raw.slot, raw.signature
