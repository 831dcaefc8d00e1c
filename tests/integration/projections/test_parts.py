"""Rows that are read in part, for their events, against whole ones: hostile logs, calls, versions, failures."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from unittest.mock import patch

from programs.base58 import encode
from programs.events import SELF_CPI_TAG
from programs.idl import load_idl
from programs.transaction import InnerInstruction, PartTransaction, RawTransaction
from projections.decoding import Decoder, ProgramSpec
from projections.model import Event
from schema import db as database
from schema import lease, ledger, reads
from schema.rows import prepare_row
from tests.unit.decoding.chain import DOCUMENT, KEYS, P, Q, call, data_line, frame, self_cpi, wire

WRITTEN = frame(P, 1, data_line(1), *frame(Q, 2, data_line(2)), data_line(3))
LOGS: dict[str, list[str] | None] = {
    "written": WRITTEN,
    "calls itself": frame(P, 1, *frame(P, 2)),
    "both ways": frame(P, 1, data_line(9), *frame(P, 2)),
    "truncated": [*WRITTEN[:3], "Log truncated"],
    "forged": frame(
        Q, 1, "Program log: " + data_line(7), "Program log: Log truncated", f"Program log: Program {P} invoke [2]"
    ),
    "does not decode": frame(P, 1, "Program data: !", "Program data: AQID", "Program data: \ud800"),
    "inconsistent": [f"Program {P} invoke [2]", data_line(5)],
    "without a frame's end": WRITTEN[:-1],
    "empty": [],
    "none": None,
}
INNER: dict[str, list[InnerInstruction] | None] = {
    "none": None,
    "empty": [],
    "plain": [call(0, 0, 2)],
    "tagged": [self_cpi(0, 0, 9)],
    "another's": [self_cpi(0, 0, 9, program=2)],
    "of loaded keys": [InnerInstruction(0, 0, 4, bytes([3]), self_cpi(0, 0, 9).data, 2)],
    # Not where a tag belongs: wanted for nothing, and no event.
    "tag inside": [InnerInstruction(0, 0, 1, b"\x03", b"\x00" + self_cpi(0, 0, 9).data, 2)],
}
WIRES = {
    "legacy": (wire(None, [(1, b"\x00", b"\x07\x01")]), (), None),
    "with addresses": (wire(0, [(1, b"\x00", b"\x07\x01")]), (bytes([5]) * 32, KEYS[1]), 0),
    "of another program": (wire(None, [(2, b"\x00", b"\x07\x01")]), (), None),
    "unknown": (bytes([1]) + bytes([7]) + bytes(63) + b"\x85rest", (), 5),
    "absent": (b"", (), None),
}


def _transactions() -> list[RawTransaction]:
    made = []
    for number, (logs, inner, (packed, loaded, version), err) in enumerate(
        itertools.product(LOGS.values(), INNER.values(), WIRES.values(), (None, '"failed"'))
    ):
        signature = encode(number.to_bytes(4, "big") + bytes([1]) * 60)
        calls = None if inner is None else tuple(inner)
        lines = None if logs is None else tuple(logs)
        made.append(
            RawTransaction(2 + number // 50, number % 50, signature, 100, err, packed, lines, calls, loaded, version)
        )
    return made


def _append(dsn: str, transactions: list[RawTransaction]) -> int:
    async def write() -> int:
        async with await database.aconnect(dsn) as conn:
            number = (await ledger.ensure_programs(conn, [("example", P, 1)]))[P].id
            held = await lease.acquire(conn, "test", "test", 30)
            assert held is not None
            rows = [prepare_row(raw, (number,), 4) for raw in transactions]
            await ledger.append_seal(conn, held, [ledger.SealRange(number, 1, rows[-1].slot)], rows)
            return number

    return asyncio.run(write())


def _shown(found: list[Any]) -> list[Any]:
    return [
        (e.position, e.event_index, e.signature, e.data if isinstance(e, Event) else (e.error, e.raw)) for e in found
    ]


def test_events_of_parts_are_those_of_whole_rows(db: str) -> None:
    transactions = _transactions()
    number = _append(db, transactions)
    spec = ProgramSpec("example", P, number, load_idl(DOCUMENT), ())
    decoder = Decoder((spec,))
    whole = decoder.decode([reads.PartRow(p, (number,), raw) for p, raw in enumerate(transactions, 1)])
    assert {e.data["x"] for e in whole if isinstance(e, Event)} == {1, 3, 9}
    fetched: list[int] = []
    with database.connect(db) as conn:
        fetch = reads._whole

        def counted(connection: Any, position: int, slot: int) -> RawTransaction:
            fetched.append(position)
            return fetch(connection, position, slot)

        with patch.object(reads, "_whole", counted):
            following: list[Any] = []
            parts: list[reads.PartRow] = []
            while batch := reads.read_parts(conn, parts[-1].position if parts else 0, 97):
                parts += batch
                following += decoder.decode(batch)
            assert _shown(following) == _shown(whole)
            asked, fetched[:] = list(fetched), []
            assert _shown(decoder.decode(reads.iter_parts(conn, batch_rows=83))) == _shown(whole)
            assert fetched == asked
        for row, raw in zip(parts, transactions, strict=True):
            held = row.raw.fetch(row.position, row.raw.slot) if isinstance(row.raw, PartTransaction) else row.raw
            assert held == raw
            plain = raw.inner is not None and bool(raw.logs) and "Log truncated" not in (raw.logs or ())
            tagged = any(SELF_CPI_TAG in called.data for called in raw.inner or ())
            assert isinstance(row.raw, PartTransaction) == (raw.err is not None or (plain and not tagged))
    logs_of_asked = {transactions[position - 1].logs for position in asked}
    assert logs_of_asked == {tuple(LOGS["inconsistent"] or ()), tuple(LOGS["without a frame's end"] or ())}


def test_a_batch_of_parts_is_bounded_as_one_of_whole_rows(db: str) -> None:
    transactions = _transactions()[:60]
    _append(db, transactions)
    with database.connect(db) as conn:
        for bytes_max in (1, 700, 5_000, 1 << 20):
            whole = reads.read_batch(conn, 7, 50, bytes_max)
            parts = reads.read_parts(conn, 7, 50, bytes_max)
            assert [row.position for row in parts] == [row.position for row in whole]
            sizes = [len(row.raw.wire) + sum(len(line) for line in row.raw.logs or ()) for row in whole]
            assert len(whole) == 1 or sum(sizes[:-1]) < bytes_max
        assert len(reads.read_parts(conn, 7, 50, 1)) == 1
