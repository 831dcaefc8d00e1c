"""The transaction as the chain stored it: the ledger's unit, its wire format, and the replies of getTransaction.

`RawTransaction` is what the ledger keeps. `TransactionView` is the one shape that the rest of this package reads; it
is filled from the
wire bytes (`view`) or from any encoding of a getTransaction result (`view_from_rpc`). Nothing here does I/O.
Wire format: Solana's message formats "legacy" and version 0, as written by their serializer (compact-u16 lengths,
little endian), and version 1 as SIMD-0385 has it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from programs import base58

# A packet is at most 1,232 bytes; anything near this bound is no transaction. It stops absurd input before it is
# parsed.
WIRE_BYTES_MAX = 1 << 16
_KEY = 32
_SIGNATURE = 64
# Version 1: its first byte; behind it three of header, four of configuration, a blockhash, and the counts of instructions and keys.
_V1 = 0x81
_V1_KEYS = 1 + 3 + 4 + _KEY + 2
_V1_HEADER = 4
# Keys are numbered by one byte everywhere.
_KEYS_LAST = 255


class TransactionError(ValueError):
    """These bytes, or this JSON, are not a transaction; the message says what and where."""


@dataclass(frozen=True, slots=True)
class InnerInstruction:
    """An instruction that a program called. `outer` is the top-level instruction it ran under, `index` its place
    there, both from 0.

    `accounts` are indices into the transaction's keys, one byte each. `stack_height` is 2 for a direct call; None in
    older replies.
    """

    outer: int
    index: int
    program_id_index: int
    accounts: bytes
    data: bytes
    stack_height: int | None


@dataclass(frozen=True, slots=True)
class OuterInstruction:
    """A top-level instruction; `accounts` are indices into the transaction's keys, one byte each."""

    program_id_index: int
    accounts: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class RawTransaction:
    """One transaction with what the node recorded about it.

    slot, transaction_index: its place in the chain. signature: base58. block_time: unix seconds, None when unknown.
    err: compact JSON with sorted keys, None when it succeeded. wire: the serialized transaction, b"" when the source
    had only JSON.
    logs: None when the node did not record them. inner: None when not recorded.
    loaded: addresses from lookup tables, writable then readonly, 32 bytes each. version: None is legacy.
    """

    slot: int
    transaction_index: int
    signature: str
    block_time: int | None
    err: str | None
    wire: bytes
    logs: tuple[str, ...] | None
    inner: tuple[InnerInstruction, ...] | None
    loaded: tuple[bytes, ...]
    version: int | None


class PartTransaction(msgspec.Struct, frozen=True, gc=False):
    """One of which the message was left where it is stored: its inner instructions were recorded, and none of them carries an event.

    Fields as in RawTransaction. `fetch` gives the whole of it, by `position` and slot.
    """

    position: int
    slot: int
    transaction_index: int
    signature: str
    block_time: int | None
    err: str | None
    logs: tuple[str, ...] | None
    fetch: Callable[[int, int], RawTransaction]


@dataclass(frozen=True, slots=True)
class TransactionView:
    """What decoding reads of a transaction. `keys` and `outer` are None when the message's version is unknown."""

    slot: int
    signature: str
    block_time: int | None
    err: str | None
    keys: tuple[bytes, ...] | None
    outer: tuple[OuterInstruction, ...] | None
    inner: tuple[InnerInstruction, ...] | None
    logs: tuple[str, ...] | None
    version: int | None


# ---- the wire ----


@dataclass(frozen=True, slots=True)
class Message:
    """What the wire says: version (None is legacy), the keys written in it, its instructions. Unknown versions have
    neither.
    """

    version: int | None
    signature: bytes
    static_keys: tuple[bytes, ...] | None
    instructions: tuple[OuterInstruction, ...] | None


def parse_wire(wire: bytes) -> Message:
    """Read a serialized transaction. TransactionError, with the offset, when it is cut short or malformed."""
    if len(wire) > WIRE_BYTES_MAX:
        raise TransactionError(f"{len(wire)} bytes are too many for a transaction (at most {WIRE_BYTES_MAX})")
    try:
        return _parse_wire(wire)
    except IndexError:
        raise TransactionError(f"the transaction is cut short at byte {len(wire)}") from None


