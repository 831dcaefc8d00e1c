"""The fold, the keyed view and the test kit: no database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from programs.errors import UserError
from projections.catalog import resolve
from projections.fold import MemoryStore, Poison, fold
from projections.model import Event, Projection, ProjectionError, Rows, clean, moment
from projections.testkit import Given


def table() -> sa.Table:
    return sa.Table(
        "sums",
        sa.MetaData(),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("room", sa.Text, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False, default=0),
    )


def summing() -> Projection:
    projection = Projection(
        name="sums", version=1, tables=(table(),), scope="room", scope_of_raw=lambda raw: raw.decode()
    )

    @projection.on("Add", sums="key")
    def add(rows: Rows, event: Event) -> None:
        row = rows.sums.get(event.data["key"])
        total = 0 if row is None else row["total"]
        rows.sums.put(event.data["key"], room=event.data["room"], total=total + event.data["by"])
        if event.data["by"] < 0:
            raise ValueError("negative")

    return projection


def event(place: int, **data: Any) -> Event:
    return Event(place, place, 0, 0, f"s{place}", None, "p", "Add", data)


def test_the_guide_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "projections/README.md").read_text(), re.S)
    assert len(blocks) == 2
    assert len([line for line in blocks[0].splitlines() if line]) <= 30
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README", "exec"), names)
    assert names["given"].rows("ballots") == [{"voter": "w", "cast": 2}]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: p.on("X", nothing="key"), "unknown table 'nothing'"),
        (lambda p: p.on("Add", sums="key"), "a second handler"),
        (lambda p: Projection(name="Bad Name", version=1, tables=()), "use lower-case"),
        (lambda p: Projection(name="a", version=1, tables=(table(),), scope="hall"), "no column 'hall'"),
        (lambda p: Projection(name="a", version=0, tables=()), "begin with 1"),
    ],
)
def test_wrong_use_fails_when_it_is_made(wrong: Any, message: str) -> None:
    with pytest.raises(ProjectionError, match=re.escape(message)):
        wrong(summing())


def test_an_impure_handler_is_refused() -> None:
    import time

    def late(rows: Rows, event: Event) -> None:
        rows.sums.put("x", total=int(time.time()))

    with pytest.raises(ProjectionError, match="uses time"):
        summing().on("Late", sums="key")(late)


def test_a_key_that_was_not_declared_says_what_to_write() -> None:
    projection = summing()

    @projection.on("Other", sums="key")
    def other(rows: Rows, event: Event) -> None:
        rows.sums.get("elsewhere")

    with pytest.raises(AssertionError, match="declare it"):
        Given(projection).event("Other", key="k", room="r").rows("sums")


def test_a_handler_that_raises_changes_nothing_and_parks_its_room_only() -> None:
    projection, store = summing(), MemoryStore(summing())
    stopped: set[str] = set()
    history = [event(1, key="a", room="r", by=1), event(2, key="a", room="r", by=-5), event(3, key="a", room="r", by=1),
               event(4, key="b", room="s", by=7)]  # fmt: skip
    parked = fold(projection, store, history, stopped)
    assert [(p.position, p.reason) for p in parked] == [(2, "handler"), (3, "behind")]
    assert {k: r and r["total"] for k, r in store.held["sums"].items()} == {("a",): 1, ("b",): 7}
    assert stopped == {"r"}


def test_bytes_that_do_not_decode_park_their_room() -> None:
    projection, store = summing(), MemoryStore(summing())
    poison = Poison(1, 1, 0, 0, "s1", "p", b"r", "short")
    parked = fold(projection, store, [poison, event(2, key="a", room="r", by=1)], set())
    assert [p.reason for p in parked] == ["undecodable", "behind"]
    store = MemoryStore(projection)
    assert fold(projection, store, [poison, event(2, key="a", room="r", by=1)], set(), frozenset({(1, 0)})) == []


_EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("rs"), st.integers(-1, 9)), max_size=40)


@settings(deadline=None)
@given(_EVENTS, st.data())
def test_how_the_history_is_cut_into_batches_does_not_matter(
    items: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    projection = summing()
    history = [event(n, key=r + k, room=r, by=by) for n, (k, r, by) in enumerate(items, 1)]
    whole = MemoryStore(projection)
    parked = fold(projection, whole, history, set())
    parts, stopped, found, at = MemoryStore(projection), set[str](), [], 0
    while at < len(history):
        size = data.draw(st.integers(1, 7))
        found += fold(projection, parts, history[at : at + size], stopped)
        at += size
    assert parts.held == whole.held
    assert found == parked


@settings(deadline=None)
@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_clean_leaves_no_nul_and_nothing_else_changed(value: Any) -> None:
    cleaned = clean(value)
    assert clean(cleaned) == cleaned
    if "\\x00" not in repr(value):
        assert cleaned == value


def test_times_that_no_calendar_holds_are_none() -> None:
    assert moment(0) is None
    assert moment(2**62) is None
    assert moment(-5) is None
    held = moment(1_700_000_000)
    assert held is not None
    assert held.isoformat() == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("name", ["nothing", "no.such.module:X", "projections.model:Event", "projections.model:Nope"])
def test_an_unknown_projection_is_named(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(name)):
        resolve(name)


def test_every_event_of_the_program_has_a_handler() -> None:
    import json

    idl = json.loads((Path(__file__).parents[3] / "programs/community_voting/idl.json").read_text())
    assert set(resolve("voting").handlers) == {e["name"] for e in idl["events"]}


def test_a_retraction_waits_for_the_row_it_takes_back() -> None:
    from projections.apply import due
    from schema.reads import RetractionRow

    held = [RetractionRow(n, position, 1, "s", "fork") for n, position in ((1, 5), (2, 900), (3, 6))]
    assert [r.id for r in due(held, 0, 100)] == [1]
    assert [r.id for r in due(held, 1, 100)] == []
    assert [r.id for r in due(held, 1, 900)] == [2, 3]


def test_a_module_that_breaks_while_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_projection.py").write_text("1 / 0\n")
    (tmp_path / "unreadable_projection.py").write_text("def (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, said in (("broken_projection:X", "ZeroDivisionError"), ("unreadable_projection:X", "SyntaxError")):
        with pytest.raises(UserError, match=said) as refused:
            resolve(name)
        assert refused.value.exit_code == 2
