"""The PubSub edge against servers that fall silent, never acknowledge, refuse, send too much or nonsense; each is noticed, counted and repaired."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.server import ServerConnection, serve

from indexer.core.protocol import Address
from indexer.core.watchdog import SILENCE_S_MAX, TIP_STILL_S_ELSEWHERE, TIP_STILL_S_MAX, Watchdog
from indexer.edges import socket as edge
from indexer.edges.socket import Listeners, SocketEdge

PROGRAM = Address("11111111111111111111111111111111")
Behave = Callable[[ServerConnection, int], Awaitable[None]]


class Heard:
    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.slots: list[int] = []
        self.subscribed = 0
        self.lost = 0

    def listeners(self) -> Listeners:
        return Listeners(self.logs.append, lambda change: None, self.slots.append, self._subscribed, self._lost)

    def _subscribed(self) -> None:
        self.subscribed += 1

    def _lost(self) -> None:
        self.lost += 1


async def acknowledge(socket: ServerConnection, refuse: tuple[str, ...] = ()) -> None:
    for number in range(1, 4):
        request = json.loads(await socket.recv())
        if request["method"] in refuse:
            error = {"code": -32601, "message": "Method not found"}
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))
        else:
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": 10 + number}))


def slot_frame(slot: int) -> str:
    result = {"slot": slot, "parent": slot - 1, "root": 0}
    return json.dumps(
        {"jsonrpc": "2.0", "method": "slotNotification", "params": {"result": result, "subscription": 13}}
    )


def drops(reason: str) -> float:
    return REGISTRY.get_sample_value("indexer_socket_drops_total", {"reason": reason}) or 0.0


def run(behave: Behave, done: Callable[[Heard, int], bool], watchdog: Watchdog | None = None) -> Heard:
    """Serve connections, numbered from 1, until `done`; a connection whose behaviour returns stays open."""
    heard, connections = Heard(), 0

    async def go() -> None:
        nonlocal connections

        async def handler(socket: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            await behave(socket, connections)
            await socket.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            it = SocketEdge(
                f"ws://127.0.0.1:{port}", (PROGRAM,), "confirmed", heard.listeners(), watchdog or Watchdog()
            )
            running = asyncio.create_task(it.run())
            async with asyncio.timeout(120):
                while not done(heard, connections):  # noqa: ASYNC110  polled on purpose
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())
    return heard


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "CHECK_S", 0.05)
    monkeypatch.setattr(edge, "RECONNECT_S_MIN", 0.02)
    monkeypatch.setattr(edge, "RECONNECT_S_MAX", 0.05)


def test_an_open_socket_that_says_nothing_is_given_up() -> None:
    async def silent(socket: ServerConnection, number: int) -> None:
        await acknowledge(socket)

    before = drops("silent")
    heard = run(silent, lambda h, n: n >= 2 and h.subscribed >= 2, Watchdog(silence_s_max=0.3))
    assert drops("silent") > before
    assert heard.subscribed >= 2


def test_an_acknowledgement_that_never_comes_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "ACK_S_MAX", 0.3)

    async def deaf(socket: ServerConnection, number: int) -> None:
        if number > 1:
            await acknowledge(socket)

    before = drops("no_acknowledgement")
    run(deaf, lambda h, n: h.subscribed == 1)
    assert drops("no_acknowledgement") == before + 1


def test_refused_logs_are_a_reason_to_try_again_and_other_refusals_are_not() -> None:
    async def refusing(socket: ServerConnection, number: int) -> None:
        await acknowledge(socket, ("logsSubscribe",) if number == 1 else ("programSubscribe", "slotSubscribe"))

    before = drops("subscription_refused")
    heard = run(refusing, lambda h, n: h.subscribed == 1, Watchdog(silence_s_max=0.1))
    assert drops("subscription_refused") == before + 1
    assert heard.subscribed == 1


def test_a_frame_beyond_all_measure_costs_the_connection_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "FRAME_BYTES_MAX", 10_000)

    async def huge(socket: ServerConnection, number: int) -> None:
        await acknowledge(socket)
        if number == 1:
            await socket.send("x" * 50_000)

    before = drops("oversized")
    run(huge, lambda h, n: h.subscribed == 2)
    assert drops("oversized") == before + 1


def test_nonsense_is_counted_and_the_rest_is_heard() -> None:
    async def noisy(socket: ServerConnection, number: int) -> None:
        await acknowledge(socket)
        for text in (
            "{",
            "[]",
            "7",
            '{"method":"logsNotification","params":{"subscription":11,"result":{"context":{}}}}',
        ):
            await socket.send(text)
        negative = {"context": {"slot": -4}, "value": {"signature": "x", "err": None, "logs": []}}
        params = {"subscription": 11, "result": negative}
        await socket.send(json.dumps({"jsonrpc": "2.0", "method": "logsNotification", "params": params}))
        await socket.send(slot_frame(7))

    heard = run(noisy, lambda h, n: h.slots == [7])
    assert heard.logs == []


def test_a_cut_connection_is_told_of_and_made_again() -> None:
    async def cut(socket: ServerConnection, number: int) -> None:
        await acknowledge(socket)
        if number < 3:
            socket.transport.abort()

    heard = run(cut, lambda h, n: n == 3 and h.subscribed == 3)
    assert heard.subscribed == 3
    assert heard.lost >= 2, "who waits for a notification must know that none will come"


def test_a_loop_that_loses_a_cancellation_is_cancelled_again() -> None:
    from indexer.app import _end

    async def deaf_once() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    async def go() -> bool:
        task = asyncio.create_task(deaf_once())
        await asyncio.sleep(0)
        await _end([task])
        return task.cancelled()

    assert asyncio.run(asyncio.wait_for(go(), 120))


# ---- the decisions ----


def test_silence_has_a_bound_and_a_frame_renews_it() -> None:
    dog = Watchdog()
    dog.connected(0.0)
    assert dog.verdict(SILENCE_S_MAX) is None
    assert dog.verdict(SILENCE_S_MAX + 0.1) == "silent"
    dog.frame(SILENCE_S_MAX)
    assert dog.verdict(SILENCE_S_MAX + 0.1) is None


def test_without_a_heartbeat_silence_means_nothing() -> None:
    dog = Watchdog()
    dog.connected(0.0, heartbeat=False)
    assert dog.verdict(10_000.0) is None


def test_a_subscription_that_died_by_itself_shows_in_what_http_finds() -> None:
    dog = Watchdog()
    dog.connected(0.0)
    for _ in range(2):
        dog.sealed(rows=5, witnessed=0)
    assert dog.verdict(1.0) is None
    dog.sealed(rows=5, witnessed=0)
    assert dog.verdict(1.0) == "subscription_dead"
    dog.sealed(rows=5, witnessed=1)
    assert dog.verdict(1.0) is None


def test_a_tip_that_stands_still_is_looked_for_elsewhere_and_reported() -> None:
    dog = Watchdog()
    dog.tip(5, 0.0)
    dog.tip(5, 10.0)
    assert not dog.look_elsewhere(TIP_STILL_S_ELSEWHERE - 1)
    assert dog.look_elsewhere(TIP_STILL_S_ELSEWHERE)
    assert not dog.look_elsewhere(TIP_STILL_S_ELSEWHERE + 1), "once in a while, not at every look"
    assert dog.look_elsewhere(2 * TIP_STILL_S_ELSEWHERE)
    assert dog.tip_stands_still(TIP_STILL_S_MAX) == TIP_STILL_S_MAX
    dog.tip(6, TIP_STILL_S_MAX)
    assert dog.tip_stands_still(TIP_STILL_S_MAX + 1) is None
    assert not dog.look_elsewhere(TIP_STILL_S_MAX + 1)
