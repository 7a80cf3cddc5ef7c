"""The application under plain ASGI, as any ASGI server would run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from coordd.http.application import BODY_MAX_BYTES, Application
from coordd.http.request import Later, Request, Response, Result, Stream
from coordd.http.router import Route
from coordd.metrics import Metrics
from coordd.problems import Problem
from coordd.store import StoreBusyError

closed: list[str] = []


def _echo(request: Request) -> Result:
    return request.body or b"{}"


def _later(_request: Request) -> Result:
    future = asyncio.get_running_loop().create_future()
    future.get_loop().call_soon(future.set_result, 5)
    return Later(future, lambda number: b"%d" % number)


def _busy(_request: Request) -> Result:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(StoreBusyError("full"))
    return Later(future, lambda _: b"")


async def _nothing(_request: Request) -> Response:
    return Response(204)


async def _refuse(_request: Request) -> bytes:
    raise Problem("forbidden", "no")


async def _ticks() -> AsyncGenerator[bytes]:
    try:
        yield b"one\n"
        yield b"two\n"
        await asyncio.sleep(3600)
    finally:
        closed.append("closed")


def _stream(_request: Request) -> Result:
    return Stream(_ticks(), "text/plain")


ROUTES = [Route("POST", "/echo", _echo, ""), Route("GET", "/echo", _echo, ""),
          Route("GET", "/later", _later, "", timed=True), Route("GET", "/busy", _busy, ""),
          Route("DELETE", "/nothing", _nothing, ""), Route("GET", "/refuse", _refuse, ""),
          Route("GET", "/stream", _stream, "")]


@pytest.fixture
def application() -> Application:
    return Application(ROUTES, Metrics())


async def _ask(application: Application, method: str, path: str, *pieces: bytes,
               leave_after: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """The answer; with `leave_after`, the client leaves when it has so many pieces of it."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for piece in pieces:
        inbox.put_nowait({"type": "http.request", "body": piece, "more_body": True})
    inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)
        if leave_after is not None and len(sent) > leave_after:
            inbox.put_nowait({"type": "http.disconnect"})

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": []}
    await asyncio.wait_for(application(scope, inbox.get, send), 60)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(event["body"] for event in sent[1:])


async def test_answers_of_every_kind(application: Application) -> None:
    assert await _ask(application, "POST", "/echo", b"[1", b"]") == (
        200, {"content-type": "application/json", "content-length": "3",
              "x-content-type-options": "nosniff"}, b"[1]")
    assert (await _ask(application, "GET", "/later"))[2] == b"5"
    assert await _ask(application, "DELETE", "/nothing") == (204, {}, b"")
    status, headers, body = await _ask(application, "HEAD", "/echo")
    assert (status, headers["content-length"], body) == (200, "2", b"")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/none", 404), ("PUT", "/echo", 405), ("GET", "/refuse", 403), ("GET", "/busy", 503)])
async def test_problems(application: Application, method: str, path: str, status: int) -> None:
    answer = await _ask(application, method, path)
    assert answer[0] == json.loads(answer[2])["status"] == status
    assert answer[1]["content-type"] == "application/problem+json"


async def test_a_body_past_the_limit_is_413(application: Application) -> None:
    piece = b" " * (BODY_MAX_BYTES // 4)
    assert (await _ask(application, "POST", "/echo", *[piece] * 4))[0] == 200
    assert (await _ask(application, "POST", "/echo", *[piece] * 4, b" "))[0] == 413


async def test_a_stream_is_closed_when_the_client_leaves(application: Application) -> None:
    closed.clear()
    status, _, body = await _ask(application, "GET", "/stream", leave_after=2)
    assert (status, body) == (200, b"one\ntwo\n")
    assert closed == ["closed"]


async def test_answers_are_counted(application: Application) -> None:
    route = next(r for r in application.router.routes if r.path == "/later")
    before = route.counts.get(200, 0)
    await _ask(application, "GET", "/later")
    assert route.counts[200] == before + 1
    assert sum(application.metrics.send.counts) == 1
