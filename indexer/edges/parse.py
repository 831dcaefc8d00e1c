"""Replies and notifications, bytes → the core's types. Only the fields that are read are decoded; anything else is `Garbage`.

Shapes: Agave's JSON-RPC, blocks and transactions asked for with encoding base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from indexer.core.notifications import Notification
from indexer.core.protocol import Address, Block, Content, Failure, Listed, Slot
from programs import base58
from programs.transaction import TransactionError, error_text, static_keys
from schema import rows

T = TypeVar("T")
Raw = TypeVar("Raw", bytes, msgspec.Raw)
Text = TypeVar("Text")
ADDRESS_BYTES = 32
SIGNATURE_BYTES = 64
SIGNATURE_TEXT_MAX = 88
# Half a millisecond of work between two chances for others.
STEP_TRANSACTIONS = 32
_NO_INNER = rows.encode_inner(())
_NOBODY: frozenset[Address] = frozenset()

# What the ledger's columns can hold; a number beyond is no answer of a node.
_U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
_U31 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Slot = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# To the end of the year 9999, the last that Python's calendar has.
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
_Lamports = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=127)]
_NO_META = msgspec.Raw(b"null")


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
    slot: _Slot
    err: Any = None
    transactionIndex: _U31 | None = None


class _Instruction(msgspec.Struct, gc=False):
    programIdIndex: _U8
    accounts: list[int]
    data: str
    stackHeight: _U31 | None = None


class _Inner(msgspec.Struct, gc=False):
    index: _U8
    instructions: list[_Instruction]


class _Loaded(msgspec.Struct, gc=False):
    writable: list[str] = []
    readonly: list[str] = []


class _Meta(msgspec.Struct, gc=False):
    err: Any = None
    logMessages: tuple[str, ...] | None = None
    innerInstructions: list[_Inner] | None = None
    loadedAddresses: _Loaded | None = None


class _Transaction(msgspec.Struct, gc=False):
    """Base64 becomes bytes while the text is read. `meta` stays unread: most transactions of a block are not ours."""

    transaction: tuple[bytes, str]
    meta: msgspec.Raw = _NO_META
    version: _Version | str | None = None


class _StoredTransaction(msgspec.Struct, gc=False):
    transaction: tuple[bytes, str]
    meta: _Meta | None = None
    version: _Version | str | None = None
    transactionIndex: _U31 | None = None
    slot: _Slot | None = None
    blockTime: _Time | None = None


class _Block(msgspec.Struct):
    parentSlot: _Slot
    blockTime: _Time | None = None
    signatures: tuple[str, ...] | None = None
    transactions: list[_Transaction] | None = None
    # The length of what it was read from; set after reading, whatever a reply may say under this name.
    size: Any = 0


class _AccountKey(msgspec.Struct, gc=False):
    pubkey: str


class _Keys(msgspec.Struct, gc=False):
    signatures: list[str]
    accountKeys: list[_AccountKey]


class _TransactionKeys(msgspec.Struct, gc=False):
    transaction: _Keys


class _BlockKeys(msgspec.Struct):
    parentSlot: _Slot
    transactions: list[_TransactionKeys]
    blockTime: _Time | None = None


class _BlockEnvelope(msgspec.Struct):
    id: int | str | None = None
    result: _Block | msgspec.UnsetType | None = msgspec.UNSET
    error: _Error | None = None


class _StoredEnvelope(msgspec.Struct):
    id: int | str | None = None
    result: _StoredTransaction | msgspec.UnsetType | None = msgspec.UNSET
    error: _Error | None = None


# A reply whose result was read with it, or left for later.
AnyEnvelope: TypeAlias = Envelope | _BlockEnvelope | _StoredEnvelope
_envelope = msgspec.json.Decoder(Envelope).decode
_block_keys = msgspec.json.Decoder(_BlockKeys | None).decode
_slots = msgspec.json.Decoder(list[_Slot]).decode
_envelopes = msgspec.json.Decoder(list[Envelope]).decode
_signatures = msgspec.json.Decoder(list[_Signature]).decode
_block = msgspec.json.Decoder(_Block | None).decode
_stored = msgspec.json.Decoder(_StoredTransaction | None).decode
_meta = msgspec.json.Decoder(_Meta | None).decode
_integer = msgspec.json.Decoder(_Slot).decode
_block_envelope = msgspec.json.Decoder(_BlockEnvelope).decode
_stored_envelope = msgspec.json.Decoder(_StoredEnvelope).decode
_stored_envelopes = msgspec.json.Decoder(list[_StoredEnvelope]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _loosely(raw: bytes | msgspec.Raw) -> Any:
    """The text as loosely as Python reads it: it takes a lone surrogate as it is, and a byte that is no UTF-8 becomes one. A log line may
    hold either, and what the chain stored must not stop the indexer. ValueError when it is no JSON."""
    return json.loads(bytes(raw).decode("utf-8", "surrogateescape"))


def _again(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode("ascii"))


def _loose_envelope(value: Any) -> Envelope:
    if isinstance(value, dict) and "result" in value:
        value = {**value, "result": _again(value["result"])}
    return msgspec.convert(value, Envelope)


def _loose_block(raw: bytes) -> _Block | None:
    value = _loosely(raw)
    if isinstance(value, dict):
        for entry in value.get("transactions") or ():
            if isinstance(entry, dict) and "meta" in entry:
                entry["meta"] = _again(entry["meta"])
    return msgspec.convert(value, _Block | None)


def _loose_meta(raw: bytes | msgspec.Raw) -> _Meta | None:
    return msgspec.convert(_loosely(raw), _Meta | None)


def _loose_stored(raw: bytes) -> _StoredTransaction | None:
    return msgspec.convert(_loosely(raw), _StoredTransaction | None)


def _either(raw: Raw, fast: Callable[[Raw], T], loose: Callable[[Raw], T]) -> T:
    """The fast decoder's reading, or the loose one's where the fast one refuses; what it refused with when both do."""
    try:
        return fast(raw)
    except _UNREADABLE as error:
        try:
            return loose(raw)
        except (ValueError, TypeError, RecursionError):
            raise Garbage(str(error)) from None


def _strictly(raw: Text, decode: Callable[[Text], T], what: str) -> T:
    """The decoder's reading; Garbage that says what it is not."""
    try:
        return decode(raw)
    except _UNREADABLE as error:
        raise Garbage(f"not {what}: {error}") from None


