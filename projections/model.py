"""What a projection is: tables, a version, and one pure handler an event.

A handler sees rows through a keyed view and changes them; it performs no I/O and asks no clock. The framework loads what
the declared keys name, folds, and writes. Wrong use fails when the projection is made, or in its unit test, with a message
that says what to write. What PostgreSQL would refuse is refused here already, event by event: a whole batch that fails
would be another history than the same events one by one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa

from projections import declared
from projections.columns import UTF8_BYTES_MAX, Accepts, accepts
from projections.purity import impurity
from projections.shapes import Shape

# A row as a handler sees it cannot be changed in place.
Row: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[Any, ...]
# An account's address and data to the table, the key and the columns that its row must have.
Expectation: TypeAlias = Callable[[str, Mapping[str, Any]], tuple[str, Key, Row]]
Handler: TypeAlias = Callable[["Rows", "Event"], Any]

# Filled by the framework in every row.
PROVENANCE = ("created_slot", "created_signature", "updated_slot", "updated_signature")
_TIME_MAX = 253_402_300_799


class ProjectionError(Exception):
    """A projection is written wrongly; the message says what to write instead."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """A decoded event. `block_time` in unix seconds; `program` base58; `data` in the contract's JSON form.

    (A Struct: a tenth of a frozen dataclass's cost to make, and one is made for every event.)
    """

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


@lru_cache(maxsize=4096)
def moment(seconds: int) -> datetime | None:
    """Unix seconds as a time; None for 0, which the chain uses for never, and for what no calendar holds."""
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds <= _TIME_MAX else None


_encode = msgspec.json.Encoder().encode
_PLAIN = frozenset({int, bool, float, type(None)})


def clean(value: Any) -> Any:
    """The value as PostgreSQL can store it: U+0000 becomes U+FFFD, in keys too."""
    try:
        # Encoding costs a fifth of a walk, and in JSON the character has one form only.
        if b"\\u0000" not in _encode(value):
            return value
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        # What JSON does not hold is walked.
        pass
    return _cleaned(value)


def _cleaned(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value.replace("\x00", "\ufffd") if "\x00" in value else value
    if kind is list:
        return [item if type(item) in _PLAIN else _cleaned(item) for item in value]
    if kind is dict:
        return {
            (_cleaned(name) if "\x00" in name else name): item if type(item) in _PLAIN else _cleaned(item)
            for name, item in value.items()
        }
    return value


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A row that an event needs: the table, how its key is found in the event's data, and what the key's columns accept."""

    table: str
    paths: tuple[str, ...]
    getters: tuple[Callable[[Any], Any], ...]
    columns: tuple[Accepts, ...]

    def key(self, event: Event) -> Key | None:
        """The key; None when the event leaves the field empty. ProjectionError when there is no such field or it is no key."""
        values = []
        for path, getter, column in zip(self.paths, self.getters, self.columns, strict=True):
            try:
                value = getter(event.data)
            except (KeyError, TypeError):
                raise ProjectionError(
                    f"{event.name} has no field {path!r}; name a field of the event as the key"
                ) from None
            if value is None:
                return None
            if (
                value.__class__ not in column.kinds
                or column.refuses(value)
                or (column.longest and column.too_long(value))
            ):
                raise ProjectionError(
                    f"{event.name}: the field {path!r} is {_shown(value)}, no key for {self.table}.{column.name}; "
                    f"name a field that is {column.wants}"
                )
            values.append(value)
        return tuple(values)


def _getter(path: str) -> Callable[[Any], Any]:
    parts = path.split(".")
    if len(parts) == 1:
        return itemgetter(path)

    def get(data: Any) -> Any:
        for part in parts:
            data = data[part]
        return data

    return get


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}{'…' if len(text) > 60 else ''} ({type(value).__name__})"


@dataclass(frozen=True, slots=True)
class _On:
    """A handler and the rows that its event needs. `plain` gives these from the event's data; None when it has to be looked at closely."""

    handler: Handler
    keys: tuple[_Wanted, ...]
    plain: Callable[[Any], list[tuple[str, Key]] | None]

    def wanted(self, event: Event) -> list[tuple[str, Key]]:
        """The rows. ProjectionError when the event does not name them."""
        return [(wanted.table, key) for wanted in self.keys if (key := wanted.key(event)) is not None]


