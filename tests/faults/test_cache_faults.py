"""What a cache's Redis may suffer amid load: no answer is stale, none is lost.

The judge of each answer is in `cacheload`; that it can see a stale one is shown at the end by
caches that lack a part of what keeps them right.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import redis

from coordd.cache import CachedStore, inboxes
from coordd.engines.files import FilesStore
from coordd.store import Draft
from faults.cacheload import Load, Unhurried, until
from support.redis import RedisServer, link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from coordd.model import Order
    from coordd.store import Page


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.close()


PATIENT: Final = {"answer_s": 60.0, "connect_s": 60.0}
"""For tests that count errors: a busy machine makes none."""


@asynccontextmanager
async def loaded(folder: Path, server: RedisServer, seed: int = 1, body_bytes: int = 100,
                 **limits: float) -> AsyncIterator[Load]:
    """A cached store under load, hits among it; at the end no answer was wrong."""
    async with judged(folder, server, seed, body_bytes, **limits) as load:
        yield load
    assert load.problems == []


@asynccontextmanager
async def judged(folder: Path, server: RedisServer, seed: int = 1, body_bytes: int = 100,
                 **limits: float) -> AsyncIterator[Load]:
    store = CachedStore(Unhurried(FilesStore(folder), seed), link(server.url, **limits))
    await store.open()
    try:
        load = Load(store, seed, body_bytes)
        async with load.running():
            await load.until_hits(50)
            yield load
    finally:
        await store.close()


async def ask(server: RedisServer, *command: str | bytes | int) -> Any:
    return await asyncio.to_thread(server.ask, *command)


async def test_a_load_without_faults(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server, **PATIENT) as load:
        await load.until_hits(3000)
    assert load.store.errors == 0


async def test_killed_and_started_again(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(4):
            server.kill()
            await load.until(lambda: not load.store.connected)
            await load.until_read(200)
            await asyncio.to_thread(server.start)
            await load.until_hits(100)
    assert load.store.errors >= 4


async def test_flushed_again_and_again(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server, **PATIENT) as load:
        for _ in range(100):
            await ask(server, "FLUSHALL")
            await load.until_read(10)
        await load.until_hits(50)
    assert load.store.errors == 0


async def test_full_and_evicting(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server, body_bytes=2000) as load:
        await ask(server, "FLUSHALL")
        used = (await ask(server, "INFO", "memory"))["used_memory"]
        await ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await ask(server, "CONFIG", "SET", "maxmemory", used + 600_000)
        async with asyncio.timeout(30):
            while (await ask(server, "INFO", "stats"))["evicted_keys"] < 100:
                await load.until_read(20)
        await load.until_hits(50)


async def test_full_and_refusing(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(5):
            await ask(server, "CONFIG", "SET", "maxmemory", 1)
            errors = load.store.errors
            await load.until(lambda errors=errors: load.store.errors >= errors + 20)
            await load.until_read(100)
            assert load.store.connected
            await ask(server, "CONFIG", "SET", "maxmemory", 0)
            await load.until_hits(50)


async def test_values_of_somebody_else(tmp_path: Path, server: RedisServer) -> None:
    chance = random.Random(2)

    def spoil(key: bytes) -> None:
        seq = chance.randint(-3, 400)
        junk: list[tuple[str | bytes | int, ...]] = [
            ("SET", key, "a text"), ("HSET", key, "field", "value"), ("ZADD", key, seq, "junk"),
            ("ZADD", key, seq, '{"id":"1","seq":1}'), ("ZADD", key, "0.5", "junk"),
            ("ZREMRANGEBYRANK", key, -1, -1), ("ZREMRANGEBYRANK", key, 1, 1),
            ("ZREMRANGEBYSCORE", key, 0, 0), ("ZADD", key, 0, "v2 of another format"),
            ("RENAME", key, key + b"x"), ("RPUSH", key, "a", "b"), ("XADD", key, "*", "a", "b")]
        try:
            if chance.random() < 0.5:
                server.ask("DEL", key)
            server.ask(*chance.choice(junk))
            head = server.ask("ZRANGE", key, 0, 0)
            if chance.random() < 0.3:  # the head of another version of this format
                server.ask("ZREM", key, *head)
                server.ask("ZADD", key, 0, chance.choice(
                    (head[0][:8] + b"v1 0 0 0", head[0][:8] + b"w" + head[0][9:])))
        except redis.exceptions.ResponseError:
            pass  # of another type already

    async with loaded(tmp_path / "data", server) as load:
        await ask(server, "SET", "coordd:v0:generation:inbox:bob", "an older format")
        for _ in range(100):
            keys = [each for each in await asyncio.to_thread(server.keys) if b":v2:" in each]
            if keys:
                await asyncio.to_thread(spoil, chance.choice(keys))
            await load.until_read(20)
        await load.until_hits(50)
        assert load.store.connected
    assert load.store.errors >= 10


async def test_members_of_another_inbox(tmp_path: Path, server: RedisServer) -> None:
    """Well-formed, but bob's under carol's key."""
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(50):
            keys = await asyncio.to_thread(server.keys)
            if len(keys) > 1:
                await ask(server, "COPY", keys[0], keys[1], "REPLACE")
            await load.until_read(20)
        await load.until_hits(50)


async def test_stopped_and_continued(tmp_path: Path, server: RedisServer) -> None:
    """SIGSTOP: what was asked meanwhile is done late, when nobody waits for it any more."""
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(4):
            server.pause()
            try:
                await load.until(lambda: not load.store.connected)
                await load.until_read(200)
            finally:
                server.resume()
            await load.until_hits(100)


async def test_stopped_for_less_than_a_timeout(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(20):
            server.pause()
            await asyncio.sleep(0.02)
            server.resume()
            await load.until_hits(20)


async def test_connections_killed(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(30):
            await ask(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await load.until(lambda: load.store.connected)
            await load.until_hits(20)
    assert load.store.errors >= 10


async def test_an_old_dump_comes_back(tmp_path: Path, server: RedisServer) -> None:
    async with loaded(tmp_path / "data", server) as load:
        for _ in range(3):
            await ask(server, "SAVE")
            await load.until_hits(100)
            server.kill()
            await asyncio.to_thread(server.start)
            await load.until_hits(100)


async def subjects_after_an_old_dump(folder: Path, server: RedisServer) -> list[str]:
    """What an inbox of two messages shows when Redis has come back from a dump with one."""
    store = CachedStore(FilesStore(folder), link(server.url))
    await store.open()
    async with asyncio.timeout(20):
        await store.append([Draft("alice", ("bob",), "first", "")])
        while not store.hits:
            await store.inbox("bob", limit=10)
        await ask(server, "SAVE")
        await store.append([Draft("alice", ("bob",), "second", "")])
        while store.hits < 2:
            await store.inbox("bob", limit=10)
        server.kill()
        await until(lambda: not store.connected)  # it asks now and then, without a call
        await asyncio.to_thread(server.start)
        await until(lambda: store.connected)
        assert len(server.keys()) == 1
        page = await store.inbox("bob", limit=10)
    await store.close()
    return [msgspec.json.decode(raw)["subject"] for raw in page.messages]


async def test_an_old_dump_is_not_shown(tmp_path: Path, server: RedisServer) -> None:
    assert await subjects_after_an_old_dump(tmp_path / "data", server) == ["second", "first"]


async def test_redis_away_at_the_start(tmp_path: Path) -> None:
    server = RedisServer()
    try:
        store = CachedStore(FilesStore(tmp_path / "data"), link(server.url))
        await store.open()
        load = Load(store, 3)
        async with load.running():
            await load.until_read(100)
            assert (store.hits, store.connected) == (0, False)
            await asyncio.to_thread(server.start)
            await load.until_hits(100)
        await store.close()
        assert load.problems == []
    finally:
        server.close()


async def test_a_new_server_reads_nothing_of_the_one_before(tmp_path: Path, server: RedisServer
                                                            ) -> None:
    """Killed with content in Redis, and the store goes on without it."""
    folder = tmp_path / "data"
    async with loaded(folder, server) as load:
        await load.until_hits(50)
    before = set(server.keys())
    assert before
    async with loaded(folder, server, seed=4) as load:
        await load.until_hits(50)
    assert set(server.keys()) > before
    assert all(0 < server.ask("PTTL", key) <= inboxes.LIFE_MS for key in before)


# The judge sees what is wrong.


async def seen(folder: Path, server: RedisServer) -> list[str]:
    """The problems of a cache that lacks something; the judge has some time to find the first."""
    async with judged(folder, server) as load:
        with suppress(TimeoutError):
            await load.until(lambda: bool(load.problems), limit_s=60)
    return load.problems


async def test_the_judge_sees_a_version_that_is_not_the_pages_own(
        tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader took before a write is cached after it, as if it were of the version now."""
    async def inbox(self: Unhurried, agent: str, **query: Any) -> Page:
        page = await right(self, agent, **query)
        page.version = await self.version(agent)
        return page

    right = Unhurried.inbox
    monkeypatch.setattr(Unhurried, "inbox", inbox)
    assert await seen(tmp_path / "data", server)


def uncompared(self: inboxes.Inboxes, agent: str, _version: int, order: Order, above: int,
               limit: int, reply: Any) -> Page | None:
    """`Inboxes._page` of a cache that takes content of any version."""
    heads = reply[0]
    version = int(heads[0][8:].split()[0][1:]) if heads else 0  # behind the inbox's tag
    return compared(self, agent, version, order, above, limit, reply)


compared = inboxes.Inboxes._page


async def test_the_judge_sees_versions_that_are_not_compared(
        tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes.Inboxes, "_page", uncompared)
    assert await seen(tmp_path / "data", server)


async def test_versions_that_are_not_compared_are_seen_in_an_old_dump(
        tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes.Inboxes, "_page", uncompared)
    assert await subjects_after_an_old_dump(tmp_path / "data", server) == ["first"]
