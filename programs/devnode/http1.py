"""HTTP/1.x requests as the real node's server reads them: what it takes, what it refuses, and what it hangs up on. No I/O.

Bytes go in by `feed`; `head` gives the next request's head, and `body`, once that head was given, what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# The real node's bound on a request body, and its server's on a head.
BODY_BYTES_MAX = 50 * 1024
HEAD_BYTES_MAX = 400 * 1024
_HEADERS_MAX = 100
_U64_MAX = (1 << 64) - 1
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) (HTTP/1\.[01])" % _TOKEN)
_WHOLE_ADDRESS = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?]*")
_HEADER = re.compile(rb"(%s):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)[ \t]*" % _TOKEN)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,300})[ \t]*(?:;[^\r\n]*)?\r")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HTTP2 = b"PRI * HTTP/2.0"
# A chunk's size with its extension, or one line of a trailer; what is longer ends the connection.
_LINE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request. Names of headers are in lower case."""

    verb: bytes
    target: bytes
    version: bytes
    headers: Mapping[bytes, list[bytes]]
    # None: in chunks.
    length: int | None

    @property
    def path(self) -> bytes:
        """The target without its query; without the server's name, too, where a client speaks as to a proxy."""
        return _WHOLE_ADDRESS.sub(b"", self.target, count=1).partition(b"?")[0]

    def first(self, name: bytes) -> bytes | None:
        """The value of the first header of this name."""
        values = self.headers.get(name)
        return None if values is None else values[0]

    @property
    def keeps(self) -> bool:
        """Whether the client wants the connection to stay."""
        words = {word.strip() for word in b",".join(self.headers.get(b"connection", [])).lower().split(b",")}
        return b"close" not in words and (self.version != b"HTTP/1.0" or b"keep-alive" in words)

    @property
    def waits(self) -> bool:
        """Whether the client sends the body only when it is told to go on."""
        return (self.first(b"expect") or b"").lower() == b"100-continue" and self.length != 0


@dataclass(frozen=True, slots=True)
class Refused:
    """What cannot be read any further: the status to answer with, or 0 to hang up without a word."""

    status: int


@dataclass(frozen=True, slots=True)
class TooLong:
    """A body beyond the bound. `is_over`: all of it has come, and the connection can go on."""

    is_over: bool


class RequestReader:
    """The requests of one connection, one after another."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Up to here there is no end of a head in it.
        self._scanned = 0
        self._head: Head | None = None
        # Of a body in chunks: what was decoded so far, and where in the buffer to go on.
        self._chunks = bytearray()

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        self._buffer += data

    # --- heads -----------------------------------------------------------------------------------------------------

    def head(self) -> Head | Refused | None:
        """The next head; None while it is not whole. Every head is followed by a call of `body`."""
        buffer = self._buffer
        # Empty lines before a request are nothing.
        while buffer[:1] == b"\n" or buffer[:2] == b"\r\n":
            del buffer[: 1 if buffer[:1] == b"\n" else 2]
        end = _HEAD_END.search(buffer, max(0, self._scanned - 3))
        self._scanned = len(buffer) if end is None else 0
        if end is None:
            return self._begun()
        lines = [line.removesuffix(b"\r") for line in bytes(buffer[: end.start()]).split(b"\n")]
        if lines[0] == _HTTP2:
            return Refused(0)
        if end.end() > HEAD_BYTES_MAX or len(lines) > _HEADERS_MAX + 1:
            return Refused(431)
        del buffer[: end.end()]
        found = _head(lines)
        if isinstance(found, Head):
            self._head, self._chunks = found, bytearray()
        return found

    def _begun(self) -> Refused | None:
        """What can be said of a head that is not whole."""
        if len(self._buffer) > HEAD_BYTES_MAX:
            return Refused(431)
        if bytes(self._buffer[:2]) in (b"", b"\r"):
            return None
        line, has_end, _ = bytes(self._buffer[:_LINE_BYTES_MAX]).partition(b"\n")
        line = line.removesuffix(b"\r")
        # A first byte that no request line begins with decides, TLS's for one; or the whole line.
        is_wrong = has_end and line != _HTTP2 and not _REQUEST_LINE.fullmatch(line)
        return Refused(400) if is_wrong or not re.match(_TOKEN, self._buffer[:1]) else None

    # --- bodies ----------------------------------------------------------------------------------------------------

    def body(self) -> bytes | TooLong | Refused | None:
        """The body of the last head; None while it is not whole."""
        assert self._head is not None
        return self._chunked() if self._head.length is None else self._sized(self._head.length)

    def _sized(self, length: int) -> bytes | TooLong | None:
        is_over = len(self._buffer) >= length
        if length > BODY_BYTES_MAX:
            if len(self._buffer) <= BODY_BYTES_MAX:
                return None
            del self._buffer[:length]
            return TooLong(is_over)
        if not is_over:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _chunked(self) -> bytes | TooLong | Refused | None:
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\n")
            if line_end < 0:
                return Refused(0) if len(buffer) > _LINE_BYTES_MAX else None
            match = _CHUNK_SIZE.fullmatch(bytes(buffer[:line_end]))
            size = -1 if match is None else int(match[1], 16)
            if not 0 <= size <= _U64_MAX:
                return Refused(0)
            if size == 0:
                return self._trailed(line_end + 1)
            if len(self._chunks) + min(size, len(buffer) - line_end - 1) > BODY_BYTES_MAX:
                return TooLong(False)
            end = line_end + 1 + size
            if len(buffer) < end + 2:
                return None
            if buffer[end : end + 2] != b"\r\n":
                return Refused(0)
            self._chunks += buffer[line_end + 1 : end]
            del buffer[: end + 2]

    def _trailed(self, start: int) -> bytes | Refused | None:
        """After the last chunk: lines of a trailer, which nobody reads, up to an empty one."""
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\n", start)
            if line_end < 0:
                return Refused(0) if len(buffer) - start > _LINE_BYTES_MAX else None
            if bytes(buffer[start:line_end]).removesuffix(b"\r") == b"":
                del buffer[: line_end + 1]
                return bytes(self._chunks)
            start = line_end + 1


def _head(lines: list[bytes]) -> Head | Refused:
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        return Refused(400)
    verb, target, version = request.groups()
    headers: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            return Refused(400)
        headers.setdefault(header[1].lower(), []).append(header[2])
    length = _length(version, set(headers.get(b"content-length", ())), headers.get(b"transfer-encoding", []))
    return length if isinstance(length, Refused) else Head(verb, target, version, headers, length)


def _length(version: bytes, lengths: set[bytes], codings: list[bytes]) -> int | Refused | None:
    """Bytes of the body, None for chunks. Two lengths that differ, and encodings that do not end in chunks, are refused."""
    if codings:
        is_chunked = codings[-1].lower().rpartition(b",")[2].strip() == b"chunked"
        return None if is_chunked and version != b"HTTP/1.0" else Refused(400)
    if not lengths:
        return 0
    value = next(iter(lengths))
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", value) or int(value[:30]) > _U64_MAX:
        return Refused(400)
    return int(value)
