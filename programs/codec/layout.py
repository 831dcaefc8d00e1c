"""From the types as an IDL writes them to closed layouts: generics filled in, sizes known, every bound set.

A layout is a graph of nodes; only `Named` nodes close cycles. Everything that a hostile IDL could make large is
bounded here, so that
what stands behind (the generator, the decoders) may simply walk the graph. What cannot be laid out becomes a `Broken`
node, which
fails only when bytes lead there: one undefined type does not take the rest of an event's enum with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from programs import idl as model
from programs.rust_text import constant_value

Mode: TypeAlias = Literal["borsh", "c"]

# Deeper recursion than this in a value of a recursive type is refused.
RECURSION_MAX = 64
# Nested definitions; real programs stay below 10.
DEFINITION_NESTING_MAX = 48
CLOSED_TYPE_NODES_MAX = 1000
# Types that generics may add to those that the IDL itself lists, and nodes for each of all these.
INSTANCES_MAX = 5000
NODES_MAX = 100
# Values that take no bytes (unit structs, empty arrays) cost the sender nothing and the reader memory.
ZERO_SIZED_STATIC_MAX = 1024
ZERO_SIZED_VALUES_MAX = 1 << 16
# Stands for "no finite value", and caps sums and products on the way there.
ENDLESS = 1 << 62

_SCALAR_SIZES = {**model.INTEGER_WIDTHS, "bool": 1, "f32": 4, "f64": 8, "pubkey": 32}
# The chain's target aligns 128-bit integers to 8 bytes, unlike current x86-64.
_ALIGNMENT_MAX = 8


class Node:
    """size: bytes when fixed, else None. least: fewest bytes of any value. zero: values inside that take no bytes.
    height: of the graph below.
    """

    __slots__ = ("align", "height", "least", "size", "zero")

    def __init__(self, size: int | None, zero: int = 0, height: int = 0, align: int = 1) -> None:
        self.size = size
        self.least = ENDLESS if size is None else min(size, ENDLESS)
        self.zero = zero
        self.height = height
        self.align = align

    def measure(self) -> int:
        """`least` from the `least` of the nodes below."""
        return self.least


class Scalar(Node):
    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        size = _SCALAR_SIZES[kind]
        super().__init__(size, align=1 if kind == "pubkey" else min(size, _ALIGNMENT_MAX))
        self.kind = kind


class FixedBytes(Node):
    """`[u8; N]`"""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        super().__init__(length, zero=0 if length else 1)
        self.length = length


class Pad(Node):
    """Bytes that C layout leaves between fields. Never zero of them."""

    __slots__ = ()


class Sized(Node):
    """`string` or `bytes`: a u32 length and that many bytes."""

    __slots__ = ("text",)

    def __init__(self, text: bool) -> None:
        super().__init__(None)
        self.text = text

    def measure(self) -> int:
        return 4


class Broken(Node):
    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__(None)
        self.reason = reason

    def measure(self) -> int:
        return 1


class Option(Node):
    """`tag` is 1 byte, or 4 for coption, which keeps the room of an absent value when its size is fixed (`room`)."""

    __slots__ = ("inner", "room", "tag")

    def __init__(self, inner: Node, coption: bool) -> None:
        self.inner = inner
        self.tag = 4 if coption else 1
        self.room = inner.size if coption and inner.size is not None else 0
        super().__init__(None, height=inner.height + 1)
        if coption and inner.size is not None:
            self.size = min(4 + inner.size, ENDLESS)

    def measure(self) -> int:
        return min(self.tag + self.room, ENDLESS)


class Vec(Node):
    __slots__ = ("inner",)

    def __init__(self, inner: Node) -> None:
        self.inner = inner
        super().__init__(None, height=inner.height + 1)

    def measure(self) -> int:
        return 4


class Array(Node):
    __slots__ = ("inner", "length")

    def __init__(self, inner: Node, length: int) -> None:
        self.inner = inner
        self.length = length
        size = 0 if length == 0 else None if inner.size is None else min(inner.size * length, ENDLESS)
        zero = 1 if length == 0 else inner.zero * length + (size == 0)
        super().__init__(size, zero, inner.height + 1, inner.align)

    def measure(self) -> int:
        return min(self.inner.least * self.length, ENDLESS) if self.length else 0


@dataclass(frozen=True, slots=True)
class Member:
    """`name` is None in tuples and for padding."""

    name: str | None
    node: Node


class Record(Node):
    """Fields in the order of their bytes. `shape` decides the value's form: named {}, tuple [], unit {}."""

    __slots__ = ("members", "shape")

    def __init__(self, shape: Literal["named", "tuple", "unit"], members: tuple[Member, ...], align: int = 1) -> None:
        self.shape = shape
        self.members = members
        sizes = [member.node.size for member in members]
        size = None if None in sizes else min(sum(s for s in sizes if s is not None), ENDLESS)
        zero = sum(member.node.zero for member in members) + (size == 0)
        super().__init__(size, zero, 1 + max((m.node.height for m in members), default=0), align)

    def measure(self) -> int:
        return min(sum(member.node.least for member in self.members), ENDLESS)

    @property
    def values(self) -> tuple[Member, ...]:
        """The members that are values, without the padding."""
        return tuple(member for member in self.members if not isinstance(member.node, Pad))


