"""Appends: ids, seqs, fan-out, batches, and one order for each inbox."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from conformance.reads import decoded, draft, events, inbox, send
from coordd.model import is_id, parse_time

if TYPE_CHECKING:
    from coordd.store import Store


async def test_a_receipt_names_what_is_stored(store: Store) -> None:
    receipt = await send(store, subject="Hello", body="first\nsecond")
    [message] = await inbox(store)
    assert is_id(receipt.id)
    assert receipt.deliveries == [("bob", 1)]
    assert receipt.thread_id == receipt.id
    assert parse_time(receipt.created_at)
    assert (message.id, message.seq, message.thread_id, message.created_at) == (
        receipt.id, 1, receipt.id, receipt.created_at
    )
    assert (message.from_agent, message.to_agent) == ("alice", "bob")
    assert (message.subject, message.body) == ("Hello", "first\nsecond")
    assert (message.priority, message.in_reply_to, message.expires_at) == ("normal", None, None)
    assert (message.state, message.read_at, message.acked_at) == ("unread", None, None)


async def test_every_field_of_a_draft_is_kept(store: Store) -> None:
    receipt = await send(
        store, "bob", priority="critical", thread_id="t-1", in_reply_to="m-0",
        expires_at="2999-01-01T00:00:00+02:00",
    )
    [message] = decoded(await store.message(receipt.id))
    assert receipt.thread_id == "t-1"
    assert message.priority == "critical"
    assert message.thread_id == "t-1"
    assert message.in_reply_to == "m-0"
    assert message.expires_at == "2999-01-01T00:00:00+02:00"


async def test_texts_come_back_to_the_byte(store: Store) -> None:
    bodies = [
        "", " ", "\n", "a\r\nb\n\n", '"quoted" \\ back\\slash', "\t\x01\x1f\x7f", "\u2028\u2029",
        "Zürich Ωmega 日本語 🙂 e\u0301", "{}[],:", "x" * 65_536, "é" * 32_768, "\\u0000 \\n",
        "\ufeff\ufffd\U0010ffff",
    ]
    receipts = await store.append(
        [draft(subject=body[:50].replace("\n", " "), body=body) for body in bodies]
    )
    messages = await inbox(store, limit=4)
    assert [message.body for message in messages] == bodies
    assert [message.subject for message in messages] == [
        body[:50].replace("\n", " ") for body in bodies
    ]
    assert [message.id for message in messages] == [receipt.id for receipt in receipts]


async def test_seqs_of_an_inbox_rise_by_one_from_one(store: Store) -> None:
    for number in range(1, 6):
        assert (await send(store, "bob")).deliveries == [("bob", number)]
        assert (await send(store, "carol")).deliveries == [("carol", number)]
    assert [message.seq for message in await inbox(store, "bob")] == [1, 2, 3, 4, 5]


async def test_the_order_of_calls_is_the_order_kept(store: Store) -> None:
    waiting = [store.append([draft(body=str(number))]) for number in range(500)]
    receipts = [receipt for [receipt] in await asyncio.gather(*waiting)]
    assert [receipt.deliveries for receipt in receipts] == [
        [("bob", number)] for number in range(1, 501)
    ]
    assert [message.body for message in await inbox(store)] == [str(n) for n in range(500)]


async def test_concurrent_senders_to_many_inboxes(store: Store) -> None:
    async def sender(name: str) -> list[tuple[str, int]]:
        mine = []
        for number in range(40):
            to = f"inbox-{number % 4}"
            receipt = await send(store, to, by=name, body=str(number))
            mine += receipt.deliveries
        return mine

    given = [
        place
        for places in await asyncio.gather(*(sender(f"s{n}") for n in range(10)))
        for place in places
    ]
    for number in range(4):
        name = f"inbox-{number}"
        messages = await inbox(store, name, limit=7)
        assert [message.seq for message in messages] == list(range(1, 101))
        assert sorted(seq for to, seq in given if to == name) == list(range(1, 101))
        for by in {message.from_agent for message in messages}:
            own = [int(message.body) for message in messages if message.from_agent == by]
            assert own == sorted(own), f"{by}'s messages to {name} changed their order"


async def test_an_id_is_given_once(store: Store) -> None:
    receipts = await store.append([draft(body="same") for _ in range(300)])
    assert len({receipt.id for receipt in receipts}) == 300


async def test_a_fan_out_is_one_message_with_a_delivery_each(store: Store) -> None:
    await send(store, "carol")
    receipt = await send(store, ["bob", "carol", "dave"], body="to all")
    assert receipt.deliveries == [("bob", 1), ("carol", 2), ("dave", 1)]
    deliveries = decoded(await store.message(receipt.id))
    assert [(m.to_agent, m.seq) for m in deliveries] == receipt.deliveries
    assert {m.id for m in deliveries} == {receipt.id}
    assert {m.body for m in deliveries} == {"to all"}
    assert [message.id for message in await inbox(store, "carol")][1] == receipt.id
    assert [event.to_agent for event in await events(store)] == ["carol", "bob", "carol", "dave"]


async def test_a_message_to_oneself(store: Store) -> None:
    receipt = await send(store, "alice", by="alice")
    assert [message.id for message in await inbox(store, "alice")] == [receipt.id]


async def test_a_batch_is_stored_in_its_order(store: Store) -> None:
    drafts = [
        draft(["bob", "carol"] if number % 3 == 0 else "bob", body=str(number))
        for number in range(1000)
    ]
    receipts = await store.append(drafts)
    assert len(receipts) == 1000
    assert [r.deliveries[0] for r in receipts] == [("bob", n) for n in range(1, 1001)]
    assert [m.body for m in await inbox(store, "bob")] == [str(n) for n in range(1000)]
    assert [m.body for m in await inbox(store, "carol")] == [str(n) for n in range(0, 1000, 3)]


async def test_batches_and_singles_at_once_do_not_mix(store: Store) -> None:
    waiting = [
        store.append([draft(body=f"{number}-{part}") for part in range(1 + number % 7)])
        for number in range(60)
    ]
    await asyncio.gather(*waiting)
    assert [message.body for message in await inbox(store)] == [
        f"{number}-{part}" for number in range(60) for part in range(1 + number % 7)
    ]


async def test_listeners_hear_of_each_delivery_once(store: Store) -> None:
    heard: list[tuple[str, int]] = []
    store.on_commit(lambda to, seq: heard.append((to, seq)))
    await asyncio.gather(*(store.append([draft(["bob", "carol"])]) for _ in range(20)))
    await send(store, "dave")
    for _ in range(1000):
        if len(heard) == 41:
            break
        await asyncio.sleep(0.01)
    assert sorted(heard) == sorted(
        [(to, seq) for to in ("bob", "carol") for seq in range(1, 21)] + [("dave", 1)]
    )


async def test_what_a_listener_hears_can_be_read(store: Store) -> None:
    found: list[bool] = []
    reads: list[asyncio.Task[None]] = []

    async def read(to: str, seq: int) -> None:
        page = await store.inbox(to, limit=1, order="oldest", after=seq - 1)
        found.append([m.seq for m in decoded(page.messages)] == [seq])

    def hear(to: str, seq: int) -> None:
        reads.append(asyncio.get_running_loop().create_task(read(to, seq)))

    store.on_commit(hear)
    await asyncio.gather(*(store.append([draft()]) for _ in range(50)))
    await asyncio.sleep(0)
    await asyncio.gather(*reads)
    assert found == [True] * 50


async def test_an_answer_can_be_read_at_once(store: Store) -> None:
    for number in range(1, 20):
        receipt = await send(store)
        page = await store.inbox("bob", limit=1)
        assert page.last_seq == number
        assert [message.id for message in decoded(page.messages)] == [receipt.id]


async def test_a_proof_leaves_no_trace(store: Store) -> None:
    await store.prove()
    await send(store)
    before = (await store.feed(0, 100)).last
    await store.prove()
    assert (await store.feed(0, 100)).last == before
    assert (await send(store)).deliveries == [("bob", 2)]
    assert len(await events(store)) == 2