def static_keys(wire: bytes) -> tuple[int, int] | None:
    """Where the keys that are written in the message begin and end; None when its version is unknown. TransactionError exactly where
    `parse_wire` raises it, at a third of the cost: nothing is cut out."""
    if len(wire) > WIRE_BYTES_MAX:
        raise TransactionError(f"{len(wire)} bytes are too many for a transaction (at most {WIRE_BYTES_MAX})")
    try:
        return _static_keys(wire)
    except IndexError:
        raise TransactionError(f"the transaction is cut short at byte {len(wire)}") from None


def _static_keys(wire: bytes) -> tuple[int, int] | None:
    # Lengths below 128 are one byte; nearly all are, and a call for each would be half of the cost.
    first = wire[0]
    if first & 0x80:
        found = _v1_signatures(wire)
        return None if found is None else (_V1_KEYS, _V1_KEYS + wire[_V1_KEYS - 1] * _KEY)
    at = 1 + first * _SIGNATURE
    version = wire[at]
    if version & 0x80:
        if version != 0x80:
            return None
        at += 1
    keys, start = wire[at + 3], at + 4
    if keys & 0x80:
        keys, start = _compact(wire, at + 3)
    end = start + keys * _KEY
    count, at = wire[end + _KEY], end + _KEY + 1
    if count & 0x80:
        count, at = _compact(wire, end + _KEY)
    for _ in range(count):
        length, at = wire[at + 1], at + 2
        if length & 0x80:
            length, at = _compact(wire, at - 1)
        at += length
        length, at = wire[at], at + 1
        if length & 0x80:
            length, at = _compact(wire, at - 1)
        at += length
    if at > len(wire):
        raise IndexError
    return start, end


def _parse_wire(wire: bytes) -> Message:
    if wire[0] & 0x80:
        # From version 1 on the message comes first and the signatures last.
        return _parse_v1(wire)
    signatures, at = _compact(wire, 0)
    signature = wire[at : at + _SIGNATURE]
    at += signatures * _SIGNATURE
    version: int | None = None
    if wire[at] & 0x80:
        version = wire[at] & 0x7F
        at += 1
        if version != 0:
            return Message(version, signature, None, None)
    keys, at = _compact(wire, at + 3)
    end = at + keys * _KEY
    static = tuple([wire[start : start + _KEY] for start in range(at, end, _KEY)])
    wire[end + _KEY - 1]  # the recent blockhash is there, and so is every key before it
    instructions, at = _instructions(wire, end + _KEY)
    return Message(version, signature, static, instructions)


def _v1_signatures(wire: bytes) -> int | None:
    """Where the signatures of a transaction of version 1 begin; None when these bytes are not laid out as one."""
    if wire[0] != _V1 or len(wire) < _V1_KEYS:
        return None
    signers, calls, keys = wire[1], wire[_V1_KEYS - 2], wire[_V1_KEYS - 1]
    # Each bit of the configuration stands for a value of four bytes behind the keys.
    at = _V1_KEYS + keys * _KEY + 4 * int.from_bytes(wire[4:8], "little").bit_count()
    headers = wire[at : at + calls * _V1_HEADER]
    at += calls * _V1_HEADER
    for place in range(0, len(headers), _V1_HEADER):
        at += headers[place + 1] + int.from_bytes(headers[place + 2 : place + 4], "little")
    return at if len(wire) == at + signers * _SIGNATURE else None


