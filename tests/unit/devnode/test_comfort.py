"""What a developer meets first: the fixture, the command line's words, two views of one chain, going back to a snapshot."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from programs.devnode import DevNode, DevNodeConfig, RunningNode, devnode
from programs.errors import UserError

SOL = 10**9
WALLET = Keypair.from_seed(bytes(31) + b"\1").pubkey()
COMMAND = [sys.executable, "-m", "indexer", "devnode", "--rpc-port", "0", "--ws-port", "0"]


# The README's three lines.
@pytest.fixture
def node() -> Iterator[RunningNode]:
    with devnode(slot_ms=0, finalized_lag_slots=0) as running:
        yield running


def call(url: str, method: str, *params: Any) -> Any:
    reply = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).json()
    return reply.get("result", reply.get("error"))


def test_a_node_in_a_fixture_is_asked_without_asyncio(node: RunningNode) -> None:
    node.airdrop(WALLET, 3 * SOL)
    assert call(node.rpc_url, "getBalance", str(WALLET))["value"] == 3 * SOL
    before = call(node.rpc_url, "getSlot")
    assert node.advance(5) == before + 5
    with pytest.raises(UserError, match="is not an address"):
        node.airdrop("nobody", 1)


def test_a_port_that_is_taken_is_named_and_the_thread_ends(node: RunningNode) -> None:
    port = int(node.rpc_url.rsplit(":", 1)[1])
    with pytest.raises(UserError, match=rf"rpc-port {port} on 127.0.0.1 cannot be listened on"), devnode(rpc_port=port):
        pass
    with pytest.raises(UserError, match=rf"witness-port {port}"), devnode(witness_port=port):
        pass


def test_the_witness_shows_the_same_chain_with_faults_of_its_own() -> None:
    with devnode(slot_ms=0, witness_port=0) as running:
        first, witness = running.node.rpc_url, running.node.witness_url
        call(first, "devnode_setFault", "hidden-signatures", 1)
        signature = running.airdrop(WALLET, SOL)
        options = {"commitment": "confirmed"}
        assert call(first, "getSignaturesForAddress", str(WALLET), options) == []
        (row,) = call(witness, "getSignaturesForAddress", str(WALLET), options)
        assert row["signature"] == signature
        # Each port has its own; what happens to the chain or to the sockets belongs to the first.
        assert call(witness, "devnode_faults") == {}
        call(witness, "devnode_setFault", "unhealthy", 1)
        assert call(first, "getHealth") == "ok"
        assert call(witness, "getHealth")["code"] == -32005
        assert call(witness, "devnode_faultCounts") == {"unhealthy": 1}
        refused = call(witness, "devnode_setFault", "forks", 1)
        assert "not a fault of this port: 'forks'; there are: balancer" in refused["message"]
        assert call(witness, "devnode_advanceSlot") == call(first, "getSlot", {"commitment": "processed"})


def test_a_running_node_goes_back_to_its_snapshot(tmp_path: Path) -> None:
    with devnode(slot_ms=0, finalized_lag_slots=0, witness_port=0, snapshot=tmp_path / "state") as running:
        url, witness = running.node.rpc_url, running.node.witness_url
        assert call(url, "devnode_restoreSnapshot")["code"] == -32603
        running.airdrop(WALLET, SOL)
        saved = call(url, "devnode_saveSnapshot")["slot"]
        running.airdrop(WALLET, SOL)
        assert call(url, "getBalance", str(WALLET))["value"] == 2 * SOL
        assert call(url, "devnode_restoreSnapshot") == {"slot": saved}
        for view in (url, witness):
            assert call(view, "getBalance", str(WALLET))["value"] == SOL
            assert call(view, "getSlot") == saved
        running.airdrop(WALLET, SOL)
        assert call(url, "getBalance", str(WALLET))["value"] == 2 * SOL
        assert running.node.pubsub.count == 0


def test_without_a_snapshot_there_is_none_to_go_back_to(node: RunningNode) -> None:
    assert "start the node with --snapshot" in call(node.rpc_url, "devnode_restoreSnapshot")["message"]


def test_the_banner_says_where_and_how_and_ctrl_c_ends_it_cleanly() -> None:
    options = [
        "--airdrop",
        f"{WALLET}=2.5",
        "--fault",
        "garbage=0",
        "--fault",
        "lost-notifications=0.5",
        "--witness-port",
        "0",
    ]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            lines = dict(line.strip().split(maxsplit=1) for line in iter(process.stdout.readline, "Stop      Ctrl-C\n"))
            url = lines["JSON-RPC"]
            assert call(url, "getBalance", str(WALLET), {"commitment": "confirmed"})["value"] == 2_500_000_000
            assert call(lines["Witness"], "getHealth") == "ok"
            assert url in lines["Faucet"]
            assert lines["PubSub"].startswith("ws://127.0.0.1:")
            assert lines["Faults"] == "lost-notifications 0.5"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--airdrop", "nobody"], "give ADDRESS or ADDRESS=SOL"),
        (["--airdrop", f"{WALLET}=much"], "give ADDRESS or ADDRESS=SOL"),
        (["--airdrop", f"{WALLET}=-1"], "give ADDRESS or ADDRESS=SOL"),
        (["--witness-port", "99999"], "witness-port 99999 is not a port"),
    ],
)
def test_wrong_options_end_with_one_line_and_code_2(options: list[str], words: str) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_ends_the_command_with_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--ws-port", port], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"ws-port {port}" in done.stderr
    assert "Traceback" not in done.stderr


# --- the same again, in another process ------------------------------------------------------------------------------

_HISTORY = """
import asyncio, hashlib, json
from solders.keypair import Keypair
from programs.devnode import DevNode, DevNodeConfig
from programs.devnode.faults import KINDS
from programs.crowd.story import Story
from programs.community_voting import artifact

