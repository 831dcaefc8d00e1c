"""Connections and migrations: a database is checked before it is used, and what is wrong with it is said in one line.

Connections are in autocommit mode: whoever writes opens a transaction, so that nobody inherits one by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from programs.errors import EXIT_UNREACHABLE, EXIT_USAGE, EXIT_WRONG, UserError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

SETTING = "INDEXER_DATABASE_URL"
SERVER_VERSION_MIN = 140000
CONNECT_TIMEOUT_S = 10.0
# A transaction that a stopped process left open holds the ledger's lock: the server ends it, and a standby goes on.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 8_000
# A rebuild reads through one cursor and works between its fetches.
READER_IDLE_IN_TRANSACTION_TIMEOUT_MS = 600_000
LOCK_TIMEOUT_MS = 20_000
APPLICATION = "indexer"
# How often two connections take turns to see whether they are given each other's session.
_TURNS = 5
# What the server says about a connection that more waiting will not mend.
_CONFIGURATION_STATES = frozenset({"28000", "28P01", "3D000", "42501", "42704"})
_CONFIGURATION_WORDS = (
    "authentication failed",
    "does not exist",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied for database",
    "invalid integer value",
    "invalid connection option",
)


def check_dsn(dsn: str, timeout_s: float = CONNECT_TIMEOUT_S, programs: Sequence[str] = ()) -> str:
    """Prove that the database can be used, also for the read models of the programs of these names, and say what it is. Nothing is changed.

    UserError: 2 for what must be configured otherwise, 3 when nothing answers in time.
    """
    with connect(dsn, timeout_s=timeout_s) as conn:
        may = conn.execute(
            "SELECT has_database_privilege(current_database(), 'CREATE'), to_regnamespace('ledger') IS NOT NULL"
        ).fetchone()
        if may is not None and not may[0] and not may[1]:
            raise UserError(
                f"{SETTING}: role {conn.info.user!r} may not create schemas in database {conn.info.dbname!r}; "
                f'as its owner: GRANT CREATE ON DATABASE "{conn.info.dbname}" TO "{conn.info.user}"',
                EXIT_USAGE,
            )
        if conn.execute("SELECT current_setting('transaction_read_only')").fetchone() == ("on",):
            raise UserError(
                f"{SETTING}: role {conn.info.user!r} can only read in database {conn.info.dbname!r} (default_transaction_read_only is on);"
                f' as an administrator: ALTER ROLE "{conn.info.user}" SET default_transaction_read_only = off',
                EXIT_USAGE,
            )
        _must_keep_its_session(conn, dsn, timeout_s)
        _must_be_our_ledger(conn)
        _must_be_our_read_models(conn, programs)
        version = conn.info.server_version
        return f"{describe(dsn)}, PostgreSQL {version // 10000}.{version % 10000}"


def _must_keep_its_session(conn: psycopg.Connection[Any], dsn: str, timeout_s: float) -> None:
    """UserError 2 behind a pooler that gives each transaction whatever session is free: our locks and settings would be other people's, theirs
    ours, and prepared statements would be those of nobody. One that keeps a session for as long as a client is connected can be used."""

    def session(of: psycopg.Connection[Any]) -> Any:
        return of.execute("SELECT pg_backend_pid()").fetchone()

    ours = session(conn)
    if ours == (conn.info.backend_pid,):
        return  # Nobody stands between: what the server called itself at the start is what answers.
    with connect(dsn, timeout_s=timeout_s) as other:
        # A free session is given to the next who asks: with two clients that take turns, to the other one.
        shared = any(session(other) == ours or session(conn) != ours for _ in range(_TURNS))
    if shared:
        raise UserError(
            f"{SETTING}: {describe(dsn)} is a pooler that gives each transaction another session of the server; "
            "name the server itself, or a pool that keeps sessions (PgBouncer: pool_mode=session)",
            EXIT_USAGE,
        )


def _must_be_our_read_models(conn: psycopg.Connection[Any], programs: Sequence[str]) -> None:
    """UserError 2 when the schemas for readers hold somebody else's relations. Asked before the first start only: `reset` and a new version of a
    view would drop them. Later a reader may well have put a view of his own beside ours."""
    if _current(conn) is not None:
        return
    ours = conn.execute(
        "SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = to_regclass('projections.views') AND attname IN ('schema', 'name', 'definition')"
    ).fetchone() == (True,)
    schemas = ["events", *programs, *(f"{name}_events" for name in programs), *(() if ours else ("projections",))]
    known = "SELECT schema, name FROM projections.views" if ours else "SELECT 'events', 'freshness'"
    foreign = conn.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (n.nspname, c.relname) NOT IN ({known}) ORDER BY 1",
        (schemas,),
    ).fetchall()
    if foreign:
        raise UserError(
            f"{SETTING}: database {conn.info.dbname!r} belongs to another program: the schemas of the read models hold "
            f"{', '.join(name for (name,) in foreign[:3])}; name another database",
            EXIT_USAGE,
        )


def _must_be_our_ledger(conn: psycopg.Connection[Any]) -> None:
    """UserError 2 for a schema `ledger` of somebody else, of a newer program, or in which we may not write. Nothing is changed."""
    names = {
        name
        for (name,) in conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('ledger') AND relkind IN ('r', 'p', 'v', 'm')"
        )
    }
    if not names:
        return
    where = f"{SETTING}: database {conn.info.dbname!r}"
    # Others have a table of this name too: ours names its revision in this column, or is alone, as a downgrade to nothing leaves it.
    versioned = conn.execute(
        "SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = to_regnamespace('ledger')"
        " AND c.relname = 'schema_version' AND a.attname = 'version_num'"
    ).fetchone()
    if versioned is None or (len(names) > 1 and _current(conn) is None):
        raise UserError(
            f"{where} has a schema 'ledger' that is not ours (it holds {', '.join(sorted(names)[:3])}); name another database",
            EXIT_USAGE,
        )
    found = _current(conn)
    if found is None:
        return
    if found not in known_revisions():
        raise UserError(
            f"{where} is at revision {found}, which this program does not know (its newest is {head()}): the database was used by a newer one; "
            "install that, or name another database",
            EXIT_USAGE,
        )
    may = conn.execute(
        "SELECT has_table_privilege('ledger.transactions', 'INSERT') AND has_table_privilege('ledger.checkpoints', 'UPDATE'),"
        " pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'ledger.schema_version'::regclass"
    ).fetchone()
    if may is not None and not may[0]:
        raise UserError(
            f"{where}: role {conn.info.user!r} may not write the ledger; connect as its owner {may[1]!r}", EXIT_USAGE
        )


def connect(
    dsn: str, *, timeout_s: float = CONNECT_TIMEOUT_S, application: str = APPLICATION
) -> psycopg.Connection[Any]:
    """A checked connection in autocommit mode. UserError as `check_dsn`."""
    keywords = _keywords(dsn, timeout_s, application)
    try:
        conn: psycopg.Connection[Any] = psycopg.connect(**keywords, autocommit=True)
    except psycopg.Error as error:
        raise _refusal(dsn, error) from None
    try:
        # As pg_dump does: a role's time limit is for short queries, and would cut each rebuild at the same place.
        conn.execute(_session(READER_IDLE_IN_TRANSACTION_TIMEOUT_MS, statement_timeout="0"))
        _check_server(conn.info, conn.execute(_FACTS).fetchone())
    except BaseException:
        conn.close()
        raise
    return conn


async def aconnect(
    dsn: str, *, timeout_s: float = CONNECT_TIMEOUT_S, application: str = APPLICATION
) -> psycopg.AsyncConnection[Any]:
    """A connection in autocommit mode for asyncio. psycopg.OperationalError when the database is down (the caller retries); UserError,
    exit code 2, when the URL is no URL or the server cannot serve us."""
    keywords = _keywords(dsn, timeout_s, application)
    conn: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(**keywords, autocommit=True)
    try:
        await conn.execute(_session(IDLE_IN_TRANSACTION_TIMEOUT_MS))
        _check_server(conn.info, await (await conn.execute(_FACTS)).fetchone())
    except BaseException:
        await conn.close()
        raise
    return conn


def upgrade(dsn: str, revision: str = "head") -> None:
    """Bring the schema up to a revision, in one transaction. UserError 2 when a right is missing, the revision is unknown or the schema is
    somebody else's."""
    with connect(dsn) as conn:
        _must_be_our_ledger(conn)
    _migrate(dsn, revision, down=False)
    from schema import roles

    with connect(dsn) as conn:
        roles.ensure_reader_role(conn)


