"""Follows the ledger: one thread reads and decodes, and everything that is projected follows on its own connection, at its own pace.
While they are far behind the thread takes what another process read and decoded.

Any number of workers may run: a projection's row is the lock, and whoever finds another state in it than its own takes that one over
instead of applying anything twice. What is projected can be made again from the ledger, and its checkpoint commits with it, so these
transactions do not wait for the disk: after a crash of the server the last of them are missing together, and are made again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

from programs.collector import collect_seldom
from programs.errors import UserError
from projections import accounts, catalogue, metrics
from projections.ahead import Ahead, Bounds
from projections.apply import (
    Batch,
    Overtaken,
    Target,
    advance,
    advance_events,
    batch_of,
    decoded_statement,
    due,
    fold_early,
)
from projections.bootstrap import clean_litter, events_version, show, stale, version
from projections.catalogue import EVENTS, Conn, State
from projections.decoding import Decoder, ProgramSpec
from projections.guesses import Guesses, Misguessed
from projections.model import Projection
from projections.pipeline import Writer, take_turns
from projections.store import Store, Writes, quoted
from projections.tape import ROWS_MAX, Tape
from projections.views import installed_name
from schema import db, reads

if TYPE_CHECKING:
    from projections.rebuild import Waits

POLL_S = 0.25
RETRY_S = 5.0
# Standings are never older than this and the time of one look.
OBSERVE_REST_S_MAX = 2.0
CLEAN_S = 10.0
# Smaller batches are not written beside the next one's fold: handing them over costs more than waiting for the server.
EARLY_ROWS_MIN = 200
# Batches of so few rows are written as statements that go with the commit, larger ones by COPY.
SHORT_ROWS_MAX = 64
# How long the connection for that stays open unused.
WRITER_IDLE_S = 10.0
# What a follower holds between batches. Live it is the questions and communities of the day that come again, not the votes: a rebuild's
# bound would keep fifty megabytes a projection for what is hardly ever read twice.
ROWS_HELD_MAX = 5_000
_APPLICATION = "indexer-projections"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a projection is. `lag_slots` against the last row of the ledger; `failed` is the error it stands still with."""

    name: str
    position: int
    slot: int
    lag_positions: int
    lag_slots: int
    dead_letters: int
    failed: str | None


class Follower(Protocol):
    """Something that is kept up with the ledger."""

    name: str
    state: State | None
    failed: str | None

    def step(self, conn: Conn, tape: Tape) -> bool: ...

    def settle(self) -> bool: ...

    def close(self) -> None: ...


class _Following:
    """What followers have in common: the state they believe in, their failure, and the batches that the tape no longer has."""

    def __init__(self, name: str, specs: Sequence[ProgramSpec]) -> None:
        self.name = name
        self.state: State | None = None
        self.failed: str | None = None
        self._failed_at = 0.0
        self._specs = tuple(specs)
        self._decoder: Decoder | None = None

    @property
    def decoder(self) -> Decoder:
        """This follower's own: decoders are not for several threads."""
        if self._decoder is None:
            self._decoder = Decoder(self._specs)
        return self._decoder

    def wanted_version(self) -> str:
        raise NotImplementedError

    def take(self, conn: Conn, state: State) -> None:
        """Begin from a state that somebody else left."""
        self.state = state

    def apply(self, conn: Conn, batch: Batch, retractions: Sequence[reads.RetractionRow]) -> list[str]:
        """Apply a batch in the caller's transaction. What of it is left to be done: statements to go with the commit."""
        raise NotImplementedError

    def end(self, held: catalogue.Held, statements: list[str]) -> None:
        """Commit what was applied."""
        assert self.state is not None, "applied"
        held.end(self.state, *statements)

    def forget(self) -> None:
        """What is remembered may be wrong."""
        self.state = None

    def close(self) -> None:
        """The end: what is under way is finished."""

    def early(self, conn: Conn, tape: Tape, batch: Batch) -> bool:
        """Apply a batch before the one before it is committed; False when that cannot be done with it."""
        return False

    def settle(self) -> bool:
        """Wait for what was applied early; False when nothing was."""
        return False

    def step(self, conn: Conn, tape: Tape) -> bool:
        """Apply one batch; False when there is nothing to do now. psycopg.Error only when the connection is lost."""
        if self.failed is not None and time.monotonic() - self._failed_at < RETRY_S:
            return False
        try:
            return self._step(conn, tape)
        except (Misguessed, Overtaken):
            # Nothing was committed; the batch is done again, and looks this time.
            self.forget()
            return True
        except Exception as error:
            # One projection's mistake stops that projection only; it is tried again after a pause.
            self.forget()
            if conn.broken or conn.closed:
                raise
            text = str(error).strip() or type(error).__name__
            self.failed = f"{type(error).__name__}: {text.splitlines()[0]}"[:300]
            self._failed_at = time.monotonic()
            return False

    def _step(self, conn: Conn, tape: Tape) -> bool:
        if self.state is None:
            found = catalogue.states(conn).get(self.name)
            if found is None or found.version != self.wanted_version():
                # Tables of another version: they serve as they are until their rebuild is swapped in.
                return False
            self.take(conn, found)
            tape.stands(self.name, found.position)
        state = self.state
        assert state is not None, "taken"
        batch = tape.after(state.position)
        if batch is None:
            batch = batch_of(state.position, reads.read_parts(conn, state.position, tape.rows), self.decoder)
        retractions: list[reads.RetractionRow] = []
        if tape.retraction_id > state.retraction_id:
            known = reads.retractions_after(conn, state.retraction_id)
            retractions = due(known, state.retraction_id, max(batch.last, state.position))
        if batch.places and not retractions and self.early(conn, tape, batch):
            return True
        if self.settle():
            return True
        if not batch.places and not retractions:
            # Where it failed, somebody else went on.
            self.failed = None
            return False
        started = time.monotonic()
        with metrics.BATCH_SECONDS.labels(projection=self.name).time(), catalogue.holding(conn, self.name) as held:
            if held.state != state:
                # Another writer was here, or the tables were swapped: begin again from what is true.
                self.forget()
                return True
            self.end(held, self.apply(conn, batch, retractions))
        self.failed = None
        metrics.BATCHES.labels(projection=self.name).inc()
        tape.moved(self.name, max(batch.last, state.position), time.monotonic() - started, len(batch.places))
        return True


