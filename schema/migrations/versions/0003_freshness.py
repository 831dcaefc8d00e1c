"""What is projected while a batch waits: everything before the first slot of the first batch that no row was taken of.

Revision ID: 0003
Revises: 0002

The view took one slot off whatever the projection had reached, as if it always stood in the middle of it: while a slot was being projected, the
tables seemed two slots behind, and -1 before the first batch. Rows that are found late or backfilled wait too, but hide nothing newer: for them
the old answer stays.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_VIEW = """
CREATE OR REPLACE VIEW events.freshness AS
WITH tip AS (SELECT max(slot) AS slot FROM ledger.checkpoints WHERE name = 'tip'),
head AS (SELECT position FROM ledger.checkpoints WHERE name = 'ledger'),
projected AS (
    SELECT min(coalesce(c.position, 0)) AS position, min(coalesce(c.slot, 0)) - 1 AS slot, min(c.slot_time) AS slot_time
    FROM ledger.checkpoints c WHERE c.name LIKE 'projection:%'
),
{waiting}state AS (
    SELECT p.name AS program, i.slot AS sealed_slot,
        CASE WHEN r.position >= head.position THEN i.slot WHEN r.position IS NULL OR i.slot IS NULL THEN NULL
            ELSE least(i.slot, {shown}) END AS projected_slot,
        CASE WHEN r.position >= head.position THEN i.slot_time ELSE r.slot_time END AS slot_time,
        greatest(tip.slot, i.slot) AS tip_slot,
        f.slot AS finalized_slot,
        p.start_slot
    FROM ledger.programs p
    CROSS JOIN tip CROSS JOIN head CROSS JOIN projected r
    LEFT JOIN ledger.checkpoints i ON i.name = 'ingest:' || p.id
    LEFT JOIN ledger.checkpoints f ON f.name = 'finalized:' || p.id{join}
)
SELECT program, sealed_slot, projected_slot, tip_slot, finalized_slot,
    -- greatest() passes over NULL: what is unknown must not read as no lag.
    CASE WHEN tip_slot IS NOT NULL THEN greatest(tip_slot - coalesce(projected_slot, start_slot - 1), 0) END AS lag_slots,
    CASE WHEN projected_slot >= tip_slot THEN 0::double precision
        WHEN slot_time IS NOT NULL THEN greatest(extract(epoch FROM clock_timestamp() - slot_time), 0)::double precision END AS lag_seconds
FROM state;
"""

# `begun` is the batch that holds the projection's position: a live one that is applied in part hides its slots.
_WAITING = """begun AS (
    SELECT b.position_last > r.position AS partly FROM projected r, ledger.batches b WHERE b.position_first <= r.position
    ORDER BY b.position_first DESC LIMIT 1
),
waiting AS (
    SELECT b.slot_min - 1 AS slot FROM projected r, ledger.batches b
    WHERE b.position_first > r.position AND b.origin = 0 AND NOT coalesce((SELECT partly FROM begun), false)
    ORDER BY b.position_first LIMIT 1
),
"""


def _run(script: str) -> None:
    # Straight to the driver: the scripts hold `%` and `:` that are no parameters.
    cursor = op.get_bind().connection.cursor()
    cursor.execute(script)
    cursor.close()


def upgrade() -> None:
    join = "\n    LEFT JOIN waiting w ON true"
    _run(_VIEW.format(waiting=_WAITING, shown="greatest(w.slot, r.slot)", join=join))


def downgrade() -> None:
    _run(_VIEW.format(waiting="", shown="r.slot", join=""))
