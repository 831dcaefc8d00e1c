"""The main job from end to end: real PostgreSQL, real VM, real sockets, the daemon as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from indexer.app import Daemon, RunOptions
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from programs.community_voting import artifact
from programs.crowd.crowd import Crowd
from programs.devnode.chain import Commitment
from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode
from schema import db as database

ROOT = Path(__file__).parents[2]
# A machine that does much else gets as many times the seconds. Only a failure waits that long.
PATIENCE = 4


def indexer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
    return subprocess.run(
        [sys.executable, "-m", "indexer", *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150 * PATIENCE,
        check=False,
    )


def voting() -> ProgramSetting:
    return ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("voting",))


def node(**faults: str) -> DevNode:
    config = DevNodeConfig(slot_ms=200, programs={artifact.PROGRAM_ID: artifact.SO_PATH}, faults=faults)
    return DevNode(config)


@pytest.mark.alone
def test_the_demo_survives_its_kill_and_ends_equal() -> None:
    done = indexer("demo", "--seconds", "14", "--rate", "40", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["equal"] is True
    assert document["landed"] > 100
    assert document["events"] > 100
    assert document["lag_slots_max"] > 3, "the kill must have been felt"


async def until(ready: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if ready():
            return True
        await asyncio.sleep(0.1)
    return False


async def under_faults(dsn: str, faults: dict[str, str], seconds: float) -> tuple[int, dict[str, int], Any]:
    """A crowd on a faulty node, the daemon in process; at the end the faults stop and everything must be sealed.

    Returns the last slot that was walked, what the faults did, and the rows of that walk. The daemon seals on meanwhile:
    its rows are to be compared up to that slot, not up to where it stands later.
    """
    async with node() as chain:
        settings = Settings(
            database_url=dsn,
            rpc_url=chain.rpc_url,
            ws_url=chain.ws_url,
            metrics_port=0,
            idle_poll_s=1.0,
            finality_poll_s=1.0,
            rpc_timeout_s=5.0,
            programs=(voting(),),
        )
        daemon = Daemon(settings, RunOptions())
        running = asyncio.create_task(daemon.run())
        assert await until(lambda: daemon.state.leader, 20)
        for name, rate in faults.items():
            chain.faults.set(name, float(rate))
        await Crowd(3, 24).run(chain.rpc_url, 40, seconds)
        counts = dict(chain.faults.counts)
        chain.faults.clear()
        tip = chain.chain.slot_at(Commitment.PROCESSED)
        assert await until(lambda: daemon.state.sealed > tip, 30), daemon.state.unproven
        last = daemon.state.sealed
        walked = [row async for row in _walk(chain.rpc_url, last)]
        daemon._on_signal(signal.SIGTERM)
        assert await running == 0
        return last, counts, walked


async def _walk(url: str, last: int) -> Any:
    """Every transaction of the program by walking all blocks: the ledger's rival, sharing none of its code."""
    import httpx

    async with httpx.AsyncClient(timeout=30) as client:

        async def rpc(method: str, *params: Any) -> Any:
            reply = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            return reply.json().get("result")

        level = {"commitment": "confirmed"}
        for slot in await rpc("getBlocks", 0, last, level):
            config = {**level, "encoding": "json", "rewards": False, "maxSupportedTransactionVersion": 0}
            block = await rpc("getBlock", slot, config)
            for index, entry in enumerate(block["transactions"]):
                if artifact.PROGRAM_ID in entry["transaction"]["message"]["accountKeys"]:
                    yield slot, index, entry["transaction"]["signatures"][0], tuple(entry["meta"]["logMessages"])


def ledger_rows(dsn: str, last: int) -> list[tuple[int, int, str, tuple[str, ...]]]:
    from schema import reads

    with database.connect(dsn) as connection:
        rows = reads.iter_chain_order(connection, 0, last, None)
        return [(r.raw.slot, r.raw.transaction_index, r.raw.signature, r.raw.logs or ()) for r in rows]


def test_forged_notifications_are_counted_and_change_nothing(db: str) -> None:
    from prometheus_client import REGISTRY

    # The registry is the process's own: only what this run adds counts.
    before = REGISTRY.get_sample_value("indexer_forgeries_total") or 0
    last, counts, walked = asyncio.run(under_faults(db, {"forged-logs": "0.5"}, 6))
    assert counts.get("forged-logs", 0) > 0
    assert ledger_rows(db, last) == walked
    assert (REGISTRY.get_sample_value("indexer_forgeries_total") or 0) > before


@pytest.mark.parametrize(
    "faults",
    [
        {"lost-notifications": "0.5", "repeated-notifications": "0.3", "reordered-notifications": "0.5"},
        {"incomplete-lists": "0.5", "null-transactions": "0.5"},
        {"closed-sockets": "0.02", "lost-slots": "0.3", "phantom-logs": "0.3"},
        {"http-429": "0.1", "rpc-429": "0.1", "garbage": "0.05", "cut-bodies": "0.05"},
    ],
    ids=lambda faults: "+".join(faults),
)
def test_the_ledger_equals_a_walk_of_all_blocks_under_faults(db: str, faults: dict[str, str]) -> None:
    last, counts, walked = asyncio.run(under_faults(db, faults, 6))
    assert sum(counts.values()) > 0
    assert walked
    assert ledger_rows(db, last) == walked


