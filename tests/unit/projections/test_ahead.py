"""What is taken from a process that reads ahead, what is not, and when there is one at all; and how messages travel."""

from __future__ import annotations

import json
import marshal
import queue
import random
import socket
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest

from programs.base58 import address_text
from programs.idl import load_idl
from programs.registry import IdlVersion, ProgramRegistry
from projections import ahead, metrics, processes
from projections.ahead import Ahead, Bounds, packed_batch
from projections.apply import Batch, decoded_lines
from projections.decoding import ProgramSpec
from projections.fold import Poison
from projections.model import Event
from projections.tape import Tape

PROGRAM = bytes([5]) * 32
BOUNDS = Bounds(begin_rows=100, end_rows=20, batches=3, silent_s=10, rest_s=5, pause_s=60)


def document(*fields: str) -> bytes:
    idl: dict[str, Any] = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": "E", "discriminator": [1]}],
        "types": [{"name": "E", "type": {"kind": "struct", "fields": [{"name": f, "type": "u8"} for f in fields]}}],
    }
    return json.dumps(idl).encode()


def event(position: int, data: Any = None) -> Event:
    return Event(position, position, 0, 0, f"s{position}", 1_700_000_000, "p", "E", data or {"a": position})


def batch(after: int, last: int) -> Batch:
    places = tuple((n, n, 0) for n in range(after + 1, last + 1))
    return Batch(after, last, places, tuple(event(n) for n in range(after + 1, last + 1)))


class Answering:
    """Stands for the process: does what it is asked for at once, but for what a test gives it to say."""

    def __init__(self) -> None:
        self.said: queue.Queue[bytes | None] = queue.Queue()
        self.asked: list[tuple[int, int]] = []
        self.position = 0
        self.answers = True
        self.closed = False

    def ask(self, message: bytes) -> None:
        after, rows = struct.unpack(">QI", message)
        self.asked.append((after, rows))
        if self.answers:
            self.position = after or self.position
            self.say(packed_batch(batch(self.position, self.position + rows), 0, {}))
            self.position += rows

    def say(self, message: bytes | None) -> None:
        self.said.put(message)

    def get(self, timeout_s: float | None = None) -> bytes | None:
        return self.said.get_nowait()

    def close(self) -> str:
        self.closed = True
        return ""


