"""What a handler gets and what it may give back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from coordd.http.router import Route

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"


class Request:
    """One request, its body complete.

    `target` is the raw request target (path and query, not decoded); header names are in lower
    case; `args` are the decoded values of the path's `{…}`, set with `route` by the router.
    """

    __slots__ = ("args", "body", "headers", "keep_alive", "method", "route", "started_s", "target")

    route: Route
    started_s: float

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]],
                 body: bytes, *, keep_alive: bool = True) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.args: list[str] = []

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (in lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def query(self) -> dict[str, Any]:
        """The query's parameters as the route describes them, defaults filled in.

        Raises Problem (422) for one that is unknown, doubled or out of range.
        """
        return self.route.read_query(self.target.partition(b"?")[2])


class Response:
    """A complete answer. `headers` are beside content-type, content-length and connection."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", content_type: str = JSON,
                 headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers


class Stream:
    """An answer without an end: 200, then the chunks as they come.

    `chunks` is closed (`aclose`) when the client leaves.
    """

    __slots__ = ("chunks", "content_type")

    def __init__(self, chunks: AsyncGenerator[bytes], content_type: str) -> None:
        self.chunks = chunks
        self.content_type = content_type


Answer = Response | bytes
"""Bytes are the body of a 200 of JSON: what nearly every call answers."""


class Later:
    """An answer that waits for the store: `render(await awaited)`. No task where it is a future."""

    __slots__ = ("awaited", "render")

    def __init__(self, awaited: Awaitable[Any], render: Callable[[Any], Answer]) -> None:
        self.awaited = awaited
        self.render = render


Result = Answer | Later | Stream | Coroutine[Any, Any, Answer]
Handler = Callable[[Request], Result]
