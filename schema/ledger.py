"""Writing the ledger: append, and nothing else. Each function is one transaction on an autocommit connection that it is given.

Rows, seals, coverage and checkpoints commit together, after the fence (see `lease`). One writer at a time follows from the lease and again
from the row lock on the checkpoint `ledger`, whose position makes the next ones contiguous.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from programs import base58
from programs.errors import UserError
from schema import digest as digests
from schema import lease as leases
from schema import rows as encoding
from schema.errors import AlreadySealed, LeaseLost, LedgerConflict, LedgerError
from schema.lease import Lease
from schema.rows import PreparedRow, prepare_row
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
    "PreparedRow",
    "ProgramRow",
    "ProgramState",
    "Retraction",
    "SealRange",
    "append_account_updates",
    "append_finalized_seal",
    "append_idl",
    "append_late",
    "append_retractions",
    "append_seal",
    "ensure_programs",
    "held",
    "load_state",
    "prepare_row",
    "set_root",
    "set_tip",
]

CHANNEL = "indexer_ledger"
CONFIRMED, FINALIZED = "confirmed", "finalized"
# One write to the COPY stream; small enough to overlap with the server's work, large enough to be cheap.
_COPY_CHUNK_ROWS = 256
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
    """What is held of a transaction, for comparison with the chain."""

    position: int
    slot: int
    transaction_index: int
    signature: bytes
    err: str | None


class _Head(NamedTuple):
    last_position: int
    chains: dict[tuple[int, str], bytes]


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
    rows: Sequence[PreparedRow],
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
    async with conn.transaction():
        head = await _begin(conn, lease, [seal.program_id for seal in seals])
        for seal in seals:
            await _cover(conn, seal, CONFIRMED, contiguous=origin == ORIGIN_LIVE and not allow_gap)
            if commitment == FINALIZED:
                await _finalized_follows(conn, seal)
                await _cover(conn, seal, FINALIZED, contiguous=True)
        appended = await _append_rows(conn, lease, head, rows, origin)
        async with conn.pipeline():
            for seal in seals:
                await _seal(conn, lease, head, seal, rows, appended, commitment, origin, slot_time)
            if tip_slot is not None:
                await _point(conn, "tip", slot=tip_slot, slot_time=slot_time)
            await _finish(conn, lease, appended)
    return appended


async def append_late(conn: Conn, lease: Lease, rows: Sequence[PreparedRow]) -> Appended:
    """Append rows that were found after their slots were sealed; marked as late, in no confirmed seal."""
    async with conn.transaction():
        appended = await _append_rows(conn, lease, await _begin(conn, lease, []), rows, ORIGIN_LATE)
        await _finish(conn, lease, appended)
    return appended


async def append_retractions(conn: Conn, lease: Lease, retractions: Sequence[Retraction]) -> None:
    """Record that the chain took rows back; a second record of the same position changes nothing."""
    async with conn.transaction():
        head = await _begin(conn, lease, [])
        await _retract(conn, lease, retractions)
        await _finish(conn, lease, Appended(None, head.last_position))


async def append_finalized_seal(
    conn: Conn,
    lease: Lease,
    seals: Sequence[SealRange],
    *,
    late: Sequence[PreparedRow] = (),
    retractions: Sequence[Retraction] = (),
    slot_time: datetime | None = None,
) -> Appended:
    """Correct the ledger and seal the corrected ranges at finality, in one transaction. Ranges of a program follow each other from its
    start slot. LedgerConflict when one does not, or lies beyond what is sealed at confirmed."""
    async with conn.transaction():
        head = await _begin(conn, lease, [seal.program_id for seal in seals])
        appended = await _append_rows(conn, lease, head, late, ORIGIN_LATE)
        await _retract(conn, lease, retractions)
        for seal in seals:
            await _finalized_follows(conn, seal)
            await _must_be_covered(conn, seal)
            await _cover(conn, seal, FINALIZED, contiguous=True)
            count, value, previous = 0, head.chains[seal.program_id, FINALIZED], head.chains[seal.program_id, FINALIZED]
            async for digest in _chain_order(conn, seal):
                value = digests.chain(value, (digest,))
                count += 1
            head.chains[seal.program_id, FINALIZED] = value
            await _write_seal(conn, lease, seal, FINALIZED, ORIGIN_LIVE, None, None, count, value, previous)
            await _point(
                conn,
                f"finalized:{seal.program_id}",
                slot=seal.slot_last,
                digest=value,
                epoch=lease.epoch,
                slot_time=slot_time,
            )
        await _finish(conn, lease, appended if late else Appended(None, head.last_position))
    return appended


async def append_account_updates(conn: Conn, lease: Lease, rows: Sequence[AccountUpdate]) -> None:
    """Append samples of accounts."""
    if not rows:
        return
    async with conn.transaction():
        await leases.mark(conn, lease)
        await _partitions(conn, (row.slot for row in rows))
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
        await leases.fence(conn, lease)


async def append_idl(
    conn: Conn, lease: Lease, program_id: int, slot_from: int, idl: bytes, sha256: bytes, source: str
) -> None:
    """Record which IDL a program has from a slot on; the same one again changes nothing."""
    async with conn.transaction():
        await leases.mark(conn, lease)
        await conn.execute(
            "INSERT INTO ledger.idls (program, slot_from, idl, sha256, source) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (program_id, slot_from, idl, sha256, source),
        )
        await leases.fence(conn, lease)


async def held(conn: Conn, program_id: int, slot_first: int, slot_last: int) -> list[HeldRow]:
    """The rows of a program in a slot range (inclusive), retracted ones left out, in chain order."""
    query = (
        "SELECT t.position, t.slot, t.transaction_index, t.signature, t.err FROM ledger.transactions t WHERE t.slot BETWEEN %s AND %s"
        " AND t.programs @> ARRAY[%s]::smallint[] AND NOT EXISTS (SELECT FROM ledger.retractions r WHERE r.position = t.position)"
        " ORDER BY t.slot, t.transaction_index, t.position"
    )
    return [
        HeldRow(p, s, i, bytes(g), e) for p, s, i, g, e in await _all(conn, query, (slot_first, slot_last, program_id))
    ]


async def set_tip(conn: Conn, slot: int, slot_time: datetime | None = None) -> None:
    """The highest confirmed slot seen; a lower one changes nothing."""
    await _point(conn, "tip", slot=slot, slot_time=slot_time)


async def set_root(conn: Conn, slot: int, slot_time: datetime | None = None) -> None:
    """The highest finalized slot seen; a lower one changes nothing."""
    await _point(conn, "root", slot=slot, slot_time=slot_time)


# ---- parts of a transaction ----


def _check_request(seals: Sequence[SealRange], rows: Sequence[PreparedRow], commitment: str) -> None:
    if commitment not in (CONFIRMED, FINALIZED):
        raise ValueError(f"commitment is {CONFIRMED!r} or {FINALIZED!r}, not {commitment!r}")
    ranges = {seal.program_id: seal for seal in seals}
    if len(ranges) != len(seals):
        raise LedgerConflict("one append seals one range of a program")
    before = (-1, -1)
    for row in rows:
        place = (row.slot, row.transaction_index)
        if place <= before:
            raise LedgerConflict(
                f"the row at slot {row.slot}, index {row.transaction_index} does not come after {before}"
            )
        before = place
        for program in row.programs:
            seal = ranges.get(program)
            if seal is None or not seal.slot_first <= row.slot <= seal.slot_last:
                raise LedgerConflict(f"the row at slot {row.slot} is in no sealed range of program {program}")


async def _begin(conn: Conn, lease: Lease, programs: Sequence[int]) -> _Head:
    """Lock the ledger's end against any other writer; the last position and the chain values of the programs."""
    names = ["ledger", *(f"{kind}:{program}" for program in programs for kind in ("ingest", "finalized"))]
    async with conn.pipeline():
        await leases.mark(conn, lease)
        await conn.execute("SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE")
        cursor = await conn.execute(
            "SELECT name, position, digest FROM ledger.checkpoints WHERE name = ANY(%s)", (names,)
        )
        found = {name: (position, value) for name, position, value in await cursor.fetchall()}
    known = {row.id: row for row in await _programs(conn)} if programs else {}
    chains = {}
    for program in programs:
        if program not in known:
            raise LedgerConflict(f"there is no program {program} in the ledger")
        for kind, commitment in (("ingest", CONFIRMED), ("finalized", FINALIZED)):
            value = found.get(f"{kind}:{program}", (None, None))[1]
            chains[program, commitment] = _genesis(known[program]) if value is None else bytes(value)
    return _Head(found["ledger"][0] or 0, chains)


