"""Replies and notifications, bytes → the core's types. Only the fields that are read are decoded; anything else is `Garbage`.

Shapes: Agave's JSON-RPC, blocks and transactions asked for with encoding base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from indexer.core.notifications import Notification
from indexer.core.protocol import Address, Block, Content, Failure, Listed, Slot
from programs import base58
from programs.transaction import (
    InnerInstruction,
    RawTransaction,
    TransactionError,
    error_text,
    parse_wire,
)


class Garbage(ValueError):
    """The node's answer is not of the promised shape."""


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: Any = None


class Envelope(msgspec.Struct):
    """A JSON-RPC reply with its result left unparsed."""

    id: int | str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _Error | None = None


class _Signature(msgspec.Struct, gc=False):
    signature: str
    slot: int
    err: Any = None
    transactionIndex: int | None = None


class _Instruction(msgspec.Struct, gc=False):
    programIdIndex: int
    accounts: list[int]
    data: str
    stackHeight: int | None = None


class _Inner(msgspec.Struct, gc=False):
    index: int
    instructions: list[_Instruction]


class _Loaded(msgspec.Struct, gc=False):
    writable: list[str] = []
    readonly: list[str] = []


class _Meta(msgspec.Struct):
    err: Any = None
    logMessages: tuple[str, ...] | None = None
    innerInstructions: list[_Inner] | None = None
    loadedAddresses: _Loaded | None = None


class _Transaction(msgspec.Struct):
    transaction: tuple[str, str]
    meta: _Meta | None = None
    version: int | str | None = None
    transactionIndex: int | None = None


class _StoredTransaction(_Transaction):
    slot: int = -1
    blockTime: int | None = None


class _Block(msgspec.Struct):
    parentSlot: int
    blockTime: int | None = None
    signatures: tuple[str, ...] | None = None
    transactions: list[_Transaction] | None = None


_envelope = msgspec.json.Decoder(Envelope).decode
_envelopes = msgspec.json.Decoder(list[Envelope]).decode
_signatures = msgspec.json.Decoder(list[_Signature]).decode
_block = msgspec.json.Decoder(_Block | None).decode
_stored = msgspec.json.Decoder(_StoredTransaction | None).decode
_integer = msgspec.json.Decoder(int).decode


class Watched:
    """The watched programs by address and by key; tells which of them a transaction mentions."""

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self._by_key: dict[bytes, Address] = {base58.address_bytes(address): address for address in addresses}
        self.addresses = addresses

    def mentioned(self, wire: bytes, loaded: tuple[bytes, ...]) -> frozenset[Address]:
        """Programs among the transaction's keys. A message of an unknown version is searched for the bytes of the address."""
        near = [key for key in self._by_key if key in wire or key in loaded]
        if not near:
            return frozenset()
        keys = parse_wire(wire).static_keys
        if keys is None:
            return frozenset(self._by_key[key] for key in near)
        return frozenset(self._by_key[key] for key in near if key in keys or key in loaded)


