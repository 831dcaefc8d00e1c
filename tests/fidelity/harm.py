"""Harmed requests that are asked of every node alike: the same ones each time, and what a node says to each."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from tests.fidelity import sockets
from tests.fidelity.corpus import CALLS, Call
from tests.fidelity.mutation import mutated
from tests.fidelity.world import World

_SEED = 7
_HTTP_COUNT = 600
_SOCKET_COUNT = 300
# What a node says to these depends on the moment, or is known to differ altogether.
_LEFT_OUT = frozenset({"getSupply", "getLargestAccounts", "getBlockCommitment", "requestAirdrop"})
_OF_THE_MOMENT = ("$fresh", "$replay", "$bad", "$message", "$new", "$future", "$sig lookup table", "$sig version 0")
Harmed = tuple[str, Any]


def _is_steady(call: Call) -> bool:
    return call.method not in _LEFT_OUT and not any(word in call.name for word in _OF_THE_MOMENT)


def _resolvable(value: Any) -> bool:
    """Whether harm has left every name of ours whole."""
    if isinstance(value, dict):
        return all(map(_resolvable, value.values()))
    if isinstance(value, list):
        return all(map(_resolvable, value))
    return not isinstance(value, str) or not value.startswith("$") or value in _NAMES


def _names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_names, value.values()))
    if isinstance(value, list):
        return set().union(*map(_names, value))
    return {value} if isinstance(value, str) and value.startswith("$") else set()


_NAMES = set().union(*(_names(call.params) for call in [*CALLS, *sockets.REQUESTS]))


def _name(kind: str, number: int, request: Any) -> str:
    """Short, and another for another request."""
    return f"{kind} {number} {hashlib.sha256(json.dumps(request).encode()).hexdigest()[:8]}"


def http_requests() -> list[Harmed]:
    """Whole request objects, each with its text."""
    dice = random.Random(_SEED)
    calls = [call for call in CALLS if _is_steady(call)]
    out: list[Harmed] = []
    while len(out) < _HTTP_COUNT:
        call = dice.choice(calls)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": call.method}
        request = mutated(body if call.params is None else {**body, "params": call.params}, dice)
        if _resolvable(request):
            out.append((_name("http", len(out), request), request))
    return out


def socket_requests() -> list[Harmed]:
    """Subscription requests as (method, params), each with its text."""
    dice = random.Random(_SEED + 1)
    calls = [call for call in sockets.REQUESTS if call.params is not None]
    out: list[Harmed] = []
    while len(out) < _SOCKET_COUNT:
        call = dice.choice(calls)
        params = mutated({"params": call.params}, dice)
        if isinstance(params, dict) and "params" in params and _resolvable(params):
            request = (call.method, params["params"])
            if call.method.endswith("Unsubscribe") and _may_exist(params["params"]):
                continue
            out.append((_name("socket", len(out), request), request))
    return out


def _may_exist(params: Any) -> bool:
    """Whether these may be the number of a subscription that somebody has."""
    return isinstance(params, list) and len(params) == 1 and type(params[0]) is int and 0 <= params[0] < 10**6


def http_replies(world: World) -> dict[str, Any]:
    """What a node says to each: the error, or that there is a result."""
    seen = {}
    for name, request in http_requests():
        answer = world.node.http.post(world.node.rpc_url, json=_resolved(world, request))
        seen[name] = _brief(world, answer.json()) if answer.content else "silence"
    return seen


def _resolved(world: World, request: Any) -> Any:
    is_call = isinstance(request, dict) and "params" in request
    return {**request, "params": world.resolve(request["params"])} if is_call else request


def _brief(world: World, reply: Any) -> Any:
    if isinstance(reply, dict) and "result" in reply:
        return {**reply, "result": "<result>"}
    return world.normal(reply)


def socket_replies(world: World) -> dict[str, Any]:
    """As `http_replies`, of subscription requests."""
    requests = socket_requests()
    with sockets.socket(world) as client:
        replies = client.ask_all([(method, params, world.resolve(params)) for _, (method, params) in requests])
    return {name: _brief(world, reply) for (name, _), reply in zip(requests, replies, strict=True)}