async def _cover(conn: Conn, seal: SealRange, commitment: str, *, contiguous: bool) -> None:
    """Add a range to what is covered; join it with its neighbours. AlreadySealed on overlap, LedgerConflict on a gap that must not be."""
    if not 0 <= seal.slot_first <= seal.slot_last:
        raise LedgerConflict(f"slots {seal.slot_first}..{seal.slot_last} are no range")
    near = await _all(
        conn,
        "SELECT slot_first, slot_last FROM ledger.coverage WHERE program = %s AND commitment = %s AND slot_first <= %s AND slot_last >= %s",
        (seal.program_id, commitment, seal.slot_last + 1, seal.slot_first - 1),
    )
    before = next((r for r in near if r[1] == seal.slot_first - 1), None)
    after = next((r for r in near if r[0] == seal.slot_last + 1), None)
    for first, last in near:
        if (first, last) not in (before, after):
            raise AlreadySealed(
                f"program {seal.program_id}: slots {first}..{last} are sealed, {seal.slot_first}..{seal.slot_last} overlaps"
            )
    if contiguous and before is None:
        row = await _all(conn, "SELECT slot FROM ledger.checkpoints WHERE name = %s", (f"ingest:{seal.program_id}",))
        if row and row[0][0] is not None and commitment == CONFIRMED:
            raise LedgerConflict(
                f"program {seal.program_id}: sealed up to slot {row[0][0]}, a seal from {seal.slot_first} leaves a gap"
            )
    key = (seal.program_id, commitment)
    if after is not None:
        await conn.execute(
            "DELETE FROM ledger.coverage WHERE program = %s AND commitment = %s AND slot_first = %s", (*key, after[0])
        )
    last = after[1] if after is not None else seal.slot_last
    if before is not None:
        await conn.execute(
            "UPDATE ledger.coverage SET slot_last = %s WHERE program = %s AND commitment = %s AND slot_first = %s",
            (last, *key, before[0]),
        )
    else:
        await conn.execute("INSERT INTO ledger.coverage VALUES (%s, %s, %s, %s)", (*key, seal.slot_first, last))


