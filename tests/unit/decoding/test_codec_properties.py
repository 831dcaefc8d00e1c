"""The codec over arbitrary IDLs: what is written is read, what is cut is named, what is hostile is bounded."""

from __future__ import annotations

import ctypes
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from programs.codec import DecodeError, EncodeError, ProgramCodec, compile_idl, to_json
from programs.codec.encode import UNFITTING, compile_encoders
from programs.codec.reference import Reader, Writer
from programs.idl import load_idl
from tests.unit.decoding.strategies import has_coption, oracle_body, programs

# No shrinking: arbitrary IDLs shrink slowly, and what was drawn is printed whole.
DRAWN = settings(
    phases=[Phase.explicit, Phase.generate],
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)


def _codec(document: dict[str, Any]) -> tuple[ProgramCodec, int]:
    idl = load_idl(document)
    assert not [p for p in idl.problems if p.severity == "error"]
    return compile_idl(idl), len(idl.events[0].discriminator)


@DRAWN
@given(programs(), st.binary(max_size=9))
def test_every_value_round_trips_and_a_longer_tail_is_counted(drawn: tuple[dict[str, Any], Any], tail: bytes) -> None:
    document, value = drawn
    codec, _ = _codec(document)
    for encode, decode in (
        (codec.encode_event, codec.decode_event),
        (codec.encode_account, codec.decode_account),
    ):
        decoded = decode(encode("Root", value) + tail)
        assert (decoded.name, decoded.data, decoded.trailing) == ("Root", value, len(tail))
    assert codec.decode_instruction(codec.encode_instruction("root", value)).data == value


@settings(DRAWN, max_examples=100)
@given(programs())
def test_an_event_without_text_holds_no_zero_character(drawn: tuple[dict[str, Any], Any]) -> None:
    document, value = drawn
    codec, _ = _codec(document)
    if "Root" in codec.textless_events:
        assert b"\\u0000" not in to_json(codec.decode_event(codec.encode_event("Root", value)).data)


def test_text_is_looked_for_in_all_that_an_event_holds() -> None:
    def textless(kind: Any, **names: str) -> bool:
        field = {"name": names.get("field", "f"), "type": kind}
        fields = {"kind": "struct", "fields": [field]}
        variants = {
            "kind": "enum",
            "variants": [{"name": names.get("variant", "One")}, {"name": "Two", "fields": ["u8"]}],
        }
        types = [
            {"name": "Root", "type": fields},
            {"name": "Text", "type": {"kind": "struct", "fields": [{"name": "t", "type": "string"}]}},
            {"name": "Choice", "type": variants},
            {
                "name": "Self",
                "type": {"kind": "struct", "fields": [{"name": "s", "type": {"vec": {"defined": {"name": "Self"}}}}]},
            },
        ]
        event = {"name": "Root", "discriminator": [1] * 8}
        return (
            "Root"
            in compile_idl(load_idl({"metadata": {"spec": "0.1.0"}, "events": [event], "types": types})).textless_events
        )

    for plain in (
        "pubkey",
        "u128",
        "f64",
        "bytes",
        {"array": ["u8", 4]},
        {"defined": {"name": "Choice"}},
        {"defined": {"name": "Self"}},
    ):
        assert textless(plain)
    text = {"defined": {"name": "Text"}}
    for kind in ("string", text, {"option": text}, {"vec": {"array": [text, 2]}}):
        assert not textless(kind)
    assert not textless("u8", field="a\x00b")
    assert not textless({"defined": {"name": "Choice"}}, variant="O\x00ne")


@DRAWN
@given(programs())
def test_bytes_are_those_of_the_specification(drawn: tuple[dict[str, Any], Any]) -> None:
    document, value = drawn
    if has_coption(document):
        return
    codec, skip = _codec(document)
    table = {t["name"]: t["type"] for t in document["types"]}
    assert codec.encode_event("Root", value)[skip:] == oracle_body(table["Root"], value, table)


@DRAWN
@given(programs())
def test_every_cut_is_an_error_at_a_byte_within_the_data(drawn: tuple[dict[str, Any], Any]) -> None:
    document, value = drawn
    codec, _ = _codec(document)
    whole = codec.encode_event("Root", value)
    for length in range(min(len(whole), 200)):
        with pytest.raises(DecodeError) as caught:
            codec.decode_event(whole[:length])
        assert 0 <= caught.value.offset <= length
        assert caught.value.path.startswith("Root")


