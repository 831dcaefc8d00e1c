"""The quick way from a signature to its text gives what the library gives."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from programs import base58


@given(st.one_of(st.binary(min_size=64, max_size=64), st.binary(max_size=70)))
def test_a_signatures_text_is_the_librarys(data: bytes) -> None:
    assert base58.signature_text(data) == base58.encode(data)


def test_so_it_is_where_its_digits_are_split() -> None:
    rng = random.Random(58)
    numbers = [0, 1, (1 << 504) - 1, 1 << 504, (1 << 512) - 1]
    for first in (1, 57, 58, 59, 100, 200, 255):
        # Zeros in the middle: digits that a number alone would not show.
        numbers += [first * 58**86 + second * 58**43 + third for second in (0, 1, 57) for third in (-1, 0, 1, 57)]
    numbers += [rng.getrandbits(512) for _ in range(2_000)]
    for number in numbers:
        data = (number % (1 << 512)).to_bytes(64, "big")
        assert base58.signature_text(data) == base58.encode(data)
