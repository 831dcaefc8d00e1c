"""Why a row is as it is: the events that made it, in order, and what each changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from programs.errors import UserError
from projections import catalogue
from projections.apply import Target, stored_events
from projections.catalogue import EVENTS
from projections.decoding import ProgramSpec
from projections.fold import MemoryStore, fold
from projections.model import PROVENANCE, Event, Key, Projection, Row
from projections.store import Store, quoted
from projections.views import installed_name
from schema import db


@dataclass(frozen=True, slots=True)
class Step:
    """An event and the columns that it changed: name to (before, after). `time` is the block's, None where the node gave none."""

    slot: int
    signature: str
    time: datetime | None
    position: int
    event: str
    changes: dict[str, tuple[Any, Any]]
    made: bool
    removed: bool


def find_table(specs: Sequence[ProgramSpec], table: str) -> tuple[ProgramSpec, Projection, str]:
    """The table of a name like `voting.questions`. UserError when there is none."""
    schema, _, name = table.rpartition(".")
    for spec in specs:
        for projection in spec.projections:
            if schema in ("", spec.name) and any(t.name == name for t in projection.tables):
                return spec, projection, name
    known = ", ".join(f"{s.name}.{t.name}" for s in specs for p in s.projections for t in p.tables)
    raise UserError(f"TABLE {table!r}: there is no such table; there is {known}")


def steps(projection: Projection, table: str, key: Key, events: Iterable[Event]) -> list[Step]:
    """Fold the events of a scope in order and note what touches the row. Pure; the events are not kept."""
    store = MemoryStore(projection)
    stopped: set[str] = set()
    found = []
    before: Row | None = None
    for event in events:
        fold(projection, store, [event], stopped)
        after = store.held[table].get(key)
        if after is not before:
            names = sorted((before or after or {}).keys() - set(PROVENANCE))
            old, new = before or {}, after or {}
            changes = {n: (old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)}
            at = None if event.block_time is None else datetime.fromtimestamp(event.block_time, UTC)
            made, removed = before is None, after is None
            found.append(Step(event.slot, event.signature, at, event.position, event.name, changes, made, removed))
        before = after
    return found


def explain(dsn: str, specs: Sequence[ProgramSpec], table: str, key: str) -> list[Step]:
    """The steps of a row. A voter who wished not to be shown is not shown here either. UserError when there is no such row."""
    spec, projection, name = find_table(specs, table)
    with db.connect(dsn) as conn, conn.transaction():
        states = catalogue.states(conn)
        state = states[installed_name(spec, projection)]
        target = Target(
            spec, projection, Store(conn, projection, state.schema), state, f"{quoted(states[EVENTS].schema)}.decoded"
        )
        target.store.load({"": [(name, (key,))]})
        row = target.store.held[name][(key,)]
        if row is None:
            raise UserError(f"KEY {key!r}: {table} has no such row", 1)
        scopes = None if projection.scope is None else [row[projection.scope]]
        skip = catalogue.discarded(conn, state.name)
        stored = stored_events(conn, target, scopes, state.position)
        found = steps(projection, name, (key,), (e for e in stored if (e.position, e.event_index) not in skip))
    hidden = {f for r in projection.redactions if r.table == name and row.get(r.flag) for f in r.fields}
    for step in found:
        for column in hidden & step.changes.keys():
            step.changes[column] = (None, None)
    return found
