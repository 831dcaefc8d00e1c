"""Every command and sample of the development node's README, run as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from programs import devnode as package
from programs.community_voting import artifact
from programs.devnode import DevNode, DevNodeConfig, devnode

README = (Path(package.__file__).parent / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^    (indexer devnode.*)$", README, re.M)]
SECONDS_MAX = 60
WALLET = str(Keypair.from_seed(b"readme".ljust(32, b".")).pubkey())


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) == 8
    assert "indexer devnode --faults" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_does_what_its_comment_says(command: str, tmp_path: Path) -> None:
    snapshot = tmp_path / "state.bin"
    if "--restore" in command:
        with devnode(slot_ms=0) as running:
            running.advance(7)
            running.node.save(snapshot)
    words = [
        {
            "ADDRESS=FILE.so": f"{artifact.PROGRAM_ID}={artifact.SO_PATH}",
            "WALLET=100": f"{WALLET}=100",
            "FILE": str(snapshot),
        }.get(word, word)
        for word in shlex.split(command)[1:]
    ]
    is_listing = "--faults" in words
    # Others may use the ports; what a program that starts it reads is easier to read here, too.
    more = [] if is_listing else ["--rpc-port", "0", "--ws-port", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "indexer", *words, *more], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not is_listing:
            ready = json.loads(first)
            assert ready["rpc_url"].startswith("http://127.0.0.1:")
            assert ready["seed"] == (7 if "--seed" in words else 0)
            process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS_MAX) == 0
    assert ("--snapshot" not in command) or snapshot.stat().st_size > 1_000


def test_the_fixture_is_a_fixture(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    body = f"\n\ndef test_it(node):\n    assert node.airdrop({WALLET!r}, 10**9)\n    assert node.advance(3) >= 3\n"
    (tmp_path / "test_sample.py").write_text(block + body)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:anchorpy",
        "-p",
        "no:cacheprovider",
        str(tmp_path / "test_sample.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_members_that_it_names_are_there() -> None:
    with devnode(slot_ms=0) as running:
        for name in re.findall(r"`running\.(\w+)", README):
            assert hasattr(running, name), name
        node = running.node
        for path in re.findall(r"`(?:await )?node\.([\w.]+)\(", README):
            found: Any = node
            for name in path.split("."):
                found = getattr(found, name)
            assert callable(found), path


def test_the_control_methods_are_all_named_and_all_there() -> None:
    named = set(re.findall(r"`(devnode_\w+)", README))
    assert named == set(DevNode(DevNodeConfig(slot_ms=0)).rpc.extra)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")
def test_curl_sets_a_fault() -> None:
    (sample,) = re.findall(r"`(curl -s localhost:8899 .*?)`", README, re.S)
    with devnode(slot_ms=0) as running:
        command = shlex.split(sample.replace("localhost:8899", running.rpc_url))
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
        assert json.loads(done.stdout)["result"] == {"garbage": {"rate": 0.2}}