@DRAWN
@given(programs(), st.binary(max_size=80))
def test_hostile_bytes_give_what_the_reference_gives(drawn: tuple[dict[str, Any], Any], noise: bytes) -> None:
    document, _ = drawn
    codec, skip = _codec(document)
    data = bytes(document["events"][0]["discriminator"]) + noise
    node = codec.layout("event", "Root")
    assert node is not None
    reader = Reader(data, skip)
    refusal: DecodeError | None = None
    expected: Any = None
    try:
        expected = reader.read(node, "Root")
    except DecodeError as error:
        refusal = error
    if refusal is None:
        decoded = codec.decode_event(data)
        assert (decoded.data, decoded.trailing) == (expected, len(data) - reader.offset)
        return
    with pytest.raises(type(refusal)) as caught:
        codec.decode_event(data)
    assert str(caught.value) == str(refusal)


@DRAWN
@given(programs(), st.integers(0, 200), st.integers(0, 255))
def test_one_changed_byte_is_read_or_refused_and_never_more(
    drawn: tuple[dict[str, Any], Any], place: int, byte: int
) -> None:
    document, value = drawn
    codec, skip = _codec(document)
    data = bytearray(codec.encode_event("Root", value))
    if len(data) == skip:
        return
    data[skip + place % (len(data) - skip)] = byte
    try:
        decoded = codec.decode_event(bytes(data))
    except DecodeError:
        return
    # What was read can be written, and is read again as the same.
    assert codec.decode_event(codec.encode_event("Root", decoded.data)).data == decoded.data or _double_option(document)


def _double_option(document: Any) -> bool:
    """Somewhere a null can stand for two things."""
    if isinstance(document, dict):
        inner = document.get("option", document.get("coption"))
        nested = isinstance(inner, dict) and ("option" in inner or "coption" in inner or "defined" in inner)
        return nested or any(_double_option(v) for v in document.values())
    return isinstance(document, list) and any(_double_option(v) for v in document)


@pytest.mark.parametrize(
    ("written", "payload"),
    [
        ({"vec": "u64"}, b"\xff\xff\xff\xff"),
        ({"vec": {"defined": {"name": "Unit"}}}, b"\xff\xff\xff\xff"),
        ({"vec": {"vec": {"defined": {"name": "Unit"}}}}, b"\xff\x00\x00\x00" + b"\xff\xff\x00\x00" * 255),
        ({"vec": {"array": ["u8", 0]}}, b"\xff\xff\xff\xff"),
        ("string", b"\xff\xff\xff\xff"),
        ("bytes", b"\xff\xff\xff\xff" + bytes(100)),
        ({"array": ["u64", 1 << 40]}, bytes(64)),
        ({"array": [{"array": ["u8", 1 << 40]}, 1 << 20]}, bytes(64)),
        ({"array": [{"defined": {"name": "Unit"}}, 1 << 40]}, b""),
        ({"array": [{"option": "u8"}, 1 << 40]}, bytes(64)),
        ({"coption": {"array": ["u8", 1 << 40]}}, bytes(64)),
        ({"defined": {"name": "Endless"}}, bytes(64)),
        ({"defined": {"name": "List"}}, b"\x01" * 5000),
        ({"defined": {"name": "Wide"}}, b"\x01" * 5000),
        ({"defined": {"name": "Grow", "generics": [{"kind": "type", "type": "u8"}]}}, b"\x01" * 500),
        ({"defined": {"name": "Double", "generics": [{"kind": "type", "type": "u8"}]}}, b"\x01" * 500),
    ],
)
def test_absurd_sizes_end_in_an_error_within_little_memory(written: Any, payload: bytes) -> None:
    generic = [{"kind": "type", "name": "T"}]
    grown = {"vec": {"generic": "T"}}
    pair = {"tuple": [{"generic": "T"}, {"generic": "T"}]}
    document = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": "E", "discriminator": [1]}],
        "types": [
            {"name": "E", "type": {"kind": "struct", "fields": [{"name": "x", "type": written}]}},
            {"name": "Unit", "type": {"kind": "struct"}},
            {"name": "Endless", "type": {"kind": "struct", "fields": [{"defined": {"name": "Endless"}}]}},
            {"name": "List", "type": {"kind": "struct", "fields": [{"option": {"defined": {"name": "List"}}}]}},
            {"name": "Wide", "type": {"kind": "struct", "fields": [{"vec": {"defined": {"name": "Wide"}}}, "u8"]}},
            {
                "name": "Grow",
                "generics": generic,
                "type": {
                    "kind": "struct",
                    "fields": [
                        {"option": {"defined": {"name": "Grow", "generics": [{"kind": "type", "type": grown}]}}}
                    ],
                },
            },
            {
                "name": "Double",
                "generics": generic,
                "type": {
                    "kind": "struct",
                    "fields": [
                        {"option": {"defined": {"name": "Double", "generics": [{"kind": "type", "type": pair}]}}}
                    ],
                },
            },
        ],
    }
    codec = compile_idl(load_idl(document))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode_event(b"\x01" + payload)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_names_of_an_idl_never_become_code() -> None:
    evil = "'];__import__('os').abort()#\n\\"
    document = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": evil, "discriminator": [1]}],
        "types": [
            {
                "name": evil,
                "type": {
                    "kind": "struct",
                    "fields": [
                        {"name": evil, "type": "u8"},
                        {"name": "{x}", "type": {"defined": {"name": evil + "2"}}},
                    ],
                },
            },
            {
                "name": evil + "2",
                "type": {"kind": "enum", "variants": [{"name": evil}, {"name": "%s", "fields": ["u8"]}]},
            },
        ],
    }
    codec = compile_idl(load_idl(document))
    value = {evil: 3, "{x}": {"%s": [1]}}
    assert codec.decode_event(codec.encode_event(evil, value)).data == value


