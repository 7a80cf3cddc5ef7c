"""What was sent, threads, and search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.reads import decoded, draft, search, send, sent, thread
from coordd.model import Core
from coordd.store import Change

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.store import Store


async def found(store: Store, query: str, party: str | None = None) -> list[str]:
    return [message.subject for message in await search(store, query, party=party)]


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_sent_is_newest_first_a_message_a_recipient(store: Store, limit: int) -> None:
    await send(store, "bob", body="1")
    await send(store, "bob", by="carol")
    await send(store, ["bob", "carol"], body="2")
    await send(store, "alice", body="3")
    messages = await sent(store, "alice", limit)
    assert [message.body for message in messages] == ["3", "2", "2", "1"]
    assert sorted(message.to_agent for message in messages) == ["alice", "bob", "bob", "carol"]
    assert {message.from_agent for message in messages} == {"alice"}
    page = await store.sent("alice", limit=1)
    assert (len(page.messages), page.last_seq) == (1, 0)


async def test_sent_shows_the_recipients_state(store: Store) -> None:
    receipt = await send(store)
    await store.mark(receipt.id, "bob", "acked")
    assert [message.state for message in await sent(store, "alice")] == ["acknowledged"]


async def test_sent_by_nobody(store: Store) -> None:
    page = await store.sent("nobody", limit=10)
    assert (page.messages, page.next_cursor, page.last_seq) == ([], None, 0)


async def test_sent_is_stable_under_arrivals(store: Store) -> None:
    for number in range(6):
        await send(store, body=str(number))
    page = await store.sent("alice", limit=2)
    await send(store, body="new")
    cursor = page.next_cursor
    page = await store.sent("alice", limit=2, cursor=cursor)
    assert [message.body for message in decoded(page.messages)] == ["3", "2"]


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_thread_is_oldest_first(store: Store, limit: int) -> None:
    first = await send(store, "bob", body="0")
    await send(store, "bob", body="elsewhere")
    await send(store, "alice", by="bob", body="1", thread_id=first.id, in_reply_to=first.id)
    await send(store, ["bob", "carol"], body="2", thread_id=first.id)
    messages = await thread(store, first.id, limit=limit)
    assert [message.body for message in messages] == ["0", "1", "2", "2"]
    assert {message.thread_id for message in messages} == {first.id}
    page = await store.thread(first.id, limit=1)
    assert (len(page.messages), page.last_seq) == (1, 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
async def test_a_page_of_a_thread_ends_among_a_messages_recipients(store: Store, limit: int
                                                                   ) -> None:
    """In the order in which they were stored, also where the first message came after a reply."""
    at = "2026-11-23T14:32:33Z"
    for number, message_id in enumerate(("reply", "first", "late")):
        core = Core(message_id, "alice", "s", str(number), "normal", "first", None, at, None)
        await store.import_([Change("sent", at, message=core, deliveries=[
            ("bob", 0), ("carol", 0), ("dave", 0)])])
    await store.mark("first", "carol", "deleted")
    await store.mark("late", "bob", "deleted")
    messages = await thread(store, "first", limit=limit)
    assert [(message.id, message.to_agent) for message in messages] == [
        ("reply", "bob"), ("reply", "carol"), ("reply", "dave"), ("first", "bob"),
        ("first", "dave"), ("late", "carol"), ("late", "dave")]


async def test_a_thread_with_a_name_of_its_own(store: Store) -> None:
    for number in range(3):
        await send(store, body=str(number), thread_id="release:1.0")
    assert [m.body for m in await thread(store, "release:1.0")] == ["0", "1", "2"]


async def test_an_unknown_thread(store: Store) -> None:
    await send(store)
    page = await store.thread("no-such-thread", limit=10)
    assert (page.messages, page.next_cursor, page.last_seq) == ([], None, 0)


@pytest.mark.parametrize("limit", [1, 1000])
async def test_a_thread_as_one_party_sees_it(store: Store, limit: int) -> None:
    await send(store, "bob", by="alice", body="1", thread_id="t")
    await send(store, ["bob", "carol"], by="dave", body="2", thread_id="t")
    await send(store, "alice", by="carol", body="3", thread_id="t")

    async def seen_by(party: str) -> list[tuple[str, str]]:
        messages = await thread(store, "t", party=party, limit=limit)
        return [(message.body, message.to_agent) for message in messages]

    assert await seen_by("alice") == [("1", "bob"), ("3", "alice")]
    assert await seen_by("bob") == [("1", "bob"), ("2", "bob")]
    assert await seen_by("carol") == [("2", "carol"), ("3", "alice")]
    assert sorted(await seen_by("dave")) == [("2", "bob"), ("2", "carol")]
    assert await seen_by("nobody") == []


async def test_search_takes_any_case_of_any_alphabet(store: Store) -> None:
    await send(store, subject="Deploy FAILED", body="on Zürich")
    await send(store, subject="ПРИВЕТ", body="мир")
    await send(store, subject="ÉCOLE", body="日本語")
    assert await found(store, "failed") == await found(store, "FAILED") == ["Deploy FAILED"]
    assert await found(store, "zürich") == await found(store, "ZÜRICH") == ["Deploy FAILED"]
    assert await found(store, "привет") == await found(store, "МИР") == ["ПРИВЕТ"]
    assert await found(store, "école") == await found(store, "日本語") == ["ÉCOLE"]
    assert await found(store, "absent") == []


async def test_every_word_somewhere_in_subject_or_body(store: Store) -> None:
    await send(store, subject="red", body="green blue")
    await send(store, subject="green", body="yellow")
    assert await found(store, "blue red") == ["red"]
    assert await found(store, "GREEN") == ["green", "red"]
    assert await found(store, "green  \t yellow") == ["green"]
    assert await found(store, "red yellow") == []


async def test_search_sees_texts_not_their_encoding(store: Store) -> None:
    await send(store, subject="one", body='she said "hello" \\ C:\\temp\nnewline\ttab')
    assert await found(store, '"hello"') == ["one"]
    assert await found(store, "C:\\temp") == ["one"]
    assert await found(store, "newline") == ["one"]
    assert await found(store, "tab") == ["one"]
    assert await found(store, "nnewline") == []
    assert await found(store, '\\"hello') == []
    assert await found(store, "C:\\\\temp") == []


async def test_search_does_not_find_names_ids_and_keys(store: Store) -> None:
    receipt = await send(store, by="alice", thread_id="thread-7", subject="x", body="y")
    for query in (
        "alice", "bob", "thread-7", "thread_id", "priority", "normal", "body", "subject",
        receipt.id, receipt.created_at, "null", "{", ",",
    ):
        assert await found(store, query) == [], query


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_search_pages_newest_first(store: Store, limit: int) -> None:
    for number in range(7):
        await send(store, subject=str(number), body="needle" if number % 2 else "hay")
    messages = await search(store, "needle", limit=limit)
    assert [message.subject for message in messages] == ["5", "3", "1"]
    page = await store.search("needle", limit=1)
    assert (len(page.messages), page.last_seq) == (1, 0)


async def test_search_pages_are_stable_under_arrivals(store: Store) -> None:
    for number in range(5):
        await send(store, subject=str(number), body="needle")
    page = await store.search("needle", limit=2)
    await send(store, subject="new", body="needle")
    page = await store.search("needle", limit=2, cursor=page.next_cursor)
    assert [message.subject for message in decoded(page.messages)] == ["2", "1"]


async def test_search_of_one_party(store: Store) -> None:
    await send(store, "bob", by="alice", subject="a to b", body="needle")
    await send(store, ["bob", "carol"], by="dave", subject="d to b, c", body="needle")
    assert await found(store, "needle", "alice") == ["a to b"]
    assert await found(store, "needle", "bob") == ["d to b, c", "a to b"]
    assert await found(store, "needle", "carol") == ["d to b, c"]
    assert await found(store, "needle", "dave") == ["d to b, c"] * 2
    assert await found(store, "needle", "nobody") == []
    [message] = await search(store, "needle", party="carol")
    assert message.to_agent == "carol"


async def test_history_after_a_restart(engine: Harness, store: Store) -> None:
    await store.append([
        draft(["bob", "carol"], subject=str(n), body="needle", thread_id="t") for n in range(30)
    ])
    before = (await sent(store, "alice"), await thread(store, "t"), await search(store, "NEEDLE"))
    for again in (await engine.crash(store), await engine.reopen(store)):
        assert before == (
            await sent(again, "alice"), await thread(again, "t"), await search(again, "NEEDLE")
        )
