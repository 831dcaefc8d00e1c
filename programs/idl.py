"""One model for every Anchor IDL: the format before 0.30 ("legacy") and the one since, with the dirt of real files.

`load_idl` reads either format into `Idl`. It says everything that is wrong, as `IdlProblem`s with the JSON path of
the place, and
keeps whatever can still be served: a type that cannot be understood becomes `Unusable`, and only what is laid out
with it is lost.
Both spellings of a thing (`publicKey` and `pubkey`, `isMut` and `writable`) are read in both formats, because real
files mix them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import msgspec

from programs.base58 import address_bytes
from programs.codama import CodamaError, anchor_document, is_codama
from programs.rust_text import constant_value, rust_type

Severity: TypeAlias = Literal["error", "warning"]

# A file may nest types as it likes; beyond these bounds nothing sensible is described and the reader's own stack is
# at stake.
TYPE_NESTING_MAX = 32
ACCOUNT_GROUP_NESTING_MAX = 16
PROBLEMS_MAX = 1000
ARRAY_LENGTH_MAX = (1 << 64) - 1

INTEGER_WIDTHS = {f"{sign}{bits}": bits // 8 for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)}
PRIMITIVES = frozenset(INTEGER_WIDTHS) | {"bool", "f32", "f64", "bytes", "string", "pubkey"}
PRIMITIVE_SPELLINGS = {
    **{name: name for name in PRIMITIVES},
    "publicKey": "pubkey",
    "Pubkey": "pubkey",
    "PublicKey": "pubkey",
    "String": "string",
    "float32": "f32",
    "float64": "f64",
}


class IdlError(Exception):
    """Nothing of this IDL can be served; the message says why."""


@dataclass(frozen=True, slots=True)
class IdlProblem:
    """Something wrong in an IDL. `path` is a JSON path such as `$.types[3].type.fields[0]`.

    An `error` costs something (an event that cannot be decoded), a `warning` was repaired or is harmless.
    """

    path: str
    message: str
    severity: Severity


# ---- types as written in the IDL (not yet resolved) ----


@dataclass(frozen=True, slots=True)
class Primitive:
    name: str


@dataclass(frozen=True, slots=True)
class OptionOf:
    """`option` (one byte says whether a value follows) or `coption` (four bytes, and the value's room is kept when
    absent).
    """

    inner: TypeRef
    coption: bool = False


@dataclass(frozen=True, slots=True)
class VecOf:
    inner: TypeRef


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """`length` is a number, or the name of a const generic or of a constant of the IDL."""

    inner: TypeRef
    length: int | str


@dataclass(frozen=True, slots=True)
class TupleOf:
    members: tuple[TypeRef, ...]


@dataclass(frozen=True, slots=True)
class Generic:
    name: str


@dataclass(frozen=True, slots=True)
class ConstArgument:
    """A const argument as written: a literal, or the name of a generic or constant."""

    value: str


@dataclass(frozen=True, slots=True)
class Defined:
    """A reference by name. `path` is where it stands; two references are equal wherever they stand."""

    name: str
    arguments: tuple[TypeRef | ConstArgument, ...] = ()
    path: str = field(default="$", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A type that was not understood; whatever contains it cannot be decoded, and `reason` is what its users are
    told.
    """

    reason: str


TypeRef: TypeAlias = Primitive | OptionOf | VecOf | ArrayOf | TupleOf | Generic | Defined | Unusable


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: TypeRef


@dataclass(frozen=True, slots=True)
class StructBody:
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class TupleBody:
    members: tuple[TypeRef, ...]


@dataclass(frozen=True, slots=True)
class UnitBody:
    pass


@dataclass(frozen=True, slots=True)
class Variant:
    """`number` is what is written for it; None is its place."""

    name: str
    body: StructBody | TupleBody | UnitBody
    number: int | None = None


@dataclass(frozen=True, slots=True)
class EnumBody:
    """`tag`: the bytes that a variant's number takes."""

    variants: tuple[Variant, ...]
    tag: int = 1


@dataclass(frozen=True, slots=True)
class AliasBody:
    target: TypeRef


Body: TypeAlias = StructBody | TupleBody | UnitBody | EnumBody | AliasBody


@dataclass(frozen=True, slots=True)
class Repr:
    """Rust's `repr`: `packed` is None or the largest alignment that a field may have, `align` None or the least that
    the whole has.
    """

    kind: str = "rust"
    packed: int | None = None
    align: int | None = None


@dataclass(frozen=True, slots=True)
class GenericParameter:
    name: str
    const: bool


@dataclass(frozen=True, slots=True)
class TypeDef:
    """A named layout. `serialization` is borsh, bytemuck, bytemuckunsafe or custom."""

    name: str
    body: Body
    generics: tuple[GenericParameter, ...] = ()
    serialization: str = "borsh"
    repr: Repr | None = None
    path: str = "$"


@dataclass(frozen=True, slots=True)
class Layout:
    """An event or an account: discriminator and the layout that follows it."""

    name: str
    discriminator: bytes
    type: TypeDef
    path: str