def _told(raw: bytes | T, fast: Callable[[bytes], T | None], loose: Callable[[bytes], T | None], what: str) -> T | None:
    """A result that was read with its reply, or that is read now; None where the node answered null. Garbage that says what it is not."""
    if not isinstance(raw, bytes):
        return raw
    try:
        return _either(raw, fast, loose)
    except Garbage as error:
        raise Garbage(f"not {what}: {error}") from None


class Watched:
    """The watched programs by address and by key; tells which of them a transaction mentions."""

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self._by_key: dict[bytes, Address] = {base58.address_bytes(address): address for address in addresses}
        self._texts = [address.encode() for address in addresses]
        self._named = lru_cache(maxsize=1024)(self._name_all)
        self.addresses = addresses

    def written(self, wire: bytes) -> list[tuple[bytes, int]]:
        """Keys of programs whose bytes are in the wire, each with the place where they are first."""
        found = []
        for key in self._by_key:
            at = wire.find(key)
            if at >= 0:
                found.append((key, at))
        return found

    def told(self, meta: msgspec.Raw) -> bool:
        """Whether one of the programs may be named in `meta`: False only when it certainly is not. Much cheaper than to read it."""
        text = memoryview(meta).tobytes()
        # A text with escaped letters and digits has to be read before it can be searched.
        return b"\\u00" in text or any(address in text for address in self._texts)

    def mentioned(self, wire: bytes, written: list[tuple[bytes, int]], loaded: tuple[bytes, ...]) -> frozenset[Address]:
        """Programs among the transaction's keys; `written` is what the method of that name found. A message of an unknown version is searched for
        the bytes of the address."""
        found: tuple[bytes, ...] = ()
        if written:
            span = static_keys(wire)
            for key, at in written:
                if span is None or _is_key(wire, key, at, *span):
                    found += (key,)
        if loaded:
            if not written and not self._by_key.keys().isdisjoint(loaded):
                static_keys(wire)
            found += tuple([key for key in self._by_key if key in loaded and key not in found])
        return self._named(found) if found else _NOBODY

    def _name_all(self, keys: tuple[bytes, ...]) -> frozenset[Address]:
        return frozenset(self._by_key[key] for key in keys)