def downgrade(dsn: str, revision: str = "base") -> None:
    """Take the schema down to a revision, in one transaction. Below the first one nothing of it is left."""
    _migrate(dsn, revision, down=True)
    with connect(dsn) as conn:
        left = conn.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('ledger') AND relkind IN ('r', 'p')"
        ).fetchone()
        if _current(conn) is None and left is not None and left[0] <= 1:
            conn.execute("DROP TABLE IF EXISTS ledger.schema_version; DROP SCHEMA IF EXISTS ledger")


def reset(dsn: str) -> None:
    """Drop the ledger, the read models and everything that stands on them, and create the schema anew. Data is gone afterwards."""
    from schema import roles

    with connect(dsn) as conn, conn.transaction():
        for schema in sorted({"ledger", "events", *roles.read_schemas(conn), *_generations(conn)}):
            conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
    upgrade(dsn)


def _generations(conn: psycopg.Connection[Any]) -> list[str]:
    """The schemas of the projections' own tables, as their record lists them."""
    known = conn.execute("SELECT to_regclass('projections.generations') IS NOT NULL").fetchone()
    if known != (True,):
        return []
    found = conn.execute("SELECT 'projection_' || id FROM projections.generations").fetchall()
    return ["projections", *(name for (name,) in found)]


def current(dsn: str) -> str | None:
    """The revision that the database is at, None for none."""
    with connect(dsn) as conn:
        return _current(conn)


