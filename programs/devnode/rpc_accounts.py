"""Methods that show accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.devnode import params as take
from programs.devnode.account_views import account_filters, account_object
from programs.devnode.errors import invalid_params, invalid_request
from programs.devnode.method import Context, Options, address_of, method
from programs.devnode.params import ACCOUNT_INFO, CONTEXT, text, texts, usize

ACCOUNTS_MAX = 100
# Bytes that an account can hold.
ACCOUNT_BYTES_MAX = 10 * 1024 * 1024


def _shown_account(ctx: Context, address: Pubkey, slot: int, options: dict[str, Any]) -> dict[str, Any] | None:
    account = ctx.chain.account(address, slot)
    if account is None:
        return None
    encoding = options.get("encoding") or "binary"
    return account_object(account, encoding, options.get("dataSlice"), lambda mint: ctx.chain.account(mint, slot))


@method(text, extra=(CONTEXT,))
def getBalance(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    account = ctx.chain.account(address, slot)
    return ctx.with_context(slot, 0 if account is None else account.lamports)


@method(text, extra=(ACCOUNT_INFO,))
def getAccountInfo(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, _shown_account(ctx, address, slot, options or {}))


@method(texts, extra=(ACCOUNT_INFO,))
def getMultipleAccounts(ctx: Context, encoded: list[str], options: Options | None) -> dict[str, Any]:
    if len(encoded) > ACCOUNTS_MAX:
        raise invalid_params(f"Too many inputs provided; max {ACCOUNTS_MAX}")
    addresses = [address_of(address) for address in encoded]
    shown = {**(options or {})}
    shown["encoding"] = shown.get("encoding") or "base64"
    slot = ctx.read_slot(shown)
    return ctx.with_context(slot, [_shown_account(ctx, address, slot, shown) for address in addresses])


def keyed_accounts(
    ctx: Context, owner: Pubkey, slot: int, options: dict[str, Any], filters: list[Callable[[Account], bool]]
) -> list[Any]:
    encoding = options.get("encoding") or "binary"
    rows = []
    for address, account in ctx.chain.accounts_owned(owner, slot):
        if all(passes(account) for passes in filters):
            shown = account_object(
                account, encoding, options.get("dataSlice"), lambda mint: ctx.chain.account(mint, slot)
            )
            rows.append({"account": shown, "pubkey": str(address)})
    return rows


@method(text, extra=(take.PROGRAM_ACCOUNTS,))
def getProgramAccounts(ctx: Context, encoded: str, config: Options | None) -> Any:
    owner = address_of(encoded)
    options = config or {}
    filters = account_filters(options.get("filters"))
    slot = ctx.read_slot(options)
    rows = keyed_accounts(ctx, owner, slot, options, filters)
    return ctx.with_context(slot, rows) if options.get("withContext") else rows


@method(usize, extra=(take.COMMITMENT_ONLY,))
def getMinimumBalanceForRentExemption(ctx: Context, data_bytes: int, options: Options | None) -> int:
    if data_bytes > ACCOUNT_BYTES_MAX:
        raise invalid_request()
    return ctx.chain.machine.rent_exempt_minimum(data_bytes)
