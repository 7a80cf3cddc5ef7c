"""The store port on Postgres. What makes it right stands in schema/0001_store.sql."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, LiteralString, TypeVar

import msgspec
import psycopg

from coordd.archive import Archive, ArchiveError
from coordd.engines.postgres import queries, schema
from coordd.engines.postgres.archiving import Archiving
from coordd.engines.postgres.commit import COMMIT_LIMIT_S, Committer, SetMark
from coordd.engines.postgres.database import (
    PAUSE_S,
    READ_LIMIT_S,
    Database,
    Row,
    run,
    unbroken,
)
from coordd.engines.postgres.errors import is_lost, translated
from coordd.engines.postgres.feeding import Feeding
from coordd.engines.postgres.importing import Importing
from coordd.engines.postgres.reaching import reached
from coordd.engines.postgres.reading import Reading
from coordd.engines.postgres.replicas import Replica, Replicas
from coordd.engines.postgres.search import BLOCK_MESSAGES, Search
from coordd.engines.postgres.sending import Send
from coordd.engines.postgres.upkeep import Policy, Upkeep
from coordd.model import Agent, Group, Mark, Order, Priority, Token
from coordd.store import (
    Change,
    Claim,
    Draft,
    EventPage,
    Feed,
    Imported,
    MessageJson,
    Page,
    Receipt,
    Stats,
    StoreError,
    StoreUnavailableError,
    StoreUnknownError,
)

_PUT: Final[LiteralString] = (
    "SELECT coordd.put_1(%(shift)s, %(kind)s, %(name)s, %(entry)s::json, %(stamped)s)")
_SEAL: Final[LiteralString] = "SELECT coordd.seal_1(%(epoch)s, %(sealed)s)"
_PROVE: Final[LiteralString] = "SELECT coordd.prove_1()"
_EXPIRE: Final[LiteralString] = "SELECT coordd.expire_1(%(shift)s, 500)"

T = TypeVar("T")


class PostgresOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`parameters`: see `database.conninfo`. `shift_us` is added to the database's clock, by which
    all of a store's times are: tests move it.
    """

    parameters: dict[str, Any]
    replicas: tuple[dict[str, Any], ...] = ()
    standby: dict[str, Any] | None = None
    pool_size: int = 8
    wait_s: float = 5.0
    pending_max: int = 10_000
    pending_bytes_max: int = 64 << 20
    notice_of: str | None = None
    search_block: int = BLOCK_MESSAGES
    policy: Policy = Policy()
    archive: Archive | None = None
    archive_find: bool = False
    shift_us: Callable[[], int] = lambda: 0


