"""Connections: a pool for reads, a small one for writes, all waits bounded.

Every statement is a transaction of its own (autocommit), which is what a pgbouncer in transaction
mode shares best; prepared statements are pgbouncer's to track (`max_prepared_statements`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from coordd.engines.postgres import arrays
from coordd.engines.postgres.errors import LostError, is_lost, translated

Row = tuple[Any, ...]
T = TypeVar("T")

READ_LIMIT_S: Final = 5.0
WRITERS: Final = 4
"""The sends' flush, the marks' flush, and everything else that writes."""
_PING_AFTER_S: Final = 1.0
PAUSE_S: Final = 0.05
_WAITING_MAX: Final = 2000
"""Callers that may wait for a connection; more are refused at once."""
_TOLD_S: Final = 10.0
_AGAIN_S: Final = 0.5
"""How often a lost connection is tried again."""
_LIBPQ: Final = {
    "connect_timeout": "4", "tcp_user_timeout": "8000", "keepalives_idle": "5",
    "keepalives_interval": "2", "keepalives_count": "3", "application_name": "coordd",
}


class _Seldom(logging.Filter):
    """Lets the same text pass once in _TOLD_S: connections are tried again twice a second."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it was not told lately."""
        now, text = time.monotonic(), record.getMessage()
        self._told = {each: at for each, at in self._told.items() if now - at < _TOLD_S}
        return self._told.setdefault(text, now) == now


for _name in ("psycopg", "psycopg.pool"):
    logging.getLogger(_name).addFilter(_Seldom())


class Connection(AsyncConnection[Row]):
    """A connection that knows when it was last used, by the monotonic clock."""

    used_s = 0.0

    async def cancel_safe(self, *, timeout: float = 0) -> None:  # noqa: ARG002, ASYNC109 - psycopg's
        """Who waits no longer for a statement gives the connection up. To ask the database to end
        it takes psycopg up to 10 s where that is silent, which is just when nobody can wait.
        """
        self.pgconn.finish()


def conninfo(url: str, user: str | None, password: str | None, ca_file: str | None
             ) -> dict[str, Any]:
    """Parameters for psycopg; the password is not part of any text that could be shown."""
    found: dict[str, Any] = {"conninfo": url, **_LIBPQ}
    if user:
        found["user"] = user
    if password:
        found["password"] = password
    if ca_file:
        found |= {"sslmode": "verify-full", "sslrootcert": ca_file}
    return found


async def connect(parameters: dict[str, Any]) -> Connection:
    """A connection of one's own, in no pool."""
    connection = await Connection.connect(**parameters, autocommit=True)
    arrays.register(connection)
    return connection


async def _configure(connection: Connection) -> None:
    arrays.register(connection)
    connection.prepare_threshold = 0


async def _ping(connection: Connection) -> None:
    """Whether a connection that was not used for a while still works."""
    if time.monotonic() - connection.used_s > _PING_AFTER_S:
        async with asyncio.timeout(READ_LIMIT_S):
            await AsyncConnectionPool.check_connection(connection)


async def _on(pool: AsyncConnectionPool[Any]) -> None:
    """Try on where a pool would give up: who waits already asks for no other connection."""
    if not pool.closed and not pool.get_stats()["pool_available"]:
        await pool.check()  # that of none, but it has the pool grow


def _pool(parameters: dict[str, Any], name: str, size: int, wait_s: float
          ) -> AsyncConnectionPool[Connection]:
    rest = dict(parameters)
    return AsyncConnectionPool(
        rest.pop("conninfo"), connection_class=Connection, kwargs={**rest, "autocommit": True},
        name=name, min_size=1, max_size=size, timeout=wait_s, max_waiting=_WAITING_MAX,
        configure=_configure, check=_ping, max_idle=600, reconnect_timeout=_AGAIN_S,
        reconnect_failed=_on, open=False)


class Readers:
    """A pool for reads of one Postgres. `wait_s` bounds a caller's wait for a connection."""

    def __init__(self, parameters: dict[str, Any], size: int, wait_s: float) -> None:
        self.pool = _pool(parameters, "readers", size, wait_s)

    async def fetch(self, query: LiteralString, parameters: dict[str, Any] | None = None, *,
                    limit_s: float = READ_LIMIT_S) -> list[Row]:
        """A read's rows. Where a connection is lost it is read again, which is harmless, until the
        time is up. Raises StoreError.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                async with (asyncio.timeout(deadline - time.monotonic()),
                            self.pool.connection() as connection):
                    return await run(connection, query, parameters)
            except Exception as error:
                if not is_lost(error) or time.monotonic() + PAUSE_S >= deadline:
                    raise translated(error) from error
                await asyncio.sleep(PAUSE_S)


class Database(Readers):
    """One Postgres, through its pooler."""

    def __init__(self, parameters: dict[str, Any], pool_size: int, wait_s: float) -> None:
        super().__init__(parameters, pool_size, wait_s)
        self._writers = _pool(parameters, "writers", WRITERS, wait_s)

    async def open(self) -> None:
        """Connect. Raises StoreUnavailableError."""
        try:
            for pool in (self.pool, self._writers):
                await pool.open(wait=True, timeout=10)
        except Exception as error:
            await self.close()
            raise translated(error) from error

    async def close(self) -> None:
        """End all connections."""
        for pool in (self.pool, self._writers):
            await pool.close(timeout=2)

    @asynccontextmanager
    async def writer(self) -> AsyncGenerator[Connection]:
        """A connection of the writers' pool; psycopg's errors pass through."""
        async with self._writers.connection() as connection:
            yield connection


async def unbroken(connection: Connection, work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What `work` on that connection answers within `limit_s`; else LostError.

    The statement is never cancelled: a commit that waits for a second machine and is cancelled
    would stand on the first one alone, and be seen. The connection is given up instead.
    """
    task = asyncio.ensure_future(work)
    done: set[asyncio.Future[T]] = set()
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not done:
            connection.pgconn.finish()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    if not done:
        raise LostError(f"the database did not answer in {limit_s:.0f} s")
    return task.result()


async def run(connection: Connection, query: LiteralString,
              parameters: dict[str, Any] | None = None) -> list[Row]:
    """The rows of a statement."""
    cursor = await connection.execute(query, parameters, prepare=True)
    connection.used_s = time.monotonic()
    # Not by `description`, which makes an object of each column.
    return await cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []
