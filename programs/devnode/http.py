"""The HTTP edge: hands the bodies of requests to the JSON-RPC service, and misbehaves as the fault engine wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from programs.devnode.faults import FaultEngine
from programs.devnode.http1 import Head, Refused, RequestReader, TooLong

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
    431: b"Request Header Fields Too Large",
}
_RATE_LIMITED = b'{"jsonrpc":"2.0","error":{"code":429,"message":"Too many requests"},"id":1}\n'
_SLOW_PIECES = 5


def _is_json(content_type: bytes) -> bool:
    kind, semicolon, parameter = content_type.lower().partition(b";")
    return kind.strip() == b"application/json" and parameter.strip() in ((b"charset=utf-8",) if semicolon else (b"",))


@dataclass(frozen=True, slots=True)
class _Reply:
    """What is said about a request: `kind` is the content type, `extra` whole header lines."""

    status: int
    body: bytes
    kind: bytes = _TEXT
    extra: bytes = b""


def _cors(head: Head) -> bytes:
    """What a browser is told: everybody may ask, with whatever headers it names."""
    origin = head.first(b"origin")
    if origin is None or origin == b"null":
        return b""
    lines = b"access-control-allow-origin: %s\r\n" % _shown_origin(origin)
    lines += b"access-control-allow-methods: OPTIONS, POST\r\n"
    wanted = head.headers.get(b"access-control-request-headers")
    if wanted is not None:
        names = [name.lstrip() for name in b",".join(wanted).split(b",")]
        lines += b"access-control-allow-headers: %s\r\n" % b", ".join(names)
    return lines + b"access-control-max-age: 86400\r\nvary: origin\r\n"


def _shown_origin(origin: bytes) -> bytes:
    """An origin as the real node's library shows what it has read of it: a scheme, a name, and what stands behind the first colon."""
    scheme, has_scheme, rest = origin.lower().partition(b"://")
    if not has_scheme:
        scheme, rest = b"http", scheme
    name = rest.partition(b"://")[0].partition(b"/")[0]
    return b"%s://%s" % (scheme, b":".join(name.split(b":")[:2]))


def _at_once(head: Head) -> _Reply | None:
    """The reply to a request whose body does not matter; None for one that is to be read."""
    if head.path == b"/health":
        return _Reply(200, b"ok", b"")
    about = b"allow: OPTIONS, POST\r\naccept: application/json\r\n" if head.verb == b"OPTIONS" else b""
    if head.verb not in (b"OPTIONS", b"POST"):
        words = b"Used HTTP Method is not allowed. POST or OPTIONS is required\n"
        return _Reply(405, words, extra=_cors(head))
    if head.first(b"origin") == b"null":
        words = b"Origin of the request is not whitelisted. "
        words += b"CORS headers would not be sent and any side-effects were cancelled as well.\n"
        return _Reply(403, words, extra=about)
    if head.verb == b"OPTIONS":
        return _Reply(200, b"", _JSON, about + _cors(head))
    if not _is_json(head.first(b"content-type") or b""):
        words = b"Supplied content type is not allowed. Content-Type: application/json is required\n"
        return _Reply(415, words, extra=_cors(head))
    return None


