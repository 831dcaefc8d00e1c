"""What the command line can be told, and what a client sees of it: over real sockets, in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from websockets.sync.client import connect

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
WALLET = Keypair.from_seed(b"options".ljust(32, b"."))
CONFIRMED = {"commitment": "confirmed"}


class Client:
    """A client of a node that runs elsewhere."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.rpc_url, self.ws_url = ready["rpc_url"], ready["ws_url"]

    def reply(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return httpx.post(self.rpc_url, json=body, timeout=30).json()

    def call(self, method: str, *params: Any) -> Any:
        return self.reply(method, *params)["result"]

    def memos(self, count: int) -> str:
        """A transaction of so many memos; its signature."""
        blockhash = Hash.from_string(self.call("getLatestBlockhash", CONFIRMED)["value"]["blockhash"])
        notes = [Instruction(MEMO, b"%03d" % number, []) for number in range(count)]
        transaction = VersionedTransaction(Message.new_with_blockhash(notes, WALLET.pubkey(), blockhash), [WALLET])
        encoded = base64.b64encode(bytes(transaction)).decode()
        return str(self.call("sendTransaction", encoded, {"encoding": "base64", "skipPreflight": True}))

    def logs(self, signature: str) -> list[str]:
        """Its stored log lines."""
        found: list[str] = self.call("getTransaction", signature, CONFIRMED)["meta"]["logMessages"]
        return found


@contextlib.contextmanager
def node(*options: str) -> Iterator[Client]:
    """A node that was started with these options, its wallet funded, its clock stopped."""
    command = [
        sys.executable,
        "-m",
        "indexer",
        "devnode",
        "--rpc-port",
        "0",
        "--ws-port",
        "0",
        "--slot-ms",
        "0",
        "--json",
    ]
    command += ["--airdrop", str(WALLET.pubkey()), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Client(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_what_is_off_or_new_by_default() -> None:
    with node() as client:
        signature = client.memos(60)
        client.call("devnode_advanceSlot")
        (row, *_) = client.call("getSignaturesForAddress", str(WALLET.pubkey()), CONFIRMED)
        assert row["transactionIndex"] == 0
        assert client.call("getTransaction", signature, CONFIRMED)["transactionIndex"] == 0
        logs = client.logs(signature)
        assert logs.count("Log truncated") == 1
        assert sum(map(len, logs)) <= 10_000 + len("Log truncated")
        with connect(client.ws_url) as socket:
            socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "blockSubscribe", "params": ["all"]}))
            assert json.loads(socket.recv(30))["error"]["code"] == -32601


def test_what_can_be_switched() -> None:
    options = ("--block-subscription", "--no-transaction-index", "--log-bytes-limit", "0")
    distances = ("--confirmed-lag", "1", "--finalized-lag", "3", "--ledger-limit", "200")
    with node(*options, *distances) as client, connect(client.ws_url) as socket:
        socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "blockSubscribe", "params": ["all", CONFIRMED]}))
        number = json.loads(socket.recv(30))["result"]
        client.call("devnode_advanceSlot", 2)
        signature = client.memos(60)
        landed = client.call("devnode_advanceSlot")
        assert [client.call("getSlot", {"commitment": level}) for level in ("processed", "confirmed", "finalized")] == [
            *(landed, landed - 1, landed - 3)
        ]
        assert client.call("getTransaction", signature, CONFIRMED) is None
        client.call("devnode_advanceSlot")
        told: dict[str, Any] = {}
        while told.get("slot") != landed:
            note = json.loads(socket.recv(30))
            assert (note["method"], note["params"]["subscription"]) == ("blockNotification", number)
            told = note["params"]["result"]["value"]
        assert [row["transaction"]["signatures"] for row in told["block"]["transactions"]] == [[signature]]
        (row, *_) = client.call("getSignaturesForAddress", str(WALLET.pubkey()), CONFIRMED)
        assert sorted(row) == ["blockTime", "confirmationStatus", "err", "memo", "signature", "slot"]
        assert "transactionIndex" not in client.call("getTransaction", signature, CONFIRMED)
        logs = client.logs(signature)
        assert "Log truncated" not in logs
        assert sum(line == f"Program {MEMO} success" for line in logs) == 60
        client.call("devnode_advanceSlot", 250)
        assert client.call("getFirstAvailableBlock") == client.call("getSlot", {"commitment": "processed"}) - 199
        assert client.reply("getBlock", landed)["error"]["code"] == -32001
