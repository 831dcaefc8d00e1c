"""The compiled ways of the hot path against the plain ones: whatever the values, the same rows, lines and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import ARRAY

from projections.copytext import line, plain_line
from projections.fold import MemoryStore, fold
from projections.model import Event, Projection, ProjectionError, Rows
from projections.shapes import Shape
from projections.store import _Sql

# Names that would break out of generated code that did not quote them.
_COLUMNS: list[tuple[str, Any]] = [
    ("text", sa.Text),
    ('a"b', sa.String(3)),
    ("n'x{0}", sa.SmallInteger),
    ("whole", sa.Numeric(20, 0)),
    ("exact", sa.Numeric(6, 2)),
    ("flag", sa.Boolean),
    ("at", sa.DateTime(timezone=True)),
    ("real", sa.Float),
    ("tree", sa.JSON),
    ("numbers", ARRAY(sa.BigInteger)),
    ("texts", ARRAY(sa.Text)),
]
_texts = st.text(st.sampled_from("ab\x00\t\n\r\\N\"'{}ü"), max_size=5)
_EDGES: list[Any] = [
    None,
    *(False, True, 0, 1, -1, 32_767, 32_768, -32_768, -32_769, 2**63 - 1, 2**63, -(2**63), 10**20 - 1, 10**20),
    *(0.0, -0.0, 1.5, math.inf, Decimal("1.25"), Decimal("1.255"), Decimal("NaN"), Decimal(10_000)),
    *("", "abc", "abcd", "a\x00", "\x00", b"", b"a"),
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1),  # noqa: DTZ001
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    *([], [1], [2**63], [None], ["a"], ["\x00"], [True], [[1]], {}, {"a": 1}, {"\x00": "\x00"}, ("a",)),
]
_values = st.one_of(st.sampled_from(_EDGES), _texts, st.dictionaries(_texts, _texts, max_size=2))
_given = st.dictionaries(st.sampled_from(["key", "unknown", *[name for name, _ in _COLUMNS]]), _values, max_size=6)
_fitting: dict[str, st.SearchStrategy[Any]] = {
    "text": _texts,
    'a"b': _texts.map(lambda text: text[:3]),
    "n'x{0}": st.integers(-32_768, 32_767),
    "whole": st.integers(0, 2**64),
    "exact": st.sampled_from([Decimal("1.25"), Decimal("-9999.99")]),
    "flag": st.booleans(),
    "at": st.just(datetime(2024, 1, 1, tzinfo=UTC)),
    "real": st.floats(allow_nan=False),
    "tree": st.dictionaries(_texts, st.one_of(_texts, st.integers(0, 1), st.booleans()), max_size=2),
    "numbers": st.lists(st.one_of(st.integers(-5, 5), st.none()), max_size=3),
    "texts": st.lists(st.one_of(_texts, st.none()), max_size=3),
}
_FULL: list[Any] = ["t", "ab", 1, 2, Decimal("1.25"), True, datetime(2024, 1, 1, tzinfo=UTC), 1.5, {}, [1], ["x"]]
_rows = st.fixed_dictionaries({name: st.one_of(st.none(), values) for name, values in _fitting.items()})


def table(nullable: bool) -> sa.Table:
    columns = [sa.Column(name, kind, nullable=nullable) for name, kind in _COLUMNS]
    return sa.Table("things", sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), *columns)


def never(*given: Any) -> None:
    return None


def outcome(nullable: bool, steps: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Every row after each step, or how it was refused. As text: what equality hides is compared too."""
    projection = Projection(name="things", version=1, tables=(table(nullable),))

    @projection.on("Step", things="key")
    def step(rows: Rows, event: Event) -> None:
        change: Callable[..., None] = getattr(rows.things, event.data["how"])
        # A copy: what is given may be cleaned.
        values = {name: value for name, value in event.data["values"].items() if name != "key"}
        extra = {"key": event.data["values"]["key"]} if "key" in event.data["values"] else {}
        change(event.data["key"], **values, **extra)

    store = MemoryStore(projection)
    found = []
    for number, (how, values) in enumerate(steps):
        event = Event(number, number, 0, 0, f"s{number}", None, "p", "Step", {"key": "k", "how": how, "values": values})
        parked = fold(projection, store, [event], set())
        found.append(repr((parked, sorted((store.held["things"].get(("k",)) or {}).items()))))
    return found


