"""Decoded rows of the ledger in chain order for a rebuild, read and decoded by other processes where that helps.

The ledger is cut by slots. Each process takes every n-th piece and sends it in parts through a channel of its own, so that order is
kept; a few parts a process wait at our end, and then it waits too.
"""

from __future__ import annotations

import marshal
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from programs.collector import collect_seldom
from projections.apply import decoded_lines
from projections.catalogue import Conn
from projections.decoding import Decoder, ProgramSpec
from projections.fold import Poison
from projections.model import Event
from projections.processes import Inherited, Message, Process, described, packed, specs_of, unpacked
from schema import db, reads

# A part of a piece: what is folded, sent and held at once.
PART_ROWS = 2_500
_PIECE_ROWS = 5_000
# Of each process; a part is about a megabyte.
_PARTS_WAITING = 4
# Below this a process costs more to start than it saves.
_ROWS_FOR_PROCESSES = 20_000
# The fold is one process; two that decode keep it busy.
_PROCESSES_MAX = 2
_APPLICATION = "indexer-rebuild-reader"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows. `program` is the address whose events are wanted (None: all, as lines for COPY, those of retracted rows too)."""

    program: str | None
    program_id: int | None
    position_to: int
    retraction_to: int
    slot_to: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows' events in chain order. Where lines were wanted, `events` has what does not decode. `place`: the last (slot, index)."""

    rows: int
    place: tuple[int, int]
    events: tuple[Event | Poison, ...]
    lines: bytes


@contextmanager
def parts(dsn: str, specs: Sequence[ProgramSpec], wanted: Wanted, rows: int) -> Iterator[Iterator[Part]]:
    """The wanted rows, part by part. `rows` is about how many there are."""
    with db.connect(dsn, application=_APPLICATION) as conn:
        programs = described(specs) if rows >= _ROWS_FOR_PROCESSES else None
        processes = min(_PROCESSES_MAX, (os.cpu_count() or 1) - 1)
        if programs is None or processes < 1:
            yield _made(conn, Decoder(specs), wanted, None, wanted.slot_to)
            return
        cuts = reads.chain_cuts(conn, wanted.position_to, _PIECE_ROWS)
    bounds = [None, *cuts]
    pieces = [(a, wanted.slot_to if b is None else b - 1) for a, b in zip(bounds, [*cuts, None], strict=True)]
    if wanted.slot_to is not None:
        pieces = [(a, min(b or 0, wanted.slot_to)) for a, b in pieces if a is None or a <= wanted.slot_to]
    with _processes(dsn, programs, wanted, pieces, min(processes, len(pieces))) as started:
        yield _received(started, len(pieces))


@contextmanager
def _processes(
    dsn: str, programs: bytes, wanted: Wanted, pieces: Sequence[tuple[int | None, int | None]], count: int
) -> Iterator[list[Process]]:
    started: list[Process] = []
    try:
        for number in range(count):
            order = pickle.dumps((dsn, programs, wanted, pieces[number::count]))
            started.append(Process("projections.supply:serve", order, _PARTS_WAITING))
        yield started
    finally:
        for process in started:
            process.close()


def _received(started: Sequence[Process], pieces: int) -> Iterator[Part]:
    for number in range(pieces):
        while True:
            message = started[number % len(started)].get()
            if message is None:
                raise RuntimeError("a process that reads the ledger ended too early; its error stands above")
            if not message:
                break
            yield _unpacked(message)


def serve() -> None:
    """The other process: its pieces one after the other, each ended by an empty message."""
    collect_seldom()
    channel = Inherited()
    dsn, programs, wanted, pieces = pickle.loads(channel.order)
    decoder = Decoder(specs_of(programs))
    with db.connect(dsn, application=_APPLICATION) as conn:
        for slot_from, slot_to in pieces:
            for part in _made(conn, decoder, wanted, slot_from, slot_to):
                channel.send(_packed(part))
            channel.send(b"")


def _made(conn: Conn, decoder: Decoder, wanted: Wanted, slot_from: int | None, slot_to: int | None) -> Iterator[Part]:
    rows = reads.iter_parts(
        conn,
        slot_from,
        slot_to,
        wanted.program_id,
        position_to=wanted.position_to,
        retraction_to=wanted.retraction_to,
        retracted=wanted.program is None,
    )
    while batch := list(islice(rows, PART_ROWS)):
        place = (batch[-1].raw.slot, batch[-1].raw.transaction_index)
        events = decoder.decode(batch)
        if wanted.program is None:
            lines = decoded_lines(events)
            poisons = tuple(event for event in events if isinstance(event, Poison))
            yield Part(len(batch), place, poisons, lines.encode())
        else:
            yield Part(len(batch), place, tuple(e for e in events if e.program == wanted.program), b"")


def _packed(part: Part) -> bytes:
    return marshal.dumps((part.rows, part.place, packed(part.events), part.lines))


def _unpacked(message: Message) -> Part:
    rows, place, events, lines = marshal.loads(message)
    return Part(rows, place, unpacked(events), lines)
