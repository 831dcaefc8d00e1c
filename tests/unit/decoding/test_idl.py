"""IDLs as they are found: both formats, dirt, and the layouts that they describe."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from programs.codec import DecodeError, Unservable, compile_idl, layout
from programs.idl import PRIMITIVE_SPELLINGS, Idl, IdlError, load_idl, snake_case, snake_cases
from programs.rust_text import constant_value, rust_type


def new(types: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n", "version": "0", "spec": "0.1.0"}, "types": types, **more}


def event(fields: Any, types: list[dict[str, Any]] | None = None, **layout: Any) -> dict[str, Any]:
    """An IDL with one event E of discriminator 01."""
    own = {"name": "E", "type": {"kind": "struct", "fields": fields}, **layout}
    return new([own, *(types or [])], events=[{"name": "E", "discriminator": [1]}])


def said(idl: Idl) -> list[tuple[str, str]]:
    return [(p.path, p.severity) for p in idl.problems]


def test_legacy_names_give_anchors_discriminators() -> None:
    idl = load_idl(
        {
            "name": "old",
            "version": "1",
            "metadata": {"address": "11111111111111111111111111111111"},
            "instructions": [{"name": "swapBaseIn", "accounts": [], "args": [{"name": "x", "type": "u8"}]}],
            "accounts": [{"name": "Pool", "type": {"kind": "struct", "fields": [{"name": "o", "type": "publicKey"}]}}],
            "events": [{"name": "Swapped", "fields": [{"name": "p", "type": {"defined": "Pool"}, "index": False}]}],
        }
    )
    assert idl.legacy
    assert not idl.problems
    assert idl.address == "11111111111111111111111111111111"
    import hashlib

    assert idl.instructions[0].discriminator == hashlib.sha256(b"global:swap_base_in").digest()[:8]
    assert idl.accounts[0].discriminator == hashlib.sha256(b"account:Pool").digest()[:8]
    assert idl.events[0].discriminator == hashlib.sha256(b"event:Swapped").digest()[:8]
    codec = compile_idl(idl)
    value = {"p": {"o": "11111111111111111111111111111111"}}
    assert codec.decode_event(codec.encode_event("Swapped", value)).data == value


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("swapBaseIn", "swap_base_in"),
        ("swapV2", "swap_v2"),
        ("initAMMPool", "init_amm_pool"),
        ("already_snake", "already_snake"),
    ],
)
def test_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake


def test_the_longest_discriminator_wins() -> None:
    types = [{"name": n, "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}} for n in "ABC"]
    events = [{"name": n, "discriminator": d} for n, d in zip("ABC", ([1], [1, 2, 3], [1, 2]), strict=True)]
    codec = compile_idl(load_idl(new(types, events=events)))
    for data, name, trailing in ((b"\1\2\3\4", "B", 0), (b"\1\2\4", "C", 0), (b"\1\3\4", "A", 1)):
        decoded = codec.decode_event(data)
        assert (decoded.name, decoded.trailing) == (name, trailing)


def test_doubled_names_are_reported_and_the_rest_serves() -> None:
    document = event([{"name": "a", "type": "u8"}, {"name": "a", "type": "u16"}])
    document["events"].append({"name": "E", "discriminator": [1]})
    document["types"].append({"name": "E", "type": {"kind": "struct", "fields": []}})
    idl = load_idl(document)
    assert said(idl) == [
        ("$.types[0].type.fields[1]", "warning"),
        ("$.types[1]", "error"),
        ("$.events[1]", "warning"),
    ]
    assert compile_idl(idl).decode_event(b"\1\2\3\0").data == {"a": 2, "a_2": 3}


def test_a_name_that_no_index_holds_is_cut_and_its_events_decode() -> None:
    """It would be written into an index with every event, and stop all of them."""
    long = "ä" * 1_700 + "E"
    own = {"name": long, "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}}
    idl = load_idl(
        new([own], events=[{"name": long, "discriminator": [1]}], accounts=[{"name": long, "discriminator": [2]}])
    )
    assert sorted(said(idl)) == [("$.accounts[0].name", "warning"), ("$.events[0].name", "warning")]
    codec = compile_idl(idl)
    for decoded in (codec.decode_event(b"\1\7"), codec.decode_account(b"\2\7")):
        assert (decoded.name, decoded.data) == (long[:500], {"x": 7})


def test_an_undefined_type_takes_only_its_own_place_with_it() -> None:
    types = [
        {
            "name": "Choice",
            "type": {
                "kind": "enum",
                "variants": [
                    {"name": "Good", "fields": ["u8"]},
                    {"name": "Bad", "fields": [{"defined": {"name": "x::Gone"}}]},
                ],
            },
        }
    ]
    idl = load_idl(event([{"name": "c", "type": {"defined": {"name": "Choice"}}}], types))
    assert [p.path for p in idl.problems if p.severity == "error"] == ["$.types[1].type.variants[1].fields[0].defined"]
    codec = compile_idl(idl)
    assert codec.decode_event(b"\1\0\7").data == {"c": {"Good": [7]}}
    with pytest.raises(Unservable, match=r"E\.c\.Bad\.0: type 'x::Gone' is nowhere defined at byte 2"):
        codec.decode_event(b"\1\1\7")
    assert [(kind, name) for kind, name, _ in codec.unservable()] == [("event", "E")]


def test_names_in_another_convention_are_found() -> None:
    document = new(
        [
            {
                "name": "voteCast",
                "type": {"kind": "struct", "fields": [{"name": "inner", "type": {"defined": {"name": "my_type"}}}]},
            }
        ],
        events=[{"name": "VoteCast", "discriminator": [1]}],
    )
    document["types"].append({"name": "MyType", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}})
    idl = load_idl(document)
    assert {p.severity for p in idl.problems} == {"warning"}
    assert compile_idl(idl).decode_event(b"\1\5").data == {"inner": {"x": 5}}


GENERICS = [
    {
        "name": "Box",
        "generics": [{"kind": "type", "name": "T"}, {"kind": "const", "name": "N", "type": "usize"}],
        "type": {
            "kind": "struct",
            "fields": [
                {"name": "items", "type": {"array": [{"generic": "T"}, {"generic": "N"}]}},
                {"name": "raw", "type": {"array": ["u8", {"generic": "N"}]}},
            ],
        },
    },
    {
        "name": "Outer",
        "generics": [{"kind": "const", "name": "M", "type": "usize"}],
        "type": {
            "kind": "struct",
            "fields": [
                {
                    "name": "box",
                    "type": {
                        "defined": {
                            "name": "Box",
                            "generics": [{"kind": "type", "type": {"option": "u8"}}, {"kind": "const", "value": "M"}],
                        }
                    },
                }
            ],
        },
    },
]


@pytest.mark.parametrize(
    "argument",
    [
        {"kind": "const", "value": "2"},
        {"kind": "const", "value": 2},
        {"kind": "type", "type": "2"},
        {"kind": "type", "type": {"defined": {"name": "TWO"}}},
        {"kind": "type", "type": {"generic": "TWO"}},
        {"kind": "const", "value": "TWO"},
    ],
)
def test_constants_however_they_are_passed(argument: dict[str, Any]) -> None:
    document = event([{"name": "o", "type": {"defined": {"name": "Outer", "generics": [argument]}}}], GENERICS)
    document["constants"] = [{"name": "TWO", "type": "usize", "value": "2"}]
    codec = compile_idl(load_idl(document))
    value = {"o": {"box": {"items": [None, 5], "raw": "0102"}}}
    assert codec.decode_event(b"\1\0\1\5\1\2").data == value
    assert codec.encode_event("E", value) == b"\1\0\1\5\1\2"


def account(serialization: str, fields: list[tuple[str, Any]], repr_: Any, types: Any = ()) -> Any:
    layout = {
        "name": "A",
        "serialization": serialization,
        "type": {"kind": "struct", "fields": [{"name": n, "type": t} for n, t in fields]},
    }
    if repr_ is not None:
        layout["repr"] = repr_
    return compile_idl(load_idl(new([layout, *types], accounts=[{"name": "A", "discriminator": [1]}])))


MIXED = [("a", "u8"), ("b", "u64"), ("c", "u16"), ("d", "u32"), ("e", "bool")]


@pytest.mark.parametrize(
    ("serialization", "repr_", "native"),
    [
        ("bytemuck", {"kind": "c"}, "<B7xQH2xI?7x"),
        ("bytemuck", {"kind": "c", "packed": True}, "<BQHI?"),
        ("bytemuck", {"kind": "c", "packed": 2}, "<BxQHI?x"),
        ("bytemuck", {"kind": "c", "packed": 4}, "<B3xQH2xI?3x"),
        ("bytemuck", {"kind": "c", "align": 16}, "<B7xQH2xI?7x"),
        ("bytemuck", {"kind": "c", "align": 64}, "<B7xQH2xI?39x"),
        ("bytemuckunsafe", None, "<BQHI?"),
        ("bytemuckunsafe", {"kind": "c"}, "<B7xQH2xI?7x"),
    ],
)
def test_zero_copy_accounts_have_c_layout(serialization: str, repr_: Any, native: str) -> None:
    codec = account(serialization, MIXED, repr_)
    data = b"\1" + struct.pack(native, 1, 2, 3, 4, True)
    decoded = codec.decode_account(data + b"more")
    assert (decoded.data, decoded.trailing) == ({"a": 1, "b": 2, "c": 3, "d": 4, "e": True}, 4)
    assert codec.encode_account("A", decoded.data) == data


def test_nested_zero_copy_pads_inside_and_between() -> None:
    inner = {
        "name": "I",
        "serialization": "bytemuck",
        "repr": {"kind": "c"},
        "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}, {"name": "y", "type": "u16"}]},
    }
    fields = [
        ("a", "u8"),
        ("i", {"array": [{"defined": {"name": "I"}}, 2]}),
        ("w", "u128"),
        ("k", "pubkey"),
        ("z", "i128"),
    ]
    codec = account("bytemuck", fields, {"kind": "c"}, [inner])
    key = "11111111111111111111111111111111"
    body = struct.pack("<BxBxHBxH6xQQ32sqq", 1, 2, 3, 4, 5, 6, 0, bytes(32), -1, -1)
    data = {"a": 1, "i": [{"x": 2, "y": 3}, {"x": 4, "y": 5}], "w": 6, "k": key, "z": -1}
    assert codec.decode_account(b"\1" + body).data == data
    assert codec.encode_account("A", data) == b"\1" + body


@pytest.mark.parametrize("written", ["string", {"vec": "u8"}, {"option": "u8"}])
def test_what_has_no_c_layout_is_unservable(written: Any) -> None:
    with pytest.raises(Unservable, match="no layout in bytemuck"):
        account("bytemuck", [("x", written)], None).decode_account(b"\1" + bytes(50))


def test_coption_keeps_the_room_of_an_absent_value() -> None:
    codec = compile_idl(load_idl(event([{"name": "c", "type": {"coption": "u64"}}, {"name": "d", "type": "u8"}])))
    assert codec.decode_event(b"\1" + bytes(12) + b"\7").data == {"c": None, "d": 7}
    assert codec.decode_event(b"\1" + struct.pack("<IQB", 1, 9, 7)).data == {"c": 9, "d": 7}
    with pytest.raises(DecodeError, match=r"E\.c: 2 is not the tag of an option at byte 1"):
        codec.decode_event(b"\1" + struct.pack("<IQB", 2, 9, 7))


@pytest.mark.parametrize(
    ("written", "data", "message"),
    [
        ("bool", b"\2", "E.x: 2 is not a boolean at byte 1"),
        ("string", b"\2\0\0\0a\xff", "E.x: not UTF-8 (invalid start byte) at byte 6"),
        ("string", b"\3\0\0\0\xed\xa0\x80", "E.x: not UTF-8 (invalid continuation byte) at byte 5"),
        ({"option": "u8"}, b"\2\0", "E.x: 2 is not the tag of an option at byte 1"),
        ({"vec": "u16"}, b"\2\0\0\0abc", "E.x: cut short, 4 bytes needed, 3 left at byte 5"),
        ("u64", b"abc", "E.x: cut short, 8 bytes needed, 3 left at byte 1"),
        ({"vec": {"option": "bool"}}, b"\2\0\0\0\1\1\1\7", "E.x[1]: 7 is not a boolean at byte 8"),
    ],
)
def test_errors_name_field_and_byte(written: Any, data: bytes, message: str) -> None:
    codec = compile_idl(load_idl(event([{"name": "x", "type": written}])))
    with pytest.raises(DecodeError) as caught:
        codec.decode_event(b"\1" + data)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["\x00a", "\ufeffx", "\u202eabc", " a ", "e\u0301", ""])
def test_strings_are_kept_as_they_are(text: str) -> None:
    codec = compile_idl(load_idl(event([{"name": "x", "type": "string"}])))
    assert codec.decode_event(codec.encode_event("E", {"x": text})).data == {"x": text}


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"[]",
        b"{",
        b'"x"',
        b"{}",
        b'{"types": 3}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"idl":' * 300 + b"{}" + b"}" * 300,
    ],
)
def test_what_is_no_idl_is_refused_in_one_line(source: bytes) -> None:
    with pytest.raises(IdlError) as caught:
        load_idl(source)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.sampled_from(["u8", "x", "E", "struct", "string", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "type",
                    "kind",
                    "fields",
                    "variants",
                    "defined",
                    "vec",
                    "option",
                    "array",
                    "generics",
                    "generic",
                    "discriminator",
                    "args",
                    "accounts",
                    "value",
                    "alias",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.lists(JSON, max_size=3), st.lists(JSON, max_size=3), st.lists(JSON, max_size=3), st.lists(JSON, max_size=2))
def test_any_dirt_is_loaded_and_compiled(
    events: list[Any], types: list[Any], accounts: list[Any], calls: list[Any]
) -> None:
    document = new(
        types,
        events=[{"name": "Sound", "discriminator": [250, 250, 250, 250]}, *events],
        accounts=accounts,
        instructions=calls,
    )
    document["types"] = [{"name": "Sound", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}}, *types]
    idl = load_idl(json.dumps(document))
    assert all(problem.path.startswith("$") and problem.message for problem in idl.problems)
    codec = compile_idl(idl)
    assert codec.decode_event(b"\xfa\xfa\xfa\xfa\x07").data == {"x": 7}
    codec.unservable()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("(u8,u16)", {"tuple": ["u8", "u16"]}),
        ("std::collections::HashMap<String,Vec<u8>>", {"hashMap": ["String", "bytes"]}),
        ("&'info [u8]", "bytes"),
        ("&mut [u16;3]", {"array": ["u16", 3]}),
        ("Option<Box<state::Kind>>", {"option": {"defined": "state::Kind"}}),
        ("Vec<(Pubkey,Option<&'static str>)>", {"vec": {"tuple": ["Pubkey", {"option": "string"}]}}),
        (
            "Fee<u8, 1_0>",
            {
                "defined": {
                    "name": "Fee",
                    "generics": [{"kind": "type", "type": "u8"}, {"kind": "const", "value": "10"}],
                }
            },
        ),
        ("&'astr", "string"),
        ("&'staticstr", "string"),
        ("&'ab str", "string"),
        ("[u8; 50_000]", {"array": ["u8", 50000]}),
        ("[[u8; 0x10]; 2usize]", {"array": [{"array": ["u8", 16]}, 2]}),
        ("Vec<", None),
        ("(u8", None),
        ("[u8; N]", {"array": ["u8", "N"]}),
        ("[u8; 1x]", None),
        ("Option<u8, u8>", None),
        ("<" * 400, None),
        ("(" * 5000, None),
    ],
)
def test_rust_text_is_read_or_left_alone(text: str, written: Any) -> None:
    assert rust_type(text, PRIMITIVE_SPELLINGS) == written


def test_every_place_that_names_an_undefined_type_is_said() -> None:
    gone = {"defined": {"name": "external::MyStruct"}}
    own = {"name": "MyStruct", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}}
    idl = load_idl(event([{"name": "a", "type": gone}, {"name": "b", "type": {"vec": {"option": gone}}}], [own]))
    # A type of the same last name is another type: since 0.30 paths are written where types are defined, too.
    assert said(idl) == [
        ("$.types[0].type.fields[0].type.defined", "error"),
        ("$.types[0].type.fields[1].type.vec.option.defined", "error"),
    ]


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("init1", ["init1", "init_1"]),
        ("swapV2", ["swap_v2", "swap_v_2"]),
        ("plain", ["plain"]),
        ("a1B2", ["a1_b2", "a_1_b2", "a1_b_2", "a_1_b_2"]),
    ],
)
def test_spellings_of_a_function(name: str, spellings: list[str]) -> None:
    assert snake_cases(name) == spellings


def test_names_are_kept_as_written_wherever_they_can_be() -> None:
    fields = [{"name": n, "type": "u8"} for n in ("a", "a", "a_2", "myField", "my_field")]
    box = {
        "name": "Box",
        "generics": [{"kind": "type", "name": "T"}],
        "type": {"kind": "struct", "fields": [{"generic": "T"}]},
    }
    fields.append({"name": "box", "type": {"defined": {"name": "Box"}}})  # type: ignore[dict-item]
    idl = load_idl(event(fields, [box, {"name": "box_", "type": {"kind": "struct"}}]))
    assert said(idl) == [
        ("$.types[0].type.fields[1]", "warning"),
        ("$.types[0].type.fields[4]", "warning"),
        ("$.types[2]", "warning"),
        ("$.types[0].type.fields[5].type.defined", "error"),
    ]
    body = idl.events[0].type.body
    assert [field.name for field in getattr(body, "fields", ())] == ["a", "a_3", "a_2", "myField", "my_field", "box"]


def test_bytes_by_a_generic_are_bytes() -> None:
    argument = [{"kind": "type", "type": "u8"}, {"kind": "const", "value": "2"}]
    codec = compile_idl(
        load_idl(event([{"name": "b", "type": {"defined": {"name": "Box", "generics": argument}}}], GENERICS))
    )
    value = {"b": {"items": "0105", "raw": "0102"}}
    assert codec.decode_event(b"\1\1\5\1\2").data == value
    assert codec.encode_event("E", value) == b"\1\1\5\1\2"


def test_as_many_types_as_the_idl_lists_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for what generics add: a large IDL is not a hostile one."""
    monkeypatch.setattr(layout, "INSTANCES_MAX", 10)
    names = [f"T{number}" for number in range(300)]
    types = [{"name": n, "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}} for n in names]
    events = [{"name": n, "discriminator": [1, *number.to_bytes(2, "little")]} for number, n in enumerate(names)]
    codec = compile_idl(load_idl(new(types, events=events)))
    assert codec.unservable() == []
    assert codec.decode_event(b"\1" + (299).to_bytes(2, "little") + b"\7").data == {"x": 7}


@pytest.mark.parametrize("written", [[], [True], [256], [-1], "01", [1.0]])
def test_a_discriminator_that_is_none_is_said_and_anchors_is_used(written: Any) -> None:
    document = event([{"name": "x", "type": "u8"}])
    document["events"][0]["discriminator"] = written
    idl = load_idl(document)
    assert said(idl) == [("$.events[0].discriminator", "error")]
    assert idl.events[0].discriminator == hashlib.sha256(b"event:E").digest()[:8]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30 * 1_024", 30720),
        ("- 443636", -443636),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("2 + 3 * 4 - 1", 13),
        ("(2 + 3) * 4", 20),
        ("1 << 3 + 1", 16),
        ("0xff_u8", 255),
        ("crate::SIZE * 2", 48),
        ("SIZE as u8 as usize", 24),
        ("A", None),
        ("D0", None),
        ("D25", 32),
        ("256 as u8", None),
        ("1 / 0", None),
        ("1 << 400", None),
        ("1.5", None),
        ('b"vault"', None),
        ("[1, 2]", None),
        ("9" * 600, None),
        ("(" * 400, None),
        ("size_of::<u8>()", None),
        ("1 +", None),
        ("", None),
    ],
)
def test_constants_are_reckoned_or_left_alone(text: str, value: int | None) -> None:
    constants = {"SIZE": "8 * THREE", "THREE": "3", "A": "B + 1", "B": "A"}
    # Each names the next twice: two to the thirtieth looks, if all were taken.
    doubling = {f"D{n}": f"D{n + 1} + D{n + 1}" for n in range(30)} | {"D30": "1"}
    assert constant_value(text, constants | doubling) == value


