"""Rebuilding: the ledger folded into fresh tables beside the live ones, compared, caught up, and swapped in one transaction of views."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import psycopg

from programs.errors import EXIT_UNREACHABLE, UserError
from projections import bootstrap, catalogue
from projections.apply import Target, advance, due, retract_decoded, write_decoded
from projections.catalogue import EVENTS, Conn, State, schema_of
from projections.dead_letters import settle_undecodable
from projections.decoding import Decoder, ProgramSpec
from projections.fold import Parked, fold
from projections.model import Projection
from projections.store import Store, create_indexes, create_tables, query, quoted
from projections.views import create_view, installed_name, projection_views, replace_views
from schema import db, reads, roles

_BATCH = 5_000
_ROWS_HELD_MAX = 100_000
_SWAP_ATTEMPTS = 600
_LOCK_SPACE = 0x7265
_T = TypeVar("_T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TableDifference:
    """Rows of a table that only the old, or only the new tables have, or that differ; `examples` are at most ten (key, old, new)."""

    table: str
    rows: int
    added: int
    removed: int
    changed: int
    examples: tuple[tuple[str, dict[str, Any] | None, dict[str, Any] | None], ...]

    @property
    def equal(self) -> bool:
        """Whether the two tables are the same row for row."""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class Report:
    """What a rebuild found. `swapped` is False for a dry run."""

    projection: str
    transactions: int
    differences: tuple[TableDifference, ...]
    dead_letters: int
    swapped: bool


def names(specs: Sequence[ProgramSpec]) -> list[str]:
    """Everything that can be rebuilt, the events first."""
    return [EVENTS] + [installed_name(s, p) for s in specs for p in s.projections]


def find(specs: Sequence[ProgramSpec], name: str) -> tuple[ProgramSpec, Projection]:
    """The projection of an installed name, or of the bare name when only one program has it. UserError otherwise."""
    found = [(s, p) for s in specs for p in s.projections if name in (installed_name(s, p), p.name)]
    if len(found) != 1:
        known = ", ".join(names(specs))
        raise UserError(f"{name!r}: {'several programs have' if found else 'no'} such projection; there is {known}")
    return found[0]


def rebuild(
    dsn: str,
    specs: Sequence[ProgramSpec],
    name: str,
    *,
    dry_run: bool = False,
    as_of: tuple[int, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Rebuild one projection. `as_of` is a slot and a schema: the state after that slot, in views of that schema; nothing is swapped.

    The old tables serve until the swap. UserError when another rebuild of the same projection runs.
    """
    with (
        db.connect(dsn, application="indexer-rebuild") as conn,
        db.connect(dsn, application="indexer-rebuild-reader") as reader,
        _alone(conn, name),
    ):
        if name == EVENTS:
            return _rebuild_events(conn, reader, specs, dry_run, progress)
        spec, projection = find(specs, name)
        installed = installed_name(spec, projection)
        clean_litter(conn, installed)
        state = "building" if as_of is None else "as_of"
        if as_of is not None:
            _free_schema(conn, as_of[1])
        generation = catalogue.new_generation(conn, installed, bootstrap.version(spec, projection), "building")
        try:
            target, parked, count = _build(conn, reader, spec, projection, specs, generation, as_of, progress)
            if as_of is not None:
                _show(conn, projection, target.state.schema, as_of[1])
                conn.execute("UPDATE projections.generations SET state = %s WHERE id = %s", (state, generation))
                return Report(installed, count, (), len(parked), False)
            return _finish(conn, specs, target, Decoder(specs), parked, count, dry_run)
        except BaseException:
            if not conn.broken:
                catalogue.drop_generation(conn, generation)
            raise


@contextmanager
def _alone(conn: Conn, name: str) -> Iterator[None]:
    row = conn.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK_SPACE, name)).fetchone()
    if row is None or not row[0]:
        raise UserError(f"{name} is being rebuilt by another process; wait for it to end", 1)
    yield


