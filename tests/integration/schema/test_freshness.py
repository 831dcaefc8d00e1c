"""events.freshness: what a reader may rely on, at each stage of a slot's way."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

from programs import base58
from schema import db as database
from schema import lease as leases
from schema import ledger
from schema.ledger import SealRange
from tests.integration.schema.make import rows as make_rows

ADDRESS = base58.encode(bytes([7] * 32))
QUERY = "SELECT sealed_slot, projected_slot, tip_slot, finalized_slot, lag_slots, lag_seconds FROM events.freshness WHERE program = 'voting'"


def test_freshness_never_promises_more_than_is_projected(db: str) -> None:
    async def play() -> None:
        conn = await database.aconnect(db)
        async with conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 5)])
            lease = await leases.acquire(conn, "writer", "a", 3_600)
            assert lease is not None

            async def fresh() -> tuple[object, ...]:
                return tuple(await (await conn.execute(QUERY)).fetchone() or ())

            assert await fresh() == (None, None, None, None, None, None)
            _, rows = make_rows(random.Random(1), range(5, 10), 2)
            seen = datetime.now(UTC) - timedelta(seconds=100)
            await ledger.append_seal(conn, lease, [SealRange(1, 5, 9)], rows, tip_slot=12, slot_time=seen)
            sealed, projected, tip, finalized, lag, _ = await fresh()
            assert (sealed, projected, tip, finalized, lag) == (9, None, 12, None, 8)
            # In the middle of slot 7: only 6 is wholly there.
            await conn.execute(
                "INSERT INTO ledger.checkpoints (name, position, slot, slot_time)"
                " VALUES ('projection:voting', 5, 7, clock_timestamp() - interval '200 s')"
            )
            sealed, projected, tip, _, lag, seconds = await fresh()
            assert (sealed, projected, tip, lag) == (9, 6, 12, 6)
            assert 199 < seconds < 260
            await conn.execute("UPDATE ledger.checkpoints SET position = 10, slot = 9 WHERE name = 'projection:voting'")
            # Everything sealed is shown; the tip is ahead.
            _, projected, _, _, lag, seconds = await fresh()
            assert (projected, lag) == (9, 3)
            assert 99 < seconds < 160
            await ledger.append_seal(conn, lease, [SealRange(1, 10, 12)], [], tip_slot=12)
            await ledger.append_finalized_seal(conn, lease, [SealRange(1, 5, 8)])
            # Empty slots need no work of the projection.
            assert await fresh() == (12, 12, 12, 8, 0, 0.0)

    asyncio.run(play())


def test_a_slot_that_waits_is_one_slot_of_lag(db: str) -> None:
    """Between the seal of a slot and its projection the tables are behind by that slot and no more."""

    async def play() -> None:
        conn = await database.aconnect(db)
        async with conn:
            await ledger.ensure_programs(conn, [("voting", ADDRESS, 5)])
            lease = await leases.acquire(conn, "writer", "a", 3_600)
            assert lease is not None

            async def projected() -> object:
                return ((await (await conn.execute(QUERY)).fetchone()) or (None, None))[1]

            async def seal(slot: int, rows: int, origin: int = 0) -> None:
                _, made = make_rows(random.Random(slot), range(slot, slot + 1), rows)
                await ledger.append_seal(conn, lease, [SealRange(1, slot, slot)], made, origin=origin, tip_slot=slot)

            async def project(position: int, slot: int) -> None:
                await conn.execute(
                    "INSERT INTO ledger.checkpoints (name, position, slot) VALUES ('projection:voting', %s, %s)"
                    " ON CONFLICT (name) DO UPDATE SET position = excluded.position, slot = excluded.slot",
                    (position, slot),
                )

            await project(0, 0)
            await seal(20, 2)
            assert await projected() == 19
            await project(2, 20)
            assert await projected() == 20
            await seal(21, 0)
            assert await projected() == 21
            await seal(22, 3)
            await seal(23, 1)
            assert await projected() == 21
            # In the middle of a batch nothing of it is promised.
            await project(4, 22)
            assert await projected() == 21
            await project(5, 22)
            assert await projected() == 22
            await project(6, 23)
            # A backfill waits; what is newer is shown.
            await seal(7, 2, origin=1)
            assert await projected() == 22
            await project(8, 23)
            assert await projected() == 23

    asyncio.run(play())
