"""A projection that is written wrongly says so when it is loaded or in its unit test, and what to write instead."""

from __future__ import annotations

import dataclasses
import datetime
import random
import re
import time
from random import random as chance
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projections.fold import HANDLER, MemoryStore, fold
from projections.model import Event, Projection, ProjectionError, Redaction, Rows
from projections.testkit import Given


def made(*columns: sa.Column[Any], **options: Any) -> Projection:
    table = sa.Table("things", sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), *columns)
    return Projection(name="things", version=1, tables=(table,), **options)


def event(place: int = 1, name: str = "Made", **data: Any) -> Event:
    return Event(place, place, 0, 0, f"s{place}", None, "p", name, data)


def parked_for(projection: Projection, *events: Event) -> list[str]:
    return [p.error for p in fold(projection, MemoryStore(projection), events, set())]


_COUNT = 0


def _helper_with_a_clock() -> float:
    return time.time()


def _uses_random(rows: Rows, event: Event) -> None:
    rows.things.put(event.data["key"], total=random.randrange(9))


def _uses_a_function_of_random(rows: Rows, event: Event) -> None:
    rows.things.put(event.data["key"], total=int(chance()))


def _opens(rows: Rows, event: Event) -> None:
    open("x")  # noqa: SIM115


def _prints(rows: Rows, event: Event) -> None:
    print(event)


def _now(rows: Rows, event: Event) -> None:
    rows.things.put(event.data["key"], at=datetime.datetime.now(datetime.UTC))


def _through_a_helper(rows: Rows, event: Event) -> None:
    rows.things.put(event.data["key"], total=int(_helper_with_a_clock()))


def _in_a_lambda(rows: Rows, event: Event) -> None:
    rows.things.put(event.data["key"], total=(lambda: int(time.time()))())


def _imports(rows: Rows, event: Event) -> None:
    from os import environ

    rows.things.put(event.data["key"], total=len(environ))


def _counts(rows: Rows, event: Event) -> None:
    global _COUNT
    _COUNT += 1


def _remembers() -> Any:
    seen = 0

    def handler(rows: Rows, event: Event) -> None:
        nonlocal seen
        seen += 1

    return handler


async def _waits(rows: Rows, event: Event) -> None:
    pass


def _yields(rows: Rows, event: Event) -> Any:
    yield


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_uses_random, "uses random"),
        (_uses_a_function_of_random, "uses chance"),
        (_opens, "uses open"),
        (_prints, "uses print"),
        (_now, "asks a clock (now)"),
        (_through_a_helper, "calls _helper_with_a_clock, which uses time"),
        (_in_a_lambda, "uses time"),
        (_imports, "uses os"),
        (_counts, "changes the global _COUNT"),
        (_remembers(), "remembers seen between events"),
        (_waits, "must be a plain function"),
        (_yields, "must be a plain function"),
    ],
)
def test_an_impure_handler_is_refused_when_it_is_loaded(handler: Any, message: str) -> None:
    with pytest.raises(ProjectionError, match=re.escape(message)):
        made().on("Made", things="key")(handler)


def test_a_uuid_can_be_made_of_an_event_but_not_of_chance() -> None:
    projection = made(sa.Column("id", sa.Uuid))

    @projection.on("Made", things="key")
    def named(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], id=UUID(event.data["id"]) if event.data["id"] else uuid5(NAMESPACE_URL, "x"))

    text = "00000000-0000-0000-0000-000000000001"
    assert Given(projection).event("Made", key="k", id=text).rows("things") == [{"key": "k", "id": UUID(text)}]
    with pytest.raises(ProjectionError, match="uses uuid4"):
        made().on("Made", things="key")(lambda rows, event: rows.things.put(uuid4()))


