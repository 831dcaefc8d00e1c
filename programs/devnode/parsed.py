"""The jsonParsed form of instructions and accounts, for the programs that most clients look at.

Instructions of native programs (`natives`), memos and tokens are parsed; others are shown as the real node shows a program that it has no parser for.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.base58 import encode as base58_encode
from programs.devnode.natives import native_instruction, native_name
from programs.devnode.tokens import (
    MINT_BYTES,
    TOKEN_2022_PROGRAM,
    TOKEN_PROGRAM,
    TOKEN_PROGRAMS,
    mint_decimals,
    token_account,
    ui_amount,
)

_MEMOS = {
    "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr": "spl-memo",
    "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo": "spl-memo",
}
_TOKENS = {str(TOKEN_PROGRAM): "spl-token", str(TOKEN_2022_PROGRAM): "spl-token-2022"}
_ASSOCIATED = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
_LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
_SYSVARS = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
# Heads of accounts of the upgradeable loader: a program's, and that of its data.
_PROGRAM_BYTES = 36
_PROGRAM_DATA_HEAD_BYTES = 45
_RENT_BYTES = 17
_CLOCK_BYTES = 40
_AUTHORITY_TYPES = ("mintTokens", "freezeAccount", "accountOwner", "closeAccount", "transferFeeConfig")
_IMMUTABLE_OWNER = 7
Info = dict[str, Any]


def _number(data: bytes, offset: int, size: int) -> int:
    if len(data) < offset + size:
        raise ValueError("short instruction")
    return int.from_bytes(data[offset : offset + size], "little")


def _u64(data: bytes, offset: int) -> int:
    return _number(data, offset, 8)


def _address(data: bytes, offset: int) -> str:
    raw = data[offset : offset + 32]
    if len(raw) != 32:
        # Checked here: what solders does about it is no exception that an `except Exception` would see.
        raise ValueError("short instruction")
    return str(Pubkey.from_bytes(raw))


def _optional_address(data: bytes, offset: int) -> str | None:
    return _address(data, offset + 1) if data[offset] else None


# --- instructions ----------------------------------------------------------------------------------------------------


def _signers(info: Info, name: str, rest: Sequence[str]) -> Info:
    """The one authority, or a multisig with those that signed for it."""
    owner, *others = rest
    if not others:
        return {**info, name: owner}
    multisig = "multisig" + name[0].upper() + name[1:]
    return {**info, multisig: owner, "signers": others}


def _amount(data: bytes, offset: int) -> Info:
    return {"amount": str(_u64(data, offset))}


def _checked(data: bytes) -> Info:
    return {"tokenAmount": ui_amount(_u64(data, 1), data[9])}


def _mint(data: bytes, accounts: Sequence[str]) -> Info:
    info: Info = {"decimals": data[1], "mint": accounts[0], "mintAuthority": _address(data, 2)}
    freeze = _optional_address(data, 34)
    return {**info, **({} if freeze is None else {"freezeAuthority": freeze})}


def _set_authority(data: bytes, accounts: Sequence[str]) -> Info:
    kind = _AUTHORITY_TYPES[data[1]]
    owned = "account" if data[1] in (2, 3) else "mint"
    info = {owned: accounts[0], "authorityType": kind, "newAuthority": _optional_address(data, 2)}
    return _signers(info, "authority", accounts[1:])


def _data_size(data: bytes, accounts: Sequence[str]) -> Info:
    kinds = [int.from_bytes(data[at : at + 2], "little") for at in range(1, len(data), 2)]
    if any(kind != _IMMUTABLE_OWNER for kind in kinds):
        raise ValueError("no name for this extension")
    info: Info = {"mint": accounts[0]}
    return {**info, "extensionTypes": ["immutableOwner"] * len(kinds)} if kinds else info


def _pick(*names: str) -> Callable[[bytes, Sequence[str]], Info]:
    return lambda data, accounts: {name: accounts[place] for place, name in enumerate(names) if name}


def _multisig(*names: str) -> Callable[[bytes, Sequence[str]], Info]:
    """A new multisig: the accounts after the named ones are its signers, of whom `m` must sign."""

    def read(data: bytes, accounts: Sequence[str]) -> Info:
        if len(accounts) <= len(names):
            raise ValueError("no signers")
        named = {name: accounts[place] for place, name in enumerate(names)}
        return {**named, "m": data[1], "signers": list(accounts[len(names) :])}

    return read


_TokenParser = Callable[[bytes, Sequence[str]], Info]
_TOKEN_INSTRUCTIONS: dict[int, tuple[str, _TokenParser]] = {
    0: ("initializeMint", lambda d, a: {**_mint(d, a), "rentSysvar": a[1]}),
    1: ("initializeAccount", _pick("account", "mint", "owner", "rentSysvar")),
    2: ("initializeMultisig", _multisig("multisig", "rentSysvar")),
    3: ("transfer", lambda d, a: _signers({"source": a[0], "destination": a[1], **_amount(d, 1)}, "authority", a[2:])),
    4: ("approve", lambda d, a: _signers({"source": a[0], "delegate": a[1], **_amount(d, 1)}, "owner", a[2:])),
    5: ("revoke", lambda d, a: _signers({"source": a[0]}, "owner", a[1:])),
    6: ("setAuthority", _set_authority),
    7: ("mintTo", lambda d, a: _signers({"mint": a[0], "account": a[1], **_amount(d, 1)}, "mintAuthority", a[2:])),
    8: ("burn", lambda d, a: _signers({"account": a[0], "mint": a[1], **_amount(d, 1)}, "authority", a[2:])),
    9: ("closeAccount", lambda d, a: _signers({"account": a[0], "destination": a[1]}, "owner", a[2:])),
    10: ("freezeAccount", lambda d, a: _signers({"account": a[0], "mint": a[1]}, "freezeAuthority", a[2:])),
    11: ("thawAccount", lambda d, a: _signers({"account": a[0], "mint": a[1]}, "freezeAuthority", a[2:])),
    12: (
        "transferChecked",
        lambda d, a: _signers({"source": a[0], "mint": a[1], "destination": a[2], **_checked(d)}, "authority", a[3:]),
    ),
    13: (
        "approveChecked",
        lambda d, a: _signers({"source": a[0], "mint": a[1], "delegate": a[2], **_checked(d)}, "owner", a[3:]),
    ),
    14: (
        "mintToChecked",
        lambda d, a: _signers({"mint": a[0], "account": a[1], **_checked(d)}, "mintAuthority", a[2:]),
    ),
    15: ("burnChecked", lambda d, a: _signers({"account": a[0], "mint": a[1], **_checked(d)}, "authority", a[2:])),
    16: (
        "initializeAccount2",
        lambda d, a: {"account": a[0], "mint": a[1], "owner": _address(d, 1), "rentSysvar": a[2]},
    ),
    17: ("syncNative", _pick("account")),
    18: ("initializeAccount3", lambda d, a: {"account": a[0], "mint": a[1], "owner": _address(d, 1)}),
    19: ("initializeMultisig2", _multisig("multisig")),
    20: ("initializeMint2", _mint),
    21: ("getAccountDataSize", _data_size),
    22: ("initializeImmutableOwner", _pick("account")),
    23: ("amountToUiAmount", lambda d, a: {"mint": a[0], **_amount(d, 1)}),
    24: ("uiAmountToAmount", lambda d, a: {"mint": a[0], "uiAmount": d[1:].decode()}),
    38: (
        "withdrawExcessLamports",
        lambda d, a: _signers({"source": a[0], "destination": a[1]}, "authority", a[2:]),
    ),
}


def _token(data: bytes, accounts: Sequence[str]) -> Info:
    name, parser = _TOKEN_INSTRUCTIONS[data[0]]
    if data[0] in (3, 4, 7, 8) and len(data) < 9:
        raise ValueError("short instruction")
    return {"info": parser(data, accounts), "type": name}


_ASSOCIATED_ACCOUNTS = ("source", "account", "wallet", "mint", "systemProgram", "tokenProgram")
_NESTED_ACCOUNTS = ("nestedSource", "nestedMint", "destination", "nestedOwner", "ownerMint", "wallet", "tokenProgram")
_ASSOCIATED_INSTRUCTIONS = {
    b"": ("create", _ASSOCIATED_ACCOUNTS),
    b"\0": ("create", _ASSOCIATED_ACCOUNTS),
    b"\1": ("createIdempotent", _ASSOCIATED_ACCOUNTS),
    b"\2": ("recoverNested", _NESTED_ACCOUNTS),
}


def _associated(data: bytes, accounts: Sequence[str]) -> Info:
    name, places = _ASSOCIATED_INSTRUCTIONS[data]
    return {"info": {place: accounts[index] for index, place in enumerate(places)}, "type": name}


_PARSERS: dict[str, tuple[str, Callable[[bytes, Sequence[str]], Info]]] = {
    _ASSOCIATED: ("spl-associated-token-account", _associated),
    **{address: (name, _token) for address, name in _TOKENS.items()},
}


def parsed_instruction(program: str, accounts: Sequence[str], data: bytes, height: int) -> dict[str, Any]:
    """One instruction; where there is no parser, its accounts and data as they are."""
    if program in _MEMOS:
        try:
            return {"parsed": data.decode(), "program": _MEMOS[program], "programId": program, "stackHeight": height}
        except UnicodeDecodeError:
            pass
    elif (native := native_name(program)) is not None:
        try:
            parsed = native_instruction(program, data, accounts)
            return {"parsed": parsed, "program": native, "programId": program, "stackHeight": height}
        except ValueError:
            pass
    elif program in _PARSERS:
        name, parser = _PARSERS[program]
        try:
            return {"parsed": parser(data, accounts), "program": name, "programId": program, "stackHeight": height}
        except (ValueError, IndexError, KeyError):
            pass
    return {"accounts": list(accounts), "data": base58_encode(data), "programId": program, "stackHeight": height}


def parsed_account(account: Account, mint: Callable[[Pubkey], Account | None]) -> Any:
    """The `data` field in jsonParsed; None when there is no parser for the account."""
    data = bytes(account.data)
    if account.owner == _LOADER:
        return _loader_account(data)
    if account.owner == _SYSVARS:
        return _sysvar(data)
    if account.owner not in TOKEN_PROGRAMS:
        return None
    program = _TOKENS[str(account.owner)]
    token = token_account(account)
    if token is None:
        decimals = mint_decimals(account)
        if decimals is None or len(data) != MINT_BYTES:
            return None
        info: dict[str, Any] = {
            "decimals": decimals,
            "freezeAuthority": _address(data, 50) if data[46] else None,
            "isInitialized": True,
            "mintAuthority": _address(data, 4) if data[0] else None,
            "supply": str(int.from_bytes(data[36:44], "little")),
        }
        return {"parsed": {"info": info, "type": "mint"}, "program": program, "space": len(data)}
    decimals = mint_decimals(mint(token.mint))
    if decimals is None:
        return None
    info = {
        "isNative": token.native_rent is not None,
        "mint": str(token.mint),
        "owner": str(token.owner),
        "state": token.state,
        "tokenAmount": ui_amount(token.amount, decimals),
    }
    if token.delegate is not None:
        info["delegate"] = str(token.delegate)
        info["delegatedAmount"] = ui_amount(token.delegated_amount, decimals)
    if token.close_authority is not None:
        info["closeAuthority"] = str(token.close_authority)
    if token.native_rent is not None:
        info["rentExemptReserve"] = ui_amount(token.native_rent, decimals)
    return {"parsed": {"info": info, "type": "account"}, "program": program, "space": len(data)}


def _shown(program: str, kind: str, info: Info, data: bytes) -> Info:
    return {"parsed": {"info": info, "type": kind}, "program": program, "space": len(data)}


def _loader_account(data: bytes) -> Info | None:
    kind = int.from_bytes(data[:4], "little")
    if kind == 2 and len(data) >= _PROGRAM_BYTES:
        return _shown("bpf-upgradeable-loader", "program", {"programData": _address(data, 4)}, data)
    if kind == 3 and len(data) >= _PROGRAM_DATA_HEAD_BYTES:
        info = {
            "authority": _optional_address(data, 12),
            "data": [base64_text(data[_PROGRAM_DATA_HEAD_BYTES:]), "base64"],
            "slot": _u64(data, 4),
        }
        return _shown("bpf-upgradeable-loader", "programData", info, data)
    return None


def _sysvar(data: bytes) -> Info | None:
    # Those two are told apart by their sizes; others are shown as they are.
    if len(data) == _RENT_BYTES:
        # Twice the first number: what is to be held is counted for two years.
        return _shown("sysvar", "rent", {"lamportsPerByte": str(2 * _u64(data, 0))}, data)
    if len(data) == _CLOCK_BYTES:
        info = {
            "epoch": _u64(data, 16),
            "epochStartTimestamp": _u64(data, 8),
            "leaderScheduleEpoch": _u64(data, 24),
            "slot": _u64(data, 0),
            "unixTimestamp": _u64(data, 32),
        }
        return _shown("sysvar", "clock", info, data)
    return None


def zstd_frame(data: bytes) -> bytes:
    """A valid zstd frame that holds `data` in raw (uncompressed) blocks: any decoder reads it, no compressor is needed."""
    size = len(data)
    # The frame's descriptor says how many bytes the content's size takes.
    if size < 256:
        content_size = b"\x20" + bytes((size,))
    elif size < 65_792:
        content_size = b"\x60" + (size - 256).to_bytes(2, "little")
    else:
        content_size = b"\xa0" + size.to_bytes(4, "little")
    head = b"\x28\xb5\x2f\xfd" + content_size
    blocks = bytearray()
    size_max = 128 * 1024
    pieces = [data[start : start + size_max] for start in range(0, len(data), size_max)] or [b""]
    for position, piece in enumerate(pieces):
        last = position == len(pieces) - 1
        blocks += ((len(piece) << 3) | last).to_bytes(3, "little") + piece
    return head + bytes(blocks)


def base64_text(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode("ascii")
