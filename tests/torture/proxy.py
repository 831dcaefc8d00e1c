"""A proxy before PostgreSQL's Unix socket that can cut a connection in the middle of a COPY, at a byte of a seeded choice."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path

COPY = b"COPY ledger.transactions"
PORT = 5432
READ_BYTES = 65_536


class CuttingProxy:
    """Listens in `directory` as a server would, and forwards to the server in `behind`. `arm` makes the next COPY die."""

    def __init__(self, directory: Path, behind: Path, seed: int = 0) -> None:
        self.cuts = 0
        self._behind = str(behind / f".s.PGSQL.{PORT}")
        self._rng = random.Random(seed)
        self._armed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        path = directory / f".s.PGSQL.{PORT}"
        self._listener.bind(str(path))
        os.chmod(path, 0o777)
        self._listener.listen(64)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def arm(self) -> None:
        """Cut the connection on which rows are copied next."""
        self._armed.set()

    def close(self) -> None:
        """Take no more connections."""
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(self._behind)
                self._pump(client, server)
            except OSError:
                return

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        copying = False
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                data = server.recv(READ_BYTES)
                if not data:
                    return
                client.sendall(data)
            if client in ready:
                data = client.recv(READ_BYTES)
                if not data:
                    return
                begins = data.find(COPY)
                within = begins + len(COPY) if begins >= 0 else 0
                # The rows follow the statement, in the same piece or in the next.
                if (copying or len(data) > within + 200) and (copying or begins >= 0) and self._armed.is_set():
                    self._armed.clear()
                    self.cuts += 1
                    with suppress(OSError):
                        server.sendall(data[: self._rng.randint(within, len(data) - 1)])
                    return
                copying = begins >= 0
                server.sendall(data)