def test_what_looks_like_a_clock_and_is_a_field_is_allowed() -> None:
    projection = made(sa.Column("time", sa.BigInteger))

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        time = event.data["time"]
        rows.things.put(event.data["key"], time=time)

    assert Given(projection).event("Made", key="k", time=3).rows("things") == [{"key": "k", "time": 3}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([sa.Column("x", sa.Text, unique=True)], "UniqueConstraint is checked by the database"),
        ([sa.Column("x", sa.Integer, sa.ForeignKey("a.b"))], "ForeignKeyConstraint is checked by the database"),
        ([sa.Column("x", sa.Integer, sa.CheckConstraint("x > 0"))], "CheckConstraint is checked by the database"),
        ([sa.Column("x", sa.Integer), sa.Index("i", "x", unique=True)], "make these columns the key"),
        ([sa.Column("x", sa.DateTime, server_default=sa.text("now()"))], "filled by the database"),
        ([sa.Column("x", sa.Integer, default=lambda: 1)], "default must be a plain value"),
        ([sa.Column("updated_slot", sa.BigInteger)], "filled by the framework"),
    ],
)
def test_a_table_that_the_fold_cannot_keep_is_refused(columns: list[Any], message: str) -> None:
    with pytest.raises(ProjectionError, match=re.escape(message)):
        made(*columns)


def _table(name: str, *columns: Any, **options: Any) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), *columns, **options)


def _x(kind: Any, **options: Any) -> tuple[sa.Table, ...]:
    return (_table("things", sa.Column("x", kind, **options)),)


class _Shouting(sa.TypeDecorator[str]):
    impl = sa.Text
    cache_ok = True


_HIDING = Redaction(table="things", event_field="key", flag="hidden", fields=("voter",))
_HIDDEN = _table("things", sa.Column("hidden", sa.Boolean), sa.Column("voter", sa.Text))
_DECLARED: list[tuple[dict[str, Any], str]] = [
    ({"tables": ()}, "no tables; give at least one"),
    ({"tables": (_table("a"), _table("a"))}, "another table or index has this name; rename one"),
    (
        {"tables": tuple(_table(n, sa.Column("x", sa.Text), sa.Index("i", "x")) for n in "ab")},
        "index 'i': another table or index has this name; rename one",
    ),
    ({"tables": (_table("a_pkey"), _table("a"))}, "key 'a_pkey': another table or index has this name"),
    ({"tables": (_table("n" * 64),)}, "a name has at most 63 bytes; shorten it"),
    ({"tables": (_table("ü" * 40),)}, "a name has at most 63 bytes; shorten it"),
    ({"tables": (_table(""),)}, "name '': a name has letters"),
    ({"tables": (_table("a", sa.Column("x%s", sa.Text)),)}, "column x%s: a name has letters, and no %"),
    ({"tables": (_table("a", sa.Column("x" * 64, sa.Text)),)}, "a name has at most 63 bytes; shorten it"),
    ({"tables": (_table("a", sa.Column("ctid", sa.Text)),)}, "column ctid: PostgreSQL has a column of its own"),
    ({"tables": (_table("a", schema="public"),)}, "schema='public': the framework chooses the schema; leave it out"),
    ({"tables": (_table("a", prefixes=["TEMPORARY"]),)}, "TEMPORARY: rows are kept in a plain table"),
    ({"tables": (_table("a", postgresql_partition_by="LIST (key)"),)}, "postgresql_partition_by: rows are kept in a"),
    ({"tables": _x(sa.BigInteger), "scope": "x"}, "column x is the projection's scope; make it sa.Text"),
    ({"tables": (_table("things"),), "views": {"v": "SELECT * FROM {thing}"}}, "view v: its text names a table that is not"),
    ({"tables": (_table("things"),), "views": {"v": "SELECT '{' FROM {things}"}}, "a brace that means itself is written twice"),
    ({"tables": (_table("things"),), "views": {"50%": "SELECT 1 FROM {things}"}}, "view '50%': a name has letters, and no %"),
    ({"tables": (_table("other"),), "redactions": (_HIDING,)}, "redaction of unknown table 'things'; there is other"),
    ({"tables": (_table("things"),), "redactions": (_HIDING,)}, "flag='hidden' is no boolean column"),
    (
        {"tables": (_HIDDEN,), "redactions": (dataclasses.replace(_HIDING, event_field="vote"),)},
        "event_field='vote' is not the table's key",
    ),
    ({"tables": (_HIDDEN,), "redactions": (dataclasses.replace(_HIDING, fields=()),)}, "no fields; name what is hidden"),
    (
        {"tables": (sa.Table("a", sa.MetaData(), sa.Column("n", sa.BigInteger, primary_key=True)),), "accounts": {"A": None}},
        "table a: rows are compared with accounts by address, so the key is one column of sa.Text",
    ),
    ({"tables": _x(sa.BigInteger, default="1")}, "default='1' does not fit; give an int from"),
    ({"tables": _x(sa.Text, default=5)}, "default=5 does not fit; give a str"),
    ({"tables": _x(sa.Enum("a", "b", name="e"))}, "an Enum needs a type of its own in the database; use sa.Text"),
    ({"tables": _x(_Shouting())}, "_Shouting would change values on their way"),
    ({"tables": _x(sa.Text().with_variant(sa.String(5), "postgresql"))}, "give the column the type that it has there"),
    ({"tables": _x(sa.types.NullType())}, "no type; give it one"),
    *(
        ({"tables": _x(kind)}, "gives back another value than was put, or is none of PostgreSQL's own; use sa.Text")
        for kind in (
            postgresql.INET(), postgresql.MONEY(), postgresql.HSTORE(), postgresql.CITEXT(), postgresql.INT8RANGE(), postgresql.BIT(3),
            postgresql.TIMESTAMP(precision=3), postgresql.ARRAY(postgresql.INET), sa.REAL(), sa.CHAR(3), sa.NCHAR(3), sa.Float(20), sa.DATETIME(),
            sa.BLOB(), sa.CLOB(),
        )
    ),
    *(
        ({"tables": (sa.Table("a", sa.MetaData(), sa.Column("k", kind, primary_key=True)),)}, "is no type of a key; use text")
        for kind in (sa.JSON(), JSONB(), ARRAY(sa.Text), sa.Float())
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), _DECLARED, ids=[f"{n} {m[:40]}" for n, (_, m) in enumerate(_DECLARED)])
def test_what_the_database_would_refuse_later_is_refused_when_it_is_declared(options: Any, message: str) -> None:
    with pytest.raises(ProjectionError, match=re.escape(message)):
        Projection(name="p", version=1, **options)


