"""A walk over one program's signature list: down from the newest to the last seal, then up again in slot order, in bounded memory.

getSignaturesForAddress answers newest first, the ledger wants oldest first. The walk goes down once and keeps the oldest pages whole; of
the newer ones that no longer fit it keeps only the signature to ask them again by. Steady state is one page and no second question.

Facts used (SOLANA notes; Agave rpc.rs): at most 1,000 a page; `before` is exclusive; inside a slot the highest index comes first; nodes
since 4.0 refuse an unknown `before` with -32020, older ones answer with an empty or with the newest page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from msgspec import Struct

from indexer.core.protocol import (
    MIN_CONTEXT_SLOT_NOT_REACHED,
    NODE_BEHIND,
    TRANSACTION_NOT_FOUND,
    Address,
    Commitment,
    Failure,
    GetTransactions,
    Held,
    Listed,
    ListSignatures,
    Pause,
    Reply,
    Request,
    Slot,
)

PAGE_MAX = 1000
# No block has so many transactions: a list that names that many in one slot has no end.
PAGES_IN_SLOT_MAX = 100
# Pages held at once: 16,000 entries, some 4 MB.
PAGES_HELD_MAX = 16
# Entries below the cursor that are read to find the ledger's last row.
BENEATH_MAX = 16_000
# Behind a balancer the next node may be some slots lower than the one that served the barrier.
BEHIND_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class WalkBroken(Exception):
    """The list changed under the walk, or the node answered what can't be continued. Start over later."""

    reason: str


class _Page(Struct, frozen=True):
    """A page and how to ask it again. `joint` is the last entry of the next newer page: the reply must begin with it."""

    before: str | None
    joint: str | None
    above: Slot | None
    limit: int
    entries: tuple[Listed, ...] | None


