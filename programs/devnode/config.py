"""What a development node can be told: one frozen object, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from programs.errors import UserError

# An epoch of a test cluster; only getEpochInfo shows it.
SLOTS_PER_EPOCH = 432_000
# Transactions whose blockhash is older than this many blocks are refused (MAX_PROCESSING_AGE of the runtime).
BLOCKHASH_AGE_MAX = 150
# Bytes of one serialised transaction: the payload of a UDP packet of 1,280 bytes.
TRANSACTION_BYTES_MAX = 1232
# The runtime's own bound on the bytes of a transaction's log.
LOG_BYTES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class DevNodeConfig:
    """Settings of one development node. Slots are counted, times are milliseconds, ports 0 mean "any free one".

    `slot_ms` 0 stops the clock: slots then pass only by `DevNode.advance`. `as_fast_as_possible` passes slots without a pause; with
    `genesis_unix_s` the chain's own time still moves by `slot_ms` a slot. `confirmed_lag_slots` counts from the newest frozen block,
    and so does `finalized_lag_slots`: a real test validator shows 0 and 31 (32 behind the block in the making).
    `witness_port` None: no second HTTP port. Otherwise the same chain is shown there by another node, with faults of its own.
    """

    rpc_port: int = 0
    ws_port: int = 0
    witness_port: int | None = None
    host: str = "127.0.0.1"
    slot_ms: float = 400.0
    as_fast_as_possible: bool = False
    seed: int = 0
    confirmed_lag_slots: int = 0
    confirm_delay_ms: float = 25.0
    finalized_lag_slots: int = 31
    ledger_slots_max: int = 100_000
    ledger_transactions_max: int = 250_000
    log_bytes_max: int | None = LOG_BYTES_MAX
    ws_queue_items_max: int = 1_000
    block_subscription: bool = False
    transaction_index: bool = True
    genesis_unix_s: int | None = None
    programs: Mapping[str, Path | bytes] = field(default_factory=dict)
    # `restore`: a snapshot to go on from; its seed counts. `snapshot`: where the control method writes one.
    restore: Path | None = None
    snapshot: Path | None = None
    faults: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rpc_port", "ws_port", "witness_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65_535:
                raise UserError(f"{name.replace('_', '-')} {port} is not a port: give 0 (any free one) to 65535")
        for name in ("slot_ms", "confirm_delay_ms", "confirmed_lag_slots", "finalized_lag_slots"):
            if getattr(self, name) < 0:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)} is negative: give 0 or more")
        if self.as_fast_as_possible and not self.slot_ms:
            raise UserError("slot-ms 0 stops the clock, as-fast-as-possible drives it: give one of them")
        if self.finalized_lag_slots < self.confirmed_lag_slots:
            raise UserError(
                f"finalized-lag {self.finalized_lag_slots} is less than confirmed-lag {self.confirmed_lag_slots}: "
                "a block is confirmed before it is finalized"
            )
        for name in ("ledger_slots_max", "ledger_transactions_max", "ws_queue_items_max"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)} holds nothing: give 1 or more")
        if self.ledger_slots_max <= self.finalized_lag_slots + BLOCKHASH_AGE_MAX:
            raise UserError(
                f"ledger-limit {self.ledger_slots_max} is too small: blocks are needed for "
                f"{self.finalized_lag_slots + BLOCKHASH_AGE_MAX} slots"
            )
