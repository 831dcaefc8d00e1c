"""Where the bytes of a transaction or message break off, in the words of the real node's decoder. No I/O.

solders decodes the same bytes, but says it in its own words; so the bytes are walked here first, and decoded only when they are whole.
"""

from __future__ import annotations

_SIGNATURE_BYTES = 64
_KEY_BYTES = 32
_VERSION_FLAG = 0x80
_VERSION_1 = 0x81
# What follows the first byte of a message of version 1, up to its variable part. Such messages are not run here.
_VERSION_1_HEAD_BYTES = 41
_SHORT_MAX = 0xFFFF


class _Fault(Exception):
    """The decoder stops here."""


class _Reader:
    """A place in the bytes."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._wire[self._at : self._at + size]
        if len(piece) < size:
            raise _Fault(f"Attempting to read {size} bytes")
        self._at += size
        return piece

    def count(self) -> int:
        """A length of one to three bytes, seven bits each, lowest first (Solana's "short_vec")."""
        value = 0
        for place in range(3):
            byte = self.take(1)[0]
            if byte == 0 and place:
                raise _Fault("Invalid value: short u16: non-canonical encoding")
            value |= (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                break
        else:
            raise _Fault("Sequence length would overflow length encoding scheme: u16::MAX")
        if value > _SHORT_MAX:
            raise _Fault("Sequence length would overflow length encoding scheme: u16::MAX")
        return value

    def instructions(self) -> None:
        """All instructions."""
        for _ in range(self.count()):
            self.take(1)
            self.take(self.count())
            self.take(self.count())

    def message(self) -> None:
        """A message of any known version."""
        head = self.take(1)[0]
        is_versioned = bool(head & _VERSION_FLAG)
        if head == _VERSION_1:
            self.take(_VERSION_1_HEAD_BYTES)
        if is_versioned and head != _VERSION_FLAG:
            raise _Fault(f"Invalid tag encoding: {head & 0x7F}")
        self.take(3 if is_versioned else 2)
        self.take(self.count() * _KEY_BYTES)
        self.take(_KEY_BYTES)
        self.instructions()
        if is_versioned:
            for _ in range(self.count()):
                self.take(_KEY_BYTES)
                self.take(self.count())
                self.take(self.count())


def message_fault(wire: bytes) -> str | None:
    """What the decoder says about a message that is none; None when it is one. Bytes behind it do not matter."""
    try:
        _Reader(wire).message()
    except _Fault as fault:
        return str(fault)
    return None


def transaction_fault(wire: bytes) -> str | None:
    """As `message_fault`, for a signed transaction."""
    reader = _Reader(wire)
    try:
        if wire[:1] >= b"\x80":
            # A transaction of version 1 begins with its message; any other flag there means nothing.
            if wire[0] != _VERSION_1:
                return "Custom error: invalid transaction discriminator"
            reader.message()
        reader.take(reader.count() * _SIGNATURE_BYTES)
        reader.message()
    except _Fault as fault:
        return str(fault)
    return None