class Stage:
    """A reader ahead with a clock and processes of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bounds: Bounds = BOUNDS, registry: Any = None) -> None:
        monkeypatch.setattr(ahead, "_processors", lambda: 2)
        self.at, self.head, self.position = 1_000.0, 1_000, 0
        self.lost: list[str] = []
        self.made: list[Answering] = []
        self.refuses: Exception | None = None
        spec = ProgramSpec("n", address_text(PROGRAM), 1, load_idl(document("a")), (), registry)
        self.ahead = Ahead("dsn", (spec,), bounds, lost=self.lost.append, start=self._start, now=self._now)

    def _now(self) -> float:
        self.at += 1
        return self.at

    def _start(self, order: bytes, waiting: int) -> Answering:
        if self.refuses is not None:
            raise self.refuses
        assert waiting >= BOUNDS.batches
        self.made.append(Answering())
        return self.made[-1]

    @property
    def process(self) -> Answering:
        return self.made[-1]

    def next(self, rows: int = 10) -> Batch | None:
        """What the tape would do with it: go on after the batch, or read here."""
        found = self.ahead.next(self.position, self.head, rows, lambda: False)
        self.position = found.last if found is not None else min(self.position + rows, self.head)
        return found

    def begun(self) -> Answering:
        assert self.next() is None
        self.process.say(b"")
        return self.process


def lost() -> float:
    return metrics.AHEAD_LOST._value.get()


def test_near_the_end_of_the_ledger_there_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.head = 100
    for _ in range(20):
        assert stage.next() is None
    assert stage.made == []


def test_one_processor_has_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    monkeypatch.setattr(ahead, "_processors", lambda: 1)
    other = Ahead("dsn", (), BOUNDS, start=stage._start)
    assert other.next(0, 10**6, 10, lambda: False) is None
    assert stage.made == []


def test_far_behind_it_reads_until_the_end_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    assert stage.next() is None
    # It is not up yet: the tape reads on meanwhile, and it begins where the tape is then.
    assert stage.next() is None
    stage.process.say(b"")
    at, found = stage.position, []
    while not stage.process.closed:
        before = stage.position
        got = stage.next()
        if got is not None:
            found.append((got.after, got.last))
            assert got == replace(batch(before, before + 10), lines=decoded_lines(got.events).encode())
    assert found == [(n, n + 10) for n in range(at, 980, 10)]
    assert stage.process.asked[0] == (at, 10)
    assert stage.lost == []
    # It rests a little, and then one may begin again.
    stage.head = 5_000
    assert stage.next() is None
    assert len(stage.made) == 1
    stage.at += BOUNDS.rest_s
    assert stage.next() is None
    assert len(stage.made) == 2


def test_it_is_asked_for_a_few_batches_at_a_time_of_todays_size(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    process = stage.begun()
    for number in range(10):
        stage.next(10 + number)
        assert process.said.qsize() <= BOUNDS.batches - 1
    assert [rows for _, rows in process.asked] == [10, 10, 10, *range(11, 20)]


def test_a_registry_that_learns_ends_it_and_what_it_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ProgramRegistry([IdlVersion(PROGRAM, 0, document("a"))])
    stage = Stage(monkeypatch, registry=registry)
    process = stage.begun()
    assert stage.next() is not None
    registry.add(IdlVersion(PROGRAM, 0, document("a")))
    assert stage.next() is not None, "nothing new was learnt"
    registry.add(IdlVersion(PROGRAM, 500, document("a", "b")))
    assert stage.next() is None
    assert process.closed
    assert stage.lost == []


def test_what_is_learnt_while_a_batch_is_waited_for_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ProgramRegistry([IdlVersion(PROGRAM, 0, document("a"))])
    stage = Stage(monkeypatch, registry=registry)
    process = stage.begun()
    answer = process.get

    def learning(timeout_s: float | None = None) -> bytes | None:
        if timeout_s:
            registry.add(IdlVersion(PROGRAM, 500, document("a", "b")))
        return answer(timeout_s)

    monkeypatch.setattr(process, "get", learning)
    assert stage.next() is None
    assert process.closed


def test_a_tape_that_goes_on_elsewhere_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    process = stage.begun()
    assert stage.next() is not None
    stage.position += 100
    assert stage.next() is None
    assert process.closed
    assert stage.lost == []


def holed(after: int, last: int) -> Batch:
    whole = batch(after, last)
    return replace(whole, places=whole.places[:3] + whole.places[4:])


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"nonsense",
        marshal.dumps("OperationalError: no"),
        marshal.dumps((1, 2, 3)),
        marshal.dumps((20, 30, (1,), 5, b"", 0, {})),
        marshal.dumps((20, 30, "x", [], b"", 0, {})),
        packed_batch(batch(25, 30), 0, {}),
        packed_batch(batch(10, 20), 0, {}),
        packed_batch(holed(20, 30), 0, {}),
        packed_batch(replace(batch(20, 30), last=31), 0, {}),
    ],
)
def test_what_does_not_go_on_is_not_taken_and_the_next_try_waits(
    monkeypatch: pytest.MonkeyPatch, said: bytes | None
) -> None:
    stage, before = Stage(monkeypatch), lost()
    process = stage.begun()
    got = stage.next()
    assert got is not None
    assert got.last == 20
    process.said = queue.Queue()
    process.say(said)
    assert stage.next() is None
    assert process.closed
    assert len(stage.lost) == 1
    assert lost() == before + 1
    for _ in range(40):
        assert stage.next() is None
    assert len(stage.made) == 1
    stage.at += BOUNDS.pause_s
    stage.head = stage.position + 1_000
    stage.next()
    assert len(stage.made) == 2


def test_one_that_cannot_be_started_is_tried_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    for refusal in (OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread"), MemoryError()):
        stage = Stage(monkeypatch)
        stage.refuses = refusal
        for _ in range(40):
            assert stage.next() is None
        assert len(stage.lost) == 1
        assert (str(refusal) or "MemoryError") in stage.lost[0]


def test_one_that_ends_or_fails_before_it_begins_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, wanted in ((None, "ended before"), (marshal.dumps("UserError: cannot be reached"), "cannot be reached")):
        stage = Stage(monkeypatch)
        stage.next()
        stage.process.say(said)
        assert stage.next() is None
        assert len(stage.lost) == 1
        assert wanted in stage.lost[0]


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    stage = Stage(monkeypatch)
    stage.head = 10**6
    if begun:
        stage.begun().answers = False
    for _ in range(30):
        assert stage.next() is None
    assert stage.process.closed
    assert len(stage.lost) == 1
    assert "in time" in stage.lost[0]


def test_a_wait_ends_with_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.begun().answers = False
    assert stage.ahead.next(stage.position, stage.head, 10, lambda: True) is None
    assert stage.lost == []
    stage.ahead.close()
    assert stage.process.closed


def test_what_the_process_counted_is_counted_here_when_its_batch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    process = stage.begun()
    process.answers = False
    process.say(packed_batch(batch(10, 20), 3, {"counted-program": 2}))
    process.say(packed_batch(batch(11, 20), 5, {"counted-program": 7}))
    incomplete, longer = metrics.INCOMPLETE, metrics.LONGER.labels(program="counted-program")
    before = incomplete._value.get()
    assert stage.next() is not None
    assert (incomplete._value.get(), longer._value.get()) == (before + 3, 2)
    assert stage.next() is None, "does not go on"
    assert (incomplete._value.get(), longer._value.get()) == (before + 3, 2)


# ---- what travels ----


def test_events_and_lines_are_the_same_at_the_other_end() -> None:
    data = {"wide": 2**255, "least": -(2**127), "f": 1.5, "n": None, "s": "tab\t\u2028ü\\", "l": [{"x": [True, "NaN"]}]}
    poison = Poison(2, 3, 4, 5, "s", "p", b"\x00\xff", "why", None)
    made = Batch(0, 2, ((1, 1, 0), (2, 3, 4)), (event(1, data), replace(poison, name="E"), poison))
    taken, counted = ahead._taken(packed_batch(made, 1, {"p": 2}), 0)
    assert taken.events == made.events
    assert taken.lines == decoded_lines(made.events).encode()
    assert counted == (1, {"p": 2})
    # A part of it has other lines.
    assert taken.since(1).lines is None
    assert taken.since(0).lines is not None


@pytest.mark.parametrize("seed", range(5))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    sizes = (0, 1, 7, 8, 9, 70_000, 400_000)
    messages = [rng.randbytes(rng.choice(sizes)) for _ in range(12)]
    ours, theirs = socket.socketpair()

    def write() -> None:
        sent = b"".join(processes._HEAD.pack(processes._MAGIC, len(m)) + m for m in messages)
        at = 0
        while at < len(sent):
            size = rng.choice((1, 3, 8, 5_000, 300_000))
            theirs.sendall(sent[at : at + size])
            at += size
        theirs.close()

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    while (message := processes.receive(ours)) is not None:
        found.append(bytes(message))
    thread.join()
    ours.close()
    assert found == messages


def test_an_end_in_the_middle_is_an_end_and_nonsense_is_refused() -> None:
    head = processes._HEAD.pack(processes._MAGIC, 10)
    for sent in (b"", head[:5], head, head + b"123456789"):
        ours, theirs = socket.socketpair()
        theirs.sendall(sent)
        theirs.close()
        assert processes.receive(ours) is None
        ours.close()
    too_long = struct.pack(">4sI", processes._MAGIC, processes.MESSAGE_BYTES_MAX + 1)
    for sent in (b"Traceback (most recent call last):", too_long):
        ours, theirs = socket.socketpair()
        theirs.sendall(sent)
        with pytest.raises(processes.Garbage):
            processes.receive(ours)
        ours.close()
        theirs.close()


def test_specs_travel_with_their_registry_and_those_that_cannot_are_named() -> None:
    registry = ProgramRegistry([IdlVersion(PROGRAM, 0, document("a")), IdlVersion(PROGRAM, 9, document("a", "b"))])
    spec = ProgramSpec("n", address_text(PROGRAM), 3, load_idl(document("a")), (), registry)
    described = processes.described((spec,))
    assert described is not None
    (other,) = processes.specs_of(described)
    assert (other.name, other.address, other.program_id, other.digest) == (
        spec.name,
        spec.address,
        spec.program_id,
        spec.digest,
    )
    assert processes.described((replace(spec, idl=threading.Lock()),)) is None  # type: ignore[arg-type]


# ---- on the tape ----


class Connection:
    """Says that the ledger's head is far away."""

    def execute(self, statement: str) -> Any:
        return self

    def fetchone(self) -> tuple[int, int]:
        return 0, 10**6


