"""Building tables anew beside the live ones, from the ledger: compared with these, then swapped in one transaction. Or the state of a past slot.

How batches are applied to them stands in `apply.py`; who reads and decodes for it in `supply.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg

from programs.collector import collect_seldom
from programs.errors import EXIT_UNREACHABLE, UserError
from projections import bootstrap, catalogue
from projections.apply import (
    Batch,
    Target,
    advance,
    advance_events,
    batch_of,
    copy_decoded,
    due,
    park_undecodable,
    refold,
)
from projections.bootstrap import REBUILD_LOCK_SPACE, clean_litter
from projections.catalogue import EVENTS, Conn, State, schema_of
from projections.dead_letters import settle_undecodable
from projections.decoding import Decoder, ProgramSpec
from projections.fold import Parked, fold
from projections.model import Projection
from projections.pipeline import Writer, take_turns
from projections.store import Store, Writes, create_indexes, query, quoted
from projections.supply import Wanted, parts
from projections.views import create_view, installed_name, make_tables, projection_views, replace_views
from schema import db, reads, roles

_SWAP_ATTEMPTS = 600
# Tables of the same version are built to the position of the live ones, so that they can be compared; when these are further behind
# than that, to the end of the ledger.
_BEHIND_MAX = 50_000
# With fewer rows than this to catch up the followers can be kept waiting.
_NEAR = 2_000
_CATCH_UPS = 20
_ROW_LOCK_MS = 5_000
# How often a swap that waits says for whom.
WAITS_TOLD_S = 5.0
_APPLICATION = "indexer-rebuild"
# Done, at most.
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


# What a rebuild would change, told before it does.
Compared = Callable[[tuple[TableDifference, ...]], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The swap of `projection` waits for `on`, which the sessions `holders` hold: each as one line, pid first. Told again and again."""

    projection: str
    on: str
    holders: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"the swap of {self.projection} waits for {self.on}: {'; '.join(self.holders) or 'held by nobody just now'}"
        )


Waits = Callable[[Waiting], None]


def rebuild(
    dsn: str,
    specs: Sequence[ProgramSpec],
    name: str,
    *,
    dry_run: bool = False,
    as_of: tuple[int, str] | None = None,
    progress: Progress | None = None,
    compared: Compared | None = None,
    waits: Waits | None = None,
) -> Report:
    """Rebuild one projection. `as_of` is a slot and a schema: the state after that slot, in views of that schema; nothing is swapped.

    waits: told who holds up the swap, every few seconds for as long as it does.

    The old tables serve until the swap, and followers go on with them. UserError when another rebuild of the same projection runs.
    """
    collect_seldom()
    take_turns()
    work: _Events | _Rows
    if name == EVENTS:
        work = _Events(dsn, specs)
    else:
        work = _Rows(dsn, specs, *find(specs, name), as_of)
    with _connection(dsn) as conn, _alone(conn, work.name):
        clean_litter(conn, work.name)
        if as_of is not None:
            _free_schema(conn, as_of[1])
        generation = catalogue.new_generation(conn, work.name, work.version, "building")
        try:
            count = work.build(conn, generation, progress)
            if as_of is not None and isinstance(work, _Rows):
                _show(conn, work.projection, schema_of(generation), as_of[1])
                conn.execute("UPDATE projections.generations SET state = 'as_of' WHERE id = %s", (generation,))
                return Report(work.name, count, (), work.letters(conn), False)
            found = _compared(conn, work, generation)
            if compared is not None:
                compared(found)
            letters = work.letters(conn)
            if dry_run:
                _drop_quietly(conn, generation)
            else:
                _swap(conn, work, generation, waits)
            return Report(work.name, count, found, letters, not dry_run)
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                if not conn.broken:
                    catalogue.drop_generation(conn, generation)
            raise


def _connection(dsn: str) -> Conn:
    conn = db.connect(dsn, application=_APPLICATION)
    # Half-built tables need no disk to wait for; the swap does, and says so.
    conn.execute("SET synchronous_commit = off; SET maintenance_work_mem = '128MB'; SET work_mem = '32MB'")
    with contextlib.suppress(psycopg.Error):
        # The server process of a rebuild that was killed ends, and with it its lock, also in the middle of a long statement.
        conn.execute("SET client_connection_check_interval = '1s'")
    return conn