def _plain_keys(wanted: Sequence[_Wanted]) -> Callable[[Any], list[tuple[str, Key]] | None]:
    """What `_On.wanted` does, compiled for keys of one text that stands in the event itself: nearly all are, and one call is left of many."""
    if not all(len(w.paths) == 1 and w.columns[0].plain_text and "." not in w.paths[0] for w in wanted):
        return lambda data: None
    reads = "".join(f"v{place} = data[{w.paths[0]!r}]; " for place, w in enumerate(wanted))
    short = [w.columns[0].longest // UTF8_BYTES_MAX for w in wanted]
    checks = (
        " and ".join(f"v{place}.__class__ is str and len(v{place}) <= {n}" for place, n in enumerate(short)) or "True"
    )
    made = ", ".join(f"({w.table!r}, (v{place},))" for place, w in enumerate(wanted))
    scope: dict[str, Any] = {}
    exec(
        f"def plain(data):\n try: {reads}pass\n except (KeyError, TypeError): return None\n return [{made}] if {checks} else None",
        scope,
    )
    found: Callable[[Any], list[tuple[str, Key]] | None] = scope["plain"]
    return found


@dataclass(frozen=True, slots=True)
class Redaction:
    """Readers do not see `fields` of the program's events and accounts whose row in `table` has `flag` set, or is not there yet.

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
        problems = [
            declared.wrong_tables(self.tables, self.scope, PROVENANCE),
            declared.wrong_views(self.views, self.tables),
            declared.wrong_accounts(self.accounts, self.tables),
            *(declared.wrong_redaction(redaction, self.tables) for redaction in self.redactions),
        ]
        for problem in problems:
            if problem is not None:
                raise ProjectionError(f"projection {self.name}: {problem}")

    def on(self, event: str, **keys: str | tuple[str, ...]) -> Callable[[Handler], Handler]:
        """Register the handler of an event. `keys` says which rows it needs: table="field of the event's data".

        A key that is a field inside a struct is written with dots. Several keys of one table: a tuple of fields. A key of several
        columns: their fields with commas, in the order of the table's key. An event that leaves such a field empty needs no row.
        """
        tables = {table.name: table for table in self.tables}
        for table in keys:
            if table not in tables:
                raise ProjectionError(
                    f"{event}: unknown table {table!r}; this projection has {', '.join(sorted(tables))}"
                )
        if event in self.handlers:
            raise ProjectionError(f"{event}: a second handler; an event has one")
        wanted = tuple(
            _wanted(event, tables[table], name)
            for table, names in keys.items()
            for name in ((names,) if isinstance(names, str) else names)
        )

        def register(handler: Handler) -> Handler:
            if inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
                raise ProjectionError(f"{event}: the handler must be a plain function; write def, and no yield")
            found = impurity(handler)
            if found is not None:
                raise ProjectionError(f"{event}: the handler {found}; take times and values from the event instead")
            self.handlers[event] = _On(handler, wanted, _plain_keys(wanted))
            return handler

        return register

    def scope_of(self, data: Any) -> str | None:
        """The scope of an event's data; None when the projection has none or the event does not name it."""
        if self.scope is None or not isinstance(data, Mapping):
            return None
        value = data.get(self.scope)
        return value if isinstance(value, str) else None

    def keys_of(self, event: Event) -> Iterable[tuple[str, Key]]:
        """The rows that the event's handler may touch. ProjectionError when the event does not give them."""
        on = self.handlers.get(event.name)
        if on is None:
            return ()
        return on.wanted(event)


def _wanted(event: str, table: sa.Table, fields: str) -> _Wanted:
    paths = tuple(path.strip() for path in fields.split(","))
    columns = [accepts(column) for column in table.primary_key.columns]
    if len(paths) != len(columns):
        names = ", ".join(c.name for c in columns)
        example = ",".join(f"<field of {c.name}>" for c in columns)
        raise ProjectionError(
            f'{event}: the key of {table.name} is {names}, and {fields!r} names {len(paths)} of them; write {table.name}="{example}"'
        )
    return _Wanted(table.name, paths, tuple(map(_getter, paths)), tuple(columns))


_shape = lru_cache(maxsize=1024)(Shape)


class _Now:
    """The event whose handler runs."""

    __slots__ = ("event", "journal", "keys")

    def __init__(self) -> None:
        self.event: Event | None = None
        # What it declared. Other rows may be loaded for other events of the batch, and which these are must not matter.
        self.keys: Sequence[tuple[str, Key]] = ()
        self.journal: list[tuple[TableRows, Key, Row | None]] = []


class TableRows:
    """One table's rows by key, as far as they were loaded. Values are replaced, never changed in place."""

    __slots__ = ("_changed", "_held", "_name", "_now", "_shape")

    def __init__(self, shape: Shape, held: dict[Key, Row | None], changed: set[Key], now: _Now) -> None:
        self._name = shape.name
        self._shape = shape
        self._held = held
        self._changed = changed
        self._now = now

    def get(self, *key: Any) -> Row | None:
        """The row, or None when there is none. It cannot be changed: use `update`."""
        row = self._held[key] if (self._name, key) in self._now.keys else self._row(key)
        return None if row is None else MappingProxyType(row)

    def _row(self, key: Key) -> Row | None:
        if (self._name, key) in self._now.keys:
            return self._held[key]
        try:
            hash(key)
            raise ProjectionError(
                f'{self._name}: the key {key!r} was never loaded; declare it: @projection.on(…, {self._name}="<field>")'
            )
        except TypeError:
            raise ProjectionError(
                f"{self._name}: {key!r} is no key; give the value of {', '.join(self._shape.key)}, as the event has it"
            ) from None

    def put(self, *key: Any, **values: Any) -> None:
        """Make the row, or replace it as a whole. Columns that are not given get their default."""
        now, shape = self._now, self._shape
        # `_row` and `_event`, written out: this runs for every event there is.
        before = self._held[key] if (self._name, key) in now.keys else self._row(key)
        event = now.event or self._event()
        names = tuple(values)
        row = (shape.puts.get(names) or shape.put(names))(key, values, event.slot, event.signature)
        if row is None:
            self._check(key, values)
            if not shape.required <= values.keys():
                missing = sorted(shape.required - values.keys())
                raise ProjectionError(
                    f"{self._name}: put without {', '.join(missing)}; give a value, or the column a default"
                )
            row = {**shape.empty, **dict(zip(shape.key, key, strict=True)), **values}
            row["created_slot"] = row["updated_slot"] = event.slot
            row["created_signature"] = row["updated_signature"] = event.signature
        now.journal.append((self, key, before))
        self._held[key] = row
        self._changed.add(key)

    def update(self, *key: Any, **values: Any) -> None:
        """Change columns of a row that exists. ProjectionError when it does not."""
        now = self._now
        before = self._held[key] if (self._name, key) in now.keys else self._row(key)
        event = now.event or self._event()
        if before is None:
            raise ProjectionError(f"{self._name}: no row {key!r} to update; the event that makes it is missing")
        names = tuple(values)
        row = (self._shape.updates.get(names) or self._shape.update(names))(before, values, event.slot, event.signature)
        if row is None:
            self._check(key, values)
            row = {**before, **values, "updated_slot": event.slot, "updated_signature": event.signature}
        now.journal.append((self, key, before))
        self._held[key] = row
        self._changed.add(key)

    def delete(self, *key: Any) -> None:
        """Remove the row; nothing happens when there is none."""
        before = self._row(key)
        self._event()
        if before is not None:
            self._now.journal.append((self, key, before))
            self._held[key] = None
            self._changed.add(key)

    def _check(self, key: Key, values: dict[str, Any]) -> None:
        """Refuse what the column cannot hold, and clean what a handler made of text."""
        columns = self._shape.columns
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                raise ProjectionError(f"{self._name}: unknown column {name!r}; it has {', '.join(columns)}")
            kind = value.__class__
            if kind is str and column.plain_text:
                # An event's data is clean already; text that a handler made itself can hold one.
                if "\x00" in value:
                    value = values[name] = value.replace("\x00", "\ufffd")
                if column.longest and column.too_long(value):
                    raise ProjectionError(f"{self._name}.{name}: {_shown(value)} is too long; give {column.wants}")
            elif kind is int and column.low <= value <= column.high:
                pass
            elif (
                kind not in column.kinds
                or (column.looks and column.refuses(value))
                or (column.longest and value is not None and column.too_long(value))
            ):
                raise ProjectionError(f"{self._name}.{name}: {_shown(value)} does not fit; give {column.wants}")
            elif column.nested and (kind is list or kind is dict or kind is str):
                values[name] = clean(value)
        if self._shape.keys.isdisjoint(values):
            return
        for name, part in zip(self._shape.key, key, strict=True):
            if name in values and values[name] != part:
                raise ProjectionError(
                    f"{self._name}: {name} is the row's key and cannot be changed; put a row of that key"
                )

    def _event(self) -> Event:
        event = self._now.event
        if event is None:
            raise ProjectionError(f"{self._name}: rows change only inside a handler")
        return event


class Rows:
    """The tables of a projection, as attributes by name. `changed` takes up the keys of the rows that handlers change."""

    def __init__(
        self, projection: Projection, held: dict[str, dict[Key, Row | None]], changed: dict[str, set[Key]]
    ) -> None:
        self._now = _Now()
        self._tables = {
            t.name: TableRows(_shape(t, projection.scope), held[t.name], changed[t.name], self._now)
            for t in projection.tables
        }
        # Found as attributes without the detour over __getattr__.
        self.__dict__.update({n: t for n, t in self._tables.items() if not n.startswith("_") and n != "apply"})

    def __getattr__(self, name: str) -> TableRows:
        try:
            return self.__dict__["_tables"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise ProjectionError(f"unknown table {name!r}; this projection has {', '.join(self._tables)}") from None

    def apply(self, on: Handler, event: Event, keys: Sequence[tuple[str, Key]]) -> None:
        """Run a handler that may touch the rows of `keys`. When it raises, none is changed."""
        now = self._now
        now.event, now.keys = event, keys
        journal = now.journal
        journal.clear()
        try:
            returned: Any = on(self, event)
            if returned is not None:
                raise ProjectionError(
                    f"{event.name}: the handler returned {_shown(returned)}; change rows with put, update, delete and return nothing"
                )
        except BaseException:
            for rows, key, before in reversed(journal):
                rows._held[key] = before
            raise
        finally:
            now.event = None
