"""The events of a transaction, in execution order, by whichever way the program wrote them.

Two ways: a `Program data:` line in the logs (`emit!`), and a call of the program to itself that carries the event as
instruction data
(`emit_cpi!`). The logs say in what order calls and lines happened, so the two ways are merged by walking both
together. What cannot be
known is said in `Extraction.incomplete`, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import msgspec
from solders.pubkey import Pubkey

from programs import logs as grammar
from programs.base58 import address_text
from programs.codec import MISMATCHES, DecodeError, Form, ProgramCodec
from programs.fitted import Data, Fitted, fit
from programs.transaction import (
    InnerInstruction,
    OuterInstruction,
    PartTransaction,
    RawTransaction,
    RpcTransaction,
    TransactionError,
    TransactionView,
    logs_of,
    view,
    view_from_rpc,
)

SELF_CPI_TAG = bytes.fromhex("e445a52e51cb9a1d")
NO_LOGS = "no logs"
NO_INNER = "no inner instructions"
NO_KEYS = "unknown transaction version"
NO_ADDRESSES = "unknown addresses"
MALFORMED = "malformed transaction"

# They run without a frame in the logs.
PRECOMPILES = frozenset(
    {
        "Ed25519SigVerify111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "Secp256r1SigVerify1111111111111111111111111",
    }
)


class LogSource(msgspec.Struct, frozen=True, gc=False):
    """The event stood in this element of the log messages, counted from 0."""

    line: int


class InnerSource(msgspec.Struct, frozen=True, gc=False):
    """The event was the data of this inner instruction: the top-level one it ran under and its place there, from 0."""

    outer: int
    index: int


Source: TypeAlias = LogSource | InnerSource


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """One event as it was written. Either `name` and `data`, or `error`; `raw` (discriminator first) is there always.

    `twin` is the source of the earlier record of the same event when the program wrote it both ways: count one of the
    two.
    """

    program: str
    name: str | None
    data: Any
    error: str | None
    raw: bytes
    source: Source
    trailing: int = 0
    twin: Source | None = None


class Extraction(msgspec.Struct, frozen=True):
    """`incomplete` is None when these are all events of the watched programs, else why there may be more."""

    events: tuple[EventRecord, ...]
    incomplete: str | None = None


_NOTHING = Extraction(())
_decode_base64 = msgspec.json.Decoder(bytes).decode
# Sources are values: one object for each line that most logs have.
_LINES = tuple(map(LogSource, range(1024)))
_LOGGED = Form("b, p, s", "D(p, {name}, {value}, None, b, s, {trailing})", EventRecord)
# What the short way through a line cannot do; an unknown discriminator is a KeyError.
_NOT_PLAIN = (*MISMATCHES, KeyError, ValueError)


@lru_cache(maxsize=1024)
def event_authority(program: bytes) -> bytes:
    """The address that signs a program's calls to itself: its PDA of the seed `__event_authority`."""
    address, _bump = Pubkey.find_program_address([b"__event_authority"], Pubkey.from_bytes(program))
    return bytes(address)


def extract(transaction: RawTransaction | TransactionView, codecs: Mapping[bytes, ProgramCodec]) -> Extraction:
    """The events that the given programs (32-byte addresses) wrote in a transaction. For a stream keep an
    `Extractor`.
    """
    return Extractor(codecs).extract(transaction)


