"""The digests' bytes and the encoded rows are what they were: two indexers of different versions must agree."""

from __future__ import annotations

import json

import pytest

from programs import base58
from tests.golden.ledger.make import ADDRESS, CASES, FILE, START_SLOT, document
from tests.integration.schema import checker

PINNED = json.loads(FILE.read_text())


def test_nothing_has_changed() -> None:
    assert document() == PINNED


@pytest.mark.parametrize("name", CASES)
def test_the_independent_checker_computes_the_pinned_digest(name: str) -> None:
    """From the documented bytes alone, MessagePack written by hand included."""
    raw = CASES[name]
    row = (
        raw.slot,
        raw.transaction_index,
        base58.decode(raw.signature),
        raw.version,
        raw.err,
        raw.wire,
        None if raw.logs is None else checker.packed_logs(raw.logs),
        None
        if raw.inner is None
        else checker.packed_inner(
            [(i.outer, i.index, i.program_id_index, i.accounts, i.data, i.stack_height) for i in raw.inner]
        ),
        b"".join(raw.loaded),
    )
    assert checker.row_digest(row).hex() == PINNED["rows"][name]["digest"]


def test_the_independent_checker_computes_the_pinned_chain() -> None:
    value = checker.genesis(base58.encode(ADDRESS), START_SLOT)
    assert value.hex() == PINNED["genesis"]
    for pinned in PINNED["rows"].values():
        value = checker.link(value, bytes.fromhex(pinned["digest"]))
        assert value.hex() == pinned["chain"]
