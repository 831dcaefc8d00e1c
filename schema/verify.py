"""The ledger against itself: every digest, every seal, every position, and the guards that keep it append-only.

Reads in one snapshot with bounded memory; changes nothing. It finds a row that was altered, one that is missing and one that was slipped in.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from programs import base58
from schema import digest
from schema.tables import APPEND_ONLY

DIFFERENCES_MAX = 100
# At 2 KB a row a read is a megabyte.
_READ_ROWS = 500
Progress = Callable[[int], None]


# What to do, by what was found. No function of ours mends a row: whatever could would also be the way to forge one.
RESTORE = "restore the ledger from a backup made before, or index anew into an empty database and compare its digests"
GUARD = "as the owner: SELECT ledger.guard('ledger.{0}'::regclass)"
ENABLE = (
    "as the owner: ALTER TABLE ledger.{0} ENABLE ALWAYS TRIGGER append_only; then find out what was changed meanwhile"
)
ATTACH = "as the owner: ALTER TABLE ledger.{0} ATTACH PARTITION ledger.{1} FOR VALUES FROM ({2}) TO ({3})"
READ_AGAIN = (
    "indexer replay --from-slot {0} --to-slot {1} appends from the chain what is missing; the hole itself stays visible"
)


@dataclass(slots=True)
class Report:
    """What was looked at, and what is wrong: where, and what to do (at most DIFFERENCES_MAX lines; `differences_total` counts all)."""

    rows: int = 0
    seals: int = 0
    last_position: int = 0
    differences: list[str] = field(default_factory=list)
    differences_total: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.differences_total == 0

    def add(self, text: str, remedy: str = RESTORE) -> None:
        """Note a difference."""
        self.differences_total += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(f"{text}; {remedy}")


class _Seal(NamedTuple):
    id: int
    program: int
    slot_first: int
    slot_last: int
    position_first: int | None
    position_last: int | None
    transactions: int
    digest: bytes
    previous: bytes
    commitment: str
    stands: bool


def verify(
    conn: psycopg.Connection[Any],
    slot_from: int | None = None,
    slot_to: int | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Check the rows and seals whose slots touch the range (inclusive; None: no bound). Whatever the range, the positions and the links
    between seals are checked over the whole ledger: they cost little."""
    report = Report()
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        _guards(conn, report)
        _positions(conn, report)
        _rows(conn, report, slot_from, slot_to, progress)
        _seals(conn, report, slot_from, slot_to)
        _coverage(conn, report)
    return report


def _guards(conn: psycopg.Connection[Any], report: Report) -> None:
    found = conn.execute(
        "SELECT c.relname, t.oid IS NOT NULL, coalesce(t.tgenabled = 'A', false) FROM pg_class c"
        " LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'append_only'"
        " WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND (c.relname = ANY(%s) OR c.relname ~ '^(transactions|account_updates)_s[0-9]+$') ORDER BY c.relname",
        (list(APPEND_ONLY),),
    ).fetchall()
    for name in sorted(set(APPEND_ONLY) - {table for table, _, _ in found}):
        report.add(f"table ledger.{name} is missing")
    for table, there, enabled in found:
        if not enabled:
            what = "disabled" if there else "missing"
            remedy = (ENABLE if there else GUARD).format(table)
            report.add(f"table ledger.{table}: the append-only trigger is {what}", remedy)
    (width,) = conn.execute(
        "SELECT value::bigint FROM ledger.settings WHERE key = 'partition_width_slots'"
    ).fetchone() or (1,)
    loose = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' AND NOT relispartition"
        " AND relname ~ '^(transactions|account_updates)_s[0-9]+$' ORDER BY relname"
    ).fetchall()
    for (table,) in loose:
        parent, _, start = table.rpartition("_s")
        remedy = ATTACH.format(parent, table, start, int(start) + width)
        report.add(f"table ledger.{table} is detached from ledger.{parent}: its rows are in no query", remedy)


# One batch is one append. Its slots prune partitions, so this reads each row's index entry and place once.
_BATCHES = b"""
SELECT b.position_first, b.position_last, b.slot_min, b.slot_max, f.rows, f.positions, f.unordered
FROM ledger.batches b CROSS JOIN LATERAL (
    SELECT count(*) AS rows, count(DISTINCT position) AS positions, min(position) FILTER (WHERE bad) AS unordered FROM (
        SELECT position, (slot, transaction_index) <= lag((slot, transaction_index)) OVER (ORDER BY position) AS bad
        FROM ledger.transactions WHERE slot BETWEEN b.slot_min AND b.slot_max AND position BETWEEN b.position_first AND b.position_last
    ) t
) f ORDER BY b.position_first
"""


