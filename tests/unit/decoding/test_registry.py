"""Versions of IDLs by slot, and IDLs from the chain."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from typing import Any

import pytest

from programs import chain_idl
from programs.base58 import address_text, encode
from programs.registry import IdlVersion, ProgramRegistry

PROGRAM = bytes([5]) * 32
OTHER = bytes([6]) * 32


def document(*fields: str) -> bytes:
    idl: dict[str, Any] = {
        "metadata": {"name": "n", "version": "0", "spec": "0.1.0"},
        "events": [{"name": "E", "discriminator": [1]}],
        "types": [{"name": "E", "type": {"kind": "struct", "fields": [{"name": f, "type": "u8"} for f in fields]}}],
    }
    return json.dumps(idl).encode()


def test_the_slot_decides_and_old_events_stay_readable() -> None:
    registry = ProgramRegistry()
    assert registry.add(IdlVersion(PROGRAM, 0, document("a")))
    assert registry.add(IdlVersion(PROGRAM, 100, document("a", "b")))
    assert not registry.add(IdlVersion(PROGRAM, 150, document("a", "b")))
    assert registry.add(IdlVersion(OTHER, 50, document("z")))
    for slot, fields in ((0, 1), (99, 1), (100, 2), (10_000, 2)):
        codec = registry.codec_at(PROGRAM, slot)
        assert codec is not None
        assert len(codec.decode_event(bytes([1, 2, 3])).data) == fields
    assert registry.codec_at(bytes(32), 5) is None
    assert registry.version_at(OTHER, 1) == registry.version_at(OTHER, 99)
    assert registry.extractor_at(1) is registry.extractor_at(99) is not registry.extractor_at(100)
    assert registry.slots_changed(IdlVersion(PROGRAM, 0, document("a"))) == (0, 99)
    assert registry.slots_changed(IdlVersion(PROGRAM, 100, document("a", "b"))) == (100, None)


def test_the_revision_changes_with_what_is_read_otherwise() -> None:
    registry = ProgramRegistry([IdlVersion(PROGRAM, 0, document("a"))])
    seen = {registry.revision}
    for version, changes in (
        (IdlVersion(PROGRAM, 5, document("a")), False),
        (IdlVersion(PROGRAM, 5, document("a", "b")), True),
        (IdlVersion(PROGRAM, 5, document("a", "b")), False),
        (IdlVersion(OTHER, 5, document("z")), True),
    ):
        assert registry.add(version) == changes
        assert (registry.revision not in seen) == changes
        seen.add(registry.revision)


def test_dump_and_load_are_inverse_and_a_changed_document_is_noticed() -> None:
    registry = ProgramRegistry([IdlVersion(PROGRAM, 9, document("a")), IdlVersion(OTHER, 3, document("b"))])
    rows = registry.dump()
    assert ProgramRegistry.load(rows).dump() == rows
    with pytest.raises(ValueError, match="not the one that was stored"):
        ProgramRegistry.load([{**rows[0], "document": document("c").decode()}])


def legacy(content: bytes) -> bytes:
    return chain_idl.LEGACY_DISCRIMINATOR + OTHER + struct.pack("<I", len(content)) + content + bytes(40)


def metadata(content: bytes, encoding: int = 1, compression: int = 0, source: int = 0) -> bytes:
    head = (
        bytes([2]) + PROGRAM + bytes(32) + b"\1\1" + b"idl".ljust(16, b"\0") + bytes([encoding, compression, 1, source])
    )
    return (head + struct.pack("<I", len(content))).ljust(96, b"\0") + content


def test_both_places_are_read_and_the_newer_one_first() -> None:
    text = document("a")
    old, recent = (address_text(f(PROGRAM)) for f in (chain_idl.legacy_address, chain_idl.metadata_address))
    accounts: dict[str, bytes] = {old: legacy(zlib.compress(text))}

    async def read(address: str) -> bytes | None:
        return accounts.get(address)

    found = asyncio.run(chain_idl.fetch(PROGRAM, read))
    assert found == chain_idl.ChainIdl(text, old, "anchor")
    accounts[recent] = metadata(zlib.compress(document("b")), compression=2)
    found = asyncio.run(chain_idl.fetch(PROGRAM, read))
    assert found == chain_idl.ChainIdl(document("b"), recent, "metadata")
    assert asyncio.run(chain_idl.fetch(OTHER, read)) is None
    accounts[old], accounts[recent] = b"", metadata(b"https://example.org", source=1)
    with pytest.raises(chain_idl.ChainIdlError, match="points to it"):
        asyncio.run(chain_idl.fetch(PROGRAM, read))


@pytest.mark.parametrize(
    "data",
    [
        metadata(b"{}"),
        metadata(gzip.compress(b"{}"), 0, 1),
        metadata(zlib.compress(b"{}"), 0, 2),
        metadata(b"e30=", 3),
        metadata(encode(b"{}").encode(), 2),
    ],
)
def test_every_encoding_of_metadata(data: bytes) -> None:
    assert chain_idl.parse_metadata(data) == b"{}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(200),
        legacy(b"x"),
        legacy(zlib.compress(document("a"))[:-5]),
        legacy(zlib.compress(bytes(64 << 20))),
        legacy(b"")[:44],
    ],
)
def test_what_is_no_idl_account_is_refused(data: bytes) -> None:
    with pytest.raises(chain_idl.ChainIdlError):
        chain_idl.parse_legacy(data)
    with pytest.raises(chain_idl.ChainIdlError):
        chain_idl.parse_metadata(data)
