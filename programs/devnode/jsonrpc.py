"""The JSON-RPC envelope, read and written as the real node's library does it: one for HTTP bodies and WebSocket frames. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from programs.devnode.errors import PARSE_ERROR, RpcError, invalid_request

Perform = Callable[[str, Any], Any]
_to_json = msgspec.json.encode
_U64_MAX = (1 << 64) - 1
# Arrays and objects within each other; what is deeper is no JSON to the real node's reader.
_DEPTH_MAX = 127
_FIELDS = frozenset({"jsonrpc", "method", "params", "id"})
PARSE_FAILED = b'{"jsonrpc":"2.0","error":{"code":%d,"message":"Parse error"},"id":null}' % PARSE_ERROR


def answer(body: bytes | str, perform: Perform) -> bytes:
    """The reply to a request, or to a batch of them; empty when nothing in it asks for one.

    `perform` gives the result for a method and its parameters (a list, an object, or None where there are none), or raises RpcError.
    """
    raw = body.encode() if isinstance(body, str) else body
    if _is_too_deep(raw):
        return PARSE_FAILED
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return PARSE_FAILED
    calls = request if isinstance(request, list) else [request]
    if not all(_is_call(call) for call in calls):
        return PARSE_FAILED
    replies = [reply for call in calls if (reply := _one(call, perform))]
    if not isinstance(request, list):
        return replies[0] if replies else b""
    return b"[" + b",".join(replies) + b"]" if replies else b""


def _is_too_deep(raw: bytes) -> bool:
    if raw.count(b"[") + raw.count(b"{") <= _DEPTH_MAX:
        return False
    depth = 0
    in_text = escaped = False
    for byte in raw:
        if in_text:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            depth += 1
            if depth > _DEPTH_MAX:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _is_call(call: Any) -> bool:
    """Whether it can be answered at all: an object whose id, if any, is null, a string or a number of 64 bits without sign."""
    if not isinstance(call, dict):
        return False
    request_id = call.get("id")
    if isinstance(request_id, bool):
        return False
    return (
        request_id is None or isinstance(request_id, str) or (type(request_id) is int and 0 <= request_id <= _U64_MAX)
    )


def _is_wellformed(call: dict[str, Any]) -> bool:
    params = call.get("params")
    return (
        isinstance(call.get("method"), str)
        and call.get("jsonrpc") in (None, "2.0")
        and (params is None or isinstance(params, list | dict))
        and _FIELDS.issuperset(call)
    )


def _one(call: dict[str, Any], perform: Perform) -> bytes:
    request_id = _to_json(call.get("id"))
    if not _is_wellformed(call):
        return _reply(b'"jsonrpc":"2.0",', b'"error":%s' % _to_json(invalid_request().as_object()), request_id)
    if "id" not in call:
        # A notification is not even performed: the real node registers its methods for calls only.
        return b""
    if call.get("jsonrpc") is None:
        error = invalid_request("Unsupported JSON-RPC protocol version")
        return _reply(b"", b'"error":%s' % _to_json(error.as_object()), request_id)
    try:
        outcome = b'"result":%s' % _to_json(perform(call["method"], call.get("params")))
    except RpcError as error:
        outcome = b'"error":%s' % _to_json(error.as_object())
    return _reply(b'"jsonrpc":"2.0",', outcome, request_id)


def _reply(version: bytes, outcome: bytes, request_id: bytes) -> bytes:
    return b'{%s%s,"id":%s}' % (version, outcome, request_id)
