"""JSON-RPC methods over a chain: bytes of a request in, bytes of a reply out. No I/O; the wall clock is an argument of the service.

Shapes, codes and words are those of Agave 4.1.2, taken from its replies.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from solders.account import Account
from solders.hash import Hash
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from programs.base58 import encode as base58_encode
from programs.devnode import ledger
from programs.devnode.chain import OLD_READS_SLOTS_MAX, Chain, Commitment, fee_of, return_data_json
from programs.devnode.config import SLOTS_PER_EPOCH, TRANSACTION_BYTES_MAX
from programs.devnode.errors import (
    PARSE_ERROR,
    RpcError,
    block_cleaned_up,
    block_not_available,
    block_status_not_yet,
    invalid_params,
    invalid_request,
    method_not_found,
    min_context_slot,
    node_unhealthy,
    preflight_failure,
    slot_skipped,
    transaction_not_found,
    unsupported_version,
)
from programs.devnode.faults import FaultEngine
from programs.devnode.ledger import LEGACY, Bank, StoredTransaction
from programs.devnode.parsed import base64_text, parsed_account, parsed_instruction, zstd_frame
from programs.devnode.tokens import TOKEN_PROGRAMS, token_account
from programs.devnode.vm import RENT_EXEMPT_EPOCH, Outcome

API_VERSION = "4.1.2"
FEATURE_SET = 3_345_198_602
SIGNATURES_PAGE_MAX = 1_000
STATUSES_MAX = 256
ACCOUNTS_MAX = 100
FILTERS_MAX = 4
BLOCK_RANGE_MAX = 500_000
BASE58_DATA_MAX = 128
_ENCODED_MAX = {"base58": 1683, "base64": 1644}
_PRIORITIZATION_SLOTS = 150
_TRANSACTION_TYPE = "solana_transaction::versioned::VersionedTransaction"
_MESSAGE_TYPE = "solana_message::non_bpf_modules::versions::VersionedMessage"
_TRANSACTION_ENCODINGS = ("binary", "base64", "base58", "json", "jsonParsed")
_ACCOUNT_ENCODINGS = ("binary", "base58", "base64", "jsonParsed", "base64+zstd")
_DETAILS = ("full", "signatures", "none", "accounts")
_U64_MAX = (1 << 64) - 1
_to_json = msgspec.json.encode
_BLOCK_CONFIG = invalid_params(
    "Invalid params: data did not match any variant of untagged enum RpcEncodingConfigWrapper."
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


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f"string {_to_json(value).decode()}"
    return "null" if value is None else "sequence" if isinstance(value, list) else "map"


def wrong_type(value: Any, expected: str) -> RpcError:
    """-32602 with serde's words."""
    return invalid_params(f"Invalid params: invalid type: {_shown(value)}, expected {expected}.")


def need(params: list[Any], count: int = 1) -> None:
    """Demand at least `count` parameters."""
    if len(params) < count:
        raise invalid_params(f"`params` should have at least {count} argument(s)")


def text_at(params: list[Any], index: int) -> str:
    """A string parameter."""
    value = params[index]
    if not isinstance(value, str):
        raise wrong_type(value, "a string")
    return value


