"""Decoded events are found by signature through a hash index.

Revision ID: 0004
Revises: 0003

A signature is only ever asked for as a whole. The tree held each of them once more, in random order: most of what an event cost to
store at size. The projections make the table itself, in a schema of their own, and every new one with the hash index already.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEX = """
DO $$
DECLARE tables text;
BEGIN
    IF to_regclass('projections.installed') IS NULL THEN
        RETURN;
    END IF;
    SELECT 'projection_' || generation INTO tables FROM projections.installed WHERE name = 'events';
    IF tables IS NOT NULL AND to_regclass(format('%I.decoded', tables)) IS NOT NULL THEN
        EXECUTE format('DROP INDEX IF EXISTS %I.decoded_by_signature', tables);
        EXECUTE format('CREATE INDEX decoded_by_signature ON %I.decoded USING {method} (signature)', tables);
    END IF;
END $$;
"""


def _run(script: str) -> None:
    # Straight to the driver: the script holds `%` that is no parameter.
    cursor = op.get_bind().connection.cursor()
    cursor.execute(script)
    cursor.close()


def upgrade() -> None:
    _run(_INDEX.format(method="hash"))


def downgrade() -> None:
    _run(_INDEX.format(method="btree"))
