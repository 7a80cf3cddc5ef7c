"""The inbox cache over a real store and a real Redis: what it answers, and what it does not."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from coordd.cache import CachedStore
from coordd.cache.store import LIMIT_MAX, READ_MAX
from coordd.engines.files import FilesOptions, FilesStore
from coordd.store import Change, Draft, KeyConflictError, StoreSealedError
from coordd.store import Claim as Key
from faults.cacheload import until
from support.redis import RedisServer, link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from coordd.model import Mark


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> int:
        return round(self.now.timestamp() * 1e6)

    def after(self, **span: float) -> str:
        return (self.now + timedelta(**span)).isoformat()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, server: RedisServer, clock: Clock) -> AsyncIterator[CachedStore]:
    inner = FilesStore(tmp_path / "data", FilesOptions(clock_us=clock))
    store = CachedStore(inner, link(server.url))
    await store.open()
    yield store
    await store.close()


def draft(to: str = "bob", body: str = "body", **fields: Any) -> Draft:
    return Draft("alice", (to,), "subject", body, **fields)


async def settled(store: CachedStore) -> None:
    """What is refilled after sends has been given to Redis."""
    await until(lambda: not store._refills)


async def is_hit(store: CachedStore, agent: str = "bob", **query: Any) -> bool:
    """Whether the cache answers when it is up to date; the answer is the store's in any case."""
    await settled(store)
    before = store.hits, store.misses
    page = await store.inbox(agent, **query)
    assert page == await store.inner.inbox(agent, **query)
    hits, misses = store.hits - before[0], store.misses - before[1]
    assert hits + misses <= 1
    return hits == 1


async def test_the_second_read_is_a_hit(store: CachedStore) -> None:
    await store.append([draft(body=str(number)) for number in range(150)])
    assert not await is_hit(store, limit=100)
    for query in ({"limit": 100}, {"limit": 1}, {"limit": 7, "order": "newest"},
                  {"limit": 50, "order": "oldest", "after": 140},
                  {"limit": 5, "order": "oldest", "after": 140},
                  {"limit": 100, "order": "oldest", "after": 150},
                  {"limit": 100, "order": "oldest", "after": 10**9},
                  {"limit": 100, "after": 140}, {"limit": 3, "after": 140}):
        assert await is_hit(store, **query), query


async def test_who_only_follows_an_inbox_has_hits_too(store: CachedStore, server: RedisServer
                                                      ) -> None:
    await store.append([draft() for _ in range(20)])
    query: dict[str, Any] = {"limit": 10, "order": "oldest", "after": 18}
    for _ in range(2):
        assert not await is_hit(store, **query)
        assert await is_hit(store, **query)
        assert await is_hit(store, **query | {"after": 19})
        await store.append([draft()])
    assert not await is_hit(store, limit=10)
    assert await is_hit(store, limit=10)
    server.ask("FLUSHALL")
    assert not await is_hit(store, **query)
    assert server.keys() == []  # it would take the place of the newest ten


async def test_an_inbox_without_messages_is_a_hit_too(store: CachedStore) -> None:
    assert not await is_hit(store, limit=10)
    assert await is_hit(store, limit=10)
    assert await is_hit(store, limit=10, order="oldest")
    await store.append([draft()])
    assert await is_hit(store, limit=10)


@pytest.mark.parametrize("query", [
    {"limit": 10, "cursor": "b5"}, {"limit": 10, "unread": True}, {"limit": 301},
    {"limit": 10, "min_priority": "high"}, {"limit": 10, "after": 1 << 53}])
async def test_what_is_not_cached_is_not_counted(store: CachedStore, query: dict[str, Any]) -> None:
    await store.append([draft() for _ in range(20)])
    for _ in range(2):
        assert not await is_hit(store, **query)
    assert (store.hits, store.misses) == (0, 0)


async def test_sends_keep_an_inbox_cached(store: CachedStore) -> None:
    await store.append([draft() for _ in range(10)])
    await store.inbox("bob", limit=100)
    for _ in range(3):
        await store.append([draft(), draft("carol"), draft(body="é" * 70_000)])
        assert await is_hit(store, limit=100)
        assert await is_hit(store, limit=5, order="oldest", after=8)