def _is_key(wire: bytes, key: bytes, at: int, start: int, end: int) -> bool:
    """Whether the key is one of those between `start` and `end`, not just bytes that look like it. `at` is where it is seen first."""
    while 0 <= at < end:
        if at >= start and (at - start) % ADDRESS_BYTES == 0:
            return True
        at = wire.find(key, at + 1, end)
    return False


def envelope(body: bytes) -> Envelope:
    """One reply. Garbage when it is none."""
    try:
        return _either(body, _envelope, lambda text: _loose_envelope(_loosely(text)))
    except Garbage as error:
        raise Garbage(f"not a JSON-RPC reply ({error}): {bytes(body[:60])!r}") from None


def envelopes(body: bytes) -> list[Envelope]:
    """The replies of a batch. A node that refuses batches answers with one error for all."""
    try:
        return _either(body, _envelopes, lambda text: [_loose_envelope(value) for value in _loosely(text)])
    except Garbage:
        return [envelope(body)]


def block_envelope(body: bytes) -> AnyEnvelope:
    """A reply to getBlock, read in one pass where it is what it should be."""
    try:
        reply = _block_envelope(body)
    except _UNREADABLE:
        return envelope(body)
    if isinstance(reply.result, _Block):
        reply.result.size = len(body)
    return reply


def stored_envelope(body: bytes) -> AnyEnvelope:
    """A reply to getTransaction, read in one pass where it is what it should be."""
    try:
        return _stored_envelope(body)
    except _UNREADABLE:
        return envelope(body)


def stored_envelopes(body: bytes) -> Sequence[AnyEnvelope]:
    """The replies to a batch of getTransaction, read in one pass where they are what they should be."""
    try:
        return _stored_envelopes(body)
    except _UNREADABLE:
        return envelopes(body)


def result(reply: AnyEnvelope) -> Any:
    """The result for its reader: raw bytes, or what was read with the reply. A `Failure` when the node refused."""
    if reply.error is not None:
        return Failure(f"{reply.error.message or 'error'} ({reply.error.code})", reply.error.code)
    if isinstance(reply.result, msgspec.UnsetType):
        raise Garbage("a reply without result and without error")
    if isinstance(reply.result, msgspec.Raw):
        return bytes(reply.result)
    return b"null" if reply.result is None else reply.result


def integer(raw: bytes) -> int:
    """A bare number, such as a slot."""
    return _strictly(raw, _integer, "a number")


def signature_list(raw: bytes) -> tuple[Listed, ...]:
    """A page of getSignaturesForAddress."""
    return tuple(
        [
            Listed(e.signature, Slot(e.slot), e.transactionIndex, None if e.err is None else error_text(e.err))
            for e in _strictly(raw, _signatures, "a signature list")
        ]
    )


def slots(raw: bytes, first: Slot, last: Slot) -> tuple[Slot, ...]:
    """A getBlocks result: slots of the range, ascending."""
    found = _strictly(raw, _slots, "a list of slots")
    if any(b <= a for a, b in pairwise(found)) or (found and not first <= found[0] <= found[-1] <= last):
        raise Garbage(f"not the slots {first}..{last} in order")
    return tuple(Slot(slot) for slot in found)


