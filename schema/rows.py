"""A transaction as a row: its stored bytes, its digest, its COPY bytes; and back. Pure, and on the hot path.

COPY's binary form of a row is a field count and each field as a length and bytes, big endian. Position and origin are known only when the
row is appended, so they come first and the rest is encoded once, here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from programs import base58
from programs.transaction import InnerInstruction, RawTransaction
from schema.digest import row_digest

COLUMNS = (
    "position, origin, slot, transaction_index, signature, block_time, err, wire, logs, inner_instructions, loaded, version, programs,"
    " truncated, witnesses, digest"
)
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
# Runtime notice that later lines are missing; a program's own line always has a prefix.
TRUNCATION_MARK = "Log truncated"
ADDRESS_BYTES = 32
SIGNATURE_BYTES = 64

_LEAD = struct.Struct(">hiqih")
_HEAD = struct.Struct(">iqiii64s")
# The same with a block time, without an error and with the length of the wire behind it: nearly every row.
_HEAD_PLAIN = struct.Struct(">iqiii64siqii")
_LENGTH = struct.Struct(">i")
_BLOCK_TIME = struct.Struct(">iq")
_VERSION = struct.Struct(">ih")
_TAIL = struct.Struct(">i?ihi32s")
_NULL_LENGTH = -1
_NULL = _LENGTH.pack(_NULL_LENGTH)
_EMPTY = _LENGTH.pack(0)
_INT2_OID = 21
_FIELDS = 16
# An empty list, packed: most transactions have no inner instructions.
_NO_INNER = b"\x90"
_pack = msgspec.msgpack.Encoder().encode
_unpack_logs = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
_unpack_inner = msgspec.msgpack.Decoder(tuple[tuple[int, int, int, bytes, bytes, int | None], ...]).decode


_SIGNATURE: Any = RawTransaction.__dict__["signature"]
_INNER: Any = RawTransaction.__dict__["inner"]


class StoredTransaction(RawTransaction):
    """A transaction whose signature's text and inner instructions are made when somebody reads them: on its way from the node to the
    ledger nobody does. Equal to a RawTransaction of the same contents. Made by `stored` and `held`; not to be changed."""

    __slots__ = ("inner_bytes", "signature_bytes")

    signature_bytes: bytes
    inner_bytes: bytes | None

    def __new__(cls, *args: Any, **fields: Any) -> RawTransaction:  # type: ignore[misc]
        """What `dataclasses.replace` makes is a plain one."""
        return RawTransaction(*args, **fields)

    # A frozen class sets its fields at seven times the cost, and so does one that takes back only one of the two.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__

    @property
    def signature(self) -> str:
        """base58."""
        try:
            text: str = _SIGNATURE.__get__(self)
        except AttributeError:
            text = base58.encode(self.signature_bytes)
            _SIGNATURE.__set__(self, text)
        return text

    @property
    def inner(self) -> tuple[InnerInstruction, ...] | None:
        """None when not recorded."""
        try:
            found: tuple[InnerInstruction, ...] | None = _INNER.__get__(self)
        except AttributeError:
            found = None if self.inner_bytes is None else decode_inner(self.inner_bytes)
            _INNER.__set__(self, found)
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawTransaction):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in RawTransaction.__dataclass_fields__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in RawTransaction.__dataclass_fields__))


def stored(
    slot: int,
    transaction_index: int,
    signature: bytes,
    block_time: int | None,
    err: str | None,
    wire: bytes,
    logs: tuple[str, ...] | None,
    inner: bytes | None,
    loaded: tuple[bytes, ...],
    version: int | None,
) -> StoredTransaction:
    """A transaction from parts that are in the ledger's form already; `inner` as `encode_inner` makes it."""
    raw: Any = object.__new__(StoredTransaction)
    raw.slot = slot
    raw.transaction_index = transaction_index
    raw.signature_bytes = signature
    raw.block_time = block_time
    raw.err = err
    raw.wire = wire
    raw.logs = logs
    raw.inner_bytes = inner
    raw.loaded = loaded
    raw.version = version
    return cast(StoredTransaction, raw)


def held(raw: StoredTransaction) -> StoredTransaction:
    """It, made ready for who reads the ledger: with its signature's text, which everybody wants, and with inner instructions where there are none."""
    _SIGNATURE.__set__(raw, base58.signature_text(raw.signature_bytes))
    inner = raw.inner_bytes
    if inner is None or inner == _NO_INNER:
        _INNER.__set__(raw, None if inner is None else ())
    return raw


class PreparedRow(msgspec.Struct, frozen=True, gc=False):
    """A row ready to be appended. `encoded` is its COPY form without position and origin."""

    slot: int
    transaction_index: int
    signature: bytes
    programs: tuple[int, ...]
    digest: bytes
    encoded: bytes


class PendingRow(msgspec.Struct, frozen=True, gc=False):
    """A row that is encoded while the one before is on its way: digest and COPY form cost a third of an append."""

    slot: int
    transaction_index: int
    programs: tuple[int, ...]
    raw: RawTransaction
    witnesses: int


AnyRow = PreparedRow | PendingRow


def pending_row(raw: RawTransaction, programs: tuple[int, ...], witnesses: int) -> PendingRow:
    """`prepare_row` later. ValueError when it mentions no program."""
    if not programs:
        raise ValueError(f"transaction {raw.signature} mentions no watched program")
    return PendingRow(raw.slot, raw.transaction_index, programs, raw, witnesses)


