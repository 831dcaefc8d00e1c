"""The crowd's command: what goes wrong for all its wallets at once is one line."""

from __future__ import annotations

import subprocess
import sys

from programs.devnode.threaded import devnode


def test_a_chain_without_the_program_is_an_error_of_one_line() -> None:
    with devnode(slot_ms=50.0) as node:
        done = subprocess.run(
            [sys.executable, "-m", "programs.crowd", "--url", node.rpc_url, "--seconds", "5"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    told = done.stderr.decode().splitlines()
    assert (done.returncode, [line for line in told if not line.startswith("error: ")]) == (1, [])
    assert len(told) == 1
    assert "is not deployed" in told[0]
    assert "--program" in told[0]
