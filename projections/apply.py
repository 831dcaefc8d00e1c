"""Applying ledger rows to a projection's tables, in the caller's transaction. Live following and rebuilds share it.

A row that comes after something later in chain order was applied (found late, or backfilled), and a retraction, change what the
tables should have been: their scopes are folded anew from the decoded events, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice, takewhile

from psycopg import sql
from psycopg.types.json import Jsonb

from programs import base58
from projections import catalogue, metrics
from projections.catalogue import Conn, State
from projections.decoding import Decoder, ProgramSpec
from projections.fold import Parked, Poison, fold
from projections.model import Event, Projection, moment
from projections.store import Store, delete_scopes, query, quoted
from schema.reads import RetractionRow

_REFOLD_EVENTS = 2_000
_COLUMNS = "position, slot, transaction_index, event_index, signature, extract(epoch FROM block_time)::bigint, program, name, data"


@dataclass(slots=True)
class Target:
    """A projection of a program, the tables it writes, and how far they are."""

    spec: ProgramSpec
    projection: Projection
    store: Store
    state: State
    # The table of decoded events, quoted.
    decoded: str


def write_decoded(conn: Conn, schema: str, events: Sequence[Event | Poison]) -> None:
    """Add events to the table of decoded events."""
    statement = (
        f"COPY {quoted(schema)}.decoded (position, slot, transaction_index, event_index, signature, block_time, program, name, data)"
        " FROM STDIN"
    )
    with conn.cursor() as cursor, cursor.copy(query(statement)) as copy:
        for e in events:
            if isinstance(e, Event):
                time = None if e.block_time is None else moment(e.block_time)
                copy.write_row(
                    (
                        e.position,
                        e.slot,
                        e.transaction_index,
                        e.event_index,
                        e.signature,
                        time,
                        e.program,
                        e.name,
                        Jsonb(e.data),
                    )
                )


def retract_decoded(conn: Conn, schema: str, positions: Sequence[int]) -> None:
    """Mark the events of transactions that died; who folds still has to learn which scopes they touched."""
    conn.execute(
        query(f"UPDATE {quoted(schema)}.decoded SET retracted = true WHERE position = ANY(%s)"), [list(positions)]
    )


def due(retractions: Sequence[RetractionRow], after_id: int, position: int) -> list[RetractionRow]:
    """The retractions that can be applied when the rows up to `position` were: in order of id, up to the first of a later row.

    Taking one out of turn would move the cursor past that later row's, and its death would never be seen.
    """
    return list(takewhile(lambda r: r.position <= position, (r for r in retractions if r.id > after_id)))


def advance(
    conn: Conn,
    target: Target,
    decoder: Decoder,
    events: Sequence[Event | Poison],
    position: int,
    place: tuple[int, int],
    retractions: Sequence[RetractionRow] = (),
) -> None:
    """Apply a batch that ends at `position`; `place` is the highest (slot, transaction index) in it. Updates target.state."""
    name, state = target.state.name, target.state
    mine = [event for event in events if event.program == target.spec.address]
    before = (state.slot, state.transaction_index)
    disturbed = _disturbed(conn, target, mine, before, retractions)
    if disturbed is None:
        scopes: list[str] | None = None
    else:
        scopes = sorted(disturbed)
        parked_before = catalogue.parked_scopes(conn, name)
        ordered = [e for e in mine if _scope(target.projection, e) not in disturbed]
        parked = fold(target.projection, target.store, ordered, parked_before, catalogue.discarded(conn, name))
        target.store.write()
        catalogue.park(conn, name, target.spec.program_id, parked)
    if scopes is None or scopes:
        poisons = [
            e for e in mine if isinstance(e, Poison) and (scopes is None or _scope(target.projection, e) in scopes)
        ]
        refold(conn, target, decoder, scopes, position, poisons)
    target.state = replace(
        state,
        position=position,
        slot=max(before, place)[0],
        transaction_index=max(before, place)[1],
        retraction_id=retractions[-1].id if retractions else state.retraction_id,
    )


def _scope(projection: Projection, event: Event | Poison) -> str:
    found = projection.scope_of_raw(event.raw) if isinstance(event, Poison) else projection.scope_of(event.data)
    return found or ""


def _disturbed(
    conn: Conn,
    target: Target,
    events: Sequence[Event | Poison],
    before: tuple[int, int],
    retractions: Sequence[RetractionRow],
) -> set[str] | None:
    """The scopes to fold anew; None is everything."""
    projection = target.projection
    found = set()
    highest = before
    for event in events:
        place = (event.slot, event.transaction_index)
        if place < highest:
            found.add(_scope(projection, event))
        highest = max(highest, place)
    gone = [r.position for r in retractions]
    if gone:
        conn.execute(
            "UPDATE ledger.dead_letters SET resolved_at = clock_timestamp(), resolution = 'discarded',"
            " resolution_reason = 'retracted' WHERE projection = %s AND position = ANY(%s) AND resolved_at IS NULL",
            (target.state.name, gone),
        )
        field = projection.scope or ""
        rows = conn.execute(
            query(
                f"SELECT DISTINCT coalesce(data ->> %s, '') FROM {target.decoded} WHERE position = ANY(%s) AND program = %s"
            ),
            (field, gone, target.spec.address),
        )
        found.update(row[0] for row in rows)
    if projection.scope is None:
        return None if found else set()
    return None if "" in found else found


def refold(
    conn: Conn, target: Target, decoder: Decoder, scopes: list[str] | None, position: int, fresh: Sequence[Poison] = ()
) -> list[Parked]:
    """Fold scopes (None: all) anew from the decoded events up to `position`. Readers see it when the transaction commits."""
    name, projection = target.state.name, target.projection
    metrics.REFOLDS.labels(projection=name).inc(1 if scopes is None else len(scopes))
    letters = _open_letters(conn, target, decoder, scopes)
    known = {(p.position, p.event_index) for p in letters}
    letters.extend(p for p in fresh if (p.position, p.event_index) not in known)
    if scopes is None:
        for table in projection.tables:
            conn.execute(query(f"DELETE FROM {quoted(target.state.schema)}.{quoted(table.name)}"))
    else:
        delete_scopes(conn, projection, target.state.schema, scopes)
    target.store.clear()
    parked: list[Parked] = []
    stopped: set[str] = set()
    skip = catalogue.discarded(conn, name)
    stored = {(e.position, e.event_index) for e in letters if isinstance(e, Event)}
    events = (e for e in stored_events(conn, target, scopes, position) if (e.position, e.event_index) not in stored)
    ordered = merge(sorted(letters, key=lambda e: e.place), events, key=lambda e: e.place)
    while batch := list(islice(ordered, _REFOLD_EVENTS)):
        parked.extend(fold(projection, target.store, batch, stopped, skip))
        target.store.write()
    _settle(conn, target, scopes, parked)
    return parked


def stored_events(conn: Conn, target: Target, scopes: list[str] | None, position: int) -> Iterator[Event]:
    """A program's decoded events in chain order, of some scopes or all, through a server-side cursor."""
    condition, values = "", [target.spec.address, position]
    if scopes is not None:
        condition = f" AND (data ->> {sql.Literal(target.projection.scope).as_string(conn)}) = ANY(%s)"
        values.append(scopes)
    statement = (
        f"SELECT {_COLUMNS} FROM {target.decoded} WHERE program = %s AND position <= %s AND NOT retracted{condition}"
        " ORDER BY slot, transaction_index, event_index"
    )
    with conn.cursor(name=f"refold_{target.state.generation}") as cursor:
        cursor.itersize = _REFOLD_EVENTS
        cursor.execute(query(statement), values)
        for row in cursor:
            yield Event(*row)


