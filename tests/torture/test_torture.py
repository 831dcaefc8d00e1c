"""A short portion of `make torture`: a few deaths and one of each other fault under load, everything compared at the end."""

from __future__ import annotations

import pytest

from tests.torture.campaign import KINDS, play

pytestmark = pytest.mark.alone

SHORT = ("crash", "deadlock", "cut", "kill")


def test_nothing_is_lost_and_nothing_doubled() -> None:
    assert set(SHORT) < set(KINDS)
    said: list[str] = []
    outcomes = play(kills=10, rounds=1, seed=1, rate=40, only=SHORT, say=said.append, check_once=True, hurry=0.4)
    assert [outcome.wrong for outcome in outcomes] == [[] for _ in SHORT], said
    assert [outcome.skipped for outcome in outcomes] == ["" for _ in SHORT]
    assert all(outcome.struck for outcome in outcomes)
    killed = outcomes[-1]
    assert killed.struck == 10
    assert killed.transactions > 100
