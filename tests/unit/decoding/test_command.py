"""The commands `decode` and `idl`, run as processes: their lines, their exit codes, and that no answer waits for more
input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from indexer.cli import decode
from programs.devnode.config import DevNodeConfig
from programs.devnode.threaded import devnode
from tests.unit.decoding.chain import DOCUMENT, SIGNATURE, P, data_line, event, frame, result, self_cpi

ROOT = Path(__file__).resolve().parents[3]
# The commands alone, without the frame that collects all of them.
PROGRAM = """
import argparse, sys
from indexer.cli import decode, idl
from programs.errors import UserError
parser = argparse.ArgumentParser()
sub = parser.add_subparsers()
decode.register(sub)
idl.register(sub)
args = parser.parse_args()
try:
    sys.exit(args.func(args))
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


def run(*arguments: str, given: bytes = b"") -> tuple[int, list[Any], str]:
    done = subprocess.run(
        command(*arguments), input=given, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


@pytest.fixture
def idl(tmp_path: Path) -> str:
    path = tmp_path / "idl.json"
    path.write_text(json.dumps(DOCUMENT))
    return str(path)


def test_transactions_become_lines_in_the_contracts_form(idl: str, tmp_path: Path) -> None:
    logs = frame(P, 1, data_line(1), *frame(P, 2), "Program data: AQIDBAUGBwg=")
    good = result("json", logs, [self_cpi(0, 0, 1)])
    cut = result("base64", [*logs[:2], "Log truncated"], [], loaded=True)
    failed = result("json", logs, [])
    failed["meta"]["err"] = {"InstructionError": [0, {"Custom": 1}]}
    given = (
        b"\n".join(json.dumps(d).encode() for d in (good, cut, failed))
        + b"\nnonsense\n\n"
        + json.dumps({"result": good}).encode()
    )
    code, lines, stderr = run("decode", "--idl", idl, given=given)
    one = {"signature": SIGNATURE, "slot": 77, "program": P, "event": "Put"}
    of_good = [
        {**one, "data": {"x": 1}, "source": {"log": 1}, "trailing": 0},
        {**one, "data": {"x": 1}, "source": {"inner": [0, 0]}, "trailing": 0, "twin": {"log": 1}},
        {**one, "error": "Put.x: cut short, 1 byte needed, 0 left at byte 8", "source": {"log": 4}, "trailing": 0},
    ]
    assert (code, stderr) == (1, "")
    assert lines[:3] == of_good
    assert [lines[3]["data"], list(lines[4])] == [{"x": 1}, ["signature", "incomplete"]]
    assert lines[4]["incomplete"] == "truncated logs"
    assert list(lines[5]) == ["error"]
    assert lines[6:] == of_good

    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(failed, indent=2))
    assert run("decode", "--idl", idl, str(pretty)) == (0, [], "")
    code, lines, _ = run("decode", "--idl", idl, "--instructions", str(pretty))
    assert code == 0
    assert lines == [
        {
            "signature": SIGNATURE,
            "slot": 77,
            "program": P,
            "instruction": "put",
            "data": {"x": 42},
            "accounts": lines[0]["accounts"],
            "source": {"outer": 0},
        }
    ]


def test_a_line_nested_beyond_reason_does_not_stop_the_stream(idl: str) -> None:
    good = json.dumps(result("json", frame(P, 1, data_line(1)), [])).encode()
    code, lines, stderr = run("decode", "--idl", idl, given=b"[" * 100_000 + b"\n" + good + b"\n")
    assert (code, stderr, len(lines)) == (1, "", 2)
    assert "error" in lines[0]
    assert lines[1]["event"] == "Put"


