"""Nodes that hide, cut their lists and change contents, through the real command line, database and chain."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.schema.checker import differences
from tests.integration.sealing.rig import (
    Chain,
    Process,
    Proxy,
    ask,
    chain,
    environment,
    hiding,
    indexer,
    last_of_slots,
    rows,
    waiting,
)

NO_SOCKET = "ws://127.0.0.1:9"


@pytest.fixture(scope="module")
def busy() -> Iterator[Chain]:
    """A chain with some history of the voting program."""
    with chain() as it:
        it.crowd(30, 3)
        it.wait_finalized(it.last)
        yield it


def test_a_list_that_always_hides_the_same_is_found_at_finality(db: str, busy: Chain) -> None:
    """Without a socket nothing else tells: the sampled blocks do."""
    last, truth = busy.last, busy.walk(busy.last)
    # The last ones of their slots: leaving out another one moves those behind it, which is noticed when the slot is sealed.
    hidden = set(last_of_slots(truth)[2:6])
    with Proxy(busy.node.rpc_url) as proxy:
        proxy.bend = hiding(hidden)
        here = environment(db, proxy.url, NO_SOCKET, INDEXER_AUDIT_SAMPLE="1", INDEXER_BLOCK_HITS_MIN="100")
        with Process(here, "run") as it:
            waiting(
                lambda: ask(db, "SELECT 1 FROM ledger.checkpoints WHERE name = 'finalized:1' AND slot >= %s", last), 40
            )
            it.wait_for("list_hides", 20)
            assert it.end()[0] == 0
    assert rows(db, last) == truth
    [(late,)] = ask(db, "SELECT count(*) FROM ledger.transactions WHERE origin = 2")
    # One whose slot was read as a whole block, the barrier's for instance, was never missed.
    assert 1 <= late <= len(hidden)
    assert indexer(here, "verify").returncode == 0
    assert differences(db) == []


def test_a_list_that_lost_everything_is_overtaken_by_the_blocks(db: str, busy: Chain) -> None:
    last, truth = busy.last, busy.walk(busy.last)
    # Some rows to join, some slots to go.
    middle = truth[len(truth) // 2][0]
    last = min(last, middle + 12)
    assert (
        indexer(
            environment(db, busy.node.rpc_url, NO_SOCKET), "run", "--until-slot", str(middle), "--ingest-only"
        ).returncode
        == 0
    )
    with Proxy(busy.node.rpc_url) as proxy:
        proxy.bend = lambda method, params, result: [] if method == "getSignaturesForAddress" else result
        here = environment(db, proxy.url, NO_SOCKET)
        done = indexer(here, "run", "--until-slot", str(last), "--ingest-only")
        assert done.returncode == 0, done.stderr
    assert "it is incomplete" in done.stderr
    assert rows(db, last) == [place for place in truth if place[0] <= last]


def test_replay_puts_the_chains_contents_in_place_of_forged_ones(db: str, busy: Chain) -> None:
    last, truth = busy.last, busy.walk(busy.last)
    victim = truth[2][2]

    def forge(method: str, params: list[Any], result: Any) -> Any:
        entries = [result] if method == "getTransaction" and result else []
        if method == "getBlock" and result and params[1].get("transactionDetails") == "full":
            entries = result["transactions"]
        for entry in entries:
            wire = base64.b64decode(entry["transaction"][0])
            if wire[1:65] == from_base58(victim):
                entry["meta"]["logMessages"] = ["Program log: never said"]
        return result

    with Proxy(busy.node.rpc_url) as proxy:
        proxy.bend = forge
        lied_to = environment(db, proxy.url, NO_SOCKET)
        assert indexer(lied_to, "run", "--until-slot", str(last), "--commitment", "finalized").returncode == 0
    honest = environment(db, busy.node.rpc_url, NO_SOCKET)
    done = indexer(honest, "replay", "--from-slot", "0", "--json")
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert (done.returncode, document["corrected"], document["late"], document["retracted"]) == (1, 1, 0, 0), (
        done.stderr
    )
    assert document["examples"] == [f"other contents: {victim} in slot {truth[2][0]}"]
    assert rows(db, last) == truth
    assert ask(db, "SELECT reason FROM ledger.retractions") == [("the finalized chain has other contents (replay)",)]
    for mode in ([], ["--listed"]):
        again = indexer(honest, "replay", "--from-slot", "0", "--json", *mode)
        assert (again.returncode, json.loads(again.stdout)["equal"]) == (0, True), again.stderr
    assert indexer(honest, "verify").returncode == 0
    assert differences(db) == []
    assert indexer(honest, "rebuild", "--dry-run").returncode == 0
    assert ask(db, "SELECT count(*) FROM ledger.checkpoints WHERE name LIKE 'replay:%%'") == [(0,)]


def from_base58(text: str) -> bytes:
    from programs import base58

    return base58.decode(text)


def test_a_standby_ends_when_the_leader_has_sealed_its_slot(db: str, busy: Chain) -> None:
    here = environment(db, busy.node.rpc_url, busy.node.ws_url)
    with Process(here, "run") as leader:
        leader.wait_for("leading")
        done = indexer(here, "run", "--until-slot", str(busy.last), "--json", timeout_s=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["sealed_slot"] == busy.last
        assert leader.end()[0] == 0
    assert rows(db, busy.last) == busy.walk(busy.last)


def test_backfill_of_nothing_names_no_range(db: str, busy: Chain) -> None:
    here = environment(db, busy.node.rpc_url, NO_SOCKET)
    assert indexer(here, "run", "--until-slot", "10", "--ingest-only").returncode == 0
    done = indexer(here, "backfill", "--from-slot", "0", "--to-slot", "10", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["slot_first"], document["slot_last"], document["rows"]) == (None, None, 0)
    assert "nothing to seal" in indexer(here, "backfill", "--from-slot", "0", "--to-slot", "10").stdout
