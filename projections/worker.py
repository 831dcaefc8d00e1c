"""Follows the ledger: decodes each batch once and applies it to every projection, each in a transaction of its own.

Runs in a thread of the daemon or as its own process. Any number may run: the projection's row is the lock, and a worker that finds
another position than its own in it takes that one over instead of applying anything twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from projections import accounts, catalogue, metrics
from projections.apply import Target, advance, due, retract_decoded, write_decoded
from projections.bootstrap import stale
from projections.catalogue import EVENTS, Conn, State
from projections.decoding import Decoder, ProgramSpec
from projections.fold import UNDECODABLE, Parked, Poison
from projections.model import Event
from projections.store import Store, quoted
from projections.views import installed_name
from schema import db, reads

ROWS_MIN, ROWS_MAX = 100, 4_000
# A batch larger than this keeps readers waiting for what is in it; smaller ones waste commits.
BATCH_SECONDS = 0.15
POLL_S = 0.25
RETRY_S = 5.0


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


class Worker:
    """Keeps the tables of the given programs up to date."""

    def __init__(
        self, dsn: str, programs: Sequence[ProgramSpec], *, poll_s: float = POLL_S, rows_max: int = ROWS_MAX
    ) -> None:
        self._dsn = dsn
        self._specs = tuple(programs)
        self._poll_s = poll_s
        self._rows_max = rows_max
        self._rows = min(1_000, rows_max)
        self._decoder = Decoder(self._specs)
        self._targets: dict[str, Target] = {}
        self._events: State | None = None
        self._failed: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._standings: tuple[Standing, ...] = ()
        self._head_slot = -1
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
        return found

    # ---- the loop ----

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. psycopg.Error when the database goes away: the caller starts it anew."""
        with db.connect(self._dsn, application="indexer-projections") as listener:
            listener.execute("LISTEN indexer_ledger")
            with db.connect(self._dsn, application="indexer-projections") as conn:
                self._rebuild_stale(conn)
                self._reload(conn)
                while not stop.is_set():
                    if not self.step(conn) and not stop.is_set():
                        # The notification is a hint; the poll makes a lost one harmless.
                        for _ in listener.notifies(timeout=self._poll_s, stop_after=1):
                            break

    def _rebuild_stale(self, conn: Conn) -> None:
        from projections.rebuild import rebuild

        for name in stale(conn, self._specs):
            rebuild(self._dsn, self._specs, name)

    def _reload(self, conn: Conn) -> None:
        states = catalogue.states(conn)
        self._events = states[EVENTS]
        decoded = f"{quoted(self._events.schema)}.decoded"
        self._targets = {}
        for spec in self._specs:
            for projection in spec.projections:
                state = states[installed_name(spec, projection)]
                self._targets[state.name] = Target(
                    spec, projection, Store(conn, projection, state.schema), state, decoded
                )
        self._observe(conn)
        self._started = True

    def step(self, conn: Conn) -> bool:
        """Apply one batch to everything that needs it; False when there was nothing."""
        if self._events is None:
            self._reload(conn)
        assert self._events is not None, "reload fills it"
        now = time.monotonic()
        ready = [t for n, t in self._targets.items() if now - self._failed.get(n, ("", -RETRY_S))[1] >= RETRY_S]
        position = min([self._events.position, *(t.state.position for t in ready)])
        retraction = min([self._events.retraction_id, *(t.state.retraction_id for t in ready)])
        rows = reads.read_batch(conn, position, self._rows)
        retractions = reads.retractions_after(conn, retraction)
        moved = accounts.follow(conn, self._specs)
        if not rows and not retractions:
            if moved or not self._standings or any(s.lag_positions for s in self._standings) or self._sealed(conn):
                self._observe(conn)
            return False
        started = time.monotonic()
        events = self._decoder.decode(rows)
        metrics.EVENTS.inc(len(events))
        last = rows[-1].position if rows else position
        places = {r.position: (r.raw.slot, r.raw.transaction_index) for r in rows}
        self._apply_events(conn, rows_to=last, places=places, events=events, retractions=retractions)
        for target in ready:
            self._apply(conn, target, last, places, events, retractions)
        self._adapt(time.monotonic() - started, len(rows))
        self._observe(conn)
        return True

    def _adapt(self, seconds: float, rows: int) -> None:
        if seconds > BATCH_SECONDS:
            self._rows = max(ROWS_MIN, self._rows // 2)
        elif rows >= self._rows:
            self._rows = min(self._rows_max, self._rows * 2)

    def _apply_events(
        self,
        conn: Conn,
        rows_to: int,
        places: dict[int, tuple[int, int]],
        events: Sequence[Event | Poison],
        retractions: Sequence[reads.RetractionRow],
    ) -> None:
        with conn.transaction():
            state = catalogue.lock(conn, EVENTS)
            assert state is not None, "installed by bootstrap"
            if self._events is None or state.generation != self._events.generation:
                self._events = None
                return
            new = due(retractions, state.retraction_id, max(rows_to, state.position))
            if rows_to > state.position:
                fresh = [e for e in events if e.position > state.position]
                write_decoded(conn, state.schema, fresh)
                self._park_undecodable(conn, fresh)
            if new:
                retract_decoded(conn, state.schema, [r.position for r in new])
            place = max([(state.slot, state.transaction_index), *(v for k, v in places.items() if k > state.position)])
            self._events = replace(
                state,
                position=max(rows_to, state.position),
                slot=place[0],
                transaction_index=place[1],
                retraction_id=new[-1].id if new else state.retraction_id,
            )
            catalogue.save(conn, self._events)

    def _park_undecodable(self, conn: Conn, events: Sequence[Event | Poison]) -> None:
        # A program with a projection has its letters there; one without has nobody else to tell.
        for spec in self._specs:
            poisons = (
                [] if spec.projections else [e for e in events if isinstance(e, Poison) and e.program == spec.address]
            )
            parked = [
                Parked(p.position, p.slot, p.signature, p.event_index, p.name, "", UNDECODABLE, p.error, p.raw)
                for p in poisons
            ]
            catalogue.park(conn, EVENTS, spec.program_id, parked)

    def _apply(
        self,
        conn: Conn,
        target: Target,
        rows_to: int,
        places: dict[int, tuple[int, int]],
        events: Sequence[Event | Poison],
        retractions: Sequence[reads.RetractionRow],
    ) -> None:
        name, before = target.state.name, target.state
        if self._events is None:
            return
        try:
            with metrics.BATCH_SECONDS.labels(projection=name).time(), conn.transaction():
                state = catalogue.lock(conn, name)
                if state != before:
                    # Another writer was here, or the tables were swapped: begin again from what is true.
                    self._events = None
                    return
                mine = [e for e in events if e.position > state.position]
                new = due(retractions, state.retraction_id, max(rows_to, state.position))
                later = [v for k, v in places.items() if k > state.position]
                if not later and not new:
                    return
                advance(
                    conn, target, self._decoder, mine, max(rows_to, state.position), max(later, default=(-1, -1)), new
                )
                catalogue.save(conn, target.state)
            self._failed.pop(name, None)
            metrics.BATCHES.labels(projection=name).inc()
        except psycopg.OperationalError:
            raise
        except Exception as error:
            # One projection's mistake stops that projection only; it is tried again after a pause.
            target.state = before
            target.store.clear()
            text = str(error).strip() or type(error).__name__
            self._failed[name] = (f"{type(error).__name__}: {text.splitlines()[0]}"[:300], time.monotonic())

    # ---- telling ----

    def _sealed(self, conn: Conn) -> bool:
        row = conn.execute(
            "SELECT coalesce(min(slot), -1) FROM ledger.checkpoints WHERE name LIKE 'ingest:%'"
        ).fetchone()
        return row is not None and row[0] != self._sealed_slot

    def _observe(self, conn: Conn) -> None:
        # What is sealed is read before the head: a seal that comes between them is not claimed.
        row = conn.execute(
            "SELECT coalesce(min(slot), -1) FROM ledger.checkpoints WHERE name LIKE 'ingest:%'"
        ).fetchone()
        sealed = -1 if row is None else int(row[0])
        head = reads.head(conn)
        letters = dict(
            conn.execute(
                "SELECT projection, count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL GROUP BY projection"
            ).fetchall()
        )
        states = [t.state for t in self._targets.values()] + ([self._events] if self._events is not None else [])
        found = []
        for state in states:
            lag = max(0, head - state.position)
            failed = self._failed.get(state.name)
            slots = max(0, sealed - state.slot) if lag else 0
            count = int(letters.get(state.name, 0))
            found.append(Standing(state.name, state.position, state.slot, lag, slots, count, failed and failed[0]))
            metrics.POSITION.labels(projection=state.name).set(state.position)
            metrics.LAG_POSITIONS.labels(projection=state.name).set(lag)
            metrics.DEAD_LETTERS.labels(projection=state.name).set(count)
            metrics.FAILED.labels(projection=state.name).set(failed is not None)
        with self._lock:
            self._standings, self._sealed_slot = tuple(found), sealed
