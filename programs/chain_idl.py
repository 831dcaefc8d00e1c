"""The IDL that a program's authors put on the chain, in either of the two places that exist.

Anchor before 1.0 kept it in an account of the program itself; since then it is in an account of the Program Metadata
program. Addresses
and account bytes are pure functions here; the one that fetches is given the way to read an account.
Sources: Anchor's `IdlAccount`, the account layout of Program Metadata, `UpgradeableLoaderState` of the loader.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from solders.pubkey import Pubkey

from programs import base58

METADATA_PROGRAM = "ProgM6JCCvbYkfKqJYHePx4xxSUSqJp7rh8Lyv7nk7S"
LEGACY_DISCRIMINATOR = bytes.fromhex("184662bf3a907b9e")
LEGACY_SEED = "anchor:idl"
# A few kilobytes of zlib can unfold into gigabytes; the largest real IDLs are below one megabyte.
IDL_BYTES_MAX = 16 << 20

# States of the upgradeable loader's accounts: a program names its code's account, which begins with the slot of its deployment.
DEPLOYMENT_BYTES = 12
_LOADER_PROGRAM = 2
_LOADER_PROGRAMDATA = 3
_PROGRAM_BYTES = 36

_LEGACY_HEADER = 8 + 32 + 4
_METADATA_HEADER = 96
_METADATA_KIND = 2
_ENCODINGS = ("none", "utf8", "base58", "base64")
_COMPRESSIONS = ("none", "gzip", "zlib")
_SOURCES = ("direct", "url", "external")


class ChainIdlError(ValueError):
    """The account is there and does not hold an IDL that can be read; the message says what it holds."""


@dataclass(frozen=True, slots=True)
class ChainIdl:
    """`document` is the JSON text, `address` the account it came from (base58), `place` "anchor" or "metadata"."""

    document: bytes
    address: str
    place: str


def legacy_address(program: bytes) -> bytes:
    """Where Anchor before 1.0 keeps a program's IDL."""
    owner = Pubkey.from_bytes(program)
    base, _bump = Pubkey.find_program_address([], owner)
    return bytes(Pubkey.create_with_seed(base, LEGACY_SEED, owner))


def metadata_address(program: bytes) -> bytes:
    """Where Program Metadata keeps a program's canonical IDL."""
    seeds = [program, b"", b"idl".ljust(16, b"\0")]
    address, _bump = Pubkey.find_program_address(seeds, Pubkey.from_string(METADATA_PROGRAM))
    return bytes(address)


def programdata_address(data: bytes) -> bytes | None:
    """Where the code of an upgradeable program is, from the program account's data; None when it cannot be upgraded."""
    is_program = len(data) == _PROGRAM_BYTES and int.from_bytes(data[:4], "little") == _LOADER_PROGRAM
    return data[4:] if is_program else None


def deployed_slot(data: bytes) -> int | None:
    """The slot of the last deployment, from the first bytes of the account at `programdata_address`; None when it holds no code."""
    is_code = len(data) >= DEPLOYMENT_BYTES and int.from_bytes(data[:4], "little") == _LOADER_PROGRAMDATA
    return int.from_bytes(data[4:12], "little") if is_code else None


def parse_legacy(data: bytes) -> bytes:
    """The JSON text in the data of an account at `legacy_address`. ChainIdlError when there is none."""
    if data[:8] != LEGACY_DISCRIMINATOR or len(data) < _LEGACY_HEADER:
        raise ChainIdlError("the account does not begin as an Anchor IDL account does")
    length = int.from_bytes(data[40:44], "little")
    if length > len(data) - _LEGACY_HEADER:
        raise ChainIdlError(f"the account says that {length} bytes follow, and {len(data) - _LEGACY_HEADER} do")
    return _inflated(data[_LEGACY_HEADER : _LEGACY_HEADER + length], "zlib")


