"""HTTP requests that are not plain calls: bodies that are no JSON, batches, heads that a node refuses. As data, and asked raw."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from tests.fidelity.sockets import FRAMES
from tests.fidelity.world import World

BODY_BYTES_MAX = 50 * 1024
_JSON = {"content-type": "application/json"}
_CALL = '{"jsonrpc":"2.0","id":1,"method":"getHealth"}'
# Parts of a reply's head that a client may look at.
_HEADERS = ("content-type", "access-control-allow-origin", "allow", "accept")

Form = tuple[str, str, dict[str, str], str]

FORMS: dict[str, Form] = {
    **{f"body {frame[:120]}": ("POST", "/", _JSON, frame) for frame in FRAMES},
    "batch of two": ("POST", "/", _JSON, f"[{_CALL},{_CALL}]"),
    "batch with a notification": ("POST", "/", _JSON, f'[{_CALL},{{"jsonrpc":"2.0","method":"getHealth"}}]'),
    "batch of notifications": ("POST", "/", _JSON, '[{"jsonrpc":"2.0","method":"getHealth"}]'),
    "batch with nonsense": ("POST", "/", _JSON, f"[{_CALL},1]"),
    "batch with an empty object": ("POST", "/", _JSON, f"[{_CALL},{{}}]"),
    "batch in a batch": ("POST", "/", _JSON, f"[[{_CALL}]]"),
    "batch of one error": ("POST", "/", _JSON, '[{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}]'),
    "notification": ("POST", "/", _JSON, '{"jsonrpc":"2.0","method":"getHealth"}'),
    "largest body": ("POST", "/", _JSON, _CALL + " " * (BODY_BYTES_MAX - len(_CALL))),
    "body one too long": ("POST", "/", _JSON, _CALL + " " * (BODY_BYTES_MAX + 1 - len(_CALL))),
    "other path": ("POST", "/any/thing?x=1", _JSON, _CALL),
    "charset": ("POST", "/", {"content-type": "application/json; charset=utf-8"}, _CALL),
    "other charset": ("POST", "/", {"content-type": "application/json;charset=latin1"}, _CALL),
    "capitals": ("POST", "/", {"content-type": "Application/JSON"}, _CALL),
    "text": ("POST", "/", {"content-type": "text/plain"}, _CALL),
    "almost json": ("POST", "/", {"content-type": "application/json-rpc"}, _CALL),
    "no content type": ("POST", "/", {}, _CALL),
    "with an origin": ("POST", "/", {**_JSON, "origin": "http://example.org"}, _CALL),
    "get": ("GET", "/", {}, ""),
    "get health": ("GET", "/health", {}, ""),
    "get health with a query": ("GET", "/health?x", {}, ""),
    "post health": ("POST", "/health", _JSON, _CALL),
    "get another path": ("GET", "/nothing", {}, ""),
    "options": ("OPTIONS", "/", {}, ""),
    "options with an origin": (
        "OPTIONS",
        "/",
        {"origin": "http://example.org", "access-control-request-method": "POST"},
        "",
    ),
    "put": ("PUT", "/", _JSON, _CALL),
    "delete": ("DELETE", "/", {}, ""),
    "head": ("HEAD", "/", {}, ""),
    "patch": ("PATCH", "/", _JSON, _CALL),
    "empty body": ("POST", "/", _JSON, ""),
    "quoted charset": ("POST", "/", {"content-type": 'application/json; charset="utf-8"'}, _CALL),
    "capital charset": ("POST", "/", {"content-type": "application/json; charset=UTF-8"}, _CALL),
    "utf8 charset": ("POST", "/", {"content-type": "application/json; charset=utf8"}, _CALL),
    "bare semicolon": ("POST", "/", {"content-type": "application/json;"}, _CALL),
    "other parameter": ("POST", "/", {"content-type": "application/json; foo=bar"}, _CALL),
    "space before": ("POST", "/", {"content-type": " application/json "}, _CALL),
    "plain json": ("POST", "/", {"content-type": "text/json"}, _CALL),
    "empty type": ("POST", "/", {"content-type": ""}, _CALL),
    "accepts nothing": ("POST", "/", {**_JSON, "accept": "image/png"}, _CALL),
    "get with a body": ("GET", "/", _JSON, _CALL),
    "get health below": ("GET", "/health/", {}, ""),
    "get health twice": ("GET", "//health", {}, ""),
    "options health": ("OPTIONS", "/health", {}, ""),
    "put health": ("PUT", "/health", {}, ""),
    "head health": ("HEAD", "/health", {}, ""),
    "null origin": ("POST", "/", {**_JSON, "origin": "null"}, _CALL),
    "options with headers": (
        "OPTIONS",
        "/",
        {
            "origin": "http://example.org",
            "access-control-request-method": "PUT",
            "access-control-request-headers": "x-one, x-two",
        },
        "",
    ),
    "batch of a hundred": ("POST", "/", _JSON, "[" + ",".join([_CALL] * 100) + "]"),
    "batch of all ids": (
        "POST",
        "/",
        _JSON,
        "[" + ",".join(_CALL.replace('"id":1', f'"id":{one}') for one in ("0", '""', '"x"', "null", "7")) + "]",
    ),
    "batch with a wrong id": ("POST", "/", _JSON, f"[{_CALL},{_CALL.replace(':1,', ':1.0,')}]"),
    "batch with null": ("POST", "/", _JSON, f"[{_CALL},null]"),
    "batch with a string": ("POST", "/", _JSON, f'[{_CALL},"x"]'),
    "batch with a batch": ("POST", "/", _JSON, f"[{_CALL},[{_CALL}]]"),
    "batch of empty batches": ("POST", "/", _JSON, "[[],[]]"),
    "batch of an old call": ("POST", "/", _JSON, '[{"id":1,"method":"getHealth"}]'),
    "batch of good and bad": (
        "POST",
        "/",
        _JSON,
        f'[{_CALL},{{"jsonrpc":"2.0","id":2,"method":"x"}},{{"jsonrpc":"2.0","method":"x"}},{{"jsonrpc":"2.0","id":3}}]',
    ),
    "spaces around": ("POST", "/", _JSON, f" \n\t{_CALL}\r\n "),
    "two calls without a batch": ("POST", "/", _JSON, _CALL + _CALL),
    "call in utf-8": ("POST", "/", _JSON, '{"jsonrpc":"2.0","id":"é","method":"é"}'),
}


def answer_to(world: World, form: Form) -> Any:
    """Status, telling headers and body of the reply, on a connection of its own."""
    verb, path, headers, body = form
    where = urlsplit(world.node.rpc_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    try:
        connection.request(verb, path, body.encode() or None, headers)
        reply = connection.getresponse()
        raw = reply.read().decode()
        shown = {name: value for name in _HEADERS if (value := reply.headers.get(name)) is not None}
        return {"status": reply.status, **shown, "body": world.normal(_json_or_text(raw))}
    finally:
        connection.close()


def _json_or_text(raw: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw
