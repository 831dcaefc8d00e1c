"""Given events, expect rows: a projection's unit test needs no database."""

from __future__ import annotations

from typing import Any

from projections.fold import MemoryStore, fold
from projections.model import PROVENANCE, Event, Projection


class Given:
    """Collects events and folds them. Slots count from 1; signatures are "sig1", "sig2" …"""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._events: list[Event] = []

    def event(self, name: str, **data: Any) -> Given:
        """Add an event; it gets the next slot."""
        slot = len(self._events) + 1
        self._events.append(Event(slot, slot, 0, 0, f"sig{slot}", slot, "", name, data))
        return self

    def rows(self, table: str, *, provenance: bool = False) -> list[dict[str, Any]]:
        """The rows of a table after all events, in key order. AssertionError names the first event that was not applied."""
        store = MemoryStore(self._projection)
        parked = fold(self._projection, store, self._events, set())
        if parked:
            raise AssertionError(f"{parked[0].event_name} in slot {parked[0].slot}: {parked[0].error}")
        held = sorted((key, row) for key, row in store.held[table].items() if row is not None)
        return [{n: v for n, v in row.items() if provenance or n not in PROVENANCE} for _, row in held]