@pytest.mark.parametrize("length", ["SIZE", "SIZE * 2 - 8", {"defined": {"name": "SIZE"}}, {"generic": "SIZE"}])
def test_the_length_of_an_array_may_be_a_constant(length: Any) -> None:
    document = event([{"name": "x", "type": {"array": ["u8", length]}}])
    document["constants"] = [{"name": "SIZE", "type": "usize", "value": "4 * 2"}]
    idl = load_idl(document)
    assert not idl.problems
    assert compile_idl(idl).decode_event(b"\1" + bytes(8)).data == {"x": "00" * 8}


def test_a_length_that_nothing_tells_is_said_where_it_stands() -> None:
    idl = load_idl(event([{"name": "x", "type": {"array": ["u8", "MAX_LEN"]}}, {"name": "y", "type": "u8"}]))
    assert said(idl) == [("$.types[0].type.fields[0].type.array[1]", "error")]
    with pytest.raises(Unservable, match="'MAX_LEN', which is neither a number nor a constant of the IDL"):
        compile_idl(idl).decode_event(b"\1" + bytes(50))


def test_types_that_are_written_as_no_idl_should_are_served_and_said() -> None:
    own = {"name": "Side", "kind": "enum", "variants": ["Buy", {"name": "Sell"}]}
    fields = [
        {"name": "a", "type": "[u8; 3]"},
        {"name": "b", "type": "Option<Pubkey>"},
        {"name": "c", "type": "Side"},
        {"name": "d", "type": {"defined": {"name": "Vec<Side>"}}},
    ]
    idl = load_idl(event(fields, [own]))
    assert said(idl) == [
        ("$.types[0].type.fields[0].type", "warning"),
        ("$.types[0].type.fields[1].type", "warning"),
        ("$.types[0].type.fields[2].type", "warning"),
        ("$.types[1]", "warning"),
    ]
    data = b"\1abc\0\1\2\0\0\0\0\1"
    assert compile_idl(idl).decode_event(data).data == {"a": "616263", "b": None, "c": "Sell", "d": ["Buy", "Sell"]}


