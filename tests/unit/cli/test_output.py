"""What a person sees: tables with nothing cut, and progress as a bar or as lines."""

from __future__ import annotations

import io
import json
import logging
import math
from decimal import Decimal

import pytest

from indexer.cli import output
from indexer.cli._projections import document
from indexer.log import log


def test_a_table_aligns_numbers_and_cuts_nothing() -> None:
    out = io.StringIO()
    long = "x" * 200
    output.table(("name", "slots", "lag", "why"), [("voting", 1234567, 0.25, long), ("a", None, 12.0, "y")], out)
    lines = out.getvalue().splitlines()
    assert lines == [
        "name        slots   lag  why",
        f"voting  1,234,567   0.2  {long}",
        "a               –  12.0  y",
    ]


def test_an_empty_table_shows_its_headings() -> None:
    out = io.StringIO()
    output.table(("one", "two"), [], out)
    assert out.getvalue() == "one  two\n"


def test_progress_without_a_terminal_is_a_log_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LINE_S", -1.0)
    log.configure("info", "json")
    with output.progress("rebuild", "transactions") as tell:
        tell(0, 100)
        tell(50, 100)
    shown = capsys.readouterr()
    assert shown.out == ""
    said = [json.loads(line) for line in shown.err.splitlines()]
    assert [(line["action"], line["done"], line["of"], line["unit"]) for line in said] == [
        ("rebuild", 0, 100, "transactions"),
        ("rebuild", 50, 100, "transactions"),
    ]
    assert said[1]["seconds_left"] is not None


def test_what_long_work_waits_for_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    with output.progress("rebuild", "transactions") as tell:
        tell.waits("the swap waits for pid 7")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["action"], line["level"], line["detail"]) for line in said] == [
        ("rebuild waits", "warning", "the swap waits for pid 7")
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variable", "value", "escapes"), [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("NO_COLOR", "", True)]
)
def test_escapes_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, escapes: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    out = Terminal()
    output.table(("one", "two"), [(1, 2)], out)
    monkeypatch.setattr("sys.stderr", out)
    log.configure("info", "text")
    log.warning("note", said="a")
    assert ("\x1b" in out.getvalue()) == escapes


def test_what_a_node_says_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    log.warning("refused", error="a\x1b[2Jb\nc")
    assert capsys.readouterr().err.endswith("refused error=a [2Jb c\n")


def test_what_libraries_say_has_the_form_of_all_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logging.getLogger("psycopg").warning("error ignored terminating %s", "x")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("never retrieved")
    one, two = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (one["level"], one["action"], one["said"]) == ("warning", "library", "error ignored terminating x")
    assert (two["level"], two["logger"]) == ("error", "asyncio")
    assert "ValueError: why" in two["trace"]


def test_a_document_is_json_whatever_is_in_it() -> None:
    value = {"a": [float("nan"), float("inf"), -math.inf, 1.5], "b": (b"\x00\xff", Decimal(2**70), Decimal("NaN"))}
    made = json.loads(document(value), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert made == {"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": ["00ff", 2**70, "NaN"]}
