"""Given events, expect rows: a projection's unit test needs no database.

Beside the rows it finds what a handler must not do and no single run shows: change a row in place, depend on how the history is cut
into batches, or give other rows when the same events come again.
"""

from __future__ import annotations

import copy
from typing import Any

from projections.fold import MemoryStore, fold
from projections.model import PROVENANCE, Event, Projection


class Given:
    """Collects events and folds them. Slots count from 1; signatures are "sig1", "sig2" …"""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._events: list[Event] = []

    def event(self, name: str, **data: Any) -> Given:
        """Add an event; it gets the next slot. AssertionError when the projection has no handler for it."""
        if name not in self._projection.handlers:
            known = ", ".join(sorted(self._projection.handlers))
            raise AssertionError(f"{name}: no handler; {self._projection.name} has {known}")
        slot = len(self._events) + 1
        self._events.append(Event(slot, slot, 0, 0, f"sig{slot}", slot, "", name, data))
        return self

    def rows(self, table: str, *, provenance: bool = False) -> list[dict[str, Any]]:
        """The rows of a table after all events, in key order. AssertionError names the first event that was not applied, or
        what is impure about its handler."""
        known = [t.name for t in self._projection.tables]
        if table not in known:
            raise AssertionError(f"unknown table {table!r}; this projection has {', '.join(known)}")
        store = self._one_by_one()
        whole = MemoryStore(self._projection)
        fold(self._projection, whole, copy.deepcopy(self._events), set())
        if whole.held != store.held:
            raise AssertionError(
                "the same events gave other rows a second time; a handler may only use the event and the rows it declared"
            )
        held = sorted((key, row) for key, row in store.held[table].items() if row is not None)
        return [{n: v for n, v in row.items() if provenance or n not in PROVENANCE} for _, row in held]

    def _one_by_one(self) -> MemoryStore:
        """Every event as a batch of its own, as if each row came from the database; nothing but what was written may change."""
        store = MemoryStore(self._projection)
        for event in self._events:
            given = copy.deepcopy(event)
            before = copy.deepcopy(store.held)
            for changed in store.changed.values():
                changed.clear()
            parked = fold(self._projection, store, [given], set())
            if parked:
                raise AssertionError(f"{event.name} in slot {event.slot}: {parked[0].error}")
            if given.data != event.data:
                raise AssertionError(f"{event.name}: the handler changed the event's data; copy what it needs")
            for table, rows in before.items():
                for key, row in rows.items():
                    if key not in store.changed[table] and store.held[table][key] != row:
                        raise AssertionError(
                            f"{event.name}: the handler changed a row of {table} in place; write rows.{table}.update(…)"
                        )
            store.held = copy.deepcopy(store.held)
        return store
