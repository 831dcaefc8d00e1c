"""Transactions made by hand for the tests: logs, inner instructions, and getTransaction results in every encoding."""

from __future__ import annotations

import base64
from typing import Any

from programs.base58 import address_text, encode
from programs.codec import compile_idl
from programs.events import SELF_CPI_TAG, event_authority
from programs.idl import load_idl
from programs.transaction import InnerInstruction, OuterInstruction, TransactionView

PROGRAM = bytes(range(1, 33))
OTHER = bytes(range(2, 34))
AUTHORITY = event_authority(PROGRAM)
P, Q = address_text(PROGRAM), address_text(OTHER)
KEYS = (bytes([9]) * 32, PROGRAM, OTHER, AUTHORITY)
SIGNATURE = "4" * 88

DOCUMENT: dict[str, Any] = {
    "address": P,
    "metadata": {"name": "example", "version": "0.1.0", "spec": "0.1.0"},
    "instructions": [
        {
            "name": "put",
            "discriminator": [7],
            "accounts": [
                {"name": "who", "signer": True},
                {"name": "group", "accounts": [{"name": "inside"}]},
                {"name": "maybe", "optional": True},
                {"name": "absent", "optional": True},
            ],
            "args": [{"name": "x", "type": "u8"}],
        }
    ],
    "events": [{"name": "Put", "discriminator": [1, 2, 3, 4, 5, 6, 7, 8]}],
    "types": [{"name": "Put", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}}],
}
CODEC = compile_idl(load_idl(DOCUMENT))
CODECS = {PROGRAM: CODEC}


def event(x: int) -> bytes:
    return CODEC.encode_event("Put", {"x": x})


def data_line(x: int) -> str:
    return "Program data: " + base64.b64encode(event(x)).decode()


def frame(program: str, depth: int, *inside: str) -> list[str]:
    return [f"Program {program} invoke [{depth}]", *inside, f"Program {program} success"]


def self_cpi(
    outer: int, index: int, x: int, height: int | None = 2, authority: int = 3, program: int = 1
) -> InnerInstruction:
    return InnerInstruction(outer, index, program, bytes([authority]), SELF_CPI_TAG + event(x), height)


def call(outer: int, index: int, program: int, height: int | None = 2) -> InnerInstruction:
    return InnerInstruction(outer, index, program, b"", b"\x07\x01", height)


def seen(
    logs: list[str] | None,
    inner: list[InnerInstruction] | None = None,
    outer: tuple[int, ...] = (1,),
    err: str | None = None,
    keys: tuple[bytes, ...] | None = KEYS,
    no_inner: bool = False,
) -> TransactionView:
    return TransactionView(
        slot=5,
        signature=SIGNATURE,
        block_time=None,
        err=err,
        keys=keys,
        outer=tuple(OuterInstruction(program, b"\x00", b"\x07\x01") for program in outer),
        inner=None if no_inner else tuple(inner or ()),
        logs=None if logs is None else tuple(logs),
        version=None,
    )


def wire(version: int | None, instructions: list[tuple[int, bytes, bytes]], static: tuple[bytes, ...] = KEYS) -> bytes:
    """A serialized transaction with one zero signature but for its first byte."""
    message = b"" if version is None else bytes([0x80 | version])
    message += bytes([1, 0, 1, len(static)]) + b"".join(static) + bytes(32) + bytes([len(instructions)])
    for program, accounts, data in instructions:
        message += bytes([program, len(accounts)]) + accounts + bytes([len(data)]) + data
    return bytes([1]) + bytes([7]) + bytes(63) + message + (b"" if version is None else b"\x00")


def result(
    encoding: str, logs: list[str] | None, inner: list[InnerInstruction] | None, loaded: bool = False
) -> dict[str, Any]:
    """A getTransaction result with one top-level `put`; with `loaded` the last two keys come from a lookup table."""
    static = KEYS[:2] if loaded else KEYS
    accounts = bytes([0, 2, 1, 1])
    instruction = (1, accounts, b"\x07\x2a")
    texts = [address_text(key) for key in KEYS]
    body: Any
    if encoding in ("base64", "base58"):
        packed = wire(0 if loaded else None, [instruction], static)
        body = [base64.b64encode(packed).decode() if encoding == "base64" else encode(packed), encoding]
    elif encoding == "json":
        entry = {"programIdIndex": 1, "accounts": list(accounts), "data": encode(b"\x07\x2a"), "stackHeight": 1}
        body = {"signatures": [SIGNATURE], "message": {"accountKeys": texts[: len(static)], "instructions": [entry]}}
    else:
        parsed = {
            "programId": P,
            "accounts": [texts[i] for i in accounts],
            "data": encode(b"\x07\x2a"),
            "stackHeight": 1,
        }
        keys = [{"pubkey": t, "signer": i == 0, "writable": True, "source": "transaction"} for i, t in enumerate(texts)]
        body = {"signatures": [SIGNATURE], "message": {"accountKeys": keys, "instructions": [parsed]}}
    groups: dict[int, list[dict[str, Any]]] = {}
    for entry_ in inner or ():
        if encoding == "jsonParsed":
            shape: dict[str, Any] = {
                "programId": texts[entry_.program_id_index],
                "accounts": [texts[i] for i in entry_.accounts],
            }
        else:
            shape = {"programIdIndex": entry_.program_id_index, "accounts": list(entry_.accounts)}
        shape |= {"data": encode(entry_.data), "stackHeight": entry_.stack_height}
        groups.setdefault(entry_.outer, []).append(shape)
    return {
        "slot": 77,
        "blockTime": 1,
        "version": 0 if loaded else "legacy",
        "transaction": body,
        "meta": {
            "err": None,
            "logMessages": logs,
            "innerInstructions": None
            if inner is None
            else [{"index": k, "instructions": v} for k, v in groups.items()],
            "loadedAddresses": {"writable": texts[2:3] if loaded else [], "readonly": texts[3:] if loaded else []},
        },
    }
