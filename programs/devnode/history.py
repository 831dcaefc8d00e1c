"""The frozen blocks of the living fork, and where transactions are found in them: by slot, by signature, by address. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from solders.pubkey import Pubkey

from programs.devnode.ledger import Bank, StoredTransaction


class History:
    """Blocks, oldest first; slots may be missing, they never repeat. Signatures of the working bank are known here before it is frozen."""

    def __init__(self) -> None:
        self._banks: deque[Bank] = deque()
        self._by_slot: dict[int, Bank] = {}
        self._statuses: dict[str, StoredTransaction] = {}
        self._by_address: dict[Pubkey, list[StoredTransaction]] = {}
        # Transactions of frozen blocks.
        self.stored_count = 0
        # The oldest slot whose block is still here.
        self.first_available = 0

    def __len__(self) -> int:
        return len(self._banks)

    def __iter__(self) -> Iterator[Bank]:
        return iter(self._banks)

    def __getitem__(self, position: int) -> Bank:
        return self._banks[position]

    # --- looking ---------------------------------------------------------------------------------------------------

    def bank(self, slot: int) -> Bank | None:
        """The block at this slot."""
        return self._by_slot.get(slot)

    def at_or_below(self, slot: int) -> Bank:
        """The newest block not above `slot`, or the oldest there is."""
        return self._banks[max(self._first_above(slot) - 1, 0)]

    def between(self, slot_first: int, slot_last: int) -> Iterator[Bank]:
        """Blocks in a range, both ends included."""
        for index in range(self._first_above(slot_first - 1), len(self._banks)):
            if self._banks[index].slot > slot_last:
                return
            yield self._banks[index]

    def above(self, slot: int) -> list[Bank]:
        """Blocks above `slot`, oldest first. Takes as long as there are such blocks, not as there are blocks."""
        found: list[Bank] = []
        for bank in reversed(self._banks):
            if bank.slot <= slot:
                break
            found.append(bank)
        found.reverse()
        return found

    def _first_above(self, slot: int) -> int:
        return bisect_right(self._banks, slot, key=lambda bank: bank.slot)

    def find(self, signature: str) -> StoredTransaction | None:
        """A transaction, those of the working bank included."""
        return self._statuses.get(signature)

    def signatures_of(self, address: Pubkey) -> list[StoredTransaction]:
        """Transactions of frozen blocks that mention the address, oldest first. Not to be changed by the caller."""
        return self._by_address.get(address, [])

    @property
    def lowest_slot(self) -> int:
        """The oldest slot that is known to have had a block: where blocks were forgotten, the parent of the oldest that is left."""
        return self._banks[0].parent if self.first_available else 0

    # --- growing ---------------------------------------------------------------------------------------------------

    def remember(self, stored: StoredTransaction) -> None:
        """A transaction landed in the working bank."""
        self._statuses[stored.signature] = stored

    def append(self, bank: Bank) -> None:
        """The newest block, frozen."""
        self._banks.append(bank)
        self._by_slot[bank.slot] = bank
        self.stored_count += len(bank.transactions)
        for stored in bank.transactions:
            self._statuses[stored.signature] = stored
            for key in stored.mentions:
                self._by_address.setdefault(key, []).append(stored)

    # --- shrinking -------------------------------------------------------------------------------------------------

    def pop_newest(self) -> Bank:
        """Take the newest block off: its fork died."""
        bank = self._banks.pop()
        del self._by_slot[bank.slot]
        self.stored_count -= len(bank.transactions)
        for stored in reversed(bank.transactions):
            for key in stored.mentions:
                rows = self._by_address[key]
                rows.pop()
                if not rows:
                    del self._by_address[key]
        return bank

    def unlearn(self, bank: Bank) -> None:
        """Forget the signatures of a bank that died, frozen or not."""
        for stored in bank.transactions:
            self._statuses.pop(stored.signature, None)

    def prune(self, slots_max: int, transactions_max: int, keep: int) -> None:
        """Forget the oldest blocks until both bounds hold, but keep the newest `keep`."""
        while len(self._banks) > keep and (len(self._banks) > slots_max or self.stored_count > transactions_max):
            self._forget_oldest()
            self.first_available = self._banks[0].slot

    def prune_below(self, slot: int) -> None:
        """Forget blocks below `slot`."""
        while self._banks[0].slot < slot:
            self._forget_oldest()
        self.first_available = self._banks[0].slot

    def _forget_oldest(self) -> None:
        bank = self._banks.popleft()
        del self._by_slot[bank.slot]
        self.stored_count -= len(bank.transactions)
        touched: set[Pubkey] = set()
        for stored in bank.transactions:
            if self._statuses.get(stored.signature) is stored:
                del self._statuses[stored.signature]
            touched.update(stored.mentions)
        for key in touched:
            rows = self._by_address[key]
            cut = bisect_right(rows, bank.slot, key=lambda row: row.slot)
            if cut == len(rows):
                del self._by_address[key]
            else:
                del rows[:cut]
