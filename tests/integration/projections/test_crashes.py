"""A rebuild that is killed at any moment leaves the old tables and no litter; readers never wait and see whole states only."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from projections import bootstrap
from projections.rebuild import rebuild
from projections.worker import Worker
from schema import db as database
from tests.integration.projections import history

VOTES = 300
# A process of its own that rebuilds, and that ends itself where it was told to. `never` lives on for the caller to end.
_PROCESS = """
import os, signal, sys
from programs.idl import load_idl
from projections import bootstrap, rebuild, supply
dsn, address, number, idl, name, where, at = sys.argv[1:]
spec = bootstrap.spec("voting", address, int(number), load_idl(open(idl, "rb").read()), ("voting",))
supply.PART_ROWS = 40
if where.endswith("processes"):
    supply._ROWS_FOR_PROCESSES = 1
    supply._PIECE_ROWS = 1
calls = 0
def killing(work):
    def wrapped(*args, **named):
        global calls
        calls += 1
        if calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **named)
    return wrapped
places = {"fold": (rebuild, "fold"), "copy": (rebuild, "copy_decoded"), "indexes": (rebuild, "create_indexes"),
          "compare": (rebuild, "_difference"), "views": (rebuild, "replace_views"), "record": (rebuild.catalogue, "save"),
          "swapped": (rebuild, "_drop_quietly"), "folding-processes": (rebuild, "fold"), "litter": (rebuild, "clean_litter"),
          "made": (rebuild, "make_tables")}
if where in places:
    module, attribute = places[where]
    setattr(module, attribute, killing(getattr(module, attribute)))
