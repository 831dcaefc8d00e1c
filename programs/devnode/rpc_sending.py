"""Methods that run transactions: send with its preflight, simulate, airdrop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from programs.devnode import params as take
from programs.devnode.account_views import account_object
from programs.devnode.errors import invalid_params, preflight_failure
from programs.devnode.execution import return_data_json
from programs.devnode.ledger import Bank
from programs.devnode.messages import fee_of
from programs.devnode.method import ENCODED_MAX, Context, Options, address_of, blockhash_of, method, wire_bytes
from programs.devnode.params import text, unsigned
from programs.devnode.parsed import parsed_instruction
from programs.devnode.tokens import token_balances
from programs.devnode.vm import FEES_ONLY_ERRORS, Outcome
from programs.devnode.wire import transaction_fault
from programs.devnode.words import WORDS, error_words

_TRANSACTION_TYPE = "solana_transaction::versioned::VersionedTransaction"


def _sent(encoded: str, options: Options) -> tuple[VersionedTransaction, bytes]:
    encoding = options.get("encoding") or "base58"
    if encoding not in ENCODED_MAX:
        if encoding != "binary":
            raise invalid_params(f"unsupported encoding: {encoding}. Supported encodings: base58, base64")
        encoding = "base58"
    wire = wire_bytes(encoded, encoding, _TRANSACTION_TYPE)
    fault = transaction_fault(wire)
    if fault is not None:
        raise invalid_params(f"failed to deserialize {_TRANSACTION_TYPE}: {fault}")
    transaction = VersionedTransaction.from_bytes(wire)
    return transaction, bytes(transaction)


def _sanitize(ctx: Context, transaction: VersionedTransaction) -> None:
    """What the real node refuses before it looks at a bank: a message that points outside of itself, or to a table that is not there."""
    message = transaction.message
    keys, signatures = len(message.account_keys), len(transaction.signatures)
    try:
        if signatures != message.header.num_required_signatures or keys < signatures:
            raise ValueError(_UNSANE)
        # The machine trusts indexes; a message that points outside of its keys must not reach it.
        transaction.sanitize()
    except ValueError:
        raise invalid_params(f"invalid transaction: {_UNSANE}") from None
    except Exception:
        raise invalid_params(f"invalid transaction: {_UNSANE}") from None
    if ctx.chain.machine.looked_up(transaction) is None:
        raise invalid_params(f"invalid transaction: {WORDS['AddressLookupTableNotFound']}")


_UNSANE = WORDS["SanitizeFailure"]


def _simulation(outcome: Outcome, fee: int | None, **more: Any) -> dict[str, Any]:
    return {
        "accounts": None,
        "err": outcome.err,
        "fee": fee,
        "innerInstructions": None,
        "loadedAccountsDataSize": 0,
        "loadedAddresses": None,
        "logs": outcome.logs,
        "postBalances": None,
        "postTokenBalances": None,
        "preBalances": None,
        "preTokenBalances": None,
        "replacementBlockhash": None,
        "returnData": None if outcome.return_data is None else return_data_json(outcome.return_data),
        "unitsConsumed": outcome.units,
        **more,
    }


def _preflight(ctx: Context, transaction: VersionedTransaction, bank: Bank) -> None:
    err = ctx.chain.refusal(transaction, bank, sig_verify=True, check_age=True)
    if err is not None:
        outcome = Outcome(err, [], [], 0, None, ran=False)
        raise preflight_failure(error_words(err), _simulation(outcome, None))
    outcome, before = ctx.chain.simulate(transaction, bank)
    if outcome.err is not None:
        fee, size = _charged(ctx, transaction, outcome, before)
        raise preflight_failure(error_words(outcome.err), _simulation(outcome, fee, loadedAccountsDataSize=size))


def _charged(
    ctx: Context, transaction: VersionedTransaction, outcome: Outcome, before: dict[Pubkey, Account | None]
) -> tuple[int | None, int]:
    """The fee, and the bytes that were loaded for a run. A run that was refused before it began costs nothing."""
    if outcome.ran or outcome.err in FEES_ONLY_ERRORS:
        return fee_of(transaction.message), ctx.chain.loaded_bytes(transaction.message, before)
    return None, 0


@method(text, extra=(take.SEND,))
def sendTransaction(ctx: Context, encoded: str, config: Options | None) -> str:
    options = config or {}
    transaction, wire = _sent(encoded, options)
    asked = {"commitment": options.get("preflightCommitment"), "minContextSlot": options.get("minContextSlot")}
    if options.get("skipPreflight"):
        # Looked up for its lower bound only.
        asked["commitment"] = "processed"
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(asked))
    _sanitize(ctx, transaction)
    if not options.get("skipPreflight"):
        _preflight(ctx, transaction, bank)
    # What the bank refuses is dropped without a word, as by a real leader.
    ctx.chain.submit(transaction, wire)
    return str(transaction.signatures[0])


@method(text, extra=(take.SIMULATE,))
def simulateTransaction(ctx: Context, encoded: str, config: Options | None) -> dict[str, Any]:
    options = config or {}
    replaces, verifies = bool(options.get("replaceRecentBlockhash")), bool(options.get("sigVerify"))
    transaction, _ = _sent(encoded, options)
    slot = ctx.read_slot(options)
    bank = ctx.chain.bank_at_or_below(slot)
    if replaces and verifies:
        raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
    _sanitize(ctx, transaction)
    replacement: dict[str, Any] | None = None
    if replaces:
        replacement = {"blockhash": bank.blockhash, "lastValidBlockHeight": ctx.chain.last_valid_height(bank.blockhash)}
    _check_wanted(options.get("accounts"), transaction)
    err = ctx.chain.refusal(transaction, bank, sig_verify=verifies, check_age=not replaces)
    if err is not None:
        return _refused(ctx, transaction, slot, err, replacement)
    outcome, before = ctx.chain.simulate(transaction, bank)
    keys = list(before)
    looked_up = keys[len(transaction.message.account_keys) :]
    fee, size = _charged(ctx, transaction, outcome, before)
    after = ctx.chain.after(transaction.message, outcome, before)
    writable_count = sum(len(row.writable_indexes) for row in getattr(transaction.message, "address_table_lookups", ()))

    def mint(address: Pubkey) -> Account | None:
        return ctx.chain.account(address, slot)

    more = {
        "loadedAccountsDataSize": size,
        "loadedAddresses": {
            "readonly": [str(key) for key in looked_up[writable_count:]],
            "writable": [str(key) for key in looked_up[:writable_count]],
        },
        "preBalances": [account.lamports if account else 0 for account in before.values()],
        "postBalances": [account.lamports if (account := after[key]) else 0 for key in keys],
        "preTokenBalances": token_balances(keys, before, mint),
        "postTokenBalances": token_balances(keys, after, mint),
        "replacementBlockhash": replacement,
    }
    if options.get("innerInstructions") and outcome.ran:
        names = [str(key) for key in keys]
        more["innerInstructions"] = [
            {
                "index": outer,
                "instructions": [parsed_instruction(names[p], [names[i] for i in a], d, h) for p, a, d, h in group],
            }
            for outer, group in enumerate(outcome.inner)
            if group
        ]
    if options.get("accounts") is not None:
        more["accounts"] = _wanted_accounts(ctx, options["accounts"], after, slot, failed=outcome.err is not None)
    return ctx.with_context(slot, _simulation(outcome, fee, **more))


def _refused(
    ctx: Context, transaction: VersionedTransaction, slot: int, err: Any, replacement: dict[str, Any] | None
) -> dict[str, Any]:
    """A simulation that was refused before it ran."""
    empty: dict[str, list[str]] = {"readonly": [], "writable": []}
    more: dict[str, Any] = {"loadedAddresses": empty, "replacementBlockhash": replacement}
    if err != "SignatureFailure":
        balances = [
            acc.lamports if (acc := ctx.chain.account(key, slot)) else 0 for key in transaction.message.account_keys
        ]
        more |= {"preBalances": balances, "postBalances": balances, "preTokenBalances": [], "postTokenBalances": []}
    return ctx.with_context(slot, _simulation(Outcome(err, [], [], 0, None, ran=False), None, **more))


def _check_wanted(spec: Options | None, transaction: VersionedTransaction) -> None:
    if spec is None:
        return
    if (spec.get("encoding") or "base64") in ("binary", "base58"):
        raise invalid_params("base58 encoding not supported")
    most = len(transaction.message.account_keys)
    if len(spec["addresses"]) > most:
        raise invalid_params(f"Too many accounts provided; max {most}")


def _wanted_accounts(
    ctx: Context, spec: Options, post: Mapping[Pubkey, Account | None], slot: int, *, failed: bool
) -> list[dict[str, Any] | None]:
    encoding = spec.get("encoding") or "base64"
    rows: list[dict[str, Any] | None] = []
    for text_of_address in spec["addresses"]:
        address = address_of(text_of_address)
        # Of a run that failed nothing is shown.
        account = None if failed else post[address] if address in post else ctx.chain.account(address, slot)
        is_there = account is not None and account.lamports > 0
        rows.append(
            account_object(account, encoding, None, lambda mint: ctx.chain.account(mint, slot))
            if account and is_there
            else None
        )
    return rows


@method(text, unsigned, extra=(take.AIRDROP,))
def requestAirdrop(ctx: Context, encoded: str, lamports: int, options: Options | None) -> str:
    address = address_of(encoded)
    if options and options.get("recentBlockhash") is not None:
        try:
            blockhash_of(options["recentBlockhash"])
        except ValueError as error:
            raise invalid_params(f"Invalid param: {error}") from None
    return ctx.chain.airdrop(address, lamports)
