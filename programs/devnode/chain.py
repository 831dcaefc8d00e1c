"""The chain: banks in slot order, forks that die, commitment, the index of signatures. No I/O, no clock: time is an argument.

The machine holds the accounts of the newest bank only. Each bank remembers what every account that it wrote was before it, so an older
state is read through those journals and a dead fork is undone by writing them back.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import msgspec
from solders.account import Account
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from programs.devnode.config import BLOCKHASH_AGE_MAX, SLOTS_PER_EPOCH, DevNodeConfig
from programs.devnode.ledger import LEGACY, Bank, LogEntry, StoredTransaction, inner_json
from programs.devnode.snapshot import (
    Saved,
    is_sysvar,
    pack_accounts,
    pack_bank,
    unpack_account,
    unpack_bank,
)
from programs.devnode.tokens import TOKEN_PROGRAM, TOKEN_PROGRAMS, token_balances
from programs.devnode.vm import (
    FEES_ONLY_ERRORS,
    LAMPORTS_PER_SIGNATURE,
    LOADER_UPGRADEABLE,
    RENT_EXEMPT_EPOCH,
    SYSTEM_PROGRAM,
    Machine,
    Outcome,
)

_to_json = msgspec.json.encode
_COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_MEMO_PROGRAMS = frozenset(
    Pubkey.from_string(text)
    for text in ("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")
)
_BUILTIN_ADDRESSES = tuple(
    Pubkey.from_string(text)
    for text in (
        "11111111111111111111111111111111",
        "ComputeBudget111111111111111111111111111111",
        "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
        "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo",
        "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
        "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
        "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "SysvarC1ock11111111111111111111111111111111",
        "SysvarRent111111111111111111111111111111111",
        "SysvarS1otHashes111111111111111111111111111",
    )
)
# What the runtime adds for an account to the bytes that it loads.
_ACCOUNT_BYTES = 64
# What it adds for a lookup table that the message takes addresses from, whatever the table's real size.
_LOOKUP_TABLE_BYTES = 8_248
_NATIVE_MINT = Pubkey.from_string("So11111111111111111111111111111111111111112")
# Slot hashes that the sysvar holds.
_SLOT_HASHES_MAX = 512
# Compute units that an instruction is granted when the message does not ask for a limit; and the most of one transaction.
_UNITS_DEFAULT = 200_000
_UNITS_BUILTIN = 3_000
_BUILTINS = frozenset(
    Pubkey.from_string(text)
    for text in (
        "11111111111111111111111111111111",
        "ComputeBudget111111111111111111111111111111",
        "Vote111111111111111111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "Ed25519SigVerify111111111111111111111111111",
    )
)
_UNITS_MAX = 1_400_000
# Blocks below the finalized one for which the accounts of that time are kept: what a node that is behind shows.
OLD_READS_SLOTS_MAX = 512
_SAVED_NUMBERS = (
    "transaction_count",
    "_confirmed_slot",
    "_first_available",
    "_last_finalized_notified",
    "_last_confirmed_notified",
    "_airdrops",
)
_FAUCET_START_LAMPORTS = 1_000_000 * 1_000_000_000


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


class Chain:
    """Banks, accounts, signatures. `happenings` fills with what subscribers may want to hear; the edge drains it."""

    def __init__(self, config: DevNodeConfig, unix_s: int, saved: Saved | None = None) -> None:
        self.config = config
        self.machine = Machine(config.log_bytes_max)
        self.happenings: deque[Happening] = deque()
        self.transaction_count = 0
        self.seed = config.seed if saved is None else saved.seed
        self._seed = hashlib.sha256(b"devnode genesis %d" % self.seed).digest()
        self.genesis_hash = str(Hash.hash(self._seed))
        self.identity = Keypair.from_seed(hashlib.sha256(b"identity" + self._seed).digest())
        self.faucet = Keypair.from_seed(hashlib.sha256(b"faucet" + self._seed).digest())
        # Frozen banks of the living fork, oldest first; slots may be missing, they never repeat.
        self._banks: deque[Bank] = deque()
        self._by_slot: dict[int, Bank] = {}
        self._statuses: dict[str, StoredTransaction] = {}
        self._by_address: dict[Pubkey, list[StoredTransaction]] = {}
        self._owned: dict[Pubkey, set[Pubkey]] = {}
        # blockhash text -> height of its block; holds a little more than the age at which it stops being valid.
        self._blockhashes: OrderedDict[str, int] = OrderedDict()
        self._slot_hashes: deque[tuple[int, Hash]] = deque(maxlen=_SLOT_HASHES_MAX)
        self._stored_count = 0
        self._confirmed_slot = 0
        self._first_available = 0
        self._last_finalized_notified = -1
        self._last_confirmed_notified = -1
        self._airdrops = 0
        self._rent_minima: dict[int, int] = {}
        self._program_sizes: dict[Pubkey, int] = {}
        if saved is None:
            self._genesis(unix_s)
        else:
            self._restore(saved)

    # --- birth -----------------------------------------------------------------------------------------------------

    def _genesis(self, unix_s: int) -> None:
        start = Account(
            lamports=_FAUCET_START_LAMPORTS * 1_000, data=b"", owner=SYSTEM_PROGRAM, rent_epoch=RENT_EXEMPT_EPOCH
        )
        self._place(self.faucet.pubkey(), start)
        for address in _BUILTIN_ADDRESSES:
            account = self.machine.account(address)
            if account is not None:
                self._own(address, None, account)
        # The mint of wrapped SOL: 9 decimals, nobody's authority, no supply.
        wrapped = bytes(44) + b"\x09\x01" + bytes(36)
        self._place(_NATIVE_MINT, Account(1_000_000_000, wrapped, TOKEN_PROGRAM, rent_epoch=1))
        self._load_programs(skip_known=False)
        first = Bank(0, 0, 0, self.genesis_hash, self.genesis_hash, unix_s, frozen=True)
        self._append_bank(first)
        self.working = self._new_bank(1, unix_s)

    # --- into a file and back ----------------------------------------------------------------------------------------

    def save(self, faults: dict[str, Any]) -> Saved:
        """Everything that the chain is, for `snapshot.write`."""
        addresses = {address for owned in self._owned.values() for address in owned}
        accounts = [(address, self.machine.account(address)) for address in addresses]
        return Saved(
            seed=self.seed,
            accounts=pack_accounts((a, account) for a, account in accounts if not is_sysvar(account)),
            banks=[pack_bank(bank) for bank in self._banks],
            working=pack_bank(self.working),
            blockhashes=list(self._blockhashes.items()),
            slot_hashes=[(slot, str(blockhash)) for slot, blockhash in self._slot_hashes],
            numbers={name: getattr(self, name) for name in _SAVED_NUMBERS},
            faults=faults,
        )

    def _restore(self, saved: Saved) -> None:
        accounts = [unpack_account(row) for row in saved.accounts]
        # A program is loaded when its account is written, and then its data must be there.
        for address, account in sorted(accounts, key=lambda pair: bool(pair[1] and pair[1].executable)):
            self._own(address, None, account)
            if self.machine.account(address) != account:
                self.machine.set_account(address, account)
        for row in saved.banks:
            bank = unpack_bank(row)
            self._banks.append(bank)
            self._by_slot[bank.slot] = bank
            self._index(bank)
            self._stored_count += len(bank.transactions)
        self.working = unpack_bank(saved.working)
        for stored in self.working.transactions:
            self._statuses[stored.signature] = stored
        self._blockhashes = OrderedDict(saved.blockhashes)
        self._slot_hashes.extend((slot, Hash.from_string(text)) for slot, text in saved.slot_hashes)
        for name in _SAVED_NUMBERS:
            setattr(self, name, saved.numbers[name])
        self._load_programs(skip_known=True)
        self.machine.set_clock(self.working.slot, self.working.unix_s, self.working.slot // SLOTS_PER_EPOCH)
        self.machine.set_slot_hashes(list(reversed(self._slot_hashes)))

    def _index(self, bank: Bank) -> None:
        for stored in bank.transactions:
            self._statuses[stored.signature] = stored
            for key in stored.mentions:
                self._by_address.setdefault(key, []).append(stored)

    def _load_programs(self, *, skip_known: bool) -> None:
        for text, source in self.config.programs.items():
            program = Pubkey.from_string(text)
            if skip_known and self.machine.account(program) is not None:
                continue
            elf = source if isinstance(source, bytes) else source.read_bytes()
            for address, account in self.machine.add_program(program, elf).items():
                self._own(address, None, account)

    def _place(self, address: Pubkey, account: Account | None) -> None:
        before = self.machine.account(address)
        self.machine.set_account(address, account)
        self._own(address, before, account)

    def put_account(self, address: Pubkey, account: Account | None) -> None:
        """Write an account from outside, in the working bank; a fork that dies takes the change with it."""
        before = self.machine.account(address)
        self.working.journal.setdefault(address, before)
        self._place(address, account)

    # --- where we are ----------------------------------------------------------------------------------------------

    @property
    def tip(self) -> Bank:
        """The newest frozen bank."""
        return self._banks[-1]

    @property
    def first_available(self) -> int:
        """The oldest slot whose block is still here."""
        return self._first_available

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot that has this commitment and a block."""
        if commitment is Commitment.PROCESSED:
            return self.tip.slot
        if commitment is Commitment.CONFIRMED:
            return self._confirmed_slot
        return self._finalized_slot()

    def _finalized_slot(self) -> int:
        return self._slot_back(self.config.finalized_lag_slots)

    def _slot_back(self, lag: int) -> int:
        """The newest block at or below (tip - lag)."""
        return self.bank_at_or_below(self.tip.slot - lag).slot

    def bank_at_or_below(self, slot: int) -> Bank:
        """The newest frozen bank not above `slot`, or the oldest there is."""
        banks = self._banks
        position = bisect_right(banks, slot, key=lambda bank: bank.slot) - 1
        return banks[max(position, 0)]

    def bank(self, slot: int) -> Bank | None:
        """The frozen bank of the living fork at this slot."""
        return self._by_slot.get(slot)

    def banks_between(self, slot_first: int, slot_last: int) -> Iterator[Bank]:
        """Banks of the living fork in a range, both ends included."""
        banks = self._banks
        position = bisect_right(banks, slot_first - 1, key=lambda bank: bank.slot)
        for index in range(position, len(banks)):
            if banks[index].slot > slot_last:
                return
            yield banks[index]

    # --- accounts --------------------------------------------------------------------------------------------------

    def account(self, address: Pubkey, slot: int) -> Account | None:
        """The account as it was at the end of `slot` (a frozen one, or the working one for the newest state)."""
        if slot < self.working.slot:
            for bank in self._banks_above(slot):
                if address in bank.journal:
                    return bank.journal[address]
        return self.machine.account(address)

    def _banks_above(self, slot: int) -> list[Bank]:
        above: list[Bank] = []
        for bank in reversed(self._banks):
            if bank.slot <= slot:
                break
            above.append(bank)
        above.reverse()
        above.append(self.working)
        return above

    def accounts_owned(self, owner: Pubkey, slot: int) -> Iterator[tuple[Pubkey, Account]]:
        """Accounts of a program at the end of `slot`, in address order."""
        candidates = set(self._owned.get(owner, ()))
        for bank in self._banks_above(slot):
            candidates.update(address for address, before in bank.journal.items() if before and before.owner == owner)
        for address in sorted(candidates, key=bytes):
            account = self.account(address, slot)
            if account is not None and account.owner == owner:
                yield address, account

    def _own(self, address: Pubkey, before: Account | None, after: Account | None) -> None:
        owner_before = before.owner if before else None
        owner_after = after.owner if after else None
        if owner_before == owner_after:
            return
        if owner_before is not None:
            self._owned.get(owner_before, set()).discard(address)
        if owner_after is not None:
            self._owned.setdefault(owner_after, set()).add(address)

    # --- blockhashes -----------------------------------------------------------------------------------------------

    def blockhash_is_valid(self, blockhash: str, bank: Bank) -> bool:
        """Whether a transaction with this blockhash may run on `bank`."""
        height = self._blockhashes.get(blockhash)
        return height is not None and height <= bank.height and bank.height - height <= BLOCKHASH_AGE_MAX

    def last_valid_height(self, blockhash: str) -> int:
        """The block height after which this blockhash is refused."""
        return self._blockhashes.get(blockhash, 0) + BLOCKHASH_AGE_MAX

    # --- transactions ----------------------------------------------------------------------------------------------

    def find(self, signature: str) -> StoredTransaction | None:
        """A transaction of the living fork, the working bank included."""
        return self._statuses.get(signature)

    def signatures_of(self, address: Pubkey) -> list[StoredTransaction]:
        """Transactions of frozen banks that mention the address, oldest first. Not to be changed by the caller."""
        return self._by_address.get(address, [])

    def refusal(self, transaction: VersionedTransaction, bank: Bank, *, sig_verify: bool, check_age: bool) -> Any:
        """The TransactionError with which a bank refuses before running, or None."""
        message = transaction.message
        if sig_verify and not all(transaction.verify_with_results()):
            return "SignatureFailure"
        if len(set(message.account_keys)) != len(message.account_keys):
            return "AccountLoadedTwice"
        if check_age and not self.blockhash_is_valid(str(message.recent_blockhash), bank):
            return "BlockhashNotFound"
        known = self._statuses.get(str(transaction.signatures[0]))
        # A node remembers messages, not signatures: other contents under a known signature are new to it.
        if check_age and known is not None and known.slot <= bank.slot and known.wire.endswith(bytes(message)):
            return "AlreadyProcessed"
        return None

    def submit(self, transaction: VersionedTransaction, wire: bytes) -> Any:
        """Run on the working bank. Returns None when it landed (failed or not), else the error with which it was dropped."""
        bank = self.working
        refused = self.refusal(transaction, bank, sig_verify=True, check_age=True)
        if refused is not None:
            return refused
        looked_up = self.machine.looked_up(transaction)
        if looked_up is None:
            return "AddressLookupTableNotFound"
        return self._land(bank, transaction, wire, looked_up)

    def _land(
        self, bank: Bank, transaction: VersionedTransaction, wire: bytes, looked_up: tuple[list[Pubkey], list[Pubkey]]
    ) -> Any:
        message = transaction.message
        keys = (*message.account_keys, *looked_up[0], *looked_up[1])
        writable = writable_keys(message, keys, len(looked_up[0]))
        before = {key: self.machine.account(key) for key in keys}
        outcome = self.machine.execute(transaction)
        fee = LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures
        if not outcome.ran:
            err = self._load_error(outcome.err, message, before)
            if err not in FEES_ONLY_ERRORS or not self._charge(keys[0], fee):
                return err
            outcome = Outcome(err, [], [], 0, None, ran=True)
        written = {key: self.machine.account(key) for key in writable}
        if outcome.err is None and (fault := self._rent_fault(keys, before, written)) is not None:
            # The machine does not look at rent: undo what it took for good, but for the fee.
            outcome = replace(outcome, err=fault)
            for key in writable:
                self.machine.set_account(key, before[key])
            self._charge(keys[0], fee)
            written = {key: self.machine.account(key) for key in writable}
        price = _unit_price(message)
        if price:
            extra = -(-price * _unit_limit(message) // 1_000_000)
            if self._charge(keys[0], extra):
                fee += extra
                written[keys[0]] = self.machine.account(keys[0])
        after = dict(before)
        for key, account in written.items():
            self._program_sizes.pop(key, None)
            after[key] = account
            if before[key] is not None or account is not None:
                bank.journal.setdefault(key, before[key])
                self._own(key, before[key], account)
        stored = _stored(self, transaction, wire, keys, writable, looked_up, outcome, fee, before, after)
        stored.slot, stored.index, stored.fee_per_unit = bank.slot, len(bank.transactions), price
        bank.transactions.append(stored)
        bank.fees += fee
        bank.collector.append(LogEntry(stored.signature, stored.err, tuple(stored.logs), frozenset(keys)))
        self._statuses[stored.signature] = stored
        self.transaction_count += 1
        return None

    def _rent_fault(
        self,
        keys: tuple[Pubkey, ...],
        before: Mapping[Pubkey, Account | None],
        written: Mapping[Pubkey, Account | None],
    ) -> dict[str, Any] | None:
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
            minimum = self._rent_minima[data_bytes] = self.machine.rent_exempt_minimum(data_bytes)
        return minimum

    def loaded_bytes(self, message: Message | MessageV0, before: Mapping[Pubkey, Account | None]) -> int:
        """What a run loaded: each account that exists counts its data and 64 bytes, and a program's data account with it."""
        total = _LOOKUP_TABLE_BYTES * len(getattr(message, "address_table_lookups", ()))
        for account in before.values():
            if account is None:
                continue
            total += len(account.data) + _ACCOUNT_BYTES
            if account.owner == LOADER_UPGRADEABLE and account.executable and len(account.data) >= 36:
                address = Pubkey.from_bytes(bytes(account.data[4:36]))
                total += 0 if address in before else self._program_size(address)
        return total

    def _program_size(self, address: Pubkey) -> int:
        # Remembered: reading a program's account copies all of it.
        size = self._program_sizes.get(address)
        if size is None:
            account = self.machine.account(address)
            size = self._program_sizes[address] = 0 if account is None else len(account.data) + _ACCOUNT_BYTES
        return size

    @staticmethod
    def after(
        message: Message | MessageV0, outcome: Outcome, before: Mapping[Pubkey, Account | None]
    ) -> dict[Pubkey, Account | None]:
        """The accounts after a simulated run: what it wrote, or, where it failed and was charged, the fee alone."""
        out = dict(before)
        if outcome.err is None:
            out.update({key: account for key, account in (outcome.post_accounts or {}).items() if key in out})
        elif outcome.ran or outcome.err in FEES_ONLY_ERRORS:
            payer = message.account_keys[0]
            account = out[payer]
            if account is not None:
                rest = account.lamports - fee_of(message)
                out[payer] = Account(rest, account.data, account.owner, account.executable, account.rent_epoch)
        return out

    def _charge(self, payer: Pubkey, lamports: int) -> bool:
        account = self.machine.account(payer)
        if account is None or account.lamports < lamports:
            return False
        rest = account.lamports - lamports
        self.machine.set_account(
            payer, Account(rest, account.data, account.owner, account.executable, account.rent_epoch)
        )
        return True

    @staticmethod
    def _load_error(err: Any, message: Message | MessageV0, before: dict[Pubkey, Account | None]) -> Any:
        if err == "InvalidProgramForExecution":
            programs = [message.account_keys[ix.program_id_index] for ix in message.instructions]
            if any(before.get(program) is None for program in programs):
                return "ProgramAccountNotFound"
        return err

    def simulate(self, transaction: VersionedTransaction, bank: Bank) -> tuple[Outcome, dict[Pubkey, Account | None]]:
        """Run on the state of a bank and keep nothing but the log lines, which that bank's collector takes as it takes real ones.

        Returns the outcome and the accounts before the run.
        """
        looked_up = self.machine.looked_up(transaction)
        if looked_up is None:
            return Outcome("AddressLookupTableNotFound", [], [], 0, None, ran=False), {}
        message = transaction.message
        keys = (*message.account_keys, *looked_up[0], *looked_up[1])
        before = {key: self.account(key, bank.slot) for key in keys}
        restore = self._rewind(before) if bank is not self.working else {}
        try:
            outcome = self.machine.simulate(transaction)
        finally:
            for key, account in restore.items():
                self.machine.set_account(key, account)
        if not outcome.ran:
            err = self._load_error(outcome.err, message, before)
            return Outcome(err, [], [], 0, None, ran=False), before
        if outcome.err is None:
            writable = writable_keys(message, keys, len(looked_up[0]))
            after = self.after(message, outcome, before)
            fault = self._rent_fault(keys, before, {key: after[key] for key in writable})
            outcome = outcome if fault is None else replace(outcome, err=fault, post_accounts=None)
        entry = LogEntry(str(transaction.signatures[0]), outcome.err, tuple(outcome.logs), frozenset(keys))
        bank.collector.append(entry)
        return outcome, before

    def _rewind(self, wanted: dict[Pubkey, Account | None]) -> dict[Pubkey, Account | None]:
        """Put older accounts into the machine; returns what stood there."""
        stood: dict[Pubkey, Account | None] = {}
        for key, account in wanted.items():
            now = self.machine.account(key)
            if now != account and not (now is not None and now.executable):
                stood[key] = now
                self.machine.set_account(key, account)
        return stood

    def airdrop(self, address: Pubkey, lamports: int) -> str:
        """Send lamports from the faucet; the signature. A blockhash older than the newest keeps equal airdrops apart."""
        self._airdrops += 1
        instruction = transfer(TransferParams(from_pubkey=self.faucet.pubkey(), to_pubkey=address, lamports=lamports))
        for blockhash in reversed(self._blockhashes):
            message = Message.new_with_blockhash([instruction], self.faucet.pubkey(), Hash.from_string(blockhash))
            transaction = VersionedTransaction(message, [self.faucet])
            if str(transaction.signatures[0]) not in self._statuses:
                break
        self.submit(transaction, bytes(transaction))
        return str(transaction.signatures[0])

    # --- time ------------------------------------------------------------------------------------------------------

    def _new_bank(self, slot: int, unix_s: int) -> Bank:
        parent = self.tip
        self.machine.set_clock(slot, unix_s, slot // SLOTS_PER_EPOCH)
        self.machine.set_slot_hashes(list(reversed(self._slot_hashes)))
        self.happenings.append(SlotStarted(slot, parent.slot, self._finalized_slot()))
        return Bank(slot, parent.slot, parent.height + 1, "", parent.blockhash, unix_s)

    def _append_bank(self, bank: Bank) -> None:
        self._banks.append(bank)
        self._by_slot[bank.slot] = bank
        self._blockhashes[bank.blockhash] = bank.height
        while len(self._blockhashes) > 2 * BLOCKHASH_AGE_MAX:
            self._blockhashes.popitem(last=False)
        self._slot_hashes.append((bank.slot, Hash.from_string(bank.blockhash)))

    def finish_slot(self, unix_s: int, *, skip: int = 0, confirm: bool = True) -> Bank:
        """Freeze the working bank and open the next one, `skip` slots further on than the next. Returns the frozen bank.

        `confirm` False leaves the confirmed slot where it is: call `confirm` a little later, as a real cluster's votes do.
        """
        bank = self.working
        digest = hashlib.sha256(bank.previous_blockhash.encode() + self._seed + bank.slot.to_bytes(8, "little"))
        for stored in bank.transactions:
            digest.update(stored.signature.encode())
        self._index(bank)
        bank.blockhash = str(Hash.from_bytes(digest.digest()))
        bank.frozen = True
        self._stored_count += len(bank.transactions)
        self._append_bank(bank)
        self._forget_undoing()
        self.happenings.append(Moved(Commitment.PROCESSED, (bank,)))
        if confirm:
            self.confirm()
        self.working = self._new_bank(bank.slot + 1 + skip, max(unix_s, bank.unix_s))
        self._prune()
        return bank

    def confirm(self) -> None:
        """Move the confirmed and finalized slots to their distance behind the newest frozen block."""
        confirmed = self._slot_back(self.config.confirmed_lag_slots)
        self._confirmed_slot = max(self._confirmed_slot, confirmed)
        self._announce(Commitment.CONFIRMED, self._confirmed_slot)
        self._announce(Commitment.FINALIZED, self._finalized_slot())

    def _announce(self, commitment: Commitment, slot: int) -> None:
        told = self._last_confirmed_notified if commitment is Commitment.CONFIRMED else self._last_finalized_notified
        if slot <= told:
            return
        self.happenings.append(Moved(commitment, tuple(self.banks_between(told + 1, slot))))
        if commitment is Commitment.CONFIRMED:
            self._last_confirmed_notified = slot
        else:
            self._last_finalized_notified = slot

    def _forget_undoing(self) -> None:
        """What could undo a block, and the log lines that wait for its notifications, are of no use once nobody reads that far back."""
        old = len(self._banks) - self.config.finalized_lag_slots - OLD_READS_SLOTS_MAX - 2
        if old >= 0:
            bank = self._banks[old]
            bank.journal, bank.collector = {}, []

    def _prune(self) -> None:
        config = self.config
        keep = config.finalized_lag_slots + BLOCKHASH_AGE_MAX
        pruned = False
        while len(self._banks) > keep and (
            len(self._banks) > config.ledger_slots_max or self._stored_count > config.ledger_transactions_max
        ):
            self._forget_oldest()
            pruned = True
        if pruned:
            self._first_available = self._banks[0].slot

    def prune_below(self, slot: int) -> None:
        """Forget blocks below `slot`, as a node with a short ledger does; finalized ones only."""
        bound = min(slot, self._finalized_slot())
        while self._banks[0].slot < bound:
            self._forget_oldest()
        self._first_available = self._banks[0].slot

    def _forget_oldest(self) -> None:
        bank = self._banks.popleft()
        del self._by_slot[bank.slot]
        self._stored_count -= len(bank.transactions)
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

    # --- forks -----------------------------------------------------------------------------------------------------

    def fork(self, depth: int, unix_s: int, *, reland: bool = False) -> tuple[Bank, ...]:
        """Let the working bank and the newest `depth` frozen ones die; their accounts are rolled back.

        The new fork goes on in the slot after the dead working one. With `reland` the dead transactions run again there, under the
        same signatures. Finalized blocks never die: `depth` stops above them. Returns the dead banks, newest first.
        """
        finalized = self._finalized_slot()
        dead = [self.working]
        while len(dead) <= depth and self._banks[-1].slot > finalized:
            bank = self._banks.pop()
            del self._by_slot[bank.slot]
            self._blockhashes.pop(bank.blockhash, None)
            self._slot_hashes.pop()
            self._stored_count -= len(bank.transactions)
            dead.append(bank)
        for bank in dead:
            self._undo(bank)
        slot_next = self.working.slot + 1
        top = self.tip.slot
        self._confirmed_slot = min(self._confirmed_slot, top)
        self._last_confirmed_notified = min(self._last_confirmed_notified, top)
        self.happenings.append(ForkDied(tuple(dead)))
        self.working = self._new_bank(slot_next, unix_s)
        if reland:
            for bank in reversed(dead):
                for stored in bank.transactions:
                    self.submit(stored.parsed(), stored.wire)
        return tuple(dead)

    def _undo(self, bank: Bank) -> None:
        for stored in reversed(bank.transactions):
            self._statuses.pop(stored.signature, None)
            self.transaction_count -= 1
            if bank.frozen:
                for key in stored.mentions:
                    rows = self._by_address[key]
                    rows.pop()
                    if not rows:
                        del self._by_address[key]
        for key, before in bank.journal.items():
            self._place(key, before)


def writable_keys(message: Message | MessageV0, keys: tuple[Pubkey, ...], loaded_writable: int) -> tuple[Pubkey, ...]:
    """Keys that the message may write, the looked-up ones included, in message order."""
    header = message.header
    static = len(message.account_keys)
    signed_writable = header.num_required_signatures - header.num_readonly_signed_accounts
    unsigned_writable = static - header.num_readonly_unsigned_accounts
    programs = {message.account_keys[ix.program_id_index] for ix in message.instructions}
    return tuple(
        key
        for position, key in enumerate(keys)
        if (
            position < signed_writable
            or header.num_required_signatures <= position < unsigned_writable
            or static <= position < static + loaded_writable
        )
        and key not in programs
    )


def _unit_price(message: Message | MessageV0) -> int:
    for ix in message.instructions:
        if message.account_keys[ix.program_id_index] == _COMPUTE_BUDGET and ix.data[:1] == b"\x03":
            return int.from_bytes(ix.data[1:9], "little")
    return 0


def _unit_limit(message: Message | MessageV0) -> int:
    granted = 0
    for ix in message.instructions:
        program = message.account_keys[ix.program_id_index]
        if program == _COMPUTE_BUDGET and ix.data[:1] == b"\x02":
            return min(int.from_bytes(ix.data[1:5], "little"), _UNITS_MAX)
        granted += _UNITS_BUILTIN if program in _BUILTINS else _UNITS_DEFAULT
    return min(granted, _UNITS_MAX)


def fee_of(message: Message | MessageV0) -> int:
    """Lamports that a message costs: its signatures and its priority."""
    return LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures + -(
        -_unit_price(message) * _unit_limit(message) // 1_000_000
    )


def _memo(message: Message | MessageV0) -> str | None:
    notes: list[str] = []
    for ix in message.instructions:
        if message.account_keys[ix.program_id_index] in _MEMO_PROGRAMS:
            data = bytes(ix.data)
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = "(unparseable)"
            notes.append(f"[{len(data)}] {text}")
    return "; ".join(notes) if notes else None


def _cost_units(message: Message | MessageV0, writable: int, units: int, loaded_bytes: int) -> int:
    """The block cost of a transaction: signatures, write locks, instruction bytes, loaded data and what it used."""
    signatures = 720 * message.header.num_required_signatures
    data_bytes = sum(len(ix.data) for ix in message.instructions)
    # Eight units for each page of 32 KiB that was loaded.
    return signatures + 300 * writable + data_bytes // 4 + 8 * -(-loaded_bytes // 32_768) + units


def _balances(keys: Iterable[Pubkey], accounts: dict[Pubkey, Account | None]) -> list[int]:
    return [account.lamports if (account := accounts[key]) else 0 for key in keys]


def _stored(
    chain: Chain,
    transaction: VersionedTransaction,
    wire: bytes,
    keys: tuple[Pubkey, ...],
    writable: tuple[Pubkey, ...],
    looked_up: tuple[list[Pubkey], list[Pubkey]],
    outcome: Outcome,
    fee: int,
    before: dict[Pubkey, Account | None],
    after: dict[Pubkey, Account | None],
) -> StoredTransaction:
    message = transaction.message
    has_tokens = any(key in TOKEN_PROGRAMS for key in keys)
    find = chain.machine.account
    pre_tokens: list[dict[str, Any]] = token_balances(keys, before, find) if has_tokens else []
    post_tokens: list[dict[str, Any]] = token_balances(keys, after, find) if has_tokens else []
    err = outcome.err
    meta: dict[str, Any] = {
        "computeUnitsConsumed": outcome.units,
        "costUnits": _cost_units(message, len(writable), outcome.units, chain.loaded_bytes(message, before)),
        "err": err,
        "fee": fee,
        "innerInstructions": msgspec.Raw(inner_json(outcome.inner)),
        "loadedAddresses": {
            "readonly": [str(key) for key in looked_up[1]],
            "writable": [str(key) for key in looked_up[0]],
        },
        "logMessages": outcome.logs,
        "postBalances": _balances(keys, after),
        "postTokenBalances": post_tokens,
        "preBalances": _balances(keys, before),
        "preTokenBalances": pre_tokens,
    }
    if outcome.return_data is not None:
        meta["returnData"] = return_data_json(outcome.return_data)
    meta["status"] = {"Ok": None} if err is None else {"Err": err}
    return StoredTransaction(
        signature=str(transaction.signatures[0]),
        wire=wire,
        version=0 if isinstance(message, MessageV0) else LEGACY,
        writable=writable,
        mentions=keys,
        loaded_count=(len(looked_up[0]), len(looked_up[1])),
        err=err,
        logs=outcome.logs,
        memo=_memo(message),
        meta=_to_json(meta),
    )


def return_data_json(returned: tuple[str, bytes]) -> dict[str, Any]:
    """Return data as replies show it."""
    program, data = returned
    return {"data": [base64.b64encode(data).decode(), "base64"], "programId": program}
