"""What is asked of the server itself: alive, ready, metrics, and its own description."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from coordd import __version__
from coordd.api import views
from coordd.http.request import JSON, Answer, Request, Response
from coordd.http.router import Route
from coordd.looks import left
from coordd.metrics import Exporter
from coordd.problems import Problem
from coordd.store import (
    Store,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    StoreUnavailableError,
    StoreUnknownError,
)

PROOF_HOLDS_S: Final = 1.0
METRICS_WAIT_S: Final = 2.0
"""How long the metrics wait for a proof; one that takes longer is none."""

_HEALTH: Final = msgspec.json.encode(views.HealthView("ok", __version__))
_READY: Final = msgspec.json.encode(views.ReadyView("ready"))
_NO_SCRIPT: Final = (
    ("Content-Security-Policy",
     ("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
      "frame-ancestors 'none'")),
    ("Referrer-Policy", "no-referrer"))


class Readiness:
    """Whether a message could be stored: proved by the store, at most once a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._proof: asyncio.Task[None] | None = None
        self._begun_s = 0.0

    async def check(self) -> None:
        """Raises Problem (503) with the reason. Many callers share one proof."""
        now = time.monotonic()
        if self._proof is None or (self._proof.done() and now - self._begun_s >= PROOF_HOLDS_S):
            self._begun_s = now
            self._proof = asyncio.create_task(self._store.prove())
            self._proof.add_done_callback(left)
        try:
            await asyncio.shield(self._proof)
        except StoreSealedError as error:
            raise Problem("sealed", str(error), headers=(("Retry-After", "1"),)) from error
        except StoreFullError as error:
            raise Problem("full", str(error), status=503) from error
        except StoreBusyError as error:
            raise Problem("overloaded", str(error), headers=(("Retry-After", "1"),)) from error
        except (StoreUnavailableError, StoreUnknownError) as error:
            raise Problem("unavailable", str(error), headers=(("Retry-After", "1"),)) from error
        except (StoreError, OSError) as error:
            raise Problem("internal", f"the store cannot write: {error}", status=503) from error


class System:
    """The calls that need no token."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._documents: dict[str, bytes] = {}
        self.exporter: Exporter
        self.all_routes: Sequence[Route] = ()
        self.is_ready = False
        """Whether a message could be stored when the metrics were asked for."""

    def _health(self, _request: Request) -> Answer:
        return _HEALTH

    async def _ready(self, _request: Request) -> Answer:
        await self._readiness.check()
        return _READY

    async def _metrics(self, _request: Request) -> Answer:
        try:
            async with asyncio.timeout(METRICS_WAIT_S):
                await self._readiness.check()
        except (Problem, TimeoutError):
            self.is_ready = False
        else:
            self.is_ready = True
        return Response(200, self.exporter.text(), "text/plain; version=0.0.4; charset=utf-8")

    def _openapi(self, _request: Request) -> Answer:
        from coordd.api import openapi

        body = self._once("openapi", lambda: msgspec.json.encode(openapi.document(self.all_routes)))
        return Response(200, body, JSON, (("Cache-Control", "no-cache"),))

    def _docs(self, _request: Request) -> Answer:
        from coordd.api import docspage, openapi

        body = self._once("docs", lambda: docspage.page(
            self.all_routes, openapi.document(self.all_routes)).encode())
        return Response(200, body, "text/html; charset=utf-8", _NO_SCRIPT)

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The routes do not change, so neither do the documents about them."""
        if name not in self._documents:
            self._documents[name] = make()
        return self._documents[name]

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        return (
            Route("GET", "/health", self._health, "Is the process alive?", access="public",
                  answer=views.HealthView),
            Route("GET", "/ready", self._ready, "Can it store a message now?",
                  "Proved by a real durable write of this second.", access="public",
                  answer=views.ReadyView, unready=True),
            Route("GET", "/metrics", self._metrics, "Metrics for Prometheus", access="public",
                  media="text/plain"),
            Route("GET", "/openapi.json", self._openapi, "This API, for programs", access="public"),
            Route("GET", "/docs", self._docs, "This API, for people", access="public",
                  media="text/html"),
        )
