"""Rows as text for COPY and as JSON for a set-based UPDATE. Pure, and on the hot path: the columns' types are looked at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from projections.columns import type_name

_Row = Mapping[str, Any]
_ODD = frozenset({float, bytes, timedelta})
NULL = "\\N"
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_special = re.compile(r"[\\\n\r\t]").search
_escape = re.compile(r"[\\\n\r\t]").sub
_quote = re.compile(r'["\\]').sub


# Decimals as strings, exactly; the server casts.
_encode = msgspec.json.Encoder(enc_hook=str, decimal_format="string").encode


def escaped(text: str) -> str:
    """Text as COPY's text form has it."""
    if text.isalnum() or not _special(text):
        return text
    return _escape(lambda match: _ESCAPES[match[0]], text)


def json_text(value: Any) -> str:
    """A value as JSON, as COPY's text form has it."""
    text = _encode(value).decode()
    return text.replace("\\", "\\\\") if "\\" in text else text


def json_array(values: Sequence[Any]) -> str:
    """Values as a JSON array."""
    return _encode(values).decode()


def _text(value: Any) -> str:
    if value is None:
        return NULL
    text: str = value
    return text if text.isalnum() else escaped(text)


def _number(value: Any) -> str:
    return NULL if value is None else str(value)


def _flag(value: Any) -> str:
    return NULL if value is None else "t" if value else "f"


@lru_cache(maxsize=4096)
def iso(value: datetime) -> str:
    """A time as the server reads it; many rows have the same."""
    return value.isoformat()


def _time(value: Any) -> str:
    return NULL if value is None else iso(value)


def _json(value: Any) -> str:
    return NULL if value is None else json_text(value)


def _numbers(value: Any) -> str:
    if value is None:
        return NULL
    if None in value:
        return _list(value)
    return "{" + ",".join(map(str, value)) + "}"


def _list(value: Any) -> str:
    return NULL if value is None else escaped(_array_literal(value))


def _array_literal(value: Any) -> str:
    parts = []
    for item in value:
        if item is None:
            parts.append("NULL")
        elif item.__class__ is list:
            parts.append(_array_literal(item))
        else:
            parts.append('"' + _quote(lambda match: "\\" + match[0], _plain(item)) + '"')
    return "{" + ",".join(parts) + "}"


def _plain(value: Any) -> str:
    """The server's text form of a single value."""
    kind = value.__class__
    if kind is str:
        return str(value)
    if kind is bool:
        return "t" if value else "f"
    if kind is bytes:
        return "\\x" + str(value.hex())
    if kind is dict:
        return str(_encode(value), "utf-8")
    if kind is int or kind is float or kind is Decimal:
        return str(value)
    if isinstance(value, datetime):
        return str(value.isoformat())
    if kind is timedelta:
        # Its ISO form may begin with a sign, which only newer servers read.
        return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
    # Dates, UUIDs and the like: as JSON has them without the quotes, which the server reads.
    text: str = _encode(value).decode()
    return text.strip('"')


def _other(value: Any) -> str:
    return NULL if value is None else escaped(_plain(value))


def _formatter(kind: Any) -> Callable[[Any], str]:
    if isinstance(kind, sa.ARRAY):
        return _numbers if isinstance(kind.item_type, sa.Integer) and not (kind.dimensions or 1) > 1 else _list
    if isinstance(kind, sa.Enum):
        return _other
    for of, formatter in (
        (sa.String, _text),
        (sa.Integer, _number),
        (sa.Numeric, _number),
        (sa.Float, _number),
        (sa.Boolean, _flag),
        (sa.DateTime, _time),
        (sa.JSON, _json),
    ):
        if isinstance(kind, of):
            return formatter
    return _other


def line(columns: Sequence[tuple[str, Any]]) -> Callable[[_Row], str]:
    """A function from a row to its line for COPY, the columns in the given order. Types are SQLAlchemy's.

    It is compiled, one expression a column. Texts are looked at together: where one needs escaping, all columns go the long way.
    """
    plain = plain_line(columns)
    scope: dict[str, Any] = {"plain": plain, "NULL": NULL}
    body, texts, parts = [], [], []
    for place, (name, kind) in enumerate(columns):
        form, value = _formatter(kind), f"v{place}"
        body.append(f"{value} = row[{name!r}]")
        shown = value
        if form is _text:
            texts.append(f"{{{value}}}")
        elif form is _flag:
            shown = f"'t' if {value} else 'f'"
        elif form is not _number:
            scope[f"form{place}"] = form
            shown = f"form{place}({value})"
        parts.append(f"{{NULL if {value} is None else {shown}}}")
    if texts:
        looks = " or ".join(f"{sign!r} in texts" for sign in _ESCAPES)
        body += [f'texts = f"{"".join(texts)}"', f"if {looks}: return plain(row)"]
    body.append('return f"' + "\\t".join(parts) + '\\n"')
    exec("def made(row):\n" + "".join(f"    {statement}\n" for statement in body), scope)
    made: Callable[[_Row], str] = scope["made"]
    return made


def plain_line(columns: Sequence[tuple[str, Any]]) -> Callable[[_Row], str]:
    """As `line`, column by column: what it must be equal to."""
    formatters = [(name, _formatter(kind)) for name, kind in columns]

    def make(row: _Row) -> str:
        return "\t".join([form(row[name]) for name, form in formatters]) + "\n"

    return make


def json_rows(columns: Sequence[tuple[str, Any]]) -> Callable[[Sequence[_Row]], str]:
    """A function from rows to a JSON array of these columns, which `jsonb_to_recordset` reads back with the columns' types."""
    names = [name for name, _ in columns]
    # What JSON cannot say, the server reads from a string: floats that are not finite and a zero's sign, bytes, lengths of time.
    odd = [
        name
        for name, kind in columns
        if isinstance(kind, sa.Numeric | sa.Float | sa.LargeBinary | sa.ARRAY) or type_name(kind).startswith("INTERVAL")
    ]

    def make(rows: Sequence[_Row]) -> str:
        part = [{name: row[name] for name in names} for row in rows]
        return _encode([_readable(row, odd) for row in part] if odd else part).decode()

    return make


def _readable(row: _Row, names: Sequence[str]) -> _Row:
    changed: dict[str, Any] = {}
    for name in names:
        value = row[name]
        kind = value.__class__
        if kind is list:
            if any(item.__class__ in _ODD for item in value):
                changed[name] = [None if item is None else _plain(item) for item in value]
        elif kind is bytes or kind is timedelta or (kind is float and (value - value != 0 or not value)):
            changed[name] = _plain(value)
    return {**row, **changed} if changed else row
