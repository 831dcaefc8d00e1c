"""Every metric of the indexer, declared once. Those of the projections are in projections/metrics.py."""

from __future__ import annotations

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# A series beside each counter with the time it was made: twice the page, and nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Every name on the page begins with `indexer_`: those of the process too, and the library's own of the interpreter are left out.
for _collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
    REGISTRY.unregister(_collector)
ProcessCollector(namespace="indexer")

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)

# Where the chain and the ledger stand.
TIP_SLOT = Gauge("indexer_tip_slot", "Highest slot seen at the sealing commitment")
FINALIZED_SLOT = Gauge("indexer_finalized_slot", "Highest slot that was checked at finalized, over all programs")
SEALED_SLOT = Gauge("indexer_sealed_slot", "Last slot proven complete and committed", ["program"])
SEALED_LAG_SLOTS = Gauge("indexer_sealed_lag_slots", "Tip minus sealed slot", ["program"])
LEADER = Gauge("indexer_leader", "1 while this process holds the writer's lease")
LEASE_LOST = Counter("indexer_lease_lost_total", "Times the writer's lease was lost")

# Sealing.
TICKS = Counter("indexer_ticks_total", "Sealing rounds by outcome", ["outcome"])
TICK_SECONDS = Histogram("indexer_tick_seconds", "Length of a sealing round", buckets=_SECONDS)
ROWS = Counter("indexer_ledger_rows_total", "Transactions appended to the ledger", ["origin"])
APPEND_SECONDS = Histogram("indexer_append_seconds", "Time of an append's database transaction", buckets=_SECONDS)
FETCHED = Counter("indexer_fetched_total", "Contents asked for, by route", ["route"])
LIST_MISSED = Counter("indexer_list_missed_total", "Transactions that a block shows and the signature list lacked")
LIST_INVENTED = Counter("indexer_list_invented_total", "Transactions that the signature list named and the block lacks")
LIST_WRONG = Counter(
    "indexer_list_wrong_total", "Rows whose outcome or place the signature list tells otherwise than their block"
)
LISTS_UNJOINED = Counter(
    "indexer_lists_unjoined_total",
    "Rounds in which a signature list did not come down to the ledger's last row, by commitment",
    ["commitment"],
)
TRUNCATED = Counter("indexer_truncated_logs_total", "Transactions appended with truncated logs")
LOGS_UNKNOWN = Counter("indexer_unknown_logs_total", "Transactions appended without recorded logs")
STALLED = Gauge("indexer_stalled", "1 while the proof needs a person; /readyz gives reason and remedy")

# The second witness.
NOTIFICATIONS = Counter("indexer_notifications_total", "Logs notifications by what became of them", ["fate"])
FORGERIES = Counter("indexer_forgeries_total", "Notifications under a true signature and slot with forged contents")
PHANTOMS = Counter("indexer_phantoms_total", "Notifications of transactions that did not land")
SOCKET_MISSED = Counter("indexer_socket_missed_total", "Appended transactions that no notification had named")
WITNESS_COMPARED = Counter("indexer_witness_rows_total", "Appended transactions that the second endpoint lists too")
WITNESS_MISSED = Counter(
    "indexer_witness_missed_total", "Transactions that the second endpoint's blocks show and its list lacked"
)
WITNESS_ABSENT = Counter("indexer_witness_absent_total", "Seals and slots that went without the second endpoint")
WITNESS_DISPUTED = Counter("indexer_witness_disputed_total", "Slots that the two endpoints list differently")
HINTS = Counter(
    "indexer_hints_total",
    "Hints that a sealed slot lacks a transaction, by kind and by what became of them",
    ["kind", "fate"],
)
HINTS_WAITING = Gauge("indexer_hints_waiting", "Hinted slots whose block is not read yet (bounded)")
BUFFERED = Gauge("indexer_notification_buffer_size", "Notifications waiting to be judged (bounded)")

TRUSTED = Counter("indexer_trusted_rows_total", "Rows appended with the socket's contents (trust_socket_contents)")
UNFIT_BLOCKS = Counter(
    "indexer_unfit_blocks_total", "Blocks that can't be those of their slot: parent or number of transactions"
)
BLOCK_BYTES = Gauge("indexer_block_bytes", "What a whole block costs, as learned; the choice of route rests on it")
CATCHING_UP = Gauge(
    "indexer_catching_up_slots", "Slots that an added program still has to go until it is sealed live", ["program"]
)