def block_accounts(raw: bytes, slot: Slot, watched: Watched) -> Block | None:
    """A getBlock result with transactionDetails "accounts": which transactions mention which watched programs. None when the node answered null."""
    parsed = _strictly(raw, _block_keys, "a block")
    if parsed is None:
        return None
    if parsed.parentSlot >= slot > 0:
        raise Garbage(f"a block of slot {slot} whose parent is slot {parsed.parentSlot}")
    ours = frozenset(watched.addresses)
    mentions = []
    for entry in parsed.transactions:
        if not entry.transaction.signatures:
            raise Garbage(f"a block of slot {slot} with a transaction that has no signature")
        programs = ours.intersection([key.pubkey for key in entry.transaction.accountKeys])
        if programs:
            mentions.append((entry.transaction.signatures[0], programs))
    count = len(parsed.transactions)
    return Block(slot, Slot(parsed.parentSlot), parsed.blockTime, None, None, count, len(raw), tuple(mentions))


def block(raw: bytes | _Block, slot: Slot, watched: Watched) -> Block | None:
    """A getBlock result; None when the node answered null. Transactions that mention no watched program are left out."""
    steps = block_steps(raw, slot, watched)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: Block | None = stop.value
            return found


def block_steps(raw: bytes | _Block, slot: Slot, watched: Watched) -> Generator[None, None, Block | None]:
    """The same, giving way every few transactions: a large block takes tens of milliseconds, in which an event loop would serve nothing and
    the database would wait for rows that are ready."""
    parsed = _told(raw, _block, _loose_block, "a block")
    if parsed is None:
        return None
    if isinstance(raw, bytes):
        parsed.size = len(raw)
    if parsed.parentSlot >= slot > 0:
        raise Garbage(f"a block of slot {slot} whose parent is slot {parsed.parentSlot}")
    count = None if parsed.transactions is None else len(parsed.transactions)
    if parsed.signatures is not None:
        if count not in (None, len(parsed.signatures)) or len(set(parsed.signatures)) < len(parsed.signatures):
            raise Garbage(f"a block of slot {slot} whose signatures are not those of its transactions")
        count = len(parsed.signatures)
    contents: tuple[Content, ...] | None = None
    if parsed.transactions is not None:
        found = []
        for index, entry in enumerate(parsed.transactions):
            content = _block_content(entry, slot, index, parsed.blockTime, watched)
            if content is not None:
                found.append(content)
                if len(found) % STEP_TRANSACTIONS == 0:
                    yield
        contents = tuple(found)
    return Block(slot, Slot(parsed.parentSlot), parsed.blockTime, parsed.signatures, contents, count, parsed.size)


def stored_transaction(raw: bytes | _StoredTransaction, watched: Watched) -> Content | None:
    """A getTransaction result; None when the node knows none (yet)."""
    parsed = _told(raw, _stored, _loose_stored, "a transaction")
    if parsed is None:
        return None
    if parsed.slot is None:
        raise Garbage("a transaction without a slot")
    index = parsed.transactionIndex
    wire, encoding = parsed.transaction
    try:
        meta = parsed.meta or _Meta()
        loaded = _keys(meta.loadedAddresses)
        raw_transaction = _raw(wire, encoding, parsed.version, meta, loaded, parsed.slot, index or 0, parsed.blockTime)
        return Content(raw_transaction, watched.mentioned(wire, watched.written(wire), loaded), index is not None)
    except (TransactionError, ValueError) as error:
        raise Garbage(f"transaction {index} of slot {parsed.slot}: {error}") from None


def _block_content(
    entry: _Transaction, slot: Slot, index: int, block_time: int | None, watched: Watched
) -> Content | None:
    wire, encoding = entry.transaction
    written = watched.written(wire)
    if not written and encoding == "base64" and not watched.told(entry.meta):
        return None
    try:
        meta = _either(entry.meta, _meta, _loose_meta) or _Meta()
        loaded = _keys(meta.loadedAddresses)
        programs = watched.mentioned(wire, written, loaded)
        if not programs and encoding == "base64":
            return None
        return Content(_raw(wire, encoding, entry.version, meta, loaded, slot, index, block_time), programs)
    except (TransactionError, ValueError) as error:
        raise Garbage(f"transaction {index} of slot {slot}: {error}") from None


