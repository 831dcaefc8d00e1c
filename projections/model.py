"""What a projection is: tables, a version, and one pure handler an event.

A handler sees rows through a keyed view and changes them; it performs no I/O and asks no clock. The framework loads what
the declared keys name, folds, and writes. Wrong use fails when the projection is made, or in its unit test, with a message
that says what to write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[Any, ...]
# An account's address and data to the table, the key and the columns that its row must have.
Expectation: TypeAlias = Callable[[str, Mapping[str, Any]], tuple[str, Key, Row]]
Handler: TypeAlias = Callable[["Rows", "Event"], None]

# Filled by the framework in every row.
PROVENANCE = ("created_slot", "created_signature", "updated_slot", "updated_signature")
_IMPURE = frozenset(
    {"time", "random", "os", "socket", "requests", "httpx", "psycopg", "secrets", "uuid", "subprocess", "open"}
)
_TIME_MAX = 253_402_300_799


class ProjectionError(Exception):
    """A projection is written wrongly; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded event. `block_time` in unix seconds; `program` base58; `data` in the contract's JSON form."""

    position: int
    slot: int
    transaction_index: int
    event_index: int
    signature: str
    block_time: int | None
    program: str
    name: str
    data: Mapping[str, Any]

    @property
    def place(self) -> tuple[int, int, int]:
        """The place in chain order."""
        return (self.slot, self.transaction_index, self.event_index)


def moment(seconds: int) -> datetime | None:
    """Unix seconds as a time; None for 0, which the chain uses for never, and for what no calendar holds."""
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds <= _TIME_MAX else None


_PLAIN = frozenset({int, bool, float, type(None)})


def clean(value: Any) -> Any:
    """The value as PostgreSQL can store it: U+0000 becomes U+FFFD, in keys too."""
    kind = type(value)
    if kind is str:
        return value.replace("\x00", "\ufffd") if "\x00" in value else value
    if kind is list:
        return [item if type(item) in _PLAIN else clean(item) for item in value]
    if kind is dict:
        return {
            (clean(name) if "\x00" in name else name): item if type(item) in _PLAIN else clean(item)
            for name, item in value.items()
        }
    return value


def _free_of_nul(values: Row) -> Row:
    # An event's data is clean already; only text that a handler made itself can hold one.
    for value in values.values():
        if (type(value) is str and "\x00" in value) or type(value) is dict:
            cleaned: Row = clean(values)
            return cleaned
    return values


@dataclass(frozen=True, slots=True)
class _On:
    handler: Handler
    keys: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Redaction:
    """Readers do not see `fields` of events and accounts whose row in `table` has `flag` set.

    `event_field` names the member of an event's data that holds the row's key, which is also the address of the account.
    """

    table: str
    event_field: str
    flag: str
    fields: tuple[str, ...]


@dataclass(slots=True)
class Projection:
    """Tables and handlers. `scope` names the event field and column by which events are independent of one another.

    `views` maps a reader-facing name to a SELECT, with `{table}` for each of the projection's tables; a table without an
    entry is shown as it is. `scope_of_raw` gives the scope of an event that does not decode, None where it cannot be known.
    `accounts` says, by the account's name, what row an account on the chain must have; `gone` which rows have no account any more.
    Raise `version` whenever tables or handlers change: the tables are then rebuilt.
    """

    name: str
    version: int
    tables: tuple[sa.Table, ...]
    scope: str | None = None
    scope_of_raw: Callable[[bytes], str | None] = lambda raw: None
    views: Mapping[str, str] = field(default_factory=dict)
    redactions: tuple[Redaction, ...] = ()
    accounts: Mapping[str, Expectation] = field(default_factory=dict)
    gone: Callable[[str, Row], bool] = lambda table, row: False
    handlers: dict[str, _On] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise ProjectionError(f"projection name {self.name!r}: use lower-case letters, digits and underscores")
        if self.version < 1:
            raise ProjectionError(f"projection {self.name}: version = {self.version}; begin with 1")
        for table in self.tables:
            if not table.primary_key.columns:
                raise ProjectionError(f"table {table.name}: no key; give a column primary_key=True")
            taken = [name for name in PROVENANCE if name in table.c]
            if taken:
                raise ProjectionError(f"table {table.name}: column {taken[0]} is filled by the framework; leave it out")
            if self.scope is not None and self.scope not in table.c:
                raise ProjectionError(
                    f"table {table.name}: no column {self.scope!r}, the projection's scope; add it, or set scope=None"
                )

    def on(self, event: str, **keys: str | tuple[str, ...]) -> Callable[[Handler], Handler]:
        """Register the handler of an event. `keys` says which rows it needs: table="field of the event's data".

        A key that is a field inside a struct is written with dots. Several keys of one table: a tuple of fields.
        """
        names = {table.name for table in self.tables}
        for table in keys:
            if table not in names:
                raise ProjectionError(
                    f"{event}: unknown table {table!r}; this projection has {', '.join(sorted(names))}"
                )
        if event in self.handlers:
            raise ProjectionError(f"{event}: a second handler; an event has one")
        pairs = tuple(
            (table, name)
            for table, names_ in keys.items()
            for name in ((names_,) if isinstance(names_, str) else names_)
        )

        def register(handler: Handler) -> Handler:
            if inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
                raise ProjectionError(f"{event}: the handler must be a plain function; write def, and no yield")
            impure = sorted(_IMPURE & set(handler.__code__.co_names))
            if impure:
                raise ProjectionError(
                    f"{event}: the handler uses {impure[0]}; take times and values from the event instead"
                )
            self.handlers[event] = _On(handler, pairs)
            return handler

        return register

    def scope_of(self, data: Any) -> str | None:
        """The scope of an event's data; None when the projection has none or the event does not name it."""
        if self.scope is None or not isinstance(data, Mapping):
            return None
        value = data.get(self.scope)
        return value if isinstance(value, str) else None

    def keys_of(self, event: Event) -> Iterable[tuple[str, Key]]:
        """The rows that the event's handler may touch."""
        on = self.handlers.get(event.name)
        if on is None:
            return ()
        return [(table, (_at(event, path),)) for table, path in on.keys]


