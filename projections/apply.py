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

from programs import base58
from projections import catalogue, metrics
from projections.catalogue import EVENTS, LETTERS, Conn, State
from projections.copytext import NULL, escaped, iso, json_array, json_text
from projections.decoding import Decoder, ProgramSpec
from projections.fold import UNDECODABLE, Parked, Poison, fold
from projections.model import Event, Projection, moment
from projections.store import Store, Writes, delete_scopes, literal, query, quoted
from schema import reads
from schema.reads import PartRow, RetractionRow

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
    # Where dead letters are kept.
    letters: str = LETTERS
    # What the letters say, while nobody else writes them: who does so raises the state's revision.
    stopped: set[str] | None = None
    skip: frozenset[tuple[int, int]] | None = None

    def forget(self) -> None:
        """Drop all that is remembered of the tables and letters."""
        self.store.clear()
        self.stopped = self.skip = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded rows of the ledger in order of position: those after `after`, up to `last`. `place` is the highest among them.

    lines: what `decoded_lines` makes of the events, where somebody did already.
    """

    after: int
    last: int
    places: tuple[tuple[int, int, int], ...]
    events: tuple[Event | Poison, ...]
    lines: bytes | None = None

    def since(self, position: int) -> Batch:
        """What of it comes after a position."""
        if position <= self.after:
            return self
        places = tuple(p for p in self.places if p[0] > position)
        return Batch(position, self.last, places, tuple(e for e in self.events if e.position > position))

    @property
    def place(self) -> tuple[int, int]:
        """The highest (slot, transaction index); (-1, -1) when it is empty."""
        return max([place[1:] for place in self.places], default=(-1, -1))

    def goes_on(self, place: tuple[int, int]) -> bool:
        """Whether its rows are in chain order, none before a place: nothing that was applied comes after one of them."""
        places = [place, *[each[1:] for each in self.places]]
        # Sorting what is sorted takes as many comparisons as looking, and no loop of ours.
        return sorted(places) == places


def batch_of(after: int, rows: Sequence[PartRow], decoder: Decoder) -> Batch:
    """Rows, decoded."""
    places = tuple((r.position, r.raw.slot, r.raw.transaction_index) for r in rows)
    return Batch(after, rows[-1].position if rows else after, places, tuple(decoder.decode(rows)))


def decoded_lines(events: Iterable[Event | Poison]) -> str:
    """The lines of events for COPY into the table of decoded events; what did not decode has none."""
    lines = []
    last: int | None = None
    shown = NULL
    for event in events:
        if isinstance(event, Poison):
            continue
        seconds = event.block_time
        if seconds != last:
            # The events of a slot have one time.
            last = seconds
            time = None if seconds is None else moment(seconds)
            shown = NULL if time is None else iso(time)
        lines.append(
            f"{event.position}\t{event.slot}\t{event.transaction_index}\t{event.event_index}\t{event.signature}\t"
            f"{shown}\t{event.program}\t{escaped(event.name)}\t{json_text(event.data)}\n"
        )
    return "".join(lines)


def copy_decoded(conn: Conn, schema: str, lines: str | bytes) -> None:
    """Add lines of `decoded_lines`."""
    statement = (
        f"COPY {quoted(schema)}.decoded (position, slot, transaction_index, event_index, signature, block_time, program, name, data)"
        " FROM STDIN"
    )
    with conn.cursor() as cursor, cursor.copy(query(statement)) as copy:
        copy.write(lines)


def write_decoded(conn: Conn, schema: str, events: Sequence[Event | Poison], lines: str | bytes | None = None) -> None:
    """Add events to the table of decoded events. lines: theirs, where they are made already."""
    if lines is None:
        lines = decoded_lines(events)
    if lines:
        copy_decoded(conn, schema, lines)


def decoded_statement(schema: str, events: Iterable[Event | Poison]) -> str | None:
    """What `write_decoded` does, as one statement for few events; None when there is none to add."""
    rows = [
        (
            e.position, e.slot, e.transaction_index, e.event_index, e.signature,
            None if e.block_time is None else moment(e.block_time), e.program, e.name, e.data,
        )
        for e in events
        if not isinstance(e, Poison)
    ]  # fmt: skip
    if not rows:
        return None
    return (
        f"INSERT INTO {quoted(schema)}.decoded (position, slot, transaction_index, event_index, signature, block_time, program, name, data)"
        " SELECT (r ->> 0)::bigint, (r ->> 1)::bigint, (r ->> 2)::int, (r ->> 3)::int, r ->> 4, (r ->> 5)::timestamptz, r ->> 6, r ->> 7, r -> 8"
        f" FROM jsonb_array_elements({literal(json_array(rows))}::jsonb) e(r)"
    )


def retract_decoded(conn: Conn, schema: str, positions: Sequence[int]) -> None:
    """Mark the events of transactions that died; who folds still has to learn which scopes they touched."""
    conn.execute(
        query(f"UPDATE {quoted(schema)}.decoded SET retracted = true WHERE position = ANY(%s)"), [list(positions)]
    )


def advance_events(
    conn: Conn,
    specs: Sequence[ProgramSpec],
    state: State,
    batch: Batch,
    retractions: Sequence[RetractionRow],
    letters: str = LETTERS,
    *,
    write: bool = True,
) -> State:
    """Bring the decoded events up to the batch's end; the caller holds the lock and stores the state that comes back.

    letters: where what does not decode is kept; tables that are not live yet have their own. write: False when the caller writes the events.
    """
    fresh = batch.since(state.position)
    position = max(batch.last, state.position)
    new = due(retractions, state.retraction_id, position)
    if write:
        write_decoded(conn, state.schema, fresh.events, fresh.lines)
    park_undecodable(conn, specs, fresh.events, letters)
    if new:
        retract_decoded(conn, state.schema, [r.position for r in new])
    place = max((state.slot, state.transaction_index), fresh.place)
    return replace(
        state,
        position=position,
        slot=place[0],
        transaction_index=place[1],
        retraction_id=new[-1].id if new else state.retraction_id,
    )


def park_undecodable(
    conn: Conn, specs: Sequence[ProgramSpec], events: Sequence[Event | Poison], letters: str = LETTERS
) -> None:
    """Store what does not decode of programs without a projection."""
    # A program with a projection has its letters there; one without has nobody else to tell.
    for spec in specs:
        if spec.projections:
            continue
        parked = [
            Parked(p.position, p.slot, p.signature, p.event_index, p.name, "", UNDECODABLE, p.error, p.raw)
            for p in events
            if isinstance(p, Poison) and p.program == spec.address
        ]
        catalogue.park(conn, EVENTS, spec.program_id, parked, letters)


def reach(conn: Conn, specs: Sequence[ProgramSpec], decoder: Decoder, position: int, retraction_id: int) -> State:
    """Lock the decoded events and bring them up to a position, where they are behind: who folds from them needs all before it.

    Whoever holds a projection's lock too takes that one first.
    """
    state = catalogue.lock(conn, EVENTS)
    assert state is not None, "installed by bootstrap"
    before = state
    while state.position < position or state.retraction_id < retraction_id:
        rows = [r for r in reads.read_parts(conn, state.position) if r.position <= position]
        retractions = [r for r in reads.retractions_after(conn, state.retraction_id) if r.id <= retraction_id]
        if not rows and not retractions:
            break
        reached = advance_events(conn, specs, state, batch_of(state.position, rows, decoder), retractions)
        if reached == state:
            break
        state = reached
    if state != before:
        catalogue.save(conn, state)
    return state


def due(retractions: Sequence[RetractionRow], after_id: int, position: int) -> list[RetractionRow]:
    """The retractions that can be applied when the rows up to `position` were: in order of id, up to the first of a later row.

    Taking one out of turn would move the cursor past that later row's, and its death would never be seen.
    """
    return list(takewhile(lambda r: r.position <= position, (r for r in retractions if r.id > after_id)))


def advance(
    conn: Conn,
    specs: Sequence[ProgramSpec],
    target: Target,
    decoder: Decoder,
    batch: Batch,
    retractions: Sequence[RetractionRow] = (),
) -> None:
    """Apply a batch and the retractions that are due with it. Updates target.state; the caller holds its lock and stores it."""
    name, state = target.state.name, target.state
    batch = batch.since(state.position)
    position = max(batch.last, state.position)
    retractions = due(retractions, state.retraction_id, position)
    mine = [event for event in batch.events if event.program == target.spec.address]
    before = (state.slot, state.transaction_index)
    quiet = not retractions and batch.goes_on(before)
    disturbed = set() if quiet else _disturbed(conn, target, mine, before, retractions)
    if disturbed is None:
        scopes: list[str] | None = None
    else:
        scopes = sorted(disturbed)
        ordered = [e for e in mine if _scope(target.projection, e) not in disturbed] if disturbed else mine
        parked = _folded(conn, target, ordered)
        target.store.write()
        catalogue.park(conn, name, target.spec.program_id, parked, target.letters)
    place = max(before, batch.place)
    target.state = replace(
        state,
        position=position,
        slot=place[0],
        transaction_index=place[1],
        retraction_id=retractions[-1].id if retractions else state.retraction_id,
    )
    if scopes is None or scopes:
        target.store.flush()
        reach(conn, specs, decoder, position, target.state.retraction_id)
        poisons = [
            e for e in mine if isinstance(e, Poison) and (scopes is None or _scope(target.projection, e) in scopes)
        ]
        refold(conn, target, decoder, scopes, position, poisons)


def _folded(conn: Conn, target: Target, events: Sequence[Event | Poison]) -> list[Parked]:
    if target.stopped is None or target.skip is None:
        # What has no scope holds nothing back.
        target.stopped = catalogue.parked_scopes(conn, target.state.name, target.letters) - {""}
        target.skip = catalogue.discarded(conn, target.state.name, target.letters)
    return fold(target.projection, target.store, events, target.stopped, target.skip)


@dataclass(frozen=True, slots=True)
class Folded:
    """A batch that was folded before the one before it is committed: what it leaves to be written, and the state that it leads to."""

    target: Target
    writes: Writes
    parked: list[Parked]
    before: State
    state: State

    def commit(self, conn: Conn) -> None:
        """Write it, in the caller's transaction. Overtaken when the tables are not where they were believed to be."""
        if catalogue.lock(conn, self.before.name) != self.before:
            raise Overtaken
        self.writes.perform(conn)
        self._park(conn)
        catalogue.save(conn, self.state)

    def perform(self, conn: Conn) -> list[str]:
        """Write it where the lock is held already, but for the statements that come back: they are to go with the commit."""
        statements = self.writes.statements()
        if statements is None:
            self.writes.perform(conn)
        self._park(conn)
        return statements or []

    def _park(self, conn: Conn) -> None:
        catalogue.park(conn, self.before.name, self.target.spec.program_id, self.parked, self.target.letters)


