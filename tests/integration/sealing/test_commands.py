"""`run`, `backfill` and `replay` through the real command line: what each option promises, exit codes, JSON, and an end in every state."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

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


@pytest.fixture(scope="module")
def busy() -> Iterator[Chain]:
    """A chain with some history of the voting program."""
    with chain() as it:
        it.crowd(30, 4)
        it.wait_finalized(it.last)
        yield it


def env(dsn: str, it: Chain, **more: str) -> dict[str, str]:
    return environment(dsn, it.node.rpc_url, it.node.ws_url, **more)


# ---- run ----


def test_until_slot_ends_after_that_slot_is_sealed_and_projected(db: str, busy: Chain) -> None:
    last = busy.last
    done = indexer(env(db, busy), "run", "--until-slot", str(last), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sealed_slot"] == last
    assert rows(db, last) == busy.walk(last)
    assert rows(db, 2**62) == rows(db, last), "nothing beyond it was sealed"
    [(events,)] = ask(db, "SELECT count(*) FROM events.decoded")
    assert events > 0
    again = indexer(env(db, busy), "run", "--until-slot", str(last), "--json")
    assert again.returncode == 0
    assert rows(db, last) == busy.walk(last)


def test_ingest_and_project_in_two_processes(db: str, busy: Chain) -> None:
    last = busy.last
    done = indexer(env(db, busy), "run", "--until-slot", str(last), "--ingest-only")
    assert done.returncode == 0, done.stderr
    assert rows(db, last) == busy.walk(last)
    assert ask(db, "SELECT count(*) FROM events.decoded") == [(0,)]
    before = ask(db, "SELECT count(*) FROM ledger.seals")
    done = indexer(env(db, busy), "run", "--until-slot", str(last), "--project-only")
    assert done.returncode == 0, done.stderr
    assert ask(db, "SELECT count(*) FROM ledger.seals") == before, "it seals nothing"
    assert ask(db, "SELECT count(*) > 0 FROM voting.votes") == [(True,)]


def test_finalized_seals_nothing_that_could_still_die(db: str, busy: Chain) -> None:
    with Process(env(db, busy), "run", "--commitment", "finalized") as it:
        waiting(lambda: ask(db, "SELECT slot FROM ledger.checkpoints WHERE name = 'ingest:1' AND slot > 0"), 40)
        for _ in range(10):
            [(sealed,)] = ask(db, "SELECT slot FROM ledger.checkpoints WHERE name = 'ingest:1'")
            assert sealed <= busy.finalized()
        assert it.end()[0] == 0


def test_another_cluster_is_refused_at_the_start(db: str, busy: Chain) -> None:
    assert indexer(env(db, busy), "run", "--until-slot", "5").returncode == 0
    before = ask(db, "SELECT count(*), max(slot_last) FROM ledger.seals")
    with chain(seed=99) as other:
        done = indexer(env(db, other), "run", "--until-slot", "30")
        found = indexer(env(db, other), "doctor", "--json")
        witness = indexer(env(db, busy, INDEXER_WITNESS_URL=other.node.rpc_url), "run", "--until-slot", "30")
    for refused in (done, witness):
        assert refused.returncode == 2
        assert "genesis hash" in refused.stderr
        assert "another database" in refused.stderr
    assert found.returncode == 2
    assert [f["check"] for f in json.loads(found.stdout)["findings"] if not f["well"]] == ["cluster"]
    assert ask(db, "SELECT count(*), max(slot_last) FROM ledger.seals") == before


_MISSPELT = """
import sqlalchemy as sa
from projections.model import Event, Projection, Rows

TABLE = sa.Table("ballots", sa.MetaData(), sa.Column("voter", sa.Text, primary_key=True))
def cast(rows: Rows, event: Event) -> None:
    rows.ballots.put(event.data["voter"])