def unsigned(value: Any, expected: str = "u64") -> int:
    """A u64."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(value, expected)
    if not 0 <= value <= _U64_MAX:
        raise invalid_params(f"Invalid params: invalid value: integer `{value}`, expected {expected}.")
    return value


def options_at(params: list[Any], index: int) -> dict[str, Any]:
    """An optional object parameter."""
    value = params[index] if len(params) > index else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(value, "struct config")
    return value


def commitment_of(options: dict[str, Any]) -> Commitment:
    """The commitment asked for; as on the real node an unknown word means the default, finalized."""
    word = options.get("commitment")
    return {"processed": Commitment.PROCESSED, "confirmed": Commitment.CONFIRMED}.get(str(word), Commitment.FINALIZED)


def address_of(text: Any) -> Pubkey:
    """An address parameter."""
    if not isinstance(text, str):
        raise wrong_type(text, "a string")
    if len(text) > 44:
        raise invalid_params("Invalid param: WrongSize")
    try:
        return Pubkey.from_string(text)
    except ValueError as error:
        raise invalid_params(f"Invalid param: {'Invalid' if 'nvalid Base58' in str(error) else 'WrongSize'}") from None


def signature_of(text: str) -> str:
    """A signature parameter."""
    if len(text) > 88:
        raise invalid_params("Invalid param: WrongSize")
    try:
        return str(Signature.from_string(text))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {'Invalid' if 'nvalid Base58' in str(error) else 'WrongSize'}") from None


def choice(value: Any, known: tuple[str, ...], default: str) -> str:
    """One of the known words; None means the default."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong_type(value, "string or map")
    if value not in known:
        words = ", ".join(f"`{word}`" for word in known)
        raise invalid_params(f"Invalid params: unknown variant `{value}`, expected one of {words}.")
    return value


def _base58_bytes(text: str) -> bytes:
    # Numbers are wide enough here: encoded transactions have at most 1,683 characters.
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = 0
    for index, character in enumerate(text):
        digit = alphabet.find(character)
        if digit < 0:
            raise ValueError(f"InvalidCharacter {{ character: '{character}', index: {index} }}")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def wire_bytes(text: str, encoding: str, kind: str) -> bytes:
    """Decode an encoded transaction or message, within the bounds of a packet."""
    if len(text) > _ENCODED_MAX[encoding]:
        limits = f"max: encoded/raw {_ENCODED_MAX[encoding]}/{TRANSACTION_BYTES_MAX}"
        raise invalid_params(f"{encoding} encoded {kind} too large: {len(text)} bytes ({limits})")
    try:
        wire = base64.b64decode(text, validate=True) if encoding == "base64" else _base58_bytes(text)
    except (ValueError, binascii.Error) as error:
        detail = _base64_fault(text) if encoding == "base64" else str(error)
        raise invalid_params(f"invalid {encoding} encoding: {detail}") from None
    if len(wire) > TRANSACTION_BYTES_MAX:
        raise invalid_params(f"decoded {kind} too large: {len(wire)} bytes (max: {TRANSACTION_BYTES_MAX} bytes)")
    return wire


def _base64_fault(text: str) -> str:
    for index, character in enumerate(text):
        if not (character.isascii() and (character.isalnum() or character in "+/=")):
            return f"InvalidByte({index}, {ord(character)})"
    return "InvalidPadding"


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

    def read_slot(self, options: dict[str, Any]) -> int:
        """The slot that a read at the asked commitment sees; -32016 when it is below minContextSlot."""
        slot = self.slot(commitment_of(options))
        floor = options.get("minContextSlot")
        if floor is not None and slot < unsigned(floor):
            raise min_context_slot(slot)
        return slot

    def with_context(self, slot: int, value: Any) -> dict[str, Any]:
        """A value with the slot at which it was read."""
        return {"context": {"apiVersion": API_VERSION, "slot": slot}, "value": value}


Handler = Callable[[Context, list[Any]], Any]
METHODS: dict[str, Handler] = {}


def _method(handler: Handler) -> Handler:
    METHODS[handler.__name__] = handler
    return handler


