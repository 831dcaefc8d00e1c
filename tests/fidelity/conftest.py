"""The nodes that every test of this folder is asked of: the development node always, a real validator where SOLANA_TEST_VALIDATOR names one."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fidelity.nodes import VALIDATOR, devnode, validator
from tests.fidelity.world import World

_REAL = [pytest.mark.node]
if not VALIDATOR:
    _REAL.append(pytest.mark.skip(reason="no real node: SOLANA_TEST_VALIDATOR does not name a solana-test-validator"))
_NODES = ["devnode", pytest.param("validator", marks=_REAL)]


@pytest.fixture(scope="session")
def devnode_world() -> Iterator[World]:
    """A development node with its history."""
    with devnode() as node:
        yield World(node).build()


@pytest.fixture(scope="session")
def validator_world() -> Iterator[World]:
    """A real validator with the same history."""
    with validator(VALIDATOR) as node:
        yield World(node).build()


@pytest.fixture(scope="session", params=_NODES)
def world(request: pytest.FixtureRequest) -> World:
    """A node with the common history: first the development node, then the real one."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


# --- Node's clients --------------------------------------------------------------------------------------------------

# They wait for finality on a real node, up to half a minute each. What it said is recorded, and the development node is held against that each time.
_SLOW = (
    "what_ran_before_is_told_where_others_listened",
    "too_much_in_fragments",
    "a_landed_signature_at_every_commitment",
    "what_ran_before_is_not_told",
    "accounts_that_leave_a_program",
)
_IS_WHOLE = os.environ.get("FIDELITY") == "whole"
_CLIENTS = Path(__file__).parent / "node_clients"
_STAMP = _CLIENTS / "node_modules" / ".installed"
_CLIENT_NAMES = "@solana/web3.js, @solana/kit and @coral-xyz/anchor"
_INSTALL_SECONDS_MAX = 300
_OUT_OF_REACH = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ECONNRESET|network")
_installing: list[subprocess.Popen[str]] = []


def _lock_hash() -> str:
    return hashlib.sha256((_CLIENTS / "package-lock.json").read_bytes()).hexdigest()


def _is_installed() -> bool:
    return _STAMP.exists() and _STAMP.read_text() == _lock_hash()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """This folder alone and last, so that a real validator, which takes a whole core, runs beside no other test, and Node's clients have the
    time to be installed. In it whole clients last: they leave accounts of the program behind, which the recorded replies do not know of."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker("alone")
            if VALIDATOR and not _IS_WHOLE and item.name in {f"test_scenarios[validator-{name}]" for name in _SLOW}:
                item.add_marker(pytest.mark.skip(reason="over 5 s on a real node: run with FIDELITY=whole"))
    items.sort(key=lambda item: (item.path.parent == here, item.path.name == "test_clients.py"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to install Node's clients, from the lock file, while other tests run."""
    is_wanted = any("node_clients" in getattr(item, "fixturenames", ()) for item in session.items)
    if not is_wanted or session.config.option.collectonly or _is_installed() or not shutil.which("npm"):
        return
    command = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-progress"]
    _installing.append(
        subprocess.Popen(command, cwd=_CLIENTS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave no installation behind that nobody waits for."""
    for process in _installing:
        if process.poll() is None:
            process.terminate()


def _not_run(why: str) -> None:
    words = f"NOT RUN: {_CLIENT_NAMES} against the nodes: {why}"
    warnings.warn(words, stacklevel=2)
    pytest.skip(words)


@pytest.fixture(scope="session")
def node_clients() -> Path:
    """The folder of Node's clients, installed. Skips with a warning where there is no Node, or no way to a registry."""
    if not shutil.which("node") or not shutil.which("npm"):
        _not_run("node and npm are not on the PATH")
    if not _is_installed():
        (process,) = _installing
        output, _ = process.communicate(timeout=_INSTALL_SECONDS_MAX)
        if process.returncode and _OUT_OF_REACH.search(output):
            _not_run(f"npm cannot fetch them: {output[-300:]}")
        assert process.returncode == 0, output[-3000:]
        _STAMP.write_text(_lock_hash())
    return _CLIENTS
