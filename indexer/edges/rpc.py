"""The HTTP edge: performs the core's requests against one or several RPC endpoints.

Retries, rate limits and failover live here and nowhere else. Every call has a time-out, every body a bound, every retry a count; what
still fails is returned as `Failure` with the node's own code and message. URLs may carry keys, so they never appear in full anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from indexer import metrics
from indexer.core.protocol import (
    BLOCK_NOT_AVAILABLE,
    Address,
    Block,
    Content,
    Failure,
    GetBlock,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Listed,
    ListSignatures,
    Slot,
)
from indexer.edges import parse
from indexer.edges.parse import Envelope, Garbage, Watched

T = TypeVar("T")

# Versions above what the message parser knows are stored all the same; the wire bytes are kept as they are.
TRANSACTION_VERSION_MAX = 255
BODY_BYTES_MAX = 256 << 20
BATCH_BYTES_MAX = 40_000  # nodes refuse bodies over 50 KiB
RATE_LIMIT_CODES = (429, -32029)
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RpcPolicy:
    """Bounds of the HTTP edge. Times in seconds."""

    timeout_s: float = 20.0
    attempts: int = 5
    backoff_s: float = 0.1
    backoff_s_max: float = 5.0
    retry_after_s_max: float = 30.0
    in_flight_max: int = 8
    # An endpoint that failed rests this long before it is asked first again.
    rest_s: float = 5.0


def shown(url: str) -> str:
    """Scheme, host and port only: paths, queries and user parts of provider URLs are keys."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or '?'}{port}"


@dataclass(slots=True)
class _Endpoint:
    url: str
    label: str
    rests_until: float = 0.0
    calls: int = 0
    failures: int = 0