class Overtaken(Exception):
    """Another writer was here, or the tables were swapped: what was folded early is worth nothing."""


def fold_early(conn: Conn, target: Target, batch: Batch) -> Folded | None:
    """Fold a batch without retractions, to be written later. None, and nothing done, when scopes would have to be folded anew.

    No lock is held. Rows that are read here may be changed by somebody else before the batch commits; who does so changes the projection's
    state too, and the commit notices. Rows of batches that are not committed yet are in the store.
    """
    state = target.state
    batch = batch.since(state.position)
    mine = [event for event in batch.events if event.program == target.spec.address]
    before = (state.slot, state.transaction_index)
    if not batch.goes_on(before) and _disturbed(conn, target, mine, before, ()) != set():
        return None
    parked = _folded(conn, target, mine)
    writes = target.store.stage()
    place = max(before, batch.place)
    target.state = replace(state, position=max(batch.last, state.position), slot=place[0], transaction_index=place[1])
    return Folded(target, writes, parked, state, target.state)


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
        letters = conn.execute(
            query(
                f"UPDATE {target.letters} SET resolved_at = clock_timestamp(), resolution = 'discarded',"
                " resolution_reason = 'retracted' WHERE projection = %s AND position = ANY(%s) AND resolved_at IS NULL RETURNING scope"
            ),
            (target.state.name, gone),
        )
        target.stopped = target.skip = None
        # What waited behind the dead one waits for nothing now.
        found.update(scope for (scope,) in letters if scope)
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
) -> int:
    """Fold scopes (None: all) anew from the decoded events up to `position`. Readers see it when the transaction commits.

    Memory stays bounded however large a scope is: events come through a cursor and rows leave in bulk. How many events stay parked.
    """
    name, projection = target.state.name, target.projection
    metrics.REFOLDS.labels(projection=name).inc(1 if scopes is None else len(scopes))
    if scopes is None:
        for table in projection.tables:
            conn.execute(query(f"DELETE FROM {quoted(target.state.schema)}.{quoted(table.name)}"))
    else:
        delete_scopes(conn, projection, target.state.schema, scopes)
    target.forget()
    store = Store(conn, projection, target.state.schema, bulk=True)
    stopped: set[str] = set()
    skip = catalogue.discarded(conn, name, target.letters)
    conn.execute(_STILL)
    count = 0
    ordered = merge(
        stored_events(conn, target, scopes, position),
        _open_letters(conn, target, decoder, scopes),
        sorted(fresh, key=lambda e: e.place),
        key=lambda e: e.place,
    )
    once = _once(ordered)
    while batch := list(islice(once, _REFOLD_EVENTS)):
        parked = fold(projection, store, batch, stopped, skip)
        store.write()
        if parked:
            count += len(parked)
            catalogue.park(conn, name, target.spec.program_id, parked, target.letters)
            conn.execute(
                "INSERT INTO pg_temp.still_parked SELECT * FROM unnest(%s::bigint[], %s::int[])",
                ([p.position for p in parked], [p.event_index for p in parked]),
            )
    store.flush()
    # Letters that are not parked any more were applied; the others stay, with today's reason.
    conn.execute(
        query(
            f"UPDATE {target.letters} l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s"
            " AND resolved_at IS NULL AND (%s::text[] IS NULL OR scope = ANY(%s)) AND position <= %s AND NOT EXISTS (SELECT FROM"
            " pg_temp.still_parked k WHERE k.position = l.position AND k.event_index = l.event_index)"
        ),
        (name, scopes, scopes, position),
    )
    return count