class Extractor:
    """Extracts the events of a fixed set of programs.

    `from_logs` gives the events that stand in log messages, and why there may be more (None when there are not).
    """

    def __init__(self, codecs: Mapping[bytes, ProgramCodec]) -> None:
        self._codecs = dict(codecs)
        self._by_text = {address_text(program): codec for program, codec in codecs.items()}
        # A function of the reader itself: one call less for what is called most.
        self.from_logs = _LogEvents(self._by_text).read

    def extract(self, transaction: RawTransaction | TransactionView) -> Extraction:
        """All events, or what can be known of them. A failed transaction has none: what it wrote was rolled back."""
        if transaction.err is not None:
            return _NOTHING
        logs = transaction.logs
        written: list[EventRecord] = []
        incomplete: str | None = NO_LOGS
        # A program that ran leaves two lines at least, so an empty list says no more than none does.
        if logs:
            written, incomplete = self.from_logs(logs)
        inner = transaction.inner
        if inner is None and incomplete is None and self._may_have_called_itself(logs or ()):
            incomplete = NO_INNER
        tagged = [call for call in inner if call.data[:8] == SELF_CPI_TAG] if inner else []
        if not tagged and incomplete is None:
            return Extraction(tuple(written)) if written else _NOTHING
        return self._with_calls(transaction, written, tagged, incomplete)

    def extract_part(self, part: PartTransaction) -> Extraction:
        """As `extract`, of the whole of it; that is fetched only where it says more than the logs."""
        if part.err is not None:
            return _NOTHING
        if part.logs:
            written, incomplete = self.from_logs(part.logs)
            if incomplete is None:
                return Extraction(tuple(written)) if written else _NOTHING
        return self.extract(part.fetch(part.position, part.slot))

    def _may_have_called_itself(self, logs: Sequence[str]) -> bool:
        """Whether whole logs show a watched program called by itself, which is how an event goes out as a call."""
        opened, _ = grammar.frames(logs)
        return any(
            frame.caller is not None
            and frame.program in self._by_text
            and opened[frame.caller].program == frame.program
            for frame in opened
        )

    def extract_rpc(self, rpc: RpcTransaction) -> Extraction:
        """As `extract`, of a getTransaction result. Most have no inner instructions and whole logs: their message is
        not even parsed.
        """
        failed, logs, look_inside = logs_of(rpc)
        if failed:
            return _NOTHING
        if not logs or look_inside:
            return self.extract(view_from_rpc(rpc))
        written, incomplete = self.from_logs(logs)
        if incomplete is not None:
            return self.extract(view_from_rpc(rpc))
        return Extraction(tuple(written)) if written else _NOTHING

    def _with_calls(
        self,
        transaction: RawTransaction | TransactionView,
        written: list[EventRecord],
        tagged: list[InnerInstruction],
        incomplete: str | None,
    ) -> Extraction:
        try:
            seen = view(transaction) if isinstance(transaction, RawTransaction) else transaction
        except TransactionError:
            return Extraction(tuple(written), incomplete or MALFORMED)
        keys = seen.keys
        if keys is None:
            return Extraction(tuple(written), incomplete or NO_KEYS)
        if self._codecs.keys().isdisjoint(keys):
            # A program that no key names did not run: whatever is missing, none of it is ours.
            return _NOTHING
        if incomplete is not None and not written and not tagged and not self._ran(seen):
            return _NOTHING
        if any(call.program_id_index >= len(keys) for call in tagged):
            # Its program is among the loaded addresses, and those were not recorded: it may be ours.
            incomplete = incomplete or NO_ADDRESSES
        calls = _Calls(seen.outer or (), seen.inner or (), keys, seen.logs or ())
        found = [(call, calls.caller(call)) for call in tagged if self._is_event(call, keys, calls)]
        if not found:
            return Extraction(tuple(written), incomplete)
        return Extraction(
            _merged(written, [self._called(c, keys) for c, _ in found], [f for _, f in found], calls), incomplete
        )

    def _ran(self, seen: TransactionView) -> bool:
        """Whether a watched program may have run. Only when every instruction is known is it certain that none did."""
        keys = seen.keys or ()
        if seen.outer is None or seen.inner is None:
            return True
        called = {top.program_id_index for top in seen.outer} | {call.program_id_index for call in seen.inner}
        return any(place >= len(keys) or keys[place] in self._codecs for place in called)

    def _is_event(self, call: InnerInstruction, keys: Sequence[bytes], calls: _Calls) -> bool:
        """Of a watched program, with its authority as first account, and made by the program itself."""
        if not call.accounts or call.program_id_index >= len(keys) or call.accounts[0] >= len(keys):
            return False
        program = keys[call.program_id_index]
        if program not in self._codecs or keys[call.accounts[0]] != event_authority(program):
            return False
        caller = calls.caller(call)
        # Nothing recorded who called: only the program itself can have signed for its authority.
        return caller is None or calls.program(caller) == program

    def _called(self, call: InnerInstruction, keys: Sequence[bytes]) -> EventRecord:
        program = keys[call.program_id_index]
        return _record(address_text(program), self._codecs[program], call.data[8:], InnerSource(call.outer, call.index))