@contextmanager
def _alone(conn: Conn, name: str) -> Iterator[None]:
    row = conn.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (REBUILD_LOCK_SPACE, name)).fetchone()
    if row is None or not row[0]:
        raise UserError(f"{name} is being rebuilt by another process; wait for it to end", 1)
    try:
        yield
    finally:
        if not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (REBUILD_LOCK_SPACE, name))


def _bounds(conn: Conn, live: State, version: str) -> tuple[int, int]:
    """The position and the retraction up to which to build."""
    # In this order: a retraction that is counted takes back a row that is.
    row = conn.execute("SELECT coalesce(max(id), 0) FROM ledger.retractions").fetchone()
    retraction_id, head = 0 if row is None else int(row[0]), reads.head(conn)
    if live.version == version and head - live.position <= _BEHIND_MAX:
        return live.position, live.retraction_id
    return head, retraction_id


class _Rows:
    """A projection's tables, built beside the live ones."""

    def __init__(
        self,
        dsn: str,
        specs: Sequence[ProgramSpec],
        spec: ProgramSpec,
        projection: Projection,
        as_of: tuple[int, str] | None,
    ) -> None:
        self.dsn = dsn
        self.specs = specs
        self.name = installed_name(spec, projection)
        self.version = bootstrap.version(spec, projection)
        self.projection = projection
        self._spec = spec
        self._slot_to = None if as_of is None else as_of[0]
        self._decoder = Decoder(specs)
        self._target: Target | None = None

    @property
    def target(self) -> Target:
        assert self._target is not None, "built"
        return self._target

    @property
    def state(self) -> State:
        return self.target.state

    @property
    def tables(self) -> list[tuple[str, list[str]]]:
        """Each table with its key."""
        return [(t.name, [c.name for c in t.primary_key.columns]) for t in self.projection.tables]

    def build(self, conn: Conn, generation: int, progress: Progress | None) -> int:
        """Fold the ledger from its beginning; how many rows it had."""
        schema, projection = schema_of(generation), self.projection
        make_tables(conn, self.name, projection, schema)
        letters = catalogue.own_letters(conn, self.name, schema)
        store = Store(conn, projection, schema, bulk=True, fresh=True)
        states = catalogue.states(conn)
        position, retraction_id = _bounds(conn, states[self.name], self.version)
        if self._slot_to is not None:
            position = reads.head(conn)
        stopped: set[str] = set()
        skip = catalogue.discarded(conn, self.name, letters)
        count, place, before = 0, (-1, -1), store.stage()
        wanted = Wanted(self._spec.address, self._spec.program_id, position, retraction_id, self._slot_to)
        with (
            parts(self.dsn, self.specs, wanted, position) as supply,
            closing(Writer(lambda: _connection(self.dsn), "rebuild-writer")) as writer,
        ):
            for part in supply:
                parked = fold(projection, store, part.events, stopped, skip)
                writes = store.stage().prepare()
                if writes or parked:
                    writer.wait()
                    store.settled(before)
                    writer.begin(partial(self._write, writes, parked, letters))
                    before = writes
                count, place = count + part.rows, max(place, part.place)
                if progress is not None:
                    progress(count, position)
            writer.wait()
        with conn.transaction():
            store.flush()
        create_indexes(conn, projection, schema)
        state = State(self.name, self.version, generation, position, place[0], place[1], retraction_id)
        decoded = f"{quoted(states[EVENTS].schema)}.decoded"
        self._target = Target(self._spec, projection, store, state, decoded, letters)
        return count

    def _write(self, writes: Writes, parked: list[Parked], letters: str, conn: Conn) -> None:
        writes.perform(conn)
        catalogue.park(conn, self.name, self._spec.program_id, parked, letters)

    def catch_up(self, conn: Conn, batch: Batch, retractions: Sequence[reads.RetractionRow]) -> None:
        """Apply a batch to the new tables, in the caller's transaction."""
        # The events may have been rebuilt and swapped meanwhile.
        self.target.decoded = f"{quoted(catalogue.states(conn)[EVENTS].schema)}.decoded"
        advance(conn, self.specs, self.target, self._decoder, batch, retractions)
        self.target.store.flush()

    def batch(self, rows: Sequence[reads.PartRow]) -> Batch:
        return batch_of(self.state.position, rows, self._decoder)

    def again(self, state: State) -> None:
        """The transaction failed: the tables are as they were."""
        self.target.state = state
        self.target.forget()

    def letters(self, conn: Conn) -> int:
        """Events that stand parked in the new tables."""
        return catalogue.open_letters(conn, self.target.letters)

    def settle(self, conn: Conn) -> None:
        """Make the letters those of the new tables, in the transaction of the swap."""
        self._discard(conn)
        own, name, position = self.target.letters, self.name, self.state.position
        same = "k.position = l.position AND k.event_index = l.event_index AND k.resolved_at IS NULL"
        conn.execute(
            query(
                "UPDATE ledger.dead_letters l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s AND"
                f" resolved_at IS NULL AND position <= %s AND NOT EXISTS (SELECT FROM {own} k WHERE {same})"
            ),
            (name, position),
        )
        catalogue.take_letters(conn, name, own)

    def _discard(self, conn: Conn) -> None:
        """What an operator left out while the tables were built is left out of them too."""
        own = self.target.letters
        found = conn.execute(
            query(
                f"INSERT INTO {own} (projection, program, position, slot, signature, event_index, event_name, scope, reason, error, raw,"
                " resolved_at, resolution, resolution_reason) SELECT projection, program, position, slot, signature, event_index,"
                " event_name, scope, reason, error, raw, resolved_at, resolution, resolution_reason FROM ledger.dead_letters l"
                " WHERE projection = %s AND resolution = 'discarded' AND resolution_reason IS DISTINCT FROM 'retracted' AND NOT EXISTS"
                f" (SELECT FROM {own} k WHERE k.position = l.position AND k.event_index = l.event_index AND k.resolution = 'discarded')"
                " RETURNING coalesce(scope, '')"
            ),
            (self.name,),
        ).fetchall()
        if found:
            scopes = sorted({scope for (scope,) in found})
            everything = "" in scopes or self.projection.scope is None
            refold(conn, self.target, self._decoder, None if everything else scopes, self.state.position)