# Finality.
AUDIT_STALLED = Gauge(
    "indexer_audit_stalled", "1 while the comparison at finalized needs a person; /readyz gives reason and remedy"
)
AUDIT_SAMPLED = Counter("indexer_audit_sampled_total", "Slots whose blocks were compared with the signature lists")
HIDDEN = Counter(
    "indexer_hidden_transactions_total",
    "Transactions that a block shows and the signature list hid, found after the seal",
)
AUDIT_FORGED = Counter(
    "indexer_audit_forged_total", "Rows with the socket's contents that the finalized block contradicts"
)
RETRACTIONS = Counter("indexer_retractions_total", "Rows retracted because the finalized chain does not hold them")
LATE_ROWS = Counter("indexer_late_rows_total", "Rows appended late because the finalized chain holds them")

# The programs' code and IDLs.
PROGRAM_DEPLOYED_SLOT = Gauge("indexer_program_deployed_slot", "Slot of the program's last deployment", ["program"])
PROGRAM_UPGRADES = Counter(
    "indexer_program_upgrades_total",
    "Changes of a program seen on the chain: its code, or its published IDL",
    ["program", "what"],
)

RECONCILE_DIFFERENCES = Gauge(
    "indexer_reconcile_differences", "Fields in which tables and accounts differed at the last scheduled comparison"
)

# The edges.
RPC_IN_FLIGHT = Gauge("indexer_rpc_in_flight", "Requests that an endpoint is being asked now (bounded)", ["role"])
RPC_CALLS = Counter("indexer_rpc_calls_total", "JSON-RPC calls, as providers count them", ["method"])
RPC_SECONDS = Histogram("indexer_rpc_seconds", "Time to the full reply", ["method"], buckets=_SECONDS)
RPC_BYTES = Counter("indexer_rpc_bytes_total", "Bytes of replies", ["method"])
RPC_RETRIES = Counter("indexer_rpc_retries_total", "Attempts that were repeated", ["method"])
RPC_FAILURES = Counter("indexer_rpc_failures_total", "Calls that failed after all attempts", ["method"])
RPC_RATE_LIMITED = Counter("indexer_rpc_rate_limited_total", "Refusals by a rate limit", ["form"])
RPC_GARBAGE = Counter("indexer_rpc_garbage_total", "Replies that were not of the promised shape")
RPC_HEDGES = Counter(
    "indexer_rpc_hedges_total", "Calls asked of a second endpoint because the first was slow", ["method"]
)
RPC_HEDGES_WON = Counter(
    "indexer_rpc_hedges_won_total", "Hedged calls that the second endpoint answered first", ["method"]
)
SOCKET_UP = Gauge("indexer_socket_connected", "1 while the socket is connected and subscribed")
SOCKET_CONNECTS = Counter("indexer_socket_connects_total", "Connections made")
SOCKET_DROPS = Counter("indexer_socket_drops_total", "Connections lost or given up, by reason", ["reason"])
SOCKET_REFUSED = Counter("indexer_socket_refused_total", "Subscriptions that the node refused", ["method"])
TIP_STILL = Counter("indexer_tip_still_total", "Times the tip stood still and the next endpoint was asked first")
SOCKET_FRAMES = Counter("indexer_socket_frames_total", "Frames received")
ACCOUNT_UPDATES = Counter("indexer_account_updates_total", "Account samples appended", ["program"])
ACCOUNT_QUEUE = Gauge("indexer_account_queue_size", "Account samples waiting (bounded)")
ACCOUNTS_SLOT = Gauge(
    "indexer_accounts_slot", "Slot for which the account samples were last compared with a full listing", ["program"]
)
ACCOUNT_DROPPED = Counter(
    "indexer_account_updates_dropped_total", "Samples dropped at the queue's bound; the next listing brings them"
)
HTTP_CONNECTIONS = Gauge("indexer_http_connections", "Open connections to this server (bounded)")
HTTP_CUT = Counter("indexer_http_connections_cut_total", "Connections cut to make room for a newer one")
DATABASE_FAILURES = Counter("indexer_database_failures_total", "Database transactions that failed and were tried again")
