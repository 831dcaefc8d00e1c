"""Hints that a sealed slot lacks a transaction, and which of them are followed: each slot once, so many a minute, the rest counted.

Three kinds. A *notification* for a slot that was sealed before it came: a phantom, or what the list had hidden. An *account* of a program that
changed in a slot of which the ledger has no row: mostly a transfer to that account by a transaction that does not mention the program. A *list*
that names, in a sealed slot, what the ledger does not hold. None proves anything; the slot's block does. Whoever may call the node can make
notifications for any slot, so following them has a bound of its own for each kind.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from indexer.core.protocol import Address, Slot

Kind = Literal["notification", "account", "list"]
# Blocks read for hints in a minute, by kind: together well below one call a second.
A_MINUTE: Mapping[Kind, int] = {"notification": 20, "account": 6, "list": 10}
WAITING_MAX = 512
FOLLOWED_MAX = 8_192
ATTEMPTS_MAX = 4
WRITES_MAX = 2_048


class Hint(Struct, frozen=True):
    """A slot to look at, and the signatures that the hint is about; none for an account."""

    kind: Kind
    slot: Slot
    signatures: frozenset[str] = frozenset()


@dataclass(slots=True)
class HintTally:
    """Counts that only grow, by kind. `dropped`: past the bound, or not told in time; those slots were not looked at."""

    given: Counter[str] = field(default_factory=Counter)
    followed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


class Hints:
    """`give` on arrival; `take` the next one that may be followed now; `again` when its block could not be had."""

    def __init__(self, a_minute: Mapping[Kind, int] = A_MINUTE) -> None:
        self.tally = HintTally()
        self._a_minute = a_minute
        self._waiting: OrderedDict[Slot, Hint] = OrderedDict()
        self._followed: OrderedDict[Slot, None] = OrderedDict()
        self._attempts: Counter[Slot] = Counter()
        self._taken_s: dict[str, deque[float]] = {kind: deque() for kind in a_minute}

    def __len__(self) -> int:
        return len(self._waiting)

    def give(self, kind: Kind, slot: Slot, signature: str | None = None) -> bool:
        """A hint about a slot. False when the slot was looked at before, or there is no room."""
        self.tally.given[kind] += 1
        if slot in self._followed:
            return False
        named = frozenset() if signature is None else frozenset({signature})
        known = self._waiting.get(slot)
        if known is None and len(self._waiting) >= WAITING_MAX:
            self.tally.dropped[kind] += 1
            return False
        if known is not None:
            # The stronger kind stays; what was named is judged together.
            kind = known.kind if known.kind != "account" else kind
            named = frozenset([*known.signatures, *named][:1_000])
        self._waiting[slot] = Hint(kind, slot, named)
        return True

    def take(self, now_s: float) -> Hint | None:
        """The oldest hint whose kind has calls left in this minute; it counts as followed."""
        for slot, hint in self._waiting.items():
            taken = self._taken_s[hint.kind]
            while taken and taken[0] <= now_s - 60:
                taken.popleft()
            if len(taken) < self._a_minute[hint.kind]:
                taken.append(now_s)
                del self._waiting[slot]
                self._followed[slot] = None
                while len(self._followed) > FOLLOWED_MAX:
                    self._followed.popitem(last=False)
                self.tally.followed[hint.kind] += 1
                return hint
        return None

    def again(self, hint: Hint, answered: bool = True) -> None:
        """Its block could not be had; it is tried some times more. What nobody `answered` is no try: it says nothing of the slot."""
        self._attempts[hint.slot] += answered
        if self._attempts[hint.slot] >= ATTEMPTS_MAX or len(self._waiting) >= WAITING_MAX:
            self.drop(hint)
            return
        self._followed.pop(hint.slot, None)
        self._waiting[hint.slot] = hint

    def drop(self, hint: Hint) -> None:
        """Its block can't be had any more."""
        self.tally.dropped[hint.kind] += 1
        self._attempts.pop(hint.slot, None)

    def done(self, hint: Hint) -> None:
        """Its slot was looked at."""
        self._attempts.pop(hint.slot, None)


class AccountWrites:
    """Accounts of the programs that changed, by slot, until the slot is sealed: one without a row of the program is a hint. Bounded.

    `since`: per program the slot up to which rows are not known here; what is told of these slots says nothing.
    """

    def __init__(self, since: Mapping[Address, Slot]) -> None:
        self._since = dict(since)
        self._written: dict[Slot, set[Address]] = {}
        self._rows: OrderedDict[Slot, set[Address]] = OrderedDict()

    def admit(self, program: Address, since: Slot) -> None:
        """One more program, whose rows up to `since` were appended elsewhere."""
        self._since[program] = since

    def wrote(self, slot: Slot, program: Address) -> None:
        """The socket showed a changed account of the program."""
        self._written.setdefault(slot, set()).add(program)
        if len(self._written) > WRITES_MAX:
            # The furthest is the least likely to come: a liar may name any slot.
            del self._written[max(self._written)]

    def sealed(self, upto: Slot, rows: Iterable[tuple[Slot, frozenset[Address]]]) -> list[Slot]:
        """Slots up to `upto` in which an account changed and of which there is no row; `rows` were appended now."""
        for slot, programs in rows:
            self._rows.setdefault(slot, set()).update(programs)
        found = []
        for slot in sorted(slot for slot in self._written if slot <= upto):
            silent = self._written.pop(slot) - self._rows.get(slot, set())
            if any(slot > self._since.get(program, slot) for program in silent):
                found.append(slot)
        while len(self._rows) > WRITES_MAX:
            # What is forgotten can't explain a write any more, so none from before is believed.
            gone, _ = self._rows.popitem(last=False)
            self._since = {program: Slot(max(slot, gone)) for program, slot in self._since.items()}
        return found
