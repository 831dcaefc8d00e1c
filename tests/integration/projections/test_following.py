"""Following, rebuilding and correcting, against a real PostgreSQL."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from projections import bootstrap
from projections.catalog.voting import VOTING
from projections.rebuild import rebuild
from projections.store import physical
from projections.worker import Worker
from schema import db
from tests.integration.projections import history


def follow(dsn: str, spec: Any) -> Worker:
    """Project all that the ledger holds."""
    worker = Worker(dsn, (spec,))
    with db.connect(dsn) as conn:
        worker.rebuild_stale(conn)
        while worker.step(conn):
            pass
    return worker


def rows(dsn: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with db.connect(dsn) as conn:
        return conn.execute(statement, values).fetchall()


@pytest.fixture
def chain(db: str) -> Any:
    return history.Ledger(db)


def votes_of(chain: Any) -> Any:
    spec = chain.spec()
    bootstrap.ensure(chain.dsn, (spec,))
    return spec


def test_a_vote_is_a_row_with_its_provenance(chain: Any) -> None:
    spec = votes_of(chain)
    cast = history.transaction(4, 0, history.vote("a", 0, "w1", 1, [0, 1]))
    chain.seal(
        history.transaction(2, 0, history.community("a"), history.question("a", 0)),
        history.transaction(3, 0, history.vote("a", 0, "w0", 0, [1, 0]), err='"x"'),
        cast,
    )
    worker = follow(chain.dsn, spec)
    assert rows(chain.dsn, "SELECT voter, selections, status, created_slot, created_signature FROM voting.votes") == [
        (history.address("w1"), [1], "cast", 4, cast.signature)
    ]
    assert rows(chain.dsn, "SELECT text, tally FROM voting.options ORDER BY option_index") == [("yes", 0), ("no", 1)]
    assert rows(chain.dsn, "SELECT text, id FROM voting.questions q JOIN voting.communities USING (community)") == [
        ("Shall\ufffdwe?", 2**64 - 1)
    ]
    assert rows(chain.dsn, "SELECT name FROM events.decoded ORDER BY position, event_index") == [
        ("CommunityCreated",), ("QuestionCreated",), ("VoteCast",)
    ]  # fmt: skip
    assert rows(chain.dsn, 'SELECT voter, ballots_cast FROM voting_events."VoteCast"') == [(history.address("w1"), 1)]
    assert rows(chain.dsn, "SELECT sealed_slot, projected_slot FROM events.freshness") == [(4, 4)]
    assert worker.projected_slot() == 4
    assert worker.reasons(10) == []


def test_an_anonymous_voter_is_shown_nowhere(chain: Any) -> None:
    spec = votes_of(chain)
    chain.seal(
        history.transaction(2, 0, history.community("a"), history.question("a", 0)),
        history.transaction(3, 0, history.vote("a", 0, "secret", 1, [0, 1], anonymous=True)),
    )
    follow(chain.dsn, spec)
    wallet = history.address("secret")
    views = rows(chain.dsn, "SELECT schema, name FROM projections.views")
    assert len(views) > 20
    for schema, name in views:
        shown = rows(chain.dsn, f'SELECT to_jsonb(v)::text FROM "{schema}"."{name}" v')
        assert not any(wallet in text for (text,) in shown), (schema, name)
    assert rows(chain.dsn, "SELECT selections FROM voting.votes") == [([1],)]


def test_an_anonymous_voter_is_not_shown_while_his_event_is_parked(chain: Any) -> None:
    spec = votes_of(chain)
    # The ledger begins behind the question: its votes can't be counted, but they are decoded, and their accounts are mirrored.
    chain.seal(
        history.transaction(
            2,
            0,
            history.vote("a", 0, "secret", 1, [0, 1], anonymous=True),
            history.vote("a", 0, "open", 1, [0, 2]),
        ),
    )
    wallet = history.address("secret")
    with db.connect(chain.dsn) as conn:
        conn.execute(
            "INSERT INTO projections.accounts (address, program, program_id, slot, name, data, lamports, owner, closed, created_slot)"
            " VALUES ('vote', %s, 1, 2, 'Vote', jsonb_build_object('voter', %s::text, 'anonymous', true), 1, %s, false, 2)",
            (spec.address, wallet, spec.address),
        )
    follow(chain.dsn, spec)
    assert rows(chain.dsn, "SELECT count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL") == [(2,)]
    for schema, name in rows(chain.dsn, "SELECT schema, name FROM projections.views"):
        shown = rows(chain.dsn, f'SELECT to_jsonb(v)::text FROM "{schema}"."{name}" v')
        assert not any(wallet in text for (text,) in shown), (schema, name)
    assert rows(chain.dsn, "SELECT data ->> 'question' IS NOT NULL FROM events.decoded") == [(True,), (True,)]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_arrival_gives_the_rebuilt_tables(chain: Any, seed: int) -> None:
    rng = random.Random(seed)
    spec = votes_of(chain)
    sent = [
        history.transaction(2, n, history.community(name), history.question(name, 0)) for n, name in enumerate("abc")
    ]
    tallies = {name: [0, 0] for name in "abc"}
    for slot in range(3, 25):
        name, choice = rng.choice("abc"), rng.randrange(2)
        tallies[name][choice] += 1
        event = history.vote(name, 0, f"w{slot}", choice, list(tallies[name]), anonymous=rng.random() < 0.3)
        sent.append(history.transaction(slot, rng.randrange(3), event))
    late = rng.sample(sent[3:], 4)
    on_time = [t for t in sent if t not in late]
    chain.seal(*on_time[:10])
    follow(chain.dsn, spec)
    chain.seal(*on_time[10:], slot_last=30)
    chain.late(*sorted(late, key=lambda t: (t.slot, t.transaction_index)))
    follow(chain.dsn, spec)
    gone = rng.randrange(4, len(on_time))
    chain.retract(gone, on_time[gone - 1])
    follow(chain.dsn, spec)
    votes = rows(chain.dsn, "SELECT count(*) FROM voting.votes")
    assert votes == [(len(sent) - 3 - 1,)]
    report = rebuild(chain.dsn, (spec,), "voting")
    assert [d.table for d in report.differences if not d.equal] == []
    assert report.swapped
    assert rows(chain.dsn, "SELECT count(*) FROM voting.votes") == votes
    assert all(d.equal for d in rebuild(chain.dsn, (spec,), "events").differences)
    follow(chain.dsn, spec)
    assert all(d.equal for d in rebuild(chain.dsn, (spec,), "voting.voting", dry_run=True).differences)


def test_addresses_are_in_the_order_of_their_bytes_and_tables_that_were_not_are_rebuilt(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an index on them costs must not depend on the language of the database. Before version 3 it did."""

    def as_before(table: sa.Table, schema: str) -> sa.Table:
        made = physical(table, schema)
        for column in made.c:
            column.type = sa.Text() if isinstance(column.type, sa.Text) else column.type
        return made

    keyed = (
        "SELECT DISTINCT co.collname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid"
        " AND a.attnum = ANY (i.indkey) JOIN pg_collation co ON co.oid = a.attcollation WHERE c.relname IN ('communities', 'members', 'votes')"
    )
    with monkeypatch.context() as before:
        before.setattr("projections.store.physical", as_before)
        before.setattr(VOTING, "version", 2)
        spec = votes_of(chain)
        chain.seal(
            history.transaction(2, 0, history.community("a"), history.question("a", 0)),
            *[history.transaction(3 + n, 0, history.vote("a", 0, f"w{n}", 0, [n + 1, 0])) for n in range(20)],
        )
        follow(chain.dsn, spec)
        assert rows(chain.dsn, keyed) == [("default",)]
    report = rebuild(chain.dsn, (spec,), "voting")
    assert [(d.table, d.rows) for d in report.differences if d.table == "votes"] == [("votes", 20)]
    assert all(d.equal for d in report.differences)
    assert rows(chain.dsn, keyed) == [("C",)]


