"""HTTP on the socket: uvicorn's protocol with a short way for calls that do not stream.

uvicorn builds an ASGI scope, a task and two dicts a request; at 20,000 requests a second that is
most of the time there is. Here a complete request goes to its handler at once, and where the
handler waits for the store, the answer is written by the future's callback. Streams take uvicorn's
ASGI way.

One request of a connection is in work at a time. Those that a client pipelines wait in a queue,
and the socket is not read while any waits or while the client does not read its answers: so no
client can make memory grow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from coordd import problems
from coordd.http.application import (
    BODY_MAX_BYTES,
    Application,
    as_later,
    head,
    json_head,
    too_large,
)
from coordd.http.request import Answer, Later, Request, Response, Stream
from coordd.problems import Problem

log = logging.getLogger("coordd")

HEAD_MAX_BYTES: Final = 64 << 10
REQUEST_LIMIT_S: Final = 30.0
"""A request that is not complete by then is a slow loris's."""
IDLE_LIMIT_S: Final = 75.0
STALLED_LIMIT_S: Final = 60.0
"""A client that takes nothing of its answer for so long has gone."""
LINGER_S: Final = 3.0


class Clock:
    """What changes once a second for all connections: the time and the rendered heads."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.date = ""
        self.json_head = b""
        self.tick()

    def tick(self) -> None:
        """Read the time again."""
        self.now_s = time.monotonic()
        self.date = formatdate(usegmt=True)
        self.json_head = json_head(date=self.date)


clock = Clock()


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any],
                 _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._application: Application = config.loaded_app
        self._queue: deque[Request | Response] = deque()
        self._request: Request | None = None
        """The request in work."""
        self._later: Later | None = None
        self._future: asyncio.Future[Any] | None = None
        self._mine = False
        """Whether `_future` is a task of this connection, to be cancelled with it."""
        self._deaf = False
        """What arrives is thrown away: the connection ends after what is in work."""
        self._closing = False
        # The request being received.
        self._begun = False
        self._head_complete = False
        self._examined = False
        self._chunk_bytes = 0
        self._received_bytes = 0
        self._body: bytes | bytearray = b""
        # Since when this is so, for `sweep`.
        self._since_s = clock.now_s
        self._unsent_bytes = 0

    # What the parser found.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url = b""
        self.headers = []
        self._begun = True
        self._head_complete = self._examined = False
        self._received_bytes = 0
        self._body = b""
        self._since_s = clock.now_s

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        if not self._head_complete:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_complete = True
        if self._received_bytes + self._chunk_bytes > HEAD_MAX_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD_MAX_BYTES:
                self._refuse(_large_head())

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._deaf:
            return
        if not self._body:
            self._body = body
        else:
            if self._body.__class__ is bytes:
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > BODY_MAX_BYTES:
            self._refuse(too_large())

    def on_message_complete(self) -> None:
        """A whole request."""
        self._begun = False
        if self._deaf:
            return
        parser = self.parser
        request = Request(parser.get_method(), self.url, self.headers, bytes(self._body),
                          keep_alive=(parser.should_keep_alive() and not parser.should_upgrade()
                                      and not self._application.last_requests))
        self._body = b""
        if not request.keep_alive:
            self._deaf = True
        if self._request is None and not self._queue and not self.flow.write_paused:
            self._serve(request)
        else:
            self._queue.append(request)
            self.flow.pause_reading()

    # What the socket tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client; one too many is refused."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            self._refuse(Problem("overloaded", "too many connections: try again in a second",
                                 headers=(("Retry-After", "1"),)))

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._deaf:
            return
        self._chunk_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return
        except httptools.HttpParserCallbackError as error:
            self._refuse(problems.of(error.__context__ or error))
        except httptools.HttpParserError as error:
            self._refuse(Problem("bad-request", f"this is no HTTP/1.1: {error}"))
        if self._begun:
            self._received_bytes += len(data)
            if not self._examined:
                self._examine()

    def _examine(self) -> None:
        """Look at a request that did not come in one piece."""
        if not self._head_complete:
            if self._received_bytes > HEAD_MAX_BYTES:
                self._refuse(_large_head())
            return
        self._examined = True
        for name, value in self.headers:
            if name == b"content-length" and int(value) > BODY_MAX_BYTES:
                self._refuse(too_large())
                return
        for name, value in self.headers:
            if name == b"expect" and value.lower() == b"100-continue" and self._request is None:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: what it is owed soon it still gets."""
        self._deaf = True
        self._last_now()
        return self._later is not None and not self._mine

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody reads on: end the waiting. A commit under way goes on without us."""
        super().connection_lost(exc)
        self._closing = True
        self._queue.clear()
        if self._future is not None and self._mine:
            self._future.cancel()

    def resume_writing(self) -> None:
        """The client has read; go on with what it pipelined."""
        super().resume_writing()
        self._next()

    # The way of a request.

    def _serve(self, request: Request) -> None:
        self._request = request
        result = self._application.handle(request)
        kind = result.__class__
        if kind is bytes or kind is Response:
            self._answer(request, result)  # type: ignore[arg-type]
        elif isinstance(result, Stream):
            self._begin_stream(request, result)
        else:
            self._later = later = as_later(result)
            future = later.awaited
            self._mine = not isinstance(future, asyncio.Future)
            if not isinstance(future, asyncio.Future):
                future = asyncio.ensure_future(later.awaited, loop=self.loop)
            self._future = future
            future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[Any]) -> None:
        request, later = self._request, self._later
        self._later = self._future = None
        if request is None or later is None or self._closing:
            if not future.cancelled():
                future.exception()
            return
        self._answer(request, self._application.rendered(later, future))
        if self._queue or self.flow.read_paused:
            self._next()

    def _answer(self, request: Request, answer: Answer) -> None:
        """Write the answer; the connection is free again, or closed."""
        if answer.__class__ is bytes and request.keep_alive and request.method != b"HEAD":
            self._application.count(request, 200)
            self.transport.write(b"%b%d\r\n\r\n%b" % (clock.json_head, len(answer), answer))
        else:
            response = answer if isinstance(answer, Response) else Response(200, answer)
            self._application.count(request, response.status)
            self._write(response, keep_alive=request.keep_alive,
                        body=request.method != b"HEAD")
        self._request = None
        self._since_s = clock.now_s
        if not request.keep_alive:
            self._end()

    def _write(self, response: Response, *, keep_alive: bool, body: bool = True) -> None:
        data = head(response, keep_alive=keep_alive, date=clock.date)
        self.transport.write(data + response.body if body else data)

    def _next(self) -> None:
        """Serve what waits, as long as it is answered at once; then read on."""
        while self._queue and self._request is None and not self.flow.write_paused:
            if self._closing:
                return
            waiting = self._queue.popleft()
            if isinstance(waiting, Response):
                self._write(waiting, keep_alive=False)
                self._linger()
            else:
                self._serve(waiting)
        if not self._queue and not self.flow.write_paused and not self._closing:
            self.flow.resume_reading()

    def _refuse(self, problem: Problem) -> None:
        """Answer, after what is in work, that the connection's bytes make no sense; then close."""
        if self._deaf:
            return
        self._deaf = True
        self._begun = False
        self._body = b""
        unmatched = self._application.router.unmatched.counts
        response = problem.response()
        unmatched[response.status] = unmatched.get(response.status, 0) + 1
        if self._request is None and not self._queue:
            self._write(response, keep_alive=False)
            self._linger()
        else:
            self._queue.append(response)

    def _end(self) -> None:
        self._closing = True
        self._queue.clear()
        self.transport.close()

    def _linger(self) -> None:
        """Close for writing only and read on for a while: a reset would destroy the answer."""
        self._closing = True
        self._since_s = clock.now_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    # Streams: uvicorn's way.

    def _begin_stream(self, request: Request, stream: Stream) -> None:
        path, _, query = request.target.partition(b"?")
        self.scope = {
            "type": "http", "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self.parser.get_http_version(), "method": request.method.decode(),
            "scheme": self.scheme or "http", "path": unquote(path.decode("latin-1")),
            "raw_path": path, "query_string": query, "root_path": "", "headers": request.headers,
            "client": self.client, "server": self.server, "state": {}}
        self.cycle = RequestResponseCycle(
            scope=self.scope, transport=self.transport, flow=self.flow, logger=self.logger,
            access_logger=self.access_logger, access_log=False,
            default_headers=[(b"date", clock.date.encode())], message_event=asyncio.Event(),
            expect_100_continue=False, keep_alive=False, on_response=self._streamed)
        self._start_asgi_task(self.cycle, self._application.streaming(request, stream))  # type: ignore[arg-type]

    def _streamed(self) -> None:
        self._request = None
        self._closing = True

    # What the server asks of the connection.

    def shutdown(self) -> None:
        """Finish what is in work, then close."""
        if self._request is None and not self._queue and not self._begun:
            self._end()
            return
        self._last_now()

    def _last_now(self) -> None:
        """Close the connection after what is in work and in the queue."""
        waiting = self._queue[-1] if self._queue else self._request
        if isinstance(waiting, Request):
            waiting.keep_alive = False

    def sweep(self) -> None:
        """Called once a second: close what takes too long."""
        for_s = clock.now_s - self._since_s
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent_bytes:
            if for_s > STALLED_LIMIT_S:
                self.transport.abort()
            return
        if unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._since_s = clock.now_s
        elif self._closing:
            if for_s > LINGER_S:
                self.transport.close()
        elif self._request is None and not self._queue:
            limit_s = REQUEST_LIMIT_S if self._begun else IDLE_LIMIT_S
            if for_s > limit_s:
                self._end()


def _large_head() -> Problem:
    return Problem("bad-request", f"the request's head is over {HEAD_MAX_BYTES >> 10} KiB")