def _at(event: Event, path: str) -> Any:
    value: Any = event.data
    for part in path.split("."):
        try:
            value = value[part]
        except (KeyError, TypeError):
            raise ProjectionError(f"{event.name} has no field {path!r}; name a field of the event as the key") from None
    return value


class TableRows:
    """One table's rows by key, as far as they were loaded. Values are replaced, never changed in place."""

    __slots__ = ("_columns", "_held", "_journal", "_key", "_name", "current")

    def __init__(
        self, table: sa.Table, held: dict[Key, Row | None], journal: list[tuple[Any, Key, Row | None]]
    ) -> None:
        self._name = table.name
        self._columns = {c.name: _empty(c) for c in table.c}
        self._key = tuple(c.name for c in table.primary_key.columns)
        self._held = held
        self._journal = journal
        self.current: Event | None = None

    def get(self, *key: Any) -> Row | None:
        """The row, or None when there is none. Do not change it: use `update`."""
        try:
            return self._held[key]
        except KeyError:
            raise ProjectionError(
                f'{self._name}: the key {key!r} was never loaded; declare it: @projection.on(…, {self._name}="<field>")'
            ) from None

    def put(self, *key: Any, **values: Any) -> None:
        """Make the row, or replace it as a whole."""
        self.get(*key)
        event = self._event()
        self._check(values)
        row = {**self._columns, **dict(zip(self._key, key, strict=True)), **_free_of_nul(values)}
        row["created_slot"] = row["updated_slot"] = event.slot
        row["created_signature"] = row["updated_signature"] = event.signature
        self._set(key, row)

    def update(self, *key: Any, **values: Any) -> None:
        """Change columns of a row that exists. ProjectionError when it does not."""
        row = self.get(*key)
        event = self._event()
        if row is None:
            raise ProjectionError(f"{self._name}: no row {key!r} to update; the event that makes it is missing")
        self._check(values)
        self._set(
            key, {**row, **_free_of_nul(values), "updated_slot": event.slot, "updated_signature": event.signature}
        )

    def delete(self, *key: Any) -> None:
        """Remove the row; nothing happens when there is none."""
        if self.get(*key) is not None:
            self._set(key, None)

    def _set(self, key: Key, row: Row | None) -> None:
        self._journal.append((self, key, self._held[key]))
        self._held[key] = row

    def restore(self, key: Key, row: Row | None) -> None:
        """Undo one change."""
        self._held[key] = row

    def _check(self, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in self._columns:
                raise ProjectionError(f"{self._name}: unknown column {name!r}; it has {', '.join(self._columns)}")

    def _event(self) -> Event:
        assert self.current is not None, "rows change only inside a handler"
        return self.current


def _empty(column: sa.Column[Any]) -> Any:
    default = column.default
    return default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None


class Rows:
    """The tables of a projection, as attributes by name."""

    def __init__(self, projection: Projection, held: dict[str, dict[Key, Row | None]]) -> None:
        self._journal: list[tuple[Any, Key, Row | None]] = []
        self._tables = {t.name: TableRows(t, held[t.name], self._journal) for t in projection.tables}

    def __getattr__(self, name: str) -> TableRows:
        try:
            return self._tables[name]
        except KeyError:
            raise ProjectionError(f"unknown table {name!r}; this projection has {', '.join(self._tables)}") from None

    def apply(self, on: Handler, event: Event) -> set[tuple[str, Key]]:
        """Run a handler. The rows that it changed; when it raises, none is."""
        for rows in self._tables.values():
            rows.current = event
        journal = self._journal
        journal.clear()
        try:
            on(self, event)
        except BaseException:
            for rows, key, before in reversed(journal):
                rows.restore(key, before)
            raise
        return {(rows._name, key) for rows, key, _before in journal}
