"""Alembic's entry: one connection from `schema.db`, one transaction, one migrator at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from schema import tables

# Any constant: two daemons that start on an empty database at once must not both create the tables.
MIGRATION_LOCK = 0x6C656467


def _run(connection: Connection) -> None:
    with connection.begin():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS ledger"))
        context.configure(
            connection=connection,
            target_metadata=tables.metadata,
            version_table="schema_version",
            version_table_schema=tables.SCHEMA,
            transactional_ddl=True,
        )
        context.run_migrations()


_run(context.config.attributes["connection"])
