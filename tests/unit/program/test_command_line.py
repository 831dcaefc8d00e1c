"""The command line's refusals: one line with field, value and remedy, the right exit code, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from solders.keypair import Keypair

from programs.community_voting.__main__ import main

ADDRESS = str(Keypair.from_seed(b"a" * 32).pubkey())
NOBODY = "http://127.0.0.1:1"


def test_a_missing_wallet_is_named_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", ADDRESS, "--keypair", str(tmp_path / "none.json")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: keypair: there is no ")
    assert "keygen" in shown.err


def test_a_file_that_holds_no_key_is_refused_without_showing_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps([222] * 63))
    assert main(["join", ADDRESS, "--keypair", str(file)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: keypair: ")
    # The folder of a test may hold any number.
    assert "222" not in shown.replace(str(file), "")
    assert shown.count("\n") == 1


def test_a_node_out_of_reach_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", ADDRESS, "--url", NOBODY, "--keypair", str(tmp_path / "none.json")]) == 3
    assert f"error: url: {NOBODY} does not answer" in capsys.readouterr().err


def test_a_new_wallet_is_private_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key.json"
    assert main(["keygen", "--keypair", str(file), "--json"]) == 0
    address = json.loads(capsys.readouterr().out)["wallet"]
    assert str(Keypair.from_bytes(bytes(json.loads(file.read_text()))).pubkey()) == address
    assert file.stat().st_mode & 0o077 == 0
    before = file.read_bytes()
    assert main(["keygen", "--keypair", str(file)]) == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["join", "0OIl"],
        ["cast-vote", ADDRESS, "--select", "-1"],
        ["reveal-vote", ADDRESS, "--select", "0", "--salt", "zz"],
    ],
)
def test_wrong_words_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
