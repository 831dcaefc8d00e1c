"""Rows from the values that handlers give, by code that is compiled once a table and set of columns.

Nearly every handler gives the same columns each time, and values that can go into the row as they are. The compiled functions answer
only then; for everything else they answer None, and the caller looks closer and says what is wrong, or cleans it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from projections.columns import UTF8_BYTES_MAX, Accepts, accepts

_Row: TypeAlias = dict[str, Any]
# Key, values, slot and signature to the whole row; row before, values, slot and signature to the row after.
Put: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], int, str], _Row | None]
Update: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any], int, str], _Row | None]
# A handler that names its columns by an event's data could give ever other ones.
_SHAPES_MAX = 256
_NONE = type(None)


class Shape:
    """What is known of a table's rows: what each column accepts, the defaults, the key, and the compiled functions."""

    __slots__ = ("columns", "empty", "key", "keys", "name", "puts", "required", "updates")

    def __init__(self, table: sa.Table, scope: str | None = None) -> None:
        self.name = table.name
        self.columns = {c.name: accepts(c, c.name == scope) for c in table.c}
        self.empty = {c.name: _empty(c) for c in table.c}
        self.key = tuple(c.name for c in table.primary_key.columns)
        self.keys = frozenset(self.key)
        self.required = {
            c.name for c in table.c if not c.nullable and c.name not in self.key and self.empty[c.name] is None
        }
        self.puts: dict[tuple[str, ...], Put] = {}
        self.updates: dict[tuple[str, ...], Update] = {}

    def put(self, names: tuple[str, ...]) -> Put:
        """For values of these columns, in this order."""
        found = self.puts.get(names)
        if found is None:
            found = self._compiled_put(names) if self._plain(names) and self.required <= set(names) else _never
            _keep(self.puts, names, found)
        return found

    def update(self, names: tuple[str, ...]) -> Update:
        """For values of these columns, in this order."""
        found = self.updates.get(names)
        if found is None:
            found = self._compiled_update(names) if self._plain(names) else _never
            _keep(self.updates, names, found)
        return found

    def _plain(self, names: tuple[str, ...]) -> bool:
        return bool(names) and self.columns.keys() >= set(names) and self.keys.isdisjoint(names)

    def _compiled_put(self, names: tuple[str, ...]) -> Put:
        scope: dict[str, Any] = {}
        body = _checks([self.columns[name] for name in names], scope)
        given = {name: f"v{place}" for place, name in enumerate(names)}
        parts = []
        for place, name in enumerate(self.columns):
            if name in self.keys:
                value = f"key[{self.key.index(name)}]"
            elif name in given:
                value = given[name]
            else:
                value = f"d{place}"
                scope[value] = self.empty[name]
            parts.append(f"{name!r}: {value}")
        parts += ["'created_slot': slot", "'created_signature': signature"]
        parts += ["'updated_slot': slot", "'updated_signature': signature"]
        made: Put = _function("key", [*body, f"return {{{', '.join(parts)}}}"], scope)
        return made

    def _compiled_update(self, names: tuple[str, ...]) -> Update:
        scope: dict[str, Any] = {}
        body = _checks([self.columns[name] for name in names], scope)
        given = ", ".join(f"{name!r}: v{place}" for place, name in enumerate(names))
        row = f"{{**before, {given}, 'updated_slot': slot, 'updated_signature': signature}}"
        made: Update = _function("before", [*body, f"return {row}"], scope)
        return made


def _never(*given: Any) -> None:
    return None


def _keep(held: dict[tuple[str, ...], Any], names: tuple[str, ...], made: Any) -> None:
    if len(held) >= _SHAPES_MAX:
        held.clear()
    held[names] = made


def _checks(columns: list[Accepts], scope: dict[str, Any]) -> list[str]:
    """Statements that take the values apart and return None at the first that needs another look."""
    scope |= {"datetime": datetime, "UTC": UTC}
    lines = [f"{', '.join(f'v{place}' for place in range(len(columns)))}, = values.values()"]
    for place, column in enumerate(columns):
        condition = _condition(f"v{place}", place, column, scope)
        nullable = _NONE in column.kinds
        unless = f"v{place} is not None and " if nullable else ""
        lines.append(f"if {unless}not ({condition}): return None")
    return lines


def _condition(value: str, place: int, column: Accepts, scope: dict[str, Any]) -> str:
    if column.plain_text:
        short = f" and len({value}) <= {column.longest // UTF8_BYTES_MAX}" if column.longest else ""
        return f"{value}.__class__ is str and '\\0' not in {value}{short}"
    if column.low <= column.high:
        return f"{value}.__class__ is int and {column.low} <= {value} <= {column.high}"
    if column.utc:
        return f"{value}.__class__ is datetime and {value}.tzinfo is UTC"
    scope[f"k{place}"], scope[f"r{place}"] = column.kinds, column.refuses
    parts = [f"{value}.__class__ in k{place}"]
    if column.looks:
        parts.append(f"not r{place}({value})")
    if column.longest:
        parts.append(f"len({value}) <= {column.longest // UTF8_BYTES_MAX}")
    if column.nested:
        # Text inside may have to be cleaned.
        parts.append(f"{value}.__class__ not in (list, dict, str)")
    return " and ".join(parts)


def _function(first: str, body: list[str], scope: dict[str, Any]) -> Any:
    text = f"def made({first}, values, slot, signature):\n" + "".join(f"    {line}\n" for line in body)
    exec(text, scope)
    return scope["made"]


def _empty(column: sa.Column[Any]) -> Any:
    default = column.default
    return default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None
