"""Parameters of a request: read, checked, and refused in the words of the real node's own reader (serde).

A method says what it takes as a tuple of readers, one a parameter; a reader turns a JSON value into what the method works with, or raises
RpcError. Nothing here knows a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from programs.devnode.errors import RpcError, invalid_params

U64_MAX = (1 << 64) - 1
_I64_MIN = -(1 << 63)
_to_json = msgspec.json.encode
Reader = Callable[[Any], Any]

# --- words -----------------------------------------------------------------------------------------------------------


def _float_text(value: float) -> str:
    digits, exponent, power = repr(value).partition("e")
    # Powers are written without leading zeros there.
    return f"{digits}e{power[0]}{power[1:].lstrip('0')}" if exponent else digits


def _quoted(value: str) -> str:
    """Text the way Rust's `{:?}` writes it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    shown_text = (
        escapes.get(character) or (character if character.isprintable() else f"\\u{{{ord(character):x}}}")
        for character in value
    )
    return f'"{"".join(shown_text)}"'


def shown(value: Any) -> str:
    """A value as the reader's complaints name it."""
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        # What fits no 64-bit integer was read as a float.
        return f"integer `{value}`" if _I64_MIN <= value <= U64_MAX else f"floating point `{_float_text(float(value))}`"
    if isinstance(value, float):
        return f"floating point `{_float_text(value)}`"
    if isinstance(value, str):
        return f"string {_quoted(value)}"
    return "null" if value is None else "sequence" if isinstance(value, list) else "map"


def wrong_type(value: Any, expected: str) -> RpcError:
    """-32602: a value of another type."""
    return invalid_params(f"Invalid params: invalid type: {shown(value)}, expected {expected}.")


def debug(value: Any) -> str:
    """A JSON value the way Rust's `{:?}` writes it."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return f"Bool({str(value).lower()})"
    if isinstance(value, int | float):
        is_wide = isinstance(value, int) and not _I64_MIN <= value <= U64_MAX
        return f"Number({_float_text(float(value)) if is_wide or isinstance(value, float) else value})"
    if isinstance(value, str):
        return f"String({_quoted(value)})"
    if isinstance(value, list):
        return f"Array [{', '.join(map(debug, value))}]"
    inner = ", ".join(f"{_quoted(name)}: {debug(item)}" for name, item in sorted(value.items()))
    return f"Object {{{inner}}}"


# --- readers ---------------------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise wrong_type(value, "a string")
    return value


def boolean(value: Any) -> bool:
    """True or false; a field that is there must not be null."""
    if not isinstance(value, bool):
        raise wrong_type(value, "a boolean")
    return value


def unsigned(value: Any, expected: str = "u64") -> int:
    """A number that fits 64 bits."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and _I64_MIN <= value <= U64_MAX
    if not is_number:
        raise wrong_type(value, expected)
    if value < 0:
        raise invalid_params(f"Invalid params: invalid value: integer `{value}`, expected {expected}.")
    return int(value)


def usize(value: Any) -> int:
    """A size."""
    return unsigned(value, "usize")


def texts(value: Any) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list):
        raise wrong_type(value, "a sequence")
    return [text(item) for item in value]


def optional(reader: Reader) -> Reader:
    """Null, or what `reader` reads."""
    return lambda value: None if value is None else reader(value)


def unknown_variant(value: str, known: tuple[str, ...]) -> RpcError:
    """-32602: no such word."""
    words = [f"`{word}`" for word in known]
    expected = " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"
    return invalid_params(f"Invalid params: unknown variant `{value}`, expected {expected}.")


def single(value: Any) -> tuple[str, Any, bool]:
    """An enum's name, its contents, and whether it had any: a string, or an object with one member."""
    if isinstance(value, str):
        return value, None, False
    if not isinstance(value, dict):
        raise wrong_type(value, "string or map")
    if len(value) != 1:
        raise invalid_params("Invalid params: invalid value: map, expected map with a single key.")
    ((name, inner),) = value.items()
    return name, inner, True


def one_of(*known: str) -> Reader:
    """One of these words."""

    def read(value: Any) -> str:
        name, inner, has_inner = single(value)
        if name not in known:
            raise unknown_variant(name, known)
        if has_inner and inner is not None:
            raise wrong_type(inner, "unit")
        return name

    return read


def tagged(*known: str) -> Callable[[Any], tuple[str, Any]]:
    """An enum of which every variant holds a string: its name and that string."""

    def read(value: Any) -> tuple[str, Any]:
        name, inner, has_inner = single(value)
        if name not in known:
            raise unknown_variant(name, known)
        if not has_inner:
            raise invalid_params("Invalid params: invalid type: unit variant, expected newtype variant.")
        return name, text(inner)

    return read


def lenient_commitment(value: Any) -> str | None:
    """A word where the real node's reader forgives what it does not know: then there is none, which means finalized."""
    return value if value in ("processed", "confirmed", "finalized") else None


