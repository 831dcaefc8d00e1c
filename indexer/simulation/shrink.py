"""Makes a failing history short: the fewest slots first, then as few strikes as still fail (delta debugging), then the slots again.

Deterministic and bounded: each trial is one run, and there are at most `TRIALS_MAX`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from indexer.simulation.dice import Strike
from indexer.simulation.run import SLOTS, Divergence, Simulation

TRIALS_MAX = 1_500

Build = Callable[..., Simulation]
"""Makes a simulation from `seed, slots=, only=, tell=`; a test's planted bugs come in with it."""


@dataclass(frozen=True, slots=True)
class Failing:
    """A short history that fails. `strikes` are all that strike in it; `transcript` is what happened, the last lines last."""

    seed: int
    slots: int
    strikes: tuple[Strike, ...]
    divergence: str
    transcript: tuple[str, ...]

    @property
    def command(self) -> str:
        """How to see it again."""
        only = ",".join(f"{name}:{number}" for name, number in self.strikes) or "none"
        return f"indexer simulate --seed {self.seed} --runs 1 --slots {self.slots} --only {only}"


def shrink(
    seed: int,
    *,
    slots: int = SLOTS,
    only: frozenset[Strike] | None = None,
    build: Build = Simulation,
    trials: int = TRIALS_MAX,
) -> Failing:
    """The shortest failing history found for a seed that fails with so many slots. ValueError when it does not fail."""
    search = _Search(seed, build, trials)
    whole = None if only is None else tuple(sorted(only))
    found = search.fails(slots, whole)
    if found is None:
        raise ValueError(f"seed {seed} does not fail with {slots} slots")
    slots, strikes = search.fewer_slots(slots, whole, found)
    strikes = search.fewer_strikes(slots, strikes)
    slots, strikes = search.fewer_slots(slots, strikes, strikes)
    strikes = search.fewer_strikes(slots, strikes)
    lines: list[str] = []
    divergence = ""
    try:
        build(seed, slots=slots, only=frozenset(strikes), tell=lines.append).run()
    except Divergence as error:
        divergence = str(error)
    return Failing(seed, slots, strikes, divergence, tuple(lines))


class _Search:
    def __init__(self, seed: int, build: Build, trials: int) -> None:
        self._seed, self._build, self._left = seed, build, trials

    def fails(self, slots: int, strikes: tuple[Strike, ...] | None) -> tuple[Strike, ...] | None:
        """The strikes of the run when it fails, else None."""
        if self._left <= 0:
            return None
        self._left -= 1
        only = None if strikes is None else frozenset(strikes)
        simulation = self._build(self._seed, slots=slots, only=only)
        try:
            simulation.run()
        except Divergence:
            return tuple(simulation.dice.strikes)
        return None

    def fewer_slots(
        self, slots: int, strikes: tuple[Strike, ...] | None, found: tuple[Strike, ...]
    ) -> tuple[int, tuple[Strike, ...]]:
        for fewer in range(1, slots):
            again = self.fails(fewer, strikes)
            if again is not None:
                return fewer, again
        return slots, found

    def fewer_strikes(self, slots: int, strikes: tuple[Strike, ...]) -> tuple[Strike, ...]:
        """Delta debugging: leave out ever smaller pieces while it still fails."""
        piece = max(1, len(strikes) // 2)
        while strikes:
            at, shorter = 0, False
            while at < len(strikes):
                fewer = strikes[:at] + strikes[at + piece :]
                again = self.fails(slots, fewer)
                if again is None:
                    at += piece
                else:
                    strikes, shorter = again, True
            if piece == 1 and not shorter:
                break
            piece = max(1, piece // 2)
        return strikes
