"""What decoders and encoders have in common on their way to Python source: functions, constants, and what is a part of a struct call."""

from __future__ import annotations

import struct
from typing import Any

from programs.codec.layout import Array, Enum, FixedBytes, Named, Node, Pad, Record, Scalar

# A definition with more values than this is a function of its own instead of a part of its holder's struct call.
INLINE_VALUES_MAX = 48
INLINE_BYTES_MAX = 1 << 12

# Of the scalars that `struct` knows; 128 and 256 bits are put together from these.
FORMATS = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "u64": "Q",
    "i64": "q",
    "f32": "f",
    "f64": "d",
}


TAG_FORMATS = {1: "B", 2: "H", 4: "I"}


class Source:
    """The source under construction: every layout that is not inlined becomes one function, made when it is first named.

    Names of the IDL enter the source only as `repr` of a string: whatever they hold, they stay string literals. Who inherits says in
    `build` what a function is, and in the attributes below how the two differ.
    """

    prefix: str
    title: str
    # The method of `struct.Struct` that the calls use.
    method: str
    inlines_arrays: bool

    def __init__(self, constants: dict[str, Any]) -> None:
        self.constants = constants
        self.structs: dict[str, str] = {}
        self.functions: list[str] = []
        self.names: dict[int, str] = {}
        # Nodes are told apart by identity, so they must live as long as the tables.
        self.held: list[Node] = []
        self.inline: dict[int, int | None] = {}
        self.pending: list[tuple[str, Node]] = []

    def build(self, name: str, node: Node) -> None:
        """Append the function's text to `functions`."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        return "\n".join(self.functions)

    def compile(self) -> dict[str, Any]:
        """The functions, by name."""
        while self.pending:
            self.build(*self.pending.pop())
        namespace = dict(self.constants)
        exec(compile(self.text, self.title, "exec", dont_inherit=True), namespace)
        return namespace

    def function(self, node: Node) -> str:
        """The name of the node's function."""
        name = self.names.get(id(node))
        if name is None:
            name = self.names[id(node)] = f"{self.prefix}{len(self.names)}"
            self.held.append(node)
            self.pending.append((name, node))
        return name

    def constant(self, value: Any) -> str:
        """A name for a value that the functions use."""
        name = f"C{len(self.constants)}"
        self.constants[name] = value
        return name

    def struct_call(self, layout: str, method: str = "") -> str:
        """A name for the struct's method; one constant however often the layout occurs."""
        key = method + layout
        name = self.structs.get(key)
        if name is None:
            name = self.structs[key] = self.constant(getattr(struct.Struct("<" + layout), method or self.method))
        return name

    def inline_values(self, node: Node) -> int | None:
        """How many values the node adds to a struct call, None when it is a function of its own."""
        known = self.inline.get(id(node), -1)
        if known == -1:
            known = self.inline[id(node)] = self._inline_values(node)
            self.held.append(node)
        return known

    def _inline_values(self, node: Node) -> int | None:
        if node.size is None or node.size > INLINE_BYTES_MAX:
            return None
        total: int | None = None
        match node:
            case Scalar() | FixedBytes() | Pad():
                return 1
            case Enum() if node.plain:
                return 1
            case Named() if not node.cyclic:
                return self.inline_values(node.body)
            case Array() if self.inlines_arrays and node.length <= INLINE_VALUES_MAX:
                below = self.inline_values(node.inner)
                total = None if below is None else below * node.length
            case Record():
                parts = [self.inline_values(member.node) for member in node.members]
                total = None if None in parts else sum(part for part in parts if part is not None)
        return total if total is not None and total <= INLINE_VALUES_MAX else None
