"""Arbitrary IDLs, and values that fit them.

`programs` draws an IDL document whose only event, account and instruction use the drawn types, and a value for it.
The value is drawn
from the document itself, not from the software's layouts, so that both stand on the format alone.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st
from solders.pubkey import Pubkey

UNSIGNED = ("u8", "u16", "u32", "u64", "u128", "u256")
SIGNED = ("i8", "i16", "i32", "i64", "i128", "i256")
PRIMITIVES = (*UNSIGNED, *SIGNED, "bool", "f32", "f64", "bytes", "string", "pubkey")
NAMES = st.one_of(
    st.sampled_from(["a", "b", "amount", "Amount", "class", "__import__", "o", "L", "d", "M", "A", "U"]),
    st.text(min_size=1, max_size=6).filter(lambda s: s.isprintable() or s.strip()),
)
SCALARS = st.sampled_from(PRIMITIVES)


# Every drawn program has these too: a generic with a type and a constant, and a type that holds itself.
FIXED_TYPES: list[dict[str, Any]] = [
    {
        "name": "Pair",
        "generics": [{"kind": "type", "name": "T"}, {"kind": "const", "name": "N", "type": "usize"}],
        "type": {
            "kind": "struct",
            "fields": [
                {"name": "first", "type": {"option": {"generic": "T"}}},
                {"name": "rest", "type": {"array": [{"generic": "T"}, {"generic": "N"}]}},
            ],
        },
    },
    {
        "name": "Tree",
        "type": {
            "kind": "struct",
            "fields": [
                {"name": "label", "type": "u16"},
                {"name": "left", "type": {"option": {"defined": {"name": "Tree"}}}},
                {"name": "below", "type": {"vec": {"defined": {"name": "Tree"}}}},
            ],
        },
    },
]
TREES: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 65535).map(lambda label: {"label": label, "left": None, "below": []}),
    lambda inner: st.fixed_dictionaries(
        {"label": st.integers(0, 65535), "left": st.none() | inner, "below": st.lists(inner, max_size=2)}
    ),
    max_leaves=5,
)


def _fixed(scalar: str, length: int) -> dict[str, Any]:
    arguments = [{"kind": "type", "type": scalar}, {"kind": "const", "value": str(length)}]
    return {"defined": {"name": "Pair", "generics": arguments}}


def _bound(written: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Pair with its arguments put in."""
    kind, length = written["defined"]["generics"]
    of = kind["type"]
    return {
        "kind": "struct",
        "fields": [
            {"name": "first", "type": {"option": of}},
            {"name": "rest", "type": {"array": [of, int(length["value"])]}},
        ],
    }


def types(definitions: list[str]) -> st.SearchStrategy[Any]:
    """A type as an IDL writes it; may name any of the given definitions."""
    pairs = st.tuples(SCALARS, st.integers(0, 3)).map(lambda pair: _fixed(*pair))
    named = st.sampled_from([*definitions, "Tree"]).map(lambda name: {"defined": {"name": name}})
    leaves = st.one_of(SCALARS, SCALARS, named, pairs)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(lambda t: {"option": t}),
            inner.map(lambda t: {"coption": t}),
            inner.map(lambda t: {"vec": t}),
            st.tuples(inner, st.integers(0, 5)).map(lambda pair: {"array": list(pair)}),
            st.integers(0, 40).map(lambda n: {"array": ["u8", n]}),
        ),
        max_leaves=3,
    )


@st.composite
def bodies(draw: st.DrawFn, definitions: list[str]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["struct", "struct", "tuple", "unit", "enum", "alias"]))
    if kind == "alias":
        return {"kind": "type", "alias": draw(types(definitions))}
    if kind == "enum":
        names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
        variants = [{"name": n, **draw(_fields(definitions))} for n in names]
        if draw(st.integers(0, 3)):
            return {"kind": "enum", "variants": variants}
        numbers = draw(st.lists(st.integers(0, 255), min_size=len(names), max_size=len(names), unique=True))
        numbered = [{**variant, "number": number} for variant, number in zip(variants, numbers, strict=True)]
        return {"kind": "enum", "tag": draw(st.sampled_from([1, 2, 4])), "variants": numbered}
    if kind == "unit":
        return {"kind": "struct"}
    if kind == "tuple":
        return {"kind": "struct", "fields": draw(st.lists(types(definitions), min_size=1, max_size=4))}
    return {"kind": "struct", "fields": draw(_named(definitions))}


