"""The version of an inbox: what was kept of a page with the same version is what there is now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from conformance.reads import draft, events, feed, search, send, sent, thread
from coordd.model import Core
from coordd.store import Change, Claim, KeyConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.engines import Harness
    from coordd.model import Mark
    from coordd.store import Page, Receipt, Store

    Content = tuple[list[bytes], int]
    Doing = Callable[[Store, Receipt], Awaitable[Any]]

AT = "2026-01-01T00:00:00Z"


def content(page: Page) -> Content:
    return [bytes(message) for message in page.messages], page.last_seq


def imported(message_id: str, body: str | None) -> Change:
    core = Core(message_id, "alice", "subject", body, "normal", message_id, None, AT, None)
    return Change("sent", AT, message=core, deliveries=[("bob", 0)])


CHANGES: dict[str, Doing] = {
    "send": lambda store, _: send(store),
    "send to several": lambda store, _: send(store, ["carol", "bob"]),
    "send to oneself": lambda store, _: send(store, by="bob"),
    "batch": lambda store, _: _batch(store),
    "read": lambda store, receipt: store.mark(receipt.id, "bob", "read"),
    "acknowledge": lambda store, receipt: store.mark(receipt.id, "bob", "acked"),
    "delete": lambda store, receipt: store.mark(receipt.id, "bob", "deleted"),
    "import a message": lambda store, _: store.import_([imported("a", "body")]),
    "import a deleted message": lambda store, _: store.import_([imported("a", None)]),
    "import a mark": lambda store, receipt: store.import_(
        [Change("read", AT, id=receipt.id, agent="bob")]),
    "import a deletion": lambda store, receipt: store.import_(
        [Change("deleted", AT, id=receipt.id, agent="bob")]),
}


async def _batch(store: Store) -> None:
    await store.append([draft(), draft("carol"), draft()])


@pytest.mark.parametrize("change", CHANGES)
async def test_each_change_gives_a_version_of_its_own(store: Store, change: str) -> None:
    receipt = await send(store)
    before = await store.version("bob")
    await CHANGES[change](store, receipt)
    after = await store.version("bob")
    assert 0 not in (before, after)
    assert after != before
    assert (await store.inbox("bob", limit=10)).version == after


@pytest.mark.parametrize("last", ["acked", "deleted"])
async def test_a_mark_behind_a_mark_is_a_change(store: Store, last: Mark) -> None:
    """Also reading what is acknowledged: `read_at` is shown, though the state is the same."""
    receipt = await send(store)
    versions = [await store.version("bob")]
    marks: list[Mark] = ["acked", "read", "deleted"] if last == "deleted" else ["read", "acked"]
    for mark in marks:
        await store.mark(receipt.id, "bob", mark)
        versions.append(await store.version("bob"))
    assert len(set(versions)) == len(versions)


async def _used_key(store: Store, _: Receipt) -> None:
    for digest in ("d", "other"):
        try:
            await store.append([draft(body="keyed")], Claim("alice", "k", digest, 1))
        except KeyConflictError:
            assert digest == "other"


async def _reads(store: Store, receipt: Receipt) -> None:
    await store.inbox("bob", limit=1, unread=True)
    await store.message(receipt.id)
    await sent(store, "alice")
    await thread(store, receipt.thread_id)
    await search(store, "body")
    await events(store, agent="bob")
    await store.stats()
    await feed(store)
    await store.version("carol")
    await store.prove()


async def _others(store: Store, _: Receipt) -> None:
    receipt = await send(store, ["carol", "dave"], by="bob")
    await store.mark(receipt.id, "carol", "read")
    await store.mark(receipt.id, "dave", "deleted")
    await store.mark(receipt.id, "bob", "read")
    await store.put_agent("bob", "It reads.")
    await store.put_group("team", ["bob"])
    await store.seal(1)
    await store.unseal(1)


async def _repeats(store: Store, receipt: Receipt) -> None:
    await store.mark(receipt.id, "bob", "read")
    await store.mark(receipt.id, "carol", "acked")
    await store.mark("unknown", "bob", "deleted")
    await store.import_(await feed(store))


NO_CHANGES: dict[str, Doing] = {
    "reads": _reads, "changes of others": _others, "a key used before": _used_key,
    "repeats": _repeats}


@pytest.mark.parametrize("doing", NO_CHANGES)
async def test_what_changes_nothing_leaves_the_version(store: Store, doing: str) -> None:
    receipt = await send(store)
    await store.append([draft(body="keyed")], Claim("alice", "k", "d", 1))
    await store.mark(receipt.id, "bob", "read")
    before = await store.version("bob")
    await NO_CHANGES[doing](store, receipt)
    assert await store.version("bob") == before


async def test_giving_room_back_leaves_the_version(engine: Harness, store: Store) -> None:
    for _ in range(20):
        receipt = await send(store, body="x" * 1000)
        await store.mark(receipt.id, "bob", "deleted")
    await send(store)
    page = await store.inbox("bob", limit=10)
    await engine.upkeep(store)
    assert await store.version("bob") == page.version
    assert await store.inbox("bob", limit=10) == page


@pytest.mark.parametrize("query", [
    {"limit": 1}, {"limit": 2, "order": "oldest"}, {"limit": 10, "after": 2},
    {"limit": 10, "after": 99}, {"limit": 1, "cursor": "b3"}, {"limit": 10, "unread": True},
    {"limit": 10, "min_priority": "high"}])
async def test_every_page_tells_it(store: Store, query: dict[str, Any]) -> None:
    for _ in range(4):
        await send(store)
    version = await store.version("bob")
    assert version
    assert (await store.inbox("bob", **query)).version == version


async def test_an_inbox_that_nobody_knows(store: Store) -> None:
    """0, or a version that the first message takes away."""
    before = await store.version("bob")
    assert (await store.inbox("bob", limit=10)).version == before
    await send(store)
    assert await store.version("bob") not in (0, before)


async def test_what_expires_takes_the_version_with_it(engine: Harness, store: Store) -> None:
    later = engine.clock().replace(microsecond=0).isoformat()
    engine.clock.advance(seconds=-60)
    await send(store)
    await send(store, expires_at=later)
    before = await store.inbox("bob", limit=10)
    assert before.version == await store.version("bob") != 0
    engine.clock.advance(seconds=120)
    assert await store.version("bob") != before.version
    after = await store.inbox("bob", limit=10)
    assert len(after.messages) == 1
    assert after.version != before.version
    await engine.upkeep(store)
    assert await store.version("bob") not in (0, before.version)


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_no_version_comes_back_after_a_restart(engine: Harness, store: Store, how: str
                                                     ) -> None:
    """Of one generation; another one's versions are not compared."""
    known: dict[tuple[str, int], Content] = {}
    for _ in range(3):
        receipts = [await send(store) for _ in range(3)]
        for mark in ("read", "deleted"):
            page = await store.inbox("bob", limit=100)
            assert known.setdefault((store.generation, page.version), content(page)) == (
                content(page))
            await store.mark(receipts[1].id, "bob", mark)
        store = await getattr(engine, how)(store)
        assert store.generation
    assert len(known) == 6


