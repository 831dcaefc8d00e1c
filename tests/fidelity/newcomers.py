"""What a newcomer's tools send, as bytes on a connection: odd heads, bodies in pieces, the wrong port, a browser's questions.

Each conversation is a list of pieces; after each the node's bytes are read until it is quiet or has closed. What is compared: the replies
(status, telling headers, body) in their order, and whether the connection ended.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from tests.fidelity.world import World

_CALL = b'{"jsonrpc":"2.0","id":1,"method":"getHealth"}'
_OTHER = b'{"jsonrpc":"2.0","id":2,"method":"getGenesisHash"}'
# Parts of a reply's head that a client may look at.
_HEADERS = (
    *("content-type", "connection", "allow", "accept", "content-length", "transfer-encoding", "content-encoding"),
    *("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers", "location"),
    *("access-control-max-age", "access-control-allow-credentials", "vary", "upgrade"),
)
_QUIET_SECONDS = 0.25
_CONNECT_SECONDS = 10.0
_EXPECTED_SECONDS = 5.0
_OF_THE_MOMENT = frozenset({"genesis archive", "snapshot archive", "supply"})
_AT_ONCE = 12
Conversation = tuple[bytes, ...]


def _post(body: bytes = _CALL, *lines: bytes, line: bytes = b"POST / HTTP/1.1", length: int | None = None) -> bytes:
    """A POST as most tools write it: these header lines, then the length and the body."""
    head = [line, b"host: 127.0.0.1", b"content-type: application/json", *lines]
    if length is None or length >= 0:
        head.append(b"content-length: %d" % (len(body) if length is None else length))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


def _chunks(raw: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + raw


def _get(target: bytes, *lines: bytes, verb: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"%s %s %s" % (verb, target, version), b"host: 127.0.0.1", *lines]) + b"\r\n\r\n"


_CURL = (b"user-agent: curl/8.5.0", b"accept: */*")
_WALLET = b"origin: http://localhost:3000"
_UPGRADE = (
    b"upgrade: websocket",
    b"connection: Upgrade",
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    b"sec-websocket-version: 13",
)
_FORM = b"POST / HTTP/1.1\r\nhost: x\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\ncontent-type: application/x-www-form-urlencoded\r\n"
_SPLIT = _post()
_BIG = 60_000

HTTP: dict[str, Conversation] = {
    # curl and its like
    "curl -d without a header": (_FORM + b"content-length: %d\r\n\r\n%s" % (len(_CALL), _CALL),),
    "curl --json": (_post(_CALL, *_CURL, b"accept: application/json"),),
    "curl without a body": (_post(b"", *_CURL),),
    "curl -X GET with a body": (_post(_CALL, *_CURL, line=b"GET / HTTP/1.1"),),
    "curl -I": (_get(b"/", *_CURL, verb=b"HEAD"),),
    "curl --http1.0": (_post(_CALL, *_CURL, line=b"POST / HTTP/1.0"),),
    "1.0 that wants to stay": (_post(_CALL, b"connection: keep-alive", line=b"POST / HTTP/1.0"), _post()),
    "1.0 without a host": (b"POST / HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: 45\r\n\r\n" + _CALL,),
    "1.0 get of health": (_get(b"/health", version=b"HTTP/1.0"),),
    "curl --http2": (
        _post(
            _CALL, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"
        ),
    ),
    "curl --http2-prior-knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
    "curl -k https": (bytes.fromhex("16030100c8010000c40303") + bytes(64),),
    "curl --data-binary @file in gzip": (_post(gzip.compress(_CALL, mtime=0), b"content-encoding: gzip"),),
    "curl --compressed": (_post(_CALL, b"accept-encoding: deflate, gzip, br, zstd"),),
    "curl with a range": (_post(_CALL, b"range: bytes=0-3"),),
    "curl with a password": (_post(_CALL, b"authorization: Basic dTpw"),),
    # bodies in pieces
    "head and body apart": (_SPLIT[: -len(_CALL)], _CALL),
    "one byte, then the rest": (_SPLIT[:1], _SPLIT[1:]),
    "body in three pieces": (_SPLIT[:-30], _SPLIT[-30:-10], _SPLIT[-10:]),
    "one chunk": (_chunked(_CALL),),
    "two chunks": (_chunked(_CALL[:10], _CALL[10:]),),
    "a chunk a byte": (_chunked(*(_CALL[at : at + 1] for at in range(len(_CALL)))),),
    "chunks with an extension": (_chunks(b"2d;name=value\r\n" + _CALL + b"\r\n0;x\r\n\r\n"),),
    "chunks with a trailer": (_chunked(_CALL, trailers=b"x-check: 1\r\n"),),
    "chunk sizes with zeros": (_chunks(b"00002D\r\n" + _CALL + b"\r\n000\r\n\r\n"),),
    "chunks and a second request": (_chunked(_CALL) + _post(_OTHER),),
    "a chunk that is no size": (_chunks(b"zz\r\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "a chunk of a negative size": (_chunks(b"-2d\r\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "a chunk without its end": (_chunks(b"2d\r\n" + _CALL + b"XX0\r\n\r\n"),),
    "too many bytes in chunks": (_chunked(*[b" " * 10_000] * 6),),
    "the largest body in chunks": (_chunked(_CALL, *[b" " * 10_231] * 5),),
    "chunks under a capital name": (_chunked(_CALL).replace(b"chunked", b"Chunked"),),
    "chunks inside of gzip": (_chunked(_CALL).replace(b"chunked", b"gzip, chunked"),),
    "identity encoding": (_post(_CALL, b"transfer-encoding: identity"),),
    # expectations
    "expect 100-continue": (_post(b"", b"expect: 100-continue", length=len(_CALL)), _CALL),
    "expect 100-continue, not waiting": (_post(_CALL, b"expect: 100-continue"),),
    "expect 100-continue in capitals": (_post(b"", b"Expect: 100-Continue", length=len(_CALL)), _CALL),
    "expect 100-continue, too long": (_post(b"", b"expect: 100-continue", length=_BIG),),
    "expect 100-continue, no json": (
        b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 45\r\n\r\n",
        _CALL,
    ),
    "expect 100-continue in chunks": (
        _chunks(b"").replace(b"host: x", b"host: x\r\nexpect: 100-continue"),
        b"2d\r\n" + _CALL + b"\r\n0\r\n\r\n",
    ),
    "expect something else": (_post(_CALL, b"expect: 200-maybe"),),
    # one connection, many requests
    "two at once": (_post() + _post(_OTHER),),
    "five at once": (b"".join(_post(_CALL.replace(b"1,", b"%d," % n)) for n in range(5)),),
    "a get between two": (_post() + _get(b"/health") + _post(_OTHER),),
    "a get of nothing between two": (_post() + _get(b"/") + _post(_OTHER),),
    "a wrong type between two": (_post() + _post().replace(b"application/json", b"text/plain") + _post(_OTHER),),
    "an oversized one between two": (_post() + _post(b" " * _BIG) + _post(_OTHER),),
    "a closing one before another": (_post(_CALL, b"connection: close") + _post(_OTHER),),
    "a closing one in capitals": (_post(_CALL, b"Connection: Close") + _post(_OTHER),),
    "keep-alive and close": (_post(_CALL, b"connection: keep-alive, close") + _post(_OTHER),),
    "one after the other": (_post(), _post(_OTHER), _post()),
    "a head request, then another": (_get(b"/health", verb=b"HEAD") + _post(_OTHER),),
    "an empty line before": (b"\r\n" + _post(),),
    "an empty line between": (_post() + b"\r\n" + _post(_OTHER),),
    "garbage behind": (_post() + b"garbage\r\n\r\n",),
    # lengths
    "no length": (_post(_CALL, length=-1),),
    "length too small": (_post(_CALL, length=10),),
    "length zero": (_post(b"", length=0),),
    "length too large": (_post(_CALL, length=_BIG),),
    "length no number": (_post().replace(b"content-length: 45", b"content-length: many"),),
    "length negative": (_post().replace(b"content-length: 45", b"content-length: -1"),),
    "length with a plus": (_post().replace(b"content-length: 45", b"content-length: +45"),),
    "length with underscores": (_post().replace(b"content-length: 45", b"content-length: 4_5"),),
    "length enormous": (_post().replace(b"content-length: 45", b"content-length: 99999999999999999999"),),
    "length twice the same": (_post(_CALL, b"content-length: 45"),),
    "length twice another": (_post(_CALL, b"content-length: 44"),),
    "length and chunks": (_chunked(_CALL).replace(b"host: x", b"host: x\r\ncontent-length: 45"),),
    # heads
    "lower-case verb": (_post(line=b"post / HTTP/1.1"),),
    "unknown verb": (_post(line=b"BREW / HTTP/1.1"),),
    "no verb at all": (b"hello\r\n\r\n",),
    "no version": (b"POST /\r\ncontent-type: application/json\r\ncontent-length: 45\r\n\r\n" + _CALL,),
    "version 1.2": (_post(line=b"POST / HTTP/1.2"),),
    "version 2.0": (_post(line=b"POST / HTTP/2.0"),),
    "lower-case version": (_post(line=b"POST / http/1.1"),),
    "two spaces": (_post(line=b"POST  / HTTP/1.1"),),
    "a tab": (_post(line=b"POST\t/ HTTP/1.1"),),
    "a space in the path": (_post(line=b"POST /a b HTTP/1.1"),),
    "an empty path": (_post(line=b"POST  HTTP/1.1"),),
    "a whole address": (_post(line=b"POST http://example.org:8899/x HTTP/1.1"),),
    "an asterisk": (_post(line=b"OPTIONS * HTTP/1.1"),),
    "connect": (_get(b"example.org:443", verb=b"CONNECT"),),
    "trace": (_get(b"/", verb=b"TRACE"),),
    "no host": (_post().replace(b"host: 127.0.0.1\r\n", b""),),
    "two hosts": (_post(_CALL, b"host: example.org"),),
    "another host": (_post().replace(b"host: 127.0.0.1", b"host: evil.example.org"),),
    "line feeds only": (_post().replace(b"\r\n", b"\n"),),
    "a header without a colon": (_post(_CALL, b"nonsense"),),
    "a header with a space before the colon": (_post(_CALL, b"x-one : 1"),),
    "a header without a name": (_post(_CALL, b": 1"),),
    "a header without a value": (_post(_CALL, b"x-one:"),),
    "a folded header": (_post(_CALL, b"x-one: 1\r\n two"),),
    "a header in utf-8": (_post(_CALL, "x-one: é".encode()),),
    "a header with a null": (_post(_CALL, b"x-one: \0"),),
    "a name in utf-8": (_post(_CALL, "x-é: 1".encode()),),
    "100 more headers": (_post(_CALL, *(b"x-%d: 1" % n for n in range(100))),),
    "90 more headers": (_post(_CALL, *(b"x-%d: 1" % n for n in range(90))),),
    "a header of 20,000 bytes": (_post(_CALL, b"x-one: " + b"x" * 20_000),),
    "a path of 5,000 bytes": (_post(line=b"POST /" + b"x" * 5_000 + b" HTTP/1.1"),),
    "content type twice": (_post(_CALL, b"content-type: text/plain"),),
    "a byte-order mark": (_post(b"\xef\xbb\xbf" + _CALL),),
    "utf-16": (_post(_CALL.decode().encode("utf-16")),),
    "only a part, then silence": (_SPLIT[:40],),
    # a browser and its wallet
    "browser": (_get(b"/", b"accept: text/html,application/xhtml+xml", b"upgrade-insecure-requests: 1"),),
    "favicon": (_get(b"/favicon.ico"),),
    "wallet asks first": (
        _get(
            b"/",
            _WALLET,
            b"access-control-request-method: POST",
            b"access-control-request-headers: content-type,solana-client",
            verb=b"OPTIONS",
        ),
        _post(_CALL, _WALLET, b"solana-client: js/1.0.0"),
    ),
    "wallet asks for a private network": (
        _get(
            b"/",
            b"origin: https://app.example.org",
            b"access-control-request-method: POST",
            b"access-control-request-private-network: true",
            verb=b"OPTIONS",
        ),
    ),
    "wallet asks without a verb": (_get(b"/", _WALLET, verb=b"OPTIONS"),),
    "wallet asks without an origin": (_get(b"/", b"access-control-request-method: POST", verb=b"OPTIONS"),),
    "wallet asks from a file": (_get(b"/", b"origin: null", b"access-control-request-method: POST", verb=b"OPTIONS"),),
    "wallet asks with an empty origin": (
        _get(b"/", b"origin:", b"access-control-request-method: POST", verb=b"OPTIONS"),
    ),
    "post with an empty origin": (_post(_CALL, b"origin:"),),
    **{
        f"post from {origin}": (_post(_CALL, b"origin: " + origin.encode()),)
        for origin in (
            *("HTTP://Example.ORG", "http://example.org:80/path?x", "example.org:8080", "https://u:p@example.org"),
            *("http://[::1]:3000", "*", "Null", "http://null", "file://", "http://a.example, http://b.example"),
            *("http://example.org/", "http://", "://x", "moz-extension://a-b", "http://example.org:port"),
        )
    },
    "two origins": (_post(_CALL, _WALLET, b"origin: http://example.org"),),
    "wallet asks for nothing": (_get(b"/", _WALLET, b"access-control-request-headers:", verb=b"OPTIONS"),),
    "wallet asks for odd headers": (
        _get(b"/", _WALLET, b"access-control-request-headers: X-One ,,x two, Content-Type", verb=b"OPTIONS"),
    ),
    "wallet asks twice": (
        _get(
            b"/",
            _WALLET,
            b"access-control-request-headers: x-one",
            b"access-control-request-headers: x-two",
            verb=b"OPTIONS",
        ),
    ),
    "wallet names headers while it posts": (_post(_CALL, _WALLET, b"access-control-request-headers: x-one"),),
    "headers are asked for without an origin": (_get(b"/", b"access-control-request-headers: x-one", verb=b"OPTIONS"),),
    "put with an origin": (_get(b"/", _WALLET, verb=b"PUT"),),
    "options and close": (_get(b"/", _WALLET, b"connection: close", verb=b"OPTIONS"),),
    "get and close": (_get(b"/", b"connection: close"),),
    "get health and close": (_get(b"/health", b"connection: close"),),
    "no json and close": (_post(b"{", b"connection: close"),),
    "wrong type and close": (_post(_CALL, b"connection: close").replace(b"application/json", b"text/plain"),),
    "oversized and close": (_post(b" " * _BIG, b"connection: close"),),
    "null origin and close": (_post(_CALL, b"origin: null", b"connection: close"),),
    "1.0 and close": (_post(_CALL, b"connection: close", line=b"POST / HTTP/1.0"),),
    "1.0 get that wants to stay": (_get(b"/health", b"connection: Keep-Alive", version=b"HTTP/1.0"),),
    "1.0 in chunks": (_chunked(_CALL).replace(b"HTTP/1.1", b"HTTP/1.0"),),
    "1.0 that expects to go on": (_post(_CALL, b"expect: 100-continue", line=b"POST / HTTP/1.0"),),
    "expects to go on without a body": (_post(b"", b"expect: 100-continue"),),
    "get that expects to go on": (_get(b"/", b"expect: 100-continue", b"content-length: 45"), _CALL),
    "get with a body that is too long": (_post(b" " * _BIG, line=b"GET / HTTP/1.1"), _post(_OTHER)),
    "bytes that are no text": (_post(b'{"jsonrpc":"2.0","id":"\xff\xfe"}'),),
    "bytes that are no text, in chunks": (_chunked(b'{"jsonrpc":', b'"2.0","id":"\xc3', b'\xa9\xff"}'),),
    "bytes that are no text, with an origin": (_post(b"\xff", _WALLET),),
    "a chunk size with spaces": (_chunks(b"2d  \r\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "a chunk size with line feeds": (_chunks(b"2d\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "an empty chunk size": (_chunks(b"\r\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "an enormous chunk": (_chunks(b"ffffffffffffffff\r\n" + _CALL),),
    "a chunk size of 17 digits": (_chunks(b"0000000000000002d\r\n" + _CALL + b"\r\n0\r\n\r\n"),),
    "a trailer that is no header": (_chunked(_CALL, trailers=b"nonsense\r\n"),),
    "two codings": (_chunked(_CALL).replace(b"host: x", b"host: x\r\ntransfer-encoding: gzip"),),
    "length zero and chunks": (_chunked(_CALL).replace(b"host: x", b"host: x\r\ncontent-length: 0"),),
    "length with leading zeros": (_post().replace(b"content-length: 45", b"content-length: 0045"),),
    "length of a list": (_post().replace(b"content-length: 45", b"content-length: 45, 45"),),
    "length empty": (_post().replace(b"content-length: 45", b"content-length:"),),
    "length in spaces": (_post().replace(b"content-length: 45", b"content-length:  45 \t"),),
    "a fragment": (_post(line=b"POST /x#y HTTP/1.1"),),
    "a path of no slash": (_post(line=b"POST x HTTP/1.1"),),
    "a path in utf-8": (_post(line="POST /é HTTP/1.1".encode()),),
    "health by a whole address": (_get(b"http://example.org/health"),),
    "a path with dots": (_get(b"/x/../health"),),
    "post with a strange origin": (_post(_CALL, b"origin: not an address"),),
    "post from an extension": (_post(_CALL, b"origin: chrome-extension://abcdefghijklmnop"),),
    "post with a cookie": (_post(_CALL, _WALLET, b"cookie: a=b"),),
    "get with an origin": (_get(b"/", _WALLET),),
    "get health with an origin": (_get(b"/health", _WALLET),),
    "wrong type with an origin": (_post(_CALL, _WALLET).replace(b"application/json", b"text/plain"),),
    "oversized with an origin": (_post(b" " * _BIG, _WALLET),),
    "no json with an origin": (_post(b"{", _WALLET),),
    "notification with an origin": (_post(b'{"jsonrpc":"2.0","method":"getHealth"}', _WALLET),),
    # what lies beside the methods
    "genesis archive": (_get(b"/genesis.tar.bz2", verb=b"HEAD"),),
    "snapshot archive": (_get(b"/snapshot.tar.bz2"),),
    "supply": (_get(b"/v0/circulating-supply"),),
    # the wrong port
    "websocket to the http port": (_get(b"/", *_UPGRADE),),
}

# On the socket's port.
PUBSUB: dict[str, Conversation] = {
    "post to the websocket port": (_post(),),
    "get from the websocket port": (_get(b"/"),),
    "get health from the websocket port": (_get(b"/health"),),
    "options to the websocket port": (_get(b"/", _WALLET, b"access-control-request-method: POST", verb=b"OPTIONS"),),
    "upgrade with an origin": (_get(b"/", *_UPGRADE, _WALLET),),
    "upgrade of another path": (_get(b"/any/thing?x=1", *_UPGRADE),),
    "upgrade with a protocol": (_get(b"/", *_UPGRADE, b"sec-websocket-protocol: jsonrpc"),),
    "upgrade with compression": (_get(b"/", *_UPGRADE, b"sec-websocket-extensions: permessage-deflate"),),
    "upgrade of version 8": (_get(b"/", *_UPGRADE[:3], b"sec-websocket-version: 8"),),
    "upgrade without a version": (_get(b"/", *_UPGRADE[:3]),),
    "upgrade without a key": (_get(b"/", *_UPGRADE[:2], _UPGRADE[3]),),
    "upgrade with a short key": (_get(b"/", *_UPGRADE[:2], b"sec-websocket-key: AAAA", _UPGRADE[3]),),
    "upgrade by 1.0": (_get(b"/", *_UPGRADE, version=b"HTTP/1.0"),),
    "upgrade by post": (_get(b"/", *_UPGRADE, verb=b"POST"),),
    "upgrade without a host": (_get(b"/", *_UPGRADE).replace(b"host: 127.0.0.1\r\n", b""),),
    "upgrade to something else": (_get(b"/", b"upgrade: h2c", *_UPGRADE[1:]),),
    "upgrade without connection": (_get(b"/", _UPGRADE[0], *_UPGRADE[2:]),),
    "tls to the websocket port": (bytes.fromhex("16030100c8010000c40303") + bytes(64),),
    "garbage to the websocket port": (b"hello\r\n\r\n",),
}


CONVERSATIONS: dict[str, Conversation] = {**HTTP, **PUBSUB}


def all_heard(world: World, expected: dict[str, Any]) -> dict[str, Any]:
    """`heard` of every conversation, some at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        heard_one = {name: pool.submit(heard, world, name, expected.get(name)) for name in CONVERSATIONS}
        return {name: future.result() for name, future in heard_one.items()}


