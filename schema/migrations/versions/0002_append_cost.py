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

-- Grants before triggers: the owner, too, has no right to change what is appended. (A superuser needs none, and meets the trigger.)
CREATE OR REPLACE FUNCTION ledger.guard(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', target);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %s FROM PUBLIC, CURRENT_USER', target);
END $$;
SELECT ledger.guard(tgrelid::regclass) FROM pg_trigger
WHERE tgname = 'append_only' AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'ledger'::regnamespace);

-- The options belong to CREATE: no ALTER TABLE ends while a partition is not attached.
CREATE OR REPLACE FUNCTION ledger.ensure_partitions(slot_first bigint, slot_last bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    width bigint := (SELECT value::bigint FROM ledger.settings WHERE key = 'partition_width_slots');
    number bigint;
    parent text;
    child text;
    made integer := 0;
BEGIN
    FOR number IN slot_first / width .. slot_last / width + 1 LOOP
        FOREACH parent IN ARRAY ARRAY['transactions', 'account_updates'] LOOP
            child := parent || '_s' || (number * width)::text;
            CONTINUE WHEN to_regclass('ledger.' || child) IS NOT NULL;
            PERFORM pg_advisory_xact_lock(hashtext('ledger.ensure_partitions'));
            CONTINUE WHEN to_regclass('ledger.' || child) IS NOT NULL;
            EXECUTE format('CREATE TABLE ledger.%I (LIKE ledger.%I INCLUDING ALL) WITH (toast_tuple_target = 8160)', child, parent);
            EXECUTE format('ALTER TABLE ledger.%I ATTACH PARTITION ledger.%I FOR VALUES FROM (%s) TO (%s)',
                parent, child, number * width, (number + 1) * width);
            PERFORM ledger.guard(format('ledger.%I', child)::regclass);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- Triggers on tables do not see DROP TABLE and DETACH. To drop the whole ledger, or its schema, is no slip and stays possible.
CREATE FUNCTION ledger.refuse_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        IF EXISTS (
            SELECT FROM pg_event_trigger_dropped_objects()
            WHERE object_identity IN ('ledger', 'ledger.transactions', 'ledger.account_updates')
        ) THEN
            RETURN;
        END IF;
        SELECT object_identity INTO gone FROM pg_event_trigger_dropped_objects()
        WHERE object_type = 'table' AND schema_name = 'ledger' AND object_name ~ '^(transactions|account_updates)_s[0-9]+$' LIMIT 1;
    ELSE
        SELECT c.objid::regclass::text AS object_identity INTO gone FROM pg_event_trigger_ddl_commands() c
        JOIN pg_class t ON t.oid = c.objid AND t.relnamespace = to_regnamespace('ledger')
        WHERE EXISTS (
            SELECT FROM pg_class o WHERE o.relnamespace = t.relnamespace AND o.relkind = 'r' AND NOT o.relispartition
            AND o.relname ~ '^(transactions|account_updates)_s[0-9]+$'
        ) LIMIT 1;
    END IF;
    IF gone.object_identity IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger is append-only: % of a partition is refused (%)', TG_TAG, gone.object_identity
            USING ERRCODE = 'restrict_violation',
            HINT = 'Who means it disables the event triggers ledger_keeps_partitions and ledger_keeps_attached.';
    END IF;
END $$;

DO $$
BEGIN
    CREATE EVENT TRIGGER ledger_keeps_partitions ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION ledger.refuse_drop();
    CREATE EVENT TRIGGER ledger_keeps_attached ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION ledger.refuse_drop();
EXCEPTION WHEN insufficient_privilege THEN
    -- Only a superuser may make one. Without it `indexer verify` still notices what is gone.
    NULL;
END $$;
"""

_DOWN = """
DROP EVENT TRIGGER IF EXISTS ledger_keeps_partitions;
DROP EVENT TRIGGER IF EXISTS ledger_keeps_attached;
DROP FUNCTION ledger.refuse_drop();
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