class RpcService:
    """All methods over one chain. `extra` holds methods that the composition adds (the control methods)."""

    def __init__(self, chain: Chain, faults: FaultEngine) -> None:
        self.chain = chain
        self.faults = faults
        self.extra: dict[str, Handler] = {}

    def answer(self, body: bytes) -> bytes:
        """The reply to the body of one HTTP request; empty when nothing in it asks for an answer."""
        try:
            request = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._failed(RpcError(PARSE_ERROR, "Parse error"), None)
        if isinstance(request, list):
            if not all(isinstance(item, dict) for item in request):
                return self._failed(RpcError(PARSE_ERROR, "Parse error"), None)
            replies = [reply for reply in map(self._one, request) if reply]
            return b"[" + b",".join(replies) + b"]" if replies else b""
        if not isinstance(request, dict):
            return self._failed(RpcError(PARSE_ERROR, "Parse error"), None)
        return self._one(request)

    def _one(self, request: dict[str, Any]) -> bytes:
        request_id = request.get("id")
        if isinstance(request_id, list | dict | bool | float):
            return self._failed(RpcError(PARSE_ERROR, "Parse error"), None)
        try:
            method = request.get("method")
            params = request.get("params", [])
            if not isinstance(method, str) or request.get("jsonrpc") not in (None, "2.0"):
                raise invalid_request()
            if "jsonrpc" not in request:
                raise invalid_request("Unsupported JSON-RPC protocol version")
            if not isinstance(params, list | dict) and params is not None:
                raise invalid_request()
            if isinstance(params, dict):
                raise invalid_params("`params` should be an array")
            result = self.call(method, params or [])
        except RpcError as error:
            return self._failed(error, request_id) if "id" in request else b""
        return (
            b'{"jsonrpc":"2.0","result":%s,"id":%s}' % (_to_json(result), _to_json(request_id))
            if "id" in request
            else b""
        )

    def call(self, method: str, params: list[Any]) -> Any:
        """The result of one method. RpcError when it has none."""
        handler = METHODS.get(method) or self.extra.get(method)
        if handler is None:
            raise method_not_found()
        lag = 0
        if method in METHODS and method != "sendTransaction" and self.faults.strikes("balancer"):
            slots = min(OLD_READS_SLOTS_MAX, max(1, int(self.faults.param("balancer", "slots"))))
            lag = self.faults.dice("balancer").randint(1, slots)
        try:
            return handler(Context(self, self.chain, self.faults, lag), params)
        except RpcError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            # Parameters that no reader above foresaw: the node answers, and says what tripped it.
            raise RpcError(-32603, f"Internal error: {type(error).__name__}: {error}") from error

    @staticmethod
    def _failed(error: RpcError, request_id: Any) -> bytes:
        return b'{"jsonrpc":"2.0","error":%s,"id":%s}' % (_to_json(error.as_object()), _to_json(request_id))


# --- where the chain is ----------------------------------------------------------------------------------------------


@_method
def getSlot(ctx: Context, params: list[Any]) -> int:
    return ctx.read_slot(options_at(params, 0))


@_method
def getBlockHeight(ctx: Context, params: list[Any]) -> int:
    return ctx.chain.bank_at_or_below(ctx.read_slot(options_at(params, 0))).height


@_method
def getHealth(ctx: Context, params: list[Any]) -> str:
    if ctx.faults.strikes("unhealthy"):
        raise node_unhealthy(int(ctx.faults.param("unhealthy", "slots")))
    return "ok"


@_method
def getVersion(ctx: Context, params: list[Any]) -> dict[str, Any]:
    return {"feature-set": FEATURE_SET, "solana-core": API_VERSION}


@_method
def getGenesisHash(ctx: Context, params: list[Any]) -> str:
    return ctx.chain.genesis_hash


@_method
def getIdentity(ctx: Context, params: list[Any]) -> dict[str, str]:
    return {"identity": str(ctx.chain.identity.pubkey())}


@_method
def getSlotLeader(ctx: Context, params: list[Any]) -> str:
    ctx.read_slot(options_at(params, 0))
    return str(ctx.chain.identity.pubkey())


@_method
def getEpochInfo(ctx: Context, params: list[Any]) -> dict[str, int]:
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(options_at(params, 0)))
    return {
        "absoluteSlot": bank.slot,
        "blockHeight": bank.height,
        "epoch": bank.slot // SLOTS_PER_EPOCH,
        "slotIndex": bank.slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": ctx.chain.transaction_count,
    }


@_method
def getTransactionCount(ctx: Context, params: list[Any]) -> int:
    ctx.read_slot(options_at(params, 0))
    return ctx.chain.transaction_count


@_method
def getFirstAvailableBlock(ctx: Context, params: list[Any]) -> int:
    return ctx.chain.first_available


