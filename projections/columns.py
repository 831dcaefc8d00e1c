"""What a column accepts, told from its type: so that a value is refused where the handler gives it, not where a batch is written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_NONE = type(None)
_JSON = frozenset({dict, list, str, int, float, bool})


@dataclass(frozen=True, slots=True)
class Accepts:
    """The types that a column takes, exactly these; `refuses` looks at the value of one of them, where `looks` says so.

    plain_text: any str will do. low, high: bounds of an int. nested: a list or dict may hold text. utc: a time with a zone. longest: so many bytes of
    text or bytes fit the indexes that the column stands in; 0 where it stands in none.
    """

    name: str
    kinds: frozenset[type]
    refuses: Callable[[Any], bool]
    wants: str
    plain_text: bool = False
    low: int = 0
    high: int = -1
    looks: bool = True
    nested: bool = True
    utc: bool = False
    longest: int = 0

    def too_long(self, value: Any) -> bool:
        """Whether an index could not hold it."""
        if not self.longest or len(value) <= self.longest // UTF8_BYTES_MAX:
            return False
        return len(value.encode(errors="replace") if isinstance(value, str) else value) > self.longest


UTF8_BYTES_MAX = 4
# A third of a page, which is the most that PostgreSQL keeps of a row in an index, less what it needs itself. How well a value can be compressed does
# not count: it must not depend on that whether a row can be had.
INDEXED_BYTES_MAX = 2_600
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
# What comes back from the database as it was put. Not: what PostgreSQL pads, rounds or writes in another way, and what has to be made there first.
_KEPT = re.compile(
    r"(TEXT|VARCHAR(\(\d+\))?|SMALLINT|INTEGER|BIGINT|(NUMERIC|DECIMAL)(\(\d+(, \d+)?\))?|DOUBLE PRECISION|FLOAT(\((2[5-9]|[345]\d)\))?|BOOLEAN|BYTEA"
    r'|UUID|DATE|(TIME|TIMESTAMP) WITH(OUT)? TIME ZONE|INTERVAL|JSONB?)(\[\])*( COLLATE "[^"]+")?'
)
_COLLATION = re.compile(r' COLLATE "[^"]*"')


def type_name(kind: Any) -> str:
    """The type as a cast has it."""
    return _COLLATION.sub("", str(kind.compile(dialect=_DIALECT)))


def unfit(kind: Any) -> str | None:
    """Why a column cannot have the type, and what to use instead; None when it can."""
    of = kind.item_type if isinstance(kind, sa.ARRAY) else kind
    if isinstance(of, sa.Enum):
        return "an Enum needs a type of its own in the database; use sa.Text"
    if isinstance(of, sa.TypeDecorator) and not isinstance(of, sa.Interval):
        return f"{type(of).__name__} would change values on their way, and the handler must see what is stored; use {of.impl_instance!r}"
    if of._variant_mapping:
        return "the database is PostgreSQL; give the column the type that it has there, without variants"
    try:
        made = str(kind.compile(dialect=_DIALECT))
    except sa.exc.CompileError:
        return "no type; give it one"
    if _KEPT.fullmatch(made):
        return None
    return (
        f"the type {made} gives back another value than was put, or is none of PostgreSQL's own; use sa.Text, sa.BigInteger, sa.Numeric,"
        " sa.Float, sa.Boolean, sa.LargeBinary, sa.Uuid, sa.Date, sa.Time, sa.DateTime, sa.Interval, JSONB, or an ARRAY of one"
    )


def _nothing(value: Any) -> bool:
    return False


def _longest(column: sa.Column[Any], indexed: bool) -> int:
    """Of text and bytes: the bytes that fit every index that the column stands in; shared evenly where it stands there with others."""
    if not isinstance(column.type, sa.String | sa.LargeBinary) or column.table is None:
        return 0
    long = [c for c in column.table.c if isinstance(c.type, sa.String | sa.LargeBinary)]
    sets = [[c for c in long if c.primary_key], *([c for c in long if _stands_in(c, i)] for i in column.table.indexes)]
    if indexed:
        sets.append([column])
    return min((INDEXED_BYTES_MAX // len(each) for each in sets if column in each), default=0)


def _stands_in(column: sa.Column[Any], index: sa.Index) -> bool:
    # An expression that was given as text says no columns, but it names them.
    return any(
        column is each or re.search(rf"\b{re.escape(column.name)}\b", str(each)) is not None
        for each in index.expressions
    )


def accepts(column: sa.Column[Any], indexed: bool = False) -> Accepts:
    """What may be put into the column. indexed: it stands in an index that is not the table's."""
    kinds, refuses, wants = _of(column.type)
    longest = _longest(column, indexed)
    if longest:
        wants += f" of at most {longest:,} bytes (it is indexed)"
    nullable = bool(column.nullable) and not column.primary_key
    if nullable:
        inner = refuses
        # None passes by its type; what looks at values must let it through.
        refuses = inner if inner is _nothing else (lambda value: value is not None and inner(value))
        kinds = kinds | {_NONE}
        wants += " or None"
    kind = column.type
    plain = kinds - {_NONE} == {str} and refuses is _nothing
    nested = isinstance(kind, sa.JSON) or (isinstance(kind, sa.ARRAY) and not isinstance(kind.item_type, sa.Integer))
    low, high = _range(kind) if isinstance(kind, sa.Integer) else (0, -1)
    utc = isinstance(kind, sa.DateTime) and bool(kind.timezone)
    return Accepts(column.name, kinds, refuses, wants, plain, low, high, refuses is not _nothing, nested, utc, longest)


