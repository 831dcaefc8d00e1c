"""The forms in which IDLs are handed on as files: text, compressed text, accounts as bytes and as nodes print them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from indexer.cli import decode
from programs import chain_idl
from programs.errors import UserError
from programs.idl import load_idl
from tests.unit.decoding.chain import DOCUMENT

TEXT = json.dumps(DOCUMENT).encode()
PACKED = zlib.compress(TEXT)
LEGACY = chain_idl.LEGACY_DISCRIMINATOR + bytes(32) + len(PACKED).to_bytes(4, "little") + PACKED + bytes(100)


def metadata(content: bytes, encoding: int, compression: int) -> bytes:
    head = bytearray(96)
    head[0], head[83], head[84] = 2, encoding, compression
    head[87:91] = len(content).to_bytes(4, "little")
    return bytes(head) + content


def printed(data: bytes, **around: Any) -> dict[str, Any]:
    return {"data": [base64.b64encode(data).decode(), "base64"], "lamports": 1, "owner": "x", **around}


@pytest.mark.parametrize(
    "held",
    [
        TEXT,
        b"\xef\xbb\xbf" + TEXT,
        TEXT.decode().encode("utf-16"),
        TEXT.decode().encode("utf-16-be").join([b"\xfe\xff", b""]),
        gzip.compress(TEXT),
        *(zlib.compress(TEXT, level) for level in (0, 1, 6, 9)),
        LEGACY,
        base64.b64encode(LEGACY),
        base64.encodebytes(LEGACY),
        metadata(TEXT, 1, 0),
        metadata(gzip.compress(TEXT), 0, 1),
        metadata(base64.b64encode(zlib.compress(TEXT)), 3, 2),
        json.dumps({"jsonrpc": "2.0", "result": {"context": {"slot": 1}, "value": printed(LEGACY)}}).encode(),
        json.dumps({"context": {"slot": 1}, "value": printed(metadata(TEXT, 1, 0))}).encode(),
        json.dumps({"pubkey": "x", "account": printed(LEGACY, space=3)}).encode(),
    ],
)
def test_an_idl_is_read_from_every_form(held: bytes, tmp_path: Path) -> None:
    path = tmp_path / "idl"
    path.write_bytes(held)
    assert decode.read_idl(str(path)) == load_idl(TEXT)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (gzip.compress(TEXT)[:-20], "the gzip content is cut short"),
        (b"\x1f\x8bxxxx", "the content is not gzip"),
        (LEGACY[:60], "bytes follow"),
        (b"nonsense!", "the IDL is not JSON"),
        (base64.b64encode(b"nonsense"), "the IDL is not JSON"),
        (zlib.compress(bytes((16 << 20) + 1)), "larger than"),
        (json.dumps({"result": {"value": None}}).encode(), "not an Anchor IDL"),
        (b"", "the IDL is not JSON"),
    ],
)
def test_what_holds_none_is_refused_in_one_line(held: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "idl"
    path.write_bytes(held)
    with pytest.raises(UserError, match=message) as caught:
        decode.read_idl(str(path))
    assert "\n" not in str(caught.value)