class HttpConnection(asyncio.Protocol):
    """One client connection: requests are answered one after another, in order."""

    def __init__(
        self, answer: Callable[[bytes], bytes], faults: FaultEngine, open_connections: set[HttpConnection]
    ) -> None:
        self._answer = answer
        self._faults = faults
        self._open = open_connections
        self._reader = RequestReader()
        # The head of the request whose body is awaited.
        self._head: Head | None = None
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
        self._reader.feed(data)
        self._pump()

    def _pump(self) -> None:
        while not self._busy and self._transport is not None and self._next_request():
            pass

    def _next_request(self) -> bool:
        if self._head is None:
            found = self._reader.head()
            if isinstance(found, Refused):
                self._refuse(found)
            if not isinstance(found, Head):
                return False
            self._head = found
            if found.waits and not self._go_on(found):
                return False
        head, body = self._head, self._reader.body()
        if body is None:
            return False
        self._head = None
        if isinstance(body, Refused):
            self._refuse(body)
            return False
        reply = _at_once(head)
        if isinstance(body, TooLong):
            too_long = _Reply(413, b"request body size exceeds allowed maximum", extra=_cors(head))
            # A body that nobody wants is read no further.
            self._say(head, reply or too_long, keep=body.is_over and reply is None)
        elif reply is not None:
            self._say(head, reply)
        else:
            self._post(head, body)
        return True

    def _go_on(self, head: Head) -> bool:
        """Tell a client that waits to send its body; or, where that is not wanted, what else there is to say, and hang up."""
        assert self._transport is not None
        reply = _at_once(head)
        if reply is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True
        self._say(head, reply, keep=False)
        return False

    def _refuse(self, refused: Refused) -> None:
        if self._transport is None:
            return
        if refused.status:
            reason = _REASONS[refused.status]
            self._transport.write(b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\n\r\n" % (refused.status, reason))
        self._close()

    def _post(self, head: Head, body: bytes) -> None:
        faults, extra = self._faults, _cors(head)
        # The control methods stay reachable whatever is broken.
        if b'"devnode_' in body:
            self._say(head, _Reply(200, self._answer(body) + b"\n", _JSON, extra))
            return
        if faults.strikes("http-429"):
            wait = faults.param("http-429", "retry_after_s")
            after = b"retry-after: %d\r\n" % int(wait) if wait else b""
            self._say(head, _Reply(429, b"Too many requests\n", extra=after))
            return
        if faults.strikes("rpc-429"):
            self._say(head, _Reply(200, _RATE_LIMITED, _JSON, extra))
            return
        if faults.strikes("timeouts"):
            self._busy = True
            asyncio.get_running_loop().call_later(faults.param("timeouts", "ms") / 1_000, self.abort)
            return
        reply = self._reply(body, extra)
        if faults.strikes("garbage"):
            junk = b"<html>" + faults.dice("garbage").randbytes(24).hex().encode() + b"</html>"
            reply = _Reply(200, junk, _JSON, extra)
        if faults.strikes("cut-bodies"):
            self._cut(head, reply)
        elif faults.strikes("slow-bodies"):
            self._slowly(head, reply)
        else:
            self._say(head, reply)

    def _reply(self, body: bytes, extra: bytes) -> _Reply:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            words = b"utf-8 encoding error at byte %d in request body" % error.start
            return _Reply(400, words, extra=extra)
        answer = self._answer(body)
        return _Reply(200, answer + b"\n" if answer else b"", _JSON, extra)

    # --- writing ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _written_head(head: Head, reply: _Reply, keep: bool) -> bytes:
        connection = b""
        if reply.kind and head.first(b"connection") == b"close":
            connection = b"connection: close\r\n"
        elif keep and head.version == b"HTTP/1.0":
            connection = b"connection: keep-alive\r\n"
        content_type = b"content-type: %s\r\n" % reply.kind if reply.kind else b""
        return b"%s %d %s\r\n%scontent-length: %d\r\n%s%s\r\n" % (
            head.version,
            reply.status,
            _REASONS[reply.status],
            content_type,
            len(reply.body),
            reply.extra,
            connection,
        )

    def _say(self, head: Head, reply: _Reply, *, keep: bool = True) -> None:
        if self._transport is None:
            return
        keep = keep and head.keeps
        body = b"" if head.verb == b"HEAD" else reply.body
        self._transport.write(self._written_head(head, reply, keep) + body)
        if not keep:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _cut(self, head: Head, reply: _Reply) -> None:
        if self._transport is None:
            return
        self._busy = True
        self._transport.write(self._written_head(head, reply, True) + reply.body[: len(reply.body) // 2])
        self._transport.close()

    def _slowly(self, head: Head, reply: _Reply) -> None:
        if self._transport is None:
            return
        self._busy = True
        self._transport.write(self._written_head(head, reply, head.keeps))
        step = max(1, -(-len(reply.body) // _SLOW_PIECES))
        pieces = [reply.body[start : start + step] for start in range(0, len(reply.body), step)]
        self._piece(pieces, self._faults.param("slow-bodies", "ms") / 1_000 / _SLOW_PIECES, head.keeps)

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
