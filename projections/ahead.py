"""Reading and decoding in another process while the tables are far behind the ledger: the followers' own work fills this one.

It is only ever a help. Whatever is wrong with it (it does not start, dies, hangs, sends nonsense) ends it, and the tape reads by itself. Nothing
is taken from it that the tape would not have read itself just now: the next positions, by the IDLs that hold today. It gets no rows to read but
those it is asked for, a few batches at a time; it ends when the last of them are near.
"""

from __future__ import annotations

import marshal
import os
import pickle
import queue
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from programs.collector import keep_all
from projections import decoding, metrics
from projections.apply import Batch, batch_of, decoded_lines
from projections.decoding import Decoder, ProgramSpec
from projections.processes import Inherited, Message, Process, described, packed, specs_of, unpacked
from schema import db, reads

_APPLICATION = "indexer-projections-ahead"
# How often a wait looks whether it is still wanted.
_LOOK_S = 0.1
# After which position, and how many rows.
_ASK = struct.Struct(">QI")
_ENTRY = "projections.ahead:serve"


@dataclass(frozen=True, slots=True)
class Bounds:
    """When there is a process that reads ahead, and how far."""

    # It begins when more rows than this wait. Until it is up the tape reads on, a few thousand rows in that time.
    begin_rows: int = 20_000
    # No more is asked of it when so few are left: it ends after what it was asked for.
    end_rows: int = 2_000
    # Asked for at a time: one that is taken, one that waits, one that is made. A batch of 4,000 rows is about five megabytes.
    batches: int = 3
    # With no answer for so long it is given up, and so is one that takes longer to begin.
    silent_s: float = 20.0
    # The pause before the next one, after one that ended well, and after one that was lost.
    rest_s: float = 5.0
    pause_s: float = 60.0


class Helper(Protocol):
    """A `Process`, or what stands for one in a test."""

    def ask(self, message: bytes) -> None: ...

    def get(self, timeout_s: float | None = None) -> Message | None: ...

    def close(self) -> str: ...


class Refused(Exception):
    """What the process said or sent cannot be used."""


