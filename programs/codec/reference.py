"""The codec in plain words: it walks the layout, byte by byte, and says exactly what is wrong and where.

Slow on purpose of clarity. The generated code does the work; when that fails, this says why, and tests hold the two
against each other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from programs.base58 import address_bytes, address_text
from programs.codec.errors import EncodeError, InvalidValue, TooDeep, Truncated, Unservable
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

_FLOATS = {"f32": "<f", "f64": "<d"}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def float_value(number: float) -> float | str:
    """A float in its JSON form."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class Reader:
    """Decodes one value from `data`, starting at `offset`."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data = data
        self.offset = offset
        self.depth = 0
        self.zero_sized_left = ZERO_SIZED_VALUES_MAX

    def read(self, node: Node, path: str) -> Any:
        if node.least >= ENDLESS:
            raise Unservable("the type has no finite value", self.offset, path)
        return _READERS[type(node)](self, node, path)

    def take(self, count: int, path: str) -> bytes:
        left = len(self.data) - self.offset
        if count > left:
            raise Truncated(self.offset, path, count, left)
        taken = self.data[self.offset : self.offset + count]
        self.offset += count
        return taken

    def length(self, path: str) -> int:
        return int.from_bytes(self.take(4, path), "little")

    def scalar(self, node: Scalar, path: str) -> Any:
        start = self.offset
        taken = self.take(node.size or 0, path)
        if node.kind == "pubkey":
            return address_text(taken)
        if node.kind in _FLOATS:
            return float_value(struct.unpack(_FLOATS[node.kind], taken)[0])
        if node.kind == "bool":
            if taken[0] > 1:
                raise InvalidValue(f"{taken[0]} is not a boolean", start, path)
            return taken[0] == 1
        return int.from_bytes(taken, "little", signed=node.kind[0] == "i")

    def fixed_bytes(self, node: FixedBytes, path: str) -> str:
        return self.take(node.length, path).hex()

    def sized(self, node: Sized, path: str) -> str:
        length = self.length(path)
        start = self.offset
        taken = self.take(length, path)
        if not node.text:
            return taken.hex()
        try:
            return taken.decode()
        except UnicodeDecodeError as error:
            raise InvalidValue(f"not UTF-8 ({error.reason})", start + error.start, path) from None

    def option(self, node: Option, path: str) -> Any:
        start = self.offset
        tag = int.from_bytes(self.take(node.tag, path), "little")
        if tag == 1:
            return self.read(node.inner, path)
        if tag:
            raise InvalidValue(f"{tag} is not the tag of an option", start, path)
        self.take(node.room, path)
        return None

    def vec(self, node: Vec, path: str) -> list[Any]:
        start = self.offset
        count = self.length(path)
        least = node.inner.least
        if least == 0:
            self.zero_sized_left -= count * max(node.inner.zero, 1)
            if self.zero_sized_left < 0:
                raise InvalidValue(f"{count} elements that take no bytes are too many", start, path)
        elif least < ENDLESS and count * least > len(self.data) - self.offset:
            raise Truncated(self.offset, path, count * least, len(self.data) - self.offset)
        return [self.read(node.inner, f"{path}[{index}]") for index in range(count)]

    def array(self, node: Array, path: str) -> list[Any]:
        needed = node.length * node.inner.least
        if needed > len(self.data) - self.offset:
            # Not reached in the order of bytes, but the first missing one decides, and the elements before it may be
            # many.
            return self.short_array(node, path)
        return [self.read(node.inner, f"{path}[{index}]") for index in range(node.length)]

    def short_array(self, node: Array, path: str) -> list[Any]:
        left = len(self.data) - self.offset
        for index in range(min(node.length, left + 1)):
            self.read(node.inner, f"{path}[{index}]")
        raise Truncated(self.offset, path, node.length * node.inner.least, left)

    def record(self, node: Record, path: str) -> Any:
        values: list[Any] = []
        names: list[str] = []
        for member in node.members:
            if isinstance(member.node, Pad):
                self.take(member.node.size or 0, f"{path}.(padding)")
                continue
            name = member.name if member.name is not None else str(len(values))
            values.append(self.read(member.node, f"{path}.{name}" if path else name))
            names.append(name)
        return values if node.shape == "tuple" else dict(zip(names, values, strict=True))

    def enum(self, node: Enum, path: str) -> Any:
        start = self.offset
        tag = int.from_bytes(self.take(node.tag, path), "little")
        if tag not in node.numbers:
            raise InvalidValue(f"{tag} is not a variant, there are {len(node.variants)}", start, path)
        name, body = node.variants[node.numbers.index(tag)]
        if body.shape == "unit":
            return name
        return {name: self.read(body, f"{path}.{name}" if path else name)}

    def named(self, node: Named, path: str) -> Any:
        if not node.cyclic:
            return self.read(node.body, path)
        self.depth += 1
        if self.depth > RECURSION_MAX:
            raise TooDeep(f"type {node.name!r} is nested deeper than {RECURSION_MAX}", self.offset, path)
        value = self.read(node.body, path)
        self.depth -= 1
        return value

    def broken(self, node: Broken, path: str) -> Any:
        raise Unservable(node.reason, self.offset, path)


_READERS: dict[type[Node], Callable[[Reader, Any, str], Any]] = {
    Scalar: Reader.scalar,
    FixedBytes: Reader.fixed_bytes,
    Sized: Reader.sized,
    Option: Reader.option,
    Vec: Reader.vec,
    Array: Reader.array,
    Record: Reader.record,
    Enum: Reader.enum,
    Named: Reader.named,
    Broken: Reader.broken,
}


class Writer:
    """Encodes one value, in the JSON form that the decoder gives, into `out`."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.depth = 0

    def write(self, node: Node, value: Any, path: str) -> None:
        if node.least >= ENDLESS:
            raise EncodeError("the type has no finite value", path)
        _WRITERS[type(node)](self, node, value, path)

    def scalar(self, node: Scalar, value: Any, path: str) -> None:
        kind = node.kind
        if kind == "pubkey":
            self.out += _address(value, path)
        elif kind in _FLOATS:
            self.float(kind, value, path)
        elif kind == "bool":
            if not isinstance(value, bool):
                raise _wrong("true or false", value, path)
            self.out.append(value)
        else:
            self.integer(kind, node.size or 0, value, path)

    def integer(self, kind: str, size: int, value: Any, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong("an integer", value, path)
        try:
            self.out += value.to_bytes(size, "little", signed=kind[0] == "i")
        except OverflowError:
            raise EncodeError(f"{value} does not fit {kind}", path) from None

    def float(self, kind: str, value: Any, path: str) -> None:
        number = _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong('a number, "NaN", "Infinity" or "-Infinity"', value, path)
        try:
            self.out += struct.pack(_FLOATS[kind], number)
        except OverflowError:
            raise EncodeError(f"{number} does not fit {kind}", path) from None

    def fixed_bytes(self, node: FixedBytes, value: Any, path: str) -> None:
        data = _hex(value, path)
        if len(data) != node.length:
            raise EncodeError(f"{len(data)} bytes where {node.length} are needed", path)
        self.out += data

    def sized(self, node: Sized, value: Any, path: str) -> None:
        if node.text:
            if not isinstance(value, str):
                raise _wrong("text", value, path)
            try:
                data = value.encode()
            except UnicodeEncodeError as error:
                raise EncodeError(f"not text that UTF-8 can hold ({error.reason})", path) from None
        else:
            data = _hex(value, path)
        self.out += struct.pack("<I", len(data)) + data

    def option(self, node: Option, value: Any, path: str) -> None:
        self.out += (0 if value is None else 1).to_bytes(node.tag, "little")
        if value is not None:
            self.write(node.inner, value, path)
        elif node.room > 1 << 24:
            raise EncodeError(f"{node.room} bytes are too many", path)
        else:
            self.out += bytes(node.room)

    def vec(self, node: Vec, value: Any, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise _wrong("a list", value, path)
        self.out += struct.pack("<I", len(value))
        for index, item in enumerate(value):
            self.write(node.inner, item, f"{path}[{index}]")

    def array(self, node: Array, value: Any, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise _wrong("a list", value, path)
        if len(value) != node.length:
            raise EncodeError(f"{len(value)} elements where {node.length} are needed", path)
        for index, item in enumerate(value):
            self.write(node.inner, item, f"{path}[{index}]")

    def record(self, node: Record, value: Any, path: str) -> None:
        values = iter(_members(node, value, path))
        for member in node.members:
            if isinstance(member.node, Pad):
                self.out += bytes(member.node.size or 0)
                continue
            name, item = next(values)
            self.write(member.node, item, f"{path}.{name}" if path else name)

    def enum(self, node: Enum, value: Any, path: str) -> None:
        name = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else value
        for tag, (variant, body) in zip(node.numbers, node.variants, strict=True):
            if variant != name:
                continue
            if isinstance(value, dict) == (body.shape == "unit"):
                raise EncodeError(f"variant {variant!r} has {'no ' if body.shape == 'unit' else ''}fields", path)
            self.out += tag.to_bytes(node.tag, "little")
            if isinstance(value, dict):
                self.write(body, value[variant], f"{path}.{variant}" if path else variant)
            return
        raise EncodeError(f"{str(name)[:60]!r} is not a variant", path)

    def named(self, node: Named, value: Any, path: str) -> None:
        self.depth += node.cyclic
        if self.depth > RECURSION_MAX:
            raise EncodeError(f"type {node.name!r} is nested deeper than {RECURSION_MAX}", path)
        self.write(node.body, value, path)
        self.depth -= node.cyclic

    def broken(self, node: Broken, value: Any, path: str) -> None:
        raise EncodeError(node.reason, path)


_WRITERS: dict[type[Node], Callable[[Writer, Any, Any, str], None]] = {
    Scalar: Writer.scalar,
    FixedBytes: Writer.fixed_bytes,
    Sized: Writer.sized,
    Option: Writer.option,
    Vec: Writer.vec,
    Array: Writer.array,
    Record: Writer.record,
    Enum: Writer.enum,
    Named: Writer.named,
    Broken: Writer.broken,
}


def _members(node: Record, value: Any, path: str) -> list[tuple[str, Any]]:
    expected = node.values
    if node.shape == "tuple":
        if not isinstance(value, list | tuple):
            raise _wrong("a list", value, path)
        if len(value) != len(expected):
            raise EncodeError(f"{len(value)} members where {len(expected)} are needed", path)
        return [(str(index), item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        raise _wrong("an object", value, path)
    names = [str(member.name) for member in expected]
    for name in value:
        if name not in names:
            raise EncodeError(f"there is no field {str(name)[:60]!r}", path)
    for name in names:
        if name not in value:
            raise EncodeError(f"field {name!r} is missing", path)
    return [(name, value[name]) for name in names]


def _address(value: Any, path: str) -> bytes:
    if not isinstance(value, str):
        raise _wrong("an address", value, path)
    try:
        return address_bytes(value)
    except ValueError as error:
        raise EncodeError(str(error), path) from None


def _hex(value: Any, path: str) -> bytes:
    if not isinstance(value, str):
        raise _wrong("hex", value, path)
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise EncodeError(f"not hex: {value[:60]!r}", path) from None


def _wrong(expected: str, value: Any, path: str) -> EncodeError:
    return EncodeError(f"expected {expected}, found {str(value)[:60]!r} ({type(value).__name__})", path)
