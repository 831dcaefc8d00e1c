"""The health and metrics server, used badly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from indexer import metrics
from indexer.edges.httpd import CONNECTIONS_MAX, HttpServer, url_of
from programs.errors import UserError


def run(work: Callable[[HttpServer], Awaitable[Any]]) -> Any:
    async def status() -> dict[str, Any]:
        return {"at": 1}

    async def go() -> Any:
        server = HttpServer(list, status)
        await server.start("127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                return await work(server)
        finally:
            await server.close()

    return asyncio.run(go())


async def ask(server: HttpServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_a_host_that_is_not_ours_is_named_and_not_the_port(host: str) -> None:
    async def status() -> dict[str, Any]:
        return {}

    with pytest.raises(UserError) as refused:
        asyncio.run(HttpServer(list, status).start(host, 0))
    assert str(refused.value).startswith("INDEXER_METRICS_HOST = ")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("host", "url"), [("::1", "http://[::1]:7"), ("127.0.0.1", "http://127.0.0.1:7")])
def test_the_url_that_is_logged_can_be_opened(host: str, url: str) -> None:
    assert url_of(host, 7) == url


def test_a_port_that_is_taken_is_named() -> None:
    async def taken(server: HttpServer) -> str:
        other = HttpServer(list, server._status)
        with pytest.raises(UserError) as refused:
            await other.start("127.0.0.1", server.port)
        return str(refused.value)

    assert run(taken).startswith("INDEXER_METRICS_PORT = ")


def test_many_silent_connections_do_not_keep_a_probe_waiting() -> None:
    async def work(server: HttpServer) -> bytes:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3 * CONNECTIONS_MAX)]
        answer = await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")
        page = await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n")
        for _, writer in silent:
            writer.close()
        return answer + page

    answers = run(work).decode()
    assert answers.startswith("HTTP/1.1 200")
    told = dict(line.rsplit(" ", 1) for line in answers.splitlines() if line.startswith("indexer_http_"))
    assert 1 <= float(told["indexer_http_connections"]) <= CONNECTIONS_MAX
    assert float(told["indexer_http_connections_cut_total"]) >= 2 * CONNECTIONS_MAX


def test_every_name_on_the_page_is_ours() -> None:
    async def work(server: HttpServer) -> bytes:
        return await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n")

    page = run(work).decode().partition("\r\n\r\n")[2]
    names = [line.split("{")[0].split(" ")[0] for line in page.splitlines() if not line.startswith("#")]
    assert [name for name in names if not name.startswith("indexer_")] == []
    assert "indexer_process_resident_memory_bytes" in names


def test_an_open_connection_leaves_no_trace_on_stderr_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    async def work(server: HttpServer) -> None:
        await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.sleep(0.05)

    run(work)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
)
def test_what_it_does_not_serve_is_refused(request_: bytes, status: bytes) -> None:
    answer = run(lambda server: ask(server, request_))
    assert answer.split()[1] == status
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"Allow: GET, HEAD" in head) == (status == b"405")
    if request_.startswith(b"HEAD"):
        assert b"Content-Length: 16" in head
        assert body == b""


def test_the_page_holds_no_series_about_when_series_were_made() -> None:
    metrics.PROGRAM_UPGRADES.labels(program="x", what="upgraded")
    page = run(lambda server: ask(server, b"GET /metrics HTTP/1.1\r\n\r\n"))
    assert b"indexer_program_upgrades_total" in page
    assert b"_created{" not in page
    assert b"_created " not in page
