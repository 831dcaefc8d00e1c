"""Every request of the corpus, asked of every node, gets the reply that a real node gave when it was recorded.

So the real node is held against its recording, the development node against the real one. What differs and stays is in known.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from programs import devnode
from tests.fidelity import gaps, harm, http_forms, newcomers, nodes, recorded, scenarios, sockets
from tests.fidelity.known import KNOWN, Known, differences, unexpected
from tests.fidelity.recorded import CALLS, GROUPS
from tests.fidelity.world import World

_heard: dict[str, dict[str, Any]] = {}
_METHODS = sorted({call.method for call in CALLS})


def _wrong(world: World, request: str, expected: Any, got: Any) -> list[str]:
    if world.node.handle is not None:
        return unexpected(request, expected, got, set())
    return [f"{request[:200]}\n    {leaf!r:.1500}" for leaf in differences(expected, got)]


def _none(lines: list[str]) -> None:
    assert not lines, f"{len(lines)} differences\n" + "\n".join(lines)


def _newcomers(world: World) -> dict[str, Any]:
    """Heard once a node: each conversation waits for silence."""
    if world.node.rpc_url not in _heard:
        _heard[world.node.rpc_url] = newcomers.all_heard(world, recorded.load("newcomers"))
    return _heard[world.node.rpc_url]


@pytest.mark.parametrize("method", _METHODS)
def test_calls(world: World, method: str) -> None:
    wrong = []
    for call in (call for call in CALLS if call.method == method):
        wrong += _wrong(world, call.name, recorded.load(call.group)[call.name], recorded.ask(world, call))
    _none(wrong)


def test_http_forms(world: World) -> None:
    wrong = []
    for name, form in http_forms.FORMS.items():
        wrong += _wrong(world, name, recorded.load("http")[name], http_forms.answer_to(world, form))
    _none(wrong)


def test_subscription_requests(world: World) -> None:
    wrong = []
    for name, reply in sockets.replies(world).items():
        wrong += _wrong(world, name, recorded.load("subscriptions")[name], reply)
    _none(wrong)


def test_frames(world: World) -> None:
    wrong = []
    for frame in sockets.FRAMES:
        wrong += _wrong(world, frame, recorded.load("frames")[frame], sockets.reply_to_frame(world, frame))
    _none(wrong)


@pytest.mark.parametrize("ask", [harm.http_replies, harm.socket_replies])
def test_harmed_requests(world: World, ask: Callable[[World], dict[str, Any]]) -> None:
    wrong = []
    requests = dict([*harm.http_requests(), *harm.socket_requests()])
    for name, reply in ask(world).items():
        wrong += _wrong(world, f"{name} {requests[name]}", recorded.load("harmed")[name], reply)
    _none(wrong)


@pytest.mark.parametrize("name", sorted(scenarios.SCENARIOS))
def test_scenarios(world: World, name: str) -> None:
    expected, wrong = recorded.load("scenarios")[name], [""]
    # A real node tells now and then of one transaction hundreds of times, or in two slots. What it does in one play of three it still does.
    plays = 1 if world.node.handle is not None else 3
    while wrong and plays:
        wrong, plays = _wrong(world, name, expected, scenarios.SCENARIOS[name](world)), plays - 1
    _none(wrong)


def test_newcomers(world: World) -> None:
    wrong, expected = [], recorded.load("newcomers")
    for name, reply in _newcomers(world).items():
        wrong += _wrong(world, f"newcomer: {name}", expected[name], reply)
    _none(wrong)


def test_slots_without_a_block() -> None:
    """The real node was asked when this was recorded; it takes a start of its own."""
    with nodes.devnode(slot_ms=0) as node:
        gaps.jumped(node)
        assert gaps.replies(node) == recorded.load("gaps")


def test_every_known_difference_is_one_and_has_its_row(devnode_world: World) -> None:
    used: set[Known] = set()
    for call in CALLS:
        unexpected(call.name, recorded.load(call.group)[call.name], recorded.ask(devnode_world, call), used)
    for frame in sockets.FRAMES:
        unexpected(frame, recorded.load("frames")[frame], sockets.reply_to_frame(devnode_world, frame), used)
    scenario = scenarios.too_much_in_fragments
    unexpected(scenario.__name__, recorded.load("scenarios")[scenario.__name__], scenario(devnode_world), used)
    for name, reply in _newcomers(devnode_world).items():
        unexpected(f"newcomer: {name}", recorded.load("newcomers")[name], reply, used)
    idle = [known for known in KNOWN if known not in used]
    assert not idle, f"no difference any more, take it out: {idle}"
    table = (Path(devnode.__file__).parent / "README.md").read_text()
    untold = [known.row for known in KNOWN if known.row not in table]
    assert not untold, f"not in README.md: {untold}"


def test_nothing_recorded_is_left_over() -> None:
    for group in GROUPS:
        assert set(recorded.load(group)) == {call.name for call in CALLS if call.group == group}, group
    assert set(recorded.load("http")) == set(http_forms.FORMS)
    assert set(recorded.load("subscriptions")) == {call.name for call in sockets.REQUESTS}
    assert set(recorded.load("newcomers")) == set(newcomers.CONVERSATIONS)
    assert set(recorded.load("frames")) == set(sockets.FRAMES)
    assert len(recorded.load("harmed")) == len(harm.http_requests()) + len(harm.socket_requests())
    assert set(recorded.load("scenarios")) == set(scenarios.SCENARIOS)