def _range(kind: sa.Integer) -> tuple[int, int]:
    bits = 15 if isinstance(kind, sa.SmallInteger) else 63 if isinstance(kind, sa.BigInteger) else 31
    return -(1 << bits), (1 << bits) - 1


def _of(kind: Any) -> tuple[frozenset[type], Callable[[Any], bool], str]:
    if isinstance(kind, sa.ARRAY):
        return _array(kind)
    if isinstance(kind, sa.String):
        longest = kind.length
        if longest is None:
            return frozenset({str}), _nothing, "a str"
        return frozenset({str}), lambda value: len(value) > longest, f"a str of at most {longest} characters"
    if isinstance(kind, sa.Integer):
        low, high = _range(kind)
        return (
            frozenset({int}),
            lambda value: not low <= value <= high,
            f"an int from {low} to {high} (a wider column is sa.Numeric(20, 0))",
        )
    if isinstance(kind, sa.Float):
        return frozenset({float}), _nothing, "a float"
    if isinstance(kind, sa.Numeric):
        return _numeric(kind)
    simple: list[tuple[type[Any], type, str]] = [
        (sa.Boolean, bool, "a bool"),
        (sa.LargeBinary, bytes, "bytes"),
        (sa.Uuid, uuid.UUID, "a UUID"),
        (sa.Date, date, "a date"),
        (sa.Time, time, "a time"),
        (sa.Interval, timedelta, "a timedelta"),
    ]
    if isinstance(kind, sa.DateTime):
        if kind.timezone:
            # The database gives every time back in UTC; another zone would read differently before and after.
            return (
                frozenset({datetime}),
                lambda value: value.tzinfo is not UTC and (value.tzinfo is None or value.utcoffset() != timedelta()),
                "a datetime in UTC, as moment(…) makes it",
            )
        return frozenset({datetime}), lambda value: value.tzinfo is not None, "a datetime without a zone"
    if isinstance(kind, sa.JSON):
        return _JSON, _nothing, "a dict, list, str, number or bool"
    for of, python, wants in simple:
        if isinstance(kind, of):
            return frozenset({python}), _nothing, wants
    raise TypeError(f"{kind!r} is no type of a column; `unfit` says so")


def _numeric(kind: sa.Numeric[Any]) -> tuple[frozenset[type], Callable[[Any], bool], str]:
    # The type that comes back from the database: a handler must find the same in a row that it made and in one that was loaded.
    if kind.precision is None:
        return frozenset({Decimal}), _nothing, "a Decimal"
    scale = kind.scale or 0
    bound = 10 ** (kind.precision - scale)
    if is_whole(kind):
        return frozenset({int}), lambda value: not -bound < value < bound, f"an int of at most {kind.precision} digits"

    def wrong(value: Any) -> bool:
        return not value.is_finite() or not -bound < value < bound or value != round(value, scale)

    return (
        frozenset({Decimal}),
        wrong,
        f"a Decimal of at most {kind.precision} digits, {scale} of them behind the point",
    )


def is_whole(kind: Any) -> bool:
    """Whether the column is a Numeric of whole numbers, which rows have as int."""
    return (
        isinstance(kind, sa.Numeric)
        and not isinstance(kind, sa.Float)
        and kind.precision is not None
        and not kind.scale
    )


def as_put(kind: Any) -> Callable[[Any], Any] | None:
    """From a value as the driver gives it to the value as a handler put it; None where they are the same."""
    if is_whole(kind):
        return lambda value: None if value is None else int(value)
    if isinstance(kind, sa.ARRAY) and is_whole(kind.item_type):
        return _whole
    return None


def _whole(value: Any) -> Any:
    if value.__class__ is list:
        return [_whole(item) for item in value]
    return None if value is None else int(value)


def _array(kind: sa.ARRAY[Any]) -> tuple[frozenset[type], Callable[[Any], bool], str]:
    kinds, refuses, wants = _of(kind.item_type)

    def wrong(value: Any) -> bool:
        return any(
            item is not None and item.__class__ is not list and (item.__class__ not in kinds or refuses(item))
            for item in value
        )

    def wrong_numbers(value: Any) -> bool:
        for item in value:
            if item.__class__ is not int or not low <= item <= high:
                return wrong(value)
        return False

    if isinstance(kind.item_type, sa.Integer):
        low, high = _range(kind.item_type)
        return frozenset({list}), wrong_numbers, f"a list, each {wants}"
    return frozenset({list}), wrong, f"a list, each {wants}"
