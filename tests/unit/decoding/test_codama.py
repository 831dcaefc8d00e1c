"""Codama documents are read as the Anchor IDL that says the same, and what no Anchor IDL can say is named."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.codec import InvalidValue, Unservable, compile_idl
from programs.idl import IdlError, load_idl

ADDRESS = "5zWF1MxmFNPhWMh1h8F5xHnRb6rrcwuQWMLKT1DyzWvT"


def number(width: str, endian: str = "le") -> dict[str, Any]:
    return {"kind": "numberTypeNode", "format": width, "endian": endian}


def prefixed(inner: str, width: str = "u32") -> dict[str, Any]:
    return {"kind": "sizePrefixTypeNode", "type": {"kind": inner, "encoding": "utf8"}, "prefix": number(width)}


def field(name: str, kind: Any, kind_of: str = "structFieldTypeNode", **more: Any) -> dict[str, Any]:
    return {"kind": kind_of, "name": name, "type": kind, **more}


def struct(*fields: Any) -> dict[str, Any]:
    return {"kind": "structTypeNode", "fields": [*fields]}


def counted(kind: str, count: Any, **items: Any) -> dict[str, Any]:
    return {"kind": kind, "count": count, **items}


def many() -> dict[str, Any]:
    return {"kind": "prefixedCountNode", "prefix": number("u32")}


FOUR = {"kind": "fixedSizeTypeNode", "size": 4, "type": {"kind": "bytesTypeNode"}}
TAG = {"kind": "bytesValueNode", "data": "01020304", "encoding": "base16"}
BY_FIELD = [{"kind": "fieldDiscriminatorNode", "name": "tag", "offset": 0}]


def everything() -> dict[str, Any]:
    link = {"kind": "definedTypeLinkNode", "name": "side"}
    return struct(
        field("owner", {"kind": "publicKeyTypeNode"}),
        field("amount", {"kind": "amountTypeNode", "decimals": 9, "number": number("u64")}),
        field("open", {"kind": "booleanTypeNode", "size": number("u8")}),
        field("title", prefixed("stringTypeNode")),
        field("raw", prefixed("bytesTypeNode")),
        field("hash", FOUR),
        field("side", link),
        field("maybe", {"kind": "optionTypeNode", "item": number("i16"), "prefix": number("u8")}),
        field("kept", {"kind": "optionTypeNode", "fixed": True, "item": number("u64"), "prefix": number("u32")}),
        field("list", counted("arrayTypeNode", many(), item=link)),
        field("pair", counted("arrayTypeNode", {"kind": "fixedCountNode", "value": 2}, item=number("u16"))),
        field(
            "map", counted("mapTypeNode", many(), key=number("u8"), value={"kind": "tupleTypeNode", "items": [link]})
        ),
        field("inside", struct(field("x", number("f32")))),
    )


def document() -> dict[str, Any]:
    side = {
        "kind": "enumTypeNode",
        "size": number("u8"),
        "variants": [
            {"kind": "enumEmptyVariantTypeNode", "name": "buy"},
            {"kind": "enumStructVariantTypeNode", "name": "sell", "struct": struct(field("at", number("u8")))},
            {
                "kind": "enumTupleVariantTypeNode",
                "name": "both",
                "tuple": {"kind": "tupleTypeNode", "items": [number("u8"), number("u128")]},
            },
        ],
    }
    tag = {"defaultValueStrategy": "omitted", "defaultValue": TAG}
    argument = "instructionArgumentNode"
    return {
        "kind": "rootNode",
        "standard": "codama",
        "version": "1.6.0",
        "program": {
            "kind": "programNode",
            "name": "market",
            "publicKey": ADDRESS,
            "version": "1.2.3",
            "events": [
                {
                    "kind": "eventNode",
                    "name": "placed",
                    "data": {
                        "kind": "hiddenPrefixTypeNode",
                        "type": everything(),
                        "prefix": [{"kind": "constantValueNode", "type": FOUR, "value": TAG}],
                    },
                }
            ],
            "accounts": [
                {
                    "kind": "accountNode",
                    "name": "order",
                    "data": struct(field("tag", FOUR, **tag), *everything()["fields"]),
                    "discriminators": BY_FIELD,
                }
            ],
            "instructions": [
                {
                    "kind": "instructionNode",
                    "name": "place",
                    "accounts": [
                        {"name": "payer", "isWritable": True, "isSigner": "either", "isOptional": False},
                        {"name": "system", "defaultValue": {"kind": "publicKeyValueNode", "publicKey": "1" * 32}},
                    ],
                    "arguments": [field("tag", FOUR, argument, **tag), field("value", everything(), argument)],
                    "discriminators": BY_FIELD,
                }
            ],
            "definedTypes": [{"kind": "definedTypeNode", "name": "side", "type": side}],
            "errors": [{"kind": "errorNode", "code": 6000, "name": "no", "message": "no"}],
        },
    }


VALUE: dict[str, Any] = {
    "owner": ADDRESS,
    "amount": 7,
    "open": True,
    "title": "é",
    "raw": "0aff",
    "hash": "00010203",
    "side": "buy",
    "maybe": -5,
    "kept": None,
    "list": [{"sell": {"at": 3}}, {"both": [1, 2]}],
    "pair": [1, 2],
    "map": [[4, ["buy"]]],
    "inside": {"x": 0.5},
}


def test_events_accounts_and_instructions_are_read() -> None:
    idl = load_idl(json.dumps(document()))
    assert [(p.path, p.severity) for p in idl.problems] == [("$", "warning")]
    assert (idl.name, idl.version, idl.address, idl.errors[0].code) == ("market", "1.2.3", ADDRESS, 6000)
    codec = compile_idl(idl)
    assert codec.unservable() == []
    event = codec.encode_event("placed", VALUE)
    # By the words of the Borsh specification.
    expected = (
        "01020304" + bytes(idl_key()).hex() + "0700000000000000" + "01" + "02000000c3a9" + "020000000aff" + "00010203"
    )
    expected += "00" + "01fbff" + "00000000" + "00" * 8 + "02000000" + "0103" + "0201" + "02" + "00" * 15
    expected += "01000200" + "01000000" + "0400" + "0000003f"
    assert event.hex() == expected
    assert codec.decode_event(event).data == VALUE
    assert codec.decode_account(event).data == VALUE
    assert codec.decode_instruction(event).data == {"value": VALUE}
    metas = codec.account_metas("place")
    assert [(m.name, m.writable, m.signer, m.address) for m in metas] == [
        ("payer", True, False, None),
        ("system", False, False, "1" * 32),
    ]


def idl_key() -> bytes:
    from programs.base58 import address_bytes

    return address_bytes(ADDRESS)


@pytest.mark.parametrize(
    "kind",
    [
        number("u32", "be"),
        number("shortU16"),
        {"kind": "bytesTypeNode"},
        {"kind": "stringTypeNode", "encoding": "utf8"},
        prefixed("stringTypeNode", "u64"),
        {"kind": "fixedSizeTypeNode", "size": 8, "type": {"kind": "stringTypeNode", "encoding": "utf8"}},
        {"kind": "booleanTypeNode", "size": number("u32")},
        {"kind": "optionTypeNode", "item": number("u8"), "prefix": number("u32")},
        {"kind": "zeroableOptionTypeNode", "item": {"kind": "publicKeyTypeNode"}},
        {"kind": "remainderOptionTypeNode", "item": number("u8")},
        counted("arrayTypeNode", {"kind": "remainderCountNode"}, item=number("u8")),
        {"kind": "enumTypeNode", "size": number("u32", "be"), "variants": []},
        {"kind": "enumTypeNode", "size": number("u64"), "variants": []},
        {"kind": "definedTypeLinkNode", "name": "side", "program": {"kind": "programLinkNode", "name": "other"}},
        {"kind": "newTypeNode"},
    ],
)
def test_what_no_anchor_idl_can_say_takes_only_what_holds_it(kind: Any) -> None:
    given = document()
    given["program"]["events"][0]["data"]["type"]["fields"].insert(1, field("strange", kind))
    idl = load_idl(given)
    assert [p.severity for p in idl.problems] == ["warning", "error"]
    codec = compile_idl(idl)
    with pytest.raises(Unservable, match="codama"):
        codec.decode_event(bytes.fromhex("01020304") + bytes(100))
    assert codec.decode_account(codec.encode_account("order", VALUE)).data == VALUE


@pytest.mark.parametrize(
    ("kind", "value", "given", "expected"),
    [
        (number("u8"), {"kind": "numberValueNode", "number": 9}, BY_FIELD, b"\x09"),
        (number("u32"), {"kind": "numberValueNode", "number": 9}, BY_FIELD, b"\x09\0\0\0"),
        (number("u16", "be"), {"kind": "numberValueNode", "number": 9}, BY_FIELD, b"\0\x09"),
        (FOUR, {"kind": "bytesValueNode", "data": "2VfUX", "encoding": "base58"}, BY_FIELD, bytes.fromhex("01020304")),
        (
            FOUR,
            {"kind": "bytesValueNode", "data": "AQIDBA==", "encoding": "base64"},
            BY_FIELD,
            bytes.fromhex("01020304"),
        ),
        (FOUR, {"kind": "bytesValueNode", "data": "abcd", "encoding": "utf8"}, BY_FIELD, b"abcd"),
        (
            {"kind": "definedTypeLinkNode", "name": "side"},
            {"kind": "enumValueNode", "enum": {"kind": "definedTypeLinkNode", "name": "side"}, "variant": "sell"},
            BY_FIELD,
            b"\x01",
        ),
    ],
)
def test_discriminators_however_they_are_given(kind: Any, value: Any, given: Any, expected: bytes) -> None:
    root = document()
    root["program"]["accounts"] = [
        {
            "name": "a",
            "data": struct(field("tag", kind, defaultValue=value), field("x", number("u8"))),
            "discriminators": given,
        }
    ]
    codec = compile_idl(load_idl(root))
    assert codec.decode_account(expected + b"\x05").data == {"x": 5}


@pytest.mark.parametrize(("width", "tag"), [("u8", "0a"), ("u16", "0a00"), ("u32", "0a000000")])
def test_a_variants_own_number_is_what_is_written(width: str, tag: str) -> None:
    root = document()
    side = root["program"]["definedTypes"][0]["type"]
    side["size"] = number(width)
    side["variants"][1]["discriminator"] = 10
    root["program"]["events"][0]["data"]["type"] = struct(
        field("side", {"kind": "definedTypeLinkNode", "name": "side"})
    )
    codec = compile_idl(load_idl(root))
    data = bytes.fromhex("01020304" + tag + "07")
    assert codec.decode_event(data).data == {"side": {"sell": {"at": 7}}}
    assert codec.encode_event("placed", {"side": {"sell": {"at": 7}}}) == data
    with pytest.raises(InvalidValue, match="1 is not a variant"):
        codec.decode_event(bytes.fromhex("01020304" + tag.replace("0a", "01") + "07"))
    assert codec.decode_event(bytes.fromhex("01020304" + tag.replace("0a", "00"))).data == {"side": "buy"}


def test_two_variants_of_one_number_are_said() -> None:
    root = document()
    root["program"]["definedTypes"][0]["type"]["variants"][2]["discriminator"] = 0
    problems = load_idl(root).problems
    assert [(p.path, p.severity) for p in problems[1:]] == [("$.types[4].type.variants[2]", "error")]


def test_what_nothing_tells_apart_is_said() -> None:
    root = document()
    del root["program"]["accounts"][0]["discriminators"]
    problems = load_idl(root).problems
    assert [(p.path, p.severity) for p in problems] == [("$", "warning"), ("$.accounts[0]", "warning")]


PLACES = st.lists(st.integers(0, 60), min_size=1, max_size=6)


@given(PLACES, st.sampled_from([None, 0, "x", [], {}, {"kind": "x"}, [1], {"kind": None}]))
def test_any_harm_to_a_document_is_refused_or_read(places: list[int], harm: Any) -> None:
    """Something in the document becomes something else: no other exception comes of it."""
    root = copy.deepcopy(document())
    at: Any = root
    for place in places:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            break
        key = keys[place % len(keys)]
        if place == places[-1] or not isinstance(at[key], dict | list):
            at[key] = harm
            break
        at = at[key]
    with contextlib.suppress(IdlError):
        compile_idl(load_idl(root)).unservable()
