"""The jsonParsed form of instructions of the native programs: system, vote, stake, the loaders, lookup tables. No I/O.

Each instruction is a row of a table: its name, how many accounts it needs at least, what each account is called, and what its data hold.
A ValueError means that the real node shows this one as it is, too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey

Info = dict[str, Any]
_KEY_BYTES = 32
_NO_ROOT = (1 << 64) - 1
_VARINT_BITS = 64


class Data:
    """A place in the bytes of an instruction, read as bincode writes them. ValueError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise ValueError("short instruction")
        self._at += size
        return piece

    def _number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def u8(self) -> int:
        """One byte."""
        return self._number(1)

    def u32(self) -> int:
        """Four bytes."""
        return self._number(4)

    def u64(self) -> int:
        """Eight bytes."""
        return self._number(8)

    def i64(self) -> int:
        """Eight bytes with a sign."""
        return int.from_bytes(self.take(8), "little", signed=True)

    def key(self) -> str:
        """An address or a hash."""
        return str(Pubkey.from_bytes(self.take(_KEY_BYTES)))

    def text(self) -> str:
        """A string, its length before it."""
        return self.take(self.u64()).decode()

    def option(self, read: Callable[[], Any]) -> Any:
        """None, or what `read` reads."""
        flag = self.u8()
        if flag > 1:
            raise ValueError("neither none nor some")
        return read() if flag else None

    def varint(self) -> int:
        """Seven bits a byte, lowest first."""
        value = 0
        for shift in range(0, _VARINT_BITS, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise ValueError("endless number")


Fields = Callable[[Data], Info]


def _nothing(_: Data) -> Info:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """One instruction: `accounts` names them by place; those that may be missing are left out, or null where `nulls` names them."""

    name: str
    least: int
    accounts: Mapping[str, int]
    fields: Fields = _nothing
    nulls: frozenset[str] = frozenset()
    has_info: bool = True

    def shown(self, data: Data, accounts: Sequence[str]) -> Info:
        """What `parsed` holds."""
        fields = self.fields(data)
        if len(accounts) < self.least:
            raise ValueError("accounts are missing")
        if not self.has_info:
            return {"type": self.name}
        info: Info = {}
        for name, place in self.accounts.items():
            if place < len(accounts):
                info[name] = accounts[place]
            elif name in self.nulls:
                info[name] = None
        return {"info": {**info, **fields}, "type": self.name}


def _places(*names: str) -> dict[str, int]:
    return {name: place for place, name in enumerate(names) if name}


# --- system ----------------------------------------------------------------------------------------------------------


def _create(data: Data) -> Info:
    return {"lamports": data.u64(), "space": data.u64(), "owner": data.key()}


def _create_with_seed(data: Data) -> Info:
    return {"base": data.key(), "seed": data.text(), **_create(data)}


def _allocate_with_seed(data: Data) -> Info:
    return {"base": data.key(), "seed": data.text(), "space": data.u64(), "owner": data.key()}


def _assign_with_seed(data: Data) -> Info:
    return {"base": data.key(), "seed": data.text(), "owner": data.key()}


def _transfer_with_seed(data: Data) -> Info:
    return {"lamports": data.u64(), "sourceSeed": data.text(), "sourceOwner": data.key()}


_NONCE = ("nonceAccount", "recentBlockhashesSysvar")
_SYSTEM: dict[int, Kind] = {
    0: Kind("createAccount", 2, _places("source", "newAccount"), _create),
    1: Kind("assign", 1, _places("account"), lambda d: {"owner": d.key()}),
    2: Kind("transfer", 2, _places("source", "destination"), lambda d: {"lamports": d.u64()}),
    3: Kind("createAccountWithSeed", 2, _places("source", "newAccount"), _create_with_seed),
    4: Kind("advanceNonce", 3, _places(*_NONCE, "nonceAuthority")),
    5: Kind(
        "withdrawFromNonce",
        5,
        _places("nonceAccount", "destination", "recentBlockhashesSysvar", "rentSysvar", "nonceAuthority"),
        lambda d: {"lamports": d.u64()},
    ),
    6: Kind("initializeNonce", 3, _places(*_NONCE, "rentSysvar"), lambda d: {"nonceAuthority": d.key()}),
    7: Kind("authorizeNonce", 2, _places("nonceAccount", "nonceAuthority"), lambda d: {"newAuthorized": d.key()}),
    8: Kind("allocate", 1, _places("account"), lambda d: {"space": d.u64()}),
    9: Kind("allocateWithSeed", 2, _places("account"), _allocate_with_seed),
    10: Kind("assignWithSeed", 2, _places("account"), _assign_with_seed),
    11: Kind("transferWithSeed", 3, _places("source", "sourceBase", "destination"), _transfer_with_seed),
    12: Kind("upgradeNonce", 1, _places("nonceAccount")),
}
_PREFUNDED = Kind("createAccountAllowPrefund", 2, _places("newAccount", "source"), _create)
_UNFUNDED = Kind(
    "createAccountAllowPrefund",
    1,
    _places("newAccount"),
    lambda d: {name: value for name, value in _create(d).items() if name != "lamports"},
)


def _system_kind(number: int, data: bytes) -> Kind | None:
    if number == 13:
        return _PREFUNDED if any(data[4:12]) else _UNFUNDED
    return _SYSTEM.get(number)


# --- vote ------------------------------------------------------------------------------------------------------------


def _variant(data: Data, *names: str) -> str:
    number = data.u32()
    if number >= len(names):
        raise ValueError("no such variant")
    return names[number]


def _voter(data: Data) -> str:
    return _variant(data, "Voter", "Withdrawer")


def _slots_voted(data: Data) -> Info:
    slots = [data.u64() for _ in range(data.u64())]
    return {"slots": slots, "hash": data.key(), "timestamp": data.option(data.i64)}


def _lockouts(data: Data) -> Info:
    lockouts = []
    for _ in range(data.u64()):
        slot = data.u64()
        lockouts.append({"slot": slot, "confirmation_count": data.u32()})
    root = data.option(data.u64)
    return {"lockouts": lockouts, "root": root, "hash": data.key(), "timestamp": data.option(data.i64)}


def _compact(data: Data) -> Info:
    """Lockouts as distances from the root, each of as many bytes as it takes."""
    root = data.u64()
    slot = 0 if root == _NO_ROOT else root
    lockouts = []
    # Their count is a short one: a tower has 31 places.
    for _ in range(data.varint()):
        slot += data.varint()
        if slot > _NO_ROOT:
            raise ValueError("a slot beyond 64 bits")
        lockouts.append({"slot": slot, "confirmation_count": data.u8()})
    return {
        "lockouts": lockouts,
        "root": None if root == _NO_ROOT else root,
        "hash": data.key(),
        "timestamp": data.option(data.i64),
    }


def _tower(data: Data) -> Info:
    return {**_compact(data), "blockId": data.key()}


def _vote_with_seed(data: Data) -> Info:
    return {"authorityType": _voter(data), "authorityOwner": data.key(), "authoritySeed": data.text()}


def _vote_init(data: Data) -> Info:
    # The node is shown as the account that it is, not as the data name it.
    data.key()
    return {
        "authorizedVoter": data.key(),
        "authorizedWithdrawer": data.key(),
        "commission": data.u8(),
    }


_VOTED = _places("voteAccount", "slotHashesSysvar", "clockSysvar", "voteAuthority")
_UPDATED = _places("voteAccount", "voteAuthority")
_SEEDED = _places("voteAccount", "clockSysvar", "authorityBaseKey")
_VOTE: dict[int, Kind] = {
    0: Kind("initialize", 4, _places("voteAccount", "rentSysvar", "clockSysvar", "node"), _vote_init),
    1: Kind(
        "authorize",
        3,
        _places("voteAccount", "clockSysvar", "authority"),
        lambda d: {"newAuthority": d.key(), "authorityType": _voter(d)},
    ),
    2: Kind("vote", 4, _VOTED, lambda d: {"vote": _slots_voted(d)}),
    3: Kind("withdraw", 3, _places("voteAccount", "destination", "withdrawAuthority"), lambda d: {"lamports": d.u64()}),
    4: Kind("updateValidatorIdentity", 3, _places("voteAccount", "newValidatorIdentity", "withdrawAuthority")),
    5: Kind("updateCommission", 2, _places("voteAccount", "withdrawAuthority"), lambda d: {"commission": d.u8()}),
    6: Kind("voteSwitch", 4, _VOTED, lambda d: {"vote": _slots_voted(d), "hash": d.key()}),
    7: Kind(
        "authorizeChecked",
        4,
        _places("voteAccount", "clockSysvar", "authority", "newAuthority"),
        lambda d: {"authorityType": _voter(d)},
    ),
    8: Kind("updatevotestate", 2, _UPDATED, lambda d: {"voteStateUpdate": _lockouts(d)}),
    9: Kind("updatevotestateswitch", 2, _UPDATED, lambda d: {"voteStateUpdate": _lockouts(d), "hash": d.key()}),
    10: Kind("authorizeWithSeed", 3, _SEEDED, lambda d: {**_vote_with_seed(d), "newAuthority": d.key()}),
    11: Kind("authorizeCheckedWithSeed", 4, {**_SEEDED, "newAuthority": 3}, _vote_with_seed),
    12: Kind("compactupdatevotestate", 2, _UPDATED, lambda d: {"voteStateUpdate": _compact(d)}),
    13: Kind("compactupdatevotestateswitch", 2, _UPDATED, lambda d: {"voteStateUpdate": _compact(d), "hash": d.key()}),
    14: Kind("towersync", 2, _UPDATED, lambda d: {"towerSync": _tower(d)}),
    15: Kind("towersyncswitch", 2, _UPDATED, lambda d: {"towerSync": _tower(d), "hash": d.key()}),
}

# --- stake -----------------------------------------------------------------------------------------------------------


def _staker(data: Data) -> str:
    return _variant(data, "Staker", "Withdrawer")


def _stake_init(data: Data) -> Info:
    authorized = {"staker": data.key(), "withdrawer": data.key()}
    lockup = {"unixTimestamp": data.i64(), "epoch": data.u64(), "custodian": data.key()}
    return {"authorized": authorized, "lockup": lockup}


def _lockup(data: Data, *, with_custodian: bool) -> Info:
    fields = {"unixTimestamp": data.option(data.i64), "epoch": data.option(data.u64)}
    if with_custodian:
        fields["custodian"] = data.option(data.key)
    return {"lockup": {name: value for name, value in fields.items() if value is not None}}


def _stake_with_seed(data: Data) -> Info:
    authorized = {"newAuthorized": data.key()}
    return {**authorized, **_stake_checked_with_seed(data)}


def _stake_checked_with_seed(data: Data) -> Info:
    return {"authorityType": _staker(data), "authoritySeed": data.text(), "authorityOwner": data.key()}


_MOVED = _places("source", "destination", "stakeAuthority")
_BY_BASE = _places("stakeAccount", "authorityBase", "clockSysvar")
_STAKE: dict[int, Kind] = {
    0: Kind("initialize", 2, _places("stakeAccount", "rentSysvar"), _stake_init),
    1: Kind(
        "authorize",
        3,
        _places("stakeAccount", "clockSysvar", "authority", "custodian"),
        lambda d: {"newAuthority": d.key(), "authorityType": _staker(d)},
    ),
    2: Kind(
        "delegate",
        6,
        _places(
            *("stakeAccount", "voteAccount", "clockSysvar", "stakeHistorySysvar", "stakeConfigAccount"),
            "stakeAuthority",
        ),
    ),
    3: Kind("split", 3, _places("stakeAccount", "newSplitAccount", "stakeAuthority"), lambda d: {"lamports": d.u64()}),
    4: Kind(
        "withdraw",
        5,
        _places(
            *("stakeAccount", "destination", "clockSysvar", "stakeHistorySysvar", "withdrawAuthority", "custodian")
        ),
        lambda d: {"lamports": d.u64()},
    ),
    5: Kind("deactivate", 3, _places("stakeAccount", "clockSysvar", "stakeAuthority")),
    6: Kind("setLockup", 2, _places("stakeAccount", "custodian"), lambda d: _lockup(d, with_custodian=True)),
    7: Kind("merge", 5, _places("destination", "source", "clockSysvar", "stakeHistorySysvar", "stakeAuthority")),
    8: Kind("authorizeWithSeed", 2, {**_BY_BASE, "custodian": 3}, _stake_with_seed),
    9: Kind("initializeChecked", 4, _places("stakeAccount", "rentSysvar", "staker", "withdrawer")),
    10: Kind(
        "authorizeChecked",
        4,
        _places("stakeAccount", "clockSysvar", "authority", "newAuthority", "custodian"),
        lambda d: {"authorityType": _staker(d)},
    ),
    11: Kind("authorizeCheckedWithSeed", 4, {**_BY_BASE, "newAuthorized": 3, "custodian": 4}, _stake_checked_with_seed),
    12: Kind("setLockupChecked", 2, _places("stakeAccount", "custodian"), lambda d: _lockup(d, with_custodian=False)),
    13: Kind("getMinimumDelegation", 0, {}, has_info=False),
    14: Kind("deactivateDelinquent", 3, _places("stakeAccount", "voteAccount", "referenceVoteAccount")),
    15: Kind(
        "redelegate",
        5,
        _places("stakeAccount", "newStakeAccount", "voteAccount", "stakeConfigAccount", "stakeAuthority"),
    ),
    16: Kind("moveStake", 3, _MOVED, lambda d: {"lamports": d.u64()}),
    17: Kind("moveLamports", 3, _MOVED, lambda d: {"lamports": d.u64()}),
}

# --- loaders and lookup tables ---------------------------------------------------------------------------------------


def _written(data: Data) -> Info:
    offset = data.u32()
    return {"offset": offset, "bytes": base64.b64encode(data.take(data.u64())).decode()}


_LOADER: dict[int, Kind] = {
    0: Kind("write", 1, _places("account"), _written),
    1: Kind("finalize", 2, _places("account")),
}
_UPGRADEABLE: dict[int, Kind] = {
    0: Kind("initializeBuffer", 1, _places("account", "authority")),
    1: Kind("write", 2, _places("account", "authority"), _written),
    2: Kind(
        "deployWithMaxDataLen",
        8,
        _places(
            *("payerAccount", "programDataAccount", "programAccount", "bufferAccount", "rentSysvar", "clockSysvar"),
            *("systemProgram", "authority"),
        ),
        lambda d: {"maxDataLen": d.u64()},
    ),
    3: Kind(
        "upgrade",
        7,
        _places(
            *("programDataAccount", "programAccount", "bufferAccount", "spillAccount", "rentSysvar", "clockSysvar"),
            "authority",
        ),
    ),
    4: Kind("setAuthority", 2, _places("account", "authority", "newAuthority"), nulls=frozenset({"newAuthority"})),
    5: Kind(
        "close",
        3,
        _places("account", "recipient", "authority", "programAccount"),
        nulls=frozenset({"programAccount"}),
    ),
    6: Kind(
        "extendProgram",
        2,
        _places("programDataAccount", "programAccount", "systemProgram", "payerAccount"),
        lambda d: {"additionalBytes": d.u32()},
        nulls=frozenset({"systemProgram", "payerAccount"}),
    ),
    7: Kind("setAuthorityChecked", 3, _places("account", "authority", "newAuthority")),
}


def _new_addresses(data: Data) -> Info:
    return {"newAddresses": [data.key() for _ in range(data.u64())]}


_TABLE = ("lookupTableAccount", "lookupTableAuthority")
_EXTENDED = Kind("extendLookupTable", 2, _places(*_TABLE), _new_addresses)
_EXTENDED_AND_PAID = Kind("extendLookupTable", 4, _places(*_TABLE, "payerAccount", "systemProgram"), _new_addresses)
_TABLES: dict[int, Kind] = {
    0: Kind(
        "createLookupTable",
        4,
        _places(*_TABLE, "payerAccount", "systemProgram"),
        lambda d: {"recentSlot": d.u64(), "bumpSeed": d.u8()},
    ),
    1: Kind("freezeLookupTable", 2, _places(*_TABLE)),
    3: Kind("deactivateLookupTable", 2, _places(*_TABLE)),
    4: Kind("closeLookupTable", 3, _places(*_TABLE, "recipient")),
}

_PROGRAMS: dict[str, tuple[str, Mapping[int, Kind]]] = {
    str(Pubkey.default()): ("system", _SYSTEM),
    "Vote111111111111111111111111111111111111111": ("vote", _VOTE),
    "Stake11111111111111111111111111111111111111": ("stake", _STAKE),
    "BPFLoader2111111111111111111111111111111111": ("bpf-loader", _LOADER),
    "BPFLoader1111111111111111111111111111111111": ("bpf-loader", _LOADER),
    "BPFLoaderUpgradeab1e11111111111111111111111": ("bpf-upgradeable-loader", _UPGRADEABLE),
    "AddressLookupTab1e1111111111111111111111111": ("address-lookup-table", _TABLES),
}


def native_name(program: str) -> str | None:
    """What jsonParsed calls this native program; None when it is none."""
    found = _PROGRAMS.get(program)
    return None if found is None else found[0]


def native_instruction(program: str, data: bytes, accounts: Sequence[str]) -> Info:
    """The `parsed` member of an instruction of a native program. ValueError where it is shown as it is."""
    name, kinds = _PROGRAMS[program]
    reader = Data(data)
    number = reader.u32()
    if name == "system":
        kind = _system_kind(number, data)
    elif name == "address-lookup-table" and number == 2:
        kind = _EXTENDED_AND_PAID if len(accounts) >= 4 else _EXTENDED
    else:
        kind = kinds.get(number)
    if kind is None or not accounts:
        raise ValueError("no parser")
    shown = kind.shown(reader, accounts)
    if kind.name == "setLockupChecked" and len(accounts) > 2:
        # The custodian to come is an account here, and shown as a part of the lockup all the same.
        shown["info"]["lockup"]["custodian"] = accounts[2]
    return shown