class SignatureWalk:
    """Entries of one program with cursor < slot ≤ target, ascending. Call `descend` once, then `ascend` until it returns None."""

    def __init__(
        self,
        address: Address,
        cursor: Slot,
        target: Slot,
        commitment: Commitment,
        page_hint: int = PAGE_MAX,
        barrier: Slot | None = None,
    ) -> None:
        self.address = address
        self.pages_read = 0
        # Entries at or below the cursor, of slots that are sealed: where the list joins the ledger. Bounded by the page.
        self.beneath: dict[tuple[Slot, str], Listed] = {}
        self.ended = False
        self.cursor = cursor
        self._target = target
        self._commitment = commitment
        self._barrier = barrier
        # Where the next page begins.
        self._before: str | None = None
        self._next_joint: str | None = None
        self._above: Slot | None = None
        self._limit = max(1, min(page_hint, PAGE_MAX))
        self._pages: deque[_Page] = deque()
        self._held = 0
        self._carry: list[Listed] = []
        # The entry that the next newer page must end with.
        self._joint: str | None = None

    def descend(self, floor: Slot | None = None) -> Generator[Request, Reply, None]:
        """Read pages down to the cursor, or below `floor` where that lies deeper, or to the end of the list (`ended`). May be called again with a
        deeper floor. WalkBroken when the node can't continue its own list."""
        bottom = self.cursor if floor is None else Slot(min(self.cursor, floor - 1))
        still = 0
        while not self.ended and (self._above is None or self._above > bottom):
            above = self._above
            entries = yield from self._page(self._before, self._next_joint, self._limit, above)
            if not entries:
                solid = self._target if self._barrier is None else self._barrier
                if above is not None and above > solid:
                    # Above the barrier the index may still be written: there an empty page means nothing.
                    raise WalkBroken(f"an empty page behind {self._before}, which is newer than slot {solid}")
                if self._before is not None and self._next_joint is None:
                    yield from self._confirm_known(self._before)
                self.ended = True
                return
            self._remember(_Page(self._before, self._next_joint, above, self._limit, entries))
            # A short page is no end either: some providers give fewer than asked. Only an empty one is, behind a signature that is known.
            still = still + 1 if entries[-1].slot == above else 0
            if still > PAGES_IN_SLOT_MAX:
                raise WalkBroken(f"the signature list of {self.address} does not get past slot {above}")
            # The next page is asked from the entry before the last, so that it has to begin with the last one: then one node's one reply shows
            # that the list goes on there, or ends. A node that does not know `before`, on another fork for instance, can't give that.
            overlap = len(entries) > 1
            self._before = entries[-2 if overlap else -1].signature
            self._next_joint = entries[-1].signature if overlap else None
            self._above, self._limit = entries[-1].slot, PAGE_MAX

    def known(self, last: Slot) -> list[Listed]:
        """Entries at hand above the cursor and up to a slot."""
        held = [entry for page in self._pages for entry in page.entries or ()]
        return [entry for entry in held if self.cursor < entry.slot <= last]

    def above(self, row: Held) -> list[tuple[Slot, str]]:
        """Entries of sealed slots that the list has above its last row of the ledger: the ledger lacks them, or they came in with another fork."""
        index = row.transaction_index
        return [
            place
            for place, entry in self.beneath.items()
            if entry.slot > row.slot
            or (entry.slot == row.slot and entry.transaction_index is not None and entry.transaction_index > index)
        ]

    def ascend(self) -> Generator[Request, Reply, tuple[Slot, list[Listed]] | None]:
        """The next piece, from the oldest: (slot up to which it is complete, its entries by slot and index). None at the end."""
        if not self._pages:
            return None
        page = self._pages.pop()
        entries = page.entries
        if entries is None:
            entries = yield from self._page(page.before, page.joint, page.limit, page.above)
            if not entries or (self._joint is not None and entries[-1].signature != self._joint):
                raise WalkBroken(f"the list of {self.address} changed below {page.before} while it was read")
        else:
            self._held -= 1
        self._joint = page.joint or page.before
        fresh = [entry for entry in reversed(entries) if self.cursor < entry.slot <= self._target]
        waiting = [*self._carry, *fresh]
        if not self._pages:
            self._carry = []
            return self._target, _ordered(waiting)
        # The newest slot of this page may go on in the next one; it waits for it.
        complete = Slot(min(entries[0].slot - 1, self._target))
        self._carry = [entry for entry in waiting if entry.slot > complete]
        return complete, _ordered([entry for entry in waiting if entry.slot <= complete])

    def _page(
        self, before: str | None, joint: str | None, limit: int, above: Slot | None
    ) -> Generator[Request, Reply, tuple[Listed, ...]]:
        # The node must have reached `before` as well as the target: behind a balancer of nodes before 4.0 a lower one would answer with an
        # empty page, which looks like the end of the list (found by the simulator, seed 496).
        height = self._target if above is None else Slot(max(self._target, above))
        request = ListSignatures(self.address, self._commitment, limit, before, height, self._barrier)
        reply: Reply = None
        for _ in range(BEHIND_ATTEMPTS):
            self.pages_read += 1
            reply = yield request
            if not isinstance(reply, Failure) or reply.code not in (MIN_CONTEXT_SLOT_NOT_REACHED, NODE_BEHIND):
                break
            yield Pause(0.1, "list")
        if isinstance(reply, Failure):
            if reply.code == TRANSACTION_NOT_FOUND:
                raise WalkBroken(f"the node no longer knows {before}, the place in the list of {self.address}")
            raise WalkBroken(f"the signature list of {self.address} can't be read: {reply.message}")
        assert isinstance(reply, tuple)
        entries: tuple[Listed, ...] = reply
        if len(entries) > limit:
            raise WalkBroken(f"the signature list of {self.address} has {len(entries)} entries on a page of {limit}")
        if _disordered(entries):
            raise WalkBroken(f"the signature list of {self.address} is not newest first")
        names = {entry.signature for entry in entries}
        if len(names) < len(entries) or (joint is None and before in names):
            raise WalkBroken(f"the signature list of {self.address} names a transaction twice")
        # Nodes before 4.0 answer an unknown `before` with the newest page.
        if above is not None and entries and entries[0].slot > above:
            raise WalkBroken(
                f"the signature list of {self.address} began anew instead of continuing below slot {above}"
            )
        if joint is None:
            return entries
        if not entries or entries[0].signature != joint:
            raise WalkBroken(f"the signature list of {self.address} does not go on at {joint}")
        return entries[1:]

    def _confirm_known(self, before: str) -> Generator[Request, Reply, None]:
        # An empty page is the list's end, or an old node's way to say that it does not know `before`. That it is in a block proves nothing about
        # the list; but a transaction may be null for a while after it was listed.
        for _ in range(BEHIND_ATTEMPTS):
            reply = yield GetTransactions((before,), self._commitment)
            if isinstance(reply, tuple) and reply[0] is not None:
                return
            yield Pause(0.1, "list")
        raise WalkBroken(f"an empty page behind {before}, which the node does not know")

    def _remember(self, page: _Page) -> None:
        entries = page.entries or ()
        if entries and entries[-1].slot > self._target:
            return  # wholly newer than the target
        if entries and entries[-1].slot <= self.cursor:
            self.beneath.update({(e.slot, e.signature): e for e in entries if e.slot <= self.cursor})
            if len(self.beneath) > BENEATH_MAX:
                raise WalkBroken(f"the signature list of {self.address} does not come down to what the ledger holds")
            if entries[0].slot <= self.cursor:
                return  # wholly sealed already
        self._pages.append(page)
        self._held += 1
        if self._held > PAGES_HELD_MAX:
            for place, kept in enumerate(self._pages):
                # The newest page can't be asked again: without `before` the node would answer with what is newest then.
                if kept.entries is not None and kept.before is not None:
                    self._pages[place] = _Page(kept.before, kept.joint, kept.above, kept.limit, None)
                    self._held -= 1
                    return


