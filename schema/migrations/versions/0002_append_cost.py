"""Fewer and smaller indexes, the fence as a function, partitions that a mistake can't drop.

Revision ID: 0002
Revises: 0001

Chain order within a slot needs no index of its own: rows come presorted by slot from the primary key. Signatures are random, so each insert
touches another page of their index; a hash index has a third of the pages, and equality is all that is asked.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = """
DROP INDEX ledger.transactions_slot_index;
DROP INDEX ledger.transactions_signature;
CREATE INDEX transactions_signature ON ledger.transactions USING hash (signature);

-- COMMIT is sent behind it unseen: it must fail by itself.
CREATE FUNCTION ledger.fence(lease text, lease_epoch bigint, lease_holder text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM ledger.leases WHERE name = lease AND epoch = lease_epoch AND holder = lease_holder FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease % of epoch % is no longer ours', quote_literal(lease), lease_epoch USING ERRCODE = 'IX001';
    END IF;
END $$;
"""

_DOWN = """
DROP FUNCTION ledger.fence(text, bigint, text);
DROP INDEX ledger.transactions_signature;
CREATE INDEX transactions_slot_index ON ledger.transactions (slot, transaction_index);
CREATE INDEX transactions_signature ON ledger.transactions (signature);
"""


def _run(script: str) -> None:
    # Straight to the driver: the scripts hold `%` and `:` that are no parameters.
    cursor = op.get_bind().connection.cursor()
    cursor.execute(script)
    cursor.close()


def upgrade() -> None:
    _run(_UP)


def downgrade() -> None:
    _run(_DOWN)
