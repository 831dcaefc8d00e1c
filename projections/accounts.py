"""The mirror of the programs' accounts: the last sample of each, decoded. Samples serve the eye and the audit, not the truth of the tables."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from programs.base58 import address_text
from programs.codec import CodecError
from projections.catalogue import Conn
from projections.decoding import ProgramSpec
from projections.model import clean

_ROWS_MAX = 500
# Of the accounts' data in one transaction, but one account at least: it may hold 10 MiB, and decoded it takes many times that.
_BYTES_MAX = 8 << 20
_NEW = (
    "SELECT id, program, slot, pubkey, lamports, owner, data, closed FROM (SELECT u.*, coalesce(sum(octet_length(data)) OVER (ORDER BY id ROWS"
    " BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before FROM (SELECT * FROM ledger.account_updates WHERE id > %s ORDER BY id LIMIT %s) u) u"
    " WHERE before < %s ORDER BY id"
)
_UPSERT = (
    "INSERT INTO projections.accounts AS a (address, program, program_id, slot, name, data, lamports, owner, closed, error,"
    " created_slot) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (address) DO UPDATE SET slot = excluded.slot,"
    " name = coalesce(excluded.name, a.name), data = coalesce(excluded.data, a.data), lamports = excluded.lamports,"
    " owner = excluded.owner, closed = excluded.closed, error = excluded.error WHERE a.slot <= excluded.slot"
)


def follow(conn: Conn, specs: Sequence[ProgramSpec]) -> bool:
    """Take up new samples; False when there was none."""
    by_id = {spec.program_id: spec for spec in specs}
    with conn.transaction():
        row = conn.execute("SELECT id FROM projections.account_cursor FOR UPDATE").fetchone()
        assert row is not None, "made with the table"
        found = conn.execute(_NEW, (row[0], _ROWS_MAX, _BYTES_MAX)).fetchall()
        if not found:
            return False
        values = []
        for _, program, slot, pubkey, lamports, owner, data, closed in found:
            spec = by_id.get(program)
            if spec is None:
                continue
            name, decoded, error = _decode(spec, slot, data)
            address, held = address_text(bytes(pubkey)), address_text(bytes(owner))
            values.append((address, spec.address, program, slot, name, decoded, lamports, held, closed, error, slot))
        with conn.cursor() as cursor:
            cursor.executemany(_UPSERT, values)
        conn.execute("UPDATE projections.account_cursor SET id = %s", (found[-1][0],))
    return True


def _decode(spec: ProgramSpec, slot: int, data: bytes | None) -> tuple[str | None, Jsonb | None, str | None]:
    if not data:
        return None, None, None
    try:
        decoded = spec.codec_at(slot).decode_account(bytes(data))
    except CodecError as error:
        return None, None, str(error)[:300]
    return decoded.name, Jsonb(clean(decoded.data)), None