_STILL = """
CREATE TEMP TABLE IF NOT EXISTS still_parked (position bigint, event_index int, PRIMARY KEY (position, event_index)) ON COMMIT DELETE ROWS;
DELETE FROM pg_temp.still_parked;
"""


def _once(events: Iterable[Event | Poison]) -> Iterator[Event | Poison]:
    """Of the same event from several sources the first: equal places come one after the other."""
    last: tuple[int, int] | None = None
    for event in events:
        key = (event.position, event.event_index)
        if key != last:
            yield event
        last = key


def stored_events(conn: Conn, target: Target, scopes: list[str] | None, position: int) -> Iterator[Event]:
    """A program's decoded events in chain order, of some scopes or all, through a server-side cursor."""
    condition, values = "", [target.spec.address, position]
    if scopes is not None:
        condition = f" AND (data ->> {sql.Literal(target.projection.scope).as_string(conn)}) = ANY(%s)"
        values.append(scopes)
    statement = (
        f"SELECT {_COLUMNS} FROM {target.decoded} WHERE program = %s AND position <= %s AND NOT retracted{condition}"
        " ORDER BY slot, transaction_index, event_index, position"
    )
    with conn.cursor(name=f"refold_{target.state.generation}") as cursor:
        cursor.itersize = _REFOLD_EVENTS
        cursor.execute(query(statement), values)
        for row in cursor:
            yield Event(*row)


