"""The HTTP edge: a small HTTP/1.1 server that hands bodies to the JSON-RPC service and misbehaves as the fault engine wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from programs.devnode.faults import FaultEngine

# The real node's bound on a request body, and ours on a head.
BODY_BYTES_MAX = 50 * 1024
_HEAD_BYTES_MAX = 16 * 1024
_JSON = b"application/json; charset=utf-8"
_TEXT = b"text/plain; charset=utf-8"
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    413: b"Payload Too Large",
    415: b"Unsupported Media Type",
    429: b"Too Many Requests",
}
_RATE_LIMITED = b'{"jsonrpc":"2.0","error":{"code":429,"message":"Too many requests"},"id":1}\n'
_SLOW_PIECES = 5


def _is_json(content_type: bytes) -> bool:
    kind, semicolon, parameter = content_type.lower().partition(b";")
    return kind.strip() == b"application/json" and parameter.strip() in ((b"charset=utf-8",) if semicolon else (b"",))


class HttpConnection(asyncio.Protocol):
    """One client connection: requests are answered one after another, in order."""

    def __init__(
        self, answer: Callable[[bytes], bytes], faults: FaultEngine, open_connections: set[HttpConnection]
    ) -> None:
        self._answer = answer
        self._faults = faults
        self._open = open_connections
        self._buffer = bytearray()
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._pump()

    def _pump(self) -> None:
        while not self._busy and self._transport is not None and self._next_request():
            pass

    def _next_request(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_BYTES_MAX:
                self._refuse(400, b"head too large")
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        body = self._body(headers, end + 4)
        if body is None:
            return False
        parts = lines[0].split(b" ")
        if len(parts) != 3:
            self._refuse(400, b"bad request line")
            return False
        keep = headers.get(b"connection", b"").lower() != b"close" and parts[2] != b"HTTP/1.0"
        self._handle(parts[0], parts[1], headers, body, keep)
        return True

    def _body(self, headers: dict[bytes, bytes], start: int) -> bytes | None:
        """The body when all of it is here, and the buffer moved past it; None when there is more to come or it was refused."""
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            return self._chunked(start)
        try:
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            length = -1
        if length < 0:
            self._refuse(400, b"bad content-length")
            return None
        if length > BODY_BYTES_MAX:
            self._refuse(413, b"request body size exceeds allowed maximum")
            return None
        if len(self._buffer) < start + length:
            if (
                headers.get(b"expect", b"").lower() == b"100-continue"
                and len(self._buffer) == start
                and self._transport
            ):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return body

    def _chunked(self, start: int) -> bytes | None:
        body = bytearray()
        position = start
        while True:
            line_end = self._buffer.find(b"\r\n", position)
            if line_end < 0:
                return None
            try:
                size = int(bytes(self._buffer[position:line_end]).split(b";")[0], 16)
            except ValueError:
                self._refuse(400, b"bad chunk")
                return None
            if size < 0 or len(body) + size > BODY_BYTES_MAX:
                self._refuse(413, b"request body size exceeds allowed maximum")
                return None
            position = line_end + 2
            if len(self._buffer) < position + size + 2:
                return None
            body += self._buffer[position : position + size]
            position += size + 2
            if size == 0:
                del self._buffer[:position]
                return bytes(body)

    def _refuse(self, status: int, words: bytes) -> None:
        self._write(status, words, _TEXT, keep=False)

    def _handle(self, verb: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes, keep: bool) -> None:
        origin = headers.get(b"origin")
        cors = b"access-control-allow-origin: %s\r\n" % origin if origin is not None else b""
        if path.partition(b"?")[0] == b"/health":
            self._write(200, b"ok", b"", keep=keep)
        elif verb == b"OPTIONS":
            allowed = b"allow: OPTIONS, POST\r\naccept: application/json\r\n" + cors
            if cors:
                allowed += b"access-control-allow-methods: OPTIONS, POST\r\naccess-control-allow-headers: *\r\n"
            self._write(200, b"", _JSON, keep=keep, extra=allowed)
        elif verb != b"POST":
            self._write(405, b"Used HTTP Method is not allowed. POST or OPTIONS is required\n", _TEXT, keep=keep)
        elif origin == b"null":
            words = b"Origin of the request is not whitelisted. "
            words += b"CORS headers would not be sent and any side-effects were cancelled as well.\n"
            self._write(403, words, _TEXT, keep=keep)
        elif not _is_json(headers.get(b"content-type", b"")):
            words = b"Supplied content type is not allowed. Content-Type: application/json is required\n"
            self._write(415, words, _TEXT, keep=keep)
        else:
            self._post(body, keep, cors)

    def _post(self, body: bytes, keep: bool, cors: bytes) -> None:
        faults = self._faults
        # The control methods stay reachable whatever is broken.
        if b'"devnode_' in body:
            self._write(200, self._answer(body) + b"\n", _JSON, keep=keep, extra=cors)
            return
        if faults.strikes("http-429"):
            wait = faults.param("http-429", "retry_after_s")
            extra = b"retry-after: %d\r\n" % int(wait) if wait else b""
            self._write(429, b"Too many requests\n", _TEXT, keep=keep, extra=extra)
            return
        if faults.strikes("rpc-429"):
            self._write(200, _RATE_LIMITED, _JSON, keep=keep, extra=cors)
            return
        if faults.strikes("timeouts"):
            self._busy = True
            asyncio.get_running_loop().call_later(faults.param("timeouts", "ms") / 1_000, self.abort)
            return
        reply = self._answer(body)
        if reply:
            reply += b"\n"
        if faults.strikes("garbage"):
            reply = b"<html>" + faults.dice("garbage").randbytes(24).hex().encode() + b"</html>"
        if faults.strikes("cut-bodies"):
            self._cut(reply)
        elif faults.strikes("slow-bodies"):
            self._slowly(reply, keep, cors)
        else:
            self._write(200, reply, _JSON, keep=keep, extra=cors)

    def _head(self, status: int, length: int, kind: bytes, extra: bytes, keep: bool) -> bytes:
        closing = b"" if keep else b"connection: close\r\n"
        content_type = b"content-type: %s\r\n" % kind if kind else b""
        return b"HTTP/1.1 %d %s\r\n%scontent-length: %d\r\n%s%s\r\n" % (
            status,
            _REASONS[status],
            content_type,
            length,
            extra,
            closing,
        )

    def _write(self, status: int, body: bytes, kind: bytes, *, keep: bool, extra: bytes = b"") -> None:
        if self._transport is None:
            return
        self._transport.write(self._head(status, len(body), kind, extra, keep) + body)
        if not keep:
            self._transport.close()
            self._transport = None

    def _cut(self, reply: bytes) -> None:
        if self._transport is None:
            return
        self._busy = True
        self._transport.write(self._head(200, len(reply), _JSON, b"", True) + reply[: len(reply) // 2])
        self._transport.close()

    def _slowly(self, reply: bytes, keep: bool, cors: bytes) -> None:
        if self._transport is None:
            return
        self._busy = True
        self._transport.write(self._head(200, len(reply), _JSON, cors, keep))
        step = max(1, -(-len(reply) // _SLOW_PIECES))
        pieces = [reply[start : start + step] for start in range(0, len(reply), step)]
        self._piece(pieces, self._faults.param("slow-bodies", "ms") / 1_000 / _SLOW_PIECES, keep)

    def _piece(self, pieces: list[bytes], pause_s: float, keep: bool) -> None:
        if self._transport is None:
            return
        if pieces:
            self._transport.write(pieces[0])
            asyncio.get_running_loop().call_later(pause_s, self._piece, pieces[1:], pause_s, keep)
            return
        self._busy = False
        if keep:
            self._pump()
        else:
            self._transport.close()
