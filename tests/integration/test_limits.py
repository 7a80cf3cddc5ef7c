"""What a connection may take in time and number, with limits short enough to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from coordd.http import protocol, server
from coordd.http.application import Application
from coordd.http.request import Request, Result
from coordd.http.router import Route
from coordd.metrics import Metrics

LIMIT_S = 60


def _small(_request: Request) -> Result:
    return b"{}"


def _large(_request: Request) -> Result:
    return b'"' + b"x" * (32 << 20) + b'"'


async def _slow(_request: Request) -> bytes:
    await asyncio.sleep(3600)
    return b"{}"


def _broken(_request: Request) -> Result:
    raise ZeroDivisionError


async def _late_broken(_request: Request) -> bytes:
    raise ZeroDivisionError


ROUTES = [Route("GET", f"/{name}", handler, name) for name, handler in (
    ("small", _small), ("large", _large), ("slow", _slow), ("broken", _broken),
    ("late-broken", _late_broken))]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[server.Server, int]]:
    sock = server.bind("127.0.0.1", 0)
    made = server.Server(Application(ROUTES, Metrics()), on_stop=_nothing, on_hangup=_nothing)
    task = asyncio.create_task(made._serve([sock]))
    while not made.started:  # noqa: ASYNC110 - uvicorn has a flag
        await asyncio.sleep(0.01)
    try:
        yield made, sock.getsockname()[1]
    finally:
        made.should_exit = True
        await asyncio.wait_for(task, LIMIT_S)


def _nothing() -> None:
    pass


async def _all(port: int, data: bytes) -> bytes:
    """Send, then read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), LIMIT_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("data", [
    b"GET /small", b"GET /small HTTP/1.1\r\nHost: x\r\n",
    b"POST /small HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
    b"POST /small HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
])
async def test_a_request_that_never_ends_is_closed(monkeypatch: pytest.MonkeyPatch, data: bytes
                                                   ) -> None:
    monkeypatch.setattr(protocol, "REQUEST_LIMIT_S", 0.1)
    async with running() as (_, port):
        assert await _all(port, data) == b""


@pytest.mark.parametrize("data", [b"", b"GET /small HTTP/1.1\r\n\r\n"])
async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(protocol, "IDLE_LIMIT_S", 0.1)
    async with running() as (_, port):
        answer = await _all(port, data)
        assert answer.startswith(b"HTTP/1.1 200") == bool(data)


async def test_a_request_in_work_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_LIMIT_S", 0.1)
    monkeypatch.setattr(protocol, "REQUEST_LIMIT_S", 0.1)
    monkeypatch.setattr(server, "STOP_LIMIT_S", 0)
    async with running() as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        await asyncio.sleep(2.5)
        assert made.connections == 1
        writer.close()
        await _until(lambda: made.connections == 0)
        assert await reader.read() == b""


async def test_a_client_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALLED_LIMIT_S", 0.5)
    async with running() as (made, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await _until(lambda: made.connections == 1)
        await _until(lambda: made.connections == 0)
        writer.close()


async def test_a_client_that_leaves_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (made, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        await _until(lambda: made.connections == 1)
        writer.close()
        await _until(lambda: made.connections == 0)
        await _until(lambda: not any("_slow" in repr(t) for t in asyncio.all_tasks()))


async def test_one_connection_too_many_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "connections_max", lambda: 2)
    async with running() as (_, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"GET /small HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        answer = await _all(port, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"\r\nretry-after: 1\r\n" in answer
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("path", ["broken", "late-broken"])
async def test_a_defect_is_500_and_logged_and_the_connection_lives(
        path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (_, port):
        answer = await _all(port, f"GET /{path} HTTP/1.1\r\n\r\n".encode()
                            + b"GET /small HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"/problems/internal" in answer
    assert b"ZeroDivision" not in answer
    assert b"HTTP/1.1 200" in answer
    assert "ZeroDivisionError" in caplog.text


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110 - of any kind
            await asyncio.sleep(0.02)
