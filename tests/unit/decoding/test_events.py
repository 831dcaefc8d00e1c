"""Which events a transaction holds: forged, nested, cut, doubled and failed ones as the chain can show them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from programs import events, fitted
from programs import logs as grammar
from programs.base58 import ADDRESS_TEXTS, PLAIN_TEXTS, address_text
from programs.codec import ProgramCodec, compile_idl
from programs.events import EventRecord, Extractor, InnerSource, LogSource, _LogEvents, _reader, extract
from programs.idl import load_idl
from programs.transaction import InnerInstruction, PartTransaction
from tests.unit.decoding.chain import (
    CODEC,
    CODECS,
    DOCUMENT,
    KEYS,
    OTHER,
    PROGRAM,
    P,
    Q,
    call,
    data_line,
    event,
    frame,
    seen,
    self_cpi,
)


def got(found: tuple[EventRecord, ...]) -> list[tuple[int, object]]:
    return [
        (e.raw[-1], (e.source.line,) if isinstance(e.source, LogSource) else (e.source.outer, e.source.index))
        for e in found
    ]


def test_an_event_belongs_to_the_frame_on_top() -> None:
    logs = frame(P, 1, data_line(1), *frame(Q, 2, data_line(2), *frame(P, 3, data_line(3))), data_line(4))
    found = extract(seen(logs, [call(0, 0, 2), call(0, 1, 1, 3)]), CODECS)
    assert [(e.raw[-1], e.name, e.data) for e in found.events] == [(x, "Put", {"x": x}) for x in (1, 3, 4)]
    assert found.incomplete is None


@pytest.mark.parametrize(
    "forged",
    [
        f"Program log: {data_line(9)}",
        f"Program log: x\n{data_line(9)}",
        "Program log: " + data_line(9).removeprefix("Program data: "),
        f"Program log: Program {P} invoke [2]",
        f"Program log: Program {P} success",
        f"Program log: a\nProgram {P} invoke [1]\n{data_line(9)}",
        f" {data_line(9)}",
        f"Program {P} invoke [1]\n",
        f"Program {P} invoke [01]",
        f"Program {P} success\n",
        "Program is not deployed",
        "Program failed to complete: Access violation",
        "Unknown program 1111",
        "Log truncated by a poet",
        "Program log: Log truncated",
        "Program return: x AA==",
        "",
        "Program log: abcd",
        "Program log: ü\u202e\ufeff",
    ],
)
def test_text_of_a_program_opens_closes_and_writes_nothing(forged: str) -> None:
    logs = frame(Q, 1, forged, data_line(5)) + frame(P, 1, forged, data_line(6), forged)
    found = extract(seen(logs, outer=(2, 1)), CODECS)
    assert (got(found.events), found.incomplete) == ([(6, (6,))], None)


def test_a_failed_transaction_has_no_events() -> None:
    found = extract(seen(frame(P, 1, data_line(1)), [self_cpi(0, 0, 2)], err='{"InstructionError":[0,"x"]}'), CODECS)
    assert (found.events, found.incomplete) == ((), None)


@pytest.mark.parametrize(
    "call_",
    [
        self_cpi(0, 0, 1, authority=0),
        self_cpi(0, 0, 1, program=2),
        InnerInstruction(0, 0, 1, b"", self_cpi(0, 0, 1).data, 2),
        InnerInstruction(0, 0, 1, b"\xff", self_cpi(0, 0, 1).data, 2),
        InnerInstruction(0, 0, 1, b"\x03", self_cpi(0, 0, 1).data[1:], 2),
    ],
)
def test_a_call_that_is_not_the_programs_own_event_is_none(call_: InnerInstruction) -> None:
    assert extract(seen([], [call_]), CODECS).events == ()


def test_a_call_by_another_program_is_no_event() -> None:
    assert extract(seen([], [self_cpi(0, 0, 1)], outer=(2,)), CODECS).events == ()
    nested = [call(0, 0, 2), self_cpi(0, 1, 1, height=3)]
    assert extract(seen([], nested), CODECS).events == ()
    by_itself = [call(0, 0, 1), self_cpi(0, 1, 1, height=3)]
    assert got(extract(seen([], by_itself, outer=(2,)), CODECS).events) == [(1, (0, 1))]


def test_without_stack_heights_the_logs_say_who_called() -> None:
    logs = frame(Q, 1, *frame(P, 2)) + frame(P, 1, *frame(P, 2))
    calls = [self_cpi(0, 0, 1, height=None), self_cpi(1, 0, 2, height=None)]
    assert got(extract(seen(logs, calls, outer=(2, 1)), CODECS).events) == [(2, (1, 0))]


def test_both_ways_come_in_the_order_of_execution() -> None:
    logs = frame(P, 1, data_line(1), *frame(P, 2), data_line(3), *frame(Q, 2, *frame(P, 3, data_line(4))), *frame(P, 2))
    logs += frame(P, 1, *frame(P, 2), data_line(7))
    calls = [self_cpi(0, 0, 2), call(0, 1, 2), call(0, 2, 1, 3), self_cpi(0, 3, 5), self_cpi(1, 0, 6)]
    found = extract(seen(logs, calls, outer=(1, 1)), CODECS)
    assert [x for x, _ in got(found.events)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(e.twin is None for e in found.events)


def test_an_event_written_both_ways_is_marked_the_second_time() -> None:
    logs = frame(P, 1, data_line(1), *frame(P, 2), data_line(1))
    found = extract(seen(logs, [self_cpi(0, 0, 1)]), CODECS)
    assert [e.twin for e in found.events] == [None, LogSource(1), None]
    logs = frame(P, 1, *frame(P, 2), data_line(1))
    assert [e.twin for e in extract(seen(logs, [self_cpi(0, 0, 1)]), CODECS).events] == [None, InnerSource(0, 0)]


def test_equal_events_of_two_invocations_are_two_events() -> None:
    logs = frame(P, 1, data_line(1)) + frame(P, 1, *frame(P, 2))
    found = extract(seen(logs, [self_cpi(1, 0, 1)], outer=(1, 1)), CODECS)
    assert [e.twin for e in found.events] == [None, None]


def test_a_cut_keeps_what_stands_before_it_and_recovers_calls_behind_it() -> None:
    logs = [*frame(P, 1, data_line(1), *frame(P, 2)), f"Program {P} invoke [1]", "Log truncated", data_line(8)]
    logs += [f"Program {Q} success", f"Program {P} success"]
    found = extract(seen(logs, [self_cpi(0, 0, 1), self_cpi(1, 0, 3), self_cpi(1, 1, 4)], outer=(1, 1)), CODECS)
    assert [x for x, _ in got(found.events)] == [1, 1, 3, 4]
    assert found.events[1].twin == LogSource(1)
    assert found.incomplete == "truncated logs"


def test_what_was_not_recorded_is_said_and_not_guessed() -> None:
    assert extract(seen(None, [self_cpi(0, 0, 3)]), CODECS).incomplete == "no logs"
    assert got(extract(seen(None, [self_cpi(0, 0, 3)]), CODECS).events) == [(3, (0, 0))]
    found = extract(seen(frame(P, 1, data_line(1), *frame(P, 2)), no_inner=True), CODECS)
    assert (got(found.events), found.incomplete) == ([(1, (1,))], "no inner instructions")
    assert (
        extract(seen(frame(P, 1), [self_cpi(0, 0, 1)], keys=None), CODECS).incomplete == "unknown transaction version"
    )
    # An empty list is what a node gives that kept none: a program that ran leaves lines.
    assert extract(seen([]), CODECS).incomplete == "no logs"
    # The program of a tagged call is a loaded address, and the reply does not say which.
    far = [call(0, 0, 2), InnerInstruction(0, 1, 9, b"\x08", self_cpi(0, 0, 1).data, 3)]
    assert extract(seen(frame(P, 1), far), CODECS).incomplete == "unknown addresses"
    # The program is not among the keys: it did not run, so nothing of it is missing.
    assert extract(seen(None, keys=(KEYS[0], KEYS[2])), CODECS).incomplete is None


def test_what_is_certain_all_the_same_is_not_called_incomplete() -> None:
    # Whole logs show that the program never called itself: no event can hide in what was not recorded.
    found = extract(seen(frame(P, 1, data_line(1), *frame(Q, 2, *frame(P, 3))), no_inner=True), CODECS)
    assert (got(found.events), found.incomplete) == ([(1, (1,))], None)
    # Every instruction is known and none is the program's: it was an account of the transaction and did not run.
    assert extract(seen(["Log truncated"], [call(0, 0, 2)], outer=(2,)), CODECS).incomplete is None
    assert extract(seen(["Log truncated"], [call(0, 0, 1)], outer=(2,)), CODECS).incomplete == "truncated logs"
    assert extract(seen(["Log truncated"], outer=(2,), no_inner=True), CODECS).incomplete == "truncated logs"


def test_failed_closes_a_frame_as_success_does() -> None:
    failed = [f"Program {Q} invoke [2]", "Program log: x", f"Program {Q} failed: custom program error: 0x1"]
    found = extract(seen(frame(P, 1, *failed, data_line(1)), [call(0, 0, 2)]), CODECS)
    assert (got(found.events), found.incomplete) == ([(1, (4,))], None)
    # The reason is the runtime's text, and may hold newlines and a frame of its own.
    odd = [f"Program {Q} invoke [2]", f"Program {Q} failed: a\nProgram {Q} success\n consumed 1 units"]
    assert extract(seen(frame(P, 1, *odd, data_line(1)), [call(0, 0, 2)]), CODECS).incomplete is None


def test_fields_of_one_line_belong_together() -> None:
    first, second = event(7)[:5], event(7)[5:]
    line = f"Program data: {base64.b64encode(first).decode()} {base64.b64encode(second).decode()}"
    found = extract(seen(frame(P, 1, line)), CODECS)
    assert [(e.data, e.raw) for e in found.events] == [({"x": 7}, event(7))]


def test_frames_may_be_as_deep_as_the_runtime_allows() -> None:
    logs = [data_line(1)]
    for depth in range(9, 0, -1):
        logs = frame(P if depth % 2 else Q, depth, *logs)
    calls = [call(0, n, 2 if n % 2 == 0 else 1, n + 2) for n in range(8)]
    found = extract(seen(logs, calls), CODECS)
    assert (got(found.events), found.incomplete) == ([(1, (9,))], None)


@pytest.mark.parametrize(
    "logs",
    [
        [f"Program {P} invoke [2]", data_line(1)],
        [f"Program {P} invoke [1]", f"Program {Q} success", data_line(1)],
        [f"Program {P} success", *frame(P, 1, data_line(1))],
    ],
)
def test_a_stack_that_does_not_add_up_stops_the_reading(logs: list[str]) -> None:
    found = extract(seen(logs), CODECS)
    assert (found.events, found.incomplete) == ((), "inconsistent logs")


def test_one_bad_event_does_not_stop_the_others() -> None:
    logs = frame(
        P, 1, "Program data: AQID", "Program data: !!", data_line(1), "Program data: AQIDBAUGBwg=", "Program data: "
    )
    found = extract(seen(logs), CODECS)
    assert [(e.name, e.data, e.error is None) for e in found.events] == [
        (None, None, False),
        (None, None, False),
        ("Put", {"x": 1}, True),
        ("Put", None, False),
        (None, None, False),
    ]
    assert found.incomplete is None


def test_a_precompile_leaves_no_frame_and_shifts_nothing() -> None:
    from programs.base58 import address_bytes

    precompile = address_bytes("Ed25519SigVerify111111111111111111111111111")
    logs = frame(P, 1, data_line(1), *frame(P, 2), data_line(3))
    found = extract(seen(logs, [self_cpi(1, 0, 2)], outer=(4, 1), keys=(*KEYS, precompile)), CODECS)
    assert [x for x, _ in got(found.events)] == [1, 2, 3]


@settings(max_examples=150)
@given(st.data())
def test_any_nesting_is_attributed_as_it_was_executed(data: st.DataObject) -> None:
    """A random tree of calls, run by a model that notes every event; the software must find the same from logs and
    calls.
    """
    logs: list[str] = []
    calls: list[InnerInstruction] = []
    expected: list[int] = []
    tops: list[int] = []

    def run(program: int, depth: int) -> None:
        logs.append(f"Program {(P, Q)[program - 1]} invoke [{depth}]")
        for action in data.draw(st.lists(st.sampled_from(["logs", "cpi", "call", "text"]), max_size=4)):
            number = len(expected) % 250
            if action == "logs":
                logs.append(data_line(number))
                if program == 1:
                    expected.append(number)
            elif action == "text":
                logs.append(f"Program log: Program {P} invoke [{depth + 1}]")
            elif action == "cpi" and program == 1:
                calls.append(self_cpi(len(tops) - 1, under(), number, height=depth + 1))
                logs.extend(frame(P, depth + 1))
                expected.append(number)
            elif action == "call" and depth < 4:
                child = data.draw(st.sampled_from([1, 2]))
                calls.append(call(len(tops) - 1, under(), child, depth + 1))
                run(child, depth + 1)
        logs.append(f"Program {(P, Q)[program - 1]} success")

    def under() -> int:
        return sum(c.outer == len(tops) - 1 for c in calls)

    for top in data.draw(st.lists(st.sampled_from([1, 2]), max_size=3)):
        tops.append(top)
        run(top, 1)
    found = extract(seen(logs, calls, outer=tuple(tops)), CODECS)
    assert found.incomplete is None
    assert [e.raw for e in found.events] == [event(x) for x in expected]
    if not logs:
        return
    cut = data.draw(st.integers(0, len(logs)))
    shortened = extract(seen([*logs[:cut], "Log truncated", *logs[cut + 1 :]], calls, outer=tuple(tops)), CODECS)
    cpi_events = sum(c.data[:1] == b"\xe4" for c in calls)
    assert sum(isinstance(e.source, InnerSource) for e in shortened.events) == cpi_events
    ran = 1 in tops or any(c.program_id_index == 1 for c in calls)
    assert shortened.incomplete == ("truncated logs" if ran else None)


PIECES = [
    *[
        f"Program {who} {what}"
        for who in (P, Q)
        for what in ("invoke [1]", "invoke [2]", "invoke [3]", "success", "failed: x\ny")
    ],
    *[f"Program {who} consumed 1 of 2 compute units" for who in (P, Q)],
    *[data_line(1), data_line(2), data_line(1) + " ", data_line(2)[:24], data_line(1).rstrip("="), data_line(1) + "\n"],
    *["Program log: x", "Program log: " + data_line(1), f"Program log: Program {P} success", "", "Log truncated"],
    *[
        "Program data: AQIDBAUG BwgF",
        "Program data: AQIDBAUGBwgF units",
        "Program data: AQIDBAUGBwg\\u0046",
        "Program data: é",
    ],
    *["XXXXXXX data: AQIDBAUGBwgF", "Program is not deployed", f"Program return: {P} AQ==", f"Program {P} success\n"],
]


class Ways:
    """Every way through log messages: the plain walk, shapes interpreted, and functions made at the second sight."""

    def __init__(self, codecs: Mapping[bytes, ProgramCodec] = CODECS) -> None:
        texts = {address_text(program): codec for program, codec in codecs.items()}
        self._readers = {program: _reader(program, codec) for program, codec in texts.items()}
        with patch.object(events, "_FITTED_MAX", 0):
            self._interpreting = _LogEvents(texts)
        self.fitting = _LogEvents(texts)

    def read(self, logs: Sequence[str]) -> tuple[list[EventRecord], str | None]:
        plain = grammar.read_data(logs, self._readers)
        with patch.object(events, "_FITTED_MAX", 0):
            assert self._interpreting.read(logs) == plain
        # All strings are fresh, as in a stream.
        with patch.object(events, "_FITTED_SIGHTS", 1), patch.object(events, "_FITTED_MAX", 1 << 30):
            assert self.fitting.read(msgspec.json.decode(msgspec.json.encode(logs))) == plain
        return plain


@settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(st.sampled_from(PIECES), max_size=8), st.integers(0, 7)), min_size=1, max_size=12))
def test_a_stream_of_logs_is_read_as_each_of_them_in_the_plain_way(stream: list[tuple[list[str], int]]) -> None:
    """One extractor over logs of few shapes, so that shapes are met again with other lines in them."""
    ways = Ways()
    for inside, pick in stream:
        plain = [line for line in inside if " invoke" not in line and " success" not in line]
        for logs in (
            inside,
            frame(P, 1, *plain),
            frame(P, 1, PIECES[10 + pick], "Program log: x", *frame(Q, 2, data_line(pick))),
        ):
            ways.read(logs)


USUAL = [
    frame(P, 1, data_line(1)),
    frame(Q, 1)
    + frame(P, 1, "Program log: Instruction: Put", data_line(2), f"Program {P} consumed 7 of 9 compute units"),
    frame(
        Q, 1, data_line(3), *frame(P, 2, data_line(4), data_line(5), "Program log: x"), "Program log: y", data_line(6)
    ),
    frame(P, 1, f"Program return: {P} AQ==", data_line(7), f"Program {P} consumed 7 of 9 compute units"),
    frame(P, 1, f"Program {Q} consumed 7 of 9 compute units", *frame(Q, 2, data_line(1)), data_line(8)),
    frame(P, 1, *frame(Q, 2, f"Program {Q} consumed 7 of 9 compute units"), "x"),
]
LETTERS = st.sampled_from([*"lds:[]{}=+/1QA 9", "\\", '"', "\n", "é", "", "units", "failed: ", "consumed "])


@pytest.mark.parametrize("usual", USUAL)
def test_any_line_may_stand_where_another_stood_when_a_function_was_made(usual: list[str]) -> None:
    for place in range(len(usual)):
        ways = Ways()
        for piece in (None, None, *PIECES, "Program data: AQIDBAUGBwj/", "Program data: AQIDBAUGBwk=", "Program log"):
            ways.read(usual if piece is None else [*usual[:place], piece, *usual[place + 1 :]])
            # Whatever was learnt of that, the usual logs are read as ever.
            ways.read(usual)


@settings(max_examples=150)
@given(st.data())
def test_logs_that_nearly_fit_a_function_are_read_in_the_plain_way(data: st.DataObject) -> None:
    """Functions are made for usual logs; then lines are changed by a letter, exchanged, doubled, left out, cut off."""
    ways = Ways()
    usual = data.draw(st.lists(st.sampled_from(USUAL), min_size=1, max_size=4))
    for logs in usual:
        for _ in range(2):
            ways.read(logs)
    for _ in range(data.draw(st.integers(1, 6))):
        logs = list(data.draw(st.sampled_from(usual)))
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(logs) - 1))
            line = logs[place]
            match data.draw(st.sampled_from(["letter", "swap", "double", "cut", "piece", "forget", "other"])):
                case "letter":
                    at = data.draw(st.integers(0, len(line)))
                    logs[place] = line[:at] + data.draw(LETTERS) + line[at + data.draw(st.integers(0, 1)) :]
                case "swap":
                    other = data.draw(st.integers(0, len(logs) - 1))
                    logs[place], logs[other] = logs[other], line
                case "double":
                    logs[data.draw(st.integers(0, len(logs) - 1))] = line
                case "cut":
                    logs[place:] = data.draw(st.sampled_from([[], ["Log truncated"]]))
                    logs = logs or ["Log truncated"]
                case "piece":
                    logs[place] = data.draw(st.sampled_from(PIECES))
                case "forget":
                    # As when too many frames were seen: tokens that were given hold no more.
                    grammar._frames.clear()
                    grammar._tokens.clear()
                case _:
                    logs[place] = line.replace(P, Q) if P in line else line.replace(Q, P)
        ways.read(logs)


@pytest.mark.parametrize("usual", USUAL)
def test_a_function_stands_in_for_tokens_that_were_forgotten(usual: list[str]) -> None:
    ways = Ways()
    found, incomplete = ways.read(usual)
    assert incomplete is None
    ways.read(usual)
    grammar._frames.clear()
    grammar._tokens.clear()
    with patch.object(_LogEvents, "_interpret", side_effect=AssertionError):
        assert ways.fitting.read(list(usual)) == (found, None)
    assert not grammar._tokens


def test_discriminators_of_several_lengths_are_told_apart_by_all_ways() -> None:
    names = {"Long": [1, 2, 3, 4, 5, 6, 7, 8, 9], "Put": [1, 2, 3, 4, 5, 6, 7, 8], "Short": [9, 9]}
    fields = {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}
    document = {
        **DOCUMENT,
        "events": [{"name": name, "discriminator": prefix} for name, prefix in names.items()],
        "types": [{"name": name, "type": fields} for name in names],
    }
    codec = compile_idl(load_idl(document))
    ways = Ways({PROGRAM: codec})
    encoded = [base64.b64encode(codec.encode_event(name, {"x": 8})).decode() for name in names]
    for _ in range(3):
        for text in encoded:
            found, _ = ways.read(frame(P, 1, "Program data: " + text, "Program data: " + encoded[0]))
            assert [record.error for record in found] == [None, None]


FIELDS: dict[str, list[tuple[str, Any]]] = {
    "Cast": [("who", "pubkey"), ("at", "i64"), ("yes", "bool"), ("to", "pubkey")],
    # Of another program, and alike but for the name: nothing but the scope of its decoder tells the two apart.
    "Also": [("who", "pubkey"), ("at", "i64"), ("yes", "bool"), ("to", "pubkey")],
    "Told": [("who", "pubkey"), ("text", "string"), ("more", {"option": {"vec": "u8"}})],
    "Plain": [("n", "u16")],
    # Elements without bytes are counted, by a function around the decoder.
    "Empty": [("list", {"vec": {"array": ["u16", 0]}})],
}


def _several_kinds(address: str, names: Sequence[str]) -> ProgramCodec:
    document = {
        **DOCUMENT,
        "address": address,
        "events": [{"name": name, "discriminator": [9, *name.encode()[:4], 0, 0, 1]} for name in names],
        "types": [
            {"name": name, "type": {"kind": "struct", "fields": [{"name": n, "type": t} for n, t in FIELDS[name]]}}
            for name in names
        ],
    }
    return compile_idl(load_idl(document))


SEVERAL = {PROGRAM: _several_kinds(P, ["Cast", "Told", "Plain"]), OTHER: _several_kinds(Q, ["Also", "Plain"])}
COUNTED = {PROGRAM: _several_kinds(P, ["Cast", "Empty", "Plain"]), OTHER: SEVERAL[OTHER]}


@settings(max_examples=100)
@given(st.data())
def test_events_of_several_kinds_and_programs_share_lines(data: st.DataObject) -> None:
    """Whatever event stood in a line when a function was made, and whether or not an address was ever seen."""
    codecs = data.draw(st.sampled_from([SEVERAL, COUNTED]))
    ways = Ways(codecs)

    def line(program: bytes) -> str:
        codec = codecs[program]
        name = data.draw(st.sampled_from([event.name for event in codec.idl.events]))
        values: dict[str, Any] = {
            "who": address_text(data.draw(st.binary(min_size=32, max_size=32))),
            "to": P,
            "at": -1,
            "yes": data.draw(st.booleans()),
            "text": "é",
            "more": data.draw(st.sampled_from([None, [7]])),
            "n": 7,
            "list": [[], []],
        }
        raw = codec.encode_event(name, {field: values[field] for field, _ in FIELDS[name]})
        match data.draw(st.sampled_from(["whole", "whole", "longer", "cut", "wrong", "strange"])):
            case "longer":
                raw += b"more"
            case "cut":
                raw = raw[: data.draw(st.integers(0, len(raw)))]
            case "wrong":
                raw = raw[:8] + b"\xff" * (len(raw) - 8)
            case "strange":
                raw = b"\0" + raw[1:]
            case _:
                pass
        return "Program data: " + base64.b64encode(raw).decode()

    for _ in range(6):
        if data.draw(st.booleans()):
            # Addresses were forgotten: a lookup in the plain dict fails.
            ADDRESS_TEXTS.clear()
            PLAIN_TEXTS.clear()
        with patch.object(fitted, "_WRITTEN_OUT_MAX", data.draw(st.sampled_from([0, 300, 1 << 15]))):
            ways.read(frame(P, 1, line(PROGRAM), *frame(Q, 2, line(OTHER)), line(PROGRAM)))


def test_a_function_needs_no_other_way_where_an_address_is_new() -> None:
    codec = SEVERAL[PROGRAM]
    values = {"who": Q, "at": 1, "yes": True, "to": P}
    logs = frame(P, 1, "Program data: " + base64.b64encode(codec.encode_event("Cast", values)).decode())
    with patch.object(events, "_from_line", side_effect=AssertionError), patch.object(events, "_FITTED_SIGHTS", 1):
        stream = _LogEvents({P: codec})
        for _ in range(4):
            ADDRESS_TEXTS.clear()
            PLAIN_TEXTS.clear()
            assert [record.data for record in stream.read(logs)[0]] == [values]


def test_no_program_can_keep_us_making_functions() -> None:
    """It may call others as it likes, as often as it likes."""
    made = []
    codecs = {P: CODEC}
    with patch.object(events, "fit", side_effect=lambda *given: made.append(1) or (lambda logs: None)):
        stream = _LogEvents(codecs)
        usual = frame(P, 1, data_line(1))
        for _ in range(events._FITTED_SIGHTS):
            assert not made
            stream.read(usual)
        stream.read(usual)
        assert len(made) == 1
        for shape in range(8):
            logs = frame(P, 1, *[line for bit in range(3) for line in (frame(Q, 2) if shape >> bit & 1 else ["", ""])])
            for _ in range(events._FITTED_SIGHTS + 1):
                stream.read(logs)
        assert len(made) == 9
        assert [len(tried) for tried in stream._fitted if tried] == [1, events._FITTED_A_LENGTH_MAX]
        with patch.object(events, "_FITTED_SIGHTS", 1):
            for _ in range(3 * events._FITTED_MAX):
                stream.read(usual)
        assert len(made) == events._FITTED_MAX


def test_the_function_that_fitted_last_is_tried_first() -> None:
    ways = Ways()
    one, other = frame(P, 1, data_line(1), *frame(Q, 2)), frame(P, 1, *frame(Q, 2), data_line(1))
    for logs in (one, one, other, other, one):
        ways.read(logs)
    with patch.object(_LogEvents, "_others", side_effect=AssertionError):
        ways.fitting.read(one)
    with patch.object(_LogEvents, "_interpret", side_effect=AssertionError):
        ways.fitting.read(other)
        ways.fitting.read(one)
    assert len(ways.fitting._fitted[5]) == 2


@settings(max_examples=200)
@given(st.data())
def test_what_a_part_says_is_what_the_whole_says(data: st.DataObject) -> None:
    """A part is of a transaction whose inner instructions carry no tag; the whole is asked for where logs do not tell all."""
    inside = data.draw(st.lists(st.sampled_from(PIECES), max_size=6))
    logs = data.draw(st.sampled_from([None, [], inside, frame(P, 1, *inside), *USUAL, frame(P, 1, *frame(P, 2))]))
    inner = data.draw(st.sampled_from([[], [call(0, 0, 2)], [call(0, 0, 1)]]))
    keys = data.draw(st.sampled_from([KEYS, (KEYS[0], KEYS[2]), None]))
    err = data.draw(st.sampled_from([None, None, '"x"']))
    whole = seen(logs, inner, outer=data.draw(st.sampled_from([(1,), (2,)])), err=err, keys=keys)
    asked: list[tuple[int, int]] = []

    def fetch(position: int, slot: int) -> Any:
        asked.append((position, slot))
        return whole

    part = PartTransaction(3, whole.slot, 0, whole.signature, None, err, whole.logs, fetch)
    extractor = Extractor(CODECS)
    assert extractor.extract_part(part) == extractor.extract(whole)
    tells_all = err is not None or (bool(logs) and grammar.read_data(logs or (), {})[1] is None)
    assert asked == ([] if tells_all else [(3, whole.slot)])