@_method
def minimumLedgerSlot(ctx: Context, params: list[Any]) -> int:
    return max(0, ctx.chain.first_available - 1)


@_method
def getLatestBlockhash(ctx: Context, params: list[Any]) -> dict[str, Any]:
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(options_at(params, 0)))
    value = {"blockhash": bank.blockhash, "lastValidBlockHeight": ctx.chain.last_valid_height(bank.blockhash)}
    return ctx.with_context(bank.slot, value)


@_method
def isBlockhashValid(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    try:
        blockhash = str(Hash.from_string(text_at(params, 0)))
    except ValueError:
        raise invalid_params("Invalid param: WrongSize") from None
    slot = ctx.read_slot(options_at(params, 1))
    return ctx.with_context(slot, ctx.chain.blockhash_is_valid(blockhash, ctx.chain.bank_at_or_below(slot)))


@_method
def getFeeForMessage(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    wire = wire_bytes(text_at(params, 0), "base64", _MESSAGE_TYPE)
    slot = ctx.read_slot(options_at(params, 1))
    try:
        message = MessageV0.from_bytes(wire[1:]) if wire and wire[0] & 0x80 else Message.from_bytes(wire)
    except Exception as error:
        raise invalid_params(f"failed to deserialize {_MESSAGE_TYPE}: {error}") from None
    bank = ctx.chain.bank_at_or_below(slot)
    known = ctx.chain.blockhash_is_valid(str(message.recent_blockhash), bank)
    return ctx.with_context(slot, fee_of(message) if known else None)


@_method
def getRecentPrioritizationFees(ctx: Context, params: list[Any]) -> list[dict[str, int]]:
    keys = {address_of(key) for key in params[0]} if params and isinstance(params[0], list) else set()
    rows = []
    tip = ctx.slot(Commitment.PROCESSED)
    for bank in ctx.chain.banks_between(tip - _PRIORITIZATION_SLOTS + 1, tip):
        matching = [row.fee_per_unit for row in bank.transactions if keys.issubset(row.writable)]
        if matching:
            rows.append({"prioritizationFee": min(matching), "slot": bank.slot})
    return rows


# --- accounts --------------------------------------------------------------------------------------------------------


def _sliced(data: bytes, spec: Any) -> bytes:
    if spec is None:
        return data
    if not isinstance(spec, dict):
        raise wrong_type(spec, "struct UiDataSliceConfig")
    for name in ("offset", "length"):
        if name not in spec:
            raise invalid_params(f"Invalid params: missing field `{name}`.")
    offset, length = unsigned(spec["offset"], "usize"), unsigned(spec["length"], "usize")
    return data[offset : offset + length]


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
        # Every account is rent exempt by now; a real node shows the largest epoch for all of them.
        "rentEpoch": RENT_EXEMPT_EPOCH,
        "space": len(full),
    }


def _shown_account(ctx: Context, address: Pubkey, slot: int, options: dict[str, Any]) -> dict[str, Any] | None:
    account = ctx.chain.account(address, slot)
    if account is None:
        return None
    encoding = choice(options.get("encoding"), _ACCOUNT_ENCODINGS, "binary")
    return account_object(account, encoding, options.get("dataSlice"), lambda mint: ctx.chain.account(mint, slot))


@_method
def getBalance(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    address = address_of(text_at(params, 0))
    slot = ctx.read_slot(options_at(params, 1))
    account = ctx.chain.account(address, slot)
    return ctx.with_context(slot, 0 if account is None else account.lamports)


@_method
def getAccountInfo(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    address = address_of(text_at(params, 0))
    options = options_at(params, 1)
    choice(options.get("encoding"), _ACCOUNT_ENCODINGS, "binary")
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, _shown_account(ctx, address, slot, options))


@_method
def getMultipleAccounts(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    if not isinstance(params[0], list):
        raise wrong_type(params[0], "a sequence")
    if len(params[0]) > ACCOUNTS_MAX:
        raise invalid_params(f"Too many inputs provided; max {ACCOUNTS_MAX}")
    addresses = [address_of(text_at(params[0], index)) for index in range(len(params[0]))]
    options = {"encoding": "base64", **options_at(params, 1)}
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, [_shown_account(ctx, address, slot, options) for address in addresses])


def account_filters(raw: Any) -> list[Callable[[Account], bool]]:
    """Filters of getProgramAccounts and programSubscribe as predicates."""
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise wrong_type(raw, "a sequence")
    if len(raw) > FILTERS_MAX:
        raise invalid_params(f"Too many filters provided; max {FILTERS_MAX}")
    return [_filter(item) for item in raw]


def _filter(item: Any) -> Callable[[Account], bool]:
    if item == "tokenAccountState":
        return lambda account: token_account(account) is not None
    if not isinstance(item, dict) or len(item) != 1:
        raise wrong_type(item, "string or map")
    (name, spec), *_ = item.items()
    if name == "dataSize":
        size = unsigned(spec)
        return lambda account: len(account.data) == size
    if name != "memcmp":
        words = "`dataSize`, `memcmp`, `tokenAccountState`"
        raise invalid_params(f"Invalid params: unknown variant `{name}`, expected one of {words}.")
    if not isinstance(spec, dict) or "offset" not in spec or "bytes" not in spec:
        raise invalid_params(
            "Invalid params: missing field `offset`."
            if "bytes" in (spec or {})
            else "Invalid params: missing field `bytes`."
        )
    offset = unsigned(spec["offset"], "usize")
    wanted = _memcmp_bytes(spec)
    return lambda account: bytes(account.data[offset : offset + len(wanted)]) == wanted


def _memcmp_bytes(spec: dict[str, Any]) -> bytes:
    raw = spec["bytes"]
    if isinstance(raw, list):
        wanted = bytes(raw)
    elif not isinstance(raw, str):
        raise wrong_type(raw, "a string")
    elif spec.get("encoding") == "base64":
        if len(raw) > 172:
            raise invalid_params("Invalid param: DataTooLarge")
        try:
            wanted = base64.b64decode(raw, validate=True)
        except (ValueError, binascii.Error):
            raise invalid_params(f"Invalid param: Base64DecodeError({_base64_fault(raw)})") from None
    else:
        if len(raw) > 175:
            raise invalid_params("Invalid param: DataTooLarge")
        try:
            wanted = _base58_bytes(raw)
        except ValueError as error:
            raise invalid_params(f"Invalid param: Base58DecodeError({error})") from None
    if len(wanted) > BASE58_DATA_MAX:
        raise invalid_params("Invalid param: DataTooLarge")
    return wanted


def _keyed_accounts(
    ctx: Context, owner: Pubkey, slot: int, options: dict[str, Any], filters: list[Callable[[Account], bool]]
) -> list[Any]:
    encoding = choice(options.get("encoding"), _ACCOUNT_ENCODINGS, "binary")
    rows = []
    for address, account in ctx.chain.accounts_owned(owner, slot):
        if all(passes(account) for passes in filters):
            shown = account_object(
                account, encoding, options.get("dataSlice"), lambda mint: ctx.chain.account(mint, slot)
            )
            rows.append({"account": shown, "pubkey": str(address)})
    return rows


@_method
def getProgramAccounts(ctx: Context, params: list[Any]) -> Any:
    need(params)
    owner = address_of(text_at(params, 0))
    options = options_at(params, 1)
    filters = account_filters(options.get("filters"))
    slot = ctx.read_slot(options)
    rows = _keyed_accounts(ctx, owner, slot, options, filters)
    return ctx.with_context(slot, rows) if options.get("withContext") else rows


@_method
def getTokenAccountsByOwner(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params, 2)
    owner = address_of(text_at(params, 0))
    scope, options = options_at(params, 1), options_at(params, 2)
    slot = ctx.read_slot(options)
    programs = list(TOKEN_PROGRAMS)
    mint: Pubkey | None = None
    if "programId" in scope:
        programs = [address_of(text_at([scope["programId"]], 0))]
        if programs[0] not in TOKEN_PROGRAMS:
            raise invalid_params("Invalid param: unrecognized Token program id")
    elif "mint" in scope:
        mint = address_of(text_at([scope["mint"]], 0))
        held = ctx.chain.account(mint, slot)
        if held is None:
            raise invalid_params("Invalid param: could not find mint")
        programs = [held.owner]
    else:
        raise invalid_params("Invalid params: expected one of `mint`, `programId`.")

    def is_wanted(account: Account) -> bool:
        token = token_account(account)
        return token is not None and token.owner == owner and (mint is None or token.mint == mint)

    rows = [row for program in programs for row in _keyed_accounts(ctx, program, slot, options, [is_wanted])]
    return ctx.with_context(slot, rows)


@_method
def getMinimumBalanceForRentExemption(ctx: Context, params: list[Any]) -> int:
    need(params)
    return ctx.chain.machine.rent_exempt_minimum(unsigned(params[0], "usize"))


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
                        _base58_bytes(row["data"]),
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


def _version_max(options: dict[str, Any]) -> int | None:
    value = options.get("maxSupportedTransactionVersion")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise _BLOCK_CONFIG
    return value


def _encoding_options(params: list[Any]) -> dict[str, Any]:
    """Options of getBlock and getTransaction: an object, or (the old form) the encoding alone."""
    value = params[1] if len(params) > 1 else None
    options = {"encoding": value} if isinstance(value, str) else options_at(params, 1)
    if options.get("encoding") not in (None, *_TRANSACTION_ENCODINGS) or options.get("transactionDetails") not in (
        None,
        *_DETAILS,
    ):
        raise _BLOCK_CONFIG
    return options


@_method
def getTransaction(ctx: Context, params: list[Any]) -> Any:
    need(params)
    signature = signature_of(text_at(params, 0))
    options = _encoding_options(params)
    top = ctx.slot(_settled(options))
    version_max = _version_max(options)
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


@_method
def getBlock(ctx: Context, params: list[Any]) -> Any:
    need(params)
    slot = unsigned(params[0])
    options = _encoding_options(params)
    top = ctx.slot(_settled(options))
    version_max = _version_max(options)
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
    if options.get("rewards", True) is not False:
        parts.append(b'"rewards":%s' % _to_json(_rewards(ctx.chain, bank)))
    if details == "signatures":
        parts.append(b'"signatures":%s' % _to_json([row.signature for row in rows]))
    elif details == "accounts":
        parts.append(b'"transactions":[%s]' % b",".join(_with_accounts(row, version_max) for row in rows))
    elif details == "full":
        encoding = options.get("encoding") or "json"
        full = [
            b'{"meta":%s,"transaction":%s%s}'
            % (_meta_json(ctx, row, encoding, b"null"), _body_json(row, encoding), _version_json(row, version_max))
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


@_method
def getBlocks(ctx: Context, params: list[Any]) -> list[int]:
    need(params)
    first = unsigned(params[0])
    second = params[1] if len(params) > 1 else None
    options = second if isinstance(second, dict) else options_at(params, 2)
    top = ctx.slot(_settled(options))
    last = top if second is None or isinstance(second, dict) else min(unsigned(second), top)
    if last - first > BLOCK_RANGE_MAX:
        raise invalid_params(f"Slot range too large; max {BLOCK_RANGE_MAX}")
    return [bank.slot for bank in ctx.chain.banks_between(first, last)]


@_method
def getBlocksWithLimit(ctx: Context, params: list[Any]) -> list[int]:
    need(params, 2)
    first, limit = unsigned(params[0]), unsigned(params[1], "usize")
    if limit > BLOCK_RANGE_MAX:
        raise invalid_params(f"Limit too large; max {BLOCK_RANGE_MAX}")
    slots: list[int] = []
    for bank in ctx.chain.banks_between(first, ctx.slot(_settled(options_at(params, 2)))):
        if len(slots) >= limit:
            break
        slots.append(bank.slot)
    return slots


@_method
def getBlockTime(ctx: Context, params: list[Any]) -> int:
    need(params)
    return _block_at(ctx, unsigned(params[0]), ctx.slot(Commitment.CONFIRMED)).unix_s


def _place(row: StoredTransaction) -> tuple[int, int]:
    return row.slot, row.index


@_method
def getSignaturesForAddress(ctx: Context, params: list[Any]) -> list[dict[str, Any]]:
    need(params)
    address = address_of(text_at(params, 0))
    options = options_at(params, 1)
    limit = SIGNATURES_PAGE_MAX if options.get("limit") is None else unsigned(options["limit"], "usize")
    if not 0 < limit <= SIGNATURES_PAGE_MAX:
        raise invalid_params(f"Invalid limit; max {SIGNATURES_PAGE_MAX}")
    before, until = (
        None if options.get(name) is None else signature_of(text_at([options[name]], 0)) for name in ("before", "until")
    )
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


@_method
def getSignatureStatuses(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    if not isinstance(params[0], list):
        raise wrong_type(params[0], "a sequence")
    if len(params[0]) > STATUSES_MAX:
        raise invalid_params(f"Too many inputs provided; max {STATUSES_MAX}")
    signatures = [signature_of(text_at(params[0], index)) for index in range(len(params[0]))]
    top, confirmed, finalized = (ctx.slot(c) for c in Commitment)
    return ctx.with_context(top, [_status(ctx, signature, top, confirmed, finalized) for signature in signatures])


def _status(ctx: Context, signature: str, top: int, confirmed: int, finalized: int) -> dict[str, Any] | None:
    stored = ctx.chain.find(signature)
    if stored is None or stored.slot > top:
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


def _sent(params: list[Any], options: dict[str, Any]) -> tuple[VersionedTransaction, bytes]:
    encoding = choice(options.get("encoding"), _TRANSACTION_ENCODINGS, "base58")
    if encoding not in _ENCODED_MAX:
        if encoding != "binary":
            raise invalid_params(f"unsupported encoding: {encoding}. Supported encodings: base58, base64")
        encoding = "base58"
    wire = wire_bytes(text_at(params, 0), encoding, _TRANSACTION_TYPE)
    try:
        transaction = VersionedTransaction.from_bytes(wire)
        exact = bytes(transaction)
        message = transaction.message
        keys = len(message.account_keys)
        if len(transaction.signatures) != message.header.num_required_signatures or keys < len(transaction.signatures):
            raise invalid_params("invalid transaction: Transaction failed to sanitize accounts offsets correctly")
        # The machine trusts indexes; a message that points outside of its keys must not reach it.
        transaction.sanitize()
    except RpcError:
        raise
    except Exception as error:
        words = str(error)
        if "sanitize" in words.lower() or "index" in words.lower():
            raise invalid_params(
                "invalid transaction: Transaction failed to sanitize accounts offsets correctly"
            ) from None
        raise invalid_params(f"failed to deserialize {_TRANSACTION_TYPE}: {words}") from None
    return transaction, exact


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


def _loaded_bytes(before: dict[Pubkey, Account | None]) -> int:
    # Each account that exists counts its data and 64 bytes of its own.
    return sum(len(account.data) + 64 for account in before.values() if account is not None)


def _preflight(ctx: Context, transaction: VersionedTransaction, bank: Bank) -> None:
    err = ctx.chain.refusal(transaction, bank, sig_verify=True, check_age=True)
    if err is not None:
        outcome = Outcome(err, [], [], 0, None, ran=False)
        raise preflight_failure(error_words(err), _simulation(outcome, None))
    outcome, before = ctx.chain.simulate(transaction, bank)
    if outcome.err is not None:
        charged = outcome.ran or outcome.err == "ProgramAccountNotFound"
        size = _loaded_bytes(before) if charged else 0
        shown = _simulation(outcome, fee_of(transaction.message) if charged else None, loadedAccountsDataSize=size)
        raise preflight_failure(error_words(outcome.err), shown)


@_method
def sendTransaction(ctx: Context, params: list[Any]) -> str:
    need(params)
    options = options_at(params, 1)
    transaction, wire = _sent(params, options)
    if not options.get("skipPreflight"):
        asked = {"commitment": options.get("preflightCommitment"), "minContextSlot": options.get("minContextSlot")}
        _preflight(ctx, transaction, ctx.chain.bank_at_or_below(ctx.read_slot(asked)))
    # What the bank refuses is dropped without a word, as by a real leader.
    ctx.chain.submit(transaction, wire)
    return str(transaction.signatures[0])


@_method
def simulateTransaction(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params)
    options = options_at(params, 1)
    replaces, verifies = bool(options.get("replaceRecentBlockhash")), bool(options.get("sigVerify"))
    if replaces and verifies:
        raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
    transaction, _ = _sent(params, options)
    slot = ctx.read_slot(options)
    bank = ctx.chain.bank_at_or_below(slot)
    replacement: dict[str, Any] | None = None
    if replaces:
        replacement = {"blockhash": bank.blockhash, "lastValidBlockHeight": ctx.chain.last_valid_height(bank.blockhash)}
    err = ctx.chain.refusal(transaction, bank, sig_verify=verifies, check_age=not replaces)
    empty: dict[str, list[str]] = {"readonly": [], "writable": []}
    more: dict[str, Any]
    if err is not None:
        outcome = Outcome(err, [], [], 0, None, ran=False)
        more = {"loadedAddresses": empty, "replacementBlockhash": replacement}
        if err != "SignatureFailure":
            balances = [
                acc.lamports if (acc := ctx.chain.account(key, slot)) else 0 for key in transaction.message.account_keys
            ]
            more |= {"preBalances": balances, "postBalances": balances, "preTokenBalances": [], "postTokenBalances": []}
        return ctx.with_context(slot, _simulation(outcome, None, **more))
    outcome, before = ctx.chain.simulate(transaction, bank)
    static = len(transaction.message.account_keys)
    keys = list(before)
    looked_up = keys[static:]
    fee = fee_of(transaction.message)
    post = dict(before)
    post.update(outcome.post_accounts or {})
    writable_count = sum(len(row.writable_indexes) for row in getattr(transaction.message, "address_table_lookups", ()))
    more = {
        "loadedAccountsDataSize": _loaded_bytes(before) if outcome.ran else 0,
        "loadedAddresses": {
            "readonly": [str(key) for key in looked_up[writable_count:]],
            "writable": [str(key) for key in looked_up[:writable_count]],
        },
        "preBalances": [account.lamports if account else 0 for account in before.values()],
        "postBalances": [account.lamports if (account := post[key]) else 0 for key in keys],
        "preTokenBalances": [],
        "postTokenBalances": [],
        "replacementBlockhash": replacement,
    }
    if options.get("innerInstructions"):
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
        more["accounts"] = _wanted_accounts(ctx, options["accounts"], post, slot)
    return ctx.with_context(slot, _simulation(outcome, fee if outcome.ran else None, **more))


def _wanted_accounts(ctx: Context, spec: Any, post: dict[Pubkey, Account | None], slot: int) -> list[Any]:
    if not isinstance(spec, dict) or not isinstance(spec.get("addresses"), list):
        raise invalid_params("Invalid params: missing field `addresses`.")
    encoding = choice(spec.get("encoding"), _ACCOUNT_ENCODINGS, "base64")
    if encoding in ("binary", "base58"):
        raise invalid_params("base58 encoding not supported")
    rows: list[Any] = []
    for index in range(len(spec["addresses"])):
        address = address_of(text_at(spec["addresses"], index))
        account = post[address] if address in post else ctx.chain.account(address, slot)
        shown = account is not None and account.lamports > 0
        rows.append(
            account_object(account, encoding, None, lambda m: ctx.chain.account(m, slot)) if account and shown else None
        )
    return rows


@_method
def requestAirdrop(ctx: Context, params: list[Any]) -> str:
    need(params, 2)
    address = address_of(text_at(params, 0))
    return ctx.chain.airdrop(address, unsigned(params[1]))
