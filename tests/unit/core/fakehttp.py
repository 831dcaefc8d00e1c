"""A JSON-RPC server on loopback whose every answer a test decides: status, headers, body, pace. It records what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

GENESIS = "4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"


@dataclass(frozen=True)
class Answer:
    """`result` or `error` in a JSON-RPC envelope, or `raw` bytes as they are; after `after_s`; `trickle`: a byte now and then, without end."""

    result: Any = None
    error: dict[str, Any] | None = None
    raw: bytes | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    trickle: bool = False
    cut: bool = False


Decide = Callable[[str, list[Any]], Answer]


@dataclass
class Server:
    decide: Decide
    port: int = 0
    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    secret: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.secret}"

    def asked(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)


def standard(method: str, params: list[Any]) -> Answer:
    """A small honest node."""
    match method:
        case "getGenesisHash":
            return Answer(GENESIS)
        case "getSlot":
            return Answer(100)
        case "getBlock":
            return Answer({"parentSlot": params[0] - 1, "blockhash": "x", "previousBlockhash": "y"})
        case "getSignaturesForAddress":
            return Answer([])
        case _:
            return Answer(error={"code": -32601, "message": "Method not found"})


@asynccontextmanager
async def serving(decide: Decide = standard, secret: str = "") -> AsyncIterator[Server]:
    server = Server(decide, secret=secret)
    open_: set[asyncio.Task[Any]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(v) for k, v in _headers(head) if k == "content-length")
                request = json.loads(await reader.readexactly(length))
                await _reply(server, request, writer)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            open_.discard(task)
            writer.close()

    listener = await asyncio.start_server(one, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(open_):
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)


def _headers(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode().split("\r\n")[1:]
    return [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines if line)]


async def _reply(server: Server, request: Any, writer: asyncio.StreamWriter) -> None:
    parts = request if isinstance(request, list) else [request]
    answers = []
    for part in parts:
        server.calls.append((part["method"], part["params"]))
        answers.append(server.decide(part["method"], part["params"]))
    first = answers[0]
    await asyncio.sleep(first.after_s)
    if first.raw is not None:
        body = first.raw
    else:
        objects = [
            {"jsonrpc": "2.0", "id": part["id"], **({"error": a.error} if a.error else {"result": a.result})}
            for part, a in zip(parts, answers, strict=True)
        ]
        body = json.dumps(objects if isinstance(request, list) else objects[0]).encode()
    length = 10**9 if first.trickle else len(body)
    headers = "".join(f"{name}: {value}\r\n" for name, value in first.headers.items())
    writer.write(
        f"HTTP/1.1 {first.status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n".encode()
    )
    if first.cut:
        writer.write(body[: len(body) // 2])
        await writer.drain()
        writer.close()
        return
    writer.write(body)
    await writer.drain()
    while first.trickle:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)