def _named(definitions: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    field = st.fixed_dictionaries({"name": NAMES, "type": types(definitions)})
    return st.lists(field, min_size=1, max_size=6, unique_by=lambda f: f["name"])


def _fields(definitions: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.just({}),
        st.lists(types(definitions), min_size=1, max_size=3).map(lambda f: {"fields": f}),
        _named(definitions).map(lambda f: {"fields": f}),
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[str, Any], Any]:
    """An IDL document with one root type `Root`, and a value of it. The definitions refer only to earlier ones."""
    document_types: list[dict[str, Any]] = list(FIXED_TYPES)
    for index in range(draw(st.integers(0, 4))):
        body = draw(bodies([f"T{n}" for n in range(index)]))
        document_types.append({"name": f"T{index}", "type": body})
    fields = draw(_named([t["name"] for t in document_types if t not in FIXED_TYPES]))
    document_types.append({"name": "Root", "type": {"kind": "struct", "fields": fields}})
    prefix = list(draw(st.binary(min_size=1, max_size=10)))
    document = {
        "address": "11111111111111111111111111111111",
        "metadata": {"name": "drawn", "version": "0.1.0", "spec": "0.1.0"},
        "instructions": [{"name": "root", "discriminator": prefix, "accounts": [], "args": fields}],
        "accounts": [{"name": "Root", "discriminator": prefix}],
        "events": [{"name": "Root", "discriminator": prefix}],
        "types": document_types,
    }
    table = {t["name"]: t["type"] for t in document_types}
    return document, draw(_struct_values({"fields": fields}, table))


def values(written: Any, table: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values, in their JSON form, of a type as an IDL writes it."""
    if isinstance(written, str):
        return _scalar_values(written)
    if "option" in written or "coption" in written:
        inner = written.get("option", written.get("coption"))
        # An option of an option has two ways to be null; only the outer one survives in JSON.
        some = values(inner, table)
        return st.none() | some.filter(lambda v: v is not None)
    if "vec" in written:
        return st.lists(values(written["vec"], table), max_size=3)
    if "array" in written:
        inner, length = written["array"]
        if inner == "u8":
            return st.binary(min_size=length, max_size=length).map(bytes.hex)
        return st.lists(values(inner, table), min_size=length, max_size=length)
    name = written["defined"]["name"]
    if name == "Tree":
        return TREES
    return _body_values(_bound(written) if name == "Pair" else table[name], table)


def _scalar_values(name: str) -> st.SearchStrategy[Any]:
    if name in UNSIGNED:
        return st.integers(0, (1 << int(name[1:])) - 1)
    if name in SIGNED:
        half = 1 << (int(name[1:]) - 1)
        return st.integers(-half, half - 1)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "bytes": st.binary(max_size=20).map(bytes.hex),
        "string": st.text(max_size=10) | st.text("\x00a", max_size=3),
        "pubkey": st.binary(min_size=32, max_size=32).map(lambda b: str(Pubkey.from_bytes(b))),
        "f32": st.floats(width=32).map(_float),
        "f64": st.floats().map(_float),
    }
    return simple[name]


def _float(number: float) -> float | str:
    if number != number:
        return "NaN"
    return {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(number, number)


def _body_values(body: dict[str, Any], table: dict[str, Any]) -> st.SearchStrategy[Any]:
    if body["kind"] == "type":
        return values(body["alias"], table)
    if body["kind"] == "struct":
        return _struct_values(body, table)
    return st.one_of([_variant_values(variant, table) for variant in body["variants"]])


def _variant_values(variant: dict[str, Any], table: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "fields" not in variant:
        return st.just(variant["name"])
    return _struct_values(variant, table).map(lambda value: {variant["name"]: value})


def _struct_values(body: dict[str, Any], table: dict[str, Any]) -> st.SearchStrategy[Any]:
    fields = body.get("fields", [])
    if fields and isinstance(fields[0], dict) and "type" in fields[0]:
        return st.fixed_dictionaries({f["name"]: values(f["type"], table) for f in fields})
    if fields:
        return st.tuples(*(values(f, table) for f in fields)).map(list)
    return st.just({})


def oracle(written: Any, value: Any, table: dict[str, Any]) -> bytes:
    """The bytes of a value by the words of the Borsh specification, for a type as an IDL writes it. Independent of
    the software.
    """
    if isinstance(written, str):
        return _scalar_bytes(written, value)
    if "option" in written:
        return b"\0" if value is None else b"\1" + oracle(written["option"], value, table)
    if "vec" in written:
        return struct.pack("<I", len(value)) + b"".join(oracle(written["vec"], v, table) for v in value)
    if "array" in written:
        inner, _ = written["array"]
        return bytes.fromhex(value) if inner == "u8" else b"".join(oracle(inner, v, table) for v in value)
    name = written["defined"]["name"]
    return oracle_body(_bound(written) if name == "Pair" else table[name], value, table)


def oracle_body(body: dict[str, Any], value: Any, table: dict[str, Any]) -> bytes:
    if body.get("kind") == "type":
        return oracle(body["alias"], value, table)
    if body.get("kind") == "enum":
        name = value if isinstance(value, str) else next(iter(value))
        index = [v["name"] for v in body["variants"]].index(name)
        inside = (
            b"" if isinstance(value, str) else oracle_body(body["variants"][index] | {"kind": ""}, value[name], table)
        )
        number = body["variants"][index].get("number", index)
        return number.to_bytes(body.get("tag", 1), "little") + inside
    fields = body.get("fields", [])
    if fields and isinstance(fields[0], dict) and "type" in fields[0]:
        return b"".join(oracle(f["type"], value[f["name"]], table) for f in fields)
    return b"".join(oracle(f, v, table) for f, v in zip(fields, value, strict=True)) if fields else b""


def _scalar_bytes(name: str, value: Any) -> bytes:
    if name in UNSIGNED or name in SIGNED:
        return int(value).to_bytes(int(name[1:]) // 8, "little", signed=name in SIGNED)
    if name == "bool":
        return bytes([value])
    if name == "pubkey":
        return bytes(Pubkey.from_string(value))
    if name in ("f32", "f64"):
        return struct.pack("<f" if name == "f32" else "<d", float(value))
    data = value.encode() if name == "string" else bytes.fromhex(value)
    return struct.pack("<I", len(data)) + data


def has_coption(document: Any) -> bool:
    if isinstance(document, dict):
        return "coption" in document or any(has_coption(v) for v in document.values())
    return isinstance(document, list) and any(has_coption(v) for v in document)
