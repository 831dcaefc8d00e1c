"""Structured logs: one JSON object a line on stderr, or a short readable line on a terminal. Values are given by name; no secrets."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import unicodedata
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m"}


def printable(text: str) -> str:
    """The text without control characters: part of it may be a node's, and a terminal obeys what it is sent."""
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)


def coloured(out: TextIO) -> bool:
    """Whether escapes for colour and weight belong in this stream: a terminal that has them, and nobody who asked for none (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Log:
    """`log.info("sealed", slot=5)`: an action and its facts. The form is JSON unless stderr is a terminal."""

    def __init__(self) -> None:
        self.level = "info"
        self.form = "auto"
        self._last: dict[str, float] = {}

    def configure(self, level: str, form: str) -> None:
        """level: debug, info, warning, error. form: json, text or auto."""
        self.level, self.form = level, form
        logging.basicConfig(handlers=[_Libraries(self)], level=logging.WARNING, force=True)

    def debug(self, action: str, **facts: Any) -> None:
        """For the developer."""
        self._write("debug", action, facts)

    def info(self, action: str, **facts: Any) -> None:
        """What happened."""
        self._write("info", action, facts)

    def warning(self, action: str, **facts: Any) -> None:
        """What mends itself, and should be known."""
        self._write("warning", action, facts)

    def error(self, action: str, **facts: Any) -> None:
        """What a person must look at."""
        self._write("error", action, facts)

    def seldom(self, every_s: float, level: str, action: str, **facts: Any) -> None:
        """The same, at most once in `every_s` seconds for each action."""
        now = time.monotonic()
        if now - self._last.get(action, float("-inf")) >= every_s:
            self._last[action] = now
            self._write(level, action, facts)

    def _write(self, level: str, action: str, facts: dict[str, Any]) -> None:
        if LEVELS[level] < LEVELS[self.level]:
            return
        out: TextIO = sys.stderr
        now = datetime.now(UTC)
        if self.form == "json" or (self.form == "auto" and not out.isatty()):
            stamp = now.isoformat(timespec="milliseconds")
            line = json.dumps(
                {"time": stamp, "level": level, "action": action, **facts}, default=str, ensure_ascii=False
            )
        else:
            words = printable(" ".join(f"{name}={value}" for name, value in facts.items()))
            colour = _COLOURS.get(level, "") if coloured(out) else ""
            line = f"{now:%H:%M:%S} {colour}{action}{chr(27) + '[0m' if colour else ''} {words}"
        try:
            out.write(line + "\n")
            out.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more, or its disk is full; the work goes on


class _Libraries(logging.Handler):
    """What the driver, asyncio and others say through Python's own logging, in the form of all other lines."""

    def __init__(self, to: Log) -> None:
        super().__init__()
        self._log = to

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"logger": record.name, "said": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            facts["trace"] = logging.Formatter().formatException(record.exc_info)
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", **facts)


log = Log()


def one_line(error: BaseException) -> str:
    """An error as one short line: its kind and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]
