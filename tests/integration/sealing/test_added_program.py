"""A program that is added to a running ledger: sealed beside the live ones, rows of its own for what they share, equal digests in the end."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from indexer import catchup
from indexer.app import Daemon, RunOptions
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from tests.integration.sealing.rig import SYSTEM, Chain, ask, chain, environment, indexer, rows


@pytest.fixture
def second_db(database_url: str, template: str) -> Iterator[str]:
    name = f"{template}_second"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        yield make_conninfo(database_url, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def both(tmp_path: Path) -> tuple[ProgramSetting, ...]:
    """The system program, of which nearly every program's transactions are members, beside the voting program."""
    idl = tmp_path / "system.json"
    empty: dict[str, Any] = {"instructions": [], "accounts": [], "events": [], "types": [], "errors": []}
    metadata = {"name": "system", "version": "1.0.0", "spec": "0.1.0"}
    idl.write_text(json.dumps({"address": SYSTEM, "metadata": metadata, **empty}))
    voting = ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("voting",))
    return voting, ProgramSetting(name="system_program", address=SYSTEM, idl=str(idl))


async def until(ready: Callable[[], bool]) -> None:
    while not ready():  # noqa: ASYNC110  it is polled, as a person would
        await asyncio.sleep(0.2)


async def run_until(settings: Settings, last: int) -> Daemon:
    """The daemon in this process, until both programs are sealed and compared at finalized beyond `last`."""
    daemon = Daemon(settings, RunOptions())
    running = asyncio.create_task(daemon.run())
    async with asyncio.timeout(300):
        state = daemon.state
        await until(lambda: running.done() or (state.started and not state.catching_up and state.finalized > last))
        assert not running.done(), running.result()
        assert daemon._projector is not None
        await until(lambda: daemon._projector.has_projected(last))  # type: ignore[union-attr]
    daemon._on_signal(signal.SIGTERM)
    assert await running == 0
    return daemon


def settings(dsn: str, it: Chain, programs: tuple[ProgramSetting, ...]) -> Settings:
    return Settings(
        database_url=dsn, rpc_url=it.node.rpc_url, ws_url=it.node.ws_url, metrics_port=0, idle_poll_s=0.5,
        finality_poll_s=0.5, programs=programs,
    )  # fmt: skip


def test_it_is_sealed_beside_the_live_ones(
    db: str, second_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "NEAR_SLOTS", 40)
    with chain() as it:
        it.crowd(30, 4)
        it.wait_finalized(max(it.last, 60))
        last = it.last
        done = indexer(environment(db, it.node.rpc_url, it.node.ws_url), "run", "--until-slot", str(last))
        assert done.returncode == 0, done.stderr
        before = ask(db, "SELECT position, signature FROM ledger.transactions ORDER BY position")
        shared = set(it.walk(last)) & set(it.walk(last, SYSTEM))
        assert shared
        asyncio.run(run_until(settings(db, it, both(tmp_path)), last))
        # What was there is there, untouched; the new program has all of its own, and nothing twice.
        assert (
            ask(db, "SELECT position, signature FROM ledger.transactions ORDER BY position LIMIT %s", len(before))
            == before
        )
        assert rows(db, last, 1) == it.walk(last)
        assert rows(db, last, 2) == it.walk(last, SYSTEM)
        twice = "SELECT count(*) FROM (SELECT program, signature, event_index FROM events.decoded GROUP BY 1, 2, 3 HAVING count(*) > 1) d"
        assert ask(db, twice) == [(0,)]
        # Rows behind later ones are marked, the others are in chain order.
        order = (
            "SELECT count(*) FROM (SELECT slot < lag(slot) OVER (ORDER BY position) AS back FROM ledger.transactions"
            " WHERE origin = 0) t WHERE back"
        )
        assert ask(db, order) == [(0,)]
        # Who watched both from the beginning has the same finalized digests.
        asyncio.run(run_until(settings(second_db, it, both(tmp_path)), last))
        digests = "SELECT name, encode(digest, 'hex') FROM ledger.checkpoints WHERE name LIKE 'finalized:%' ORDER BY 1"
        assert ask(db, digests) == ask(second_db, digests)
        assert len(ask(db, digests)) == 2
        one_row = "SELECT count(*) FROM ledger.transactions WHERE cardinality(programs) = 2"
        assert ask(second_db, one_row)[0][0] > 0
    env = environment(db, "http://127.0.0.1:9")
    done = indexer(env, "verify")
    assert done.returncode == 0, done.stdout


def test_live_sealing_does_not_wait_for_it(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catch-up that gets nowhere: its client answers nothing."""
    from indexer.core.protocol import Failure
    from indexer.edges.rpc import RpcClient

    monkeypatch.setattr(catchup, "NEAR_SLOTS", 10)

    class Dead(RpcClient):
        async def get_slot(self, request: Any) -> Any:
            return Failure("time-out")

    monkeypatch.setattr(
        catchup, "rpc_client", lambda settings, prepared, n: Dead(settings.rpc_urls, prepared_watched(settings))
    )
    with chain() as it:
        it.crowd(20, 2)
        it.wait_finalized(max(it.last, 40))
        last = it.last
        env = environment(db, it.node.rpc_url, it.node.ws_url)
        assert indexer(env, "run", "--until-slot", str(last), "--ingest-only").returncode == 0

        async def go() -> None:
            daemon = Daemon(settings(db, it, both(tmp_path)), RunOptions(project=False))
            running = asyncio.create_task(daemon.run())
            async with asyncio.timeout(240):
                await until(lambda: daemon.state.sealed > last + 10)
            assert list(daemon.state.catching_up) == [SYSTEM]
            daemon._on_signal(signal.SIGTERM)
            assert await running == 0

        asyncio.run(go())
        assert rows(db, last, 2) == []


def prepared_watched(settings: Settings) -> Any:
    from indexer.startup import _watched

    return _watched(settings)