def _parse_v1(wire: bytes) -> Message:
    """A version that is not known, or written in another way, has neither keys nor instructions: what it holds is not guessed."""
    version = wire[0] & 0x7F
    end = _v1_signatures(wire)
    if end is None:
        signers = wire[1] if version == 1 and len(wire) > 1 else 1
        start = len(wire) - signers * _SIGNATURE
        return Message(version, wire[start : start + _SIGNATURE] if start > 0 else b"", None, None)
    keys_end = _V1_KEYS + wire[_V1_KEYS - 1] * _KEY
    header = keys_end + 4 * int.from_bytes(wire[4:8], "little").bit_count()
    at = header + wire[_V1_KEYS - 2] * _V1_HEADER
    found = []
    for place in range(header, at, _V1_HEADER):
        middle = at + wire[place + 1]
        after = middle + int.from_bytes(wire[place + 2 : place + 4], "little")
        found.append(OuterInstruction(wire[place], wire[at:middle], wire[middle:after]))
        at = after
    keys = tuple([wire[start : start + _KEY] for start in range(_V1_KEYS, keys_end, _KEY)])
    return Message(version, wire[end : end + _SIGNATURE], keys, tuple(found))


def _instructions(wire: bytes, at: int) -> tuple[tuple[OuterInstruction, ...], int]:
    count, at = _compact(wire, at)
    found = []
    for _ in range(count):
        program = wire[at]
        length, at = _compact(wire, at + 1)
        accounts = wire[at : at + length]
        length, at = _compact(wire, at + length)
        data = wire[at : at + length]
        at += length
        if at > len(wire):
            raise IndexError
        found.append(OuterInstruction(program, accounts, data))
    return tuple(found), at


def _compact(wire: bytes, at: int) -> tuple[int, int]:
    """A compact-u16 and the offset behind it."""
    first = wire[at]
    if first < 0x80:
        return first, at + 1
    second = wire[at + 1]
    if second < 0x80:
        return first & 0x7F | second << 7, at + 2
    third = wire[at + 2]
    if third > 3:
        raise TransactionError(f"the length at byte {at} is larger than 65535")
    return first & 0x7F | (second & 0x7F) << 7 | third << 14, at + 3


def account_keys(raw: RawTransaction) -> tuple[bytes, ...] | None:
    """Every address that instructions index: those in the message, then the loaded ones. None when the version is
    unknown or no wire is held.
    """
    if not raw.wire:
        return None
    static = parse_wire(raw.wire).static_keys
    return None if static is None else static + raw.loaded


def top_level(raw: RawTransaction) -> tuple[OuterInstruction, ...] | None:
    """The transaction's own instructions, in order. None when the version is unknown or no wire is held."""
    return parse_wire(raw.wire).instructions if raw.wire else None


def view(raw: RawTransaction) -> TransactionView:
    """The raw transaction with its wire parsed. TransactionError when the wire is malformed."""
    keys: tuple[bytes, ...] | None = None
    outer: tuple[OuterInstruction, ...] | None = None
    if raw.wire:
        message = parse_wire(raw.wire)
        outer = message.instructions
        keys = None if message.static_keys is None else message.static_keys + raw.loaded
    return TransactionView(
        raw.slot, raw.signature, raw.block_time, raw.err, keys, outer, raw.inner, raw.logs, raw.version
    )


# ---- getTransaction ----


class _RpcInstruction(msgspec.Struct, gc=False):
    programIdIndex: int | None = None
    programId: str | None = None
    accounts: list[int | str] | None = None
    data: str | None = None
    stackHeight: int | None = None


class _RpcInner(msgspec.Struct, gc=False):
    index: int
    instructions: list[_RpcInstruction]


class _RpcLoaded(msgspec.Struct, gc=False):
    writable: list[str] = []
    readonly: list[str] = []


class _RpcMeta(msgspec.Struct):
    err: Any = None
    logMessages: tuple[str, ...] | None = None
    innerInstructions: list[_RpcInner] | None = None
    loadedAddresses: _RpcLoaded | None = None


class RpcTransaction(msgspec.Struct):
    """A getTransaction result with only the fields that are read; the message stays unparsed until it is wanted."""

    transaction: msgspec.Raw
    slot: int = 0
    meta: _RpcMeta | None = None
    blockTime: int | None = None
    version: int | str | None = None
    transactionIndex: int | None = None


