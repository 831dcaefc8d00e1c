"""Why a row is as it is: the events that made it, in order, and what each changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy as sa

from programs.errors import UserError
from projections import catalogue
from projections.apply import Target, stored_events
from projections.catalogue import EVENTS, Conn
from projections.columns import as_put, type_name
from projections.decoding import ProgramSpec
from projections.fold import MemoryStore, fold
from projections.model import PROVENANCE, Event, Key, Projection, Row
from projections.store import Store, query, quoted
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


def _key(conn: Conn, table: sa.Table, name: str, given: Sequence[str]) -> Key:
    """The row's key of texts, one a column. UserError when they are none."""
    columns = list(table.primary_key.columns)
    wanted = ", ".join(f"{column.name} ({type_name(column.type).lower()})" for column in columns)
    if len(given) != len(columns):
        raise UserError(f"KEY {' '.join(given)!r}: the key of {name} is {wanted}; give {len(columns)} values")
    casts = ", ".join(f"%s::{type_name(column.type)}" for column in columns)
    try:
        with conn.transaction():
            row = conn.execute(query(f"SELECT {casts}"), list(given)).fetchone()
    except psycopg.DataError:
        raise UserError(f"KEY {' '.join(given)!r}: the key of {name} is {wanted}") from None
    assert row is not None, "a SELECT without a table gives a row"
    return tuple(
        [convert(value) if (convert := as_put(c.type)) else value for c, value in zip(columns, row, strict=True)]
    )


def explain(dsn: str, specs: Sequence[ProgramSpec], table: str, given: Sequence[str]) -> list[Step]:
    """The steps of a row, by its key as text, a value for each of the key's columns. A voter who wished not to be shown is not shown here either.
    UserError when there is no such row."""
    spec, projection, name = find_table(specs, table)
    (made,) = [t for t in projection.tables if t.name == name]
    with db.connect(dsn) as conn, conn.transaction():
        key = _key(conn, made, table, given)
        states = catalogue.states(conn)
        state = states[installed_name(spec, projection)]
        target = Target(
            spec, projection, Store(conn, projection, state.schema), state, f"{quoted(states[EVENTS].schema)}.decoded"
        )
        target.store.load({"": [(name, key)]})
        row = target.store.held[name][key]
        if row is None:
            raise UserError(f"KEY {' '.join(given)!r}: {table} has no such row", 1)
        scopes = None if projection.scope is None else [row[projection.scope]]
        # What was left out, and what waits behind an event that could not be applied, has changed no row.
        skip = catalogue.discarded(conn, state.name) | catalogue.parked_events(conn, state.name)
        stored = stored_events(conn, target, scopes, state.position)
        found = steps(projection, name, key, (e for e in stored if (e.position, e.event_index) not in skip))
    hidden = {f for r in projection.redactions if r.table == name and row.get(r.flag) for f in r.fields}
    for step in found:
        for column in hidden & step.changes.keys():
            step.changes[column] = (None, None)
    return found
