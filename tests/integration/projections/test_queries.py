"""The queries that a front end makes, each on tables of real size: the plan that PostgreSQL chooses by itself, and pages without hole or repeat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from projections import bootstrap, catalogue
from schema import db as database
from tests.integration.projections import history

COMMUNITIES, MEMBERS_EACH, QUESTIONS_EACH, VOTES_EACH = 3000, 10, 8, 5
_BY = "1, 'made', 1, 'changed'"
_FILL = """
INSERT INTO {voting}.communities SELECT 'c' || c, 'w' || c, 'w' || c, c, 'name', '', 'Open', 1, 999, 10, {members}, 0, {questions}, 1,
    {members}, false, to_timestamp(1000000 + c), to_timestamp(1000000 + c), 255, {by} FROM generate_series(1, {communities}) c;
INSERT INTO {voting}.members SELECT 'm' || c || '/' || m, 'c' || c, 'w' || (c * 7 + m * 13) % 5000, 'Member', 'Active', false,
    now(), now(), m, now(), 255, {by} FROM generate_series(1, {communities}) c, generate_series(1, {members}) m;
INSERT INTO {voting}.questions SELECT 'q' || c || '/' || q, 'c' || c, 'w1', q, 'text', ARRAY['yes', 'no'], 'Open', 1, true, 1, 'ActiveMembers', 1,
    now(), to_timestamp(2000000000 + q / 3), NULL, CASE WHEN q % 4 = 0 THEN 'Closed' ELSE 'Open' END, ARRAY[1, 2]::bigint[], 3, 0, 'Undecided',
    ARRAY[]::bigint[], to_timestamp(1000000 + (c * 31 + q * 17) % 999), NULL, 255, {by}
    FROM generate_series(1, {communities}) c, generate_series(1, {questions}) q;
INSERT INTO {voting}.votes SELECT 'v' || c || '/' || q || '/' || v, 'c' || c, 'q' || c || '/' || q, 'w' || (c * 7 + v * 13) % 5000, 'cast',
    ARRAY[0]::bigint[], NULL, false, v % 10 = 0, v % 10 = 0, false, to_timestamp(1000000 + (c * 7 + q * 3 + v) % 50), now(), 0, 255, {by}
    FROM generate_series(1, {communities}) c, generate_series(1, {questions}) q, generate_series(1, {votes}) v;
INSERT INTO {events}.decoded SELECT n, n / 10 + 1, n % 10, 0, 's' || n, now(), '{program}',
    CASE WHEN n % 3 = 0 THEN 'VoteCast' ELSE 'VoteChanged' END,
    jsonb_build_object('community', 'c' || n / 7 % {communities} + 1, 'vote', 'v' || n, 'voter',
    'w' || n % 5000, 'question', 'q', 'bump', 1,
    'selections', '00', 'anonymous', false, 'tallies', '[]'::jsonb, 'ballots_cast', 1, 'timestamp', 1)
    FROM generate_series(1, 60000) n;
