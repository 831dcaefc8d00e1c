"""The ledger's tables as SQLAlchemy Core. The migrations make the same; a test compares the two.

Slots and positions are bigint; addresses and signatures are bytea here and base58 text in the views for readers. Triggers, functions,
partitions and views are in the migrations alone.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

SCHEMA = "ledger"
# Two days of mainnet slots: at 100 transactions a second a partition holds 17 million rows.
PARTITION_WIDTH_SLOTS = 432_000
# Witness bits: who has seen the transaction.
WITNESS_SOCKET, WITNESS_LIST, WITNESS_BLOCK, WITNESS_TRANSACTION, WITNESS_SECOND = 1, 2, 4, 8, 16
ORIGIN_LIVE, ORIGIN_BACKFILL, ORIGIN_LATE = 0, 1, 2
APPEND_ONLY = ("transactions", "account_updates", "seals", "retractions", "idls", "batches")

metadata = MetaData(schema=SCHEMA)
_NOW = text("clock_timestamp()")


def _time() -> TIMESTAMP:
    return TIMESTAMP(timezone=True)


programs = Table(
    "programs",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("address", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("start_slot", BigInteger, nullable=False),
)

transactions = Table(
    "transactions",
    metadata,
    Column("position", BigInteger, nullable=False),
    Column("slot", BigInteger, nullable=False),
    Column("transaction_index", Integer, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("block_time", BigInteger),
    Column("err", Text),
    Column("wire", LargeBinary, nullable=False),
    Column("logs", LargeBinary),
    Column("inner_instructions", LargeBinary),
    Column("loaded", LargeBinary, nullable=False),
    Column("version", SmallInteger),
    Column("programs", ARRAY(SmallInteger), nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("origin", SmallInteger, nullable=False),
    Column("witnesses", SmallInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("slot", "position", name="transactions_pkey"),
    Index("transactions_position", "position"),
    Index("transactions_signature", "signature", postgresql_using="hash"),
    postgresql_partition_by="RANGE (slot)",
)

account_updates = Table(
    "account_updates",
    metadata,
    Column("id", BigInteger, nullable=False, server_default=text("nextval('ledger.account_updates_id_seq'::regclass)")),
    Column("program", SmallInteger, nullable=False),
    Column("slot", BigInteger, nullable=False),
    Column("pubkey", LargeBinary, nullable=False),
    Column("lamports", Numeric(20), nullable=False),
    Column("owner", LargeBinary, nullable=False),
    Column("data", LargeBinary),
    Column("closed", Boolean, nullable=False),
    Column("source", SmallInteger, nullable=False),
    Column("observed_at", _time(), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("slot", "id", name="account_updates_pkey"),
    Index("account_updates_id", "id"),
    Index("account_updates_pubkey", "program", "pubkey", "slot", "id"),
    postgresql_partition_by="RANGE (slot)",
)

batches = Table(
    "batches",
    metadata,
    Column("position_first", BigInteger, primary_key=True, autoincrement=False),
    Column("position_last", BigInteger, nullable=False),
    Column("slot_min", BigInteger, nullable=False),
    Column("slot_max", BigInteger, nullable=False),
    Column("origin", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("appended_at", _time(), nullable=False, server_default=_NOW),
)

seals = Table(
    "seals",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("program", SmallInteger, ForeignKey("ledger.programs.id"), nullable=False),
    Column("slot_first", BigInteger, nullable=False),
    Column("slot_last", BigInteger, nullable=False),
    Column("position_first", BigInteger),
    Column("position_last", BigInteger),
    Column("transactions", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("commitment", Text, nullable=False),
    Column("origin", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sealed_at", _time(), nullable=False, server_default=_NOW),
    CheckConstraint("slot_first <= slot_last", name="seals_slots"),
    CheckConstraint("commitment IN ('confirmed', 'finalized')", name="seals_commitment"),
    Index("seals_program_slot", "program", "commitment", "slot_last"),
)

retractions = Table(
    "retractions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("slot", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("retracted_at", _time(), nullable=False, server_default=_NOW),
    Index("retractions_slot", "slot"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("projection", Text, nullable=False),
    Column("program", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("slot", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("event_index", Integer, nullable=False),
    Column("event_name", Text),
    Column("scope", Text),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("raw", LargeBinary),
    Column("parked_at", _time(), nullable=False, server_default=_NOW),
    Column("resolved_at", _time()),
    Column("resolution", Text),
    Column("resolution_reason", Text),
    CheckConstraint("reason IN ('undecodable', 'handler', 'behind')", name="dead_letters_reason"),
    CheckConstraint("resolution IN ('applied', 'discarded')", name="dead_letters_resolution"),
    Index("dead_letters_open", "projection", "scope", postgresql_where=text("resolved_at IS NULL")),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger),
    Column("slot", BigInteger),
    Column("transaction_index", Integer),
    Column("slot_time", _time()),
    Column("digest", LargeBinary),
    Column("epoch", BigInteger),
    Column("updated_at", _time(), nullable=False, server_default=_NOW),
)

coverage = Table(
    "coverage",
    metadata,
    Column("program", SmallInteger, ForeignKey("ledger.programs.id"), nullable=False),
    Column("commitment", Text, nullable=False),
    Column("slot_first", BigInteger, nullable=False),
    Column("slot_last", BigInteger, nullable=False),
    PrimaryKeyConstraint("program", "commitment", "slot_first", name="coverage_pkey"),
    CheckConstraint("slot_first <= slot_last", name="coverage_slots"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", _time(), nullable=False),
    Column("renewed_at", _time(), nullable=False),
    Column("expires_at", _time(), nullable=False),
)

idls = Table(
    "idls",
    metadata,
    Column("program", SmallInteger, ForeignKey("ledger.programs.id"), nullable=False),
    Column("slot_from", BigInteger, nullable=False),
    Column("idl", LargeBinary, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("source", Text, nullable=False),
    Column("added_at", _time(), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("program", "slot_from", "sha256", name="idls_pkey"),
)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