def _raw(
    wire: bytes,
    encoding: str,
    version: int | str | None,
    meta: _Meta,
    loaded: tuple[bytes, ...],
    slot: int,
    index: int,
    block_time: int | None,
) -> rows.StoredTransaction:
    if encoding != "base64":
        raise TransactionError(f"in the encoding {encoding!r}, not base64")
    signature = _first_signature(wire)
    inner = meta.innerInstructions
    return rows.stored(
        slot,
        index,
        signature,
        block_time,
        None if meta.err is None else error_text(meta.err),
        wire,
        meta.logMessages,
        None if inner is None else _NO_INNER if not inner else _inner(inner),
        loaded,
        version if isinstance(version, int) else None,
    )


def _first_signature(wire: bytes) -> bytes:
    """The transaction's name. Up to version 0 the signatures come first, behind their count; from version 1 on last, and the header counts them."""
    if len(wire) <= SIGNATURE_BYTES:
        raise TransactionError(f"{len(wire)} bytes hold no signature")
    if not wire[0] & 0x80:
        return wire[1 : 1 + SIGNATURE_BYTES]
    start = len(wire) - SIGNATURE_BYTES * max(wire[1], 1)
    if start < 1:
        raise TransactionError(f"{len(wire)} bytes do not hold {wire[1]} signatures")
    return wire[start : start + SIGNATURE_BYTES]


def _inner(groups: list[_Inner]) -> bytes:
    return rows.pack_inner(
        [
            (group.index, place, i.programIdIndex, bytes(i.accounts), base58.decode(i.data), i.stackHeight)
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
    slot: _Slot


class _LogsValue(msgspec.Struct, gc=False):
    signature: str
    err: Any = None
    logs: tuple[str, ...] | None = None


class _LogsResult(msgspec.Struct, gc=False):
    context: _Context
    value: _LogsValue


class _Account(msgspec.Struct, gc=False):
    lamports: _Lamports
    data: tuple[str, str]
    owner: str


class _ProgramValue(msgspec.Struct, gc=False):
    pubkey: str
    account: _Account


class _ProgramResult(msgspec.Struct, gc=False):
    context: _Context
    value: _ProgramValue


class _SlotResult(msgspec.Struct, gc=False):
    slot: _Slot


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
    return _strictly(text, _frame, "a notification")


def logs_notification(raw: msgspec.Raw) -> Notification:
    """A logsNotification's result."""
    parsed = _strictly(raw, _logs_result, "a logs notification")
    value = parsed.value
    if len(value.signature) > SIGNATURE_TEXT_MAX:
        raise Garbage(f"a signature of {len(value.signature)} characters")
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
    return Slot(_strictly(raw, _slot_result, "a slot notification").slot)


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


class _Accounts(msgspec.Struct):
    context: _Context
    value: list[_Account | None]


_accounts = msgspec.json.Decoder(_Accounts).decode


def accounts(raw: bytes) -> tuple[Slot, list[tuple[int, bytes] | None]]:
    """getMultipleAccounts → (slot for which it holds, lamports and owner of each in the order asked; None where there is no account)."""
    try:
        parsed = _accounts(raw)
        return Slot(parsed.context.slot), [
            None if a is None else (a.lamports, base58.address_bytes(a.owner)) for a in parsed.value
        ]
    except (msgspec.DecodeError, ValueError) as error:
        raise Garbage(f"not a list of accounts: {error}") from None


class _AccountInfo(msgspec.Struct):
    data: tuple[bytes, str]
    executable: bool = False


class _AccountReply(msgspec.Struct):
    value: _AccountInfo | None


_account_reply = msgspec.json.Decoder(_AccountReply).decode


def account(raw: bytes) -> tuple[bytes, bool] | None:
    """getAccountInfo with encoding base64 → (data, executable); None where there is no account."""
    value = _strictly(raw, _account_reply, "an account").value
    if value is not None and value.data[1] != "base64":
        raise Garbage(f"an account in the encoding {value.data[1]!r}, not base64")
    return None if value is None else (value.data[0], value.executable)


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