class Enum(Node):
    """`tag` is the bytes of the number before a variant, `numbers` that number for each one: its place, unless the IDL says another."""

    __slots__ = ("numbers", "tag", "variants")

    def __init__(
        self, variants: tuple[tuple[str, Record], ...], tag: int = 1, numbers: tuple[int, ...] | None = None
    ) -> None:
        found: dict[int, tuple[str, Record]] = {}
        for number, variant in zip(range(len(variants)) if numbers is None else numbers, variants, strict=True):
            if 0 <= number < 1 << (8 * tag):
                found.setdefault(number, variant)
        self.numbers, self.variants = tuple(found), tuple(found.values())
        self.tag = tag
        super().__init__(None, height=1 + max((r.height for _, r in variants), default=0), align=tag)
        if variants and all(record.shape == "unit" for _, record in variants):
            self.size = tag
        # The largest static weight that one tag byte can bring.
        self.zero = max((record.zero for _, record in variants if record.shape != "unit"), default=0)

    @property
    def numbered(self) -> bool:
        """Whether some variant has another number than its place."""
        return self.numbers != tuple(range(len(self.numbers)))

    @property
    def plain(self) -> bool:
        """Every variant is a unit variant: the value is the tag alone."""
        return self.size is not None

    def measure(self) -> int:
        return min(self.tag + min((record.least for _, record in self.variants), default=ENDLESS), ENDLESS)


class Named(Node):
    """A definition with its arguments. `cyclic` when a value of it can hold another value of it."""

    __slots__ = ("body", "cyclic", "done", "name")

    def __init__(self, name: str) -> None:
        super().__init__(None)
        self.name = name
        self.body: Node = Broken("not resolved yet")
        self.cyclic = False
        self.done = False

    def finish(self, body: Node) -> None:
        self.body = body
        self.size, self.zero, self.height, self.align = body.size, body.zero, body.height + 1, body.align
        self.done = True

    def measure(self) -> int:
        return self.body.least


