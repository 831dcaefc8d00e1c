"""The body of a reply as it comes in: unpacked piece by piece, within a bound. A few kilobytes of gzip may stand for gigabytes."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

# What is unpacked before the bound is looked at again.
PIECE_BYTES = 1 << 20
# What is asked for; a body in another encoding is refused.
ACCEPTED = "gzip"
_ZLIB_OR_GZIP = 47


class BodyRefused(Exception):
    """The body is too large, cut short, or not what its encoding says."""


class Body:
    """`feed` what comes in, then take `whole`. BodyRefused past `bytes_max`, and for what can't be unpacked."""

    def __init__(self, encoding: str, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = io.BytesIO()
        self._begun = False
        self.size = 0
        self._packed = zlib.decompressobj(_ZLIB_OR_GZIP)
        match encoding.strip().lower():
            case "" | "identity":
                self._plain = True
            case "gzip" | "x-gzip" | "deflate":
                self._plain = False
            case other:
                raise BodyRefused(f"a body in the encoding {other[:20]!r}")

    def feed(self, part: bytes) -> None:
        """One part as it came over the wire."""
        self._begun = self._begun or bool(part)
        for piece in (part,) if self._plain else self._unpacked(part):
            self.size += len(piece)
            if self.size > self._bytes_max:
                raise BodyRefused(f"a body over {self._bytes_max} bytes")
            self._held.write(piece)

    def whole(self) -> bytes:
        """Everything, once all was fed."""
        if not self._plain and self._begun and not self._packed.eof:
            raise BodyRefused("a body that is cut short")
        return self._held.getvalue()

    def _unpacked(self, part: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = self._packed.decompress(part, PIECE_BYTES)
            except zlib.error as error:
                raise BodyRefused(f"a body that can't be unpacked ({error})") from None
            part = self._packed.unconsumed_tail
            if piece:
                yield piece
            if self._packed.eof or not (piece or part):
                return
