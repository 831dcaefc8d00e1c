"""Whatever happens in a command ends in one line and an exit code of the convention."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from indexer.cli import main as cli
from indexer.cli import rebuild, status
from programs.errors import UserError
from projections.rebuild import TableDifference
from schema.db import trouble

ERRORS = {
    "a bug": (RuntimeError("boom\nmore"), 1, "unforeseen RuntimeError: boom;"),
    "no room": (psycopg.errors.DiskFull("could not extend file"), 3, "has no room left: could not extend file"),
    "too many": (psycopg.errors.TooManyConnections("sorry"), 3, "no room left"),
    "a time limit": (psycopg.errors.QueryCanceled("statement timeout"), 3, "cut short: statement timeout"),
    "a lock": (psycopg.errors.LockNotAvailable("lock timeout"), 3, "cut short"),
    "gone": (psycopg.OperationalError("server closed the connection unexpectedly\n\tThis"), 3, "went away: server closed"),
    "ended": (psycopg.errors.AdminShutdown("terminating"), 3, "went away"),
    "no right": (psycopg.errors.InsufficientPrivilege("permission denied"), 2, "connect as the owner"),
    "read only": (psycopg.errors.ReadOnlySqlTransaction("cannot execute"), 2, "with the right to write"),
    "wrapped": (OperationalError("SELECT 1", {}, psycopg.errors.QueryCanceled("slow")), 3, "cut short: slow"),
    "a wrong statement": (psycopg.errors.UndefinedColumn("no column"), 1, "refuses: UndefinedColumn: no column"),
    "a full device": (OSError(errno.ENOSPC, "No space left on device"), 1, "the output can't be written"),
    "ours": (UserError("as said", 2), 2, "as said"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_one_line_and_a_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error, code, said = ERRORS[name]

    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.delenv("INDEXER_LOG_LEVEL", raising=False)
    monkeypatch.setattr(status, "run", fail)
    monkeypatch.setattr(cli, "discard", lambda: None)
    assert cli.main(["status"]) == code
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_the_place_is_shown_to_whoever_debugs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise KeyError("x")

    monkeypatch.setenv("INDEXER_LOG_LEVEL", "debug")
    monkeypatch.setattr(status, "run", fail)
    assert cli.main(["status"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_dropped_connection_is_not_a_wrong_password() -> None:
    assert trouble(psycopg.OperationalError("")).exit_code == 3


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full", "| true"])
def test_output_that_nobody_takes_is_no_crash(redirection: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m indexer idl show programs/community_voting/idl.json {redirection}"
    env = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "20"}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == (1 if "full" in redirection else 0), done.stderr


def test_what_is_wrong_is_said_also_to_whom_does_not_read(tmp_path: Path) -> None:
    wrong = tmp_path / "idl.json"
    field = {"name": "x", "type": "u7"}
    kind = {"name": "T", "type": {"kind": "struct", "fields": [field]}}
    wrong.write_text(json.dumps({"name": "x", "version": "1", "instructions": [], "types": [kind]}))
    command = f"set -o pipefail; {sys.executable} -m indexer idl check {wrong} | true"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    assert subprocess.run(["bash", "-c", command], env=env, capture_output=True, timeout=60).returncode == 1


def test_a_rebuild_goes_on_to_its_swap_when_nobody_reads_its_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        rebuild._tell("voting")((TableDifference("votes", 1, 0, 0, 0, ()),) * 1000)
        print("what else is said goes nowhere", flush=True)
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["pg_past", "", "x" * 64])
def test_a_schema_that_cannot_be_made_is_wrong_usage(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rebuild", "--as-of-slot", "5", "--schema", name]) == 2
    assert "no name that a schema can have" in capfd.readouterr().err