def envelope(body: bytes) -> Envelope:
    """One reply. Garbage when it is none."""
    try:
        return _envelope(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(f"not a JSON-RPC reply: {error}") from None


def envelopes(body: bytes) -> list[Envelope]:
    """The replies of a batch. A node that refuses batches answers with one error for all."""
    try:
        return _envelopes(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [envelope(body)]


def result(reply: Envelope) -> bytes | Failure:
    """The raw result, or what the node refused with."""
    if reply.error is not None:
        return Failure(f"{reply.error.message or 'error'} ({reply.error.code})", reply.error.code)
    if isinstance(reply.result, msgspec.UnsetType):
        raise Garbage("a reply without result and without error")
    return bytes(reply.result)


def integer(raw: bytes) -> int:
    """A bare number, such as a slot."""
    try:
        return _integer(raw)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a number: {error}") from None


def signature_list(raw: bytes) -> tuple[Listed, ...]:
    """A page of getSignaturesForAddress."""
    try:
        entries = _signatures(raw)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a signature list: {error}") from None
    return tuple(
        [
            Listed(e.signature, Slot(e.slot), e.transactionIndex, None if e.err is None else error_text(e.err))
            for e in entries
        ]
    )


def block(raw: bytes, slot: Slot, watched: Watched) -> Block | None:
    """A getBlock result; None when the node answered null. Transactions that mention no watched program are left out."""
    try:
        parsed = _block(raw)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a block: {error}") from None
    if parsed is None:
        return None
    contents: tuple[Content, ...] | None = None
    if parsed.transactions is not None:
        found = [
            _content(entry, slot, index, parsed.blockTime, watched) for index, entry in enumerate(parsed.transactions)
        ]
        contents = tuple([content for content in found if content is not None])
    return Block(slot, Slot(parsed.parentSlot), parsed.blockTime, parsed.signatures, contents)


def stored_transaction(raw: bytes, watched: Watched) -> Content | None:
    """A getTransaction result; None when the node knows none (yet)."""
    try:
        parsed = _stored(raw)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a transaction: {error}") from None
    if parsed is None:
        return None
    if parsed.slot < 0:
        raise Garbage("a transaction without a slot")
    index = parsed.transactionIndex
    content = _content(parsed, Slot(parsed.slot), index or 0, parsed.blockTime, watched, keep_all=True)
    if content is None or index is not None:
        return content
    return Content(content.raw, content.programs, indexed=False)


def _content(
    entry: _Transaction, slot: Slot, index: int, block_time: int | None, watched: Watched, keep_all: bool = False
) -> Content | None:
    text, encoding = entry.transaction
    if encoding != "base64":
        raise Garbage(f"a transaction in the encoding {encoding!r}, not base64")
    try:
        wire = base64.b64decode(text, validate=True)
        meta = entry.meta or _Meta()
        loaded = _keys(meta.loadedAddresses)
        programs = watched.mentioned(wire, loaded)
        if not programs and not keep_all:
            return None
        return Content(_raw(entry, meta, wire, loaded, slot, index, block_time), programs)
    except (TransactionError, binascii.Error, ValueError) as error:
        raise Garbage(f"transaction {index} of slot {slot}: {error}") from None


def _raw(
    entry: _Transaction,
    meta: _Meta,
    wire: bytes,
    loaded: tuple[bytes, ...],
    slot: int,
    index: int,
    block_time: int | None,
) -> RawTransaction:
    # From version 1 on the signatures come last; before it they come first, behind their count.
    signature = wire[-64:] if wire[0] & 0x80 else wire[1:65]
    return RawTransaction(
        slot=slot,
        transaction_index=index,
        signature=base58.encode(signature),
        block_time=block_time,
        err=None if meta.err is None else error_text(meta.err),
        wire=wire,
        logs=meta.logMessages,
        inner=None if meta.innerInstructions is None else _inner(meta.innerInstructions),
        loaded=loaded,
        version=entry.version if isinstance(entry.version, int) else None,
    )


def _inner(groups: list[_Inner]) -> tuple[InnerInstruction, ...]:
    return tuple(
        [
            InnerInstruction(
                group.index, place, i.programIdIndex, bytes(i.accounts), base58.decode(i.data), i.stackHeight
            )
            for group in groups
            for place, i in enumerate(group.instructions)
        ]
    )


def _keys(loaded: _Loaded | None) -> tuple[bytes, ...]:
    if loaded is None or not (loaded.writable or loaded.readonly):
        return ()
    return tuple([base58.address_bytes(text) for text in (*loaded.writable, *loaded.readonly)])


# ---- the socket ----


class _Context(msgspec.Struct, gc=False):
    slot: int = -1


class _LogsValue(msgspec.Struct, gc=False):
    signature: str
    err: Any = None
    logs: tuple[str, ...] | None = None


class _LogsResult(msgspec.Struct, gc=False):
    context: _Context
    value: _LogsValue


class _Account(msgspec.Struct, gc=False):
    lamports: int
    data: tuple[str, str]
    owner: str


class _ProgramValue(msgspec.Struct, gc=False):
    pubkey: str
    account: _Account


class _ProgramResult(msgspec.Struct, gc=False):
    context: _Context
    value: _ProgramValue


class _SlotResult(msgspec.Struct, gc=False):
    slot: int


class _Params(msgspec.Struct, gc=False):
    result: msgspec.Raw
    subscription: int


class Frame(msgspec.Struct, gc=False):
    """A socket frame: a notification (method, params) or the reply to a request (id, result or error)."""

    method: str | None = None
    params: _Params | None = None
    id: int | None = None
    result: Any = None
    error: _Error | None = None


_frame = msgspec.json.Decoder(Frame).decode
_logs_result = msgspec.json.Decoder(_LogsResult).decode
_program_result = msgspec.json.Decoder(_ProgramResult).decode
_slot_result = msgspec.json.Decoder(_SlotResult).decode


class AccountChange(msgspec.Struct, frozen=True, gc=False):
    """An account as a subscription or a listing showed it. lamports 0 with no data: closed."""

    program: Address
    slot: Slot
    pubkey: bytes
    lamports: int
    owner: bytes
    data: bytes | None
    closed: bool = False


def frame(text: str | bytes) -> Frame:
    """A socket frame, its payload unparsed."""
    try:
        return _frame(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(f"not a notification: {error}") from None


def logs_notification(raw: msgspec.Raw) -> Notification:
    """A logsNotification's result."""
    try:
        parsed = _logs_result(raw)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a logs notification: {error}") from None
    value = parsed.value
    err = None if value.err is None else error_text(value.err)
    return Notification(Slot(parsed.context.slot), value.signature, err, value.logs or ())


def program_notification(raw: msgspec.Raw, program: Address) -> AccountChange:
    """A programNotification's result, asked for with encoding base64."""
    try:
        parsed = _program_result(raw)
        return _change(parsed.value, program, Slot(parsed.context.slot))
    except (msgspec.DecodeError, ValueError) as error:
        raise Garbage(f"not a program notification: {error}") from None


def slot_notification(raw: msgspec.Raw) -> Slot:
    """A slotNotification's slot."""
    try:
        return Slot(_slot_result(raw).slot)
    except msgspec.DecodeError as error:
        raise Garbage(f"not a slot notification: {error}") from None


class _ProgramAccounts(msgspec.Struct):
    context: _Context
    value: list[_ProgramValue]


_program_accounts = msgspec.json.Decoder(_ProgramAccounts).decode


def program_accounts(raw: bytes, program: Address) -> tuple[Slot, list[AccountChange]]:
    """getProgramAccounts withContext → (slot for which it holds, accounts)."""
    try:
        parsed = _program_accounts(raw)
        slot = Slot(parsed.context.slot)
        return slot, [_change(value, program, slot) for value in parsed.value]
    except (msgspec.DecodeError, ValueError) as error:
        raise Garbage(f"not a list of accounts: {error}") from None


def _change(value: _ProgramValue, program: Address, slot: Slot) -> AccountChange:
    account = value.account
    if account.data[1] != "base64":
        raise ValueError(f"account data in the encoding {account.data[1]!r}")
    data = base64.b64decode(account.data[0], validate=True)
    owner = base58.address_bytes(account.owner)
    return AccountChange(
        program, slot, base58.address_bytes(value.pubkey), account.lamports, owner, data, account.lamports == 0
    )


def request_json(request_id: int, method: str, params: list[Any]) -> Mapping[str, Any]:
    """A JSON-RPC request object."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