class SideBySide:
    """The lists of several programs on their way up to one target, kept in step. Call `ascend` until it comes to the target."""

    def __init__(self, walks: Mapping[Address, SignatureWalk], target: Slot) -> None:
        self._walks = walks
        self._target = target
        self._complete = {address: walk.cursor for address, walk in walks.items()}
        self._waiting: dict[Address, list[Listed]] = {address: [] for address in walks}

    def ascend(self) -> Generator[Request, Reply, tuple[Slot, dict[Address, list[Listed]]]]:
        """The next piece: (slot up to which every list is complete, each program's entries up to there, ascending)."""
        complete = self._complete
        lowest = min(complete.values())
        for address, walk in self._walks.items():
            while complete[address] <= lowest and complete[address] < self._target:
                piece = yield from walk.ascend()
                if piece is None:
                    complete[address] = self._target
                else:
                    complete[address] = Slot(max(complete[address], piece[0]))
                    self._waiting[address].extend(piece[1])
        upper = Slot(min(complete.values()))
        found = {}
        for address, entries in self._waiting.items():
            found[address] = [entry for entry in entries if entry.slot <= upper]
            self._waiting[address] = [entry for entry in entries if entry.slot > upper]
        return upper, found


def _disordered(entries: tuple[Listed, ...]) -> bool:
    """Whether the page is not newest first, and inside a slot highest index first."""
    if not entries:
        return False
    slot, index = entries[0].slot, None
    for entry in entries:
        if entry.slot != slot:
            if entry.slot > slot:
                return True
            slot, index = entry.slot, entry.transaction_index
            continue
        place = entry.transaction_index
        if index is not None and place is not None and place >= index:
            return True
        index = place
    return slot < 0


def _ordered(entries: list[Listed]) -> list[Listed]:
    # `reversed` of the node's order is block order already; the sort is stable and only repairs carried pieces.
    return sorted(
        entries, key=lambda entry: (entry.slot, -1 if entry.transaction_index is None else entry.transaction_index)
    )
