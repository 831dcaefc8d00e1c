"""Migrations, roles, errors and the embedded server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from programs.errors import UserError
from schema import db as database
from schema import roles, tables
from schema.embedded import EmbeddedPostgres, path_binaries, wheel_binaries
from schema.errors import retryable
from tests.integration.schema.pooler import pooler

ROOT = Path(__file__).resolve().parents[3]


def _differences(dsn: str) -> list[object]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)

    def ours(kind: str, name: str | None) -> bool:
        return name == "ledger" if kind == "schema" else name != "schema_version"

    def partitions_out(obj: object, name: str, kind: str, reflected: bool, _: object) -> bool:
        return not (kind == "table" and reflected and "_s" in name and name.rsplit("_s", 1)[1].isdigit())

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda n, k, _: ours(k, n),
                "include_object": partitions_out,
                "compare_type": True,
            },
        )
        return list(compare_metadata(context, tables.metadata))


def test_migrations_make_what_the_definitions_say(db: str) -> None:
    assert _differences(db) == []
    with database.connect(db) as conn:
        conn.execute("ALTER TABLE ledger.seals ADD COLUMN stray int")
        conn.execute("ALTER TABLE ledger.programs ALTER COLUMN start_slot DROP NOT NULL")
        conn.execute("DROP INDEX ledger.retractions_slot")
    assert len(_differences(db)) == 3


def test_down_leaves_nothing_and_up_comes_back(db: str) -> None:
    with database.connect(db) as conn:
        conn.execute("SELECT ledger.ensure_partitions(0, 10)")
    database.downgrade(db)
    assert database.current(db) is None
    with database.connect(db) as conn:
        assert conn.execute("SELECT to_regnamespace('ledger')").fetchone() == (None,)
    database.upgrade(db)
    database.upgrade(db)
    assert database.revisions(db) == (database.head(), database.head())
    assert _differences(db) == []


def test_a_reader_sees_views_and_nothing_of_the_ledger(db: str) -> None:
    with database.connect(db) as conn:
        conn.execute("CREATE SCHEMA theirs; CREATE VIEW theirs.secret AS SELECT 1 AS one")
        conn.execute("CREATE TABLE events.hidden (a int); CREATE VIEW events.shown AS SELECT * FROM events.hidden")
        assert roles.ensure_reader_role(conn, roles.read_schemas(conn))
        conn.execute(f"SET ROLE {roles.READER}")
        assert conn.execute("SELECT * FROM events.shown").fetchall() == []
        assert conn.execute("SELECT * FROM events.freshness").fetchall() == []
        for query in (
            "SELECT * FROM events.hidden",
            "SELECT * FROM ledger.transactions",
            "SELECT * FROM theirs.secret",
            "INSERT INTO events.shown VALUES (1)",
            "SELECT ledger.ensure_partitions(0, 0)",
            "CREATE TABLE events.mine (a int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(query)


def test_reset_leaves_what_is_not_ours(db: str) -> None:
    with database.connect(db) as conn:
        conn.execute(
            "INSERT INTO ledger.programs VALUES (1, 'x', 'voting', 0); CREATE SCHEMA voting; CREATE VIEW voting.v AS SELECT 1 AS a"
        )
        conn.execute("CREATE SCHEMA theirs; CREATE VIEW theirs.v AS SELECT 1 AS a")
    database.reset(db)
    with database.connect(db) as conn:
        assert conn.execute("SELECT to_regclass('theirs.v')::text, to_regnamespace('voting')").fetchone() == (
            "theirs.v",
            None,
        )
        assert conn.execute("SELECT count(*) FROM ledger.programs").fetchone() == (0,)


@pytest.mark.parametrize(
    ("url", "code", "word"),
    [
        ("postgresql://u:hush@127.0.0.1:1/x", 3, "cannot be reached"),
        ("postgresql://u:hush@127.0.0.1:port/x", 2, "port"),
        ("postgresql+psycopg://u:hush@h/x", 2, "driver"),
        ("mysql://u:hush@h/x", 2, "PostgreSQL URL"),
        ("no url, hush", 2, "PostgreSQL URL"),
    ],
)
def test_a_bad_url_is_one_line_without_the_password(url: str, code: int, word: str) -> None:
    with pytest.raises(UserError) as caught:
        database.check_dsn(url)
    assert caught.value.exit_code == code
    assert word in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pooler_that_gives_each_transaction_another_session_is_refused(db: str) -> None:
    with pooler(db, sessions=False) as pooled, pytest.raises(UserError, match="pool_mode=session") as caught:
        database.check_dsn(pooled)
    assert caught.value.exit_code == 2


def test_a_pooler_that_keeps_sessions_can_be_used(db: str) -> None:
    with pooler(db, sessions=True) as pooled:
        assert "PostgreSQL" in database.check_dsn(pooled)


def test_a_database_that_cannot_serve_is_refused(db: str) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        database.check_dsn(make_conninfo(db, dbname="nowhere"))
    assert caught.value.exit_code == 2
    name = "latin_" + str(os.getpid())
    with database.connect(db) as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            with pytest.raises(UserError, match="encoding LATIN1"):
                database.check_dsn(make_conninfo(db, dbname=name))
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


FOREIGN = {
    "somebody else's ledger": (
        "DROP SCHEMA ledger CASCADE; CREATE SCHEMA ledger; CREATE TABLE ledger.accounts (a int); INSERT INTO ledger.accounts VALUES (7)",
        "not ours",
    ),
    "one with a table of versions": (
        "DROP SCHEMA ledger CASCADE; CREATE SCHEMA ledger; CREATE TABLE ledger.accounts (a int); CREATE TABLE ledger.schema_version (at int)",
        "not ours",
    ),
    "one with an empty table like ours": (
        "DROP SCHEMA ledger CASCADE; CREATE SCHEMA ledger; CREATE TABLE ledger.accounts (a int);"
        " CREATE TABLE ledger.schema_version (version_num text)",
        "not ours",
    ),
    "a newer program's": ("UPDATE ledger.schema_version SET version_num = '9999'", "newer"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_ledger_that_is_not_ours_is_refused_and_left_alone(db: str, what: str) -> None:
    statement, word = FOREIGN[what]
    with database.connect(db) as conn:
        conn.execute(statement)
        tables = "SELECT array_agg(oid::text || relname ORDER BY oid) FROM pg_class WHERE relnamespace = 'ledger'::regnamespace"
        before = conn.execute(tables).fetchone()
        for use in (database.check_dsn, database.upgrade):
            with pytest.raises(UserError, match=word) as caught:
                use(db)
            assert caught.value.exit_code == 2
            assert "\n" not in str(caught.value)
        assert conn.execute(tables).fetchone() == before


def test_a_role_without_rights_is_refused(db: str) -> None:
    role = f"stranger_{os.getpid()}"
    with database.connect(db) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN")
        try:
            conn.execute(f'GRANT CREATE ON DATABASE "{conn.info.dbname}" TO {role}')
            theirs = make_conninfo(db, user=role)
            for use in (database.check_dsn, database.upgrade, database.check_schema):
                with pytest.raises(UserError, match="may not read the ledger") as caught:
                    use(theirs)
                assert caught.value.exit_code == 2
            conn.execute(
                f"GRANT USAGE ON SCHEMA ledger TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {role}"
            )
            database.check_schema(theirs)
            with pytest.raises(UserError, match="may not write the ledger"):
                database.check_dsn(theirs)
        finally:
            conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE events.decoded (a int)",
        "CREATE SCHEMA voting; CREATE VIEW voting.votes AS SELECT 1 AS a",
        "CREATE SCHEMA voting_events; CREATE TABLE voting_events.vote_cast (a int)",
        "CREATE SCHEMA projections; CREATE TABLE projections.generations (a int)",
    ],
)
def test_read_models_that_are_not_ours_are_refused_before_anything_is_made(db: str, statement: str) -> None:
    database.downgrade(db)
    with database.connect(db) as conn:
        conn.execute("CREATE SCHEMA IF NOT EXISTS events")
        database.check_dsn(db, programs=["voting"])
        conn.execute(statement)
        with pytest.raises(UserError, match="belongs to another program") as caught:
            database.check_dsn(db, programs=["voting"])
        assert caught.value.exit_code == 2
        assert statement.split("VIEW ")[-1].split("TABLE ")[-1].split()[0] in str(caught.value)
        conn.execute("DROP SCHEMA events CASCADE")
        if "events." not in statement:
            with pytest.raises(UserError):
                database.check_dsn(db, programs=["voting"])


def test_a_role_that_can_only_read_is_refused_for_writing(db: str) -> None:
    role = f"looker_{os.getpid()}"
    with database.connect(db) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET default_transaction_read_only = on")
        try:
            theirs = make_conninfo(db, user=role)
            with pytest.raises(UserError, match="can only read") as caught:
                database.check_dsn(theirs)
            assert caught.value.exit_code == 2
            database.check_schema(theirs)
        finally:
            conn.execute(f"DROP ROLE {role}")


def test_what_a_role_has_set_does_not_reach_us(db: str) -> None:
    role = f"odd_{os.getpid()}"
    settings = {
        "DateStyle": "German, DMY", "IntervalStyle": "iso_8601", "TimeZone": "Asia/Kathmandu", "extra_float_digits": "-15",
        "client_encoding": "LATIN1", "search_path": "theirs, pg_temp", "default_transaction_isolation": "serializable",
        "statement_timeout": "60", "lock_timeout": "1", "idle_session_timeout": "1000", "standard_conforming_strings": "off",
    }  # fmt: skip
    with database.connect(db) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
        try:
            for name, value in settings.items():
                conn.execute(f"ALTER ROLE {role} SET {name} = '{value}'" if "," not in value or name == "DateStyle"
                             else f"ALTER ROLE {role} SET {name} = {value}")  # fmt: skip
            with database.connect(make_conninfo(db, user=role)) as odd:
                told = odd.execute(
                    "SELECT '2026-01-02 03:04+00'::timestamptz, '90 min'::interval, 0.1::float8, E'\\u20ac', current_schemas(false),"
                    " current_setting('transaction_isolation'), pg_sleep(0.1)::text"
                ).fetchone()
            assert told == (
                datetime(2026, 1, 2, 3, 4, tzinfo=UTC), timedelta(minutes=90), 0.1, "€", ["public"], "read committed", ""
            )  # fmt: skip
        finally:
            conn.execute(f"DROP ROLE {role}")


def test_a_standby_and_an_old_server_are_refused() -> None:
    """What such a server says of itself, without such a server."""

    class Info:
        server_version, dbname, host = 130012, "d", "h"

    with pytest.raises(UserError, match="PostgreSQL 13, 14 is the least") as old:
        database._check_server(Info(), ("UTF8", False))  # type: ignore[arg-type]
    Info.server_version = 140000
    with pytest.raises(UserError, match="read-only standby") as standby:
        database._check_server(Info(), ("UTF8", True))  # type: ignore[arg-type]
    assert old.value.exit_code == standby.value.exit_code == 2


def test_errors_say_whether_to_try_again(db: str) -> None:
    with database.connect(db) as conn:
        conn.execute("SET statement_timeout = 20")
        with pytest.raises(psycopg.errors.QueryCanceled) as slow:
            conn.execute("SELECT pg_sleep(5)")
        assert retryable(slow.value)
        with pytest.raises(psycopg.errors.UndefinedTable) as wrong:
            conn.execute("SELECT * FROM ledger.nothing")
        assert not retryable(wrong.value)
        with pytest.raises(psycopg.OperationalError) as ended:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert retryable(ended.value)
    assert retryable(psycopg.errors.DiskFull())
    assert retryable(psycopg.errors.DeadlockDetected())


@pytest.mark.parametrize("which", ["path", "wheel"])
def test_an_embedded_server_keeps_its_data_and_recovers(tmp_path: Path, which: str) -> None:
    binaries = path_binaries() if which == "path" else wheel_binaries()
    if binaries is None:
        pytest.skip(f"no binaries from the {which}")
    before = {p: p.stat().st_mode for p in tmp_path.parents}
    with EmbeddedPostgres(tmp_path / "data", bin_dir=binaries) as server:
        database.upgrade(server.dsn)
        with database.connect(server.dsn) as conn:
            assert conn.execute("SHOW fsync").fetchone() == ("on",)
            assert conn.execute("SHOW listen_addresses").fetchone() == ("",)
            conn.execute("INSERT INTO ledger.settings VALUES ('a', 'b')")
        server.stop(immediate=True)
        server.start()
        with database.connect(server.dsn) as conn:
            assert conn.execute("SELECT value FROM ledger.settings WHERE key = 'a'").fetchone() == ("b",)
    assert {p: p.stat().st_mode for p in tmp_path.parents} == before


def test_temporary_data_outlives_a_restart_and_not_the_block() -> None:
    with EmbeddedPostgres() as server:
        folder = server.data_dir.parent
        for immediate in (False, True):
            database.upgrade(server.dsn)
            server.stop(immediate=immediate)
            server.start()
        assert database.current(server.dsn) == database.head()
    assert not folder.exists()


def test_the_server_dies_with_a_killed_parent_and_leaves_nothing() -> None:
    script = (
        "import time; from schema.embedded import EmbeddedPostgres\n"
        "with EmbeddedPostgres() as s: print(s.data_dir, open(s.data_dir / 'postmaster.pid').readline().strip(), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    folder, number = parent.stdout.readline().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and (Path(folder).parent.exists() or Path(f"/proc/{number}").exists()):
        time.sleep(0.05)
    assert not Path(folder).parent.exists()
    assert not Path(f"/proc/{number}").exists()
