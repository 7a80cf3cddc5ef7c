"""Pages of an inbox: order, cursors, filters, and followers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from conformance.reads import decoded, draft, inbox, send
from coordd.store import BadCursorError

if TYPE_CHECKING:
    from coordd.model import Order, Priority
    from coordd.store import Page, Store

ORDERS: tuple[Order, ...] = ("oldest", "newest")


def seqs(page: Page) -> list[int]:
    return [message.seq for message in decoded(page.messages)]


async def fill(store: Store, count: int, to: str = "bob") -> list[str]:
    receipts = await store.append([draft(to, body=str(number)) for number in range(count)])
    return [receipt.id for receipt in receipts]


async def test_an_inbox_that_nobody_wrote_to(store: Store) -> None:
    for order in ORDERS:
        page = await store.inbox("nobody", limit=10, order=order)
        assert (page.messages, page.next_cursor, page.last_seq) == ([], None, 0)


async def test_newest_first_unless_told(store: Store) -> None:
    await fill(store, 5)
    assert seqs(await store.inbox("bob", limit=3)) == [5, 4, 3]
    assert seqs(await store.inbox("bob", limit=3, order="oldest")) == [1, 2, 3]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 10, 11, 1000])
async def test_pages_together_are_the_inbox(store: Store, order: Order, limit: int) -> None:
    await fill(store, 10)
    await fill(store, 4, to="carol")
    whole = [message.seq for message in await inbox(store, order=order, limit=limit)]
    assert whole == (list(range(1, 11)) if order == "oldest" else list(range(10, 0, -1)))


async def test_a_page_has_the_limit_and_the_newest_seq(store: Store) -> None:
    await fill(store, 7)
    page = await store.inbox("bob", limit=3, order="oldest")
    assert (len(page.messages), page.last_seq) == (3, 7)
    assert page.next_cursor is not None
    page = await store.inbox("bob", limit=7)
    assert (len(page.messages), page.last_seq) == (7, 7)


async def test_last_seq_stays_when_the_newest_is_deleted(store: Store) -> None:
    ids = await fill(store, 3)
    for message_id in ids[1:]:
        await store.mark(message_id, "bob", "deleted")
    page = await store.inbox("bob", limit=10)
    assert (seqs(page), page.last_seq) == ([1], 3)
    assert (await send(store)).deliveries == [("bob", 4)]


async def test_newest_first_is_stable_under_arrivals_and_deletes(store: Store) -> None:
    ids = await fill(store, 10)
    page = await store.inbox("bob", limit=3)
    assert seqs(page) == [10, 9, 8]
    await fill(store, 5)
    await store.mark(ids[7], "bob", "deleted")  # seq 8: the one the cursor stands at
    await store.mark(ids[5], "bob", "deleted")  # seq 6: still to come
    page = await store.inbox("bob", limit=3, cursor=page.next_cursor)
    assert seqs(page) == [7, 5, 4]
    page = await store.inbox("bob", limit=30, cursor=page.next_cursor)
    assert (seqs(page), page.next_cursor, page.last_seq) == ([3, 2, 1], None, 15)


async def test_oldest_first_is_stable_and_finds_what_arrives(store: Store) -> None:
    ids = await fill(store, 6)
    page = await store.inbox("bob", limit=2, order="oldest")
    assert seqs(page) == [1, 2]
    await store.mark(ids[1], "bob", "deleted")
    await store.mark(ids[2], "bob", "deleted")
    await fill(store, 2)
    page = await store.inbox("bob", limit=30, order="oldest", cursor=page.next_cursor)
    assert seqs(page) == [4, 5, 6, 7, 8]


async def test_a_cursor_can_be_used_again(store: Store) -> None:
    await fill(store, 9)
    cursor = (await store.inbox("bob", limit=4)).next_cursor
    first = await store.inbox("bob", limit=4, cursor=cursor)
    assert await store.inbox("bob", limit=4, cursor=cursor) == first
    assert seqs(first) == [5, 4, 3, 2]


@pytest.mark.parametrize("cursor", ["no cursor of ours", "\N{SNOWMAN}", "'; --", "-", "9" * 400])
async def test_a_cursor_that_is_none(store: Store, cursor: str) -> None:
    await fill(store, 3)
    with pytest.raises(BadCursorError):
        await store.inbox("bob", limit=1, cursor=cursor)
    with pytest.raises(BadCursorError):
        await store.sent("alice", limit=1, cursor=cursor)
    with pytest.raises(BadCursorError):
        await store.thread("t-1", limit=1, cursor=cursor)
    with pytest.raises(BadCursorError):
        await store.search("body", limit=1, cursor=cursor)
    with pytest.raises(BadCursorError):
        await store.events(limit=1, cursor=cursor)


@pytest.mark.parametrize(
    ("after", "expected"), [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5]), (5, []), (99, [])]
)
async def test_only_what_came_after(store: Store, after: int, expected: list[int]) -> None:
    await fill(store, 5)
    page = await store.inbox("bob", limit=10, order="oldest", after=after)
    assert (seqs(page), page.last_seq) == (expected, 5)
    page = await store.inbox("bob", limit=10, order="newest", after=after)
    assert seqs(page) == expected[::-1]
    assert [m.seq for m in await inbox(store, after=after, limit=2)] == expected
    assert [m.seq for m in await inbox(store, after=after, limit=2, order="newest")] == (
        expected[::-1]
    )


async def test_after_a_deleted_one(store: Store) -> None:
    ids = await fill(store, 4)
    await store.mark(ids[1], "bob", "deleted")
    assert seqs(await store.inbox("bob", limit=10, order="oldest", after=2)) == [3, 4]
    assert seqs(await store.inbox("bob", limit=10, order="oldest", after=1)) == [3, 4]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_unread_only(store: Store, order: Order, limit: int) -> None:
    ids = await fill(store, 9)
    await store.mark(ids[0], "bob", "read")
    await store.mark(ids[3], "bob", "acked")
    await store.mark(ids[4], "bob", "read")
    await store.mark(ids[8], "bob", "deleted")
    found = [m.seq for m in await inbox(store, unread=True, order=order, limit=limit)]
    assert found == ([2, 3, 6, 7, 8] if order == "oldest" else [8, 7, 6, 3, 2])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_priority_at_least(store: Store, order: Order, limit: int) -> None:
    ranked: list[Priority] = ["critical", "high", "normal", "low", "info"]
    await store.append([draft(priority=priority) for priority in ranked * 2])
    for rank, priority in enumerate(ranked):
        found = await inbox(store, min_priority=priority, order=order, limit=limit)
        places = sorted([*range(1, rank + 2), *range(6, rank + 7)], reverse=order == "newest")
        assert [message.seq for message in found] == places


async def test_filters_together(store: Store) -> None:
    wanted: list[Priority] = ["high", "low", "high", "critical"]
    receipts = await store.append([draft(priority=priority) for priority in wanted])
    await store.mark(receipts[0].id, "bob", "read")
    found = await inbox(store, unread=True, min_priority="high", after=1, limit=1)
    assert [message.seq for message in found] == [3, 4]


async def test_a_long_run_of_filtered_messages_is_passed(store: Store) -> None:
    ids = await fill(store, 300)
    for message_id in ids[1:299]:
        await store.mark(message_id, "bob", "read")
    assert [m.seq for m in await inbox(store, unread=True, limit=1)] == [1, 300]
    for message_id in ids[1:299]:
        await store.mark(message_id, "bob", "deleted")
    assert seqs(await store.inbox("bob", limit=2)) == [300, 1]
    assert seqs(await store.inbox("bob", limit=2, order="oldest")) == [1, 300]


async def test_a_follower_skips_nothing_and_repeats_nothing(store: Store) -> None:
    async def sender(name: str) -> None:
        for number in range(60):
            await store.append([draft(by=name, body=str(number)) for _ in range(1 + number % 3)])

    async def follower() -> list[int]:
        seen: list[int] = []
        while not done.is_set() or seen[-1:] != [(await store.inbox("bob", limit=1)).last_seq]:
            page = await store.inbox(
                "bob", limit=5, order="oldest", after=seen[-1] if seen else 0
            )
            seen += seqs(page)
            await asyncio.sleep(0)
        return seen

    done = asyncio.Event()
    followers = [asyncio.create_task(follower()) for _ in range(3)]
    await asyncio.gather(*(sender(f"s{number}") for number in range(5)))
    done.set()
    for seen in await asyncio.gather(*followers):
        assert seen == list(range(1, 5 * 120 + 1))
