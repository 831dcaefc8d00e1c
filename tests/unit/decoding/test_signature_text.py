"""The quick ways between bytes and base58 text, with gmpy2 and without, give what the library gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import based58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import base58

# The lock file has gmpy2; who installed without it has one way only.
WAYS: list[Any] = [None] if base58.mpz is None else [None, base58.mpz]
pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: "without" if way is None else "gmpy2")


@contextmanager
def by(way: Any) -> Iterator[None]:
    before, base58.mpz = base58.mpz, way
    try:
        yield
    finally:
        base58.mpz = before


def library(data: bytes) -> str:
    text: bytes = based58.b58encode(data)
    return text.decode()


@given(st.one_of(st.binary(min_size=64, max_size=64), st.binary(max_size=70)))
def test_a_signatures_text_is_the_librarys(way: Any, data: bytes) -> None:
    with by(way):
        assert base58.signature_text(data) == base58.encode(data) == library(data)
        assert base58.decode(library(data)) == data


@given(st.binary(min_size=32, max_size=32))
def test_so_is_an_addresss(way: Any, data: bytes) -> None:
    with by(way):
        base58.ADDRESS_TEXTS.pop(data, None)
        assert base58.address_text(data) == library(data)


@given(st.binary(max_size=40).filter(lambda data: len(data) != 32))
def test_what_is_no_address_has_no_text(way: Any, data: bytes) -> None:
    with by(way), pytest.raises(ValueError, match="not an address"):
        base58.address_text(data)


def test_so_it_is_where_its_digits_are_split(way: Any) -> None:
    rng = random.Random(58)
    numbers = [0, 1, (1 << 504) - 1, 1 << 504, (1 << 512) - 1]
    for first in (1, 57, 58, 59, 100, 200, 255):
        # Zeros in the middle: digits that a number alone would not show.
        numbers += [first * 58**86 + second * 58**43 + third for second in (0, 1, 57) for third in (-1, 0, 1, 57)]
    numbers += [rng.getrandbits(512) for _ in range(2_000)]
    with by(way):
        for number in numbers:
            data = (number % (1 << 512)).to_bytes(64, "big")
            assert base58.signature_text(data) == library(data)


@given(st.one_of(st.text(max_size=12), st.text("12zvZ lOI0+-_~\x00 \n", max_size=12)), st.integers(0, 400))
def test_what_is_no_base58_is_refused_by_both(way: Any, text: str, more: int) -> None:
    whole = text + "2" * more
    with by(way):
        if set(whole) <= set("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"):
            assert library(base58.decode(whole)) == whole
        else:
            with pytest.raises(ValueError, match="not base58"):
                base58.decode(whole)