class InstructionRecord(msgspec.Struct, frozen=True):
    """One instruction of a program. `accounts` maps the IDL's names to addresses, None where an optional one was left
    out.

    `outer` is the top-level instruction, `index` the place under it, None for the top-level instruction itself.
    """

    name: str | None
    data: Any
    error: str | None
    accounts: dict[str, str | None]
    outer: int
    index: int | None


def called_instructions(seen: TransactionView, program: bytes, codec: ProgramCodec) -> list[InstructionRecord]:
    """The program's instructions in execution order, each top-level one before what it called. Events it sent itself
    are none.
    """
    if seen.keys is None:
        return []
    under: dict[int, list[InnerInstruction]] = {}
    for call in seen.inner or ():
        under.setdefault(call.outer, []).append(call)
    found = []
    for outer, top in enumerate(seen.outer or ()):
        for called in (top, *under.get(outer, ())):
            index = called.index if isinstance(called, InnerInstruction) else None
            ours = called.program_id_index < len(seen.keys) and seen.keys[called.program_id_index] == program
            if ours and called.data[:8] != SELF_CPI_TAG:
                found.append(_instruction(called, seen.keys, program, codec, outer, index))
    return found


def _instruction(
    called: OuterInstruction | InnerInstruction,
    keys: Sequence[bytes],
    program: bytes,
    codec: ProgramCodec,
    outer: int,
    index: int | None,
) -> InstructionRecord:
    data, error = None, None
    try:
        data = codec.decode_instruction(called.data).data
    except DecodeError as refusal:
        error = str(refusal)
    known = codec.instruction(called.data)
    accounts: dict[str, str | None] = {}
    for place, meta in enumerate(known.accounts if known is not None else ()):
        key = (
            keys[called.accounts[place]]
            if place < len(called.accounts) and called.accounts[place] < len(keys)
            else None
        )
        # Anchor's sign for "none given" is the program's own address.
        absent = key is None or (meta.optional and key == program)
        accounts[meta.name] = None if absent or key is None else address_text(key)
    return InstructionRecord(None if known is None else known.name, data, error, accounts, outer, index)


_Decoders: TypeAlias = Mapping[bytes, Callable[..., EventRecord]]
_Read: TypeAlias = Callable[[int, str], EventRecord]
# Decoders by the first bytes of an event, and how many bytes; the program; what reads any line of its data.
_Reading: TypeAlias = tuple[_Decoders, int, str, _Read]
# Shapes kept, and the longest logs that have one: a program may vary its lines at will.
_SHAPES_MAX = 1 << 10
_SHAPE_LINES_MAX = 64
# A function for a shape is made at every so many logs of it, which is when it begins to pay; so many of one length are tried, and so many
# are made at all: whatever a program does with its lines, it cannot keep us busy with making them.
_FITTED_SIGHTS = 256
_FITTED_A_LENGTH_MAX = 4
_FITTED_MAX = 256


class _Shape:
    """The lines to be looked at as data, with what reads them, and as text, with whether data there would have to be read."""

    __slots__ = ("data", "sights", "text")

    def __init__(self, data: list[tuple[int, _Decoders, int, str, _Read]], text: list[tuple[int, bool]]) -> None:
        self.data = data
        self.text = text
        self.sights = 0


