"""What readers and operators see: plans, whole states during a rebuild, comparison with the chain, explanations."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import sqlalchemy as sa

from programs.errors import UserError
from projections import bootstrap, catalogue, dead_letters
from projections.decoding import ProgramSpec
from projections.explain import explain
from projections.model import PROVENANCE, Event, Projection, Rows
from projections.rebuild import rebuild
from projections.reconcile import reconcile
from projections.worker import Worker
from schema import db
from tests.integration.projections import history


@pytest.fixture
def chain(db: str) -> Any:
    """A ledger of one community with a question and fifty votes, projected."""
    made = history.Ledger(db)
    spec = made.spec()
    bootstrap.ensure(db, (spec,))
    votes = [history.transaction(3 + n, 0, history.vote("a", 0, f"w{n}", 0, [n + 1, 0])) for n in range(50)]
    made.seal(history.transaction(2, 0, history.community("a"), history.question("a", 0)), *votes)
    made.worker = Worker(db, (spec,))
    made.specs = (spec,)
    follow(made)
    return made


def follow(chain: Any) -> None:
    with db.connect(chain.dsn) as conn:
        while chain.worker.step(conn):
            pass


def test_a_reader_sees_only_whole_states_while_tables_are_swapped(chain: Any) -> None:
    seen: set[tuple[int, int]] = set()
    errors: list[BaseException] = []
    done, begun = threading.Event(), threading.Event()

    def read() -> None:
        try:
            with db.connect(chain.dsn) as conn:
                while not done.is_set():
                    row = conn.execute(
                        "SELECT (SELECT count(*) FROM voting.votes), (SELECT tallies[1] FROM voting.questions)"
                    ).fetchone()
                    assert row is not None
                    seen.add(row)
                    begun.set()
        except BaseException as error:
            errors.append(error)
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert begun.wait(120)
        for _ in range(3):
            assert rebuild(chain.dsn, chain.specs, "voting").swapped
    finally:
        done.set()
        reader.join(20)
    assert errors == []
    assert seen == {(50, 50)}


def test_the_reader_role_reads_views_and_nothing_else(chain: Any) -> None:
    import psycopg

    with db.connect(chain.dsn) as conn:
        if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = 'indexer_reader'").fetchone():
            from schema import roles

            roles.ensure_reader_role(conn, ("events", "voting", "voting_events"))
        else:
            from schema import roles

            for schema in ("events", "voting", "voting_events"):
                roles.grant_views(conn, schema)
        hidden = conn.execute(
            "SELECT 'projection_' || generation FROM projections.installed WHERE name = 'voting.voting'"
        ).fetchone()
        assert hidden is not None
        conn.execute("SET ROLE indexer_reader")
        assert conn.execute("SELECT count(*) FROM voting.votes").fetchone() == (50,)
        for table in (f"{hidden[0]}.votes", "projections.installed", "ledger.transactions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"SELECT * FROM {table}")
    rebuild(chain.dsn, chain.specs, "voting")
    with db.connect(chain.dsn) as conn:
        conn.execute("SET ROLE indexer_reader")
        assert conn.execute("SELECT count(*) FROM voting.votes").fetchone() == (50,)


def test_a_reader_of_hours_holds_up_no_start_and_no_other_reader(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new release or a new IDL changes the text of views. They follow when their readers have gone; the daemon begins at once."""
    monkeypatch.setattr("projections.rebuild.WAITS_TOLD_S", 0.0)
    told: list[str] = []
    stop = threading.Event()
    worker = Worker(chain.dsn, chain.specs, poll_s=0.05, waits=lambda waiting: told.append(str(waiting)))
    thread = threading.Thread(target=worker.run, args=(stop,))
    held = "SELECT definition FROM projections.views WHERE schema = 'voting' AND name = 'votes'"
    with db.connect(chain.dsn) as conn, db.connect(chain.dsn) as other:
        (before,) = conn.execute(held).fetchone() or ()
        conn.execute("UPDATE projections.views SET definition = 'before' WHERE schema = 'voting' AND name = 'votes'")
        try:
            with db.connect(chain.dsn, application="slow-report") as reader, reader.transaction():
                reader.execute("SELECT count(*) FROM voting.votes")
                assert bootstrap.ensure(chain.dsn, chain.specs) is False
                thread.start()
                other.execute("SET statement_timeout = '5s'")
                chain.seal(history.transaction(60, 0, history.vote("a", 0, "late", 0, [51, 0])))
                until = time.monotonic() + 60
                while not told or other.execute("SELECT count(*) FROM voting.votes").fetchone() != (51,):
                    assert time.monotonic() < until, (told, worker.status())
                    time.sleep(0.02)
                assert conn.execute(held).fetchone() == ("before",)
            while conn.execute(held).fetchone() != (before,):
                assert time.monotonic() < until + 60
                time.sleep(0.02)
        finally:
            stop.set()
            thread.join()
    assert "the swap of views waits for readers of its views: pid" in told[0]
    assert "slow-report" in told[0]
    assert bootstrap.ensure(chain.dsn, chain.specs) is True


def test_a_row_is_explained_by_its_events(chain: Any) -> None:
    steps = explain(chain.dsn, chain.specs, "voting.questions", [history.address("a/q0")])
    assert [s.event for s in steps] == ["QuestionCreated"] + ["VoteCast"] * 50
    assert steps[-1].changes == {"tallies": ([49, 0], [50, 0]), "ballots_cast": (49, 50)}
    assert steps[0].made


def test_the_steps_lead_to_the_row_as_it_is(chain: Any) -> None:
    """Of every row: also where an event does not decode and what comes behind it waits, and after one was left out."""
    broken = history.CODEC.encode_event(*history.question("b", 0))[:60]
    chain.seal(
        history.transaction(60, 0, history.community("b"), history.community("c")),
        history.transaction(61, 0, broken),
        history.transaction(62, 0, history.renamed("b", "later"), history.renamed("c", "moved")),
        history.transaction(63, 0, history.vote("a", 0, "hidden", 1, [50, 1], anonymous=True)),
    )
    follow(chain)
    _explained(chain)
    assert _last_step(chain, "b") == "CommunityCreated"
    dead_letters.discard(chain.dsn, chain.specs, dead_letters.listed(chain.dsn)[0].id, "truncated by hand")
    _explained(chain)
    assert _last_step(chain, "b") == "CommunityUpdated"


def _last_step(chain: Any, community: str) -> str:
    return explain(chain.dsn, chain.specs, "voting.communities", [history.address(community)])[-1].event


def _explained(chain: Any) -> None:
    (projection,) = chain.specs[0].projections
    with db.connect(chain.dsn) as conn:
        schema = catalogue.states(conn)["voting.voting"].schema
        for table in projection.tables:
            key = next(iter(table.primary_key.columns)).name
            cursor = conn.execute(f"SELECT * FROM {schema}.{table.name}")
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
            # The first and the last ones stand for fifty votes that are alike.
            for row in [*rows[:2], *rows[-3:]]:
                made: dict[str, Any] = {}
                for step in explain(chain.dsn, chain.specs, f"voting.{table.name}", [row[key]]):
                    made = {**made, **{name: new for name, (_, new) in step.changes.items()}}
                hidden = {"voter"} if row.get("anonymous_ever") else set()
                assert {n: made.get(n) for n in row.keys() - set(PROVENANCE) - hidden} == {
                    n: row[n] for n in row.keys() - set(PROVENANCE) - hidden
                }


def test_a_row_of_several_columns_or_of_a_number_is_found_by_its_key(db: str) -> None:
    table = sa.Table(
        "places", sa.MetaData(), sa.Column("community", sa.Text, primary_key=True), sa.Column("id", sa.Numeric(20, 0), primary_key=True),
        sa.Column("name", sa.Text),
    )  # fmt: skip
    projection = Projection(name="places", version=1, tables=(table,), scope="community")

    @projection.on("CommunityCreated", places="community,id")
    def created(rows: Rows, event: Event) -> None:
        rows.places.put(event.data["community"], event.data["id"], name=event.data["settings"]["name"])

    made = history.Ledger(db)
    spec = made.spec()
    specs = (ProgramSpec(spec.name, spec.address, spec.program_id, spec.idl, (projection,)),)
    bootstrap.ensure(db, specs)
    made.seal(history.transaction(2, 0, history.community("a")))
    made.worker = Worker(db, specs)
    follow(made)
    address = history.address("a")
    (step,) = explain(db, specs, "voting.places", [address, str(2**64 - 1)])
    assert (step.event, step.changes["name"], step.changes["id"]) == (
        "CommunityCreated",
        (None, "a"),
        (None, 2**64 - 1),
    )
    wanted = r"the key of voting\.places is community \(text\), id \(numeric\(20, 0\)\)"
    for key, code in (([address], 2), ([address, "x"], 2), ([address, "5"], 1)):
        with pytest.raises(UserError, match=wanted if code == 2 else "no such row") as refused:
            explain(db, specs, "voting.places", key)
        assert refused.value.exit_code == code


