"""Rust that IDLs carry as text: types (`Option<Pubkey>`, `[u8; 6]`) and the values of integer constants (`30 * 1_024`).

Anchor before 0.30 copied Rust that it did not understand into the name of a defined type, and constants are copied in every version. Both
readers give None for what they do not understand, and bound what they do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TEXT_MAX = 500
_NESTING_MAX = 32
# Constants name constants that name constants: what one value may look at altogether.
_LOOKUPS_MAX = 256
# Spaces are lost in some IDLs: `&'astr` was `&'a str`.
_LIFETIME = r"'\w+\s+|'(?:static|info|[a-z_])(?=\w)|'\w+"
_TOKEN = re.compile(rf"\s*(?:{_LIFETIME}|mut\s+|dyn\s+)*\s*([\w:]+|[<>()\[\],;&])")
_WRAPPERS = {"Vec": "vec", "Option": "option", "COption": "coption", "HashSet": "hashSet", "BTreeSet": "bTreeSet"}
_PAIRS = {"HashMap": "hashMap", "BTreeMap": "bTreeMap"}
_CONSTANT = re.compile(r"(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*)(?:[ui](?:8|16|32|64|128|size))?")
_NAME = re.compile(r"(?:[A-Za-z_]\w*::)*([A-Za-z_]\w*)")


class _NotUnderstood(ValueError):
    pass


# ---- types ----


def rust_type(text: str, plain: Mapping[str, str]) -> Any:
    """A type in Rust's own words as an IDL would write it: `(u8,u16)`, `HashMap<String,u64>`. None when not understood.

    `plain`: Rust's names of the types that an IDL has a word for.
    """
    tokens: list[str] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or len(text) > _TEXT_MAX:
            return None
        tokens.append(match[1])
        at = match.end()
    try:
        written, end = _Types(tokens, plain).read(0)
    except (IndexError, _NotUnderstood, RecursionError):
        return None
    return written if end == len(tokens) else None


class _Types:
    def __init__(self, tokens: list[str], plain: Mapping[str, str]) -> None:
        self.tokens = tokens
        self.plain = plain

    def read(self, at: int) -> tuple[Any, int]:
        token = self.tokens[at]
        if token == "&":
            return self.read(at + 1)
        if token == "(":
            members, end = self.list(at + 1, ")")
            return {"tuple": members}, end
        if token == "[":
            return self.array(at)
        name = token.rsplit("::", 1)[-1]
        if not name or not (name[0].isalpha() or name[0] == "_"):
            raise _NotUnderstood
        if at + 1 == len(self.tokens) or self.tokens[at + 1] != "<":
            if name == "str":
                return "string", at + 1
            return (name if name in self.plain else {"defined": token}), at + 1
        arguments, end = self.list(at + 2, ">")
        return self.applied(token, name, arguments), end

    def array(self, at: int) -> tuple[Any, int]:
        inner, at = self.read(at + 1)
        if self.tokens[at] == "]":
            return ("bytes" if inner == "u8" else {"vec": inner}), at + 1
        if self.tokens[at] != ";" or self.tokens[at + 2] != "]":
            raise _NotUnderstood
        length = self.tokens[at + 1]
        return {"array": [inner, _number(length) if length[0].isdigit() else length]}, at + 3

    def applied(self, token: str, name: str, arguments: list[Any]) -> Any:
        """A generic type with its arguments: one that an IDL has a word for, or one of the program's own."""
        if name in _PAIRS and len(arguments) == 2:
            return {_PAIRS[name]: arguments}
        if name == "Box" and len(arguments) == 1:
            return arguments[0]
        if name == "Vec" and arguments == ["u8"]:
            return "bytes"
        if name in _WRAPPERS and len(arguments) == 1:
            return {_WRAPPERS[name]: arguments[0]}
        if name in _WRAPPERS or name in _PAIRS or name == "Box":
            raise _NotUnderstood
        return {"defined": {"name": token, "generics": [_argument(a) for a in arguments]}}

    def list(self, at: int, close: str) -> tuple[list[Any], int]:
        found: list[Any] = []
        while self.tokens[at] != close:
            if self.tokens[at][0].isdigit():
                written, at = _number(self.tokens[at]), at + 1
            else:
                written, at = self.read(at)
            found.append(written)
            if self.tokens[at] == ",":
                at += 1
            elif self.tokens[at] != close:
                raise _NotUnderstood
        return found, at + 1


