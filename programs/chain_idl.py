"""The IDL that a program's authors put on the chain, in either of the two places that exist.

Anchor before 1.0 kept it in an account of the program itself; since then it is in an account of the Program Metadata
program. Addresses
and account bytes are pure functions here; the one that fetches is given the way to read an account.
Sources: Anchor's `IdlAccount`, the account layout of Program Metadata, `UpgradeableLoaderState` of the loader.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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
