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
from support.redis import RedisServer, link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from coordd.model import Order, Priority
    from coordd.store import Page, Store


class Clock:
    """The time of day as the stores see it: the real one, and what a test has added."""

    def __init__(self) -> None:
        self.added = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.added

    def microseconds(self) -> int:
        """Since 1970, UTC."""
        return round(self().timestamp() * 1e6)

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

    def __init__(self, inner: FilesHarness) -> None:
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
        store = TwiceRead(inner, link(self._redis.url))
        await store.open_cache()
        self._open.append(store)
        return store


ENGINES: Final[dict[str, Callable[[Path], Harness]]] = {
    "files": lambda folder: FilesHarness(folder, segment_bytes=64 * 1024 * 1024),
    "files-small-segments": lambda folder: FilesHarness(folder, segment_bytes=4096),
    "files-redis": lambda folder: CachedHarness(
        FilesHarness(folder, segment_bytes=64 * 1024 * 1024)),
}