def test_lines_are_held_up_to_a_bound_and_until_the_events_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape((), 1_000)
    tape.restart(0)
    monkeypatch.setattr("projections.tape.LINES_BYTES_MAX", 10)

    def source(position: int, head: int, rows: int) -> Batch:
        return replace(batch(position, position + 1), lines=b"1234")

    def held() -> list[bytes | None]:
        return [None if (found := tape.after(n)) is None else found.lines for n in range(5)]

    for _ in range(4):
        assert tape.read(Connection(), source)  # type: ignore[arg-type]
    assert held() == [b"1234", b"1234", None, None, None]
    tape.moved("voting", 4, 0.0, 1)
    assert held() == [b"1234", b"1234", None, None, None]
    tape.moved("events", 1, 0.0, 1)
    assert tape.read(Connection(), source)  # type: ignore[arg-type]
    assert held() == [None, b"1234", None, None, b"1234"]


def test_batches_that_were_read_before_do_not_make_the_next_ones_ever_smaller() -> None:
    tape = Tape((), 4_000)
    tape.rows = 2_000
    for name in ("events", "voting") * 4:
        tape.moved(name, 1, 10.0, 2_000)
    assert tape.rows == 1_000
    tape.moved("events", 1, 10.0, 1_000)
    assert tape.rows == 500
    tape.moved("events", 1, 10.0, 3)
    assert tape.rows == 250
    tape.moved("events", 1, 0.0, 250)
    assert tape.rows == 500