class Ahead:
    """The process that reads ahead, or none. For one thread.

    lost: told in a line why one was given up.
    """

    def __init__(
        self,
        dsn: str,
        specs: Sequence[ProgramSpec],
        bounds: Bounds | None = None,
        *,
        lost: Callable[[str], None] | None = None,
        start: Callable[[bytes, int], Helper] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dsn, self._specs = dsn, tuple(specs)
        self._bounds = bounds or Bounds()
        self._lost, self._now = lost, now
        self._start = start or (lambda order, waiting: Process(_ENTRY, order, waiting, quiet=True))
        self._not_before = 0.0
        self._able = _processors() > 1
        self._helper: Helper | None = None
        self._begun_at = 0.0
        self._knowledge: tuple[int, ...] = ()
        # Where its next batch begins; None until it was asked for one.
        self._next: int | None = None
        # The rows asked for in batches that did not come yet.
        self._asked: deque[int] = deque()

    def next(self, position: int, head: int, rows: int, over: Callable[[], bool]) -> Batch | None:
        """The batch after a position, of about so many rows; None when it is to be read here. Waits for it, at most until it is `over`."""
        try:
            return self._batch(position, head, rows, over)
        except Exception as error:
            # Whatever it was, the tape can do without: an error of the worker would stop what it can still do.
            said = self._end(self._bounds.pause_s)
            metrics.AHEAD_LOST.inc()
            if self._lost is not None:
                self._lost(f"{str(error) or type(error).__name__}{said and ': '}{said}"[:300])
            return None

    def close(self) -> None:
        """End it, if there is one."""
        if self._helper is not None:
            self._end(self._bounds.rest_s)

    def _batch(self, position: int, head: int, rows: int, over: Callable[[], bool]) -> Batch | None:
        behind = head - position
        if self._helper is None:
            if self._able and behind > self._bounds.begin_rows and self._now() >= self._not_before:
                self._begin()
            return None
        if self._knowledge != self._known() or self._next not in (None, position):
            # An IDL was added, or another worker did the work: what was asked for is of no use.
            self.close()
            return None
        if self._next is None:
            if not self._ready(self._helper):
                return None
            self._next = position
        self._ask(self._helper, behind, rows)
        if not self._asked:
            # Near the end of the ledger.
            self.close()
            return None
        message = self._wait(self._helper, over)
        if message is None:
            return None
        batch, counted = _taken(message, position)
        if self._knowledge != self._known():
            self.close()
            return None
        self._asked.popleft()
        metrics.AHEAD_BATCHES.set(len(self._asked))
        if not batch.places:
            # The ledger ends here, whatever its head said.
            self.close()
            return None
        decoding.count(*counted)
        self._next = batch.last
        return batch

    def _known(self) -> tuple[int, ...]:
        return tuple(0 if s.registry is None else s.registry.revision for s in self._specs)

    def _begin(self) -> None:
        # Before the programs are described: what is learnt meanwhile may be known to it, but is never taken for known.
        self._knowledge = self._known()
        programs = described(self._specs)
        if programs is None:
            self._able = False
            return
        self._begun_at = self._now()
        self._helper = self._start(pickle.dumps((self._dsn, programs)), self._bounds.batches + 1)

    def _ready(self, helper: Helper) -> bool:
        """Whether it can be asked: its first message is empty."""
        try:
            message = helper.get(0)
        except queue.Empty:
            if self._now() - self._begun_at > self._bounds.silent_s:
                raise Refused("did not begin in time") from None
            return False
        if message is None:
            raise Refused("ended before it began")
        if message:
            raise Refused(_complaint(message))
        return True

    def _ask(self, helper: Helper, behind: int, rows: int) -> None:
        while len(self._asked) < self._bounds.batches and behind - sum(self._asked) > self._bounds.end_rows:
            # It goes on from its own last position; the first time it is told where.
            after = self._next if not self._asked else 0
            helper.ask(_ASK.pack(after or 0, rows))
            self._asked.append(rows)
        metrics.AHEAD_BATCHES.set(len(self._asked))

    def _wait(self, helper: Helper, over: Callable[[], bool]) -> Message | None:
        since = self._now()
        while not over():
            try:
                message = helper.get(_LOOK_S)
            except queue.Empty:
                if self._now() - since > self._bounds.silent_s:
                    raise Refused("did not answer in time") from None
                continue
            if message is None:
                raise Refused("ended too early")
            return message
        return None

    def _end(self, pause_s: float) -> str:
        helper, self._helper = self._helper, None
        self._next = None
        self._asked.clear()
        self._not_before = self._now() + pause_s
        metrics.AHEAD_BATCHES.set(0)
        return "" if helper is None else helper.close()


def _processors() -> int:
    """Those that we may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _complaint(message: Message) -> str:
    try:
        said = marshal.loads(message)
    except (ValueError, EOFError, TypeError):
        said = None
    return said if isinstance(said, str) else "sent what is no batch"


def packed_batch(batch: Batch, incomplete: int, longer: Mapping[str, int]) -> bytes:
    """A batch as a message, with the lines of its events, and with what the decoder counted."""
    lines = decoded_lines(batch.events).encode()
    return marshal.dumps((batch.after, batch.last, batch.places, packed(batch.events), lines, incomplete, dict(longer)))


def _taken(message: Message, position: int) -> tuple[Batch, tuple[int, dict[str, int]]]:
    """The batch of a message and what was counted. Refused when it is none, or does not go on from the position without a hole."""
    try:
        after, last, places, events, lines, incomplete, longer = marshal.loads(message)
        batch = Batch(after, last, places, unpacked(events), lines)
        ends = (places[0][0], places[-1][0]) if places else (after + 1, after)
    except (ValueError, EOFError, TypeError, IndexError):
        raise Refused(_complaint(message)) from None
    if after != position or ends != (after + 1, last) or len(places) != last - after:
        raise Refused(f"sent positions {ends[0]} to {ends[1]}, {len(places)} of them, where {position + 1} was next")
    return batch, (incomplete, longer)


class _Tally:
    """What the decoder met in a batch."""

    def __init__(self) -> None:
        self.incomplete = 0
        self.longer: Mapping[str, int] = {}

    def __call__(self, incomplete: int, longer: Mapping[str, int]) -> None:
        self.incomplete, self.longer = incomplete, longer


def serve() -> None:
    """The other process: an empty message when it can be asked, then a batch for each that it was asked for. Text, when it failed."""
    channel = Inherited()
    try:
        dsn, programs = pickle.loads(channel.order)
        _answer(channel, dsn, programs)
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        channel.send(marshal.dumps(f"{type(error).__name__}: {said.splitlines()[0]}"[:300]))


def _answer(channel: Any, dsn: str, programs: bytes) -> None:
    tally = _Tally()
    decoder = Decoder(specs_of(programs), tally)
    keep_all()
    with db.connect(dsn, application=_APPLICATION) as conn:
        channel.send(b"")
        position = 0
        while True:
            after, rows = _ASK.unpack(channel.asked.get())
            position = after or position
            read = reads.read_parts(conn, position, rows)
            batch = batch_of(position, read, decoder)
            position = batch.last
            channel.send(packed_batch(batch, tally.incomplete, tally.longer))
