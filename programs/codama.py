"""Codama documents as the Anchor IDL that says the same: the other form in which programs publish what they are.

What an Anchor IDL cannot say (big-endian numbers, values without a length, tags of other widths) is kept as a type that no reader knows, so
that it is named with its place and takes only what holds it. Source: the nodes of Codama's version 1.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from programs import base58

_WRAPPED_NUMBERS = ("amountTypeNode", "solAmountTypeNode", "dateTimeTypeNode")
_FORMATS = frozenset(f"{sign}{bits}" for sign in "ui" for bits in (8, 16, 32, 64, 128)) | {"f32", "f64"}
_LISTS = {"arrayTypeNode": "vec", "setTypeNode": "vec", "mapTypeNode": "hashMap"}


class CodamaError(ValueError):
    """The document is not laid out as Codama lays out a program."""


def is_codama(document: Mapping[str, Any]) -> bool:
    return document.get("kind") == "rootNode" or document.get("standard") == "codama"


def anchor_document(root: Mapping[str, Any]) -> dict[str, Any]:
    """The program of a root node as an Anchor IDL. Names stay as Codama has them. CodamaError when it is not laid out as one."""
    try:
        return _Converter(root["program"]).document()
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, IndexError, RecursionError) as error:
        raise CodamaError(f"a Codama document that cannot be read ({type(error).__name__}: {error})") from None


class _Converter:
    def __init__(self, program: Mapping[str, Any]) -> None:
        self.program = program
        self.types: list[dict[str, Any]] = []
        self.discriminators = _Discriminators(program)

    def document(self) -> dict[str, Any]:
        program = self.program
        events = [self.layout(node, "events") for node in program.get("events") or ()]
        accounts = [self.layout(node, "accounts") for node in program.get("accounts") or ()]
        instructions = [self.instruction(node) for node in program.get("instructions") or ()]
        for node in program.get("definedTypes") or ():
            self.types.append({"name": node["name"], "type": self.body(node["type"], node["name"])})
        return {
            "address": program.get("publicKey"),
            "metadata": {"name": program.get("name"), "version": program.get("version", ""), "spec": "0.1.0"},
            "instructions": instructions,
            "accounts": accounts,
            "events": events,
            "types": self.types,
            "errors": [
                {"code": node["code"], "name": node["name"], "msg": node.get("message")}
                for node in program.get("errors") or ()
            ],
        }

    # -- events, accounts, instructions --

    def layout(self, node: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """An event or an account, its layout written with it: names of types are a space of their own in Codama."""
        name, data = node["name"], node["data"]
        prefix = b""
        if data["kind"] == "hiddenPrefixTypeNode":
            prefix = self.discriminators.constants(data["prefix"])
            data = data["type"]
        place = f"{kind}.{name}"
        if data["kind"] != "structTypeNode":
            body, discriminator = self.body(data, place), prefix
        else:
            fields = data.get("fields") or ()
            found, used = (prefix, 0) if prefix else self.discriminators.of(node, fields)
            body, discriminator = {"kind": "struct", "fields": self.fields(fields[used:], place)}, found
        return {"name": name, "type": body, **_given(discriminator)}

    def instruction(self, node: Mapping[str, Any]) -> dict[str, Any]:
        arguments = node.get("arguments") or ()
        discriminator, used = self.discriminators.of(node, arguments)
        return {
            "name": node["name"],
            **_given(discriminator),
            "accounts": [_account(account) for account in node.get("accounts") or ()],
            "args": self.fields(arguments[used:], f"instructions.{node['name']}"),
        }

    def fields(self, nodes: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
        return [{"name": node["name"], "type": self.type(node["type"], f"{place}.{node['name']}")} for node in nodes]

    # -- types --

    def body(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A definition; `place` names the definitions that stand inside it."""
        match node["kind"]:
            case "structTypeNode":
                return {"kind": "struct", "fields": self.fields(node.get("fields") or (), place)}
            case "enumTypeNode" if (tag := _tag_bytes(node)) is not None:
                return {"kind": "enum", "tag": tag, "variants": [self.variant(v, place) for v in node["variants"]]}
            case "enumTypeNode":
                return {"kind": "type", "alias": _unreadable(node, "a tag of another kind")}
            case _:
                return {"kind": "type", "alias": self.type(node, place)}

    def variant(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        written: dict[str, Any] = {"name": node["name"]}
        below = f"{place}.{node['name']}"
        if isinstance(node.get("discriminator"), int):
            written["number"] = node["discriminator"]
        if node["kind"] == "enumStructVariantTypeNode":
            struct = node["struct"]
            if struct["kind"] != "structTypeNode":
                written["fields"] = [_unreadable(struct)]
            else:
                written["fields"] = self.fields(struct["fields"], below)
        elif node["kind"] == "enumTupleVariantTypeNode":
            members = node["tuple"]
            if members["kind"] != "tupleTypeNode":
                written["fields"] = [_unreadable(members)]
            else:
                written["fields"] = [self.type(item, f"{below}.{i}") for i, item in enumerate(members["items"])]
        return written

    def type(self, node: Mapping[str, Any], place: str) -> Any:
        """A type; a struct or an enum that stands inside another becomes a definition of its own."""
        kind = node["kind"]
        match kind:
            case "numberTypeNode":
                known = node["format"] in _FORMATS and node.get("endian", "le") == "le"
                return node["format"] if known else _unreadable(node, f"{node['format']} {node.get('endian', '')}")
            case "publicKeyTypeNode":
                return "pubkey"
            case "booleanTypeNode" if _is_number(node.get("size"), "u8"):
                return "bool"
            case "optionTypeNode":
                coption = node.get("fixed") is True
                if _is_number(node.get("prefix"), "u32" if coption else "u8"):
                    return {"coption" if coption else "option": self.type(node["item"], place)}
            case "tupleTypeNode":
                return {"tuple": [self.type(item, f"{place}.{i}") for i, item in enumerate(node["items"])]}
            case "definedTypeLinkNode" if "program" not in node:
                return {"defined": {"name": node["name"]}}
            case "structTypeNode" | "enumTypeNode":
                self.types.append({"name": place, "type": self.body(node, place)})
                return {"defined": {"name": place}}
            case "sizePrefixTypeNode" if _is_number(node["prefix"], "u32"):
                inner = node["type"]
                if inner["kind"] == "bytesTypeNode":
                    return "bytes"
                if inner["kind"] == "stringTypeNode" and inner.get("encoding", "utf8") == "utf8":
                    return "string"
            case "fixedSizeTypeNode" if node["type"]["kind"] == "bytesTypeNode":
                return {"array": ["u8", node["size"]]}
            case _:
                if kind in _WRAPPED_NUMBERS:
                    return self.type(node["number"], place)
                if kind in _LISTS:
                    return self.list(node, place)
        return _unreadable(node)

    def list(self, node: Mapping[str, Any], place: str) -> Any:
        count = node["count"]
        if node["kind"] == "mapTypeNode":
            item: Any = [self.type(node["key"], f"{place}.key"), self.type(node["value"], f"{place}.value")]
        else:
            item = self.type(node["item"], place)
        if count["kind"] == "prefixedCountNode" and _is_number(count["prefix"], "u32"):
            return {_LISTS[node["kind"]]: item}
        if count["kind"] == "fixedCountNode" and isinstance(count["value"], int):
            return {"array": [{"tuple": item} if node["kind"] == "mapTypeNode" else item, count["value"]]}
        return _unreadable(node, count["kind"])


def _unreadable(node: Mapping[str, Any], why: str = "") -> dict[str, str]:
    return {"codama": f"{node['kind']} {why}".strip()}


def _is_number(node: Any, width: str) -> bool:
    """Whether the node is the little-endian number that Borsh has in its place. Absent, it is."""
    if node is None:
        return True
    return bool(node.get("format") == width and (width == "u8" or node.get("endian", "le") == "le"))


def _tag_bytes(node: Mapping[str, Any]) -> int | None:
    """How many bytes an enum's number takes; None when it is no little-endian one that can be read."""
    return next((width for width in (1, 2, 4) if _is_number(node.get("size"), f"u{8 * width}")), None)


def _account(node: Mapping[str, Any]) -> dict[str, Any]:
    default = node.get("defaultValue") or {}
    written = {
        "name": node["name"],
        "writable": node.get("isWritable") is True,
        "signer": node.get("isSigner") is True,
        "optional": node.get("isOptional") is True,
    }
    if default.get("kind") == "publicKeyValueNode":
        written["address"] = default["publicKey"]
    return written


# ---- discriminators ----


def _given(discriminator: bytes) -> dict[str, Any]:
    return {"discriminator": [*discriminator]} if discriminator else {}


class _Discriminators:
    """The bytes that things of a kind begin with."""

    def __init__(self, program: Mapping[str, Any]) -> None:
        self.enums = {node["name"]: node["type"] for node in program.get("definedTypes") or ()}

    def of(self, node: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]) -> tuple[bytes, int]:
        """The bytes, and how many of the fields they are. No bytes when nothing says what they are."""
        given = node.get("discriminators") or ()
        named = {d["name"] for d in given if d["kind"] == "fieldDiscriminatorNode"}
        found, used = b"", 0
        for field in fields:
            part = self.bytes_of(field["type"], field.get("defaultValue")) if field["name"] in named else None
            if part is None:
                break
            found, used = found + part, used + 1
        if not used:
            constants = [d for d in given if d["kind"] == "constantDiscriminatorNode"]
            found = self.constants([d["constant"] for d in sorted(constants, key=lambda d: int(d["offset"]))])
        return found, used

    def constants(self, nodes: Sequence[Mapping[str, Any]]) -> bytes:
        return b"".join(self.bytes_of(node["type"], node["value"]) or b"" for node in nodes)

    def bytes_of(self, kind: Mapping[str, Any], value: Mapping[str, Any] | None) -> bytes | None:
        match (value or {}).get("kind"), value:
            case "numberValueNode", {"number": int(number)} if kind.get("format", "f")[0] in "ui":
                order: Any = "big" if kind.get("endian") == "be" else "little"
                return number.to_bytes(int(kind["format"][1:]) // 8, order, signed=kind["format"][0] == "i")
            case "bytesValueNode", {"data": str(text), "encoding": str(encoding)}:
                return _decoded(text, encoding)
            case "enumValueNode", {"enum": {"name": str(name)}, "variant": str(variant)}:
                enum = self.enums.get(name, {})
                variants = enum.get("variants") or ()
                numbers = {v["name"]: v.get("discriminator", place) for place, v in enumerate(variants)}
                width = _tag_bytes(enum)
                return int(numbers[variant]).to_bytes(width, "little") if width and variant in numbers else None
        return None


def _decoded(text: str, encoding: str) -> bytes | None:
    if encoding == "base16":
        return bytes.fromhex(text)
    if encoding == "base58":
        return base58.decode(text)
    if encoding == "utf8":
        return text.encode()
    return base64.b64decode(text, validate=True) if encoding == "base64" else None
