"""The daemon outlives its database's troubles: it says what is wrong, goes on by itself, and the ledger equals a walk of all blocks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from indexer.app import Daemon, RunOptions
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from programs.community_voting import artifact
from programs.crowd.crowd import Crowd
from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode
from schema import db as database
from schema import reads
from schema.embedded import EmbeddedPostgres
from schema.verify import verify
from tests.integration.schema.conftest import SmallDisk

Harm = Callable[[Daemon], Awaitable[None]]
# A machine that does much else gets as many times the seconds. Only a failure waits that long.
PATIENCE = 4


async def until(ready: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if ready():
            return True
        await asyncio.sleep(0.1)
    return False


def told(daemon: Daemon, *words: str) -> bool:
    """Whether /readyz gives a reason with one of the words."""
    return any(word in str(reason) for reason in daemon.reasons() for word in words)


async def walk(url: str, last: int) -> list[tuple[int, int, str]]:
    """Slot, index and signature of every transaction of the program, from the blocks."""
    found = []
    async with httpx.AsyncClient(timeout=30) as client:

        async def rpc(method: str, *params: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return (await client.post(url, json=body)).json().get("result")

        level = {"commitment": "confirmed"}
        for slot in await rpc("getBlocks", 0, last, level):
            config = {**level, "encoding": "json", "rewards": False, "maxSupportedTransactionVersion": 0}
            for index, entry in enumerate((await rpc("getBlock", slot, config))["transactions"]):
                if artifact.PROGRAM_ID in entry["transaction"]["message"]["accountKeys"]:
                    found.append((slot, index, entry["transaction"]["signatures"][0]))
    return found


async def outlive(dsn: str, harm: Harm) -> None:
    node = DevNode(DevNodeConfig(slot_ms=200, programs={artifact.PROGRAM_ID: artifact.SO_PATH}))
    async with node as chain:
        settings = Settings(
            database_url=dsn,
            rpc_url=chain.rpc_url,
            ws_url=chain.ws_url,
            metrics_port=0,
            idle_poll_s=1.0,
            finality_poll_s=1.0,
            lease_ttl_s=2.0,
            programs=(ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("voting",)),),
        )
        daemon = Daemon(settings, RunOptions())
        running = asyncio.create_task(daemon.run())
        crowd = asyncio.create_task(Crowd(3, 24).run(chain.rpc_url, 40, 12))
        assert await until(lambda: daemon.state.rows > 50, 30), daemon.reasons()
        assert not told(daemon, "database")
        await harm(daemon)
        assert not running.done(), "the daemon ended"
        await crowd
        tip = daemon.state.tip
        assert await until(lambda: daemon.state.sealed > tip and not daemon.reasons(), 60), daemon.reasons()
        sealed = daemon.state.sealed
        walked = await walk(chain.rpc_url, sealed)
        daemon._on_signal(signal.SIGTERM)
        assert await running == 0
    with database.connect(dsn) as conn:
        assert verify(conn).differences == []
        found = [
            (r.raw.slot, r.raw.transaction_index, r.raw.signature)
            for r in reads.iter_chain_order(conn, 0, sealed, None)
        ]
    assert found == walked
    assert len(found) > 50


@pytest.mark.parametrize("immediate", [False, True], ids=["restart", "crash"])
def test_a_restart_of_the_database(immediate: bool) -> None:
    with EmbeddedPostgres() as server:

        async def harm(daemon: Daemon) -> None:
            await asyncio.to_thread(server.stop, immediate=immediate)
            assert await until(lambda: told(daemon, "database_down"), 20), daemon.reasons()
            await asyncio.to_thread(server.start)

        asyncio.run(outlive(server.dsn, harm))


def test_a_full_disk(small_disk: SmallDisk) -> None:
    with EmbeddedPostgres(small_disk.folder / "data") as server:

        async def harm(daemon: Daemon) -> None:
            small_disk.fill()
            assert await until(lambda: told(daemon, "No space left", "DiskFull"), 30), daemon.reasons()
            small_disk.free()

        asyncio.run(outlive(server.dsn, harm))