COMMITMENT = one_of("processed", "confirmed", "finalized")
ACCOUNT_ENCODING = one_of("binary", "base58", "base64", "jsonParsed", "base64+zstd")
TRANSACTION_ENCODINGS = ("binary", "base64", "base58", "json", "jsonParsed")
TRANSACTION_ENCODING = one_of(*TRANSACTION_ENCODINGS)
_DETAILS = one_of("full", "signatures", "none", "accounts")


@dataclass(frozen=True, slots=True)
class Struct:
    """A config object. Fields that nobody knows are ignored; `needed` ones must be there.

    `flat`: the real one has a part flattened into it, and then takes no array in its place. `elements` counts the fields that an array would
    give it, and `defaults` how many of these, from the first, may be missing. `late` fields are read after the others.
    """

    name: str
    fields: Mapping[str, Reader]
    needed: tuple[str, ...] = ()
    flat: bool = True
    defaults: int = 0
    late: frozenset[str] = frozenset()

    def __call__(self, value: Any) -> dict[str, Any]:
        if isinstance(value, list) and not self.flat:
            value = self._from_list(value)
        if not isinstance(value, dict):
            raise wrong_type(value, f"struct {self.name}")
        ordered = sorted((name for name in value if name in self.fields), key=self.late.__contains__)
        out = {name: self.fields[name](value[name]) for name in ordered}
        for name in self.needed:
            if name not in out:
                raise invalid_params(f"Invalid params: missing field `{name}`.")
        return out

    def _from_list(self, values: list[Any]) -> dict[str, Any]:
        count = len(self.fields)
        out = dict(zip(self.fields, values, strict=False))
        for name, value in out.items():
            self.fields[name](value)
        if len(values) < count and len(values) >= self.defaults:
            raise self._short(len(values))
        if len(values) < self.defaults:
            raise self._short(self.defaults)
        if len(values) > count:
            raise invalid_params(f"Invalid params: invalid length {len(values)}, expected fewer elements in array.")
        return out

    def _short(self, length: int) -> RpcError:
        words = f"struct {self.name} with {len(self.fields)} element{'s' * (len(self.fields) != 1)}"
        return invalid_params(f"Invalid params: invalid length {length}, expected {words}.")


_CONTEXT: dict[str, Reader] = {"commitment": lenient_commitment, "minContextSlot": optional(unsigned)}
DATA_SLICE = Struct("UiDataSliceConfig", {"offset": usize, "length": usize}, needed=("offset", "length"), flat=False)
_ACCOUNT: dict[str, Reader] = {
    "encoding": optional(ACCOUNT_ENCODING),
    "dataSlice": optional(DATA_SLICE),
    **_CONTEXT,
}


def _memcmp_bytes(value: Any) -> Any:
    is_bytes = isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 256 for item in value
    )
    if not isinstance(value, str) and not is_bytes:
        raise invalid_params("Invalid params: data did not match any variant of untagged enum DataType.")
    return value


_MEMCMP = Struct(
    "Memcmp",
    {
        "offset": usize,
        "bytes": _memcmp_bytes,
        "encoding": optional(one_of("base58", "base64", "bytes")),
    },
    needed=("offset", "bytes"),
)
_FILTERS = ("dataSize", "memcmp", "tokenAccountState")


def _filter(value: Any) -> tuple[str, Any]:
    name, inner, has_inner = single(value)
    if name not in _FILTERS:
        raise unknown_variant(name, _FILTERS)
    if name == "tokenAccountState":
        if inner is not None:
            raise wrong_type(inner, "unit")
        return name, None
    if not has_inner:
        raise invalid_params("Invalid params: invalid type: unit variant, expected newtype variant.")
    return name, unsigned(inner) if name == "dataSize" else _MEMCMP(inner)


def _filters(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, list):
        raise wrong_type(value, "a sequence")
    return [_filter(item) for item in value]


