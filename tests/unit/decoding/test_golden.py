"""Pinned bytes: what Rust wrote, and five programs after the shape of well-known ones through the commands themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from programs.codec import ProgramCodec, compile_idl
from programs.idl import load_idl
from tests.golden import five
from tests.unit.decoding.test_command import run

LAYOUTS = Path(five.__file__).with_name("layouts")


def rust() -> list[tuple[str, str, bytes, Any]]:
    values = json.loads((LAYOUTS / "values.json").read_bytes())
    lines = (LAYOUTS / "bytes.txt").read_text().splitlines()
    return [(*line.split()[:2], bytes.fromhex(line.split()[2]), v) for line, v in zip(lines, values, strict=True)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def codec() -> ProgramCodec:
    idl = load_idl((LAYOUTS / "idl.json").read_bytes())
    assert not idl.problems
    return compile_idl(idl)


@pytest.mark.parametrize(("kind", "name", "data", "value"), rust(), ids=lambda v: v if isinstance(v, str) else "")
def test_what_rust_wrote_is_read_and_written_again(
    codec: ProgramCodec, kind: str, name: str, data: bytes, value: Any
) -> None:
    decoded = getattr(codec, f"decode_{kind}")(data)
    assert (decoded.name, decoded.data, decoded.trailing) == (name, value, 0)
    assert getattr(codec, f"encode_{kind}")(name, value) == data
    prefix = next(
        e.discriminator for e in (*codec.idl.events, *codec.idl.accounts, *codec.idl.instructions) if e.name == name
    )
    # A cut inside the discriminator may be a whole event of a shorter one.
    for length in range(len(prefix), len(data)):
        with pytest.raises(Exception, match=r"at byte \d+$"):
            getattr(codec, f"decode_{kind}")(data[:length])


def test_what_anchors_typescript_wrote_is_read_and_written_again() -> None:
    for line in LAYOUTS.with_name("typescript").joinpath("cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        entry = {"name": "Root", "discriminator": case["discriminator"]}
        codec = compile_idl(
            load_idl({"metadata": {"spec": "0.1.0"}, "types": case["types"], "events": [entry], "accounts": [entry]})
        )
        data = bytes.fromhex(case["event"])
        for decode, encode in ((codec.decode_event, codec.encode_event), (codec.decode_account, codec.encode_account)):
            decoded = decode(data)
            assert (decoded.name, decoded.data, decoded.trailing) == ("Root", case["value"], 0)
            assert encode("Root", decoded.data) == data


def test_an_idl_of_anchor_0_29_with_its_dirt() -> None:
    idl = load_idl((LAYOUTS / "idl_0_29.json").read_bytes())
    assert [(p.path, p.severity) for p in idl.problems] == [
        ("$.types[0].type.fields[1].type.defined", "error"),
        ("$.types[1].type.fields[2].type.vec.defined", "error"),
        ("$.accounts[1].type.fields[1].type.defined", "error"),
        ("$.accounts[1].type.fields[2].type.defined", "error"),
        ("$.instructions[0].args[1].type.defined", "error"),
        ("$.instructions[0].args[3].type.defined", "warning"),
    ]
    codec = compile_idl(idl)
    # The tuple stands in the IDL as Rust's text, and the function's name lost an underscore on its way there.
    value = {"o": None, "f": 0.5, "d": ["0102", "0304", "0506"], "t": [[1, 2], [3, 65535]]}
    data = bytes.fromhex("00" + "000000000000e03f" + "010203040506" + "02000000" + "010200" + "03ffff")
    import hashlib

    for spelled in ("init_1", "init1"):
        called = hashlib.sha256(f"global:{spelled}".encode()).digest()[:8] + data
        assert (codec.decode_instruction(called).name, codec.decode_instruction(called).data) == ("init1", value)
    moved = {"by": "11111111111111111111111111111111", "n": 3, "k": {"Three": [7, {"Two": {"x": 1}}]}}
    assert codec.decode_event(codec.encode_event("Moved", moved)).data == moved


def test_the_files_of_the_five_are_those_that_their_histories_give() -> None:
    for name, text in five.files().items():
        assert (five.FOLDER / name).read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize("name", five.NAMES)
def test_decode_prints_what_each_of_the_five_wrote(name: str) -> None:
    expected = [json.loads(line) for line in (five.FOLDER / f"{name}.decoded.jsonl").read_text().splitlines()]
    arguments = ("decode", "--instructions", "--idl", str(five.FOLDER / f"{name}.json"))
    code, lines, stderr = run(*arguments, str(five.FOLDER / f"{name}.transactions.jsonl"))
    assert lines == expected
    assert [list(line) for line in lines] == [list(_ordered(line)) for line in lines], (
        "keys come in the contract's order"
    )
    assert (code, stderr) == (1 if any("error" in line for line in expected) else 0, "")
    given = (five.FOLDER / f"{name}.transactions.jsonl").read_bytes()
    events = [line for line in expected if "instruction" not in line]
    assert run(*[a for a in arguments if a != "--instructions"], given=given)[1] == events


_ORDER = [
    "signature",
    "slot",
    "program",
    "event",
    "instruction",
    "data",
    "error",
    "accounts",
    "incomplete",
    "source",
    "trailing",
    "twin",
]


def _ordered(line: dict[str, Any]) -> list[str]:
    return sorted(line, key=_ORDER.index)


@pytest.mark.parametrize("name", five.NAMES)
def test_accounts_of_the_five(name: str) -> None:
    held = [json.loads(line) for line in (five.FOLDER / f"{name}.accounts.jsonl").read_text().splitlines()]
    given = "".join(account["data"] + "\n" for account in held).encode()
    code, lines, _ = run("decode", "--raw", "account", "--idl", str(five.FOLDER / f"{name}.json"), given=given)
    assert [(line["name"], line["data"]) for line in lines] == [(a["name"], a["holds"]) for a in held]
    assert code == 0


def test_check_of_the_fifth_names_its_dirt_and_where_it_is() -> None:
    code, lines, _ = run("idl", "check", "--json", str(five.FOLDER / "names.json"))
    assert (code, [(p["path"], p["severity"]) for p in lines[0]["problems"]]) == (
        1,
        [
            ("$.types[2].type.fields[1]", "warning"),
            ("$.types[2].type.fields[3]", "warning"),
            ("$.types[3].type.fields[1].type.defined", "error"),
            ("$.events[2]", "error"),
        ],
    )
