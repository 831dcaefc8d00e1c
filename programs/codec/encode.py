"""Encoders generated from layouts: the mirror of `generate`, with the same rules for what is a call and what a function.

A generated encoder writes values of the expected kinds and nothing else: whatever it meets besides makes it give up with one of
`UNFITTING`, and `reference.Writer` then decides, and says which field is wrong. So it may refuse too much and never accept too much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from programs.base58 import address_bytes
from programs.codec.layout import (
    ENDLESS,
    RECURSION_MAX,
    Array,
    Broken,
    Enum,
    FixedBytes,
    Named,
    Node,
    Option,
    Pad,
    Record,
    Scalar,
    Sized,
    Vec,
)
from programs.codec.source import FORMATS, TAG_FORMATS, Source

# encode(value, append): `append` takes the bytes, part by part
EncodeFunction: TypeAlias = Callable[[Any, Callable[[bytes], object]], None]

_ROOM_MAX = 1 << 24


class Unfitting(Exception):
    """The value is not of the plain kind that the generated code writes."""


UNFITTING = (
    Unfitting,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,
    IndexError,
    RecursionError,
    struct.error,
)


def compile_encoders(layouts: Mapping[str, Named]) -> tuple[dict[str, EncodeFunction], str]:
    """One encoder for each layout, under the same key, and the source they were compiled from."""
    generator = _Generator()
    names = {key: generator.function(node) for key, node in layouts.items()}
    namespace = generator.compile()
    return {key: namespace[name] for key, name in names.items()}, generator.text


def _float_of(value: Any) -> float:
    number = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.get(value, value)
    if type(number) is int or type(number) is float:
        return float(number)
    raise Unfitting


def _bytes_of(value: Any, length: int) -> bytes:
    data = bytes.fromhex(value)
    if len(data) != length:
        raise Unfitting
    return data


class _Generator(Source):
    prefix = "e"
    title = "<idl encoders>"
    method = "pack"
    # An array's length has to be looked at before its elements are written.
    inlines_arrays = False

    def __init__(self) -> None:
        super().__init__(
            {
                "M": Unfitting,
                "K": address_bytes,
                "F": _float_of,
                "H": _bytes_of,
                "N": struct.Struct("<I").pack,
                "Z": bytes,
            }
        )

    def build(self, name: str, node: Node) -> None:
        _Function(self).build(name, node)


class _Function:
    """One function under construction; `run` is what the next struct call will write."""

    def __init__(self, generator: _Generator) -> None:
        self.g = generator
        self.lines: list[str] = []
        self.run: list[str] = []
        self.run_values: list[str] = []
        self.count = 0

    def build(self, name: str, node: Node) -> None:
        self.lines.append(f"def {name}(v, w, d=0):")
        body: Node = node
        if isinstance(node, Named):
            if node.cyclic:
                self.line(f"if d >= {RECURSION_MAX}: raise M")
                self.line("d += 1")
            body = node.body
        if node.least >= ENDLESS or isinstance(body, Broken):
            self.line("raise M")
        else:
            self.contents(body)
            self.flush()
        self.g.functions.append("\n".join([*self.lines, " return", ""]))

    def line(self, text: str, indent: int = 1) -> None:
        self.lines.append(" " * indent + text)

    def variable(self, expression: str) -> str:
        self.count += 1
        self.line(f"x{self.count} = {expression}")
        return f"x{self.count}"

    def add(self, layout: str, value: str | None) -> None:
        self.run.append(layout)
        if value is not None:
            self.run_values.append(value)

    def flush(self) -> None:
        if self.run:
            self.line(f"w({self.g.struct_call(''.join(self.run))}({', '.join(self.run_values)}))")
        self.run, self.run_values = [], []

    def value(self, node: Node, expression: str) -> None:
        """Write `expression`, which is cheap to repeat, as `node`."""
        if self.g.inline_values(node) is not None:
            self.inlined(node, expression)
            return
        self.flush()
        self.line(f"{self.g.function(node)}({expression}, w, d)")

    def inlined(self, node: Node, expression: str) -> None:
        match node:
            case Scalar():
                self.scalar(node, self.variable(expression))
            case FixedBytes():
                self.add(f"{node.length}s", f"H({expression}, {node.length})")
            case Pad():
                self.add(f"{node.size}x", None)
            case Enum():
                numbers = {name: number for number, (name, _) in zip(node.numbers, node.variants, strict=True)}
                self.add(TAG_FORMATS[node.tag], f"{self.g.constant(numbers)}[{expression}]")
            case Named():
                self.inlined(node.body, expression)
            case Record():
                self.record(node, self.variable(expression))
            case _:
                raise AssertionError(f"{type(node).__name__} is never inlined")

    def scalar(self, node: Scalar, name: str) -> None:
        kind = node.kind
        if kind == "pubkey":
            self.add("32s", f"K({name})")
        elif kind == "bool":
            self.line(f"if {name} is not True and {name} is not False: raise M")
            self.add("?", name)
        elif kind in ("f32", "f64"):
            self.add(FORMATS[kind], f"F({name})")
        else:
            # A boolean is an integer to Python, and not to the chain.
            self.line(f"if type({name}) is not int: raise M")
            if kind in FORMATS:
                self.add(FORMATS[kind], name)
            else:
                self.add(f"{node.size}s", f"{name}.to_bytes({node.size}, 'little', signed={kind[0] == 'i'})")

    def record(self, node: Record, name: str) -> None:
        members = node.values
        kind = "list" if node.shape == "tuple" else "dict"
        self.line(f"if type({name}) is not {kind} or len({name}) != {len(members)}: raise M")
        place = 0
        for member in node.members:
            if isinstance(member.node, Pad):
                self.add(f"{member.node.size}x", None)
                continue
            key = str(place) if node.shape == "tuple" else repr(member.name)
            self.value(member.node, f"{name}[{key}]")
            place += 1

    def contents(self, node: Node) -> None:
        """What this function is about, `v` being the value: it must not call itself."""
        match node:
            case Record():
                self.record(node, "v")
            case Sized():
                self.sized(node)
            case Option():
                self.option(node)
            case Vec():
                self.line("if type(v) is not list: raise M")
                self.line("w(N(len(v)))")
                self.each(node.inner)
            case Array():
                self.line(f"if type(v) is not list or len(v) != {node.length}: raise M")
                self.each(node.inner)
            case Enum() if not node.plain:
                self.enum(node)
            case Named():
                self.line(f"{self.g.function(node)}(v, w, d)")
            case Broken():
                self.line("raise M")
            case FixedBytes():
                # Its length may be more than a struct format takes.
                self.line(f"w(H(v, {node.length}))")
            case _:
                self.inlined(node, "v")

    def sized(self, node: Sized) -> None:
        if node.text:
            self.line("if type(v) is not str: raise M")
            data = self.variable("v.encode()")
        else:
            data = self.variable("Z.fromhex(v)")
        self.line(f"w(N(len({data}))); w({data})")

    def option(self, node: Option) -> None:
        absent, present = bytes(node.tag), (1).to_bytes(node.tag, "little")
        if node.room > _ROOM_MAX:
            self.line("if v is None: raise M")
        else:
            self.line(f"if v is None: w({absent!r}); {f'w(Z({node.room})); ' if node.room else ''}return")
        self.line(f"w({present!r})")
        self.value(node.inner, "v")

    def each(self, inner: Node) -> None:
        self.line(f"for x in v: {self.g.function(inner)}(x, w, d)")

    def enum(self, node: Enum) -> None:
        """By name: the tag's bytes, and the function that writes what follows (None where the variant is its name)."""
        bodies = {n: None if r.shape == "unit" else self.g.function(r) for n, r in node.variants}
        numbers = zip(node.numbers, node.variants, strict=True)
        tags = {n: number.to_bytes(node.tag, "little") for number, (n, _) in numbers}
        units = self.g.constant({n: tags[n] for n, body in bodies.items() if body is None})
        self.line("if type(v) is str:")
        self.line(f"w({units}[v])", 2)
        self.line("return", 2)
        self.line("(n, v), = v.items()")
        for number, (name, body) in enumerate((n, b) for n, b in bodies.items() if b is not None):
            self.line(f"{'el' if number else ''}if n == {name!r}: w({tags[name]!r}); {body}(v, w, d)")
        self.line("else: raise M" if any(bodies.values()) else "raise M")
