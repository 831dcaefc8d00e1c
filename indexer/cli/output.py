"""What the commands print for a person: tables as wide as their text, and the progress of long work.

Results go to stdout; progress goes to stderr, as a bar on a terminal and as a log line now and then elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from indexer.log import coloured

# Seconds between two log lines where there is no terminal.
LINE_S = 5.0
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
Cell = str | int | float | None


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], out: TextIO | None = None) -> None:
    """Print rows under headings; numbers to the right with thousands apart, None as a dash. Nothing is cut; a terminal gets bold headings.

    The last column is not padded, so that long texts at the end of a line cost no spaces.
    """
    out = sys.stdout if out is None else out
    body = [list(row) for row in rows]
    text = [[_shown(cell) for cell in row] for row in body]
    right = [all(isinstance(row[n], int | float | None) for row in body) for n in range(len(headings))]
    wide = [max(len(heading), *(len(row[n]) for row in text), 0) for n, heading in enumerate(headings)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, wide, right, strict=True)]
        return "  ".join(padded).rstrip()

    head = line(headings)
    print(f"{_BOLD}{head}{_PLAIN}" if coloured(out) else head, file=out)
    for row in text:
        print(line(row), file=out)


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.1f}" if isinstance(cell, float) else cell


@contextmanager
def unheard() -> Iterator[None]:
    """For what is printed beside the work: when its reader went away the work goes on, or has its exit code, and the rest goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        discard()


def discard() -> None:
    """Let what is still in stdout's buffer go nowhere: at the interpreter's end it would be tried again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True, slots=True)
class Tell:
    """What long work says: how far it is, by calling this; and, in `waits`, for what it waits, which stands there until it goes on."""

    done: Callable[[int, int], None]
    waits: Callable[[str], None]

    def __call__(self, done: int, total: int) -> None:
        self.done(done, total)


@contextmanager
def progress(action: str, unit: str) -> Iterator[Tell]:
    """Gives `tell(done, total)`, which may be called as often as one likes. `action` names the work in bar and log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from indexer.log import log

    started = said = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    silent = not sys.stderr.isatty()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=silent, transient=True) as bar:
        task = bar.add_task(action, total=None, rate="")

        def waits(text: str) -> None:
            bar.update(task, rate=text)
            if silent:
                log.warning(f"{action} waits", detail=text)

        def tell(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            rate = done / max(now - started, 0.001)
            bar.update(task, completed=done, total=total, rate=f"{unit}, {rate:,.0f}/s")
            if silent and now - said > LINE_S:
                said = now
                left = max(0, total - done) / rate if rate else None
                log.info(
                    action, done=done, of=total, unit=unit, per_second=round(rate), seconds_left=left and round(left)
                )

        yield Tell(tell, waits)