def head() -> str:
    """The revision that this program needs."""
    found = _scripts().get_current_head()
    if found is None:
        raise RuntimeError("there are no migrations")
    return found


def known_revisions() -> frozenset[str]:
    """Every revision that this program knows."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


def revisions(dsn: str) -> tuple[str | None, str]:
    """The revision that the database is at, and the one that this program needs."""
    return current(dsn), head()


def check_schema(dsn: str) -> None:
    """UserError, exit code 2, unless the database is at the revision that this program needs."""
    found, needed = revisions(dsn)
    if found is not None and found not in known_revisions():
        raise UserError(
            f"{SETTING}: the schema is at revision {found}, which this program does not know (its newest is {needed}): install the newer program",
            EXIT_USAGE,
        )
    if found != needed:
        raise UserError(
            f"{SETTING}: the schema is at revision {found}, this program needs {needed}; run: indexer db upgrade",
            EXIT_USAGE,
        )


def describe(dsn: str) -> str:
    """Host and database of a DSN for messages; never the password."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the given URL"
    return f"{parts.get('host') or 'the local socket'}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


# ---- parts ----


# Whatever the role, the database or the server has set: the driver reads times in ISO form only, floats must come back whole, an isolation level
# above ours makes harmless races fail, and a search path may lead to somebody else's tables and functions.
_SAME_EVERYWHERE = {
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "timezone": "UTC",
    "plan_cache_mode": "force_custom_plan",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
    "search_path": "public",
    "idle_session_timeout": "0",
}


def _session(idle_ms: int, **more: str) -> bytes:
    settings = {**_SAME_EVERYWHERE, "idle_in_transaction_session_timeout": str(idle_ms), **more}
    return (
        "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    ).encode()


_FACTS = "SELECT current_setting('server_encoding'), pg_is_in_recovery()"


def _keywords(dsn: str, timeout_s: float, application: str) -> dict[str, Any]:
    if "+" in dsn.split("://", 1)[0] and "://" in dsn:
        raise UserError(
            f"{SETTING}: the URL begins with a driver's name; write postgresql://USER@HOST/DATABASE", EXIT_USAGE
        )
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        # The driver's own text repeats the URL, and the URL may hold a password.
        raise UserError(
            f"{SETTING} is not a PostgreSQL URL; write postgresql://USER@HOST/DATABASE", EXIT_USAGE
        ) from None
    defaults: dict[str, Any] = {
        "connect_timeout": max(2, int(timeout_s)),
        "application_name": application,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    return {**defaults, **parts}


def _check_server(info: psycopg.ConnectionInfo, facts: tuple[Any, ...] | None) -> None:
    if info.server_version < SERVER_VERSION_MIN:
        raise UserError(
            f"{SETTING}: the server is PostgreSQL {info.server_version // 10000}, {SERVER_VERSION_MIN // 10000} is the least",
            EXIT_USAGE,
        )
    encoding, standby = facts or ("", False)
    if encoding != "UTF8":
        raise UserError(
            f"{SETTING}: database {info.dbname!r} has encoding {encoding}; create one with ENCODING 'UTF8'", EXIT_USAGE
        )
    if standby:
        raise UserError(
            f"{SETTING}: {info.host} is a read-only standby; name the primary (or add target_session_attrs=read-write)",
            EXIT_USAGE,
        )


def _refusal(dsn: str, error: psycopg.Error) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in lines if "FATAL" in line), lines[0])
    where = describe(dsn)
    if error.sqlstate in _CONFIGURATION_STATES or any(word in said for word in _CONFIGURATION_WORDS):
        return UserError(f"{SETTING}: {where} refuses: {said}; check user, password and database name", EXIT_USAGE)
    return UserError(
        f"{SETTING}: {where} cannot be reached: {said}; is the server up, and the address right?", EXIT_UNREACHABLE
    )


def trouble(error: Exception) -> UserError:
    """What a command says when the database refuses in the middle of the work: 3 for what passes or is repaired beside us, 2 for a missing right,
    1 for everything else. `error` is psycopg's, or SQLAlchemy's around one."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or ""
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if state in ("42501", "25006"):
        return UserError(
            f"{SETTING}: the database refuses: {said}; connect as the owner, with the right to write", EXIT_USAGE
        )
    if state.startswith(("53", "58")):
        return UserError(
            f"{SETTING}: the server has no room left: {said}; give it disk, memory or connections", EXIT_UNREACHABLE
        )
    if state in ("57014", "55P03") or state.startswith("40"):
        return UserError(
            f"{SETTING}: cut short: {said}; another session or a time limit was in the way, try again", EXIT_UNREACHABLE
        )
    if isinstance(cause, psycopg.OperationalError) or state[:2] in ("08", "57"):
        return UserError(f"{SETTING}: the database went away: {said}; start again when it is back", EXIT_UNREACHABLE)
    return UserError(f"{SETTING}: the database refuses: {type(cause).__name__}: {said}", EXIT_WRONG)


# Alembic is loaded where migrations are looked at, and not by each process that connects: one that reads ahead should be up soon.


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "schema:migrations")
    return config


def _migrate(dsn: str, revision: str, *, down: bool) -> None:
    from alembic import command
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg://", creator=lambda: _plain(dsn), poolclass=NullPool)
    config = _config()
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)
    except CommandError as error:
        raise UserError(f"revision {revision!r}: {error}", EXIT_USAGE) from None
    except Exception as error:
        cause = getattr(error, "orig", error)
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise UserError(
                f"{SETTING}: {describe(dsn)}: {cause.diag.message_primary}; migrate as the database's owner", EXIT_USAGE
            ) from None
        raise


def _plain(dsn: str) -> psycopg.Connection[Any]:
    conn = connect(dsn)
    conn.autocommit = False
    return conn


def _current(conn: psycopg.Connection[Any]) -> str | None:
    try:
        known = conn.execute("SELECT to_regclass('ledger.schema_version')").fetchone()
        if known is None or known[0] is None:
            return None
        row = conn.execute("SELECT version_num FROM ledger.schema_version").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        user, database = conn.info.user, conn.info.dbname
        raise UserError(
            f"{SETTING}: role {user!r} may not read the ledger in database {database!r}; connect as its owner, or as its owner: "
            f'GRANT USAGE ON SCHEMA ledger TO "{user}"; GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO "{user}"',
            EXIT_USAGE,
        ) from None
    return None if row is None else str(row[0])
