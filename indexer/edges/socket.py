"""The PubSub edge: one connection, its subscriptions, and the reconnects. It only hands on; what to believe is the core's business.

Per program: logsSubscribe (mentions, confirmed) and programSubscribe (base64, confirmed); once: slotSubscribe, which tells a quiet chain from
a dead socket. Facts: the server never pings and drops laggards without a close frame; notifications are up to megabytes; ids of equal
subscriptions are shared; a receive may block for ever after the peer died, hence the time-out around each.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI, WebSocketException
from websockets.frames import CloseCode

from indexer import metrics
from indexer.core.notifications import Notification
from indexer.core.protocol import Address, Slot
from indexer.core.watchdog import Watchdog
from indexer.edges import parse
from indexer.edges.parse import AccountChange, Garbage
from indexer.log import log
from programs.urls import scrubbed, shown

# The largest notification is an account of 10 MiB in base64.
FRAME_BYTES_MAX = 64 << 20
# Received and not yet looked at: a few suffice, since each is only put away, and each may be as large as that.
FRAMES_WAITING_MAX = 4
ACK_S_MAX = 10.0
RECONNECT_S_MIN = 0.2
RECONNECT_S_MAX = 10.0
CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class Listeners:
    """What to call; each must only enqueue. `subscribed` comes after all acknowledgements of a (re)connection, `lost` when it is over."""

    logs: Callable[[Notification], None]
    account: Callable[[AccountChange], None]
    slot: Callable[[Slot], None]
    subscribed: Callable[[], None]
    lost: Callable[[], None]


class _GiveUp(Exception):
    """Reconnect, for this reason (a metric label)."""


class SocketEdge:
    """Runs until cancelled. Connection trouble is never an error here: sealing goes on over HTTP meanwhile."""

    def __init__(
        self, url: str, programs: Sequence[Address], commitment: str, listeners: Listeners, watchdog: Watchdog
    ) -> None:
        self.connected = False
        self._url = url
        self._programs = tuple(programs)
        self._commitment = commitment
        self._listeners = listeners
        self._watchdog = watchdog
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Connect, subscribe, receive; again after any trouble, with growing pauses."""
        pause = RECONNECT_S_MIN
        while True:
            started = time.monotonic()
            try:
                reason = await self._connection()
            except (OSError, WebSocketException, InvalidHandshake, InvalidURI, TimeoutError, EOFError) as error:
                reason = _reason(error, self.connected)
                text = scrubbed(f"{type(error).__name__}: {error}", self._url)
                log.info("socket_lost", url=shown(self._url), reason=reason, error=text)
            except _GiveUp as given_up:
                reason = str(given_up)
                log.warning("socket_given_up", url=shown(self._url), reason=reason)
            finally:
                was, self.connected = self.connected, False
                self._watchdog.disconnected()
                metrics.SOCKET_UP.set(0)
                if was:
                    self._listeners.lost()
            metrics.SOCKET_DROPS.labels(reason=reason).inc()
            pause = RECONNECT_S_MIN if time.monotonic() - started > 30 else min(pause * 2, RECONNECT_S_MAX)
            await asyncio.sleep(pause * (0.5 + random.random() / 2))

    async def _connection(self) -> str:
        async with connect(
            self._url,
            max_size=FRAME_BYTES_MAX,
            max_queue=FRAMES_WAITING_MAX,
            open_timeout=ACK_S_MAX,
            close_timeout=1,
            ping_interval=20,
            ping_timeout=20,
        ) as socket:
            metrics.SOCKET_CONNECTS.inc()
            await self._receive(socket)
        return "closed"

    async def _receive(self, socket: ClientConnection) -> None:
        requests = self._requests()
        pending = {number: (method, handler) for number, (method, _, handler) in enumerate(requests, start=1)}
        self._refused.clear()
        handlers: dict[int, Callable[[Any], None]] = {}
        for number, (method, params, _) in enumerate(requests, start=1):
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
        asked_at = time.monotonic()
        while True:
            try:
                # Not wait_for: before Python 3.12 it may swallow a cancellation, and this loop would never end.
                async with asyncio.timeout(CHECK_S):
                    text = await socket.recv(decode=False)
            except TimeoutError:
                text = b""
            now = time.monotonic()
            if text:
                metrics.SOCKET_FRAMES.inc()
                self._watchdog.frame(now)
                self._frame(text, pending, handlers)
            if not pending and not self.connected:
                if "logsSubscribe" in self._refused:
                    # Without it the socket neither wakes nor bears witness; the other subscriptions are comfort.
                    raise _GiveUp("subscription_refused")
                self.connected = True
                self._watchdog.connected(now, heartbeat="slotSubscribe" not in self._refused)
                metrics.SOCKET_UP.set(1)
                self._listeners.subscribed()
            if pending and now - asked_at > ACK_S_MAX:
                raise _GiveUp("no_acknowledgement")
            verdict = self._watchdog.verdict(now)
            if verdict is not None:
                raise _GiveUp(verdict)

    def _frame(
        self,
        text: bytes,
        pending: dict[int, tuple[str, Callable[[Any], None]]],
        handlers: dict[int, Callable[[Any], None]],
    ) -> None:
        try:
            frame = parse.frame(text)
            if frame.params is not None:
                handler = handlers.get(frame.params.subscription)
                if handler is not None:
                    handler(frame.params.result)
            elif frame.id in pending:
                method, handler = pending.pop(frame.id)
                if isinstance(frame.result, int):
                    handlers[frame.result] = handler
                else:
                    self._refused.add(method)
                    metrics.SOCKET_REFUSED.labels(method=method).inc()
                    reason = frame.error.message if frame.error else "no subscription id"
                    log.warning(
                        "subscription_refused", url=shown(self._url), method=method, error=scrubbed(reason, self._url)
                    )
        except Garbage as garbage:
            metrics.RPC_GARBAGE.inc()
            log.seldom(5.0, "warning", "socket_garbage", url=shown(self._url), error=scrubbed(str(garbage), self._url))

    def _requests(self) -> list[tuple[str, list[Any], Callable[[Any], None]]]:
        requests: list[tuple[str, list[Any], Callable[[Any], None]]] = []
        level = {"commitment": self._commitment}
        for program in self._programs:
            requests.append(("logsSubscribe", [{"mentions": [program]}, level], self._on_logs))
            # base64: the default encoding replaces data over 128 bytes by an error text.
            requests.append(("programSubscribe", [program, {**level, "encoding": "base64"}], self._on_program(program)))
        requests.append(("slotSubscribe", [], self._on_slot))
        return requests

    def _on_logs(self, raw: Any) -> None:
        self._listeners.logs(parse.logs_notification(raw))

    def _on_program(self, program: Address) -> Callable[[Any], None]:
        return lambda raw: self._listeners.account(parse.program_notification(raw, program))

    def _on_slot(self, raw: Any) -> None:
        self._listeners.slot(parse.slot_notification(raw))


def _reason(error: BaseException, connected: bool) -> str:
    """A metric label."""
    if isinstance(error, ConnectionClosed) and error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
        return "oversized"
    return "closed" if connected else "refused"
