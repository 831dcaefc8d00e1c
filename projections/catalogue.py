"""The database's own record of the projections: what is installed, in which generation of tables, how far it has come.

The row of a projection is its lock: whoever changes its tables holds it FOR UPDATE and finds in it the position that the tables
show. A writer whose idea of that position is old changes nothing, so two daemons cannot apply an event twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from programs import base58
from projections.fold import Parked
from projections.store import literal, query, quoted
from schema import db

Conn = psycopg.Connection[Any]
EVENTS = "events"
_PARKED_AT_ONCE = 2_000
_DROP_LOCK_MS = 500

_TABLES = """
CREATE SCHEMA IF NOT EXISTS projections;
CREATE TABLE IF NOT EXISTS projections.generations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, state text NOT NULL, version text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS projections.installed (
    name text PRIMARY KEY, version text NOT NULL, generation bigint NOT NULL, position bigint NOT NULL DEFAULT 0,
    slot bigint NOT NULL DEFAULT -1, transaction_index int NOT NULL DEFAULT -1, retraction_id bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS projections.views (
    schema text NOT NULL, name text NOT NULL, definition text NOT NULL, PRIMARY KEY (schema, name));
CREATE TABLE IF NOT EXISTS projections.accounts (
    address text PRIMARY KEY, program text NOT NULL, program_id smallint NOT NULL, slot bigint NOT NULL, name text, data jsonb,
    lamports numeric(20) NOT NULL, owner text NOT NULL, closed boolean NOT NULL, error text, created_slot bigint NOT NULL);
CREATE INDEX IF NOT EXISTS accounts_by_name ON projections.accounts (program, name, address);
CREATE TABLE IF NOT EXISTS projections.account_cursor (one boolean PRIMARY KEY DEFAULT true CHECK (one), id bigint NOT NULL);
INSERT INTO projections.account_cursor (id) VALUES (0) ON CONFLICT DO NOTHING;
"""
_DECODED = """
CREATE TABLE {0}.decoded (
    position bigint NOT NULL, slot bigint NOT NULL, transaction_index int NOT NULL, event_index int NOT NULL,
    signature text NOT NULL, block_time timestamptz, program text NOT NULL, name text NOT NULL, data jsonb NOT NULL,
    retracted boolean NOT NULL DEFAULT false);
"""
_DECODED_INDEXES = """
ALTER TABLE {0}.decoded ADD PRIMARY KEY (position, event_index);
CREATE INDEX decoded_by_name ON {0}.decoded (program, name, position, event_index);
CREATE INDEX decoded_by_slot ON {0}.decoded (slot, transaction_index, event_index);
CREATE INDEX decoded_by_signature ON {0}.decoded USING hash (signature);
"""


@dataclass(frozen=True, slots=True)
class State:
    """How far a projection's tables have come. `slot` and `transaction_index`: the last place in chain order that they hold."""

    name: str
    version: str
    generation: int
    position: int
    slot: int
    transaction_index: int
    retraction_id: int
    # Grows when somebody other than a follower changed the rows: what a follower has cached is then old.
    revision: int = 0

    @property
    def schema(self) -> str:
        """Where the tables are."""
        return schema_of(self.generation)


def schema_of(generation: int) -> str:
    """The schema of a generation of tables."""
    return f"projection_{generation}"


def ensure_tables(conn: Conn) -> None:
    """Make the record's own tables; once is enough, again does no harm."""
    conn.execute(query(_TABLES))


def create_decoded(conn: Conn, schema: str) -> None:
    """The table of decoded events, without indexes."""
    conn.execute(query(f"CREATE SCHEMA {quoted(schema)}"))
    conn.execute(query(_DECODED.replace("{0}", quoted(schema))))


@dataclass(frozen=True, slots=True)
class ScopeField:
    """A field by which a program's events are folded anew. `short`: its values fit an index whole, as addresses and numbers do."""

    field: str
    program: str
    program_id: int
    short: bool


def index_decoded(conn: Conn, schema: str, scopes: Sequence[ScopeField]) -> None:
    """Its indexes, with one for each field by which scopes are folded anew; after a rebuild's rows, since that is cheaper."""
    conn.execute(query(_DECODED_INDEXES.replace("{0}", quoted(schema))))
    ensure_scope_indexes(conn, schema, scopes)
    conn.execute(query(f"ANALYZE {quoted(schema)}.decoded"))


def ensure_scope_indexes(conn: Conn, schema: str, scopes: Sequence[ScopeField]) -> None:
    """An index for each scope field, over the events of its program alone: another one's field of the same name may hold whatever its users write,
    text that no index takes too."""
    for scope in scopes:
        number = str(scope.program_id)
        name = f"decoded_by_{scope.field}"[: 60 - len(number)] + f"_{number}"
        # IF NOT EXISTS locks the table before it looks: a standby that starts would wait for the leader's open transaction.
        known = "SELECT FROM pg_indexes WHERE schemaname = %s AND tablename = 'decoded' AND indexname = %s"
        if conn.execute(known, (schema, name)).fetchone() is None:
            form = (
                "((data ->> {field}), slot, transaction_index, event_index)"
                if scope.short
                else "USING hash ((data ->> {field}))"
            )
            statement = "CREATE INDEX IF NOT EXISTS {name} ON {schema}.decoded " + form + " WHERE program = {program}"
            conn.execute(
                sql.SQL(statement).format(
                    name=sql.Identifier(name),
                    schema=sql.Identifier(schema),
                    field=sql.Literal(scope.field),
                    program=sql.Literal(scope.program),
                )
            )
        # It was over all programs' events once.
        before = f"decoded_by_{scope.field}"[:60]
        if before != name and conn.execute(known, (schema, before)).fetchone() is not None:
            _drop_index(conn, schema, before)


def _drop_index(conn: Conn, schema: str, name: str) -> None:
    """Drop an index that is not needed, in the caller's transaction. Where somebody reads for long it stays until the next start: it costs something
    and is not wrong."""
    with suppress(psycopg.errors.LockNotAvailable), conn.transaction():
        conn.execute(f"SET LOCAL lock_timeout = {_DROP_LOCK_MS}")
        conn.execute(query(f"DROP INDEX {quoted(schema)}.{quoted(name)}"))
        conn.execute(f"SET LOCAL lock_timeout = {db.LOCK_TIMEOUT_MS}")


def new_generation(conn: Conn, name: str, version: str, state: str) -> int:
    """A number for a new set of tables."""
    row = conn.execute(
        "INSERT INTO projections.generations (name, state, version) VALUES (%s, %s, %s) RETURNING id",
        (name, state, version),
    ).fetchone()
    assert row is not None, "INSERT … RETURNING gives a row"
    return int(row[0])


def drop_generation(conn: Conn, generation: int) -> None:
    """Remove a set of tables and its record."""
    conn.execute(query(f"DROP SCHEMA IF EXISTS {quoted(schema_of(generation))} CASCADE"))
    conn.execute("DELETE FROM projections.generations WHERE id = %s", (generation,))


_STATE = "SELECT name, version, generation, position, slot, transaction_index, retraction_id, revision FROM projections.installed"


def states(conn: Conn) -> dict[str, State]:
    """Everything that is installed."""
    return {row[0]: State(*row) for row in conn.execute(_STATE)}


def lock(conn: Conn, name: str) -> State | None:
    """The state, held until the transaction ends. None when the projection is not installed."""
    row = conn.execute(_STATE + " WHERE name = %s FOR UPDATE", (name,)).fetchone()
    return None if row is None else State(*row)


class Held:
    """A projection's lock, in a transaction that `holding` began. `state` is what it was found with, None when it is not installed."""

    def __init__(self, conn: Conn, state: State | None) -> None:
        self._conn = conn
        self.state = state

    def end(self, state: State, *statements: str) -> None:
        """Perform the statements, store the state and commit, all in one message to the server."""
        self._conn.execute(query("; ".join([*statements, _saved(state), "COMMIT"])), prepare=False)


@contextmanager
def holding(conn: Conn, name: str) -> Iterator[Held]:
    """A transaction that begins with the projection's lock; rolled back unless `Held.end` committed it. It takes two messages to the server
    where `conn.transaction()`, `lock` and `save` take four: at the ledger's tip the messages of small batches are most of what they cost."""
    try:
        cursor = conn.execute(query(f"BEGIN; {_STATE} WHERE name = {literal(name)} FOR UPDATE"), prepare=False)
        cursor.nextset()
        row = cursor.fetchone()
        held = Held(conn, None if row is None else State(*row))
        yield held
    finally:
        if not conn.closed and conn.info.transaction_status != TransactionStatus.IDLE:
            # Where the connection is lost the error that is under way tells of it.
            with suppress(psycopg.OperationalError):
                conn.execute("ROLLBACK")


def save(conn: Conn, state: State) -> None:
    """Store the state and the checkpoint that readers of the ledger's records see, in the caller's transaction."""
    conn.execute(query(_saved(state)))


def _saved(state: State) -> str:
    # One statement, since every follower waits for its answer after every batch.
    return _bound(
        "WITH state AS (INSERT INTO projections.installed"
        " (name, version, generation, position, slot, transaction_index, retraction_id, revision)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET version = excluded.version,"
        " generation = excluded.generation, position = excluded.position, slot = excluded.slot,"
        " transaction_index = excluded.transaction_index, retraction_id = excluded.retraction_id, revision = excluded.revision)"
        " INSERT INTO ledger.checkpoints (name, position, slot, transaction_index, slot_time) VALUES"
        " ('projection:' || %s, %s, %s, %s, (SELECT to_timestamp(max(block_time)) FROM ledger.transactions WHERE slot = %s AND"
        " position = %s)) ON CONFLICT (name) DO UPDATE SET position = excluded.position, slot = excluded.slot,"
        " transaction_index = excluded.transaction_index, slot_time = coalesce(excluded.slot_time, checkpoints.slot_time),"
        " updated_at = clock_timestamp()",
        (
            state.name,
            state.version,
            state.generation,
            state.position,
            state.slot,
            state.transaction_index,
            state.retraction_id,
            state.revision,
            state.name,
            state.position,
            max(state.slot, 0),
            max(state.transaction_index, 0),
            state.slot,
            state.position,
        ),
    )


def _bound(statement: str, values: Sequence[Any]) -> str:
    """A statement with its values written in."""
    parts = statement.split("%s")
    return parts[0] + "".join([literal(value) + part for value, part in zip(values, parts[1:], strict=True)])


LETTERS = "ledger.dead_letters"
_OPEN_LETTERS = """
CREATE TABLE {0} (LIKE ledger.dead_letters INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY);
CREATE INDEX ON {0} (position, event_index);
INSERT INTO {0} (projection, program, position, slot, signature, event_index, event_name, scope, reason, error, raw, parked_at,
    resolved_at, resolution, resolution_reason) SELECT projection, program, position, slot, signature, event_index, event_name, scope,
    reason, error, raw, parked_at, resolved_at, resolution, resolution_reason FROM ledger.dead_letters
    WHERE projection = {1} AND resolution = 'discarded';
"""


def own_letters(conn: Conn, name: str, schema: str) -> str:
    """A table of dead letters for a build beside the live tables, with what was discarded; the name to give as `letters`.

    Until the swap the live tables' letters are the true ones: a build that is killed must not have touched them.
    """
    table = f"{quoted(schema)}.{quoted('dead letters')}"
    conn.execute(query(_OPEN_LETTERS.replace("{0}", table).replace("{1}", sql.Literal(name).as_string(conn))))
    return table


def open_letters(conn: Conn, letters: str) -> int:
    """Events that stand parked."""
    row = conn.execute(query(f"SELECT count(*) FROM {letters} WHERE resolved_at IS NULL")).fetchone()
    return 0 if row is None else int(row[0])


def take_letters(conn: Conn, name: str, own: str) -> None:
    """Make the open letters of a build beside the live ones, in the transaction of the swap, and drop its table.

    What an operator discarded meanwhile stays discarded.
    """
    same = "l.position = k.position AND l.event_index = k.event_index"
    conn.execute(
        query(
            f"UPDATE ledger.dead_letters l SET reason = k.reason, error = k.error FROM {own} k WHERE l.projection = %s AND"
            f" l.resolved_at IS NULL AND k.resolved_at IS NULL AND {same}"
        ),
        (name,),
    )
    conn.execute(
        query(
            "INSERT INTO ledger.dead_letters (projection, program, position, slot, signature, event_index, event_name, scope, reason,"
            " error, raw) SELECT projection, program, position, slot, signature, event_index, event_name, scope, reason, error, raw"
            f" FROM {own} k WHERE resolved_at IS NULL AND NOT EXISTS (SELECT FROM ledger.dead_letters l WHERE l.projection = %s AND"
            f" (l.resolved_at IS NULL OR l.resolution = 'discarded') AND {same}) ORDER BY position, event_index"
        ),
        (name,),
    )
    conn.execute(query(f"DROP TABLE {own}"))


def park(conn: Conn, name: str, program_id: int, parked: Sequence[Parked], letters: str = LETTERS) -> None:
    """Store dead letters; one that is there and open already gets today's reason."""
    for at in range(0, len(parked), _PARKED_AT_ONCE):
        part = parked[at : at + _PARKED_AT_ONCE]
        columns = [
            [p.position for p in part],
            [p.slot for p in part],
            [base58.decode(p.signature) for p in part],
            [p.event_index for p in part],
            [p.event_name for p in part],
            [p.scope for p in part],
            [p.reason for p in part],
            [p.error for p in part],
            [p.raw or None for p in part],
        ]
        conn.execute(
            query(
                "WITH fresh AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[], %s::int[], %s::text[], %s::text[],"
                " %s::text[], %s::text[], %s::bytea[]) AS f(position, slot, signature, event_index, event_name, scope, reason, error,"
                f" raw)), held AS (UPDATE {letters} l SET reason = f.reason, error = f.error FROM fresh f WHERE l.projection = %s AND"
                " l.position = f.position AND l.event_index = f.event_index AND l.resolved_at IS NULL RETURNING l.position,"
                f" l.event_index) INSERT INTO {letters} (projection, program, position, slot, signature, event_index, event_name,"
                " scope, reason, error, raw) SELECT %s, %s, position, slot, signature, event_index, event_name, scope, reason, error,"
                " raw FROM fresh WHERE (position, event_index) NOT IN (SELECT position, event_index FROM held)"
                " ORDER BY position, event_index"
            ),
            (*columns, name, name, program_id),
        )


def parked_scopes(conn: Conn, name: str, letters: str = LETTERS) -> set[str]:
    """The scopes in which events are parked; '' among them where one has none, or none that is known."""
    found = conn.execute(
        query(f"SELECT DISTINCT coalesce(scope, '') FROM {letters} WHERE projection = %s AND resolved_at IS NULL"),
        (name,),
    )
    return {row[0] for row in found}


def discarded(conn: Conn, name: str, letters: str = LETTERS) -> frozenset[tuple[int, int]]:
    """The events that an operator decided to leave out, by position and event index."""
    return _letters_of(conn, name, letters, "resolution = 'discarded'")


def parked_events(conn: Conn, name: str, letters: str = LETTERS) -> frozenset[tuple[int, int]]:
    """The events that stand parked, by position and event index."""
    return _letters_of(conn, name, letters, "resolved_at IS NULL")


def _letters_of(conn: Conn, name: str, letters: str, condition: str) -> frozenset[tuple[int, int]]:
    found = conn.execute(
        query(f"SELECT position, event_index FROM {letters} WHERE projection = %s AND {condition}"), (name,)
    )
    return frozenset((row[0], row[1]) for row in found)