def _no_fit(logs: Sequence[str]) -> None:
    """Stands where no function was made yet."""


class _LogEvents:
    """The events in log messages. It does what `logs.read_data` with `_reader` does, for a stream: most logs have a shape that was seen.

    A shape says which program wrote which line that is no frame. Those where data once stood are looked at as data, the others as text;
    what looks different than expected is read in the plain way, and the shape learnt anew. For a shape that is seen often a function is
    made, which is tried first. It knows the frames by their text: what is forgotten of tokens is nothing to it.
    """

    def __init__(self, codecs: Mapping[str, ProgramCodec]) -> None:
        self._readers = {program: _reader(program, codec) for program, codec in codecs.items()}
        self._readings: dict[str, _Reading] = {
            program: (*_decoders(codec), program, partial(_from_line, program, codec))
            for program, codec in codecs.items()
        }
        self._bodies = {program: codec.event_bodies(_LOGGED) for program, codec in codecs.items()}
        self._shapes: dict[grammar.Tokens, _Shape] = {}
        # By the number of lines; the one that fitted last is the first, and stands by itself too.
        self._fitted: list[list[Fitted[EventRecord]]] = [[] for _ in range(_SHAPE_LINES_MAX + 1)]
        self._first: list[Fitted[EventRecord]] = [_no_fit] * (_SHAPE_LINES_MAX + 1)
        self._fitted_count = 0
        self.read = self._dispatch()

    def _dispatch(self) -> Callable[[Sequence[str]], tuple[list[EventRecord], str | None]]:
        first, others = self._first, self._others

        def read(logs: Sequence[str]) -> tuple[list[EventRecord], str | None]:
            """The events in their order, and why there may be more. A closure over what it needs: it runs for all logs there are."""
            try:
                found = first[len(logs)](logs)
            except IndexError:
                # Longer than logs that have a shape.
                found = None
            return others(logs) if found is None else found

        return read

    def _others(self, logs: Sequence[str]) -> tuple[list[EventRecord], str | None]:
        tried = self._fitted[len(logs)] if len(logs) <= _SHAPE_LINES_MAX else ()
        for fitted in tried[1:]:
            found = fitted(logs)
            if found is not None:
                self._put_first(len(logs), fitted)
                return found
        return self._interpret(logs)

    def _put_first(self, lines: int, fitted: Fitted[EventRecord]) -> None:
        tried = self._fitted[lines]
        self._fitted[lines] = [fitted, *(other for other in tried if other is not fitted)][:_FITTED_A_LENGTH_MAX]
        self._first[lines] = fitted

    def _interpret(self, logs: Sequence[str]) -> tuple[list[EventRecord], str | None]:
        shape = self._shapes.get(tuple(map(grammar.token, logs)))
        if shape is None:
            return self._learn(logs, set())
        for number, watched in shape.text:
            line = logs[number]
            letter = line[8:9]
            # No address begins with "l": this is `Program log: …`.
            if letter == "l":
                continue
            if letter == "d" and line[:14] == grammar.DATA:
                if watched:
                    return self._learn(logs, {reading[0] for reading in shape.data})
            elif (line[-6:] != " units" or " failed: " in line) and not grammar.plain(line):
                return self._learn(logs, set())
        found: list[EventRecord] = []
        for number, decoders, length, program, reader in shape.data:
            line = logs[number]
            payload = line.removeprefix(grammar.DATA)
            if payload == line:
                if not grammar.plain(line):
                    return self._learn(logs, set())
                continue
            try:
                if "\\" in payload:
                    raise ValueError
                # In quotes the text is JSON, and bytes in JSON are base64: the quickest decoder there is.
                raw = _decode_base64(f'"{payload}"')
                found.append(decoders[raw[:length]](raw, program, _LINES[number]))
            except _NOT_PLAIN:
                found.append(reader(number, line))
        shape.sights += 1
        if shape.sights % _FITTED_SIGHTS == 0 and self._fitted_count < _FITTED_MAX:
            self._fitted_count += 1
            self._put_first(len(logs), self._made(logs, shape))
        return found, None

    def _made(self, logs: Sequence[str], shape: _Shape) -> Fitted[EventRecord]:
        """A function for these logs' shape."""
        data = [
            Data(number, decoders, self._bodies[program], length, program, reader, _LINES[number])
            for number, decoders, length, program, reader in shape.data
        ]
        return fit(logs, data, dict(shape.text), _decode_base64, _NOT_PLAIN)

    def _learn(self, logs: Sequence[str], known: set[int]) -> tuple[list[EventRecord], str | None]:
        """Read in the plain way, and keep the shape; `known` are lines where data stood before."""
        found = grammar.read_data(logs, self._readers)
        shape = grammar.shape(logs) if found[1] is None and len(logs) <= _SHAPE_LINES_MAX else None
        if shape is None:
            return found
        tokens, written = shape
        data: list[tuple[int, _Decoders, int, str, _Read]] = []
        text: list[tuple[int, bool]] = []
        for number, program in written:
            reading = self._readings.get(program)
            if reading is not None and (number in known or logs[number][:14] == grammar.DATA):
                data.append((number, *reading))
            else:
                text.append((number, reading is not None))
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        self._shapes[tokens] = _Shape(data, text)
        return found


