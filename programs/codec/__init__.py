"""An IDL compiled: events, accounts and instructions from bytes to the JSON form of the contract, and back.

    codec = compile_idl(load_idl(text))
    codec.decode_event(data)  # Decoded(name, data, trailing)

Values are ready for tables and for JSON: addresses are base58 text, bytes are lower-case hex, integers are exact,
floats that are not
finite are "NaN", "Infinity" or "-Infinity". Bytes behind the layout are tolerated and counted in `trailing`: programs
append fields.
A codec is immutable but not for use from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from programs.codec.describe import fault
from programs.codec.errors import (
    CodecError,
    DecodeError,
    EncodeError,
    InvalidValue,
    TooDeep,
    Truncated,
    UnknownDiscriminator,
    Unservable,
)
from programs.codec.generate import MISMATCHES, DecodeFunction, compile_decoders
from programs.codec.layout import Named, Resolver
from programs.codec.reference import Reader, Writer
from programs.idl import AccountMeta, Idl, Instruction, Layout

__all__ = [
    "CodecError",
    "DecodeError",
    "Decoded",
    "EncodeError",
    "InvalidValue",
    "ProgramCodec",
    "TooDeep",
    "Truncated",
    "UnknownDiscriminator",
    "Unservable",
    "compile_idl",
    "to_json",
]

Kind: TypeAlias = Literal["event", "account", "instruction"]


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """`data` in its JSON form; `trailing` counts the bytes behind what the IDL describes. (A Struct: five times
    cheaper to make than a dataclass.)
    """

    name: str
    data: Any
    trailing: int


class _Entry:
    """One event, account or instruction, ready to be used."""

    __slots__ = ("decode", "discriminator", "name", "node", "skip")

    def __init__(self, name: str, discriminator: bytes, node: Named, decode: DecodeFunction) -> None:
        self.name = name
        self.discriminator = discriminator
        self.node = node
        self.decode = decode
        self.skip = len(discriminator)


class _Table:
    """Entries by discriminator. The longest prefix wins; of two with the same discriminator the first."""

    def __init__(self, kind: Kind, entries: Sequence[_Entry]) -> None:
        self.kind = kind
        self.by_name: dict[str, _Entry] = {}
        self.by_prefix: dict[bytes, _Entry] = {}
        for entry in entries:
            self.by_name.setdefault(entry.name, entry)
            self.by_prefix.setdefault(entry.discriminator, entry)
        self.lengths = tuple(sorted({len(prefix) for prefix in self.by_prefix}, reverse=True))
        self.longest = self.lengths[0] if self.lengths else 0
        self.shorter = self.lengths[1:]

    def find(self, data: bytes) -> _Entry | None:
        for length in self.lengths:
            entry = self.by_prefix.get(data[:length])
            if entry is not None:
                return entry
        return None

    def decoder(self) -> Callable[[bytes], Decoded]:
        """The table's decode function. A closure over what it needs: it runs once an event."""
        ready = {prefix: (e.name, e.decode, e.skip) for prefix, e in self.by_prefix.items()}
        by_prefix, longest, shorter = ready.get, self.longest, self.shorter

        def decode(data: bytes) -> Decoded:
            entry = by_prefix(data[:longest])
            if entry is None:
                for length in shorter:
                    entry = by_prefix(data[:length])
                    if entry is not None:
                        break
                else:
                    raise self.unknown(data)
            name, read, skip = entry
            length = len(data)
            try:
                value, end = read(data, skip, length)
            except MISMATCHES as mismatch:
                raise _explained(self.by_prefix[data[:skip]], data) from mismatch
            return Decoded(name, value, length - end)

        return decode

    def unknown(self, data: bytes) -> DecodeError:
        for prefix, entry in self.by_prefix.items():
            if len(data) < len(prefix) and prefix.startswith(data):
                return Truncated(len(data), f"{entry.name} (discriminator)", len(prefix) - len(data), 0)
        shown = data[: max(8, min(self.longest, 16))].hex()
        return UnknownDiscriminator(f"no {self.kind} of the IDL begins with {shown}", 0)

    def encode(self, name: str, value: Any) -> bytes:
        entry = self.by_name.get(name)
        if entry is None:
            raise EncodeError(f"the IDL has no {self.kind} {name!r}")
        writer = Writer()
        writer.write(entry.node, value, name)
        return entry.discriminator + bytes(writer.out)


def _explained(entry: _Entry, data: bytes) -> DecodeError:
    """What is wrong with bytes that the generated code refused."""
    try:
        Reader(data, entry.skip).read(entry.node, entry.name)
    except DecodeError as error:
        return error
    except RecursionError:
        return TooDeep("nested deeper than can be read", entry.skip, entry.name)
    return InvalidValue(
        "refused by the compiled decoder alone, which is a fault of this software", entry.skip, entry.name
    )


class ProgramCodec:
    """Decoders and encoders of one IDL. Made by `compile_idl`."""

    def __init__(self, idl: Idl) -> None:
        self.idl = idl
        resolver = Resolver(idl)
        layouts: dict[str, Named] = {}
        kinds: Mapping[Kind, Sequence[Layout | Instruction]] = {
            "event": idl.events,
            "account": idl.accounts,
            "instruction": idl.instructions,
        }
        for kind, items in kinds.items():
            for index, item in enumerate(items):
                layouts[f"{kind}{index}"] = resolver.resolve(item.type)
        resolver.settle()
        decoders, self.source = compile_decoders(layouts)

        def table(kind: Kind) -> _Table:
            keys = [f"{kind}{index}" for index in range(len(kinds[kind]))]
            pairs = zip(keys, kinds[kind], strict=True)
            return _Table(kind, [_Entry(i.name, i.discriminator, layouts[k], decoders[k]) for k, i in pairs])

        self._events, self._accounts, self._instructions = table("event"), table("account"), table("instruction")
        self._metas = {i.name: i.accounts for i in reversed(idl.instructions)}
        # Functions of the tables themselves: one call less for what is called most.
        self.decode_event = self._events.decoder()
        self.decode_account = self._accounts.decoder()
        self.decode_instruction = self._instructions.decoder()
        self.encode_event = self._events.encode
        self.encode_account = self._accounts.encode
        self.encode_instruction = self._instructions.encode

    def event_name(self, data: bytes) -> str | None:
        """Which event these bytes begin as, whether or not the rest fits."""
        entry = self._events.find(data)
        return None if entry is None else entry.name

    def layout(self, kind: Kind, name: str) -> Named | None:
        """The closed layout of an event, account or instruction, for whoever makes columns of it."""
        entry = {"event": self._events, "account": self._accounts, "instruction": self._instructions}[kind].by_name.get(
            name
        )
        return None if entry is None else entry.node

    def unservable(self) -> list[tuple[Kind, str, str]]:
        """What holds something that cannot be read: kind, name, why."""
        tables = (self._events, self._accounts, self._instructions)
        found = [(t.kind, e.name, fault(e.node)) for t in tables for e in t.by_name.values()]
        return [(kind, name, reason) for kind, name, reason in found if reason is not None]

    def account_metas(self, instruction: str) -> tuple[AccountMeta, ...]:
        """The accounts that an instruction takes, in order."""
        return self._metas[instruction]


def compile_idl(idl: Idl) -> ProgramCodec:
    """Compile an IDL. What cannot be laid out fails when bytes lead there; everything else is served."""
    return ProgramCodec(idl)


def to_json(value: Any) -> bytes:
    """A decoded value, or anything that holds some, as compact JSON with exact integers."""
    return msgspec.json.encode(value)
