"""Layouts become Python source, compiled once when an IDL is loaded.

Neighbouring values of fixed size are read by one `struct` call, nested definitions of fixed size included; each
definition of varying
size becomes one function, so the source grows with the IDL and not with its unfolding. Names of the IDL enter the
source only as
`repr` of a string: whatever they hold, they stay string literals. Generated code finds out that bytes are wrong; it
does not say how:
the caller asks `reference.Reader` then.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from programs.base58 import ADDRESS_TEXTS, PLAIN_TEXTS
from programs.codec.layout import (
    ENDLESS,
    RECURSION_MAX,
    ZERO_SIZED_VALUES_MAX,
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
from programs.codec.reference import float_value
from programs.codec.source import FORMATS, TAG_FORMATS, Source

# decode(data, …) → what the form makes of it
DecodeFunction: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Root:
    """What a decoder is wanted for: its name, the bytes before its layout, the layout."""

    name: str
    skip: int
    node: Named


@dataclass(frozen=True, slots=True)
class Form:
    """What a decoder takes and gives, as source: `D` stands for `make`, `b` for the bytes, and `{name}`, `{value}` and `{trailing}` (the
    count of bytes behind the layout) are filled in.
    """

    parameters: str
    result: str
    make: Callable[..., Any]


# One struct call unpacks at most about this many values.
_RUN_VALUES_MAX = 128

_FORMATS = {
    **FORMATS,
    "bool": "B",
    "pubkey": "32s",
    "u128": "QQ",
    "i128": "Qq",
    "u256": "QQQQ",
    "i256": "QQQq",
}
# Stands for the table of addresses while that is not settled. No `repr`, and so no name of an IDL in the source, holds it.
_TEXTS = "\0"
_BULK = frozenset({"u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"})


class Mismatch(Exception):
    """Generated code met bytes that do not fit; which and where is the reference reader's to say."""


