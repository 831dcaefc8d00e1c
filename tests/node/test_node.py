"""A short form of `make test-node`, where SOLANA_TEST_VALIDATOR names a validator."""

from __future__ import annotations

import os

import pytest

from tests.node import validator
from tests.node.campaign import play

pytestmark = [
    pytest.mark.alone,
    pytest.mark.node,
    pytest.mark.skipif(not os.environ.get(validator.VARIABLE), reason=f"{validator.VARIABLE} names no validator"),
]


def test_both_ledgers_equal_a_walk_of_all_blocks() -> None:
    figures = play(rate=320, seconds=15, kills=2, cuts=3, seed=1, say=print)
    assert figures["wrong"] == {"with_socket": [], "without_socket": []}
    assert figures["kills"] == 2
    assert figures["sockets_cut"] >= 3
    assert figures["transactions"] > 1_000
