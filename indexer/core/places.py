"""Where the node says that a transaction is, asked by its name: a check on blocks that add a row, or take one away, which no list asks for.

No reply to getBlock names its slot: one that a cache holds under the wrong key looks like any other. What it shows is then in two slots, or what it
lacks is there all the same; getTransaction names the slot.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

from indexer.core.protocol import (
    METHOD_NOT_FOUND,
    Commitment,
    Content,
    Failure,
    GetTransactions,
    Held,
    Reply,
    Request,
    Row,
    Slot,
    Unproven,
    why_not,
)

TOGETHER_MAX = 50
# What is wrong about a signature's slot, in words; None: nothing.
Judge = Callable[[str, Slot], str | None]


def elsewhere(rows: Iterable[Row], commitment: Commitment) -> Generator[Request, Reply, Unproven | None]:
    """Unproven when the node holds one of the rows, which a block showed, in another slot. One that it does not know is the block's word alone."""
    shown = {row.raw.signature: Slot(row.raw.slot) for row in rows}

    def wrong(signature: str, slot: Slot) -> str | None:
        at = shown[signature]
        return None if slot == at else f"the block of slot {at} shows {signature}, which the node holds in slot {slot}"

    return (yield from _asked(list(shown), commitment, wrong))


def still_there(rows: Iterable[Held], commitment: Commitment) -> Generator[Request, Reply, Unproven | None]:
    """Unproven when the node holds one of the rows, which its block lacked, in that very slot."""
    lacked = {row.signature: row.slot for row in rows}

    def wrong(signature: str, slot: Slot) -> str | None:
        is_there = slot == lacked[signature]
        return f"the block of slot {slot} lacks {signature}, which the node holds there" if is_there else None

    return (yield from _asked(list(lacked), commitment, wrong))


def passed_over(
    places: Iterable[tuple[Slot, str]], commitment: Commitment
) -> Generator[Request, Reply, Unproven | None]:
    """Unproven when the node holds one of the places that a list names, though a chain of blocks, each the parent of the next, has none there."""
    named = {signature: slot for slot, signature in places}

    def wrong(signature: str, slot: Slot) -> str | None:
        is_there = slot == named[signature]
        return f"the chain of blocks passes over slot {slot}, in which the node holds {signature}" if is_there else None

    return (yield from _asked(list(named), commitment, wrong))


def _asked(
    signatures: Sequence[str], commitment: Commitment, wrong: Judge
) -> Generator[Request, Reply, Unproven | None]:
    for start in range(0, len(signatures), TOGETHER_MAX):
        part = signatures[start : start + TOGETHER_MAX]
        reply = yield GetTransactions(tuple(part), commitment)
        if isinstance(reply, Failure) and reply.code == METHOD_NOT_FOUND:
            return None  # a proxy that lets few methods through: what can't be asked can't hold the seal
        if not isinstance(reply, tuple):
            return Unproven(f"{part[0]} can't be asked for by its name: {why_not(reply)}")
        for signature, content in zip(part, reply, strict=True):
            if isinstance(content, Content) and content.raw.signature == signature:
                words = wrong(signature, Slot(content.raw.slot))
                if words is not None:
                    return Unproven(words)
    return None
