"""Bodies of replies: packed or plain, in parts of any size, and never larger than the bound."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.body import PIECE_BYTES, Body, BodyRefused


def fed(encoding: str, data: bytes, part: int, bytes_max: int = 1 << 22) -> bytes:
    body = Body(encoding, bytes_max)
    for start in range(0, len(data), part):
        body.feed(data[start : start + part])
    return body.whole()


@given(data=st.binary(max_size=3_000), part=st.integers(1, 700), repeat=st.integers(1, 200))
def test_what_was_sent_comes_out(data: bytes, part: int, repeat: int) -> None:
    sent = data * repeat
    assert fed("", sent, part) == sent
    assert fed("gzip", gzip.compress(sent), part) == sent
    assert fed("Deflate", zlib.compress(sent), part) == sent


def test_an_empty_body_is_empty_in_every_encoding() -> None:
    assert fed("gzip", b"", 1) == b""


@pytest.mark.parametrize("cut", [11, 100, -1])
def test_a_packed_body_that_is_cut_is_refused(cut: int) -> None:
    with pytest.raises(BodyRefused):
        fed("gzip", gzip.compress(bytes(range(256)) * 9)[:cut], 50)


@pytest.mark.parametrize(("encoding", "data"), [("gzip", b"{}"), ("br", b"{}"), ("gzip, br", b""), ("", b"x" * 11)])
def test_what_cannot_be_read_is_refused(encoding: str, data: bytes) -> None:
    with pytest.raises(BodyRefused):
        fed(encoding, data, 5, bytes_max=10)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(BodyRefused):
            fed("gzip", bomb, len(bomb), bytes_max=4 * PIECE_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 20 * PIECE_BYTES
    finally:
        tracemalloc.stop()
