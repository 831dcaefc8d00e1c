"""Accounts as replies and notifications show them, and the filters that choose among them. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.base58 import encode as base58_encode
from programs.devnode.encoded import base58_bytes, base64_bytes
from programs.devnode.errors import invalid_params, invalid_request
from programs.devnode.method import Options
from programs.devnode.parsed import base64_text, parsed_account, zstd_frame
from programs.devnode.tokens import token_account
from programs.devnode.vm import RENT_EXEMPT_EPOCH

FILTERS_MAX = 4


BASE58_DATA_MAX = 128


_GENESIS_OWNERS = frozenset(
    Pubkey.from_string(text)
    for text in (
        "Sysvar1111111111111111111111111111111111111",
        "NativeLoader1111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
    )
)


def _sliced(data: bytes, spec: Options | None) -> bytes:
    return data if spec is None else data[spec["offset"] : spec["offset"] + spec["length"]]


def account_object(
    account: Account, encoding: str, data_slice: Any, mint: Callable[[Pubkey], Account | None], *, strict: bool = True
) -> dict[str, Any]:
    """An account as replies show it. `strict` False gives the literal text that subscriptions send for long base58."""
    parsed = parsed_account(account, mint) if encoding == "jsonParsed" else None
    full = bytes(account.data)
    shown: Any
    if parsed is not None:
        shown = parsed
    else:
        data = _sliced(full, data_slice)
        if encoding in ("binary", "base58"):
            if len(data) > BASE58_DATA_MAX:
                if strict:
                    words = "Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding."
                    raise invalid_request(words)
                text = "error: data too large for bs58 encoding"
            else:
                text = base58_encode(data)
            shown = text if encoding == "binary" else [text, "base58"]
        elif encoding == "base64+zstd":
            shown = [base64_text(zstd_frame(data)), "base64+zstd"]
        else:
            shown = [base64_text(data), "base64"]
    return {
        "data": shown,
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": _rent_epoch(account),
        "space": len(full),
    }


def _rent_epoch(account: Account) -> int:
    # Accounts are rent exempt by now, and a real node shows the largest epoch for those that a transaction made; but 0 for those of genesis.
    if not account.lamports:
        return 0
    is_of_genesis = account.executable or account.owner in _GENESIS_OWNERS
    return account.rent_epoch if is_of_genesis or account.rent_epoch == 1 else RENT_EXEMPT_EPOCH


Predicate = Callable[[Account], bool]


def account_filters(filters: list[tuple[str, Any]] | None) -> list[Predicate]:
    """Filters of getProgramAccounts and programSubscribe as predicates."""
    wanted = filters or []
    if len(wanted) > FILTERS_MAX:
        raise invalid_params(f"Too many filters provided; max {FILTERS_MAX}")
    return [_filter(name, spec) for name, spec in wanted]


def same_filters(filters: list[tuple[str, Any]] | None) -> list[list[Any]]:
    """Filters as they are told apart: by what they compare, in whatever form it was given."""
    return [
        [name, spec["offset"], list(_memcmp_bytes(spec))] if name == "memcmp" else [name, spec]
        for name, spec in filters or []
    ]


def _filter(name: str, spec: Any) -> Predicate:
    if name == "tokenAccountState":
        return lambda account: token_account(account) is not None
    if name == "dataSize":
        return lambda account: len(account.data) == spec
    offset, wanted = spec["offset"], _memcmp_bytes(spec)
    # Nothing is everywhere in an account, up to its end, and nowhere behind it.
    return lambda account: offset <= len(account.data) and bytes(account.data[offset : offset + len(wanted)]) == wanted


def _memcmp_bytes(spec: dict[str, Any]) -> bytes:
    raw = spec["bytes"]
    if isinstance(raw, list):
        wanted = bytes(raw)
    elif spec.get("encoding") == "base64":
        if len(raw) > 172:
            raise invalid_params("Invalid param: DataTooLarge")
        try:
            wanted = base64_bytes(raw)
        except ValueError as error:
            raise invalid_params(f"Invalid param: Base64DecodeError({error})") from None
    else:
        if len(raw) > 175:
            raise invalid_params("Invalid param: DataTooLarge")
        try:
            wanted = base58_bytes(raw)
        except ValueError as error:
            raise invalid_params(f"Invalid param: Base58DecodeError({error})") from None
    if len(wanted) > BASE58_DATA_MAX:
        raise invalid_params("Invalid param: DataTooLarge")
    return wanted
