"""Two servers before one store and one Redis: a reader of one never sees an inbox older than a
write that the other has acknowledged, whatever the Redis suffers.

The judge of each answer is in `cacheload`; that it can see a stale one is shown at the end.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from coordd.cache import CachedStore
from coordd.engines.files import FilesStore
from coordd.store import Draft
from faults.cacheload import Load, Unhurried, until
from support.redis import RedisServer, link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.close()


class Way(Unhurried):
    """One server's way to a store that somebody else opens and closes."""

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Remembered(Way):
    """A server that counts on what it knows of versions: others write, and it learns late."""

    def __init__(self, inner: FilesStore, seed: int) -> None:
        super().__init__(inner, seed)
        self._known: dict[str, int] = {}

    async def version(self, agent: str) -> int:
        version = await super().version(agent)
        return self._known.setdefault(agent, version) if self._random.random() < 0.5 else version


@asynccontextmanager
async def judged(folder: Path, redis: RedisServer, way: type[Way] = Way) -> AsyncIterator[Load]:
    """All is written by one server and read by both, hits among it."""
    inner = FilesStore(folder)
    await inner.open()
    servers = [CachedStore(way(inner, seed), link(redis.url)) for seed in (1, 2)]
    try:
        for server in servers:
            await server.open()
        load = Load(servers[0], seed=7, writer=servers[1])
        async with load.running():
            await load.until_hits(50)
            yield load
    finally:
        for server in servers:
            await server.close()
        await inner.close()


async def test_a_reader_of_one_sees_what_the_other_has_answered(tmp_path: Path, server: RedisServer
                                                                ) -> None:
    async with judged(tmp_path / "data", server) as load:
        await load.until_hits(1500)
        await load.until(lambda: load.writer.hits > 100)
    assert load.problems == []


async def test_one_reads_what_the_other_has_cached(tmp_path: Path, server: RedisServer) -> None:
    inner = FilesStore(tmp_path / "data")
    await inner.open()
    writer, reader = (CachedStore(Way(inner, seed), link(server.url)) for seed in (1, 2))
    for each in (writer, reader):
        await each.open()
    await writer.append([Draft("alice", ("bob",), "first", "")])
    for _ in range(20):
        await asyncio.to_thread(server.ask, "FLUSHALL")
        await writer.inbox("bob", limit=10)
        await until(lambda: bool(server.keys()))
        errors = reader.errors
        page = await reader.inbox("bob", limit=10)
        if reader.hits:
            break
        assert reader.errors > errors, "only a Redis that is too slow excuses a miss"
    assert reader.hits == 1
    assert page == await inner.inbox("bob", limit=10)
    for each in (writer, reader, inner):
        await each.close()


async def test_a_redis_that_comes_and_goes_with_old_content(tmp_path: Path, server: RedisServer
                                                            ) -> None:
    async with judged(tmp_path / "data", server) as load:
        for _ in range(3):
            await asyncio.to_thread(server.ask, "SAVE")
            await load.until_hits(50)
            server.kill()
            await load.until(lambda: not (load.store.connected or load.writer.connected))
            await load.until_read(100)
            await asyncio.to_thread(server.start)
            await load.until_hits(50)
            await asyncio.to_thread(server.ask, "FLUSHALL")
    assert load.problems == []


async def test_the_judge_sees_a_server_that_counts_on_versions_it_knows(
        tmp_path: Path, server: RedisServer) -> None:
    async with judged(tmp_path / "data", server, Remembered) as load:
        with suppress(TimeoutError):
            await load.until(lambda: bool(load.problems), limit_s=60)
    assert load.problems
