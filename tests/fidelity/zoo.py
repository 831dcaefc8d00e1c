"""Instructions of the native programs and of SPL Token, to be shown in jsonParsed. None of them runs: a transfer that fails stands before them.

Each appears with many accounts, with one, and with its data cut short: what the real node does not read it shows as it is.
"""

from __future__ import annotations

import hashlib

from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

_SYSTEM = Pubkey.default()
_VOTE = Pubkey.from_string("Vote111111111111111111111111111111111111111")
_STAKE = Pubkey.from_string("Stake11111111111111111111111111111111111111")
_LOADER = Pubkey.from_string("BPFLoader2111111111111111111111111111111111")
_UPGRADEABLE = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
_TABLES = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
_ASSOCIATED = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
_MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_ACCOUNTS = 8
# Bytes of the instructions of one transaction, so that it fits a packet.
_BYTES_MAX = 500


def _key(name: str) -> bytes:
    return bytes(Keypair.from_seed(hashlib.sha256(f"fidelity/zoo {name}".encode()).digest()).pubkey())


def _u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    return _u64(len(value.encode())) + value.encode()


_OWNER, _BASE, _HASH = _key("owner"), _key("base"), hashlib.sha256(b"fidelity/zoo").digest()
_TIME = b"\1" + _u64(1_700_000_000)
_SLOTS = _u64(2) + _u64(7) + _u64(9) + _HASH
_LOCKOUTS = _u64(2) + _u64(7) + _u32(2) + _u64(9) + _u32(1)
# Root, then lockouts as offsets of varying width with their counts.
_COMPACT = _u64(5) + b"\2" + b"\2\2" + b"\xac\2\1" + _HASH
_SEEDED = _OWNER + _text("a seed")

_DATA: dict[Pubkey, tuple[bytes, ...]] = {
    _SYSTEM: (
        _u32(0) + _u64(1) + _u64(2) + _OWNER,
        _u32(1) + _OWNER,
        _u32(2) + _u64(3),
        _u32(3) + _BASE + _text("a seed") + _u64(1) + _u64(2) + _OWNER,
        _u32(4),
        _u32(5) + _u64(6),
        _u32(6) + _OWNER,
        _u32(7) + _OWNER,
        _u32(8) + _u64(9),
        _u32(9) + _BASE + _text("é") + _u64(2) + _OWNER,
        _u32(10) + _BASE + _text("") + _OWNER,
        _u32(11) + _u64(4) + _text("a seed") + _OWNER,
        _u32(12),
        _u32(13) + _u64(1) + _u64(2) + _OWNER,
        _u32(13) + _u64(0) + _u64(2) + _OWNER,
        _u32(14),
    ),
    _VOTE: (
        _u32(0) + _OWNER + _BASE + _HASH + _u8(7),
        _u32(1) + _OWNER + _u32(0),
        _u32(1) + _OWNER + _u32(1),
        _u32(2) + _SLOTS + _TIME,
        _u32(2) + _SLOTS + b"\0",
        _u32(3) + _u64(4),
        _u32(4),
        _u32(5) + _u8(9),
        _u32(6) + _SLOTS + b"\0" + _HASH,
        _u32(7) + _u32(1),
        _u32(8) + _LOCKOUTS + b"\1" + _u64(5) + _HASH + _TIME,
        _u32(9) + _LOCKOUTS + b"\0" + _HASH + b"\0" + _HASH,
        _u32(10) + _u32(0) + _SEEDED + _BASE,
        _u32(11) + _u32(1) + _SEEDED,
        _u32(12) + _COMPACT + _TIME,
        _u32(13) + _COMPACT + b"\0" + _HASH,
        _u32(14) + _COMPACT + _TIME + _HASH,
        _u32(14) + _u64(2**64 - 1) + _COMPACT[8:] + b"\0" + _HASH,
        _u32(15) + _COMPACT + b"\0" + _HASH + _HASH,
        _u32(16),
    ),
    _STAKE: (
        _u32(0) + _OWNER + _BASE + _u64(1) + _u64(2) + _HASH,
        _u32(1) + _OWNER + _u32(0),
        _u32(1) + _OWNER + _u32(1),
        _u32(2),
        _u32(3) + _u64(4),
        _u32(4) + _u64(5),
        _u32(5),
        _u32(6) + b"\1" + _u64(1) + b"\0" + b"\1" + _OWNER,
        _u32(6) + b"\0\1" + _u64(3) + b"\0",
        _u32(7),
        _u32(8) + _OWNER + _u32(1) + _text("a seed") + _BASE,
        _u32(9),
        _u32(10) + _u32(0),
        _u32(11) + _u32(1) + _text("a seed") + _BASE,
        _u32(12) + b"\1" + _u64(1) + b"\0",
        _u32(12) + b"\0\1" + _u64(2),
        _u32(13),
        _u32(14),
        _u32(15),
        _u32(16) + _u64(1),
        _u32(17) + _u64(2),
        _u32(18),
    ),
    _LOADER: (_u32(0) + _u32(3) + _u64(2) + b"ab", _u32(1), _u32(2)),
    _UPGRADEABLE: (
        _u32(0),
        _u32(1) + _u32(3) + _u64(2) + b"ab",
        _u32(2) + _u64(100),
        _u32(3),
        _u32(4),
        _u32(5),
        _u32(6) + _u32(10),
        _u32(7),
        _u32(8),
        _u32(9) + _u32(10),
        _u32(10),
    ),
    _TABLES: (
        _u32(0) + _u64(5) + _u8(254),
        _u32(1),
        _u32(2) + _u64(2) + _OWNER + _BASE,
        _u32(2) + _u64(0),
        _u32(3),
        _u32(4),
        _u32(5),
    ),
    # Read before anything runs: what is wrong or doubled here would keep the transaction from landing.
    _BUDGET: (_u8(1) + _u32(65_536), _u8(2) + _u32(100_000), _u8(3) + _u64(11), _u8(4) + _u32(10_000_000)),
    _MEMO: ("é".encode(), b"\xff", b""),
    _TOKEN: (
        *(_u8(0) + _u8(6) + _OWNER + tail for tail in (b"\0", b"\1" + _BASE)),
        *(_u8(kind) for kind in (1, 5, 9, 10, 11, 17, 22, 23, 255)),
        *(_u8(kind) + _u8(2) for kind in (2, 19)),
        *(_u8(kind) + _u64(1_500) for kind in (3, 4, 7, 8, 23)),
        *(_u8(6) + _u8(kind) + b"\1" + _OWNER for kind in range(5)),
        _u8(6) + _u8(0) + b"\0",
        *(_u8(kind) + _u64(1_500) + _u8(3) for kind in (12, 13, 14, 15)),
        *(_u8(kind) + _OWNER for kind in (16, 18)),
        _u8(20) + _u8(6) + _OWNER + b"\0",
        _u8(21),
        _u8(21) + b"\7\0",
        _u8(24) + b"1.5",
        _u8(38),
        b"",
    ),
    _ASSOCIATED: (b"", b"\0", b"\1", b"\2", b"\3", b"\0\0"),
}


