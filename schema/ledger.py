"""Writing the ledger: append, and nothing else. Each function is one transaction on an autocommit connection that it is given.

Rows, seals, coverage and checkpoints commit together, after the fence (see `lease`). One writer at a time follows from the lease and again
from the row lock on the checkpoint `ledger`, whose position makes the next ones contiguous.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.copy import AsyncLibpqWriter
from psycopg.pq import TransactionStatus

from programs import base58
from programs.errors import UserError
from programs.transaction import RawTransaction
from schema import digest as digests
from schema import lease as leases
from schema import rows as encoding
from schema.errors import AlreadySealed, LeaseLost, LedgerConflict, LedgerError
from schema.lease import Lease
from schema.rows import AnyRow, PendingRow, PreparedRow, pending_row, prepare_row
from schema.tables import ORIGIN_BACKFILL, ORIGIN_LATE, ORIGIN_LIVE

__all__ = [
    "AccountUpdate",
    "AlreadySealed",
    "Appended",
    "HeldRow",
    "LeaseLost",
    "LedgerConflict",
    "LedgerError",
    "LedgerState",
    "PendingRow",
    "PreparedRow",
    "ProgramRow",
    "ProgramState",
    "Retraction",
    "SealRange",
    "append_account_updates",
    "append_corrections",
    "append_finalized_seal",
    "append_idl",
    "append_late",
    "append_retractions",
    "append_seal",
    "contents",
    "ensure_programs",
    "held",
    "last_listed",
    "load_state",
    "note_replayed",
    "pending_row",
    "prepare_row",
    "recorded_cluster",
    "replayed",
    "set_accounts_slot",
    "set_root",
    "set_tip",
]

CHANNEL = "indexer_ledger"
CONFIRMED, FINALIZED = "confirmed", "finalized"
# One write to the COPY stream: a few hundred kilobytes, so that encoding the next overlaps with the server's work on this one; each costs a turn.
_COPY_CHUNK_ROWS = 128
# What may wait in the driver's buffer before we wait for the server: each wait is a turn of the event loop.
_COPY_UNFLUSHED_BYTES_MAX = 512 << 10
# What the kernel may hold for the server. With the common 208 KB the server has eaten what is there before the event loop comes round to send
# more, and waits: a third of a COPY. Where less is allowed, less is given.
_SOCKET_BYTES = 4 << 20
_PARTITIONS_AT_ONCE = 1_000
Conn = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A watched program. `id` is its number in every other table."""

    id: int
    address: str
    name: str
    start_slot: int


@dataclass(frozen=True, slots=True)
class ProgramState:
    """Where a program stands. Slots are None before the first seal; `coverage` holds inclusive slot ranges, ordered and apart."""

    program: ProgramRow
    sealed_slot: int | None
    digest: bytes
    finalized_slot: int | None
    backfill_slot: int | None
    coverage: tuple[tuple[int, int], ...]

    def contiguous_slot(self) -> int:
        """The last slot up to which everything from the start slot on is sealed, live or by backfill."""
        upto = self.program.start_slot - 1
        for first, last in self.coverage:
            if first <= upto + 1 <= last:
                upto = last
        return upto


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger as one snapshot sees it."""

    last_position: int
    programs: dict[int, ProgramState] = field(default_factory=dict)

    def sealed_slot(self, program_id: int, start_slot: int) -> int:
        """The last slot that live sealing has covered; the one before `start_slot` when there is none."""
        found = self.programs[program_id].sealed_slot if program_id in self.programs else None
        return start_slot - 1 if found is None else found

    def finalized_slot(self, program_id: int, start_slot: int) -> int:
        """The last slot proven at finality; the one before `start_slot` when there is none."""
        found = self.programs[program_id].finalized_slot if program_id in self.programs else None
        return start_slot - 1 if found is None else found


@dataclass(frozen=True, slots=True)
class SealRange:
    """A slot range, both ends inclusive, that is proven complete for a program."""

    program_id: int
    slot_first: int
    slot_last: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The positions that rows got; None when there were no rows."""

    position_first: int | None
    position_last: int | None


@dataclass(frozen=True, slots=True)
class Retraction:
    """A row that the chain took back."""

    position: int
    slot: int
    signature: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """A sample of an account. source: 0 socket, 1 bootstrap or poll."""

    program: int
    slot: int
    pubkey: bytes
    lamports: int
    owner: bytes
    data: bytes | None
    closed: bool
    source: int


class HeldRow(NamedTuple):
    """What is held of a transaction, for comparison with the chain. `unfetched_logs`: stored logs of a row that neither a block nor a
    getTransaction reply has witnessed; None for every other row."""

    position: int
    slot: int
    transaction_index: int
    signature: bytes
    err: str | None
    unfetched_logs: bytes | None
    digest: bytes