@pytest.mark.parametrize(
    ("written", "value", "words"),
    [
        ("u8", 256, "256 does not fit u8"),
        ("u8", True, "expected an integer"),
        ("pubkey", "abc", "not an address"),
        ({"array": ["u8", 2]}, "00", "1 bytes where 2 are needed"),
        ({"vec": "u8"}, "00", "expected a list"),
        ("f32", "huge", "expected a number"),
        ({"defined": {"name": "Kind"}}, "C", "not a variant"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(written: Any, value: Any, words: str) -> None:
    document = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": "E", "discriminator": [1]}],
        "types": [
            {"name": "E", "type": {"kind": "struct", "fields": [{"name": "x", "type": written}]}},
            {"name": "Kind", "type": {"kind": "enum", "variants": [{"name": "A"}, {"name": "B"}]}},
        ],
    }
    codec = compile_idl(load_idl(document))
    with pytest.raises(EncodeError, match=words) as caught:
        codec.encode_event("E", {"x": value})
    assert caught.value.path == "E.x"


def _writers(codec: ProgramCodec) -> tuple[Any, Any]:
    """What the generated encoder makes of a value, and what the plain writer does; None where it refuses."""
    node = codec.layout("event", "Root")
    assert node is not None
    generated = compile_encoders({"root": node})[0]["root"]

    def fast(value: Any) -> bytes | None:
        parts: list[bytes] = []
        try:
            generated(value, parts.append)
        except UNFITTING:
            return None
        return b"".join(parts)

    def plain(value: Any) -> bytes | None:
        writer = Writer()
        try:
            writer.write(node, value, "Root")
        except EncodeError:
            return None
        return bytes(writer.out)

    return fast, plain


@DRAWN
@given(programs())
def test_the_generated_encoder_writes_what_the_plain_one_does(drawn: tuple[dict[str, Any], Any]) -> None:
    document, value = drawn
    fast, plain = _writers(_codec(document)[0])
    assert fast(value) is not None, "a plain value is written without help"
    assert fast(value) == plain(value)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(["", "00", "NaN", "A", "x", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "A"]), inner, max_size=2),
    max_leaves=4,
)


@DRAWN
@given(programs(), ODD, st.data())
def test_the_generated_encoder_takes_nothing_that_the_plain_one_refuses(
    drawn: tuple[dict[str, Any], Any], odd: Any, data: st.DataObject
) -> None:
    document, value = drawn
    fast, plain = _writers(_codec(document)[0])
    name = data.draw(st.sampled_from(sorted(value)))
    for wrong in (odd, {**value, name: odd}, {**value, "one more": odd}, {k: v for k, v in value.items() if k != name}):
        written = fast(wrong)
        assert written is None or written == plain(wrong)


# ---- C layout, against the machine's own ----

C_TYPES: dict[str, Any] = {
    "u8": ctypes.c_uint8, "i8": ctypes.c_int8, "u16": ctypes.c_uint16, "i16": ctypes.c_int16, "u32": ctypes.c_uint32,
    "i32": ctypes.c_int32, "u64": ctypes.c_uint64, "i64": ctypes.c_int64, "bool": ctypes.c_bool, "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}  # fmt: skip


class _Wide(ctypes.LittleEndianStructure):
    """On the chain 128-bit integers are aligned to 8 bytes, as their halves are here."""

    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))


