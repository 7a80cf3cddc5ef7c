"""Answers that come after the commit, restarts, bounds, and callers that leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from conformance.reads import draft, everything, feed, inbox, send
from coordd.store import Claim, StoreBusyError

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.store import Receipt, Store


async def tried(store: Store, body: str, claim: Claim | None = None) -> list[Receipt] | None:
    """The receipts, None when the store is busy."""
    try:
        return await store.append([draft(body=body)], claim)
    except StoreBusyError:
        return None


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_everything_survives_restarts(engine: Harness, store: Store, how: str) -> None:
    for number in range(4):
        receipts = await store.append([
            draft(["bob", "carol"], body=f"{number} {part} " + "x" * 700) for part in range(10)
        ])
        await store.mark(receipts[0].id, "bob", "read")
        await store.mark(receipts[1].id, "carol", "deleted")
        await store.put_agent("bob", str(number))
        before, changes = await everything(store), await feed(store)
        store = await getattr(engine, how)(store)
        assert await everything(store) == before
        assert await feed(store) == changes
    assert (await send(store)).deliveries == [("bob", 41)]


async def test_an_empty_store_opens_again(engine: Harness, store: Store) -> None:
    store = await engine.reopen(await engine.reopen(store))
    assert (await send(store)).deliveries == [("bob", 1)]


async def test_each_answer_is_durable_when_it_is_given(engine: Harness, store: Store) -> None:
    for number in range(1, 8):
        await asyncio.gather(*(store.append([draft()]) for _ in range(3)))
        found = await engine.crash(store)
        assert [message.seq for message in await inbox(found)] == list(range(1, 3 * number + 1))


async def test_close_commits_what_is_waiting(engine: Harness, store: Store) -> None:
    waiting = [asyncio.ensure_future(store.append([draft()])) for _ in range(50)]
    await asyncio.sleep(0)
    store = await engine.reopen(store)
    assert len(await asyncio.gather(*waiting)) == 50
    assert len(await inbox(store)) == 50


async def test_past_the_bound_it_is_refused_and_not_stored(engine: Harness) -> None:
    store = await engine.open(pending_max=10)
    for _ in range(3):
        answers = await asyncio.gather(*(tried(store, str(number)) for number in range(200)))
        taken = [number for number, answer in enumerate(answers) if answer]
        assert 10 <= len(taken) < 200
        messages = await inbox(store)
        assert [int(m.body) for m in messages[-len(taken):]] == taken
    assert [m.seq for m in messages] == list(range(1, len(messages) + 1))
    assert await tried(store, "later")


async def test_a_key_that_was_refused_may_be_used_again(engine: Harness) -> None:
    store = await engine.open(pending_max=5)
    claims = [Claim("alice", str(number), "d", 1) for number in range(100)]
    answers = await asyncio.gather(*(tried(store, claim.key, claim) for claim in claims))
    assert None in answers
    for claim, answer in zip(claims, answers, strict=True):
        again = await tried(store, claim.key, claim)
        assert again is not None
        assert answer in (None, again)
    assert sorted(int(message.body) for message in await inbox(store)) == list(range(100))


async def test_a_caller_that_leaves_cancels_no_commit(engine: Harness, store: Store) -> None:
    async def caller(number: int) -> None:
        await store.append([draft(body=str(number))], Claim("alice", str(number), "d", 1))

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.sleep(0)
    for leaving in callers[::2]:
        leaving.cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(a, asyncio.CancelledError) for a in answers] == [True, False] * 10
    await send(store, body="20")
    assert [int(message.body) for message in await inbox(store)] == list(range(21))
    [receipt] = await store.append([draft(body="0")], Claim("alice", "0", "d", 1))
    assert receipt.deliveries == [("bob", 1)]
    found = await engine.crash(store)
    assert len(await inbox(found)) == 21


async def test_a_mark_whose_caller_leaves_is_kept(store: Store) -> None:
    receipt = await send(store)
    caller = asyncio.create_task(store.mark(receipt.id, "bob", "read"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await send(store)
    assert [message.state for message in await inbox(store)] == ["read", "unread"]


async def test_the_room_of_deleted_messages_is_given_back(engine: Harness, store: Store) -> None:
    receipts = await store.append([
        draft(["bob", "carol"], body="x" * 2000, thread_id="t") for _ in range(40)
    ])
    for number, receipt in enumerate(receipts):
        if number % 4:
            await store.mark(receipt.id, "bob", "deleted")
        if number % 2:
            await store.mark(receipt.id, "carol", "deleted")
    await store.append([draft("dave", body="y" * 5000)])
    before = await everything(store)
    await engine.upkeep(store)
    assert await everything(store) == before
    await send(store)
    before = await everything(store)
    for again in (await engine.crash(store), await engine.reopen(store)):
        assert await everything(again) == before
        target = await engine.open()
        await target.import_(await feed(again))
        assert await everything(target) == before
