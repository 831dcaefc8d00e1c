"""The fold: events in chain order into rows, without I/O. What cannot be applied is parked, with all that follows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from projections.columns import INDEXED_BYTES_MAX
from projections.model import Event, Handler, Key, Projection, Row, Rows

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
    """Where rows come from. After `load`, of keys by event, `held[table]` has every key, None for a row that does not exist.

    changed: by table, the keys of the rows that were changed.
    """

    held: dict[str, dict[Key, Row | None]]
    changed: dict[str, set[Key]]

    def load(self, wanted: Mapping[str, Iterable[tuple[str, Key]]]) -> None: ...


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
    handlers = projection.handlers
    keys: dict[str, list[tuple[str, Key]]] = {}
    batch: list[tuple[Event | Poison, Handler | None, list[tuple[str, Key]], str | None]] = []
    for event in events:
        if skip and (event.position, event.event_index) in skip:
            continue
        if event.__class__ is Poison:
            batch.append((event, None, [], None))
            continue
        on = handlers.get(event.name)  # type: ignore[arg-type]
        if on is None:
            continue
        mine, wrong = on.plain(event.data), None  # type: ignore[union-attr]
        if mine is None:
            try:
                mine = on.wanted(event)  # type: ignore[arg-type]
            except Exception as error:
                mine, wrong = [], _line(error)
        keys.setdefault(event.name, []).extend(mine)  # type: ignore[arg-type]
        batch.append((event, on.handler, mine, wrong))
    store.load(keys)
    apply = Rows(projection, store.held, store.changed).apply
    parked: list[Parked] = []
    for event, handler, mine, wrong in batch:
        if isinstance(event, Poison):
            scope = _short(projection.scope_of_raw(event.raw) or "")
            parked.append(_parked(event, scope, UNDECODABLE, event.error, event.raw))
            if scope:
                parked_scopes.add(scope)
            continue
        if parked_scopes:
            scope = projection.scope_of(event.data) or ""
            if scope in parked_scopes:
                parked.append(_parked(event, scope, BEHIND, "an earlier event of the same scope is parked", b""))
                continue
        try:
            if wrong is not None or handler is None:
                raise ValueError(wrong)
            apply(handler, event, mine)
        except Exception as error:
            scope = _short(projection.scope_of(event.data) or "")
            parked.append(_parked(event, scope, HANDLER, wrong or _line(error), b""))
            if scope:
                parked_scopes.add(scope)
    return parked


def _short(scope: str) -> str:
    """A scope that an index holds. No row has a longer one, so nothing of it can be out of order, and nothing has to wait."""
    return scope if len(scope.encode(errors="replace")) <= INDEXED_BYTES_MAX else ""


def _parked(event: Event | Poison, scope: str, reason: str, error: str, raw: bytes) -> Parked:
    return Parked(event.position, event.slot, event.signature, event.event_index, event.name, scope, reason, error, raw)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:500].replace("\x00", "\ufffd")


class MemoryStore:
    """Rows in a dictionary: the store of unit tests and of the test kit."""

    def __init__(self, projection: Projection) -> None:
        self.held: dict[str, dict[Key, Row | None]] = {t.name: {} for t in projection.tables}
        self.changed: dict[str, set[Key]] = {t.name: set() for t in projection.tables}

    def load(self, wanted: Mapping[str, Iterable[tuple[str, Key]]]) -> None:
        """Every key that was never made is a row that does not exist."""
        for keys in wanted.values():
            for table, key in keys:
                self.held[table].setdefault(key, None)
