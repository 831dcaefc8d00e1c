"""A bounded, seeded run of senseless requests: every one gets a JSON-RPC answer, and the node goes on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from programs.devnode.chain import Chain
from programs.devnode.config import DevNodeConfig
from programs.devnode.faults import FaultEngine
from programs.devnode.method import METHODS
from programs.devnode.pubsub import PubSub
from programs.devnode.rpc import RpcService

_chain = Chain(DevNodeConfig(slot_ms=0), 1_700_000_000)
_service = RpcService(_chain, FaultEngine(0))
_pubsub = PubSub(_chain, _service, FaultEngine(0))
_chain.finish_slot(1_700_000_001)
_JSON_RPC_CODES = {-32700, -32600, -32601, -32602, -32002, -32004, -32008, -32001, -32015, -32016, -32020}

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50)
)
words = st.sampled_from(["1" * 32, "1" * 64, "confirmed", "base64", "jsonParsed", "AAAA", "full", "all"])
keys = st.sampled_from(
    ["commitment", "encoding", "filters", "limit", "before", "mentions", "dataSlice", "accounts", "minContextSlot"]
)
values = st.recursive(
    leaves | words,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(keys | st.text(max_size=5), v, max_size=3),
    max_leaves=8,
)


def _checked(reply: bytes) -> None:
    body = json.loads(reply)
    assert body["id"] == 7
    assert ("result" in body) != ("error" in body)
    if "error" in body:
        assert body["error"]["code"] in _JSON_RPC_CODES, body


@seed(20261124)
@settings(max_examples=600, deadline=None, database=None)
@given(st.sampled_from(sorted(METHODS)), st.lists(values, max_size=3))
def test_any_parameters_get_an_answer_of_the_protocol(method: str, params: list[Any]) -> None:
    _checked(_service.answer(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()))


@seed(20261124)
@settings(max_examples=300, deadline=None, database=None)
@given(
    st.sampled_from(["logs", "account", "program", "signature", "slot", "root", "block"]),
    st.booleans(),
    st.lists(values, max_size=3),
)
def test_any_subscription_gets_an_answer_of_the_protocol(kind: str, subscribes: bool, params: list[Any]) -> None:
    method = kind + ("Subscribe" if subscribes else "Unsubscribe")
    reply, _ = _pubsub.answer(1, json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}))
    _checked(reply)
    _pubsub.deliveries(list(_chain.happenings))
