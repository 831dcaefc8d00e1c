"""Transactions from the wire and from every encoding of getTransaction are one and the same."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import Transaction, VersionedTransaction

from programs.codec import compile_idl
from programs.events import called_instructions, extract
from programs.idl import load_idl
from programs.transaction import (
    TransactionError,
    account_keys,
    block_of,
    from_rpc,
    parse_rpc,
    parse_wire,
    signature_of,
    static_keys,
    top_level,
    view,
    view_from_rpc,
)
from tests.unit.decoding.chain import (
    CODEC,
    CODECS,
    DOCUMENT,
    KEYS,
    PROGRAM,
    P,
    data_line,
    frame,
    result,
    self_cpi,
    wire,
)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 12)), max_size=4),
    st.booleans(),
)
def test_the_wire_is_read_as_its_own_library_wrote_it(calls: list[tuple[bytes, int]], versioned: bool) -> None:
    payer = Keypair.from_seed(bytes(32))
    program = Pubkey.from_bytes(PROGRAM)
    instructions = [
        Instruction(
            program, data, [AccountMeta(Pubkey.from_bytes(bytes([i + 40]) * 32), False, True) for i in range(count)]
        )
        for data, count in calls
    ]
    if versioned:
        message = MessageV0.try_compile(payer.pubkey(), instructions, [], Hash.default())
        packed = bytes(VersionedTransaction(message, [payer]))
        keys, compiled = message.account_keys, message.instructions
    else:
        legacy = Message.new_with_blockhash(instructions, payer.pubkey(), Hash.default())
        packed = bytes(Transaction([payer], legacy, Hash.default()))
        keys, compiled = legacy.account_keys, legacy.instructions
    parsed = parse_wire(packed)
    assert parsed.version == (0 if versioned else None)
    assert parsed.static_keys == tuple(bytes(k) for k in keys)
    assert parsed.instructions is not None
    assert [(i.program_id_index, i.accounts, i.data) for i in parsed.instructions] == [
        (c.program_id_index, bytes(c.accounts), bytes(c.data)) for c in compiled
    ]
    for length in range(len(packed) - (1 if versioned else 0)):
        with pytest.raises(TransactionError):
            parse_wire(packed[:length])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_refused_or_read_within_its_bounds(noise: bytes) -> None:
    try:
        parsed = parse_wire(noise)
    except TransactionError:
        return
    for instruction in parsed.instructions or ():
        assert len(instruction.data) + len(instruction.accounts) <= len(noise)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64", "base58"])
def test_every_encoding_shows_the_same_transaction(encoding: str, loaded: bool) -> None:
    logs = frame(P, 1, data_line(1), *frame(P, 2))
    document = result(encoding, logs, [self_cpi(0, 0, 2)], loaded)
    for source in (
        document,
        json.dumps(document),
        json.dumps({"jsonrpc": "2.0", "result": document, "id": 1}).encode(),
    ):
        seen = view_from_rpc(source)
        assert seen.keys == KEYS
        assert seen.outer is not None
        assert [(i.program_id_index, i.data) for i in seen.outer] == [(1, b"\x07\x2a")]
        assert seen.inner == (self_cpi(0, 0, 2),)
        assert seen.signature == signature_of(parse_rpc(source))
        assert [e.data for e in extract(seen, CODECS).events] == [{"x": 1}, {"x": 2}]
        (instruction,) = called_instructions(seen, PROGRAM, CODEC)
        assert (instruction.name, instruction.data, instruction.outer, instruction.index) == ("put", {"x": 42}, 0, None)
        assert list(instruction.accounts) == ["who", "group.inside", "maybe", "absent"]
        assert [instruction.accounts["maybe"], instruction.accounts["absent"]] == [None, None]


def test_the_ledgers_form_holds_all_that_decoding_needs() -> None:
    logs = frame(P, 1, data_line(1), *frame(P, 2))
    raw = from_rpc(result("base64", logs, [self_cpi(0, 0, 2)], loaded=True), transaction_index=3)
    assert (raw.slot, raw.transaction_index, raw.version, raw.loaded) == (77, 3, 0, KEYS[2:])
    assert account_keys(raw) == KEYS
    assert top_level(raw) == view(raw).outer
    assert extract(raw, CODECS) == extract(view(raw), CODECS)
    assert [e.data for e in extract(raw, CODECS).events] == [{"x": 1}, {"x": 2}]


def test_a_version_from_the_future_has_no_keys_and_no_error() -> None:
    packed = bytes([1]) + bytes(64) + bytes([0x80 | 5]) + bytes(100)
    parsed = parse_wire(packed)
    assert (parsed.version, parsed.static_keys, parsed.instructions) == (5, None, None)
    assert parse_wire(bytes([0x81]) + bytes(100)).version == 1
    assert parse_wire(wire(0, [])).version == 0


V1 = [bytes.fromhex(line) for line in Path(__file__).parents[2].joinpath("golden/wire/v1.txt").read_text().split()]


@pytest.mark.parametrize("packed", V1, ids=["plain", "configured"])
def test_version_1_is_read_as_rust_wrote_it(packed: bytes) -> None:
    parsed = parse_wire(packed)
    keys = tuple(bytes([first]) * 32 for first in (0x15, 0x16, 0x17))
    assert (parsed.version, parsed.signature, parsed.static_keys) == (1, b"\1" * 64, (*keys, PROGRAM))
    calls = [(i.program_id_index, i.accounts, i.data) for i in parsed.instructions or ()]
    assert calls == [(3, b"\0\2", b"\x07\x2a"), (3, b"\1", b"\x09" * 300), (3, b"", b"")]
    start, end = static_keys(packed) or (0, 0)
    assert packed[start:end] == b"".join((*keys, PROGRAM))
    # Bytes that are laid out in another way are not guessed at.
    for other in (packed[:-1], packed + b"\0", packed[:40], packed[:200]):
        assert parse_wire(other).static_keys is None
        assert static_keys(other) is None


def test_events_of_version_1_by_either_way() -> None:
    document: dict[str, Any] = result(
        "base64", frame(P, 1, data_line(1), *frame(P, 2)), [self_cpi(0, 0, 2, program=3, authority=1)]
    )
    # The second signer is put out for the event's authority.
    packed = V1[0].replace(b"\x16" * 32, KEYS[3])
    document["transaction"] = [base64.b64encode(packed).decode(), "base64"]
    document["version"] = 1
    seen = view_from_rpc(document)
    assert (seen.version, seen.signature) == (1, signature_of(parse_rpc(document)))
    found = extract(seen, CODECS)
    assert ([e.data for e in found.events], found.incomplete) == ([{"x": 1}, {"x": 2}], None)


def test_text_that_is_not_utf_8_is_refused_and_raises_nothing_else() -> None:
    for encoding in ("json", "base64"):
        text = json.dumps(result(encoding, frame(P, 1, data_line(1)), [self_cpi(0, 0, 2)])).encode()
        start = text.index(b'"transaction"')
        for at in range(start, start + 90):
            broken = text[:at] + b"\xe6" + text[at + 1 :]
            try:
                rpc = parse_rpc(broken)
                signature_of(rpc)
                view_from_rpc(rpc)
            except TransactionError:
                continue


@pytest.mark.parametrize("number", [-1, 256, 1 << 70, -(1 << 70)])
def test_a_key_or_instruction_of_an_impossible_number_is_refused(number: int) -> None:
    # A negative index would count from the end and give the event to another program.
    for part in ("outer", "inner", "group"):
        document = result("json", frame(P, 1, data_line(1)), [self_cpi(0, 0, 2)])
        inner = document["meta"]["innerInstructions"][0]
        if part == "outer":
            document["transaction"]["message"]["instructions"][0]["programIdIndex"] = number
        elif part == "inner":
            inner["instructions"][0]["programIdIndex"] = number
        elif number != 256:
            inner["index"] = number
        else:
            continue
        with pytest.raises(TransactionError):
            view_from_rpc(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "result is null"),
        ('{"jsonrpc":"2.0","id":1,"result":null}', "result is null"),
        ('{"jsonrpc":"2.0","id":1,"error":{"code":-32015,"message":"no"}}', "answered with an error"),
        ("{}", "it has no `transaction`"),
        ("[]", "not a getTransaction result"),
        ("{", "not a getTransaction result"),
        ('{"transaction":["!!","base64"],"slot":1}', "is not base64"),
        ('{"transaction":["AA==","base99"],"slot":1}', "unknown encoding"),
        ('{"transaction":["AQ==","base64"],"slot":1}', "cut short"),
        ('{"transaction":{"message":{"accountKeys":["x"]},"signatures":["s"]}}', "not an address"),
        ("[" * 100_000, "not a getTransaction result"),
    ],
)
def test_what_is_no_transaction_is_named(text: str, words: str) -> None:
    with pytest.raises(TransactionError, match=words):
        view_from_rpc(text)


@pytest.mark.parametrize("data", [[7, 42], {"0": 7, "1": 42}, {"type": "Buffer", "data": [7, 42]}])
def test_a_versioned_transaction_as_web3js_prints_it(data: Any) -> None:
    document = result("json", frame(P, 1, data_line(1)), [self_cpi(0, 0, 2)], loaded=True)
    plain = view_from_rpc(document)
    message = document["transaction"]["message"]
    call = {"programIdIndex": 1, "accountKeyIndexes": [0, 2, 1, 1], "data": data}
    document["transaction"]["message"] = {
        "header": {},
        "staticAccountKeys": message["accountKeys"],
        "compiledInstructions": [call],
        "addressTableLookups": [],
    }
    assert view_from_rpc(document) == plain
    for wrong in (None, ["x"], {"1": 7}, {"0": 256}):
        call["data"] = wrong
        with pytest.raises(TransactionError):
            view_from_rpc(document)


def test_a_block_is_its_transactions() -> None:
    one = {
        k: v
        for k, v in result("json", frame(P, 1, data_line(1)), []).items()
        if k in ("transaction", "meta", "version")
    }
    block = {"blockhash": P, "parentSlot": 76, "blockTime": 5, "transactions": [one, one]}
    for document, slot in (
        (block, None),
        ({"jsonrpc": "2.0", "id": 1, "result": block}, None),
        ({"slot": 77, "block": block}, 77),
        ({**block, "slot": 77}, 77),
        ({"method": "blockNotification", "params": {"result": {"value": {"slot": 77, "block": block}}}}, 77),
    ):
        found = block_of(json.dumps(document))
        assert found is not None
        assert found[0] == slot
        assert [view_from_rpc(rpc).logs for rpc in found[1]] == [tuple(one["meta"]["logMessages"])] * 2
    for none in ({"result": None}, {"result": {"signatures": []}}, {}, one, []):
        assert block_of(json.dumps(none)) is None


def test_an_instruction_whose_bytes_do_not_fit_is_named_all_the_same() -> None:
    whole = view_from_rpc(result("json", frame(P, 1), []))
    (good,) = called_instructions(whole, PROGRAM, CODEC)
    for data, name, words in ((b"\7", "put", "put.x: cut short"), (b"\x09\1", None, "no instruction of the IDL")):
        (outer,) = whole.outer or ()
        given = replace(whole, outer=(replace(outer, data=data),))
        (call,) = called_instructions(given, PROGRAM, CODEC)
        assert (call.name, call.data, call.accounts) == (name, None, good.accounts if name else {})
        assert str(call.error).startswith(words)


def test_two_instructions_of_one_name_have_accounts_of_their_own() -> None:
    calls = [
        {"name": "put", "discriminator": [number], "args": [], "accounts": [{"name": f"a{number}"}]}
        for number in (7, 8)
    ]
    codec = compile_idl(load_idl({**DOCUMENT, "instructions": calls}))
    whole = view_from_rpc(result("json", frame(P, 1), []))
    (outer,) = whole.outer or ()
    for number in (7, 8):
        (call,) = called_instructions(replace(whole, outer=(replace(outer, data=bytes([number])),)), PROGRAM, codec)
        assert list(call.accounts) == [f"a{number}"]
