"""Every metric of the projections, declared once."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("indexer_projection_events_total", "Events decoded from the ledger")
INCOMPLETE = Counter("indexer_projection_incomplete_total", "Transactions whose events cannot all be known")
TAPE_BATCHES = Gauge("indexer_projection_tape_batches", "Decoded batches held for those that follow (bounded)")
AHEAD_BATCHES = Gauge(
    "indexer_projection_ahead_batches",
    "Batches asked of the process that reads ahead and not taken yet (bounded); 0 while there is none",
)
AHEAD_LOST = Counter(
    "indexer_projection_ahead_lost_total", "Processes that read ahead and were given up; reading went on without them"
)
CACHED_ROWS = Gauge("indexer_projection_cached_rows", "Rows held in memory between batches (bounded)", ["projection"])
BATCHES = Counter("indexer_projection_batches_total", "Batches applied", ["projection"])
BATCH_SECONDS = Histogram("indexer_projection_batch_seconds", "Time to fold and commit a batch", ["projection"])
REFOLDS = Counter(
    "indexer_projection_refolds_total", "Scopes folded anew after a late row or a retraction", ["projection"]
)
POSITION = Gauge("indexer_projection_position", "Ledger position that the tables show", ["projection"])
LAG_POSITIONS = Gauge("indexer_projection_lag_positions", "Ledger rows not yet in the tables", ["projection"])
DEAD_LETTERS = Gauge("indexer_projection_dead_letters", "Events parked and not resolved", ["projection"])
FAILED = Gauge("indexer_projection_failed", "1 while the projection stands still because of an error", ["projection"])
LONGER = Counter(
    "indexer_projection_longer_events_total",
    "Events with more bytes than their IDL describes: a newer IDL is due",
    ["program"],
)