async def test_amid_writes_a_version_is_one_content_and_none_is_late(store: Store) -> None:
    contents: dict[int, Content] = {}
    floors: dict[int, int] = {}
    answered, writing = 0, True

    async def write() -> None:
        nonlocal answered
        for number in range(15):
            receipt = await send(store, body=str(number))
            [(_, seq)] = receipt.deliveries
            answered = max(answered, seq)
            marks: list[Mark] = ["read", "acked", "deleted"]
            await store.mark(receipt.id, "bob", marks[number % 3])

    async def read() -> None:
        while writing:
            page = await store.inbox("bob", limit=1000)
            assert contents.setdefault(page.version, content(page)) == content(page)
            known = answered
            version = await store.version("bob")
            floors[version] = max(known, floors.get(version, 0))
            await asyncio.sleep(0.002)

    readers = [asyncio.ensure_future(read()) for _ in range(4)]
    await asyncio.gather(*(write() for _ in range(4)))
    writing = False
    await asyncio.gather(*readers)
    page = await store.inbox("bob", limit=1000)
    contents[page.version] = content(page)
    floors[await store.version("bob")] = answered
    assert len(contents) > 3
    both = floors.keys() & contents.keys() - {0}
    assert both
    for version in both:
        assert contents[version][1] >= floors[version]
