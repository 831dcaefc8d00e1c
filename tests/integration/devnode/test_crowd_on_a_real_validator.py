"""The crowd on Agave's own test validator: every instruction lands there, and the accounts are what the crowd's model says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import httpx
import pytest

from programs.community_voting import artifact
from programs.crowd import Crowd

READY_SECONDS_MAX = 150.0
# Short slots: some instructions wait for a question's end, and the crowd has more turns in the same time.
TICKS_A_SLOT = 16


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all at once so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def validator() -> Iterator[str]:
    """The URL of a validator with the voting program; it ends with the test."""
    path = os.environ.get("SOLANA_TEST_VALIDATOR")
    if not path:
        pytest.skip("SOLANA_TEST_VALIDATOR names no validator")
    rpc, faucet, gossip = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        command = [path, "--ledger", f"{folder}/ledger", "--reset", "--quiet", "--bind-address", "127.0.0.1"]
        command += ["--rpc-port", str(rpc), "--faucet-port", str(faucet), "--gossip-port", str(gossip)]
        command += ["--ticks-per-slot", str(TICKS_A_SLOT), "--bpf-program", str(artifact.PROGRAM_ID)]
        with subprocess.Popen([*command, str(artifact.SO_PATH)], stdout=subprocess.DEVNULL, cwd=folder) as process:
            try:
                url = f"http://127.0.0.1:{rpc}"
                wait_for_blocks(url, process)
                yield url
            finally:
                process.terminate()
                process.wait(30)


def wait_for_blocks(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until the validator has confirmed some slots."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    request = {"jsonrpc": "2.0", "id": 1, "method": "getSlot", "params": [{"commitment": "confirmed"}]}
    while time.monotonic() < deadline:
        assert process.poll() is None, "the validator ended by itself"
        with contextlib.suppress(httpx.HTTPError, ValueError):
            if httpx.post(url, json=request, timeout=2).json().get("result", 0) > 5:
                return
        time.sleep(0.3)
    raise AssertionError("the validator made no blocks in time")


@pytest.mark.alone
@pytest.mark.node
def test_every_instruction_lands_on_a_real_validator_and_the_model_is_right(validator: str) -> None:
    async def a_run() -> None:
        crowd = Crowd(seed=5, wallets=48)
        names = {instruction["name"] for instruction in artifact.load_idl_json()["instructions"]}
        # A slow machine gets more than one turn: each founds new communities, and together they must have used everything.
        used: set[str] = set()
        for _ in range(4):
            result = await crowd.run(validator, rate=60.0, seconds=32.0)
            used |= set(result.succeeded)
            model, wrong = await crowd.read_model(validator)
            assert wrong == []
            assert model.applied == result.succeeded.total() > 0
            if used == names:
                break
        assert names - used == set()

    asyncio.run(asyncio.wait_for(a_run(), 400))
