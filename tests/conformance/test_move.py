"""What moves need: the feed, imports, and the seal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from conformance.reads import decoded, draft, events, everything, feed, inbox, send
from coordd.model import Core, Token
from coordd.store import (
    Change,
    Claim,
    ImportRefusedError,
    Receipt,
    StoreError,
    StoreSealedError,
)

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.store import Store

OLD_ID = "2026-11-23T14:32:33+0000-code-3f0c1b9e-0000-4000-8000-000000000001"
OLD_TIME = "2026-11-23T14:32:33+0000"


def core(message_id: str = OLD_ID, *, body: str | None = "body", at: str = OLD_TIME) -> Core:
    return Core(message_id, "code", " subject | with SENT ", body, "normal", message_id, None, at,
                None)


def sent_change(message_id: str = OLD_ID, *deliveries: tuple[str, int], at: str = OLD_TIME,
                body: str | None = "body") -> Change:
    return Change("sent", at, message=core(message_id, body=body, at=at),
                  deliveries=list(deliveries or [("chat", 0)]))


async def lived_in(store: Store, turn: int = 1) -> None:
    """One of everything that a store can hold; other keys and tokens in each turn."""
    singles = [await send(store, "bob", subject=f"s{n}", body="é\n" * n) for n in range(12)]
    fan = await send(store, ["bob", "carol", "dave"], priority="high")
    await store.append([draft("carol", by="bob", thread_id=fan.id) for _ in range(7)],
                       Claim("bob", f"key-{turn}", "d1", 7))
    await store.append([draft("dave", expires_at="2999-01-01T00:00:00Z")],
                       Claim("alice", f"key-{turn}", "d2", 1))
    await store.put_agent("bob", "builds")
    await store.put_group("ops", ["bob", "carol"])
    token = Token(f"k{turn}", "bob", "00" * 32, "2026-01-01T00:00:00Z")
    await store.put_token(token)
    for receipt in singles[:3]:
        await store.mark(receipt.id, "bob", "read")
    await store.mark(singles[1].id, "bob", "acked")
    await store.mark(singles[4].id, "bob", "acked")
    await store.mark(singles[4].id, "bob", "read")
    await store.mark(singles[5].id, "bob", "deleted")
    await store.mark(singles[11].id, "bob", "deleted")
    await store.mark(fan.id, "carol", "deleted")
    await store.put_agent("bob", "tests")
    await store.put_token(msgspec.structs.replace(token, revoked_at="2026-02-01T00:00:00Z"))


@pytest.mark.parametrize("at_once", [1, 3, 1000])
async def test_a_feed_imported_makes_the_same_store(
    engine: Harness, store: Store, at_once: int
) -> None:
    await lived_in(store)
    changes = await feed(store)
    target = await engine.open()
    for start in range(0, len(changes), at_once):
        piece = changes[start : start + at_once]
        imported = await target.import_(piece)
        assert (imported.applied, imported.skipped) == (len(piece), 0)
    expected = await everything(store)
    assert await everything(target) == expected
    assert await feed(target) == changes
    for again in (await engine.crash(target), await engine.reopen(target)):
        assert await everything(again) == expected
        assert await feed(again) == changes


async def test_an_import_done_again_changes_nothing(engine: Harness, store: Store) -> None:
    await lived_in(store)
    changes = await feed(store)
    target = await engine.open()
    await target.import_(changes)
    before = await everything(target)
    last = (await target.feed(0, 1)).last
    imported = await target.import_(changes)
    assert (imported.applied, imported.skipped) == (0, len(changes))
    assert await everything(target) == before
    assert (await target.feed(0, 1)).last == last


@pytest.mark.parametrize("done", [1, 10, 20])
async def test_an_import_cut_short_is_resumed(engine: Harness, store: Store, done: int) -> None:
    await lived_in(store)
    changes = await feed(store)
    target = await engine.open()
    await target.import_(changes[:done])
    target = await engine.crash(target)
    imported = await target.import_(changes)
    assert (imported.applied, imported.skipped) == (len(changes) - done, done)
    assert await everything(target) == await everything(store)


async def test_a_follower_of_the_feed_keeps_up(engine: Harness, store: Store) -> None:
    target = await engine.open()
    done = asyncio.Event()

    async def follow() -> None:
        cursor = 0
        while True:
            finished = done.is_set()
            piece = await store.feed(cursor, 7)
            if piece.changes:
                assert (await target.import_(piece.changes)).skipped == 0
            elif finished:
                return
            cursor = piece.cursor
            await asyncio.sleep(0)

    follower = asyncio.create_task(follow())
    for turn in range(3):
        await lived_in(store, turn)
    done.set()
    await follower
    assert await everything(target) == await everything(store)


async def test_ids_times_and_texts_are_kept_verbatim(engine: Harness, store: Store) -> None:
    times = [OLD_TIME, "2026-11-23T08:32:33-0600", "2026-11-23T08:32:33-06:00",
             "2026-11-23T14:32:33Z"]
    ids = [f"{time}-code-{number}" for number, time in enumerate(times)]
    await store.import_([
        sent_change(message_id, at=time) for message_id, time in zip(ids, times, strict=True)
    ])
    await store.import_([Change("read", "2026-11-24T00:00:00+0000", id=ids[0], agent="chat")])
    store = await engine.reopen(store)
    messages = await inbox(store, "chat")
    assert [(m.id, m.seq, m.created_at, m.subject) for m in messages] == [
        (message_id, seq, time, " subject | with SENT ")
        for seq, (message_id, time) in enumerate(zip(ids, times, strict=True), 1)
    ]
    assert messages[0].read_at == "2026-11-24T00:00:00+0000"
    assert [(e.timestamp, e.message_id) for e in await events(store, type="SENT")] == list(
        zip(times, ids, strict=True)
    )
    assert [m.id for m in decoded(await store.message(ids[2]))] == [ids[2]]


async def test_long_subjects_and_bodies_of_the_old_tool(store: Store) -> None:
    change = sent_change(body="x" * 300_000)
    assert change.message is not None
    change.message.subject = "s" * 5000
    await store.import_([change])
    [message] = await inbox(store, "chat")
    assert (len(message.subject), len(message.body)) == (5000, 300_000)


async def test_seq_zero_is_the_next_one(store: Store) -> None:
    await send(store, "chat")
    await store.import_([sent_change("a"), sent_change("b", ("chat", 0), ("code", 0))])
    assert [(m.id, m.seq) for m in await inbox(store, "chat")][1:] == [("a", 2), ("b", 3)]
    assert [(m.id, m.seq) for m in await inbox(store, "code")] == [("b", 1)]
    assert (await send(store, "chat")).deliveries == [("chat", 4)]


async def test_the_same_message_twice_in_one_import(store: Store) -> None:
    imported = await store.import_([
        sent_change("a"), sent_change("a"),
        Change("read", OLD_TIME, id="a", agent="chat"),
        Change("read", OLD_TIME, id="a", agent="chat"),
    ])
    assert (imported.applied, imported.skipped) == (2, 2)
    assert [e.type for e in await events(store)] == ["SENT", "READ"]


async def test_a_message_of_which_only_the_events_are_left(engine: Harness, store: Store) -> None:
    await store.import_([
        sent_change("gone", body=None),
        Change("deleted", "2026-11-24T00:00:00+0000", id="gone", agent="chat"),
        sent_change("here"),
    ])
    for again in (store, await engine.crash(store)):
        assert [(m.id, m.seq) for m in await inbox(again, "chat")] == [("here", 2)]
        assert await again.message("gone") == []
        assert [(e.type, e.message_id) for e in await events(again)] == [
            ("SENT", "gone"), ("DELETED", "gone"), ("SENT", "here")
        ]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(sent_change("other", ("chat", 1)), id="a seq that another message has"),
        pytest.param(Change("read", OLD_TIME, id="nowhere", agent="chat"), id="unknown message"),
        pytest.param(Change("acked", OLD_TIME, id="a", agent="bob"), id="not its recipient"),
    ],
)
async def test_a_change_that_cannot_follow_is_named_and_nothing_stored(
    engine: Harness, store: Store, bad: Change
) -> None:
    await store.import_([sent_change("a")])
    before = await everything(store)
    with pytest.raises(ImportRefusedError) as caught:
        await store.import_([sent_change("b"), sent_change("c"), bad, sent_change("d")])
    assert caught.value.index == 2
    assert caught.value.reason
    assert await everything(store) == before
    assert await everything(await engine.crash(store)) == before
    assert (await store.import_([sent_change("b")])).applied == 1


async def test_an_import_of_nothing(store: Store) -> None:
    imported = await store.import_([])
    assert (imported.applied, imported.skipped) == (0, 0)


async def test_sealed_refuses_writes_and_reads_go_on(store: Store) -> None:
    await lived_in(store)
    before = await everything(store)
    assert await store.sealed() is None
    last = await store.seal(1)
    assert last == (await store.feed(0, 1)).last
    assert await store.sealed() == 1
    [message, *_] = await inbox(store, unread=True)
    with pytest.raises(StoreSealedError):
        await store.append([draft()])
    with pytest.raises(StoreSealedError):
        await store.append([draft()], Claim("alice", "new", "d", 1))
    with pytest.raises(StoreSealedError):
        await store.mark(message.id, "bob", "read")
    with pytest.raises(StoreSealedError):
        await store.mark(message.id, "bob", "deleted")
    with pytest.raises(StoreSealedError):
        await store.put_agent("bob", "again")
    with pytest.raises(StoreSealedError):
        await store.put_group("ops", [])
    with pytest.raises(StoreSealedError):
        await store.put_token(Token("k2", "bob", "00" * 32, OLD_TIME))
    with pytest.raises(StoreSealedError):
        await store.prove()
    assert await everything(store) == before
    assert (await store.feed(0, 1)).last == last


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_the_seal_and_its_epoch_survive_a_restart(
    engine: Harness, store: Store, how: str
) -> None:
    await send(store)
    await store.seal(7)
    store = await getattr(engine, how)(store)
    assert await store.sealed() == 7
    with pytest.raises(StoreSealedError):
        await store.append([draft()])
    await store.unseal(8)
    store = await getattr(engine, how)(store)
    assert await store.sealed() is None
    assert (await send(store)).deliveries == [("bob", 2)]
    with pytest.raises(StoreError):
        await store.seal(7)
    assert await store.sealed() is None


async def test_an_epoch_below_one_seen_is_refused(store: Store) -> None:
    await store.seal(5)
    with pytest.raises(StoreError):
        await store.unseal(4)
    assert await store.sealed() == 5
    with pytest.raises(StoreError):
        await store.seal(4)
    await store.seal(5)
    await store.seal(6)
    assert await store.sealed() == 6
    await store.unseal(6)
    assert await store.sealed() is None
    await store.unseal(6)
    with pytest.raises(StoreError):
        await store.seal(5)
    await send(store)


async def test_an_import_into_a_sealed_store(engine: Harness, store: Store) -> None:
    await store.seal(1)
    assert (await store.import_([sent_change("a")])).applied == 1
    assert [message.id for message in await inbox(store, "chat")] == ["a"]
    store = await engine.crash(store)
    assert await store.sealed() == 1
    assert [message.id for message in await inbox(store, "chat")] == ["a"]


async def test_a_seal_amid_writes_leaves_none_behind_its_position(store: Store) -> None:
    async def attempt(number: int) -> list[Receipt] | None:
        try:
            return await store.append([draft(body=str(number))])
        except StoreSealedError:
            return None

    early = [asyncio.ensure_future(attempt(number)) for number in range(50)]
    await asyncio.sleep(0)
    sealing = asyncio.ensure_future(store.seal(1))
    late = [asyncio.ensure_future(attempt(number)) for number in range(50, 100)]
    last = await sealing
    stored = [number for number, answer in enumerate(await asyncio.gather(*early, *late)) if answer]
    assert (await store.feed(0, 1)).last == last
    assert [int(message.body) for message in await inbox(store)] == stored
    with pytest.raises(StoreSealedError):
        await store.append([draft()])