def test_a_discriminant_without_a_type_is_one_byte() -> None:
    call = {"name": "swap", "discriminant": 9, "accounts": [], "args": [{"name": "x", "type": "u8"}]}
    idl = load_idl({"version": "1", "name": "n", "instructions": [call]})
    assert said(idl) == [("$.instructions[0].discriminant", "warning")]
    assert compile_idl(idl).decode_instruction(b"\x09\x05").data == {"x": 5}


def test_a_variant_whose_number_is_not_its_place_is_not_guessed() -> None:
    variants = [{"name": "A", "discriminant": 0}, {"name": "B", "discriminant": 5}, {"name": "C", "discriminator": 2}]
    document = event(
        [{"name": "x", "type": {"defined": {"name": "K"}}}],
        [{"name": "K", "type": {"kind": "enum", "variants": variants}}],
    )
    idl = load_idl(document)
    assert said(idl) == [("$.types[1].type.variants[1]", "error")]
    codec = compile_idl(idl)
    assert [codec.decode_event(b"\1" + tag).data for tag in (b"\0", b"\2")] == [{"x": "A"}, {"x": "C"}]
    with pytest.raises(Unservable, match="which of the two is written is not known"):
        codec.decode_event(b"\1\1")


def test_an_idl_inside_another_object_is_found() -> None:
    inside = event([{"name": "x", "type": "u8"}])
    for wrapped in ({"idl": inside, "slot": 3}, {"idl": json.dumps(inside)}, {"data": 1, "idl": {"idl": inside}}):
        idl = load_idl(json.dumps(wrapped))
        assert {p.path for p in idl.problems} == {"$.idl"}
        assert compile_idl(idl).decode_event(b"\1\5").data == {"x": 5}


