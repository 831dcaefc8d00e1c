"""One writer: a lease by the database's clock, with an epoch that grows at each change of hands.

The epoch is the fence. Every write of the ledger ends with `fence` as the last statement before COMMIT: it holds the lease's row and
fails in the server when the epoch is another, so a writer that was paused and has lost the lease cannot commit, however late it wakes. A
takeover also ends the old writer's open transactions, whose locks would keep the new one waiting.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg

from schema.errors import LeaseLost, LedgerError

__all__ = [
    "WRITER",
    "Lease",
    "LeaseLost",
    "LedgerError",
    "acquire",
    "fence",
    "held",
    "mark",
    "marking",
    "must_be_ours",
    "release",
    "renew",
]

# The lease of the daemon that follows the tip.
WRITER = "writer"
_MARK = "indexer-writer"
# The state with which ledger.fence refuses.
LOST = "IX001"
# How long a takeover waits for a writer that is just committing before it ends that writer's session.
_TAKEOVER_LOCK_TIMEOUT_MS = 1_000


@dataclass(frozen=True, slots=True)
class Lease:
    """A right to write, while no other epoch is in the database."""

    name: str
    epoch: int
    holder: str


async def acquire(conn: psycopg.AsyncConnection[Any], name: str, holder: str, ttl_s: float) -> Lease | None:
    """Take the lease when it is free or has expired; None while another holder's is good. One round of at most a few seconds."""
    for last in (False, True):
        try:
            return await _take(conn, name, holder, ttl_s)
        except psycopg.errors.LockNotAvailable:
            if last:
                return None
            # Somebody sits on the row. If it has expired, that is a writer that stopped inside its commit.
            row = await (
                await conn.execute(
                    "SELECT epoch, expires_at < clock_timestamp() FROM ledger.leases WHERE name = %s", (name,)
                )
            ).fetchone()
            if row is None or not row[1]:
                return None
            await _end_writers(conn, name, row[0] + 1)
    return None


async def renew(conn: psycopg.AsyncConnection[Any], lease: Lease, ttl_s: float) -> None:
    """Keep the lease for another `ttl_s` seconds. LeaseLost when another has it."""
    done = await conn.execute(
        "UPDATE ledger.leases SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %s)"
        " WHERE name = %s AND epoch = %s AND holder = %s",
        (ttl_s, lease.name, lease.epoch, lease.holder),
    )
    if done.rowcount != 1:
        raise LeaseLost(f"the lease {lease.name!r} of epoch {lease.epoch} is no longer ours")


async def held(conn: psycopg.AsyncConnection[Any], name: str) -> bool:
    """Whether somebody has the lease now."""
    cursor = await conn.execute(
        "SELECT FROM ledger.leases WHERE name = %s AND expires_at >= clock_timestamp()", (name,)
    )
    return await cursor.fetchone() is not None


async def release(conn: psycopg.AsyncConnection[Any], lease: Lease) -> None:
    """Give the lease back: the next writer need not wait for its end. Nothing happens when it is another's already."""
    await conn.execute(
        "UPDATE ledger.leases SET expires_at = '-infinity' WHERE name = %s AND epoch = %s AND holder = %s",
        (lease.name, lease.epoch, lease.holder),
    )


def marking(lease: Lease) -> tuple[str, tuple[str, str, str]]:
    """The statement that names the open transaction's session after the lease, so that a takeover can find and end it. `must_be_ours` judges
    its row."""
    return (
        "SELECT epoch, set_config('application_name', %s, true) FROM ledger.leases WHERE name = %s AND holder = %s",
        (f"{_MARK}/{lease.name}/{lease.epoch}", lease.name, lease.holder),
    )


def must_be_ours(lease: Lease, row: Any) -> None:
    """Fail early: LeaseLost when the lease is another's already."""
    if row is None or row[0] != lease.epoch:
        raise LeaseLost(f"the lease {lease.name!r} of epoch {lease.epoch} is no longer ours")


async def mark(conn: psycopg.AsyncConnection[Any], lease: Lease) -> None:
    """`marking` and `must_be_ours` in a round trip of their own."""
    must_be_ours(lease, await (await conn.execute(*marking(lease))).fetchone())


async def fence(conn: psycopg.AsyncConnection[Any], lease: Lease) -> None:
    """Hold the lease's row until the transaction ends; the last statement before COMMIT. It fails on the server, with the state `LOST`, when the
    epoch is another: COMMIT may be sent behind it without waiting for its answer, and is not executed then."""
    await conn.execute("SELECT ledger.fence(%s, %s, %s)", (lease.name, lease.epoch, lease.holder))


async def _take(conn: psycopg.AsyncConnection[Any], name: str, holder: str, ttl_s: float) -> Lease | None:
    # Standbys ask every second: they must not lock the row that the leader renews.
    good = await (
        await conn.execute("SELECT 1 FROM ledger.leases WHERE name = %s AND expires_at >= clock_timestamp()", (name,))
    ).fetchone()
    if good is not None:
        return None
    async with conn.transaction():
        await conn.execute("SELECT set_config('lock_timeout', %s, true)", (str(_TAKEOVER_LOCK_TIMEOUT_MS),))
        row = await (
            await conn.execute(
                "INSERT INTO ledger.leases AS l (name, epoch, holder, acquired_at, renewed_at, expires_at) VALUES"
                " (%(name)s, 1, %(holder)s, clock_timestamp(), clock_timestamp(), clock_timestamp() + make_interval(secs => %(ttl)s))"
                " ON CONFLICT (name) DO UPDATE SET epoch = l.epoch + 1, holder = excluded.holder, acquired_at = excluded.acquired_at,"
                " renewed_at = excluded.renewed_at, expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)"
                " WHERE l.expires_at < clock_timestamp() RETURNING epoch",
                {"name": name, "holder": holder, "ttl": ttl_s},
            )
        ).fetchone()
    if row is None:
        return None
    if row[0] > 1:
        await _end_writers(conn, name, row[0])
    return Lease(name, row[0], holder)


async def _end_writers(conn: psycopg.AsyncConnection[Any], name: str, epoch: int) -> None:
    # Another role's session cannot be ended by us; the server's own timeout for idle transactions will.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND starts_with(application_name, %s) AND split_part(application_name, '/', 3)::bigint < %s",
            (f"{_MARK}/{name}/", epoch),
        )
