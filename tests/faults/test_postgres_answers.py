"""Answers of the database that are lost behind the commit: what was stored is stored once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordd.engines.postgres import PostgresOptions, PostgresStore
from coordd.engines.postgres.database import Readers
from coordd.model import Message
from coordd.store import Claim, Draft, StoreError, StoreUnknownError
from support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.database import DatabaseMachine
    from support.postgres import Databases

RECEIPTS = b"SELECT message.id, coalesce("
"""How the statement begins that looks for what a flush has stored."""
_decode = msgspec.json.Decoder(Message).decode


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    name = databases.new()
    yield name
    databases.drop(name)


@pytest.fixture
def relay(database_machine: DatabaseMachine, database: str) -> Iterator[Relay]:
    with Relay(database_machine.pooled_url(database)) as relay:
        yield relay


@asynccontextmanager
async def store_of(databases: Databases, database: str, relay: Relay | None = None
                   ) -> AsyncIterator[PostgresStore]:
    parameters = databases.pooled(database)
    if relay is not None:
        parameters["conninfo"] = relay.url
    store = PostgresStore(PostgresOptions(parameters=parameters))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def draft(subject: str, to: str = "bob") -> Draft:
    return Draft("alice", (to,), subject, f"of {subject}")


def claim(key: str, count: int = 1) -> Claim:
    return Claim("alice", key, f"digest of {key}", count)


async def subjects(store: PostgresStore, to: str = "bob") -> list[tuple[int, str]]:
    page = await store.inbox(to, limit=100, order="oldest")
    return [(message.seq, message.subject) for message in map(_decode, page.messages)]


async def test_a_flush_whose_answer_is_lost_is_stored_once(
        databases: Databases, database: str, relay: Relay) -> None:
    async with store_of(databases, database, relay) as store:
        relay.lose(b"of first")
        sends = [store.append([draft("first")]),
                 store.append([draft("second"), draft("third")])]
        receipts = await asyncio.gather(*sends)
        assert relay.lost == 1
        assert await subjects(store) == [(1, "first"), (2, "second"), (3, "third")]
        assert [[each.deliveries for each in mine] for mine in receipts] == [
            [[("bob", 1)]], [[("bob", 2)], [("bob", 3)]]]


async def test_a_flush_of_some_with_keys_whose_answer_is_lost_is_stored_once(
        databases: Databases, database: str, relay: Relay) -> None:
    """The second try finds the keys of the first one, and messages without a key beside them."""
    async with store_of(databases, database, relay) as store:
        relay.lose(b"of keyed")
        sends = [store.append([draft("before")]),
                 store.append([draft("keyed")], claim("k1")),
                 store.append([draft("keyed")], claim("k1")),
                 store.append([draft("loose"), draft("end")])]
        receipts = await asyncio.gather(*sends)
        assert relay.lost == 1
        assert await subjects(store) == [(1, "before"), (2, "keyed"), (3, "loose"), (4, "end")]
        assert [[each.deliveries for each in mine] for mine in receipts] == [
            [[("bob", 1)]], [[("bob", 2)]], [[("bob", 2)]], [[("bob", 3)], [("bob", 4)]]]
        assert receipts[1] == receipts[2] == await store.append([draft("keyed")], claim("k1"))


async def test_a_flush_with_a_known_key_whose_answer_is_lost_stores_the_rest_once(
        databases: Databases, database: str, relay: Relay) -> None:
    """Here the first try stored nothing: it answered that a key is known."""
    async with store_of(databases, database, relay) as store:
        known = await store.append([draft("keyed")], claim("k1"))
        relay.lose(b"of loose")
        again, loose = await asyncio.gather(store.append([draft("keyed")], claim("k1")),
                                            store.append([draft("loose")]))
        assert relay.lost == 1
        assert again == known
        assert loose[0].deliveries == [("bob", 2)]
        assert await subjects(store) == [(1, "keyed"), (2, "loose")]


async def test_what_is_stored_is_never_called_unstored(
        databases: Databases, database: str, database_machine: DatabaseMachine) -> None:
    """The answer is lost, and then the way to the database is cut: nobody can say what is there,
    and the key says it later.
    """
    with Relay(database_machine.pooled_url(database)) as relay:
        async with store_of(databases, database, relay) as store:
            relay.lose(b"of keyed")
            sends = [asyncio.ensure_future(store.append([draft("keyed")], claim("k1"))),
                     asyncio.ensure_future(store.append([draft("loose")]))]
            while not relay.lost:  # noqa: ASYNC110 - the relay has a thread of its own
                await asyncio.sleep(0.001)
            relay.loss = 1.0
            found = await asyncio.gather(*sends, return_exceptions=True)
            assert [type(each) for each in found] == [StoreUnknownError] * 2
            relay.loss = 0.0
            async with store_of(databases, database) as another:
                [receipt] = await another.append([draft("keyed")], claim("k1"))
                assert receipt.deliveries == [("bob", 1)]
                assert await subjects(another) == [(1, "keyed"), (2, "loose")]


@pytest.mark.parametrize("keyed", [True, False])
async def test_reads_behind_a_lost_answer_that_fail_leave_it_unknown(
        databases: Databases, database: str, relay: Relay, *, keyed: bool) -> None:
    """The second try finds the first one's messages or keys; what it then reads is lost too."""
    async with store_of(databases, database, relay) as store:
        relay.lose(b"of first")
        relay.lose(RECEIPTS, times=1_000_000)  # a read is tried again and again
        with pytest.raises(StoreUnknownError):
            await store.append([draft("first")], claim("k1") if keyed else None)
        assert relay.lost > 2
        relay.lose(RECEIPTS, times=0)
        assert await subjects(store) == [(1, "first")]


