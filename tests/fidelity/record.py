"""`python -m tests.fidelity.record`: ask a real node everything, and write its replies to tests/golden/node/.

SOLANA_TEST_VALIDATOR names the validator's binary. Nothing else writes those files.
"""

from __future__ import annotations

import sys

from tests.fidelity import corpus, harm, http_forms, recorded, sockets
from tests.fidelity.nodes import VALIDATOR, validator
from tests.fidelity.world import World


def main() -> int:
    """0: recorded; 2: there is no validator to ask."""
    if not VALIDATOR:
        print("SOLANA_TEST_VALIDATOR is not set: give the path of a solana-test-validator", file=sys.stderr)
        return 2
    with validator(VALIDATOR) as node:
        world = World(node).build()
        version = node.call("getVersion")["solana-core"]
        for group in ("place", "accounts", "ledger", "sending", "cluster"):
            calls = [call for call in corpus.CALLS if call.group == group]
            recorded.save(group, version, {call.name: recorded.ask(world, call) for call in calls})
        forms = {name: http_forms.answer_to(world, form) for name, form in http_forms.FORMS.items()}
        recorded.save("http", version, forms)
        recorded.save("subscriptions", version, sockets.replies(world))
        recorded.save("frames", version, {frame: sockets.reply_to_frame(world, frame) for frame in sockets.FRAMES})
        recorded.save("harmed", version, {**harm.http_replies(world), **harm.socket_replies(world)})
        recorded.save("scenarios", version, {name: body(world) for name, body in sockets.SCENARIOS.items()})
    print(f"recorded from {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
