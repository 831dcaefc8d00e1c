"""Transactions for ledger tests, from a seed."""

from __future__ import annotations

import random

from programs import base58
from programs.transaction import InnerInstruction, RawTransaction
from schema.ledger import PreparedRow, prepare_row

LINES = (
    "Program log: vote",
    "Log truncated",
    "Program log: \0 and \ufeff",
    "Program log: \u202eיד",
    "x" * 300,
    "",
    "Program log: \ud800",
)


def transaction(rng: random.Random, slot: int, index: int) -> RawTransaction:
    """Any transaction; every nullable field is null now and then."""
    inner = tuple(
        InnerInstruction(
            rng.randrange(4),
            n,
            rng.randrange(256),
            rng.randbytes(rng.randrange(9)),
            rng.randbytes(rng.randrange(40)),
            rng.choice((None, 2, 5)),
        )
        for n in range(rng.randrange(3))
    )
    return RawTransaction(
        slot=slot,
        transaction_index=index,
        signature=base58.encode(rng.randbytes(64)),
        block_time=rng.choice((None, 1_700_000_000 + slot)),
        err=rng.choice((None, None, '{"InstructionError":[0,{"Custom":6001}]}')),
        wire=rng.randbytes(rng.randrange(1, 1232)),
        logs=rng.choice((None, (), tuple(rng.choices(LINES, k=rng.randrange(12))))),
        inner=rng.choice((None, inner)),
        loaded=tuple(rng.randbytes(32) for _ in range(rng.randrange(3))),
        version=rng.choice((None, 0, 1)),
    )


def rows(
    rng: random.Random, slots: range, per_slot: int, programs: tuple[int, ...] = (1,)
) -> tuple[list[RawTransaction], list[PreparedRow]]:
    """Transactions in chain order and their rows."""
    raws = [transaction(rng, slot, 3 * index) for slot in slots for index in range(per_slot)]
    return raws, [prepare_row(raw, programs, 6) for raw in raws]
