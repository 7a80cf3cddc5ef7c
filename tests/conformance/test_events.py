"""The audit log, and statistics that equal a recount of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from conformance.reads import counted, draft, events, feed, inbox, send
from coordd.model import Token, parse_time

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.model import Order
    from coordd.store import Store


async def story(store: Store) -> None:
    """Sends, a fan-out, every mark, a batch."""
    first = await send(store, "bob", subject="first")
    fan = await send(store, ["bob", "carol"], by="dave", subject="fan")
    await store.mark(first.id, "bob", "read")
    await store.mark(fan.id, "carol", "acked")
    await store.mark(fan.id, "bob", "deleted")
    await store.append([draft("alice", by="bob"), draft("carol", by="bob")])


async def test_one_event_a_change_of_a_delivery(store: Store) -> None:
    await story(store)
    log = await events(store)
    assert [(e.type, e.from_agent, e.to_agent) for e in log] == [
        ("SENT", "alice", "bob"), ("SENT", "dave", "bob"), ("SENT", "dave", "carol"),
        ("READ", "alice", "bob"), ("ACKED", "dave", "carol"), ("DELETED", "dave", "bob"),
        ("SENT", "bob", "alice"), ("SENT", "bob", "carol"),
    ]
    assert [event.subject for event in log[:6]] == ["first", "fan", "fan", "first", "fan", "fan"]
    assert [event.seq for event in log] == list(range(1, 9))
    for event in log:
        assert parse_time(event.timestamp)


async def test_a_sent_event_has_the_time_of_its_message(store: Store) -> None:
    receipt = await send(store, ["bob", "carol"])
    assert [event.timestamp for event in await events(store)] == [receipt.created_at] * 2


async def test_a_read_event_has_the_time_of_the_state(store: Store) -> None:
    receipt = await send(store)
    await store.mark(receipt.id, "bob", "read")
    [message] = await inbox(store)
    assert (await events(store))[-1].timestamp == message.read_at


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_and_filters(store: Store, order: Order, limit: int) -> None:
    await story(store)
    log = await events(store)

    async def seqs(**which: object) -> list[int]:
        found = await events(store, limit=limit, order=order, **which)  # type: ignore[arg-type]
        return [event.seq for event in found]

    def expected(*places: int) -> list[int]:
        return sorted(places, reverse=order == "newest")

    assert await seqs() == expected(*range(1, 9))
    assert await seqs(type="SENT") == expected(1, 2, 3, 7, 8)
    assert await seqs(type="EXPIRED") == []
    assert await seqs(agent="bob") == expected(1, 2, 4, 6, 7, 8)
    assert await seqs(agent="dave") == expected(2, 3, 5, 6)
    assert await seqs(agent="dave", type="SENT") == expected(2, 3)
    assert await seqs(agent="nobody") == []
    assert await seqs(after=5) == expected(6, 7, 8)
    assert await seqs(after=8) == []
    assert await seqs(after=2, agent="carol") == expected(3, 5, 8)
    page = await store.events(limit=1, agent="nobody")
    assert (page.events, page.last_seq) == ([], log[-1].seq)


async def test_a_cursor_is_stable_under_new_events(store: Store) -> None:
    await story(store)
    page = await store.events(limit=3, order="newest")
    await send(store)
    page = await store.events(limit=3, order="newest", cursor=page.next_cursor)
    assert [event.seq for event in page.events] == [5, 4, 3]
    assert page.last_seq == 9


async def test_an_empty_log(store: Store) -> None:
    page = await store.events(limit=10)
    assert (page.events, page.next_cursor, page.last_seq) == ([], None, 0)


async def test_the_registry_leaves_the_log_of_messages_in_order(store: Store) -> None:
    await send(store)
    await store.put_agent("bob", "builds")
    await store.put_group("ops", ["bob"])
    await store.put_token(Token("k1", "bob", "00" * 32, "2026-01-01T00:00:00Z"))
    await send(store)
    log = await events(store)
    assert [event.type for event in log] == ["SENT", "SENT"]
    assert log[0].seq < log[1].seq == (await store.events(limit=1)).last_seq


async def recount(store: Store) -> dict[str, object]:
    log = await events(store)
    names = {event.from_agent for event in log} | {event.to_agent for event in log}
    deliveries = [message for name in names for message in await inbox(store, name)]
    unread = Counter(m.to_agent for m in deliveries if m.state == "unread")
    sent_by = Counter(event.from_agent for event in log if event.type == "SENT")
    sent_to = Counter(event.to_agent for event in log if event.type == "SENT")
    return {
        "messages": len(deliveries),
        "unread": unread.total(),
        "events": dict(Counter(event.type for event in log)),
        "agents": {name: (sent_by[name], sent_to[name], unread[name]) for name in names},
    }


async def test_statistics_equal_a_recount(engine: Harness, store: Store) -> None:
    empty = counted(await store.stats())
    assert empty == {"messages": 0, "unread": 0, "events": {}, "agents": {}}
    for _ in range(5):
        await story(store)
        assert counted(await store.stats()) == await recount(store)
    before = counted(await store.stats())
    assert (await store.stats()).size_bytes > 0
    for again in (await engine.crash(store), await engine.reopen(store)):
        assert counted(await again.stats()) == before == await recount(again)


async def test_the_feed_is_every_change_once_in_order(store: Store) -> None:
    await story(store)
    await store.put_agent("bob", "builds")
    changes = await feed(store)
    assert [change.type for change in changes] == [
        "sent", "sent", "read", "acked", "deleted", "sent", "sent", "agent"
    ]
    places = [change.pos for change in changes]
    assert places == sorted(set(places))
    for limit in (1, 2, 5):
        assert await feed(store, limit) == changes
    piece = await store.feed(places[3], 2)
    assert piece.changes == changes[4:6]
    assert piece.last == places[-1]
    piece = await store.feed(places[-1], 10)
    assert (piece.changes, piece.cursor, piece.last) == ([], places[-1], places[-1])
    piece = await store.feed(0, 1000)
    assert (piece.changes, piece.cursor) == (changes, places[-1])


async def test_a_feed_of_nothing(store: Store) -> None:
    piece = await store.feed(0, 10)
    assert (piece.changes, piece.cursor, piece.last) == ([], 0, 0)
