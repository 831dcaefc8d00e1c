"""With a process that reads ahead the tables are those without it, whatever becomes of the process; and it never outlives us."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from programs.base58 import address_bytes
from programs.registry import IdlVersion, ProgramRegistry
from projections import ahead, bootstrap, metrics
from projections.ahead import Ahead, Bounds
from projections.decoding import ProgramSpec
from projections.rebuild import rebuild
from projections.worker import Worker
from schema import db as database
from tests.integration.projections import history

ROOT = Path(__file__).parents[3]
IDL_FILE = ROOT / "programs/community_voting/idl.json"
# It begins at once and ends a few rows before the end; a lost one is followed by the next at once.
BOUNDS = Bounds(begin_rows=30, end_rows=10, batches=3, silent_s=60.0, rest_s=0.0, pause_s=0.0)
ROWS, BATCH = 900, 20


@pytest.fixture(autouse=True)
def _no_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a ledger is read before a process is up: here the tape waits for it, so that the process does the work."""
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    ready = Ahead._ready

    def waiting(self: Ahead, helper: Any) -> bool:
        get = helper.get
        helper.get = lambda _: get(60)
        try:
            return ready(self, helper)
        finally:
            helper.get = get

    monkeypatch.setattr(Ahead, "_ready", waiting)


def until(reached: Callable[[], Any]) -> None:
    """Wait; long enough for a machine that does much else."""
    for _ in range(1_200):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("was not reached in a minute")


def alive(pid: int) -> bool:
    """Whether a process is there and more than a name that waits to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def transactions(seed: int) -> list[Any]:
    """Votes, renames, failed ones, votes of a question that is not, events that do not decode or are too long, and logs that were cut."""
    rng, tallies = random.Random(seed), {room: [0, 0] for room in "abcd"}
    made = [
        history.transaction(2, n, history.community(room), history.question(room, 0)) for n, room in enumerate(tallies)
    ]
    for number in range(ROWS):
        slot, index, room, kind = 3 + number // 3, number % 3, rng.choice("abcd"), rng.random()
        renamed = history.renamed(room, f"n{number}")
        raw = history.CODEC.encode_event(*renamed)
        if kind < 0.01 and number > ROWS / 2:
            one = history.transaction(slot, index, raw[: rng.choice((20, len(raw) - 1))])
        elif kind < 0.02 and number > ROWS / 2:
            one = history.transaction(slot, index, history.vote(room, 9, f"w{slot}", 0, [1, 0]))
        elif kind < 0.06:
            one = history.transaction(slot, index, renamed, err='"failed"')
        elif kind < 0.1:
            one = history.transaction(slot, index, raw + b"\x01\x02")
        elif kind < 0.14:
            one = history.transaction(slot, index, renamed)
            one = replace(one, logs=(*one.logs[:2], "Log truncated", *one.logs[2:]))
        elif kind < 0.3:
            one = history.transaction(slot, index, renamed)
        else:
            tallies[room][choice := rng.randrange(2)] += 1
            vote = history.vote(room, 0, f"w{rng.randrange(40)}", choice, list(tallies[room]))
            one = history.transaction(slot, index, vote)
        made.append(one)
    return made


class Play:
    """A history whose first part is in the ledger, and what happens while it is followed."""

    def __init__(self, dsn: str, seed: int, chain: Any = None) -> None:
        rng = random.Random(seed)
        whole = transactions(seed)
        self.late = sorted(rng.sample(range(10, len(whole)), 6))
        kept = [each for number, each in enumerate(whole) if number not in self.late]
        self.missed = [whole[number] for number in self.late]
        self.placed = kept
        self.dead = rng.sample(range(20, len(kept)), 6)
        self.chain = chain or history.Ledger(dsn)
        self.dsn = dsn
        if chain is None:
            for _, each in groupby(kept, key=lambda t: t.slot // 17):
                self.chain.seal(*each)

    def disturb(self, part: int) -> None:
        """Some rows are found late, some die."""
        self.chain.late(*self.missed[part * 3 : part * 3 + 3])
        for number in self.dead[part * 3 : part * 3 + 3]:
            self.chain.retract(number + 1, self.placed[number])

    @property
    def rows(self) -> int:
        return len(self.placed) + len(self.missed)


@contextlib.contextmanager
def twin(dsn: str) -> Iterator[str]:
    """A copy of a database that nobody is connected to."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    other = f"{name}_twin"
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(other), sql.Identifier(str(name)))
        )
        yield make_conninfo(dsn, dbname=other)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other)))


