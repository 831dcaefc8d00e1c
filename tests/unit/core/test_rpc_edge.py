"""The HTTP edge against servers that refuse, stall, trickle, lie about their size or belong to another cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY

from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    Address,
    Block,
    Failure,
    GetBlock,
    GetSlot,
    GetTransactions,
    ListSignatures,
    Slot,
)
from indexer.edges import rpc as edge
from indexer.edges.parse import Watched
from indexer.edges.rpc import RpcClient, RpcPolicy, WrongCluster
from programs.body import Body
from programs.urls import scrubbed
from tests.unit.core.fakehttp import GENESIS, Answer, Decide, Server, serving, standard

PROGRAM = Address("11111111111111111111111111111111")
FAST = {"timeout_s": 1.0, "attempts": 3, "backoff_s": 0.01, "backoff_s_max": 0.05, "hedge_s": 0.0, "rest_s": 5.0}
TIP = GetSlot("confirmed")


def client(*servers: Server, genesis: str | None = None, **policy: Any) -> RpcClient:
    return RpcClient([s.url for s in servers], Watched((PROGRAM,)), RpcPolicy(**{**FAST, **policy}), genesis=genesis)


def run(work: Callable[..., Awaitable[Any]], *deciders: Decide) -> Any:
    async def go() -> Any:
        async with asyncio.timeout(120):
            if len(deciders) == 2:
                async with serving(deciders[0]) as one, serving(deciders[1]) as two:
                    return await work(one, two)
            async with serving(*deciders) as one:
                return await work(one)

    return asyncio.run(go())


def turns(*answers: Answer) -> Decide:
    """These in turn, then an honest node."""
    left = list(answers)
    return lambda method, params: left.pop(0) if left else standard(method, params)


def always(answer: Answer) -> Decide:
    return lambda method, params: answer


def test_requests_under_way_are_bounded_and_counted() -> None:
    seen: list[float] = []

    def under_way() -> float:
        return REGISTRY.get_sample_value("indexer_rpc_in_flight", {"role": "primary"}) or 0.0

    def slowly(method: str, params: Any) -> Answer:
        seen.append(under_way())
        return Answer(100, after_s=0.05)

    async def work(server: Server) -> Any:
        async with client(server, in_flight_max=3) as it:
            return await asyncio.gather(*[it.get_slot(TIP) for _ in range(9)])

    assert run(work, slowly) == [100] * 9
    assert (max(seen), under_way()) == (3, 0)


# ---- what is no answer ----


@pytest.mark.parametrize(
    "bad",
    [
        Answer(raw=b"<html>busy</html>"),
        Answer(raw=b""),
        Answer(raw=b'{"jsonrpc":"2.0","id":1}'),
        Answer(raw=b'{"jsonrpc":"2.0","id":999999,"result":7}'),
        Answer(raw=b'{"jsonrpc":"2.0","result":7}'),
        Answer(raw=b'{"jsonrpc":"2.0","id":1,"error":"slow down"}'),
        Answer(raw=b'{"jsonrpc":"2.0","id":1,"error":{"message":"slow down"}}'),
        Answer(raw=b"[" * 100_000),
        Answer(raw=b"\xff\xfe\x00"),
        Answer(-5),
        Answer(2**70),
        Answer("7"),
        Answer(1.5),
        Answer(None),
        Answer(100, cut=True),
        Answer(100, status=502, raw=b"bad gateway"),
    ],
    ids=lambda a: repr(a.raw[:12] if a.raw is not None else a.result) + ("cut" if a.cut else ""),
)
def test_nonsense_is_asked_again_and_never_believed(bad: Answer) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_slot(TIP), len(server.calls)

    reply, calls = run(work, turns(bad))
    assert (reply, calls) == (100, 2)
    reply, calls = run(work, always(bad))
    assert isinstance(reply, Failure)
    assert reply.code is None
    assert calls == 3


@pytest.mark.parametrize(
    ("details", "block"),
    [("full", {"signatures": ["a"]}), ("full", {}), ("signatures", {"transactions": []}), ("signatures", {})],
)
def test_a_block_without_what_was_asked_for_is_no_block(details: Any, block: dict[str, Any]) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_block(GetBlock(Slot(50), details, "confirmed"))

    assert isinstance(run(work, always(Answer({"parentSlot": 49, **block}))), Failure)
    assert isinstance(run(work, always(Answer({"parentSlot": 49, "signatures": [], "transactions": []}))), Block)


@pytest.mark.parametrize("result", [5, "x", [], {}, {"value": 5}, {"value": {}}, {"value": {"data": ["AAAA", "base58"]}},
                                    {"value": {"data": ["**", "base64"]}}, {"value": {"data": [], "executable": True}}], ids=str)  # fmt: skip
def test_an_account_of_another_shape_is_no_account(result: Any) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_account(PROGRAM), await it.get_executable(PROGRAM)

    assert all(isinstance(reply, Failure) for reply in run(work, always(Answer(result))))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(raw=b"", status=301, headers={"Location": "https://other.example/secret"}), "sends us on to https://other.example;"),
        (Answer(raw=b'{"error":"no"}', status=401), "is the key in the URL right?"),
        (Answer(raw=b"<html>a page"), "<html>a page"),
    ],
)  # fmt: skip
def test_what_a_person_must_mend_is_said(answer: Answer, said: str) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_slot(TIP)

    reply = run(work, always(answer))
    assert said in reply.message
    assert "secret" not in reply.message


def test_a_list_with_a_byte_that_is_no_text_is_no_list() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"result":[{"signature":"5\xca5","slot":5}]}'

    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.list_signatures(ListSignatures(PROGRAM, "confirmed", 10))

    assert isinstance(run(work, always(Answer(raw=raw))), Failure)


@pytest.mark.parametrize(
    "entry",
    [
        {"signature": "a", "slot": -1},
        {"signature": "a", "slot": 2**64},
        {"signature": "a", "slot": 5, "transactionIndex": -1},
        {"signature": "a", "slot": 5, "transactionIndex": 2**40},
        {"signature": 5, "slot": 5},
        {"slot": 5},
    ],
    ids=str,
)
def test_a_list_with_impossible_numbers_is_no_list(entry: Any) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.list_signatures(ListSignatures(PROGRAM, "confirmed", 10))

    assert isinstance(run(work, always(Answer([entry]))), Failure)


@pytest.mark.parametrize(
    "block",
    [
        {"parentSlot": 50},
        {"parentSlot": 51},
        {"parentSlot": -1},
        {"parentSlot": 49, "blockTime": -3},
        {"parentSlot": 49, "blockTime": 2**63},
        {"parentSlot": 49, "signatures": ["a", "a"]},
        {"parentSlot": 49, "signatures": ["a", "b"], "transactions": []},
        {"parentSlot": 49, "transactions": [{"transaction": ["AA==", "base64"], "meta": None}]},
        {"parentSlot": 49, "transactions": [{"transaction": ["!!", "base64"], "meta": None}]},
        {"parentSlot": 49, "transactions": [{"transaction": ["AA==", "base58"], "meta": None}]},
        {},
    ],
    ids=str,
)
def test_a_block_that_does_not_fit_is_no_block(block: Any) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_block(GetBlock(Slot(50), "full", "confirmed"))

    # Mentioned or not: a transaction that can't be read can't be shown to be somebody else's.
    reply = run(work, always(Answer(block)))
    assert isinstance(reply, Failure) or (reply.contents == () and "transactions" in block)


def test_a_null_block_is_one_that_is_not_available() -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_block(GetBlock(Slot(50), "none", "confirmed"))

    reply = run(work, always(Answer(None)))
    assert isinstance(reply, Failure)
    assert reply.code == BLOCK_NOT_AVAILABLE


def test_a_batch_that_lacks_answers_is_asked_again() -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_transactions(GetTransactions(("a", "b"), "confirmed"))

    reply = run(work, always(Answer(raw=b'[{"jsonrpc":"2.0","id":1,"result":null}]')))
    assert isinstance(reply, Failure)


# ---- bounds ----


def test_a_body_without_end_ends_at_the_deadline() -> None:
    async def work(server: Server) -> Any:
        async with client(server, timeout_s=0.2, attempts=2) as it:
            return await it.get_slot(TIP)

    reply = run(work, always(Answer(1, trickle=True)))
    assert isinstance(reply, Failure)
    assert "no answer in 0.2 s" in reply.message


def test_a_huge_body_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_BYTES_MAX", 100_000)

    async def work(server: Server) -> Any:
        async with client(server, attempts=1) as it:
            return await it.get_slot(TIP)

    reply = run(work, always(Answer("x" * 200_000)))
    assert isinstance(reply, Failure)
    assert "over 100000 bytes" in reply.message


def test_a_server_that_says_nothing_is_given_up() -> None:
    async def work(server: Server) -> Any:
        async with client(server, timeout_s=0.1) as it:
            return await it.get_slot(TIP)

    assert isinstance(run(work, always(Answer(1, after_s=30))), Failure)


# ---- rate limits ----

LIMITS = {
    "status": Answer(status=429, raw=b"slow down"),
    "in the body, 429": Answer(error={"code": 429, "message": "Too many requests"}),
    "in the body, -32029": Answer(error={"code": -32029, "message": "rate limit"}),
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_a_limit_is_waited_for_and_tried_again(limit: Answer) -> None:
    async def work(server: Server) -> Any:
        async with client(server) as it:
            return await it.get_slot(TIP), server.asked("getSlot")

    assert run(work, turns(limit)) == (100, 2)


def retry_after(answer: Answer, text: str) -> Answer:
    return Answer(answer.result, answer.error, answer.raw, answer.status, {"Retry-After": text})


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_the_wait_that_the_limiter_asks_for_holds_for_every_call(limit: Answer) -> None:
    """Not only the refused call waits: others to the same endpoint would be refused too, and lengthen the ban."""

    async def work(server: Server) -> Any:
        async with client(server) as it:
            started = time.monotonic()
            first = asyncio.create_task(it.get_slot(TIP))
            await asyncio.sleep(0.3)
            second = await it.get_slot(TIP)
            return await first, second, time.monotonic() - started, server

    first, second, seconds, server = run(work, turns(retry_after(limit, "1")))
    assert (first, second) == (100, 100)
    assert seconds >= 0.99
    assert server.asked("getSlot") == 3


def test_a_date_is_as_good_as_a_number() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)

    async def work(server: Server) -> Any:
        async with client(server, deadline_s=1.0) as it:
            return await it.get_slot(TIP), len(server.calls)

    reply, calls = run(work, always(retry_after(LIMITS["status"], at)))
    assert isinstance(reply, Failure)
    assert "not asked again before" in reply.message
    assert calls == 1


def test_a_wait_beyond_the_deadline_is_not_sat_out() -> None:
    async def work(server: Server) -> Any:
        async with client(server, deadline_s=0.5) as it:
            await it.get_slot(TIP)
            return await it.get_slot(TIP), len(server.calls)

    reply, calls = run(work, always(retry_after(LIMITS["status"], "3600")))
    assert isinstance(reply, Failure)
    assert calls == 1


def test_a_limited_endpoint_leaves_the_work_to_the_next_at_once() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two) as it:
            replies = [await it.get_slot(TIP) for _ in range(3)]
            return replies, len(one.calls), len(two.calls)

    replies, first, second = run(work, always(retry_after(LIMITS["status"], "30")), standard)
    assert replies == [100, 100, 100]
    assert (first, second) == (1, 3)


# ---- several endpoints ----


def test_a_dead_endpoint_is_replaced_and_rests() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two) as it:
            replies = [await it.get_slot(TIP) for _ in range(4)]
            return replies, len(one.calls), len(two.calls)

    assert run(work, always(Answer(raw=b"?", status=503)), standard) == ([100] * 4, 1, 4)


def test_a_node_that_says_it_is_behind_is_passed_over() -> None:
    behind = Answer(error={"code": -32005, "message": "Node is behind by 50 slots", "data": {"numSlotsBehind": 50}})

    async def work(one: Server, two: Server) -> Any:
        async with client(one, two) as it:
            return await it.get_slot(TIP)

    assert run(work, always(behind), standard) == 100


def test_a_slow_read_is_asked_elsewhere_too_and_the_first_answer_counts() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two, hedge_s=0.05, timeout_s=10.0) as it:
            started = time.monotonic()
            return await it.get_slot(TIP), len(one.calls), len(two.calls), time.monotonic() - started

    reply, first, second, seconds = run(work, always(Answer(7, after_s=8)), standard)
    assert (reply, first, second) == (100, 1, 1)
    assert seconds < 7


def test_hedges_have_a_bound() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two, hedge_s=0.001, hedge_every=1000) as it:
            for _ in range(40):
                await it.get_slot(TIP)
            return len(two.calls)

    assert run(work, always(Answer(7, after_s=0.02)), standard) <= edge.HEDGES_FREE + 1


def test_a_hedge_that_fails_leaves_the_first_its_chance() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two, hedge_s=0.02) as it:
            return await it.get_slot(TIP)

    assert run(work, always(Answer(7, after_s=0.3)), always(Answer(raw=b"?", status=503))) == 7


def test_after_a_failover_the_new_endpoint_must_serve_the_barrier_before_its_list_counts() -> None:
    """The list of a node that has not written the slot yet looks like one in which nothing happened."""

    def first(method: str, params: list[Any]) -> Answer:
        return standard(method, params) if method == "getBlock" else Answer(raw=b"?", status=503)

    async def work(one: Server, two: Server) -> Any:
        async with client(one, two) as it:
            block = await it.get_block(GetBlock(Slot(50), "none", "confirmed"))
            page = await it.list_signatures(ListSignatures(PROGRAM, "confirmed", 10, None, Slot(50), Slot(50)))
            return block, page, [method for method, _ in two.calls]

    block, page, asked = run(work, first, standard)
    assert isinstance(block, Block)
    assert page == ()
    assert asked == ["getBlock", "getSignaturesForAddress"]

    def second(method: str, params: list[Any]) -> Answer:
        not_yet = Answer(error={"code": -32004, "message": "Block not available for slot 50"})
        return not_yet if method == "getBlock" else standard(method, params)

    block, page, asked = run(work, first, second)
    assert isinstance(page, Failure)
    assert "getSignaturesForAddress" not in asked


def test_an_endpoint_whose_tip_stands_still_can_be_put_last() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two) as it:
            before = await it.get_slot(TIP)
            moved = it.shun()
            return before, moved, await it.get_slot(TIP)

    assert run(work, always(Answer(7)), standard) == (7, True, 100)

    async def alone(one: Server) -> Any:
        async with client(one) as it:
            return it.shun()

    assert run(alone, standard) is False


# ---- which cluster ----


def other(method: str, params: list[Any]) -> Answer:
    return (
        Answer("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d")
        if method == "getGenesisHash"
        else standard(method, params)
    )


def test_an_endpoint_of_another_cluster_is_never_asked_for_data() -> None:
    async def work(one: Server) -> Any:
        async with client(one, genesis=GENESIS) as it:
            with pytest.raises(WrongCluster) as caught:
                await it.get_slot(TIP)
            return caught.value, one.asked("getSlot")

    error, asked = run(work, other)
    assert asked == 0
    assert error.exit_code == 2
    assert GENESIS in str(error)
    assert "another database" in str(error)


def test_the_cluster_is_looked_at_on_failover_and_once() -> None:
    async def work(one: Server, two: Server) -> Any:
        async with client(one, two, genesis=GENESIS) as it:
            for _ in range(3):
                await it.get_slot(TIP)
            return two.asked("getGenesisHash")

    assert run(work, always(Answer(raw=b"?", status=503)), standard) == 1
    with pytest.raises(WrongCluster):
        run(work, always(Answer(raw=b"?", status=503)), other)


def test_a_proxy_without_getGenesisHash_is_used_all_the_same() -> None:
    def without(method: str, params: list[Any]) -> Answer:
        return (
            Answer(error={"code": -32601, "message": "no"}) if method == "getGenesisHash" else standard(method, params)
        )

    async def work(one: Server) -> Any:
        async with client(one, genesis=GENESIS) as it:
            return await it.get_slot(TIP), await it.clusters()

    assert run(work, without) == (100, {})


# ---- secrets ----


def test_keys_in_urls_are_shown_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    secret = "sk-hunter2?api-key=hunter2"

    async def go() -> Any:
        async with serving(always(Answer(raw=b"?", status=503)), secret) as server, client(server) as it:
            failed = await it.get_slot(TIP)
            label = it.label
        async with RpcClient([f"http://user:hunter2@127.0.0.1:9/{secret}"], Watched(()), RpcPolicy(**FAST)) as dead:  # type: ignore[arg-type]
            return failed, label, await dead.get_slot(TIP)

    found = asyncio.run(go())
    assert "hunter2" not in repr(found) + "".join(capfd.readouterr())


def test_foreign_messages_are_scrubbed() -> None:
    url = "wss://user:pass@host.example/v2/key?token=abc"
    said = f"InvalidURI: {url} isn't valid; GET /v2/key?token=abc failed for user:pass"
    clean = scrubbed(said, url)
    for secret in ("pass", "key", "abc"):
        assert secret not in clean


@pytest.mark.parametrize(
    "url",
    [
        "https://host.example/v2/hunter22hunter22/",
        "https://host.example/?api-key=hunter22hunter22",
        "https://host.example/a?x=1&token=hunter22hunter22#hunter22hunter22",
        "https://me:hunter22hunter22@host.example/",
        "https://host.example/rpc/hunter22%68unter22",
    ],
)
def test_a_key_alone_is_scrubbed_too(url: str) -> None:
    """A provider's refusal quotes the key and not the URL; what is short and no key stays readable."""
    assert scrubbed("invalid key: hunter22hunter22 (v2, rpc)", url) == "invalid key: … (v2, rpc)"


