"""Seeded harm to valid requests: JSON of another shape, and bytes that are no JSON any more."""

from __future__ import annotations

import json
import random
from typing import Any

_LEAVES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        255,
        256,
        2**31,
        2**53,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        10**30,
        0.0,
        1.5,
        -1e300,
        1e-9,
    ),
    *(
        "",
        " ",
        "0",
        "1",
        "x" * 300,
        "é",
        "\u0000",
        "\ud7ff",
        "😀",
        "confirmed",
        "base64",
        "jsonParsed",
        "all",
        "mentions",
        "1" * 32,
    ),
    *(
        "1" * 64,
        "AAAA",
        "=",
        "\n",
        [],
        {},
        [[]],
        [{}],
        {"": None},
        [None],
        ["1" * 32],
        {"mentions": []},
        {"commitment": {}},
    ),
    *({"offset": 0, "length": 1}, {"memcmp": {"offset": 0, "bytes": ""}}, {"dataSize": 0}, {"encoding": "base64"}),
]
_NAMES = (
    *(
        "commitment",
        "encoding",
        "minContextSlot",
        "filters",
        "limit",
        "before",
        "until",
        "dataSlice",
        "mentions",
        "withContext",
    ),
    *(
        "transactionDetails",
        "maxSupportedTransactionVersion",
        "rewards",
        "sigVerify",
        "accounts",
        "id",
        "method",
        "jsonrpc",
        "params",
    ),
)


def mutated(request: Any, dice: random.Random) -> Any:
    """The same JSON value with one to three things changed somewhere in it."""
    value = json.loads(json.dumps(request))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        value = _changed(value, dice, depth=0)
    return value


def _changed(value: Any, dice: random.Random, depth: int) -> Any:
    if isinstance(value, dict) and value and (depth == 0 or dice.random() < 0.7):
        name = dice.choice(sorted(value))
        deed = dice.random()
        if deed < 0.1:
            return {key: item for key, item in value.items() if key != name}
        if deed < 0.2:
            return {**value, dice.choice(_NAMES): dice.choice(_LEAVES)}
        return {**value, name: _changed(value[name], dice, depth + 1)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        place = dice.randrange(len(value))
        deed = dice.random()
        if deed < 0.1:
            return value[:place] + value[place + 1 :]
        if deed < 0.2:
            return [*value, dice.choice(_LEAVES)]
        return [*value[:place], _changed(value[place], dice, depth + 1), *value[place + 1 :]]
    if isinstance(value, str) and value and dice.random() < 0.4:
        place = dice.randrange(len(value))
        return value[:place] + dice.choice(("", "0", "z", "é", "=", value)) + value[place + 1 :]
    if isinstance(value, int) and not isinstance(value, bool) and dice.random() < 0.3:
        return value + dice.choice((-1, 1, 10**6, -(10**6)))
    return dice.choice(_LEAVES)


def broken(raw: bytes, dice: random.Random) -> bytes:
    """Bytes with some lost, doubled, flipped or put in."""
    out = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(out) + 1)
        deed = dice.randrange(5)
        if deed == 0:
            del out[place : place + dice.randint(1, 20)]
        elif deed == 1:
            out[place:place] = dice.randbytes(dice.randint(1, 8))
        elif deed == 2:
            out[place:place] = dice.choice(
                (b"[", b"{", b'"', b"\\", b",", b":", b"\\ud800", b"\x00", b"\xff", b"[" * 200, b"1e999")
            )
        elif deed == 3:
            out[place:place] = out[: dice.randint(1, 40)]
        elif out:
            out[min(place, len(out) - 1)] ^= 1 << dice.randrange(8)
    return bytes(out)
