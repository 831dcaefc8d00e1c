"""The blockhashes of the newest blocks: which of them a transaction may carry, and what the slot hashes sysvar shows."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from solders.hash import Hash

from programs.devnode.config import BLOCKHASH_AGE_MAX
from programs.devnode.ledger import Bank

# Slot hashes that the sysvar holds.
_SLOT_HASHES_MAX = 512


class Blockhashes:
    """Of the living fork only: what dies is taken back."""

    def __init__(self) -> None:
        # blockhash text -> height of its block; holds a little more than the age at which it stops being valid.
        self._heights: OrderedDict[str, int] = OrderedDict()
        self._slot_hashes: deque[tuple[int, Hash]] = deque(maxlen=_SLOT_HASHES_MAX)

    def __len__(self) -> int:
        return len(self._heights)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._heights)

    def add(self, bank: Bank) -> None:
        """A block was frozen."""
        self._heights[bank.blockhash] = bank.height
        while len(self._heights) > 2 * BLOCKHASH_AGE_MAX:
            self._heights.popitem(last=False)
        self._slot_hashes.append((bank.slot, Hash.from_string(bank.blockhash)))

    def take_back(self, bank: Bank) -> None:
        """The newest block died."""
        self._heights.pop(bank.blockhash, None)
        self._slot_hashes.pop()

    def is_valid(self, blockhash: str, height: int) -> bool:
        """Whether a transaction with this blockhash may run on a block of this height."""
        own = self._heights.get(blockhash)
        return own is not None and own <= height and height - own <= BLOCKHASH_AGE_MAX

    def last_valid_height(self, blockhash: str) -> int:
        """The block height after which this blockhash is refused."""
        return self._heights.get(blockhash, 0) + BLOCKHASH_AGE_MAX

    def slot_hashes(self) -> list[tuple[int, Hash]]:
        """Newest first, as the sysvar has them."""
        return list(reversed(self._slot_hashes))

    def save(self) -> tuple[list[tuple[str, int]], list[tuple[int, str]]]:
        """Heights and slot hashes as plain values, oldest first."""
        return list(self._heights.items()), [(slot, str(blockhash)) for slot, blockhash in self._slot_hashes]

    def restore(self, heights: list[tuple[str, int]], slot_hashes: list[tuple[int, str]]) -> None:
        """The other way."""
        self._heights = OrderedDict(heights)
        self._slot_hashes.extend((slot, Hash.from_string(text)) for slot, text in slot_hashes)