def test_a_nodes_own_refusal_shows_no_key() -> None:
    """Providers answer with the key that they do not know. The text goes to the log, /readyz and the command line."""
    secret = "hunter22hunter22"
    refused = {"code": -32052, "message": f"unknown api key {secret}"}

    async def go() -> Any:
        decide = always(Answer(error=refused))
        async with serving(decide, secret) as server, client(server) as it:
            gone = Failure("", BLOCK_CLEANED_UP)
            several = await it.batch([("getTransaction", ["a"]), ("getTransaction", ["b"])], lambda raw: gone)
            return await it.get_slot(TIP), await it.get_block(GetBlock(Slot(1), "none", "confirmed")), several

    found = asyncio.run(go())
    assert "unknown api key …" in repr(found)
    assert secret not in repr(found)


@pytest.mark.parametrize(
    "location", ["https://user:hunter22@elsewhere.example/hunter22?k=hunter22", "http://[", "", "http://h:x/"]
)
def test_a_redirect_is_told_without_its_key_and_breaks_nothing(location: str) -> None:
    async def work(server: Server) -> Any:
        async with client(server, attempts=1) as it:
            return await it.get_slot(TIP)

    found = run(work, always(Answer(raw=b"", status=302, headers={"Location": location})))
    assert isinstance(found, Failure)
    assert "sends us on" in found.message or "Invalid URL in location header" in found.message
    assert "hunter22" not in found.message


def test_large_bodies_come_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight at once of the largest allowed would be a gigabyte."""
    monkeypatch.setattr(edge, "LARGE_BYTES", 1_000)
    monkeypatch.setattr(edge, "BODY_BYTES_MAX", 10_000_000)
    reading: list[int] = []
    most = 0

    class Watching(Body):
        def __init__(self, encoding: str, bytes_max: int) -> None:
            super().__init__(encoding, bytes_max)
            reading.append(0)
            self.place = len(reading) - 1

        def feed(self, part: bytes) -> None:
            nonlocal most
            super().feed(part)
            reading[self.place] = self.size
            most = max(most, sum(size > 500_000 for size in reading))

        def whole(self) -> bytes:
            reading[self.place] = 0
            return super().whole()

    monkeypatch.setattr(edge, "Body", Watching)

    async def work(server: Server) -> Any:
        async with client(server, timeout_s=20.0) as it:
            return await asyncio.gather(*[it.get_slot(TIP) for _ in range(6)])

    found = run(work, always(Answer(raw=b'{"jsonrpc":"2.0","id":1,"result":7}' + b" " * 2_000_000)))
    assert len(found) == 6
    assert most == 1