def _open_letters(conn: Conn, target: Target, decoder: Decoder, scopes: list[str] | None) -> list[Event | Poison]:
    """What did not decode, tried again with today's IDL."""
    rows = conn.execute(
        "SELECT l.position, l.slot, t.transaction_index, l.event_index, l.signature, t.block_time, l.raw, l.event_name"
        " FROM ledger.dead_letters l JOIN ledger.transactions t ON t.slot = l.slot AND t.position = l.position"
        " WHERE l.projection = %s AND l.raw IS NOT NULL AND l.resolved_at IS NULL AND (%s::text[] IS NULL OR l.scope = ANY(%s))",
        (target.state.name, scopes, scopes),
    ).fetchall()
    found: list[Event | Poison] = []
    for position, slot, index, number, signature, block_time, raw, name in rows:
        place = (position, slot, index, number, base58.encode(bytes(signature)))
        again = decoder.again(target.spec.address, slot, bytes(raw))
        if isinstance(again, str):
            found.append(Poison(*place, target.spec.address, bytes(raw), again, name))
        else:
            found.append(Event(*place, block_time, target.spec.address, again[0], again[1]))  # type: ignore[arg-type]
    return found


def _settle(conn: Conn, target: Target, scopes: list[str] | None, parked: Iterable[Parked]) -> None:
    """Letters that are not parked any more were applied; the others stay with today's reason."""
    still = list(parked)
    conn.execute(
        "UPDATE ledger.dead_letters l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s"
        " AND resolved_at IS NULL AND (%s::text[] IS NULL OR scope = ANY(%s)) AND NOT EXISTS (SELECT FROM"
        " unnest(%s::bigint[], %s::int[]) AS k(position, event_index) WHERE k.position = l.position AND"
        " k.event_index = l.event_index)",
        (target.state.name, scopes, scopes, [p.position for p in still], [p.event_index for p in still]),
    )
    catalogue.park(conn, target.state.name, target.spec.program_id, still)


__all__ = ["Target", "advance", "due", "refold", "retract_decoded", "write_decoded"]
