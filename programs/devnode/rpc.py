"""JSON-RPC methods over a chain: bytes of a request in, bytes of a reply out. No I/O; the wall clock is an argument of the service.

Shapes, codes and words are those of Agave 4.1.2, taken from its replies.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import msgspec
from solders.account import Account
from solders.hash import Hash
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from programs.base58 import encode as base58_encode
from programs.devnode import jsonrpc, ledger
from programs.devnode import params as take
from programs.devnode.chain import OLD_READS_SLOTS_MAX, Chain, Commitment, fee_of, return_data_json
from programs.devnode.config import SLOTS_PER_EPOCH, TRANSACTION_BYTES_MAX
from programs.devnode.errors import (
    RpcError,
    block_cleaned_up,
    block_not_available,
    block_status_not_yet,
    invalid_params,
    invalid_request,
    method_not_found,
    min_context_slot,
    no_snapshot,
    node_unhealthy,
    preflight_failure,
    slot_skipped,
    transaction_not_found,
    unsupported_version,
)
from programs.devnode.faults import FaultEngine
from programs.devnode.ledger import LEGACY, Bank, StoredTransaction
from programs.devnode.params import (
    ACCOUNT_INFO,
    CONTEXT,
    Parameters,
    Reader,
    base58_bytes,
    base64_bytes,
    text,
    texts,
    unsigned,
    usize,
    wrong_type,
)
from programs.devnode.parsed import base64_text, parsed_account, parsed_instruction, zstd_frame
from programs.devnode.tokens import (
    TOKEN_PROGRAMS,
    TokenAccount,
    mint_decimals,
    token_account,
    token_balances,
    ui_amount,
)
from programs.devnode.vm import FEES_ONLY_ERRORS, RENT_EXEMPT_EPOCH, Outcome
from programs.devnode.wire import message_fault, transaction_fault

API_VERSION = "4.1.2"
FEATURE_SET = 3_345_198_602
SIGNATURES_PAGE_MAX = 1_000
STATUSES_MAX = 256
# Finalized slots whose transactions the real node's cache of statuses remembers.
STATUS_CACHE_SLOTS = 300
ACCOUNTS_MAX = 100
FILTERS_MAX = 4
BLOCK_RANGE_MAX = 500_000
BASE58_DATA_MAX = 128
_ENCODED_MAX = {"base58": 1683, "base64": 1644}
_PRIORITIZATION_SLOTS = 150
_LOCKS_MAX = 128
_LARGEST_MAX = 20
_LEADERS_MAX = 5_000
_STAKE_MIN_LAMPORTS = 1_000_000_000
# Bytes that an account can hold.
ACCOUNT_BYTES_MAX = 10 * 1024 * 1024
_TRANSACTION_TYPE = "solana_transaction::versioned::VersionedTransaction"
_MESSAGE_TYPE = "solana_message::non_bpf_modules::versions::VersionedMessage"
_to_json = msgspec.json.encode

_GENESIS_OWNERS = frozenset(
    Pubkey.from_string(text)
    for text in (
        "Sysvar1111111111111111111111111111111111111",
        "NativeLoader1111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
    )
)
_WORDS: dict[str, str] = {
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "SignatureFailure": "Transaction did not pass signature verification",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidAccountForFee": "This account may not be used to pay transaction fees",
    "AccountInUse": "Account in use",
    "AccountLoadedTwice": "Account loaded twice",
    "AddressLookupTableNotFound": "Transaction loads an address table account that doesn't exist",
    "SanitizeFailure": "Transaction failed to sanitize accounts offsets correctly",
}
_INSTRUCTION_WORDS = {
    "InvalidInstructionData": "invalid instruction data",
    "MissingRequiredSignature": "missing required signature for instruction",
    "InvalidAccountData": "invalid account data for instruction",
    "InvalidArgument": "invalid program argument",
    "InsufficientFunds": "insufficient funds for instruction",
    "ProgramFailedToComplete": "Program failed to complete",
    "NotEnoughAccountKeys": "insufficient account keys for instruction",
    "IllegalOwner": "Provided owner is not allowed",
    "ComputationalBudgetExceeded": "Computational budget exceeded",
}


def error_words(err: Any) -> str:
    """The sentence that the node writes for a TransactionError."""
    if isinstance(err, dict) and "InstructionError" in err:
        index, inner = err["InstructionError"]
        if isinstance(inner, dict) and "Custom" in inner:
            words = f"custom program error: {inner['Custom']:#x}"
        else:
            words = _INSTRUCTION_WORDS.get(str(inner), str(inner))
        return f"Error processing Instruction {index}: {words}"
    if isinstance(err, dict) and "InsufficientFundsForRent" in err:
        index = err["InsufficientFundsForRent"]["account_index"]
        return f"Transaction results in an account ({index}) with insufficient funds for rent"
    return _WORDS.get(str(err), str(err))


# --- parameters ------------------------------------------------------------------------------------------------------


def need(params: list[Any], count: int = 1) -> None:
    """Demand at least `count` parameters."""
    if len(params) < count:
        raise invalid_params(f"`params` should have at least {count} argument(s)")


def text_at(params: list[Any], index: int) -> str:
    """A string parameter."""
    return text(params[index])


def options_at(params: list[Any], index: int) -> dict[str, Any]:
    """An optional object parameter of a control method."""
    value = params[index] if len(params) > index else None
    if value is not None and not isinstance(value, dict):
        raise wrong_type(value, "struct config")
    return value or {}


def commitment_of(options: dict[str, Any]) -> Commitment:
    """The commitment asked for; as on the real node an unknown word means the default, finalized."""
    word = options.get("commitment")
    return {"processed": Commitment.PROCESSED, "confirmed": Commitment.CONFIRMED}.get(str(word), Commitment.FINALIZED)


def _sized(encoded: str, length_max: int, size: int) -> bytes:
    """Base58 text of exactly `size` bytes; ValueError with the real node's word for what is wrong."""
    if len(encoded.encode()) > length_max:
        raise ValueError("WrongSize")
    try:
        raw = base58_bytes(encoded)
    except ValueError:
        raise ValueError("Invalid") from None
    if len(raw) != size:
        raise ValueError("WrongSize")
    return raw


