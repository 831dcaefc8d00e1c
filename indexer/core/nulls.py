"""Null logs in a reply mean that this reply lacks them, never that there are none: they are asked for again before a row is believed.

A node that records no logs answers null for ever, one behind a balancer or still writing does so for a while, and from the reply alone nobody can
tell which. So: patience with a node that has given logs before, little with one that never has.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from msgspec import structs

from indexer.core.protocol import Commitment, Content, GetTransactions, Pause, Reply, Request, Row

ATTEMPTS = 6
PAUSE_S = 0.05
TOGETHER_MAX = 50
# Rounds that end without a seal before rows without logs are taken as they are.
ROUNDS_MAX = 3
# Seals for which asking again gave nothing, after which nothing is asked again.
IN_VAIN_MAX = 3


def fill(rows: list[Row], commitment: Commitment) -> Generator[Request, Reply, list[Row]]:
    """The rows, with logs and inner instructions where one of a few further answers had them."""
    lacking = {row.raw.signature: place for place, row in enumerate(rows) if row.raw.logs is None}
    if not lacking:
        return rows
    filled = list(rows)
    for attempt in range(ATTEMPTS):
        if not lacking:
            break
        yield Pause(PAUSE_S * 1.5**attempt, "logs")
        signatures = list(lacking)
        for start in range(0, len(signatures), TOGETHER_MAX):
            reply = yield GetTransactions(tuple(signatures[start : start + TOGETHER_MAX]), commitment)
            for content in reply if isinstance(reply, tuple) else ():
                if isinstance(content, Content) and content.raw.logs is not None:
                    _take(filled, lacking, content)
    return filled


def _take(rows: list[Row], lacking: dict[str, int], content: Content) -> None:
    place = lacking.get(content.raw.signature)
    if place is None:
        return
    raw = rows[place].raw
    # The same transaction in the same slot with the same fate; its place in the block is known better already.
    if (content.raw.slot, content.raw.err) == (raw.slot, raw.err):
        rows[place] = structs.replace(rows[place], raw=replace(content.raw, transaction_index=raw.transaction_index))
        del lacking[content.raw.signature]


class Patience:
    """Whether rows that still lack logs may be sealed. It learns: waiting that never helped is given up, and taken up again when it helps."""

    def __init__(self) -> None:
        self._gives = False
        self._rounds = 0
        self._rounds_max = ROUNDS_MAX
        self._in_vain = 0

    @property
    def asks(self) -> bool:
        """Whether asking again is worth anything."""
        return self._in_vain < IN_VAIN_MAX

    def accepts(self, before: Sequence[Row], after: Sequence[Row]) -> bool:
        """True when the rows may be sealed as they are. `before` and `after`: the rows before and after they were filled."""
        lacked, lacking = (sum(row.raw.logs is None for row in rows) for rows in (before, after))
        self._gives = self._gives or lacking < len(after)
        if lacking < lacked:
            self._in_vain, self._rounds_max = 0, ROUNDS_MAX
        if lacking and self._gives and self._rounds < self._rounds_max:
            self._rounds += 1
            return False
        if lacking:
            self._in_vain += lacking == lacked
            self._rounds_max //= 2
        self._rounds = 0
        return True
