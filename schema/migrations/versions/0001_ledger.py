"""The ledger: transactions, account samples, seals, retractions, checkpoints, leases; append-only by trigger.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE ledger.settings (key text PRIMARY KEY, value text NOT NULL);
INSERT INTO ledger.settings VALUES ('partition_width_slots', '432000');

CREATE TABLE ledger.programs (
    id smallint PRIMARY KEY, address text NOT NULL UNIQUE, name text NOT NULL UNIQUE, start_slot bigint NOT NULL
);

CREATE TABLE ledger.transactions (
    position bigint NOT NULL, slot bigint NOT NULL, transaction_index integer NOT NULL, signature bytea NOT NULL, block_time bigint,
    err text, wire bytea NOT NULL, logs bytea, inner_instructions bytea, loaded bytea NOT NULL, version smallint,
    programs smallint[] NOT NULL, truncated boolean NOT NULL, origin smallint NOT NULL, witnesses smallint NOT NULL, digest bytea NOT NULL,
    CONSTRAINT transactions_pkey PRIMARY KEY (slot, position)
) PARTITION BY RANGE (slot);
CREATE INDEX transactions_position ON ledger.transactions (position);
CREATE INDEX transactions_slot_index ON ledger.transactions (slot, transaction_index);
CREATE INDEX transactions_signature ON ledger.transactions (signature);

CREATE SEQUENCE ledger.account_updates_id_seq;
CREATE TABLE ledger.account_updates (
    id bigint NOT NULL DEFAULT nextval('ledger.account_updates_id_seq'), program smallint NOT NULL, slot bigint NOT NULL,
    pubkey bytea NOT NULL, lamports numeric(20) NOT NULL, owner bytea NOT NULL, data bytea, closed boolean NOT NULL,
    source smallint NOT NULL, observed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT account_updates_pkey PRIMARY KEY (slot, id)
) PARTITION BY RANGE (slot);
CREATE INDEX account_updates_id ON ledger.account_updates (id);
CREATE INDEX account_updates_pubkey ON ledger.account_updates (program, pubkey, slot, id);

-- Which slots a run of positions lies in: a read by position prunes partitions with it.
CREATE TABLE ledger.batches (
    position_first bigint PRIMARY KEY, position_last bigint NOT NULL, slot_min bigint NOT NULL, slot_max bigint NOT NULL,
    origin smallint NOT NULL, epoch bigint NOT NULL, appended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE ledger.seals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, program smallint NOT NULL REFERENCES ledger.programs (id),
    slot_first bigint NOT NULL, slot_last bigint NOT NULL, position_first bigint, position_last bigint, transactions integer NOT NULL,
    digest bytea NOT NULL, previous bytea NOT NULL, commitment text NOT NULL, origin smallint NOT NULL, epoch bigint NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seals_slots CHECK (slot_first <= slot_last),
    CONSTRAINT seals_commitment CHECK (commitment IN ('confirmed', 'finalized'))
);
CREATE INDEX seals_program_slot ON ledger.seals (program, commitment, slot_last);

CREATE TABLE ledger.retractions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, position bigint NOT NULL UNIQUE, slot bigint NOT NULL, signature bytea NOT NULL,
    reason text NOT NULL, epoch bigint NOT NULL, retracted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX retractions_slot ON ledger.retractions (slot);

CREATE TABLE ledger.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, projection text NOT NULL, program smallint NOT NULL, position bigint NOT NULL,
    slot bigint NOT NULL, signature bytea NOT NULL, event_index integer NOT NULL, event_name text, scope text, reason text NOT NULL,
    error text NOT NULL, raw bytea, parked_at timestamptz NOT NULL DEFAULT clock_timestamp(), resolved_at timestamptz, resolution text,
    resolution_reason text,
    CONSTRAINT dead_letters_reason CHECK (reason IN ('undecodable', 'handler', 'behind')),
    CONSTRAINT dead_letters_resolution CHECK (resolution IN ('applied', 'discarded'))
);
CREATE INDEX dead_letters_open ON ledger.dead_letters (projection, scope) WHERE resolved_at IS NULL;

-- Rewritten at every commit: room on the page keeps each new version beside the old one.
CREATE TABLE ledger.checkpoints (
    name text PRIMARY KEY, position bigint, slot bigint, transaction_index integer, slot_time timestamptz, digest bytea, epoch bigint,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 40);
INSERT INTO ledger.checkpoints (name, position) VALUES ('ledger', 0);

CREATE TABLE ledger.coverage (
    program smallint NOT NULL REFERENCES ledger.programs (id), commitment text NOT NULL, slot_first bigint NOT NULL,
    slot_last bigint NOT NULL,
    CONSTRAINT coverage_pkey PRIMARY KEY (program, commitment, slot_first),
    CONSTRAINT coverage_slots CHECK (slot_first <= slot_last)
) WITH (fillfactor = 40);

CREATE TABLE ledger.leases (
    name text PRIMARY KEY, epoch bigint NOT NULL, holder text NOT NULL, acquired_at timestamptz NOT NULL, renewed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 40);

CREATE TABLE ledger.idls (
    program smallint NOT NULL REFERENCES ledger.programs (id), slot_from bigint NOT NULL, idl bytea NOT NULL, sha256 bytea NOT NULL,
    source text NOT NULL, added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT idls_pkey PRIMARY KEY (program, slot_from, sha256)
);
"""

