"""Reading the ledger, synchronously: by position for followers, in chain order for rebuilds and audits.

Connections are in autocommit mode (see `db.connect`) unless the caller has a transaction open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import msgspec
import psycopg
from psycopg import sql

from programs import base58
from programs.events import SELF_CPI_TAG
from programs.transaction import PartTransaction, RawTransaction
from schema import rows

BATCH_ROWS_MAX = 1_000
BATCH_BYTES_MAX = 8 << 20
_COLUMNS = (
    "t.position, t.programs, t.origin, t.witnesses, t.slot, t.transaction_index, t.signature, t.block_time, t.err, t.wire, t.logs,"
    " t.inner_instructions, t.loaded, t.version"
)
# Where the message is wanted for its events: they may stand in calls that carry the tag, or the logs do not tell all.
_WANTED = (
    "t.err IS NULL AND (t.truncated OR t.logs IS NULL OR t.logs = '\\x90' OR t.inner_instructions IS NULL"
    f" OR position('\\x{SELF_CPI_TAG.hex()}'::bytea IN t.inner_instructions) > 0)"
)
_PARTS = (
    "t.position, t.programs, t.slot, t.transaction_index, t.signature, t.block_time, t.err, t.logs, CASE WHEN t.wanted THEN t.wire END,"
    " CASE WHEN t.wanted THEN t.inner_instructions END, CASE WHEN t.wanted THEN t.loaded END, t.version"
)
_BYTES = "octet_length(t.wire) + coalesce(octet_length(t.logs), 0) + coalesce(octet_length(t.inner_instructions), 0) + octet_length(t.loaded)"
# Batches of the writer looked at to find the slots of a run of positions; each has at least one row.
_BATCHES_LOOKED_AT = 256
_texts = msgspec.msgpack.Decoder(tuple[str, ...]).decode


class LedgerRow(NamedTuple):
    """A row of the ledger. programs: ids; origin: 0 live, 1 backfill, 2 late; witnesses: bits as in `tables`."""

    position: int
    programs: tuple[int, ...]
    origin: int
    witnesses: int
    raw: RawTransaction


class PartRow(msgspec.Struct, frozen=True, gc=False):
    """A row as decoding its events needs it: not whole, where the logs tell all. Decode it while the connection is there that it came from.

    (A Struct: it costs a fifth of a NamedTuple.)
    """

    position: int
    programs: tuple[int, ...]
    raw: RawTransaction | PartTransaction


class RetractionRow(NamedTuple):
    """A retraction. `signature` is base58."""

    id: int
    position: int
    slot: int
    signature: str
    reason: str


def head(conn: psycopg.Connection[Any]) -> int:
    """The last position; 0 for an empty ledger."""
    row = conn.execute("SELECT position FROM ledger.checkpoints WHERE name = 'ledger'").fetchone()
    return 0 if row is None or row[0] is None else int(row[0])


def read_batch(
    conn: psycopg.Connection[Any], after_position: int, max_rows: int = BATCH_ROWS_MAX, max_bytes: int = BATCH_BYTES_MAX
) -> list[LedgerRow]:
    """The rows after a position, in order of position: at most `max_rows`, and about `max_bytes` of content but at least one row.
    Empty at the end. Retracted rows are among them: whoever follows live sees them before they are retracted."""
    return [_row(fields) for fields in _batch(conn, _COLUMNS, after_position, max_rows, max_bytes)]


def read_parts(
    conn: psycopg.Connection[Any], after_position: int, max_rows: int = BATCH_ROWS_MAX, max_bytes: int = BATCH_BYTES_MAX
) -> list[PartRow]:
    """As `read_batch`, for who decodes events."""
    fetch = partial(_whole, conn)
    return [_part(fields, fetch) for fields in _batch(conn, _PARTS, after_position, max_rows, max_bytes)]


def _batch(
    conn: psycopg.Connection[Any], columns: str, after_position: int, max_rows: int, max_bytes: int
) -> list[tuple[Any, ...]]:
    bounds = conn.execute(
        "SELECT min(slot_min), max(slot_max), max(position_last) FROM (SELECT * FROM ledger.batches WHERE position_first >= coalesce("
        " (SELECT max(position_first) FROM ledger.batches WHERE position_first <= %s), 0) ORDER BY position_first LIMIT %s) b",
        (after_position + 1, _BATCHES_LOOKED_AT),
    ).fetchone()
    if bounds is None or bounds[0] is None or bounds[2] <= after_position:
        return []
    slot_min, slot_max, last = bounds
    wanted = f", {_WANTED} AS wanted" if columns is _PARTS else ""
    query = (
        f"SELECT {columns} FROM (SELECT t.*, coalesce(sum({_BYTES}) OVER (ORDER BY t.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),"
        f" 0) AS bytes_before{wanted} FROM"
        " (SELECT * FROM ledger.transactions WHERE slot BETWEEN %s AND %s AND position > %s AND position <= %s ORDER BY position LIMIT %s) t) t"
        " WHERE bytes_before < %s ORDER BY t.position"
    )
    upper = min(last, after_position + max_rows)
    with conn.cursor(binary=True) as cursor:
        cursor.execute(query.encode(), (slot_min, slot_max, after_position, upper, max_rows, max_bytes))
        return cursor.fetchall()


def iter_chain_order(
    conn: psycopg.Connection[Any],
    slot_from: int | None = None,
    slot_to: int | None = None,
    program: int | None = None,
    *,
    position_to: int | None = None,
    retraction_to: int | None = None,
    retracted: bool = False,
    batch_rows: int = BATCH_ROWS_MAX,
) -> Iterator[LedgerRow]:
    """Rows in chain order (slot, transaction_index), both slots inclusive, retracted rows left out. A server-side cursor in one
    snapshot: bounded memory, and a transaction that stays open until the iterator ends.

    retraction_to: retractions with a higher id do not count. retracted: the retracted rows are wanted too.
    """
    span = (slot_from, slot_to, program, position_to, retraction_to, retracted)
    return map(_row, _in_chain_order(conn, _COLUMNS, span, batch_rows))


def iter_parts(
    conn: psycopg.Connection[Any],
    slot_from: int | None = None,
    slot_to: int | None = None,
    program: int | None = None,
    *,
    position_to: int | None = None,
    retraction_to: int | None = None,
    retracted: bool = False,
    batch_rows: int = BATCH_ROWS_MAX,
) -> Iterator[PartRow]:
    """As `iter_chain_order`, for who decodes events."""
    fetch = partial(_whole, conn)
    span = (slot_from, slot_to, program, position_to, retraction_to, retracted)
    return (_part(fields, fetch) for fields in _in_chain_order(conn, _PARTS, span, batch_rows))


_Span: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None, bool]


def _in_chain_order(
    conn: psycopg.Connection[Any], columns: str, span: _Span, batch_rows: int
) -> Iterator[tuple[Any, ...]]:
    slot_from, slot_to, program, position_to, retraction_to, retracted = span
    where, parameters = ["true"], []
    for condition, value in (
        ("t.slot >= %s", slot_from),
        ("t.slot <= %s", slot_to),
        ("t.programs @> ARRAY[%s]::smallint[]", program),
        ("t.position <= %s", position_to),
    ):
        if value is not None:
            where.append(condition)
            parameters.append(value)
    if not retracted:
        counted = "" if retraction_to is None else " AND r.id <= %s"
        where.append(f"NOT EXISTS (SELECT FROM ledger.retractions r WHERE r.position = t.position{counted})")
        parameters += [] if retraction_to is None else [retraction_to]
    wanted = (
        f"(SELECT t.*, {_WANTED} AS wanted FROM ledger.transactions t)" if columns is _PARTS else "ledger.transactions"
    )
    query = (
        f"SELECT {columns} FROM {wanted} t WHERE {' AND '.join(where)} ORDER BY t.slot, t.transaction_index, t.position"
    )
    with conn.transaction(), conn.cursor("ledger_chain_order", binary=True) as cursor:
        cursor.itersize = batch_rows
        cursor.execute(query.encode(), parameters)
        while batch := cursor.fetchmany(batch_rows):
            yield from batch


def _whole(conn: psycopg.Connection[Any], position: int, slot: int) -> RawTransaction:
    """A row's transaction. Rows stay as they are, so it is the one that a part of it was read of."""
    with conn.cursor(binary=True) as cursor:
        query = f"SELECT {_COLUMNS} FROM ledger.transactions t WHERE t.slot = %s AND t.position = %s"
        fields = cursor.execute(query.encode(), (slot, position)).fetchone()
    assert fields is not None, "no row of the ledger goes"
    return _row(fields).raw