def _positions(conn: psycopg.Connection[Any], report: Report) -> None:
    row = conn.execute("SELECT coalesce(position, 0) FROM ledger.checkpoints WHERE name = 'ledger'").fetchone()
    if row is None:
        report.add("checkpoint 'ledger' is missing")
        return
    report.last_position = row[0]
    expected, counted = 1, 0
    with conn.cursor("verify_batches", binary=True) as cursor:
        cursor.itersize = _READ_ROWS
        cursor.execute(_BATCHES)
        for first, last, slot_min, slot_max, rows, positions, unordered in cursor:
            counted += rows
            if first != expected:
                report.add(f"batches: one begins at position {first}, expected {expected}")
            expected = last + 1
            where = f"positions {first}..{last} (slots {slot_min}..{slot_max})"
            if positions != last - first + 1:
                missing = _missing(conn, first, last, slot_min, slot_max)
                text = f"{where}: {last - first + 1 - positions} are missing, the first is {missing}"
                report.add(text, f"{READ_AGAIN.format(slot_min, slot_max)}, or {RESTORE}")
            if rows != positions:
                report.add(f"{where}: {rows - positions} positions are there twice")
            if unordered is not None:
                report.add(f"{where}: position {unordered} is not in chain order")
    if expected != report.last_position + 1:
        report.add(f"batches: they end at position {expected - 1}, the checkpoint says {report.last_position}")
    (total,) = conn.execute("SELECT count(*) FROM ledger.transactions").fetchone() or (0,)
    if total != counted:
        report.add(
            f"positions: {total - counted} rows are at positions that no append gave, or in slots where it did not put them"
        )


def _missing(conn: psycopg.Connection[Any], first: int, last: int, slot_min: int, slot_max: int) -> int:
    found = conn.execute(
        "SELECT min(n) FROM generate_series(%s::bigint, %s::bigint) n WHERE NOT EXISTS (SELECT FROM ledger.transactions"
        " WHERE position = n AND slot BETWEEN %s AND %s)",
        (first, last, slot_min, slot_max),
    ).fetchone()
    return first if found is None or found[0] is None else int(found[0])


def _rows(
    conn: psycopg.Connection[Any], report: Report, slot_from: int | None, slot_to: int | None, progress: Progress | None
) -> None:
    query = (
        b"SELECT position, slot, transaction_index, signature, version, err, wire, logs, inner_instructions, loaded, digest"
        b" FROM ledger.transactions WHERE slot >= coalesce(%s, slot) AND slot <= coalesce(%s, slot)"
    )
    with conn.cursor("verify_rows", binary=True) as cursor:
        cursor.itersize = _READ_ROWS
        cursor.execute(query, (slot_from, slot_to))
        for position, slot, index, signature, version, err, wire, logs, inner, loaded, stored in cursor:
            error = None if err is None else err.encode()
            try:
                computed = digest.row_digest(slot, index, signature, version, error, wire, logs, inner, loaded)
            except ValueError as error_text:
                report.add(f"row {position} (slot {slot}): {error_text}")
                continue
            if not hmac.compare_digest(computed, bytes(stored)):
                report.add(
                    f"row {position} (slot {slot}, {base58.encode(bytes(signature))}): its digest is not that of its contents"
                )
            report.rows += 1
            if progress is not None and report.rows % _READ_ROWS == 0:
                progress(report.rows)


# A correction below the last finalized seal writes a new one, which takes the place of those that begin at or after its first slot.
_STANDS = (
    "coalesce(commitment = 'confirmed' OR slot_first < min(slot_first) OVER (PARTITION BY program, commitment ORDER BY id"
    " ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), true) AS stands"
)


def _seals(conn: psycopg.Connection[Any], report: Report, slot_from: int | None, slot_to: int | None) -> None:
    programs = conn.execute("SELECT id, address, start_slot FROM ledger.programs ORDER BY id").fetchall()
    for program, address, start_slot in programs:
        for commitment, point in (("confirmed", "ingest"), ("finalized", "finalized")):
            value = digest.genesis(base58.address_bytes(address), start_slot)
            slot_next = start_slot
            for seal in _read_seals(conn, program, commitment):
                where = f"seal {seal.id} ({commitment}, program {program}, slots {seal.slot_first}..{seal.slot_last})"
                report.seals += 1
                if not seal.stands:
                    continue
                if seal.previous != value:
                    report.add(
                        f"{where}: does not chain to the one before: that one is missing, or one of the two was changed"
                    )
                if commitment == "finalized" and seal.slot_first != slot_next:
                    report.add(f"{where}: expected to begin at slot {slot_next}; a seal is missing")
                slot_next = seal.slot_last + 1
                value = seal.digest
                inside = (slot_to is None or seal.slot_first <= slot_to) and (
                    slot_from is None or seal.slot_last >= slot_from
                )
                if inside:
                    _seal_contents(conn, report, seal, where)
            row = conn.execute(
                "SELECT digest FROM ledger.checkpoints WHERE name = %s", (f"{point}:{program}",)
            ).fetchone()
            if row is not None and row[0] is not None and bytes(row[0]) != value:
                report.add(f"checkpoint {point}:{program}: its digest is not that of the last seal")


