"""A raw ASGI app that reads the request and answers 200: what uvicorn itself costs.

The second reference line of the bench; the first is coordd without a store (noop_server).
Run as `python -m bench.raw_server PORT`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Event = dict[str, Any]

BODY = b'{"id":"0199b0a0-0000-7000-8000-000000000000","seq":1,"deliveries":[["chat",1]]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: Event, receive: Callable[[], Awaitable[Event]],
              send: Callable[[Event], Awaitable[None]]) -> None:
    """Read the whole body, answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning",
                access_log=False, loop="uvloop", http="httptools", lifespan="off")
