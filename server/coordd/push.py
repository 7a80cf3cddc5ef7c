"""Waking the readers at other servers: a hint that an inbox has new messages, sent behind a commit.

    commit ─▶ this server's hub
           └▶ Redis' channel, where there is Redis, else one NOTIFY a flush ─▶ the others' hubs

Nothing rests on it: whoever waits looks by itself now and then, and after a connection was lost
everybody is woken once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from coordd.hub import Hub

EVERYBODY: Final = "*"
"""Stands for all agents in a message."""
_PAYLOAD_MAX: Final = 8000
"""What a NOTIFY holds, and one more."""
_RETRY_S: Final = (0.1, 2.0)
_PING_S: Final = 5.0

_log = logging.getLogger("coordd.push")


def payload_of(server: str, agents: Iterable[str]) -> str:
    """`<server> <agent> <agent> …`: who has new messages, and who stored them."""
    text = " ".join([server, *agents])
    return text if len(text) < _PAYLOAD_MAX else f"{server} {EVERYBODY}"


class Source(Protocol):
    """Where messages of other servers come from."""

    async def listen(self, heard: Callable[[str], None], ready: Callable[[], None]) -> None:
        """Call `heard` with each payload, `ready` once they are coming. Ends only by raising."""


class Push:
    """Tells the hub of what other servers have stored. `server`: who we are in payloads."""

    def __init__(self, hub: Hub, source: Source, server: str) -> None:
        self._hub = hub
        self._source = source
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self.connected = False
        """Whether payloads are coming."""
        self.heard = 0
        """Payloads of other servers."""

    async def open(self) -> None:
        """Begin in the background. A source that is away does not hinder it."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay_s, longest_s = _RETRY_S
        while True:
            try:
                await self._source.listen(self._hear, self._ready)
            except Exception as error:  # noqa: BLE001 - whatever it is, readers look by themselves
                if self.connected:
                    _log.warning("pushes of other servers do not come any more: %s", error)
                    delay_s = _RETRY_S[0]
                self.connected = False
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, longest_s)

    def _ready(self) -> None:
        self.connected = True
        self._hub.notify_all()

    def _hear(self, payload: str) -> None:
        server, *agents = payload.split(" ")
        if server == self._server:
            return
        self.heard += 1
        for agent in agents:
            if agent == EVERYBODY:
                self._hub.notify_all()
            else:
                self._hub.notify(agent, 0)


class RedisPush:
    """A channel of Redis: what is stored is published, a payload a turn of the event loop."""

    def __init__(self, connect: Callable[[], AbstractConnection],
                 publish: Callable[..., asyncio.Future[Any]], server: str,
                 generation: Callable[[], str]) -> None:
        self._connect = connect
        self._publish = publish
        self._server = server
        self._generation = generation
        self._agents: dict[str, None] = {}

    @property
    def _channel(self) -> str:
        """Named for the store, which has its name once it is open."""
        return f"coordd:v1:{self._generation()}:push"

    def stored(self, agent: str, _seq: int) -> None:
        """A listener of commits."""
        if not self._agents:
            asyncio.get_running_loop().call_soon(self._send)
        self._agents[agent] = None

    def _send(self) -> None:
        agents, self._agents = self._agents, {}
        self._publish("PUBLISH", self._channel, payload_of(self._server, agents))

    async def listen(self, heard: Callable[[str], None], ready: Callable[[], None]) -> None:
        """See `Source`."""
        connection = self._connect()
        try:
            async with asyncio.timeout(_PING_S):
                await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", self._channel)
            while True:
                try:
                    async with asyncio.timeout(_PING_S):
                        reply = await connection.read_response()
                except TimeoutError:
                    await connection.send_command("PING")
                    async with asyncio.timeout(_PING_S):
                        reply = await connection.read_response()
                if isinstance(reply, RedisError):
                    raise reply
                if reply[0] == b"subscribe":
                    ready()
                elif reply[0] == b"message":
                    heard(reply[2].decode())
        finally:
            await connection.disconnect(nowait=True)
