"""Any projection that is accepted works: its columns give back what was put, on every way into a table. What the server refuses is said at once."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from programs.codec import compile_idl
from programs.errors import UserError
from programs.idl import load_idl
from projections import bootstrap
from projections.decoding import ProgramSpec
from projections.fold import MemoryStore, fold
from projections.model import Event, Projection, Rows
from projections.rebuild import rebuild
from projections.store import Store, create_tables
from projections.worker import Worker
from schema import db as database
from tests.integration.projections import history

_DAY, _NOON = datetime.date(2026, 1, 2), datetime.time(12, 0, 0, 5)
_NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
_SPAN = datetime.timedelta(days=-3, seconds=7, microseconds=11)
_C = {"collation": "C"}
_KINDS: list[tuple[Any, Any, Any]] = [
    (sa.Text(), "", "a\tb\\"),
    (sa.Text(**_C), "a", 'é"'),
    (sa.String(9), "a", "b"),
    (sa.String(9, **_C), "a", "b"),
    (sa.Unicode(9), "ü", "x"),
    (sa.SmallInteger(), -(2**15), 1),
    (sa.Integer(), 2**31 - 1, 0),
    (sa.BigInteger(), -(2**63), 2**63 - 1),
    (sa.Numeric(), Decimal("1.5"), Decimal("-0.25")),
    (sa.Numeric(20, 0), 2**64 - 1, 0),
    (sa.Numeric(9, 2), Decimal("1.25"), Decimal("-3")),
    (sa.Boolean(), True, False),
    (sa.LargeBinary(), b"", b"\x00\\\xff"),
    (sa.Uuid(), uuid.UUID(int=1), uuid.UUID(int=2**127)),
    (sa.Date(), _DAY, datetime.date(1, 1, 1)),
    (sa.Time(), _NOON, datetime.time(0)),
    (sa.Time(timezone=True), _NOON.replace(tzinfo=datetime.UTC), datetime.time(0, tzinfo=datetime.UTC)),
    (sa.DateTime(), _NOW.replace(tzinfo=None), datetime.datetime(1970, 1, 1)),  # noqa: DTZ001
    (sa.DateTime(timezone=True), _NOW, datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)),
    (sa.Interval(), _SPAN, datetime.timedelta(0)),
    (sa.Float(), 0.1, -0.0),
    (sa.Double(), math.inf, 5e-324),
    (JSONB(), {"a": [1, None, "ü"]}, "text"),
    (sa.JSON(), [1.5], {"b": {}}),
    (ARRAY(sa.Text), ["a", None, 'q"\\'], []),
    (ARRAY(sa.Text(**_C)), ["a"], []),
    (ARRAY(sa.BigInteger), [2**63 - 1, None], []),
    (ARRAY(sa.Integer, dimensions=2), [[1, 2], [3, 4]], []),
    (ARRAY(sa.Numeric(20, 0)), [2**64 - 1], []),
    (ARRAY(sa.Boolean), [True, None], []),
    (ARRAY(sa.LargeBinary), [b"\x00"], []),
    (ARRAY(sa.Uuid), [uuid.UUID(int=1)], []),
    (ARRAY(sa.Date), [_DAY], []),
    (ARRAY(sa.DateTime(timezone=True)), [_NOW], []),
    (ARRAY(sa.Interval), [_SPAN], []),
    (ARRAY(sa.Float), [0.5, -0.0], []),
    (ARRAY(JSONB), [{"a": 1}], []),
]
_IDS = [f"{n} {type(kind).__name__}" for n, (kind, _, _) in enumerate(_KINDS)]


def _projection(table: sa.Table) -> Projection:
    made = Projection(name="kinds", version=1, tables=(table,))

    @made.on("Put", things="key")
    def put(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], value=event.data["value"])

    @made.on("Changed", things="key")
    def changed(rows: Rows, event: Event) -> None:
        rows.things.update(event.data["key"], value=event.data["value"])

    @made.on("Gone", things="key")
    def gone(rows: Rows, event: Event) -> None:
        rows.things.delete(event.data["key"])

    return made


def _batches(key: Any, other: Any, one: Any, two: Any) -> Iterator[list[Event]]:
    for slot, batch in enumerate(
        (
            [("Put", key, one), ("Put", other, two)],
            [("Changed", key, two), ("Changed", other, one)],
            [("Gone", key, one), ("Changed", other, None)],
            [("Put", key, two), ("Changed", other, two)],
        )
    ):
        yield [
            Event(slot, slot, n, 0, f"s{slot}", None, "p", name, {"key": k, "value": v})
            for n, (name, k, v) in enumerate(batch)
        ]


@pytest.mark.parametrize(("kind", "one", "two"), _KINDS, ids=_IDS)
def test_a_column_gives_back_what_was_put(db: str, kind: Any, one: Any, two: Any) -> None:
    """As a value, and as a key where the type can be one: a handler sees the same in a row that it made and in one that was loaded."""
    columns: list[tuple[Any, Any, tuple[Any, Any, Any, Any]]] = [(sa.Text(), kind, ("k", "l", one, two))]
    if not isinstance(kind, sa.JSON | ARRAY | sa.Float):
        columns.append((kind, sa.Text(), (one, two, "a", "b")))
    for number, (way, (key, value, given)) in enumerate(product(("copied", "stated", "looked up"), columns)):
        named = sa.Column("key", key, primary_key=True), sa.Column("value", value)
        projection = _projection(sa.Table("things", sa.MetaData(), *named))
        with database.connect(db) as conn:
            _keeps(conn, projection, f"kinds_{number}", way, given)


def _keeps(conn: Any, projection: Projection, schema: str, way: str, given: tuple[Any, Any, Any, Any]) -> None:
    create_tables(conn, projection, schema)
    store, memory = Store(conn, projection, schema), MemoryStore(projection)
    for batch in _batches(*given):
        if way == "looked up":
            store = Store(conn, projection, schema)
        assert fold(projection, store, batch, set()) == []
        memory.load({e.name: projection.keys_of(e) for e in batch})
        fold(projection, memory, batch, set())
        writes = store.stage()
        statements = writes.statements() if way == "stated" else None
        with conn.transaction():
            if statements is None:
                writes.perform(conn)
            for statement in statements or ():
                conn.execute(statement)
        store.settled(writes)
        fresh = Store(conn, projection, schema)
        fresh.load({"Put": [("things", k) for k in memory.held["things"]]})
        for held, row in memory.held["things"].items():
            assert _shown(fresh.held["things"][held]) == _shown(row), way


def _shown(row: Any) -> str:
    """With the sign of a zero and the class of a number, but not with the digits that a Decimal was written with."""
    return repr(None if row is None else {name: _exact(row[name]) for name in sorted(row)})


def _exact(value: Any) -> Any:
    return (value.__class__, value.normalize()) if isinstance(value, Decimal) else value


def _things(*more: Any) -> tuple[sa.Table, ...]:
    key = sa.Column("key", sa.Text, primary_key=True)
    return (sa.Table("things", sa.MetaData(), key, sa.Column("text", sa.Text), *more),)


_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tables": _things(), "views": {"v": "SELEC * FROM {things}"}}, 'syntax error at or near "SELEC"'),
    ({"tables": _things(), "views": {"v": "SELECT * FROM nowhere"}}, 'relation "nowhere" does not exist'),
    ({"tables": _things(), "views": {"v": "SELECT 1, 2 FROM {things}"}}, 'column "?column?" specified more than once'),
    ({"tables": _things(), "views": {"v": "SELECT missing FROM {things}"}}, 'column "missing" does not exist'),
    ({"tables": _things(sa.Index("i", "text", postgresql_using="gin"))}, "no default operator class"),
    ({"tables": _things(sa.Index("i", sa.text("nothing(text)")))}, "function nothing(text) does not exist"),
]


@pytest.mark.parametrize(("options", "message"), _REFUSED, ids=[message[:30] for _, message in _REFUSED])
def test_what_the_server_refuses_is_said_before_any_work(db: str, options: dict[str, Any], message: str) -> None:
    """At the first start, and at the beginning of a rebuild: not at its end, and never while its readers wait."""
    chain = history.Ledger(db)
    spec = chain.spec()

    def programmed(projection: Projection) -> ProgramSpec:
        return ProgramSpec(spec.name, spec.address, spec.program_id, spec.idl, (projection,))

    folded = []

    bad = Projection(name="p", version=2, **options)
    bad.on("CommunityCreated", things="community")(lambda rows, event: folded.append(event))
    with pytest.raises(UserError, match=r"projection voting\.p: the database refuses its tables or views: ") as refused:
        bootstrap.ensure(db, (programmed(bad),))
    assert message in str(refused.value)
    good = Projection(name="p", version=1, tables=_things())
    good.on("CommunityCreated", things="community")(lambda rows, event: rows.things.put(event.data["community"]))
    bootstrap.ensure(db, (programmed(good),))
    chain.seal(history.transaction(2, 0, history.community("a")))
    with database.connect(db) as conn:
        while Worker(db, (programmed(good),)).step(conn):
            pass
        with pytest.raises(UserError) as refused:
            rebuild(db, (programmed(bad),), "voting.p")
        assert message in str(refused.value)
        assert folded == []
        assert conn.execute("SELECT count(*) FROM voting.things").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM projections.generations WHERE state <> 'live'").fetchone() == (0,)


def test_text_that_no_index_holds_stops_its_own_event_only(db: str) -> None:
    """On the chain anybody may write text of kilobytes. PostgreSQL refuses it as a key, in an index, and as the scope of a dead letter: the whole
    batch would fail, again and again."""
    indexed = (
        sa.Column("name", sa.Text),
        sa.Column("room", sa.Text, nullable=False),
        sa.Index("by_name", sa.text("lower(name)")),
    )
    table = sa.Table("things", sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), *indexed)
    projection = Projection(name="p", version=1, tables=(table,), scope="room")

    @projection.on("CommunityCreated", things="settings.name")
    def created(rows: Rows, event: Event) -> None:
        settings = event.data["settings"]
        rows.things.put(settings["name"], name=settings["description"], room="r")

    chain = history.Ledger(db)
    spec = chain.spec()
    programmed = ProgramSpec(spec.name, spec.address, spec.program_id, spec.idl, (projection,))
    bootstrap.ensure(db, (programmed,))
    long = "".join(chr(0x4E00 + n * n % 5000) for n in range(2_000))
    named = [("a", "ok"), (long, "x"), ("c", long), ("d", "x" * 1_300), (long[:800], "fits"), ("f", "\0" * 1_200)]
    made = []
    for slot, (name, description) in enumerate(named, 2):
        _, data = history.community(f"c{slot}")
        data["settings"] |= {"name": name, "description": description}
        made.append(history.transaction(slot, 0, ("CommunityCreated", data)))
    chain.seal(*made)
    worker = Worker(db, (programmed,))
    with database.connect(db) as conn:
        while worker.step(conn):
            pass
        assert [s.failed for s in worker.status()] == [None, None]
        held = conn.execute("SELECT key FROM voting.things ORDER BY created_slot").fetchall()
        assert held == [("a",), ("d",), (long[:800],)]
        errors = conn.execute("SELECT slot, error FROM ledger.dead_letters ORDER BY slot").fetchall()
    assert [slot for slot, _ in errors] == [3, 4, 7]
    assert "name a field that is a str of at most 2,600 bytes (it is indexed)" in errors[0][1]
    assert "things.name: " in errors[1][1]
    assert "too long; give a str of at most 2,600 bytes (it is indexed)" in errors[1][1]
    assert rebuild(db, (programmed,), "voting.p").dead_letters == 3


def test_a_scope_that_no_index_holds_stops_nothing(db: str) -> None:
    """Whatever a program writes into the field by which another one's events are told apart, all events are kept."""
    table = sa.Table("things", sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), sa.Column("text", sa.Text))
    projection = Projection(name="p", version=1, tables=(table,), scope="text")

    @projection.on("Asked", things="by")
    def asked(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["by"], text=event.data["text"])

    named = {"kind": "struct", "fields": [{"name": "by", "type": "string"}, {"name": "text", "type": "string"}]}
    idl = load_idl(
        {
            "address": history.PROGRAM,
            "metadata": {"name": "asking", "version": "0.1.0", "spec": "0.1.0"},
            "instructions": [],
            "events": [{"name": "Asked", "discriminator": [7]}],
            "types": [{"name": "Asked", "type": named}],
        }
    )
    chain = history.Ledger(db)
    specs = (ProgramSpec("asking", history.PROGRAM, chain.program_id, idl, (projection,)),)
    bootstrap.ensure(db, specs)
    long = "".join(chr(0x4E00 + n * n % 5000) for n in range(2_000))
    codec = compile_idl(idl)
    asks = [("a", "room"), ("b", long), ("c", "room"), ("d", long)]
    for slot, (by, text) in enumerate(asks, 2):
        chain.seal(history.transaction(slot, 0, codec.encode_event("Asked", {"by": by, "text": text})))
    worker = Worker(db, specs)
    with database.connect(db) as conn:
        while worker.step(conn):
            pass
        assert [s.failed for s in worker.status()] == [None, None]
        assert conn.execute("SELECT count(*) FROM events.decoded").fetchone() == (4,)
        assert conn.execute("SELECT key FROM asking.things ORDER BY key").fetchall() == [("a",), ("c",)]
        parked = conn.execute("SELECT slot, scope, reason FROM ledger.dead_letters ORDER BY slot").fetchall()
    assert parked == [(3, "", "handler"), (5, "", "handler")]
    # A late row of the scope folds it anew.
    chain.late(history.transaction(3, 1, codec.encode_event("Asked", {"by": "a", "text": "room"})))
    with database.connect(db) as conn:
        while worker.step(conn):
            pass
        assert conn.execute("SELECT key, updated_slot FROM asking.things ORDER BY key").fetchall() == [
            ("a", 3),
            ("c", 4),
        ]
