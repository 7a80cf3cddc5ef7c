"""What the work queue's store promises, on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordd.engines.files import FilesStore
from coordd.engines.postgres import PostgresOptions, PostgresStore
from coordd.store import Draft
from coordd.work import chain
from coordd.work.ledger import Ledger
from coordd.work.model import Folded, Hook, HourCount, NewTask, Occurrence, TaskId
from coordd.work.postgres import PostgresWork
from coordd.work.sqlite import FilesWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordd.store import Store
    from coordd.work.store import WorkStore

LEASE_S = 300.0
DEATH_S = 3600.0


@pytest.fixture(params=["files", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path
                 ) -> AsyncIterator[tuple[Store, WorkStore]]:
    store: Store
    work: WorkStore
    if request.param == "files":
        store = files = FilesStore(tmp_path)
        await store.open()
        work = FilesWork(tmp_path, files)
    else:
        databases = request.getfixturevalue("databases")
        name = databases.new()
        store = PostgresStore(PostgresOptions(parameters=databases.pooled(name)))
        await store.open()
        work = PostgresWork(databases.pooled(name), 5)
    await work.open()
    yield store, work
    await work.close()
    await store.close()
    if request.param == "postgres":
        databases.drop(name)


@pytest.fixture
def messages(stores: tuple[Store, WorkStore]) -> Store:
    return stores[0]


@pytest.fixture
async def work(stores: tuple[Store, WorkStore]) -> WorkStore:
    await stores[1].lead("me", 60)
    return stores[1]


def hook(id_: str = "h1", **fields: Any) -> Hook:
    return msgspec.convert({"id": id_, "kind": "webhook", "target": "http://x/", "secret": "s",
                            "created_at": f"2026-11-30T15:00:00Z {id_}", "since": 0, **fields},
                           Hook)


def task(event: str, hook_: str = "h1", dead: str = "") -> NewTask:
    return NewTask(hook_, Occurrence(event, 1, "2026-11-30T15:00:00Z", "SENT", "m1", "code", "chat",
                                     "Hi", "normal"), dead)


async def advance(work: WorkStore, *tasks: NewTask) -> None:
    cursor = await work.cursor()
    assert await work.advance("me", cursor, cursor + 1, tasks)


async def events(work: WorkStore, limit: int = 100) -> list[str]:
    return sorted(found.event for found in await work.hand_out(limit, LEASE_S))


async def send(store: Store, *bodies: str) -> list[str]:
    receipts = await store.append([Draft("code", ("chat",), "Hi", body) for body in bodies])
    return [receipt.id for receipt in receipts]


async def test_a_hook_is_kept_as_it_was_given(work: WorkStore) -> None:
    full = hook("h2", to_agent="chat", types=["SENT", "READ"], min_priority="high",
                kind="slack")
    for each in (hook(), full):
        await work.add_hook(each)
    assert await work.hooks() == [hook(), full]
    assert await work.remove_hook("h1")
    assert not await work.remove_hook("h1")
    assert await work.hooks() == [full]


async def test_a_hook_begins_with_the_newest_position(messages: Store, work: WorkStore) -> None:
    await send(messages, "a", "b")
    assert (await work.add_hook(hook())).since == 2
    assert (await work.hooks())[0].since == 2
    assert await work.last() == 2


async def test_the_cursor_moves_with_the_tasks_or_not_at_all(work: WorkStore) -> None:
    await work.add_hook(hook())
    cursor = await work.cursor()
    assert await work.advance("me", cursor, cursor + 5, [task("e1")])
    assert not await work.advance("me", cursor, cursor + 9, [task("e2")])
    assert await work.cursor() == cursor + 5
    assert await events(work) == ["e1"]


async def test_the_same_event_is_one_task_and_a_removed_hook_has_none(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"))
    await advance(work, task("e1"), task("e2"), task("e3", "gone"))
    assert await events(work) == ["e1", "e2"]
    assert await work.remove_hook("h1")
    assert await work.begin(TaskId("h1", "e1"), 0.0) is None
    assert (await work.totals()).queued == 0


async def test_a_task_is_handed_out_once_and_gone_when_done(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"), task("e2"))
    assert await work.ready() == 2
    assert await events(work, 1) == ["e1"]
    assert await events(work) == ["e2"]
    assert await events(work) == []
    found = await work.begin(TaskId("h1", "e1"), 0.0)
    assert found is not None
    assert (found.hook.secret, found.occurrence.id, found.tries) == ("s", "e1", 0)
    await work.done([TaskId("h1", "e1")])
    await work.done([TaskId("h1", "e1")])
    assert await work.begin(TaskId("h1", "e1"), 0.0) is None
    totals = await work.totals()
    assert (totals.waiting, totals.queued, totals.dead, totals.done) == (0, 1, 0, 1)


async def test_a_task_that_is_begun_is_nobody_elses_for_a_while(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"))
    [found] = await work.hand_out(10, LEASE_S)
    begun = [await work.begin(found, LEASE_S) for _ in range(2)]
    assert [each and each.busy for each in begun] == [False, True]
    await work.put_back([found])
    again = await work.begin(found, 0.0)
    assert again
    assert not again.busy
    again = await work.begin(found, LEASE_S)  # its time was over
    assert again
    assert not again.busy
    await work.failed(found, "refused", seen=0, wait_s=0.0, rest_s=0.0)
    again = await work.begin(found, LEASE_S)
    assert again
    assert not again.busy


async def test_what_is_put_back_is_due_again(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"), task("e2"))
    await work.put_back(await work.hand_out(10, LEASE_S))
    assert await events(work) == ["e1", "e2"]
    assert await work.put_back_lost() == 0
    assert await work.put_back_lost(all_=True) == 2
    await work.hand_out(10, 0.0)
    await asyncio.sleep(0.01)
    assert await work.put_back_lost() == 2
    found = await work.begin(TaskId("h1", "e1"), 0.0)
    assert found is not None
    assert found.tries == 1
    await work.put_back(await work.hand_out(10, LEASE_S), DEATH_S)
    assert await events(work) == []


async def test_a_failed_task_comes_again_when_it_is_due(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"))
    for tries in (1, 2):
        assert await events(work) == ["e1"]
        await work.failed(TaskId("h1", "e1"), "refused", seen=tries - 1, wait_s=0.0, rest_s=0.0)
        found = await work.begin(TaskId("h1", "e1"), 0.0)
        assert found is not None
        assert (found.tries, found.hook.failures) == (tries, tries)
        await asyncio.sleep(0.01)
    await work.failed(TaskId("h1", "e1"), "refused", seen=2, wait_s=DEATH_S, rest_s=0.0)
    assert await events(work) == []


async def test_a_hook_that_failed_rests_and_is_then_tried_one_task_at_a_time(work: WorkStore
                                                                            ) -> None:
    for id_ in ("h1", "h2"):
        await work.add_hook(hook(id_))
    await advance(work, *(task(f"e{n}") for n in range(4)), task("other", "h2"))
    handed = await work.hand_out(2, LEASE_S)
    assert {found.hook for found in handed} == {"h1"}
    for found in handed:  # both began before the first of them failed
        await work.failed(found, "refused", seen=0, wait_s=0.0, rest_s=DEATH_S)
    assert [h.failures for h in await work.hooks()] == [1, 0]
    assert [h.rests for h in await work.hooks()] == [True, False]
    assert await work.ready() == 1
    assert await events(work) == ["other"]
    await work.failed(handed[0], "refused", seen=1, wait_s=0.0, rest_s=0.0)  # the rest is over
    await asyncio.sleep(0.01)
    assert len(await work.hand_out(10, LEASE_S)) == 1
    assert await work.hand_out(10, LEASE_S) == []


async def test_a_success_ends_the_rest(work: WorkStore) -> None:
    await work.add_hook(hook())
    await advance(work, task("e1"), task("e2"), task("e3"))
    tasks = await work.hand_out(2, LEASE_S)
    await work.failed(tasks[0], "refused", seen=0, wait_s=0.0, rest_s=DEATH_S)
    await work.done([tasks[1]])
    [found] = await work.hooks()
    assert (found.failures, found.rests, found.done, found.failed) == (0, False, 1, 1)
    await asyncio.sleep(0.01)
    assert len(await work.hand_out(10, LEASE_S)) == 2


async def test_dead_letters_are_listed_and_tried_anew(work: WorkStore) -> None:
    for id_ in ("h1", "h2"):
        await work.add_hook(hook(id_))
    await advance(work, task("e1"), task("e2"), task("e3", "h2", dead="too many"))
    for nth, found in enumerate(sorted(await work.hand_out(10, LEASE_S))):
        await work.failed(found, "refused", seen=nth, wait_s=None, rest_s=DEATH_S)
    dead = await work.dead(10)
    assert sorted((d.hook, d.event, d.tries, d.error) for d in dead) == [
        ("h1", "e1", 1, "refused"), ("h1", "e2", 1, "refused"), ("h2", "e3", 0, "too many")]
    assert dead[0].failed_at.endswith("Z")
    assert [d.event for d in await work.dead(10, "h2")] == ["e3"]
    assert await work.begin(TaskId("h1", "e1"), 0.0) is None
    assert await events(work) == []
    assert await work.retry("h1", "e2") == 1
    assert await work.retry("h2") == 1
    assert await work.retry("h2") == 0
    assert (await work.totals()).dead == 1
    assert await events(work) == ["e2", "e3"]
    assert await work.retry() == 1


async def test_a_failure_of_a_task_that_is_done_counts_nothing(work: WorkStore) -> None:
    await work.add_hook(hook())
    await work.failed(TaskId("h1", "e1"), "refused", seen=0, wait_s=None, rest_s=DEATH_S)
    [found] = await work.hooks()
    assert (found.failures, found.failed, found.rests) == (0, 0, False)


async def test_messages_are_told_of_when_they_are_gone_too(messages: Store, work: WorkStore
                                                           ) -> None:
    one, two = await send(messages, "a", "b")
    await messages.mark(one, "chat", "deleted")
    assert await work.told_of([one, two, "unknown"]) == {
        one: ("code", "Hi", "normal"), two: ("code", "Hi", "normal")}


async def test_the_ledger_moves_once(work: WorkStore) -> None:
    assert await work.folded() == Folded(0, chain.START)
    new = Folded(7, b"h" * 32)
    hours = [HourCount("2026-11-30T15", 2)]
    assert await work.fold(0, new, [], hours)
    assert not await work.fold(0, Folded(9, b"x" * 32), [], hours)
    assert await work.folded() == new
    assert await work.fold(7, Folded(8, b"y" * 32), [], hours)
    assert (await work.totals()).hours == [HourCount("2026-11-30T15", 4)]


async def test_the_chain_is_the_same_whether_it_is_made_in_one_go_or_in_many(
        messages: Store, work: WorkStore) -> None:
    ledger = Ledger(work)
    for part in range(3):
        await send(messages, *(f"{part} {n}" for n in range(150)))
        await ledger.extend(float("inf"))
    await ledger.extend(float("inf"))
    feed = await work.feed(0, 1000)
    links, head = chain.extend(Folded(0, chain.START), feed.changes)
    assert len(links) == 450
    assert await work.links(0, 1000) == links
    assert await work.links(links[0].pos, 2) == links[1:3]
    assert await work.folded() == Folded(feed.last, head)
    assert sum(each.messages for each in (await work.totals()).hours) == 450


async def test_two_that_extend_the_chain_at_once_make_one(messages: Store, work: WorkStore) -> None:
    await send(messages, *map(str, range(500)))
    await asyncio.gather(*(Ledger(work).extend(float("inf")) for _ in range(3)))
    await Ledger(work).extend(float("inf"))
    feed = await work.feed(0, 1000)
    assert await work.links(0, 1000) == chain.extend(Folded(0, chain.START), feed.changes)[0]


async def test_one_leads_at_a_time(request: pytest.FixtureRequest, work: WorkStore) -> None:
    if isinstance(work, FilesWork):
        assert await work.lead("me", 60)
        return
    assert await work.lead("me", 60)
    assert not await work.lead("other", 60)
    cursor = await work.cursor()
    assert not await work.advance("other", cursor, cursor + 1, [])
    assert (await work.totals()).dispatcher == "me"
    assert await work.lead("me", 0)
    assert await work.lead("other", 60)
    assert not await work.advance("me", cursor, cursor + 1, [])
    assert await work.advance("other", cursor, cursor + 1, [])


async def test_work_db_and_the_log_belong_together(tmp_path: Path) -> None:
    store = FilesStore(tmp_path)
    await store.open()
    await send(store, "a")
    work = FilesWork(tmp_path, store)
    await work.open()
    assert await work.fold(0, Folded(5, b"h" * 32), [], [])
    await work.close()
    again = FilesWork(tmp_path, store)
    with pytest.raises(Exception, match="knows of change 5, and the log ends at 1"):
        await again.open()
    await again.close()
    await store.close()
