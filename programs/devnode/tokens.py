"""SPL Token accounts and mints, as far as replies show them: balances around a transaction, and the parsed form of an account."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

TOKEN_PROGRAM = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022_PROGRAM = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
TOKEN_PROGRAMS = frozenset({TOKEN_PROGRAM, TOKEN_2022_PROGRAM})
ACCOUNT_BYTES = 165
MINT_BYTES = 82
_STATES = ("uninitialized", "initialized", "frozen")


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """The fields of a token account."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    delegate: Pubkey | None
    state: str
    native_rent: int | None
    delegated_amount: int
    close_authority: Pubkey | None


def _optional(data: bytes, offset: int) -> Pubkey | None:
    return Pubkey.from_bytes(data[offset + 4 : offset + 36]) if data[offset] else None


def token_account(account: Account) -> TokenAccount | None:
    """Read a token account; None when the bytes are not one."""
    data = bytes(account.data)
    is_sized = len(data) == ACCOUNT_BYTES or (len(data) > ACCOUNT_BYTES and data[ACCOUNT_BYTES] == 2)
    if account.owner not in TOKEN_PROGRAMS or not is_sized or not 0 < data[108] < len(_STATES):
        return None
    return TokenAccount(
        mint=Pubkey.from_bytes(data[:32]),
        owner=Pubkey.from_bytes(data[32:64]),
        amount=int.from_bytes(data[64:72], "little"),
        delegate=_optional(data, 72),
        state=_STATES[data[108]],
        native_rent=int.from_bytes(data[113:121], "little") if data[109] else None,
        delegated_amount=int.from_bytes(data[121:129], "little"),
        close_authority=_optional(data, 129),
    )


def mint_decimals(account: Account | None) -> int | None:
    """Decimals of a mint; None when the account is not one."""
    if account is None or account.owner not in TOKEN_PROGRAMS:
        return None
    data = bytes(account.data)
    is_mint = len(data) == MINT_BYTES or (len(data) > ACCOUNT_BYTES and data[ACCOUNT_BYTES] == 1)
    return data[44] if is_mint and data[45] else None


def ui_amount(amount: int, decimals: int) -> dict[str, Any]:
    """The four ways in which replies write an amount."""
    text = format(Decimal(amount).scaleb(-decimals), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return {"amount": str(amount), "decimals": decimals, "uiAmount": amount / 10**decimals, "uiAmountString": text}


def token_balances(
    keys: Sequence[Pubkey], accounts: Mapping[Pubkey, Account | None], other: Callable[[Pubkey], Account | None]
) -> list[dict[str, Any]]:
    """preTokenBalances or postTokenBalances. `other` finds the mints that the transaction does not name."""
    rows: list[dict[str, Any]] = []
    if not any(key in TOKEN_PROGRAMS for key in keys):
        # As on the real node: who does not name a token program changes no balance.
        return rows
    for index, key in enumerate(keys):
        account = accounts.get(key)
        token = token_account(account) if account is not None else None
        mint = accounts.get(token.mint) or other(token.mint) if token is not None else None
        decimals = mint_decimals(mint)
        if account is None or token is None or decimals is None:
            continue
        amount = ui_amount(token.amount, decimals)
        if token.amount == 0:
            amount["uiAmount"] = None
        rows.append(
            {
                "accountIndex": index,
                "mint": str(token.mint),
                "owner": str(token.owner),
                "programId": str(account.owner),
                "uiTokenAmount": amount,
            }
        )
    return rows
