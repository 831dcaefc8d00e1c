"""Whether a signature list joins the ledger: it must come down to the last row that the ledger holds of the program.

A list that ends above it, or passes over it, is that of a node which lags, was cut or lost entries: what it lacks below the last seal it may lack
above it too. The row that is asked for is the last one which a list has named before. It may have died with its fork, or lie in history that the
node has pruned; its block tells, and then the one before it is asked for, or none.
"""

from __future__ import annotations

from collections.abc import Generator

from indexer.core import blocks
from indexer.core.protocol import Commitment, Failure, Halted, Held, ReadLastListed, Reply, Request, Slot, Unproven
from indexer.core.walk import SignatureWalk

# A fork is some dozens of slots at most; each step goes to another slot.
DEAD_ROWS_MAX = 64


def joined(
    walk: SignatureWalk,
    cursor: Slot,
    last: Slot,
    commitment: Commitment,
    known: Held | None,
    dead_max: int = DEAD_ROWS_MAX,
) -> Generator[Request, Reply, Held | Unproven | Halted | None]:
    """The row at which the list joins; None when there is none that it must reach. Unproven: the list is incomplete, or it can't be told. Halted:
    in more than `dead_max` slots the ledger's rows are not on the node's chain, which is another one then.

    `walk` has descended to `cursor`; `known` is the last row if it is at hand; `last` is a slot whose block was served.
    """
    row = known if known is not None and known.slot <= cursor else (yield from _last(walk, cursor))
    for dead in range(dead_max + 1):
        if not isinstance(row, Held):
            return row
        place = (row.slot, row.signature)
        if place not in walk.beneath:
            yield from walk.descend(row.slot)
        if place in walk.beneath:
            return row
        what = yield from blocks.fate(row.slot, row.signature, last, commitment)
        if isinstance(what, Unproven):
            return what
        if what == "there":
            how = "ends above" if walk.ended else "passes over"
            return Unproven(
                f"the signature list of {walk.address} {how} {row.signature} of slot {row.slot}: it is incomplete"
            )
        if what == "pruned":
            return None
        if dead == dead_max:
            break
        row = yield from _last(walk, Slot(row.slot - 1))
    assert isinstance(row, Held)
    sealed = "sealed as finalized" if dead_max == 0 else f"like the {dead_max} slots with rows behind it"
    return Halted(
        f"the node is of another chain: its block of slot {row.slot} lacks {row.signature} of {walk.address}, {sealed}",
        "use an RPC endpoint of the ledger's chain; where the ledger is wrong, from an endpoint that lied before, run: indexer replay",
    )


def _last(walk: SignatureWalk, upto: Slot) -> Generator[Request, Reply, Held | Unproven | None]:
    reply = yield ReadLastListed(walk.address, upto)
    if isinstance(reply, Failure):
        return Unproven(f"the ledger can't be read: {reply.message}")
    assert reply is None or isinstance(reply, Held)
    return reply
