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
_READ_ROWS = 2_000
Progress = Callable[[int], None]


@dataclass(slots=True)
class Report:
    """What was looked at, and what is wrong (at most DIFFERENCES_MAX lines; `differences_total` counts all)."""

    rows: int = 0
    seals: int = 0
    last_position: int = 0
    differences: list[str] = field(default_factory=list)
    differences_total: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.differences_total == 0

    def add(self, text: str) -> None:
        """Note a difference."""
        self.differences_total += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(text)


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
        "SELECT c.relname, coalesce(bool_or(t.tgenabled = 'A'), false) FROM pg_class c"
        " LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent"
        " LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'append_only'"
        " WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p') AND coalesce(p.relname, c.relname) = ANY(%s)"
        " GROUP BY c.oid, c.relname ORDER BY c.relname",
        (list(APPEND_ONLY),),
    ).fetchall()
    for table, guarded in found:
        if not guarded:
            report.add(f"table ledger.{table}: the append-only trigger is missing or disabled")


def _positions(conn: psycopg.Connection[Any], report: Report) -> None:
    row = conn.execute("SELECT coalesce(position, 0) FROM ledger.checkpoints WHERE name = 'ledger'").fetchone()
    if row is None:
        report.add("checkpoint 'ledger' is missing")
        return
    report.last_position = row[0]
    counts = conn.execute(
        "SELECT count(*), count(DISTINCT position), coalesce(min(position), 1), coalesce(max(position), 0) FROM ledger.transactions"
    )
    rows, distinct, first, last = counts.fetchone() or (0, 0, 1, 0)
    if rows != distinct:
        report.add(f"positions: {rows - distinct} are there twice")
    if distinct != report.last_position or first != 1 or last != report.last_position:
        report.add(f"positions: {distinct} between {first} and {last}, the checkpoint says 1 to {report.last_position}")
    expected = 1
    for position_first, position_last in conn.execute(
        "SELECT position_first, position_last FROM ledger.batches ORDER BY 1"
    ):
        if position_first != expected:
            report.add(f"batches: one begins at position {position_first}, expected {expected}")
        expected = position_last + 1
    if expected != report.last_position + 1:
        report.add(f"batches: they end at position {expected - 1}, the checkpoint says {report.last_position}")


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


def _seals(conn: psycopg.Connection[Any], report: Report, slot_from: int | None, slot_to: int | None) -> None:
    programs = conn.execute("SELECT id, address, start_slot FROM ledger.programs ORDER BY id").fetchall()
    for program, address, start_slot in programs:
        for commitment, point in (("confirmed", "ingest"), ("finalized", "finalized")):
            value = digest.genesis(base58.address_bytes(address), start_slot)
            slot_next = start_slot
            for seal in _read_seals(conn, program, commitment):
                where = f"seal {seal.id} ({commitment}, program {program}, slots {seal.slot_first}..{seal.slot_last})"
                report.seals += 1
                if seal.previous != value:
                    report.add(f"{where}: does not chain to the one before")
                if commitment == "finalized" and seal.slot_first != slot_next:
                    report.add(f"{where}: expected to begin at slot {slot_next}")
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
    """The chain over the seal's rows. A finalized one is compared with the corrected ledger up to what later seals have not changed."""
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
        "id, program, slot_first, slot_last, position_first, position_last, transactions, digest, previous, commitment"
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
        " (SELECT program, commitment, slot_first, slot_last, coalesce(slot_first > 1 + lag(slot_last) OVER w, true) AS begins FROM ledger.seals"
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
        " AS bad FROM ledger.seals) s WHERE bad"
    )
    for number, program in overlaps:
        report.add(f"seal {number} (program {program}): its slots are sealed twice")