class _Document(msgspec.Struct):
    """A reply, or a bare result: both are read in one pass, and the fields that are there tell which it is."""

    result: RpcTransaction | msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    transaction: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    slot: int = 0
    meta: _RpcMeta | None = None
    blockTime: int | None = None
    version: int | str | None = None
    transactionIndex: int | None = None


class _RpcKey(msgspec.Struct, gc=False):
    pubkey: str


class _CompiledInstruction(msgspec.Struct, gc=False):
    """As web3.js prints an instruction of a versioned message; its bytes are an object of numbered bytes, or `{type, data}` of a Buffer."""

    programIdIndex: int
    accountKeyIndexes: list[int] = []
    data: list[int] | dict[str, int | str | list[int]] = []


class _RpcMessage(msgspec.Struct):
    accountKeys: list[str | _RpcKey] | msgspec.UnsetType = msgspec.UNSET
    instructions: list[_RpcInstruction] = []
    staticAccountKeys: list[str] | msgspec.UnsetType = msgspec.UNSET
    compiledInstructions: list[_CompiledInstruction] = []


class _RpcTransactionJson(msgspec.Struct):
    message: _RpcMessage
    signatures: list[str] = []


class _RpcBlock(msgspec.Struct):
    transactions: list[RpcTransaction]
    slot: int | None = None


class _RpcBlockNews(msgspec.Struct):
    """As blockSubscribe sends a block: it is the only one that says its slot."""

    block: _RpcBlock
    slot: int | None = None


class _RpcNewsResult(msgspec.Struct):
    value: _RpcBlockNews


class _RpcNewsParams(msgspec.Struct):
    result: _RpcNewsResult


class _BlockDocument(msgspec.Struct):
    """A reply to getBlock, a bare block, or a notification of blockSubscribe: whichever fields are there."""

    result: _RpcBlock | None = None
    transactions: list[RpcTransaction] | None = None
    slot: int | None = None
    block: _RpcBlock | None = None
    params: _RpcNewsParams | None = None


_decode_block = msgspec.json.Decoder(_BlockDocument).decode


_decode_document = msgspec.json.Decoder(_Document | None).decode


class _RpcSignatures(msgspec.Struct, gc=False):
    signatures: tuple[str, ...] = ()


_decode_signatures = msgspec.json.Decoder(_RpcSignatures).decode
_decode_body = msgspec.json.Decoder(_RpcTransactionJson | tuple[str, str] | str).decode


