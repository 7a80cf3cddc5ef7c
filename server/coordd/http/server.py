"""uvicorn as this server runs it: our protocol, our signals, a sweep a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Generator
from typing import Final

import uvicorn

from coordd.http.application import Application
from coordd.http.protocol import Protocol, clock

STOP_LIMIT_S: Final = 10
"""How long a stop waits for requests in work."""
CONNECTIONS_MAX: Final = 16_384
DESCRIPTORS_KEPT: Final = 256
"""Not for connections: the store's files, the log, what Python opens."""
BACKLOG: Final = 4096
_TICKS_A_SECOND: Final = 10

log = logging.getLogger("coordd")


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """Where the socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def connections_max() -> int:
    """As many as descriptors allow; their soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, soft - DESCRIPTORS_KEPT))


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; then ends streams, finishes requests, returns.

    `drain_s`: how long clients, such as a load balancer, have to close their idle connections
    themselves. A connection that the server closes may have a request on its way, which is lost.
    """

    def __init__(self, application: Application, *, on_stop: Callable[[], None],
                 on_hangup: Callable[[], None], drain_s: float = 0.0) -> None:
        super().__init__(uvicorn.Config(
            application, http=Protocol, loop="uvloop", ws="none", lifespan="off", interface="asgi3",
            log_config=None, log_level=logging.WARNING, access_log=False, proxy_headers=False,
            server_header=False, date_header=False, backlog=BACKLOG,
            limit_concurrency=connections_max(), timeout_graceful_shutdown=STOP_LIMIT_S))
        self._application = application
        self._drain_s = drain_s
        self._on_stop = on_stop
        self._on_hangup = on_hangup

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on signals, and exit 0: uvicorn's own would end the process by the signal."""
        loop = asyncio.get_running_loop()
        stops = (signal.SIGTERM, signal.SIGINT)
        for number in stops:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (*stops, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % _TICKS_A_SECOND == 0:
            clock.tick()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would never end, then as uvicorn does."""
        self._on_stop()
        self._application.last_requests = True
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        deadline = time.monotonic() + self._drain_s
        while (self.server_state.connections and not self.force_exit  # noqa: ASYNC110 - as uvicorn
               and time.monotonic() < deadline):
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self.server_state.connections)