def body(method, *params):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()

async def main():
    faults = {"skipped-slots": "0.2", "forks": "0.1,depth=2", "invented-signatures": "0.3", "incomplete-lists": "0.2"}
    config = DevNodeConfig(slot_ms=0, seed=3, genesis_unix_s=1_800_000_000, finalized_lag_slots=8, faults=faults,
                           programs={artifact.PROGRAM_ID: artifact.SO_PATH})
    async with DevNode(config) as node:
        told = []
        subscribe = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
        node.pubsub.answer(0, subscribe % ("logsSubscribe", '["all",{"commitment":"confirmed"}]'))
        program = json.dumps([artifact.PROGRAM_ID, {"commitment": "confirmed", "encoding": "base64"}])
        node.pubsub.answer(0, subscribe % ("programSubscribe", program))
        deliveries = node.pubsub.deliveries
        def heard(happenings):
            out = deliveries(happenings)
            told.extend(delivery.payload for delivery in out)
            return out
        node.pubsub.deliveries = heard
        story = Story(3)
        for wallet in story.wallets:
            node.chain.airdrop(wallet.pubkey(), 10**12)
        await node.advance()
        for _ in range(40):
            for _ in range(3):
                now = node.chain.working.unix_s
                act = story.next(now)
                transaction = story.transaction(act, node.chain.tip.blockhash)
                node.chain.submit(transaction, bytes(transaction))
            await node.advance()
        digest = hashlib.sha256()
        level = {"commitment": "confirmed"}
        for slot in range(node.chain.tip.slot + 1):
            for encoding in ("json", "jsonParsed", "base64"):
                digest.update(node.rpc.answer(body("getBlock", slot, {**level, "encoding": encoding,
                                                                        "maxSupportedTransactionVersion": 0})))
        for method in ("getSignaturesForAddress", "getProgramAccounts"):
            digest.update(node.rpc.answer(body(method, artifact.PROGRAM_ID, {**level})))
        digest.update(node.rpc.answer(body("getProgramAccounts", artifact.PROGRAM_ID, {**level, "encoding": "base64"})))
        for payload in told:
            digest.update(payload)
        print(digest.hexdigest(), node.chain.transaction_count, len(told))

asyncio.run(main())
"""


def test_two_processes_with_other_hash_seeds_make_byte_equal_blocks_lists_and_notifications() -> None:
    said = []
    for hash_seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _HISTORY], capture_output=True, text=True, timeout=120, check=True, env=environment
        )
        said.append(done.stdout.split())
    assert said[0] == said[1]
    assert int(said[0][1]) > 100
    assert int(said[0][2]) > 100


def test_the_asynchronous_form_is_as_short() -> None:
    async def play() -> None:
        async with DevNode(DevNodeConfig(slot_ms=0)) as one:
            await one.airdrop(str(WALLET), SOL)
            account = one.chain.account(Pubkey.from_string(str(WALLET)), one.chain.tip.slot)
            assert account is not None
            assert account.lamports == SOL

    asyncio.run(play())
