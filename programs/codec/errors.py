"""What can be wrong with bytes or values, by what the reader of the error can do about it."""

from __future__ import annotations


class CodecError(Exception):
    """Bytes and layout, or value and layout, do not fit."""


class DecodeError(CodecError):
    """These bytes are not what the IDL says. `offset` counts from the first byte of the discriminator; `path` names
    the field.
    """

    def __init__(self, message: str, offset: int, path: str = "") -> None:
        self.message = message
        self.offset = offset
        self.path = path
        super().__init__(f"{path}: {message} at byte {offset}" if path else f"{message} at byte {offset}")


class UnknownDiscriminator(DecodeError):
    """No entry of the IDL begins with these bytes: another version of the program, or none of its data."""


class Truncated(DecodeError):
    """The bytes end before the layout does: often an older version of the program wrote them. `needed` more bytes
    were wanted than are left.
    """

    def __init__(self, offset: int, path: str, needed: int, left: int) -> None:
        self.needed = needed
        self.left = left
        what = f"{needed} byte{'' if needed == 1 else 's'} needed, {left} left"
        super().__init__(f"cut short, {what}", offset, path)


class InvalidValue(DecodeError):
    """The bytes are there and mean nothing: a boolean that is neither 0 nor 1, an unknown variant, text that is not
    UTF-8.
    """


class TooDeep(DecodeError):
    """A recursive type is nested deeper than the bound."""


class Unservable(DecodeError):
    """The IDL does not say how to read this (an undefined type, a layout of the program's own); `indexer idl check`
    names the place.
    """


class EncodeError(CodecError):
    """This value does not fit the layout; the message names the field."""

    def __init__(self, message: str, path: str = "") -> None:
        self.message = message
        self.path = path
        super().__init__(f"{path}: {message}" if path else message)
