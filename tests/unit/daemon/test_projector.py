"""The thread of the projections: what the database's absence is, and what a fault."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from indexer import projector
from indexer.projector import ProjectorThread
from indexer.settings import Settings
from indexer.startup import Prepared


def told(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    class Worker:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.runs = 0

        def run(self, stop: Any) -> None:
            self.runs += 1
            if self.runs > 2:
                stop.set()
                return
            raise error

    monkeypatch.setattr("projections.worker.Worker", Worker)
    monkeypatch.setattr(projector, "DATABASE_PAUSE_S", 0.0)
    monkeypatch.setattr(projector, "PAUSE_S_MIN", 0.0)
    monkeypatch.setattr(projector.log, "_last", {})
    thread = ProjectorThread(Settings(database_url="postgresql:///nowhere"), Prepared({}, (), {}))
    thread.start()
    thread._thread.join(30)
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_database_that_is_away_is_one_line_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = psycopg.errors.AdminShutdown("terminating connection due to administrator command")
    lines = told(gone, monkeypatch, capsys)
    assert [line["action"] for line in lines] == ["database_down"]
    assert "trace" not in lines[0]


def test_a_fault_is_told_with_its_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(ZeroDivisionError("a fault"), monkeypatch, capsys)
    assert [line["action"] for line in lines] == ["loop_failed", "loop_failed"]
    assert "Traceback" in lines[0]["trace"]
