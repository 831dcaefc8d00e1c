"""Methods that say where the chain is and what cluster it is of."""

from __future__ import annotations

from typing import Any

from solders.message import Message, MessageV0

from programs.devnode import params as take
from programs.devnode.config import SLOTS_PER_EPOCH
from programs.devnode.errors import block_not_available, invalid_params, no_snapshot, node_unhealthy
from programs.devnode.happenings import Commitment
from programs.devnode.messages import fee_of
from programs.devnode.method import API_VERSION, Context, Options, address_of, blockhash_of, method, wire_bytes
from programs.devnode.params import CONTEXT, text, texts, unsigned
from programs.devnode.wire import message_fault

FEATURE_SET = 3_345_198_602
_PRIORITIZATION_SLOTS = 150
_LOCKS_MAX = 128
_LEADERS_MAX = 5_000
_STAKE_MIN_LAMPORTS = 1_000_000_000
_MESSAGE_TYPE = "solana_message::non_bpf_modules::versions::VersionedMessage"


@method(extra=(CONTEXT,))
def getSlot(ctx: Context, options: Options | None) -> int:
    return ctx.read_slot(options)


@method(extra=(CONTEXT,))
def getBlockHeight(ctx: Context, options: Options | None) -> int:
    return ctx.chain.bank_at_or_below(ctx.read_slot(options)).height


@method()
def getHealth(ctx: Context) -> str:
    if ctx.faults.strikes("unhealthy"):
        raise node_unhealthy(int(ctx.faults.param("unhealthy", "slots")))
    return "ok"


@method()
def getVersion(ctx: Context) -> dict[str, Any]:
    return {"feature-set": FEATURE_SET, "solana-core": API_VERSION}


@method()
def getGenesisHash(ctx: Context) -> str:
    return ctx.chain.genesis_hash


@method()
def getIdentity(ctx: Context) -> dict[str, str]:
    return {"identity": str(ctx.chain.identity.pubkey())}


@method(extra=(CONTEXT,))
def getSlotLeader(ctx: Context, options: Options | None) -> str:
    ctx.read_slot(options)
    return str(ctx.chain.identity.pubkey())


@method(extra=(CONTEXT,))
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


@method(extra=(CONTEXT,))
def getTransactionCount(ctx: Context, options: Options | None) -> int:
    ctx.read_slot(options)
    return ctx.chain.transaction_count


@method()
def getFirstAvailableBlock(ctx: Context) -> int:
    return ctx.chain.first_available


@method()
def minimumLedgerSlot(ctx: Context) -> int:
    return ctx.chain.history.lowest_slot


@method(extra=(CONTEXT,))
def getLatestBlockhash(ctx: Context, options: Options | None) -> dict[str, Any]:
    bank = ctx.chain.bank_at_or_below(ctx.read_slot(options))
    value = {"blockhash": bank.blockhash, "lastValidBlockHeight": ctx.chain.last_valid_height(bank.blockhash)}
    return ctx.with_context(bank.slot, value)


@method(text, extra=(CONTEXT,))
def isBlockhashValid(ctx: Context, encoded: str, options: Options | None) -> dict[str, Any]:
    try:
        blockhash = blockhash_of(encoded)
    except ValueError as error:
        raise invalid_params(str(error)) from None
    slot = ctx.read_slot(options)
    return ctx.with_context(slot, ctx.chain.blockhash_is_valid(blockhash, ctx.chain.bank_at_or_below(slot)))


@method(text, extra=(CONTEXT,))
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


@method(extra=(texts,))
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


@method()
def getEpochSchedule(ctx: Context) -> dict[str, Any]:
    return {
        "firstNormalEpoch": 0,
        "firstNormalSlot": 0,
        "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
        "slotsPerEpoch": SLOTS_PER_EPOCH,
        "warmup": False,
    }


@method(extra=(take.COMMITMENT_ONLY,))
def getInflationGovernor(ctx: Context, options: Options | None) -> dict[str, float]:
    return {"foundation": 0.05, "foundationTerm": 7.0, "initial": 0.08, "taper": 0.15, "terminal": 0.015}


@method()
def getInflationRate(ctx: Context) -> dict[str, Any]:
    epoch = ctx.slot(Commitment.FINALIZED) // SLOTS_PER_EPOCH
    return {"epoch": epoch, "foundation": 0.004, "total": 0.08, "validator": 0.076}


@method(texts, extra=(take.EPOCH,))
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


@method()
def getHighestSnapshotSlot(ctx: Context) -> None:
    raise no_snapshot()


@method(unsigned, unsigned)
def getSlotLeaders(ctx: Context, first: int, limit: int) -> list[str]:
    if limit > _LEADERS_MAX:
        raise invalid_params(f"Invalid limit; max {_LEADERS_MAX}")
    epoch = first // SLOTS_PER_EPOCH
    if epoch > ctx.slot(Commitment.FINALIZED) // SLOTS_PER_EPOCH + 1:
        raise invalid_params(f"Invalid slot range: leader schedule for epoch {epoch} is unavailable")
    return [str(ctx.chain.identity.pubkey())] * limit


@method()
def getMaxRetransmitSlot(ctx: Context) -> int:
    return ctx.slot(Commitment.PROCESSED)


@method()
def getMaxShredInsertSlot(ctx: Context) -> int:
    return ctx.slot(Commitment.PROCESSED)


@method(extra=(CONTEXT,))
def getStakeMinimumDelegation(ctx: Context, options: Options | None) -> dict[str, Any]:
    return ctx.with_context(ctx.read_slot(options), _STAKE_MIN_LAMPORTS)
