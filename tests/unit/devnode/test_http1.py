"""The reader of HTTP requests, without sockets: however the bytes are cut, the same is read; bounds hold; nonsense ends the connection."""

from __future__ import annotations

import random

import pytest

from programs.devnode.http1 import BODY_BYTES_MAX, HEAD_BYTES_MAX, Head, Refused, RequestReader, TooLong
from tests.fidelity.newcomers import HTTP

Read = list[Head | Refused | TooLong | bytes]


def read(pieces: list[bytes]) -> Read:
    """Everything that a reader finds, up to the first thing that ends a connection."""
    reader, found, is_reading = RequestReader(), Read(), False
    for piece in pieces:
        reader.feed(piece)
        while True:
            one = reader.body() if is_reading else reader.head()
            if one is None:
                break
            found.append(one)
            if isinstance(one, Refused) or (isinstance(one, TooLong) and not one.is_over):
                return found
            is_reading = not is_reading
    return found


def shown(found: Read) -> Read:
    """Of a body that is too long it depends on the cuts whether its end has come when that is noticed."""
    place = next((at for at, one in enumerate(found) if isinstance(one, TooLong)), None)
    return found if place is None else [*found[:place], TooLong(False)]


@pytest.mark.parametrize("name", sorted(HTTP))
def test_however_a_stream_is_cut_the_same_is_read(name: str) -> None:
    stream = b"".join(HTTP[name])
    whole = shown(read([stream]))
    dice = random.Random(name)
    for _ in range(20):
        cuts = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.randrange(1, 6)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert shown(read(pieces)) == whole, cuts
    if len(stream) < 1_000:
        assert shown(read([stream[at : at + 1] for at in range(len(stream))])) == whole


def test_a_body_is_taken_up_to_its_bound_and_not_beyond() -> None:
    for size, fits in ((BODY_BYTES_MAX, True), (BODY_BYTES_MAX + 1, False)):
        plain = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
        chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
        for stream in (plain, chunked):
            body = read([stream])[1]
            assert body == b"x" * size if fits else isinstance(body, TooLong)


def test_what_is_never_finished_is_not_held_without_end() -> None:
    heads = b"POST / HTTP/1.1\r\n" + b"x-one: 1\r\n" * (HEAD_BYTES_MAX // 10 + 10)
    assert read([heads]) == [Refused(431)]
    start = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    assert read([start, b"1" * 20_000])[1] == Refused(0)
    assert read([start, b"0\r\n", b"x" * 20_000])[1] == Refused(0)
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % 10**12)
    assert isinstance(reader.head(), Head)
    for _ in range(100):
        reader.feed(b"x" * 1_000)
        if reader.body() is not None:
            break
    assert len(reader._buffer) == 0


def test_senseless_bytes_end_the_connection_or_are_a_request() -> None:
    dice = random.Random(1)
    streams = [stream for conversation in HTTP.values() for stream in conversation if len(stream) < 2_000]
    for _ in range(4_000):
        raw = bytearray(dice.choice(streams))
        for _ in range(dice.randint(1, 5)):
            if raw:
                raw[dice.randrange(len(raw))] = dice.randrange(256)
        for one in read([bytes(raw)]):
            assert isinstance(one, Head | Refused | TooLong | bytes)
