"""Keeps one PostgreSQL server alive exactly as long as the process that asked for it.

Run by path with `python -I -S`, standard library only, one thread. It holds the read end of a pipe whose write end only the parent has:
when the parent ends, however it ends, the pipe closes and the server is told to stop. When this process is killed itself, the kernel
sends the server the same signal (PR_SET_PDEATHSIG; set from here because the kernel watches the thread that forked, and the parent may
fork from a thread of its own that ends early).

Arguments: uid, gid (-1, -1: stay as one is), a directory to remove when the parent is gone, the server's command.
Bytes on stdin: `f` asks for a fast stop, `i` for an immediate one (a crash as far as the data is concerned). End of file without either
means that the parent is gone: a fast stop, and nobody else will remove the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_FAST, _IMMEDIATE = signal.SIGINT, signal.SIGQUIT
# A fast stop writes a checkpoint; past this the data can wait for recovery at the next start.
_FAST_STOP_SECONDS = 30
_IMMEDIATE_STOP_SECONDS = 10
_POLL_SECONDS = 0.5


def _die_with_parent() -> None:
    # Elsewhere than on Linux the pipe alone does the work.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _FAST, 0, 0, 0)


def _start(uid: int, gid: int, command: list[str]) -> subprocess.Popen[bytes]:
    if uid < 0:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    # preexec_fn runs after the change of user, which would clear the death signal.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,
        user=uid,
        group=gid,
        extra_groups=[],
    )


def _wait_for_the_end(server: subprocess.Popen[bytes], parent: int) -> tuple[signal.Signals, bool]:
    """Block until the server ends, the pipe speaks, or the parent is gone; how to stop the server, and whether the parent is gone."""
    while server.poll() is None:
        ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
        if ready:
            said = os.read(0, 1)
            return (_IMMEDIATE if said == b"i" else _FAST), said == b""
        # A child that the parent forked without exec may hold the pipe open beyond the parent's life.
        if os.getppid() != parent:
            return _FAST, True
    return _FAST, False


def _stop(server: subprocess.Popen[bytes], how: signal.Signals) -> int:
    for stop, patience in ((how, _FAST_STOP_SECONDS), (_IMMEDIATE, _IMMEDIATE_STOP_SECONDS), (signal.SIGKILL, None)):
        if server.poll() is not None:
            break
        server.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
    return server.wait()


def main(arguments: list[str]) -> int:
    uid, gid, remove, *command = arguments
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    parent = os.getppid()
    server = _start(int(uid), int(gid), command)
    how, orphaned = _wait_for_the_end(server, parent)
    status = _stop(server, how)
    if orphaned:
        shutil.rmtree(remove, ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
