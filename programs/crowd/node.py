"""A node as the crowd sees it: JSON-RPC in batches, a recent blockhash and the chain's time kept fresh, landings watched.

Everything runs in one event loop; `Node` owns two background tasks between `open` and `close`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx
from solders.hash import Hash

from programs.errors import EXIT_UNREACHABLE, UserError

SENDS_A_BATCH_MAX: Final = 40
STATUSES_A_CALL_MAX: Final = 256
BATCHES_IN_FLIGHT_MAX: Final = 8
REFRESH_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.15
# A blockhash lives for 150 slots; what has not landed by then never will.
LOST_AFTER_SECONDS: Final = 75.0
ATTEMPTS: Final = 6

Json = Any


class RpcError(Exception):
    """The node answered with an error object."""

    def __init__(self, method: str, error: Json) -> None:
        super().__init__(f"{method}: {error.get('message', error)}")
        self.error = error


class NotLanded(Exception):
    """The transaction was refused at the door, or was not seen on the chain while its blockhash lived."""


class Node:
    """One JSON-RPC endpoint. Raises UserError (exit code 3) where it cannot be reached at all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.blockhash = Hash.default()
        self._chain_seconds = 0.0
        self._http = httpx.AsyncClient(timeout=20.0, limits=httpx.Limits(max_connections=16))
        self._ids = 0
        self._outbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT_MAX)
        self._pending: dict[str, tuple[asyncio.Future[Json], float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Read the first blockhash and start watching."""
        await self._refresh()
        for work in (self._refresh_always(), self._send_always(), self._watch_always()):
            self._start(work)

    async def close(self) -> None:
        """End the background tasks and the connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def chain_time(self) -> float:
        """The cluster's time now, Unix seconds: its latest block's, carried on by our clock."""
        return time.monotonic() + self._chain_seconds

    @property
    def in_flight(self) -> int:
        """Transactions sent, and neither landed nor given up."""
        return len(self._pending)

    async def call(self, method: str, *params: Json) -> Json:
        """One call's result; RpcError for the node's error."""
        (answer,) = await self.batch([(method, list(params))])
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    async def batch(self, calls: Sequence[tuple[str, list[Json]]]) -> list[Json]:
        """The replies, each with `result` or `error`, in the order of the calls. Retries what is worth it."""
        first = self._ids
        self._ids += len(calls)
        body = [
            {"jsonrpc": "2.0", "id": first + at, "method": method, "params": params}
            for at, (method, params) in enumerate(calls)
        ]
        last = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.1 * 2**attempt)
            try:
                reply = await self._http.post(self.url, json=body if len(body) > 1 else body[0])
                answers = reply.json()
            except (httpx.HTTPError, ValueError) as error:
                last = str(error) or type(error).__name__
                continue
            answers = answers if isinstance(answers, list) else [answers]
            by_id = {a["id"]: a for a in answers if isinstance(a, dict) and isinstance(a.get("id"), int)}
            if all(line["id"] in by_id for line in body):
                return [by_id[line["id"]] for line in body]
            last = f"HTTP {reply.status_code}: {reply.text[:120]}"
        raise UserError(f"url: {self.url} does not answer ({last}); is a node running there?", EXIT_UNREACHABLE)

    def submit(self, signature: str, wire: bytes) -> asyncio.Future[Json]:
        """Send a signed transaction. The future gives the transaction's `err` (None: it succeeded) once confirmed, or raises NotLanded."""
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._pending[signature] = (future, time.monotonic() + LOST_AFTER_SECONDS)
        self._outbox.put_nowait((signature, wire))
        return future

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self) -> None:
        latest = await self.call("getLatestBlockhash", {"commitment": "confirmed"})
        self.blockhash = Hash.from_string(latest["value"]["blockhash"])
        # A slot may be skipped, or its block's time not be known yet: then the old estimate goes on.
        with contextlib.suppress(RpcError):
            block_time = await self.call("getBlockTime", latest["context"]["slot"])
            if block_time is not None:
                self._chain_seconds = block_time - time.monotonic()
                return
        if not self._chain_seconds:
            self._chain_seconds = time.time() - time.monotonic()

    async def _refresh_always(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            with contextlib.suppress(UserError, RpcError):
                await self._refresh()

    async def _send_always(self) -> None:
        while True:
            items = [await self._outbox.get()]
            await asyncio.sleep(0.01)
            while len(items) < SENDS_A_BATCH_MAX and not self._outbox.empty():
                items.append(self._outbox.get_nowait())
            await self._slots.acquire()
            self._start(self._send(items))

    async def _send(self, items: list[tuple[str, bytes]]) -> None:
        options = {"encoding": "base64", "skipPreflight": True}
        calls = [("sendTransaction", [base64.b64encode(wire).decode(), options]) for _, wire in items]
        try:
            answers = await self.batch(calls)
        except UserError as error:
            answers = [{"error": {"message": str(error)}}] * len(items)
        finally:
            self._slots.release()
        for (signature, _), answer in zip(items, answers, strict=True):
            if "error" in answer and signature in self._pending:
                self._settle(signature, NotLanded(str(answer["error"].get("message", answer["error"]))))

    def _settle(self, signature: str, outcome: Json) -> None:
        future, _ = self._pending.pop(signature)
        if future.done():
            return
        if isinstance(outcome, NotLanded):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _watch_always(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            signatures = list(self._pending)
            chunks = [signatures[i : i + STATUSES_A_CALL_MAX] for i in range(0, len(signatures), STATUSES_A_CALL_MAX)]
            for chunk in chunks:
                with contextlib.suppress(UserError, RpcError):
                    await self._watch(chunk)

    async def _watch(self, signatures: list[str]) -> None:
        statuses = (await self.call("getSignatureStatuses", signatures))["value"]
        now = time.monotonic()
        for signature, status in zip(signatures, statuses, strict=True):
            if signature not in self._pending:
                continue
            if status is not None and status.get("confirmationStatus") in ("confirmed", "finalized"):
                self._settle(signature, status["err"])
            elif now > self._pending[signature][1]:
                self._settle(signature, NotLanded(f"{signature}: not seen within {LOST_AFTER_SECONDS:.0f} s"))