@settings(deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.sampled_from(["put", "update"]), _given), min_size=1, max_size=4))
def test_compiled_rows_are_the_plain_ones(nullable: bool, steps: list[tuple[str, dict[str, Any]]]) -> None:
    compiled = outcome(nullable, steps)
    with (
        patch.object(Shape, "put", lambda shape, names: never),
        patch.object(Shape, "update", lambda shape, names: never),
    ):
        assert outcome(nullable, steps) == compiled


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("name", ["key", "unknown", *[name for name, _ in _COLUMNS]])
def test_every_edge_of_every_column_is_refused_or_kept_alike(name: str, nullable: bool) -> None:
    full = dict(zip(_fitting, _FULL, strict=True))
    steps: list[tuple[str, dict[str, Any]]] = [("put", full)]
    for value in _EDGES:
        steps += [("put", {**full, name: value}), ("update", {name: value})]
    compiled = outcome(nullable, steps)
    with (
        patch.object(Shape, "put", lambda shape, names: never),
        patch.object(Shape, "update", lambda shape, names: never),
    ):
        assert outcome(nullable, steps) == compiled


@settings(deadline=None)
@given(_rows)
def test_rows_that_fit_and_hold_no_text_to_clean_take_the_compiled_way(row: dict[str, Any]) -> None:
    shape = Shape(table(True))
    made = shape.put(tuple(row))(("k",), row, 1, "s")
    assert made is None or made == {"key": "k", **row, **dict.fromkeys(("created_slot", "updated_slot"), 1),
                                    **dict.fromkeys(("created_signature", "updated_signature"), "s")}  # fmt: skip
    plain = {name: value for name, value in row.items() if name in ("n'x{0}", "whole", "flag", "at", "real")}
    assert not plain or shape.update(tuple(plain))(row, plain, 1, "s") is not None


@settings(deadline=None)
@given(_rows)
def test_compiled_lines_are_the_plain_ones(row: dict[str, Any]) -> None:
    columns = [(name, kind() if isinstance(kind, type) else kind) for name, kind in _COLUMNS]
    assert line(columns)(row) == plain_line(columns)(row)


@settings(deadline=None)
@given(_rows, _rows)
def test_an_update_carries_every_column_that_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    extra = {"key": "k", "created_slot": 1, "created_signature": "s", "updated_slot": 2, "updated_signature": "s"}
    old, new = {**before, **extra}, {**after, **extra}
    update = _Sql(table(True), "x").update([old], [new])
    carried = {} if update is None else json.loads(update[1])[0]
    missing = {name for name in new if name not in carried and name != "key"}
    assert all(repr(old[name]) == repr(new[name]) for name in missing)


def test_an_update_carries_nothing_that_did_not() -> None:
    row = {**dict.fromkeys([name for name, _ in _COLUMNS]), "key": "k", "created_slot": 1, "created_signature": "s",
           "updated_slot": 1, "updated_signature": "s"}  # fmt: skip
    made = _Sql(table(True), "x")
    assert made.update([row], [dict(row)]) is None
    update = made.update([row, row], [{**row, "flag": True}, {**row, "updated_slot": 2}])
    assert update is not None
    assert [set(part) for part in json.loads(update[1])] == [{"key", "flag", "updated_slot"}] * 2
    # Equal for Python, another value in the table.
    for name, was, now in (("real", 0.0, -0.0), ("tree", 1, True)):
        update = made.update([{**row, name: was}], [{**row, name: now}])
        assert update is not None
        assert name in json.loads(update[1])[0]


def test_a_put_without_its_columns_is_refused_the_second_time_too() -> None:
    projection = Projection(name="things", version=1, tables=(table(False),))
    rows = Rows(projection, {"things": {("k",): None}}, {"things": set()})
    event = Event(1, 1, 0, 0, "s", None, "p", "Step", {})
    for _ in range(2):
        with pytest.raises(ProjectionError, match="put without"):
            rows.apply(lambda rows, event: rows.things.put("k", flag=True), event, [("things", ("k",))])
