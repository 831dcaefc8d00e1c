"""The virtual machine beneath the node: LiteSVM, with the checks that a bank makes around it left to the bank.

Signatures, blockhashes and repeats are the chain's business (a chain has forks, the machine has not), so the machine's own checks are
off. Every account that a transaction may write is read back after it, so that the caller can undo it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, SimulatedTransactionInfo, TransactionMetadata

RENT_EXEMPT_EPOCH = (1 << 64) - 1
LOADER_UPGRADEABLE = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
SYSTEM_PROGRAM = Pubkey.default()
LOOKUP_TABLE_PROGRAM = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
# Bytes before the addresses in a lookup table account.
_LOOKUP_TABLE_HEADER = 56
LAMPORTS_PER_SIGNATURE = 5_000
_FAUCET_LAMPORTS = 1_000_000_000_000_000_000
# Errors met while loading: the transaction did not run; since SIMD-82 it lands all the same and pays its fee.
FEES_ONLY_ERRORS = frozenset(
    {"ProgramAccountNotFound", "InvalidProgramForExecution", "MaxLoadedAccountsDataSizeExceeded"}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: `err` in the JSON form of a TransactionError (None when it went well) and what the log says.

    `ran` is False when the transaction was refused before its first instruction and nothing was charged.
    """

    err: Any
    logs: list[str]
    inner: list[list[tuple[int, list[int], bytes, int]]]
    units: int
    return_data: tuple[str, bytes] | None
    ran: bool
    post_accounts: dict[Pubkey, Account] | None = None


def _outcome(result: TransactionMetadata | FailedTransactionMetadata | SimulatedTransactionInfo) -> Outcome:
    err: Any = None
    post: dict[Pubkey, Account] | None = None
    if isinstance(result, TransactionMetadata):
        meta = result
    else:
        meta = result.meta()
        if isinstance(result, FailedTransactionMetadata):
            err = json.loads(result.to_json())["err"]
        else:
            post = dict(result.post_accounts())
    inner = []
    for group in meta.inner_instructions():
        rows = []
        for item in group:
            # The stub calls it `stack_height` an instruction; the object has it as a method.
            height = item.stack_height()  # type: ignore[attr-defined]
            compiled = item.instruction()
            rows.append((compiled.program_id_index, list(compiled.accounts), bytes(compiled.data), height))
        inner.append(rows)
    returned = meta.return_data()  # type: ignore[attr-defined]
    data = bytes(returned.data)
    is_instruction_error = isinstance(err, dict) and "InstructionError" in err
    return Outcome(
        err=err,
        logs=list(meta.logs()),
        inner=inner,
        units=meta.compute_units_consumed(),
        return_data=(str(returned.program_id), data) if data else None,
        ran=err is None or is_instruction_error or bool(meta.logs()),
        post_accounts=post,
    )


class Machine:
    """One LiteSVM with every check off that a chain makes itself."""

    def __init__(self, log_bytes_max: int | None) -> None:
        machine = LiteSVM().with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)
        self._vm = machine.with_lamports(_FAUCET_LAMPORTS).with_log_bytes_limit(log_bytes_max)

    def execute(self, transaction: VersionedTransaction) -> Outcome:
        """Run and keep the effects; a failed run that was charged keeps the fee."""
        return _outcome(self._vm.send_transaction(transaction))

    def simulate(self, transaction: VersionedTransaction) -> Outcome:
        """Run and keep nothing."""
        return _outcome(self._vm.simulate_transaction(transaction))

    def account(self, address: Pubkey) -> Account | None:
        """The account, or None where there is none. An account without lamports does not exist."""
        account = self._vm.get_account(address)
        return None if account is None or account.lamports == 0 else account

    def set_account(self, address: Pubkey, account: Account | None) -> None:
        """Overwrite; None removes."""
        self._vm.set_account(address, account or Account(lamports=0, data=b"", owner=SYSTEM_PROGRAM))

    def rent_exempt_minimum(self, data_bytes: int) -> int:
        """Lamports that an account of this many bytes must hold."""
        return self._vm.minimum_balance_for_rent_exemption(data_bytes)

    def set_clock(self, slot: int, unix_s: int, epoch: int) -> None:
        """The clock sysvar, as a bank sets it at its start."""
        self._vm.set_clock(Clock(slot, 0, epoch, epoch + 1, unix_s))

    def set_slot_hashes(self, hashes: list[tuple[int, Hash]]) -> None:
        """The slot hashes sysvar, newest first."""
        self._vm.set_slot_hashes(hashes)

    def add_program(self, address: Pubkey, elf: bytes) -> dict[Pubkey, Account]:
        """Load a program the way a cluster holds it: a program account that points at its program data. Returns both accounts."""
        data_address = Pubkey.find_program_address([bytes(address)], LOADER_UPGRADEABLE)[0]
        # UpgradeableLoaderState::ProgramData { slot: 0, upgrade_authority_address: Some(nobody's key) }: what a cluster shows for a program of
        # its genesis.
        head = (3).to_bytes(4, "little") + bytes(8) + b"\1" + bytes(32)
        data_account = self._rent_exempt(head + elf, LOADER_UPGRADEABLE, executable=False)
        program = self._rent_exempt(
            (2).to_bytes(4, "little") + bytes(data_address), LOADER_UPGRADEABLE, executable=True
        )
        self._vm.set_account(data_address, data_account)
        self._vm.set_account(address, program)
        return {data_address: data_account, address: program}

    def _rent_exempt(self, data: bytes, owner: Pubkey, *, executable: bool) -> Account:
        lamports = self.rent_exempt_minimum(len(data))
        return Account(lamports=lamports, data=data, owner=owner, executable=executable, rent_epoch=0)

    def looked_up(self, transaction: VersionedTransaction) -> tuple[list[Pubkey], list[Pubkey]] | None:
        """(writable, readonly) addresses that the message takes from lookup tables; None when a table or an entry is missing."""
        lookups = getattr(transaction.message, "address_table_lookups", None)
        if not lookups:
            return [], []
        writable: list[Pubkey] = []
        readonly: list[Pubkey] = []
        for lookup in lookups:
            table = self.account(lookup.account_key)
            if table is None or table.owner != LOOKUP_TABLE_PROGRAM:
                return None
            entries = table.data[_LOOKUP_TABLE_HEADER:]
            for indexes, target in ((lookup.writable_indexes, writable), (lookup.readonly_indexes, readonly)):
                for index in indexes:
                    entry = entries[index * 32 : index * 32 + 32]
                    if len(entry) != 32:
                        return None
                    target.append(Pubkey.from_bytes(entry))
        return writable, readonly
