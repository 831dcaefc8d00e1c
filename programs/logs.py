"""The grammar of program logs: which program wrote which `Program data:` line.

Each element of `logMessages` is one line, whatever it holds; a program writes its own text only behind `Program log:
`, so only whole
lines of the runtime's own forms open and close frames. Where the stack stops making sense, reading stops: nothing is
guessed.
Source of the forms: Agave's program-runtime stable_log and log_collector.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

# A number for each line that opens or closes a frame, None for every other.
Tokens: TypeAlias = tuple[int | None, ...]

TRUNCATED = "truncated logs"
INCONSISTENT = "inconsistent logs"

_LOG = "Program log: "
DATA = "Program data: "
# Where the payload of a `Program data:` line begins.
PAYLOAD = len(DATA)
_SUCCESS = " success"
_CUT = "Log truncated"
_ID = "[1-9A-HJ-NP-Za-km-z]{32,44}"
_invoke = re.compile(rf"Program ({_ID}) invoke \[([1-9][0-9]{{0,2}})\]").fullmatch
_success = re.compile(rf"Program {_ID} success").fullmatch
_failed = re.compile(rf"Program ({_ID}) failed: .*", re.DOTALL).fullmatch

# Lines that open or close a frame, parsed: programs repeat, so nearly every one was seen before. A line that closes has
# depth 0. Cleared when full, which costs little.
_FRAMES_MAX = 1 << 14
_frames: dict[str, tuple[str, int]] = {}
# No number is ever given twice, so tokens that were kept from before a clearing match nothing.
_tokens: dict[str, int] = {}
_numbers = count()
token = _tokens.get


def _frame(line: str) -> tuple[str, int] | None:
    """The program and depth of a line that opens a frame; depth 0 for `success`. None for every other line."""
    match = _invoke(line)
    if match is not None:
        known = (match[1], int(match[2]))
    elif _success(line):
        known = (line[8:-8], 0)
    else:
        return None
    if len(_frames) >= _FRAMES_MAX:
        _frames.clear()
        _tokens.clear()
    _frames[line] = known
    _tokens[line] = next(_numbers)
    return known


def read_data(logs: Sequence[str], readers: Mapping[str, Callable[[int, str], T]]) -> tuple[list[T], str | None]:
    """What `readers`, by program (base58), make of the `Program data:` lines that their programs wrote, in order.

    A reader is given the line's number and the line. The second value says why there may be more: TRUNCATED, INCONSISTENT, or None
    when there is not.
    """
    found: list[T] = []
    stack: list[str] = []
    top = ""
    known = _frames.get
    for number, line in enumerate(logs):
        frame = known(line)
        if frame is None:
            head = line[:14]
            if head == DATA:
                if top in readers:
                    found.append(readers[top](number, line))
                continue
            if head[:13] == _LOG:
                continue
            if line[-6:] == " units" and " failed: " not in line:
                # `… compute units` is the commonest line left, and none that matters ends so.
                continue
            if line == _CUT:
                return found, TRUNCATED
            frame = _frame(line)
            if frame is None:
                failed = _failed(line)
                if failed is None:
                    continue
                frame = (failed[1], 0)
        program, depth = frame
        if depth:
            stack.append(program)
            top = program
            if depth != len(stack):
                return found, INCONSISTENT
        elif program == top:
            stack.pop()
            top = stack[-1] if stack else ""
        else:
            return found, INCONSISTENT
    return found, INCONSISTENT if stack else None


@dataclass(frozen=True, slots=True)
class Frame:
    """One invocation: the line that opened it, the program, its depth from 1, and the frame that called it (None at
    depth 1).
    """

    line: int
    program: str
    depth: int
    caller: int | None


def frames(logs: Sequence[str]) -> tuple[list[Frame], dict[int, int]]:
    """Every frame up to where the logs stop making sense, and for each `Program data:` line the frame that wrote it."""
    opened: list[Frame] = []
    owners: dict[int, int] = {}
    stack: list[int] = []
    for number, line in enumerate(logs):
        if line.startswith(_LOG):
            continue
        if line.startswith(DATA):
            if stack:
                owners[number] = stack[-1]
            continue
        if line == _CUT:
            break
        frame = _frames.get(line) or _frame(line)
        if frame is None:
            failed = _failed(line)
            if failed is None:
                continue
            frame = (failed[1], 0)
        program, depth = frame
        if depth:
            if depth != len(stack) + 1:
                break
            opened.append(Frame(number, program, depth, stack[-1] if stack else None))
            stack.append(len(opened) - 1)
        elif stack and opened[stack[-1]].program == program:
            stack.pop()
        else:
            break
    return opened, owners


def shape(logs: Sequence[str]) -> tuple[Tokens, list[tuple[int, str]]] | None:
    """The tokens of the logs, `tuple(map(token, logs))`, and for each line without one its number and the program that wrote it ("" for none).

    The second follows from the first alone: other logs with the same tokens have the same writers, if all their lines without a token
    are `plain`. None where that does not hold: a frame that failed has no token, and frames may not add up.
    """
    tokens: list[int | None] = []
    written: list[tuple[int, str]] = []
    stack: list[str] = []
    for number, line in enumerate(logs):
        frame = None if line.startswith((_LOG, DATA)) else _frames.get(line) or _frame(line)
        if frame is None:
            if not plain(line):
                return None
            tokens.append(None)
            written.append((number, stack[-1] if stack else ""))
            continue
        program, depth = frame
        if depth:
            stack.append(program)
            if depth != len(stack):
                return None
        elif not stack or stack.pop() != program:
            return None
        tokens.append(token(line))
    # Frames are only forgotten all at once; in the middle of these logs that would leave some without a token.
    return None if stack or tokens.count(None) != len(written) else (tuple(tokens), written)


def plain(line: str) -> bool:
    """Whether the line neither opens nor closes a frame and does not say that others are missing."""
    if line[8:9] == "l" or line[:14] == DATA:
        # No address begins with "l": this is `Program log: …`.
        return True
    if line[-6:] == " units" and " failed: " not in line:
        return True
    return line != _CUT and _frame(line) is None and _failed(line) is None


def payload(text: str) -> bytes:
    """The bytes behind `Program data: `. A line of several fields is what one call was given in slices: they belong
    together.

    ValueError when a field is not base64, which no runtime writes.
    """
    try:
        # msgspec's decoder is twice as fast as the standard one; what it refuses, the standard one names.
        return msgspec.convert(text, bytes)
    except msgspec.ValidationError:
        pass
    try:
        return b"".join([binascii.a2b_base64(part, strict_mode=True) for part in text.split(" ")])
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64 ({error})") from None