async def test_what_nobody_reads_is_not_refilled(store: CachedStore) -> None:
    await store.inbox("bob", limit=100)
    for sends in (2, 3):
        for _ in range(sends):
            await store.append([draft()])
            await settled(store)
        assert not await is_hit(store, limit=100)
        assert await is_hit(store, limit=100)


async def test_a_mark_is_a_miss_and_then_a_hit(store: CachedStore) -> None:
    receipts = await store.append([draft() for _ in range(10)])
    await store.inbox("bob", limit=100)
    for mark in ("read", "acked", "deleted"):
        assert await is_hit(store, limit=100)
        await store.mark(receipts[3].id, "bob", mark)
        assert not await is_hit(store, limit=100)
        for repeated in (receipts[3].id, "unknown"):
            await store.mark(repeated, "bob", mark)
            assert await is_hit(store, limit=100)


async def test_a_replayed_key_and_a_refused_write(store: CachedStore) -> None:
    claim = Key("alice", "k", "d", 1)
    await store.append([draft(body="first")], claim)
    await store.append([draft() for _ in range(5)])
    await store.inbox("bob", limit=100)
    await store.append([draft(body="first")], claim)
    await store.append([draft("carol", body="first")], claim)  # a group has other members now
    assert await is_hit(store, limit=100)
    with pytest.raises(KeyConflictError):
        await store.append([draft()], Key("alice", "k", "other", 1))
    await store.seal(1)
    with pytest.raises(StoreSealedError):
        await store.append([draft()])
    with pytest.raises(StoreSealedError):
        await store.mark((await store.append([draft(body="first")], claim))[0].id, "bob", "read")
    assert await is_hit(store, limit=100)


async def test_no_more_than_the_newest_are_kept(store: CachedStore, server: RedisServer) -> None:
    server.ask("FLUSHALL")
    await store.inbox("bob", limit=LIMIT_MAX)
    for _ in range(8):
        await store.append([draft() for _ in range(50)])
        assert await is_hit(store, limit=LIMIT_MAX)
        assert await is_hit(store, limit=60, order="oldest", after=350)
        [key] = server.keys()
        assert server.ask("ZCARD", key) <= LIMIT_MAX + 2
    for _ in range(2):
        assert not await is_hit(store, limit=10, order="oldest", after=20)
    assert await is_hit(store, limit=LIMIT_MAX)


async def test_a_page_that_reaches_further_takes_the_place_of_a_shorter_one(store: CachedStore
                                                                            ) -> None:
    await store.append([draft() for _ in range(50)])
    for limit in (1, 10, 30):
        assert not await is_hit(store, limit=limit)
        assert await is_hit(store, limit=limit)
    await store.append([draft()])
    assert await is_hit(store, limit=30)
    assert await is_hit(store, limit=1)


async def test_large_messages_take_no_more_room_than_is_meant(
        store: CachedStore, server: RedisServer) -> None:
    server.ask("FLUSHALL")
    await store.inbox("bob", limit=10)
    for _ in range(60):
        await store.append([draft(body="x" * 65_000)])
        await is_hit(store, limit=3)
        assert server.ask("INFO", "memory")["used_memory_dataset"] < 8 << 20
    assert await is_hit(store, limit=3)
    for _ in range(2):
        assert not await is_hit(store, limit=50)


async def test_a_message_expires_in_the_cache_too(store: CachedStore, clock: Clock) -> None:
    await store.append([draft(), draft(expires_at=clock.after(seconds=10)), draft()])
    await store.inbox("bob", limit=100)
    await store.append([draft(expires_at=clock.after(seconds=5))])
    assert await is_hit(store, limit=100)
    for seconds, left, hit in ((4.9, 4, True), (0.2, 3, False), (2, 3, True), (2.8, 3, True),
                               (0.2, 2, False), (2, 2, True), (1000, 2, True)):
        clock.now += timedelta(seconds=seconds)
        assert await is_hit(store, limit=100) == hit
        assert len((await store.inbox("bob", limit=100)).messages) == left


async def test_a_clock_set_back_a_little_brings_nothing_back(store: CachedStore, clock: Clock
                                                             ) -> None:
    await store.append([draft(expires_at=clock.after(seconds=10))])
    await store.inbox("bob", limit=10)
    clock.now += timedelta(seconds=10)
    assert (await store.stats()).messages == 0
    clock.now -= timedelta(seconds=2)
    assert not (await store.inbox("bob", limit=10)).messages