async def test_marks_whose_answer_is_lost_are_set(
        databases: Databases, database: str, relay: Relay) -> None:
    async with store_of(databases, database, relay) as store:
        [receipt] = await store.append([draft("first")])
        relay.lose(receipt.id.encode())
        marked = await store.mark(receipt.id, "bob", "read")
        assert relay.lost == 1
        assert marked is not None
        assert _decode(marked).state == "read"
        stats = await store.stats()
        assert stats.events["READ"] == 1


async def test_a_database_that_is_silent_is_told_in_time(
        databases: Databases, database: str, relay: Relay) -> None:
    """Every kind of call ends, and all of them work again by themselves."""
    async with store_of(databases, database, relay) as store:
        [receipt] = await store.append([draft("first")])
        relay.pause()
        began = asyncio.get_running_loop().time()
        calls = [store.append([draft("second")], claim("k1")), store.inbox("bob", limit=1),
                 store.mark(receipt.id, "bob", "read"), store.version("bob"), store.prove(),
                 store.put_agent("bob", "silent"), store.feed(0, 10)]
        async with asyncio.timeout(40):
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, StoreError) for each in found), found
        assert asyncio.get_running_loop().time() - began < 30
        relay.resume()
        async with asyncio.timeout(30):
            while True:
                try:
                    [again] = await store.append([draft("second")], claim("k1"))
                    break
                except StoreError:
                    await asyncio.sleep(0.1)
        assert again.deliveries == [("bob", 2)]
        assert await subjects(store) == [(1, "first"), (2, "second")]


async def test_a_feed_is_read_though_the_answer_before_it_is_lost(
        databases: Databases, database: str, relay: Relay) -> None:
    async with store_of(databases, database, relay) as store:
        await store.append([draft("first")])
        relay.lose(b"coordd.expire_1")
        feed = await store.feed(0, 10)
        assert relay.lost == 1
        assert [change.type for change in feed.changes] == ["sent"]


async def test_who_waits_alone_is_served_when_the_database_comes_back_late(
        databases: Databases, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    readers = Readers(
        {**databases.pooled(database), "conninfo": f"postgresql://127.0.0.1:{port}/{database}"},
        size=2, wait_s=30)
    await readers.pool.open()
    try:
        asked = asyncio.create_task(readers.fetch("SELECT 1", limit_s=30))
        await asyncio.sleep(4)
        assert not asked.done()
        with Relay(databases.machine.pooled_url(database), port=port):
            assert await asked == [(1,)]
    finally:
        await readers.pool.close()
