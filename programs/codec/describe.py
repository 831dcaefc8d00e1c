"""Layouts in words: for `indexer idl show`, and to find what of an IDL cannot be read."""

from __future__ import annotations

from typing import Any

from programs.codec.layout import (
    ENDLESS,
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

_NESTING_SHOWN = 6


def describe(node: Node | None, depth: int = 0) -> Any:
    """The layout as names of types in objects (named fields) and lists (tuples); below some depth only names."""
    match node:
        case Named():
            return node.name if depth >= _NESTING_SHOWN else describe(node.body, depth + 1)
        case Record():
            if node.shape == "tuple":
                return [describe(member.node, depth) for member in node.values]
            return {str(member.name): describe(member.node, depth) for member in node.values}
        case Scalar():
            return node.kind
        case FixedBytes():
            return f"bytes[{node.length}]"
        case Sized():
            return "string" if node.text else "bytes"
        case Option():
            return {"option": describe(node.inner, depth)}
        case Vec():
            return {"vec": describe(node.inner, depth)}
        case Array():
            return {"array": describe(node.inner, depth), "length": node.length}
        case Enum():
            return {"enum": {name: describe(record, depth) for name, record in node.variants}}
        case Broken():
            return f"(unreadable: {node.reason})"
        case _:
            return None


def fault(root: Named) -> str | None:
    """Why some value of this layout cannot be read; None when every value can."""
    seen: set[int] = set()
    stack: list[Node] = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Broken):
            return node.reason
        if node.least >= ENDLESS and isinstance(node, Named):
            return f"type {node.name!r} has no finite value"
        stack += _below(node)
    return None


def _below(node: Node) -> list[Node]:
    match node:
        case Named():
            return [node.body]
        case Record():
            return [member.node for member in node.members if not isinstance(member.node, Pad)]
        case Option() | Vec() | Array():
            return [node.inner]
        case Enum():
            return [record for _, record in node.variants]
        case _:
            return []
