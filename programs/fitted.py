"""Logs of one shape, read by a function that was made for them: what `_LogEvents` interprets, written out as Python source.

Nothing of the logs enters the source itself, only the numbers of lines: texts, programs and decoders are constants of its scope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from programs import logs as grammar
from programs.codec import Body

T = TypeVar("T")

# What stands in the logs, and None: no line of it is missing. Or None alone, for logs that may be of another shape.
Fitted: TypeAlias = Callable[[Sequence[str]], tuple[list[T], None] | None]

# Characters of decoders that are written into one function; what is beyond is called. It bounds what making it costs, whatever an IDL holds.
_WRITTEN_OUT_MAX = 1 << 15

# No line that goes on behind this opens or closes a frame: behind the address there would be "invoke", "success" or "failed".
_consumed = re.compile(r"Program [1-9A-HJ-NP-Za-km-z]{32,44} consumed ").match


@dataclass(frozen=True, slots=True)
class Data(Generic[T]):
    """A line that held data. `decoders`, by the first `length` bytes, take the bytes, the program and the source, which their `bodies` call
    b, p and s; `read` takes any line of data, and its number.
    """

    number: int
    decoders: Mapping[bytes, Callable[..., T]]
    bodies: Mapping[bytes, Body]
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
    scope: dict[str, Any] = {}
    guesses = {line.number: _guess(logs[line.number], line, from_base64, refusals) for line in data}
    written = next((guess for guess in guesses.values() if guess is not None), None)
    if written is not None:
        # Bodies of one program at most: their names are those of its decoders' scope, and none of them begins as ours do.
        scope |= written.scope
    scope |= {
        "_B": from_base64,
        "_D": grammar.DATA,
        "_E": refusals,
        "_V": ValueError,
        "_T": grammar.plain,
        "_W": _plain_and_no_data,
    }

    def constant(value: object) -> str:
        name = f"_{len(scope)}"
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
    ]
    room = _WRITTEN_OUT_MAX
    for line in data:
        guess = guesses[line.number]
        if guess is not None and (written is None or guess.scope is not written.scope or guess.body.length > room):
            guess = None
        room -= 0 if guess is None else guess.body.length
        source += _data(f"l{line.number}", line, guess, constant)
    source.append(f" return [{', '.join(f'l{line.number}' for line in data)}], None\n")
    exec(compile("\n".join(source), "<logs>", "exec", dont_inherit=True), scope)
    read: Fitted[T] = scope["read"]
    return read


@dataclass(frozen=True, slots=True)
class _Guess:
    """The event that will stand in a line, if it is of the same kind as the one that stands there now."""

    prefix: bytes
    body: Body
    scope: dict[str, Any]


def _guess(
    example: str, line: Data[T], from_base64: Callable[[str], bytes], refusals: tuple[type[Exception], ...]
) -> _Guess | None:
    try:
        prefix = from_base64(f'"{example.removeprefix(grammar.DATA)}"')[: line.length]
        return _Guess(prefix, line.bodies[prefix], line.decoders[prefix].__globals__)
    except refusals:
        return None


def _data(name: str, line: Data[T], guess: _Guess | None, constant: Callable[[object], str]) -> list[str]:
    """The statements that put what a line of data holds in its place. The plain case is written out, `line.read` knows the others."""
    decoders, program, source = constant(line.decoders), constant(line.program), constant(line.source)
    statements = [
        f" _t = {name}.removeprefix(_D)",
        f" if _t == {name}: return None",
        " try:",
        # Only JSON would understand it.
        '  if "\\\\" in _t: raise _V',
        """  b = _B(f'"{_t}"')""",
    ]
    called = f"{name} = {decoders}[b[:{line.length}]](b, {program}, {source})"
    if guess is None:
        statements.append("  " + called)
    else:
        statements += [
            f"  if b[:{line.length}] == {constant(guess.prefix)}:",
            f"   p = {program}; s = {source}",
            *("  " + statement for statement in guess.body.statements),
        ]
        if guess.body.plain is None:
            statements.append(f"   {name} = {guess.body.result}")
        else:
            statements += [f"   try: {name} = {guess.body.plain}", f"   except KeyError: {name} = {guess.body.result}"]
        statements.append(f"  else: {called}")
    return [*statements, f" except _E: {name} = {constant(line.read)}({line.number}, {name})"]


def _text(name: str, example: str, watched: bool, constant: Callable[[object], str]) -> str:
    """The condition that a line is no frame and no data to be read: first the cheap look that the example passes, then the whole one."""
    whole = f"{'_W' if watched else '_T'}({name})"
    if example[8:9] == "l":
        # No address begins with "l": this is `Program log: …`.
        return f'({name}[8] == "l" or {whole})'
    if example[:14] == grammar.DATA and not watched:
        return f"({name}[:14] == _D or {whole})"
    consumed = _consumed(example)
    if consumed is not None:
        return f"({name}[:{consumed.end()}] == {constant(consumed[0])} or {whole})"
    return whole


def _plain_and_no_data(line: str) -> bool:
    return line[:14] != grammar.DATA and grammar.plain(line)
