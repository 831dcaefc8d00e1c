"""Running one transaction on the machine: what it may load, what it leaves, what it costs, and how it is stored. No I/O, no forks.

The machine knows neither rent nor forks nor fees of priority; that is done here, around it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from solders.account import Account
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from programs.devnode.accounts import Accounts
from programs.devnode.ledger import LEGACY, Bank, LogEntry, StoredTransaction, inner_json
from programs.devnode.messages import (
    AnyMessage,
    base_fee,
    cost_units,
    fee_of,
    memo_of,
    priority_fee,
    unit_price,
    writable_keys,
)
from programs.devnode.tokens import TOKEN_PROGRAMS, token_balances
from programs.devnode.vm import FEES_ONLY_ERRORS, LOADER_UPGRADEABLE, Machine, Outcome

_to_json = msgspec.json.encode
# What the runtime adds for an account to the bytes that it loads.
_ACCOUNT_BYTES = 64
# What it adds for a lookup table that the message takes addresses from, whatever the table's real size.
_LOOKUP_TABLE_BYTES = 8_248
# Bytes of a program account: a tag, and the address of the program's data.
_PROGRAM_BYTES = 36
Existing = Mapping[Pubkey, Account | None]
# Which of a run's keys somebody listens for; None when nobody listens for its logs at all.
Listens = Callable[[Iterable[Pubkey]], frozenset[Pubkey] | None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A transaction with all its keys: static ones, then writable and readonly ones from lookup tables."""

    transaction: VersionedTransaction
    keys: tuple[Pubkey, ...]
    writable: tuple[Pubkey, ...]
    looked_up: tuple[list[Pubkey], list[Pubkey]]

    @property
    def message(self) -> AnyMessage:
        """What was signed."""
        return self.transaction.message


