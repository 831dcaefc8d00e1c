"""Processes that read and decode for this one: how they begin, what goes between them and us, and how they end.

Each has a channel of its own, a pair of sockets, on which messages keep their order. It ends when its channel does: with us, however we end.
(Plain child processes: those of `multiprocessing` would run a caller's unguarded main module once more.)
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from programs.registry import ProgramRegistry
from projections.decoding import ProgramSpec
from projections.fold import Poison
from projections.model import Event

# Before each message, so that what a library prints on a wrong descriptor, or another version's messages, are never taken for one.
_MAGIC = b"ixp1"
_HEAD = struct.Struct(">4sI")
# A batch of the largest rows is a tenth of it.
MESSAGE_BYTES_MAX = 256 << 20
_SAID_BYTES_MAX = 4_096
Message: TypeAlias = bytes | bytearray
_Program: TypeAlias = tuple[str, str, int, Any, list[Any] | None]


class Garbage(Exception):
    """What came over a channel is no message."""


def described(specs: Sequence[ProgramSpec]) -> bytes | None:
    """The programs as another process can read them; None when something in them does not travel."""
    rows: list[_Program] = [
        (s.name, s.address, s.program_id, s.idl, None if s.registry is None else list(s.registry.dump())) for s in specs
    ]
    try:
        return pickle.dumps(rows)
    except Exception:
        return None


def specs_of(programs: bytes) -> list[ProgramSpec]:
    """What `described` made, without the projections: enough to decode."""
    return [
        ProgramSpec(name, address, number, idl, (), None if rows is None else ProgramRegistry.load(rows))
        for name, address, number, idl, rows in pickle.loads(programs)
    ]


def packed(events: Iterable[Event | Poison]) -> list[tuple[Any, ...]]:
    """Events as plain values, for `marshal`: twice as quick as pickle, and with integers of any width; both ends are one interpreter."""
    return [
        (e.position, e.slot, e.transaction_index, e.event_index, e.signature, e.block_time, e.program, e.name, e.data)
        if isinstance(e, Event)
        else (
            e.position,
            e.slot,
            e.transaction_index,
            e.event_index,
            e.signature,
            e.program,
            e.raw,
            e.error,
            e.name,
            None,
        )
        for e in events
    ]


def unpacked(events: Iterable[tuple[Any, ...]]) -> tuple[Event | Poison, ...]:
    """What `packed` took apart."""
    return tuple([Event(*fields) if len(fields) == 9 else Poison(*fields[:9]) for fields in events])


def send(channel: socket.socket, message: Message) -> None:
    """OSError when nobody is at the other end any more."""
    channel.sendall(_HEAD.pack(_MAGIC, len(message)))
    channel.sendall(message)


def receive(channel: socket.socket) -> bytearray | None:
    """The next message; None when the channel ended, in the middle of one too."""
    head = _exactly(channel, _HEAD.size)
    if head is None:
        return None
    magic, length = _HEAD.unpack(head)
    if magic != _MAGIC or length > MESSAGE_BYTES_MAX:
        raise Garbage
    return _exactly(channel, length)


def _exactly(channel: socket.socket, size: int) -> bytearray | None:
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        try:
            # All of it in one call: each one more would have to win the interpreter's lock from threads that compute.
            got = channel.recv_into(view[at:], 0, socket.MSG_WAITALL)
        except OSError:
            return None
        if not got:
            return None
        at += got
    return found


class Process:
    """Another process, and what it has sent. `waiting`: so many messages wait at our end, then it waits too."""

    def __init__(self, entry: str, order: bytes, waiting: int, *, quiet: bool = False) -> None:
        """entry: "module:function"; that function begins with `Inherited()`. quiet: what it says on stderr is kept for `said`.

        OSError when no process can be started.
        """
        module, _, function = entry.partition(":")
        self._waiting: queue.Queue[Message | None] = queue.Queue(waiting)
        self._over = threading.Event()
        self._order = order
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", f"from {module} import {function}; {function}()", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE if quiet else None,
                    pass_fds=(theirs.fileno(),),
                    # Signals for our group are ours to heed: it ends with the channel, without a word.
                    process_group=0,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            except BaseException:
                self._channel.close()
                raise
        self._thread = threading.Thread(target=self._run, name=f"receiver-{self._process.pid}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._process.kill()
            self._process.wait()
            self._channel.close()
            raise OSError(str(error)) from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: bytes) -> None:
        """Send it something small. Where it is gone nothing happens: `get` tells."""
        with contextlib.suppress(OSError):
            send(self._channel, message)

    def get(self, timeout_s: float | None = None) -> Message | None:
        """What it sent next; None when that is all. queue.Empty after the time."""
        return self._waiting.get(timeout=timeout_s) if timeout_s != 0 else self._waiting.get_nowait()

    def close(self) -> str:
        """End it, whatever it does. What it said last on stderr, where that was kept."""
        self._over.set()
        self._process.kill()
        code = self._process.wait()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._channel.close()
        said = b""
        if self._process.stderr is not None:
            with self._process.stderr as stderr:
                said = stderr.read(_SAID_BYTES_MAX * 16)[-_SAID_BYTES_MAX:]
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "" if code == -signal.SIGKILL else f"exit code {code}"

    def _run(self) -> None:
        message: Message | None = None
        try:
            # Through the channel, not the command line: the URL may hold a password.
            send(self._channel, self._order)
            while (message := receive(self._channel)) is not None and self._put(message):
                pass
        except (OSError, Garbage):
            pass
        self._put(None)

    def _put(self, message: Message | None) -> bool:
        while not self._over.is_set():
            try:
                self._waiting.put(message, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


class Inherited:
    """The channel as the other process has it. From its making on the process ends when the channel does."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._channel = socket.socket(fileno=int(sys.argv[1]))
        order = receive(self._channel)
        if order is None:
            os._exit(0)
        self.order = bytes(order)
        # What came since. The other side bounds it: it asks for a few things at a time.
        self.asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Message) -> None:
        """An answer. Does not come back when nobody is there to read it."""
        try:
            send(self._channel, message)
        except OSError:
            os._exit(0)

    def _listen(self) -> None:
        with contextlib.suppress(Garbage):
            while (message := receive(self._channel)) is not None:
                self.asked.put(bytes(message))
        # In the middle of whatever the other thread does: a query may take long.
        os._exit(0)