def clean_litter(conn: Conn, name: str) -> None:
    """Drop what a killed rebuild left. Called under the rebuild's lock: nobody is at work on it."""
    live = {s.generation for s in catalogue.states(conn).values()}
    found = conn.execute(
        "SELECT id FROM projections.generations WHERE name = %s AND state IN ('building', 'old')", (name,)
    ).fetchall()
    for (generation,) in found:
        if generation not in live:
            catalogue.drop_generation(conn, generation)


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _build(
    conn: Conn,
    reader: Conn,
    spec: ProgramSpec,
    projection: Projection,
    specs: Sequence[ProgramSpec],
    generation: int,
    as_of: tuple[int, str] | None,
    progress: Progress | None,
) -> tuple[Target, list[Parked], int]:
    schema = schema_of(generation)
    create_tables(conn, projection, schema)
    store = Store(conn, projection, schema, _ROWS_HELD_MAX)
    store.known_empty()
    decoder = Decoder(specs)
    installed = installed_name(spec, projection)
    states = catalogue.states(conn)
    # Both are read before the rows: what comes in between is caught up again, and folding anew is harmless.
    row = reader.execute("SELECT coalesce(max(id), 0) FROM ledger.retractions").fetchone()
    retraction_id, position = 0 if row is None else int(row[0]), reads.head(reader)
    parked: list[Parked] = []
    stopped: set[str] = set()
    skip = catalogue.discarded(conn, installed)
    count, place = 0, (-1, -1)
    rows = reads.iter_chain_order(reader, None, as_of[0] if as_of else None, spec.program_id, position_to=position)
    for batch in chunks(rows, _BATCH):
        with conn.transaction():
            events = [e for e in decoder.decode(batch) if e.program == spec.address]
            parked.extend(fold(projection, store, events, stopped, skip))
            store.write()
        count += len(batch)
        place = max(place, (batch[-1].raw.slot, batch[-1].raw.transaction_index))
        if progress is not None:
            progress(count, position)
    create_indexes(conn, projection, schema)
    state = State(
        installed, bootstrap.version(spec, projection), generation, position, place[0], place[1], retraction_id
    )
    return Target(spec, projection, store, state, f"{quoted(states[EVENTS].schema)}.decoded"), parked, count


def _finish(
    conn: Conn,
    specs: Sequence[ProgramSpec],
    target: Target,
    decoder: Decoder,
    parked: list[Parked],
    count: int,
    dry_run: bool,
) -> Report:
    """Catch up with the live tables, compare, and swap; all under the projection's lock, so that both are of one position."""
    name, built = target.state.name, target.state
    for attempt in range(_SWAP_ATTEMPTS):
        try:
            with conn.transaction(force_rollback=dry_run):
                conn.execute(f"SET LOCAL lock_timeout = {bootstrap.SWAP_LOCK_MS}")
                live = catalogue.lock(conn, name)
                assert live is not None, "installed by bootstrap"
                _replace_letters(conn, target, parked)
                _catch_up(conn, target, decoder, live)
                compared = differences(conn, target.projection, live.schema, target.state.schema)
                letters = len(parked)
                if not dry_run:
                    catalogue.save(conn, target.state)
                    conn.execute("UPDATE projections.generations SET state = 'live' WHERE id = %s", (built.generation,))
                    conn.execute("UPDATE projections.generations SET state = 'old' WHERE id = %s", (live.generation,))
                    replace_views(conn, specs, catalogue.states(conn))
            _drop_quietly(conn, built.generation if dry_run else live.generation)
            return Report(name, count, compared, letters, not dry_run)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            target.state = built
            target.store.clear()
            time.sleep(min(0.05 * (attempt + 1), 1.0))
    raise UserError(f"{name}: readers held the views for all of {_SWAP_ATTEMPTS} attempts; end long queries and try again",
                    EXIT_UNREACHABLE)  # fmt: skip


def _drop_quietly(conn: Conn, generation: int) -> None:
    # A reader's running query still holds the old tables; the next rebuild or start removes them otherwise.
    for _ in range(20):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {bootstrap.SWAP_LOCK_MS}")
                catalogue.drop_generation(conn, generation)
            return
        except psycopg.errors.LockNotAvailable:
            time.sleep(0.1)


def _catch_up(conn: Conn, target: Target, decoder: Decoder, live: State) -> None:
    """Bring the new tables to the position of the live ones, where these are ahead."""
    while True:
        state = target.state
        rows = [r for r in reads.read_batch(conn, state.position) if r.position <= live.position]
        position = rows[-1].position if rows else state.position
        held = [r for r in reads.retractions_after(conn, state.retraction_id) if r.id <= live.retraction_id]
        new = due(held, state.retraction_id, position)
        if not rows and not new:
            return
        place = max(((r.raw.slot, r.raw.transaction_index) for r in rows), default=(-1, -1))
        advance(conn, target, decoder, decoder.decode(rows), position, place, new)


def _replace_letters(conn: Conn, target: Target, parked: Sequence[Parked]) -> None:
    """The fold from the ledger says which events stand parked; what is not among them was applied."""
    conn.execute(
        "UPDATE ledger.dead_letters l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s AND"
        " resolved_at IS NULL AND position <= %s AND NOT EXISTS (SELECT FROM unnest(%s::bigint[], %s::int[]) AS"
        " k(position, event_index) WHERE k.position = l.position AND k.event_index = l.event_index)",
        (target.state.name, target.state.position, [p.position for p in parked], [p.event_index for p in parked]),
    )
    catalogue.park(conn, target.state.name, target.spec.program_id, parked)


def differences(conn: Conn, projection: Projection, old: str, new: str) -> tuple[TableDifference, ...]:
    """Row for row. Where the versions have different columns, those that both have are compared."""
    return tuple(
        _difference(conn, t.name, [c.name for c in t.primary_key.columns], old, new) for t in projection.tables
    )


