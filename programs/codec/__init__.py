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
from functools import cached_property
from typing import Any, Literal, TypeAlias

import msgspec

from programs.codec.describe import fault
from programs.codec.encode import UNFITTING, EncodeFunction, compile_encoders
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
from programs.codec.generate import MISMATCHES, Body, DecodeFunction, Form, Root, compile_decoders
from programs.codec.layout import Named, Resolver, holds_text
from programs.codec.reference import Reader, Writer
from programs.idl import AccountMeta, Idl, Instruction, Layout

__all__ = [
    "Body",
    "CodecError",
    "MISMATCHES",
    "DecodeError",
    "Decoded",
    "EncodeError",
    "Form",
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


_DECODED = Form("b", "D({name}, {value}, {trailing})", Decoded)


class _Entry:
    """One event, account or instruction, ready to be used. `aliases`: other prefixes that it is known by."""

    __slots__ = ("aliases", "decode", "discriminator", "key", "name", "node")

    def __init__(
        self,
        key: str,
        name: str,
        discriminator: bytes,
        aliases: tuple[bytes, ...],
        node: Named,
        decode: DecodeFunction,
    ) -> None:
        self.key = key
        self.name = name
        self.discriminator = discriminator
        self.aliases = aliases
        self.node = node
        self.decode = decode


class _Table:
    """Entries by discriminator. The longest prefix wins; of two with the same discriminator the first."""

    def __init__(self, kind: Kind, entries: Sequence[_Entry]) -> None:
        self.kind = kind
        self.by_name: dict[str, _Entry] = {}
        self.by_prefix: dict[bytes, _Entry] = {}
        for entry in entries:
            self.by_name.setdefault(entry.name, entry)
            self.by_prefix.setdefault(entry.discriminator, entry)
        for entry in entries:
            for alias in entry.aliases:
                self.by_prefix.setdefault(alias, entry)
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
        by_prefix, longest, shorter = {p: e.decode for p, e in self.by_prefix.items()}.get, self.longest, self.shorter

        def decode(data: bytes) -> Decoded:
            read = by_prefix(data[:longest])
            if read is None:
                for length in shorter:
                    read = by_prefix(data[:length])
                    if read is not None:
                        break
                else:
                    raise self.unknown(data)
            try:
                return read(data)  # type: ignore[no-any-return]
            except MISMATCHES as mismatch:
                raise self.explained(data) from mismatch

        return decode

    def explained(self, data: bytes) -> DecodeError:
        """What is wrong with bytes that the generated code refused."""
        entry = self.find(data)
        return self.unknown(data) if entry is None else _explained(entry, data)

    def unknown(self, data: bytes) -> DecodeError:
        for prefix, entry in self.by_prefix.items() if len(data) < self.longest else ():
            if len(data) < len(prefix) and prefix.startswith(data):
                return Truncated(len(data), f"{entry.name} (discriminator)", len(prefix) - len(data), 0)
        shown = data[: max(8, min(self.longest, 16))].hex()
        return UnknownDiscriminator(f"no {self.kind} of the IDL begins with {shown}", 0)

    def encode(self, name: str, value: Any, encoders: Callable[[], Mapping[str, EncodeFunction]]) -> bytes:
        entry = self.by_name.get(name)
        if entry is None:
            raise EncodeError(f"the IDL has no {self.kind} {name!r}")
        parts: list[bytes] = [entry.discriminator]
        try:
            encoders()[entry.key](value, parts.append)
        except UNFITTING:
            # Not a plain value: the writer knows whether it fits all the same, and what is wrong when it does not.
            writer = Writer()
            writer.write(entry.node, value, name)
            return entry.discriminator + bytes(writer.out)
        return b"".join(parts)


def _explained(entry: _Entry, data: bytes) -> DecodeError:
    skip = len(entry.discriminator)
    try:
        Reader(data, skip).read(entry.node, entry.name)
    except DecodeError as error:
        return error
    except RecursionError:
        return TooDeep("nested deeper than can be read", skip, entry.name)
    return InvalidValue("refused by the compiled decoder alone, which is a fault of this software", skip, entry.name)


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
        roots = {
            f"{kind}{index}": Root(item.name, len(item.discriminator), layouts[f"{kind}{index}"])
            for kind, items in kinds.items()
            for index, item in enumerate(items)
        }
        compiled = compile_decoders(roots, _DECODED)
        decoders, self.source = compiled.functions, compiled.text
        self._layouts = layouts
        self._roots = roots
        self._formed: dict[Form, tuple[Mapping[bytes, DecodeFunction], Mapping[bytes, Body]]] = {}

        def table(kind: Kind) -> _Table:
            keyed = [(f"{kind}{index}", item) for index, item in enumerate(kinds[kind])]
            return _Table(
                kind,
                [
                    _Entry(k, i.name, i.discriminator, getattr(i, "aliases", ()), layouts[k], decoders[k])
                    for k, i in keyed
                ],
            )

        self._events, self._accounts, self._instructions = table("event"), table("account"), table("instruction")
        self._metas = {i.name: i.accounts for i in reversed(idl.instructions)}
        # Functions of the tables themselves: one call less for what is called most.
        self.decode_event = self._events.decoder()
        self.decode_account = self._accounts.decoder()
        self.decode_instruction = self._instructions.decoder()

    @cached_property
    def _encoders(self) -> Mapping[str, EncodeFunction]:
        # Made at the first use: who only reads, and that is nearly everybody, does not pay for them.
        return compile_encoders(self._layouts)[0]

    def encode_event(self, name: str, value: Any) -> bytes:
        """The event's bytes, discriminator first. EncodeError names the field that does not fit."""
        return self._events.encode(name, value, lambda: self._encoders)

    def encode_account(self, name: str, value: Any) -> bytes:
        """The account's data, discriminator first. EncodeError names the field that does not fit."""
        return self._accounts.encode(name, value, lambda: self._encoders)

    def encode_instruction(self, name: str, value: Any) -> bytes:
        """The instruction's data, discriminator first. EncodeError names the field that does not fit."""
        return self._instructions.encode(name, value, lambda: self._encoders)

    def event_decoders(self, form: Form) -> Mapping[bytes, DecodeFunction]:
        """For a loop that decodes nothing but events: by their first bytes, functions that make of an event what the form says. What is not
        there, and what such a function refuses with one of MISMATCHES, is for `decode_event`. The longest prefix wins.
        """
        return self._in_form(form)[0]

    def event_bodies(self, form: Form) -> Mapping[bytes, Body]:
        """What the functions of `event_decoders` do, of those that can be written into another function."""
        return self._in_form(form)[1]

    def _in_form(self, form: Form) -> tuple[Mapping[bytes, DecodeFunction], Mapping[bytes, Body]]:
        found = self._formed.get(form)
        if found is None:
            made = compile_decoders({k: r for k, r in self._roots.items() if k.startswith("event")}, form)
            keys = {prefix: entry.key for prefix, entry in self._events.by_prefix.items()}
            functions = {prefix: made.functions[key] for prefix, key in keys.items()}
            found = functions, {prefix: made.bodies[key] for prefix, key in keys.items() if key in made.bodies}
            self._formed[form] = found
        return found

    @cached_property
    def textless_events(self) -> frozenset[str]:
        """The names of events in whose data no U+0000 can stand, so that nobody need look for it: they are addresses, numbers and the like."""
        events = [(root.name, holds_text(root.node)) for key, root in self._roots.items() if key.startswith("event")]
        return frozenset(name for name, _ in events) - {name for name, text in events if text}

    def event_name(self, data: bytes) -> str | None:
        """Which event these bytes begin as, whether or not the rest fits."""
        entry = self._events.find(data)
        return None if entry is None else entry.name

    def instruction(self, data: bytes) -> Instruction | None:
        """Which instruction these bytes begin as, whether or not the rest fits."""
        entry = self._instructions.find(data)
        return None if entry is None else self.idl.instructions[int(entry.key.removeprefix("instruction"))]

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
