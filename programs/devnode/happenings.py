"""What a chain tells those who listen to it: slots that begin, commitments that move, forks that die."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from programs.devnode.ledger import Bank


class Commitment(IntEnum):
    """How sure a block is."""

    PROCESSED = 0
    CONFIRMED = 1
    FINALIZED = 2


@dataclass(frozen=True, slots=True)
class Moved:
    """A commitment moved over these banks, oldest first."""

    commitment: Commitment
    banks: tuple[Bank, ...]


@dataclass(frozen=True, slots=True)
class SlotStarted:
    """A bank was made."""

    slot: int
    parent: int
    root: int


@dataclass(frozen=True, slots=True)
class ForkDied:
    """These banks are no longer on the chain, newest first."""

    banks: tuple[Bank, ...]


Happening = Moved | SlotStarted | ForkDied