def _open_letters(conn: Conn, target: Target, decoder: Decoder, scopes: list[str] | None) -> Iterator[Event | Poison]:
    """What did not decode, tried again with today's IDL, in chain order, through a server-side cursor."""
    statement = (
        "SELECT l.position, l.slot, t.transaction_index, l.event_index, l.signature, t.block_time, l.raw, l.event_name"
        f" FROM {target.letters} l JOIN ledger.transactions t ON t.slot = l.slot AND t.position = l.position"
        " WHERE l.projection = %s AND l.raw IS NOT NULL AND l.resolved_at IS NULL AND (%s::text[] IS NULL OR l.scope = ANY(%s))"
        " ORDER BY l.slot, t.transaction_index, l.event_index, l.position"
    )
    with conn.cursor(name=f"letters_{target.state.generation}") as cursor:
        cursor.itersize = _REFOLD_EVENTS
        cursor.execute(query(statement), (target.state.name, scopes, scopes))
        for position, slot, index, number, signature, block_time, raw, name in cursor:
            place = (position, slot, index, number, base58.encode(bytes(signature)))
            again = decoder.again(target.spec.address, slot, bytes(raw))
            if isinstance(again, str):
                yield Poison(*place, target.spec.address, bytes(raw), again, name)
            else:
                yield Event(*place, block_time, target.spec.address, again[0], again[1])  # type: ignore[arg-type]
