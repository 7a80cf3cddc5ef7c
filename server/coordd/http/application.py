"""From a request to its result, and the same as a plain ASGI application.

The protocol of http/protocol.py calls `handle` directly; the ASGI side carries streams, and makes
the whole server run under any ASGI server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

from coordd import problems
from coordd.http.request import JSON, Answer, Later, Request, Response, Result, Stream
from coordd.http.router import Route, Router
from coordd.metrics import Metrics
from coordd.problems import Problem

BODY_MAX_BYTES: Final = 8 << 20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


def too_large() -> Problem:
    """413."""
    return Problem("too-large", f"a request is up to {BODY_MAX_BYTES >> 20} MiB: send less at once")


class Application:
    """The routes, and what is done around every handler."""

    def __init__(self, routes: Iterable[Route], metrics: Metrics) -> None:
        self.router = Router(routes)
        self.metrics = metrics
        self.last_requests = False
        """Whether each connection ends after the request that comes next."""

    def handle(self, request: Request) -> Result:
        """What the handler gives, or the problem that it raised."""
        request.started_s = perf_counter()
        try:
            return self.router.find(request).handler(request)
        except Exception as error:  # noqa: BLE001 - a defect is answered 500 and logged
            return problems.of(error).response()

    def rendered(self, later: Later, future: asyncio.Future[Any]) -> Answer:
        """The answer of a future that is done."""
        try:
            return later.render(future.result())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as in `handle`
            return problems.of(error).response()

    def count(self, request: Request, status: int) -> None:
        """Note an answer, just before it is written."""
        route = request.route
        route.counts[status] = route.counts.get(status, 0) + 1
        if route.timed:
            self.metrics.send.observe(perf_counter() - request.started_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3, HTTP only."""
        if scope["type"] != "http":
            raise RuntimeError(f"coordd takes no {scope['type']} connections")
        query = scope.get("query_string", b"")
        target = scope.get("raw_path") or scope["path"].encode()
        request = Request(scope["method"].encode(), target + (b"?" + query if query else b""),
                          scope["headers"], b"")
        try:
            request.body = await _body(receive)
        except Problem as problem:
            request.route = self.router.unmatched
            await self._send(request, problem.response(), send)
            return
        result = self.handle(request)
        if isinstance(result, Stream):
            await self._stream(request, result, receive, send)
        else:
            await self._send(request, await self._settled(result), send)

    async def _settled(self, result: Later | Any) -> Answer:
        if isinstance(result, Response | bytes):
            return result
        later = as_later(result)
        future = asyncio.ensure_future(later.awaited)
        await asyncio.wait([future])
        return self.rendered(later, future)

    async def _send(self, request: Request, answer: Answer, send: Send) -> None:
        if isinstance(answer, bytes):
            answer = Response(200, answer)
        self.count(request, answer.status)
        headers = [(name.encode(), value.encode()) for name, value in headers_of(answer)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if request.method == b"HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def streaming(self, request: Request, stream: Stream
                  ) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """An ASGI application that sends this stream."""
        async def app(_scope: Scope, receive: Receive, send: Send) -> None:
            await self._stream(request, stream, receive, send)
        return app

    async def _stream(self, request: Request, stream: Stream, receive: Receive, send: Send
                      ) -> None:
        """Send the chunks as they come, until there are no more or the client has left."""
        self.count(request, 200)
        headers = [(b"content-type", stream.content_type.encode()), (b"cache-control", b"no-store"),
                   (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def pump() -> None:
            if request.method != b"HEAD":
                async for chunk in stream.chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        async with contextlib.aclosing(stream.chunks):
            pumping = asyncio.ensure_future(pump())
            leaving = asyncio.ensure_future(_left(receive))
            try:
                await asyncio.wait([pumping, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (pumping, leaving):
                    task.cancel()
                results = await asyncio.gather(pumping, leaving, return_exceptions=True)
            if isinstance(results[0], Exception):
                problems.of(results[0])


def as_later(result: Any) -> Later:
    """A coroutine as a `Later`; one that is a `Later` already as it is."""
    return result if isinstance(result, Later) else Later(result, _same)


def _same(answer: Answer) -> Answer:
    return answer


def headers_of(response: Response) -> list[tuple[str, str]]:
    """The response's headers, without `connection`, names in lower case."""
    headers = [(name.lower(), value) for name, value in response.headers]
    if response.body or response.status != HTTPStatus.NO_CONTENT:
        headers += [("content-type", response.content_type),
                    ("content-length", str(len(response.body))),
                    ("x-content-type-options", "nosniff")]
    return headers


def head(response: Response, *, keep_alive: bool, date: str) -> bytes:
    """The response's first line and headers, to the empty line."""
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}", f"date: {date}"]
    lines += [f"{name}: {value}" for name, value in headers_of(response)]
    lines += ["connection: keep-alive" if keep_alive else "connection: close", "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def json_head(*, date: str) -> bytes:
    """The beginning of a 200 of JSON on a connection that stays, to the content-length's value."""
    return (f"HTTP/1.1 200 OK\r\ndate: {date}\r\nconnection: keep-alive\r\n"
            f"content-type: {JSON}\r\ncontent-length: ").encode("latin-1")


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body += message.get("body", b"")
        if len(body) > BODY_MAX_BYTES:
            raise too_large()
        if not message.get("more_body", False):
            return bytes(body)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
