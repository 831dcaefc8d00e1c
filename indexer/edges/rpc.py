"""The HTTP edge: performs the core's requests against one or several RPC endpoints.

Retries, rate limits, hedges and failover live here and nowhere else. Every call has a time-out and a deadline, every body a bound, every retry
a count; what still fails is returned as `Failure` with the node's own code and message. URLs may carry keys, so they never appear in full.

Two things are kept of each endpoint, because an answer is only worth something together with who gave it: the highest slot of which it served
a block (a list proves nothing unless the same endpoint has served the barrier), and whether its cluster is the ledger's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, TypeVar

import httpx
import msgspec

from indexer import metrics
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    NODE_BEHIND,
    Address,
    Block,
    Content,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Listed,
    ListSignatures,
    Slot,
)
from indexer.edges import parse
from indexer.edges.parse import AnyEnvelope, Garbage, Watched
from indexer.log import log
from programs.body import ACCEPTED, Body, BodyRefused
from programs.errors import UserError
from programs.urls import scrubbed, shown

T = TypeVar("T")

# Versions above what the message parser knows are stored all the same; the wire bytes are kept as they are.
TRANSACTION_VERSION_MAX = 255
# A block of today's limits is some 10 MB of JSON.
BODY_BYTES_MAX = 96 << 20
# Of bodies beyond this, one at a time: eight of the largest would be a gigabyte.
LARGE_BYTES = 16 << 20
BATCH_BYTES_MAX = 40_000  # nodes refuse bodies over 50 KiB
RATE_LIMIT_CODES = (429, -32029)
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# What a seal waits for; a slow answer to these is asked for a second time elsewhere.
HEDGED = frozenset({"getSlot", "getBlock", "getSignaturesForAddress", "getTransaction"})
# httpx writes each request's full URL at this level.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class RpcPolicy:
    """Bounds of the HTTP edge. Times in seconds."""

    timeout_s: float = 20.0
    attempts: int = 5
    backoff_s: float = 0.1
    backoff_s_max: float = 5.0
    # A limit that asks for more patience than this is asked again after it.
    retry_after_s_max: float = 120.0
    # A call with all its attempts and waits ends by then.
    deadline_s: float = 60.0
    in_flight_max: int = 8
    # An endpoint that failed rests this long before it is asked first again.
    rest_s: float = 5.0
    # What blocks a seal and is not answered by then is asked of the next endpoint too; 0 never. At most one call in `hedge_every` is, beyond the
    # first HEDGES_FREE.
    hedge_s: float = 1.0
    hedge_every: int = 10


HEDGES_FREE = 10


class WrongCluster(UserError):
    """An endpoint is of another cluster than the ledger. Nothing of it may be believed, and no waiting mends it."""

    def __init__(self, label: str, found: str, expected: str, setting: str = "INDEXER_RPC_URL") -> None:
        super().__init__(
            f"{setting}: {label} is of the cluster with genesis hash {found}, the ledger is of {expected}; "
            "point it at the ledger's cluster, or use another database"
        )


@dataclass(slots=True)
class _Endpoint:
    url: str
    label: str
    # Failures make it rest, when there are others; a rate limit makes everybody wait.
    rests_until: float = 0.0
    limited_until: float = 0.0
    limits: int = 0
    calls: int = 0
    failures: int = 0
    cluster_known: bool = False
    # The highest slot whose block it served, by commitment.
    served: dict[str, int] = field(default_factory=dict)

    @property
    def ready_at(self) -> float:
        return max(self.rests_until, self.limited_until)


@dataclass(frozen=True, slots=True)
class _Need:
    """What an endpoint must have done before it is asked: served the block of `slot` at this commitment. `proves`: the answer is that service."""

    commitment: str
    slot: int
    proves: bool


class _Transient(Exception):
    """Worth another try, elsewhere or later."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Limited(_Transient):
    """A rate limit; `after_s` is what the limiter asked for."""