def shown(dsn: str) -> dict[str, list[Any]]:
    """Everything that the two ways must agree in."""
    found: dict[str, list[Any]] = {}
    with database.connect(dsn) as conn:
        schemas = dict(conn.execute("SELECT name, 'projection_' || generation FROM projections.installed").fetchall())
        tables = {"decoded": schemas["events"]}
        if "voting.voting" in schemas:
            tables |= dict.fromkeys(("communities", "members", "questions", "votes"), schemas["voting.voting"])
        for table, schema in tables.items():
            found[table] = sorted(conn.execute(f"SELECT * FROM {schema}.{table}").fetchall(), key=str)
        found["letters"] = conn.execute(
            "SELECT position, event_index, event_name, scope, reason, raw FROM ledger.dead_letters"
            " WHERE resolved_at IS NULL ORDER BY 1, 2"
        ).fetchall()
        found["states"] = conn.execute(
            "SELECT name, position, retraction_id FROM projections.installed ORDER BY 1"
        ).fetchall()
    return found


def counted() -> tuple[float, ...]:
    """Events, incomplete transactions, longer events."""
    longer = metrics.LONGER.labels(program=history.PROGRAM)
    return tuple(each._value.get() for each in (metrics.EVENTS, metrics.INCOMPLETE, longer))


def alone(play: Play, specs: tuple[ProgramSpec, ...]) -> tuple[dict[str, list[Any]], tuple[float, ...]]:
    """What is shown, and counted, when it is followed by one thread of this process."""
    before = counted()
    worker = Worker(play.dsn, specs, rows_max=BATCH)
    with database.connect(play.dsn) as conn:
        for part, steps in ((0, 12), (1, 25), (2, 10**6)):
            for _ in range(steps):
                if not worker.step(conn):
                    break
            if part < 2:
                play.disturb(part)
    return shown(play.dsn), tuple(b - a for a, b in zip(before, counted(), strict=True))


class Following:
    """A worker with a process that reads ahead. `at`: what to do when the tape is at a batch of this number, in the reader's own thread."""

    def __init__(
        self, play: Play, specs: tuple[ProgramSpec, ...], monkeypatch: pytest.MonkeyPatch, bounds: Bounds = BOUNDS
    ) -> None:
        self.lost: list[str] = []
        self.at: dict[int, Callable[[], None]] = {}
        self.supplied = self.calls = 0
        self.pids: set[int] = set()
        self.errors: list[BaseException] = []
        self.worker = Worker(play.dsn, specs, rows_max=BATCH, poll_s=0.05, lost=self.lost.append, ahead=bounds)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.play = play
        real = self.worker._ahead.next

        def following(position: int, head: int, rows: int, over: Callable[[], bool]) -> Any:
            self.calls += 1
            if (act := self.at.pop(self.calls, None)) is not None:
                act()
            found = real(position, head, rows, over)
            self.supplied += found is not None
            if (pid := self.pid) is not None:
                self.pids.add(pid)
            return found

        monkeypatch.setattr(self.worker._ahead, "next", following)

    @property
    def pid(self) -> int | None:
        helper = self.worker._ahead._helper
        return None if helper is None else helper.pid  # type: ignore[attr-defined]

    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            self.worker.run(self._stop)
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not [pid for pid in self.pids if alive(pid)]
        assert metrics.AHEAD_BATCHES._value.get() == 0

    def finishes(self) -> None:
        """Until everything is projected, retractions too."""
        with database.connect(self.play.dsn) as conn:
            until(
                lambda: (
                    self.errors
                    or conn.execute(
                        "SELECT bool_and(position = %s AND retraction_id = (SELECT coalesce(max(id), 0) FROM ledger.retractions))"
                        " FROM projections.installed",
                        (self.play.rows,),
                    ).fetchone()
                    == (True,)
                )
            )
        assert self.errors == []
        assert self.at == {}


def both(
    dsn: str, seed: int, monkeypatch: pytest.MonkeyPatch, arrange: Callable[[Following], None]
) -> tuple[Following, tuple[float, ...], tuple[float, ...]]:
    """Follow one history both ways and compare."""
    play = Play(dsn, seed)
    specs = (play.chain.spec(),)
    bootstrap.ensure(dsn, specs)
    with twin(dsn) as other:
        chain = history.Ledger(other)
        chain.sealed = play.chain.sealed
        wanted, wanted_counts = alone(Play(other, seed, chain), specs)
    assert wanted["letters"]
    before = counted()
    run = Following(play, specs, monkeypatch)
    run.at = {14: lambda: play.disturb(0), 29: lambda: play.disturb(1)}
    arrange(run)
    with run:
        run.finishes()
    counts = tuple(b - a for a, b in zip(before, counted(), strict=True))
    found = shown(dsn)
    for name, rows in wanted.items():
        assert found[name] == rows, name
    assert all(d.equal for name in ("events", "voting") for d in rebuild(dsn, specs, name, dry_run=True).differences)
    return run, counts, wanted_counts


