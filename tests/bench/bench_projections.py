"""Rebuild and live projection against their floors, in one run: `python -m tests.bench.bench_projections [--votes N] [--json]`.

Floors: the same tables made by set-based SQL from events already decoded, and a handler that does its SQL per event.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from projections import bootstrap
from projections.rebuild import rebuild
from projections.worker import Worker
from schema import db
from schema.embedded import open_database

_HISTORY = Path(__file__).parents[1] / "integration/projections/history.py"
_SET = """
CREATE TABLE floor.votes AS SELECT DISTINCT ON (data ->> 'vote') data ->> 'vote' AS vote, data ->> 'community' AS community,
    data ->> 'question' AS question, data ->> 'voter' AS voter, 'cast' AS status, data ->> 'selections' AS selections,
    (data ->> 'anonymous')::boolean AS anonymous, to_timestamp((data ->> 'timestamp')::bigint) AS cast_at, slot AS created_slot,
    signature AS created_signature, slot AS updated_slot, signature AS updated_signature
    FROM {0}.decoded WHERE name = 'VoteCast' ORDER BY data ->> 'vote', position DESC, event_index DESC;
ALTER TABLE floor.votes ADD PRIMARY KEY (vote);
CREATE INDEX ON floor.votes ((CASE WHEN anonymous THEN NULL ELSE voter END), cast_at, vote);
CREATE INDEX ON floor.votes (question, voter);
CREATE INDEX ON floor.votes (question, vote);
CREATE INDEX ON floor.votes (community);
CREATE TABLE floor.questions AS SELECT DISTINCT ON (data ->> 'question') data ->> 'question' AS question, data -> 'tallies' AS tallies,
    slot AS updated_slot FROM {0}.decoded WHERE name = 'VoteCast' ORDER BY data ->> 'question', position DESC, event_index DESC;
ANALYZE floor.votes;
"""


def _history() -> Any:
    spec = importlib.util.spec_from_file_location("projection_history", _HISTORY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _fill(ledger: Any, history: Any, votes: int) -> None:
    names = [f"c{n}" for n in range(20)]
    ledger.seal(*[history.transaction(2, n, history.community(c), history.question(c, 0)) for n, c in enumerate(names)])
    slot, made = 3, 0
    while made < votes:
        batch = []
        for _ in range(50):
            for index in range(min(100, votes - made)):
                name = names[made % len(names)]
                batch.append(
                    history.transaction(slot, index, history.vote(name, 0, f"w{made}", 0, [made // len(names) + 1, 0]))
                )
                made += 1
            slot += 1
        ledger.seal(*batch, slot_last=slot - 1)


def _per_event(dsn: str, schema: str, rows_max: int) -> tuple[int, float]:
    with db.connect(dsn) as conn:
        conn.execute(
            "CREATE TABLE floor.naive (vote text PRIMARY KEY, question text, voter text, selections text, slot bigint)"
        )
        conn.execute("CREATE TABLE floor.naive_questions (question text PRIMARY KEY, tallies jsonb)")
        events = conn.execute(
            f"SELECT data, slot FROM {schema}.decoded WHERE name = 'VoteCast' ORDER BY position LIMIT %s", (rows_max,)
        ).fetchall()
        started = time.perf_counter()
        for data, slot in events:
            with conn.transaction():
                conn.execute("SELECT * FROM floor.naive WHERE vote = %s", (data["vote"],)).fetchone()
                conn.execute(
                    "INSERT INTO floor.naive VALUES (%s, %s, %s, %s, %s) ON CONFLICT (vote) DO UPDATE SET slot = excluded.slot",
                    (data["vote"], data["question"], data["voter"], data["selections"], slot),
                )
                conn.execute(
                    "INSERT INTO floor.naive_questions VALUES (%s, %s) ON CONFLICT (question) DO UPDATE SET tallies = excluded.tallies",
                    (data["question"], json.dumps(data["tallies"])),
                )
        return len(events), time.perf_counter() - started


def measure(dsn: str, votes: int) -> dict[str, float]:
    """Fill a ledger and measure. Rates are events a second."""
    db.upgrade(dsn)
    history = _history()
    ledger = history.Ledger(dsn)
    spec = ledger.spec()
    bootstrap.ensure(dsn, (spec,))
    _fill(ledger, history, votes)
    worker = Worker(dsn, (spec,), rows_max=1_000)

    def live() -> None:
        with db.connect(dsn) as conn:
            while worker.step(conn):
                pass

    live_s = _timed(live)
    rebuild_s = _timed(lambda: rebuild(dsn, (spec,), "voting"))
    with db.connect(dsn) as conn:
        row = conn.execute(
            "SELECT 'projection_' || generation FROM projections.installed WHERE name = 'events'"
        ).fetchone()
        assert row is not None
        conn.execute("CREATE SCHEMA floor")
        set_s = _timed(lambda: conn.execute(_SET.replace("{0}", row[0])))
    count, naive_s = _per_event(dsn, row[0], min(votes, 3_000))
    return {
        "votes": votes,
        "live_events_s": votes / live_s,
        "rebuild_events_s": votes / rebuild_s,
        "set_sql_events_s": votes / set_s,
        "per_event_sql_events_s": count / naive_s,
        "rebuild_to_set_sql": set_s / rebuild_s,
        "rebuild_to_per_event_sql": (votes / rebuild_s) / (count / naive_s),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, default=30_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with open_database(None) as dsn:
        found = measure(dsn, args.votes)
    if args.json:
        json.dump(found, sys.stdout)
        print()
    else:
        for name, value in found.items():
            print(f"{name:<28} {value:>14,.2f}")


if __name__ == "__main__":
    main()
