"""Bytes in base58 and base64 text, and what the real node's decoders say of text that holds none. No I/O."""

from __future__ import annotations

import base64

import based58

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE64_VALUES = {character: value for value, character in enumerate(_BASE64)}


def base58_bytes(encoded: str) -> bytes:
    """The bytes; ValueError with the decoder's words. Work is quadratic: bound the length first."""
    for index, byte in enumerate(encoded.encode()):
        if byte >= 0x80:
            raise ValueError(f"NonAsciiCharacter {{ index: {index} }}")
        if chr(byte) not in _BASE58:
            raise ValueError(f"InvalidCharacter {{ character: {_char_debug(chr(byte))}, index: {index} }}")
    return bytes(based58.b58decode(encoded.encode()))


def _char_debug(character: str) -> str:
    escapes = {"'": "\\'", "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    if character in escapes:
        return f"'{escapes[character]}'"
    return f"'{character}'" if " " <= character <= "~" else f"'\\u{{{ord(character):x}}}'"


def base64_bytes(encoded: str) -> bytes:
    """The bytes of padded standard base64; ValueError with the decoder's words."""
    raw = encoded.encode()
    rest = len(raw) % 4
    if rest == 1 and raw[-1:] != b"=" and chr(raw[-1]) not in _BASE64_VALUES:
        # A stray byte at the end, a newline for instance, is named before anything else.
        raise ValueError(f"InvalidByte({len(raw) - 1}, {raw[-1]})")
    # Everything before the last group of four is whole; only that group may be padded.
    start = max(0, len(raw) - (rest or 4))
    for index in range(start):
        if chr(raw[index]) not in _BASE64_VALUES:
            raise ValueError(f"InvalidByte({index}, {raw[index]})")
    _check_last_group(raw, start)
    return base64.b64decode(raw)


def _check_last_group(raw: bytes, start: int) -> None:
    group = raw[start:]
    body = group.rstrip(b"=")
    for index, byte in enumerate(group):
        if byte == ord("=") and (index < 2 or index < len(body)):
            raise ValueError(f"InvalidByte({start + index}, {byte})")
        if byte != ord("=") and chr(byte) not in _BASE64_VALUES:
            raise ValueError(f"InvalidByte({start + index}, {byte})")
    if raw and len(body) < 2:
        raise ValueError(f"InvalidLength({start + len(body)})")
    if len(group) % 4:
        raise ValueError("InvalidPadding")
    unused_bits = {2: 0x0F, 3: 0x03}.get(len(body), 0)
    if unused_bits and _BASE64_VALUES[chr(body[-1])] & unused_bits:
        raise ValueError(f"InvalidLastSymbol({start + len(body) - 1}, {body[-1]})")