def _seal_contents(conn: psycopg.Connection[Any], report: Report, seal: _Seal, where: str) -> None:
    """The chain over the seal's rows. A finalized one is compared with the corrected ledger."""
    condition, order, parameters = _contents(seal)
    count, value = 0, seal.previous
    with conn.cursor("verify_seal", binary=True) as cursor:
        cursor.itersize = _READ_ROWS
        query = (
            "SELECT t.digest FROM ledger.transactions t WHERE t.slot BETWEEN %s AND %s AND t.programs @> ARRAY[%s]::smallint[] AND "
            f"{condition} ORDER BY {order}"
        )
        cursor.execute(query.encode(), (seal.slot_first, seal.slot_last, seal.program, *parameters))
        for (stored,) in cursor:
            count += 1
            value = digest.chain(value, (bytes(stored),))
    if count != seal.transactions:
        report.add(f"{where}: holds {count} rows, says {seal.transactions}")
    elif value != seal.digest:
        report.add(f"{where}: its digest is not that of its rows")


def _contents(seal: _Seal) -> tuple[str, str, tuple[Any, ...]]:
    if seal.commitment == "finalized":
        live = "NOT EXISTS (SELECT FROM ledger.retractions r WHERE r.position = t.position)"
        return live, "t.slot, t.transaction_index, t.position", ()
    # Rows of the range that are in no confirmed seal came late, and say so.
    return "t.origin <> 2", "t.position", ()


def _read_seals(conn: psycopg.Connection[Any], program: int, commitment: str) -> Iterator[_Seal]:
    columns = (
        "id, program, slot_first, slot_last, position_first, position_last, transactions, digest, previous, commitment, "
        + _STANDS
    )
    with conn.cursor("verify_seals", binary=True) as cursor:
        cursor.itersize = _READ_ROWS
        cursor.execute(
            f"SELECT {columns} FROM ledger.seals WHERE program = %s AND commitment = %s ORDER BY id".encode(),
            (program, commitment),
        )
        for row in cursor:
            yield _Seal(*row)._replace(digest=bytes(row[7]), previous=bytes(row[8]))


def _coverage(conn: psycopg.Connection[Any], report: Report) -> None:
    """What counts as covered is what the seals cover, no more and no less."""
    merged = (
        "SELECT program, commitment, min(slot_first), max(slot_last) FROM (SELECT *, count(*) FILTER (WHERE begins) OVER w AS island FROM"
        " (SELECT program, commitment, slot_first, slot_last, coalesce(slot_first > 1 + lag(slot_last) OVER w, true) AS begins FROM"
        f" (SELECT * FROM (SELECT *, {_STANDS} FROM ledger.seals) a WHERE stands) l"
        " WINDOW w AS (PARTITION BY program, commitment ORDER BY slot_first)) s WINDOW w AS (PARTITION BY program, commitment ORDER BY slot_first)) s"
        " GROUP BY program, commitment, island"
    )
    held = "SELECT program, commitment, slot_first, slot_last FROM ledger.coverage"
    for sign, first, second in (
        ("is not covered by seals", held, merged),
        ("is sealed and missing in coverage", merged, held),
    ):
        for program, commitment, slot_first, slot_last in conn.execute(f"({first}) EXCEPT ({second})".encode()):
            report.add(f"coverage: program {program}, {commitment}, slots {slot_first}..{slot_last} {sign}")
    overlaps = conn.execute(
        "SELECT id, program FROM (SELECT id, program, slot_first <= lag(slot_last) OVER (PARTITION BY program, commitment ORDER BY slot_first)"
        f" AS bad FROM (SELECT *, {_STANDS} FROM ledger.seals) a WHERE stands) s WHERE bad".encode()
    )
    for number, program in overlaps:
        report.add(f"seal {number} (program {program}): its slots are sealed twice")