ANALYZE;
"""


@pytest.fixture(scope="module")
def reader(module_db: str) -> Iterator[psycopg.Connection[Any]]:
    """A reader's connection to tables of 100,000 votes; the test's own transaction may add to them."""
    spec = history.Ledger(module_db).spec()
    bootstrap.ensure(module_db, (spec,))
    with database.connect(module_db) as conn:
        states = catalogue.states(conn)
        places = {
            "voting": states["voting.voting"].schema,
            "events": states["events"].schema,
            "program": history.PROGRAM,
        }
        sizes = {
            "communities": COMMUNITIES,
            "members": MEMBERS_EACH,
            "questions": QUESTIONS_EACH,
            "votes": VOTES_EACH,
            "by": _BY,
        }
        for statement in _FILL.format(**places, **sizes).strip().split(";\n"):
            conn.execute(statement.rstrip(";"))  # type: ignore[arg-type]
        yield conn


QUERIES = [
    ("communities of a wallet",
     "SELECT c.* FROM voting.members m JOIN voting.communities c USING (community) WHERE m.wallet = 'w48' AND m.status = 'Active'",
     ("members_by_wallet", "communities_pkey")),
    ("members of a community, a page",
     "SELECT * FROM voting.members WHERE community = 'c5' AND wallet > 'w1' ORDER BY wallet LIMIT 20", ("members_by_community",)),
    ("open questions of a community by closing time, a page",
     "SELECT * FROM voting.questions WHERE community = 'c5' AND status = 'Open' AND (closes_at, question) > (to_timestamp(2000000001), 'q5/4')"
     " ORDER BY closes_at, question LIMIT 5", ("questions_by_closing",)),
    ("newest questions, a page",
     "SELECT * FROM voting.questions WHERE (created_at, question) < (to_timestamp(1000500), 'q5/4') ORDER BY created_at DESC, question DESC LIMIT 20",
     ("questions_newest",)),
    ("newest communities", "SELECT * FROM voting.communities ORDER BY created_at DESC, community DESC LIMIT 20", ("communities_newest",)),
    ("results of a question", "SELECT * FROM voting.options WHERE question = 'q5/4' ORDER BY option_index", ("questions_pkey",)),
    ("ballots of a question, a page", "SELECT * FROM voting.votes WHERE question = 'q5/4' AND vote > 'v5/4/2' ORDER BY vote LIMIT 20",
     ("votes_by_question",)),
    ("a wallet's votes, newest first, a page",
     "SELECT * FROM voting.votes WHERE voter = 'w48' AND (cast_at, vote) < (to_timestamp(1000040), 'v5/4/1')"
     " ORDER BY cast_at DESC, vote DESC LIMIT 20",
     ("votes_by_voter",)),
    ("a wallet's ballot on a question", "SELECT * FROM voting.votes WHERE question = 'q5/4' AND voter = 'w48'",
     ("votes_by_ballot", "votes_by_question", "votes_by_voter")),
    ("may a wallet vote", "SELECT * FROM voting.eligibility WHERE question = 'q5/4' AND wallet = 'w48'",
     ("votes_by_ballot",)),
    ("newest activity, a page",
     "SELECT * FROM events.decoded WHERE (position, event_index) < (50000, 0) ORDER BY position DESC, event_index DESC LIMIT 20", ("decoded_pkey",)),
    ("newest votes of a community",
     "SELECT * FROM voting_events.\"VoteCast\" WHERE community = 'c5' AND slot <= 5000"
     " ORDER BY slot DESC, transaction_index DESC, event_index DESC LIMIT 20",
     ("decoded_by_community",)),
    ("events of a transaction", "SELECT * FROM events.decoded WHERE signature = 's77'", ("decoded_by_signature",)),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "indexes"), [q[1:] for q in QUERIES], ids=[q[0] for q in QUERIES])
def test_a_front_ends_query_is_served_by_an_index(
    reader: psycopg.Connection[Any], statement: str, indexes: tuple[str, ...]
) -> None:
    """No setting nudges the planner. Reads stay within a few hundred buffers, whatever the tables hold."""
    assert reader.execute(statement).fetchone() is not None, "the example finds nothing, so its plan says nothing"  # type: ignore[arg-type]
    row = reader.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement).fetchone()  # type: ignore[operator]
    assert row is not None
    plan = row[0][0]["Plan"]
    nodes = list(walk(plan))
    assert any(node.get("Index Name", "").startswith(indexes) for node in nodes), plan
    scanned = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
    assert scanned == [], f"{scanned} is read from end to end"
    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert touched < 400, f"{touched} buffers"


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


PAGES = [
    ("SELECT question FROM voting.questions WHERE community = 'c5' AND status = 'Open'"
     " AND (closes_at, question) > (%s, %s) ORDER BY closes_at, question LIMIT 4", "closes_at",
     "SELECT question FROM voting.questions WHERE community = 'c5' AND status = 'Open' ORDER BY closes_at, question"),
    ("SELECT question FROM voting.questions WHERE (created_at, question) > (%s, %s) ORDER BY created_at, question LIMIT 333", "created_at",
     "SELECT question FROM voting.questions ORDER BY created_at, question"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "column", "whole"), PAGES, ids=["open questions", "newest questions"])
def test_keyset_pages_have_neither_hole_nor_repeat(
    reader: psycopg.Connection[Any], page: str, column: str, whole: str
) -> None:
    expected = [row[0] for row in reader.execute(whole)]  # type: ignore[arg-type]
    seen: list[str] = []
    cursor: tuple[Any, str] = ("-infinity", "")
    while rows := reader.execute(page, cursor).fetchall():  # type: ignore[arg-type]
        seen += [row[0] for row in rows]
        at = reader.execute(f"SELECT {column} FROM voting.questions WHERE question = %s", (seen[-1],)).fetchone()  # type: ignore[arg-type]
        assert at is not None
        cursor = (at[0], seen[-1])
    assert seen == expected
    assert len(seen) >= 6


def test_the_index_of_signatures_is_changed_where_the_table_is_there_already(db: str) -> None:
    def method() -> list[tuple[Any, ...]]:
        with database.connect(db) as conn:
            return conn.execute(
                "SELECT m.amname FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.relname = 'decoded_by_signature'"
            ).fetchall()

    bootstrap.ensure(db, (history.Ledger(db).spec(),))
    assert method() == [("hash",)]
    database.downgrade(db, "0003")
    assert method() == [("btree",)]
    database.upgrade(db)
    assert method() == [("hash",)]


def test_the_index_of_a_scope_is_over_its_program_alone(db: str) -> None:
    """Before it was over all programs: text of another one that no index holds would have stopped the decoded events of all."""
    spec = history.Ledger(db).spec()
    bootstrap.ensure(db, (spec,))
    with database.connect(db) as conn:
        schema = catalogue.states(conn)["events"].schema
        known = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'decoded' AND indexname LIKE 'decoded_by_community%'"
        ((name, definition),) = conn.execute(known).fetchall()
        assert name == f"decoded_by_community_{spec.program_id}"
        assert f"WHERE (program = '{spec.address}'::text)" in definition
        conn.execute(
            f"DROP INDEX {schema}.{name}; CREATE INDEX decoded_by_community ON {schema}.decoded"
            " ((data ->> 'community'), slot, transaction_index, event_index)"
        )
        with database.connect(db) as reader, reader.transaction():
            reader.execute("SELECT count(*) FROM events.decoded")
            # A reader of hours holds up no start.
            bootstrap.ensure(db, (spec,))
            assert len(conn.execute(known).fetchall()) == 2
        bootstrap.ensure(db, (spec,))
        assert conn.execute(known).fetchall() == [(name, definition)]
        long = "".join(chr(0x4E00 + n * n % 5000) for n in range(2_000))
        conn.execute(
            f"INSERT INTO {schema}.decoded (position, slot, transaction_index, event_index, signature, program, name, data)"
            " VALUES (1, 1, 0, 0, 's', 'another', 'Said', jsonb_build_object('community', %s::text))",
            (long,),
        )