class _Events:
    """The table of decoded events, built beside the live one."""

    def __init__(self, dsn: str, specs: Sequence[ProgramSpec]) -> None:
        self.dsn = dsn
        self.specs = specs
        self.name = EVENTS
        self.version = bootstrap.events_version(specs)
        self.tables = [("decoded", ["position", "event_index"])]
        self._decoder = Decoder(specs)
        self._state: State | None = None
        # A table, since nothing bounds how many events do not decode.
        self._letters = ""

    @property
    def state(self) -> State:
        assert self._state is not None, "built"
        return self._state

    def build(self, conn: Conn, generation: int, progress: Progress | None) -> int:
        """Decode the ledger from its beginning; how many rows it had."""
        schema = schema_of(generation)
        catalogue.create_decoded(conn, schema)
        self._letters = catalogue.own_letters(conn, self.name, schema)
        position, retraction_id = _bounds(conn, catalogue.states(conn)[EVENTS], self.version)
        count, place = 0, (-1, -1)
        with parts(self.dsn, self.specs, Wanted(None, None, position, retraction_id), position) as supply:
            for part in supply:
                with conn.transaction():
                    if part.lines:
                        copy_decoded(conn, schema, part.lines)
                    park_undecodable(conn, self.specs, part.events, self._letters)
                count, place = count + part.rows, max(place, part.place)
                if progress is not None:
                    progress(count, position)
        catalogue.index_decoded(conn, schema, bootstrap.scopes(self.specs))
        conn.execute(
            query(
                f"UPDATE {quoted(schema)}.decoded d SET retracted = true FROM ledger.retractions r WHERE r.id <= %s AND"
                " d.position = r.position"
            ),
            (retraction_id,),
        )
        self._state = State(EVENTS, self.version, generation, position, place[0], place[1], retraction_id)
        return count

    def catch_up(self, conn: Conn, batch: Batch, retractions: Sequence[reads.RetractionRow]) -> None:
        """Add a batch to the new table, in the caller's transaction."""
        self._state = advance_events(conn, self.specs, self.state, batch, retractions, self._letters)

    def batch(self, rows: Sequence[reads.PartRow]) -> Batch:
        return batch_of(self.state.position, rows, self._decoder)

    def again(self, state: State) -> None:
        """The transaction failed: the table is as it was."""
        self._state = state

    def letters(self, conn: Conn) -> int:
        """Events of programs without a projection that do not decode."""
        return catalogue.open_letters(conn, self._letters)

    def settle(self, conn: Conn) -> None:
        """Letters of programs without a projection: what decodes now is resolved, and what does not is parked, once."""
        settle_undecodable(conn, self.state.schema)
        catalogue.take_letters(conn, self.name, self._letters)


