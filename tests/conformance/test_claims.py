"""Idempotency keys: a request stored once, however often it is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from conformance.reads import draft, feed, inbox
from coordd.store import Claim, KeyConflictError

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.store import Store

CLAIM = Claim("alice", "key-1", "aa11", 1)
OTHER_DIGEST = Claim("alice", "key-1", "bb22", 1)


async def test_a_repeat_answers_the_same_receipt(store: Store) -> None:
    first = await store.append([draft()], CLAIM)
    assert await store.append([draft()], CLAIM) == first
    assert [message.id for message in await inbox(store)] == [first[0].id]


async def test_a_repeat_after_others_and_after_a_delete(store: Store) -> None:
    first = await store.append([draft()], CLAIM)
    await store.append([draft()])
    await store.mark(first[0].id, "bob", "deleted")
    assert await store.append([draft()], CLAIM) == first
    assert [message.seq for message in await inbox(store)] == [2]


async def test_a_repeated_batch_with_fan_out(store: Store) -> None:
    claim = Claim("alice", "batch", "cc", 3)
    drafts = [draft(["bob", "carol"]), draft("carol"), draft("bob", thread_id="t-1")]
    first = await store.append(drafts, claim)
    assert await store.append(drafts, claim) == first
    assert len(await inbox(store, "bob")) == len(await inbox(store, "carol")) == 2


async def test_another_request_is_refused_and_stores_nothing(store: Store) -> None:
    first = await store.append([draft()], CLAIM)
    with pytest.raises(KeyConflictError):
        await store.append([draft(body="other")], OTHER_DIGEST)
    assert [message.id for message in await inbox(store)] == [first[0].id]
    assert await store.append([draft()], CLAIM) == first


async def test_keys_of_two_senders_are_two_keys(store: Store) -> None:
    mine = await store.append([draft()], CLAIM)
    theirs = await store.append([draft(by="carol")], Claim("carol", "key-1", "bb22", 1))
    assert mine != theirs
    assert len(await inbox(store)) == 2


async def test_two_calls_at_once_store_once(store: Store) -> None:
    calls = [store.append([draft(), draft()], Claim("alice", "k", "d", 2)) for _ in range(20)]
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert len(await inbox(store)) == 2


async def test_two_different_calls_at_once(store: Store) -> None:
    async def call(claim: Claim) -> str:
        try:
            [receipt] = await store.append([draft()], claim)
        except KeyConflictError:
            return "refused"
        return receipt.id

    answers = list(await asyncio.gather(call(CLAIM), call(OTHER_DIGEST), call(CLAIM)))
    [message] = await inbox(store)
    assert answers == [message.id, "refused", message.id]


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_a_key_is_known_after_a_restart(engine: Harness, store: Store, how: str) -> None:
    single = await store.append([draft()], CLAIM)
    batch_claim = Claim("alice", "batch", "cc", 2)
    batch = await store.append([draft(["bob", "carol"]), draft()], batch_claim)
    store = await getattr(engine, how)(store)
    assert await store.append([draft()], CLAIM) == single
    assert await store.append([draft(["bob", "carol"]), draft()], batch_claim) == batch
    with pytest.raises(KeyConflictError):
        await store.append([draft()], OTHER_DIGEST)
    assert len(await inbox(store)) == 3


async def test_a_key_is_known_where_the_messages_were_moved_to(
    engine: Harness, store: Store
) -> None:
    single = await store.append([draft()], CLAIM)
    batch_claim = Claim("alice", "batch", "cc", 2)
    batch = await store.append([draft(["bob", "carol"]), draft()], batch_claim)
    target = await engine.open()
    for change in await feed(store):
        await target.import_([change])
    assert await target.append([draft()], CLAIM) == single
    assert await target.append([draft(["bob", "carol"]), draft()], batch_claim) == batch
    with pytest.raises(KeyConflictError):
        await target.append([draft()], OTHER_DIGEST)
    assert len(await inbox(target)) == 3


async def test_a_key_is_known_for_a_day(engine: Harness, store: Store) -> None:
    first = await store.append([draft()], CLAIM)
    engine.clock.advance(hours=23, minutes=50)
    assert await store.append([draft()], CLAIM) == first
    store = await engine.reopen(store)
    assert await store.append([draft()], CLAIM) == first
    engine.clock.advance(hours=1)
    assert await store.append([draft()], CLAIM) != first
    assert len(await inbox(store)) == 2
