"""The fold: events in chain order into rows, without I/O. What cannot be applied is parked, with all that follows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from projections.model import Event, Key, Projection, Row, Rows

UNDECODABLE = "undecodable"
HANDLER = "handler"
BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class Poison:
    """An event that does not decode: its place, its bytes, and why."""

    position: int
    slot: int
    transaction_index: int
    event_index: int
    signature: str
    program: str
    raw: bytes
    error: str
    name: str | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """The place in chain order."""
        return (self.slot, self.transaction_index, self.event_index)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that was not applied. `scope` is '' when it is unknown: nothing waits behind it then."""

    position: int
    slot: int
    signature: str
    event_index: int
    event_name: str | None
    scope: str
    reason: str
    error: str
    raw: bytes


class Loader(Protocol):
    """Where rows come from. After `load`, `held[table]` has every key, None for a row that does not exist."""

    held: dict[str, dict[Key, Row | None]]

    def load(self, keys: Iterable[tuple[str, Key]]) -> None: ...

    def touch(self, table: str, key: Key) -> None: ...


def fold(
    projection: Projection,
    store: Loader,
    events: Iterable[Event | Poison],
    parked_scopes: set[str],
    skip: frozenset[tuple[int, int]] = frozenset(),
) -> list[Parked]:
    """Apply events to the store's rows. `parked_scopes` grows by the scopes that stop here; `skip` holds what was discarded.

    The events must come in chain order within a scope. Returns what was not applied.
    """
    batch = [event for event in events if (event.position, event.event_index) not in skip]
    keys: list[tuple[str, Key]] = []
    broken: dict[int, str] = {}
    for number, event in enumerate(batch):
        if isinstance(event, Event):
            try:
                keys.extend(projection.keys_of(event))
            except Exception as error:
                broken[number] = _line(error)
    store.load(keys)
    rows = Rows(projection, store.held)
    parked: list[Parked] = []
    handlers = projection.handlers
    for number, event in enumerate(batch):
        if isinstance(event, Poison):
            scope = projection.scope_of_raw(event.raw) or ""
            reason = BEHIND if scope in parked_scopes else UNDECODABLE
            # What waits may still be undecodable: the reason that needs a fix is the one to show.
            parked.append(_parked(event, scope, UNDECODABLE if event.error else reason, event.error, event.raw))
            if scope:
                parked_scopes.add(scope)
            continue
        on = handlers.get(event.name)
        if on is None:
            continue
        scope = projection.scope_of(event.data) or ""
        if scope and scope in parked_scopes:
            parked.append(_parked(event, scope, BEHIND, "an earlier event of the same scope is parked", b""))
            continue
        try:
            if number in broken:
                raise ValueError(broken[number])
            touched = rows.apply(on.handler, event)
        except Exception as error:
            parked.append(_parked(event, scope, HANDLER, _line(error), b""))
            if scope:
                parked_scopes.add(scope)
            continue
        for table, key in touched:
            store.touch(table, key)
    return parked


def _parked(event: Event | Poison, scope: str, reason: str, error: str, raw: bytes) -> Parked:
    return Parked(event.position, event.slot, event.signature, event.event_index, event.name, scope, reason, error, raw)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:500].replace("\x00", "\ufffd")


class MemoryStore:
    """Rows in a dictionary: the store of unit tests and of the test kit."""

    def __init__(self, projection: Projection) -> None:
        self.held: dict[str, dict[Key, Row | None]] = {t.name: {} for t in projection.tables}

    def load(self, keys: Iterable[tuple[str, Key]]) -> None:
        """Every key that was never made is a row that does not exist."""
        for table, key in keys:
            self.held[table].setdefault(key, None)

    def touch(self, table: str, key: Key) -> None:
        """Nothing has to be written."""