@dataclass(frozen=True, slots=True)
class AccountMeta:
    """An account that an instruction takes. Members of a group are named `group.member`."""

    name: str
    writable: bool
    signer: bool
    optional: bool
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """`aliases`: other discriminators by which it may be called, where the name does not settle it (legacy only)."""

    name: str
    discriminator: bytes
    type: TypeDef
    accounts: tuple[AccountMeta, ...]
    path: str
    aliases: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorCode:
    code: int
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Idl:
    name: str
    version: str
    address: str | None
    legacy: bool
    events: tuple[Layout, ...]
    accounts: tuple[Layout, ...]
    instructions: tuple[Instruction, ...]
    types: Mapping[str, TypeDef]
    constants: Mapping[str, str]
    errors: tuple[ErrorCode, ...]
    problems: tuple[IdlProblem, ...] = field(default=())


def load_idl(source: bytes | str | Mapping[str, Any]) -> Idl:
    """Read an IDL, of either format, from JSON text or from the object that the text describes.

    Never raises for dirt: see `Idl.problems`. IdlError only when nothing can be served (not JSON, or not an IDL at
    all).
    """
    return _Reader(*_unwrapped(*_document(source))).read()


# What editors let into JSON: comments, and a comma behind the last of a list. Strings are matched so that they are left alone.
_BLANK = rb"//[^\n]*|/\*(?:(?!\*/).)*\*/"
_LENIENT = re.compile(rb'"(?:[^"\\]|\\.)*"|' + _BLANK + rb"|,(?=(?:\s|" + _BLANK + rb")*[\]}])", re.DOTALL)
_JSON_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def _document(source: bytes | str | Mapping[str, Any]) -> tuple[dict[str, Any], tuple[IdlProblem, ...]]:
    if isinstance(source, Mapping):
        return dict(source), ()
    text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    text = text.removeprefix(b"\xef\xbb\xbf")
    said: tuple[IdlProblem, ...] = ()
    try:
        document = msgspec.json.decode(text)
    except _JSON_ERRORS as error:
        try:
            document = msgspec.json.decode(_LENIENT.sub(lambda m: m[0] if m[0][:1] == b'"' else b" ", text))
        except _JSON_ERRORS:
            raise IdlError(f"the IDL is not JSON: {error}") from None
        said = (IdlProblem("$", "comments or commas that JSON does not have are passed over", "warning"),)
    if not isinstance(document, dict):
        raise IdlError(f"the IDL is a JSON {type(document).__name__}, not an object")
    return document, said


# Names are kept in indexes, which take a few kilobytes.
NAME_BYTES_MAX = 1_000
_PARTS = ("instructions", "accounts", "events", "types")
_WRAPPINGS_MAX = 4


def _unwrapped(document: dict[str, Any], said: tuple[IdlProblem, ...]) -> tuple[dict[str, Any], tuple[IdlProblem, ...]]:
    """The IDL, also when it stands in another object under the key `idl`, as explorers and registries hand it out."""
    for _ in range(_WRAPPINGS_MAX):
        if any(isinstance(document.get(key), list) for key in _PARTS):
            return document, said
        if is_codama(document):
            message = "a Codama document, read as the Anchor IDL that says the same; paths are of that one"
            try:
                return anchor_document(document), (*said, IdlProblem("$", message, "warning"))
            except CodamaError as error:
                raise IdlError(str(error)) from None
        inner = document.get("idl")
        if isinstance(inner, str):
            inner, _ = _document(inner)
        if not isinstance(inner, dict):
            break
        document = inner
        said = (
            *said,
            IdlProblem("$.idl", "the IDL stands inside another object; other paths begin at it", "warning"),
        )
    raise IdlError(f"not an Anchor IDL: none of {', '.join(_PARTS)} is a list")


# ---- names ----

# A name with more groups of digits than this is not tried in all its spellings.
_DIGIT_GROUPS_MAX = 3
_BEFORE_DIGITS = re.compile(r"[a-z](?=[0-9])")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+|[^\W_a-zA-Z0-9]+")


def snake_case(name: str) -> str:
    """`swapBaseIn` → `swap_base_in`, as the names of Rust functions are written."""
    return "_".join(word.lower() for word in _WORD.findall(name)) or name


def snake_cases(name: str) -> list[str]:
    """Every Rust name that may have become this one, the likeliest first: `init1` was `init1` or `init_1`.

    Anchor before 0.30 wrote `init_1` as `init1` and hashed the former, so the name alone does not say which.
    """
    found = [snake_case(name)]
    for place in [match.end() for match in _BEFORE_DIGITS.finditer(found[0])][:_DIGIT_GROUPS_MAX]:
        place -= len(found[0])
        found += [f"{known[:place]}_{known[place:]}" for known in found]
    return found


def pascal_case(name: str) -> str:
    """`voteAccount` → `VoteAccount`; a name that is in capitals already stays as it is."""
    if "_" in name:
        return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return name[:1].upper() + name[1:]


def folded(name: str) -> str:
    """What is left of a name when case and underscores are not seen."""
    return name.replace("_", "").lower()