def address_of(encoded: Any) -> Pubkey:
    """An address parameter."""
    try:
        return Pubkey.from_bytes(_sized(text(encoded), 44, 32))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from None


def signature_of(encoded: str) -> str:
    """A signature parameter."""
    try:
        return str(Signature.from_bytes(_sized(encoded, 88, 64)))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from None


def blockhash_of(encoded: str) -> str:
    """A blockhash parameter. ValueError with the word for what is wrong."""
    return str(Hash.from_bytes(_sized(encoded, 44, 32)))


def wire_bytes(encoded: str, encoding: str, kind: str) -> bytes:
    """Decode an encoded transaction or message, within the bounds of a packet."""
    size = len(encoded.encode())
    if size > _ENCODED_MAX[encoding]:
        limits = f"max: encoded/raw {_ENCODED_MAX[encoding]}/{TRANSACTION_BYTES_MAX}"
        raise invalid_params(f"{encoding} encoded {kind} too large: {size} bytes ({limits})")
    try:
        wire = base64_bytes(encoded) if encoding == "base64" else base58_bytes(encoded)
    except ValueError as error:
        raise invalid_params(f"invalid {encoding} encoding: {error}") from None
    if len(wire) > TRANSACTION_BYTES_MAX:
        raise invalid_params(f"decoded {kind} too large: {len(wire)} bytes (max: {TRANSACTION_BYTES_MAX} bytes)")
    return wire


# --- the service -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """What one request sees: the chain as a node shows it that is `lag` slots behind the newest block."""

    service: RpcService
    chain: Chain
    faults: FaultEngine
    lag: int

    def slot(self, commitment: Commitment) -> int:
        """The newest slot of this commitment, as this node sees it."""
        slot = self.chain.slot_at(commitment)
        return slot if not self.lag else self.chain.bank_at_or_below(slot - self.lag).slot

    def bank(self, commitment: Commitment) -> Bank:
        """The bank of that slot."""
        return self.chain.bank_at_or_below(self.slot(commitment))

    def read_slot(self, options: dict[str, Any] | None) -> int:
        """The slot that a read at the asked commitment sees; -32016 when it is below minContextSlot."""
        asked = options or {}
        slot = self.slot(commitment_of(asked))
        floor = asked.get("minContextSlot")
        if floor is not None and slot < floor:
            raise min_context_slot(slot)
        return slot

    def with_context(self, slot: int, value: Any) -> dict[str, Any]:
        """A value with the slot at which it was read."""
        return {"context": {"apiVersion": API_VERSION, "slot": slot}, "value": value}