def _catch_up(conn: Conn, work: _Rows | _Events, live: State, rows_max: int | None = None) -> bool:
    """Bring the new tables to the position of the live ones, where these are ahead; False when `rows_max` ended it before."""
    done = 0
    while rows_max is None or done < rows_max:
        state = work.state
        rows = [r for r in reads.read_parts(conn, state.position) if r.position <= live.position]
        batch = work.batch(rows)
        held = [r for r in reads.retractions_after(conn, state.retraction_id) if r.id <= live.retraction_id]
        new = due(held, state.retraction_id, max(batch.last, state.position))
        if not rows and not new:
            return True
        with conn.transaction():
            work.catch_up(conn, batch, new)
        done += len(rows)
    return False


def _compared(conn: Conn, work: _Rows | _Events, generation: int) -> tuple[TableDifference, ...]:
    """Row for row, the live tables and the new ones at one position, in a snapshot: followers wait while it is taken, and not after."""
    for _ in range(_CATCH_UPS):
        live = catalogue.states(conn)[work.name]
        _catch_up(conn, work, live)
        if catalogue.states(conn)[work.name].position - work.state.position < _NEAR:
            break
    with db.connect(work.dsn, application=_APPLICATION) as reader:
        with db.connect(work.dsn, application=_APPLICATION) as guard, guard.transaction():
            held = catalogue.lock(guard, work.name)
            assert held is not None, "installed by bootstrap"
            _catch_up(conn, work, held)
            reader.execute("SET work_mem = '64MB'")
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute("SELECT 1 FROM projections.installed LIMIT 1")
        old, new = held.schema, schema_of(generation)
        return tuple(_difference(reader, table, key, old, new) for table, key in work.tables)


def _swap(conn: Conn, work: _Rows | _Events, generation: int, waits: Waits | None) -> None:
    """Catch up for the last time and show the new tables, in one transaction."""
    built, told = work.state, time.monotonic()
    for attempt in range(_SWAP_ATTEMPTS):
        on = _WRITERS
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {_ROW_LOCK_MS}")
                live = catalogue.lock(conn, work.name)
                assert live is not None, "installed by bootstrap"
                _catch_up(conn, work, live)
                work.settle(conn)
                catalogue.save(conn, replace(work.state, revision=live.revision + 1))
                conn.execute("UPDATE projections.generations SET state = 'live' WHERE id = %s", (generation,))
                conn.execute("UPDATE projections.generations SET state = 'old' WHERE id = %s", (live.generation,))
                # From here on readers could wait for us: not longer than this, the first times hardly at all.
                wait_ms = min(5 << min(attempt, 10), bootstrap.SWAP_LOCK_MS)
                conn.execute(f"SET LOCAL lock_timeout = {wait_ms}")
                on = _READERS
                replace_views(conn, work.specs, catalogue.states(conn))
            _drop_quietly(conn, live.generation)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            work.again(built)
            if waits is not None and time.monotonic() - told >= WAITS_TOLD_S:
                told = time.monotonic()
                waits(Waiting(work.name, on, _holders(conn, on)))
            time.sleep(min(0.02 * (attempt + 1), 1.0))
    raise UserError(
        f"{work.name}: the swap waited for {on} in all of {_SWAP_ATTEMPTS} attempts, last for {'; '.join(_holders(conn, on)) or 'nobody'};"
        " end long queries and try again",
        EXIT_UNREACHABLE,
    )


_READERS = "readers of its views"
_WRITERS = "another writer of its record"
_HOLDERS_MAX = 5
_HOLDING = (
    "SELECT DISTINCT a.pid, a.usename, a.application_name, a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::int AS held"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'relation' AND l.granted AND a.pid <> pg_backend_pid()"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND "
)
_ON = {
    _READERS: "l.relation IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN projections.views v"
    " ON v.schema = n.nspname AND v.name = c.relname)",
    # Who locks a row holds its table in this mode.
    _WRITERS: "l.relation = 'projections.installed'::regclass AND l.mode IN ('RowShareLock', 'RowExclusiveLock')",
}


def readers_wait(conn: Conn) -> Waiting:
    """That the views wait for those who read them now."""
    return Waiting("views", _READERS, _holders(conn, _READERS))