@dataclass(slots=True)
class RpcClient:
    """One client over a list of endpoints, first healthy first. Use as an async context manager."""

    urls: Sequence[str]
    watched: Watched
    policy: RpcPolicy = field(default_factory=RpcPolicy)
    role: str = "primary"
    genesis: str | None = None
    _hedges: int = field(init=False, default=0)
    _asked: int = field(init=False, default=0)
    _endpoints: list[_Endpoint] = field(init=False)
    _http: httpx.AsyncClient = field(init=False)
    _room: asyncio.Semaphore = field(init=False)
    _large: asyncio.Semaphore = field(init=False)
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
        self._large = asyncio.Semaphore(1)
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

        async def read(raw: Any) -> Block | None:
            if request.details == "accounts":
                found = parse.block_accounts(raw, request.slot, self.watched)
            else:
                found = await _in_steps(parse.block_steps(raw, request.slot, self.watched))
            if found is not None and (
                (request.details == "full" and found.contents is None)
                or (request.details == "signatures" and found.signatures is None)
            ):
                raise Garbage(
                    f"a block of slot {request.slot} without the {request.details} details that were asked for"
                )
            return found

        reader: Callable[[Any], Awaitable[Block | None] | Block | None] = read
        reply = await self.call(
            "getBlock",
            [request.slot, config],
            reader,
            _Need(request.commitment, request.slot, proves=True),
            parse.block_envelope if request.details == "full" else parse.envelope,
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
        need = None if request.barrier is None else _Need(request.commitment, request.barrier, proves=False)
        return await self.call("getSignaturesForAddress", [request.address, config], parse.signature_list, need)

    async def get_transactions(self, request: GetTransactions) -> tuple[Content | None, ...] | Failure:
        """getTransaction for each signature, as JSON-RPC batches within the body limit."""
        config = {
            "commitment": request.commitment,
            "encoding": "base64",
            "maxSupportedTransactionVersion": TRANSACTION_VERSION_MAX,
        }
        calls = [("getTransaction", [signature, config]) for signature in request.signatures]
        replies = await self.batch(
            calls, lambda raw: parse.stored_transaction(raw, self.watched), parse.stored_envelopes
        )
        if isinstance(replies, Failure):
            return replies
        for reply in replies:
            if isinstance(reply, Failure) and reply.code == BLOCK_CLEANED_UP:
                return reply
        # Any other single refusal is as good as "not yet": the core asks again, then asks the block.
        return tuple(None if isinstance(reply, Failure) else reply for reply in replies)

    async def get_first_available(self, request: GetFirstAvailable) -> int | Failure:
        """getFirstAvailableBlock."""
        return await self.call("getFirstAvailableBlock", [], parse.integer)

    async def get_blocks(self, request: GetBlocks) -> tuple[Slot, ...] | Failure:
        """getBlocks."""
        config = {"commitment": request.commitment}
        params = [request.slot_first, request.slot_last, config]
        return await self.call("getBlocks", params, lambda raw: parse.slots(raw, request.slot_first, request.slot_last))

    async def get_program_accounts(self, program: Address) -> tuple[Slot, list[parse.AccountChange]] | Failure:
        """Every account of the program with the slot for which the listing holds."""
        config = {"commitment": "confirmed", "encoding": "base64", "withContext": True}
        return await self.call(
            "getProgramAccounts", [program, config], lambda raw: parse.program_accounts(raw, program)
        )

    async def get_owners(self, addresses: Sequence[str]) -> tuple[Slot, list[tuple[int, bytes] | None]] | Failure:
        """Lamports and owner of at most 100 accounts, without their data."""
        config = {"commitment": "confirmed", "encoding": "base64", "dataSlice": {"offset": 0, "length": 0}}
        return await self.call("getMultipleAccounts", [list(addresses), config], parse.accounts)

    async def get_account(self, address: str, length: int | None = None) -> bytes | Failure | None:
        """The data of an account, or only its first bytes; None when there is none."""

        def read(raw: bytes) -> bytes | None:
            found = parse.account(raw)
            return None if found is None else found[0]

        config: dict[str, Any] = {"commitment": "confirmed", "encoding": "base64"}
        if length is not None:
            config["dataSlice"] = {"offset": 0, "length": length}
        return await self.call("getAccountInfo", [address, config], read)

    async def get_executable(self, address: str) -> bool | Failure | None:
        """Whether the account is a program; None when there is none."""

        def read(raw: bytes) -> bool | None:
            found = parse.account(raw)
            return None if found is None else found[1]

        config = {"commitment": "confirmed", "encoding": "base64", "dataSlice": {"offset": 0, "length": 0}}
        return await self.call("getAccountInfo", [address, config], read)

    # ---- which cluster ----

    async def clusters(self) -> dict[str, str]:
        """The genesis hash of each endpoint that tells one, by label. One that does not answer now is asked when it is first used."""
        found: dict[str, str] = {}
        for endpoint in self._endpoints:
            with contextlib.suppress(_Transient, Garbage):
                told = await self._genesis_of(endpoint)
                if told is not None:
                    found[endpoint.label] = told
        return found

    async def _genesis_of(self, endpoint: _Endpoint) -> str | None:
        body = msgspec.json.encode(parse.request_json(next(self._ids), "getGenesisHash", []))
        raw = await self._once(endpoint, "getGenesisHash", 1, body, lambda raw: parse.result(parse.envelope(raw)))
        if isinstance(raw, Failure):
            # A proxy that lets few methods through can't be checked; it is said once.
            log.seldom(3600.0, "warning", "cluster_unknown", endpoint=endpoint.label, error=raw.message[:200])
            return None
        try:
            return msgspec.json.decode(raw, type=str)
        except msgspec.DecodeError as error:
            raise Garbage(f"not a genesis hash: {error}") from None

    async def _must_be_ours(self, endpoint: _Endpoint) -> None:
        if self.genesis is None or endpoint.cluster_known:
            return
        told = await self._genesis_of(endpoint)
        if told not in (None, self.genesis):
            setting = "INDEXER_WITNESS_URL" if self.role == "witness" else "INDEXER_RPC_URL"
            raise WrongCluster(endpoint.label, str(told), self.genesis, setting)
        endpoint.cluster_known = True

    async def _must_have_served(self, endpoint: _Endpoint, need: _Need) -> None:
        """The barrier, on the endpoint that is about to be asked for a list. After a failover it is not the one that served it."""
        if need.proves or endpoint.served.get(need.commitment, -1) >= need.slot:
            return
        config = {"commitment": need.commitment, "transactionDetails": "none", "rewards": False}
        body = msgspec.json.encode(
            parse.request_json(
                next(self._ids),
                "getBlock",
                [need.slot, {**config, "maxSupportedTransactionVersion": TRANSACTION_VERSION_MAX}],
            )
        )
        reply = await self._once(endpoint, "getBlock", 1, body, lambda raw: parse.result(parse.envelope(raw)))
        if isinstance(reply, Failure) or reply == b"null":
            raise _Transient(f"it has not served the barrier, slot {need.slot}")
        endpoint.served[need.commitment] = max(endpoint.served.get(need.commitment, -1), need.slot)

    def shun(self) -> bool:
        """Put the endpoint that is asked first behind the others for a while: it answers, but its tip stands still. False when there is no other."""
        if len(self._endpoints) < 2:
            return False
        self._choose().rests_until = time.monotonic() + 12 * self.policy.rest_s
        return True

    # ---- transport ----

    async def call(
        self,
        method: str,
        params: list[Any],
        read: Callable[[Any], T | Awaitable[T]],
        need: _Need | None = None,
        envelope: Callable[[bytes], AnyEnvelope] = parse.envelope,
    ) -> T | Failure:
        """One call, retried on transient trouble. The node's own refusals come back at once as Failure. `read` gets the result, raw or as
        `envelope` has read it."""
        key = next(self._ids)
        body = msgspec.json.encode(parse.request_json(key, method, params))

        def reading(raw: bytes) -> T | Awaitable[T] | Failure:
            reply = self._limited(envelope(raw))
            if reply.id != key and reply.error is None:
                # A proxy that mixes up its callers: the answer may be true and not ours.
                raise Garbage(f"the reply to another request: id {reply.id!r}, not {key}")
            found = parse.result(reply)
            return found if isinstance(found, Failure) else read(found)

        return await self._retried(method, 1, body, reading, need)

    async def batch(
        self,
        calls: Sequence[tuple[str, list[Any]]],
        read: Callable[[Any], T],
        envelopes: Callable[[bytes], Sequence[AnyEnvelope]] = parse.envelopes,
    ) -> list[T | Failure] | Failure:
        """Several calls of one method, in as few bodies as the limit allows; replies in the order asked."""
        found: list[T | Failure] = []
        part: list[bytes] = []
        ids: list[int] = []

        async def send() -> Failure | None:
            body = b"[" + b",".join(part) + b"]"
            wanted = list(ids)

            def reading(raw: bytes) -> list[T | Failure] | Failure:
                replies = [self._limited(reply) for reply in envelopes(raw)]
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

            reply: list[T | Failure] | Failure = await self._retried(calls[0][0], len(wanted), body, reading)
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

    def _limited(self, reply: AnyEnvelope) -> AnyEnvelope:
        if reply.error is None:
            return reply
        if reply.error.code in RATE_LIMIT_CODES:
            metrics.RPC_RATE_LIMITED.labels(form="body").inc()
            raise _Limited("rate limited (in the body)")
        if reply.error.code == NODE_BEHIND and len(self._endpoints) > 1:
            raise _Transient("the node says that it is behind")
        return reply

    async def _retried(
        self, method: str, calls: int, body: bytes, read: Callable[[bytes], T | Awaitable[T]], need: _Need | None = None
    ) -> T | Failure:
        why = "no endpoint"
        deadline = time.monotonic() + self.policy.deadline_s
        attempt = 0
        for attempt in range(self.policy.attempts):
            endpoint = self._choose()
            wait = endpoint.limited_until - time.monotonic()
            if attempt and endpoint.ready_at > time.monotonic():
                # Nobody is fresh: the one that rests least is asked, after a pause.
                wait = max(wait, min(self.policy.backoff_s * 2 ** (attempt - 1), self.policy.backoff_s_max))
            elif attempt and len(self._endpoints) == 1:
                wait = max(wait, min(self.policy.backoff_s * 2 ** (attempt - 1), self.policy.backoff_s_max))
            if time.monotonic() + wait > deadline:
                why = f"{why}; not asked again before {wait:.0f} s have passed"
                break
            if wait > 0:
                await asyncio.sleep(wait)
            try:
                return await self._hedged(endpoint, method, calls, body, read, need)
            except (_Transient, Garbage) as trouble:
                why = str(trouble)
            metrics.RPC_RETRIES.labels(method=method).inc()
            if time.monotonic() > deadline:
                break
        metrics.RPC_FAILURES.labels(method=method).inc()
        return Failure(f"{method} at {self.label}: {why} ({attempt + 1} attempts)")

    async def _hedged(
        self,
        endpoint: _Endpoint,
        method: str,
        calls: int,
        body: bytes,
        read: Callable[[bytes], T | Awaitable[T]],
        need: _Need | None,
    ) -> T:
        """Ask; when no answer comes in `hedge_s`, ask the next endpoint too, and take the first answer."""
        self._asked += 1
        first = asyncio.ensure_future(self._asking(endpoint, method, calls, body, read, need))
        running = {first}
        try:
            if method in HEDGED and self.policy.hedge_s > 0:
                await asyncio.wait(running, timeout=self.policy.hedge_s)
                other = None if first.done() else self._second(endpoint)
                if other is not None:
                    self._hedges += 1
                    metrics.RPC_HEDGES.labels(method=method).inc()
                    running.add(asyncio.ensure_future(self._asking(other, method, calls, body, read, need)))
            while True:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if isinstance(task.exception(), WrongCluster):
                        return task.result()  # raises: no other answer makes up for this
                    if task.exception() is None:
                        if task is not first:
                            metrics.RPC_HEDGES_WON.labels(method=method).inc()
                        return task.result()
                if not running:
                    return done.pop().result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _second(self, first: _Endpoint) -> _Endpoint | None:
        """Another endpoint that is well, while hedges are few enough."""
        now = time.monotonic()
        awake = [e for e in self._endpoints if e is not first and e.ready_at <= now]
        within = self._hedges < HEDGES_FREE + self._asked / self.policy.hedge_every
        return awake[0] if awake and within else None

    async def _asking(
        self,
        endpoint: _Endpoint,
        method: str,
        calls: int,
        body: bytes,
        read: Callable[[bytes], T | Awaitable[T]],
        need: _Need | None,
    ) -> T:
        """Ask one endpoint and learn from how it went."""
        try:
            async with self._room, self._counted():
                await self._must_be_ours(endpoint)
                if need is not None:
                    await self._must_have_served(endpoint, need)
                found = await self._once(endpoint, method, calls, body, read)
        except _Limited as limited:
            endpoint.limits = min(endpoint.limits + 1, 10)
            pause = min(self.policy.backoff_s * 2**endpoint.limits, self.policy.backoff_s_max)
            asked = pause if limited.after_s is None else min(limited.after_s, self.policy.retry_after_s_max)
            endpoint.limited_until = time.monotonic() + asked
            endpoint.failures += 1
            raise
        except (_Transient, Garbage) as trouble:
            if isinstance(trouble, Garbage):
                metrics.RPC_GARBAGE.inc()
            self._rest(endpoint)
            raise
        endpoint.limits = 0
        if need is not None and need.proves and found is not None and not isinstance(found, Failure):
            endpoint.served[need.commitment] = max(endpoint.served.get(need.commitment, -1), need.slot)
        return found

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        in_flight = metrics.RPC_IN_FLIGHT.labels(role=self.role)
        in_flight.inc()
        try:
            yield
        finally:
            in_flight.dec()

    async def _once(
        self, endpoint: _Endpoint, method: str, calls: int, body: bytes, read: Callable[[bytes], T | Awaitable[T]]
    ) -> T:
        endpoint.calls += calls
        metrics.RPC_CALLS.labels(method=method).inc(calls)
        async with contextlib.AsyncExitStack() as turn:
            status, headers, content = await self._exchange(endpoint, method, body, turn)
            after = _retry_after(headers)
            if status == 429:
                metrics.RPC_RATE_LIMITED.labels(form="status").inc()
                raise _Limited("HTTP 429", after)
            if status in RETRY_STATUS:
                raise _Limited(f"HTTP {status}", after) if after is not None else _Transient(f"HTTP {status}")
            if 300 <= status < 400:
                raise _Transient(
                    f"HTTP {status}, it sends us on to {_place(headers.get('location', ''))}; give that URL"
                )
            if status in (401, 403):
                raise _Transient(f"HTTP {status}, it refuses us: is the key in the URL right?")
            if status != 200 and not content[:64].lstrip().startswith((b"{", b"[")):
                raise _Transient(f"HTTP {status}")
            metrics.RPC_BYTES.labels(method=method).inc(len(content))
            try:
                found = read(content)
                return _clean(await found if isinstance(found, Awaitable) else found, endpoint.url)
            except _Limited as limited:
                raise _Limited(str(limited), after) from None
            except Garbage as garbage:
                raise Garbage(scrubbed(str(garbage), endpoint.url)) from None

    async def _exchange(
        self, endpoint: _Endpoint, method: str, body: bytes, turn: contextlib.AsyncExitStack
    ) -> tuple[int, httpx.Headers, bytes]:
        started = time.monotonic()
        try:
            # The whole exchange: a body that trickles in for ever ends here too.
            async with asyncio.timeout(self.policy.timeout_s):
                return await self._post(endpoint.url, body, turn)
        except TimeoutError:
            raise _Transient(f"no answer in {self.policy.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
            endpoint.cluster_known = False  # what comes back behind this URL may be another node
            raise _Transient(f"{type(error).__name__}: {scrubbed(str(error), endpoint.url)}") from None
        except BodyRefused as refused:
            raise _Transient(str(refused)) from None
        finally:
            metrics.RPC_SECONDS.labels(method=method).observe(time.monotonic() - started)

    async def _post(self, url: str, sent: bytes, turn: contextlib.AsyncExitStack) -> tuple[int, httpx.Headers, bytes]:
        """`turn` is the caller's until the content is read: of large bodies one at a time is in memory."""
        headers = {"content-type": "application/json", "accept-encoding": ACCEPTED}
        async with self._http.stream("POST", url, content=sent, headers=headers) as response:
            body = Body(response.headers.get("content-encoding", ""), BODY_BYTES_MAX)
            large = False
            async for part in response.aiter_raw():
                if body.size > LARGE_BYTES and not large:
                    await turn.enter_async_context(self._large)
                    large = True
                body.feed(part)
            return response.status_code, response.headers, body.whole()

    def _choose(self) -> _Endpoint:
        now = time.monotonic()
        awake = [endpoint for endpoint in self._endpoints if endpoint.ready_at <= now]
        return awake[0] if awake else min(self._endpoints, key=lambda endpoint: endpoint.ready_at)

    def _rest(self, endpoint: _Endpoint) -> None:
        endpoint.failures += 1
        if len(self._endpoints) > 1:
            endpoint.rests_until = time.monotonic() + self.policy.rest_s


def _clean(found: T, url: str) -> T:
    """A node's refusal, or a batch of answers with some among them, without our key: providers quote it."""
    if isinstance(found, Failure):
        return msgspec.structs.replace(found, message=scrubbed(found.message, url))
    if isinstance(found, list) and any(isinstance(one, Failure) for one in found):
        found[:] = [_clean(one, url) for one in found]
    return found


async def _in_steps(steps: Generator[None, None, T]) -> T:
    """What the steps lead to, with a chance for others between two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: T = stop.value
            return found
        await asyncio.sleep(0)


def _place(location: str) -> str:
    """Where a redirect leads, as far as it may be shown."""
    try:
        return shown(location)
    except ValueError:
        return "no URL"


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds from now, of either form that HTTP allows: a number, or a date."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
