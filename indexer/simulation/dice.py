"""Which fault strikes when. Each has a chance, a random stream of its own, and a record of its strikes.

With streams of their own, a strike that is left out does not move the dice of the others: that is what makes shrinking work. Seeds are texts,
so that nothing depends on the interpreter's hash seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

Strike: TypeAlias = tuple[str, int]
"""A fault and which of its throws it was, from 1."""

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        # the chain
        "skipped": "a slot has no block",
        "fork": "the newest blocks die; their transactions may land again",
        "tip_stalls": "confirmation stands still for some slots",
        "null_logs": "the node did not record a transaction's logs",
        "truncated": "a transaction's logs are cut at the byte limit",
        # the socket
        "phantom": "a notification of a transaction that never lands",
        "forged": "after a true notification one with other contents under its signature and slot",
        "forged_only": "in place of a true notification one with other contents",
        "lost": "a notification is not sent",
        "repeated": "a notification is sent twice",
        "reordered": "the notifications of a slot are shuffled",
        "delayed": "a notification comes some slots late",
        "wrong_slot": "a notification names the slot before its own",
        "account_lost": "that an account changed is not told",
        "account_alone": "an account is told to have changed in a slot in which its program did nothing",
        "lost_slot": "a confirmed slot is missing from the socket as a whole",
        "closed_socket": "the socket is gone for some slots",
        # HTTP
        "timeout": "a request has no answer, whatever the retries",
        "rate_limited": "a request is refused by rate, whatever the retries",
        "null_transaction": "getTransaction knows nothing of a stored transaction yet",
        "block_late": "a confirmed block is not served yet",
        "incomplete_list": "above the last served block a list lacks an entry",
        "invented": "a list holds a signature that does not exist",
        "hidden": "lists lack a signature for good, blocks hold it",
        "lagging_node": "a node behind the same balancer answers, some slots lower",
        "stale_fork": "a node behind the same balancer answers from the fork that died",
        "cut_list": "a list ends where it does not",
        "index_lost": "lists lack all that was before, for good; blocks hold it",
        "jumped": "the node has no blocks and no list entries of some slots, as after a start from a newer snapshot",
        "old_node": "the node answers as before Agave 4.0: no transactionIndex, no error for an unknown `before`",
        "pruned": "the node forgets what is older than some slots",
        # the second endpoint
        "witness_down": "the second endpoint has no answer",
        "witness_lags": "the second endpoint is some slots lower",
        "witness_hides": "the second endpoint's lists lack a signature for good, its blocks hold it",
        # process and database
        "added": "a program is added to the running ledger",
        "crash": "the process dies between two commands",
        "commit_unknown": "the process dies after a commit, before it hears of it",
        "answer_lost": "a commit succeeded, its answer is an error",
        "refused": "the database refuses a commit",
        "lease_lost": "the leader sleeps, a standby takes over, the sleeper wakes",
    }
)


class Dice:
    """Throws for one history. `only` leaves out every strike that is not in it."""

    def __init__(self, seed: int, chances: Mapping[str, float], only: frozenset[Strike] | None = None) -> None:
        unknown = set(chances) - set(FAULTS)
        if unknown:
            raise ValueError(f"unknown fault {min(unknown)!r}; there are: {', '.join(FAULTS)}")
        self.counts: Counter[str] = Counter()
        self.strikes: list[Strike] = []
        self.calm = False
        self._only = only
        self._chances = {name: chance for name, chance in chances.items() if chance > 0}
        # The chain's transactions are thrown like a fault, and can be left out like one; they are not counted as one.
        self._chances[FILLED] = 0.75
        self._seed = seed
        self._streams: dict[str, random.Random] = {}
        self._thrown = dict.fromkeys(self._chances, 0)
        # How many throws are left until the next one that strikes, this one included. They are thrown in advance, one after the other, only so far:
        # the details of a strike come from the same stream. 0: not thrown yet.
        self._left = dict.fromkeys(self._chances, 0)

    def calm_down(self) -> None:
        """No fault strikes from here on; the chain goes on."""
        self.calm = True
        self._left = {FILLED: self._left[FILLED]}

    def on(self, name: str) -> bool:
        """Whether this fault can strike in this history at all."""
        return name in self._chances

    def stream(self, name: str) -> random.Random:
        """The fault's own random numbers, for its details."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = random.Random(f"{self._seed}/{name}")
        return stream

    def strike(self, name: str) -> bool:
        """Throw; a strike is counted and recorded. Ask only where the fault would have an effect."""
        left = self._left.get(name)
        # Thousands of throws a history, and nearly all of them end in one of these two lines.
        if left is None:
            return False
        if left > 1:
            self._left[name] = left - 1
            return False
        if left == 0:
            left = self._until_strike(name)
        self._left[name] = left - 1
        if left != 1:
            return False
        strike = (name, self._thrown[name])
        if self._only is not None and strike not in self._only:
            return False
        self.strikes.append(strike)
        if name != FILLED:
            self.counts[name] += 1
        return True

    def _until_strike(self, name: str) -> int:
        throw, chance = self.stream(name).random, self._chances[name]
        left = 1
        while throw() >= chance:
            left += 1
        self._thrown[name] += left
        return left


FILLED = "filled"
_RARE = {
    "index_lost": 0.01,
    "jumped": 0.03,
    "pruned": 0.03,
    "fork": 0.05,
    "added": 0.02,
    "crash": 0.01,
    "commit_unknown": 0.05,
    "answer_lost": 0.05,
    "lease_lost": 0.004,
}
# What shows itself only together with another fault, or where there is little to strike.
_FREQUENT = frozenset({"cut_list", "delayed", "hidden", "account_lost"})
_PER_HISTORY = {"old_node": 1.0}


def drawn(seed: int) -> dict[str, float]:
    """A mix of chances by seed: each fault is off in half of the histories, rare or frequent in the others."""
    rng = random.Random(f"{seed}/mix")
    chances: dict[str, float] = {}
    for name in FAULTS:
        if name in _PER_HISTORY:
            chances[name] = rng.choice((0.0, 0.0, 1.0))
        elif name in ("pruned", "jumped"):
            chances[name] = rng.choice((0.0,) * 7 + (_RARE[name],))
        elif name in _RARE:
            chances[name] = rng.choice((0.0, 0.0, _RARE[name], 3 * _RARE[name]))
        elif name in _FREQUENT:
            chances[name] = rng.choice((0.0, 0.0, 0.1, 0.4))
        else:
            chances[name] = rng.choice((0.0, 0.0, 0.03, 0.2))
    return chances


def heavy() -> dict[str, float]:
    """Every fault at once, except what would leave nothing of the others to see."""
    return {name: _RARE.get(name, 0.1) for name in FAULTS if name not in ("old_node", "pruned", "jumped")}
