"""Live projection, rebuild, latency and memory against their floors, in one run.

    python -m tests.bench.bench_projections [--votes N] [--large N] [--seconds S] [--sizes N,N] [--json]

`live_projection`: the voting tables followed in batches of 1,000 events that are decoded already. `ledger_to_tables`: the whole of following,
from the ledger through reading and decoding to the voting tables and the table of all events.
Floors of the same run: the same tables, with the same indexes, made by set-based SQL from events already decoded, and made by a handler that
does its SQL per event, from events already decoded too.
CPU seconds are those of this process, its children and the server; on a machine that does other things they say more than the clock.
`--large N` fills a second, larger ledger and compares the rebuild's cost an event and its memory with the smaller one. Its tables are built
from nothing, so there is nothing to compare them with before the swap. `--sizes` rebuilds over ledgers of these sizes and does nothing else.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from programs import base58
from projections import bootstrap, catalogue
from projections.apply import Batch, batch_of
from projections.decoding import Decoder
from projections.pipeline import take_turns
from projections.tape import Tape
from projections.worker import ProjectionFollower, Worker
from schema import db, ledger, reads
from schema.embedded import open_database
from schema.rows import COLUMNS, encode_logs, prepare_row
from tests.integration.projections import history

_ROOT = Path(__file__).parents[2]
_IDL = _ROOT / "programs/community_voting/idl.json"
# As on a real ledger: wire of a vote's size, which decoding does not need and reading must carry.
_WIRE_BYTES = 420
_PER_SLOT, _PER_BATCH, _QUESTIONS = 100, 5_000, 200
_ROUNDS = 6
# The same tables by SQL over sets, from events already decoded. {0}: the schema of the decoded events.
_SET = """
INSERT INTO floor.communities SELECT c.data ->> 'community', c.data ->> 'creator', c.data ->> 'authority', (c.data ->> 'id')::numeric,
    s ->> 'name', s ->> 'description', s ->> 'join_policy', (s ->> 'voting_period_min')::bigint, (s ->> 'voting_period_max')::bigint,
    (s ->> 'max_options')::bigint, (q.counts ->> 'active_members')::bigint, (q.counts ->> 'pending_members')::bigint,
    (q.counts ->> 'questions')::bigint, (q.counts ->> 'open_questions')::bigint, (q.counts ->> 'activations')::numeric, false,
    to_timestamp((c.data ->> 'timestamp')::bigint), to_timestamp((c.data ->> 'timestamp')::bigint), (c.data ->> 'bump')::bigint,
    c.slot, c.signature, q.slot, q.signature
    FROM {0}.decoded c CROSS JOIN LATERAL (SELECT c.data -> 'settings') t(s)
    JOIN (SELECT DISTINCT ON (data ->> 'community') data ->> 'community' AS community, data -> 'counts' AS counts, slot, signature
        FROM {0}.decoded WHERE name = 'QuestionCreated' ORDER BY data ->> 'community', position DESC, event_index DESC) q
        ON q.community = c.data ->> 'community' WHERE c.name = 'CommunityCreated';
INSERT INTO floor.questions SELECT q.data ->> 'question', q.data ->> 'community', q.data ->> 'author', (q.data ->> 'index')::bigint,
    q.data ->> 'text', ARRAY(SELECT jsonb_array_elements_text(q.data -> 'options')), q.data ->> 'ballot_kind',
    (q.data ->> 'max_selections')::bigint, (q.data ->> 'allow_changes')::boolean, (q.data ->> 'quorum')::bigint, q.data ->> 'eligibility',
    (q.data ->> 'activations_before')::numeric, to_timestamp((q.data ->> 'opens_at')::bigint), to_timestamp((q.data ->> 'closes_at')::bigint),
    to_timestamp(nullif((q.data ->> 'reveal_until')::bigint, 0)), 'Open', ARRAY(SELECT jsonb_array_elements_text(v.tallies)::bigint),
    v.ballots, 0, 'Undecided', '{}'::bigint[], to_timestamp((q.data ->> 'timestamp')::bigint), NULL, (q.data ->> 'bump')::bigint,
    q.slot, q.signature, v.slot, v.signature FROM {0}.decoded q
    JOIN (SELECT DISTINCT ON (data ->> 'question') data ->> 'question' AS question, data -> 'tallies' AS tallies,
        (data ->> 'ballots_cast')::bigint AS ballots, slot, signature
        FROM {0}.decoded WHERE name = 'VoteCast' ORDER BY data ->> 'question', position DESC, event_index DESC) v
        ON v.question = q.data ->> 'question' WHERE q.name = 'QuestionCreated';
