"""Base58 text of addresses and signatures, with a bounded cache for the addresses that a stream repeats.

Where gmpy2 is installed (the extra `fast`) its numbers give and take the digits, several times quicker. All answers are the same without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import based58
from solders.pubkey import Pubkey

try:
    from gmpy2 import mpz
except ImportError:
    mpz = None

ADDRESS_BYTES = 32
SIGNATURE_BYTES = 64
# Text of a 32-byte address is 32 to 44 characters; anything longer is refused before the quadratic conversion starts.
_ADDRESS_TEXT_MAX = 44
_CACHED_ADDRESSES = 1 << 16
# The library's conversion is quadratic: 50 ms for the 10 KB that a program may pass in a call, and anybody can make it do so.
_SHORT_TEXT_MAX = 256
_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_NO_DIGIT = 255
_DIGITS = bytes([_ALPHABET.find(char) & 255 for char in range(256)])
# GMP's digits of base 58, in the order of their values, and a sign that is none.
_GMP_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuv"
_FROM_GMP = bytes.maketrans(_GMP_DIGITS, _ALPHABET)
_TO_GMP = bytes([_GMP_DIGITS[place] if (place := _ALPHABET.find(char)) >= 0 else 126 for char in range(256)])
# So many digits are one small integer.
_CHUNK = 10

# So many digits are less than an address holds; what is left of a signature is less than its two digits say.
_SPLIT_DIGITS = 43
_SPLIT = 58**_SPLIT_DIGITS
_LETTERS = _ALPHABET.decode()
_FIRST = [(_LETTERS[n // 58] if n >= 58 else "") + _LETTERS[n % 58] for n in range((1 << 512) // _SPLIT**2 + 1)]

_from_bytes = Pubkey.from_bytes
_decode_short: Callable[[bytes], bytes] = based58.b58decode


class _AddressTexts(dict[bytes, str]):
    """Address → text, made when it is missing. A lookup costs half of what an lru_cache does; when full it starts
    anew.
    """

    def __missing__(self, address: bytes) -> str:
        if len(address) != ADDRESS_BYTES:
            raise ValueError(f"not an address: {len(address)} bytes")
        text = str(_from_bytes(address)) if mpz is None else encode(address)
        if len(self) >= _CACHED_ADDRESSES:
            self.clear()
            PLAIN_TEXTS.clear()
        self[address] = PLAIN_TEXTS[address] = text
        return text


# Subscript with 32 bytes; ValueError when the length is another.
ADDRESS_TEXTS = _AddressTexts()
# What that one holds in a dict of the plain kind, for which the interpreter has a way of its own: a third less a lookup, and KeyError when
# one is missing.
PLAIN_TEXTS: dict[bytes, str] = {}


def address_text(address: bytes) -> str:
    """The base58 text of a 32-byte address. ValueError when the length is another."""
    return ADDRESS_TEXTS[address]


@lru_cache(maxsize=_CACHED_ADDRESSES)
def address_bytes(text: str) -> bytes:
    """The 32 bytes of an address. ValueError, with the text named, when it is not one."""
    if not isinstance(text, str) or len(text) > _ADDRESS_TEXT_MAX:
        raise ValueError(f"not an address: {str(text)[:60]!r}")
    try:
        return bytes(Pubkey.from_string(text))
    except ValueError:
        raise ValueError(f"not an address: {text!r} (an address is 32 bytes in base58)") from None


def encode(data: bytes) -> str:
    """Base58 text of any bytes."""
    # Leading zeros are shown one by one: to a number they are nothing.
    if mpz is not None and data and data[0]:
        digits: bytes = mpz.from_bytes(data).digits(58).encode().translate(_FROM_GMP)
        return digits.decode()
    text: bytes = based58.b58encode(data)
    return text.decode("ascii")


def signature_text(data: bytes) -> str:
    """The base58 text of a signature, as `encode` has it: one is made for every row of the ledger that is read.

    Without gmpy2 a third quicker than that: the library's work grows with the square of the length, and for an address it has a quicker way;
    so two addresses' worth of digits are split off.
    """
    if mpz is not None or len(data) != SIGNATURE_BYTES or not data[0]:
        return encode(data)
    rest, last = divmod(int.from_bytes(data, "big"), _SPLIT)
    first, middle = divmod(rest, _SPLIT)
    text: str = _FIRST[first] + _digits(middle) + _digits(last)
    return text


def _digits(number: int) -> str:
    # A leading zero is shown once for each byte that it fills, which is another number than its digits.
    return str(_from_bytes(number.to_bytes(ADDRESS_BYTES, "big"))).lstrip("1").rjust(_SPLIT_DIGITS, "1")


def decode(text: str) -> bytes:
    """The bytes of base58 text. ValueError when a character is outside the alphabet."""
    if mpz is not None and text and text[0] != "1":
        try:
            number = mpz(text.encode("ascii").translate(_TO_GMP), 58)
        except ValueError:
            raise ValueError(f"not base58: {text[:60]!r}") from None
        data: bytes = number.to_bytes((number.bit_length() + 7) // 8)
        return data
    if len(text) > _SHORT_TEXT_MAX:
        return _decode_long(text)
    try:
        return _decode_short(text.encode("ascii"))
    except Exception as error:
        raise ValueError(f"not base58: {text[:60]!r}") from error


def _decode_long(text: str) -> bytes:
    """The same by halves: adjacent numbers are joined until one is left, so the work is that of a few big multiplications."""
    try:
        digits = text.encode("ascii").translate(_DIGITS)
    except UnicodeEncodeError as error:
        raise ValueError(f"not base58: {text[:60]!r}") from error
    if _NO_DIGIT in digits:
        raise ValueError(f"not base58: {text[:60]!r}")
    zeros = len(digits) - len(digits.lstrip(b"\0"))
    digits = bytes(-len(digits) % _CHUNK) + digits
    numbers = []
    for at in range(0, len(digits), _CHUNK):
        number = 0
        for digit in digits[at : at + _CHUNK]:
            number = number * 58 + digit
        numbers.append(number)
    power = 58**_CHUNK
    while len(numbers) > 1:
        if len(numbers) % 2:
            numbers.insert(0, 0)
        numbers = [high * power + low for high, low in zip(numbers[::2], numbers[1::2], strict=True)]
        power *= power
    return bytes(zeros) + numbers[0].to_bytes((numbers[0].bit_length() + 7) // 8, "big")