PARTLY = Projection(name="partly", version=1, tables=(TABLE,))
PARTLY.on("VoteCast", ballots="voter")(cast)
PARTLY.on("VoteCasted", ballots="voter")(cast)
WHOLLY = Projection(name="wholly", version=1, tables=(TABLE,))
WHOLLY.on("VoteCasted", ballots="voter")(cast)
"""


def test_a_handler_of_an_event_that_there_is_not_is_told(db: str, busy: Chain, tmp_path: Path) -> None:
    """One misspelt name may be a version still to come: it is said at each start. A projection without any event of the program is refused."""
    (tmp_path / "misspelt.py").write_text(_MISSPELT)
    config = tmp_path / "indexer.toml"

    def named(name: str) -> dict[str, str]:
        program = (
            f'[[programs]]\nname = "voting"\nidl = "builtin:community_voting"\nprojections = ["misspelt:{name}"]\n'
        )
        config.write_text(program)
        return env(db, busy, INDEXER_CONFIG=str(config), PYTHONPATH=str(tmp_path))

    refused = indexer(named("WHOLLY"), "run", "--until-slot", str(busy.last))
    assert refused.returncode == 2
    assert (
        "programs.voting.projections: 'wholly' handles VoteCasted, and the IDL has no such event, but Auth"
        in refused.stderr
    )
    done = indexer(named("PARTLY"), "run", "--until-slot", str(busy.last))
    assert done.returncode == 0, done.stderr
    (told,) = [json.loads(line) for line in done.stderr.splitlines() if "handlers_without_event" in line]
    assert (told["level"], told["projection"], told["events"]) == ("warning", "partly", ["VoteCasted"])
    assert ask(db, "SELECT count(*) > 0 FROM voting.ballots") == [(True,)]
    doctor = indexer(named("PARTLY"), "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "partly has handlers of events that it lacks: VoteCasted" in doctor.stdout


# ---- replay ----


def test_replay_says_equal_missing_and_foreign(db: str, busy: Chain, tmp_path: Path) -> None:
    last = busy.last
    truth = busy.walk(last)
    # The last of their slots: leaving out another one moves those behind it, which is noticed.
    lost = set(last_of_slots(truth)[3:5])
    with Proxy(busy.node.rpc_url) as proxy:
        # A node that hides two transactions everywhere: the ledger can't know.
        proxy.bend = hiding(lost, blocks=True)
        hidden = environment(db, proxy.url, INDEXER_WS_URL="ws://127.0.0.1:9")
        done = indexer(hidden, "run", "--until-slot", str(last), "--commitment", "finalized")
        assert done.returncode == 0, done.stderr
        assert len(rows(db, last)) == len(truth) - 2
        done = indexer(hidden, "replay", "--from-slot", "0", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["equal"] is True
        # Another node knows more.
        done = indexer(env(db, busy), "replay", "--from-slot", "0", "--to-slot", str(last), "--json")
        document = json.loads(done.stdout)
        assert (done.returncode, document["late"], document["retracted"], document["equal"]) == (1, 2, 0, False)
        assert rows(db, last) == truth
        assert ask(db, "SELECT count(*) FROM ledger.transactions WHERE origin = 2") == [(2,)]
        # Back at the first one, what it does not hold is foreign.
        done = indexer(hidden, "replay", "--from-slot", "0", "--json")
        document = json.loads(done.stdout)
        assert (done.returncode, document["late"], document["retracted"]) == (1, 0, 2)
        assert len(rows(db, last)) == len(truth) - 2
        assert ask(db, "SELECT count(*) FROM ledger.retractions") == [(2,)]
    done = indexer(env(db, busy), "replay", "--from-slot", "0", "--json")
    assert json.loads(done.stdout)["late"] == 2
    assert rows(db, last) == truth
    # The tables followed each time: they are what a rebuild makes of the ledger.
    done = indexer(env(db, busy), "rebuild", "--dry-run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    # And the finalized seals are true of the corrected ledger.
    done = indexer(env(db, busy), "verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_replay_refuses_what_is_not_sealed(db: str, busy: Chain) -> None:
    done = indexer(env(db, busy), "replay", "--from-slot", "0")
    assert done.returncode == 2
    assert "nothing to compare yet" in done.stderr
    assert indexer(env(db, busy), "run", "--until-slot", "5").returncode == 0
    done = indexer(env(db, busy), "replay", "--from-slot", "900000")
    assert done.returncode == 2
    assert "sealed up to slot 5" in done.stderr


# ---- backfill ----


def test_backfill_goes_on_after_kill(db: str, busy: Chain) -> None:
    last = busy.last
    small = env(db, busy, INDEXER_RPC_IN_FLIGHT="1", INDEXER_BLOCK_HITS_MIN="100")
    with Process(small, "backfill", "--from-slot", "0", "--to-slot", str(last)) as it:
        waiting(
            lambda: ask(db, "SELECT 1 FROM ledger.checkpoints WHERE name = 'ledger' AND position > 0") or it.text, 40
        )
        it.end(signal.SIGKILL)
    done = indexer(small, "backfill", "--from-slot", "0", "--to-slot", str(last), "--json")
    assert done.returncode == 0, done.stderr
    assert rows(db, last) == busy.walk(last)
    assert indexer(small, "verify").returncode == 0
    done = indexer(small, "backfill", "--from-slot", "0", "--to-slot", str(last), "--json")
    assert json.loads(done.stdout)["rows"] == 0


def test_backfill_from_the_first_transaction_beside_a_daemon(db: str, busy: Chain, tmp_path: Path) -> None:
    last = busy.last
    truth = busy.walk(last)
    middle = truth[len(truth) // 2][0]
    config = tmp_path / "indexer.toml"
    config.write_text(
        f'[[programs]]\nname = "voting"\nidl = "builtin:community_voting"\nstart_slot = {middle}\nprojections = ["voting"]\n'
    )
    here = env(db, busy, INDEXER_CONFIG=str(config))
    with Process(here, "run") as it:
        waiting(lambda: ask(db, "SELECT slot FROM ledger.checkpoints WHERE name = 'ingest:1' AND slot >= %s", last), 40)
        done = indexer(here, "backfill", "--from-slot", "first", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["slot_first"] == truth[0][0]
        assert rows(db, last) == truth
        assert it.end()[0] == 0
    assert indexer(here, "verify").returncode == 0


def test_backfill_ends_at_once_on_a_signal_and_gives_its_lease_back(db: str, busy: Chain) -> None:
    with Proxy(busy.node.rpc_url) as proxy:
        proxy.bend = lambda method, params, result: None if method == "getBlock" else result
        stuck = environment(db, proxy.url)
        with Process(stuck, "backfill", "--from-slot", "0") as it:
            waiting(lambda: "getBlock" in proxy.calls, 40)
            code, _ = it.end()
        assert code == 143
    assert ask(db, "SELECT expires_at < clock_timestamp() FROM ledger.leases WHERE name = 'backfill'") == [(True,)]


# ---- an end in every state ----

DEADLINE_S = 3.0
# For a slow machine. What hangs in these tests hangs for twice as long as both together, or for ever.
SLACK_S = 7.0


def ends_in_time(it: Process) -> None:
    """The deadline is part of the contract with the service manager, which kills behind it."""
    _, seconds = it.end()
    assert seconds < DEADLINE_S + SLACK_S, "".join(it.text)


def test_it_ends_while_it_follows(db: str, busy: Chain) -> None:
    with Process(env(db, busy, INDEXER_SHUTDOWN_S=str(DEADLINE_S + SLACK_S)), "run") as it:
        it.wait_for("subscribed")
        # By itself: one that its deadline has to end says 128 and the signal.
        assert it.end()[0] == 0
        assert ask(db, "SELECT expires_at < clock_timestamp() FROM ledger.leases WHERE name = 'writer'") == [(True,)]


def test_it_ends_while_the_node_hangs(db: str, busy: Chain) -> None:
    with Proxy(busy.node.rpc_url) as proxy:
        here = environment(db, proxy.url, busy.node.ws_url, INDEXER_SHUTDOWN_S=str(DEADLINE_S))
        with Process(here, "run") as it:
            it.wait_for("leading")
            proxy.hangs = True
            waiting(lambda: it.said("subscribed"), 20)
            ends_in_time(it)
            proxy.hangs = False


def test_it_ends_while_the_node_does_not_answer_at_the_start(db: str, busy: Chain) -> None:
    with Proxy(busy.node.rpc_url) as proxy:
        proxy.hangs = True
        with Process(environment(db, proxy.url, INDEXER_SHUTDOWN_S=str(DEADLINE_S)), "run") as it:
            it.wait_for("listening")
            ends_in_time(it)
        proxy.hangs = False


def test_it_ends_while_the_database_cannot_be_reached(db: str, busy: Chain) -> None:
    import socket

    # A server that takes connections and never speaks: the worst kind of down.
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        dead = f"postgresql://u@127.0.0.1:{black_hole.getsockname()[1]}/x"
        here = env(dead, busy, INDEXER_SHUTDOWN_S=str(DEADLINE_S), INDEXER_CONNECT_TIMEOUT_S="60")
        with Process(here, "run") as it:
            it.wait_for("listening")
            ends_in_time(it)


def test_it_ends_while_the_database_holds_its_locks(db: str, busy: Chain) -> None:
    with psycopg.connect(db) as blocker:
        here = env(db, busy, INDEXER_SHUTDOWN_S=str(DEADLINE_S))
        with Process(here, "run") as it:
            it.wait_for("subscribed")
            blocker.execute("LOCK TABLE ledger.checkpoints IN ACCESS EXCLUSIVE MODE")
            # Until it hangs in one: an append, for something is to be sealed every slot, or what finality writes down, whichever came first.
            stuck = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            waiting(lambda: ask(db, stuck), 20)
            ends_in_time(it)


def test_it_ends_while_it_catches_up(db: str, busy: Chain) -> None:
    with Proxy(busy.node.rpc_url) as proxy:
        # Nothing is served but the barrier: a catch-up that can't get on.
        slow = {"getTransaction", "getBlock"}
        proxy.bend = lambda method, params, result: None if method in slow and params[0] != busy.finalized() else result
        here = environment(db, proxy.url, busy.node.ws_url, INDEXER_SHUTDOWN_S=str(DEADLINE_S))
        with Process(here, "run") as it:
            it.wait_for("leading")
            waiting(lambda: "getBlock" in proxy.calls, 20)
            ends_in_time(it)


def test_it_ends_while_a_rebuild_waits(db: str, busy: Chain) -> None:
    last = busy.last
    assert indexer(env(db, busy), "run", "--until-slot", str(last)).returncode == 0
    ask(db, "UPDATE projections.generations SET version = 'another' WHERE state = 'live' RETURNING 1")
    with psycopg.connect(db) as blocker:
        blocker.execute("LOCK TABLE ledger.transactions IN ACCESS EXCLUSIVE MODE")
        with Process(env(db, busy, INDEXER_SHUTDOWN_S=str(DEADLINE_S)), "run") as it:
            it.wait_for("leading")
            ends_in_time(it)