def heard(world: World, name: str, expected: Any = None) -> Any:
    """The replies to a conversation, on a connection of its own, and whether the node ended it.

    What is expected is waited for longer than silence is.
    """
    is_http = name in HTTP
    where = urlsplit(world.node.rpc_url if is_http else world.node.ws_url)
    raw = bytearray()
    is_over = False
    with socket.create_connection((where.hostname, where.port), _CONNECT_SECONDS) as connection:
        for piece in CONVERSATIONS[name]:
            if is_over:
                break
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
            is_over = _read(connection, raw, _QUIET_SECONDS * (1 if expected else 2))
        until = time.monotonic() + _EXPECTED_SECONDS
        while not is_over and _lacks(raw, expected) and time.monotonic() < until:
            is_over = _read(connection, raw, _QUIET_SECONDS)
    replies = [world.normal(reply) for reply in _replies(bytes(raw))]
    if name in _OF_THE_MOMENT:
        # Another file, another number every time.
        replies = [{"line": reply["line"]} for reply in replies]
    return {"replies": replies, "then": "closed" if is_over else "open"}


def _lacks(raw: bytearray, expected: Any) -> bool:
    if expected is None:
        return False
    return expected["then"] == "closed" or len(_replies(bytes(raw))) < len(expected["replies"])


def _read(connection: socket.socket, raw: bytearray, quiet_seconds: float) -> bool:
    """Take what comes until there is silence; whether the node has closed."""
    connection.settimeout(quiet_seconds)
    try:
        while True:
            piece = connection.recv(1 << 16)
            if not piece:
                return True
            raw += piece
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _replies(raw: bytes) -> list[Any]:
    """Each reply of a stream as an object; what is none, as text."""
    found: list[Any] = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin1").split("\r\n")
        if not end or not lines[0].startswith("HTTP/"):
            return [*found, raw.decode("latin1")[:200]]
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        shown = {name: headers[name] for name in _HEADERS if name in headers}
        if "connection" in shown:
            shown["connection"] = shown["connection"].lower()
        # A reply to HEAD has no body, whatever its length says.
        is_bare = not rest or rest.startswith(b"HTTP/")
        size = 0 if is_bare else int(headers.get("content-length", 0))
        body, raw = rest[:size], rest[size:]
        if raw and not raw.startswith(b"HTTP/"):
            # Of an unknown length: up to the end.
            body, raw = body + raw, b""
        found.append({"line": lines[0], **shown, "body": _json_or_text(body)})
    return found


def _json_or_text(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("latin1")[:300]