def discriminator_of(namespace: str, name: str) -> bytes:
    """Anchor's default: the first eight bytes of sha256("namespace:name")."""
    return hashlib.sha256(f"{namespace}:{name}".encode("utf-8", "surrogatepass")).digest()[:8]


class _Names:
    """The names of one holder's fields or variants: as written, as given away so far, and by what is left without case."""

    def __init__(self, what: str, written: Iterable[str | None]) -> None:
        self.what = what
        self.written = {name for name in written if name is not None}
        self.taken: set[str] = set()
        self.folded: dict[str, str] = {}
        self.numbers: dict[str, int] = {}


class _Reader:
    """One reading of one document; collects problems as it goes."""

    def __init__(self, document: dict[str, Any], problems: Iterable[IdlProblem] = ()) -> None:
        self.document = document
        self.problems: list[IdlProblem] = list(problems)
        self.unlisted = 0
        self.unlisted_severity: Severity = "warning"
        self.types: dict[str, TypeDef] = {}
        self.mentioned: list[TypeDef] = []
        self.folded_types: dict[str, list[str]] = {}
        metadata = document.get("metadata")
        self.metadata: dict[str, Any] = metadata if isinstance(metadata, dict) else {}

    # -- the whole --

    def read(self) -> Idl:
        self.legacy = self._is_legacy()
        self.shank = self.metadata.get("origin") == "shank"
        self.constants = self._constants()
        listed = [e for key in ("types", "accounts") for e in self._list(self.document, key, "$")]
        self.declared = {name for name in map(_name, listed) if name is not None}
        self._read_types()
        accounts = self._layouts("accounts", "account")
        events = self._layouts("events", "event")
        instructions = self._instructions()
        self._check_references(events, accounts, instructions)
        return Idl(
            name=self._text("name", default="unnamed"),
            version=self._text("version", default=""),
            address=self._address(),
            legacy=self.legacy,
            events=events,
            accounts=accounts,
            instructions=instructions,
            types=self.types,
            constants=self.constants,
            errors=self._errors(),
            problems=self._all_problems(),
        )

    def _is_legacy(self) -> bool:
        if isinstance(self.metadata.get("spec"), str):
            return False
        entries = [e for key in ("instructions", "accounts", "events") for e in self._list(self.document, key, "$")]
        return not any(isinstance(entry, dict) and "discriminator" in entry for entry in entries)

    def _problem(self, path: str, message: str, severity: Severity = "error") -> None:
        path = _place(path)
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(IdlProblem(path, message, severity))
            return
        self.unlisted += 1
        self.unlisted_severity = "error" if severity == "error" else self.unlisted_severity

    def _all_problems(self) -> tuple[IdlProblem, ...]:
        """What was found; beyond a bound only how many there are, and whether one of them is an error."""
        if not self.unlisted:
            return tuple(self.problems)
        more = IdlProblem("$", f"{self.unlisted} more problems are not listed", self.unlisted_severity)
        return (*self.problems, more)

    def _list(self, holder: Mapping[str, Any], key: str, path: str) -> list[Any]:
        value = holder.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._problem(f"{path}.{key}", f"expected a list, found {_kind(value)}; ignored")
            return []
        return value

    def _text(self, key: str, default: str) -> str:
        value = self.metadata.get(key, self.document.get(key))
        if isinstance(value, str) and value:
            return value
        value = self.document.get(key)
        if isinstance(value, str) and value:
            return value
        if key == "name":
            self._problem("$.metadata.name", "the program has no name", "warning")
        return default

    def _address(self) -> str | None:
        for path, value in (
            ("$.address", self.document.get("address")),
            ("$.metadata.address", self.metadata.get("address")),
        ):
            if value is None or value == "":
                continue
            try:
                address_bytes(value)
            except (ValueError, TypeError):
                self._problem(path, f"not an address: {str(value)[:60]!r} (an address is 32 bytes in base58)")
                continue
            return str(value)
        return None

    def _constants(self) -> dict[str, str]:
        constants: dict[str, str] = {}
        for entry in self._list(self.document, "constants", "$"):
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                constants[entry["name"]] = str(entry.get("value"))
        return constants

    def _errors(self) -> tuple[ErrorCode, ...]:
        errors: list[ErrorCode] = []
        seen: set[int] = set()
        for index, entry in enumerate(self._list(self.document, "errors", "$")):
            path = f"$.errors[{index}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("code"), int):
                self._problem(path, "an error needs a numeric code; ignored", "warning")
                continue
            if entry["code"] in seen:
                self._problem(path, f"error code {entry['code']} appears twice", "warning")
            seen.add(entry["code"])
            errors.append(ErrorCode(entry["code"], str(entry.get("name", "")), str(entry.get("msg") or "")))
        return tuple(errors)

    # -- types --

    def _read_types(self) -> None:
        for index, entry in enumerate(self._list(self.document, "types", "$")):
            self._add_type(entry, f"$.types[{index}]")
        # Before 0.30 an account was a type too, and other types may name it.
        for index, entry in enumerate(self._list(self.document, "accounts", "$")):
            if (
                isinstance(entry, dict)
                and isinstance(entry.get("type"), dict)
                and _name(entry) not in (None, *self.types)
            ):
                self._add_type(entry, f"$.accounts[{index}]")
        for name, definition in self.types.items():
            alike = self.folded_types.setdefault(folded(name), [])
            if alike:
                self._problem(
                    definition.path, f"type {name!r} and {alike[0]!r} differ only by case or underscores", "warning"
                )
            alike.append(name)

    def _add_type(self, entry: Any, path: str) -> None:
        name = _name(entry)
        if name is None:
            self._problem(path, "a type needs a name; ignored")
            return
        definition = self._type_def(entry, name, path)
        if name not in self.types:
            self.types[name] = definition
            return
        same = replace(self.types[name], path="") == replace(definition, path="")
        if same:
            self._problem(path, f"type {name!r} is defined twice, both alike", "warning")
        else:
            self._problem(path, f"type {name!r} is defined twice, differently; the first one is used")

    def _type_def(self, entry: Mapping[str, Any], name: str, path: str) -> TypeDef:
        generics = self._generics(entry, path)
        scope = frozenset(parameter.name for parameter in generics)
        serialization = self._serialization(entry, path)
        if "type" not in entry and ("fields" in entry or "variants" in entry):
            kind = "enum" if "variants" in entry else "struct"
            self._problem(path, f"{name!r} has its {kind} beside its name and not under `type`", "warning")
            body = self._body({"kind": kind, **entry}, path, scope)
        else:
            body = self._body(entry.get("type"), f"{path}.type", scope)
        return TypeDef(name, body, generics, serialization, self._repr(entry.get("repr"), f"{path}.repr"), path)

    def _serialization(self, entry: Mapping[str, Any], path: str) -> str:
        value = entry.get("serialization", "borsh")
        if isinstance(value, dict):
            value = next(iter(value), "custom")
        folded_value = folded(value) if isinstance(value, str) else ""
        if folded_value in ("borsh", "bytemuck", "bytemuckunsafe"):
            return folded_value
        self._problem(f"{path}.serialization", f"serialization {value!r} cannot be decoded from the IDL alone")
        return "custom"

    def _repr(self, value: Any, path: str) -> Repr | None:
        if value is None:
            return None
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            self._problem(path, f"expected an object, found {_kind(value)}; ignored", "warning")
            return None
        packed = self._alignment(value.get("packed"), f"{path}.packed")
        align = self._alignment(value.get("align"), f"{path}.align")
        if packed is not None and align is not None and value.get("packed") is True:
            # Rust has no repr(packed, align(N)); the two keys together are how packed(N) comes out of some generators.
            packed, align = align, None
        kind = value.get("kind", "rust")
        return Repr(folded(kind) if isinstance(kind, str) else "rust", packed, align)

    def _alignment(self, value: Any, path: str) -> int | None:
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, int) and 0 < value <= 1 << 29 and value & (value - 1) == 0:
            return value
        self._problem(path, f"an alignment is a power of two, not {value!r}; ignored")
        return None

    def _generics(self, entry: Mapping[str, Any], path: str) -> tuple[GenericParameter, ...]:
        parameters: list[GenericParameter] = []
        for index, value in enumerate(self._list(entry, "generics", path)):
            name = value if isinstance(value, str) else _name(value)
            if name is None:
                self._problem(f"{path}.generics[{index}]", "a generic parameter needs a name")
                name = f"?{index}"
            const = isinstance(value, dict) and value.get("kind") == "const"
            parameters.append(GenericParameter(name, const))
        return tuple(parameters)

    def _body(self, value: Any, path: str, scope: frozenset[str]) -> Body:
        if not isinstance(value, dict):
            if isinstance(value, str):
                return AliasBody(self._type(value, path, scope))
            self._problem(path, f"expected an object with a kind, found {_kind(value)}")
            return AliasBody(Unusable(f"the IDL does not say what it looks like ({path})"))
        kind = value.get("kind")
        if kind == "struct":
            return self._fields(value.get("fields"), f"{path}.fields", scope)
        if kind == "enum":
            return self._enum(value, path, scope)
        if kind in ("type", "alias"):
            key = "alias" if "alias" in value else "value"
            return AliasBody(self._type(value.get(key), f"{path}.{key}", scope))
        if kind is None:
            return AliasBody(self._type(value, path, scope))
        self._problem(f"{path}.kind", f"unknown kind of type {kind!r}")
        return AliasBody(Unusable(f"unknown kind of type {kind!r} ({path})"))

    def _enum(self, value: Mapping[str, Any], path: str, scope: frozenset[str]) -> Body:
        variants: list[Variant] = []
        entries = self._list(value, "variants", path)
        names = _Names("variant", [entry if isinstance(entry, str) else _name(entry) for entry in entries])
        numbers: dict[int, str] = {}
        for index, entry in enumerate(entries):
            here = f"{path}.variants[{index}]"
            name = entry if isinstance(entry, str) else _name(entry)
            if name is None:
                self._problem(here, "a variant needs a name")
                name = f"variant_{index}"
            name = self._free_name(name, names, here)
            fields = entry.get("fields") if isinstance(entry, dict) else None
            body = self._fields(fields, f"{here}.fields", scope)
            number = entry.get("number") if isinstance(entry, dict) and type(entry.get("number")) is int else None
            other = numbers.setdefault(index if number is None else number, name)
            if other != name:
                self._problem(here, f"variant {name!r} has the number of {other!r}; its bytes are read as {other!r}")
            variants.append(Variant(name, self._counted(entry, index, here) or body, number))
        tag = value["tag"] if value.get("tag") in (1, 2, 4) else 1
        if len(variants) > 256 and tag == 1:
            self._problem(
                path, f"{len(variants)} variants, but the tag is one byte; those past 256 cannot occur", "warning"
            )
        return EnumBody(tuple(variants), tag)

    def _counted(self, entry: Any, index: int, path: str) -> TupleBody | None:
        """What stands for a variant that has another number than its place: Borsh writes the place, and the IDL says otherwise."""
        number = next((entry[key] for key in _NUMBERS if key in entry), None) if isinstance(entry, dict) else None
        if type(number) is not int or number == index:
            return None
        unusable = self._unusable(
            path, f"the variant has the number {number} and the place {index}: which of the two is written is not known"
        )
        return TupleBody((unusable,))

    def _fields(self, value: Any, path: str, scope: frozenset[str]) -> StructBody | TupleBody | UnitBody:
        """Named fields, tuple members, or nothing: the list itself tells which."""
        if value is None or value == []:
            return UnitBody()
        if isinstance(value, dict):
            for key in ("named", "tuple"):
                if isinstance(value.get(key), list):
                    return self._fields(value[key], f"{path}.{key}", scope)
        if not isinstance(value, list):
            self._problem(path, f"expected a list of fields, found {_kind(value)}")
            return TupleBody((Unusable(f"its fields are not a list ({path})"),))
        if not all(_is_named_field(entry) for entry in value):
            members = (self._type(_unnamed(entry), f"{path}[{index}]", scope) for index, entry in enumerate(value))
            return TupleBody(tuple(members))
        names = _Names("field", [entry["name"] for entry in value])
        fields: list[Field] = []
        for index, entry in enumerate(value):
            name = self._free_name(entry["name"], names, f"{path}[{index}]")
            fields.append(Field(name, self._type(entry["type"], f"{path}[{index}].type", scope)))
        return StructBody(tuple(fields))

    def _free_name(self, name: str, names: _Names, path: str) -> str:
        """The name, or with a number behind it when the same holder has one already: no value may hide another."""
        free, number = name, names.numbers.get(name, 1)
        while free in names.taken or (free != name and free in names.written):
            number += 1
            free = f"{name}_{number}"
        names.taken.add(free)
        names.numbers[name] = number
        if free != name:
            self._problem(path, f"{names.what} {name!r} appears twice; this one is served as {free!r}", "warning")
        twin = names.folded.setdefault(folded(name), name)
        if twin != name:
            self._problem(path, f"{names.what} {name!r} and {twin!r} differ only by case or underscores", "warning")
        return free

    def _type(self, value: Any, path: str, scope: frozenset[str], depth: int = 0) -> TypeRef:
        if depth > TYPE_NESTING_MAX:
            return self._unusable(path, f"types are nested deeper than {TYPE_NESTING_MAX}")
        if isinstance(value, str):
            return self._named_type(value, path, scope, depth)
        if not isinstance(value, dict):
            return self._unusable(path, f"expected a type, found {_kind(value)}")
        keys = [key for key in _COMPOSITES if key in value]
        if not keys:
            if value.get("kind") in ("struct", "enum"):
                return self._unusable(path, "a type without a name inside another is not part of the format")
            return self._unusable(path, f"unknown type {_shorten(value)}")
        key = keys[0]
        below = value[key]
        here = f"{path}.{key}"
        if key in ("option", "coption"):
            return OptionOf(self._type(below, here, scope, depth + 1), key == "coption")
        if key in ("vec", "hashSet", "bTreeSet"):
            return VecOf(self._type(below, here, scope, depth + 1))
        if key in ("hashMap", "bTreeMap"):
            return VecOf(self._tuple(below, here, scope, depth + 1))
        if key == "tuple":
            return self._tuple(below, here, scope, depth + 1)
        if key in ("array", "genericLenArray"):
            return self._array(below, here, scope, depth + 1)
        if key == "generic":
            if isinstance(below, str) and below in scope:
                return Generic(below)
            return self._unusable(here, f"generic {below!r} is not a parameter here")
        return self._defined(below, here, scope, depth + 1)

    def _named_type(self, name: str, path: str, scope: frozenset[str], depth: int) -> TypeRef:
        primitive = PRIMITIVE_SPELLINGS.get(name)
        if primitive is not None:
            return Primitive(primitive)
        if name in scope:
            self._problem(path, f"generic {name!r} is written as a type of its own", "warning")
            return Generic(name)
        if name in self.declared:
            self._problem(path, f"type {name!r} is written without `defined`", "warning")
            return Defined(name, path=_place(path))
        written = rust_type(name, PRIMITIVE_SPELLINGS) if _RUST_TEXT.search(name) else None
        if written is not None:
            self._problem(path, f"type {name!r} is written as Rust would, not as an IDL does", "warning")
            return self._type(written, path + _IN_TEXT, scope, depth + 1)
        return self._unusable(path, f"unknown type {name!r}")

    def _tuple(self, value: Any, path: str, scope: frozenset[str], depth: int) -> TypeRef:
        if not isinstance(value, list):
            return self._unusable(path, f"expected a list of types, found {_kind(value)}")
        return TupleOf(tuple(self._type(entry, f"{path}[{i}]", scope, depth) for i, entry in enumerate(value)))

    def _array(self, value: Any, path: str, scope: frozenset[str], depth: int) -> TypeRef:
        if not isinstance(value, list) or len(value) != 2:
            return self._unusable(path, "an array is a list of a type and a length")
        inner = self._type(value[0], f"{path}[0]", scope, depth)
        length = value[1]
        if isinstance(length, dict):
            length = next((length[key] for key in ("generic", "value", "defined") if key in length), None)
            if isinstance(length, dict):
                length = length.get("name")
        if isinstance(length, bool) or not isinstance(length, int | str):
            return self._unusable(
                f"{path}[1]", f"the length of an array is a number or a generic, not {_shorten(value[1])}"
            )
        if isinstance(length, str) and length not in scope:
            number = constant_value(length, self.constants)
            if number is None:
                message = (
                    f"the length of an array is {_shorten(length)}, which is neither a number nor a constant of the IDL"
                )
                return self._unusable(f"{path}[1]", message)
            length = number
        if isinstance(length, int) and not 0 <= length <= ARRAY_LENGTH_MAX:
            return self._unusable(f"{path}[1]", f"{length} cannot be the length of an array")
        return ArrayOf(inner, length)

    def _defined(self, value: Any, path: str, scope: frozenset[str], depth: int) -> TypeRef:
        name = value if isinstance(value, str) else _name(value)
        if name is None:
            return self._unusable(path, "a defined type needs a name")
        given = [] if isinstance(value, str) else value.get("generics", value.get("args")) or []
        if not given and name not in self.declared and _RUST_TEXT.search(name):
            written = rust_type(name, PRIMITIVE_SPELLINGS)
            if written is not None:
                return self._type(written, path + _IN_TEXT, scope, depth)
        if not isinstance(given, list):
            return self._unusable(f"{path}.generics", f"expected a list, found {_kind(given)}")
        arguments = (self._argument(entry, f"{path}.generics[{i}]", scope, depth) for i, entry in enumerate(given))
        return Defined(name, tuple(arguments), _place(path))

    def _argument(self, value: Any, path: str, scope: frozenset[str], depth: int) -> TypeRef | ConstArgument:
        """Whether an argument is a type or a constant is settled where the parameter is known: here only what is
        plain.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return ConstArgument(str(value))
        if isinstance(value, dict) and "value" in value and "type" not in value:
            return ConstArgument(str(value["value"]))
        if isinstance(value, dict) and "type" in value:
            value, path = value["type"], f"{path}.type"
        if isinstance(value, int) and not isinstance(value, bool):
            return ConstArgument(str(value))
        if isinstance(value, str) and value not in PRIMITIVE_SPELLINGS and value not in scope:
            return ConstArgument(value)
        if isinstance(value, dict) and isinstance(value.get("generic"), str) and value["generic"] not in scope:
            return ConstArgument(value["generic"])
        return self._type(value, path, scope, depth)

    def _unusable(self, path: str, message: str) -> Unusable:
        self._problem(path, message)
        return Unusable(f"{message} ({_place(path)})")

    # -- accounts, events, instructions --

    def _layouts(self, key: str, namespace: str) -> tuple[Layout, ...]:
        found: dict[tuple[str, bytes], Layout] = {}
        for index, entry in enumerate(self._list(self.document, key, "$")):
            path = f"$.{key}[{index}]"
            name = _name(entry)
            if name is None:
                self._problem(path, f"an {namespace} needs a name; ignored")
                continue
            discriminator = self._discriminator(entry, path, namespace, name)
            layout = Layout(self._storable(name, path), discriminator, self._layout_type(entry, name, path), path)
            # The same name and discriminator again: the first one is served. Another discriminator is another thing.
            other = found.setdefault((layout.name, discriminator), layout)
            if other is not layout:
                alike = replace(other.type, path="") == replace(layout.type, path="")
                how = "both alike" if alike else "differently; the first one is used"
                self._problem(path, f"{namespace} {name!r} is listed twice, {how}", "warning" if alike else "error")
        self._check_discriminators(tuple(found.values()), namespace)
        return tuple(found.values())

    def _storable(self, name: str, path: str) -> str:
        """The name as a database can hold it."""
        if "\x00" in name:
            self._problem(f"{path}.name", "the name holds U+0000; U+FFFD stands for it", "warning")
        name = name.replace("\x00", "\ufffd")
        whole = name.encode("utf-8", "surrogatepass")
        if len(whole) <= NAME_BYTES_MAX:
            return name
        self._problem(
            f"{path}.name", f"the name has {len(whole):,} bytes; its first {NAME_BYTES_MAX:,} stand for it", "warning"
        )
        return whole[:NAME_BYTES_MAX].decode(errors="ignore")

    def _check_discriminators(self, found: Sequence[Layout | Instruction], what: str) -> None:
        first: dict[bytes, str] = {}
        names: dict[str, str] = {}
        for layout in found:
            other = first.setdefault(layout.discriminator, layout.name)
            if other != layout.name:
                self._problem(
                    layout.path,
                    f"{what} {layout.name!r} has the discriminator of {other!r}; bytes that begin with it are read as {other!r}",
                )
            twin = names.setdefault(folded(layout.name), layout.name)
            if twin != layout.name:
                self._problem(
                    layout.path, f"{what} {layout.name!r} and {twin!r} differ only by case or underscores", "warning"
                )

    def _discriminator(self, entry: Mapping[str, Any], path: str, namespace: str, name: str) -> bytes:
        given = entry.get("discriminator")
        if given is None and entry.get("discriminant") is not None:
            given = self._discriminant(entry["discriminant"], f"{path}.discriminant")
        if isinstance(given, list) and given and all(type(b) is int and 0 <= b <= 255 for b in given):
            return bytes(given)
        if given == []:
            message = (
                "an empty discriminator is the beginning of everything and tells nothing; Anchor's default is used"
            )
            self._problem(f"{path}.discriminator", message)
        elif given is not None:
            self._problem(f"{path}.discriminator", f"not a list of bytes: {_shorten(given)}; Anchor's default is used")
        elif not self.legacy or self.shank:
            self._problem(path, f"{name!r} has no discriminator; Anchor's default is used", "warning")
        if namespace == "global":
            return discriminator_of("global", snake_case(name))
        return discriminator_of(namespace, pascal_case(name) if name[:1].islower() else name)

    def _discriminant(self, value: Any, path: str) -> Any:
        """Programs without Anchor's discriminators give an integer instead: {"type": "u8", "value": 3}."""
        if type(value) is int and 0 <= value <= 255:
            self._problem(path, f"discriminant {value} has no type; taken for one byte", "warning")
            return [value]
        if not isinstance(value, dict):
            return value
        width = INTEGER_WIDTHS.get(str(value.get("type")))
        number = value.get("value")
        if width is None or not isinstance(number, int) or not 0 <= number < 1 << (8 * width):
            return value
        return list(number.to_bytes(width, "little"))

    def _layout_type(self, entry: Mapping[str, Any], name: str, path: str) -> TypeDef:
        if isinstance(entry.get("type"), dict):
            return self._type_def(entry, name, path)
        if isinstance(entry.get("fields"), list):
            body = self._fields(entry["fields"], f"{path}.fields", frozenset())
            return TypeDef(name, body, path=path)
        definition = self._find_type(name, path)
        if definition is not None:
            return definition
        self._problem(path, f"type {name!r} is nowhere defined")
        return TypeDef(name, AliasBody(Unusable(f"type {name!r} is nowhere defined ({path})")), path=path)

    def _find_type(self, name: str, path: str) -> TypeDef | None:
        """By name; failing that by the name as another convention would write it.

        Anchor before 0.30 wrote paths (`state::Params`) where a type is used and never where it is defined, so there
        the last part is looked for too. Since 0.30 both are written alike: another path is another type.
        """
        definition = self.types.get(name)
        if definition is not None:
            return definition
        for candidate in (name, name.rsplit("::", 1)[-1]) if self.legacy else (name,):
            close = [candidate] if candidate in self.types else self.folded_types.get(folded(candidate), [])
            if len(close) == 1:
                self._problem(path, f"type {name!r} is nowhere defined; {close[0]!r} is taken for it", "warning")
                return self.types[close[0]]
        return None

    def _instructions(self) -> tuple[Instruction, ...]:
        found: dict[tuple[str, bytes], Instruction] = {}
        for index, entry in enumerate(self._list(self.document, "instructions", "$")):
            path = f"$.instructions[{index}]"
            name = _name(entry)
            if name is None:
                self._problem(path, "an instruction needs a name; ignored")
                continue
            fields = self._fields(entry.get("args"), f"{path}.args", frozenset())
            body: Body = StructBody(()) if isinstance(fields, UnitBody) else fields
            discriminator = self._discriminator(entry, path, "global", name)
            accounts = tuple(self._accounts(entry, path, "", 0))
            if entry.get("returns") is not None:
                # Nothing is made of it, but what is wrong in it is said.
                returned = self._type(entry["returns"], f"{path}.returns", frozenset())
                self.mentioned.append(TypeDef(name, AliasBody(returned), path=path))
            if (name, discriminator) in found:
                self._problem(path, f"instruction {name!r} is listed twice; the first one is used", "warning")
                continue
            aliases: tuple[bytes, ...] = ()
            if self.legacy and discriminator == discriminator_of("global", snake_case(name)):
                aliases = tuple(discriminator_of("global", spelling) for spelling in snake_cases(name)[1:])
            definition = TypeDef(name, body, path=path)
            found[name, discriminator] = Instruction(name, discriminator, definition, accounts, path, aliases)
        self._check_discriminators(tuple(found.values()), "instruction")
        return tuple(found.values())

    def _accounts(self, entry: Mapping[str, Any], path: str, prefix: str, depth: int) -> Iterable[AccountMeta]:
        if depth > ACCOUNT_GROUP_NESTING_MAX:
            self._problem(
                path, f"account groups are nested deeper than {ACCOUNT_GROUP_NESTING_MAX}; the rest is ignored"
            )
            return
        entries = self._list(entry, "accounts", path)
        names = _Names("account", map(_name, entries))
        for index, account in enumerate(entries):
            here = f"{path}.accounts[{index}]"
            name = _name(account)
            if name is None:
                self._problem(here, "an account needs a name")
                account, name = {}, f"account_{index}"
            name = self._free_name(name, names, here)
            if isinstance(account.get("accounts"), list):
                yield from self._accounts(account, here, f"{prefix}{name}.", depth + 1)
                continue
            yield AccountMeta(
                name=f"{prefix}{name}",
                writable=bool(account.get("writable", account.get("isMut", False))),
                signer=bool(account.get("signer", account.get("isSigner", False))),
                optional=bool(account.get("optional", account.get("isOptional", False))),
                address=self._fixed_address(account.get("address"), f"{here}.address"),
            )

    def _fixed_address(self, value: Any, path: str) -> str | None:
        if value is None:
            return None
        try:
            address_bytes(value)
        except (ValueError, TypeError):
            self._problem(path, f"not an address: {_shorten(value)}; ignored", "warning")
            return None
        return str(value)

    # -- references --

    def _check_references(
        self, events: Sequence[Layout], accounts: Sequence[Layout], instructions: Sequence[Instruction]
    ) -> None:
        """Resolve names written in another convention, and report those that are nowhere defined, each place once."""
        reported: set[str] = set()
        missing: set[str] = set()
        roots: list[Layout | Instruction] = [*events, *accounts, *instructions]
        for definition in [*self.types.values(), *(root.type for root in roots), *self.mentioned]:
            for reference in _references(definition.body):
                name = reference.name
                if reference.path in reported or (name in self.constants and name not in self.types):
                    continue
                if name in self.types:
                    reported.add(reference.path)
                    self._check_arguments(reference, self.types[name])
                    continue
                reported.add(reference.path)
                found = None if name in missing else self._find_type(name, reference.path)
                if found is not None:
                    self.types[name] = found
                else:
                    missing.add(name)
                    self._problem(reference.path, f"type {name!r} is nowhere defined")

    def _check_arguments(self, reference: Defined, definition: TypeDef) -> None:
        given, wanted = len(reference.arguments), len(definition.generics)
        if given != wanted:
            self._problem(reference.path, f"type {reference.name!r} takes {wanted} generic arguments, not {given}")


