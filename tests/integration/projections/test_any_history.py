"""Any history, cut anyhow, with crashes, late rows, dead forks and poison: the tables are those of one fold in chain order."""

from __future__ import annotations

import contextlib
import datetime
import random
import time
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projections import bootstrap, dead_letters
from projections.decoding import Decoder
from projections.fold import MemoryStore, fold
from projections.guesses import Guesses, Misguessed
from projections.model import Event, Projection
from projections.pipeline import Writer
from projections.rebuild import rebuild
from projections.store import Store, create_tables, literal
from projections.worker import Worker
from schema import db as database
from schema import reads
from tests.integration.projections import history

ROOMS = "abcd"


class Crash(Exception):
    """Stands for whatever ends a process in the middle of a transaction."""


class Story:
    """A random history in the making, and what of it still counts."""

    def __init__(self, rng: random.Random, chain: Any) -> None:
        self.rng, self.chain = rng, chain
        self.slot = 2
        self.position = 0
        self.tallies = {room: [0, 0] for room in ROOMS}
        self.missed: list[Any] = []
        self.placed: list[tuple[int, Any]] = []

    def transaction(self, slot: int, index: int) -> Any:
        rng, room = self.rng, self.rng.choice(ROOMS)
        kind = rng.random()
        if kind < 0.06:
            broken = history.CODEC.encode_event(*history.renamed(room, "x"))
            return history.transaction(slot, index, broken[: rng.choice((20, 50, len(broken) - 1))])
        if kind < 0.12:
            # Of a question that was never asked: the handler refuses it.
            return history.transaction(slot, index, history.vote(room, 9, f"w{slot}", 0, [1, 0]))
        if kind < 0.2:
            return history.transaction(slot, index, history.renamed(room, f"n{slot}"), err='"failed"')
        if kind < 0.35:
            return history.transaction(slot, index, history.renamed(room, f"n{slot}/{index}"))
        choice = rng.randrange(2)
        self.tallies[room][choice] += 1
        voter = f"w{rng.randrange(9)}"
        return history.transaction(slot, index, history.vote(room, 0, voter, choice, list(self.tallies[room])))

    def seal(self) -> None:
        """A few slots come in; some of their transactions are missed and found later."""
        now = []
        for _ in range(self.rng.randrange(1, 6)):
            if self.slot == 2:
                now += [
                    history.transaction(2, n, history.community(room), history.question(room, 0))
                    for n, room in enumerate(ROOMS)
                ]
            else:
                for index in range(self.rng.randrange(3)):
                    made = self.transaction(self.slot, index)
                    (self.missed if self.rng.random() < 0.12 else now).append(made)
            self.slot += 1
        self.chain.seal(*now, slot_last=self.slot - 1)
        self._place(now)

    def find_missed(self) -> None:
        if self.missed:
            found = sorted(self.missed, key=lambda t: (t.slot, t.transaction_index))
            self.missed = []
            self.chain.late(*found)
            self._place(found)

    def fork(self) -> None:
        """One that is not of the first slot dies."""
        alive = [item for item in self.placed if item[1].slot > 2]
        if alive:
            gone = self.rng.choice(alive)
            self.placed.remove(gone)
            self.chain.retract(*gone)

    def _place(self, transactions: list[Any]) -> None:
        for each in transactions:
            self.position += 1
            self.placed.append((self.position, each))


def _expected(story: Story, spec: Any) -> tuple[dict[str, list[Any]], set[tuple[int, int]]]:
    """One fold in chain order of what is left, without a database."""
    (projection,) = spec.projections
    ordered = sorted(story.placed, key=lambda item: (item[1].slot, item[1].transaction_index))
    rows = [reads.PartRow(position, (1,), raw) for position, raw in ordered]
    store = MemoryStore(projection)
    parked = fold(projection, store, Decoder((spec,)).decode(rows), set())
    held = {
        name: sorted([dict(row) for row in table.values() if row is not None], key=str)
        for name, table in store.held.items()
    }
    return held, {(p.position, p.event_index) for p in parked}