def prepare_row(raw: RawTransaction, programs: tuple[int, ...], witnesses: int) -> PreparedRow:
    """Encode a transaction for the ledger. ValueError when it has no valid signature or no program."""
    if not programs:
        raise ValueError(f"transaction {raw.signature} mentions no watched program")
    signature = raw.signature_bytes if type(raw) is StoredTransaction else base58.decode(raw.signature)
    encoded, digest = _encode(b"", raw, programs, witnesses)
    return PreparedRow(raw.slot, raw.transaction_index, signature, programs, digest, encoded)


def copy_rows(rows: Sequence[AnyRow], first: int, origin: int) -> tuple[bytes, list[bytes]]:
    """The COPY bytes of the rows at positions `first` and on, and their digests. ValueError as `prepare_row`."""
    parts, digests = [], []
    pack = _LEAD.pack
    for position, row in enumerate(rows, first):
        before = pack(_FIELDS, 8, position, 2, origin)
        if type(row) is PendingRow:
            encoded, digest = _encode(before, row.raw, row.programs, row.witnesses)
            parts.append(encoded)
        else:
            digest = row.digest  # type: ignore[union-attr]  # mypy does not narrow by type()
            parts += (before, row.encoded)  # type: ignore[union-attr]
        digests.append(digest)
    return b"".join(parts), digests


def _encode(before: bytes, raw: RawTransaction, programs: tuple[int, ...], witnesses: int) -> tuple[bytes, bytes]:
    """`before` and the row's COPY bytes behind position and origin; and its digest."""
    if type(raw) is StoredTransaction:
        signature, inner = raw.signature_bytes, raw.inner_bytes
    else:
        signature, inner = base58.decode(raw.signature), None if raw.inner is None else encode_inner(raw.inner)
    lines = raw.logs
    logs = None if lines is None else encode_logs(lines)
    loaded = b"".join(raw.loaded) if raw.loaded else b""
    wire, version, error = raw.wire, raw.version, raw.err
    slot, index, time = raw.slot, raw.transaction_index, raw.block_time
    err = None if error is None else error.encode()
    digest = row_digest(slot, index, signature, version, err, wire, logs, inner, loaded)
    length = _LENGTH.pack
    if err is None and time is not None:
        head = _HEAD_PLAIN.pack(8, slot, 4, index, 64, signature, 8, time, _NULL_LENGTH, len(wire))
    else:
        head = (
            _HEAD.pack(8, slot, 4, index, 64, signature)
            + (_NULL if time is None else _BLOCK_TIME.pack(8, time))
            + (_NULL if err is None else length(len(err)) + err)
            + length(len(wire))
        )
    encoded = b"".join(
        (
            before,
            head,
            wire,
            _NULL if logs is None else length(len(logs)),
            logs or b"",
            _NULL if inner is None else length(len(inner)),
            inner or b"",
            length(len(loaded)) + loaded if loaded else _EMPTY,
            _version_and_programs(version, programs),
            _TAIL.pack(1, lines is not None and TRUNCATION_MARK in lines, 2, witnesses, 32, digest),
        )
    )
    return encoded, digest


def lead(position: int, origin: int) -> bytes:
    """The field count, position and origin that go before `PreparedRow.encoded`."""
    return _LEAD.pack(_FIELDS, 8, position, 2, origin)


def encode_logs(logs: tuple[str, ...]) -> bytes:
    """Log lines as stored. Any line comes back exactly, U+0000 and lone surrogates included."""
    try:
        return _pack(logs)
    except UnicodeEncodeError:
        return _pack([_line(line) for line in logs])


def decode_logs(stored: bytes) -> tuple[str, ...]:
    """Stored log lines."""
    return tuple(
        [line if isinstance(line, str) else line.decode("utf-8", "surrogatepass") for line in _unpack_logs(stored)]
    )


def encode_inner(inner: tuple[InnerInstruction, ...]) -> bytes:
    """Inner instructions as stored."""
    return pack_inner([(i.outer, i.index, i.program_id_index, i.accounts, i.data, i.stack_height) for i in inner])


def pack_inner(inner: list[tuple[int, int, int, bytes, bytes, int | None]]) -> bytes:
    """Inner instructions as stored, from (outer, index, program_id_index, accounts, data, stack_height)."""
    return _pack(inner)


def decode_inner(stored: bytes) -> tuple[InnerInstruction, ...]:
    """Stored inner instructions."""
    return tuple([InnerInstruction(*fields) for fields in _unpack_inner(stored)])


def split_loaded(stored: bytes) -> tuple[bytes, ...]:
    """Stored loaded addresses."""
    return tuple([stored[at : at + ADDRESS_BYTES] for at in range(0, len(stored), ADDRESS_BYTES)])


def _line(line: str) -> str | bytes:
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogatepass")
    return line


@lru_cache(maxsize=1024)
def _version_and_programs(version: int | None, programs: tuple[int, ...]) -> bytes:
    body = struct.pack(">iiiii", 1, 0, _INT2_OID, len(programs), 1) + b"".join(
        [_VERSION.pack(2, number) for number in programs]
    )
    return (_NULL if version is None else _VERSION.pack(2, version)) + _LENGTH.pack(len(body)) + body