class _Head(NamedTuple):
    """What is read under the lock, in one round trip, before anything is written. `near`: what is covered in or beside a range."""

    last_position: int
    chains: dict[tuple[int, str], bytes]
    sealed: dict[int, int | None]
    finalized_next: dict[int, int]
    near: dict[tuple[int, str], list[tuple[int, int]]]


_Statement = tuple[str, tuple[Any, ...]]
# A finalized seal stands unless a later one begins at or before its first slot.
_FIRST_UNTRUE = (
    "SELECT slot_first, previous FROM ledger.seals s WHERE program = %s AND commitment = 'finalized' AND slot_last >= %s AND NOT EXISTS"
    " (SELECT FROM ledger.seals n WHERE n.program = s.program AND n.commitment = s.commitment AND n.id > s.id AND n.slot_first <= s.slot_first)"
    " ORDER BY slot_first LIMIT 1"
)


async def ensure_programs(conn: Conn, programs: Sequence[tuple[str, str, int]]) -> dict[str, ProgramRow]:
    """Register programs (name, address, start_slot); their rows by address. A program keeps its number for ever.

    UserError, exit code 2, when a name is another program's, or when a start slot differs from the one that was recorded: the digests
    begin there.
    """
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('ledger.programs'))")
        known = {row.address: row for row in await _programs(conn)}
        names = {row.name: row for row in known.values()}
        number = itertools.count(max((row.id for row in known.values()), default=0) + 1)
        for name, address, start_slot in programs:
            if (have := known.get(address)) is None:
                if name in names:
                    raise UserError(
                        f"programs.name = {name!r}: the ledger knows that name as {names[name].address}; choose another name"
                    )
                base58.address_bytes(address)
                row = ProgramRow(next(number), address, name, start_slot)
                await conn.execute(
                    "INSERT INTO ledger.programs VALUES (%s, %s, %s, %s)", (row.id, address, name, start_slot)
                )
                known[address] = names[name] = row
            elif (have.name, have.start_slot) != (name, start_slot):
                raise UserError(
                    f"programs: {address} is recorded as name = {have.name!r}, start_slot = {have.start_slot}, not {name!r}, {start_slot}; "
                    "set them back, or begin a new database"
                )
    return {address: known[address] for _, address, _ in programs}


async def load_state(conn: Conn) -> LedgerState:
    """Where everything stands, from one snapshot."""
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        programs = await _programs(conn)
        points = {
            name: (position, slot, digest)
            for name, position, slot, digest in await _all(
                conn, "SELECT name, position, slot, digest FROM ledger.checkpoints"
            )
        }
        ranges = await _all(
            conn,
            "SELECT program, slot_first, slot_last FROM ledger.coverage WHERE commitment = 'confirmed' ORDER BY 1, 2",
        )
    none = (None, None, None)
    states = {}
    for row in programs:
        _, sealed, value = points.get(f"ingest:{row.id}", none)
        value = bytes(value) if value is not None else _genesis(row)
        covered = tuple((first, last) for program, first, last in ranges if program == row.id)
        finalized, backfill = points.get(f"finalized:{row.id}", none)[1], points.get(f"backfill:{row.id}", none)[1]
        states[row.id] = ProgramState(row, sealed, value, finalized, backfill, covered)
    return LedgerState(points["ledger"][0] or 0, states)


async def append_seal(
    conn: Conn,
    lease: Lease,
    seals: Sequence[SealRange],
    rows: Sequence[AnyRow],
    *,
    commitment: str = CONFIRMED,
    origin: int = ORIGIN_LIVE,
    tip_slot: int | None = None,
    slot_time: datetime | None = None,
    allow_gap: bool = False,
) -> Appended:
    """Append rows, ordered by (slot, transaction_index), and the seals that they complete, in one transaction.

    A live seal continues what is covered (`allow_gap` lets it begin beyond); origin 1 is a backfill and may lie anywhere that is free.
    Every row belongs to a range of each of its programs. LeaseLost, AlreadySealed, LedgerConflict: nothing was written. psycopg.Error:
    nothing was written either, except that a connection which broke during COMMIT leaves it open; `load_state` tells, and a second
    append of what is there is AlreadySealed.
    """
    _check_request(seals, rows, commitment)
    async with _unit(conn):
        head = await _begin(conn, lease, seals, [row.slot for row in rows])
        statements: list[_Statement] = []
        for seal in seals:
            statements += _cover(head, seal, CONFIRMED, contiguous=origin == ORIGIN_LIVE and not allow_gap)
            if commitment == FINALIZED:
                _finalized_follows(head, seal)
                statements += _cover(head, seal, FINALIZED, contiguous=True)
        appended, values = await _append_rows(conn, head, rows, origin)
        statements += _appended(lease, appended, rows, origin)
        for seal in seals:
            statements += _seal(lease, head, seal, rows, values, appended, commitment, origin, slot_time)
        if tip_slot is not None:
            statements.append(_point("tip", slot=tip_slot, slot_time=slot_time))
        await _finish(conn, lease, appended, statements)
    return appended


