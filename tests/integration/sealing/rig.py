"""What the tests of this folder share: a chain with a crowd, a proxy that bends a node's answers, the command line, a walk of all blocks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from programs.community_voting import artifact
from programs.crowd.crowd import Crowd
from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode
from schema import db as database
from schema import reads

ROOT = Path(__file__).parents[3]
SYSTEM = "11111111111111111111111111111111"
Bend = Callable[[str, list[Any], Any], Any]
# A machine that does much else gets as many times the time. Only a failure waits that long.
PATIENCE = 4


def node(seed: int = 0, **faults: str) -> DevNode:
    config = DevNodeConfig(slot_ms=200, seed=seed, programs={artifact.PROGRAM_ID: artifact.SO_PATH}, faults=faults)
    return DevNode(config)


class Chain:
    """A development node with its own event loop in a thread, so that a test may block on processes meanwhile."""

    def __init__(self, seed: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        # One client for all questions: a new one each time costs more than a walk.
        self._client = httpx.Client(timeout=60, verify=False)
        # The last slot of the crowd's history, once it is final.
        self.last = 0
        self.node = node(seed)
        self.do(self.node.__aenter__())

    def do(self, work: Any, timeout_s: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s * PATIENCE)

    def crowd(self, rate: float, seconds: float, seed: int = 3) -> None:
        self.do(Crowd(seed, 16).run(self.node.rpc_url, rate, seconds), seconds + 60)
        self.last = self.confirmed()

    def rpc(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self._client.post(self.node.rpc_url, json=body).json().get("result")

    def finalized(self) -> int:
        return int(self.rpc("getSlot", {"commitment": "finalized"}))

    def confirmed(self) -> int:
        return int(self.rpc("getSlot", {"commitment": "confirmed"}))

    def wait_finalized(self, slot: int) -> None:
        waiting(lambda: self.finalized() >= slot, 60)

    def walk(self, last: int, program: str = str(artifact.PROGRAM_ID)) -> list[tuple[int, int, str]]:
        """Every transaction of a program by walking all blocks: the ledger's rival, sharing none of its code."""
        level = {"commitment": "confirmed"}
        found = []
        for slot in self.rpc("getBlocks", 0, last, level):
            config = {**level, "encoding": "json", "rewards": False, "maxSupportedTransactionVersion": 0}
            for index, entry in enumerate(self.rpc("getBlock", slot, config)["transactions"]):
                if program in entry["transaction"]["message"]["accountKeys"]:
                    found.append((slot, index, entry["transaction"]["signatures"][0]))
        return found

    def close(self) -> None:
        self.do(self.node.__aexit__(None, None, None))
        self._client.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@contextmanager
def chain(seed: int = 0) -> Iterator[Chain]:
    it = Chain(seed)
    try:
        yield it
    finally:
        it.close()


