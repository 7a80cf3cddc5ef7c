"""A real redis-server of a test's own, on a unix socket."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from coordd.cache.address import connections
from coordd.cache.link import Link
from coordd.settings import Settings

from .child import Child

START_LIMIT_S = 30.0


def link(url: str, **limits: float) -> Link:
    """The cache's connection to that Redis, not opened."""
    return Link(connections(Settings(data=Path("unused"), cache="redis", redis_url=url)), **limits)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class RedisServer(Child):
    """Started by `start`; it keeps nothing on a disk unless told to. `url` is the same after a
    restart.
    """

    def __init__(self, *options: str) -> None:
        # Not in a test's folder: a socket's path has 107 bytes at most.
        self._temporary = tempfile.TemporaryDirectory(prefix="redis-")
        self._folder = folder = Path(self._temporary.name)
        self._options = options
        self._password: str | None = None
        self.url = f"unix://{folder / 's'}"

    def start(self, password: str | None = None) -> RedisServer:
        """Start it and wait for its PONG. `password`: the default user's, where it has one."""
        self._password = password
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["redis-server", "--port", "0", "--unixsocket", str(self._folder / "s"),
                 "--save", "", "--appendonly", "no", "--dir", str(self._folder),
                 *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self.ask("PING")
            except redis.exceptions.RedisError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)
            else:
                return self

    def ask(self, *command: str | bytes | int) -> Any:
        """The reply to a command of the test's. Raises redis.exceptions.RedisError."""
        with redis.Redis(unix_socket_path=str(self._folder / "s"), socket_timeout=5,
                         password=self._password, protocol=2) as client:
            return client.execute_command(*command)

    def keys(self) -> list[bytes]:
        """The keys of cached inboxes."""
        found: list[bytes] = self.ask("KEYS", "coordd:*")
        return found

    def close(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        self._temporary.cleanup()