def parse_metadata(data: bytes) -> bytes:
    """The JSON text in the data of an account at `metadata_address`. ChainIdlError when there is none, or when it is
    only pointed to.
    """
    if len(data) < _METADATA_HEADER or data[0] != _METADATA_KIND:
        raise ChainIdlError("the account does not begin as a metadata account does")
    encoding = _choice(_ENCODINGS, data[83], "encoding")
    compression = _choice(_COMPRESSIONS, data[84], "compression")
    source = _choice(_SOURCES, data[86], "data source")
    length = int.from_bytes(data[87:91], "little")
    if source != "direct":
        raise ChainIdlError(
            f"the IDL is not on the chain itself: the account points to it ({source}); fetch it there and give the file"
        )
    if length > len(data) - _METADATA_HEADER:
        raise ChainIdlError(f"the account says that {length} bytes follow, and {len(data) - _METADATA_HEADER} do")
    content = data[_METADATA_HEADER : _METADATA_HEADER + length]
    try:
        if encoding == "base64":
            content = base64.b64decode(content, validate=True)
        elif encoding == "base58":
            content = base58.decode(content.decode("ascii"))
    except ValueError as error:
        raise ChainIdlError(f"the content is not {encoding}: {error}") from None
    return _inflated(content, compression)


def document(data: bytes) -> bytes:
    """The JSON text that a file holds in any form in which IDLs are handed on; other bytes as they are.

    Forms: the text itself, also as UTF-16 (what a shell of Windows writes); compressed by gzip or zlib; the data of an account at
    `legacy_address` or `metadata_address`, as bytes, in base64, or as a node or the Solana CLI prints an account. ChainIdlError as the
    parsers of accounts.
    """
    for _ in range(_FORMS_MAX):
        inner = _opened(data)
        if inner is None:
            break
        data = inner
    return data


_FORMS_MAX = 4
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
# The first byte of zlib's streams, and the one behind it at every level of compression.
_ZLIB = tuple(b"\x78" + level for level in (b"\x01", b"\x5e", b"\x9c", b"\xda"))


def _opened(data: bytes) -> bytes | None:
    """What one of the forms holds; None when it is none of them."""
    if data[:2] in _UTF16:
        return data.decode("utf-16", "replace").encode()
    if data[:2] == _GZIP:
        return _inflated(data, "gzip")
    if data[:2] in _ZLIB:
        return _inflated(data, "zlib")
    if data[:8] == LEGACY_DISCRIMINATOR:
        return parse_legacy(data)
    if data[:1] == bytes([_METADATA_KIND]):
        return parse_metadata(data)
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"{":
        return _printed_account(text)
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or None
    except binascii.Error:
        return None


def _printed_account(text: bytes) -> bytes | None:
    """The data of an account in a reply to getAccountInfo, or as `solana account --output json` prints it."""
    try:
        found = msgspec.json.decode(text, type=_Printed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    account = found.account or found.value or (found.result.value if found.result is not None else None)
    data = account.data if account is not None else None
    if data is None or data[1] != "base64":
        return None
    try:
        return base64.b64decode(data[0], validate=True)
    except binascii.Error:
        return None


class _Account(msgspec.Struct):
    data: tuple[str, str] | None = None


class _Result(msgspec.Struct):
    value: _Account | None = None


class _Printed(msgspec.Struct):
    account: _Account | None = None
    value: _Account | None = None
    result: _Result | None = None


async def fetch(program: bytes, get_account: Callable[[str], Awaitable[bytes | None]]) -> ChainIdl | None:
    """The program's IDL from the chain, the newer place first; None when neither account exists.

    `get_account` takes an address in base58 and gives the account's data, None when there is no such account. When
    one place holds
    something unreadable and the other nothing, ChainIdlError says so.
    """
    refusal: ChainIdlError | None = None
    for place, address, parse in (
        ("metadata", metadata_address(program), parse_metadata),
        ("anchor", legacy_address(program), parse_legacy),
    ):
        text = base58.address_text(address)
        data = await get_account(text)
        if not data:
            continue
        try:
            return ChainIdl(parse(data), text, place)
        except ChainIdlError as error:
            refusal = refusal or ChainIdlError(f"account {text}: {error}")
    if refusal is not None:
        raise refusal
    return None


def _choice(names: tuple[str, ...], number: int, what: str) -> str:
    if number >= len(names):
        raise ChainIdlError(f"unknown {what} {number}")
    return names[number]


def _inflated(data: bytes, compression: str) -> bytes:
    if compression == "none":
        return data
    inflater = zlib.decompressobj(wbits=31 if compression == "gzip" else 15)
    try:
        text = inflater.decompress(data, IDL_BYTES_MAX)
    except zlib.error as error:
        raise ChainIdlError(f"the content is not {compression}: {error}") from None
    if inflater.unconsumed_tail:
        raise ChainIdlError(f"the IDL is larger than {IDL_BYTES_MAX} bytes")
    if not inflater.eof:
        raise ChainIdlError(f"the {compression} content is cut short")
    return text