def test_raw_lines_are_answered_one_by_one_while_the_input_stays_open(idl: str) -> None:
    process = subprocess.Popen(
        command("decode", "--idl", idl, "--raw", "event"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for x in range(3):
            process.stdin.write(event(x).hex().encode() + b"ff\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"name": "Put", "data": {"x": x}, "trailing": 1}
        process.stdin.write(b"zz\n" + event(9).hex().upper().encode())
        process.stdin.close()
        assert "error" in json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline())["data"] == {"x": 9}
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.stdout.close()


def test_raw_answers_line_for_line_empty_ones_too(idl: str) -> None:
    code, lines, _ = run("decode", "--idl", idl, "--raw", "event", given=event(1).hex().encode() + b"\n\n01\n")
    assert code == 1
    assert [list(line) for line in lines] == [["name", "data", "trailing"], ["error"], ["error"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decode", "--idl", "/nowhere.json"], "--idl /nowhere.json: No such file"),
        (["decode", "--idl", "IDL", "--program", "abc"], "--program: not an address: 'abc'"),
        (["decode", "--idl", "IDL", "/nowhere"], "/nowhere: No such file"),
        (["decode", "--idl", "IDL", "--raw", "event", "--instructions"], "--instructions"),
        (["decode", "--idl", "IDL", "IDL", "/nowhere"], "/nowhere: No such file"),
        (["decode", "--idl", "IDL", "/"], "/: Is a directory"),
        (
            ["decode", "--idl", "builtin:other"],
            "--idl builtin:other: there is no such IDL; give builtin:community_voting",
        ),
        (["idl", "check", "/nowhere.json"], "FILE /nowhere.json"),
        (["idl", "fetch", "abc", "--url", "http://127.0.0.1:1"], "ADDRESS: not an address"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(idl: str, arguments: list[str], words: str) -> None:
    code, lines, stderr = run(*[idl if a == "IDL" else a for a in arguments])
    assert (code, lines, stderr.count("\n")) == (2, [], 1)
    assert words in stderr


def test_a_node_that_does_not_answer_is_exit_code_3() -> None:
    code, _, stderr = run("idl", "fetch", P, "--url", "http://127.0.0.1:1/hunter22hunter22")
    assert code == 3
    assert stderr.startswith("error: --url: getAccountInfo at http://127.0.0.1:1: ConnectError")
    assert "hunter22" not in stderr


def test_idl_fetch_shows_no_key_and_asks_the_next_endpoint() -> None:
    with devnode(DevNodeConfig(slot_ms=0)) as node:
        urls = f"http://127.0.0.1:1/x,{node.rpc_url}/?key=hunter22hunter22"
        code, _, stderr = run("idl", "fetch", P, "--url", urls)
    assert code == 1
    assert f"no IDL on the chain at http://127.0.0.1:1, {node.rpc_url}" in stderr
    assert "hunter22" not in stderr


def test_the_nodes_are_those_of_the_settings_and_their_keys_are_not_shown(tmp_path: Path) -> None:
    config = tmp_path / "indexer.toml"
    with devnode(DevNodeConfig(slot_ms=0)) as node:
        config.write_text(f'rpc_url = "http://127.0.0.1:1/hush-hush,{node.rpc_url}/?key=hush-hush"')
        whole = [sys.executable, "-m", "indexer", "idl", "fetch", P, "--config", str(config)]
        done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "hush" in done.stderr) == (1, False)
    assert "no IDL on the chain" in done.stderr


def test_check_names_problems_and_show_shows_the_rest(idl: str, tmp_path: Path) -> None:
    assert run("idl", "check", idl, "--json")[1][0]["ok"] is True
    dirty = tmp_path / "dirty.json"
    dirty.write_text(
        json.dumps(
            {
                **DOCUMENT,
                "types": [{"name": "Put", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u7"}]}}],
            }
        )
    )
    code, lines, _ = run("idl", "check", str(dirty), "--json")
    assert code == 1
    assert ("$.types[0].type.fields[0].type", "error") in [(p["path"], p["severity"]) for p in lines[0]["problems"]]
    code, lines, _ = run("idl", "show", idl, "--json")
    assert (code, lines[0]["events"]) == (
        0,
        [{"name": "Put", "discriminator": "0102030405060708", "layout": {"x": "u8"}}],
    )


def test_a_file_may_be_laid_out_as_it_likes(idl: str, tmp_path: Path) -> None:
    one = result("json", frame(P, 1, data_line(1)), [])
    reply = {"jsonrpc": "2.0", "result": one, "id": 1}
    texts = [
        json.dumps(one),
        json.dumps(one, indent=4),
        "\n\n" + json.dumps(reply, indent=1),
        '{ "jsonrpc": "2.0",\n"result":' + json.dumps(one, indent=2) + "}\n",
        "\ufeff" + json.dumps(one),
        json.dumps([reply]),
        json.dumps([reply], indent=2),
        "[\n" + json.dumps(reply) + "]",
        json.dumps(one).replace("{", "{\r\n", 1),
    ]
    for text in texts:
        path = tmp_path / "odd.json"
        path.write_text(text, encoding="utf-8")
        code, lines, _ = run("decode", "--idl", idl, str(path))
        assert (code, [line.get("data") for line in lines]) == (0, [{"x": 1}]), text[:60]
    # A line that was cut takes only itself with it.
    path.write_text("\n".join([json.dumps(one)[:-9], json.dumps(one), "", "[]", json.dumps([one, one])]))
    code, lines, _ = run("decode", "--idl", idl, str(path))
    assert (code, [line.get("data") for line in lines]) == (1, [None, {"x": 1}, {"x": 1}, {"x": 1}])
    code, lines, _ = run("decode", "--idl", idl, given=path.read_bytes())
    assert (code, [line.get("data") for line in lines]) == (1, [None, {"x": 1}, {"x": 1}, {"x": 1}])


def test_the_voting_programs_own_idl_needs_no_file() -> None:
    code, lines, _ = run("decode", "--idl", "builtin:community_voting", "--raw", "event", given=b"00\n")
    assert (code, [list(line) for line in lines]) == (1, [["error"]])
    for verb in ("check", "show"):
        code, lines, _ = run("idl", verb, "builtin:community_voting", "--json")
        assert (code, lines[0]["name"]) == (0, "community_voting")


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_a_line_that_is_too_long_takes_only_itself_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(decode, "_LINE_BYTES_MAX", 100)
    monkeypatch.setattr(decode, "_FILE_CHUNK", chunk)
    path = tmp_path / "in"
    path.write_bytes(b"\n".join([b"a" * 100, b"b" * 101, b"", b"c", b"d" * 500, b"e" * 300]))
    with path.open("rb") as file:
        lines = [line for batch in decode._batches(file.fileno(), "in") for line in batch]
    assert [line is decode._TOO_LONG for line in lines] == [False, True, False, False, True, True]
    assert [lines[n] for n in (0, 2, 3)] == [b"a" * 100, b"", b"c"]


def test_a_file_that_is_no_document_is_not_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line looks like the beginning of a document, and the file goes on for longer than one may be."""
    monkeypatch.setattr(decode, "_LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(decode, "_FILE_CHUNK", 100)
    path = tmp_path / "in"
    path.write_bytes(b"{cut\n" + b"x\n" * 5000)
    answered: list[bytes] = []
    written: list[int] = []
    monkeypatch.setattr(decode, "_write", lambda answers: written.append(len(answers)))
    with path.open("rb") as file:
        assert not decode._answer(file.fileno(), lambda line, answers: bool(answered.append(line)), True, "in")
    assert answered == [b"{cut", *[b"x"] * 5000]
    assert len(written) > 10


def test_a_block_is_answered_as_its_transactions_are(idl: str) -> None:
    logs = frame(P, 1, data_line(1))
    one, two = result("json", logs, []), result("base64", logs, [self_cpi(0, 0, 2)])
    bad = {**result("json", logs, []), "transaction": ["!", "base64"]}
    given = json.dumps({"jsonrpc": "2.0", "result": {"parentSlot": 76, "transactions": [one, bad, two]}}).encode()
    code, lines, _ = run("decode", "--idl", idl, "--instructions", given=given)
    # The reply to getBlock does not say which slot it is of.
    assert [(line.get("event"), line.get("instruction"), line.get("slot", "-")) for line in lines] == [
        (None, "put", None),
        ("Put", None, None),
        (None, None, "-"),
        (None, "put", None),
        ("Put", None, None),
        ("Put", None, None),
    ]
    assert (code, list(lines[2])) == (1, ["error"])