def _tables(conn: Any, name: str) -> dict[str, list[Any]]:
    row = conn.execute(
        "SELECT 'projection_' || generation FROM projections.installed WHERE name = %s", (name,)
    ).fetchone()
    found = {}
    for table in ("communities", "members", "questions", "votes"):
        cursor = conn.execute(f"SELECT * FROM {row[0]}.{table}")
        names = [column.name for column in cursor.description]
        found[table] = sorted([dict(zip(names, values, strict=True)) for values in cursor], key=str)
    return found


def _open_letters(conn: Any) -> set[tuple[int, int]]:
    return set(
        conn.execute("SELECT position, event_index FROM ledger.dead_letters WHERE resolved_at IS NULL").fetchall()
    )


def _crash_once(monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """The next save of a checkpoint fails, after everything else of its transaction was done."""
    from projections import catalogue

    left = [rng.randrange(3)]
    real = catalogue.save

    def save(conn: Any, state: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash
        real(conn, state)

    monkeypatch.setattr("projections.worker.catalogue.save", save)


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("seed", range(10))
def test_live_rebuilt_and_modelled_tables_are_equal(
    db: str, seed: int, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    # Every batch is folded before the one before it is committed, where there is one; or none is.
    monkeypatch.setattr("projections.worker.EARLY_ROWS_MIN", 0 if early else 1_000_000)
    monkeypatch.setattr("projections.worker.SHORT_ROWS_MAX", rng.choice((0, 3, 64)))
    chain = history.Ledger(db)
    spec = chain.spec()
    bootstrap.ensure(db, (spec,))
    monkeypatch.setattr("projections.worker.RETRY_S", 0.0)
    story = Story(rng, chain)
    workers = [Worker(db, (spec,), rows_max=rng.choice((1, 2, 7, 50))) for _ in range(2)]
    every = list(workers)
    with database.connect(db) as conn:
        for _ in range(14):
            rng.choice([story.seal, story.seal, story.seal, story.find_missed, story.fork])()
            for _ in range(rng.randrange(6)):
                number = rng.randrange(2)
                if rng.random() < 0.1:
                    workers[number] = Worker(db, (spec,), rows_max=rng.choice((1, 2, 7, 50)))
                    every.append(workers[number])
                worker = workers[number]
                if rng.random() < 0.3:
                    with monkeypatch.context() as patched:
                        _crash_once(patched, rng)
                        worker.step(conn)
                elif rng.random() < 0.4 and worker._started:
                    # One follower runs ahead of the other.
                    for _ in range(rng.randrange(1, 4)):
                        worker._tape.read(conn)
                    follower = rng.choice(worker._followers)
                    # Its last batch may be committed much later, or not before another worker has been there.
                    for _ in range(rng.randrange(1, 4)):
                        follower.step(conn, worker._tape)
                else:
                    worker.step(conn)
            if rng.random() < 0.1:
                assert rebuild(db, (spec,), "voting").swapped
        story.find_missed()
        for worker in workers:
            while worker.step(conn):
                pass
            assert [s.failed for s in worker.status()] == [None, None]
        tables, parked = _expected(story, spec)
        assert _tables(conn, "voting.voting") == tables
        assert _open_letters(conn) == parked
        decoded = conn.execute("SELECT count(*) FROM events.decoded").fetchone()
    for name in ("voting", "events"):
        report = rebuild(db, (spec,), name, dry_run=rng.random() < 0.5)
        assert [(d.table, d.examples) for d in report.differences if not d.equal] == []
        assert name == "events" or report.dead_letters == len(parked)
    for worker in every:
        for follower in worker._followers:
            follower.close()
    with database.connect(db) as conn:
        assert _tables(conn, "voting.voting") == tables
        assert _open_letters(conn) == parked
        assert conn.execute("SELECT count(*) FROM events.decoded").fetchone() == decoded
    applied, left = dead_letters.retry(db, (spec,))
    assert (applied, left) == (0, len(parked))


_ODD = ["", "plain", "tab\there", "line\nend\r", 'quote"and\\slash', "\\N", "{a,b}", "NULL", "ünï\u2028", "x" * 300]
_TABLE = sa.Table(
    "odd",
    sa.MetaData(),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("texts", ARRAY(sa.Text)),
    sa.Column("numbers", ARRAY(sa.BigInteger)),
    sa.Column("wide", sa.Numeric(20, 0)),
    sa.Column("float", sa.Float),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("flag", sa.Boolean),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("json", JSONB),
)


def _odd(rng: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.2 else value

    return {
        "text": maybe(rng.choice(_ODD)),
        "texts": maybe([maybe(rng.choice(_ODD)) for _ in range(rng.randrange(4))]),
        "numbers": maybe([rng.randrange(-(2**63), 2**63) for _ in range(rng.randrange(3))]),
        "wide": maybe(rng.randrange(2**64)),
        "float": maybe(rng.choice([0.1, -1e300, float("inf"), float("-inf")])),
        "bytes": maybe(rng.randbytes(rng.randrange(5))),
        "flag": maybe(rng.random() < 0.5),
        "at": maybe(datetime.datetime.fromtimestamp(rng.randrange(2**33), datetime.UTC)),
        "day": maybe(datetime.date(2026, 1, 1 + rng.randrange(28))),
        "json": maybe(
            {"a": [rng.choice(_ODD), 2**70, None], rng.choice(_ODD): {"b": 1.5}} if rng.random() < 0.8 else "text"
        ),
    }


def _followed(dsn: str, conn: Any, projection: Projection, store: Store, batches: list[list[Event]]) -> int:
    """One batch after the other; how often a guess was wrong."""
    wrong = 0
    for batch in batches:
        while True:
            try:
                with conn.transaction():
                    assert fold(projection, store, batch, set()) == []
                    store.write()
                break
            except Misguessed:
                wrong += 1
                store.clear()
        assert store.size <= 40
    return wrong


def _followed_by_statements(
    dsn: str, conn: Any, projection: Projection, store: Store, batches: list[list[Event]]
) -> int:
    """Each batch is written by statements, where it can be."""
    wrong, stated = 0, 0
    for batch in batches:
        while True:
            assert fold(projection, store, batch, set()) == []
            writes = store.stage()
            statements = writes.statements()
            try:
                with conn.transaction():
                    if statements is None:
                        writes.perform(conn)
                    else:
                        conn.execute("; ".join(statements))
                        stated += bool(statements)
                store.settled(writes)
                break
            except (psycopg.errors.UniqueViolation, Misguessed) as error:
                misguessed = error if isinstance(error, Misguessed) else writes.misguessed(error)
                assert misguessed is not None
                wrong += 1
                store.misguessed(misguessed)
                store.clear()
    assert stated > 0
    return wrong


def _followed_early(dsn: str, conn: Any, projection: Projection, store: Store, batches: list[list[Event]]) -> int:
    """Each batch is folded while the one before it is written: whatever moment its commit takes, nobody may see a row that is old."""
    wrong, committed, folded, before = 0, 0, 0, store.stage()
    with contextlib.closing(Writer(lambda: database.connect(dsn), "writer")) as writer:
        while committed < len(batches):
            assert folded - committed < 2
            if folded < len(batches):
                assert fold(projection, store, batches[folded], set()) == []
                writes = store.stage().prepare()
                assert store.size <= 40
            try:
                if folded > committed:
                    writer.wait()
                    store.settled(before)
                    committed += 1
            except Misguessed as error:
                wrong += 1
                store.misguessed(error)
                store.clear()
                folded = committed
                continue
            if folded < len(batches):
                # Sometimes the server is slow.
                pause = 0.003 if folded % 3 else 0.0
                writer.begin(lambda conn, writes=writes, pause=pause: (time.sleep(pause), writes.perform(conn))[1])
                folded, before = folded + 1, writes
    return wrong


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["one by one", "early", "as statements"])
@pytest.mark.parametrize("mode", ["live", "guessing", "bulk", "fresh"])
def test_rows_come_back_as_they_were_however_small_the_cache_is(
    db: str, monkeypatch: pytest.MonkeyPatch, seed: int, mode: str, how: str
) -> None:
    # Every key that was missing once makes it guess, and no wrong guess makes it wiser.
    monkeypatch.setattr("projections.guesses._ENOUGH", 1)
    monkeypatch.setattr("projections.guesses._ENOUGH_MAX", 1)
    rng = random.Random(seed)
    projection = Projection(name="odd", version=1, tables=(_TABLE,))

    @projection.on("Put", odd="key,number")
    def put(rows: Any, event: Event) -> None:
        rows.odd.put(event.data["key"], event.data["number"], **event.data["values"])

    @projection.on("Change", odd="key,number")
    def change(rows: Any, event: Event) -> None:
        if rows.odd.get(event.data["key"], event.data["number"]) is not None:
            rows.odd.update(event.data["key"], event.data["number"], **event.data["values"])

    @projection.on("Drop", odd="key,number")
    def drop(rows: Any, event: Event) -> None:
        rows.odd.delete(event.data["key"], event.data["number"])

    memory = MemoryStore(projection)
    with database.connect(db) as conn:
        create_tables(conn, projection, "odd")
        rows_max, guesses = rng.choice((1, 5, 40)), Guesses() if mode == "guessing" else None
        bulk = mode in ("bulk", "fresh")
        store = Store(conn, projection, "odd", rows_max, bulk=bulk, fresh=mode == "fresh", guesses=guesses)
        batches = []
        for at in range(0, 600, 30):
            batch = []
            for place in range(at, at + 30):
                kind = rng.choice(["Put", "Change", "Change", "Drop"])
                data = {"key": rng.choice(_ODD), "number": rng.randrange(6), "values": _odd(rng)}
                batch.append(Event(place, place, 0, 0, f"s{place}", None, "p", kind, data))
            assert fold(projection, memory, batch, set()) == []
            batches.append(batch)
        follow = {"one by one": _followed, "early": _followed_early, "as statements": _followed_by_statements}[how]
        wrong = follow(db, conn, projection, store, batches)
        store.flush()
        cursor = conn.execute("SELECT * FROM odd.odd")
        names = [column.name for column in cursor.description or ()]
        found = {(v[0], v[1]): dict(zip(names, v, strict=True)) for v in cursor}
    assert (wrong > 0) == (mode == "guessing"), "the guesses were never wrong, so nothing was seen to be mended"
    wanted = {k: dict(row) for k, row in memory.held["odd"].items() if row is not None}
    for row in wanted.values():
        row["wide"] = row["wide"] and Decimal(row["wide"])
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        assert {n: (found[key][n], v) for n, v in row.items() if found[key][n] != v} == {}


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_literal_is_read_as_it_was_written(db: str, setting: str) -> None:
    rng = random.Random(7)
    texts = ["", "'", "\\", "\\'", "''\\\\'", "E'", "$$", "%s", "--", "\n;", "ü\u2028", *_ODD]
    texts += ["".join(rng.choices("a'\\\"%$;\n\r\tü", k=rng.randrange(12))) for _ in range(300)]
    with database.connect(db) as conn:
        conn.execute(f"SET standard_conforming_strings = {setting}; SET escape_string_warning = off")
        found = conn.execute(f"SELECT {', '.join(map(literal, [*texts, -3, 2**62]))}").fetchone()
    assert found == (*texts, -3, 2**62)
