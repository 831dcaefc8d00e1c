"""Methods that show what landed: blocks, transactions, lists of signatures."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import Any

import msgspec
from solders.message import MessageV0
from solders.signature import Signature

from programs.devnode import ledger
from programs.devnode import params as take
from programs.devnode.chain import Chain
from programs.devnode.encoded import base58_bytes
from programs.devnode.errors import (
    block_cleaned_up,
    block_not_available,
    block_status_not_yet,
    invalid_params,
    slot_skipped,
    transaction_not_found,
    unsupported_version,
)
from programs.devnode.happenings import Commitment
from programs.devnode.ledger import LEGACY, Bank, StoredTransaction
from programs.devnode.method import Context, Options, address_of, commitment_of, method, signature_of
from programs.devnode.params import CONTEXT, text, texts, unsigned, usize
from programs.devnode.parsed import parsed_instruction

_to_json = msgspec.json.encode
SIGNATURES_PAGE_MAX = 1_000
STATUSES_MAX = 256
# Finalized slots whose transactions the real node's cache of statuses remembers.
STATUS_CACHE_SLOTS = 300
BLOCK_RANGE_MAX = 500_000


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


@method(text, extra=(take.block_config,))
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
    index = b',"transactionIndex":%d' % _shown_index(ctx, stored, bank) if ctx.chain.config.transaction_index else b""
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


def _shown_index(ctx: Context, stored: StoredTransaction, bank: Bank | None) -> int:
    """The place in the block, as a node gives it that hides others of the block everywhere: no gap may betray them."""
    faults = ctx.faults
    if bank is None or not faults.param("hidden-signatures", "everywhere"):
        return stored.index
    before = bank.transactions[: stored.index]
    return sum(not faults.would_choose("hidden-signatures", row.signature) for row in before)


def _is_withheld(ctx: Context, stored: StoredTransaction) -> bool:
    faults = ctx.faults
    if faults.param("hidden-signatures", "everywhere") and faults.chooses("hidden-signatures", stored.signature):
        return True
    age = ctx.chain.tip.slot - stored.slot
    return age < faults.param("null-transactions", "slots") and faults.chooses("null-transactions", stored.signature)


def _block_at(ctx: Context, slot: int, top: int) -> Bank:
    if slot < ctx.chain.first_available:
        # That there was none between the oldest block and its parent is still known.
        is_between = slot > ctx.chain.history.lowest_slot
        raise slot_skipped(slot) if is_between else block_cleaned_up(slot, ctx.chain.first_available)
    bank = ctx.chain.bank(slot)
    if bank is not None and slot <= top:
        return bank
    raise slot_skipped(slot) if slot < ctx.slot(Commitment.FINALIZED) else block_not_available(slot)


@method(unsigned, extra=(take.block_config,))
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


@method(unsigned, extra=(take.blocks_end, CONTEXT))
def getBlocks(ctx: Context, first: int, end: int | Options | None, config: Options | None) -> list[int]:
    options = end if isinstance(end, dict) else config or {}
    _settled(options)
    top = ctx.read_slot(options)
    last = top if end is None or isinstance(end, dict) else min(end, top)
    if last - first > BLOCK_RANGE_MAX:
        raise invalid_params(f"Slot range too large; max {BLOCK_RANGE_MAX}")
    return [bank.slot for bank in ctx.chain.banks_between(first, last)]


@method(unsigned, usize, extra=(CONTEXT,))
def getBlocksWithLimit(ctx: Context, first: int, limit: int, options: Options | None) -> list[int]:
    if limit > BLOCK_RANGE_MAX:
        raise invalid_params(f"Limit too large; max {BLOCK_RANGE_MAX}")
    _settled(options or {})
    return [bank.slot for bank in islice(ctx.chain.banks_between(first, ctx.read_slot(options)), limit)]


@method(unsigned)
def getBlockTime(ctx: Context, slot: int) -> int:
    # When everything began is known from the genesis, whatever was forgotten.
    return _block_at(ctx, slot, ctx.slot(Commitment.CONFIRMED)).unix_s if slot else ctx.chain.genesis_unix_s


def _place(row: StoredTransaction) -> tuple[int, int]:
    return row.slot, row.index


@method(text, extra=(take.SIGNATURES_FOR_ADDRESS,))
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
            entry["transactionIndex"] = _shown_index(ctx, row, bank)
        page.append(entry)
    # A page of one is left alone: its only entry is the client's cursor.
    if page and limit > 1 and faults.strikes("invented-signatures"):
        invented = str(Signature.from_bytes(faults.dice("invented-signatures").randbytes(64)))
        page.insert(0, {**page[0], "signature": invented, "err": None})
    return page[:limit]


@method(texts, extra=(take.SIGNATURE_STATUS,))
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
