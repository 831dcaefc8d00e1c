"""Logs of one shape, read by a function that was made for them: what `_LogEvents` interprets, written out as Python source.

Nothing of the logs enters the source itself, only the numbers of lines: texts, programs and decoders are constants of its scope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from programs import logs as grammar

T = TypeVar("T")

# What stands in the logs, and None: no line of it is missing. Or None alone, for logs that may be of another shape.
Fitted: TypeAlias = Callable[[Sequence[str]], tuple[list[T], None] | None]

# No line that goes on behind this opens or closes a frame: behind the address there would be "invoke", "success" or "failed".
_consumed = re.compile(r"Program [1-9A-HJ-NP-Za-km-z]{32,44} consumed ").match


@dataclass(frozen=True, slots=True)
class Data(Generic[T]):
    """A line that held data. `decoders`, by the first `length` bytes, take the bytes, the program and the source; `read` takes any line of
    data, and its number.
    """

    number: int
    decoders: Mapping[bytes, Callable[..., T]]
    length: int
    program: str
    read: Callable[[int, str], T]
    source: Any


def fit(
    logs: Sequence[str],
    data: Sequence[Data[T]],
    text: Mapping[int, bool],
    from_base64: Callable[[str], bytes],
    refusals: tuple[type[Exception], ...],
) -> Fitted[T]:
    """The function for logs with the same frames as these. `text` has the lines that are neither frames nor data to be read, and whether
    data there would have to be read. `from_base64` takes the text in quotes; `refusals` are what it and the decoders raise.
    """
    scope: dict[str, Any] = {
        "B": from_base64,
        "D": grammar.DATA,
        "E": refusals,
        "V": ValueError,
        "T": grammar.plain,
        "W": _plain_and_no_data,
    }

    def constant(value: object) -> str:
        name = f"c{len(scope)}"
        scope[name] = value
        return name

    held = {line.number for line in data}
    frames = [f"l{n} == {constant(line)}" for n, line in enumerate(logs) if n not in held and n not in text]
    plain = [_text(f"l{n}", logs[n], watched, constant) for n, watched in text.items()]
    source = [
        "def read(logs):",
        f" [{', '.join(f'l{n}' for n in range(len(logs)))}] = logs",
        " try:",
        f"  if not ({' and '.join(frames + plain) or True}): return None",
        # A line shorter than the letter that is looked at.
        " except IndexError: return None",
        *(statement for line in data for statement in _data(f"l{line.number}", line, constant)),
        f" return [{', '.join(f'l{line.number}' for line in data)}], None\n",
    ]
    exec(compile("\n".join(source), "<logs>", "exec", dont_inherit=True), scope)
    read: Fitted[T] = scope["read"]
    return read


def _data(name: str, line: Data[T], constant: Callable[[object], str]) -> list[str]:
    """The statements that put what a line of data holds in its place. The plain case is written out, `line.read` knows the others."""
    decoders, program, source = constant(line.decoders), constant(line.program), constant(line.source)
    return [
        f" p = {name}.removeprefix(D)",
        f" if p == {name}: return None",
        " try:",
        # Only JSON would understand it.
        '  if "\\\\" in p: raise V',
        """  b = B(f'"{p}"')""",
        f"  {name} = {decoders}[b[:{line.length}]](b, {program}, {source})",
        f" except E: {name} = {constant(line.read)}({line.number}, {name})",
    ]


def _text(name: str, example: str, watched: bool, constant: Callable[[object], str]) -> str:
    """The condition that a line is no frame and no data to be read: first the cheap look that the example passes, then the whole one."""
    whole = f"{'W' if watched else 'T'}({name})"
    if example[8:9] == "l":
        # No address begins with "l": this is `Program log: …`.
        return f'({name}[8] == "l" or {whole})'
    if example[:14] == grammar.DATA and not watched:
        return f"({name}[:14] == D or {whole})"
    consumed = _consumed(example)
    if consumed is not None:
        return f"({name}[:{consumed.end()}] == {constant(consumed[0])} or {whole})"
    return whole


def _plain_and_no_data(line: str) -> bool:
    return line[:14] != grammar.DATA and grammar.plain(line)