def test_poison_stops_its_community_only_until_discarded(chain: Any) -> None:
    from projections import dead_letters

    spec = votes_of(chain)
    broken = history.CODEC.encode_event(*history.question("a", 0))[:60]
    chain.seal(
        history.transaction(2, 0, history.community("a"), history.community("b")),
        history.transaction(3, 0, broken),
        history.transaction(4, 0, history.renamed("a", "later"), history.renamed("b", "moved")),
    )
    worker = follow(chain.dsn, spec)
    assert rows(chain.dsn, "SELECT name FROM voting.communities ORDER BY name") == [("a",), ("moved",)]
    letters = dead_letters.listed(chain.dsn)
    assert [(x.reason, x.event_name) for x in letters] == [
        ("undecodable", "QuestionCreated"),
        ("behind", "CommunityUpdated"),
    ]
    assert [r["reason"] for r in worker.reasons(10)] == ["dead_letters"]
    assert dead_letters.retry(chain.dsn, (spec,)) == (0, 2)
    assert rebuild(chain.dsn, (spec,), "voting").dead_letters == 2
    dead_letters.discard(chain.dsn, (spec,), letters[0].id, "truncated by hand")
    assert dead_letters.listed(chain.dsn) == []
    assert rows(chain.dsn, "SELECT name FROM voting.communities ORDER BY name") == [("later",), ("moved",)]
    assert all(d.equal for d in rebuild(chain.dsn, (spec,), "voting").differences)


def test_a_past_slot_is_built_beside(chain: Any) -> None:
    spec = votes_of(chain)
    chain.seal(
        history.transaction(2, 0, history.community("a")), history.transaction(5, 0, history.renamed("a", "new"))
    )
    follow(chain.dsn, spec)
    rebuild(chain.dsn, (spec,), "voting", as_of=(4, "past"))
    assert rows(chain.dsn, "SELECT name FROM past.communities") == [("a",)]
    assert rows(chain.dsn, "SELECT name FROM voting.communities") == [("new",)]
    held = "SELECT to_regnamespace('projection_' || id) IS NOT NULL FROM projections.generations WHERE state = 'as_of'"
    with db.connect(chain.dsn) as conn:
        bootstrap.clean_litter(conn)
        assert rows(chain.dsn, held) == [(True,)]
        conn.execute("DROP SCHEMA past CASCADE")
        bootstrap.clean_litter(conn)
    assert rows(chain.dsn, held) == []
    rebuild(chain.dsn, (spec,), "voting", as_of=(5, "past"))
    assert rows(chain.dsn, "SELECT name FROM past.communities") == [("new",)]


def test_a_second_worker_applies_nothing_twice(chain: Any) -> None:
    spec = votes_of(chain)
    chain.seal(history.transaction(2, 0, history.community("a")))
    first, second = Worker(chain.dsn, (spec,)), Worker(chain.dsn, (spec,))
    with db.connect(chain.dsn) as one, db.connect(chain.dsn) as two:
        first.step(one)
        second.step(two)
        first.step(one)
        while second.step(two):
            pass
        chain.seal(history.transaction(3, 0, history.renamed("a", "x")))
        while second.step(two):
            pass
        while first.step(one):
            pass
    assert rows(chain.dsn, "SELECT count(*) FROM events.decoded") == [(2,)]
    assert all(d.equal for d in rebuild(chain.dsn, (spec,), "voting").differences)
