"""Slots without a block: what each method says about them, before they are final and after. Asked of a chain that jumped over some.

A real node jumps where it is told to at its start (`--warp-slot`); the development node at any time. Slots have names here.
"""

from __future__ import annotations

import time
from itertools import product
from typing import Any

from tests.fidelity.nodes import Node

WARP_SLOT = 300
_FINAL_SECONDS_MAX = 60.0
_CONFIRMED = {"commitment": "confirmed"}
_LIGHT = {"transactionDetails": "none", "rewards": False}


def jumped(node: Node) -> None:
    """Let the development node jump; a real one has. Some blocks behind the gap are final afterwards."""
    if node.handle is not None:
        node.call("devnode_advanceSlot", 1, WARP_SLOT - 2)
        node.call("devnode_advanceSlot", 40)
    until = time.monotonic() + _FINAL_SECONDS_MAX
    while node.call("getSlot") < WARP_SLOT + 6:
        assert time.monotonic() < until, "no slot behind the gap became final"
        time.sleep(0.1)


def replies(node: Node) -> dict[str, Any]:
    """What the node says about the gap, in names of slots. The blocks next behind it are left out: a real node loads them from a snapshot."""
    before = node.call("getBlocks", 0, WARP_SLOT - 1)[-1]
    places = {
        "before": before,
        "first": before + 1,
        "middle": WARP_SLOT // 2,
        "last": WARP_SLOT - 1,
        "behind": WARP_SLOT,
        "further": WARP_SLOT + 3,
    }
    names = {slot: name for name, slot in places.items()} | {WARP_SLOT + 1: "behind + 1", WARP_SLOT + 2: "behind + 2"}
    seen: dict[str, Any] = {}

    def ask(method: str, *params: Any) -> None:
        reply = node.reply(method, *(places[one] if isinstance(one, str) else one for one in params))
        reply.pop("id")
        if isinstance(found := reply.get("result"), list):
            reply["result"] = [names[slot] for slot in found]
        elif "result" in reply:
            reply["result"] = type(found).__name__
        else:
            for name, slot in places.items():
                words = reply["error"]["message"].split()
                reply["error"]["message"] = " ".join(f"<{name}>" if word == str(slot) else word for word in words)
        seen[f"{method} {list(params)}"] = reply

    for place in ("before", "first", "middle", "last"):
        for options in (_LIGHT, {**_LIGHT, **_CONFIRMED}):
            ask("getBlock", place, options)
        ask("getBlockTime", place)
    for start, end in product(("first", "middle", "last", "behind"), ("first", "last", "behind", "further")):
        ask("getBlocks", start, end)
        ask("getBlocks", start, end, _CONFIRMED)
    for start, limit in product(("first", "middle", "last", "behind"), (0, 1, 2)):
        ask("getBlocksWithLimit", start, limit)
        ask("getBlocksWithLimit", start, limit, _CONFIRMED)
    return seen