def _holders(conn: Conn, on: str) -> tuple[str, ...]:
    """The sessions that stand in the way, the longest first: what an operator needs to find and end them."""
    found = conn.execute(query(f"{_HOLDING}{_ON[on]} ORDER BY held DESC NULLS LAST LIMIT {_HOLDERS_MAX}"))
    return tuple(
        f"pid {pid} ({user or 'unknown'}, {application or 'no application name'}, {state or 'unknown'}, for {held or 0} s)"
        for pid, user, application, state, held in found
    )


def _drop_quietly(conn: Conn, generation: int) -> None:
    # A reader's running query still holds the old tables; `clean_litter` removes them otherwise.
    for _ in range(20):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {bootstrap.SWAP_LOCK_MS}")
                catalogue.drop_generation(conn, generation)
            return
        except psycopg.errors.LockNotAvailable:
            time.sleep(0.1)


def differences(conn: Conn, projection: Projection, old: str, new: str) -> tuple[TableDifference, ...]:
    """Row for row. Where the versions have different columns, those that both have are compared."""
    return tuple(
        _difference(conn, t.name, [c.name for c in t.primary_key.columns], old, new) for t in projection.tables
    )


_COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n"
    " ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped"
)


def _difference(conn: Conn, table: str, key: list[str], old: str, new: str) -> TableDifference:
    before = dict(conn.execute(_COLUMNS, (old, table)).fetchall())
    after = dict(conn.execute(_COLUMNS, (new, table)).fetchall())
    total = conn.execute(query(f"SELECT count(*) FROM {quoted(new)}.{quoted(table)}")).fetchone()
    rows = 0 if total is None else int(total[0])
    held = sorted(before.keys() & after.keys())
    if not set(key) <= set(held) or any(before[k] != after[k] for k in key):
        return TableDifference(table, rows, rows, 0, 0, ())
    using = ", ".join(map(quoted, key))
    # Values of one type are compared as they are; what has no equality, or another type now, as text.
    plain = {c for c in held if before[c] == after[c] and before[c] not in ("json", "xml", "point")}
    changed = " OR ".join(
        f"o.{quoted(c)} IS DISTINCT FROM n.{quoted(c)}"
        if c in plain
        else f"o.{quoted(c)}::text IS DISTINCT FROM n.{quoted(c)}::text"
        for c in held
        if c not in key
    )
    columns = ", ".join(map(quoted, held))
    sides = " FULL JOIN ".join(
        f"(SELECT {columns}, true AS there FROM {quoted(s)}.{quoted(table)}) {alias}"
        for s, alias in ((old, "o"), (new, "n"))
    )
    source = (
        f"FROM {sides} USING ({using}) WHERE o.there IS NULL OR n.there IS NULL{' OR ' + changed if changed else ''}"
    )
    counts = conn.execute(
        query(
            "SELECT count(*) FILTER (WHERE o.there IS NULL), count(*) FILTER (WHERE n.there IS NULL),"
            f" count(*) FILTER (WHERE o.there AND n.there) {source}"
        )
    ).fetchone()
    assert counts is not None, "an aggregate gives a row"
    if counts == (0, 0, 0):
        return TableDifference(table, rows, 0, 0, 0, ())
    shown = " || '/' || ".join(f"{quoted(k)}::text" for k in key)
    place = ", ".join(f"coalesce(o.{quoted(k)}, n.{quoted(k)})" for k in key)
    keyed = ", ".join(f"t.{quoted(k)}" for k in key)
    whole = [
        f"(SELECT to_jsonb(t) FROM (SELECT {columns} FROM {quoted(s)}.{quoted(table)}) t WHERE ({keyed}) = ({place}))"
        for s in (old, new)
    ]
    examples = conn.execute(
        query(f"SELECT {shown} AS shown, {whole[0]}, {whole[1]} {source} ORDER BY 1 LIMIT 10")
    ).fetchall()
    return TableDifference(table, rows, counts[0], counts[1], counts[2], tuple((k, o, n) for k, o, n in examples))


def _free_schema(conn: Conn, schema: str) -> None:
    row = conn.execute("SELECT to_regnamespace(%s) IS NOT NULL", (quoted(schema),)).fetchone()
    if row is not None and row[0]:
        raise UserError(f"--schema {schema}: exists already; choose a name that is free, or drop it first")
    # Views of an earlier past state, which went with their schema.
    conn.execute("DELETE FROM projections.views WHERE schema = %s", (schema,))


def _show(conn: Conn, projection: Projection, tables: str, schema: str) -> None:
    with conn.transaction():
        for (name, text), _ in projection_views(projection, schema, tables):
            create_view(conn, *name, text)
        roles.grant_views(conn, schema)
