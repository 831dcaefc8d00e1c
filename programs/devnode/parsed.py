"""The jsonParsed form of instructions and accounts, for the programs that most clients look at.

System, memo and token transfers are parsed; the rest is shown as the real node shows a program that it has no parser for.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.base58 import encode as base58_encode
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
_SYSTEM = str(Pubkey.default())
_TOKENS = {str(TOKEN_PROGRAM): "spl-token", str(TOKEN_2022_PROGRAM): "spl-token-2022"}


def _u64(data: bytes, offset: int) -> int:
    if len(data) < offset + 8:
        raise ValueError("short instruction")
    return int.from_bytes(data[offset : offset + 8], "little")


def _address(data: bytes, offset: int) -> str:
    return str(Pubkey.from_bytes(data[offset : offset + 32]))


def _system(data: bytes, accounts: Sequence[str]) -> dict[str, Any]:
    kind = int.from_bytes(data[:4], "little")
    if kind == 0:
        info = {
            "lamports": _u64(data, 4),
            "newAccount": accounts[1],
            "owner": _address(data, 20),
            "source": accounts[0],
            "space": _u64(data, 12),
        }
        return {"info": info, "type": "createAccount"}
    if kind == 1:
        return {"info": {"account": accounts[0], "owner": _address(data, 4)}, "type": "assign"}
    if kind == 2:
        info = {"destination": accounts[1], "lamports": _u64(data, 4), "source": accounts[0]}
        return {"info": info, "type": "transfer"}
    if kind == 8:
        return {"info": {"account": accounts[0], "space": _u64(data, 4)}, "type": "allocate"}
    raise ValueError("no parser")


def _token(data: bytes, accounts: Sequence[str]) -> dict[str, Any]:
    if data[0] == 3:
        info = {
            "amount": str(_u64(data, 1)),
            "authority": accounts[2],
            "destination": accounts[1],
            "source": accounts[0],
        }
        return {"info": info, "type": "transfer"}
    if data[0] == 9:
        info = {"account": accounts[0], "destination": accounts[1], "owner": accounts[2]}
        return {"info": info, "type": "closeAccount"}
    raise ValueError("no parser")


_PARSERS: dict[str, tuple[str, Callable[[bytes, Sequence[str]], dict[str, Any]]]] = {
    _SYSTEM: ("system", _system),
    **{address: (name, _token) for address, name in _TOKENS.items()},
}


def parsed_instruction(program: str, accounts: Sequence[str], data: bytes, height: int) -> dict[str, Any]:
    """One instruction; where there is no parser, its accounts and data as they are."""
    if program in _MEMOS:
        try:
            return {"parsed": data.decode(), "program": _MEMOS[program], "programId": program, "stackHeight": height}
        except UnicodeDecodeError:
            pass
    elif program in _PARSERS:
        name, parser = _PARSERS[program]
        try:
            return {"parsed": parser(data, accounts), "program": name, "programId": program, "stackHeight": height}
        except (ValueError, IndexError):
            pass
    return {"accounts": list(accounts), "data": base58_encode(data), "programId": program, "stackHeight": height}


def parsed_account(account: Account, mint: Callable[[Pubkey], Account | None]) -> Any:
    """The `data` field in jsonParsed; None when there is no parser for the account."""
    if account.owner not in TOKEN_PROGRAMS:
        return None
    data = bytes(account.data)
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


def zstd_frame(data: bytes) -> bytes:
    """A valid zstd frame that holds `data` in raw (uncompressed) blocks: any decoder reads it, no compressor is needed."""
    head = b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little")
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