def _decoders(codec: ProgramCodec) -> tuple[_Decoders, int]:
    """Decoders by the first bytes of an event, and how many bytes. Of shorter discriminators `_from_line` knows."""
    decoders = codec.event_decoders(_LOGGED)
    return decoders, max(map(len, decoders), default=0)


def _reader(program: str, codec: ProgramCodec) -> Callable[[int, str], EventRecord]:
    """Makes the record of a `Program data:` line. A closure over what it needs: it runs for every event there is."""
    decoders, length = _decoders(codec)

    def read(number: int, line: str) -> EventRecord:
        try:
            # `payload` and `decode_event` of the plain case, written out.
            raw = _data(line)
            return decoders[raw[:length]](raw, program, _LINES[number])
        except _NOT_PLAIN:
            return _from_line(program, codec, number, line)

    return read


def _data(line: str) -> bytes:
    """The payload of a line of one field. ValueError when it is not that, or holds what only JSON would understand."""
    if "\\" in line:
        raise ValueError
    # In quotes the text is JSON, and bytes in JSON are base64: the quickest decoder there is.
    return _decode_base64(f'"{line[14:]}"')


def _from_line(program: str, codec: ProgramCodec, number: int, line: str) -> EventRecord:
    """As above, for whatever needs more than one look: several fields, short discriminators, what does not decode."""
    try:
        raw = grammar.payload(line[grammar.PAYLOAD :])
    except ValueError as error:
        return EventRecord(program, None, None, str(error), b"", LogSource(number))
    return _record(program, codec, raw, LogSource(number))


def _record(program: str, codec: ProgramCodec, raw: bytes, source: Source) -> EventRecord:
    try:
        decoded = codec.decode_event(raw)
    except DecodeError as error:
        return EventRecord(program, codec.event_name(raw), None, str(error), raw, source)
    return EventRecord(program, decoded.name, decoded.data, None, raw, source, decoded.trailing)


# A call is known by the top-level instruction it ran under and its place there; -1 is the top-level instruction itself.
_Place: TypeAlias = tuple[int, int]