def test_the_daemon_refuses_a_wrong_start_with_one_line(db: str) -> None:
    missing = indexer("run")
    assert missing.returncode == 2
    assert "INDEXER_DATABASE_URL is not set" in missing.stderr
    unknown = indexer("run", INDEXER_DATABASE_URL=db, INDEXER_RPC_ULR="x")
    assert unknown.returncode == 2
    assert "INDEXER_RPC_URL" in unknown.stderr
    dead = indexer(
        "run",
        INDEXER_DATABASE_URL=db,
        INDEXER_RPC_URL="http://127.0.0.1:9",
        INDEXER_CONNECT_TIMEOUT_S="1",
        INDEXER_METRICS_PORT="0",
    )
    assert dead.returncode == 3
    assert "Traceback" not in missing.stderr + unknown.stderr + dead.stderr


async def read_your_own_writes(dsn: str) -> None:
    """A client asks, votes and waits until its vote is visible; then the row must be there, without any further waiting."""
    import psycopg
    from solders.keypair import Keypair

    from programs.community_voting.client import VotingClient
    from programs.community_voting.instructions import QuestionParams
    from programs.community_voting.instructions import Settings as CommunitySettings

    async with node() as chain:
        settings = Settings(
            database_url=dsn, rpc_url=chain.rpc_url, ws_url=chain.ws_url, metrics_port=0, programs=(voting(),)
        )
        daemon = Daemon(settings, RunOptions())
        running = asyncio.create_task(daemon.run())
        assert await until(lambda: daemon.state.leader, 20)
        wallet = Keypair()
        async with VotingClient(chain.rpc_url) as client:
            await client.airdrop(wallet.pubkey(), 10_000_000_000)
            community = await client.create_community(wallet, 1, CommunitySettings("Garden"))
            closes_at = int(time.time()) + 3_600
            question = await client.create_question(
                wallet, community, QuestionParams("Roses?", ("yes", "no"), closes_at)
            )
            signature = await client.cast_vote(wallet, question, [1])
            await client.wait_until_visible(signature, dsn)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            cursor = await connection.execute("SELECT selections, created_signature FROM voting.votes")
            assert await cursor.fetchall() == [([1], str(signature))]
            cursor = await connection.execute(
                "SELECT tallies FROM voting.questions WHERE question = %s", (str(question),)
            )
            assert await cursor.fetchall() == [([0, 1],)]
        daemon._on_signal(signal.SIGTERM)
        assert await running == 0


def test_a_vote_is_visible_when_the_client_says_so(db: str) -> None:
    asyncio.run(read_your_own_writes(db))


def test_a_second_daemon_stands_by_and_takes_over(db: str) -> None:
    async def run() -> None:
        async with node() as chain:
            settings = Settings(
                database_url=db,
                rpc_url=chain.rpc_url,
                ws_url=chain.ws_url,
                metrics_port=0,
                lease_ttl_s=4,
                programs=(voting(),),
            )
            first, second = Daemon(settings, RunOptions(project=False)), Daemon(settings, RunOptions(project=False))
            leading = asyncio.create_task(first.run())
            assert await until(lambda: first.state.leader, 20)
            waiting = asyncio.create_task(second.run())
            assert await until(lambda: second.state.started, 20)
            # Longer than a lease lasts: it was renewed.
            await asyncio.sleep(5)
            assert first.state.leader
            assert not second.state.leader
            assert [reason["reason"] for reason in second.reasons()] == ["standby"]
            # The leader dies without a word: it can neither release nor renew.
            leading.cancel()
            first._release = _nothing  # type: ignore[method-assign]
            await asyncio.gather(leading, return_exceptions=True)
            assert await until(lambda: second.state.leader, 10)
            second._on_signal(signal.SIGTERM)
            assert await waiting == 0

    async def _nothing(lease: Any) -> None:
        return None

    asyncio.run(run())


def test_a_projection_that_does_not_exist_changes_nothing() -> None:
    from programs.errors import UserError
    from schema.embedded import EmbeddedPostgres

    async def start(dsn: str) -> None:
        async with node() as chain:
            program = ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("nope",))
            settings = Settings(
                database_url=dsn, rpc_url=chain.rpc_url, ws_url=chain.ws_url, metrics_port=0, programs=(program,)
            )
            with pytest.raises(UserError, match="nope"):
                await Daemon(settings, RunOptions()).run()

    with EmbeddedPostgres() as postgres:
        asyncio.run(start(postgres.dsn))
        assert database.revisions(postgres.dsn)[0] is None