MISMATCHES = (Mismatch, struct.error, IndexError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Body:
    """What a decoder does, for whoever writes it into a function of his own: statements, and what they lead to. `plain` is tried first, where
    there is one, and gives way on a KeyError. The decoder's own scope is what the names are of.
    """

    statements: tuple[str, ...]
    plain: str | None
    result: str

    @property
    def length(self) -> int:
        """Characters of it."""
        return sum(map(len, self.statements)) + len(self.plain or "") + len(self.result)


@dataclass(frozen=True, slots=True)
class Decoders:
    """One decoder for each root, under the same key; their bodies, where they can do without the decoder; the source of all."""

    functions: dict[str, DecodeFunction]
    bodies: dict[str, Body]
    text: str


def compile_decoders(roots: Mapping[str, Root], form: Form) -> Decoders:
    """The decoders that give what the form says."""
    generator = _Generator(form)
    names = {key: generator.root(root) for key, root in roots.items()}
    namespace = generator.compile()
    functions = {key: namespace[name] for key, name in names.items()}
    if generator.uses_budget:
        functions = {key: _budgeted(function, namespace["Z"]) for key, function in functions.items()}
        return Decoders(functions, {}, generator.text)
    return Decoders(functions, {key: generator.bodies[name] for key, name in names.items()}, generator.text)


def _budgeted(decode: DecodeFunction, budget: list[int]) -> DecodeFunction:
    """Elements that take no bytes are bounded over the whole value, not only in each list."""

    def decode_within_budget(*arguments: Any) -> Any:
        budget[0] = ZERO_SIZED_VALUES_MAX
        return decode(*arguments)

    return decode_within_budget


class Numbered(dict[int, Any]):
    """What variants are by their numbers; one that there is not is an IndexError, as in a tuple."""

    def __missing__(self, number: int) -> Any:
        raise IndexError(number)


def _by_number(node: Enum, values: Sequence[Any]) -> Sequence[Any] | Numbered:
    """What is got by a variant's number: a tuple while the numbers are the places."""
    return Numbered(zip(node.numbers, values, strict=True)) if node.numbered else tuple(values)


class _Generator(Source):
    prefix = "f"
    title = "<idl>"
    method = "unpack_from"
    inlines_arrays = True

    def __init__(self, form: Form) -> None:
        super().__init__(
            {
                "D": form.make,
                "A": ADDRESS_TEXTS,
                "P": PLAIN_TEXTS,
                "M": Mismatch,
                "F": float_value,
                "B2": (False, True),
                "U": struct.unpack_from,
                "Z": [0],
            }
        )
        self.form = form
        self.uses_budget = False
        self.bodies: dict[str, Body] = {}

    def build(self, name: str, node: Node) -> None:
        _Function(self, name).build(node)

    def root(self, root: Root) -> str:
        name = f"r{len(self.functions)}"
        _Function(self, name).build_root(root)
        return name


class _Function:
    """The source of one function under construction: statements, and a run of values that the next struct call will
    read.
    """

    def __init__(self, generator: _Generator, name: str) -> None:
        self.g = generator
        self.name = name
        self.lines: list[str] = []
        self.run: list[str] = []
        self.run_names: list[str] = []
        self.run_bytes = 0
        self.count = 0
        # In a root: the variables that hold addresses, whose texts are looked up in the last statement.
        self.addresses: list[str] | None = None
        # Where the reading stands, as long as that is known here; afterwards the variable `o` says it.
        self.known: int | None = None

    def build_root(self, root: Root) -> None:
        """The whole of an event, account or instruction: from the bytes to what `make` makes."""
        node, body, form = root.node, root.node.body, self.g.form
        name = self.g.constant(root.name)
        if node.cyclic or node.least >= ENDLESS or (isinstance(body, Enum) and not body.plain):
            self.line("L = len(b)")
            self.line(f"v, o = {self.g.function(node)}(b, {root.skip}, L)")
            ending = form.result.format(name=name, value="v", trailing="L - o")
        else:
            self.begin_at(root.skip)
            self.addresses = []
            value = self.contents(body)
            step = self.flush(advance=False)
            if self.known is None:
                self.lines.insert(0, " L = len(b); d = 0")
                ending = form.result.format(name=name, value=value, trailing=f"L - o - {step}")
            else:
                # What an IDL places beyond the data fails in the struct call; nothing else looks at the length.
                ending = form.result.format(name=name, value=value, trailing=f"len(b) - {self.known + step}")
                if not step:
                    self.line(f"if len(b) < {self.known}: raise M")
        made = Body(
            tuple(self.lines), ending.replace(_TEXTS, "P") if self.addresses else None, ending.replace(_TEXTS, "A")
        )
        self.g.bodies[self.name] = made
        if made.plain is not None:
            self.line(f"try: return {made.plain}")
            self.line("except KeyError: pass")
        self.line(f"return {made.result}")
        self.g.functions.append("\n".join([f"def {self.name}({form.parameters}):", *self.lines, ""]))

    def build(self, node: Node) -> None:
        self.line(f"def {self.name}(b, o, L, d=0):", 0)
        if isinstance(node, Named):
            if node.cyclic:
                self.line(f"if d >= {RECURSION_MAX}: raise M")
                self.line("d += 1")
            body = node.body
        else:
            body = node
        if node.least >= ENDLESS:
            self.line("raise M")
        elif isinstance(body, Enum) and not body.plain:
            self.enum(body)
        else:
            value = self.contents(body)
            # The offset is folded into the return, which is what most definitions end with.
            if self.run:
                step = self.flush(advance=False)
                self.line(f"return {value}, o + {step}")
            else:
                self.line(f"return {value}, o")
        self.g.functions.append("\n".join([*self.lines, ""]))

    def begin_at(self, offset: int) -> None:
        self.known = offset

    def line(self, text: str, indent: int = 1) -> None:
        self.lines.append(" " * indent + text)

    def variable(self) -> str:
        self.count += 1
        return f"v{self.count}"

    # -- runs --

    def add(self, layout: str, size: int, names: int) -> list[str]:
        if len(self.run_names) > _RUN_VALUES_MAX:
            self.flush()
        variables = [self.variable() for _ in range(names)]
        self.run.append(layout)
        self.run_names += variables
        self.run_bytes += size
        return variables

    def flush(self, advance: bool = True) -> int:
        """Emit the struct call for what has gathered. Returns its bytes."""
        size, self.run_bytes = self.run_bytes, 0
        if self.run:
            unpack = self.g.struct_call("".join(self.run))
            target = "".join(f"{name}, " for name in self.run_names).rstrip()
            place = "o" if self.known is None else str(self.known)
            self.line(f"{target} = {unpack}(b, {place})" if target else f"{unpack}(b, {place})")
        if advance and self.known is not None:
            self.line(f"o = {self.known + size}")
            self.known = None
        elif advance and self.run:
            self.line(f"o += {size}")
        self.run, self.run_names = [], []
        return size

    # -- values: each returns the expression of the value, valid once the run is flushed --

    def value(self, node: Node) -> str:
        if self.g.inline_values(node) is not None:
            return self.inline(node)
        match node:
            case Sized():
                return self.sized(node)
            case Vec():
                return self.vec(node)
            case Option() if node.tag == 1:
                return self.option(node)
            case _:
                return self.call(node)

    def contents(self, node: Node) -> str:
        """As `value`, for what this function is about: it must not call itself."""
        match node:
            case Record():
                return self.record(node, self.value)
            case Array():
                return self.array(node)
            case Option():
                return self.coption(node) if node.tag == 4 else self.option(node)
            case Enum():
                return self.plain_enum(node)
            case Broken():
                self.flush()
                self.line("raise M")
                return "None"
            case FixedBytes():
                self.flush()
                name = self.variable()
                self.line(f"if o + {node.length} > L: raise M")
                self.line(f"{name} = b[o:o + {node.length}].hex()")
                self.line(f"o += {node.length}")
                return name
            case _:
                return self.value(node)

    def call(self, node: Node) -> str:
        self.flush()
        name = self.variable()
        self.line(f"{name}, o = {self.g.function(node)}(b, o, L, d)")
        return name

    def inline(self, node: Node) -> str:
        match node:
            case Scalar():
                return self.scalar(node)
            case FixedBytes():
                return f"{self.add(f'{node.length}s', node.length, 1)[0]}.hex()"
            case Pad():
                self.add(f"{node.size}x", node.size or 0, 0)
                return ""
            case Enum():
                return self.plain_enum(node)
            case Named():
                return self.inline(node.body)
            case Array():
                return "[" + ", ".join(self.inline(node.inner) for _ in range(node.length)) + "]"
            case Record():
                return self.record(node, self.inline)
            case _:
                raise AssertionError(f"{type(node).__name__} is never inlined")

    def scalar(self, node: Scalar) -> str:
        kind = node.kind
        names = self.add(_FORMATS[kind], node.size or 0, {"28": 2, "56": 4}.get(kind[-2:], 1))
        first = names[0]
        if kind == "pubkey":
            if self.addresses is None:
                return f"A[{first}]"
            self.addresses.append(first)
            return f"{_TEXTS}[{first}]"
        if kind == "bool":
            return f"B2[{first}]"
        if kind in ("f32", "f64"):
            return f"({first} if {first} - {first} == 0 else F({first}))"
        if len(names) == 1:
            return first
        return "(" + " | ".join(f"{name} << {64 * i}" if i else name for i, name in enumerate(names)) + ")"

    def record(self, node: Record, member_value: Callable[[Node], str]) -> str:
        parts: list[str] = []
        for member in node.members:
            if isinstance(member.node, Pad):
                # Padding wider than one struct format is worth is still only bytes to pass over.
                self.add(f"{member.node.size}x", member.node.size or 0, 0)
                continue
            value = member_value(member.node)
            parts.append(value if node.shape == "tuple" else f"{member.name!r}: {value}")
        inside = ", ".join(parts)
        return f"[{inside}]" if node.shape == "tuple" else f"{{{inside}}}"

    def sized(self, node: Sized) -> str:
        length = self.add("I", 4, 1)[0]
        self.flush()
        name = self.variable()
        self.line(f"{length} += o")
        self.line(f"if {length} > L: raise M")
        self.line(f"{name} = b[o:{length}].{'decode' if node.text else 'hex'}()")
        self.line(f"o = {length}")
        return name

    def vec(self, node: Vec) -> str:
        count = self.add("I", 4, 1)[0]
        self.flush()
        inner = node.inner
        name = self.variable()
        if inner.least >= ENDLESS:
            self.line(f"if {count}: raise M")
            return "[]"
        if inner.least == 0:
            self.g.uses_budget = True
            self.line(f"Z[0] -= {count} * {max(inner.zero, 1)}")
            self.line("if Z[0] < 0: raise M")
        else:
            self.line(f"if {count} * {inner.least} > L - o: raise M")
        self.elements(inner, count, name)
        return name

    def elements(self, inner: Node, count: str, name: str) -> None:
        """`name` = a list of `count` elements, which are known to fit if they are as small as can be."""
        if isinstance(inner, Scalar) and inner.kind == "u8":
            self.line(f"{name} = list(b[o:o + {count}])")
            self.line(f"o += {count}")
        elif isinstance(inner, Scalar) and inner.kind in _BULK:
            self.line(f"{name} = list(U('<%d{_FORMATS[inner.kind]}' % {count}, b, o))")
            self.line(f"o += {count} * {inner.size}")
        elif isinstance(inner, Scalar) and inner.kind == "pubkey":
            self.line(f"{name} = [A[b[i:i + 32]] for i in range(o, o + {count} * 32, 32)]")
            self.line(f"o += {count} * 32")
        elif self.g.inline_values(inner) and inner.size:
            self.unpacked(inner, count, name)
        else:
            function = self.g.function(inner)
            item = self.variable()
            self.line(f"{name} = []")
            self.line(f"for _ in range({count}):")
            self.line(f"{item}, o = {function}(b, o, L, d)", 2)
            self.line(f"{name}.append({item})", 2)

    def unpacked(self, inner: Node, count: str, name: str) -> None:
        scratch = _Function(self.g, "")
        scratch.count = self.count
        expression = scratch.inline(inner)
        self.count = scratch.count
        target = "".join(f"{variable}, " for variable in scratch.run_names).rstrip() or "_"
        iterate = self.g.struct_call("".join(scratch.run), "iter_unpack")
        end = self.variable()
        self.line(f"{end} = o + {count} * {inner.size}")
        self.line(f"{name} = [{expression} for {target} in {iterate}(b[o:{end}])]")
        self.line(f"o = {end}")

    def array(self, node: Array) -> str:
        self.flush()
        name = self.variable()
        if node.length == 0:
            return "[]"
        if node.inner.least >= ENDLESS:
            self.line("raise M")
            return "None"
        self.line(f"if {min(node.inner.least * node.length, ENDLESS)} > L - o: raise M")
        self.elements(node.inner, str(node.length), name)
        return name

    def option(self, node: Option) -> str:
        tag = self.add("B", 1, 1)[0]
        self.flush()
        name = self.variable()
        self.line(f"if {tag} == 1:")
        if self.g.inline_values(node.inner) is not None:
            scratch = _Function(self.g, "")
            scratch.count = self.count
            expression = scratch.inline(node.inner)
            scratch.flush()
            self.count = scratch.count
            self.lines += [" " + line for line in scratch.lines]
            self.line(f"{name} = {expression}", 2)
        else:
            self.line(f"{name}, o = {self.g.function(node.inner)}(b, o, L, d)", 2)
        self.line(f"elif {tag}: raise M")
        self.line(f"else: {name} = None")
        return name

    def coption(self, node: Option) -> str:
        tag = self.add("I", 4, 1)[0]
        self.flush()
        name = self.variable()
        self.line(f"if {tag} == 1:")
        self.line(f"{name}, o = {self.g.function(node.inner)}(b, o, L, d)", 2)
        self.line(f"elif {tag} or o + {node.room} > L: raise M")
        self.line("else:")
        self.line(f"{name} = None", 2)
        self.line(f"o += {node.room}", 2)
        return name

    def plain_enum(self, node: Enum) -> str:
        names = self.g.constant(_by_number(node, [name for name, _ in node.variants]))
        return f"{names}[{self.add(TAG_FORMATS[node.tag], node.tag, 1)[0]}]"

    def enum(self, node: Enum) -> None:
        """A table from the tag to the variant's function; None where the variant is its name alone."""
        names = self.g.constant(_by_number(node, [name for name, _ in node.variants]))
        functions = [None if r.shape == "unit" else self.g.function(r) for _, r in node.variants]
        # The functions are defined by the same source, later: the table is filled when they exist.
        table = f"T_{self.name}"
        made = f"({', '.join(str(f) for f in functions)},)"
        if node.numbered:
            made = f"{self.g.constant(Numbered)}(zip({node.numbers}, {made}))"
        self.g.functions.append(f"def {table}(): return {made}\n")
        self.g.constants.setdefault("TABLES", {})
        self.line("t = b[o]" if node.tag == 1 else f"t, = {self.g.struct_call(TAG_FORMATS[node.tag])}(b, o)")
        self.line(f"n = {names}[t]")
        self.line(f"f = TABLES.get({table})")
        self.line(f"if f is None: f = TABLES[{table}] = {table}()")
        self.line("f = f[t]")
        self.line(f"if f is None: return n, o + {node.tag}")
        self.line(f"v, o = f(b, o + {node.tag}, L, d)")
        self.line("return {n: v}, o")