_NUMBERS = ("discriminant", "discriminator", "value")

_COMPOSITES = (
    "option",
    "coption",
    "vec",
    "array",
    "defined",
    "generic",
    "tuple",
    "hashMap",
    "bTreeMap",
    "hashSet",
    "bTreeSet",
    "genericLenArray",
    "definedWithTypeArgs",
)


# What no name holds: the name of a defined type is then Rust's own text of a type.
_RUST_TEXT = re.compile(r"[<(\[&]")


def _references(body: Body) -> Iterable[Defined]:
    """Every use of a named type, in the order of the text."""
    stack: list[TypeRef | ConstArgument] = []
    match body:
        case StructBody(fields):
            stack.extend(f.type for f in reversed(fields))
        case TupleBody(members):
            stack.extend(reversed(members))
        case EnumBody(variants):
            for variant in variants:
                yield from _references(variant.body)
        case AliasBody(target):
            stack.append(target)
    while stack:
        reference = stack.pop()
        match reference:
            case OptionOf(inner) | VecOf(inner) | ArrayOf(inner):
                stack.append(inner)
            case TupleOf(members):
                stack.extend(reversed(members))
            case Defined(_, arguments):
                stack.extend(reversed(arguments))
                yield reference


def _name(entry: Any) -> str | None:
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name else None


def _is_named_field(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and "type" in entry


def _unnamed(entry: Any) -> Any:
    return entry["type"] if isinstance(entry, dict) and set(entry) <= {"type", "docs"} and "type" in entry else entry


# Behind it a path goes on inside the text of a type, where JSON has no places: what is wrong there is wrong with the text.
_IN_TEXT = "\0"


def _place(path: str) -> str:
    return path.partition(_IN_TEXT)[0]


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "nothing"}.get(
        type(value), "a number"
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
