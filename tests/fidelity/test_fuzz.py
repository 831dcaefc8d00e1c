"""A short portion of the fuzzing: `python -m tests.fidelity.fuzz` plays it at length."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fidelity import fuzz
from tests.fidelity.nodes import devnode
from tests.fidelity.world import World

_SEED = 20261125
_COUNTS = {"bodies": 3_000, "frames": 1_500, "streams": 600}


@pytest.fixture(scope="module")
def victim() -> Iterator[World]:
    """A development node of this file's own."""
    with devnode() as node:
        yield World(node).build()


@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_senseless_input_trips_nothing(victim: World, kind: str) -> None:
    fuzz.KINDS[kind](victim, random.Random(f"{_SEED}/{kind}"), _COUNTS[kind])