def test_what_an_instruction_returns_is_looked_at_too() -> None:
    call = {"name": "get", "discriminator": [1], "accounts": [], "args": [], "returns": {"defined": {"name": "Gone"}}}
    assert said(load_idl(new([], instructions=[call]))) == [("$.instructions[0].returns.defined", "error")]


def test_programs_described_by_shank_have_no_anchor_discriminators() -> None:
    struct_type = {"kind": "struct", "fields": [{"name": "key", "type": "u8"}]}
    idl = load_idl(
        {
            "version": "1",
            "name": "n",
            "metadata": {"origin": "shank"},
            "instructions": [{"name": "Do", "accounts": [], "args": [], "discriminant": {"type": "u8", "value": 3}}],
            "accounts": [{"name": "Held", "type": struct_type}],
        }
    )
    assert said(idl) == [("$.accounts[0]", "warning")]
    assert idl.instructions[0].discriminator == b"\3"


def test_two_accounts_of_one_name_hide_nothing() -> None:
    twice = [{"name": "authority"}, {"name": "authority", "writable": True}]
    call = {"name": "do", "discriminator": [1], "args": [], "accounts": [*twice, {"name": "group", "accounts": twice}]}
    idl = load_idl(new([], instructions=[call]))
    assert [a.name for a in idl.instructions[0].accounts] == [
        "authority",
        "authority_2",
        "group.authority",
        "group.authority_2",
    ]
    assert said(idl) == [
        ("$.instructions[0].accounts[1]", "warning"),
        ("$.instructions[0].accounts[2].accounts[1]", "warning"),
    ]


