"""A short portion of the campaign: every fault alone once, and all together without and with a witness. `make faults` runs it at length."""

from __future__ import annotations

import asyncio

import pytest

from schema import db as database
from tests.integration.devnode import campaign
from tests.integration.devnode.campaign import (
    ALONE,
    TOGETHER,
    WITNESSED,
    Stage,
    ledger_differences,
    phases,
    table_differences,
    walk,
)

NAMES = sorted(ALONE)


@pytest.mark.parametrize(
    ("seed", "names", "last"),
    [(101, NAMES[::2], TOGETHER), (102, NAMES[1::2], WITNESSED)],
    ids=["half", "other-half"],
)
def test_the_tables_equal_the_model_and_the_ledger_the_blocks_after_every_fault(
    db: str, seed: int, names: list[str], last: str
) -> None:
    stage = Stage(db, seed)
    wanted = [*names, last]
    found = asyncio.run(stage.run({name: faults for name, faults in phases(names).items() if name in wanted}))
    assert [(phase.name, phase.wrong[:3]) for phase in found if phase.wrong] == []
    assert [phase.name for phase in found] == [*wanted, "at the end"]
    assert sum(phase.transactions for phase in found) > 300
    # What finds nothing above can find something: a tally, a row and a line of the ledger too many or too few.
    model = stage.base
    assert table_differences(db, model) == []
    next(iter(model.questions.values()))["tallies"][0] += 1
    model.votes.pop(next(iter(model.votes)))
    first, second = table_differences(db, model)
    assert "tallies" in first
    assert second.endswith("only in the table")
    assert "extra" in ledger_differences(db, 0, stage.read_to, [])[0]


def test_a_fault_that_never_strikes_is_a_finding(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "STEPS_MAX", 12)
    found = asyncio.run(Stage(db, 103).run({"nothing": {"late-blocks": "0"}}))
    assert found[0].wrong == ["never struck: late-blocks"]
    assert found[-1].wrong == []


@pytest.mark.parametrize("has_witness", [True, False])
def test_the_phase_with_a_witness_fails_when_the_witness_is_taken_away(db: str, has_witness: bool) -> None:
    """A node that hides transactions until they are final, in lists and blocks alike: only another one can tell."""
    # No notification, no look at accounts and no sample betrays them.
    faults = {"hidden-signatures": "0.3,everywhere=1", "lost-notifications": "1"}
    stage = Stage(db, 105, has_witness=has_witness, lingers=True, accounts_poll_s=3_600.0, audit_sample=0.0)
    phase, end = asyncio.run(stage.run({WITNESSED: faults}))
    assert phase.struck["hidden-signatures"] > 0
    with database.connect(db) as connection:
        (late,) = connection.execute("SELECT count(*) FROM ledger.transactions WHERE origin = 2").fetchone() or (0,)
    if has_witness:
        assert (phase.wrong, end.wrong, late) == ([], [], 0)
    else:
        # Sealed without them. Once nothing is hidden any more, a later list may name them: then they are here, and marked as late.
        assert late or any("missing [(" in line for line in phase.wrong), phase.wrong


def test_the_walk_sees_what_the_blocks_hold(db: str) -> None:
    """The rival of the ledger is no copy of it: it reads the node alone."""

    async def count() -> tuple[int, int]:
        stage = Stage(db, 104)
        async with stage.node:
            for wallet in stage.story.wallets:
                stage.node.chain.airdrop(wallet.pubkey(), 10**12)
            await stage.node.advance()
            phase = campaign.Phase("quiet")
            while phase.transactions < 10:
                stage._slot(phase)
                await stage.node.advance()
            client = campaign.Node(stage.node.rpc_url)
            rows = await walk(client, 0, stage.node.chain.tip.slot)
            await client.close()
            return len(rows), phase.transactions

    walked, landed = asyncio.run(count())
    assert walked == landed