INSERT INTO floor.votes SELECT DISTINCT ON (data ->> 'vote') data ->> 'vote', data ->> 'community', data ->> 'question', data ->> 'voter',
    'cast', CASE WHEN length(data ->> 'selections') = 2 THEN ARRAY[get_byte(decode(data ->> 'selections', 'hex'), 0)::bigint]
        ELSE ARRAY(SELECT get_byte(b, n)::bigint FROM (SELECT decode(data ->> 'selections', 'hex')) h(b), generate_series(0, length(b) - 1) n)
        END, NULL, false, (data ->> 'anonymous')::boolean, (data ->> 'anonymous')::boolean, false, at, at, 0, (data ->> 'bump')::bigint,
    slot, signature, slot, signature FROM {0}.decoded CROSS JOIN LATERAL (SELECT to_timestamp((data ->> 'timestamp')::bigint)) t(at)
    WHERE name = 'VoteCast' ORDER BY data ->> 'vote', position DESC, event_index DESC;
"""
_TABLES = ("communities", "members", "questions", "votes")
# The rebuild as its command runs it: a process of its own, that tells its own and its children's memory and time.
_REBUILD = """
import json, resource, sys, threading, time
from pathlib import Path
from programs.idl import load_idl
from projections import bootstrap, rebuild
dsn, address, number, idl, name = sys.argv[1:]
spec = bootstrap.spec("voting", address, int(number), load_idl(open(idl, "rb").read()), ("voting",))
peak, over = 0, threading.Event()
def tree(pid):
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found
def held(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
def watch():
    global peak
    while not over.wait(0.2):
        try:
            peak = max(peak, sum(held(pid) for pid in tree(__import__("os").getpid())))
        except OSError:
            pass
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
report = rebuild.rebuild(dsn, (spec,), name)
seconds = time.perf_counter() - started
over.set()
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
equal = all(d.equal for d in report.differences)
print(json.dumps({"seconds": seconds, "cpu_s": sum(u.ru_utime + u.ru_stime for u in used), "memory_mb": peak / 1024, "equal": equal}))
"""

# A reader in a process of its own, that tells when it first saw the rows of each slot: in ours its polling would hold the interpreter's lock that
# it measures. It looks at the projection's checkpoint, which commits with the rows: looking through these would take a third of a processor.
_WATCH = """
import json, sys, time
import psycopg
dsn, seen, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
visible, until = {}, time.monotonic() + float(sys.argv[4])
with psycopg.connect(dsn, autocommit=True) as conn:
    print("ready", flush=True)
    while seen < last and time.monotonic() < until:
        slot, at = conn.execute(
            "SELECT max(slot), extract(epoch FROM clock_timestamp()) FROM ledger.checkpoints WHERE name = 'projection:voting.voting'"
        ).fetchone()
        if slot is not None and slot > seen:
            visible.update((n, float(at)) for n in range(seen + 1, slot + 1))
            seen = slot
        time.sleep(0.001)
print(json.dumps(visible))
"""


def _server_cpu() -> float:
    """CPU seconds of every server process of this user's machine that is alive; ended ones are missed."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if text and text[text.index("(") + 1 :].startswith("postgres"):
            fields = text.rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


class Measured:
    """Seconds by the clock and of CPU."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = self.server_cpu_s = 0.0


@contextmanager
def measured() -> Iterator[Measured]:
    found = Measured()
    started, cpu, server = time.perf_counter(), time.process_time(), _server_cpu()
    yield found
    found.seconds = time.perf_counter() - started
    found.cpu_s, found.server_cpu_s = time.process_time() - cpu, max(0.0, _server_cpu() - server)


def _votes(rng: random.Random, first: int, count: int) -> list[Any]:
    """Votes number `first` and on, of random voters, over the questions in turn."""
    made = []
    for number in range(first, first + count):
        name, slot = f"c{number % _QUESTIONS}", 3 + number // _PER_SLOT
        event = history.vote(name, 0, f"w{number}", 0, [number // _QUESTIONS + 1, 0])
        raw = history.transaction(slot, number % _PER_SLOT, event)
        object.__setattr__(raw, "signature", base58.encode(rng.randbytes(64)))
        object.__setattr__(raw, "wire", rng.randbytes(_WIRE_BYTES))
        made.append(raw)
    return made


def _number(value: str) -> str:
    """SQL for a number below 2^24 as four bytes, the lowest first."""
    made = "'\\x00000000'::bytea"
    for place in range(3):
        made = f"set_byte({made}, {place}, (({value}) >> {8 * place} & 255)::int)"
    return made


def _rows_by_sql(program_id: int) -> str:
    """A statement that appends votes %(first)s up to before %(end)s: the very rows that the writer would make of `_votes`, but for
    signatures and wire, which are random in both, and the digest, which nobody reads here.

    The event is cut into what is the same in all and what is not; `fill` sees to it that the two ways give equal logs.
    """
    name, voter = f"'c' || n %% {_QUESTIONS}", "'w' || n"
    varying = {
        history.address("c0"): name,
        history.address("c0/q0"): f"{name} || '/q0'",
        history.address("c0/q0/w0"): f"{name} || '/q0/' || {voter}",
        history.address("w0"): voter,
    }
    event = history.CODEC.encode_event(*history.vote("c0", 0, "w0", 0, [1, 0]))
    data = f"'\\x{event.hex()}'::bytea"
    for address, text in varying.items():
        at = event.index(base58.decode(address)) + 1
        data = f"overlay({data} PLACING sha256(convert_to({text}, 'UTF8')) FROM {at})"
    # The tail: tallies of two options, ballots cast, bump.
    for before_end in (13, 5):
        data = f"overlay({data} PLACING {_number(f'n / {_QUESTIONS} + 1')} FROM {len(event) - before_end + 1})"
    logs = encode_logs(history.transaction(3, 0, event).logs)
    text = base64.b64encode(event)
    before, after = logs.split(text)
    line = f"convert_to(translate(encode({data}, 'base64'), E'\\n', ''), 'UTF8')"
    return f"""INSERT INTO ledger.transactions ({COLUMNS}) SELECT {_QUESTIONS} + 1 + n, 0, 3 + n / {_PER_SLOT}, n %% {_PER_SLOT},
        sha512(convert_to('signature' || n, 'UTF8')), 1700000003 + n / {_PER_SLOT}, NULL,
        sha512(convert_to('wire' || n, 'UTF8')) || %(wire)s, '\\x{before.hex()}'::bytea || {line} || '\\x{after.hex()}'::bytea, '\\x90', '',
        NULL, ARRAY[{program_id}]::smallint[], false, 4, sha256(convert_to('digest' || n, 'UTF8'))
        FROM generate_series(%(first)s::bigint, %(end)s::bigint - 1) n"""


def fill(chain: Any, votes: int) -> None:
    """A ledger of communities, questions and votes, as the writer makes them, by SQL: ten million in minutes."""
    names = [f"c{n}" for n in range(_QUESTIONS)]
    chain.seal(*[history.transaction(2, n, history.community(c), history.question(c, 0)) for n, c in enumerate(names)])
    statement = _rows_by_sql(chain.program_id)
    wire = random.Random(votes).randbytes(_WIRE_BYTES - 64)
    with db.connect(chain.dsn) as conn:
        conn.execute("SET synchronous_commit = off")
        for first in range(0, votes, _PER_BATCH):
            last = min(first + _PER_BATCH, votes)
            with conn.transaction():
                conn.execute(statement, {"first": first, "end": last, "wire": wire})
                slots = 3 + first // _PER_SLOT, 3 + (last - 1) // _PER_SLOT
                conn.execute(
                    "INSERT INTO ledger.batches (position_first, position_last, slot_min, slot_max, origin, epoch) VALUES (%s, %s, %s, %s, 0, 1)",
                    (_QUESTIONS + first + 1, _QUESTIONS + last, *slots),
                )
                conn.execute(
                    "UPDATE ledger.checkpoints SET position = %s, slot = %s WHERE name = 'ledger'",
                    (_QUESTIONS + last, slots[1]),
                )
        conn.execute("VACUUM ANALYZE ledger.transactions")
        for number in (0, 1, votes - 1):
            made = conn.execute("SELECT logs FROM ledger.transactions WHERE position = %s", (_QUESTIONS + 1 + number,))
            (raw,) = _votes(random.Random(0), number, 1)
            if made.fetchone() != (encode_logs(raw.logs),):
                raise RuntimeError(f"vote {number} is another by SQL than by the program's codec")
    chain.seal(slot_last=3 + votes // _PER_SLOT)


def _by_sets(dsn: str, *, compare: bool = True) -> Measured:
    """The tables by SQL over sets, from the decoded events: the same columns, keys and indexes, in memory of the same size."""
    with db.connect(dsn) as conn:
        states = catalogue.states(conn)
        tables, events = states["voting.voting"].schema, states["events"].schema
        conn.execute("SET synchronous_commit = off; SET maintenance_work_mem = '128MB'; SET work_mem = '32MB'")
        conn.execute("DROP SCHEMA IF EXISTS floor CASCADE")
        conn.execute("CREATE SCHEMA floor")
        for table in _TABLES:
            conn.execute(f"CREATE TABLE floor.{table} (LIKE {tables}.{table})")
        indexes = _indexes(conn, tables)
        conn.execute("CHECKPOINT")
        with measured() as found:
            for statement in _SET.replace("{0}", events).split(";\n")[:-1]:
                conn.execute(statement)
            for definition in indexes:
                conn.execute(definition.replace(f"{tables}.", "floor."))
            for table in _TABLES:
                conn.execute(f"ANALYZE floor.{table}")
        for table in _TABLES if compare else ():
            one, other = f"TABLE floor.{table}", f"TABLE {tables}.{table}"
            row = conn.execute(
                f"SELECT count(*) FROM (({one} EXCEPT {other}) UNION ALL ({other} EXCEPT {one})) d"
            ).fetchone()
            if row != (0,):
                raise RuntimeError(f"the floor's {table} are not those of the projection: {row}")
    return found


@contextmanager
def _running(worker: Worker) -> Iterator[None]:
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def _until_projected(worker: Worker, rows: int) -> None:
    while not worker.status() or any(s.position < rows for s in worker.status()):
        failed = [s.failed for s in worker.status() if s.failed]
        if failed:
            raise RuntimeError(failed[0])
        time.sleep(0.005)


class _InHand(Tape):
    """A tape that holds every batch already: what following costs without reading and decoding."""

    def __init__(self, dsn: str, spec: Any, rows_max: int) -> None:
        super().__init__((spec,), rows_max)
        decoder, position = Decoder((spec,)), 0
        self._of: dict[int, Batch] = {}
        with db.connect(dsn) as conn:
            while rows := reads.read_parts(conn, position, rows_max):
                batch = self._of[position] = batch_of(position, rows, decoder)
                position = batch.last

    def after(self, position: int) -> Batch | None:
        return self._of.get(position, Batch(position, position, (), ()))

    def more(self, position: int) -> bool:
        return position in self._of


def _connect(dsn: str) -> Any:
    conn = db.connect(dsn)
    conn.execute("SET synchronous_commit = off")
    return conn


def _projection_alone(dsn: str, spec: Any, rows_max: int) -> Measured:
    """The voting tables once more from nothing, live: batches decoded beforehand, each folded, written and committed with its checkpoint."""
    (projection,) = spec.projections
    tape = _InHand(dsn, spec, rows_max)
    follower = ProjectionFollower((spec,), spec, projection, lambda: _connect(dsn))
    take_turns()
    with contextlib.closing(follower), _connect(dsn) as conn:
        schema = catalogue.states(conn)[follower.name].schema
        _alike(conn, "beside", schema)
        for table in _TABLES:
            conn.execute(f"INSERT INTO beside.{table} TABLE {schema}.{table}")
            conn.execute(f"TRUNCATE {schema}.{table}")
        conn.execute(
            "UPDATE projections.installed SET position = 0, slot = -1, transaction_index = -1, revision = revision + 1 WHERE name = %s",
            (follower.name,),
        )
        conn.execute("CHECKPOINT")
        with measured() as found:
            while follower.step(conn, tape):
                pass
        if follower.failed is not None:
            raise RuntimeError(follower.failed)
        for table in _TABLES:
            one, other = f"TABLE beside.{table}", f"TABLE {schema}.{table}"
            if conn.execute(f"({one} EXCEPT {other}) UNION ALL ({other} EXCEPT {one}) LIMIT 1").fetchone() is not None:
                raise RuntimeError(
                    f"{table} followed from batches in hand differs from {table} followed from the ledger"
                )
    return found


def _rebuilt(dsn: str, program_id: int, name: str = "voting", *, compare: bool = True) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _REBUILD, dsn, history.PROGRAM, str(program_id), str(_IDL), name],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if compare and not found["equal"]:
        raise RuntimeError("the rebuilt tables differ from the live ones")
    return found


def _alike(conn: Any, schema: str, tables: str) -> None:
    """The projection's tables once more in another schema, empty, with the same keys and indexes."""
    conn.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    conn.execute(f"CREATE SCHEMA {schema}")
    for table in _TABLES:
        conn.execute(f"CREATE TABLE {schema}.{table} (LIKE {tables}.{table})")
    for definition in _indexes(conn, tables):
        conn.execute(definition.replace(f"{tables}.", f"{schema}."))


def _indexes(conn: Any, tables: str) -> list[str]:
    found = conn.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = %s", (tables,)).fetchall()
    return [definition for (definition,) in found]


_VOTE = """INSERT INTO naive.votes (vote, community, question, voter, status, selections, revealed, anonymous, anonymous_ever, reclaimed,
    cast_at, updated_at, changes, bump, created_slot, created_signature, updated_slot, updated_signature)
    VALUES (%(vote)s, %(community)s, %(question)s, %(voter)s, 'cast', %(chosen)s, false, %(anonymous)s, %(ever)s, false, %(at)s, %(at)s, 0,
    %(bump)s, %(slot)s, %(signature)s, %(slot)s, %(signature)s)
    ON CONFLICT (vote) DO UPDATE SET status = excluded.status, selections = excluded.selections, anonymous = excluded.anonymous,
    anonymous_ever = excluded.anonymous_ever, cast_at = excluded.cast_at, updated_at = excluded.updated_at, changes = 0,
    updated_slot = excluded.updated_slot, updated_signature = excluded.updated_signature"""
_TALLY = """UPDATE naive.questions SET tallies = %(tallies)s, ballots_cast = %(ballots_cast)s, updated_slot = %(slot)s,
    updated_signature = %(signature)s WHERE question = %(question)s"""


def _per_event(dsn: str, rows_max: int) -> float:
    """Events a second of a handler as one writes it by hand: the same tables with the same indexes, from events already decoded, an event
    a transaction that looks for the row, writes it, updates the question and notes how far it is."""
    with db.connect(dsn) as conn:
        states = catalogue.states(conn)
        tables, decoded = states["voting.voting"].schema, states["events"].schema
        _alike(conn, "naive", tables)
        conn.execute("CREATE TABLE naive.checkpoint AS SELECT 0::bigint AS position")
        for table in ("communities", "questions"):
            conn.execute(f"INSERT INTO naive.{table} TABLE {tables}.{table}")
        events = conn.execute(
            f"SELECT data, slot, signature, position FROM {decoded}.decoded WHERE name = 'VoteCast' ORDER BY position LIMIT %s",
            (rows_max,),
        ).fetchall()
        conn.execute("VACUUM ANALYZE")
        started = time.perf_counter()
        for data, slot, signature, position in events:
            with conn.transaction():
                before = conn.execute(
                    "SELECT anonymous_ever FROM naive.votes WHERE vote = %s", (data["vote"],)
                ).fetchone()
                event = {
                    **data,
                    "slot": slot,
                    "signature": signature,
                    "chosen": list(bytes.fromhex(data["selections"])),
                    "ever": data["anonymous"] or bool(before and before[0]),
                    "at": datetime.fromtimestamp(data["timestamp"], UTC),
                }
                conn.execute(_VOTE, event)
                conn.execute(_TALLY, event)
                conn.execute("UPDATE naive.checkpoint SET position = %s", (position,))
        seconds = time.perf_counter() - started
        row = conn.execute(f"SELECT count(*) FROM (TABLE naive.votes EXCEPT TABLE {tables}.votes) d").fetchone()
        if row != (0,):
            raise RuntimeError(f"the votes of the handler by hand are not those of the projection: {row}")
        return len(events) / seconds


def _latency(dsn: str, chain: Any, worker: Worker, votes: int, seconds: float) -> list[float]:
    """Milliseconds from a seal's commit to the commit of its rows, at 1,000 events a second; by the server's clock."""
    per_seal = 20
    count = int(seconds * 1_000 / per_seal)
    rng = random.Random(1)
    base = votes + _PER_SLOT
    first = chain.sealed + 1
    last = first + count - 1
    sealed: dict[int, float] = {}
    seals_rows = []
    for number in range(count):
        made = _votes(rng, base + number * per_seal, per_seal)
        for index, raw in enumerate(made):
            object.__setattr__(raw, "slot", first + number)
            object.__setattr__(raw, "transaction_index", index)
        seals_rows.append([prepare_row(raw, (chain.program_id,), 4) for raw in made])

    async def seals() -> None:
        import asyncio

        from schema import lease

        async with await db.aconnect(dsn) as conn:
            held = await lease.acquire(conn, "bench", "bench", 3_600)
            assert held is not None
            begun = time.perf_counter()
            for number, rows in enumerate(seals_rows):
                slot = first + number
                await asyncio.sleep(max(0.0, begun + number * per_seal / 1_000 - time.perf_counter()))
                await ledger.append_seal(
                    conn, held, [ledger.SealRange(chain.program_id, slot, slot)], rows, tip_slot=slot
                )
                row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())")).fetchone()
                assert row is not None
                sealed[slot] = float(row[0])
            await lease.release(conn, held)

    import asyncio

    command = [sys.executable, "-c", _WATCH, dsn, str(first - 1), str(last), str(seconds + 60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        asyncio.run(seals())
        visible = json.loads(watcher.communicate()[0])
    chain.sealed = last
    return sorted((visible[str(slot)] - at) * 1_000 for slot, at in sealed.items())


def _quantile(values: Sequence[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def measure(dsn: str, votes: int, large: int, seconds: float) -> dict[str, float]:
    """Fill a ledger and measure. Rates are events a second."""
    db.upgrade(dsn)
    chain = history.Ledger(dsn)
    spec = chain.spec()
    bootstrap.ensure(dsn, (spec,))
    fill(chain, votes)
    worker = Worker(dsn, (spec,), rows_max=1_000)
    with measured() as live, _running(worker):
        _until_projected(worker, votes + _QUESTIONS)
    with db.connect(dsn) as conn:
        conn.execute("VACUUM ANALYZE")
    # The best of several, some seconds apart: other processes only ever add.
    alone = min((_projection_alone(dsn, spec, 1_000) for _ in range(_ROUNDS)), key=lambda found: found.seconds)
    set_based = _by_sets(dsn)
    rebuilt = _rebuilt(dsn, chain.program_id)
    naive = _per_event(dsn, min(votes, 3_000))
    found = {
        "votes": votes,
        "live_projection_events_s": votes / alone.seconds,
        "live_projection_cpu_us_event": alone.cpu_s / votes * 1e6,
        "live_projection_server_cpu_us_event": alone.server_cpu_s / votes * 1e6,
        "ledger_to_tables_events_s": votes / live.seconds,
        "ledger_to_tables_cpu_us_event": live.cpu_s / votes * 1e6,
        "ledger_to_tables_server_cpu_us_event": live.server_cpu_s / votes * 1e6,
        "rebuild_events_s": votes / rebuilt["seconds"],
        "rebuild_cpu_us_event": rebuilt["cpu_s"] / votes * 1e6,
        "rebuild_memory_mb": rebuilt["memory_mb"],
        "set_sql_events_s": votes / set_based.seconds,
        "per_event_sql_events_s": naive,
        "live_projection_to_per_event_sql": votes / alone.seconds / naive,
        "rebuild_to_set_sql": set_based.seconds / rebuilt["seconds"],
        "rebuild_to_per_event_sql": votes / rebuilt["seconds"] / naive,
    }
    print(json.dumps(found), file=sys.stderr)
    if seconds > 0:
        follower = Worker(dsn, (spec,))
        with _running(follower):
            _until_projected(follower, votes + _QUESTIONS)
            waited = _latency(dsn, chain, follower, votes, seconds)
        found["visible_ms_p50"] = statistics.median(waited)
        found["visible_ms_p99"] = _quantile(waited, 0.99)
    if large:
        found |= _large(dsn, large, rebuilt["seconds"] / votes, naive)
    return found


@contextmanager
def _other(dsn: str, votes: int) -> Iterator[Any]:
    """A ledger of so many votes in a database of its own; its live tables stay empty."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    with db.connect(dsn) as conn:
        conn.execute("CREATE DATABASE other TEMPLATE template0 ENCODING 'UTF8'")
    other = psycopg.conninfo.make_conninfo(**{**parts, "dbname": "other"})
    db.upgrade(other)
    chain = history.Ledger(other)
    bootstrap.ensure(other, (chain.spec(),))
    fill(chain, votes)
    yield chain
    with db.connect(dsn) as conn:
        conn.execute("DROP DATABASE other WITH (FORCE)")


def sizes(dsn: str, counts: Sequence[int]) -> dict[str, float]:
    """The voting tables rebuilt over ledgers of these sizes, each from nothing: memory, and the cost of an event."""
    found: dict[str, float] = {}
    for votes in counts:
        with _other(dsn, votes) as chain:
            rebuilt = _rebuilt(chain.dsn, chain.program_id, compare=False)
            found |= {
                f"{votes}_seconds": rebuilt["seconds"],
                f"{votes}_rebuild_events_s": votes / rebuilt["seconds"],
                f"{votes}_rebuild_cpu_us_event": rebuilt["cpu_s"] / votes * 1e6,
                f"{votes}_rebuild_memory_mb": rebuilt["memory_mb"],
            }
            with db.connect(chain.dsn) as conn:
                schema = catalogue.states(conn)["voting.voting"].schema
                if conn.execute(f"SELECT count(*) FROM {schema}.votes").fetchone() != (votes,):
                    raise RuntimeError("the rebuilt table does not have every vote")
            print(json.dumps(found), file=sys.stderr)
    first, last = counts[0], counts[-1]
    found["last_to_first_cost_per_event"] = found[f"{first}_rebuild_events_s"] / found[f"{last}_rebuild_events_s"]
    return found


def _large(dsn: str, votes: int, second_per_event: float, naive: float) -> dict[str, float]:
    """The same rebuild over a larger ledger, from nothing."""
    with _other(dsn, votes) as chain:
        return _large_of(chain, votes, second_per_event, naive)


def _large_of(chain: Any, votes: int, second_per_event: float, naive: float) -> dict[str, float]:
    other = chain.dsn
    events = _rebuilt(other, chain.program_id, "events", compare=False)
    found = _rebuilt(other, chain.program_id, compare=False)
    # Seen to be the same tables at the smaller size; comparing millions takes longer than making them.
    set_based = _by_sets(other, compare=False)
    return {
        "large_votes": votes,
        "large_events_rebuild_events_s": votes / events["seconds"],
        "large_events_rebuild_memory_mb": events["memory_mb"],
        "large_rebuild_events_s": votes / found["seconds"],
        "large_rebuild_memory_mb": found["memory_mb"],
        "large_set_sql_events_s": votes / set_based.seconds,
        "large_rebuild_to_set_sql": set_based.seconds / found["seconds"],
        "large_rebuild_to_per_event_sql": votes / found["seconds"] / naive,
        "large_to_small_cost_per_event": found["seconds"] / votes / second_per_event,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(part) for part in text.split(",")],
        help="as 1000000,10000000 (each over 50000): only this",
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with open_database(None) as dsn:
        found = sizes(dsn, args.sizes) if args.sizes else measure(dsn, args.votes, args.large, args.seconds)
    if args.json:
        json.dump(found, sys.stdout)
        print()
    else:
        for name, value in found.items():
            print(f"{name:<30} {value:>14,.2f}")


if __name__ == "__main__":
    main()
