"""The calls by which tables are compared with accounts, against a node that answers in another shape or quotes our key."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from programs.errors import EXIT_UNREACHABLE, UserError
from projections.reconcile import Chain

PROGRAM = "11111111111111111111111111111111"
KEY = "hunter22hunter22"


def served(stream: httpx.SyncByteStream, encoding: str = "") -> Chain:
    it = Chain((f"https://host.example/{KEY}",))
    headers = {"content-encoding": encoding} if encoding else {}
    it._client = httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, stream=stream))
    )
    return it


def chain(answer: Any) -> Chain:
    return served(httpx.ByteStream(json.dumps(answer).encode()))


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


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.reconcile._BACKOFF_S", 0.0)
    monkeypatch.setattr("projections.reconcile._BODY_BYTES_MAX", 1 << 20)
    with pytest.raises(UserError, match="a body over 1048576 bytes") as refused:
        served(httpx.ByteStream(gzip.compress(b" " * (4 << 20))), "gzip").program_accounts(PROGRAM)
    assert refused.value.exit_code == EXIT_UNREACHABLE


def test_a_body_that_trickles_in_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drops(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b" "

    monkeypatch.setattr("projections.reconcile._BACKOFF_S", 0.0)
    monkeypatch.setattr("projections.reconcile._BODY_SECONDS_MAX", 0.0)
    with pytest.raises(UserError, match="took longer than"):
        served(Drops()).program_accounts(PROGRAM)


def test_json_that_is_nested_too_deep_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.reconcile._BACKOFF_S", 0.0)
    with pytest.raises(UserError, match="no JSON"):
        served(httpx.ByteStream(b"[" * 100_000)).program_accounts(PROGRAM)
