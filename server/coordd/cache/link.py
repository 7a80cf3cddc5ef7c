"""The connection to Redis: commands of many callers in one pipeline, and none of them waits long.

Idle → send now; busy → collect, send when the last pipeline has been answered. Redis may be slow,
away or refuse: a call then ends with None within `ANSWER_S`, and the next ones at once, until a
connection made in the background has been answered a PING.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

CONNECT_S: Final = 1.0
ANSWER_S: Final = 0.25
PING_S: Final = 1.0
"""A link that has nothing to do asks this often whether Redis is there."""
RETRY_S: Final = (0.05, 2.0)
"""How long after a failure Redis is tried again: at first, and after many."""
PENDING_MAX: Final = 10_000

_log = logging.getLogger("coordd.cache")
_PING: Final = ("PING",)
_MULTI: Final = ("MULTI",)
_EXEC: Final = ("EXEC",)

Argument = str | bytes | int
Command = tuple[Argument, ...]
Call = tuple[tuple[Command, ...], asyncio.Future[Any]]
"""Commands, and who awaits the reply to the last of them."""


class Link:
    """One connection, made again whenever it breaks. `connect` makes a new one, not connected.
    `answer_s`, `connect_s`: how long Redis may take.
    """

    def __init__(self, connect: Callable[[], AbstractConnection], *, answer_s: float = ANSWER_S,
                 connect_s: float = CONNECT_S) -> None:
        self._connect = connect
        self._answer_s = answer_s
        self._connect_s = connect_s
        self._queue: list[Call] = []
        self._flying: list[Call] = []
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        """Whether Redis answered the last time."""
        self.errors = 0
        """Connections lost or not made, and commands that Redis refused."""
        self._told: set[str] = set()

    async def open(self) -> None:
        """Try to connect once, then go on trying in the background. Raises nothing."""
        self._task = asyncio.create_task(self._run())
        await self._tried.wait()

    async def close(self) -> None:
        """Let go of the connection; what is waiting ends with None."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """The reply to a command: bytes, a number or a list of them. A ResponseError where Redis
        refuses it, None where no answer came. Nothing is raised.
        """
        return self._send((args,))

    def transaction(self, *commands: Command) -> asyncio.Future[Any]:
        """As `call`, of commands between which Redis does nothing else: a list of their replies,
        errors among them.
        """
        return self._send((_MULTI, *commands, _EXEC))

    def _send(self, commands: tuple[Command, ...]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.up or len(self._queue) >= PENDING_MAX:
            future.set_result(None)
        else:
            self._queue.append((commands, future))
            self._wanted.set()
        return future

    async def _run(self) -> None:
        delay_s, longest_s = RETRY_S
        while True:
            connection = self._connect()
            try:
                async with asyncio.timeout(self._connect_s):
                    await connection.connect()  # type: ignore[no-untyped-call]
                await self._exchange(connection, [_PING])
                self._begin()
                delay_s = RETRY_S[0]
                await self._serve(connection)
            except (RedisError, OSError, TimeoutError) as error:
                self._lost(str(error) or "no answer in time")
            finally:
                self._drop()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, longest_s)

    async def _serve(self, connection: AbstractConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    await self._wanted.wait()
            except TimeoutError:
                await self._exchange(connection, [_PING])
                continue
            self._wanted.clear()
            self._flying, self._queue = self._queue, []
            replies = iter(await self._exchange(
                connection, [command for commands, _ in self._flying for command in commands]))
            for commands, future in self._flying:
                reply = [next(replies) for _ in commands][-1]
                if not future.done():
                    future.set_result(reply)
            self._flying = []

    async def _exchange(self, connection: AbstractConnection,
                        commands: list[Command]) -> list[Any]:
        """The replies to `commands`, in order."""
        replies: list[Any] = []
        async with asyncio.timeout(self._answer_s):
            await connection.send_packed_command(
                [hiredis.pack_command(args) for args in commands],  # type: ignore[arg-type]
                check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    self._refused(str(error))
                    replies.append(error)
        return replies

    def _refused(self, reason: str) -> None:
        """Count it, and tell the operator of each kind once a connection."""
        self.errors += 1
        kind = reason.split(maxsplit=1)[0] if reason else ""
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("Redis refuses a command, the cache does without: %s", reason)

    def _begin(self) -> None:
        self.up = True
        self._tried.set()
        self._told.clear()
        _log.info("the cache is connected")

    def _lost(self, reason: str) -> None:
        self.errors += 1
        if self.up or not self._tried.is_set():
            _log.warning("the cache is lost (%s): all answers come from the store", reason)
        self._tried.set()

    def _drop(self) -> None:
        self.up = False
        for _, future in (*self._flying, *self._queue):
            if not future.done():
                future.set_result(None)
        self._flying, self._queue = [], []
        self._wanted.clear()
