"""The state of a delivery: unread, read, acknowledged; deleted; expired."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from conformance.reads import decoded, events, everything, feed, inbox, search, send, sent, thread
from coordd.model import Message, parse_time

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.model import Mark
    from coordd.store import Store


GONE = msgspec.Raw(b"{}")


async def marked(store: Store, message_id: str, agent: str, mark: Mark) -> Message:
    answer = await store.mark(message_id, agent, mark)
    assert answer is not None
    return msgspec.json.decode(answer, type=Message)


async def test_reading_sets_the_state_and_its_time(store: Store) -> None:
    receipt = await send(store)
    message = await marked(store, receipt.id, "bob", "read")
    assert (message.id, message.seq, message.body) == (receipt.id, 1, "body")
    assert (message.state, message.acked_at) == ("read", None)
    assert message.read_at is not None
    assert parse_time(message.read_at)
    assert await inbox(store) == [message]


async def test_reading_never_acknowledges_and_the_other_way_round(store: Store) -> None:
    receipt = await send(store)
    message = await marked(store, receipt.id, "bob", "acked")
    assert (message.state, message.read_at) == ("acknowledged", None)
    assert message.acked_at is not None
    assert parse_time(message.acked_at)


async def test_read_then_acknowledged(store: Store) -> None:
    receipt = await send(store)
    read = await marked(store, receipt.id, "bob", "read")
    both = await marked(store, receipt.id, "bob", "acked")
    assert (both.state, both.read_at) == ("acknowledged", read.read_at)
    assert await marked(store, receipt.id, "bob", "read") == both


async def test_reading_what_is_acknowledged_keeps_it_so(store: Store) -> None:
    receipt = await send(store)
    acked = await marked(store, receipt.id, "bob", "acked")
    message = await marked(store, receipt.id, "bob", "read")
    assert (message.state, message.acked_at) == ("acknowledged", acked.acked_at)


@pytest.mark.parametrize("mark", ["read", "acked"])
async def test_a_repeat_changes_nothing(store: Store, mark: Mark) -> None:
    receipt = await send(store)
    first = await store.mark(receipt.id, "bob", mark)
    before = await feed(store)
    assert await store.mark(receipt.id, "bob", mark) == first
    assert await feed(store) == before


async def test_repeats_at_once_are_one_change(store: Store) -> None:
    receipt = await send(store)
    marks: list[Mark] = ["read", "acked", "deleted"]
    for mark in marks:
        await asyncio.gather(*(store.mark(receipt.id, "bob", mark) for _ in range(10)))
    assert [event.type for event in await events(store)] == ["SENT", "READ", "ACKED", "DELETED"]


async def test_only_the_recipient_has_the_delivery(store: Store) -> None:
    receipt = await send(store, "bob", by="alice")
    marks: list[Mark] = ["read", "acked", "deleted"]
    for mark in marks:
        assert await store.mark(receipt.id, "alice", mark) is None
        assert await store.mark(receipt.id, "carol", mark) is None
        assert await store.mark("no-such-id", "bob", mark) is None
    [message] = await inbox(store)
    assert message.state == "unread"
    assert [event.type for event in await events(store)] == ["SENT"]


async def test_deliveries_of_a_fan_out_have_states_of_their_own(store: Store) -> None:
    receipt = await send(store, ["bob", "carol", "dave"])
    await store.mark(receipt.id, "bob", "read")
    await store.mark(receipt.id, "carol", "deleted")
    deliveries = decoded(await store.message(receipt.id))
    assert [(m.to_agent, m.state) for m in deliveries] == [("bob", "read"), ("dave", "unread")]
    assert await inbox(store, "carol") == []
    assert [m.to_agent for m in await sent(store, "alice")] in (["bob", "dave"], ["dave", "bob"])


async def test_deleted_is_gone_from_everything_but_the_events(store: Store) -> None:
    kept = await send(store, thread_id="t-1", body="needle one")
    gone = await send(store, thread_id="t-1", body="needle two")
    await store.mark(gone.id, "bob", "read")
    assert await store.mark(gone.id, "bob", "deleted") == GONE
    for messages in (
        await inbox(store), await inbox(store, order="newest"), await sent(store, "alice"),
        await thread(store, "t-1"), await search(store, "needle"),
    ):
        assert [message.id for message in messages] == [kept.id]
    assert await store.message(gone.id) == []
    assert [(e.type, e.message_id) for e in await events(store)] == [
        ("SENT", kept.id), ("SENT", gone.id), ("READ", gone.id), ("DELETED", gone.id)
    ]


async def test_deleting_again_answers_the_same_and_other_marks_find_nothing(store: Store) -> None:
    receipt = await send(store)
    for _ in range(3):
        assert await store.mark(receipt.id, "bob", "deleted") == GONE
    assert await store.mark(receipt.id, "bob", "read") is None
    assert await store.mark(receipt.id, "bob", "acked") is None
    assert [event.type for event in await events(store)] == ["SENT", "DELETED"]


async def test_a_seq_of_a_deleted_message_is_not_given_again(store: Store) -> None:
    for number in range(1, 5):
        receipt = await send(store)
        assert receipt.deliveries == [("bob", number)]
        await store.mark(receipt.id, "bob", "deleted")


async def test_expired_is_in_no_list(engine: Harness, store: Store) -> None:
    soon = (engine.clock().replace(microsecond=0)).isoformat()
    engine.clock.advance(seconds=-60)
    kept = await send(store, thread_id="t-1", body="needle", expires_at="2999-01-01T00:00:00Z")
    gone = await send(store, thread_id="t-1", body="needle", expires_at=soon)
    assert [message.id for message in await inbox(store)] == [kept.id, gone.id]
    engine.clock.advance(seconds=120)
    for messages in (
        await inbox(store), await inbox(store, order="newest"), await inbox(store, unread=True),
        await sent(store, "alice"), await thread(store, "t-1"), await search(store, "needle"),
    ):
        assert [message.id for message in messages] == [kept.id]
    assert await store.message(gone.id) == []
    assert await store.mark(gone.id, "bob", "read") is None
    assert (await store.inbox("bob", limit=1)).last_seq == 2
    assert [e.message_id for e in await events(store, type="SENT")] == [kept.id, gone.id]
    store = await engine.reopen(store)
    assert [message.id for message in await inbox(store)] == [kept.id]
    assert (await send(store)).deliveries == [("bob", 3)]


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_states_survive_a_restart(engine: Harness, store: Store, how: str) -> None:
    receipts = [await send(store, ["bob", "carol"]) for _ in range(5)]
    await store.mark(receipts[0].id, "bob", "read")
    await store.mark(receipts[1].id, "bob", "acked")
    await store.mark(receipts[1].id, "bob", "read")
    await store.mark(receipts[2].id, "bob", "deleted")
    await store.mark(receipts[2].id, "carol", "deleted")
    before = await everything(store)
    store = await getattr(engine, how)(store)
    assert await everything(store) == before
    assert await store.mark(receipts[2].id, "bob", "deleted") == GONE