def parse_rpc(source: bytes | str | Mapping[str, Any]) -> RpcTransaction:
    """A getTransaction result, or the whole JSON-RPC reply around it, with only what is needed taken out.
    TransactionError otherwise.
    """
    text = msgspec.json.encode(source) if isinstance(source, Mapping) else source
    try:
        found = _decode_document(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransactionError(f"not a getTransaction result: {error}") from None
    if found is not None:
        result = found.result
        if isinstance(result, RpcTransaction):
            return result
        if isinstance(found.transaction, msgspec.Raw):
            return RpcTransaction(
                found.transaction, found.slot, found.meta, found.blockTime, found.version, found.transactionIndex
            )
        if isinstance(found.error, msgspec.Raw):
            shown = bytes(found.error)[:200].decode("utf-8", "replace")
            raise TransactionError(f"the node answered with an error: {shown}")
        if result is msgspec.UNSET:
            raise TransactionError("not a getTransaction result: it has no `transaction`")
    raise TransactionError("the node does not know this transaction (result is null)")


def block_of(source: bytes | str) -> tuple[int | None, list[RpcTransaction]] | None:
    """The transactions of a block, in their order, and its slot when the document says it; None when it is no block with transactions."""
    try:
        found = _decode_block(source)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.params is not None:
        news = found.params.result.value
        return news.slot, news.block.transactions
    block = found.result or found.block
    if block is not None:
        return block.slot if block.slot is not None else found.slot, block.transactions
    return None if found.transactions is None else (found.slot, found.transactions)


def error_text(err: Any) -> str | None:
    """The `err` of a transaction as the ledger keeps it: None, or compact JSON with sorted keys."""
    return None if err is None else msgspec.json.encode(err, order="sorted").decode()


def from_rpc(source: bytes | str | Mapping[str, Any], transaction_index: int = 0) -> RawTransaction:
    """The ledger's form of a getTransaction result. The json encodings carry no wire: `wire` is empty then, and
    `view_from_rpc` reads more.
    """
    rpc = source if isinstance(source, RpcTransaction) else parse_rpc(source)
    meta = rpc.meta or _RpcMeta()
    body = _body(rpc)
    wire = b"" if isinstance(body, _RpcTransactionJson) else body
    keys = None if wire else _json_keys(body, rpc, meta)
    return RawTransaction(
        slot=rpc.slot,
        transaction_index=rpc.transactionIndex if rpc.transactionIndex is not None else transaction_index,
        signature=_signature(body),
        block_time=rpc.blockTime,
        err=error_text(meta.err),
        wire=wire,
        logs=meta.logMessages,
        inner=_inner(meta, keys),
        loaded=_loaded(meta),
        version=rpc.version if isinstance(rpc.version, int) else None,
    )


def view_from_rpc(source: bytes | str | Mapping[str, Any] | RpcTransaction) -> TransactionView:
    """A getTransaction result in any encoding (json, jsonParsed, base64, base58) as decoding reads it.
    TransactionError when it is none.
    """
    rpc = source if isinstance(source, RpcTransaction) else parse_rpc(source)
    meta = rpc.meta or _RpcMeta()
    version = rpc.version if isinstance(rpc.version, int) else None
    body = _body(rpc)
    keys: tuple[bytes, ...] | None
    outer: tuple[OuterInstruction, ...] | None
    if isinstance(body, _RpcTransactionJson):
        keys = _json_keys(body, rpc, meta)
        outer = _json_outer(body, keys)
    else:
        message = parse_wire(body)
        keys = None if message.static_keys is None else message.static_keys + _loaded(meta)
        outer = message.instructions
        version = message.version
    inner = _inner(meta, keys)
    return TransactionView(
        rpc.slot, _signature(body), rpc.blockTime, error_text(meta.err), keys, outer, inner, meta.logMessages, version
    )


def signature_of(rpc: RpcTransaction) -> str:
    """The transaction's first signature, without reading more of the message than that takes."""
    try:
        signatures = _decode_signatures(rpc.transaction).signatures
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        signatures = ()
    return signatures[0] if signatures else _signature(_body(rpc))


def logs_of(rpc: RpcTransaction) -> tuple[bool, tuple[str, ...] | None, bool]:
    """Whether it failed; its log messages; whether inner instructions must be looked at (some carry data, or none
    were recorded).
    """
    meta = rpc.meta
    if meta is None:
        return False, None, True
    return meta.err is not None, meta.logMessages, meta.innerInstructions != []


def _body(rpc: RpcTransaction) -> _RpcTransactionJson | bytes:
    try:
        body = _decode_body(rpc.transaction)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransactionError(f"not a transaction: {error} (in `transaction`)") from None
    if isinstance(body, _RpcTransactionJson):
        return body
    text, encoding = (body, "base58") if isinstance(body, str) else body
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        if encoding == "base58":
            return base58.decode(text)
    except (binascii.Error, ValueError) as error:
        raise TransactionError(f"`transaction` is not {encoding}: {error}") from None
    raise TransactionError(f"`transaction` is in the unknown encoding {encoding!r}")


def _signature(body: _RpcTransactionJson | bytes) -> str:
    if isinstance(body, _RpcTransactionJson):
        if not body.signatures:
            raise TransactionError("the transaction has no signature")
        return body.signatures[0]
    return base58.encode(parse_wire(body).signature)


def _loaded(meta: _RpcMeta) -> tuple[bytes, ...]:
    if meta.loadedAddresses is None:
        return ()
    return tuple([_key(text) for text in (*meta.loadedAddresses.writable, *meta.loadedAddresses.readonly)])


def _key(text: str) -> bytes:
    try:
        return base58.address_bytes(text)
    except ValueError as error:
        raise TransactionError(str(error)) from None


def _json_keys(body: _RpcTransactionJson | bytes, rpc: RpcTransaction, meta: _RpcMeta) -> tuple[bytes, ...] | None:
    if not isinstance(body, _RpcTransactionJson):
        return None
    keys = body.message.accountKeys
    if isinstance(keys, msgspec.UnsetType):
        if isinstance(body.message.staticAccountKeys, msgspec.UnsetType):
            raise TransactionError("the message has no account keys")
        keys = [*body.message.staticAccountKeys]
    if keys and isinstance(keys[0], _RpcKey):
        # jsonParsed: the loaded addresses are in the list already.
        return tuple([_key(key.pubkey if isinstance(key, _RpcKey) else key) for key in keys])
    return tuple([_key(key) for key in keys if isinstance(key, str)]) + _loaded(meta)


def _json_outer(body: _RpcTransactionJson, keys: tuple[bytes, ...] | None) -> tuple[OuterInstruction, ...]:
    if body.message.compiledInstructions and not body.message.instructions:
        return tuple([_compiled(entry) for entry in body.message.compiledInstructions])
    places = _places(keys)
    return tuple([OuterInstruction(*_resolved(entry, places)) for entry in body.message.instructions])


def _compiled(entry: _CompiledInstruction) -> OuterInstruction:
    if not 0 <= entry.programIdIndex <= _KEYS_LAST:
        raise TransactionError(f"an instruction's program cannot be key number {entry.programIdIndex}")
    data: Any = entry.data
    if isinstance(data, dict):
        data = data["data"] if "data" in data else [data.get(str(place)) for place in range(len(data))]
    try:
        return OuterInstruction(entry.programIdIndex, bytes(entry.accountKeyIndexes), bytes(data))
    except (TypeError, ValueError) as error:
        raise TransactionError(f"an instruction is malformed: {error}") from None


def _inner(meta: _RpcMeta, keys: tuple[bytes, ...] | None) -> tuple[InnerInstruction, ...] | None:
    if meta.innerInstructions is None:
        return None
    if not meta.innerInstructions:
        return ()
    places: dict[bytes, int] | None = None
    found = []
    for group in meta.innerInstructions:
        if not 0 <= group.index < WIRE_BYTES_MAX:
            raise TransactionError(f"there is no top-level instruction number {group.index}")
        for index, entry in enumerate(group.instructions):
            if entry.programIdIndex is None and places is None:
                places = _places(keys)
            program, accounts, data = _resolved(entry, places or {})
            found.append(InnerInstruction(group.index, index, program, accounts, data, entry.stackHeight))
    return tuple(found)


def _places(keys: tuple[bytes, ...] | None) -> dict[bytes, int]:
    return {} if keys is None else {key: place for place, key in reversed(tuple(enumerate(keys)))}


def _resolved(entry: _RpcInstruction, places: Mapping[bytes, int]) -> tuple[int, bytes, bytes]:
    """Program index, account indices, data. A parsed instruction has neither accounts nor data: they stay empty."""
    data = b"" if not entry.data else _data(entry.data)
    try:
        if entry.programIdIndex is not None:
            if not 0 <= entry.programIdIndex <= _KEYS_LAST:
                raise TransactionError(f"an instruction's program cannot be key number {entry.programIdIndex}")
            return entry.programIdIndex, bytes(entry.accounts or ()), data  # type: ignore[arg-type]
        if entry.programId is None:
            raise TransactionError("an instruction names no program")
        accounts = bytes([places[_key(str(account))] for account in entry.accounts or ()])
        return places[_key(entry.programId)], accounts, data
    except KeyError as error:
        raise TransactionError(
            f"an instruction names {base58.encode(error.args[0])}, which is not among the keys"
        ) from None
    except (TypeError, ValueError) as error:
        raise TransactionError(f"an instruction is malformed: {error}") from None


def _data(text: str) -> bytes:
    try:
        return base58.decode(text)
    except ValueError as error:
        raise TransactionError(f"the data of an instruction is {error}") from None