def test_an_address_that_is_none_is_said() -> None:
    accounts = [{"name": "a", "address": "nowhere"}, {"name": "b", "address": "11111111111111111111111111111111"}]
    idl = load_idl(new([], instructions=[{"name": "do", "discriminator": [9], "args": [], "accounts": accounts}]))
    assert said(idl) == [("$.instructions[0].accounts[0].address", "warning")]
    assert [a.address for a in idl.instructions[0].accounts] == [None, "11111111111111111111111111111111"]


def test_what_is_wrong_in_the_text_of_a_type_is_wrong_where_the_text_stands() -> None:
    fields = [{"name": "a", "type": {"vec": {"defined": "Option<(u8, Gone<u8>)>"}}}, {"name": "b", "type": "[Gone; N]"}]
    idl = load_idl(event(fields))
    assert sorted(said(idl)) == [
        ("$.types[0].type.fields[0].type.vec.defined", "error"),
        ("$.types[0].type.fields[1].type", "error"),
        ("$.types[0].type.fields[1].type", "warning"),
    ]
    assert all("\0" not in reason for _, _, reason in compile_idl(idl).unservable())


def test_a_name_that_no_database_holds_is_served_under_another() -> None:
    types = [{"name": "A\0", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}}]
    idl = load_idl(new(types, events=[{"name": "A\0", "discriminator": [1]}]))
    assert said(idl) == [("$.events[0].name", "warning")]
    decoded = compile_idl(idl).decode_event(b"\1\5")
    assert (decoded.name, decoded.data) == ("A\ufffd", {"x": 5})


