"""A real solana-test-validator for a run, and a load of memo transactions on it that were signed ahead."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from programs.community_voting import artifact
from tests.torture.stage import Stage, free_port, until

VARIABLE = "SOLANA_TEST_VALIDATOR"
MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
PAYERS = 16
BATCH = 30
BLOCKHASH_S = 20.0
LEVEL = {"commitment": "confirmed"}


def start(stage: Stage) -> None:
    """Start the validator that SOLANA_TEST_VALIDATOR names and wait until it confirms blocks."""
    port, base = free_port(), _free_range()
    ledger = stage.directory / "validator"
    command = [os.environ[VARIABLE], "--ledger", str(ledger), "--reset", "--quiet", "--bind-address", "127.0.0.1"]
    command += ["--rpc-port", str(port), "--faucet-port", str(free_port()), "--gossip-port", str(base)]
    command += ["--dynamic-port-range", f"{base + 1}-{base + 30}", "--bpf-program", str(artifact.PROGRAM_ID)]
    command += [str(artifact.SO_PATH)]
    stage.spawn("validator", command, dict(os.environ))
    stage.rpc_url, stage.ws_url = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port + 1}"

    def up() -> bool:
        with suppress(OSError, RuntimeError, ValueError):
            return stage.confirmed() > 2
        return False

    until(up, 90, "the validator to confirm blocks")


def _free_range() -> int:
    # Ports below the range from which the system gives out its own.
    for base in range(11_000 + os.getpid() % 400 * 40, 31_000, 40):
        with suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", base))
            udp.bind(("127.0.0.1", base + 1))
            return base
    raise OSError("no free ports")


@dataclass(slots=True)
class Memos:
    """Sends memo transactions at a rate until stopped, a thread of its own. `sent` are those that the node took."""

    stage: Stage
    rate: float
    sent: int = 0
    refused: int = 0
    seconds: float = 0.0
    _payers: list[Keypair] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _serial: int = 0

    def start(self) -> None:
        """Fund the payers, then begin."""
        self._payers = [Keypair() for _ in range(PAYERS)]
        for payer in self._payers:
            self.stage.rpc("requestAirdrop", str(payer.pubkey()), 10_000_000_000)
        keys = [str(payer.pubkey()) for payer in self._payers]

        def funded() -> bool:
            values = self.stage.rpc("getMultipleAccounts", keys, LEVEL)["value"]
            return all(value is not None for value in values)

        until(funded, 60, "the payers to be funded")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.is_set():
            blockhash = Hash.from_string(self.stage.rpc("getLatestBlockhash", LEVEL)["value"]["blockhash"])
            # Signed ahead of their time, so that signing does not slow the sending down.
            wires = [self._signed(blockhash) for _ in range(int(self.rate * BLOCKHASH_S / 10))]
            for at in range(0, len(wires), BATCH):
                if self._stop.is_set():
                    break
                due = begun + (self.sent + self.refused) / self.rate
                time.sleep(max(0.0, due - time.monotonic()))
                self._send(wires[at : at + BATCH])
        self.seconds = time.monotonic() - begun

    def _signed(self, blockhash: Hash) -> str:
        self._serial += 1
        payer = self._payers[self._serial % PAYERS]
        text = f"memo {self._serial}".encode()
        memo = Instruction(Pubkey.from_string(MEMO), text, [AccountMeta(payer.pubkey(), True, False)])
        message = Message.new_with_blockhash([memo], payer.pubkey(), blockhash)
        return base64.b64encode(bytes(Transaction([payer], message, blockhash))).decode()

    def _send(self, wires: list[str]) -> None:
        options = {"encoding": "base64", "skipPreflight": True}
        calls = [
            {"jsonrpc": "2.0", "id": n, "method": "sendTransaction", "params": [wire, options]}
            for n, wire in enumerate(wires)
        ]
        request = urllib.request.Request(
            self.stage.rpc_url, json.dumps(calls).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            answers = json.loads(reply.read())
        good = sum("result" in answer for answer in answers)
        self.sent += good
        self.refused += len(answers) - good


def walk(stage: Stage, first: int, last: int, programs: tuple[str, ...]) -> list[tuple[int, int, str, Any, Any]]:
    """Every transaction of the programs by reading every block: (slot, index, signature, failed, logs). Shares no code with the product."""
    found = []
    config = {**LEVEL, "encoding": "json", "rewards": False, "maxSupportedTransactionVersion": 0}
    for slot in stage.rpc("getBlocks", first, last, LEVEL):
        for index, entry in enumerate(stage.rpc("getBlock", slot, config)["transactions"]):
            loaded = entry["meta"].get("loadedAddresses") or {"writable": [], "readonly": []}
            keys = {*entry["transaction"]["message"]["accountKeys"], *loaded["writable"], *loaded["readonly"]}
            if keys.intersection(programs):
                failed = entry["meta"]["err"] is not None
                signature = entry["transaction"]["signatures"][0]
                found.append((slot, index, signature, failed, tuple(entry["meta"]["logMessages"] or ())))
    return found


class CuttingTcpProxy:
    """Forwards a port of the loopback to another; `cut` ends every connection without a word."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End all connections; how many there were."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(connections) // 2

    def close(self) -> None:
        """Take no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                return
            with self._lock:
                self._connections |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._connections -= {source, sink}
