"""Pages of inboxes from a replica: only what is as new as the primary's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from conformance.reads import decoded, draft
from coordd.engines.postgres import PostgresOptions, PostgresStore
from coordd.store import StoreUnavailableError
from support.postgres import Databases

LIMIT_S = 30.0


@pytest.fixture
async def store(databases: Databases) -> AsyncIterator[PostgresStore]:
    machine = databases.machine
    name = databases.new()
    machine.start_replica()
    machine.await_replay()
    store = PostgresStore(PostgresOptions(
        parameters=databases.pooled(name), replicas=(databases.replica(name),),
        standby=databases.replica(name), pool_size=3))
    await store.open()
    await until(lambda: store.replicas.usable == 1)
    yield store
    await store.close()
    machine.heal()
    machine.remove_replica()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not so():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


async def bodies(store: PostgresStore) -> list[str]:
    return [message.body for message in decoded((await store.inbox("bob", limit=100)).messages)]


async def from_the_replica(store: PostgresStore) -> list[str]:
    """What the inbox shows once a replica gives its pages."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            pages = store.replicas.pages
            found = await bodies(store)
            if store.replicas.pages > pages:
                return found
            await asyncio.sleep(0.05)


async def test_a_replica_gives_pages_that_are_as_new_as_the_primary_s(
        databases: Databases, store: PostgresStore) -> None:
    for number in range(20):
        await store.append([draft(body=str(number))])
        assert (await bodies(store))[0] == str(number), "an older inbox than was acknowledged"
    assert await from_the_replica(store) == [str(number) for number in range(19, -1, -1)]

    databases.machine.pause_replay()
    passed = store.replicas.passed
    for number in range(20, 30):
        [receipt] = await store.append([draft(body=str(number))])
        assert (await bodies(store))[0] == str(number)
        await store.mark(receipt.id, "bob", "deleted")
        assert (await bodies(store))[0] == "19"
    assert store.replicas.passed >= passed + 20
    await until(lambda: store.replicas.lag_s > 0)
    databases.machine.resume_replay()
    assert (await from_the_replica(store))[0] == "19"
    await until(lambda: store.replicas.lag_s == 0)


async def test_a_dead_replica_is_left_out_until_it_is_back(
        databases: Databases, store: PostgresStore) -> None:
    await store.append([draft(body="one")])
    assert await from_the_replica(store) == ["one"]
    databases.machine.stop_replica()
    for _ in range(20):
        assert await bodies(store) == ["one"]
    await until(lambda: store.replicas.usable == 0)
    databases.machine.start_replica()
    await until(lambda: store.replicas.usable == 1)
    assert await from_the_replica(store) == ["one"]


async def test_an_old_page_of_a_replica_is_not_shown(
        databases: Databases, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it is believed to be up to date: the page itself tells its version."""
    await store.append([draft(body="old")])
    assert await from_the_replica(store) == ["old"]
    databases.machine.pause_replay()
    await store.append([draft(body="new")])
    monkeypatch.setattr("coordd.engines.postgres.replicas.Replica.shows",
                        lambda self, version: self.up)
    passed = store.replicas.passed
    assert await bodies(store) == ["new", "old"]
    assert store.replicas.passed == passed + 1


async def test_the_standby_answers_while_the_primary_does_not(
        databases: Databases, store: PostgresStore) -> None:
    """All reads of messages, with all that was acknowledged; and no longer than that."""
    [receipt] = await store.append([draft(body="one")])
    databases.machine.await_replay()
    await until(lambda: store.replicas.can_stand_in)
    databases.machine.freeze_primary()
    assert await bodies(store) == ["one"]
    assert len(await store.message(receipt.id)) == 1
    assert len((await store.sent("alice", limit=10)).messages) == 1
    assert len((await store.thread(receipt.id, limit=10)).messages) == 1
    assert await store.version("bob")
    stood_in = store.replicas.stood_in
    assert stood_in >= 5
    databases.machine.heal()
    async with asyncio.timeout(LIMIT_S):
        while True:
            stood_in = store.replicas.stood_in
            await bodies(store)
            if store.replicas.stood_in == stood_in:
                break


async def test_a_standby_that_lacks_what_was_shown_does_not_answer(
        databases: Databases, store: PostgresStore) -> None:
    await store.append([draft(body="one")])
    databases.machine.await_replay()
    databases.machine.pause_replay()
    await store.append([draft(body="two")])
    assert await bodies(store) == ["two", "one"]
    await until(lambda: store.replicas.can_stand_in)
    databases.machine.freeze_primary()
    with pytest.raises(StoreUnavailableError):
        await bodies(store)
    databases.machine.resume_replay()
    assert await bodies(store) == ["two", "one"]
    databases.machine.heal()
