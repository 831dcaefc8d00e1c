"""Replies become the core's types: what is no promised shape is Garbage, and what a log line holds comes through unchanged."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gc
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.core.protocol import Address, Failure, Slot
from indexer.edges import parse
from programs import base58
from programs.collector import keep_all
from programs.transaction import RawTransaction, TransactionError, from_rpc, parse_wire, static_keys
from schema.rows import StoredTransaction, prepare_row

KEY, LOOKED_UP, ELSEWHERE = bytes([7] * 32), bytes([8] * 32), bytes([9] * 32)
WATCHED = parse.Watched((Address(base58.encode(KEY)), Address(base58.encode(LOOKED_UP))))


def wire(rng: random.Random, keys: list[bytes], data: bytes = b"", version: int | None = None) -> bytes:
    head = b"" if version is None else bytes([0x80 | version])
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    instruction = bytes([len(keys) - 1, 1, 0]) + length + data
    message = head + bytes([1, 0, 1, len(keys)]) + b"".join(keys) + rng.randbytes(32) + bytes([1]) + instruction
    return bytes([1]) + rng.randbytes(64) + message + (b"\0" if version == 0 else b"")


def entry(raw: bytes, **meta: Any) -> dict[str, Any]:
    filled = {"err": None, "logMessages": [], "innerInstructions": [], **meta}
    return {"transaction": [base64.b64encode(raw).decode(), "base64"], "meta": filled, "version": "legacy"}


def reply(result: Any) -> bytes:
    found = parse.result(parse.envelope(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()))
    assert isinstance(found, bytes)
    return found


def single(told: dict[str, Any]) -> bytes:
    return reply({"slot": 5, "transactionIndex": 3, "blockTime": 9, **told})


def block(*entries: dict[str, Any]) -> bytes:
    return reply({"parentSlot": 4, "blockTime": 9, "transactions": list(entries)})


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 300), st.sampled_from([None, 0, 1, 5]))
def test_the_short_way_and_the_long_way_give_the_same_row(seed: int, keys: int, size: int, version: int | None) -> None:
    rng = random.Random(seed)
    raw = wire(rng, [rng.randbytes(32) for _ in range(keys)] + [KEY], rng.randbytes(size), version)
    inner = [
        {
            "programIdIndex": rng.randrange(256),
            "accounts": [rng.randrange(256)],
            "data": base58.encode(rng.randbytes(rng.choice((0, 9, 400)))),
            "stackHeight": rng.choice((None, 2)),
        }
        for _ in range(rng.randrange(4))
    ]
    told = {
        "slot": 5,
        "transactionIndex": 3,
        "blockTime": 9,
        "version": "legacy" if version is None else version,
        **entry(
            raw,
            logMessages=rng.choice((None, [], ["Program log: \0 é", "Log truncated"])),
            innerInstructions=rng.choice((None, [], [{"index": 1, "instructions": inner}])),
            loadedAddresses={"writable": [base58.encode(ELSEWHERE)], "readonly": []},
            err=rng.choice((None, {"b": 1, "a": [2]})),
        ),
    }
    told["version"] = "legacy" if version is None else version
    plain = from_rpc(json.dumps(told))
    content = parse.stored_transaction(reply(told), WATCHED)
    assert content is not None
    assert type(content.raw) is StoredTransaction
    assert content.raw == plain
    assert plain == content.raw
    assert prepare_row(content.raw, (1,), 6) == prepare_row(plain, (1,), 6)
    found = parse.block(block({name: told[name] for name in ("transaction", "meta", "version")}), Slot(5), WATCHED)
    assert found is not None
    assert found.contents is not None
    assert [c.raw for c in found.contents] == [dataclasses.replace(plain, transaction_index=0)]
    assert type(dataclasses.replace(content.raw, transaction_index=1)) is RawTransaction


@given(st.binary(max_size=600), st.integers(0, 600), st.integers(0, 2**32), st.integers(0, 4))
def test_keys_are_found_where_the_whole_wire_is_read(noise: bytes, cut: int, seed: int, flips: int) -> None:
    """`static_keys` refuses what `parse_wire` refuses, and finds the keys at the same places."""
    rng = random.Random(seed)
    whole = bytearray(wire(rng, [rng.randbytes(32) for _ in range(3)], rng.randbytes(200), rng.choice((None, 0, 2))))
    for _ in range(flips):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    for raw in (noise, bytes(whole), bytes(whole[:cut])):
        try:
            expected = parse_wire(raw).static_keys
        except TransactionError:
            with pytest.raises(TransactionError):
                static_keys(raw)
            continue
        found = static_keys(raw)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            start, end = found
            assert tuple(raw[at : at + 32] for at in range(start, end, 32)) == expected


def test_only_keys_count_as_mentions() -> None:
    rng = random.Random(1)
    by_data = entry(wire(rng, [ELSEWHERE], b"x" + KEY))
    by_key = entry(wire(rng, [ELSEWHERE, KEY]))
    by_table = entry(
        wire(rng, [ELSEWHERE], version=0), loadedAddresses={"writable": [], "readonly": [base58.encode(LOOKED_UP)]}
    )
    by_log = entry(wire(rng, [ELSEWHERE]), logMessages=[f"Program log: {base58.encode(KEY)}"])
    found = parse.block(block(by_data, by_key, by_table, by_log), Slot(5), WATCHED)
    assert found is not None
    assert found.contents is not None
    assert [(c.raw.transaction_index, c.programs) for c in found.contents] == [
        (1, frozenset({base58.encode(KEY)})),
        (2, frozenset({base58.encode(LOOKED_UP)})),
    ]


def test_an_address_in_escaped_letters_is_still_a_mention() -> None:
    text = base58.encode(LOOKED_UP)
    body = block(
        entry(wire(random.Random(1), [ELSEWHERE], version=0), loadedAddresses={"writable": [text], "readonly": []})
    )
    escaped = body.replace(text.encode(), b"\\u%04x" % ord(text[0]) + text[1:].encode())
    assert escaped != body
    found = parse.block(escaped, Slot(5), WATCHED)
    assert found is not None
    assert found.contents is not None
    assert len(found.contents) == 1


LINES = ["Program log: \0", "Program log: \ud800 alone", "x" * 10_000_000, "\ufeff\u202e", ""]


def test_a_block_of_a_thousand_wakes_the_collector_at_most_once() -> None:
    rng = random.Random(1)
    logs = ["Program log: a", "Program log: b"]
    told = block(*[entry(wire(rng, [rng.randbytes(32), KEY]), logMessages=logs, err=None) for _ in range(1000)])
    passes = []
    before = gc.get_threshold()

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            passes.append(info["generation"])

    keep_all()
    gc.callbacks.append(count)
    try:
        found = parse.block(told, Slot(5), WATCHED)
        assert found is not None
        prepared = [prepare_row(content.raw, (1,), 6) for content in found.contents or ()]
    finally:
        gc.callbacks.remove(count)
        gc.set_threshold(*before)
        gc.unfreeze()
    assert len(prepared) == 1000
    assert passes in ([], [0])


def test_log_lines_hold_anything() -> None:
    told = entry(wire(random.Random(1), [KEY]), logMessages=LINES)
    by_block = parse.block(block(told), Slot(5), WATCHED)
    by_itself = parse.stored_transaction(single(told), WATCHED)
    assert by_block is not None
    assert by_block.contents is not None
    assert by_itself is not None
    assert list(by_block.contents[0].raw.logs or ()) == list(by_itself.raw.logs or ()) == LINES
    batch = [{"jsonrpc": "2.0", "id": n, "result": {"slot": 5, **told}} for n in range(2)]
    replies = parse.envelopes(json.dumps(batch).encode())
    assert [reply.id for reply in replies] == [0, 1]


def test_a_byte_that_is_no_utf8_is_kept() -> None:
    told = entry(wire(random.Random(1), [KEY]), logMessages=["Program log: here"])
    whole = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"parentSlot": 4, "transactions": [told]}}).encode()
    raw = parse.result(parse.envelope(whole.replace(b"here", b"\xff\xc3")))
    assert isinstance(raw, bytes)
    found = parse.block(raw, Slot(5), WATCHED)
    assert found is not None
    assert found.contents is not None
    lines = found.contents[0].raw.logs
    assert lines is not None
    assert lines[0].encode("utf-8", "surrogateescape") == b"Program log: \xff\xc3"


GOOD = wire(random.Random(1), [KEY])


@pytest.mark.parametrize(
    "told",
    [
        {**entry(GOOD), "transaction": [base58.encode(GOOD), "base58"]},
        {**entry(GOOD), "transaction": ["####", "base64"]},
        {**entry(GOOD), "transaction": [base64.b64encode(GOOD[:-1]).decode(), "base64"]},
        {**entry(GOOD), "transaction": base64.b64encode(GOOD).decode()},
        {**entry(GOOD), "version": 1 << 40},
        entry(GOOD, loadedAddresses={"writable": ["0"], "readonly": []}),
        entry(GOOD, logMessages=[1]),
        entry(GOOD, innerInstructions=[{"index": 0, "instructions": [{"programIdIndex": 999, "accounts": [], "data": ""}]}]),
        entry(GOOD, innerInstructions=[{"index": 0, "instructions": [{"programIdIndex": 1, "accounts": [256], "data": ""}]}]),
        entry(GOOD, innerInstructions=[{"index": 0, "instructions": [{"programIdIndex": 1, "accounts": [], "data": "0"}]}]),
        entry(GOOD, innerInstructions=[{"index": 0, "instructions": [{"programIdIndex": 1, "accounts": [], "data": "l" * 999}]}]),
    ],
)  # fmt: skip
def test_what_is_no_transaction_is_garbage(told: dict[str, Any]) -> None:
    with pytest.raises(parse.Garbage):
        parse.stored_transaction(single(told), WATCHED)
    with pytest.raises(parse.Garbage):
        parse.block(block(told), Slot(5), WATCHED)


@pytest.mark.parametrize("raw", [b"", GOOD[:60], bytes([0x81]) + bytes(20)])
def test_a_wire_without_a_signature_is_garbage_and_in_a_block_nobody_of_ours(raw: bytes) -> None:
    told = {**entry(GOOD), "transaction": [base64.b64encode(raw).decode(), "base64"]}
    with pytest.raises(parse.Garbage):
        parse.stored_transaction(single(told), WATCHED)
    found = parse.block(block(told), Slot(5), WATCHED)
    assert found is not None
    assert found.contents == ()


@pytest.mark.parametrize(
    "change",
    [
        {"slot": -1},
        {"slot": None},
        {"slot": 1 << 63},
        {"transactionIndex": 1 << 31},
        {"blockTime": 1 << 63},
        {"blockTime": 253_402_300_800},
    ],
)
def test_numbers_that_the_ledger_cannot_hold_are_garbage(change: dict[str, Any]) -> None:
    with pytest.raises(parse.Garbage):
        parse.stored_transaction(single({**entry(GOOD), **change}), WATCHED)


def test_a_time_of_a_block_is_one_of_the_calendar() -> None:
    found = parse.stored_transaction(single({**entry(GOOD), "blockTime": 253_402_300_799}), WATCHED)
    assert found is not None
    assert datetime.fromtimestamp(found.raw.block_time or 0, UTC).year == 9999


def test_a_signature_of_a_notification_is_no_longer_than_one_can_be() -> None:
    """It is kept until its slot is judged, and beyond."""
    value = {"signature": "1" * 89, "err": None, "logs": []}
    with pytest.raises(parse.Garbage):
        parse.logs_notification(msgspec.Raw(json.dumps({"context": {"slot": 5}, "value": value}).encode()))


_TOLD = entry(GOOD, logMessages=["Program log: x"], innerInstructions=[{"index": 0, "instructions": []}])
_ERROR = {"code": -32009, "message": "skipped"}


def _outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except parse.Garbage:
        return parse.Garbage


@pytest.mark.parametrize(
    "reply",
    [
        {"result": None},
        {"result": None, "error": _ERROR},
        {"error": _ERROR},
        {},
        [],
        {"result": 5},
        {"result": {"parentSlot": 4, "blockTime": 9, "transactions": [_TOLD], "size": {"any": "thing"}}},
        {"result": {"parentSlot": 4, "transactions": [_TOLD], "signatures": ["a"]}, "error": _ERROR},
        {"result": {"parentSlot": 4, "transactions": [entry(GOOD, logMessages=LINES[:2])]}},
        {"result": {"parentSlot": -4, "transactions": []}},
        {"result": {"slot": 5, "transactionIndex": 3, **_TOLD}},
        {"result": {"slot": 5, **entry(GOOD, logMessages=LINES[:2])}},
        {"result": {"slot": -5, **_TOLD}},
    ],
)  # fmt: skip
def test_a_reply_read_in_one_pass_tells_what_it_tells_in_two(reply: Any) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 7, **reply} if isinstance(reply, dict) else reply).encode()

    def told(read: Callable[[Any], Any], envelope: Callable[[bytes], Any]) -> Any:
        found = parse.result(envelope(body))
        return found if isinstance(found, Failure) else read(found)

    def of_block(raw: Any) -> Any:
        found = parse.block(raw, Slot(5), WATCHED)
        return None if found is None else msgspec.structs.replace(found, size=0)

    def of_one(raw: Any) -> Any:
        return parse.stored_transaction(raw, WATCHED)

    for read, quick in ((of_block, parse.block_envelope), (of_one, parse.stored_envelope)):
        assert _outcome(lambda: told(read, quick)) == _outcome(lambda: told(read, parse.envelope))  # noqa: B023
    body = b"[" + body + b"]"
    many = [
        _outcome(lambda batch=batch: told(of_one, lambda text: batch(text)[0]))
        for batch in (parse.stored_envelopes, parse.envelopes)
    ]
    assert many[0] == many[1]


@given(st.binary(max_size=200))
def test_noise_is_garbage_or_a_value_and_never_another_error(noise: bytes) -> None:
    for read in (
        parse.envelope,
        parse.envelopes,
        parse.signature_list,
        lambda raw: parse.block(raw, Slot(1), WATCHED),
        lambda raw: parse.stored_transaction(raw, WATCHED),
    ):
        with contextlib.suppress(parse.Garbage):
            read(noise)


@given(st.binary(min_size=1, max_size=700))
def test_base58_by_halves_is_base58(data: bytes) -> None:
    text = base58.encode(data)
    assert base58._decode_long(text) == data
    assert base58.decode(text) == data
    assert base58._decode_long("1" * 300 + text) == bytes(300) + data