@pytest.mark.parametrize("seed", range(2))
def test_the_tables_and_the_counts_are_those_of_one_that_reads_by_itself(
    db: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counts, wanted = both(db, seed, monkeypatch, lambda _: None)
    assert counts == wanted
    assert min(wanted) > 0
    assert run.lost == []
    # All but the last few rows came from one process.
    assert run.supplied >= (ROWS - 30) / BATCH - 1
    assert len(run.pids) == 1


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_it_changes_nothing(db: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)

    def arrange(run: Following) -> None:
        for number in rng.sample([n for n in range(2, 40) if n not in run.at], 4):
            # Some with answers on their way, some while an answer is waited for.
            later = rng.choice((0.0, 0.0, 0.002, 0.01))
            run.at[number] = lambda later=later: threading.Timer(later, run.kill).start() if later else run.kill()

    run, counts, wanted = both(db, seed, monkeypatch, arrange)
    assert counts == wanted
    assert 1 <= len(run.lost) <= 4
    assert len(run.pids) > 1


def test_an_idl_that_is_learnt_meanwhile_holds_for_all_that_was_not_taken(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(db, 7)
    document = IDL_FILE.read_bytes()
    registry = ProgramRegistry([IdlVersion(address_bytes(history.PROGRAM), 0, document)])
    base = play.chain.spec()
    specs = (ProgramSpec(base.name, base.address, base.program_id, base.idl, (), registry),)
    bootstrap.ensure(db, specs)
    # The same bytes under another name: what was decoded by the older one shows.
    newer = json.loads(document)
    for part in ("events", "types"):
        for each in newer[part]:
            each["name"] = {"VoteCast": "BallotCast"}.get(each["name"], each["name"])
    run = Following(play, specs, monkeypatch)
    learnt: list[int] = []

    def learn() -> None:
        assert run.worker._ahead._asked, "nothing was asked for"
        # What was asked for is made by now.
        helper = run.worker._ahead._helper
        until(lambda: helper._waiting.qsize() >= 2)  # type: ignore[union-attr]
        learnt.append(run.worker._tape._batches[-1].last)
        registry.add(IdlVersion(address_bytes(history.PROGRAM), 0, json.dumps(newer).encode()))

    run.at = {20: learn, 22: lambda: play.disturb(0), 24: lambda: play.disturb(1)}
    with run:
        run.finishes()
    assert run.lost == []
    assert len(run.pids) == 2, "another one, which knows it, went on"
    with database.connect(db) as conn:
        names = conn.execute(
            "SELECT name, count(*), min(position) > %s, max(position) <= %s FROM events.decoded WHERE name LIKE '%%Cast' GROUP BY 1 ORDER BY 1",
            (learnt[0], learnt[0]),
        ).fetchall()
    assert [(name, after, before) for name, _, after, before in names] == [
        ("BallotCast", True, False),
        ("VoteCast", False, True),
    ]


def test_one_that_cannot_connect_or_hangs_stops_nothing_and_is_told_once(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = replace(BOUNDS, pause_s=600.0, silent_s=1.0)
    play = Play(db, 3)
    specs = (play.chain.spec(),)
    bootstrap.ensure(db, specs)
    refused = Following(play, specs, monkeypatch, bounds)
    monkeypatch.setattr(refused.worker._ahead, "_dsn", make_conninfo(db, port="1", password="not-to-be-shown"))
    before = metrics.AHEAD_LOST._value.get()
    with refused:
        until(lambda: refused.lost)
        until(lambda: refused.errors or all(s.position > 100 for s in refused.worker.status()))
    assert refused.supplied == 0
    assert len(refused.lost) == 1
    assert "cannot be reached" in refused.lost[0]
    assert "not-to-be-shown" not in refused.lost[0]
    assert metrics.AHEAD_LOST._value.get() == before + 1
    with database.connect(db) as conn:
        while Worker(db, specs).step(conn):
            pass
    # One that is stopped in the middle.
    more = [history.transaction(3_000 + n, 0, history.renamed("a", f"m{n}")) for n in range(400)]
    play.chain.seal(*more)
    play.placed += more
    play.disturb(0)
    play.disturb(1)
    hung = Following(play, specs, monkeypatch, bounds)
    hung.at = {5: lambda: os.kill(hung.pid or 0, signal.SIGSTOP)}
    with hung:
        hung.finishes()
    assert len(hung.lost) == 1
    assert "in time" in hung.lost[0]
    assert hung.supplied > 0


def test_one_that_cannot_be_started_says_why(db: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bounds = replace(BOUNDS, pause_s=600.0)
    for executable, wanted in ((str(tmp_path / "none"), "No such file"), ("/bin/false", "exit code 1")):
        if executable == "/bin/false" and not Path(executable).exists():
            continue
        lost: list[str] = []
        reader = Ahead(db, (), bounds, lost=lost.append)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", executable)
            assert reader.next(0, 1_000, 10, lambda: False) is None
            assert reader.next(0, 1_000, 10, lambda: False) is None
        assert len(lost) == 1
        assert wanted in lost[0]


# ---- it never outlives us ----


@pytest.mark.parametrize("how", ["stop", "error"])
def test_a_worker_that_ends_in_the_middle_ends_it_too(db: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    play = Play(db, 5)
    specs = (play.chain.spec(),)
    bootstrap.ensure(db, specs)
    run = Following(play, specs, monkeypatch)

    def end() -> None:
        if how == "error":
            raise RuntimeError("planned")
        run._stop.set()

    run.at = {9: end}
    with run:
        run._thread.join(60)
        assert not run._thread.is_alive()
        assert len(run.pids) == 1
        assert not [pid for pid in run.pids if alive(pid)]
    assert run.supplied >= 7
    assert [str(error) for error in run.errors] == (["planned"] if how == "error" else [])
    assert run.lost == []
    # Another one goes on.
    again = Following(play, specs, monkeypatch)
    play.disturb(0)
    play.disturb(1)
    with again:
        again.finishes()
    assert all(d.equal for name in ("events", "voting") for d in rebuild(db, specs, name, dry_run=True).differences)


# A worker in a process of its own, that ends well when it is told to. It says which process reads ahead for it.
_PROCESS = """
import signal, sys, threading, time
from programs.idl import load_idl
from projections import ahead, bootstrap
from projections.ahead import Bounds
from projections.worker import Worker
ahead._processors = lambda: 2
dsn, address, number, idl, when = sys.argv[1:]
spec = bootstrap.spec("voting", address, int(number), load_idl(open(idl, "rb").read()), ())
stop = threading.Event()
for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, lambda *_: stop.set())
worker = Worker(dsn, (spec,), rows_max=5, poll_s=0.05, ahead=Bounds(begin_rows=30, end_rows=10, batches=3),
    lost=lambda why: print("lost:", why, flush=True))
reader, real = worker._ahead, worker._ahead.next
def following(position, head, rows, over):
    found = real(position, head, rows, over)
    if reader._helper is not None and when == "begun" or found is not None:
        print(reader._helper.pid, flush=True)
        stop.wait(120)
    return found
reader.next = following
ready = ahead.Ahead._ready
def waiting(self, helper):
    while when != "begun" and not helper._waiting.qsize():
        time.sleep(0.01)
    if when == "locked":
        print(helper.pid, flush=True)
        sys.stdin.readline()
    return ready(self, helper)
ahead.Ahead._ready = waiting
worker.run(stop)
"""


def process(play: Play, when: str) -> subprocess.Popen[bytes]:
    arguments = [play.dsn, history.PROGRAM, str(play.chain.program_id), str(IDL_FILE), when]
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def play(db: str) -> Play:
    made = Play(db, 11)
    bootstrap.ensure(db, (bootstrap.spec("voting", history.PROGRAM, made.chain.program_id, history.IDL, ()),))
    return made


@pytest.mark.parametrize("when", ["begun", "used"])
def test_it_ends_with_a_parent_that_is_killed(play: Play, when: str) -> None:
    with process(play, when) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"postgresql" not in command
        assert b"host=" not in command
        parent.kill()
        until(lambda: not alive(pid))
        assert b"Traceback" not in parent.communicate()[1]


def test_it_ends_with_a_parent_that_is_killed_while_a_query_takes_long(play: Play) -> None:
    ours = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = 'indexer-projections-ahead'"
    with (
        database.connect(play.dsn) as blocker,
        database.connect(play.dsn) as watcher,
        process(play, "locked") as parent,
    ):
        assert parent.stdout is not None
        assert parent.stdin is not None
        pid = int(parent.stdout.readline())
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE ledger.batches IN ACCESS EXCLUSIVE MODE")
        parent.stdin.write(b"go on\n")
        parent.stdin.flush()
        until(lambda: watcher.execute(ours).fetchall() == [("Lock",)])
        parent.kill()
        until(lambda: not alive(pid))
        blocker.execute("ROLLBACK")
        until(lambda: watcher.execute(ours).fetchall() == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_group_end_it_without_a_word(play: Play, number: int) -> None:
    with process(play, "used") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, number)
        out, err = parent.communicate(timeout=60)
        assert parent.returncode == 0
        assert not alive(pid)
        assert b"lost" not in out
        assert err == b""
