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
from collections.abc import Container, Sequence
from dataclasses import dataclass

TRUNCATED = "truncated logs"
INCONSISTENT = "inconsistent logs"

_LOG = "Program log: "
_DATA = "Program data: "
_SUCCESS = " success"
_CUT = "Log truncated"
_ID = "[1-9A-HJ-NP-Za-km-z]{32,44}"
_invoke = re.compile(rf"Program ({_ID}) invoke \[([1-9][0-9]{{0,2}})\]").fullmatch
_success = re.compile(rf"Program {_ID} success").fullmatch
_failed = re.compile(rf"Program ({_ID}) failed: .*", re.DOTALL).fullmatch

# Lines that open a frame, parsed: programs repeat, so nearly every one was seen before. Cleared when full, which
# costs little.
_OPENINGS_MAX = 1 << 14
_openings: dict[str, tuple[str, int]] = {}


def _opening(line: str) -> tuple[str, int] | None:
    match = _invoke(line)
    if match is None:
        return None
    if len(_openings) >= _OPENINGS_MAX:
        _openings.clear()
    known = _openings[line] = (match[1], int(match[2]))
    return known


def data_lines(logs: Sequence[str], programs: Container[str]) -> tuple[list[tuple[int, str, str]], str | None]:
    """The `Program data:` lines that the given programs (base58) wrote: line, program, payload in base64.

    The second value says why the list may not be all there is: TRUNCATED, INCONSISTENT, or None when it is.
    """
    found: list[tuple[int, str, str]] = []
    stack: list[str] = []
    top = ""
    openings = _openings
    for number, line in enumerate(logs):
        if line.startswith(_LOG):
            continue
        if line.startswith(_DATA):
            if top in programs:
                found.append((number, top, line[14:]))
            continue
        opening = openings.get(line)
        if opening is None:
            if line[-8:] == _SUCCESS:
                if line[8:-8] == top and line[:8] == "Program ":
                    stack.pop()
                    top = stack[-1] if stack else ""
                    continue
                if _success(line):
                    return found, INCONSISTENT
                continue
            if line[-1:] == "s":
                # `… compute units` is the commonest line left; a cut line and one that opens a frame end otherwise.
                if " failed: " not in line:
                    continue
            elif line == _CUT:
                return found, TRUNCATED
            else:
                opening = _opening(line)
            if opening is None:
                failed = _failed(line)
                if failed is not None:
                    if failed[1] != top:
                        return found, INCONSISTENT
                    stack.pop()
                    top = stack[-1] if stack else ""
                continue
        top, depth = opening
        stack.append(top)
        if depth != len(stack):
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
        if line.startswith(_DATA):
            if stack:
                owners[number] = stack[-1]
            continue
        if line == _CUT:
            break
        opening = _openings.get(line) or _opening(line)
        if opening is not None:
            if opening[1] != len(stack) + 1:
                break
            opened.append(Frame(number, opening[0], opening[1], stack[-1] if stack else None))
            stack.append(len(opened) - 1)
            continue
        program = line[8:-8] if _success(line) else failed[1] if (failed := _failed(line)) else None
        if program is not None:
            if not stack or opened[stack[-1]].program != program:
                break
            stack.pop()
    return opened, owners


def payload(text: str) -> bytes:
    """The bytes behind `Program data: `. A line of several fields is what one call was given in slices: they belong
    together.

    ValueError when a field is not base64, which no runtime writes.
    """
    try:
        if " " not in text:
            return binascii.a2b_base64(text, strict_mode=True)
        return b"".join([binascii.a2b_base64(part, strict_mode=True) for part in text.split(" ")])
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64 ({error})") from None
