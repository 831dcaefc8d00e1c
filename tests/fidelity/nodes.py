"""The nodes under test: the development node in a thread of its own, and a real validator as a child process.

Both are context managers that give a `Node` with the same three things: a name and two addresses. A validator is started on free
ports with a temporary ledger; it dies with this process, whatever this process dies of.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from programs.community_voting import artifact
from programs.devnode import DevNode, DevNodeConfig

VALIDATOR = os.environ.get("SOLANA_TEST_VALIDATOR", "")
# 16 ticks make a slot of about a tenth of a second: what is to be finalized is so in four seconds.
_TICKS_PER_SLOT = 16
_START_SECONDS_MAX = 60.0
_SLOT_MS = 50.0
_STARTS_MAX = 5
_FIRST_SLOTS = [0, 1, 2]
_PR_SET_PDEATHSIG = 1


@dataclass
class Node:
    """Where a node listens. `handle` is the development node itself, None for a real one."""

    name: str
    rpc_url: str
    ws_url: str
    handle: DevNode | None = None
    # What the development node's loop was told of: exceptions that nobody caught.
    uncaught: list[str] = field(default_factory=list)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20.0))

    def reply(self, method: str, *params: Any) -> Any:
        """The whole JSON-RPC reply."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self.http.post(self.rpc_url, json=body).json()

    def call(self, method: str, *params: Any) -> Any:
        """The result; AssertionError with the node's words when there is none."""
        reply = self.reply(method, *params)
        assert "result" in reply, f"{self.name}: {method}: {reply.get('error')}"
        return reply["result"]


@contextlib.contextmanager
def devnode(**options: Any) -> Iterator[Node]:
    """A development node with the voting program."""
    config = DevNodeConfig(
        **{"slot_ms": _SLOT_MS, "programs": {artifact.PROGRAM_ID: artifact.SO_PATH}, "confirm_delay_ms": 5.0, **options}
    )
    loop = asyncio.new_event_loop()
    node = DevNode(config)
    started = threading.Event()

    async def life() -> None:
        try:
            await node.start()
        finally:
            started.set()

    def body() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(life())
        loop.run_forever()

    thread = threading.Thread(target=body, name="devnode", daemon=True)
    thread.start()
    started.wait()
    shown = Node("devnode", node.rpc_url, node.ws_url, node)
    loop.set_exception_handler(lambda _, context: shown.uncaught.append(str(context)))
    try:
        yield shown
    finally:
        asyncio.run_coroutine_threadsafe(node.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _free_ports() -> int:
    """The first of two neighbouring free ports: the validator takes the next one for its sockets."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with socket.socket() as second, contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def validator(binary: str, *options: str) -> Iterator[Node]:
    """A real validator with the voting program and these options, stopped and its ledger removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fidelity-ledger-", ignore_cleanup_errors=True) as folder:
        node, process = _started(binary, Path(folder), options)
        try:
            yield node
        finally:
            node.http.close()
            _stop(process)


def _started(binary: str, folder: Path, options: tuple[str, ...]) -> tuple[Node, subprocess.Popen[bytes]]:
    """A validator that makes blocks. Others may take its ports between our look and its start, and where the machine is slow it may skip one of
    its first slots, which the requests name: then it is tried anew."""
    for attempt in range(1, _STARTS_MAX + 1):
        port, faucet, log = _free_ports(), _free_ports(), folder / f"output-{attempt}"
        command = [
            binary,
            *("--ledger", str(folder / f"ledger-{attempt}"), "--reset", "--quiet", "--bind-address", "127.0.0.1"),
            *("--rpc-port", str(port), "--faucet-port", str(faucet), "--ticks-per-slot", str(_TICKS_PER_SLOT)),
            *("--bpf-program", artifact.PROGRAM_ID, str(artifact.SO_PATH)),
            *options,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=folder, preexec_fn=_die_with_parent
            )
        node = Node("validator", f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port + 1}")
        try:
            _await_first_slots(node, process, log)
            return node, process
        except AssertionError:
            _stop(process)
            if attempt == _STARTS_MAX:
                raise
    raise AssertionError("unreachable")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _await_first_slots(node: Node, process: subprocess.Popen[bytes], log: Path) -> None:
    until, slot = time.monotonic() + _START_SECONDS_MAX, 0
    while slot <= _FIRST_SLOTS[-1]:
        assert process.poll() is None, f"the validator ended at its start: {log.read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < until, (
            f"no block within {_START_SECONDS_MAX:.0f} s: {log.read_text(errors='replace')}"
        )
        time.sleep(0.1)
        with contextlib.suppress(httpx.HTTPError, AssertionError, ValueError):
            slot = node.call("getSlot", {"commitment": "confirmed"})
    made = node.call("getBlocks", 0, _FIRST_SLOTS[-1], {"commitment": "confirmed"})
    assert made == _FIRST_SLOTS, f"the validator skipped one of its first slots: {made}"