async def _finalized_follows(conn: Conn, seal: SealRange) -> None:
    row = await _all(
        conn,
        "SELECT coalesce((SELECT slot + 1 FROM ledger.checkpoints WHERE name = %s), (SELECT start_slot FROM ledger.programs WHERE id = %s))",
        (f"finalized:{seal.program_id}", seal.program_id),
    )
    if row[0][0] != seal.slot_first:
        raise LedgerConflict(
            f"program {seal.program_id}: the next finalized seal begins at slot {row[0][0]}, not {seal.slot_first}"
        )


async def _must_be_covered(conn: Conn, seal: SealRange) -> None:
    found = await _all(
        conn,
        "SELECT FROM ledger.coverage WHERE program = %s AND commitment = 'confirmed' AND slot_first <= %s AND slot_last >= %s",
        (seal.program_id, seal.slot_first, seal.slot_last),
    )
    if not found:
        raise LedgerConflict(
            f"program {seal.program_id}: slots {seal.slot_first}..{seal.slot_last} are not all sealed at confirmed"
        )


async def _append_rows(conn: Conn, lease: Lease, head: _Head, rows: Sequence[PreparedRow], origin: int) -> Appended:
    if not rows:
        return Appended(None, None)
    slots = [row.slot for row in rows]
    await _partitions(conn, slots)
    first, last = head.last_position + 1, head.last_position + len(rows)
    lead = encoding.lead
    async with (
        conn.cursor() as cursor,
        cursor.copy(f"COPY ledger.transactions ({encoding.COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        await copy.write(encoding.COPY_HEADER)
        for at in range(0, len(rows), _COPY_CHUNK_ROWS):
            chunk = rows[at : at + _COPY_CHUNK_ROWS]
            await copy.write(
                b"".join([part for n, row in enumerate(chunk, first + at) for part in (lead(n, origin), row.encoded)])
            )
        await copy.write(encoding.COPY_TRAILER)
    await conn.execute(
        "INSERT INTO ledger.batches (position_first, position_last, slot_min, slot_max, origin, epoch) VALUES (%s, %s, %s, %s, %s, %s)",
        (first, last, min(slots), max(slots), origin, lease.epoch),
    )
    await conn.execute(
        "UPDATE ledger.checkpoints SET position = %s, epoch = %s, updated_at = clock_timestamp() WHERE name = 'ledger'",
        (last, lease.epoch),
    )
    return Appended(first, last)


async def _seal(
    conn: Conn,
    lease: Lease,
    head: _Head,
    seal: SealRange,
    rows: Sequence[PreparedRow],
    appended: Appended,
    commitment: str,
    origin: int,
    slot_time: datetime | None,
) -> None:
    mine = [
        (n, row.digest) for n, row in enumerate(rows, appended.position_first or 0) if seal.program_id in row.programs
    ]
    first, last = (mine[0][0], mine[-1][0]) if mine else (None, None)
    for kind, chained in (("ingest", CONFIRMED), ("finalized", FINALIZED)):
        if chained == FINALIZED and commitment != FINALIZED:
            continue
        previous = head.chains[seal.program_id, chained]
        value = digests.chain(previous, [digest for _, digest in mine])
        await _write_seal(conn, lease, seal, chained, origin, first, last, len(mine), value, previous)
        live = origin == ORIGIN_LIVE or chained == FINALIZED
        await _point(
            conn, f"{kind}:{seal.program_id}", slot=seal.slot_last if live else None, position=last, digest=value, epoch=lease.epoch,
            slot_time=slot_time if live else None,
        )  # fmt: skip
    if origin == ORIGIN_BACKFILL:
        await _point(conn, f"backfill:{seal.program_id}", slot=seal.slot_last, position=last, epoch=lease.epoch)


async def _write_seal(
    conn: Conn,
    lease: Lease,
    seal: SealRange,
    commitment: str,
    origin: int,
    first: int | None,
    last: int | None,
    count: int,
    value: bytes,
    previous: bytes,
) -> None:
    await conn.execute(
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


async def _point(
    conn: Conn,
    name: str,
    *,
    slot: int | None = None,
    position: int | None = None,
    digest: bytes | None = None,
    epoch: int | None = None,
    slot_time: datetime | None = None,
) -> None:
    """Move a checkpoint. What is None keeps its value; slots and positions never go back; the time belongs to the slot."""
    await conn.execute(
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


async def _finish(conn: Conn, lease: Lease, appended: Appended) -> None:
    if appended.position_last is not None:
        await conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(appended.position_last)))
    await leases.fence(conn, lease)


async def _partitions(conn: Conn, slots: Iterable[int]) -> None:
    wanted = sorted(set(slots))
    # Far-apart slots (a correction) must not create every partition between them.
    start = wanted[0]
    for slot, following in itertools.pairwise([*wanted, None]):
        if following is None or (slot is not None and following - slot > _PARTITIONS_AT_ONCE):
            await conn.execute("SELECT ledger.ensure_partitions(%s, %s)", (start, slot))
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
