"""Accounts over time: the machine holds those of the newest bank; what older banks saw is read through the journals of the banks since. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from solders.account import Account
from solders.pubkey import Pubkey

from programs.devnode.ledger import Bank
from programs.devnode.vm import Machine


class Accounts:
    """`since`, wherever it is asked for: the banks after the moment that is meant, oldest first, the working one included; none for now."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._owned: dict[Pubkey, set[Pubkey]] = {}

    def at(self, address: Pubkey, since: Iterable[Bank]) -> Account | None:
        """The account as it was before these banks."""
        for bank in since:
            if address in bank.journal:
                return bank.journal[address]
        return self._machine.account(address)

    def owned(self, owner: Pubkey, since: Sequence[Bank]) -> Iterator[tuple[Pubkey, Account]]:
        """Accounts of a program before these banks, in address order."""
        candidates = set(self._owned.get(owner, ()))
        for bank in since:
            candidates.update(address for address, before in bank.journal.items() if before and before.owner == owner)
        for address in sorted(candidates, key=bytes):
            account = self.at(address, since)
            if account is not None and account.owner == owner:
                yield address, account

    def addresses(self) -> set[Pubkey]:
        """All accounts of now."""
        return {address for owned in self._owned.values() for address in owned}

    def place(self, address: Pubkey, account: Account | None) -> None:
        """Write an account, in no bank's name; None removes it."""
        before = self._machine.account(address)
        self._machine.set_account(address, account)
        self.owns(address, before, account)

    def undo(self, bank: Bank) -> None:
        """Write back what was before this bank; it must be the newest that is not undone."""
        for address, before in bank.journal.items():
            self.place(address, before)

    def owns(self, address: Pubkey, before: Account | None, after: Account | None) -> None:
        """An account changed in the machine: keep the index of owners right."""
        owner_before = before.owner if before else None
        owner_after = after.owner if after else None
        if owner_before == owner_after:
            return
        if owner_before is not None:
            self._owned.get(owner_before, set()).discard(address)
        if owner_after is not None:
            self._owned.setdefault(owner_after, set()).add(address)
