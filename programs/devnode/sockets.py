"""The WebSocket edge: frames in, frames out, and the ways in which a real node leaves its clients.

Notifications are framed once and written to every subscriber's transport as they are; the library does the handshake, the close and
what comes in. Like the real node this one never pings, takes no frame above 4,096 bytes, and drops a client that falls behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from itertools import count

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from programs.devnode.pubsub import Delivery, PubSub

FRAME_BYTES_MAX = 4_096
# Bytes that may wait in one client's socket before it counts as lagging.
_BACKLOG_BYTES_MAX = 16 * 1024 * 1024
_SILENT = logging.Logger("programs.devnode.sockets", logging.CRITICAL + 1)


def text_frame(payload: bytes) -> bytes:
    """An unmasked text frame, as a server sends it (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def _is_text(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


class Backlog:
    """Which of the frames that were given to a transport still wait in it. No I/O: sizes in, counts out."""

    def __init__(self) -> None:
        # Where each waiting frame ends, counted in bytes from the first one that ever waited.
        self._ends: deque[int] = deque()
        self._given = 0

    def waiting(self, buffered: int) -> int:
        """Frames of which not every byte has left, when so many bytes wait in the transport."""
        if not buffered:
            self._ends.clear()
        gone = self._given - buffered
        while self._ends and self._ends[0] <= gone:
            self._ends.popleft()
        return len(self._ends)

    def give(self, sizes: Iterable[int]) -> None:
        """Frames of these sizes were written."""
        for size in sizes:
            self._given += size
            self._ends.append(self._given)


class SocketEdge:
    """All WebSocket clients of a node."""

    def __init__(self, pubsub: PubSub, queue_items_max: int) -> None:
        self._pubsub = pubsub
        self._queue_items_max = queue_items_max
        self._clients: dict[int, ServerConnection] = {}
        self._backlogs: dict[int, Backlog] = {}
        self._deaf: set[int] = set()
        self._ids = count()
        self._server: Server | None = None
        self.lagging_dropped = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. OSError when it is taken."""
        self._server = await serve(
            self._client,
            host,
            port,
            compression=None,
            ping_interval=None,
            max_size=None,
            close_timeout=1,
            server_header=None,
            # It would tell of every stranger at the door, with a trace.
            logger=_SILENT,
        )
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def stop(self) -> None:
        """Cut every client and stop listening."""
        if self._server is not None:
            self._server.close(close_connections=False)
            self.drop_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 2)

    async def _client(self, connection: ServerConnection) -> None:
        number = next(self._ids)
        self._clients[number] = connection
        try:
            async for frame in connection:
                if len(frame) > FRAME_BYTES_MAX:
                    connection.transport.abort()
                    return
                if isinstance(frame, bytes) and not _is_text(frame):
                    connection.transport.abort()
                    return
                reply, due = self._pubsub.answer(number, frame)
                if reply:
                    await connection.send(reply.decode())
                self.deliver(due)
        except ConnectionClosed:
            pass
        finally:
            self._clients.pop(number, None)
            self._backlogs.pop(number, None)
            self._deaf.discard(number)
            self._pubsub.forget(number)

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Write notifications: all of one burst to a client in one go; a client that cannot take them is dropped without a close frame."""
        loop = asyncio.get_running_loop()
        bursts: dict[int, list[bytes]] = {}
        for delivery in deliveries:
            if delivery.delay_ms > 0:
                now = Delivery(delivery.connections, delivery.payload, delivery.slot)
                loop.call_later(delivery.delay_ms / 1_000, self.deliver, [now])
                continue
            frame = text_frame(delivery.payload)
            for number in delivery.connections:
                bursts.setdefault(number, []).append(frame)
        for number, frames in bursts.items():
            self._burst(number, frames)

    def _burst(self, number: int, frames: list[bytes]) -> None:
        client = self._clients.get(number)
        # A client that said goodbye may linger: its transport takes nothing any more, though it is open.
        if client is None or number in self._deaf or client.state is not State.OPEN or client.transport.is_closing():
            return
        buffered = client.transport.get_write_buffer_size()
        backlog = self._backlogs.setdefault(number, Backlog())
        if backlog.waiting(buffered) + len(frames) > self._queue_items_max or buffered > _BACKLOG_BYTES_MAX:
            self.lagging_dropped += 1
            client.transport.abort()
            return
        client.transport.write(b"".join(frames))
        if client.transport.get_write_buffer_size():
            backlog.give(map(len, frames))

    def drop_all(self) -> None:
        """Cut every client without a close frame."""
        for client in list(self._clients.values()):
            client.transport.abort()

    def close_all(self) -> None:
        """Close every client with a close frame (1001)."""
        for client in list(self._clients.values()):
            task = asyncio.ensure_future(client.close(1001, "going away"))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def deafen_all(self) -> None:
        """From now on today's clients hear nothing, though their sockets stay open."""
        self._deaf.update(self._clients)

    def hear_again(self) -> None:
        """Undo `deafen_all`."""
        self._deaf.clear()

    @property
    def clients(self) -> int:
        """Open connections."""
        return len(self._clients)