def waiting(ready: Callable[[], Any], seconds: float) -> None:
    """`seconds` are those of a machine that does nothing else."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not ready():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


# ---- the command line ----


def environment(dsn: str, url: str, ws: str = "", **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
    mine = {
        "INDEXER_DATABASE_URL": dsn,
        "INDEXER_RPC_URL": url,
        "INDEXER_METRICS_PORT": "0",
        "INDEXER_FINALITY_POLL_S": "0.5",
        "INDEXER_IDLE_POLL_S": "0.5",
        "INDEXER_LOG_FORMAT": "json",
        **({"INDEXER_WS_URL": ws} if ws else {}),
    }
    return {**clean, **mine, **more}


def indexer(env: dict[str, str], *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run to the end. One that does not end says where its threads stand."""
    command = [sys.executable, "-X", "faulthandler", "-m", "indexer", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s * PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            out, err = process.communicate()
            raise AssertionError(f"{arguments} did not end\n{err[-6000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Process:
    """`indexer …` in the background; its log lines as they come."""

    def __init__(self, env: dict[str, str], *arguments: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._client = httpx.Client(timeout=60, verify=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indexer", *arguments],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.text.append(line)
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                continue

    def said(self, action: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line.get("action") == action]

    def wait_for(self, action: str, seconds: float = 40) -> dict[str, Any]:
        try:
            waiting(lambda: self.said(action) or self._process.poll() is not None, seconds)
        except AssertionError:
            raise AssertionError(f"it did not say {action}:\n" + "".join(self.text)[-6000:]) from None
        assert self.said(action), "".join(self.text)
        return self.said(action)[0]

    @property
    def http(self) -> str:
        return str(self.wait_for("listening")["url"])

    def get(self, path: str) -> tuple[int, Any]:
        reply = self._client.get(self.http + path)
        return reply.status_code, reply.json() if "json" in reply.headers["content-type"] else reply.text

    def reasons(self) -> dict[str, Any]:
        return {reason["reason"]: reason for reason in self.get("/readyz")[1]["reasons"]}

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> tuple[int, float]:
        """Send the signal; exit code and seconds until the end."""
        started = time.monotonic()
        self._process.send_signal(number)
        code = self._process.wait(seconds * PATIENCE)
        self._reader.join(5)
        return code, time.monotonic() - started

    def wait(self, seconds: float = 60) -> int:
        code = self._process.wait(seconds * PATIENCE)
        self._reader.join(5)
        return code

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._client.close()
        self._reader.join(5)


# ---- the ledger ----


def rows(dsn: str, last: int, program: int | None = 1) -> list[tuple[int, int, str]]:
    with database.connect(dsn) as connection:
        found = reads.iter_chain_order(connection, 0, last, program)
        return [(r.raw.slot, r.raw.transaction_index, r.raw.signature) for r in found]


def last_of_slots(truth: list[tuple[int, int, str]]) -> list[str]:
    """The last transaction of each slot of a walk, in order."""
    return list({slot: signature for slot, _, signature in truth}.values())


def ask(dsn: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with database.connect(dsn) as connection:
        return list(connection.execute(query.encode(), parameters or None).fetchall())


# ---- a proxy ----


class Proxy:
    """Stands before a node and hands on, except where `bend(method, params, result)` gives another result. `hangs`: nothing is answered."""

    def __init__(self, url: str) -> None:
        self.url = ""
        self.bend: Bend = lambda method, params, result: result
        self.hangs = False
        self.calls: list[str] = []
        self._target = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    async def _start(self) -> None:
        self._client = httpx.AsyncClient(timeout=30)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [
                    line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                ]
                asked = json.loads(await reader.readexactly(int(sizes[0])))
                while self.hangs:  # noqa: ASYNC110  another thread says so
                    await asyncio.sleep(0.1)
                reply = (await self._client.post(self._target, json=asked)).json()
                for question, answer in zip(*[x if isinstance(x, list) else [x] for x in (asked, reply)], strict=True):
                    self.calls.append(question["method"])
                    if "result" in answer:
                        answer["result"] = self.bend(question["method"], question["params"], answer["result"])
                body = json.dumps(reply).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, httpx.HTTPError):
            pass
        finally:
            writer.close()

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._client.aclose()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def hiding(signatures: set[str], *, lists: bool = True, blocks: bool = False) -> Bend:
    """A node that leaves transactions out of its lists, or of its blocks and look-ups too."""

    def bend(method: str, params: list[Any], result: Any) -> Any:
        if method == "getSignaturesForAddress" and lists and result:
            return [entry for entry in result if entry["signature"] not in signatures]
        if method == "getTransaction" and blocks and params[0] in signatures:
            return None
        if method == "getBlock" and blocks and result:
            import base64

            from programs import base58

            def hidden(entry: Any) -> bool:
                wire = entry["transaction"]
                name = (
                    wire["signatures"][0] if isinstance(wire, dict) else base58.encode(base64.b64decode(wire[0])[1:65])
                )
                return name in signatures

            if "transactions" in result:
                result["transactions"] = [entry for entry in result["transactions"] if not hidden(entry)]
            if "signatures" in result:
                result["signatures"] = [name for name in result["signatures"] if name not in signatures]
        return result

    return bend
