"""The chain: banks in slot order, forks that die, commitment. No I/O, no clock: time is an argument.

It puts its parts together: `History` has the frozen blocks and finds transactions in them, `Accounts` the accounts of now and of older
banks, `Blockhashes` what transactions may name, `Execution` runs them. Each bank remembers what every account that it wrote was before it,
so an older state is read through those journals, and a dead fork is undone by writing them back.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from solders.account import Account
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from programs.devnode.accounts import Accounts
from programs.devnode.blockhashes import Blockhashes
from programs.devnode.config import BLOCKHASH_AGE_MAX, SLOTS_PER_EPOCH, DevNodeConfig
from programs.devnode.execution import Execution, Listens
from programs.devnode.happenings import Commitment, ForkDied, Happening, Moved, SlotStarted
from programs.devnode.history import History
from programs.devnode.ledger import Bank, StoredTransaction
from programs.devnode.messages import AnyMessage
from programs.devnode.snapshot import Saved, is_sysvar, pack_accounts, pack_bank, unpack_account, unpack_bank
from programs.devnode.tokens import TOKEN_PROGRAM
from programs.devnode.vm import RENT_EXEMPT_EPOCH, SYSTEM_PROGRAM, Machine, Outcome

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
_NATIVE_MINT = Pubkey.from_string("So11111111111111111111111111111111111111112")
# Blocks below the finalized one for which the accounts of that time are kept: what a node that is behind shows.
OLD_READS_SLOTS_MAX = 512
_FAUCET_START_LAMPORTS = 1_000_000 * 1_000_000_000


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
        self.history = History()
        self._accounts = Accounts(self.machine)
        self._execution = Execution(self.machine, self._accounts, lambda keys: self.listens(keys))
        # Set by who serves subscriptions: lines of runs that nobody listens for are not kept.
        self.listens: Listens = lambda keys: None
        self._blockhashes = Blockhashes()
        self._confirmed_slot = 0
        # What subscribers were told to be confirmed, and finalized.
        self._told = {Commitment.CONFIRMED: -1, Commitment.FINALIZED: -1}
        self._airdrops = 0
        if saved is None:
            self._genesis(unix_s)
        else:
            self._restore(saved)

    # --- birth -----------------------------------------------------------------------------------------------------

    def _genesis(self, unix_s: int) -> None:
        start = Account(
            lamports=_FAUCET_START_LAMPORTS * 1_000, data=b"", owner=SYSTEM_PROGRAM, rent_epoch=RENT_EXEMPT_EPOCH
        )
        self._accounts.place(self.faucet.pubkey(), start)
        for address in _BUILTIN_ADDRESSES:
            account = self.machine.account(address)
            if account is not None:
                self._accounts.owns(address, None, account)
        # The mint of wrapped SOL: 9 decimals, nobody's authority, no supply.
        wrapped = bytes(44) + b"\x09\x01" + bytes(36)
        self._accounts.place(_NATIVE_MINT, Account(1_000_000_000, wrapped, TOKEN_PROGRAM, rent_epoch=1))
        self._load_programs(skip_known=False)
        self.genesis_unix_s = unix_s
        first = Bank(0, 0, 0, self.genesis_hash, self.genesis_hash, unix_s, frozen=True)
        self.history.append(first)
        self._blockhashes.add(first)
        self.working = self._new_bank(1, unix_s)

    def _load_programs(self, *, skip_known: bool) -> None:
        for text, source in self.config.programs.items():
            program = Pubkey.from_string(text)
            if skip_known and self.machine.account(program) is not None:
                continue
            elf = source if isinstance(source, bytes) else source.read_bytes()
            for address, account in self.machine.add_program(program, elf).items():
                self._accounts.owns(address, None, account)

    # --- into a file and back --------------------------------------------------------------------------------------

    def save(self, faults: dict[str, Any]) -> Saved:
        """Everything that the chain is, for `snapshot.write`."""
        accounts = [(address, self.machine.account(address)) for address in self._accounts.addresses()]
        blockhashes, slot_hashes = self._blockhashes.save()
        return Saved(
            seed=self.seed,
            accounts=pack_accounts((a, account) for a, account in accounts if not is_sysvar(account)),
            banks=[pack_bank(bank) for bank in self.history],
            working=pack_bank(self.working),
            blockhashes=blockhashes,
            slot_hashes=slot_hashes,
            numbers={
                "transaction_count": self.transaction_count,
                "_confirmed_slot": self._confirmed_slot,
                "_first_available": self.history.first_available,
                "_last_finalized_notified": self._told[Commitment.FINALIZED],
                "_last_confirmed_notified": self._told[Commitment.CONFIRMED],
                "_airdrops": self._airdrops,
                "genesis_unix_s": self.genesis_unix_s,
            },
            faults=faults,
        )

    def _restore(self, saved: Saved) -> None:
        accounts = [unpack_account(row) for row in saved.accounts]
        # A program is loaded when its account is written, and then its data must be there.
        for address, account in sorted(accounts, key=lambda pair: bool(pair[1] and pair[1].executable)):
            self._accounts.owns(address, None, account)
            if self.machine.account(address) != account:
                self.machine.set_account(address, account)
        for row in saved.banks:
            self.history.append(unpack_bank(row))
        self.working = unpack_bank(saved.working)
        for stored in self.working.transactions:
            self.history.remember(stored)
        self._blockhashes.restore(saved.blockhashes, saved.slot_hashes)
        self.transaction_count = saved.numbers["transaction_count"]
        self._confirmed_slot = saved.numbers["_confirmed_slot"]
        self.history.first_available = saved.numbers["_first_available"]
        self._told = {
            Commitment.CONFIRMED: saved.numbers["_last_confirmed_notified"],
            Commitment.FINALIZED: saved.numbers["_last_finalized_notified"],
        }
        self._airdrops = saved.numbers["_airdrops"]
        # Snapshots of before this was kept know it as long as they have the first block.
        self.genesis_unix_s = saved.numbers.get("genesis_unix_s", self.history[0].unix_s)
        self._load_programs(skip_known=True)
        self._set_sysvars(self.working.slot, self.working.unix_s)

    def put_account(self, address: Pubkey, account: Account | None) -> None:
        """Write an account from outside, in the working bank; a fork that dies takes the change with it."""
        self.working.journal.setdefault(address, self.machine.account(address))
        self._accounts.place(address, account)

    # --- where we are ----------------------------------------------------------------------------------------------

    @property
    def tip(self) -> Bank:
        """The newest frozen bank."""
        return self.history[-1]

    @property
    def first_available(self) -> int:
        """The oldest slot whose block is still here."""
        return self.history.first_available

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot that has this commitment and a block."""
        if commitment is Commitment.PROCESSED:
            return self.tip.slot
        if commitment is Commitment.CONFIRMED:
            return self._confirmed_slot
        return self._slot_back(self.config.finalized_lag_slots)

    def _slot_back(self, lag: int) -> int:
        """The newest block at or below (tip - lag)."""
        return self.bank_at_or_below(self.tip.slot - lag).slot

    def bank_at_or_below(self, slot: int) -> Bank:
        """The newest frozen bank not above `slot`, or the oldest there is."""
        return self.history.at_or_below(slot)

    def bank(self, slot: int) -> Bank | None:
        """The frozen bank of the living fork at this slot."""
        return self.history.bank(slot)

    def banks_between(self, slot_first: int, slot_last: int) -> Iterator[Bank]:
        """Banks of the living fork in a range, both ends included."""
        return self.history.between(slot_first, slot_last)

    # --- accounts and transactions ---------------------------------------------------------------------------------

    def account(self, address: Pubkey, slot: int) -> Account | None:
        """The account as it was at the end of `slot` (a frozen one, or the working one for the newest state)."""
        return self._accounts.at(address, self._since(slot))

    def accounts_owned(self, owner: Pubkey, slot: int) -> Iterator[tuple[Pubkey, Account]]:
        """Accounts of a program at the end of `slot`, in address order."""
        return self._accounts.owned(owner, self._since(slot))

    def _since(self, slot: int) -> list[Bank]:
        """Banks after the end of `slot`, oldest first."""
        return [] if slot >= self.working.slot else [*self.history.above(slot), self.working]

    def find(self, signature: str) -> StoredTransaction | None:
        """A transaction of the living fork, the working bank included."""
        return self.history.find(signature)

    def signatures_of(self, address: Pubkey) -> list[StoredTransaction]:
        """Transactions of frozen banks that mention the address, oldest first. Not to be changed by the caller."""
        return self.history.signatures_of(address)

    def blockhash_is_valid(self, blockhash: str, bank: Bank) -> bool:
        """Whether a transaction with this blockhash may run on `bank`."""
        return self._blockhashes.is_valid(blockhash, bank.height)

    def last_valid_height(self, blockhash: str) -> int:
        """The block height after which this blockhash is refused."""
        return self._blockhashes.last_valid_height(blockhash)

    def loaded_bytes(self, message: AnyMessage, before: dict[Pubkey, Account | None]) -> int:
        """What a run on these accounts loads."""
        return self._execution.loaded_bytes(message, before)

    # --- running ---------------------------------------------------------------------------------------------------

    def refusal(self, transaction: VersionedTransaction, bank: Bank, *, sig_verify: bool, check_age: bool) -> Any:
        """The TransactionError with which a bank refuses before running, or None."""
        message = transaction.message
        if sig_verify and not all(transaction.verify_with_results()):
            return "SignatureFailure"
        if len(set(message.account_keys)) != len(message.account_keys):
            return "AccountLoadedTwice"
        if check_age and not self.blockhash_is_valid(str(message.recent_blockhash), bank):
            return "BlockhashNotFound"
        known = self.find(str(transaction.signatures[0]))
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
        loaded = self._execution.load(transaction)
        if loaded is None:
            return "AddressLookupTableNotFound"
        landed = self._execution.land(bank, loaded, wire)
        if not isinstance(landed, StoredTransaction):
            return landed
        self.history.remember(landed)
        self.transaction_count += 1
        return None

    def simulate(self, transaction: VersionedTransaction, bank: Bank) -> tuple[Outcome, dict[Pubkey, Account | None]]:
        """Run on the state of a bank and keep nothing but the log lines, which that bank's collector takes as it takes real ones.

        Returns the outcome and the accounts before the run.
        """
        loaded = self._execution.load(transaction)
        if loaded is None:
            return Outcome("AddressLookupTableNotFound", [], [], 0, None, ran=False), {}
        since = self._since(bank.slot)
        before = {key: self._accounts.at(key, since) for key in loaded.keys}
        return self._execution.simulate(bank, loaded, before), before

    def after(
        self, message: AnyMessage, outcome: Outcome, before: dict[Pubkey, Account | None]
    ) -> dict[Pubkey, Account | None]:
        """The accounts after a simulated run."""
        return self._execution.after(message, outcome, before)

    def airdrop(self, address: Pubkey, lamports: int) -> str:
        """Send lamports from the faucet; the signature. A blockhash older than the newest keeps equal airdrops apart."""
        self._airdrops += 1
        instruction = transfer(TransferParams(from_pubkey=self.faucet.pubkey(), to_pubkey=address, lamports=lamports))
        for blockhash in reversed(self._blockhashes):
            message = Message.new_with_blockhash([instruction], self.faucet.pubkey(), Hash.from_string(blockhash))
            transaction = VersionedTransaction(message, [self.faucet])
            if self.find(str(transaction.signatures[0])) is None:
                break
        self.submit(transaction, bytes(transaction))
        return str(transaction.signatures[0])

    # --- time ------------------------------------------------------------------------------------------------------

    def _new_bank(self, slot: int, unix_s: int) -> Bank:
        parent = self.tip
        self._set_sysvars(slot, unix_s)
        self.happenings.append(SlotStarted(slot, parent.slot, self.slot_at(Commitment.FINALIZED)))
        return Bank(slot, parent.slot, parent.height + 1, "", parent.blockhash, unix_s)

    def _set_sysvars(self, slot: int, unix_s: int) -> None:
        self.machine.set_clock(slot, unix_s, slot // SLOTS_PER_EPOCH)
        self.machine.set_slot_hashes(self._blockhashes.slot_hashes())

    def finish_slot(self, unix_s: int, *, skip: int = 0, confirm: bool = True) -> Bank:
        """Freeze the working bank and open the next one, `skip` slots further on than the next. Returns the frozen bank.

        `confirm` False leaves the confirmed slot where it is: call `confirm` a little later, as a real cluster's votes do.
        """
        bank = self.working
        digest = hashlib.sha256(bank.previous_blockhash.encode() + self._seed + bank.slot.to_bytes(8, "little"))
        for stored in bank.transactions:
            digest.update(stored.signature.encode())
        bank.blockhash = str(Hash.from_bytes(digest.digest()))
        bank.frozen = True
        self.history.append(bank)
        self._blockhashes.add(bank)
        self._forget_undoing()
        self.happenings.append(Moved(Commitment.PROCESSED, (bank,)))
        if confirm:
            self.confirm()
        self.working = self._new_bank(bank.slot + 1 + skip, max(unix_s, bank.unix_s))
        config = self.config
        keep = config.finalized_lag_slots + BLOCKHASH_AGE_MAX
        self.history.prune(config.ledger_slots_max, config.ledger_transactions_max, keep)
        return bank

    def confirm(self) -> None:
        """Move the confirmed and finalized slots to their distance behind the newest frozen block."""
        confirmed = self._slot_back(self.config.confirmed_lag_slots)
        self._confirmed_slot = max(self._confirmed_slot, confirmed)
        for commitment in (Commitment.CONFIRMED, Commitment.FINALIZED):
            slot, told = self.slot_at(commitment), self._told[commitment]
            if slot > told:
                self.happenings.append(Moved(commitment, tuple(self.banks_between(told + 1, slot))))
                self._told[commitment] = slot

    def _forget_undoing(self) -> None:
        """What could undo a block, and the log lines that wait for its notifications, are of no use once nobody reads that far back."""
        old = len(self.history) - self.config.finalized_lag_slots - OLD_READS_SLOTS_MAX - 2
        if old >= 0:
            bank = self.history[old]
            bank.journal, bank.collector = {}, []

    def prune_below(self, slot: int) -> None:
        """Forget blocks below `slot`, as a node with a short ledger does; finalized ones only."""
        self.history.prune_below(min(slot, self.slot_at(Commitment.FINALIZED)))

    # --- forks -----------------------------------------------------------------------------------------------------

    def fork(self, depth: int, unix_s: int, *, reland: bool = False) -> tuple[Bank, ...]:
        """Let the working bank and the newest `depth` frozen ones die; their accounts are rolled back.

        The new fork goes on in the slot after the dead working one. With `reland` the dead transactions run again there, under the
        same signatures. Finalized blocks never die: `depth` stops above them. Returns the dead banks, newest first.
        """
        finalized = self.slot_at(Commitment.FINALIZED)
        dead = [self.working]
        while len(dead) <= depth and self.tip.slot > finalized:
            bank = self.history.pop_newest()
            self._blockhashes.take_back(bank)
            dead.append(bank)
        for bank in dead:
            self.history.unlearn(bank)
            self._accounts.undo(bank)
            self.transaction_count -= len(bank.transactions)
        slot_next = self.working.slot + 1
        top = self.tip.slot
        self._confirmed_slot = min(self._confirmed_slot, top)
        self._told[Commitment.CONFIRMED] = min(self._told[Commitment.CONFIRMED], top)
        self.happenings.append(ForkDied(tuple(dead)))
        self.working = self._new_bank(slot_next, unix_s)
        if reland:
            for bank in reversed(dead):
                for stored in bank.transactions:
                    self.submit(stored.parsed(), stored.wire)
        return tuple(dead)