class Node:
    """Answers getProgramAccounts and getMultipleAccounts from a dictionary; `refusals` are answered first, one a call."""

    def __init__(self, slot: int, accounts: dict[str, bytes], refusals: list[tuple[int, bytes]] | None = None) -> None:
        node = self
        self.accounts, self.slot, self.refusals = accounts, slot, refusals or []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["content-length"])))
                value: Any
                if call["method"] == "getProgramAccounts":
                    value = [{"pubkey": a, "account": node.shown(a)} for a in node.accounts]
                else:
                    value = [node.shown(a) if a in node.accounts else None for a in call["params"][0]]
                answer = json.dumps({"result": {"context": {"slot": node.slot}, "value": value}}).encode()
                status, body = node.refusals.pop(0) if node.refusals else (200, answer)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def shown(self, address: str) -> dict[str, Any]:
        return {"owner": history.PROGRAM, "data": [base64.b64encode(self.accounts[address]).decode(), "base64"]}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def accounts_after(votes: int, **community: Any) -> dict[str, bytes]:
    """The accounts of the fixture's history after so many votes; keywords change the community's."""
    made = history.community("a")[1]
    counts = {**made["counts"], "questions": 1, "open_questions": 1}
    settled = {"creator": made["creator"], "authority": made["authority"], "id": made["id"], "settings": made["settings"],
               "counts": counts, "dissolved": False, "created_at": 100, "updated_at": 100, "bump": 255, **community}  # fmt: skip
    asked = history.question("a", 0)[1]
    kept = (
        "community author index text options ballot_kind max_selections allow_changes quorum eligibility activations_before"
        " opens_at closes_at reveal_until bump"
    )
    question = {name: asked[name] for name in kept.split()}
    question |= {"status": "Open", "tallies": [votes, 0], "ballots_cast": votes, "ballots_revealed": 0,
                 "outcome": "Undecided", "winners": "", "created_at": 110, "settled_at": 0}  # fmt: skip
    accounts = {
        history.address("a"): history.CODEC.encode_account("Community", settled),
        history.address("a/q0"): history.CODEC.encode_account("Question", question),
    }
    for n in range(votes):
        cast = {"question": history.address("a/q0"), "voter": history.address(f"w{n}"), "selections": "00", "commitment": None,
                "revealed": False, "anonymous": False, "cast_at": 120, "updated_at": 120, "changes": 0, "bump": 253}  # fmt: skip
        accounts[history.address(f"a/q0/w{n}")] = history.CODEC.encode_account("Vote", cast)
    return accounts


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.reconcile.PAUSE_S", 0.0)
    monkeypatch.setattr("projections.reconcile._BACKOFF_S", 0.0)


def test_a_field_that_differs_from_the_chain_is_named(chain: Any, at_once: None) -> None:
    node = Node(52, accounts_after(50))
    try:
        equal = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
        assert (equal.differences, equal.remedy, equal.accounts, equal.rows) == ((), None, 52, 52)
        node.accounts = accounts_after(50, dissolved=True)
        del node.accounts[history.address("a/q0/w7")]
        report = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
    finally:
        node.close()
    assert {(d.table, d.key, d.field) for d in report.differences} == {
        ("communities", history.address("a"), "dissolved"), ("votes", history.address("a/q0/w7"), "")
    }  # fmt: skip
    assert report.remedy == "the ledger lacks transactions: indexer replay --from-slot 2"


def test_a_dead_letter_is_the_remedy_only_where_it_stops_what_differs(chain: Any, at_once: None) -> None:
    """An event of another community is parked, and a row of this one was changed by hand: it is to be rebuilt."""
    chain.seal(history.transaction(53, 0, history.CODEC.encode_event(*history.question("elsewhere", 0))[:60]))
    follow(chain)
    with db.connect(chain.dsn) as conn:
        assert conn.execute("SELECT scope FROM ledger.dead_letters").fetchall() == [(history.address("elsewhere"),)]
        schema = catalogue.states(conn)["voting.voting"].schema
        conn.execute(f"UPDATE {schema}.votes SET revealed = true WHERE vote = %s", (history.address("a/q0/w7"),))
    node = Node(53, accounts_after(50))
    try:
        report = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
        assert [(d.field, d.scope) for d in report.differences] == [("revealed", history.address("a"))]
        assert report.remedy == "the tables are not what the ledger says: indexer rebuild voting.voting"
        chain.seal(history.transaction(54, 0, history.CODEC.encode_event(*history.question("a", 1))[:60]))
        follow(chain)
        node.slot = 54
        report = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
        assert report.remedy is not None
        assert report.remedy.startswith("events are parked: ")
    finally:
        node.close()


def test_rows_that_went_on_after_the_accounts_slot_are_compared_as_they_were(chain: Any, at_once: None) -> None:
    # The tables hold fifty votes; the node speaks of slot 32, when there were thirty: nothing is wrong.
    node = Node(32, accounts_after(30))
    try:
        report = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
        assert (report.differences, report.accounts, report.rows) == ((), 32, 52)
        node.accounts = accounts_after(29)
        differing = reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60).differences
    finally:
        node.close()
    assert sorted((d.table, d.key, d.field, d.in_table, d.on_chain) for d in differing) == [
        ("questions", history.address("a/q0"), "ballots_cast", 30, 29),
        ("questions", history.address("a/q0"), "tallies", [30, 0], [29, 0]),
        ("votes", history.address("a/q0/w29"), "", "row", "(missing)"),
    ]


def test_a_busy_node_is_asked_again_and_a_dead_one_left(chain: Any, at_once: None) -> None:
    busy = [(429, b""), (200, b'{"error": {"code": -32029, "message": "slow down"}}'), (503, b"<html>"), (200, b"{")]
    node = Node(52, accounts_after(50), busy)
    try:
        report = reconcile(chain.dsn, chain.specs, ("http://127.0.0.1:1", node.url), timeout_s=60)
        assert (report.differences, node.refusals) == ((), [])
        node.refusals = [(429, b"")] * 50
        with pytest.raises(UserError, match="getProgramAccounts: HTTP 429") as refused:
            reconcile(chain.dsn, chain.specs, (node.url,), timeout_s=60)
    finally:
        node.close()
    assert refused.value.exit_code == 3