def test_comments_and_last_commas_are_passed_over_and_said() -> None:
    text = """// made by hand
    {"metadata": {"name": "n // no comment", "spec": "0.1.0", /* a
    comment, */ "version": "0,]"}, "events": [{"name": "E", "discriminator": [1, 2, /* , */ ], }, // ,
    ], "types": [{"name": "E", "type": {"kind": "struct", "fields": ["u8",]}}]}"""
    idl = load_idl(text)
    assert (idl.name, idl.version, said(idl)) == ("n // no comment", "0,]", [("$", "warning")])
    assert compile_idl(idl).decode_event(b"\1\2\5").data == [5]
    with pytest.raises(IdlError, match="malformed"):
        load_idl(text + "x")


@pytest.mark.parametrize(("last", "severity"), [("u8", "warning"), ("gone", "error")])
def test_problems_beyond_the_bound_are_counted_and_an_error_among_them_is_one(last: str, severity: str) -> None:
    fields = [{"name": "a", "type": "u8"}] * 1101 + [{"name": "z", "type": last}]
    problems = load_idl(event(fields)).problems
    assert len(problems) == 1001
    more = 100 if severity == "warning" else 101
    assert (problems[-1].path, problems[-1].message) == ("$", f"{more} more problems are not listed")
    assert {p.severity for p in problems[:-1]} == {"warning"}
    assert problems[-1].severity == severity
