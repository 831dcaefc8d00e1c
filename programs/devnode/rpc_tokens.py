"""Methods that show accounts of the token programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.devnode import params as take
from programs.devnode.errors import invalid_params
from programs.devnode.method import Context, Options, address_of, method
from programs.devnode.params import ACCOUNT_INFO, text
from programs.devnode.rpc_accounts import keyed_accounts
from programs.devnode.tokens import TOKEN_PROGRAMS, TokenAccount, mint_decimals, token_account, ui_amount

_LARGEST_MAX = 20


def _token_accounts(
    ctx: Context, scope: tuple[str, str], config: Options | None, is_wanted: Callable[[TokenAccount], bool]
) -> dict[str, Any]:
    """Token accounts of one program or one mint for which `is_wanted` holds."""
    options = config or {}
    slot = ctx.read_slot(options)
    kind, address = scope[0], address_of(scope[1])
    mint: Pubkey | None = None
    if kind == "programId":
        if address not in TOKEN_PROGRAMS:
            raise invalid_params("Invalid param: unrecognized Token program id")
        program = address
    else:
        mint, program = address, _mint_of(ctx, address, slot).owner

    def passes(account: Account) -> bool:
        token = token_account(account)
        return token is not None and is_wanted(token) and (mint is None or token.mint == mint)

    return ctx.with_context(slot, keyed_accounts(ctx, program, slot, options, [passes]))


def _mint_of(ctx: Context, address: Pubkey, slot: int) -> Account:
    account = ctx.chain.account(address, slot)
    if account is None:
        raise invalid_params("Invalid param: could not find mint")
    if account.owner not in TOKEN_PROGRAMS:
        raise invalid_params("Invalid param: not a Token mint")
    if mint_decimals(account) is None:
        raise invalid_params("Invalid param: Token mint could not be unpacked")
    return account


@method(text, take.TOKEN_FILTER, extra=(ACCOUNT_INFO,))
def getTokenAccountsByOwner(
    ctx: Context, encoded: str, scope: tuple[str, str], options: Options | None
) -> dict[str, Any]:
    owner = address_of(encoded)
    return _token_accounts(ctx, scope, options, lambda token: token.owner == owner)


@method(text, take.TOKEN_FILTER, extra=(ACCOUNT_INFO,))
def getTokenAccountsByDelegate(
    ctx: Context, encoded: str, scope: tuple[str, str], options: Options | None
) -> dict[str, Any]:
    delegate = address_of(encoded)
    return _token_accounts(ctx, scope, options, lambda token: token.delegate == delegate)


@method(text, extra=(take.COMMITMENT_ONLY,))
def getTokenAccountBalance(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    account = ctx.chain.account(address, slot)
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    token = token_account(account)
    if token is None:
        raise invalid_params("Invalid param: not a Token account")
    decimals = mint_decimals(_mint_of(ctx, token.mint, slot)) or 0
    return ctx.with_context(slot, ui_amount(token.amount, decimals))


@method(text, extra=(take.COMMITMENT_ONLY,))
def getTokenSupply(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    account = ctx.chain.account(address, slot)
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    if account.owner not in TOKEN_PROGRAMS:
        raise invalid_params("Invalid param: not a Token mint")
    decimals = mint_decimals(account)
    if decimals is None:
        raise invalid_params("Invalid param: mint could not be unpacked")
    return ctx.with_context(slot, ui_amount(int.from_bytes(account.data[36:44], "little"), decimals))


@method(text, extra=(take.COMMITMENT_ONLY,))
def getTokenLargestAccounts(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    mint = address_of(encoded)
    slot = ctx.read_slot(options)
    account = _mint_of(ctx, mint, slot)
    decimals = mint_decimals(account) or 0
    held = [
        (token.amount, address)
        for address, holder in ctx.chain.accounts_owned(account.owner, slot)
        if (token := token_account(holder)) is not None and token.mint == mint
    ]
    held.sort(key=lambda row: (-row[0], bytes(row[1])))
    rows = [{"address": str(address), **ui_amount(amount, decimals)} for amount, address in held[:_LARGEST_MAX]]
    return ctx.with_context(slot, rows)
