"""`python -m tests.fidelity.record [GROUP…]`: ask a real node everything, or these groups, and write its replies to tests/golden/node/.

SOLANA_TEST_VALIDATOR names the validator's binary. Nothing else writes those files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tests.fidelity import gaps, harm, http_forms, newcomers, recorded, scenarios, sockets
from tests.fidelity.nodes import VALIDATOR, validator
from tests.fidelity.world import World


def _asked(group: str) -> Callable[[World], dict[str, Any]]:
    calls = [call for call in recorded.CALLS if call.group == group]
    return lambda world: {call.name: recorded.ask(world, call) for call in calls}


# In the order in which they are asked: what comes later may change what an earlier one would see.
_GROUPS: dict[str, Callable[[World], dict[str, Any]]] = {
    **{group: _asked(group) for group in recorded.GROUPS},
    "http": lambda world: {name: http_forms.answer_to(world, form) for name, form in http_forms.FORMS.items()},
    "newcomers": lambda world: newcomers.all_heard(world, {}),
    "subscriptions": sockets.replies,
    "frames": lambda world: {frame: sockets.reply_to_frame(world, frame) for frame in sockets.FRAMES},
    "harmed": lambda world: {**harm.http_replies(world), **harm.socket_replies(world)},
    "scenarios": lambda world: {name: body(world) for name, body in scenarios.SCENARIOS.items()},
}


def main() -> int:
    """0: recorded; 2: there is no validator to ask, or no such group."""
    if not VALIDATOR:
        print("SOLANA_TEST_VALIDATOR is not set: give the path of a solana-test-validator", file=sys.stderr)
        return 2
    if unknown := set(sys.argv[1:]) - {"gaps", *_GROUPS}:
        print(f"no such group: {', '.join(sorted(unknown))}; there are gaps, {', '.join(_GROUPS)}", file=sys.stderr)
        return 2
    if "gaps" in sys.argv[1:] or not sys.argv[1:]:
        with validator(VALIDATOR, "--warp-slot", str(gaps.WARP_SLOT)) as node:
            gaps.jumped(node)
            recorded.save("gaps", node.call("getVersion")["solana-core"], gaps.replies(node))
    with validator(VALIDATOR) as node:
        world = World(node).build()
        version = node.call("getVersion")["solana-core"]
        for group, ask in _GROUPS.items():
            if group in sys.argv[1:] or not sys.argv[1:]:
                recorded.save(group, version, ask(world))
    print(f"recorded from {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