async def append_late(conn: Conn, lease: Lease, rows: Sequence[AnyRow]) -> Appended:
    """Append rows that were found after their slots were sealed; marked as late, in no confirmed seal."""
    async with _unit(conn):
        head = await _begin(conn, lease, [], [row.slot for row in rows])
        appended, _ = await _append_rows(conn, head, rows, ORIGIN_LATE)
        await _finish(conn, lease, appended, _appended(lease, appended, rows, ORIGIN_LATE))
    return appended


async def append_retractions(conn: Conn, lease: Lease, retractions: Sequence[Retraction]) -> None:
    """Record that the chain took rows back; a second record of the same position changes nothing."""
    async with _unit(conn):
        head = await _begin(conn, lease, [], [])
        await _retract(conn, lease, retractions)
        await _finish(conn, lease, Appended(None, head.last_position), [])


async def append_finalized_seal(
    conn: Conn,
    lease: Lease,
    seals: Sequence[SealRange],
    *,
    late: Sequence[AnyRow] = (),
    retractions: Sequence[Retraction] = (),
    slot_time: datetime | None = None,
) -> Appended:
    """Correct the ledger and seal the corrected ranges at finality, in one transaction. Ranges of a program follow each other from its
    start slot. LedgerConflict when one does not, or lies beyond what is sealed at confirmed."""
    async with _unit(conn):
        head = await _begin(conn, lease, seals, [row.slot for row in late])
        statements: list[_Statement] = []
        for seal in seals:
            _finalized_follows(head, seal)
            _must_be_covered(head, seal)
            statements += _cover(head, seal, FINALIZED, contiguous=True)
        appended, _ = await _append_rows(conn, head, late, ORIGIN_LATE)
        statements += _appended(lease, appended, late, ORIGIN_LATE)
        await _retract(conn, lease, retractions)
        for seal in seals:
            count, value, previous = 0, head.chains[seal.program_id, FINALIZED], head.chains[seal.program_id, FINALIZED]
            async for digest in _chain_order(conn, seal):
                value = digests.chain(value, (digest,))
                count += 1
            statements.append(
                _write_seal(lease, seal, FINALIZED, ORIGIN_LIVE, None, None, count, value, previous),
            )
            statements.append(
                _point(
                    f"finalized:{seal.program_id}",
                    slot=seal.slot_last,
                    digest=value,
                    epoch=lease.epoch,
                    slot_time=slot_time,
                )
            )
        await _finish(conn, lease, appended if late else Appended(None, head.last_position), statements)
    return appended


async def append_corrections(
    conn: Conn, lease: Lease, programs: Sequence[int], late: Sequence[AnyRow], retractions: Sequence[Retraction]
) -> Appended:
    """Correct slots that are sealed already, in one transaction: late rows, retractions, and for each of the programs that was sealed at
    finality there, a new finalized seal. It begins where the first seal that is no longer true began, ends where the last one ends, and
    takes their place."""
    slots = [row.slot for row in late] + [retraction.slot for retraction in retractions]
    if not slots:
        return Appended(None, None)
    touched = min(slots)
    async with _unit(conn):
        head = await _begin(conn, lease, [SealRange(p, touched, touched) for p in programs], [row.slot for row in late])
        appended, _ = await _append_rows(conn, head, late, ORIGIN_LATE)
        statements = _appended(lease, appended, late, ORIGIN_LATE)
        await _retract(conn, lease, retractions)
        for program in programs:
            last = head.finalized_next[program] - 1
            if touched > last:
                continue
            ((first, previous),) = await _all(conn, _FIRST_UNTRUE, (program, touched))
            seal = SealRange(program, first, last)
            count, value = 0, bytes(previous)
            async for digest in _chain_order(conn, seal):
                value = digests.chain(value, (digest,))
                count += 1
            statements.append(
                _write_seal(lease, seal, FINALIZED, ORIGIN_LIVE, None, None, count, value, bytes(previous))
            )
            statements.append(_point(f"finalized:{program}", slot=last, digest=value, epoch=lease.epoch))
        await _finish(conn, lease, appended if late else Appended(None, head.last_position), statements)
    return appended


