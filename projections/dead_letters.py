"""Dead letters: what was parked and why, applied in order after a fix, or left out by an operator's decision with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from programs import base58
from programs.errors import UserError
from projections import catalogue
from projections.apply import Target, reach, refold, write_decoded
from projections.bootstrap import version
from projections.catalogue import EVENTS, Conn
from projections.decoding import Decoder, ProgramSpec
from projections.model import Event, Projection
from projections.store import Store, query, quoted
from projections.views import installed_name
from schema import db

LISTED_MAX = 10_000
# Decoded again at a time.
_AGAIN_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A parked event. `raw` is hex, discriminator first, where the event does not decode."""

    id: int
    projection: str
    position: int
    slot: int
    signature: str
    event_index: int
    event_name: str | None
    scope: str | None
    reason: str
    error: str
    raw: str | None
    parked_at: datetime
    resolved_at: datetime | None
    resolution: str | None
    resolution_reason: str | None


_SELECT = (
    "SELECT id, projection, position, slot, signature, event_index, event_name, scope, reason, error, raw, parked_at, resolved_at,"
    " resolution, resolution_reason FROM ledger.dead_letters"
)


def listed(dsn: str, *, resolved: bool = False, limit: int = LISTED_MAX) -> list[Letter]:
    """The open letters in chain order of arrival, at most `limit`; the resolved ones too when asked."""
    with db.connect(dsn) as conn:
        where = "" if resolved else " WHERE resolved_at IS NULL"
        return [
            _letter(row)
            for row in conn.execute(_SELECT + where + " ORDER BY position, event_index, id LIMIT %s", (limit,))
        ]


def shown(dsn: str, number: int) -> Letter:
    """One letter. UserError when there is none."""
    with db.connect(dsn) as conn:
        return _one(conn, number)


def _one(conn: Conn, number: int) -> Letter:
    row = conn.execute(_SELECT + " WHERE id = %s", (number,)).fetchone()
    if row is None:
        raise UserError(f"dead letter {number}: there is none; `indexer dead-letters list` shows what there is")
    return _letter(row)


def _letter(row: tuple[object, ...]) -> Letter:
    values = list(row)
    values[4] = base58.encode(bytes(values[4]))  # type: ignore[call-overload]
    values[10] = None if values[10] is None else bytes(values[10]).hex()  # type: ignore[call-overload]
    return Letter(*values)  # type: ignore[arg-type]


def retry(dsn: str, specs: Sequence[ProgramSpec]) -> tuple[int, int]:
    """Apply what is parked, in order, with today's IDL and handlers. How many were applied, and how many stay."""
    with db.connect(dsn, application="indexer-dead-letters") as conn:
        before = _open(conn)
        for spec in specs:
            for projection in spec.projections:
                _refold(conn, specs, spec, projection)
            _decode_again(conn, specs, spec)
        after = _open(conn)
    return before - after, after


def discard(dsn: str, specs: Sequence[ProgramSpec], number: int, reason: str) -> None:
    """Leave an event out for good, and apply what waited behind it. UserError without a reason or when it is resolved."""
    if not reason.strip():
        raise UserError("--reason is empty; say why the event is left out, it is kept with the letter")
    with db.connect(dsn, application="indexer-dead-letters") as conn, conn.transaction():
        letter = _one(conn, number)
        if letter.resolved_at is not None:
            raise UserError(f"dead letter {number}: was {letter.resolution} already; nothing is left to discard")
        found = [(s, p) for s in specs for p in s.projections if installed_name(s, p) == letter.projection]
        if found:
            catalogue.lock(conn, letter.projection)
        conn.execute(
            "UPDATE ledger.dead_letters SET resolved_at = clock_timestamp(), resolution = 'discarded', resolution_reason = %s"
            " WHERE id = %s",
            (reason, number),
        )
        for spec, projection in found:
            _refold(conn, specs, spec, projection)


def settle_undecodable(conn: Conn, schema: str) -> None:
    """Resolve the letters of programs without a projection whose events are among the decoded ones of a fresh table."""
    conn.execute(
        query(
            "UPDATE ledger.dead_letters l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s"
            f" AND resolved_at IS NULL AND EXISTS (SELECT FROM {quoted(schema)}.decoded d WHERE d.position = l.position"
            " AND d.event_index = l.event_index)"
        ),
        (EVENTS,),
    )