print("begin", flush=True)
rebuild.rebuild(dsn, (spec,), name)
print("done", flush=True)
"""


def _process(chain: Any, name: str, where: str, at: int) -> subprocess.Popen[bytes]:
    idl = Path(__file__).parents[3] / "programs/community_voting/idl.json"
    arguments = [chain.dsn, history.PROGRAM, str(chain.program_id), str(idl), name, where, str(at)]
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS, *arguments], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
    )


@pytest.fixture
def chain(db: str) -> Any:
    made = history.Ledger(db)
    made.specs = (made.spec(),)
    bootstrap.ensure(db, made.specs)
    votes = [history.transaction(3 + n, 0, history.vote("a", 0, f"w{n}", 0, [n + 1, 0])) for n in range(VOTES)]
    made.seal(history.transaction(2, 0, history.community("a"), history.question("a", 0)))
    for at in range(0, VOTES, 50):
        made.seal(*votes[at : at + 50])
    with database.connect(db) as conn:
        worker = Worker(db, made.specs)
        while worker.step(conn):
            pass
    return made


def _shown(dsn: str) -> tuple[Any, ...]:
    with database.connect(dsn) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM voting.votes), (SELECT tallies[1] FROM voting.questions),"
            " (SELECT count(*) FROM events.decoded)"
        ).fetchone()
    assert row is not None
    return row


def _litter(dsn: str) -> list[str]:
    with database.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'projection\\_%' AND nspname NOT IN"
            " (SELECT 'projection_' || generation FROM projections.installed) UNION ALL"
            " SELECT name || id FROM projections.generations WHERE id NOT IN (SELECT generation FROM projections.installed)"
        ).fetchall()
    return [name for (name,) in rows]


def _start(chain: Any) -> None:
    """What `run` does at its start, until it has projected everything, and then its end."""
    stop = threading.Event()
    worker = Worker(chain.dsn, chain.specs)
    # The server ends the session of a killed client by itself, in its own time.
    errors: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        _until(lambda: bool(errors) or (worker.projected_slot() >= 2 + VOTES and not _litter(chain.dsn)))
    finally:
        stop.set()
        thread.join()
    assert errors == []


def _until(reached: Any) -> None:
    """Wait; long enough for a machine that does much else."""
    for _ in range(1_200):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("was not reached in a minute")


_MOMENTS = [("voting.voting", w, n) for w, n in (
    ("made", 1), ("fold", 5), ("folding-processes", 3), ("indexes", 1), ("compare", 2), ("views", 1),
    ("record", 1), ("swapped", 1))] + [("events", w, n) for w, n in (("copy", 2), ("compare", 1), ("views", 1), ("swapped", 1))]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "at"), _MOMENTS)
def test_killed_at_a_known_moment(chain: Any, monkeypatch: pytest.MonkeyPatch, name: str, where: str, at: int) -> None:
    monkeypatch.setattr("projections.worker.CLEAN_S", 0.2)
    process = _process(chain, name, where, at)
    assert process.wait(120) == -signal.SIGKILL
    assert _shown(chain.dsn) == (VOTES, VOTES, VOTES + 2)
    _start(chain)
    assert _litter(chain.dsn) == []
    assert _shown(chain.dsn) == (VOTES, VOTES, VOTES + 2)
    assert all(d.equal for d in rebuild(chain.dsn, chain.specs, name).differences)
    assert _litter(chain.dsn) == []


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment(chain: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("projections.worker.CLEAN_S", 0.2)
    rng = random.Random(seed)
    process = _process(chain, "voting.voting", "processes" if seed % 2 else "never", 0)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begin\n"
    time.sleep(rng.random() * 1.5)
    process.kill()
    process.wait()
    assert _shown(chain.dsn) == (VOTES, VOTES, VOTES + 2)
    _start(chain)
    assert _shown(chain.dsn) == (VOTES, VOTES, VOTES + 2)


def test_nothing_is_left_running_by_a_killed_rebuild(chain: Any) -> None:
    process = _process(chain, "voting.voting", "folding-processes", 3)
    assert process.wait(120) == -signal.SIGKILL

    def readers() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                # Those of other rebuilds on this machine are not ours: ours have lost their parent.
                if (
                    b"projections.supply" in command
                    and (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == "1"
                ):
                    found.append(entry.name)
            except OSError:
                continue
        return found

    _until(lambda: not readers())


def test_readers_see_whole_states_and_do_not_wait(chain: Any) -> None:
    """While votes come in, tables are rebuilt again and again, and each state is one after some whole batch."""
    seen: set[tuple[int, int]] = set()
    errors: list[BaseException] = []
    stop = threading.Event()
    worker = Worker(chain.dsn, chain.specs, rows_max=10)

    def guarded(work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    def read() -> None:
        with database.connect(chain.dsn) as conn:
            # A reader that would have to wait for a lock longer than a swap's last moment fails.
            conn.execute("SET lock_timeout = '3s'")
            while not stop.is_set():
                row = conn.execute(
                    "SELECT (SELECT count(*) FROM voting.votes), (SELECT tallies[1] FROM voting.questions)"
                ).fetchone()
                assert row is not None
                seen.add(row)

    threads = [threading.Thread(target=guarded(work)) for work in (read, read, lambda: worker.run(stop))]
    for thread in threads:
        thread.start()
    last = 2 + VOTES
    try:
        for number in range(3):
            more = [
                history.transaction(last + 1 + n, 0, history.vote("a", 0, f"x{number}/{n}", 0, [last - 1 + n, 0]))
                for n in range(40)
            ]
            chain.seal(*more)
            last += 40
            assert rebuild(chain.dsn, chain.specs, "voting").swapped
            if number == 1:
                assert rebuild(chain.dsn, chain.specs, "events").swapped
        _until(lambda: bool(errors) or worker.projected_slot() >= last)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert all(votes == tally for votes, tally in seen), sorted(seen)
    assert max(seen) <= (VOTES + 120, VOTES + 120)
    assert _shown(chain.dsn)[:2] == (VOTES + 120, VOTES + 120)


def test_a_swap_that_waits_says_for_whom(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that keeps its transaction open is named, and the swap goes on when it ends."""
    monkeypatch.setattr("projections.rebuild.WAITS_TOLD_S", 0.0)
    told: list[Any] = []
    with database.connect(chain.dsn, application="slow report") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM voting.votes")
        pid = reader.info.backend_pid

        def waits(waiting: Any) -> None:
            told.append(waiting)
            if len(told) == 2:
                reader.execute("COMMIT")

        assert rebuild(chain.dsn, chain.specs, "voting", waits=waits).swapped
    assert len(told) == 2
    assert "readers" in told[0].on
    assert any(f"pid {pid} " in holder and "slow report" in holder for holder in told[0].holders), told[0]
    assert str(pid) in str(told[0])


def test_a_swap_that_waits_for_a_writer_says_so(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.rebuild.WAITS_TOLD_S", 0.0)
    monkeypatch.setattr("projections.rebuild._ROW_LOCK_MS", 20)
    told: list[Any] = []
    with database.connect(chain.dsn, application="stuck") as writer:

        def compared(_found: Any) -> None:
            writer.execute("BEGIN")
            writer.execute("SELECT FROM projections.installed WHERE name = 'voting.voting' FOR UPDATE")

        def waits(waiting: Any) -> None:
            told.append(waiting)
            writer.execute("COMMIT")

        assert rebuild(chain.dsn, chain.specs, "voting", compared=compared, waits=waits).swapped
    assert len(told) == 1
    assert "writer" in told[0].on
    assert any("stuck" in holder for holder in told[0].holders), told[0]