def _argument(written: Any) -> dict[str, Any]:
    if isinstance(written, int):
        return {"kind": "const", "value": str(written)}
    return {"kind": "type", "type": written}


def _number(text: str) -> int:
    if not text.isascii() or _CONSTANT.fullmatch(text) is None:
        raise _NotUnderstood
    digits = re.sub(r"[ui](?:8|16|32|64|128|size)$", "", text).replace("_", "")
    return int(digits, 16 if digits[:2] == "0x" else 10)


# ---- constants ----

# What an integer may become on the way; shifts and products of a hostile IDL end here.
_VALUE_MAX = 1 << 256
_EXPRESSION_TOKEN = re.compile(rf"\s*({_CONSTANT.pattern}|(?:\w+::)*[A-Za-z_]\w*|<<|>>|[-+*/%()])", re.ASCII)
_BINARY = {"<<": 1, ">>": 1, "+": 2, "-": 2, "*": 3, "/": 3, "%": 3}


def constant_value(text: str, constants: Mapping[str, str]) -> int | None:
    """The integer that a Rust expression of literals, names of `constants` and arithmetic stands for; None when it is none."""
    try:
        return _Expression(constants, [_LOOKUPS_MAX], _NESTING_MAX).value(text)
    except (_NotUnderstood, RecursionError):
        return None


class _Expression:
    """One level of evaluation: a constant that names another is evaluated a level below, so that a circle ends."""

    def __init__(self, constants: Mapping[str, str], lookups: list[int], levels: int) -> None:
        self.constants = constants
        self.lookups = lookups
        self.levels = levels

    def value(self, text: str) -> int:
        self.lookups[0] -= 1
        if self.levels == 0 or self.lookups[0] < 0 or len(text) > _TEXT_MAX:
            raise _NotUnderstood
        self.tokens: list[str] = []
        at = 0
        text = text.strip()
        while at < len(text):
            match = _EXPRESSION_TOKEN.match(text, at)
            if match is None:
                raise _NotUnderstood
            self.tokens.append(match[1])
            at = match.end()
        found, end = self.binary(0, 1)
        if end != len(self.tokens):
            raise _NotUnderstood
        return found

    def binary(self, at: int, binding: int) -> tuple[int, int]:
        """Operators that bind at least so closely, from the left to the right."""
        left, at = self.unary(at)
        while at < len(self.tokens) and _BINARY.get(self.tokens[at], 0) >= binding:
            operator = self.tokens[at]
            right, at = self.binary(at + 1, _BINARY[operator] + 1)
            left = _applied(operator, left, right)
        return left, at

    def unary(self, at: int) -> tuple[int, int]:
        token = self.token(at)
        if token == "-":
            found, at = self.unary(at + 1)
            return -found, at
        if token == "(":
            found, at = self.binary(at + 1, 1)
            if self.token(at) != ")":
                raise _NotUnderstood
            at += 1
        elif token[0].isdigit():
            found, at = _number(token), at + 1
        else:
            name = _NAME.fullmatch(token)
            if name is None or name[1] not in self.constants:
                raise _NotUnderstood
            below = _Expression(self.constants, self.lookups, self.levels - 1)
            found, at = below.value(self.constants[name[1]]), at + 1
        while at < len(self.tokens) and self.tokens[at] == "as":
            # A cast that changes the value is not worth knowing.
            if not _fits(found, self.token(at + 1)):
                raise _NotUnderstood
            at += 2
        return found, at

    def token(self, at: int) -> str:
        if at >= len(self.tokens):
            raise _NotUnderstood
        return self.tokens[at]


def _fits(value: int, kind: str) -> bool:
    width = {"size": "64"}.get(kind[1:], kind[1:])
    if kind[:1] not in ("u", "i") or width not in ("8", "16", "32", "64", "128"):
        return False
    bits = int(width)
    return 0 <= value < 1 << bits if kind[0] == "u" else -(1 << bits - 1) <= value < 1 << bits - 1


def _applied(operator: str, left: int, right: int) -> int:
    if operator in ("<<", ">>") and not 0 <= right < 256:
        raise _NotUnderstood
    if operator in ("/", "%"):
        if right == 0:
            raise _NotUnderstood
        # Rust rounds towards zero.
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        found = quotient if operator == "/" else left - quotient * right
    else:
        found = {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "<<": lambda: left << right,
            ">>": lambda: left >> right,
        }[operator]()
    if abs(found) >= _VALUE_MAX:
        raise _NotUnderstood
    return found