class Execution:
    """Runs transactions on the newest bank, and simulates them on any."""

    def __init__(self, machine: Machine, accounts: Accounts, listens: Listens) -> None:
        self._machine = machine
        self._accounts = accounts
        self._listens = listens
        self._rent_minima: dict[int, int] = {}
        self._program_sizes: dict[Pubkey, int] = {}

    def load(self, transaction: VersionedTransaction) -> Loaded | None:
        """The transaction with its keys; None when a lookup table or an entry of one is missing."""
        looked_up = self._machine.looked_up(transaction)
        if looked_up is None:
            return None
        keys = (*transaction.message.account_keys, *looked_up[0], *looked_up[1])
        writable = writable_keys(transaction.message, keys, len(looked_up[0]))
        return Loaded(transaction, keys, writable, looked_up)

    # --- for good --------------------------------------------------------------------------------------------------

    def land(self, bank: Bank, loaded: Loaded, wire: bytes) -> StoredTransaction | Any:
        """Run on `bank`, the working one, and put it there. The stored transaction, or the error with which it was dropped."""
        message, keys, writable = loaded.message, loaded.keys, loaded.writable
        account = self._machine.account
        before = {key: account(key) for key in keys}
        outcome = self._machine.execute(loaded.transaction)
        fee = base_fee(message)
        if not outcome.ran:
            err = _load_error(outcome.err, message, before)
            if err not in FEES_ONLY_ERRORS or not self._charge(keys[0], fee):
                return err
            outcome = Outcome(err, [], [], 0, None, ran=True)
        # The payer is charged even where it is named as a program, too, which nothing else may write.
        written = {key: account(key) for key in (keys[0], *writable)}
        if outcome.err is None and (fault := self._rent_fault(keys, before, written)) is not None:
            # The machine does not look at rent: undo what it took for good, but for the fee.
            outcome = replace(outcome, err=fault)
            for key in writable:
                self._machine.set_account(key, before[key])
            self._charge(keys[0], fee)
            written = {key: account(key) for key in (keys[0], *writable)}
        extra = priority_fee(message)
        if extra and self._charge(keys[0], extra):
            fee += extra
            written[keys[0]] = account(keys[0])
        # Of a run that failed nothing is written but what the payer paid; who listens for the others hears nothing.
        self._journal(bank, before, written if outcome.err is None else {keys[0]: written[keys[0]]})
        stored = self._stored(loaded, wire, outcome, fee, before, {**before, **written})
        stored.slot, stored.index = bank.slot, len(bank.transactions)
        bank.transactions.append(stored)
        bank.fees += fee
        self._collect(bank, loaded, outcome)
        return stored

    def _collect(self, bank: Bank, loaded: Loaded, outcome: Outcome) -> None:
        # As on the real node: lines that nobody listens for when they are written are told to nobody who comes later.
        heard = self._listens(loaded.keys)
        if heard is not None:
            signature = str(loaded.transaction.signatures[0])
            bank.collector.append(LogEntry(signature, outcome.err, tuple(outcome.logs), heard))

    def _journal(self, bank: Bank, before: Existing, written: Existing) -> None:
        for key, account in written.items():
            self._program_sizes.pop(key, None)
            if before[key] is not None or account is not None:
                bank.journal.setdefault(key, before[key])
                self._accounts.owns(key, before[key], account)

    def _charge(self, payer: Pubkey, lamports: int) -> bool:
        account = self._machine.account(payer)
        if account is None or account.lamports < lamports:
            return False
        self._machine.set_account(payer, _with_lamports(account, account.lamports - lamports))
        return True

    # --- for a look ------------------------------------------------------------------------------------------------

    def simulate(self, bank: Bank, loaded: Loaded, before: dict[Pubkey, Account | None]) -> Outcome:
        """Run with these accounts and keep nothing but the log lines, which the bank's collector takes as it takes real ones."""
        stood = self._rewind(before)
        try:
            outcome = self._machine.simulate(loaded.transaction)
        finally:
            for key, account in stood.items():
                self._machine.set_account(key, account)
        if not outcome.ran:
            return Outcome(_load_error(outcome.err, loaded.message, before), [], [], 0, None, ran=False)
        if outcome.err is None:
            after = self.after(loaded.message, outcome, before)
            fault = self._rent_fault(loaded.keys, before, {key: after[key] for key in loaded.writable})
            outcome = outcome if fault is None else replace(outcome, err=fault, post_accounts=None)
        self._collect(bank, loaded, outcome)
        return outcome

    def _rewind(self, wanted: Existing) -> dict[Pubkey, Account | None]:
        """Put older accounts into the machine; returns what stood there."""
        stood: dict[Pubkey, Account | None] = {}
        for key, account in wanted.items():
            now = self._machine.account(key)
            if now != account and not (now is not None and now.executable):
                stood[key] = now
                self._machine.set_account(key, account)
        return stood

    @staticmethod
    def after(message: AnyMessage, outcome: Outcome, before: Existing) -> dict[Pubkey, Account | None]:
        """The accounts after a simulated run: what it wrote, or, where it failed and was charged, the fee alone."""
        out = dict(before)
        if outcome.err is None:
            out.update({key: account for key, account in (outcome.post_accounts or {}).items() if key in out})
        elif outcome.ran or outcome.err in FEES_ONLY_ERRORS:
            payer = message.account_keys[0]
            account = out[payer]
            if account is not None:
                out[payer] = _with_lamports(account, account.lamports - fee_of(message))
        return out

    # --- rules -----------------------------------------------------------------------------------------------------

    def _rent_fault(self, keys: tuple[Pubkey, ...], before: Existing, written: Existing) -> dict[str, Any] | None:
        """The error for an account that a run left with less than its rent; None when there is none such.

        An account that had too little already may go on with it, as long as it neither grows nor gains.
        """
        for key, account in written.items():
            if account is None or account.lamports >= self._rent_minimum(len(account.data)):
                continue
            old = before[key]
            was_poor = old is not None and 0 < old.lamports < self._rent_minimum(len(old.data))
            if not (was_poor and old and len(old.data) == len(account.data) and account.lamports <= old.lamports):
                return {"InsufficientFundsForRent": {"account_index": keys.index(key)}}
        return None

    def _rent_minimum(self, data_bytes: int) -> int:
        minimum = self._rent_minima.get(data_bytes)
        if minimum is None:
            minimum = self._rent_minima[data_bytes] = self._machine.rent_exempt_minimum(data_bytes)
        return minimum

    def loaded_bytes(self, message: AnyMessage, before: Existing) -> int:
        """What a run loaded: each account that exists counts its data and 64 bytes, and a program's data account with it."""
        total = _LOOKUP_TABLE_BYTES * len(getattr(message, "address_table_lookups", ()))
        for account in before.values():
            if account is None:
                continue
            total += len(account.data) + _ACCOUNT_BYTES
            if account.owner == LOADER_UPGRADEABLE and account.executable and len(account.data) >= _PROGRAM_BYTES:
                address = Pubkey.from_bytes(bytes(account.data[4:_PROGRAM_BYTES]))
                total += 0 if address in before else self._program_size(address)
        return total

    def _program_size(self, address: Pubkey) -> int:
        # Remembered: reading a program's account copies all of it.
        size = self._program_sizes.get(address)
        if size is None:
            account = self._machine.account(address)
            size = self._program_sizes[address] = 0 if account is None else len(account.data) + _ACCOUNT_BYTES
        return size

    # --- the record ------------------------------------------------------------------------------------------------

    def _stored(
        self, loaded: Loaded, wire: bytes, outcome: Outcome, fee: int, before: Existing, after: Existing
    ) -> StoredTransaction:
        message, keys, (writable, readonly) = loaded.message, loaded.keys, loaded.looked_up
        has_tokens = any(key in TOKEN_PROGRAMS for key in keys)
        find, err = self._machine.account, outcome.err
        meta: dict[str, Any] = {
            "computeUnitsConsumed": outcome.units,
            "costUnits": cost_units(message, len(loaded.writable), outcome.units, self.loaded_bytes(message, before)),
            "err": err,
            "fee": fee,
            "innerInstructions": msgspec.Raw(inner_json(outcome.inner)),
            "loadedAddresses": {"readonly": [str(key) for key in readonly], "writable": [str(key) for key in writable]},
            "logMessages": outcome.logs,
            "postBalances": _balances(keys, after),
            "postTokenBalances": token_balances(keys, after, find) if has_tokens else [],
            "preBalances": _balances(keys, before),
            "preTokenBalances": token_balances(keys, before, find) if has_tokens else [],
        }
        if outcome.return_data is not None:
            meta["returnData"] = return_data_json(outcome.return_data)
        meta["status"] = {"Ok": None} if err is None else {"Err": err}
        return StoredTransaction(
            signature=str(loaded.transaction.signatures[0]),
            wire=wire,
            version=0 if isinstance(message, MessageV0) else LEGACY,
            writable=loaded.writable,
            mentions=keys,
            loaded_count=(len(writable), len(readonly)),
            err=err,
            logs=outcome.logs,
            memo=memo_of(message),
            meta=_to_json(meta),
            fee_per_unit=unit_price(message),
        )


def _with_lamports(account: Account, lamports: int) -> Account:
    return Account(lamports, account.data, account.owner, account.executable, account.rent_epoch)


def _load_error(err: Any, message: AnyMessage, before: Existing) -> Any:
    if err == "InvalidProgramForExecution":
        programs = [message.account_keys[ix.program_id_index] for ix in message.instructions]
        if any(before.get(program) is None for program in programs):
            return "ProgramAccountNotFound"
    return err


def _balances(keys: Iterable[Pubkey], accounts: Existing) -> list[int]:
    return [account.lamports if (account := accounts[key]) else 0 for key in keys]


def return_data_json(returned: tuple[str, bytes]) -> dict[str, Any]:
    """Return data as replies show it."""
    program, data = returned
    return {"data": [base64.b64encode(data).decode(), "base64"], "programId": program}