class EventsFollower(_Following):
    """Keeps `events.decoded` up with the ledger."""

    def __init__(self, specs: Sequence[ProgramSpec]) -> None:
        super().__init__(EVENTS, specs)

    def wanted_version(self) -> str:
        return events_version(self._specs)

    def apply(self, conn: Conn, batch: Batch, retractions: Sequence[reads.RetractionRow]) -> list[str]:
        assert self.state is not None, "taken"
        if retractions or len(batch.places) > SHORT_ROWS_MAX:
            self.state = advance_events(conn, self._specs, self.state, batch, retractions)
            return []
        statement = decoded_statement(self.state.schema, batch.since(self.state.position).events)
        self.state = advance_events(conn, self._specs, self.state, batch, retractions, write=False)
        return [] if statement is None else [statement]


class ProjectionFollower(_Following):
    """Keeps a projection's tables up with the ledger.

    connect: where to write from while the next batch is folded; without it one batch is done after the other.
    """

    def __init__(
        self,
        specs: Sequence[ProgramSpec],
        spec: ProgramSpec,
        projection: Projection,
        connect: Callable[[], Conn] | None = None,
    ) -> None:
        super().__init__(installed_name(spec, projection), specs)
        self._spec, self._projection = spec, projection
        self._target: Target | None = None
        self._guesses = Guesses()
        self._connect = connect
        self._writer: Writer | None = None
        # What it is at, or was last.
        self._writes: Writes | None = None
        self._written_at = 0.0
        # Until then batches are done under the lock from their beginning: only there is it certain whose fault an error is.
        self._careful_until = 0.0

    def wanted_version(self) -> str:
        return version(self._spec, self._projection)

    def take(self, conn: Conn, state: State) -> None:
        decoded = f"{quoted(catalogue.states(conn)[EVENTS].schema)}.decoded"
        store = Store(conn, self._projection, state.schema, ROWS_HELD_MAX, guesses=self._guesses)
        self._target = Target(self._spec, self._projection, store, state, decoded)
        self.state = state

    def forget(self) -> None:
        self.close()
        self.state = self._target = None

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def apply(self, conn: Conn, batch: Batch, retractions: Sequence[reads.RetractionRow]) -> list[str]:
        target = self._target
        assert target is not None, "taken"
        target.store.use(conn)
        folded, statements = None, list[str]()
        if not retractions and len(batch.places) <= SHORT_ROWS_MAX:
            folded = fold_early(conn, target, batch)
        if folded is None:
            advance(conn, self._specs, target, self.decoder, batch, retractions)
        else:
            self._writes = folded.writes
            try:
                statements = folded.perform(conn)
            except Misguessed as error:
                target.store.misguessed(error)
                raise
        self.state = target.state
        metrics.CACHED_ROWS.labels(projection=self.name).set(target.store.size)
        return statements

    def end(self, held: catalogue.Held, statements: list[str]) -> None:
        target, writes = self._target, self._writes
        assert target is not None, "applied"
        try:
            super().end(held, statements)
        except psycopg.errors.UniqueViolation as error:
            wrong = None if writes is None or not statements else writes.misguessed(error)
            if wrong is None:
                raise
            target.store.misguessed(wrong)
            raise wrong from None
        if writes is not None:
            target.store.settled(writes)

    def early(self, conn: Conn, tape: Tape, batch: Batch) -> bool:
        target, writer = self._target, self._writer
        busy = writer is not None and writer.busy
        if self._connect is None or len(batch.places) < EARLY_ROWS_MIN or time.monotonic() < self._careful_until:
            return False
        if not busy and not tape.more(batch.last):
            # Nothing would be folded meanwhile.
            return False
        assert target is not None, "taken"
        started = time.monotonic()
        try:
            with metrics.BATCH_SECONDS.labels(projection=self.name).time():
                target.store.use(conn)
                folded = fold_early(conn, target, batch)
                if folded is None:
                    return False
                folded.writes.prepare()
                self._wait()
        except (Misguessed, Overtaken):
            raise
        except Exception:
            # Of rows, perhaps, that somebody else changed meanwhile.
            self._take_care()
            return True
        if self._writer is None:
            self._writer = Writer(self._connect, f"projections-{self.name}-writer")
        self._writer.begin(folded.commit)
        self._writes = folded.writes
        self.state = folded.state
        metrics.BATCHES.labels(projection=self.name).inc()
        metrics.CACHED_ROWS.labels(projection=self.name).set(target.store.size)
        tape.moved(self.name, folded.state.position, time.monotonic() - started, len(batch.places))
        return True

    def settle(self) -> bool:
        writer = self._writer
        if writer is None:
            return False
        if writer.busy:
            try:
                self._wait()
            except (Misguessed, Overtaken):
                self.forget()
            except Exception:
                self._take_care()
            return True
        if time.monotonic() - self._written_at > WRITER_IDLE_S:
            self.close()
        return False

    def _take_care(self) -> None:
        self.forget()
        self._careful_until = time.monotonic() + RETRY_S

    def _wait(self) -> None:
        """For the batch before, which is settled then."""
        writer, target = self._writer, self._target
        if writer is None or not writer.busy:
            return
        assert target is not None, "whoever writes has a target"
        assert self._writes is not None, "whoever is busy was given something"
        try:
            writer.wait()
        except Misguessed as error:
            target.store.misguessed(error)
            raise
        target.store.settled(self._writes)
        self.failed = None
        self._written_at = time.monotonic()


