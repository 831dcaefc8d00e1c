"""Decoded batches that several followers share, so that each row of the ledger is read and decoded once.

Followers move on their own. One that stands still or lags falls off the tape's tail and reads for itself; those ahead do not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from projections import metrics
from projections.apply import Batch, batch_of
from projections.catalogue import EVENTS, Conn
from projections.decoding import Decoder, ProgramSpec, count
from schema import reads

ROWS_MIN, ROWS_MAX = 100, 4_000
# A batch larger than this keeps readers waiting for what is in it; smaller ones waste commits.
BATCH_SECONDS = 0.15
# What is kept, and how far it is read ahead of the quickest follower: a few tens of megabytes at most.
BATCHES_KEPT, BATCHES_AHEAD = 16, 3
# Of lines that came ready with batches; beyond it they are made when they are needed.
LINES_BYTES_MAX = 16 << 20
# A follower that moved this recently is waited for before it falls off the tape; decoding twice would make both slower.
PATIENCE_S = 0.5

# Gives the batch after a position, to a head of the ledger, of about so many rows; None when it is to be read here.
Source: TypeAlias = Callable[[int, int, int], Batch | None]


class Tape:
    """The last few batches, in order of position without gaps. Safe for several threads; one of them calls `read`."""

    def __init__(self, specs: Sequence[ProgramSpec], rows_max: int = ROWS_MAX) -> None:
        self._decoder = Decoder(specs, count)
        self._rows_max = rows_max
        self.rows = min(1_000, rows_max)
        self._batches: deque[Batch] = deque()
        self._changed = threading.Condition()
        # Where each follower is, and since when.
        self._at: dict[str, tuple[int, float]] = {}
        self._start = 0
        self.retraction_id = 0

    def restart(self, position: int) -> None:
        """Begin after a position."""
        with self._changed:
            self._start = position
            self._batches.clear()
            self._batches.append(Batch(position, position, (), ()))

    def read(self, conn: Conn, ahead: Source | None = None) -> bool:
        """Take the next batch from `ahead`, or read and decode it here; False when there is none yet."""
        row = conn.execute(
            "SELECT (SELECT coalesce(max(id), 0) FROM ledger.retractions),"
            " (SELECT position FROM ledger.checkpoints WHERE name = 'ledger')"
        ).fetchone()
        retraction_id, head = (0, 0) if row is None else (int(row[0]), int(row[1] or 0))
        with self._changed:
            slowest = min((at for at, _ in self._at.values()), default=0)
            if slowest > self._batches[-1].last:
                # Another worker did the work.
                self._batches.clear()
                self._batches.append(Batch(slowest, slowest, (), ()))
            position = self._batches[-1].last
        batch = None if ahead is None else ahead(position, head, self.rows)
        if batch is None:
            rows = reads.read_parts(conn, position, self.rows)
            batch = batch_of(position, rows, self._decoder) if rows else None
        if batch is not None:
            metrics.EVENTS.inc(len(batch.events))
        with self._changed:
            moved = batch is not None or retraction_id != self.retraction_id
            self.retraction_id = retraction_id
            if batch is not None:
                self._batches.append(self._bounded(batch))
                while len(self._batches) > BATCHES_KEPT:
                    self._batches.popleft()
            if moved:
                self._changed.notify_all()
            metrics.TAPE_BATCHES.set(len(self._batches))
        return batch is not None

    def _bounded(self, batch: Batch) -> Batch:
        held = sum(len(each.lines or b"") for each in self._batches)
        return batch if held + len(batch.lines or b"") <= LINES_BYTES_MAX else replace(batch, lines=None)

    def after(self, position: int) -> Batch | None:
        """The batch that goes on from a position; an empty one at the tape's end, None when it begins later or elsewhere."""
        with self._changed:
            if not self._batches or position < self._batches[0].after:
                return None
            for batch in self._batches:
                if batch.after <= position < batch.last:
                    return batch if batch.after == position else batch.since(position)
            return Batch(position, position, (), ()) if position <= self._batches[-1].last else None

    def more(self, position: int) -> bool:
        """Whether it goes on after a position."""
        with self._changed:
            return bool(self._batches) and self._batches[-1].last > position

    def wait(self, position: int, retraction_id: int, timeout_s: float) -> None:
        """Until there is something after a follower's position, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._more(position, retraction_id), timeout_s)

    def _more(self, position: int, retraction_id: int) -> bool:
        return bool(self._batches) and (self._batches[-1].last > position or self.retraction_id > retraction_id)

    def moved(self, name: str, position: int, seconds: float, rows: int) -> None:
        """A follower applied a batch; how long that took decides how large the next ones are."""
        with self._changed:
            self._at[name] = (position, time.monotonic())
            if seconds > BATCH_SECONDS:
                # Half of what took so long, once: larger ones that were read before are still to come.
                half = max(self.rows, rows) // 2
                self.rows = max(min(ROWS_MIN, self._rows_max), min(self.rows, half))
            elif rows >= self.rows:
                self.rows = min(self._rows_max, self.rows * 2)
            if name == EVENTS:
                # Nobody else wants them.
                for number, batch in enumerate(self._batches):
                    if batch.lines is not None and batch.last <= position:
                        self._batches[number] = replace(batch, lines=None)
            self._changed.notify_all()

    def stands(self, name: str, position: int) -> None:
        """A follower begins at a position."""
        with self._changed:
            self._at[name] = (position, 0.0)

    def hold(self, timeout_s: float) -> bool:
        """Wait while it is read far enough ahead; False when it still is after the time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._enough(), timeout_s)

    def wake(self) -> None:
        """Let everybody look again."""
        with self._changed:
            self._changed.notify_all()

    def _enough(self) -> bool:
        if len(self._batches) <= BATCHES_AHEAD:
            return False
        quickest = max((position for position, _ in self._at.values()), default=self._start)
        if self._batches[-BATCHES_AHEAD].after >= quickest:
            return True
        if len(self._batches) < BATCHES_KEPT:
            return False
        # The oldest batch would go: whoever is at work on it is waited for, and whoever stands still is not.
        oldest, now = self._batches[0], time.monotonic()
        return any(oldest.after <= at < oldest.last and now - since < PATIENCE_S for at, since in self._at.values())
