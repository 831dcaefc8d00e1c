"""A pooler in front of a real server, as PgBouncer is one: clients take turns on one session, each for a transaction, or keep their own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

_PARAMETERS = ("server_version", "server_encoding", "client_encoding", "standard_conforming_strings", "TimeZone")


@contextmanager
def pooler(dsn: str, *, sessions: bool) -> Iterator[str]:
    """Gives a DSN that leads through the pooler. `sessions`: each client has a session for as long as it is connected."""
    with psycopg.connect(dsn, autocommit=True) as shared, socket.create_server(("127.0.0.1", 0)) as server:
        turn = threading.Lock()

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError, EOFError):
                if not sessions:
                    _serve(client, shared, turn)
                    return
                with psycopg.connect(dsn, autocommit=True) as own:
                    _serve(client, own, threading.Lock())

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield make_conninfo(
            dsn, host="127.0.0.1", port=server.getsockname()[1], sslmode="disable", gssencmode="disable"
        )
        server.shutdown(socket.SHUT_RDWR)


def _serve(client: socket.socket, session: psycopg.Connection[Any], turn: threading.Lock) -> None:
    _exactly(client, int.from_bytes(_exactly(client, 4)) - 4)
    client.sendall(_framed(b"R", bytes(4)))
    for name in _PARAMETERS:
        value = session.info.parameter_status(name) or ""
        client.sendall(_framed(b"S", name.encode() + b"\0" + value.encode() + b"\0"))
    # As PgBouncer does: a key of its own, which is no process of the server.
    client.sendall(_framed(b"K", bytes(range(8))) + _framed(b"Z", b"I"))
    # The driver has logged in; from here on the bytes are the client's.
    with socket.socket(fileno=os.dup(session.pgconn.socket)) as server:
        server.setblocking(True)
        while True:
            kind, message = _message(client)
            with turn:
                while kind != b"X":
                    server.sendall(message)
                    if kind in (b"Q", b"S") and _answered(server, client) == b"I":
                        break
                    kind, message = _message(client)
            if kind == b"X":
                return


def _answered(server: socket.socket, client: socket.socket) -> bytes:
    """Pass the answer on, up to its end; the state of the transaction."""
    while True:
        kind, message = _message(server)
        client.sendall(message)
        if kind == b"Z":
            return message[5:]


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(source, 5)
    return head[:1], head + _exactly(source, int.from_bytes(head[1:]) - 4)


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = source.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found