def _rest_s(poll_s: float, looked_s: float) -> float:
    """Looking never takes more than a tenth of the time. A look that stood before a lock says nothing about the next one, and readiness must not
    rest on what was seen minutes ago."""
    return min(max(min(poll_s, 0.05), 10 * looked_s), OBSERVE_REST_S_MAX)


class AccountsFollower:
    """Keeps the account mirror up with the samples."""

    name = "accounts"

    def __init__(self, specs: Sequence[ProgramSpec]) -> None:
        self._specs = tuple(specs)
        self.state: State | None = None
        self.failed: str | None = None
        self._failed_at = 0.0

    def step(self, conn: Conn, tape: Tape) -> bool:
        """Take up new samples."""
        if self.failed is not None and time.monotonic() - self._failed_at < RETRY_S:
            return False
        try:
            moved = accounts.follow(conn, self._specs)
        except Exception as error:
            if conn.broken or conn.closed:
                raise
            self.failed = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
                :300
            ]
            self._failed_at = time.monotonic()
            return False
        self.failed = None
        return moved


class Worker:
    """Keeps the tables of the given programs up to date."""

    def __init__(
        self,
        dsn: str,
        programs: Sequence[ProgramSpec],
        *,
        poll_s: float = POLL_S,
        rows_max: int = ROWS_MAX,
        waits: Waits | None = None,
        lost: Callable[[str], None] | None = None,
        ahead: Bounds | None = None,
    ) -> None:
        """waits: told who holds up the swap of a rebuild that began by itself. lost: told why a process that reads ahead was given up."""
        self._dsn = dsn
        self._specs = tuple(programs)
        self._poll_s = poll_s
        self._waits = waits
        self._tape = Tape(self._specs, rows_max)
        self._ahead = Ahead(dsn, self._specs, ahead, lost=lost)
        self._followers: tuple[Follower, ...] = (
            EventsFollower(self._specs),
            *(ProjectionFollower(self._specs, s, p, self._connect) for s in self._specs for p in s.projections),
        )
        self._accounts = AccountsFollower(self._specs)
        self._rebuilding: dict[str, str] = {}
        self._lock = threading.Lock()
        self._standings: tuple[Standing, ...] = ()
        self._sealed_slot = -1
        self._started = False

    # ---- what the daemon asks ----

    def status(self) -> tuple[Standing, ...]:
        """The last known standing of every projection."""
        with self._lock:
            return self._standings

    def projected_slot(self) -> int:
        """Every projection shows all that is sealed up to here; -1 before the first batch."""
        standings = self.status()
        if not standings:
            return -1
        behind = [s for s in standings if s.lag_positions > 0 or s.failed]
        with self._lock:
            return min((s.slot - 1 for s in behind), default=self._sealed_slot)

    def reasons(self, lag_slots_max: int) -> list[dict[str, Any]]:
        """Why the tables are not ready; empty when they are."""
        if not self._started:
            return [{"reason": "projections_starting"}]
        found: list[dict[str, Any]] = []
        for s in self.status():
            if s.failed:
                found.append({"reason": "projection_failed", "projection": s.name, "detail": s.failed})
            elif s.lag_slots > lag_slots_max:
                found.append(
                    {"reason": "projected_lag", "projection": s.name, "slots": s.lag_slots, "limit": lag_slots_max}
                )
            if s.dead_letters:
                detail = {"count": s.dead_letters, "remedy": "indexer dead-letters list"}
                found.append({"reason": "dead_letters", "projection": s.name, **detail})
        if self._accounts.failed is not None:
            found.append({"reason": "projection_failed", "projection": "accounts", "detail": self._accounts.failed})
        return found

    # ---- the threads ----

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. psycopg.Error when the database goes away: the caller starts it anew."""
        collect_seldom()
        take_turns()
        with self._connect() as conn:
            clean_litter(conn)
            self._begin(conn)
            self._observe(conn)
        ended = threading.Event()
        errors: list[BaseException] = []

        def guarded(work: Callable[[Callable[[], bool]], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    work(lambda: stop.is_set() or ended.is_set())
                except BaseException as error:
                    errors.append(error)
                    ended.set()
                    self._tape.wake()

            return run

        threads = [
            threading.Thread(target=guarded(work), name=f"projections-{name}", daemon=True)
            for name, work in (
                ("reader", self._read),
                ("observer", self._watch),
                ("rebuilder", self._rebuild),
                *((f.name, lambda over, f=f: self._follow(f, over)) for f in self._followers),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # A rebuild that is under way ends with the process; what it leaves is removed at the next start.
            if not thread.name.endswith("-rebuilder"):
                thread.join()
        if errors:
            raise errors[0]

    def _connect(self) -> Conn:
        conn = db.connect(self._dsn, application=_APPLICATION)
        conn.execute("SET synchronous_commit = off")
        return conn

    def _begin(self, conn: Conn) -> None:
        states = catalogue.states(conn)
        known = [states[f.name].position for f in self._followers if f.name in states]
        self._tape.restart(min(known, default=0))

    def _read(self, over: Callable[[], bool]) -> None:
        """Wait for the ledger to grow, read, decode."""
        ahead = partial(self._ahead.next, over=over)
        try:
            with self._connect() as listener, self._connect() as conn:
                listener.execute("LISTEN indexer_ledger")
                while not over():
                    if not self._tape.hold(self._poll_s) or self._tape.read(conn, ahead):
                        continue
                    # The notification is a hint; the poll makes a lost one harmless.
                    for _ in listener.notifies(timeout=self._poll_s, stop_after=1):
                        break
        finally:
            self._ahead.close()

    def _follow(self, follower: Follower, over: Callable[[], bool]) -> None:
        with contextlib.closing(follower), self._connect() as conn:
            while not over():
                if not follower.step(conn, self._tape):
                    state = follower.state
                    if state is None or follower.failed is not None:
                        time.sleep(min(self._poll_s, 0.1))
                    else:
                        self._tape.wait(state.position, state.retraction_id, self._poll_s)

    def _watch(self, over: Callable[[], bool]) -> None:
        """Mirror the accounts, and tell where everything stands."""
        cleaned = time.monotonic()
        with self._connect() as conn:
            while not over():
                if time.monotonic() - cleaned > CLEAN_S:
                    # Tables that a reader held when they were swapped out, and what a killed rebuild's server process held on to.
                    clean_litter(conn)
                    cleaned = time.monotonic()
                moved = self._accounts.step(conn, self._tape)
                started = time.monotonic()
                self._observe(conn)
                if not moved:
                    # Looking costs more the more letters there are.
                    time.sleep(_rest_s(self._poll_s, time.monotonic() - started))

    def _rebuild(self, over: Callable[[], bool]) -> None:
        """Build anew what was made by another version, one after the other; everything else goes on meanwhile."""
        pause = self._poll_s
        while not over():
            with self._connect() as conn:
                names = stale(conn, self._specs)
            if not names:
                self._rebuilding = {}
                self._show(over)
                return
            for name in names:
                if over():
                    return
                self._rebuild_one(name)
            time.sleep(pause)
            pause = min(pause * 2, RETRY_S)

    def _show(self, over: Callable[[], bool]) -> None:
        """The views that the start could not bring up to date, because of readers who were there before it. A rebuild's swap shows them all too."""
        from projections.rebuild import WAITS_TOLD_S, readers_wait

        told = time.monotonic()
        # What is wrong with the views themselves was said at the start, or will be at the next.
        with contextlib.suppress(UserError):
            while not over() and not show(self._dsn, self._specs):
                if self._waits is not None and time.monotonic() - told >= WAITS_TOLD_S:
                    told = time.monotonic()
                    with self._connect() as conn:
                        self._waits(readers_wait(conn))
                time.sleep(self._poll_s)

    def _rebuild_one(self, name: str) -> None:
        from projections.rebuild import rebuild

        try:
            rebuild(self._dsn, self._specs, name, waits=self._waits)
            self._rebuilding.pop(name, None)
        except UserError as error:
            # Another process is at it: its swap will show.
            self._rebuilding[name] = str(error)
        except psycopg.OperationalError:
            raise
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            self._rebuilding[name] = f"rebuild: {type(error).__name__}: {text.splitlines()[0]}"[:300]

    # ---- one batch at a time, without threads ----

    def rebuild_stale(self, conn: Conn) -> None:
        """Build anew everything that was made by another version, here and now."""
        from projections.rebuild import rebuild

        for name in stale(conn, self._specs):
            rebuild(self._dsn, self._specs, name)

    def step(self, conn: Conn) -> bool:
        """Apply one batch to everything that needs it; False when there was nothing."""
        if not self._started:
            self._begin(conn)
        for follower in self._followers:
            if follower.state is not None:
                continue
            found = catalogue.states(conn).get(follower.name)
            if found is not None and self._tape.after(found.position) is None:
                self._begin(conn)
        self._tape.read(conn)
        moved = [any((follower.step(conn, self._tape), follower.settle())) for follower in self._followers]
        moved.append(self._accounts.step(conn, self._tape))
        self._observe(conn)
        return any(moved)

    # ---- telling ----

    def _observe(self, conn: Conn) -> None:
        # What is sealed is read before the head: a seal that comes between them is not claimed.
        row = conn.execute(
            "SELECT coalesce(min(slot), -1) FROM ledger.checkpoints WHERE name LIKE 'ingest:%'"
        ).fetchone()
        sealed = -1 if row is None else int(row[0])
        head = reads.head(conn)
        states = catalogue.states(conn)
        letters = dict(
            conn.execute(
                "SELECT projection, count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL GROUP BY projection"
            ).fetchall()
        )
        found = []
        for follower in self._followers:
            state = states.get(follower.name)
            if state is None:
                continue
            lag = max(0, head - state.position)
            failed = follower.failed or self._rebuilding.get(follower.name)
            slots = max(0, sealed - state.slot) if lag else 0
            count = int(letters.get(state.name, 0))
            found.append(Standing(state.name, state.position, state.slot, lag, slots, count, failed))
            metrics.POSITION.labels(projection=state.name).set(state.position)
            metrics.LAG_POSITIONS.labels(projection=state.name).set(lag)
            metrics.DEAD_LETTERS.labels(projection=state.name).set(count)
            metrics.FAILED.labels(projection=state.name).set(failed is not None)
        with self._lock:
            self._standings, self._sealed_slot = tuple(found), sealed
        self._started = True
