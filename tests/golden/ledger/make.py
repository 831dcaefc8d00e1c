"""The rows whose bytes are pinned. Run as a module to write `rows.json` anew: a change of it is a change of the digests (CHANGELOG)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from programs import base58
from programs.transaction import InnerInstruction, RawTransaction
from schema import digest, rows

FILE = Path(__file__).with_name("rows.json")
ADDRESS, START_SLOT = hashlib.sha256(b"program").digest(), 77


def _bytes(name: str, size: int) -> bytes:
    return b"".join(hashlib.sha256(f"{name}{n}".encode()).digest() for n in range(size // 32 + 1))[:size]


_COMMON: dict[str, Any] = {"block_time": 1_700_000_000, "loaded": (), "inner": (), "logs": (), "err": None}
CASES: dict[str, RawTransaction] = {
    name: RawTransaction(**{**_COMMON, "signature": base58.encode(_bytes(name, 64)), "wire": _bytes(name, 300), **fields})
    for name, fields in {
        "legacy": {"slot": 77, "transaction_index": 0, "version": None},
        "version 0, loaded addresses": {
            "slot": 78,
            "transaction_index": 3,
            "version": 0,
            "loaded": (_bytes("a", 32), _bytes("b", 32)),
        },
        "unknown version": {"slot": 78, "transaction_index": 4, "version": 5},
        "failed": {"slot": 79, "transaction_index": 1, "version": None, "err": '{"InstructionError":[0,{"Custom":6001}]}'},
        "nothing recorded": {"slot": 80, "transaction_index": 0, "version": None, "logs": None, "inner": None, "block_time": None},
        "log lines of any kind": {
            "slot": 81,
            "transaction_index": 0,
            "version": None,
            "logs": ("", "Program log: \0", "é \u202e \ufeff", "\ud800", "Log truncated", "x" * 300, "y" * 70_000),
        },
        "inner instructions": {
            "slot": 2**40,
            "transaction_index": 2**31 - 1,
            "version": 0,
            "inner": (
                InnerInstruction(0, 0, 3, b"", b"", None),
                InnerInstruction(0, 1, 200, bytes(range(130)), _bytes("data", 10_240), 2),
                InnerInstruction(9, 0, 255, b"\1\2", b"\0", 9),
            ),
        },
    }.items()
}  # fmt: skip


def document() -> dict[str, Any]:
    """Digest and COPY form (its hash, where it is long) of each row, and the chain over all of them."""
    value = digest.genesis(ADDRESS, START_SLOT)
    found: dict[str, Any] = {"genesis": value.hex(), "rows": {}}
    for position, (name, raw) in enumerate(CASES.items(), 1):
        row = rows.prepare_row(raw, (1, 300), 6)
        copy = rows.lead(position, 0) + row.encoded
        value = digest.chain(value, (row.digest,))
        found["rows"][name] = {
            "digest": row.digest.hex(),
            "chain": value.hex(),
            "copy_bytes": len(copy),
            "copy": copy.hex() if len(copy) < 2_000 else f"sha256 {hashlib.sha256(copy).hexdigest()}",
        }
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=1) + "\n")