class PostgresStore:
    """Messages in Postgres; any number of servers may have it open at once."""

    shared = True

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._shift_us = options.shift_us
        self._database = Database(options.parameters, options.pool_size, options.wait_s)
        self._listeners: list[Callable[[str, int], None]] = []
        replica = partial(Replica, size=options.pool_size, wait_s=options.wait_s)
        self.replicas = Replicas(self._database, map(replica, options.replicas),
                                 replica(options.standby) if options.standby else None)
        self._reading = Reading(self._database, self.replicas, options.shift_us)
        self._feeding = Feeding(self._database)
        self._importing = Importing(self._database)
        self._search = Search(self._database, options.search_block)
        self._archiving = Archiving(self._database, options.archive, options.shift_us,
                                    find=options.archive_find)
        self._upkeep = Upkeep(options.parameters, options.shift_us, self._expire, self._search,
                              self._archiving, options.policy)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.generation = ""

    async def open(self) -> None:
        """See the port. Raises SchemaError for a schema that this server does not know, and
        StoreUnavailableError.
        """
        self._loop = asyncio.get_running_loop()
        await self._check_schema()
        await self._database.open()
        try:
            [(self.generation, *_)] = await self._database.fetch(queries.STORE)
        except BaseException:
            await self._database.close()
            raise
        await self.replicas.open()
        self._committer = Committer(
            self._database, self._listeners, self._shift_us, self._options.pending_max,
            self._options.pending_bytes_max, self._options.notice_of)
        self._upkeep.start()

    async def _check_schema(self) -> None:
        connection = await reached(self._options.parameters)
        try:
            await schema.check(connection)
        except psycopg.Error as error:
            raise translated(error) from error
        finally:
            await connection.close()

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        await self._upkeep.stop()
        await self._committer.drain()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.replicas.close()
        await self._database.close()

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """For the metrics: (name, help, number)."""
        pool = self._database.pool.get_stats()
        yield "coordd_database_connections", "Connections for reads.", pool["pool_size"]
        yield ("coordd_database_waiters", "Reads that wait for a connection.",
               pool.get("requests_waiting", 0))
        if self.replicas:
            yield "coordd_replicas_usable", "Replicas that answer.", self.replicas.usable
            yield ("coordd_replica_lag_seconds", "The largest lag of a replica that answers.",
                   self.replicas.lag_s)
        yield from self._archiving.gauges()

    def counters(self) -> Iterable[tuple[str, str, float]]:
        """As `gauges`."""
        if self._options.standby:
            yield ("coordd_standby_reads", "Reads that the standby answered for the primary.",
                   self.replicas.stood_in)
        if self.replicas:
            yield "coordd_replica_pages", "Pages that a replica gave.", self.replicas.pages
            yield ("coordd_replica_passed", "Pages that no replica could give yet.",
                   self.replicas.passed)
        yield from self._archiving.counters()

    @property
    def waiting(self) -> int:
        """How many messages wait for their commit."""
        return self._committer.waiting_messages

    def on_commit(self, listener: Callable[[str, int], None]) -> None:
        self._listeners.append(listener)

    # Writes.

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[list[Receipt]] = self._loop.create_future()
        self._committer.send(Send(drafts, claim, future))
        return future

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        future: asyncio.Future[MessageJson | None] = self._loop.create_future()
        self._committer.mark(SetMark(message_id, agent, mark, future))
        return await asyncio.shield(future)

    async def put_agent(self, name: str, description: str) -> Agent:
        entry = {"name": name, "description": description}
        return msgspec.json.decode(await self._put("agent", name, entry), type=Agent)

    async def put_group(self, name: str, members: list[str]) -> Group:
        entry = {"name": name, "members": members}
        return msgspec.json.decode(await self._put("group", name, entry), type=Group)

    async def put_token(self, token: Token) -> None:
        await self._put("token", token.keyid, token, stamped=False)

    async def _put(self, kind: str, name: str, entry: Any, *, stamped: bool = True) -> str:
        [(text,)] = await self._write(_PUT, {
            "shift": self._shift_us(), "kind": kind, "name": name,
            "entry": msgspec.json.encode(entry).decode(), "stamped": stamped})
        return str(text)

    async def prove(self) -> None:
        await self._write(_PROVE, {})

    async def seal(self, epoch: int) -> int:
        [(position,)] = await self._write(_SEAL, {"epoch": epoch, "sealed": True})
        return int(position)

    async def unseal(self, epoch: int) -> None:
        await self._write(_SEAL, {"epoch": epoch, "sealed": False})

    async def import_(self, changes: Sequence[Change]) -> Imported:
        imported, heard = await self._task(self._importing.apply(changes))
        for listener in self._listeners:
            for to, seq in heard:
                listener(to, seq)
        return imported

    async def _write(self, query: LiteralString, parameters: dict[str, Any]) -> list[Row]:
        """One statement, to its end even where the caller leaves."""
        return await self._task(self._once(query, parameters))

    async def _once(self, query: LiteralString, parameters: dict[str, Any]) -> list[Row]:
        sent = False
        try:
            async with self._database.writer() as connection:
                sent = True
                return await unbroken(connection, run(connection, query, parameters),
                                      COMMIT_LIMIT_S)
        except Exception as error:
            if sent and is_lost(error):
                raise StoreUnknownError("the connection to the database was lost") from error
            raise translated(error) from error

    async def _task(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    # Reads.

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        return await self._reading.inbox(agent, limit, order, after, cursor, unread=unread,
                                         min_priority=min_priority)

    async def version(self, agent: str) -> int:
        return await self._reading.version(agent)

    async def message(self, message_id: str) -> list[MessageJson]:
        return await self._reading.message(message_id)

    async def archived(self, message_id: str) -> list[MessageJson]:
        return await self._archiving.find(message_id)

    async def sent(self, agent: str, *, limit: int, cursor: str | None = None) -> Page:
        return await self._reading.sent(agent, limit, cursor)

    async def thread(self, thread_id: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        return await self._reading.thread(thread_id, limit, cursor, party)

    async def search(self, query: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        return await self._search.page(query, limit, cursor, party, self._shift_us())

    async def events(self, *, limit: int, agent: str | None = None, type: str | None = None,  # noqa: A002
                     after: int | None = None, since: datetime | None = None,
                     until: datetime | None = None, cursor: str | None = None,
                     order: Order = "oldest") -> EventPage:
        await self._expire()
        return await self._reading.events(limit, agent, type, after, since, until, cursor, order)

    async def stats(self) -> Stats:
        await self._expire()
        return await self._reading.stats()

    async def agent(self, name: str) -> Agent | None:
        rows = await self._database.fetch(queries.ENTRY, {"kind": "agent", "name": name})
        return msgspec.json.decode(rows[0][0], type=Agent) if rows else None

    async def agents(self) -> list[Agent]:
        rows = await self._database.fetch(queries.REGISTRY, {"kind": "agent"})
        return [msgspec.json.decode(entry, type=Agent) for (entry,) in rows]

    async def group(self, name: str) -> Group | None:
        rows = await self._database.fetch(queries.ENTRY, {"kind": "group", "name": name})
        return msgspec.json.decode(rows[0][0], type=Group) if rows else None

    async def groups(self) -> list[Group]:
        rows = await self._database.fetch(queries.REGISTRY, {"kind": "group"})
        return [msgspec.json.decode(entry, type=Group) for (entry,) in rows]

    async def tokens(self) -> list[Token]:
        rows = await self._database.fetch(queries.TOKENS)
        return [msgspec.json.decode(entry, type=Token) for (entry,) in rows]

    async def feed(self, after: int, limit: int) -> Feed:
        await self._expire()
        return await self._feeding.feed(after, limit)

    async def sealed(self) -> int | None:
        [(_, sealed, epoch, _)] = await self._database.fetch(queries.STORE)
        return int(epoch) if sealed else None

    # Upkeep.

    async def _expire(self) -> int:
        """Record what has expired, or a part of it; how much. Counts and events say it then.

        Reads begin with it, so a lost connection is no more to them than to any read: done twice,
        it is done once. Raises StoreError.
        """
        deadline = time.monotonic() + READ_LIMIT_S
        while True:
            try:
                [(expired,)] = await self._write(_EXPIRE, {"shift": self._shift_us()})
            except (StoreUnavailableError, StoreUnknownError) as error:
                if time.monotonic() >= deadline:
                    raise StoreUnavailableError("the database does not answer") from error
                await asyncio.sleep(PAUSE_S)
            else:
                return int(expired)

    async def keep_up(self) -> None:
        """Do all upkeep that is due, now. Raises StoreError."""
        try:
            await self._upkeep.do_all()
        except ArchiveError as error:
            raise StoreError(f"the archive: {error}") from error