def test_what_is_declared_rightly_is_taken() -> None:
    views = {"v": "SELECT '{{' AS brace, key FROM {things} WHERE key LIKE '%'"}
    tables = (_HIDDEN, _table("größe", sa.Column("Größe", sa.Text(collation="C"), index=True, default="")))
    Projection(name="p", version=1, tables=tables, views=views, redactions=(_HIDING,))
    Projection(name="p", version=1, tables=(_table("a", sa.Column("room", sa.String(44))),), scope="room")


_TYPES: list[tuple[Any, Any, Any]] = [
    (sa.BigInteger(), 5, 2**63),
    (sa.BigInteger(), 5, "5"),
    (sa.BigInteger(), 5, True),
    (sa.Integer(), 5, 2**31),
    (sa.SmallInteger(), 5, 40_000),
    (sa.Numeric(20, 0), 2**64 - 1, 10**20),
    (sa.Numeric(20, 0), 2**64 - 1, 0.5),
    (sa.Text(), "x", 5),
    (sa.String(3), "abc", "abcd"),
    (sa.Boolean(), True, 1),
    (sa.DateTime(timezone=True), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2026, 1, 1)),  # noqa: DTZ001
    (sa.DateTime(timezone=True), None, 1_700_000_000),
    (sa.LargeBinary(), b"x", "x"),
    (ARRAY(sa.BigInteger), [1, 2], ["1"]),
    (ARRAY(sa.BigInteger), [1, 2], [2**63]),
    (ARRAY(sa.Text), ["a", None], [1]),
    (ARRAY(sa.Text), ["a"], "a"),
    (JSONB(), {"a": [1, None]}, b"x"),
]


_INDEXED: list[tuple[Any, Any, Any, list[Any]]] = [
    (sa.Text(), "x" * 2_600, "x" * 2_601, [sa.Index("i", "value")]),
    (sa.Text(), "é" * 1_300, "é" * 1_301, [sa.Index("i", "value")]),
    (sa.Text(), "x" * 1_300, "x" * 1_301, [sa.Column("other", sa.Text), sa.Index("i", "other", "value")]),
    (sa.Text(), "x" * 2_600, "x" * 2_601, [sa.Column("n", sa.Integer), sa.Index("i", "n", "value")]),
    (sa.Text(), "x" * 2_600, "x" * 2_601, [sa.Index("i", sa.text("lower(value)"))]),
    (sa.String(9_000), "x" * 2_600, "x" * 2_601, [sa.Index("i", "value")]),
    (sa.LargeBinary(), b"x" * 2_600, b"x" * 2_601, [sa.Index("i", "value")]),
    # What is cleaned counts as it is stored.
    (sa.Text(), "\0" * 866, "\0" * 867, [sa.Index("i", "value")]),
]


