"""What a message says without being run: what it writes, what it costs, what it notes. No I/O, no state."""

from __future__ import annotations

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

from programs.devnode.vm import LAMPORTS_PER_SIGNATURE

AnyMessage = Message | MessageV0
_COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_MEMO_PROGRAMS = frozenset(
    Pubkey.from_string(text)
    for text in ("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")
)
# Compute units that an instruction is granted when the message does not ask for a limit; and the most of one transaction.
_UNITS_DEFAULT = 200_000
_UNITS_BUILTIN = 3_000
_BUILTINS = frozenset(
    Pubkey.from_string(text)
    for text in (
        "11111111111111111111111111111111",
        "ComputeBudget111111111111111111111111111111",
        "Vote111111111111111111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "Ed25519SigVerify111111111111111111111111111",
    )
)
_UNITS_MAX = 1_400_000


def writable_keys(message: AnyMessage, keys: tuple[Pubkey, ...], loaded_writable: int) -> tuple[Pubkey, ...]:
    """Keys that the message may write, the looked-up ones included, in message order."""
    header = message.header
    static = len(message.account_keys)
    signed_writable = header.num_required_signatures - header.num_readonly_signed_accounts
    unsigned_writable = static - header.num_readonly_unsigned_accounts
    programs = {message.account_keys[ix.program_id_index] for ix in message.instructions}
    return tuple(
        key
        for position, key in enumerate(keys)
        if (
            position < signed_writable
            or header.num_required_signatures <= position < unsigned_writable
            or static <= position < static + loaded_writable
        )
        and key not in programs
    )


def unit_price(message: AnyMessage) -> int:
    """Micro-lamports that the message offers for a compute unit."""
    for ix in message.instructions:
        if message.account_keys[ix.program_id_index] == _COMPUTE_BUDGET and ix.data[:1] == b"\x03":
            return int.from_bytes(ix.data[1:9], "little")
    return 0


def _unit_limit(message: AnyMessage) -> int:
    granted = 0
    for ix in message.instructions:
        program = message.account_keys[ix.program_id_index]
        if program == _COMPUTE_BUDGET and ix.data[:1] == b"\x02":
            return min(int.from_bytes(ix.data[1:5], "little"), _UNITS_MAX)
        granted += _UNITS_BUILTIN if program in _BUILTINS else _UNITS_DEFAULT
    return min(granted, _UNITS_MAX)


def base_fee(message: AnyMessage) -> int:
    """Lamports for its signatures."""
    return LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures


def priority_fee(message: AnyMessage) -> int:
    """Lamports for its place in the queue."""
    price = unit_price(message)
    return -(-price * _unit_limit(message) // 1_000_000) if price else 0


def fee_of(message: AnyMessage) -> int:
    """Lamports that a message costs: its signatures and its priority."""
    return base_fee(message) + priority_fee(message)


def memo_of(message: AnyMessage) -> str | None:
    """The notes in it, as signature lists show them."""
    notes: list[str] = []
    for ix in message.instructions:
        if message.account_keys[ix.program_id_index] in _MEMO_PROGRAMS:
            data = bytes(ix.data)
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = "(unparseable)"
            notes.append(f"[{len(data)}] {text}")
    return "; ".join(notes) if notes else None


def cost_units(message: AnyMessage, writable: int, units: int, loaded_bytes: int) -> int:
    """The block cost of a transaction: signatures, write locks, instruction bytes, loaded data and what it used."""
    signatures = 720 * message.header.num_required_signatures
    data_bytes = sum(len(ix.data) for ix in message.instructions)
    # Eight units for each page of 32 KiB that was loaded.
    return signatures + 300 * writable + data_bytes // 4 + 8 * -(-loaded_bytes // 32_768) + units
