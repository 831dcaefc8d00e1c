"""The simulator must notice each of these bugs, planted one at a time; a net that catches nothing proves nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from indexer.simulation.run import Divergence, Simulation
from indexer.simulation.shrink import shrink
from tests.simulation import planted

# Each is caught within so many histories; on a correct core these histories do not fail (`test_histories`).
SEEDS = range(1, 301)


def first_caught(**bug: Any) -> int | None:
    """The first seed whose history diverges."""
    for seed in SEEDS:
        try:
            Simulation(seed, **bug).run()
        except Divergence:
            return seed
    return None


@pytest.mark.parametrize("bug", planted.SEALERS, ids=lambda bug: bug.__name__)
def test_a_bug_in_the_sealer_is_caught(bug: Any) -> None:
    assert first_caught(make_sealer=bug, faults=planted.FOCUS.get(bug)) is not None


@pytest.mark.parametrize("bug", planted.FOCUS, ids=lambda bug: bug.__name__)
def test_the_histories_of_a_special_mix_are_true_without_the_bug(bug: Any) -> None:
    for seed in SEEDS[:60]:
        Simulation(seed, faults=planted.FOCUS[bug]).run()


@pytest.mark.parametrize("bug", planted.AUDITORS, ids=lambda bug: bug.__name__)
def test_a_bug_in_the_auditor_is_caught(bug: Any) -> None:
    assert first_caught(make_auditor=bug) is not None


@pytest.mark.parametrize("bug", planted.LEDGERS, ids=lambda bug: bug.__name__)
def test_a_bug_in_the_ledger_is_caught(bug: Any) -> None:
    assert first_caught(make_ledger=bug) is not None


@pytest.mark.parametrize("bug", planted.PATCHES, ids=lambda bug: bug.__name__)
def test_a_bug_in_a_shared_part_is_caught(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert first_caught() is not None


def test_a_failing_seed_shrinks_to_a_short_history_that_fails_alike() -> None:
    build = partial(Simulation, make_sealer=planted.SkipsBarrier)
    seed = first_caught(make_sealer=planted.SkipsBarrier)
    assert seed is not None
    failing = shrink(seed, build=build)
    assert f"--seed {seed} " in failing.command
    assert failing.slots < 10
    assert len(failing.strikes) <= 3
    assert failing.divergence
    assert failing.transcript
    with pytest.raises(Divergence, match="no block above"):
        build(seed, slots=failing.slots, only=frozenset(failing.strikes)).run()
    # Each strike that is left is needed.
    for strike in failing.strikes:
        build(seed, slots=failing.slots, only=frozenset(failing.strikes) - {strike}).run()