async def test_an_import_is_shown(store: CachedStore, tmp_path: Path) -> None:
    source = FilesStore(tmp_path / "source")
    await source.open()
    [receipt] = await source.append([draft()])
    changes: list[Change] = (await source.feed(0, 10)).changes
    await source.mark(receipt.id, "bob", "read")
    later = (await source.feed(0, 10)).changes[-1:]
    await source.close()
    for each in (changes, later):
        assert not await is_hit(store, limit=10)
        assert await is_hit(store, limit=10)
        await store.import_(each)
    assert not await is_hit(store, limit=10)
    await store.import_(changes)
    assert await is_hit(store, limit=10)
    assert len((await store.inbox("bob", limit=10)).messages) == 1


async def test_more_at_once_than_is_kept(store: CachedStore) -> None:
    await store.inbox("bob", limit=100)
    await store.append([draft(body=str(number)) for number in range(LIMIT_MAX + 100)])
    assert await is_hit(store, limit=100)


async def test_more_inboxes_than_are_remembered(store: CachedStore) -> None:
    for number in range(READ_MAX + 10):
        store._note(f"agent-{number}", 10)
    assert len(store._read) <= READ_MAX
    await store.append([draft(f"agent-{READ_MAX + 9}")])
    assert await is_hit(store, f"agent-{READ_MAX + 9}", limit=10)


async def test_a_member_in_place_of_ours(store: CachedStore, server: RedisServer) -> None:
    server.ask("FLUSHALL")
    await store.append([draft() for _ in range(3)])
    await store.inbox("bob", limit=100)
    for junk in (b"junk", b"", b'{"id":"x","seq":3}'):
        assert await is_hit(store, limit=100)
        [key] = server.keys()
        server.ask("ZREMRANGEBYSCORE", key, 3, 3)
        server.ask("ZADD", key, 3, junk)
        errors = store.errors
        assert not await is_hit(store, limit=100)
        assert store.errors == errors + 1


async def test_another_inbox_with_the_same_version(store: CachedStore, server: RedisServer) -> None:
    server.ask("FLUSHALL")
    await store.inbox("bob", limit=10)
    await until(lambda: bool(server.keys()))
    [key] = server.keys()
    await store.append([draft("carol"), draft("dave"), draft("dave")])
    receipts = await store.append([draft("bob")])
    await store.mark(receipts[0].id, "bob", "read")
    assert await store.version("bob") == await store.version("dave")
    await store.inbox("bob", limit=10)
    await until(lambda: store._link._queue == [] and server.ask("ZCARD", key) == 2)
    server.ask("COPY", key, key.replace(b"inbox:bob", b"inbox:dave"))
    errors = store.errors
    query: dict[str, Any] = {"limit": 10, "order": "oldest", "after": 2}
    assert not await is_hit(store, "dave", **query)  # no message of bob's would be shown
    assert store.errors == errors + 1


@pytest.mark.parametrize("seed", range(4))
async def test_a_random_life(store: CachedStore, server: RedisServer, seed: int) -> None:
    """Every page is the store's, whatever was done before; many come from the cache."""
    chance = random.Random(seed)
    ids: list[tuple[str, str]] = []
    for _ in range(600):
        step = chance.random()
        if step < 0.15:
            sent = await store.append([draft(chance.choice(("bob", "carol")), str(number))
                                       for number in range(chance.choice((1, 2, 40)))])
            ids += [(receipt.id, receipt.deliveries[0][0]) for receipt in sent]
        elif step < 0.25 and ids:
            mark: Mark = chance.choice(("read", "acked", "deleted"))
            await store.mark(*chance.choice(ids[-chance.choice((5, 200)):]), mark)
        elif step < 0.26:
            server.ask("FLUSHALL")
        else:
            agent = chance.choice(("bob", "carol"))
            last_seq = (await store.inner.inbox(agent, limit=1)).last_seq
            await is_hit(
                store, agent, limit=chance.choice((1, 2, 10, 100, 300)),
                order=chance.choice(("newest", "oldest")),
                after=chance.choice((None, 0, last_seq, max(0, last_seq - chance.randint(0, 400)))))
    assert store.hits > store.misses / 3
    assert store.errors == 0
