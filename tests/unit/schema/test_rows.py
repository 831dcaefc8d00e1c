"""Rows survive their encoding; digests are the documented bytes and see every field."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import base58
from programs.transaction import InnerInstruction, RawTransaction
from schema import digest, rows
from schema.rows import prepare_row

U8, U32, I64 = st.integers(0, 255), st.integers(0, 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
# Any code point at all, lone surrogates and U+0000 among them.
LINES = st.text(st.characters(codec=None), max_size=20)
INNER = st.builds(InnerInstruction, U8, U8, U8, st.binary(max_size=9), st.binary(max_size=40), st.none() | U8)
RAW = st.builds(
    RawTransaction,
    slot=st.integers(0, 2**63 - 1),
    transaction_index=U32,
    signature=st.binary(min_size=64, max_size=64).map(base58.encode),
    block_time=st.none() | I64,
    err=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    wire=st.binary(max_size=99),
    logs=st.none() | st.lists(LINES, max_size=5).map(tuple),
    inner=st.none() | st.lists(INNER, max_size=3).map(tuple),
    loaded=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
    version=st.none() | U8,
)


def _fields(data: bytes) -> list[bytes | None]:
    """PostgreSQL's binary COPY form of one row, read by its documentation."""
    (count,) = struct.unpack_from(">h", data)
    at, found = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        found.append(None if length < 0 else data[at : at + length])
        at += max(length, 0)
    assert at == len(data)
    return found


@given(RAW, st.integers(1, 2**63 - 1), st.lists(st.integers(1, 32767), min_size=1, max_size=4).map(tuple), U8)
def test_a_row_comes_back_from_its_copy_bytes(
    raw: RawTransaction, position: int, programs: tuple[int, ...], witnesses: int
) -> None:
    row = prepare_row(raw, programs, witnesses)
    fields = _fields(rows.lead(position, 2) + row.encoded)
    assert len(fields) == len(rows.COLUMNS.split(","))
    number = [None if f is None else int.from_bytes(f, "big", signed=True) for f in fields]
    (
        _position,
        _origin,
        _slot,
        _index,
        signature,
        _block_time,
        err,
        wire,
        logs,
        inner,
        loaded,
        _version,
        array,
        truncated,
        _seen,
        value,
    ) = fields
    assert (number[0], number[1], number[14]) == (position, 2, witnesses)
    back = RawTransaction(
        number[2],
        number[3],
        base58.encode(signature),
        number[5],
        None if err is None else err.decode(),
        wire,
        None if logs is None else rows.decode_logs(logs),
        None if inner is None else rows.decode_inner(inner),
        rows.split_loaded(loaded),
        number[11],
    )
    assert back == raw
    assert struct.unpack_from(">iiiii", array) == (1, 0, 21, len(programs), 1)
    assert [struct.unpack_from(">ih", array, 20 + 6 * n)[1] for n in range(len(programs))] == list(programs)
    assert truncated == bytes([raw.logs is not None and "Log truncated" in raw.logs])
    assert value == row.digest


@given(RAW)
def test_the_digest_is_the_documented_bytes(raw: RawTransaction) -> None:
    stored = _fields(rows.lead(1, 0) + prepare_row(raw, (1,), 0).encoded)
    text = raw.slot.to_bytes(8, "little") + raw.transaction_index.to_bytes(4, "little") + base58.decode(raw.signature)
    text += (-1 if raw.version is None else raw.version).to_bytes(2, "little", signed=True)
    for field in stored[6:11]:
        text += b"\xff" * 4 if field is None else len(field).to_bytes(4, "little") + field
    assert prepare_row(raw, (1,), 0).digest == hashlib.sha256(text).digest()


@given(RAW)
def test_a_row_that_is_read_is_the_transaction_that_was_written(raw: RawTransaction) -> None:
    inner = None if raw.inner is None else rows.encode_inner(raw.inner)
    parts = (raw.slot, raw.transaction_index, base58.decode(raw.signature), raw.block_time, raw.err, raw.wire, raw.logs)
    for as_read in (False, True):
        read = rows.stored(*parts, inner, raw.loaded, raw.version)
        if as_read:
            rows.held(read)
        assert {read, raw} == {raw}
        assert raw == read
        assert prepare_row(read, (1,), 0) == prepare_row(raw, (1,), 0)


@given(RAW, RAW)
def test_the_digest_sees_what_happened_and_not_how_we_learned_of_it(one: RawTransaction, other: RawTransaction) -> None:
    first = prepare_row(one, (1,), 1).digest
    assert prepare_row(dataclasses.replace(one, block_time=other.block_time), (1, 2), 31).digest == first
    for name in ("slot", "transaction_index", "signature", "err", "wire", "logs", "inner", "loaded", "version"):
        changed = dataclasses.replace(one, **{name: getattr(other, name)})
        assert (prepare_row(changed, (1,), 1).digest == first) == (changed == one), name


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=9), st.integers(0, 9))
def test_a_chain_may_be_cut_anywhere(digests: list[bytes], cut: int) -> None:
    start = digest.genesis(bytes(32), 5)
    assert digest.chain(digest.chain(start, digests[:cut]), digests[cut:]) == digest.chain(start, digests)
    assert digest.genesis(bytes(32), 6) != start


def test_a_row_needs_a_whole_signature_and_a_program() -> None:
    raw = RawTransaction(1, 0, base58.encode(bytes(63)), None, None, b"", None, None, (), None)
    with pytest.raises(ValueError, match="64 bytes, not 63"):
        prepare_row(raw, (1,), 0)
    with pytest.raises(ValueError, match="no watched program"):
        prepare_row(dataclasses.replace(raw, signature=base58.encode(bytes(64))), (), 0)