_FUNCTIONS = """
CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', HINT = 'What the chain took back is written to ledger.retractions.';
END $$;

-- ALWAYS: session_replication_role = replica must not open a back door.
-- By statement: no cost by row, and a change that matches no row is refused too.
CREATE FUNCTION ledger.guard(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', target);
END $$;

-- Partitions for the slots, and one ahead. Attached, not created in place: that lock lets readers and writers through.
CREATE FUNCTION ledger.ensure_partitions(slot_first bigint, slot_last bigint) RETURNS integer LANGUAGE plpgsql AS $$
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
            EXECUTE format('CREATE TABLE ledger.%I (LIKE ledger.%I INCLUDING ALL)', child, parent);
            EXECUTE format('ALTER TABLE ledger.%I SET (toast_tuple_target = 8160)', child);
            EXECUTE format('ALTER TABLE ledger.%I ATTACH PARTITION ledger.%I FOR VALUES FROM (%s) TO (%s)',
                parent, child, number * width, (number + 1) * width);
            PERFORM ledger.guard(format('ledger.%I', child)::regclass);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
"""

_FRESHNESS = """
CREATE SCHEMA IF NOT EXISTS events;
-- A projection that applied the ledger's last position has shown everything sealed; one that has not may stand in the middle of a slot.
CREATE VIEW events.freshness AS
WITH tip AS (SELECT max(slot) AS slot FROM ledger.checkpoints WHERE name = 'tip'),
head AS (SELECT position FROM ledger.checkpoints WHERE name = 'ledger'),
projected AS (
    SELECT min(coalesce(c.position, 0)) AS position, min(coalesce(c.slot, 0)) - 1 AS slot, min(c.slot_time) AS slot_time
    FROM ledger.checkpoints c WHERE c.name LIKE 'projection:%'
),
state AS (
    SELECT p.name AS program, i.slot AS sealed_slot,
        CASE WHEN r.position >= head.position THEN i.slot WHEN r.position IS NULL OR i.slot IS NULL THEN NULL
            ELSE least(i.slot, r.slot) END AS projected_slot,
        CASE WHEN r.position >= head.position THEN i.slot_time ELSE r.slot_time END AS slot_time,
        greatest(tip.slot, i.slot) AS tip_slot,
        f.slot AS finalized_slot,
        p.start_slot
    FROM ledger.programs p
    CROSS JOIN tip CROSS JOIN head CROSS JOIN projected r
    LEFT JOIN ledger.checkpoints i ON i.name = 'ingest:' || p.id
    LEFT JOIN ledger.checkpoints f ON f.name = 'finalized:' || p.id
)
SELECT program, sealed_slot, projected_slot, tip_slot, finalized_slot,
    -- greatest() passes over NULL: what is unknown must not read as no lag.
    CASE WHEN tip_slot IS NOT NULL THEN greatest(tip_slot - coalesce(projected_slot, start_slot - 1), 0) END AS lag_slots,
    CASE WHEN projected_slot >= tip_slot THEN 0::double precision
        WHEN slot_time IS NOT NULL THEN greatest(extract(epoch FROM clock_timestamp() - slot_time), 0)::double precision END AS lag_seconds
FROM state;
"""


def _run(script: str) -> None:
    # Straight to the driver: the scripts hold `%` and `:` that are no parameters.
    bind = op.get_bind()
    cursor = bind.connection.cursor()
    cursor.execute(script)
    cursor.close()


def upgrade() -> None:
    _run(_TABLES)
    _run(_FUNCTIONS)
    for name in ("transactions", "account_updates", "seals", "retractions", "idls", "batches"):
        op.execute(text(f"SELECT ledger.guard('ledger.{name}'::regclass)"))
    _run(_FRESHNESS)


def downgrade() -> None:
    _run(
        """
        DROP VIEW events.freshness;
        DROP TABLE ledger.coverage, ledger.seals, ledger.retractions, ledger.dead_letters, ledger.checkpoints, ledger.leases, ledger.idls,
            ledger.batches, ledger.account_updates, ledger.transactions, ledger.programs, ledger.settings;
        DROP SEQUENCE ledger.account_updates_id_seq;
        DROP FUNCTION ledger.ensure_partitions(bigint, bigint);
        DROP FUNCTION ledger.guard(regclass);
        DROP FUNCTION ledger.refuse_change();
        """
    )