@pytest.mark.parametrize(("kind", "right", "wrong", "more"), _INDEXED)
def test_what_an_index_cannot_hold_is_refused_in_the_handler(
    kind: Any, right: Any, wrong: Any, more: list[Any]
) -> None:
    projection = made(sa.Column("value", kind), *more)

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], value=right if event.data["is_right"] else wrong)
        rows.things.update(event.data["key"], value=right if event.data["is_right"] else wrong)

    assert parked_for(projection, event(key="k", is_right=True)) == []
    (error,) = parked_for(projection, event(key="k", is_right=False))
    assert "(it is indexed)" in error
    # Elsewhere it may be as long as it likes.
    free = made(sa.Column("value", sa.Text()), sa.Column("name", sa.Text), sa.Index("i", "name"))
    free.on("Made", things="key")(lambda rows, event: rows.things.put(event.data["key"], value="x" * 9_000))
    assert parked_for(free, event(key="k")) == []


def test_a_key_that_no_index_holds_is_refused() -> None:
    projection = made()

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"])

    assert parked_for(projection, event(key="x" * 2_600), event(2, key="é" * 1_300)) == []
    for key in ("x" * 2_601, "é" * 1_301):
        (error,) = parked_for(projection, event(key=key))
        assert "name a field that is a str of at most 2,600 bytes (it is indexed)" in error


@pytest.mark.parametrize(("kind", "right", "wrong"), _TYPES)
def test_what_the_column_cannot_hold_is_refused_in_the_handler(kind: Any, right: Any, wrong: Any) -> None:
    projection = made(sa.Column("value", kind))
    values = {"right": right, "wrong": wrong}

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], value=values[event.data["key"]])

    assert parked_for(projection, event(key="right")) == []
    (error,) = parked_for(projection, event(key="wrong"))
    assert "things.value: " in error
    assert "does not fit; give " in error


def test_a_column_that_must_be_filled_is_named() -> None:
    projection = made(sa.Column("must", sa.Text, nullable=False), sa.Column("may", sa.Text))

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], may="x")

    with pytest.raises(AssertionError, match="put without must; give a value, or the column a default"):
        Given(projection).event("Made", key="k").rows("things")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"key": ["a"]}, "the field 'key' is ['a'] (list), no key for things.key; name a field that is a str"),
        ({"key": {"a": 1}}, "no key for things.key"),
        ({"key": 7}, "7 (int), no key"),
        ({"other": 7}, "Made has no field 'key'"),
    ],
)
def test_a_field_that_is_no_key_parks_that_event_only(data: dict[str, Any], message: str) -> None:
    projection = made()

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"])

    store = MemoryStore(projection)
    parked = fold(projection, store, [event(1, **data), event(2, key="good")], set())
    assert [(p.position, p.reason) for p in parked] == [(1, HANDLER)]
    assert message in parked[0].error
    assert store.held["things"][("good",)] is not None


def test_an_empty_field_needs_no_row() -> None:
    projection = made()

    @projection.on("Made", things=("key", "friend"))
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"])
        if event.data["friend"] is not None:
            rows.things.put(event.data["friend"])

    shown = Given(projection).event("Made", key="a", friend=None).event("Made", key="b", friend="c").rows("things")
    assert shown == [{"key": "a"}, {"key": "b"}, {"key": "c"}]


