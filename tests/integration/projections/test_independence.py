"""Each projection goes its own way: a rebuild, a failure or a parked community of one holds back no other."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest
import sqlalchemy as sa

from projections import bootstrap, dead_letters
from projections.bootstrap import REBUILD_LOCK_SPACE
from projections.decoding import ProgramSpec
from projections.fold import Poison
from projections.model import Event, Projection, Rows
from projections.rebuild import rebuild
from projections.worker import Worker
from schema import db as database
from tests.integration.projections import history


def names(version: int = 1, *, refused: str = "", mark: str = "") -> Projection:
    """How often each community was renamed; it refuses one name."""
    table = sa.Table(
        "renames",
        sa.MetaData(),
        sa.Column("community", sa.Text, primary_key=True),
        sa.Column("names", sa.Text, nullable=False),
    )
    projection = Projection(name="renames", version=version, tables=(table,), scope="community")

    @projection.on("CommunityUpdated", renames="community")
    def renamed(rows: Rows, event: Event) -> None:
        name = event.data["settings"]["name"]
        if name == refused:
            raise ValueError(f"{name} is refused")
        row = rows.renames.get(event.data["community"])
        rows.renames.put(event.data["community"], names=("" if row is None else row["names"]) + mark + name)

    return projection


class Running:
    """The worker as `run` has it, for the length of a block."""

    def __init__(self, dsn: str, specs: tuple[ProgramSpec, ...]) -> None:
        self.worker = Worker(dsn, specs, poll_s=0.05)
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.worker.run(self._stop)
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def standing(self, name: str) -> Any:
        return next(s for s in self.worker.status() if s.name == name)

    def reaches(self, name: str, position: int) -> None:
        until(lambda: any(s.name == name and s.position >= position for s in self.worker.status()) or self.errors)
        assert self.errors == []


def until(reached: Any) -> None:
    """Wait; long enough for a machine that does much else."""
    for _ in range(1_200):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("was not reached in a minute")


def rows(dsn: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with database.connect(dsn) as conn:
        return conn.execute(statement, values).fetchall()


@pytest.fixture
def chain(db: str) -> Any:
    return history.Ledger(db)


def with_names(chain: Any, projection: Projection) -> tuple[ProgramSpec, ...]:
    base = chain.spec()
    spec = ProgramSpec(base.name, base.address, base.program_id, base.idl, (*base.projections, projection))
    bootstrap.ensure(chain.dsn, (spec,))
    return (spec,)


SHOWN = "SELECT names FROM voting.renames ORDER BY names"


def renamed(slot: int, community: str, to: str) -> Any:
    return history.transaction(slot, 0, history.renamed(community, to))


def test_a_new_version_is_built_while_the_rest_goes_on_and_the_old_tables_serve(chain: Any) -> None:
    with Running(chain.dsn, with_names(chain, names())) as run:
        chain.seal(history.transaction(2, 0, history.community("a")), renamed(3, "a", "x"))
        run.reaches("voting.renames", 2)
    assert rows(chain.dsn, SHOWN) == [("x",)]
    with database.connect(chain.dsn) as other:
        # Holds up the rebuild as another process that is at it would.
        other.execute("SELECT pg_advisory_lock(%s, hashtext('voting.renames'))", (REBUILD_LOCK_SPACE,))
        with Running(chain.dsn, with_names(chain, names(2, mark="!"))) as run:
            chain.seal(renamed(4, "a", "y"))
            run.reaches("voting.voting", 3)
            run.reaches("events", 3)
            assert run.standing("voting.renames").position == 2
            assert rows(chain.dsn, SHOWN) == [("x",)]
            assert rows(chain.dsn, "SELECT name FROM voting.communities") == [("y",)]
            other.execute("SELECT pg_advisory_unlock(%s, hashtext('voting.renames'))", (REBUILD_LOCK_SPACE,))
            run.reaches("voting.renames", 3)
            until(lambda: rows(chain.dsn, SHOWN) == [("!x!y",)])
            chain.seal(renamed(5, "a", "z"))
            run.reaches("voting.renames", 4)
    assert rows(chain.dsn, SHOWN) == [("!x!y!z",)]


def test_one_that_fails_stops_itself_only(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.worker.RETRY_S", 0.1)
    with Running(chain.dsn, with_names(chain, names())) as run:
        chain.seal(history.transaction(2, 0, history.community("a")), renamed(3, "a", "x"))
        run.reaches("voting.renames", 2)
        (schema,) = rows(
            chain.dsn, "SELECT 'projection_' || generation FROM projections.installed WHERE name = 'voting.renames'"
        )[0]
        with database.connect(chain.dsn) as conn:
            conn.execute(f"ALTER TABLE {schema}.renames ADD CONSTRAINT intruder CHECK (names <> 'xy')")
        chain.seal(renamed(4, "a", "y"))
        run.reaches("voting.voting", 3)
        until(lambda: run.standing("voting.renames").failed)
        assert run.standing("voting.renames").position == 2
        assert run.standing("voting.voting").failed is None
        assert "projection_failed" in [r["reason"] for r in run.worker.reasons(1_000)]
        chain.seal(renamed(5, "a", "z"))
        run.reaches("voting.voting", 4)
        with database.connect(chain.dsn) as conn:
            conn.execute(f"ALTER TABLE {schema}.renames DROP CONSTRAINT intruder")
        run.reaches("voting.renames", 4)
        until(lambda: run.standing("voting.renames").failed is None)
        until(lambda: run.worker.projected_slot() == 5)
    assert rows(chain.dsn, SHOWN) == [("xyz",)]


def test_letters_are_applied_in_order_after_a_fix_while_new_events_come(chain: Any) -> None:
    broken, fixed = names(refused="bad"), names()
    specs = with_names(chain, broken)
    repaired = with_names(chain, fixed)
    with Running(chain.dsn, specs) as run:
        chain.seal(
            history.transaction(2, 0, history.community("a"), history.community("b")),
            renamed(3, "a", "1"),
            renamed(4, "a", "bad"),
            renamed(5, "a", "2"),
            renamed(6, "b", "only"),
            renamed(7, "a", "3"),
        )
        run.reaches("voting.renames", 6)
        until(lambda: run.standing("voting.renames").dead_letters == 3)
        assert rows(chain.dsn, SHOWN) == [("1",), ("only",)]
        chain.seal(renamed(8, "a", "4"))
        run.reaches("voting.renames", 7)
        letters = dead_letters.listed(chain.dsn)
        assert [(x.position, x.reason) for x in letters] == [
            (3, "handler"),
            (4, "behind"),
            (6, "behind"),
            (7, "behind"),
        ]
        # One in the middle is left out; the first still stands before the others.
        dead_letters.discard(chain.dsn, specs, letters[2].id, "a slip of the pen")
        assert rows(chain.dsn, SHOWN) == [("1",), ("only",)]
        assert [x.position for x in dead_letters.listed(chain.dsn)] == [3, 4, 7]
        assert [x.id for x in dead_letters.listed(chain.dsn)] == [letters[0].id, letters[1].id, letters[3].id]
        assert dead_letters.retry(chain.dsn, repaired) == (3, 0)
        assert rows(chain.dsn, SHOWN) == [("1bad24",), ("only",)]
        # The follower had the community as one that stands still; it must have learnt better.
        chain.seal(renamed(9, "a", "5"))
        run.reaches("voting.renames", 8)
        assert rows(chain.dsn, SHOWN) == [("1bad245",), ("only",)]
        until(lambda: run.standing("voting.renames").dead_letters == 0)
    assert all(d.equal for d in rebuild(chain.dsn, repaired, "renames", dry_run=True).differences)
    kept = rows(chain.dsn, "SELECT resolution, resolution_reason FROM ledger.dead_letters WHERE position = 6")
    assert kept == [("discarded", "a slip of the pen")]


def test_poison_that_dies_on_a_fork_frees_what_waited_behind_it(chain: Any) -> None:
    spec = chain.spec()
    bootstrap.ensure(chain.dsn, (spec,))
    poison = history.transaction(3, 0, history.CODEC.encode_event(*history.renamed("a", "x"))[:-1])
    chain.seal(history.transaction(2, 0, history.community("a")), poison, renamed(4, "a", "y"))
    worker = Worker(chain.dsn, (spec,))
    with database.connect(chain.dsn) as conn:
        while worker.step(conn):
            pass
        assert rows(chain.dsn, "SELECT name FROM voting.communities") == [("a",)]
        chain.retract(2, poison)
        while worker.step(conn):
            pass
    assert rows(chain.dsn, "SELECT name FROM voting.communities") == [("y",)]
    assert dead_letters.listed(chain.dsn) == []


def test_what_is_discarded_during_a_rebuild_is_left_out_of_its_tables(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = with_names(chain, names(refused="bad"))
    chain.seal(
        history.transaction(2, 0, history.community("a")),
        renamed(3, "a", "bad"),
        renamed(4, "a", "y"),
    )
    worker = Worker(chain.dsn, specs)
    with database.connect(chain.dsn) as conn:
        while worker.step(conn):
            pass
    first, second = dead_letters.listed(chain.dsn)

    def discard(_: object) -> None:
        dead_letters.discard(chain.dsn, specs, first.id, "meant otherwise")

    report = rebuild(chain.dsn, specs, "renames", compared=discard)
    assert report.swapped
    assert rows(chain.dsn, SHOWN) == [("y",)]
    assert dead_letters.listed(chain.dsn) == []
    assert second.position == 3


def test_a_killed_rebuild_has_not_touched_the_letters_of_the_live_tables(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = with_names(chain, names(refused="bad"))
    chain.seal(history.transaction(2, 0, history.community("a")), renamed(3, "a", "bad"))
    worker = Worker(chain.dsn, specs)
    with database.connect(chain.dsn) as conn:
        while worker.step(conn):
            pass
    (before,) = dead_letters.listed(chain.dsn)

    def die(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(chain.dsn, with_names(chain, names(2)), "renames", compared=die)
    assert dead_letters.listed(chain.dsn) == [before]
    assert rebuild(chain.dsn, with_names(chain, names(2)), "renames").dead_letters == 0
    assert dead_letters.listed(chain.dsn) == []
    assert rows(chain.dsn, SHOWN) == [("bad",)]


def test_the_accounts_mirror_that_fails_stops_nothing(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.worker.RETRY_S", 0.1)
    specs = with_names(chain, names())
    with database.connect(chain.dsn) as conn:
        conn.execute("ALTER TABLE projections.account_cursor RENAME TO away")
    with Running(chain.dsn, specs) as run:
        chain.seal(history.transaction(2, 0, history.community("a")))
        run.reaches("voting.voting", 1)
        until(lambda: "accounts" in [r.get("projection") for r in run.worker.reasons(10)])
        with database.connect(chain.dsn) as conn:
            conn.execute("ALTER TABLE projections.away RENAME TO account_cursor")
        until(lambda: run.worker.reasons(10) == [])


def test_a_rebuild_of_the_events_holds_no_more_poison_than_a_part(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters of a build wait in its own table, however many; what decodes now is resolved, and what was discarded stays so."""
    monkeypatch.setattr("projections.supply.PART_ROWS", 10)
    chain = history.Ledger(db)
    spec = bootstrap.spec("voting", history.PROGRAM, chain.program_id, history.IDL, ())
    bootstrap.ensure(db, (spec,))
    whole = history.CODEC.encode_event(*history.community("a"))
    chain.seal(*[history.transaction(2, n, whole[:30]) for n in range(200)], history.transaction(3, 0, whole))
    worker = Worker(db, (spec,))
    with database.connect(db) as conn:
        while worker.step(conn):
            pass
        # It keeps its last batches, and these are counted below.
        del worker
        conn.execute("UPDATE ledger.dead_letters SET resolved_at = now(), resolution = 'discarded' WHERE position = 7")
        # As if it had been parked under an older IDL, and decoded with today's.
        conn.execute("UPDATE ledger.dead_letters SET position = 201 WHERE position = 8")
        conn.execute("UPDATE ledger.dead_letters SET error = 'old' WHERE position = 9")
    held: list[int] = []

    def count(_done: int, _total: int) -> None:
        gc.collect()
        held.append(sum(type(each) is Poison for each in gc.get_objects()))

    report = rebuild(db, (spec,), "events", progress=count)
    assert len(held) >= 20
    assert max(held) <= 20, held
    assert report.dead_letters == 200
    with database.connect(db) as conn:
        found = conn.execute(
            "SELECT position, resolution FROM ledger.dead_letters ORDER BY position, event_index"
        ).fetchall()
        assert found == [(n, "discarded" if n == 7 else None) for n in range(1, 201)] + [(201, "applied")]
        assert conn.execute("SELECT count(*) FROM ledger.dead_letters WHERE error = 'old'").fetchone() == (0,)
    assert all(d.equal for d in rebuild(db, (spec,), "events").differences)
