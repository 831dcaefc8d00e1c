"""What is stored of a landed transaction and of a block, with the pieces of JSON that replies are put together from.

A transaction is kept as its wire bytes and its encoded `meta`; everything else is derived when somebody asks, so that a long history
stays small and a getBlock of a thousand transactions joins bytes instead of walking objects.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from solders.account import Account
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from programs.base58 import encode as base58_encode

_to_json = msgspec.json.encode
Version = int | str
LEGACY = "legacy"


@dataclass(slots=True)
class StoredTransaction:
    """One landed transaction. `index` counts from 0 inside its block; `meta` is the encoded meta object without `rewards`."""

    signature: str
    wire: bytes
    version: Version
    writable: tuple[Pubkey, ...]
    mentions: tuple[Pubkey, ...]
    loaded_count: tuple[int, int]
    err: Any
    logs: list[str]
    memo: str | None
    meta: bytes
    is_vote: bool = False
    slot: int = -1
    index: int = -1
    fee_per_unit: int = 0

    def parsed(self) -> VersionedTransaction:
        """The transaction as an object."""
        return VersionedTransaction.from_bytes(self.wire)

    def loaded(self) -> tuple[tuple[Pubkey, ...], tuple[Pubkey, ...]]:
        """Addresses from lookup tables: (writable, readonly). They are the tail of `mentions`."""
        writable, readonly = self.loaded_count
        tail = self.mentions[len(self.mentions) - writable - readonly :]
        return tail[:writable], tail[writable:]


@dataclass(slots=True)
class Bank:
    """One slot on one fork: its transactions and what the accounts were before it (`journal`, None: there was none)."""

    slot: int
    parent: int
    height: int
    blockhash: str
    previous_blockhash: str
    unix_s: int
    transactions: list[StoredTransaction] = field(default_factory=list)
    journal: dict[Pubkey, Account | None] = field(default_factory=dict)
    # Runs in the order in which they happened, simulations and preflights included: (signature, err, logs, mentions, is_vote).
    collector: list[LogEntry] = field(default_factory=list)
    frozen: bool = False
    fees: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a bank's log collector. Nothing in it says whether the transaction landed: that is the real node's habit.

    `mentions`: those of the run's keys for which somebody listened when it ran.
    """

    signature: str
    err: Any
    logs: tuple[str, ...]
    mentions: frozenset[Pubkey]


@lru_cache(maxsize=1 << 16)
def address_json(address: Pubkey) -> bytes:
    """The address as a JSON string."""
    return b'"' + str(address).encode() + b'"'


def _joined(parts: list[bytes]) -> bytes:
    return b"[" + b",".join(parts) + b"]"


def _compiled(program_index: int, accounts: bytes | list[int], data: bytes, height: int) -> bytes:
    return b'{"accounts":%s,"data":"%s","programIdIndex":%d,"stackHeight":%d}' % (
        _to_json(list(accounts)),
        base58_encode(data).encode(),
        program_index,
        height,
    )


def inner_json(groups: list[list[tuple[int, list[int], bytes, int]]]) -> bytes:
    """meta.innerInstructions: only groups that have instructions appear."""
    parts = [
        b'{"index":%d,"instructions":%s}' % (outer, _joined([_compiled(*row) for row in rows]))
        for outer, rows in enumerate(groups)
        if rows
    ]
    return _joined(parts)


def transaction_json(stored: StoredTransaction) -> bytes:
    """The `transaction` field in encoding "json"."""
    transaction = stored.parsed()
    message = transaction.message
    header = message.header
    lookups = b""
    if isinstance(message, MessageV0):
        rows = [
            {
                "accountKey": str(row.account_key),
                "readonlyIndexes": list(row.readonly_indexes),
                "writableIndexes": list(row.writable_indexes),
            }
            for row in message.address_table_lookups
        ]
        lookups = b'"addressTableLookups":%s,' % _to_json(rows)
    instructions = [_compiled(ix.program_id_index, ix.accounts, ix.data, 1) for ix in message.instructions]
    return (
        b'{"message":{"accountKeys":%s,%s"header":{"numReadonlySignedAccounts":%d,"numReadonlyUnsignedAccounts":%d,'
        b'"numRequiredSignatures":%d},"instructions":%s,"recentBlockhash":"%s"},"signatures":%s}'
        % (
            _joined([address_json(key) for key in message.account_keys]),
            lookups,
            header.num_readonly_signed_accounts,
            header.num_readonly_unsigned_accounts,
            header.num_required_signatures,
            _joined(instructions),
            str(message.recent_blockhash).encode(),
            signatures_json(transaction),
        )
    )


def signatures_json(transaction: VersionedTransaction) -> bytes:
    """All signatures of a transaction as a JSON array."""
    return _to_json([str(signature) for signature in transaction.signatures])


def account_keys(stored: StoredTransaction) -> list[dict[str, Any]]:
    """Keys as the jsonParsed encoding and transactionDetails "accounts" show them: static ones, then looked-up ones."""
    transaction = stored.parsed()
    message = transaction.message
    signers = message.header.num_required_signatures
    writable = set(stored.writable)
    static = len(message.account_keys)
    return [
        {
            "pubkey": str(key),
            "signer": position < signers,
            "source": "transaction" if position < static else "lookupTable",
            "writable": key in writable,
        }
        for position, key in enumerate(stored.mentions)
    ]


def wire_json(stored: StoredTransaction, encoding: str) -> bytes:
    """The `transaction` field in a binary encoding: base64, base58, or the old bare base58 text ("binary")."""
    if encoding == "base64":
        return b'["%s","base64"]' % base64.b64encode(stored.wire)
    text = base58_encode(stored.wire).encode()
    return b'"%s"' % text if encoding == "binary" else b'["%s","base58"]' % text