def test_a_key_of_two_columns_is_declared_with_a_comma() -> None:
    table = sa.Table(
        "pairs",
        sa.MetaData(),
        sa.Column("voter", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
    )
    projection = Projection(name="pairs", version=1, tables=(table,))
    with pytest.raises(ProjectionError, match=re.escape('write pairs="<field of voter>,<field of number>"')):
        projection.on("Made", pairs="voter")

    @projection.on("Made", pairs="who.voter, number")
    def handler(rows: Rows, event: Event) -> None:
        rows.pairs.put(event.data["who"]["voter"], event.data["number"])

    assert Given(projection).event("Made", who={"voter": "v"}, number=3).rows("pairs") == [{"voter": "v", "number": 3}]


def test_a_row_loaded_for_another_event_of_the_batch_is_not_there() -> None:
    """Else what a handler may touch would depend on where the batch was cut, and the rebuilt tables would differ."""
    projection = made(sa.Column("by", sa.Text))

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], by="itself")
        if event.data.get("other"):
            rows.things.update(event.data["other"], by=event.data["key"])

    events = [event(1, key="a"), event(2, key="b", other="a")]
    for cut in (1, 2):
        store, errors = MemoryStore(projection), []
        for at in range(0, 2, cut):
            errors += [p.error for p in fold(projection, store, events[at : at + cut], set())]
        assert len(errors) == 1
        assert "('a',) was never loaded; declare it" in errors[0]
        assert store.held["things"].get(("b",)) is None


def test_a_handler_that_returns_something_is_told_so() -> None:
    projection = made()
    projection.on("Made", things="key")(lambda rows, event: {"key": "x"})
    (error,) = parked_for(projection, event(key="k"))
    assert "the handler returned {'key': 'x'} (dict); change rows with put, update, delete and return nothing" in error


def test_the_key_of_a_row_cannot_be_changed() -> None:
    projection = made()

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], key="another")

    (error,) = parked_for(projection, event(key="k"))
    assert "key is the row's key and cannot be changed" in error


def test_a_row_changed_in_place_fails_in_the_unit_test() -> None:
    projection = made(sa.Column("marks", ARRAY(sa.BigInteger)))

    @projection.on("Made", things="key")
    def first(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], marks=[1])

    @projection.on("Marked", things="key")
    def second(rows: Rows, event: Event) -> None:
        row = rows.things.get(event.data["key"])
        assert row is not None
        row["marks"].append(2)

    @projection.on("Set", things="key")
    def third(rows: Rows, event: Event) -> None:
        row: Any = rows.things.get(event.data["key"])
        row["marks"] = []

    with pytest.raises(AssertionError, match=r"changed a row of things in place; write rows\.things\.update"):
        Given(projection).event("Made", key="k").event("Marked", key="k").rows("things")
    with pytest.raises(AssertionError, match="does not support item assignment"):
        Given(projection).event("Made", key="k").event("Set", key="k").rows("things")


def test_a_handler_that_changes_the_event_fails_in_the_unit_test() -> None:
    projection = made()

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"])
        event.data["more"].append(1)

    with pytest.raises(AssertionError, match="changed the event's data"):
        Given(projection).event("Made", key="k", more=[]).rows("things")


def test_rows_that_differ_the_second_time_fail_in_the_unit_test() -> None:
    projection, memory = made(sa.Column("n", sa.BigInteger)), []

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        memory.append(1)
        rows.things.put(event.data["key"], n=len(memory))

    with pytest.raises(AssertionError, match="gave other rows a second time"):
        Given(projection).event("Made", key="k").rows("things")


def test_the_kit_names_what_is_not_there() -> None:
    projection = made()
    projection.on("Made", things="key")(lambda rows, event: None)
    with pytest.raises(AssertionError, match="Nothing: no handler; things has Made"):
        Given(projection).event("Nothing")
    with pytest.raises(AssertionError, match="unknown table 'other'; this projection has things"):
        Given(projection).event("Made", key="k").rows("other")


@settings(deadline=None)
@given(st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text()))
def test_no_text_of_a_handler_holds_nul(text: str, texts: list[str], nested: dict[str, str]) -> None:
    projection = made(sa.Column("t", sa.Text), sa.Column("l", ARRAY(sa.Text)), sa.Column("j", JSONB))

    @projection.on("Made", things="key")
    def handler(rows: Rows, event: Event) -> None:
        rows.things.put(event.data["key"], t=text, l=texts, j=nested)

    store = MemoryStore(projection)
    assert fold(projection, store, [event(key="k")], set()) == []
    assert "\\x00" not in repr(store.held["things"][("k",)])
