"""Decoded rows of the ledger in chain order for a rebuild, read and decoded by other processes where that helps.

The ledger is cut by slots. Each process takes every n-th piece and sends it in parts through a pipe of its own, so that order is
kept; a few parts a process wait at our end, and then it waits too. A process ends when its pipe does: with the rebuild, or with whatever
killed it. (Plain child processes: those of `multiprocessing` would run a caller's unguarded main module once more.)
"""

from __future__ import annotations

import marshal
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, TypeAlias

from programs.collector import collect_seldom
from programs.registry import ProgramRegistry
from projections.apply import decoded_lines
from projections.catalogue import Conn
from projections.decoding import Decoder, ProgramSpec
from projections.fold import Poison
from projections.model import Event
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
_LENGTH = struct.Struct(">I")


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


_Program: TypeAlias = tuple[str, str, int, Any, list[Any] | None]


@contextmanager
def parts(dsn: str, specs: Sequence[ProgramSpec], wanted: Wanted, rows: int) -> Iterator[Iterator[Part]]:
    """The wanted rows, part by part. `rows` is about how many there are."""
    with db.connect(dsn, application=_APPLICATION) as conn:
        programs = _described(specs) if rows >= _ROWS_FOR_PROCESSES else None
        processes = min(_PROCESSES_MAX, (os.cpu_count() or 1) - 1)
        if programs is None or processes < 1:
            yield _made(conn, Decoder(specs), wanted, None, wanted.slot_to)
            return
        cuts = reads.chain_cuts(conn, wanted.position_to, _PIECE_ROWS)
    bounds = [None, *cuts]
    pieces = [(a, wanted.slot_to if b is None else b - 1) for a, b in zip(bounds, [*cuts, None], strict=True)]
    if wanted.slot_to is not None:
        pieces = [(a, min(b or 0, wanted.slot_to)) for a, b in pieces if a is None or a <= wanted.slot_to]
    with _processes(dsn, programs, wanted, pieces, min(processes, len(pieces))) as queues:
        yield _received(queues, len(pieces))


def _described(specs: Sequence[ProgramSpec]) -> bytes | None:
    """The programs as another process can read them; None when something in them does not travel."""
    rows: list[_Program] = [
        (s.name, s.address, s.program_id, s.idl, None if s.registry is None else list(s.registry.dump())) for s in specs
    ]
    try:
        return pickle.dumps(rows)
    except Exception:
        return None


@contextmanager
def _processes(
    dsn: str, programs: bytes, wanted: Wanted, pieces: Sequence[tuple[int | None, int | None]], count: int
) -> Iterator[list[queue.Queue[bytes | None]]]:
    over = threading.Event()
    queues: list[queue.Queue[bytes | None]] = []
    started: list[tuple[subprocess.Popen[bytes], threading.Thread]] = []
    try:
        for number in range(count):
            process = subprocess.Popen(
                [sys.executable, "-c", "from projections.supply import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            assert process.stdin is not None, "a pipe was asked for"
            assert process.stdout is not None, "a pipe was asked for"
            waiting: queue.Queue[bytes | None] = queue.Queue(_PARTS_WAITING)
            thread = threading.Thread(target=_receive, args=(process.stdout, waiting, over), daemon=True)
            started.append((process, thread))
            # Through the pipe, not the command line: the URL may hold a password.
            process.stdin.write(pickle.dumps((dsn, programs, wanted, pieces[number::count])))
            process.stdin.close()
            thread.start()
            queues.append(waiting)
        yield queues
    finally:
        over.set()
        for process, thread in started:
            process.kill()
            process.wait()
            if thread.ident is not None:
                thread.join()
            if process.stdout is not None:
                process.stdout.close()


def _received(queues: Sequence[queue.Queue[bytes | None]], pieces: int) -> Iterator[Part]:
    for number in range(pieces):
        while True:
            message = queues[number % len(queues)].get()
            if message is None:
                raise RuntimeError("a process that reads the ledger ended too early; its error stands above")
            if not message:
                break
            yield _unpacked(message)


def _receive(pipe: IO[bytes], waiting: queue.Queue[bytes | None], over: threading.Event) -> None:
    """Take messages off a pipe until it ends; None tells that it did."""
    message: bytes | None = b""
    while message is not None and not over.is_set():
        message = _message(pipe)
        while not over.is_set():
            try:
                waiting.put(message, timeout=0.2)
                break
            except queue.Full:
                continue


def _message(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length = _LENGTH.unpack(head)[0]
    body = pipe.read(length)
    return body if len(body) == length else None


def serve() -> None:
    """The other process: its pieces one after the other, each ended by an empty message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_seldom()
    dsn, programs, wanted, pieces = pickle.load(sys.stdin.buffer)
    specs = [
        ProgramSpec(name, address, number, idl, (), None if rows is None else ProgramRegistry.load(rows))
        for name, address, number, idl, rows in pickle.loads(programs)
    ]
    decoder = Decoder(specs)
    out = sys.stdout.buffer

    def send(message: bytes) -> None:
        out.write(_LENGTH.pack(len(message)))
        out.write(message)
        out.flush()

    try:
        with db.connect(dsn, application=_APPLICATION) as conn:
            for slot_from, slot_to in pieces:
                for part in _made(conn, decoder, wanted, slot_from, slot_to):
                    send(_packed(part))
                send(b"")
    except BrokenPipeError:
        # The rebuild ended; so do we, and there is nobody to tell.
        os._exit(0)


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
    events = [
        (e.position, e.slot, e.transaction_index, e.event_index, e.signature, e.block_time, e.program, e.name, e.data)
        if isinstance(e, Event)
        else (
            e.position,
            e.slot,
            e.transaction_index,
            e.event_index,
            e.signature,
            e.program,
            e.raw,
            e.error,
            e.name,
            None,
        )
        for e in part.events
    ]
    # Plain values between two processes of one interpreter: twice as quick as pickle, and integers of any width.
    return marshal.dumps((part.rows, part.place, events, part.lines))


def _unpacked(message: bytes) -> Part:
    rows, place, events, lines = marshal.loads(message)
    made = tuple([Event(*fields) if len(fields) == 9 else Poison(*fields[:9]) for fields in events])
    return Part(rows, place, made, lines)
