"""Digests of rows and the chains over them: the exact bytes, so that a stranger can recompute them.

Row. sha256 over these bytes, integers little endian:
    slot u64 · transaction_index u32 · signature 64 bytes · version i16 (-1: legacy) ·
    then five fields, each a u32 length and that many bytes, or the length ffffffff and nothing for NULL:
    err (UTF-8 of its compact JSON with sorted keys) · wire · logs · inner_instructions · loaded
`logs` and `inner_instructions` are the stored bytes: MessagePack with each value in its shortest form. Logs are an array of str (a line
that is no Unicode text is a bin of its UTF-8 with surrogates kept). Inner instructions are an array of
[outer, index, program_id_index, accounts bin, data bin, stack_height or nil]. `loaded` is the 32-byte addresses one after another.
Position, block time, witnesses, origin and the list of programs are left out: they say how we learned of it, not what happened.

Chain, one a program and commitment. c0 = sha256("community-voting-indexer/v1" · program address, 32 bytes · start_slot u64);
c(n) = sha256(c(n-1) · row digest). A seal stores the value after its last row, so the digest at a slot does not depend on where seals end.
Confirmed seals chain in the order in which they were appended. Finalized seals chain in chain order (slot, transaction_index) with
retracted rows left out: two independent indexers of one program and start slot have equal values at every finalized slot. A replay that corrects
slots below the last finalized seal seals them anew, from the first seal that is no longer true to the last: that seal takes the place of
those that begin at or after its first slot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256

GENESIS_TAG = b"community-voting-indexer/v1"
_HEAD = struct.Struct("<QI64shI")
# The same without an error and with the length of the wire: nearly every row.
_HEAD_PLAIN = struct.Struct("<QI64shII")
_LENGTH = struct.Struct("<I")
_ABSENT_LENGTH = 0xFFFFFFFF
_ABSENT = _LENGTH.pack(_ABSENT_LENGTH)
_EMPTY = _LENGTH.pack(0)
LEGACY = -1


def row_digest(
    slot: int,
    transaction_index: int,
    signature: bytes,
    version: int | None,
    err: bytes | None,
    wire: bytes,
    logs: bytes | None,
    inner: bytes | None,
    loaded: bytes,
) -> bytes:
    """The digest of one row, 32 bytes. ValueError when the signature is not 64 bytes (struct would pad it)."""
    if len(signature) != 64:
        raise ValueError(f"a signature has 64 bytes, not {len(signature)}")
    pack = _LENGTH.pack
    known = LEGACY if version is None else version
    # Each piece costs as much as a hundred bytes of hashing.
    if err is None:
        head = _HEAD_PLAIN.pack(slot, transaction_index, signature, known, _ABSENT_LENGTH, len(wire))
    else:
        head = _HEAD.pack(slot, transaction_index, signature, known, len(err)) + err + pack(len(wire))
    return sha256(
        b"".join(
            (
                head,
                wire,
                _ABSENT if logs is None else pack(len(logs)),
                logs or b"",
                _ABSENT if inner is None else pack(len(inner)),
                inner or b"",
                pack(len(loaded)) + loaded if loaded else _EMPTY,
            )
        )
    ).digest()


def genesis(address: bytes, start_slot: int) -> bytes:
    """The value before the first row."""
    return sha256(GENESIS_TAG + address + struct.pack("<Q", start_slot)).digest()


def chain(value: bytes, digests: Iterable[bytes]) -> bytes:
    """The value after these rows."""
    for digest in digests:
        value = sha256(value + digest).digest()
    return value
