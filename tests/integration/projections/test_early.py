"""Batches that are folded before the one before them is committed: what befalls the connection that writes them changes nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import psycopg
import pytest

from projections import bootstrap, catalogue
from projections.rebuild import rebuild
from projections.tape import Tape
from projections.worker import ProjectionFollower
from schema import db as database
from tests.integration.projections import history

VOTES, ROWS = 120, 10


@pytest.fixture
def filled(db: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ledger of votes, and its program."""
    monkeypatch.setattr("projections.worker.EARLY_ROWS_MIN", 0)
    chain = history.Ledger(db)
    spec = chain.spec()
    bootstrap.ensure(db, (spec,))
    votes = [history.transaction(3 + n, 0, history.vote("a", 0, f"w{n}", 0, [n + 1, 0])) for n in range(VOTES)]
    chain.seal(history.transaction(2, 0, history.community("a"), history.question("a", 0)), *votes)
    return spec


def follow(dsn: str, spec: Any, connect: Any, meanwhile: Any = lambda done: None) -> ProjectionFollower:
    """Follow to the end, everything read beforehand; `meanwhile` is called between steps."""
    (projection,) = spec.projections
    follower = ProjectionFollower((spec,), spec, projection, connect)
    tape = Tape((spec,), ROWS)
    tape.restart(0)
    with contextlib.closing(follower), database.connect(dsn) as conn:
        while tape.read(conn):
            pass
        for done in range(200):
            if not follower.step(conn, tape) and follower.failed is None:
                break
            meanwhile(done)
        else:
            raise AssertionError("it came to no end")
        state = catalogue.states(conn)[follower.name]
        assert (state.position, conn.execute("SELECT count(*) FROM voting.votes").fetchone()) == (VOTES + 1, (VOTES,))
    assert all(difference.equal for difference in rebuild(dsn, (spec,), "voting", dry_run=True).differences)
    return follower


def test_a_writer_that_cannot_connect_is_done_without_for_some_time(db: str, filled: Any) -> None:
    asked = []

    def refused() -> Any:
        asked.append(time.monotonic())
        raise psycopg.OperationalError("too many clients already")

    assert follow(db, filled, refused).failed is None
    assert len(asked) == 1


@pytest.mark.parametrize("at", range(1, 9, 2))
def test_a_session_that_is_ended_loses_nothing(db: str, filled: Any, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.worker.RETRY_S", 0.0)
    sessions = []

    def connect() -> Any:
        sessions.append(database.connect(db))
        return sessions[-1]

    def end(done: int) -> None:
        if done == at:
            with database.connect(db) as conn:
                conn.execute("SELECT pg_terminate_backend(%s)", (sessions[-1].info.backend_pid,))

    follow(db, filled, connect, end)
    assert len(sessions) > 1


def test_the_next_batch_is_folded_while_one_is_written(db: str, filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is held up until the next fold is over; a follower that waited for it would stand still."""
    folded, save = threading.Semaphore(0), catalogue.save
    from projections import worker

    early = worker.fold_early

    def fold_early(*given: Any) -> Any:
        found = early(*given)
        folded.release()
        return found

    def slow(conn: Any, state: Any) -> None:
        # Its own fold, and that of the next batch; the last one has no next.
        assert state.position > VOTES or (folded.acquire(timeout=20) and folded.acquire(timeout=20))
        folded.release()
        save(conn, state)

    monkeypatch.setattr(worker, "fold_early", fold_early)
    monkeypatch.setattr(catalogue, "save", slow)
    follow(db, filled, lambda: database.connect(db))
