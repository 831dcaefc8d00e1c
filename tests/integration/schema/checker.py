"""An independent checker of the ledger's digests: it imports nothing of the product and follows the documentation of the bytes alone.

Run on a database: python checker.py DSN. It prints what differs, and its exit code is 1 then.
"""

from __future__ import annotations

import hashlib
import sys

import psycopg

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def address(text: str) -> bytes:
    number = 0
    for char in text:
        number = number * 58 + ALPHABET.index(char)
    return number.to_bytes(32, "big")


def uint(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def field(value: bytes | None) -> bytes:
    return b"\xff" * 4 if value is None else uint(len(value), 4) + value


def row_digest(row: tuple) -> bytes:
    slot, index, signature, version, err, wire, logs, inner, loaded = row
    head = (
        uint(slot, 8)
        + uint(index, 4)
        + signature
        + (-1 if version is None else version).to_bytes(2, "little", signed=True)
    )
    rest = (None if err is None else err.encode(), wire, logs, inner, loaded)
    return hashlib.sha256(head + b"".join(field(value) for value in rest)).digest()


def number(value: int | None) -> bytes:
    """MessagePack's shortest form of what is not negative, or nil."""
    if value is None:
        return b"\xc0"
    for bound, tag, size in ((0x80, b"", 1), (1 << 8, b"\xcc", 1), (1 << 16, b"\xcd", 2), (1 << 32, b"\xce", 4)):
        if value < bound:
            return tag + value.to_bytes(size, "big")
    return b"\xcf" + value.to_bytes(8, "big")


def _sized(size: int, short: tuple[int, int] | None, *tags: tuple[int, int]) -> bytes:
    if short is not None and size < short[1]:
        return bytes([short[0] | size])
    for tag, width in tags:
        if size < 1 << 8 * width:
            return bytes([tag]) + size.to_bytes(width, "big")
    raise ValueError(size)


def array(items: list[bytes]) -> bytes:
    return _sized(len(items), (0x90, 16), (0xDC, 2), (0xDD, 4)) + b"".join(items)


def binary(value: bytes) -> bytes:
    return _sized(len(value), None, (0xC4, 1), (0xC5, 2), (0xC6, 4)) + value


def line(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        return binary(text.encode("utf-8", "surrogatepass"))
    return _sized(len(data), (0xA0, 32), (0xD9, 1), (0xDA, 2), (0xDB, 4)) + data


def packed_logs(lines: tuple[str, ...]) -> bytes:
    return array([line(text) for text in lines])


def packed_inner(inner: list[tuple]) -> bytes:
    return array(
        [
            array([number(outer), number(index), number(program), binary(accounts), binary(data), number(height)])
            for outer, index, program, accounts, data, height in inner
        ]
    )


def genesis(text: str, start_slot: int) -> bytes:
    return hashlib.sha256(b"community-voting-indexer/v1" + address(text) + uint(start_slot, 8)).digest()


def link(value: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(value + digest).digest()


def standing(conn: psycopg.Connection, program: int) -> list[tuple[int, bytes]]:
    """(slot_last, digest) of the finalized seals that stand: a correction below them wrote one that takes the place of all from its first slot on."""
    return conn.execute(
        "SELECT slot_last, digest FROM ledger.seals s WHERE program = %s AND commitment = 'finalized' AND NOT EXISTS (SELECT FROM ledger.seals n"
        " WHERE n.program = s.program AND n.commitment = 'finalized' AND n.id > s.id AND n.slot_first <= s.slot_first) ORDER BY slot_last",
        (program,),
    ).fetchall()


def finalized_chain(conn: psycopg.Connection, program: int) -> list[tuple[int, bytes]]:
    """(slot, chain value) at the end of every finalized seal, from the rows alone."""
    text, start = conn.execute("SELECT address, start_slot FROM ledger.programs WHERE id = %s", (program,)).fetchone()
    value = genesis(text, start)
    rows = conn.execute(
        "SELECT slot, transaction_index, signature, version, err, wire, logs, inner_instructions, loaded FROM ledger.transactions"
        " WHERE %s = ANY(programs) AND position NOT IN (SELECT position FROM ledger.retractions) ORDER BY slot, transaction_index, position",
        (program,),
    ).fetchall()
    ends, found = [slot for slot, _ in standing(conn, program)], []
    at = 0
    for end in ends:
        while at < len(rows) and rows[at][0] <= end:
            value = link(value, row_digest(rows[at]))
            at += 1
        found.append((end, value))
    return found


def differences(dsn: str) -> list[str]:
    found = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        for (program,) in conn.execute("SELECT id FROM ledger.programs").fetchall():
            for (slot, value), (_, stored) in zip(finalized_chain(conn, program), standing(conn, program), strict=True):
                if stored != value:
                    found.append(
                        f"program {program}, slot {slot}: the seal says {stored.hex()}, the rows {value.hex()}"
                    )
    return found


if __name__ == "__main__":
    wrong = differences(sys.argv[1])
    print("\n".join(wrong) or "equal")
    sys.exit(1 if wrong else 0)
