"""Making the tables and views of the projections, and knowing which have to be built anew."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psycopg

from programs.errors import UserError
from programs.idl import Idl
from programs.registry import ProgramRegistry
from projections import catalogue
from projections.catalog import resolve
from projections.catalogue import EVENTS, Conn, ScopeField, State, schema_of
from projections.decoding import ProgramSpec
from projections.model import Projection
from projections.store import create_indexes, query
from projections.views import installed_name, is_short, make_tables, refused, replace_views
from schema import db

# Enough for every reader to end a query of ordinary length between two attempts.
SWAP_LOCK_MS = 100
_BOOTSTRAP_LOCK = 0x70726F6A


def spec(
    name: str,
    address: str,
    program_id: int,
    idl: Idl,
    projections: Sequence[str],
    registry: ProgramRegistry | None = None,
) -> ProgramSpec:
    """A watched program with its projections found by name. UserError names the setting that is wrong."""
    found = tuple(resolve(p) for p in projections)
    twice = {p.name for p in found if sum(q.name == p.name for q in found) > 1}
    if twice:
        raise UserError(f"programs.{name}.projections: {sorted(twice)[0]!r} is there twice; name each once")
    made = ProgramSpec(name, address, program_id, idl, found, registry)
    for projection, events in strangers(made).items():
        handled = next(p for p in found if p.name == projection).handlers
        if len(events) == len(handled):
            raise UserError(
                f"programs.{name}.projections: {projection!r} handles {', '.join(events[:3])}, and the IDL has no such event, but"
                f" {', '.join(sorted(_events(idl))[:10]) or 'none at all'}; name the projection of this program"
            )
    return made


def strangers(spec: ProgramSpec) -> dict[str, list[str]]:
    """By projection, the events that it has handlers for and that the IDL lacks: misspelt, or of a version that is still to come."""
    known = _events(spec.idl)
    found = {p.name: sorted(p.handlers.keys() - known) for p in spec.projections}
    return {name: events for name, events in found.items() if events}


def _events(idl: Idl) -> set[str]:
    return {layout.name for layout in idl.events}


def version(spec: ProgramSpec, projection: Projection) -> str:
    """What the tables were built with: handlers and IDL."""
    return f"{projection.version}:{spec.digest}"


def events_version(specs: Sequence[ProgramSpec]) -> str:
    """What the decoded events were built with."""
    return ",".join(sorted(f"{s.address}:{s.digest}" for s in specs))


def scopes(specs: Sequence[ProgramSpec]) -> list[ScopeField]:
    """The fields by which events are folded anew."""
    found = {}
    for spec in specs:
        for scope in sorted({p.scope for p in spec.projections if p.scope is not None}):
            layouts = [spec.codec.layout("event", layout.name) for layout in spec.idl.events]
            short = all(is_short(layout, scope) for layout in layouts)
            found[spec.program_id, scope] = ScopeField(scope, spec.address, spec.program_id, short)
    return [*found.values()]


def ensure(dsn: str, specs: Sequence[ProgramSpec]) -> bool:
    """Make what is missing: tables, views, checkpoints. What changed its version is left as it is until `stale` is rebuilt. False when a reader is in
    a view whose text has changed: everything else is there, and `show` may be called later."""
    with db.connect(dsn, application="indexer-projections") as conn, conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_BOOTSTRAP_LOCK,))
        catalogue.ensure_tables(conn)
        states = catalogue.states(conn)
        if EVENTS not in states:
            generation = catalogue.new_generation(conn, EVENTS, events_version(specs), "live")
            catalogue.create_decoded(conn, schema_of(generation))
            catalogue.index_decoded(conn, schema_of(generation), scopes(specs))
            _install(conn, EVENTS, events_version(specs), generation)
        else:
            catalogue.ensure_scope_indexes(conn, states[EVENTS].schema, scopes(specs))
        wanted = {EVENTS}
        for each in specs:
            for projection in each.projections:
                name = installed_name(each, projection)
                wanted.add(name)
                if name not in states:
                    generation = catalogue.new_generation(conn, name, version(each, projection), "live")
                    make_tables(conn, name, projection, schema_of(generation))
                    create_indexes(conn, projection, schema_of(generation))
                    _install(conn, name, version(each, projection), generation)
        # A checkpoint that nobody moves would hold back the freshness of all.
        conn.execute(
            "DELETE FROM ledger.checkpoints WHERE name LIKE 'projection:%%' AND NOT substr(name, 12) = ANY(%s)",
            ([*wanted],),
        )
        if _shown(conn, specs):
            return True
    return any(_shown_alone(dsn, specs, pause) for pause in _SHOW_PAUSES_S)


# So long between attempts: readers wait for each of them, and a start not for all of theirs.
_SHOW_PAUSES_S = (0.05, 0.1, 0.2, 0.4)


def show(dsn: str, specs: Sequence[ProgramSpec]) -> bool:
    """Bring the views up to date; False when a reader is in one that has to change. What is true of them stays true: they lack what is new."""
    return _shown_alone(dsn, specs, 0.0)


def _shown_alone(dsn: str, specs: Sequence[ProgramSpec], pause_s: float) -> bool:
    time.sleep(pause_s)
    with db.connect(dsn, application="indexer-projections") as conn, conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_BOOTSTRAP_LOCK,))
        return _shown(conn, specs)


def _shown(conn: Conn, specs: Sequence[ProgramSpec]) -> bool:
    try:
        with conn.transaction():
            # Whoever waits for a view keeps all later readers of it waiting too.
            conn.execute(f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}")
            replace_views(conn, specs, catalogue.states(conn))
            conn.execute(f"SET LOCAL lock_timeout = {db.LOCK_TIMEOUT_MS}")
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    except ValueError as error:
        raise UserError(str(error)) from None
    except psycopg.errors.UndefinedColumn:
        # The views are of a newer version than the tables; the rebuild makes both fit.
        raise UserError("a projection's views do not fit its tables; raise its version") from None
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.ProgrammingError as error:
        names = sorted(installed_name(spec, projection) for spec in specs for projection in spec.projections)
        raise refused(", ".join(names), error) from None
    return True


def _install(conn: Conn, name: str, version: str, generation: int) -> None:
    catalogue.save(conn, State(name, version, generation, 0, -1, -1, 0))


# The key space of the advisory locks under which rebuilds run, one a name.
REBUILD_LOCK_SPACE = 0x7265


# The tables of a past state are shown by the views of one schema, and go when that was dropped.
_LITTER = """FROM projections.generations g WHERE (g.state IN ('building', 'old') OR g.state = 'as_of' AND NOT EXISTS (SELECT FROM projections.views v
    WHERE strpos(v.definition, '"projection_' || g.id || '".') > 0 AND to_regnamespace(quote_ident(v.schema)) IS NOT NULL))"""


def clean_litter(conn: Conn, name: str | None = None) -> None:
    """Drop the tables that killed rebuilds left, and those of past states that nobody shows any more (None: of every name). A rebuild at work holds
    its lock, and its tables stay."""
    found = conn.execute(
        query(f"SELECT DISTINCT g.name {_LITTER} AND (%s::text IS NULL OR g.name = %s)"), (name, name)
    ).fetchall()
    for (each,) in found:
        with conn.transaction():
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (REBUILD_LOCK_SPACE, each)
            ).fetchone()
            if row is None or not row[0]:
                continue
            live = {s.generation for s in catalogue.states(conn).values()}
            left = conn.execute(query(f"SELECT g.id {_LITTER} AND g.name = %s"), (each,)).fetchall()
            # A reader may still be in an old table: what is locked waits for the next time.
            conn.execute(f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}")
            for (generation,) in left:
                if generation in live:
                    continue
                with contextlib.suppress(psycopg.errors.LockNotAvailable), conn.transaction():
                    catalogue.drop_generation(conn, generation)


def stale(conn: Conn, specs: Sequence[ProgramSpec]) -> list[str]:
    """The installed names whose tables were built with other handlers or another IDL; the events first."""
    states = catalogue.states(conn)
    found = []
    if EVENTS in states and states[EVENTS].version != events_version(specs):
        found.append(EVENTS)
    for each in specs:
        for projection in each.projections:
            name = installed_name(each, projection)
            if name in states and states[name].version != version(each, projection):
                found.append(name)
    return found
