"""Appends one ahead: the order, and what happens to the next plan when one fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer.core.protocol import Address, Failure, Range, SealPlan, Slot
from indexer.edges.ahead import AheadLedger, NotAppended
from indexer.edges.ledger import PostgresLedger, TipClock
from schema.lease import Lease

ADDRESS = Address("11111111111111111111111111111111")


def plan(slot: int) -> SealPlan:
    """A seal of one empty slot."""
    return SealPlan((Range(ADDRESS, Slot(slot), Slot(slot)),), (), Slot(slot), "finalized")


class Database:
    """Stands in for the transactions: each waits to be let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.gate = asyncio.Event()
        self.failure: Failure | None = None
        self.daemon = False

        async def transaction(_: PostgresLedger, what: str, work: Any) -> Failure | None:
            self.events.append(f"{what} begins")
            await self.gate.wait()
            self.events.append(f"{what} ends")
            return self.failure

        async def beside(_: AheadLedger) -> bool:
            return self.daemon

        async def rest(_: AheadLedger, seconds: float) -> None:
            assert seconds >= 0
            self.events.append("rest")

        monkeypatch.setattr(PostgresLedger, "_transaction", transaction)
        monkeypatch.setattr(AheadLedger, "_beside_a_daemon", beside)
        monkeypatch.setattr(AheadLedger, "_rest", rest)
        self.ledger = AheadLedger("", Lease("backfill", 1, "test"), {ADDRESS: 1}, TipClock())


def test_the_next_plan_may_be_made_while_one_is_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        it = Database(monkeypatch)
        assert await it.ledger.append(plan(1)) is None
        second = asyncio.create_task(it.ledger.append(plan(2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert it.events == ["append begins"]
        assert not second.done()
        it.gate.set()
        await second
        await it.ledger.settle()
        assert it.events == ["append begins", "append ends"] * 2

    asyncio.run(run())


def test_nothing_of_the_next_plan_is_written_when_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        it = Database(monkeypatch)
        it.gate.set()
        it.failure = Failure("no room on the disk")
        assert await it.ledger.append(plan(1)) is None
        with pytest.raises(NotAppended, match="no room"):
            await it.ledger.append(plan(2))
        assert it.events == ["append begins", "append ends"]

    asyncio.run(run())


def test_the_end_is_not_reached_before_the_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        it = Database(monkeypatch)
        it.failure = Failure("the connection is lost")
        await it.ledger.append(plan(1))
        it.gate.set()
        with pytest.raises(NotAppended, match="lost"):
            await it.ledger.settle()

    asyncio.run(run())


def test_other_transactions_wait_for_the_append(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        it = Database(monkeypatch)
        await it.ledger.append(plan(1))
        root = asyncio.create_task(it.ledger.set_root(Slot(1)))
        it.gate.set()
        await root
        assert it.events == ["append begins", "append ends", "root begins", "root ends"]

    asyncio.run(run())


@pytest.mark.parametrize(("daemon", "rests"), [(True, ["rest"]), (False, [])])
def test_beside_a_daemon_each_append_is_followed_by_a_rest(
    monkeypatch: pytest.MonkeyPatch, daemon: bool, rests: list[str]
) -> None:
    async def run() -> None:
        it = Database(monkeypatch)
        it.daemon = daemon
        it.gate.set()
        await it.ledger.append(plan(1))
        await it.ledger.append(plan(2))
        await it.ledger.settle()
        assert it.events == ["append begins", "append ends", *rests] * 2

    asyncio.run(run())