class _Calls:
    """Who called whom, and at which log line: from the stack heights, and by walking logs and instructions together."""

    def __init__(
        self,
        outer: Sequence[OuterInstruction],
        inner: Sequence[InnerInstruction],
        keys: Sequence[bytes],
        logs: Sequence[str],
    ) -> None:
        self._outer = outer
        self._keys = keys
        self._under: dict[int, list[InnerInstruction]] = {}
        for call in inner:
            self._under.setdefault(call.outer, []).append(call)
        self._frames, self._owners = grammar.frames(logs)
        self._places: dict[int, _Place] = {}
        self._frame_of: dict[_Place, int] = {}
        self._walk()

    def program(self, place: _Place) -> bytes | None:
        outer, index = place
        called: OuterInstruction | InnerInstruction
        try:
            called = self._outer[outer] if index < 0 else self._under[outer][index]
            return self._keys[called.program_id_index]
        except (IndexError, KeyError):
            return None

    def line(self, place: _Place) -> int | None:
        """The log line that opened the frame of this call."""
        frame = self._frame_of.get(place)
        return None if frame is None else self._frames[frame].line

    def writer(self, line: int) -> _Place | None:
        """The call that wrote this line."""
        frame = self._owners.get(line)
        return None if frame is None else self._places.get(frame)

    def caller(self, call: InnerInstruction) -> _Place | None:
        """The call that made this one; None when nothing recorded it."""
        if call.stack_height is not None:
            if call.stack_height <= 2:
                return call.outer, -1
            under = self._under[call.outer]
            for index in range(min(call.index, len(under)) - 1, -1, -1):
                if under[index].stack_height == call.stack_height - 1:
                    return call.outer, index
            return None
        frame = self._frame_of.get((call.outer, call.index))
        above = None if frame is None else self._frames[frame].caller
        return None if above is None else self._places.get(above)

    def _walk(self) -> None:
        """Give each frame its instruction. Stops at the first that does not fit: what follows has no known place."""
        outer, inner = -1, 0
        for number, frame in enumerate(self._frames):
            if frame.depth == 1:
                found = self._next([i.program_id_index for i in self._outer], outer + 1, frame.program)
                if found is None:
                    return
                outer, inner, place = found, 0, (found, -1)
            else:
                found = self._next([i.program_id_index for i in self._under.get(outer, ())], inner, frame.program)
                if found is None:
                    return
                inner, place = found + 1, (outer, found)
            self._places[number] = place
            self._frame_of[place] = number

    def _next(self, programs: Sequence[int], start: int, wanted: str) -> int | None:
        for index in range(start, len(programs)):
            name = address_text(self._keys[programs[index]]) if programs[index] < len(self._keys) else ""
            if name == wanted:
                return index
            if name not in PRECOMPILES:
                return None
        return None


def _merged(
    written: list[EventRecord], called: list[EventRecord], callers: list[_Place | None], calls: _Calls
) -> tuple[EventRecord, ...]:
    """Both ways in execution order. Calls behind the end of the logs come last, in their own order."""
    placed: list[tuple[tuple[int, int, int], EventRecord, _Place | None]] = []
    for event in written:
        assert isinstance(event.source, LogSource)
        placed.append(((0, event.source.line, 0), event, calls.writer(event.source.line)))
    for event, caller in zip(called, callers, strict=True):
        assert isinstance(event.source, InnerSource)
        line = calls.line((event.source.outer, event.source.index))
        key = (1, event.source.outer, event.source.index) if line is None else (0, line, 0)
        placed.append((key, event, caller))
    placed.sort(key=lambda item: item[0])
    return tuple(_twinned([(event, place) for _, event, place in placed]))


def _twinned(events: list[tuple[EventRecord, _Place | None]]) -> list[EventRecord]:
    """Mark the second of each pair that one invocation wrote both ways. Two equal events by the same way are two
    events.
    """
    waiting: dict[tuple[str, bytes, _Place | None, bool], list[Source]] = {}
    marked: list[EventRecord] = []
    for event, place in events:
        by_log = isinstance(event.source, LogSource)
        others = waiting.get((event.program, event.raw, place, not by_log))
        if others and event.raw:
            marked.append(msgspec.structs.replace(event, twin=others.pop(0)))
            continue
        waiting.setdefault((event.program, event.raw, place, by_log), []).append(event.source)
        marked.append(event)
    return marked
