"""What a real node answered: golden files, read here and written by `tests.fidelity.record` alone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.fidelity import corpus, options
from tests.fidelity.corpus import SHAPE_ONLY, Call
from tests.fidelity.world import World

# Stands for the reply to another request of the same file.
_SAME = "same as"
GROUPS = ("place", "accounts", "ledger", "sending", "cluster", "options")
CALLS: tuple[Call, ...] = (*corpus.CALLS, *options.CALLS)
FOLDER = Path(__file__).parent.parent / "golden" / "node"


@cache
def load(group: str) -> dict[str, Any]:
    """What was recorded of a group, by request or scenario."""
    document: dict[str, Any] = json.loads((FOLDER / f"{group}.json").read_bytes())
    replies: dict[str, Any] = document["replies"]
    for name, reply in replies.items():
        if isinstance(reply, dict) and set(reply) == {_SAME}:
            replies[name] = replies[reply[_SAME]]
    return replies


def save(group: str, version: str, replies: dict[str, Any]) -> None:
    """Write a golden file. Only `tests.fidelity.record` calls this."""
    note = "Recorded from a real node by `python -m tests.fidelity.record`. Do not edit."
    told: dict[str, str] = {}
    rows = []
    for name, reply in replies.items():
        text = json.dumps(reply, sort_keys=True)
        first = told.setdefault(text, name)
        # Many odd requests get the one answer; it is written once.
        is_again = first != name and len(text) > len(first) + 20
        rows.append(f"{json.dumps(name)}: {json.dumps({_SAME: first}) if is_again else text}")
    lines = ",\n".join(rows)
    head = f'{{"note": {json.dumps(note)},\n"version": {json.dumps(version)},\n"replies": {{\n'
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{group}.json").write_text(f"{head}{lines}\n}}}}\n")


def ask(world: World, call: Call) -> Any:
    """The normalised reply of a node to one call of the corpus, without its frame."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": call.method}
    idle = world.ponderer if call.group == "options" else world.dreamer
    world.spender = world.sender if call.method == "sendTransaction" else idle
    if call.method == "getRecentPrioritizationFees":
        # It speaks of the newest blocks: let one of them hold something.
        world.spender = world.sender
        world.landed(world.post(world.fresh("memo")))
    if call.params is not None:
        body["params"] = world.resolve(call.params)
    answer = world.node.http.post(world.node.rpc_url, json=body)
    reply = answer.json()
    assert reply.pop("jsonrpc") == "2.0"
    assert reply.pop("id") == 1
    assert answer.status_code == 200
    if call.method in SHAPE_ONLY and "result" in reply:
        return {"shape": shape(reply["result"])}
    if "$sig zoo" in call.name:
        # What is shown of those behind the first matters here; none of them ran, and nothing in them is another every time.
        return reply["result"]["transaction"]["message"]["instructions"][1:]
    shown = world.normal(reply)
    if "$sig version 0" in call.name and "slot" in (shown.get("result") or {}):
        # It lands when it will, in a slot of its own or in another's.
        shown["result"]["slot"] = "<slot>"
    # How long the search for a slot hash takes is another matter every time.
    return shown["result"]["transaction"] if "$sig lookup table" in call.name else shown


def shape(value: Any) -> Any:
    """Types in place of values; a list of things of one shape shows one."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        shapes: list[Any] = []
        for item in map(shape, value):
            if item not in shapes:
                shapes.append(item)
        return shapes
    return "null" if value is None else type(value).__name__
