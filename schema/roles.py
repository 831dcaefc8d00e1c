"""Who may read what: `indexer_reader` sees the read models' views and nothing of the ledger.

Views run with their owner's rights, so a reader needs no right on the tables beneath.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

READER = "indexer_reader"


def ensure_reader_role(conn: psycopg.Connection[Any], schemas: Iterable[str] = ("events",)) -> bool:
    """Create the role where we may, and let it read the views of the schemas. False when the role is missing and may not be created
    (the connection's own role needs CREATEROLE, or an administrator runs `CREATE ROLE indexer_reader NOLOGIN`)."""
    if not _exists(conn):
        try:
            conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(READER)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass
        except psycopg.errors.InsufficientPrivilege:
            return False
    for schema in schemas:
        grant_views(conn, schema)
    return True


def grant_views(conn: psycopg.Connection[Any], schema: str) -> None:
    """Let readers use a schema and select from its views, today's ones; call it again after making others. Its tables stay closed.
    Nothing happens while the role or the schema does not exist."""
    if not _exists(conn) or conn.execute("SELECT to_regnamespace(%s) IS NULL", (sql_name(schema),)).fetchone() == (
        True,
    ):
        return
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(READER)))
    views = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('v', 'm')",
        (sql_name(schema),),
    ).fetchall()
    for (view,) in views:
        conn.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(schema, view), sql.Identifier(READER)))


def read_schemas(conn: psycopg.Connection[Any]) -> list[str]:
    """The schemas with views for readers that exist: `events`, and two a registered program. Never one of somebody else's, whose views
    readers must not see and `reset` must not drop."""
    known = conn.execute("SELECT to_regclass('ledger.programs') IS NOT NULL").fetchone() == (True,)
    names = [name for (name,) in conn.execute("SELECT name FROM ledger.programs")] if known else []
    wanted = {"events", *names, *(f"{name}_events" for name in names)} - {"ledger", "public", "information_schema"}
    found = conn.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s) AND nspname !~ '^pg_' ORDER BY 1", (list(wanted),)
    )
    return [name for (name,) in found.fetchall()]


def sql_name(name: str) -> str:
    """A name quoted as to_regnamespace wants it."""
    return '"' + name.replace('"', '""') + '"'


def _exists(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (READER,)).fetchone() is not None
