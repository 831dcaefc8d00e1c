"""Which IDL holds at which slot: what the settings give, what was recorded, and when the program was deployed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from indexer import idls
from indexer.core.protocol import Failure
from indexer.idls import Given, Watch, settle
from indexer.settings import IdlSetting, ProgramSetting
from programs import chain_idl
from programs.registry import IdlVersion, merged
from schema.ledger import IdlRow

ADDRESS = "5zWF1MxmFNPhWMh1h8F5xHnRb6rrcwuQWMLKT1DyzWvT"
SINGLE = ProgramSetting(name="p", address=ADDRESS, idl="p.json")


def document(*fields: str, event: str = "E") -> bytes:
    idl: dict[str, Any] = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": event, "discriminator": [1]}],
        "types": [{"name": event, "type": {"kind": "struct", "fields": [{"name": f, "type": "u8"} for f in fields]}}],
    }
    return json.dumps(idl).encode()


class Ledger:
    """What was recorded, as the table keeps it: nothing is changed, the same again is nothing new."""

    def __init__(self) -> None:
        self.rows: list[IdlRow] = []

    def start(self, given: bytes, deployment: int | None) -> list[tuple[int, bytes]]:
        versions, rows = settle(SINGLE, [Given(0, given, "file p.json")], self.rows, deployment)
        known = {(row.slot_from, row.idl) for row in self.rows}
        self.rows += [row for row in rows if (row.slot_from, row.idl) not in known]
        return [(version.slot_first, version.document) for version in versions]


A, B, C = document("a"), document("a", "b"), document("a", "b", "c")


def test_the_first_idl_holds_for_all_slots_and_a_restart_changes_nothing() -> None:
    ledger = Ledger()
    assert ledger.start(A, 500) == ledger.start(A, 500) == ledger.start(A, 900) == [(0, A)]
    assert len(ledger.rows) == 1


def test_a_new_idl_after_an_upgrade_holds_from_the_upgrade() -> None:
    ledger = Ledger()
    ledger.start(A, 500)
    assert ledger.start(B, 900) == [(0, A), (900, B)]
    assert ledger.start(C, 1500) == [(0, A), (900, B), (1500, C)]
    assert ledger.start(C, 1500) == [(0, A), (900, B), (1500, C)]


def test_a_new_idl_without_an_upgrade_is_a_correction() -> None:
    ledger = Ledger()
    ledger.start(A, 500)
    assert ledger.start(B, 500) == [(0, B)]
    ledger.start(A, 900)
    assert ledger.start(C, 900) == [(0, B), (900, C)]
    # Where nobody knows of deployments, nothing says that the old one held once.
    unknown = Ledger()
    unknown.start(A, None)
    assert unknown.start(B, 700) == [(0, B)]


def test_several_idls_hold_as_the_settings_say() -> None:
    program = ProgramSetting(
        name="p", address=ADDRESS, idl=(IdlSetting(path="b", from_slot=70), IdlSetting(path="a")), start_slot=5
    )
    given = [Given(each.from_slot, {"a": A, "b": B}[each.path], each.path) for each in program.idls]
    versions, rows = settle(program, given, [IdlRow(0, C, "old"), IdlRow(30, C, "old")], 900)
    assert [(v.slot_first, v.document) for v in versions] == [(0, A), (70, B)] == [(r.slot_from, r.idl) for r in rows]


@pytest.mark.parametrize(
    ("idl", "words"),
    [
        ([], "an empty list"),
        ([{"path": "a"}, {"path": "b"}], "two entries from slot 0"),
        ([{"path": "builtin:x"}], "builtin:x"),
        ([{"path": "a", "from": 3}], "from"),
        ([{"path": "a", "from_slot": -1}], "from_slot"),
    ],
)
def test_wrong_lists_are_refused(idl: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProgramSetting(name="p", address=ADDRESS, idl=idl)


def test_an_event_that_only_an_older_idl_names_is_still_named() -> None:
    key = bytes(32)
    both = merged([IdlVersion(key, 9, document("a")), IdlVersion(key, 0, document("z", event="Old"))])
    assert [layout.name for layout in both.events] == ["E", "Old"]


def test_changes_on_the_chain_are_noticed_once() -> None:
    watch = Watch(5)
    lagging = Watch(5)
    assert [lagging.notice(slot, "x") for slot in (5, 9, 5, 9)] == [[], ["upgraded"], [], []]
    assert watch.notice(Failure("down"), Failure("down")) == []
    assert watch.notice(5, None) == []
    assert watch.notice(5, "one") == ["idl_changed"]
    assert watch.notice(Failure("down"), "one") == []
    assert watch.notice(9, Failure("down")) == ["upgraded"]
    assert watch.notice(9, "two") == ["idl_changed"]
    assert watch.notice(None, None) == []
    assert idls.Watch(None).notice(7, "x") == []


def test_the_slot_of_a_deployment() -> None:
    place = bytes(range(32))
    assert chain_idl.programdata_address(b"\2\0\0\0" + place) == place
    assert chain_idl.programdata_address(b"\x7fELF" + bytes(100)) is None
    assert chain_idl.deployed_slot(b"\3\0\0\0" + (77).to_bytes(8, "little")) == 77
    assert chain_idl.deployed_slot(b"\3\0\0\0") is None
    assert chain_idl.deployed_slot(bytes(45)) is None
