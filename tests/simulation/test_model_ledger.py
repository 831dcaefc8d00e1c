"""The simulator's ledger against the real schema: the same histories through both, compared after every command."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from indexer.core.protocol import Address, Correction, Held, Row, SealPlan, Slot
from indexer.simulation.dice import heavy
from indexer.simulation.ledger import LeaseGone, ModelLedger, Moved
from indexer.simulation.run import ADDED, Simulation
from indexer.simulation.run import PROGRAMS as FIRST
from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger, reads
from schema.errors import LeaseLost, LedgerError
from schema.verify import verify
from tests.integration.schema.checker import differences

PROGRAMS = (*FIRST, ADDED)
ADDRESSES = {program: base58.encode(hashlib.sha256(program.encode()).digest()) for program in PROGRAMS}


def signature(name: str) -> str:
    return base58.encode(hashlib.sha512(name.encode()).digest())


class BothLedgers:
    """Does everything twice, in the model and in PostgreSQL, and insists that they agree: on refusals, rows, positions, cursors."""

    def __init__(self, dsn: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._model = ModelLedger(PROGRAMS)
        self._conn: psycopg.AsyncConnection[Any] = runner.run(database.aconnect(dsn))
        programs = [(program, ADDRESSES[program], 1) for program in PROGRAMS]
        known = runner.run(ledger.ensure_programs(self._conn, programs))
        self._ids = {program: known[ADDRESSES[program]].id for program in PROGRAMS}
        self._leases: dict[int, leases.Lease] = {}
        self._names: dict[str, str] = {}
        self.refusals = self.compared = self.found_late = 0

    def close(self) -> None:
        self._runner.run(self._conn.close())

    def acquire(self) -> int:
        epoch = self._model.acquire()
        self._runner.run(self._acquire(epoch))
        return epoch

    async def _acquire(self, epoch: int) -> None:
        # Time is not simulated: the lease of the one before has just run out.
        await self._conn.execute("UPDATE ledger.leases SET expires_at = '-infinity'")
        lease = await leases.acquire(self._conn, "writer", f"holder {epoch}", 3_600)
        assert lease is not None
        assert lease.epoch == epoch
        self._leases[epoch] = lease

    def append(self, epoch: int, plan: SealPlan) -> None:
        rows = [self._prepared(row) for row in plan.rows]
        seals = [ledger.SealRange(self._ids[r.address], r.slot_first, r.slot_last) for r in plan.ranges]
        lease = self._leases[epoch]
        self._both(
            lambda: self._model.append(epoch, plan),
            lambda: ledger.append_seal(self._conn, lease, seals, rows, tip_slot=plan.tip),
        )

    def correct(self, epoch: int, correction: Correction) -> None:
        late = [self._prepared(row) for row in correction.late]
        seals = [ledger.SealRange(self._ids[r.address], r.slot_first, r.slot_last) for r in correction.ranges]
        dead = [
            ledger.Retraction(held.position, held.slot, base58.decode(signature(held.signature)), "dead")
            for held in correction.foreign
        ]
        lease = self._leases[epoch]
        self._both(
            lambda: self._model.correct(epoch, correction),
            lambda: ledger.append_finalized_seal(self._conn, lease, seals, late=late, retractions=dead),
        )

    def append_late(self, epoch: int, rows: tuple[Row, ...]) -> None:
        late = [self._prepared(row) for row in rows]
        programs = sorted({number for row in late for number in row.programs})
        lease = self._leases[epoch]
        self._both(
            lambda: self._model.append_late(epoch, rows),
            lambda: ledger.append_corrections(self._conn, lease, programs, late, []),
        )
        self.found_late += len(rows)

    def last_listed(self, address: Address, last: Slot) -> Held | None:
        mine = self._model.last_listed(address, last)
        row = self._runner.run(_awaited(lambda: ledger.last_listed(self._conn, self._ids[address], last)))
        assert (mine is None) is (row is None)
        if mine is not None and row is not None:
            # The database may name another row of the same age: the one that was appended last.
            assert row.slot <= last
            name = self._names[base58.encode(row.signature)]
            assert name in {held.signature for held in self._model.held(address, Slot(row.slot), Slot(row.slot))}
        return mine

    def _both(self, model: Callable[[], None], real: Callable[[], Coroutine[Any, Any, object]]) -> None:
        refusal: LeaseGone | Moved | None = None
        try:
            model()
        except (LeaseGone, Moved) as error:
            refusal = error
        said: type[Exception] | None = None
        try:
            self._runner.run(_awaited(real))
        except LeaseLost:
            said = LeaseGone
        except LedgerError:
            said = Moved
        assert (None if refusal is None else type(refusal)) is said, refusal
        self.cursors()
        if refusal is not None:
            self.refusals += 1
            raise refusal

    def held(self, address: Address, first: Slot, last: Slot) -> tuple[Held, ...]:
        mine = self._model.held(address, first, last)
        rows = self._runner.run(_awaited(lambda: ledger.held(self._conn, self._ids[address], first, last)))
        theirs = [
            (r.position, r.slot, r.transaction_index, self._names[base58.encode(r.signature)], r.err) for r in rows
        ]
        assert [(h.position, h.slot, h.transaction_index, h.signature, h.err) for h in mine] == theirs
        self.compared += len(mine)
        return mine

    def cursors(self) -> tuple[dict[Address, Slot], dict[Address, Slot]]:
        sealed, finalized = self._model.cursors()
        state = self._runner.run(ledger.load_state(self._conn))
        assert sealed == {p: state.sealed_slot(self._ids[p], 1) for p in PROGRAMS}
        assert finalized == {p: state.finalized_slot(self._ids[p], 1) for p in PROGRAMS}
        assert state.last_position == self._model.position
        return sealed, finalized

    def rows(self, address: Address, first: Slot, last: Slot) -> list[Row]:
        return self._model.rows(address, first, last)

    def stored(self, conn: psycopg.Connection[Any], address: Address) -> None:
        """Every row that stands, whole."""
        mine = [
            replace(row.raw, signature=signature(row.raw.signature)) for row in self.rows(address, Slot(0), Slot(999))
        ]
        assert [row.raw for row in reads.iter_chain_order(conn, 0, 999, self._ids[address])] == mine

    def _prepared(self, row: Row) -> ledger.PreparedRow:
        name = signature(row.raw.signature)
        self._names[name] = row.raw.signature
        ids = tuple(sorted(self._ids[program] for program in row.programs))
        return ledger.prepare_row(replace(row.raw, signature=name), ids, row.witnesses)


async def _awaited(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await work()


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_model_is_the_database(db: str, seed: int) -> None:
    with asyncio.Runner() as runner:
        both = BothLedgers(db, runner)
        try:
            faults = {**heavy(), "lease_lost": 0.03, "answer_lost": 0.2} if seed % 2 else None
            history = Simulation(seed, slots=40, faults=faults, make_ledger=lambda programs: both).run()
        finally:
            both.close()
    assert history.rows > 0
    assert both.compared > 0
    if seed % 2:
        assert both.refusals > 0
        assert history.fenced > 0
    with database.connect(db) as conn:
        for program in PROGRAMS:
            both.stored(conn, program)
        assert verify(conn).differences == []
    assert differences(db) == []