def chain_cuts(conn: psycopg.Connection[Any], position_to: int, rows: int) -> list[int]:
    """Slots that cut the ledger into pieces of about `rows` rows, ascending: the first slot of every piece but the first.

    Told from the writer's batches, so it costs little however large the ledger is; a slot is never cut in two.
    """
    cuts: list[int] = []
    held = 0
    with conn.transaction(), conn.cursor("ledger_chain_cuts") as cursor:
        cursor.execute(
            "SELECT slot_min, position_last - position_first + 1 FROM ledger.batches WHERE position_first <= %s ORDER BY slot_min",
            (position_to,),
        )
        for slot, count in cursor:
            if held >= rows and (not cuts or slot > cuts[-1]):
                cuts.append(slot)
                held = 0
            held += count
    return cuts


def find_signature(conn: psycopg.Connection[Any], signature: str) -> list[LedgerRow]:
    """Every row of a signature (base58), retracted ones too, in order of position. ValueError when it is not base58."""
    with conn.cursor(binary=True) as cursor:
        query = f"SELECT {_COLUMNS} FROM ledger.transactions t WHERE t.signature = %s ORDER BY t.position"
        cursor.execute(query.encode(), (base58.decode(signature),))
        return [_row(fields) for fields in cursor.fetchall()]


