"""The calls by which tables are compared with accounts, against a node that answers in another shape or quotes our key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from programs.errors import EXIT_UNREACHABLE, UserError
from projections.reconcile import Chain

PROGRAM = "11111111111111111111111111111111"
KEY = "hunter22hunter22"


def chain(answer: Any) -> Chain:
    it = Chain((f"https://host.example/{KEY}",))
    it._client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=answer)))
    return it


@pytest.mark.parametrize(
    "result",
    [
        7,
        [],
        {},
        {"context": {}, "value": []},
        {"context": {"slot": "5"}, "value": []},
        {"context": {"slot": 5}, "value": 5},
        {"context": {"slot": 5}, "value": [{}]},
        {
            "context": {"slot": 5},
            "value": [{"pubkey": "x", "account": {"data": "error: data too large", "owner": PROGRAM}}],
        },
        {"context": {"slot": 5}, "value": [{"pubkey": "x", "account": {"data": ["A", "base64"], "owner": PROGRAM}}]},
        {"context": {"slot": 5}, "value": [{"data": ["A", "base64"], "owner": PROGRAM}, None]},
    ],
)
def test_an_answer_of_another_shape_is_an_error_of_one_line(result: Any) -> None:
    for ask in (lambda it: it.program_accounts(PROGRAM), lambda it: it.accounts(PROGRAM, ["x"])):
        with pytest.raises(UserError) as refused:
            ask(chain({"jsonrpc": "2.0", "id": 1, "result": result}))
        assert refused.value.exit_code == EXIT_UNREACHABLE


@pytest.mark.parametrize("code", [-32052, 429])
def test_a_refusal_shows_no_key(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.reconcile._BACKOFF_S", 0.0)
    it = chain({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": f"unknown api key {KEY}"}})
    with pytest.raises(UserError) as refused:
        it.program_accounts(PROGRAM)
    assert "unknown api key" in str(refused.value)
    assert KEY not in str(refused.value)