class _Transient(Exception):
    """Worth another try, elsewhere or later."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(slots=True)
class RpcClient:
    """One client over a list of endpoints, first healthy first. Use as an async context manager."""

    urls: Sequence[str]
    watched: Watched
    policy: RpcPolicy = field(default_factory=RpcPolicy)
    role: str = "primary"
    _endpoints: list[_Endpoint] = field(init=False)
    _http: httpx.AsyncClient = field(init=False)
    _room: asyncio.Semaphore = field(init=False)
    _ids: count[int] = field(init=False)

    def __post_init__(self) -> None:
        self._endpoints = [_Endpoint(url, shown(url)) for url in self.urls]
        limits = httpx.Limits(
            max_connections=self.policy.in_flight_max + 2, max_keepalive_connections=self.policy.in_flight_max
        )
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self.policy.timeout_s, connect=min(5.0, self.policy.timeout_s)),
            limits=limits,
            trust_env=True,
        )
        self._room = asyncio.Semaphore(self.policy.in_flight_max)
        self._ids = count(1)

    async def __aenter__(self) -> RpcClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def label(self) -> str:
        """The endpoints as they may be shown."""
        return ", ".join(endpoint.label for endpoint in self._endpoints)

    # ---- the core's requests ----

    async def get_slot(self, request: GetSlot) -> int | Failure:
        """getSlot."""
        return await self.call("getSlot", [{"commitment": request.commitment}], parse.integer)

    async def get_block(self, request: GetBlock) -> Block | Failure:
        """getBlock; a null result is a block that is not available."""
        config: dict[str, Any] = {
            "commitment": request.commitment,
            "transactionDetails": request.details,
            "rewards": False,
            "maxSupportedTransactionVersion": TRANSACTION_VERSION_MAX,
        }
        if request.details == "full":
            config["encoding"] = "base64"
        reply = await self.call(
            "getBlock", [request.slot, config], lambda raw: parse.block(raw, request.slot, self.watched)
        )
        if reply is None:
            return Failure(f"the node answered null for block {request.slot}", BLOCK_NOT_AVAILABLE)
        return reply

    async def list_signatures(self, request: ListSignatures) -> tuple[Listed, ...] | Failure:
        """One page of getSignaturesForAddress."""
        config: dict[str, Any] = {"commitment": request.commitment, "limit": request.limit}
        if request.before is not None:
            config["before"] = request.before
        if request.min_context_slot is not None:
            config["minContextSlot"] = request.min_context_slot
        return await self.call("getSignaturesForAddress", [request.address, config], parse.signature_list)

    async def get_transactions(self, request: GetTransactions) -> tuple[Content | None, ...] | Failure:
        """getTransaction for each signature, as JSON-RPC batches within the body limit."""
        config = {
            "commitment": request.commitment,
            "encoding": "base64",
            "maxSupportedTransactionVersion": TRANSACTION_VERSION_MAX,
        }
        calls = [("getTransaction", [signature, config]) for signature in request.signatures]
        replies = await self.batch(calls, lambda raw: parse.stored_transaction(raw, self.watched))
        if isinstance(replies, Failure):
            return replies
        # A single refusal is as good as "not yet": the core asks again, then asks the block.
        return tuple(None if isinstance(reply, Failure) else reply for reply in replies)

    async def get_first_available(self, request: GetFirstAvailable) -> int | Failure:
        """getFirstAvailableBlock."""
        return await self.call("getFirstAvailableBlock", [], parse.integer)

    async def get_program_accounts(self, program: Address) -> tuple[Slot, list[parse.AccountChange]] | Failure:
        """Every account of the program with the slot for which the listing holds."""
        config = {"commitment": "confirmed", "encoding": "base64", "withContext": True}
        return await self.call(
            "getProgramAccounts", [program, config], lambda raw: parse.program_accounts(raw, program)
        )

    async def get_account(self, address: str, length: int | None = None) -> bytes | Failure | None:
        """The data of an account, or only its first bytes; None when there is none."""

        def read(raw: bytes) -> bytes | None:
            value = msgspec.json.decode(raw)["value"]
            return None if value is None else base64.b64decode(value["data"][0])

        config: dict[str, Any] = {"commitment": "confirmed", "encoding": "base64"}
        if length is not None:
            config["dataSlice"] = {"offset": 0, "length": length}
        return await self.call("getAccountInfo", [address, config], read)

    async def get_executable(self, address: str) -> bool | Failure | None:
        """Whether the account is a program; None when there is none."""

        def read(raw: bytes) -> bool | None:
            value = msgspec.json.decode(raw)["value"]
            return None if value is None else bool(value["executable"])

        config = {"commitment": "confirmed", "encoding": "base64", "dataSlice": {"offset": 0, "length": 0}}
        return await self.call("getAccountInfo", [address, config], read)

    # ---- transport ----

    async def call(self, method: str, params: list[Any], read: Callable[[bytes], T]) -> T | Failure:
        """One call, retried on transient trouble. The node's own refusals come back at once as Failure."""
        body = msgspec.json.encode(parse.request_json(next(self._ids), method, params))

        def reading(raw: bytes) -> T | Failure:
            reply = self._limited(parse.envelope(raw))
            found = parse.result(reply)
            return found if isinstance(found, Failure) else read(found)

        return await self._retried(method, 1, body, reading)

    async def batch(
        self, calls: Sequence[tuple[str, list[Any]]], read: Callable[[bytes], T]
    ) -> list[T | Failure] | Failure:
        """Several calls of one method, in as few bodies as the limit allows; replies in the order asked."""
        found: list[T | Failure] = []
        part: list[bytes] = []
        ids: list[int] = []

        async def send() -> Failure | None:
            body = b"[" + b",".join(part) + b"]"
            wanted = list(ids)

            def reading(raw: bytes) -> list[T | Failure] | Failure:
                replies = [self._limited(reply) for reply in parse.envelopes(raw)]
                by_id = {reply.id: reply for reply in replies}
                if not by_id.keys() >= set(wanted):
                    refusals = [reply for reply in replies if reply.error is not None]
                    if len(replies) == 1 and refusals:
                        refused = parse.result(refusals[0])
                        assert isinstance(refused, Failure)
                        return refused
                    raise Garbage("a batch reply lacks answers")
                results = [parse.result(by_id[key]) for key in wanted]
                return [raw if isinstance(raw, Failure) else read(raw) for raw in results]

            reply = await self._retried(calls[0][0], len(wanted), body, reading)
            part.clear()
            ids.clear()
            if isinstance(reply, Failure):
                return reply
            found.extend(reply)
            return None

        size = 0
        for method, params in calls:
            key = next(self._ids)
            one = msgspec.json.encode(parse.request_json(key, method, params))
            if part and size + len(one) > BATCH_BYTES_MAX:
                failed = await send()
                if failed is not None:
                    return failed
                size = 0
            part.append(one)
            ids.append(key)
            size += len(one) + 1
        if part:
            failed = await send()
            if failed is not None:
                return failed
        return found

    def _limited(self, reply: Envelope) -> Envelope:
        if reply.error is not None and reply.error.code in RATE_LIMIT_CODES:
            metrics.RPC_RATE_LIMITED.labels(form="body").inc()
            raise _Transient("rate limited (in the body)")
        return reply

    async def _retried(self, method: str, calls: int, body: bytes, read: Callable[[bytes], T]) -> T | Failure:
        why = "no endpoint"
        for attempt in range(self.policy.attempts):
            endpoint = self._choose()
            try:
                async with self._room:
                    return await self._once(endpoint, method, calls, body, read)
            except _Transient as trouble:
                why, after = str(trouble), trouble.after_s
            except Garbage as trouble:
                why, after = str(trouble), None
                metrics.RPC_GARBAGE.inc()
            self._rest(endpoint)
            metrics.RPC_RETRIES.labels(method=method).inc()
            if attempt + 1 < self.policy.attempts:
                backoff = min(self.policy.backoff_s * 2**attempt, self.policy.backoff_s_max)
                others = any(e.rests_until <= time.monotonic() for e in self._endpoints)
                await asyncio.sleep(0 if others and after is None else max(backoff, after or 0))
        metrics.RPC_FAILURES.labels(method=method).inc()
        return Failure(f"{method} at {self.label}: {why} ({self.policy.attempts} attempts)")

    async def _once(self, endpoint: _Endpoint, method: str, calls: int, body: bytes, read: Callable[[bytes], T]) -> T:
        endpoint.calls += calls
        metrics.RPC_CALLS.labels(method=method).inc(calls)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                status, headers, content = await self._post(endpoint.url, body)
        except TimeoutError:
            raise _Transient(f"no answer in {self.policy.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise _Transient(f"{type(error).__name__}: {_safe(str(error), endpoint.url)}") from None
        finally:
            metrics.RPC_SECONDS.labels(method=method).observe(time.monotonic() - started)
        if status in RETRY_STATUS:
            if status == 429:
                metrics.RPC_RATE_LIMITED.labels(form="status").inc()
            raise _Transient(f"HTTP {status}", _retry_after(headers, self.policy.retry_after_s_max))
        if status != 200 and not content.lstrip().startswith((b"{", b"[")):
            raise _Transient(f"HTTP {status}")
        metrics.RPC_BYTES.labels(method=method).inc(len(content))
        return read(content)

    async def _post(self, url: str, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        headers = {"content-type": "application/json"}
        async with self._http.stream("POST", url, content=body, headers=headers) as response:
            parts: list[bytes] = []
            size = 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise _Transient(f"a body over {BODY_BYTES_MAX} bytes")
                parts.append(part)
            return response.status_code, response.headers, b"".join(parts)

    def _choose(self) -> _Endpoint:
        now = time.monotonic()
        awake = [endpoint for endpoint in self._endpoints if endpoint.rests_until <= now]
        return awake[0] if awake else min(self._endpoints, key=lambda endpoint: endpoint.rests_until)

    def _rest(self, endpoint: _Endpoint) -> None:
        endpoint.failures += 1
        if len(self._endpoints) > 1:
            endpoint.rests_until = time.monotonic() + self.policy.rest_s


def _safe(text: str, url: str) -> str:
    return text.replace(url, shown(url))[:200]


def _retry_after(headers: httpx.Headers, bound_s: float) -> float | None:
    try:
        return min(float(headers["retry-after"]), bound_s)
    except (KeyError, ValueError):
        return None
