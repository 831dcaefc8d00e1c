"""A chain in a file: accounts, blocks with their transactions, what forks could still undo, and the dice of the faults.

A node that was restored goes on as the saved one would have: the same commands make the same blocks. The file is one msgpack document behind a
line that names it and a digest, written beside its place and then moved there, so that a reader never meets half of one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from programs.devnode.ledger import Bank, LogEntry, StoredTransaction
from programs.errors import UserError

_TITLE = b"devnode snapshot 1\n"
_SYSVARS = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
Json = Any


class Saved(msgspec.Struct, array_like=True):
    """The document. Accounts are (address, lamports, data, owner, executable, rent epoch); banks as `pack_bank` makes them."""

    seed: int
    accounts: list[Json]
    banks: list[Json]
    working: Json
    blockhashes: list[tuple[str, int]]
    slot_hashes: list[tuple[int, str]]
    numbers: dict[str, int]
    faults: dict[str, Json]


def write(path: Path, saved: Saved) -> int:
    """Write the file; its size in bytes. UserError when it cannot be written."""
    payload = msgspec.msgpack.encode(saved)
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            file.write(_TITLE + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(
            f"snapshot {path} cannot be written: {error.strerror}; give a file in a folder that exists"
        ) from None
    return path.stat().st_size


def read(path: Path) -> Saved:
    """Read a file. UserError when there is none, or it is not a whole snapshot."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"snapshot {path} cannot be read: {error.strerror}") from None
    title, _, rest = content.partition(b"\n")
    digest, _, payload = rest.partition(b"\n")
    if title + b"\n" != _TITLE:
        raise UserError(f"{path} is no snapshot of this version of the development node; make a new one")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise UserError(f"snapshot {path} is damaged: its digest does not fit; make a new one")
    return msgspec.msgpack.decode(payload, type=Saved)


def pack_accounts(accounts: Iterable[tuple[Pubkey, Account | None]]) -> list[Json]:
    """Accounts in address order; one that does not exist is its address alone."""
    return [pack_account(address, account) for address, account in sorted(accounts, key=lambda pair: bytes(pair[0]))]


def pack_account(address: Pubkey, account: Account | None) -> Json:
    """(address, lamports, data, owner, executable, rent epoch), or (address,) where there is none."""
    if account is None:
        return (bytes(address),)
    owner = bytes(account.owner)
    return bytes(address), account.lamports, bytes(account.data), owner, account.executable, account.rent_epoch


def unpack_account(row: Json) -> tuple[Pubkey, Account | None]:
    """The other way."""
    address = Pubkey.from_bytes(row[0])
    if len(row) == 1:
        return address, None
    _, lamports, data, owner, executable, rent_epoch = row
    return address, Account(lamports, data, Pubkey.from_bytes(owner), executable, rent_epoch)


def is_sysvar(account: Account | None) -> bool:
    """Sysvars follow from the slot; they are made, not restored."""
    return account is not None and account.owner == _SYSVARS


def _keys(packed: bytes) -> tuple[Pubkey, ...]:
    return tuple(Pubkey.from_bytes(packed[at : at + 32]) for at in range(0, len(packed), 32))


def _pack_keys(keys: Iterable[Pubkey]) -> bytes:
    return b"".join(map(bytes, keys))


def pack_bank(bank: Bank) -> Json:
    """A bank as plain values."""
    transactions = [
        (
            row.signature, row.wire, row.version, _pack_keys(row.writable), _pack_keys(row.mentions), row.loaded_count,
            row.err, row.logs, row.memo, row.meta, row.is_vote, row.slot, row.index, row.fee_per_unit,
        )
        for row in bank.transactions
    ]  # fmt: skip
    collector = [(e.signature, e.err, e.logs, _pack_keys(sorted(e.mentions, key=bytes))) for e in bank.collector]
    journal = pack_accounts(bank.journal.items())
    return (
        bank.slot, bank.parent, bank.height, bank.blockhash, bank.previous_blockhash, bank.unix_s, transactions,
        journal, collector, bank.frozen, bank.fees,
    )  # fmt: skip


def unpack_bank(row: Json) -> Bank:
    """The other way."""
    slot, parent, height, blockhash, previous, unix_s, transactions, journal, collector, frozen, fees = row
    return Bank(
        slot,
        parent,
        height,
        blockhash,
        previous,
        unix_s,
        [_transaction(each) for each in transactions],
        dict(unpack_account(each) for each in journal),
        [LogEntry(sig, err, tuple(logs), frozenset(_keys(mentions))) for sig, err, logs, mentions in collector],
        frozen,
        fees,
    )


def _transaction(row: Json) -> StoredTransaction:
    signature, wire, version, writable, mentions, loaded, *rest = row
    return StoredTransaction(signature, wire, version, _keys(writable), _keys(mentions), tuple(loaded), *rest)
