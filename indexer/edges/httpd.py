"""The daemon's small HTTP server: /metrics, /healthz, /readyz, /status. GET only, loopback by default, no framework."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from indexer import metrics
from programs.errors import UserError

REQUEST_BYTES_MAX = 8192
REQUEST_S_MAX = 5.0
CONNECTIONS_MAX = 64

Answer = tuple[int, str, bytes]
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class HttpServer:
    """Serves until closed. `ready` gives the reasons why not (empty: ready); `status` the document of `indexer status --json`."""

    def __init__(
        self, ready: Callable[[], list[dict[str, Any]]], status: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        self._ready = ready
        self._status = status
        self._server: asyncio.Server | None = None
        # Oldest first.
        self._open: dict[asyncio.StreamWriter, None] = {}
        self.port = 0
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listen. UserError (exit code 2) when the address can't be had."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"INDEXER_METRICS_HOST = {host!r} is no address of this machine ({error.strerror}); give one that is, or 127.0.0.1"
                ) from None
            raise UserError(
                f"INDEXER_METRICS_PORT = {port}: {host}:{port} can't be listened on ({error.strerror}); choose a free port, or 0"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = url_of(host, self.port)

    async def close(self) -> None:
        """Stop listening; requests under way are cut."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            # Whoever holds so many connections must not keep the probes waiting, on which the process's life depends.
            next(iter(self._open)).transport.abort()
            metrics.HTTP_CUT.inc()
        self._open[writer] = None
        metrics.HTTP_CONNECTIONS.set(len(self._open))
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
            status, kind, body = await self._answer(head)
            allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
            writer.write(
                f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}"
                "Connection: close\r\n\r\n".encode()
                + (b"" if head.startswith(b"HEAD ") else body)
            )
            async with asyncio.timeout(REQUEST_S_MAX):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or never spoke
        except asyncio.CancelledError:
            pass  # the end of the process; before Python 3.12 the streams would print a trace of it
        finally:
            self._open.pop(writer, None)
            metrics.HTTP_CONNECTIONS.set(len(self._open))
            writer.close()

    async def _answer(self, head: bytes) -> Answer:
        parts = head.split(b"\r\n", 1)[0].split()
        if len(parts) != 3:
            return _json(400, {"error": "not an HTTP request"})
        if parts[0] not in (b"GET", b"HEAD"):
            return _json(405, {"error": "GET only"})
        path = parts[1].split(b"?", 1)[0]
        if path == b"/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        if path == b"/healthz":
            return _json(200, {"alive": True})
        if path == b"/readyz":
            reasons = self._ready()
            return _json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})
        if path == b"/status":
            try:
                return _json(200, await self._status())
            except Exception as error:
                return _json(503, {"error": f"the status can't be read: {type(error).__name__}"})
        return _json(404, {"error": "there are /metrics, /healthz, /readyz and /status"})


def url_of(host: str, port: int) -> str:
    """The address of version 6 in brackets, as URLs want it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _json(status: int, document: dict[str, Any]) -> Answer:
    return status, "application/json", json.dumps(document, default=str).encode() + b"\n"