def _instruction(program: Pubkey, data: bytes, accounts: int) -> Instruction:
    metas = [
        AccountMeta(Pubkey.from_bytes(_key(f"account {number}")), False, number % 2 == 0) for number in range(accounts)
    ]
    return Instruction(program, data, metas)


def _all(program: Pubkey) -> list[Instruction]:
    datas = _DATA[program]
    few = [data for data in datas if program in (_SYSTEM, _VOTE, _STAKE, _UPGRADEABLE, _TABLES, _TOKEN)]
    return [
        *(_instruction(program, data, _ACCOUNTS) for data in datas),
        *(_instruction(program, data, count) for data in few for count in (0, 1, 2, 3, 4)),
        *(_instruction(program, data[:-1], _ACCOUNTS) for data in few if len(data) > 4),
        *(_instruction(program, data + b"\0", _ACCOUNTS) for data in datas if program != _BUDGET),
    ]


def _packed(program: Pubkey, name: str) -> dict[str, list[Instruction]]:
    """As many in one transaction as fit."""
    packs: list[list[Instruction]] = [[]]
    size = 0
    for one in _all(program):
        size += len(one.data) + len(one.accounts) + 4
        if size > _BYTES_MAX:
            packs.append([])
            size = 0
        packs[-1].append(one)
    return {f"zoo {name} {number}": pack for number, pack in enumerate(packs)}


_NAMES = {
    _SYSTEM: "system",
    _VOTE: "vote",
    _STAKE: "stake",
    _LOADER: "loader",
    _UPGRADEABLE: "upgradeable loader",
    _TABLES: "tables",
    _BUDGET: "budget",
    _MEMO: "memo",
    _TOKEN: "token",
    _ASSOCIATED: "associated",
}
ZOO: dict[str, list[Instruction]] = {
    key: pack for program, name in _NAMES.items() for key, pack in _packed(program, name).items()
}