def _difference(conn: Conn, table: str, key: list[str], old: str, new: str) -> TableDifference:
    held = conn.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s INTERSECT"
        " SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY 1",
        (old, table, new, table),
    ).fetchall()
    total = conn.execute(query(f"SELECT count(*) FROM {quoted(new)}.{quoted(table)}")).fetchone()
    rows = 0 if total is None else int(total[0])
    if not held or not {c for (c,) in held} >= set(key):
        return TableDifference(table, rows, rows, 0, 0, ())
    columns = ", ".join(quoted(c) for (c,) in held)
    using = ", ".join(map(quoted, key))
    shown = " || '/' || ".join(f"{quoted(k)}::text" for k in key)
    sides = " FULL JOIN ".join(
        f"(SELECT {using}, {shown} AS shown, to_jsonb(t) AS row FROM (SELECT {columns} FROM {quoted(s)}.{quoted(table)}) t) {alias}"
        for s, alias in ((old, "o"), (new, "n"))
    )
    source = f"FROM {sides} USING ({using}) WHERE o.row IS DISTINCT FROM n.row"
    counts = conn.execute(
        query(
            "SELECT count(*) FILTER (WHERE o.row IS NULL), count(*) FILTER (WHERE n.row IS NULL),"
            f" count(*) FILTER (WHERE o.row IS NOT NULL AND n.row IS NOT NULL) {source}"
        )
    ).fetchone()
    assert counts is not None, "an aggregate gives a row"
    examples = conn.execute(
        query(f"SELECT coalesce(o.shown, n.shown), o.row, n.row {source} ORDER BY 1 LIMIT 10")
    ).fetchall()
    return TableDifference(table, rows, counts[0], counts[1], counts[2], tuple((k, o, n) for k, o, n in examples))


def _rebuild_events(
    conn: Conn, reader: Conn, specs: Sequence[ProgramSpec], dry_run: bool, progress: Progress | None
) -> Report:
    clean_litter(conn, EVENTS)
    version = bootstrap.events_version(specs)
    generation = catalogue.new_generation(conn, EVENTS, version, "building")
    schema, decoder, count, position = schema_of(generation), Decoder(specs), 0, 0
    catalogue.create_decoded(conn, schema, bootstrap.scopes(specs))
    head = reads.head(reader)
    state = State(EVENTS, version, generation, 0, -1, -1, 0)
    while rows := reads.read_batch(reader, position):
        with conn.transaction():
            write_decoded(conn, schema, decoder.decode(rows))
        position, count = rows[-1].position, count + len(rows)
        state = _passed(state, rows)
        if progress is not None:
            progress(count, head)
    for attempt in range(_SWAP_ATTEMPTS):
        try:
            with conn.transaction(force_rollback=dry_run):
                conn.execute(f"SET LOCAL lock_timeout = {bootstrap.SWAP_LOCK_MS}")
                live = catalogue.lock(conn, EVENTS)
                assert live is not None, "installed by bootstrap"
                ahead = state
                while rows := [r for r in reads.read_batch(conn, ahead.position) if r.position <= live.position]:
                    write_decoded(conn, schema, decoder.decode(rows))
                    ahead = _passed(ahead, rows)
                gone = conn.execute(
                    "SELECT position FROM ledger.retractions WHERE id <= %s", (live.retraction_id,)
                ).fetchall()
                retract_decoded(conn, schema, [p for (p,) in gone])
                compared = (_difference(conn, "decoded", ["position", "event_index"], live.schema, schema),)
                if not dry_run:
                    settle_undecodable(conn, schema)
                    catalogue.save(conn, replace(ahead, retraction_id=live.retraction_id))
                    conn.execute("UPDATE projections.generations SET state = 'live' WHERE id = %s", (generation,))
                    conn.execute("UPDATE projections.generations SET state = 'old' WHERE id = %s", (live.generation,))
                    replace_views(conn, specs, catalogue.states(conn))
            _drop_quietly(conn, generation if dry_run else live.generation)
            return Report(EVENTS, count, compared, 0, not dry_run)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(min(0.05 * (attempt + 1), 1.0))
    raise UserError("events: readers held the views; end long queries and try again", EXIT_UNREACHABLE)


def _passed(state: State, rows: Sequence[reads.LedgerRow]) -> State:
    place = max([(state.slot, state.transaction_index), *((r.raw.slot, r.raw.transaction_index) for r in rows)])
    return replace(state, position=rows[-1].position, slot=place[0], transaction_index=place[1])


def _free_schema(conn: Conn, schema: str) -> None:
    row = conn.execute("SELECT to_regnamespace(%s) IS NOT NULL", (quoted(schema),)).fetchone()
    taken = conn.execute("SELECT 1 FROM projections.views WHERE schema = %s", (schema,)).fetchone()
    if (row is not None and row[0]) or taken:
        raise UserError(f"--schema {schema}: exists already; choose a name that is free, or drop it first")


def _show(conn: Conn, projection: Projection, tables: str, schema: str) -> None:
    with conn.transaction():
        for (name, text), _ in projection_views(projection, schema, tables):
            create_view(conn, *name, text)
        roles.grant_views(conn, schema)
