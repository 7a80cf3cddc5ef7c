"""The engines that the suite runs against: one entry of `ENGINES` each.

A harness makes stores of its engine, empty ones, and opens them again as after a clean stop and
as after a crash. A new engine adds a class and an entry; the tests know the port only.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from coordd.cache import CachedStore
from coordd.engines.files import FilesOptions, FilesStore
from coordd.engines.postgres import PostgresOptions, PostgresStore
from support.redis import RedisServer, link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from coordd.model import Order, Priority
    from coordd.store import Page, Store
    from support.postgres import Databases


PATIENCE_S: Final = 60.0
"""For Redis, which is never away here: on a busy machine its answer may take long, and that is no
error. What it refuses is one, and what it does not answer at all."""


class Clock:
    """The time of day as the stores see it: the real one, and what a test has added."""

    def __init__(self) -> None:
        self.added = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.added

    def microseconds(self) -> int:
        """Since 1970, UTC."""
        return round(self().timestamp() * 1e6)

    def added_us(self) -> int:
        """What a test has added, in microseconds."""
        return round(self.added.total_seconds() * 1e6)

    def advance(self, **span: float) -> None:
        self.added += timedelta(**span)


class Harness(Protocol):
    """What the suite needs of an engine. Every store it gives is open."""

    clock: Clock

    async def open(self, *, pending_max: int = 10_000) -> Store:
        """A new, empty store."""
        ...

    async def reopen(self, store: Store) -> Store:
        """The same store after a clean stop."""
        ...

    async def crash(self, store: Store) -> Store:
        """What a new process finds when that of `store` was killed at this moment."""
        ...

    async def upkeep(self, store: Store) -> None:
        """Give back the room of what is deleted, now and not some time later."""
        ...

    async def close(self) -> None:
        """Close every store that was given."""
        ...


class Inner(Harness, Protocol):
    """A harness whose stores another store may stand before: that one closes them."""

    async def reopen(self, store: Store, close: Callable[[], Awaitable[None]] | None = None
                     ) -> Store:
        ...

    def forget(self, store: Store) -> None:
        """It was closed by a store before it."""
        ...


class FilesHarness:
    """The files engine: a store is a folder. A crash is a copy of it as it stands."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.clock = Clock()
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._made = 0
        self._open: dict[FilesStore, tuple[Path, FilesOptions]] = {}

    async def open(self, *, pending_max: int = 10_000) -> FilesStore:
        return await self._start(
            self._new_folder(),
            FilesOptions(
                segment_bytes=self._segment_bytes,
                pending_max=pending_max,
                clock_us=self.clock.microseconds,
            ),
        )

    async def reopen(self, store: Store, close: Callable[[], Awaitable[None]] | None = None
                     ) -> FilesStore:
        """`close` stops it where another store stands before it."""
        assert isinstance(store, FilesStore)
        folder, options = self._open.pop(store)
        await (close or store.close)()
        return await self._start(folder, options)

    async def crash(self, store: Store) -> FilesStore:
        assert isinstance(store, FilesStore)
        folder, options = self._open[store]
        copy = self._new_folder()
        shutil.copytree(folder, copy)
        return await self._start(copy, options)

    async def upkeep(self, store: Store) -> None:
        assert isinstance(store, FilesStore)
        await store.compact()

    def forget(self, store: Store) -> None:
        """It was closed by a store before it."""
        assert isinstance(store, FilesStore)
        del self._open[store]

    async def close(self) -> None:
        while self._open:
            store, _ = self._open.popitem()
            await store.close()

    def _new_folder(self) -> Path:
        self._made += 1
        return self._folder / f"store-{self._made}"

    async def _start(self, folder: Path, options: FilesOptions) -> FilesStore:
        store = FilesStore(folder, options)
        await store.open()
        self._open[store] = (folder, options)
        return store


class TwiceRead(CachedStore):
    """Reads each page twice: the second one may come from the cache."""

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        for _ in range(2):
            page = await super().inbox(agent, limit=limit, order=order, after=after,
                                       cursor=cursor, unread=unread, min_priority=min_priority)
        return page


class CachedHarness:
    """Another harness's stores, each behind a cache in one real Redis."""

    def __init__(self, inner: Inner) -> None:
        self._redis = RedisServer().start()
        self._inner = inner
        self._open: list[CachedStore] = []

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    async def open(self, *, pending_max: int = 10_000) -> Store:
        return await self._cached(await self._inner.open(pending_max=pending_max))

    async def reopen(self, store: Store) -> Store:
        assert isinstance(store, CachedStore)
        self._open.remove(store)
        return await self._cached(await self._inner.reopen(store.inner, store.close))

    async def crash(self, store: Store) -> Store:
        assert isinstance(store, CachedStore)
        return await self._cached(await self._inner.crash(store.inner))

    async def upkeep(self, store: Store) -> None:
        assert isinstance(store, CachedStore)
        await self._inner.upkeep(store.inner)

    async def close(self) -> None:
        try:
            for store in self._open:
                assert store.connected
                assert store.errors == 0
                await store.close()
                self._inner.forget(store.inner)
        finally:
            await self._inner.close()
            self._redis.close()

    async def _cached(self, inner: Store) -> Store:
        store = TwiceRead(inner, link(self._redis.url, answer_s=PATIENCE_S, connect_s=PATIENCE_S))
        await store.open_cache()
        self._open.append(store)
        return store


class PostgresHarness:
    """The Postgres engine through pgbouncer: a store is a database. What was killed leaves no more
    than the database has, so a new process is one more server.
    """

    def __init__(self, databases: Databases) -> None:
        self.clock = Clock()
        self._databases = databases
        self._open: dict[PostgresStore, tuple[str, PostgresOptions]] = {}
        self._names: list[str] = []

    async def open(self, *, pending_max: int = 10_000) -> PostgresStore:
        name = self._databases.new()
        self._names.append(name)
        return await self._start(name, PostgresOptions(
            parameters=self._databases.pooled(name), pool_size=3, pending_max=pending_max,
            search_block=4,
            shift_us=self.clock.added_us))

    async def reopen(self, store: Store, close: Callable[[], Awaitable[None]] | None = None
                     ) -> PostgresStore:
        assert isinstance(store, PostgresStore)
        name, options = self._open.pop(store)
        await (close or store.close)()
        return await self._start(name, options)

    async def crash(self, store: Store) -> PostgresStore:
        assert isinstance(store, PostgresStore)
        return await self._start(*self._open[store])

    async def upkeep(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        await store.keep_up()

    def forget(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        del self._open[store]

    async def close(self) -> None:
        while self._open:
            store, _ = self._open.popitem()
            await store.close()
        for name in self._names:
            self._databases.drop(name)

    async def _start(self, name: str, options: PostgresOptions) -> PostgresStore:
        store = PostgresStore(options)
        await store.open()
        self._open[store] = (name, options)
        return store


def _files(folder: Path, segment_bytes: int = 64 * 1024 * 1024) -> FilesHarness:
    return FilesHarness(folder, segment_bytes)


ENGINES: Final[dict[str, Callable[[Path, Callable[[], Databases]], Harness]]] = {
    "files": lambda folder, _: _files(folder),
    "files-small-segments": lambda folder, _: _files(folder, 4096),
    "files-redis": lambda folder, _: CachedHarness(_files(folder)),
    "postgres": lambda _, databases: PostgresHarness(databases()),
    "postgres-redis": lambda _, databases: CachedHarness(PostgresHarness(databases())),
}
"""Made with a new folder and with what gives the databases, asked only by those that need them."""