def holds_text(node: Node) -> bool:
    """Whether U+0000 can stand in a value's JSON form: in a string, or in a name that the IDL gives to something in it."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Sized):
            if node.text:
                return True
        elif isinstance(node, Named):
            waiting.append(node.body)
        elif isinstance(node, Option | Vec | Array):
            waiting.append(node.inner)
        elif isinstance(node, Record | Enum):
            named = [(m.name, m.node) for m in node.members] if isinstance(node, Record) else node.variants
            if any("\x00" in (name or "") for name, _ in named):
                return True
            waiting += [below for _, below in named]
    return False


Argument: TypeAlias = model.TypeRef | model.ConstArgument


@dataclass(frozen=True, slots=True)
class _Bound:
    """A closed argument with its extent, so that growth by substitution is seen before it is built."""

    argument: Argument
    nodes: int
    depth: int


_Scope: TypeAlias = Mapping[str, _Bound]


class _Excess(Exception):
    """The IDL asks for more than the bounds allow; the message becomes the reason of a Broken node."""


class Resolver:
    """Lays out the definitions of one IDL. Call `resolve` for every root, then `settle` once; only then are sizes
    final.
    """

    def __init__(self, idl: model.Idl) -> None:
        self._idl = idl
        self._instances: dict[tuple[int, tuple[Argument, ...], Mode], Named] = {}
        self._nodes: list[Node] = []
        self._instances_max = INSTANCES_MAX + sum(map(len, (idl.types, idl.events, idl.accounts, idl.instructions)))

    def resolve(self, definition: model.TypeDef) -> Named:
        """The layout of an event, an account or the arguments of an instruction."""
        mode: Mode = "c" if definition.serialization.startswith("bytemuck") else "borsh"
        if definition.generics:
            named = Named(definition.name)
            named.finish(self._broken(f"type {definition.name!r} is generic and nothing says with what"))
            self._nodes.append(named)
            return named
        return self._instance(definition, (), {}, mode, 0)

    def settle(self) -> None:
        """Find the fewest bytes of every layout; what has no finite value keeps ENDLESS."""
        for _ in range(DEFINITION_NESTING_MAX + 2):
            changed = False
            for node in self._nodes:
                least = node.measure()
                if least != node.least:
                    node.least, changed = least, True
            if not changed:
                return

    def _keep(self, node: Node) -> Node:
        if node.zero > ZERO_SIZED_STATIC_MAX:
            node = Broken(f"holds more than {ZERO_SIZED_STATIC_MAX} values that take no bytes")
        if node.height > 4 * DEFINITION_NESTING_MAX:
            node = Broken(f"types are nested deeper than {DEFINITION_NESTING_MAX} definitions")
        self._nodes.append(node)
        return node

    def _broken(self, reason: str) -> Node:
        return self._keep(Broken(reason))

    def _instance(
        self, definition: model.TypeDef, arguments: tuple[Argument, ...], scope: _Scope, mode: Mode, depth: int
    ) -> Named:
        key = (id(definition), arguments, mode)
        known = self._instances.get(key)
        if known is not None:
            known.cyclic |= not known.done
            return known
        named = Named(definition.name)
        self._instances[key] = named
        if depth > DEFINITION_NESTING_MAX:
            body = self._broken(f"types are nested deeper than {DEFINITION_NESTING_MAX} definitions")
        elif len(self._instances) > self._instances_max or len(self._nodes) > NODES_MAX * self._instances_max:
            body = self._broken(f"the IDL unfolds into more than {self._instances_max} types")
        elif definition.serialization == "custom":
            body = self._broken(f"type {definition.name!r} has a serialization of the program's own")
        else:
            body = self._body(definition, scope, mode, depth)
        named.finish(body)
        self._nodes.append(named)
        return named

    def _body(self, definition: model.TypeDef, scope: _Scope, mode: Mode, depth: int) -> Node:
        match definition.body:
            case model.AliasBody(target):
                return self._type(target, scope, mode, depth + 1)
            case model.EnumBody(variants, tag):
                if mode == "c":
                    return self._c_enum(definition, variants)
                if not variants:
                    return self._broken(f"enum {definition.name!r} has no variants")
                records = tuple((v.name, self._record(v.body, scope, mode, depth)) for v in variants)
                numbers = tuple(place if v.number is None else v.number for place, v in enumerate(variants))
                return self._keep(Enum(records, tag, numbers))
            case body:
                record = self._record(body, scope, mode, depth)
                return self._keep(self._c_layout(record, definition) if mode == "c" else record)

    def _record(
        self, body: model.StructBody | model.TupleBody | model.UnitBody, scope: _Scope, mode: Mode, depth: int
    ) -> Record:
        match body:
            case model.StructBody(fields):
                members = tuple(Member(f.name, self._type(f.type, scope, mode, depth + 1)) for f in fields)
                record = Record("named", members)
            case model.TupleBody(types):
                record = Record("tuple", tuple(Member(None, self._type(t, scope, mode, depth + 1)) for t in types))
            case model.UnitBody():
                record = Record("unit", ())
        self._nodes.append(record)
        return record

    # -- C layout --

    def _c_enum(self, definition: model.TypeDef, variants: tuple[model.Variant, ...]) -> Node:
        if not variants or any(not isinstance(v.body, model.UnitBody) for v in variants):
            return self._broken(f"enum {definition.name!r} with values has no layout in bytemuck")
        tag = 4 if definition.repr is not None and definition.repr.kind == "c" else 1
        records = []
        for variant in variants:
            record = Record("unit", ())
            self._nodes.append(record)
            records.append((variant.name, record))
        return self._keep(Enum(tuple(records), tag))

    def _c_layout(self, record: Record, definition: model.TypeDef) -> Record:
        """Put the padding in that Rust's `repr(C)` puts in; packed and align as Rust's reference has them."""
        packed = definition.repr.packed if definition.repr is not None else None
        least_align = (definition.repr.align if definition.repr is not None else None) or 1
        if definition.repr is None and definition.serialization == "bytemuckunsafe":
            # `#[account(zero_copy(unsafe))]` is packed unless it says otherwise.
            packed = 1
        members: list[Member] = []
        offset, whole = 0, least_align
        for member in record.members:
            align = member.node.align if packed is None else min(member.node.align, packed)
            whole = max(whole, align)
            offset = self._pad(members, offset, align)
            members.append(member)
            if member.node.size is None:
                return record
            offset += member.node.size
        self._pad(members, offset, whole)
        return Record(record.shape, tuple(members), whole)

    def _pad(self, members: list[Member], offset: int, align: int) -> int:
        gap = -offset % align
        if gap:
            members.append(Member(None, self._keep(Pad(gap))))
        return offset + gap

    # -- types --

    def _type(self, reference: model.TypeRef, scope: _Scope, mode: Mode, depth: int) -> Node:
        match reference:
            case model.Unusable(reason):
                return self._broken(reason)
            case model.Primitive("bytes" | "string" as name):
                return self._unless_c(mode, name) or self._keep(Sized(name == "string"))
            case model.Primitive(name):
                return self._keep(Scalar(name))
            case model.OptionOf(inner, coption):
                option = Option(self._type(inner, scope, mode, depth), coption)
                return self._unless_c(mode, "option") or self._keep(option)
            case model.VecOf(inner):
                return self._unless_c(mode, "vec") or self._keep(Vec(self._type(inner, scope, mode, depth)))
            case model.ArrayOf(inner, length):
                return self._array(inner, length, scope, mode, depth)
            case model.TupleOf(members):
                record = Record("tuple", tuple(Member(None, self._type(m, scope, mode, depth)) for m in members))
                plain = model.TypeDef("tuple", model.UnitBody())
                return self._keep(self._c_layout(record, plain) if mode == "c" else record)
            case model.Generic(name):
                bound = scope.get(name)
                if bound is None or isinstance(bound.argument, model.ConstArgument):
                    return self._broken(f"generic {name!r} is not bound to a type")
                return self._type(bound.argument, {}, mode, depth)
            case model.Defined(name, arguments):
                return self._defined(name, arguments, scope, mode, depth)

    def _unless_c(self, mode: Mode, what: str) -> Node | None:
        return self._broken(f"{what} has no layout in bytemuck") if mode == "c" else None

    def _array(self, inner: model.TypeRef, length: int | str, scope: _Scope, mode: Mode, depth: int) -> Node:
        count = self._number(length, scope)
        if count is None:
            return self._broken(f"the length {length!r} of an array is not a number")
        bound = scope.get(inner.name) if isinstance(inner, model.Generic) else None
        if model.Primitive("u8") in (inner, None if bound is None else bound.argument):
            return self._keep(FixedBytes(count))
        return self._keep(Array(self._type(inner, scope, mode, depth), count))

    def _number(self, value: int | str, scope: _Scope) -> int | None:
        if isinstance(value, str):
            bound = scope.get(value)
            if bound is not None:
                text = bound.argument.value if isinstance(bound.argument, model.ConstArgument) else ""
            else:
                text = value
            number = constant_value(text, self._idl.constants)
            if number is None:
                return None
            value = number
        return value if 0 <= value <= model.ARRAY_LENGTH_MAX else None

    def _defined(self, name: str, arguments: tuple[Argument, ...], scope: _Scope, mode: Mode, depth: int) -> Node:
        definition = self._idl.types.get(name)
        if definition is None:
            return self._broken(f"type {name!r} is nowhere defined")
        parameters = definition.generics
        if len(arguments) != len(parameters):
            return self._broken(f"type {name!r} takes {len(parameters)} generic arguments, not {len(arguments)}")
        try:
            bound = {p.name: self._bind(p, a, scope) for p, a in zip(parameters, arguments, strict=True)}
        except _Excess as error:
            return self._broken(f"type {name!r}: {error}")
        return self._instance(definition, tuple(b.argument for b in bound.values()), bound, mode, depth)

    def _bind(self, parameter: model.GenericParameter, argument: Argument, scope: _Scope) -> _Bound:
        """Real IDLs pass constants as types and the reverse: the parameter's kind decides where it is known."""
        name = _plain_name(argument)
        if name is not None and name in scope:
            return scope[name]
        if parameter.const or isinstance(argument, model.ConstArgument):
            number = None if name is None else self._number(name, scope)
            if number is not None:
                return _Bound(model.ConstArgument(str(number)), 1, 1)
            if parameter.const and name in ("true", "false"):
                return _Bound(model.ConstArgument(str(name)), 1, 1)
        if name is not None and isinstance(argument, model.ConstArgument):
            if name not in self._idl.types:
                raise _Excess(f"{name!r} is neither a constant nor a type")
            argument = model.Defined(name)
        if isinstance(argument, model.ConstArgument):
            raise _Excess(f"{argument.value!r} is not a number")
        return self._close(argument, scope)

    def _close(self, reference: model.TypeRef, scope: _Scope) -> _Bound:
        """The reference with every generic replaced by what it is bound to."""
        closed, nodes, depth = self._closed(reference, scope)
        return _Bound(closed, nodes, depth)

    def _closed(self, reference: model.TypeRef, scope: _Scope) -> tuple[model.TypeRef, int, int]:
        match reference:
            case model.Generic(name):
                bound = scope.get(name)
                if bound is None or isinstance(bound.argument, model.ConstArgument):
                    raise _Excess(f"generic {name!r} is not bound to a type")
                return bound.argument, bound.nodes, bound.depth
            case model.OptionOf(inner, coption):
                below, nodes, depth = self._closed(inner, scope)
                return model.OptionOf(below, coption), *_grown(nodes, depth)
            case model.VecOf(inner):
                below, nodes, depth = self._closed(inner, scope)
                return model.VecOf(below), *_grown(nodes, depth)
            case model.ArrayOf(inner, length):
                below, nodes, depth = self._closed(inner, scope)
                number = self._number(length, scope)
                return model.ArrayOf(below, length if number is None else number), *_grown(nodes, depth)
            case model.TupleOf(members):
                parts = [self._closed(member, scope) for member in members]
                return model.TupleOf(tuple(p[0] for p in parts)), *_grown(*_extent(parts))
            case model.Defined(name, arguments):
                definition = self._idl.types.get(name)
                known = definition.generics if definition is not None else ()
                parameters = known if len(known) == len(arguments) else tuple(_unnamed(a) for a in arguments)
                bounds = [self._bind(p, a, scope) for p, a in zip(parameters, arguments, strict=True)]
                grown = _grown(*_extent([(b.argument, b.nodes, b.depth) for b in bounds]))
                return model.Defined(name, tuple(b.argument for b in bounds)), *grown
            case _:
                return reference, 1, 1


def _extent(parts: list[tuple[Argument, int, int]] | list[tuple[model.TypeRef, int, int]]) -> tuple[int, int]:
    return sum(part[1] for part in parts), max((part[2] for part in parts), default=0)


def _grown(nodes: int, depth: int) -> tuple[int, int]:
    if nodes >= CLOSED_TYPE_NODES_MAX or depth >= model.TYPE_NESTING_MAX:
        raise _Excess("its generic arguments grow without end")
    return nodes + 1, depth + 1


def _plain_name(argument: Argument) -> str | None:
    """The name or literal that an argument consists of, when it is nothing more."""
    match argument:
        case model.ConstArgument(name) | model.Generic(name) | model.Defined(name, ()):
            return name
        case _:
            return None


def _unnamed(argument: Argument) -> model.GenericParameter:
    return model.GenericParameter("?", isinstance(argument, model.ConstArgument))