def retractions_after(
    conn: psycopg.Connection[Any], after_id: int, max_rows: int = BATCH_ROWS_MAX
) -> list[RetractionRow]:
    """Retractions in order of id."""
    found = conn.execute(
        "SELECT id, position, slot, signature, reason FROM ledger.retractions WHERE id > %s ORDER BY id LIMIT %s",
        (after_id, max_rows),
    ).fetchall()
    return [
        RetractionRow(i, position, slot, base58.encode(bytes(signature)), reason)
        for i, position, slot, signature, reason in found
    ]


def checkpoints(conn: psycopg.Connection[Any]) -> dict[str, tuple[int | None, int | None]]:
    """Position and slot of every checkpoint by name."""
    return {
        name: (position, slot)
        for name, position, slot in conn.execute("SELECT name, position, slot FROM ledger.checkpoints")
    }


def analyze(conn: psycopg.Connection[Any]) -> None:
    """Let the planner know the sizes; cheap, and worth it as soon as tables stop being empty."""
    for (name,) in conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'"
    ).fetchall():
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier("ledger", name)))


def _lines(stored: bytes) -> tuple[str, ...]:
    try:
        return _texts(stored)
    except msgspec.ValidationError:
        # A line that is no text is stored as bytes; one in millions.
        return rows.decode_logs(stored)


def _row(fields: Sequence[Any]) -> LedgerRow:
    (
        position,
        programs,
        origin,
        witnesses,
        slot,
        index,
        signature,
        block_time,
        err,
        wire,
        logs,
        inner,
        loaded,
        version,
    ) = fields
    # The binary form hands out bytes: nothing is copied again.
    raw = rows.held(
        rows.stored(
            slot,
            index,
            signature,
            block_time,
            err,
            wire,
            None if logs is None else _lines(logs),
            inner,
            rows.split_loaded(loaded) if loaded else (),
            version,
        )
    )
    return LedgerRow(position, tuple(programs), origin, witnesses, raw)


def _part(fields: Sequence[Any], fetch: Callable[[int, int], RawTransaction]) -> PartRow:
    position, programs, slot, index, signature, time, err, logs, wire, inner, loaded, version = fields
    lines = None if logs is None else _lines(logs)
    if wire is None:
        text = base58.signature_text(signature)
        return PartRow(position, tuple(programs), PartTransaction(position, slot, index, text, time, err, lines, fetch))
    addresses = rows.split_loaded(loaded) if loaded else ()
    stored = rows.stored(slot, index, signature, time, err, wire, lines, inner, addresses, version)
    return PartRow(position, tuple(programs), rows.held(stored))
