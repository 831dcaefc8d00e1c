"""The crowd on a real development node over sockets: every instruction is used, and the chain ends as the crowd's model says."""

from __future__ import annotations

import asyncio

import pytest

from programs.community_voting import artifact
from programs.crowd import Crowd
from programs.crowd.model import differences
from programs.crowd.node import Node
from programs.devnode import DevNode, DevNodeConfig


async def _a_run() -> None:
    config = DevNodeConfig(slot_ms=200.0, programs={artifact.PROGRAM_ID: artifact.SO_PATH})
    async with DevNode(config) as node:
        crowd = Crowd(seed=3, wallets=48)
        result = await crowd.run(node.rpc_url, rate=150.0, seconds=26.0)
        assert result.lost.total() == 0
        assert set(result.succeeded) == {i["name"] for i in artifact.load_idl_json()["instructions"]}
        assert result.failed.total() > 0
        model, wrong = await crowd.read_model(node.rpc_url)
        assert wrong == []
        assert model.applied == result.succeeded.total()
        # The comparison can fail: a tally too many is seen.
        question = next(iter(model.questions.values()))
        question["tallies"][0] += 1
        rpc = Node(node.rpc_url)
        try:
            (line,) = await differences(rpc, model)
        finally:
            await rpc.close()
        assert ".tallies:" in line


@pytest.mark.alone
def test_every_instruction_lands_and_the_model_is_right() -> None:
    asyncio.run(asyncio.wait_for(_a_run(), 300))