CONTEXT = Struct("RpcContextConfig", _CONTEXT)
COMMITMENT_ONLY = Struct("CommitmentConfig", {"commitment": COMMITMENT}, needed=("commitment",), flat=False)
ACCOUNT_INFO = Struct("RpcAccountInfoConfig", _ACCOUNT)
PROGRAM_ACCOUNTS = Struct(
    "RpcProgramAccountsConfig",
    {
        "filters": optional(_filters),
        "withContext": optional(boolean),
        "sortResults": optional(boolean),
        **_ACCOUNT,
    },
    late=frozenset(_ACCOUNT),
)
SIGNATURES_FOR_ADDRESS = Struct(
    "RpcSignaturesForAddressConfig",
    {"before": optional(text), "until": optional(text), "limit": optional(usize), **_CONTEXT},
)
SIGNATURE_STATUS = Struct(
    "RpcSignatureStatusConfig",
    {"searchTransactionHistory": boolean},
    needed=("searchTransactionHistory",),
    flat=False,
)
SEND = Struct(
    "RpcSendTransactionConfig",
    {
        "skipPreflight": boolean,
        "preflightCommitment": optional(COMMITMENT),
        "encoding": optional(TRANSACTION_ENCODING),
        "maxRetries": optional(usize),
        "minContextSlot": optional(unsigned),
    },
    flat=False,
    defaults=1,
)
_SIMULATED_ACCOUNTS = Struct(
    "RpcSimulateTransactionAccountsConfig",
    {"encoding": optional(ACCOUNT_ENCODING), "addresses": texts},
    needed=("addresses",),
    flat=False,
)
SIMULATE = Struct(
    "RpcSimulateTransactionConfig",
    {
        "sigVerify": boolean,
        "replaceRecentBlockhash": boolean,
        "encoding": optional(TRANSACTION_ENCODING),
        "accounts": optional(_SIMULATED_ACCOUNTS),
        "innerInstructions": boolean,
        **_CONTEXT,
    },
)
AIRDROP = Struct("RpcRequestAirdropConfig", {"recentBlockhash": optional(text), "commitment": lenient_commitment})
SUPPLY = Struct("RpcSupplyConfig", {"commitment": lenient_commitment, "excludeNonCirculatingAccountsList": boolean})
LARGEST = Struct(
    "RpcLargestAccountsConfig",
    {
        "commitment": lenient_commitment,
        "filter": optional(one_of("circulating", "nonCirculating")),
        "sortResults": optional(boolean),
    },
)
EPOCH = Struct("RpcEpochConfig", {"epoch": optional(unsigned), **_CONTEXT})
VOTE_ACCOUNTS = Struct(
    "RpcGetVoteAccountsConfig",
    {
        "votePubkey": optional(text),
        "keepUnstakedDelinquents": optional(boolean),
        "delinquentSlotDistance": optional(unsigned),
        "commitment": lenient_commitment,
    },
)
TOKEN_FILTER = tagged("mint", "programId")


def _no_variant(name: str) -> RpcError:
    return invalid_params(f"Invalid params: data did not match any variant of untagged enum {name}.")


def version(value: Any) -> int:
    """A transaction version: one byte."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise wrong_type(value, "u8")
    return value


_BLOCK_FIELDS = Struct(
    "RpcBlockConfig",
    {
        "encoding": optional(TRANSACTION_ENCODING),
        "transactionDetails": optional(_DETAILS),
        "rewards": optional(boolean),
        "commitment": lenient_commitment,
        "maxSupportedTransactionVersion": optional(version),
    },
)


def block_config(value: Any) -> dict[str, Any]:
    """Options of getBlock and getTransaction: an object, or (the old form) the encoding alone."""
    try:
        if isinstance(value, str):
            return {"encoding": TRANSACTION_ENCODING(value)}
        return {} if value is None else _BLOCK_FIELDS(value)
    except RpcError:
        raise _no_variant("RpcEncodingConfigWrapper") from None


def blocks_end(value: Any) -> int | dict[str, Any] | None:
    """The second parameter of getBlocks: a slot, nothing, or the options already."""
    try:
        if value is None:
            return None
        return CONTEXT(value) if isinstance(value, dict) else unsigned(value)
    except RpcError:
        raise _no_variant("RpcBlocksConfigWrapper") from None


# --- counts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a method takes: `required` readers, then `extra` ones that may be left out (None then)."""

    required: tuple[Reader, ...] = ()
    extra: tuple[Reader, ...] = ()

    def read(self, params: Any) -> list[Any]:
        """One value a reader, in order. RpcError for the first thing wrong."""
        if isinstance(params, dict):
            if not self.required and not self.extra:
                raise RpcError(-32602, "Invalid parameters: No parameters were expected", f"Map({debug(params)[7:]})")
            if self.extra:
                raise invalid_params("`params` should be an array")
            size = len(self.required)
            raise invalid_params(f"Invalid params: invalid type: map, expected a tuple of size {size}.")
        given = params or []
        is_tuple = bool(self.required) and not self.extra
        if not is_tuple:
            self._check_count(params, len(given))
        values = [reader(value) for reader, value in zip(self.required, given, strict=False)]
        if is_tuple:
            self._check_tuple(params, len(given), len(self.required))
        rest = given[len(self.required) :]
        for position, reader in enumerate(self.extra):
            value = rest[position] if position < len(rest) else None
            values.append(None if value is None else reader(value))
        return values

    def _check_count(self, params: list[Any] | None, count: int) -> None:
        least, most = len(self.required), len(self.required) + len(self.extra)
        if not most:
            if count:
                shown_params = f"Array([{', '.join(map(debug, params or []))}])"
                raise RpcError(-32602, "Invalid parameters: No parameters were expected", shown_params)
        elif count > most:
            words = f"Invalid parameters: Expected from {least} to {most} parameters."
            raise RpcError(-32602, words, f'"Got: {count}"')
        elif count < least:
            raise invalid_params(f"`params` should have at least {least} argument(s)")

    @staticmethod
    def _check_tuple(params: list[Any] | None, count: int, size: int) -> None:
        if params is None:
            raise invalid_params(f"Invalid params: invalid type: null, expected a tuple of size {size}.")
        if count < size:
            raise invalid_params(f"Invalid params: invalid length {count}, expected a tuple of size {size}.")
        if count > size:
            raise invalid_params(f"Invalid params: invalid length {count}, expected fewer elements in array.")
