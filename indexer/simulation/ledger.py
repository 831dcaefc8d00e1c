"""A model of the database: what `schema.ledger` promises, in memory. A test runs the same histories through both and compares.

Rows are never changed; positions begin at 1 and have no hole; a live seal continues what is covered; a finalized seal follows the last one and
lies in what is covered; a writer whose lease is another's can't commit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from indexer.core.protocol import SAW_LIST, Address, Correction, Held, Row, SealPlan, Slot


class LeaseGone(Exception):
    """Another epoch holds the lease: nothing was written."""


class Moved(Exception):
    """The ledger is not where this writer believes, or the plan is none: nothing was written."""


class SimulatedLedger(Protocol):
    """What a history needs of a database."""

    def acquire(self) -> int:
        """Take the lease from whoever has it; the new epoch."""

    def append(self, epoch: int, plan: SealPlan) -> None:
        """Commit a seal."""

    def correct(self, epoch: int, correction: Correction) -> None:
        """Commit an audit's findings."""

    def held(self, address: Address, first: Slot, last: Slot) -> tuple[Held, ...]:
        """Rows that stand, in chain order."""

    def last_listed(self, address: Address, last: Slot) -> Held | None:
        """The last standing row at or below a slot that a list has named."""

    def append_late(self, epoch: int, rows: tuple[Row, ...]) -> None:
        """Commit rows of slots that are sealed already."""

    def cursors(self) -> tuple[dict[Address, Slot], dict[Address, Slot]]:
        """Per program the last sealed and the last finalized slot."""

    def rows(self, address: Address, first: Slot, last: Slot) -> list[Row]:
        """The rows of `held`, whole."""


class ModelLedger:
    """SimulatedLedger in memory. `late` and `retracted` count for the report."""

    def __init__(self, programs: tuple[Address, ...]) -> None:
        self.late = 0
        self.retracted: set[int] = set()
        self._rows: list[Row] = []
        self._by_slot: dict[int, list[int]] = {}
        self._epoch = 0
        self._sealed = dict.fromkeys(programs, Slot(0))
        self._finalized = dict.fromkeys(programs, Slot(0))

    def acquire(self) -> int:
        """Take the lease."""
        self._epoch += 1
        return self._epoch

    def append(self, epoch: int, plan: SealPlan) -> None:
        """Rows, seals and checkpoints at once."""
        self._check_order(plan)
        self._fence(epoch)
        for span in plan.ranges:
            if not 0 <= span.slot_first <= span.slot_last or span.slot_first != self._sealed[span.address] + 1:
                where = f"{span.slot_first}..{span.slot_last}"
                raise Moved(f"a seal of {span.address} {where} behind slot {self._sealed[span.address]}")
        self._write(plan.rows)
        self._seal(plan)

    def correct(self, epoch: int, correction: Correction) -> None:
        """Late rows, retractions and finalized seals at once."""
        self._fence(epoch)
        for span in correction.ranges:
            if span.slot_first != self._finalized[span.address] + 1 or span.slot_last > self._sealed[span.address]:
                raise Moved(f"a finalized seal of {span.address} {span.slot_first}..{span.slot_last}")
        for held in correction.foreign:
            if not 0 < held.position <= len(self._rows) or self._rows[held.position - 1].raw.slot != held.slot:
                raise Moved(f"there is no row at position {held.position} to retract")
        self._write(correction.late)
        self.late += len(correction.late)
        self.retracted.update(held.position for held in correction.foreign)
        for span in correction.ranges:
            self._finalized[span.address] = span.slot_last

    def held(self, address: Address, first: Slot, last: Slot) -> tuple[Held, ...]:
        """Rows that stand, in chain order."""
        return tuple([_held(position, row) for position, row in self._standing(address, first, last)])

    def last_listed(self, address: Address, last: Slot) -> Held | None:
        """The last standing row at or below a slot that a list has named."""
        for slot in range(last, -1, -1):
            for position in reversed(self._by_slot.get(slot, ())):
                row = self._rows[position - 1]
                if position not in self.retracted and address in row.programs and row.witnesses & SAW_LIST:
                    return _held(position, row)
        return None

    def append_late(self, epoch: int, rows: tuple[Row, ...]) -> None:
        """Rows of slots that are sealed already."""
        self._fence(epoch)
        for row in rows:
            for program in row.programs:
                if row.raw.slot > self._sealed[program]:
                    raise Moved(f"a late row at slot {row.raw.slot}, which is not sealed for {program}")
        self._write(rows)
        self.late += len(rows)

    def rows(self, address: Address, first: Slot, last: Slot) -> list[Row]:
        """The same, whole."""
        return [row for _, row in self._standing(address, first, last)]

    def cursors(self) -> tuple[dict[Address, Slot], dict[Address, Slot]]:
        """Sealed and finalized."""
        return dict(self._sealed), dict(self._finalized)

    @property
    def position(self) -> int:
        """The last position given out."""
        return len(self._rows)

    def _standing(self, address: Address, first: Slot, last: Slot) -> list[tuple[int, Row]]:
        rows, retracted, by_slot = self._rows, self.retracted, self._by_slot
        found = []
        for slot in range(first, last + 1):
            places = by_slot.get(slot)
            if places is None:
                continue
            mine = [(p, rows[p - 1]) for p in places if p not in retracted and address in rows[p - 1].programs]
            if len(mine) > 1:
                mine.sort(key=lambda item: (item[1].raw.transaction_index, item[0]))
            found.extend(mine)
        return found

    def _check_order(self, plan: SealPlan) -> None:
        places = [(row.raw.slot, row.raw.transaction_index) for row in plan.rows]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise Moved(f"rows out of chain order, or two in one place: {places}")
        spans = {span.address: span for span in plan.ranges}
        for row in plan.rows:
            for program in row.programs:
                if program not in spans or not spans[program].slot_first <= row.raw.slot <= spans[program].slot_last:
                    raise Moved(f"the row at slot {row.raw.slot} is in no sealed range of {program}")

    def _fence(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise LeaseGone(f"epoch {epoch}, but the lease is of epoch {self._epoch}")

    def _write(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            self._rows.append(row)
            self._by_slot.setdefault(row.raw.slot, []).append(len(self._rows))

    def _seal(self, plan: SealPlan) -> None:
        for span in plan.ranges:
            self._sealed[span.address] = span.slot_last


def _held(position: int, row: Row) -> Held:
    raw = row.raw
    return Held(position, Slot(raw.slot), raw.transaction_index, raw.signature, raw.err)