class _Key(ctypes.LittleEndianStructure):
    _fields_ = (("bytes", ctypes.c_uint8 * 32),)


PARTS: dict[str, Any] = {"u128": _Wide, "i128": _Wide, "pubkey": _Key}


@st.composite
def c_structs(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Any]]:
    """Definitions of nested zero-copy structs, each with the ctypes structure that has its layout."""
    definitions: list[dict[str, Any]] = []
    natives: list[Any] = []
    for number in range(draw(st.integers(1, 4))):
        fields: list[dict[str, Any]] = []
        native_fields: list[tuple[str, Any]] = []
        for place in range(draw(st.integers(1, 6))):
            choices = [*C_TYPES, *PARTS, *[f"S{n}" for n in range(number)]]
            name = draw(st.sampled_from(choices))
            written: Any = {"defined": {"name": name}} if name.startswith("S") else name
            native = natives[int(name[1:])] if name.startswith("S") else {**C_TYPES, **PARTS}[name]
            if draw(st.booleans()):
                length = draw(st.integers(1, 3))
                written, native = {"array": [written, length]}, native * length
            fields.append({"name": f"f{place}", "type": written})
            native_fields.append((f"f{place}", native))
        packed = draw(st.sampled_from([None, None, 1, 2, 4, 8]))
        layout: dict[str, Any] = {"_fields_": native_fields, **({"_pack_": packed} if packed else {})}
        natives.append(type(f"S{number}", (ctypes.LittleEndianStructure,), layout))
        shape = {"kind": "c", **({"packed": packed} if packed else {})}
        body = {"kind": "struct", "fields": fields}
        definitions.append({"name": f"S{number}", "serialization": "bytemuckunsafe", "repr": shape, "type": body})
    return definitions, natives


def _offsets(native: Any, base: int = 0) -> list[tuple[int, int]]:
    """Where each scalar of a native structure is, and its size, in the order of the fields."""
    if native in PARTS.values():
        return [(base, ctypes.sizeof(native))]
    if hasattr(native, "_fields_"):
        return [at for name, kind in native._fields_ for at in _offsets(kind, base + getattr(native, name).offset)]
    if hasattr(native, "_length_"):
        size = ctypes.sizeof(native._type_)
        return [at for n in range(native._length_) for at in _offsets(native._type_, base + n * size)]
    return [(base, ctypes.sizeof(native))]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(item)]
    return [value]


@DRAWN
@given(c_structs(), st.randoms(use_true_random=False))
def test_zero_copy_layouts_are_the_machines_own(drawn: tuple[list[dict[str, Any]], list[Any]], chance: Any) -> None:
    definitions, natives = drawn
    last = definitions[-1]["name"]
    document = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "types": definitions,
        "accounts": [{"name": last, "discriminator": [1]}],
    }
    codec = compile_idl(load_idl(document))
    size = ctypes.sizeof(natives[-1])
    data = bytearray(size)
    places = _offsets(natives[-1])
    for at, width in places:
        # One byte that is a valid boolean, and tells the places apart as far as it can.
        data[at] = chance.randrange(2) if width == 1 else chance.randrange(256)
    decoded = codec.decode_account(b"\1" + bytes(data) + b"tail")
    assert decoded.trailing == 4
    assert codec.encode_account(last, decoded.data) == b"\1" + bytes(data)
    leaves = _leaves(_unhexed(decoded.data))
    assert len(leaves) == len(places)
    for leaf, (at, width) in zip(leaves, places, strict=True):
        if isinstance(leaf, bool | int):
            assert int.from_bytes(data[at : at + width], "little") == leaf % (1 << 8 * width)


def _unhexed(value: Any) -> Any:
    """Arrays of bytes as the lists that they are to C; addresses stay one value."""
    if isinstance(value, dict):
        return {name: _unhexed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_unhexed(item) for item in value]
    is_hex = isinstance(value, str) and len(value) <= 6 and value not in ("NaN",)
    return list(bytes.fromhex(value)) if is_hex else value


@pytest.mark.parametrize("length", [5000, 1 << 40, (1 << 64) - 1])
def test_arrays_of_any_length_have_an_encoder(length: int) -> None:
    document = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": "Root", "discriminator": [1]}],
        "types": [
            {"name": "Root", "type": {"kind": "struct", "fields": [{"name": "x", "type": {"array": ["u8", length]}}]}}
        ],
    }
    fast, plain = _writers(compile_idl(load_idl(document)))
    for value in ({"x": "00"}, {"x": "07" * 5000}):
        assert fast(value) == plain(value)