# A control method reads its parameters itself.
Handler = Callable[[Context, list[Any]], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the protocol: what it takes, and what it does with that."""

    parameters: Parameters
    handler: Callable[..., Any]

    def __call__(self, ctx: Context, params: Any) -> Any:
        return self.handler(ctx, *self.parameters.read(params))


METHODS: dict[str, Method] = {}
_Answerer = TypeVar("_Answerer", bound=Callable[..., Any])


def _method(*required: Reader, extra: tuple[Reader, ...] = ()) -> Callable[[_Answerer], _Answerer]:
    """Register the decorated function under its own name; it gets the context and one value a reader."""

    def register(handler: _Answerer) -> _Answerer:
        METHODS[handler.__name__] = Method(Parameters(required, extra), handler)
        return handler

    return register


Options = dict[str, Any]


class RpcService:
    """All methods over one chain. `extra` holds methods that the composition adds (the control methods)."""

    def __init__(self, chain: Chain, faults: FaultEngine) -> None:
        self.chain = chain
        self.faults = faults
        self.extra: dict[str, Handler] = {}

    def answer(self, body: bytes) -> bytes:
        """The reply to the body of one HTTP request; empty when nothing in it asks for an answer."""
        return jsonrpc.answer(body, self.call)

    def call(self, method: str, params: Any) -> Any:
        """The result of one method: `params` is a list, an object (which no method takes), or None. RpcError when it has none."""
        known = METHODS.get(method)
        control = self.extra.get(method) if known is None else None
        if known is None and control is None:
            raise method_not_found()
        lag = 0
        if known is not None and method != "sendTransaction" and self.faults.strikes("balancer"):
            slots = min(OLD_READS_SLOTS_MAX, max(1, int(self.faults.param("balancer", "slots"))))
            lag = self.faults.dice("balancer").randint(1, slots)
        ctx = Context(self, self.chain, self.faults, lag)
        try:
            return (
                known(ctx, params)
                if known is not None
                else control and control(ctx, params if isinstance(params, list) else [])
            )
        except RpcError:
            raise
        except Exception as error:
            # What no reader foresaw is a fault of this node: it answers, says what tripped it, and goes on. The fuzz tests look for it.
            raise RpcError(-32603, f"Internal error: {type(error).__name__}: {error}") from error


# --- where the chain is ----------------------------------------------------------------------------------------------


@_method(extra=(CONTEXT,))
def getSlot(ctx: Context, options: Options | None) -> int:
    return ctx.read_slot(options)


@_method(extra=(CONTEXT,))
def getBlockHeight(ctx: Context, options: Options | None) -> int:
    return ctx.chain.bank_at_or_below(ctx.read_slot(options)).height


@_method()
def getHealth(ctx: Context) -> str:
    if ctx.faults.strikes("unhealthy"):
        raise node_unhealthy(int(ctx.faults.param("unhealthy", "slots")))
    return "ok"


@_method()
def getVersion(ctx: Context) -> dict[str, Any]:
    return {"feature-set": FEATURE_SET, "solana-core": API_VERSION}


@_method()
def getGenesisHash(ctx: Context) -> str:
    return ctx.chain.genesis_hash


@_method()
def getIdentity(ctx: Context) -> dict[str, str]:
    return {"identity": str(ctx.chain.identity.pubkey())}


@_method(extra=(CONTEXT,))
def getSlotLeader(ctx: Context, options: Options | None) -> str:
    ctx.read_slot(options)
    return str(ctx.chain.identity.pubkey())


@_method(extra=(CONTEXT,))
def getEpochInfo(ctx: Context, options: Options | None) -> dict[str, int]:
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(options))
    return {
        "absoluteSlot": bank.slot,
        "blockHeight": bank.height,
        "epoch": bank.slot // SLOTS_PER_EPOCH,
        "slotIndex": bank.slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": ctx.chain.transaction_count,
    }


@_method(extra=(CONTEXT,))
def getTransactionCount(ctx: Context, options: Options | None) -> int:
    ctx.read_slot(options)
    return ctx.chain.transaction_count


@_method()
def getFirstAvailableBlock(ctx: Context) -> int:
    return ctx.chain.first_available


@_method()
def minimumLedgerSlot(ctx: Context) -> int:
    return max(0, ctx.chain.first_available - 1)


@_method(extra=(CONTEXT,))
def getLatestBlockhash(ctx: Context, options: Options | None) -> dict[str, Any]:
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(options))
    value = {"blockhash": bank.blockhash, "lastValidBlockHeight": ctx.chain.last_valid_height(bank.blockhash)}
    return ctx.with_context(bank.slot, value)


@_method(text, extra=(CONTEXT,))
def isBlockhashValid(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    try:
        blockhash = blockhash_of(encoded)
    except ValueError as error:
        raise invalid_params(str(error)) from None
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, ctx.chain.blockhash_is_valid(blockhash, ctx.chain.bank_at_or_below(slot)))


@_method(text, extra=(CONTEXT,))
def getFeeForMessage(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    wire = wire_bytes(encoded, "base64", _MESSAGE_TYPE)
    fault = message_fault(wire)
    if fault is not None:
        raise invalid_params(f"failed to deserialize {_MESSAGE_TYPE}: {fault}")
    message = MessageV0.from_bytes(wire[1:]) if wire[0] & 0x80 else Message.from_bytes(wire)
    slot = ctx.read_slot(options)
    bank = ctx.chain.bank_at_or_below(slot)
    known = ctx.chain.blockhash_is_valid(str(message.recent_blockhash), bank)
    return ctx.with_context(slot, fee_of(message) if known else None)


@_method(extra=(texts,))
def getRecentPrioritizationFees(ctx: Context, addresses: list[str] | None) -> list[dict[str, int]]:
    if addresses is not None and len(addresses) > _LOCKS_MAX:
        raise invalid_params(f"Too many inputs provided; max {_LOCKS_MAX}")
    keys = {address_of(address) for address in addresses or ()}
    rows = []
    tip = ctx.slot(Commitment.PROCESSED)
    for bank in ctx.chain.banks_between(tip - _PRIORITIZATION_SLOTS + 1, tip):
        if not bank.transactions:
            continue
        # The least that was paid in the block, or for the dearest of the asked accounts, where that is more.
        least = [min(row.fee_per_unit for row in bank.transactions)]
        for key in keys:
            paid = [row.fee_per_unit for row in bank.transactions if key in row.writable]
            least += [min(paid)] if paid else []
        rows.append({"prioritizationFee": max(least), "slot": bank.slot})
    return rows


# --- accounts --------------------------------------------------------------------------------------------------------


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


def _shown_account(ctx: Context, address: Pubkey, slot: int, options: dict[str, Any]) -> dict[str, Any] | None:
    account = ctx.chain.account(address, slot)
    if account is None:
        return None
    encoding = options.get("encoding") or "binary"
    return account_object(account, encoding, options.get("dataSlice"), lambda mint: ctx.chain.account(mint, slot))


@_method(text, extra=(CONTEXT,))
def getBalance(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    account = ctx.chain.account(address, slot)
    return ctx.with_context(slot, 0 if account is None else account.lamports)


@_method(text, extra=(ACCOUNT_INFO,))
def getAccountInfo(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    address = address_of(encoded)
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, _shown_account(ctx, address, slot, options or {}))


@_method(texts, extra=(ACCOUNT_INFO,))
def getMultipleAccounts(ctx: Context, encoded: list[str], options: Options | None) -> dict[str, Any]:
    if len(encoded) > ACCOUNTS_MAX:
        raise invalid_params(f"Too many inputs provided; max {ACCOUNTS_MAX}")
    addresses = [address_of(address) for address in encoded]
    shown = {**(options or {})}
    shown["encoding"] = shown.get("encoding") or "base64"
    slot = ctx.read_slot(shown)
    return ctx.with_context(slot, [_shown_account(ctx, address, slot, shown) for address in addresses])


Predicate = Callable[[Account], bool]


def account_filters(filters: list[tuple[str, Any]] | None) -> list[Predicate]:
    """Filters of getProgramAccounts and programSubscribe as predicates."""
    wanted = filters or []
    if len(wanted) > FILTERS_MAX:
        raise invalid_params(f"Too many filters provided; max {FILTERS_MAX}")
    return [_filter(name, spec) for name, spec in wanted]


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


def _keyed_accounts(
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


@_method(text, extra=(take.PROGRAM_ACCOUNTS,))
def getProgramAccounts(ctx: Context, encoded: str, config: Options | None) -> Any:
    owner = address_of(encoded)
    options = config or {}
    filters = account_filters(options.get("filters"))
    slot = ctx.read_slot(options)
    rows = _keyed_accounts(ctx, owner, slot, options, filters)
    return ctx.with_context(slot, rows) if options.get("withContext") else rows


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

    return ctx.with_context(slot, _keyed_accounts(ctx, program, slot, options, [passes]))


def _mint_of(ctx: Context, address: Pubkey, slot: int) -> Account:
    account = ctx.chain.account(address, slot)
    if account is None:
        raise invalid_params("Invalid param: could not find mint")
    if account.owner not in TOKEN_PROGRAMS:
        raise invalid_params("Invalid param: not a Token mint")
    if mint_decimals(account) is None:
        raise invalid_params("Invalid param: Token mint could not be unpacked")
    return account


@_method(text, take.TOKEN_FILTER, extra=(ACCOUNT_INFO,))
def getTokenAccountsByOwner(
    ctx: Context, encoded: str, scope: tuple[str, str], options: Options | None
) -> dict[str, Any]:
    owner = address_of(encoded)
    return _token_accounts(ctx, scope, options, lambda token: token.owner == owner)


@_method(text, take.TOKEN_FILTER, extra=(ACCOUNT_INFO,))
def getTokenAccountsByDelegate(
    ctx: Context, encoded: str, scope: tuple[str, str], options: Options | None
) -> dict[str, Any]:
    delegate = address_of(encoded)
    return _token_accounts(ctx, scope, options, lambda token: token.delegate == delegate)


@_method(text, extra=(take.COMMITMENT_ONLY,))
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


@_method(text, extra=(take.COMMITMENT_ONLY,))
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


@_method(text, extra=(take.COMMITMENT_ONLY,))
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


@_method(usize, extra=(take.COMMITMENT_ONLY,))
def getMinimumBalanceForRentExemption(ctx: Context, data_bytes: int, options: Options | None) -> int:
    if data_bytes > ACCOUNT_BYTES_MAX:
        raise invalid_request()
    return ctx.chain.machine.rent_exempt_minimum(data_bytes)


# --- the ledger ------------------------------------------------------------------------------------------------------


def _settled(options: dict[str, Any]) -> Commitment:
    commitment = commitment_of(options)
    if commitment is Commitment.PROCESSED:
        raise invalid_params("Method does not support commitment below `confirmed`")
    return commitment


def _meta_json(ctx: Context, stored: StoredTransaction, encoding: str, rewards: bytes) -> bytes:
    meta = stored.meta
    lacks_logs = ctx.faults.strikes("null-logs")
    if encoding == "jsonParsed" or lacks_logs:
        fields: dict[str, Any] = msgspec.json.decode(meta)
        if encoding == "jsonParsed":
            fields.pop("loadedAddresses")
            keys = [str(key) for key in stored.mentions]
            for group in fields["innerInstructions"]:
                group["instructions"] = [
                    parsed_instruction(
                        keys[row["programIdIndex"]],
                        [keys[index] for index in row["accounts"]],
                        base58_bytes(row["data"]),
                        row["stackHeight"],
                    )
                    for row in group["instructions"]
                ]
        if lacks_logs:
            fields["logMessages"] = fields["innerInstructions"] = None
        meta = _to_json(fields)
    return b'%s,"rewards":%s}' % (meta[:-1], rewards)


def _body_json(stored: StoredTransaction, encoding: str) -> bytes:
    if encoding == "json":
        return ledger.transaction_json(stored)
    if encoding != "jsonParsed":
        return ledger.wire_json(stored, encoding)
    transaction = stored.parsed()
    message = transaction.message
    keys = [str(key) for key in stored.mentions]
    body: dict[str, Any] = {
        "accountKeys": ledger.account_keys(stored),
        "instructions": [
            parsed_instruction(keys[ix.program_id_index], [keys[i] for i in ix.accounts], bytes(ix.data), 1)
            for ix in message.instructions
        ],
        "recentBlockhash": str(message.recent_blockhash),
    }
    if isinstance(message, MessageV0):
        body["addressTableLookups"] = [
            {
                "accountKey": str(row.account_key),
                "readonlyIndexes": list(row.readonly_indexes),
                "writableIndexes": list(row.writable_indexes),
            }
            for row in message.address_table_lookups
        ]
    return _to_json({"message": body, "signatures": msgspec.Raw(ledger.signatures_json(transaction))})


def _version_json(stored: StoredTransaction, version_max: int | None) -> bytes:
    if stored.version == LEGACY:
        return b"" if version_max is None else b',"version":"legacy"'
    if version_max is None:
        raise unsupported_version(int(stored.version))
    return b',"version":%d' % int(stored.version)


@_method(text, extra=(take.block_config,))
def getTransaction(ctx: Context, encoded: str, config: Options | None) -> Any:
    signature = signature_of(encoded)
    options = config or {}
    top = ctx.slot(_settled(options))
    version_max = options.get("maxSupportedTransactionVersion")
    stored = ctx.chain.find(signature)
    if stored is None or stored.slot > top or _is_withheld(ctx, stored):
        return None
    bank = ctx.chain.bank(stored.slot)
    encoding = options.get("encoding") or "json"
    version = _version_json(stored, version_max)
    index = b',"transactionIndex":%d' % stored.index if ctx.chain.config.transaction_index else b""
    return msgspec.Raw(
        b'{"blockTime":%d,"meta":%s,"slot":%d,"transaction":%s%s%s}'
        % (
            bank.unix_s if bank else 0,
            _meta_json(ctx, stored, encoding, b"[]"),
            stored.slot,
            _body_json(stored, encoding),
            index,
            version,
        )
    )


def _is_withheld(ctx: Context, stored: StoredTransaction) -> bool:
    faults = ctx.faults
    if faults.param("hidden-signatures", "everywhere") and faults.chooses("hidden-signatures", stored.signature):
        return True
    age = ctx.chain.tip.slot - stored.slot
    return age < faults.param("null-transactions", "slots") and faults.chooses("null-transactions", stored.signature)


def _block_at(ctx: Context, slot: int, top: int) -> Bank:
    if slot < ctx.chain.first_available:
        raise block_cleaned_up(slot, ctx.chain.first_available)
    bank = ctx.chain.bank(slot)
    if bank is not None and slot <= top:
        return bank
    raise slot_skipped(slot) if slot < ctx.slot(Commitment.FINALIZED) else block_not_available(slot)


@_method(unsigned, extra=(take.block_config,))
def getBlock(ctx: Context, slot: int, config: Options | None) -> Any:
    options = config or {}
    top = ctx.slot(_settled(options))
    version_max = options.get("maxSupportedTransactionVersion")
    bank = _block_at(ctx, slot, top)
    if ctx.chain.tip.slot - slot < ctx.faults.param("late-blocks", "slots") and ctx.faults.chooses(
        "late-blocks", str(slot)
    ):
        if ctx.faults.param("late-blocks", "null"):
            return None
        raise block_status_not_yet(slot)
    details = options.get("transactionDetails") or "full"
    rows = bank.transactions
    if ctx.faults.param("hidden-signatures", "everywhere"):
        rows = [row for row in rows if not ctx.faults.chooses("hidden-signatures", row.signature)]
    parts = [
        b'"blockHeight":%d,"blockTime":%d,"blockhash":"%s","parentSlot":%d,"previousBlockhash":"%s"'
        % (bank.height, bank.unix_s, bank.blockhash.encode(), bank.parent, bank.previous_blockhash.encode())
    ]
    has_rewards = options.get("rewards", True) is not False
    if has_rewards:
        parts.append(b'"rewards":%s' % _to_json(_rewards(ctx.chain, bank)))
    if details == "signatures":
        parts.append(b'"signatures":%s' % _to_json([row.signature for row in rows]))
    elif details == "accounts":
        parts.append(b'"transactions":[%s]' % b",".join(_with_accounts(row, version_max) for row in rows))
    elif details == "full":
        encoding = options.get("encoding") or "json"
        full = [
            b'{"meta":%s,"transaction":%s%s}'
            % (
                _meta_json(ctx, row, encoding, b"[]" if has_rewards else b"null"),
                _body_json(row, encoding),
                _version_json(row, version_max),
            )
            for row in rows
        ]
        parts.append(b'"transactions":[%s]' % b",".join(full))
    return msgspec.Raw(b"{" + b",".join(parts) + b"}")


def _rewards(chain: Chain, bank: Bank) -> list[dict[str, Any]]:
    if not bank.fees:
        return []
    return [
        {
            "commission": None,
            "lamports": bank.fees // 2,
            "postBalance": bank.fees // 2,
            "pubkey": str(chain.identity.pubkey()),
            "rewardType": "Fee",
        }
    ]


_BRIEF_META = ("err", "fee", "postBalances", "postTokenBalances", "preBalances", "preTokenBalances", "status")


def _with_accounts(stored: StoredTransaction, version_max: int | None) -> bytes:
    meta = msgspec.json.decode(stored.meta)
    signatures = [str(signature) for signature in stored.parsed().signatures]
    return b'{"meta":%s,"transaction":%s%s}' % (
        _to_json({name: meta[name] for name in _BRIEF_META}),
        _to_json({"accountKeys": ledger.account_keys(stored), "signatures": signatures}),
        _version_json(stored, version_max),
    )


@_method(unsigned, extra=(take.blocks_end, CONTEXT))
def getBlocks(ctx: Context, first: int, end: int | Options | None, config: Options | None) -> list[int]:
    options = end if isinstance(end, dict) else config or {}
    _settled(options)
    top = ctx.read_slot(options)
    last = top if end is None or isinstance(end, dict) else min(end, top)
    if last - first > BLOCK_RANGE_MAX:
        raise invalid_params(f"Slot range too large; max {BLOCK_RANGE_MAX}")
    return [bank.slot for bank in ctx.chain.banks_between(first, last)]


@_method(unsigned, usize, extra=(CONTEXT,))
def getBlocksWithLimit(ctx: Context, first: int, limit: int, options: Options | None) -> list[int]:
    if limit > BLOCK_RANGE_MAX:
        raise invalid_params(f"Limit too large; max {BLOCK_RANGE_MAX}")
    _settled(options or {})
    return [bank.slot for bank in islice(ctx.chain.banks_between(first, ctx.read_slot(options)), limit)]


@_method(unsigned)
def getBlockTime(ctx: Context, slot: int) -> int:
    return _block_at(ctx, slot, ctx.slot(Commitment.CONFIRMED)).unix_s


def _place(row: StoredTransaction) -> tuple[int, int]:
    return row.slot, row.index


@_method(text, extra=(take.SIGNATURES_FOR_ADDRESS,))
def getSignaturesForAddress(ctx: Context, encoded: str, config: Options | None) -> list[dict[str, Any]]:
    options = config or {}
    address = address_of(encoded)
    limit = SIGNATURES_PAGE_MAX if options.get("limit") is None else options["limit"]
    if not 0 < limit <= SIGNATURES_PAGE_MAX:
        raise invalid_params(f"Invalid limit; max {SIGNATURES_PAGE_MAX}")
    before, until = (None if options.get(name) is None else signature_of(options[name]) for name in ("before", "until"))
    commitment = _settled(options)
    top = ctx.read_slot(options)
    rows = ctx.chain.signatures_of(address)
    end = bisect_right(rows, top, key=lambda row: row.slot)
    start = 0
    if before is not None:
        end = min(end, bisect_left(rows, _place(_known(ctx, before, top)), key=_place))
    if until is not None:
        start = bisect_right(rows, _place(_known(ctx, until, top)), key=_place)
    return _page(ctx, rows, start, end, limit, commitment)


def _known(ctx: Context, signature: str, top: int) -> StoredTransaction:
    stored = ctx.chain.find(signature)
    if stored is None or stored.slot > top:
        raise transaction_not_found(signature)
    return stored


def _page(
    ctx: Context, rows: list[StoredTransaction], start: int, end: int, limit: int, commitment: Commitment
) -> list[dict[str, Any]]:
    faults, chain = ctx.faults, ctx.chain
    finalized, tip = ctx.slot(Commitment.FINALIZED), chain.tip.slot
    shows_index = chain.config.transaction_index
    page: list[dict[str, Any]] = []
    for position in range(end - 1, start - 1, -1):
        if len(page) >= limit:
            break
        row = rows[position]
        is_fresh = tip - row.slot < faults.param("incomplete-lists", "slots")
        if is_fresh and faults.chooses("incomplete-lists", row.signature):
            continue
        if faults.chooses("hidden-signatures", row.signature):
            continue
        bank = chain.bank(row.slot)
        entry = {
            "blockTime": bank.unix_s if bank else None,
            "confirmationStatus": "finalized" if row.slot <= finalized else "confirmed",
            "err": row.err,
            "memo": row.memo,
            "signature": row.signature,
            "slot": row.slot,
        }
        if shows_index:
            entry["transactionIndex"] = row.index
        page.append(entry)
    # A page of one is left alone: its only entry is the client's cursor.
    if page and limit > 1 and faults.strikes("invented-signatures"):
        invented = str(Signature.from_bytes(faults.dice("invented-signatures").randbytes(64)))
        page.insert(0, {**page[0], "signature": invented, "err": None})
    return page[:limit]


@_method(texts, extra=(take.SIGNATURE_STATUS,))
def getSignatureStatuses(ctx: Context, encoded: list[str], options: Options | None) -> dict[str, Any]:
    if len(encoded) > STATUSES_MAX:
        raise invalid_params(f"Too many inputs provided; max {STATUSES_MAX}")
    signatures = [signature_of(signature) for signature in encoded]
    top, confirmed, finalized = (ctx.slot(c) for c in Commitment)
    # Without a search in its history a node knows what its cache of statuses holds.
    floor = 0 if options and options["searchTransactionHistory"] else status_floor(ctx.chain)
    rows = [_status(ctx, signature, floor, top, confirmed, finalized) for signature in signatures]
    return ctx.with_context(top, rows)


def status_floor(chain: Chain) -> int:
    """The oldest slot of which the cache of statuses still knows the transactions."""
    return chain.slot_at(Commitment.FINALIZED) - STATUS_CACHE_SLOTS + 1


def _status(
    ctx: Context, signature: str, floor: int, top: int, confirmed: int, finalized: int
) -> dict[str, Any] | None:
    stored = ctx.chain.find(signature)
    if stored is None or not floor <= stored.slot <= top:
        return None
    if stored.slot <= finalized:
        word, confirmations = "finalized", None
    else:
        word = "confirmed" if stored.slot <= confirmed else "processed"
        confirmations = sum(1 for _ in ctx.chain.banks_between(stored.slot, top))
    return {
        "confirmationStatus": word,
        "confirmations": confirmations,
        "err": stored.err,
        "slot": stored.slot,
        "status": {"Ok": None} if stored.err is None else {"Err": stored.err},
    }


# --- sending ---------------------------------------------------------------------------------------------------------


def _sent(encoded: str, options: Options) -> tuple[VersionedTransaction, bytes]:
    encoding = options.get("encoding") or "base58"
    if encoding not in _ENCODED_MAX:
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
        raise invalid_params(f"invalid transaction: {_WORDS['AddressLookupTableNotFound']}")


_UNSANE = _WORDS["SanitizeFailure"]


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


@_method(text, extra=(take.SEND,))
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


@_method(text, extra=(take.SIMULATE,))
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


@_method(text, unsigned, extra=(take.AIRDROP,))
def requestAirdrop(ctx: Context, encoded: str, lamports: int, options: Options | None) -> str:
    address = address_of(encoded)
    if options and options.get("recentBlockhash") is not None:
        try:
            blockhash_of(options["recentBlockhash"])
        except ValueError as error:
            raise invalid_params(f"Invalid param: {error}") from None
    return ctx.chain.airdrop(address, lamports)


# --- the cluster -----------------------------------------------------------------------------------------------------


@_method()
def getEpochSchedule(ctx: Context) -> dict[str, Any]:
    return {
        "firstNormalEpoch": 0,
        "firstNormalSlot": 0,
        "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
        "slotsPerEpoch": SLOTS_PER_EPOCH,
        "warmup": False,
    }


@_method(extra=(take.COMMITMENT_ONLY,))
def getInflationGovernor(ctx: Context, options: Options | None) -> dict[str, float]:
    return {"foundation": 0.05, "foundationTerm": 7.0, "initial": 0.08, "taper": 0.15, "terminal": 0.015}


@_method()
def getInflationRate(ctx: Context) -> dict[str, Any]:
    epoch = ctx.slot(Commitment.FINALIZED) // SLOTS_PER_EPOCH
    return {"epoch": epoch, "foundation": 0.004, "total": 0.08, "validator": 0.076}


@_method(texts, extra=(take.EPOCH,))
def getInflationReward(ctx: Context, encoded: list[str], config: Options | None) -> list[None]:
    options = config or {}
    addresses = [address_of(address) for address in encoded]
    slot = ctx.read_slot(options)
    asked = options.get("epoch")
    epoch = max(0, slot // SLOTS_PER_EPOCH - 1) if asked is None else asked
    paid_at = (epoch + 1) * SLOTS_PER_EPOCH
    if paid_at > slot:
        raise block_not_available(paid_at)
    # Nobody has a stake here.
    return [None] * len(addresses)


@_method()
def getHighestSnapshotSlot(ctx: Context) -> None:
    raise no_snapshot()


@_method(unsigned, unsigned)
def getSlotLeaders(ctx: Context, first: int, limit: int) -> list[str]:
    if limit > _LEADERS_MAX:
        raise invalid_params(f"Invalid limit; max {_LEADERS_MAX}")
    epoch = first // SLOTS_PER_EPOCH
    if epoch > ctx.slot(Commitment.FINALIZED) // SLOTS_PER_EPOCH + 1:
        raise invalid_params(f"Invalid slot range: leader schedule for epoch {epoch} is unavailable")
    return [str(ctx.chain.identity.pubkey())] * limit


@_method()
def getMaxRetransmitSlot(ctx: Context) -> int:
    return ctx.slot(Commitment.PROCESSED)


@_method()
def getMaxShredInsertSlot(ctx: Context) -> int:
    return ctx.slot(Commitment.PROCESSED)


@_method(extra=(CONTEXT,))
def getStakeMinimumDelegation(ctx: Context, options: Options | None) -> dict[str, Any]:
    return ctx.with_context(ctx.read_slot(options), _STAKE_MIN_LAMPORTS)