async def append_account_updates(conn: Conn, lease: Lease, rows: Sequence[AccountUpdate]) -> None:
    """Append samples of accounts."""
    if not rows:
        return
    async with _unit(conn):
        await conn.execute("BEGIN")
        await leases.mark(conn, lease)
        for statement, parameters in _partitions(row.slot for row in rows):
            await conn.execute(statement, parameters)
        columns = "program, slot, pubkey, lamports, owner, data, closed, source"
        async with (
            conn.cursor() as cursor,
            cursor.copy(f"COPY ledger.account_updates ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["int2", "int8", "bytea", "numeric", "bytea", "bytea", "bool", "int2"])
            for row in rows:
                await copy.write_row(
                    (row.program, row.slot, row.pubkey, row.lamports, row.owner, row.data, row.closed, row.source)
                )
        await _commit(conn, lease)


async def append_idl(
    conn: Conn, lease: Lease, program_id: int, slot_from: int, idl: bytes, sha256: bytes, source: str
) -> None:
    """Record which IDL a program has from a slot on; the same one again changes nothing."""
    async with _unit(conn):
        await conn.execute("BEGIN")
        await leases.mark(conn, lease)
        await conn.execute(
            "INSERT INTO ledger.idls (program, slot_from, idl, sha256, source) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (program_id, slot_from, idl, sha256, source),
        )
        await _commit(conn, lease)


@dataclass(frozen=True, slots=True)
class IdlRow:
    """An IDL as it was given, from which slot on it holds, where it came from."""

    slot_from: int
    idl: bytes
    source: str


async def record_idls(conn: Conn, program_id: int, rows: Sequence[IdlRow]) -> None:
    """Record IDLs of a program; the same one from the same slot again changes nothing. Needs no lease: nothing is derived from the order."""
    for row in rows:
        await conn.execute(
            "INSERT INTO ledger.idls (program, slot_from, idl, sha256, source) VALUES (%s, %s, %s, sha256(%s), %s) ON CONFLICT DO NOTHING",
            (program_id, row.slot_from, row.idl, row.idl, row.source),
        )


async def recorded_idls(conn: Conn, program_id: int) -> list[IdlRow]:
    """What was recorded, in the order in which it was."""
    found = await conn.execute(
        "SELECT slot_from, idl, source FROM ledger.idls WHERE program = %s ORDER BY added_at, slot_from", (program_id,)
    )
    return [IdlRow(slot, bytes(idl), source) for slot, idl, source in await found.fetchall()]


async def recorded_by_name(conn: Conn) -> dict[str, list[IdlRow]]:
    """What was recorded of every program, by its name, in the order in which it was."""
    cursor = await conn.execute(
        "SELECT p.name, i.slot_from, i.idl, i.source FROM ledger.idls i JOIN ledger.programs p ON p.id = i.program"
        " ORDER BY i.added_at, i.slot_from"
    )
    found: dict[str, list[IdlRow]] = {}
    for name, slot, idl, source in await cursor.fetchall():
        found.setdefault(name, []).append(IdlRow(slot, bytes(idl), source))
    return found


async def note_deployment(conn: Conn, name: str, slot: int) -> None:
    """Remember when a program was last deployed, for whoever asks for the status."""
    await conn.execute(
        "INSERT INTO ledger.checkpoints (name, slot) VALUES ('deployed:' || %s, %s) ON CONFLICT (name) DO UPDATE SET slot = excluded.slot,"
        " updated_at = clock_timestamp() WHERE checkpoints.slot IS DISTINCT FROM excluded.slot",
        (name, slot),
    )


_HELD = (
    "SELECT t.position, t.slot, t.transaction_index, t.signature, t.err, CASE WHEN t.witnesses & 12 = 0 THEN t.logs END, t.digest"
    " FROM ledger.transactions t WHERE t.programs @> ARRAY[%s]::smallint[] AND NOT EXISTS (SELECT FROM ledger.retractions r"
    " WHERE r.position = t.position) AND "
)
# How far back a program's last row is looked for where the checkpoint does not name it: about two hours. Rows are found by slot, not by program.
LAST_ROW_SLOTS_MAX = 20_000


def _held_row(fields: tuple[Any, ...]) -> HeldRow:
    position, slot, index, signature, err, logs, digest = fields
    return HeldRow(position, slot, index, bytes(signature), err, None if logs is None else bytes(logs), bytes(digest))


async def held(conn: Conn, program_id: int, slot_first: int, slot_last: int) -> list[HeldRow]:
    """The rows of a program in a slot range (inclusive), retracted ones left out, in chain order."""
    query = _HELD + "t.slot BETWEEN %s AND %s ORDER BY t.slot, t.transaction_index, t.position"
    return [_held_row(fields) for fields in await _all(conn, query, (program_id, slot_first, slot_last))]


async def last_listed(conn: Conn, program_id: int, slot_last: int) -> HeldRow | None:
    """The program's last standing row at or below a slot that a signature list has witnessed: the last one that was sealed, or one of the
    LAST_ROW_SLOTS_MAX slots before. None when there is none so near."""
    listed = "t.witnesses & 2 <> 0 AND t.slot <= %s AND "
    newest = "t.position = (SELECT position FROM ledger.checkpoints WHERE name = %s)"
    found = await _all(conn, _HELD + listed + newest, (program_id, slot_last, f"ingest:{program_id}"))
    near = "t.slot >= %s ORDER BY t.slot DESC, t.position DESC LIMIT 1"
    found = found or await _all(
        conn, _HELD + listed + near, (program_id, slot_last, max(0, slot_last - LAST_ROW_SLOTS_MAX))
    )
    return _held_row(found[0]) if found else None


async def contents(conn: Conn, places: Sequence[tuple[int, int]]) -> list[RawTransaction]:
    """Rows as they are stored, by (slot, position), in the order asked. LedgerConflict when one is missing."""
    found: list[RawTransaction] = []
    for slot, position in places:
        rows = await _all(
            conn,
            "SELECT slot, transaction_index, signature, block_time, err, wire, logs, inner_instructions, loaded, version"
            " FROM ledger.transactions WHERE slot = %s AND position = %s",
            (slot, position),
        )
        if not rows:
            raise LedgerConflict(f"there is no row at position {position}, slot {slot}")
        at, index, signature, time, err, wire, logs, inner, loaded, version = rows[0]
        found.append(
            RawTransaction(
                at, index, base58.encode(bytes(signature)), time, err, bytes(wire),
                None if logs is None else encoding.decode_logs(bytes(logs)),
                None if inner is None else encoding.decode_inner(bytes(inner)),
                encoding.split_loaded(bytes(loaded)), version,
            )
        )  # fmt: skip
    return found


async def recorded_cluster(conn: Conn, genesis: str | None = None) -> str | None:
    """The genesis hash of the cluster that this ledger is of; `genesis` is recorded when none is yet. None: unknown so far."""
    if genesis is not None:
        await conn.execute(
            "INSERT INTO ledger.settings (key, value) VALUES ('genesis_hash', %s) ON CONFLICT (key) DO NOTHING",
            (genesis,),
        )
    row = await _all(conn, "SELECT value FROM ledger.settings WHERE key = 'genesis_hash'")
    return row[0][0] if row else None


async def replayed(conn: Conn, name: str) -> int | None:
    """Up to where an unfinished replay has come."""
    found = await _all(conn, "SELECT slot FROM ledger.checkpoints WHERE name = %s", (name,))
    return found[0][0] if found else None


async def note_replayed(conn: Conn, name: str, slot: int | None) -> None:
    """Note how far a replay has come; None: it is finished."""
    if slot is None:
        await conn.execute("DELETE FROM ledger.checkpoints WHERE name = %s", (name,))
    else:
        await conn.execute(
            "INSERT INTO ledger.checkpoints (name, slot) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET slot = excluded.slot,"
            " updated_at = clock_timestamp()",
            (name, slot),
        )


async def set_accounts_slot(conn: Conn, program_id: int, slot: int) -> None:
    """A full listing of the program's accounts was compared at this slot; a lower one changes nothing."""
    await conn.execute(*_point(f"accounts:{program_id}", slot=slot))


async def set_tip(conn: Conn, slot: int, slot_time: datetime | None = None) -> None:
    """The highest confirmed slot seen; a lower one changes nothing."""
    await conn.execute(*_point("tip", slot=slot, slot_time=slot_time))


async def set_root(conn: Conn, slot: int, slot_time: datetime | None = None) -> None:
    """The highest finalized slot seen; a lower one changes nothing."""
    await conn.execute(*_point("root", slot=slot, slot_time=slot_time))


# ---- parts of a transaction ----


def _check_request(seals: Sequence[SealRange], rows: Sequence[AnyRow], commitment: str) -> None:
    if commitment not in (CONFIRMED, FINALIZED):
        raise ValueError(f"commitment is {CONFIRMED!r} or {FINALIZED!r}, not {commitment!r}")
    ranges = {seal.program_id: seal for seal in seals}
    if len(ranges) != len(seals):
        raise LedgerConflict("one append seals one range of a program")
    before: tuple[int, int] = (-1, -1)
    programs: tuple[int, ...] = ()
    for row in rows:
        place = (row.slot, row.transaction_index)
        if place <= before:
            raise LedgerConflict(f"the row at slot {place[0]}, index {place[1]} does not come after {before}")
        if row.slot != before[0] or row.programs != programs:
            programs = row.programs
            _check_ranges(ranges, programs, row.slot)
        before = place


def _check_ranges(ranges: Mapping[int, SealRange], programs: tuple[int, ...], slot: int) -> None:
    for program in programs:
        seal = ranges.get(program)
        if seal is None or not seal.slot_first <= slot <= seal.slot_last:
            raise LedgerConflict(f"the row at slot {slot} is in no sealed range of program {program}")


@contextlib.asynccontextmanager
async def _unit(conn: Conn) -> AsyncIterator[None]:
    """One transaction whose BEGIN and COMMIT travel with its first and its last statements (`_begin`, `_commit`): at a thousand rows
    a transaction, round trips are what there is to save. Whatever goes wrong inside is rolled back."""
    if _inside(conn):
        raise LedgerError("an append is a transaction of its own and can't be part of another")
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(psycopg.Error, OSError):
            await conn.rollback()
        if isinstance(error, psycopg.Error) and error.sqlstate == leases.LOST:
            raise LeaseLost(f"{error.diag.message_primary}; nothing was written") from None
        raise
    if _inside(conn):
        await conn.rollback()
        raise LedgerError("the append ended without a commit")


def _inside(conn: Conn) -> bool:
    """Whether a transaction is open. A lost connection has none; the next statement on it says so."""
    return conn.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


async def _commit(conn: Conn, lease: Lease) -> None:
    async with conn.pipeline():
        await leases.fence(conn, lease)
        await conn.execute("COMMIT")


async def _begin(conn: Conn, lease: Lease, seals: Sequence[SealRange], slots: Sequence[int]) -> _Head:
    """Open the transaction, lock the ledger's end against any other writer, make partitions for the slots, read what decisions need."""
    ids = sorted({seal.program_id for seal in seals})
    names = ["ledger", *(f"{kind}:{program}" for program in ids for kind in ("ingest", "finalized"))]
    async with conn.pipeline():
        await conn.execute("BEGIN")
        mine = await conn.execute(*leases.marking(lease))
        await conn.execute("SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE")
        points = await conn.execute(
            "SELECT name, position, slot, digest FROM ledger.checkpoints WHERE name = ANY(%s)", (names,)
        )
        known = await conn.execute(
            "SELECT id, address, name, start_slot FROM ledger.programs WHERE id = ANY(%s)", (ids,)
        )
        covered = await conn.execute(
            "SELECT w.program, w.slot_first, w.slot_last, c.commitment, c.slot_first, c.slot_last"
            " FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[]) AS w (program, slot_first, slot_last) JOIN ledger.coverage c"
            " ON c.program = w.program AND c.slot_first <= w.slot_last + 1 AND c.slot_last >= w.slot_first - 1",
            (
                [seal.program_id for seal in seals],
                [seal.slot_first for seal in seals],
                [seal.slot_last for seal in seals],
            ),
        )
        for statement, parameters in _partitions(slots):
            await conn.execute(statement, parameters)
    leases.must_be_ours(lease, await mine.fetchone())
    found = {name: (position, slot, value) for name, position, slot, value in await points.fetchall()}
    programs = {row.id: row for row in [ProgramRow(*fields) for fields in await known.fetchall()]}
    head = _Head(found["ledger"][0] or 0, {}, {}, {}, {})
    none = (None, None, None)
    for program in ids:
        if program not in programs:
            raise LedgerConflict(f"there is no program {program} in the ledger")
        for kind, commitment in (("ingest", CONFIRMED), ("finalized", FINALIZED)):
            value = found.get(f"{kind}:{program}", none)[2]
            head.chains[program, commitment] = _genesis(programs[program]) if value is None else bytes(value)
        head.sealed[program] = found.get(f"ingest:{program}", none)[1]
        final = found.get(f"finalized:{program}", none)[1]
        head.finalized_next[program] = programs[program].start_slot if final is None else final + 1
    for program, _, _, commitment, first, last in await covered.fetchall():
        head.near.setdefault((program, commitment), []).append((first, last))
    return head


def _cover(head: _Head, seal: SealRange, commitment: str, *, contiguous: bool) -> list[_Statement]:
    """Add a range to what is covered; join it with its neighbours. AlreadySealed on overlap, LedgerConflict on a gap that must not be."""
    if not 0 <= seal.slot_first <= seal.slot_last:
        raise LedgerConflict(f"slots {seal.slot_first}..{seal.slot_last} are no range")
    key = (seal.program_id, commitment)
    near = head.near.get(key, [])
    before = next((r for r in near if r[1] == seal.slot_first - 1), None)
    after = next((r for r in near if r[0] == seal.slot_last + 1), None)
    for first, last in near:
        if (first, last) not in (before, after):
            raise AlreadySealed(
                f"program {seal.program_id}: slots {first}..{last} are sealed, {seal.slot_first}..{seal.slot_last} overlaps"
            )
    sealed = head.sealed[seal.program_id]
    if contiguous and before is None and sealed is not None and commitment == CONFIRMED:
        raise LedgerConflict(
            f"program {seal.program_id}: sealed up to slot {sealed}, a seal from {seal.slot_first} leaves a gap"
        )
    found: list[_Statement] = []
    if after is not None:
        found.append(
            (
                "DELETE FROM ledger.coverage WHERE program = %s AND commitment = %s AND slot_first = %s",
                (*key, after[0]),
            )
        )
    last = after[1] if after is not None else seal.slot_last
    if before is not None:
        found.append(
            (
                "UPDATE ledger.coverage SET slot_last = %s WHERE program = %s AND commitment = %s AND slot_first = %s",
                (last, *key, before[0]),
            )
        )
    else:
        found.append(("INSERT INTO ledger.coverage VALUES (%s, %s, %s, %s)", (*key, seal.slot_first, last)))
    return found


def _finalized_follows(head: _Head, seal: SealRange) -> None:
    expected = head.finalized_next[seal.program_id]
    if expected != seal.slot_first:
        raise LedgerConflict(
            f"program {seal.program_id}: the next finalized seal begins at slot {expected}, not {seal.slot_first}"
        )


def _must_be_covered(head: _Head, seal: SealRange) -> None:
    near = head.near.get((seal.program_id, CONFIRMED), [])
    if not any(first <= seal.slot_first and last >= seal.slot_last for first, last in near):
        raise LedgerConflict(
            f"program {seal.program_id}: slots {seal.slot_first}..{seal.slot_last} are not all sealed at confirmed"
        )


async def _append_rows(conn: Conn, head: _Head, rows: Sequence[AnyRow], origin: int) -> tuple[Appended, list[bytes]]:
    """COPY the rows; their positions and digests. Those that are pending are encoded piece by piece, while the server works on the piece
    before."""
    if not rows:
        return Appended(None, None), []
    if len(rows) > _COPY_CHUNK_ROWS:
        _widen(conn)
    first = head.last_position + 1
    found: list[bytes] = []
    async with (
        conn.cursor() as cursor,
        cursor.copy(
            f"COPY ledger.transactions ({encoding.COLUMNS}) FROM STDIN (FORMAT BINARY)",
            writer=AsyncLibpqWriter(cursor, flush_threshold=_COPY_UNFLUSHED_BYTES_MAX),
        ) as copy,
    ):
        await copy.write(encoding.COPY_HEADER)
        for at in range(0, len(rows), _COPY_CHUNK_ROWS):
            piece, values = encoding.copy_rows(rows[at : at + _COPY_CHUNK_ROWS], first + at, origin)
            found += values
            await copy.write(piece)
        await copy.write(encoding.COPY_TRAILER)
    return Appended(first, head.last_position + len(rows)), found


def _widen(conn: Conn) -> None:
    """Let the kernel hold more on its way to the server. Of TCP it knows itself how much is good; a Unix socket has a fixed size."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(conn.pgconn.socket)) as same:
        if same.family == socket.AF_UNIX:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)


def _appended(lease: Lease, appended: Appended, rows: Sequence[AnyRow], origin: int) -> list[_Statement]:
    if not rows:
        return []
    slots = [row.slot for row in rows]
    return [
        (
            "INSERT INTO ledger.batches (position_first, position_last, slot_min, slot_max, origin, epoch) VALUES (%s, %s, %s, %s, %s, %s)",
            (appended.position_first, appended.position_last, min(slots), max(slots), origin, lease.epoch),
        ),
        (
            "UPDATE ledger.checkpoints SET position = %s, epoch = %s, updated_at = clock_timestamp() WHERE name = 'ledger'",
            (appended.position_last, lease.epoch),
        ),
    ]


def _seal(
    lease: Lease,
    head: _Head,
    seal: SealRange,
    rows: Sequence[AnyRow],
    values: Sequence[bytes],
    appended: Appended,
    commitment: str,
    origin: int,
    slot_time: datetime | None,
) -> list[_Statement]:
    program, start = seal.program_id, appended.position_first or 0
    mine = [
        (n, value) for n, (row, value) in enumerate(zip(rows, values, strict=True), start) if program in row.programs
    ]
    first, last = (mine[0][0], mine[-1][0]) if mine else (None, None)
    found = []
    for kind, chained in (("ingest", CONFIRMED), ("finalized", FINALIZED)):
        if chained == FINALIZED and commitment != FINALIZED:
            continue
        previous = head.chains[seal.program_id, chained]
        value = digests.chain(previous, [digest for _, digest in mine])
        found.append(_write_seal(lease, seal, chained, origin, first, last, len(mine), value, previous))
        live = origin == ORIGIN_LIVE or chained == FINALIZED
        found.append(
            _point(
                f"{kind}:{seal.program_id}", slot=seal.slot_last if live else None, position=last, digest=value, epoch=lease.epoch,
                slot_time=slot_time if live else None,
            )
        )  # fmt: skip
    if origin == ORIGIN_BACKFILL:
        found.append(_point(f"backfill:{seal.program_id}", slot=seal.slot_last, position=last, epoch=lease.epoch))
    return found


def _write_seal(
    lease: Lease,
    seal: SealRange,
    commitment: str,
    origin: int,
    first: int | None,
    last: int | None,
    count: int,
    value: bytes,
    previous: bytes,
) -> _Statement:
    return (
        "INSERT INTO ledger.seals (program, slot_first, slot_last, position_first, position_last, transactions, digest, previous, commitment,"
        " origin, epoch) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            seal.program_id,
            seal.slot_first,
            seal.slot_last,
            first,
            last,
            count,
            value,
            previous,
            commitment,
            origin,
            lease.epoch,
        ),
    )


def _point(
    name: str,
    *,
    slot: int | None = None,
    position: int | None = None,
    digest: bytes | None = None,
    epoch: int | None = None,
    slot_time: datetime | None = None,
) -> _Statement:
    """Move a checkpoint. What is None keeps its value; slots and positions never go back; the time belongs to the slot."""
    return (
        "INSERT INTO ledger.checkpoints AS c (name, slot, position, digest, epoch, slot_time) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (name) DO UPDATE SET slot = greatest(c.slot, excluded.slot), position = greatest(c.position, excluded.position),"
        " digest = coalesce(excluded.digest, c.digest), epoch = coalesce(excluded.epoch, c.epoch),"
        " slot_time = CASE WHEN excluded.slot > c.slot OR c.slot IS NULL THEN coalesce(excluded.slot_time, c.slot_time) ELSE c.slot_time END,"
        " updated_at = clock_timestamp()",
        (name, slot, position, digest, epoch, slot_time),
    )


async def _retract(conn: Conn, lease: Lease, retractions: Iterable[Retraction]) -> None:
    for entry in retractions:
        done = await conn.execute(
            "INSERT INTO ledger.retractions (position, slot, signature, reason, epoch) SELECT t.position, t.slot, t.signature, %s, %s"
            " FROM ledger.transactions t WHERE t.slot = %s AND t.position = %s AND t.signature = %s ON CONFLICT (position) DO NOTHING",
            (entry.reason, lease.epoch, entry.slot, entry.position, entry.signature),
        )
        if done.rowcount == 0 and not await _all(
            conn, "SELECT FROM ledger.retractions WHERE position = %s", (entry.position,)
        ):
            raise LedgerConflict(
                f"there is no row at position {entry.position}, slot {entry.slot} with that signature to retract"
            )


async def _finish(conn: Conn, lease: Lease, appended: Appended, statements: Sequence[_Statement]) -> None:
    """The last round trip: what is left to write, the hint to readers, the fence, COMMIT."""
    async with conn.pipeline():
        for statement, parameters in statements:
            await conn.execute(statement, parameters)
        if appended.position_last is not None:
            await conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(appended.position_last)))
        await leases.fence(conn, lease)
        await conn.execute("COMMIT")


def _partitions(slots: Iterable[int]) -> Iterator[_Statement]:
    wanted = sorted(set(slots))
    if not wanted:
        return
    # Far-apart slots (a correction) must not create every partition between them.
    start = wanted[0]
    for slot, following in itertools.pairwise([*wanted, None]):
        if following is None or (slot is not None and following - slot > _PARTITIONS_AT_ONCE):
            yield "SELECT ledger.ensure_partitions(%s, %s)", (start, slot)
            start = following if following is not None else 0


async def _chain_order(conn: Conn, seal: SealRange) -> Any:
    query = (
        "SELECT t.digest FROM ledger.transactions t WHERE t.slot BETWEEN %s AND %s AND t.programs @> ARRAY[%s]::smallint[]"
        " AND NOT EXISTS (SELECT FROM ledger.retractions r WHERE r.position = t.position) ORDER BY t.slot, t.transaction_index, t.position"
    )
    async with conn.cursor("chain_order") as cursor:
        cursor.itersize = 10_000
        await cursor.execute(query, (seal.slot_first, seal.slot_last, seal.program_id))
        async for (digest,) in cursor:
            yield bytes(digest)


async def _programs(conn: Conn) -> list[ProgramRow]:
    return [
        ProgramRow(*row)
        for row in await _all(conn, "SELECT id, address, name, start_slot FROM ledger.programs ORDER BY id")
    ]


async def _all(conn: Conn, query: Any, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    return list(await (await conn.execute(query, parameters)).fetchall())


def _genesis(row: ProgramRow) -> bytes:
    return digests.genesis(base58.address_bytes(row.address), row.start_slot)