def _open(conn: Conn) -> int:
    row = conn.execute("SELECT count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL").fetchone()
    return 0 if row is None else int(row[0])


def _refold(conn: Conn, specs: Sequence[ProgramSpec], spec: ProgramSpec, projection: Projection) -> None:
    name = installed_name(spec, projection)
    with conn.transaction():
        state = catalogue.lock(conn, name)
        if state is None or state.version != version(spec, projection):
            # Tables of another version are built anew from the ledger, letters and all.
            return
        found = conn.execute(
            "SELECT DISTINCT coalesce(scope, '') FROM ledger.dead_letters WHERE projection = %s AND"
            " (resolved_at IS NULL OR resolution = 'discarded' AND resolved_at >= now())",
            (name,),
        ).fetchall()
        scopes: list[str] | None = sorted(row[0] for row in found)
        if not scopes:
            return
        if "" in scopes or projection.scope is None:
            scopes = None
        decoder = Decoder(specs)
        events = reach(conn, specs, decoder, state.position, state.retraction_id)
        _store_decodable(conn, decoder, spec, name, events.schema)
        target = Target(
            spec, projection, Store(conn, projection, state.schema), state, f"{quoted(events.schema)}.decoded"
        )
        refold(conn, target, decoder, scopes, state.position)
        # Followers have cached rows and parked scopes: another revision tells them to read both again.
        catalogue.save(conn, replace(state, revision=state.revision + 1))


def _store_decodable(conn: Conn, decoder: Decoder, spec: ProgramSpec, name: str, schema: str) -> None:
    """Events that decode now go to the decoded events, where the fold reads them."""
    statement = (
        "SELECT l.position, l.slot, t.transaction_index, l.event_index, l.signature, t.block_time, l.raw FROM ledger.dead_letters l"
        " JOIN ledger.transactions t ON t.slot = l.slot AND t.position = l.position WHERE l.projection = %s AND l.raw IS NOT NULL AND"
        f" l.resolved_at IS NULL AND NOT EXISTS (SELECT FROM {quoted(schema)}.decoded d WHERE d.position = l.position AND"
        " d.event_index = l.event_index)"
    )
    # A program whose IDL did not fit has as many letters as events.
    with conn.cursor(name="letters_that_decode") as cursor:
        cursor.execute(query(statement), (name,))
        while rows := cursor.fetchmany(_AGAIN_ROWS):
            fresh = []
            for position, slot, index, number, signature, block_time, raw in rows:
                again = decoder.again(spec.address, slot, bytes(raw))
                if not isinstance(again, str):
                    place = (position, slot, index, number, base58.encode(bytes(signature)))
                    fresh.append(Event(*place, block_time, spec.address, again[0], again[1]))  # type: ignore[arg-type]
            write_decoded(conn, schema, fresh)
            # The letter may outlive its transaction by a moment: what died is marked so from the first.
            conn.execute(
                query(
                    f"UPDATE {quoted(schema)}.decoded d SET retracted = true FROM ledger.retractions r WHERE d.position = ANY(%s)"
                    " AND r.position = d.position"
                ),
                ([event.position for event in fresh],),
            )


def _decode_again(conn: Conn, specs: Sequence[ProgramSpec], spec: ProgramSpec) -> None:
    """The letters of a program without a projection: they only have to decode."""
    with conn.transaction():
        events = catalogue.lock(conn, EVENTS)
        if events is None or spec.projections:
            return
        _store_decodable(conn, Decoder(specs), spec, EVENTS, events.schema)
        conn.execute(
            "UPDATE ledger.dead_letters l SET resolved_at = clock_timestamp(), resolution = 'applied' WHERE projection = %s AND"
            f" program = %s AND resolved_at IS NULL AND EXISTS (SELECT FROM {quoted(events.schema)}.decoded d WHERE"
            " d.position = l.position AND d.event_index = l.event_index)",
            (EVENTS, spec.program_id),
        )
