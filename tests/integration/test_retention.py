"""Retention, months of events and the rest of upkeep, on a real Postgres behind pgbouncer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from conformance.reads import counted, draft, events, everything, feed, inbox, send, sent
from coordd.archive import FolderArchive
from coordd.engines.postgres import archiving, upkeep
from coordd.engines.postgres.upkeep import months_later
from coordd.store import Claim, StoreError
from support.database import DatabaseMachine
from support.postgres import Databases
from support.upkeep import DAY, Site, imported, sample

# Retention.

async def test_messages_expire_by_their_age(site: Site) -> None:
    store = await site.server(retention_days=30)
    old = await send(store, ["bob", "carol"], body="old")
    await store.mark(old.id, "bob", "read")
    await store.mark(old.id, "carol", "deleted")
    site.clock.advance(days=29)
    young = await send(store, body="young")
    await store.keep_up()
    assert [message.id for message in await inbox(store)] == [old.id, young.id]
    site.clock.advance(days=1, minutes=1)
    version = await store.version("bob")
    await store.keep_up()
    assert [message.id for message in await inbox(store)] == [young.id]
    assert await store.version("bob") not in (0, version)
    assert [(event.message_id, event.to_agent) for event in await events(store, type="EXPIRED")
            ] == [(old.id, "bob")]
    assert counted(await store.stats()) == {
        "messages": 1, "unread": 1,
        "events": {"SENT": 3, "READ": 1, "DELETED": 1, "EXPIRED": 1},
        "agents": {"alice": (3, 0, 0), "bob": (0, 2, 1), "carol": (0, 1, 0)}}
    assert site.bodies() == 1
    site.clock.advance(days=30)
    await store.keep_up()
    assert await inbox(store) == []


async def test_without_retention_nothing_expires_by_age(site: Site) -> None:
    store = await site.server()
    await send(store)
    site.clock.advance(days=36_000)
    await store.keep_up()
    assert len(await inbox(store)) == 1


async def test_imported_messages_expire_by_when_they_were_sent(
        site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_RETIRED", 2)
    store = await site.server(retention_days=60)
    now = datetime.now(UTC)
    await send(store, body="now")
    await store.import_([imported(f"m{days}", now - days * DAY) for days in
                         (20_000, 4000, 400, 399, 398, 200, 61, 59, 1)])
    await store.keep_up()
    assert [message.subject for message in await inbox(store)] == ["subject", "m59", "m1"]
    # What comes in later is found as well.
    await store.import_([imported("late", now - 400 * DAY), imported("early", now)])
    await store.keep_up()
    assert [message.subject for message in await inbox(store)] == [
        "subject", "m59", "m1", "early"]


async def test_a_sealed_store_decides_nothing(site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder, retention_days=1, events_months=1)
    await sample(store)
    site.clock.advance(days=100)
    await store.seal(1)
    before = await everything(store)
    await store.keep_up()
    assert await everything(store) == before
    assert site.bodies() == 3
    await store.unseal(1)
    await store.keep_up()
    assert site.bodies() == 0


# Events by months.

async def test_old_months_are_archived_and_thinned_to_what_live_messages_need(
        site: Site, folder: FolderArchive, databases: Databases) -> None:
    store = await site.server(folder, find=True, events_months=2)
    now = datetime.now(UTC)
    both, half, stays = await sample(store)
    await store.mark(stays, "bob", "read")
    month = f"events_{now:%Y_%m}"
    whole = {event.seq: event for event in await events(store)}
    await store.keep_up()
    site.clock.advance(days=130)
    later = await send(store, body="later")
    await store.keep_up()
    left = {event.seq: event for event in await events(store)}
    kept = {seq: event for seq, event in whole.items() if event.message_id != both}
    assert {seq: event for seq, event in left.items() if event.message_id != later.id} == kept
    assert month in site.partitions()
    assert site.rows("SELECT count(*) FROM coordd.events_other") == [(0,)]
    lines = site.lines(f"events/{now:%Y-%m}-*.jsonl.gz")
    assert [line["seq"] for line in lines] == sorted(whole)
    assert lines[0] == {
        "seq": 1, "timestamp": whole[1].timestamp, "type": "SENT", "message_id": both,
        "from_agent": "alice", "to_agent": "bob", "subject": "Grüße"}
    # Its row is gone, and it is found still.
    assert site.rows("SELECT count(*) FROM coordd.messages WHERE id = %s", both) == [(0,)]
    assert len(await store.archived(both)) == 2
    assert [message.id for message in await sent(store, "alice")] == [
        later.id, stays, half]
    # What is left makes the same live messages elsewhere.
    other = Site(databases, site.folder)
    try:
        target = await other.server()
        await target.import_(await feed(store))
        assert await inbox(target) == await inbox(store)
        assert await inbox(target, "carol") == await inbox(store, "carol")
        assert await sent(target, "alice") == await sent(store, "alice")
        assert [change.pos for change in await feed(store)] == [
            change.pos for change in await feed(store, 1)]
    finally:
        await other.close()
    # When the others have gone as well, the rest of the month goes, and nothing is written twice.
    await store.mark(half, "carol", "deleted")
    await store.mark(stays, "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=130)
    await store.keep_up()
    assert month not in site.partitions()
    assert site.lines(f"events/{now:%Y-%m}-*.gz") == lines
    assert {event.message_id for event in await events(store)} == {later.id}
    assert [change.type for change in await feed(store)] == ["sent"]
    assert [message.id for message in await sent(store, "alice")] == [later.id]


async def test_what_was_not_archived_and_what_comes_in_meanwhile_is_kept_by_a_thinning(
        site: Site) -> None:
    store = await site.server()
    old = months_later(datetime.now(UTC), -3).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0)
    await store.import_([imported("a", old), imported("b", old), imported("c", old)])
    # As if both had been forgotten, the second one after the file was written.
    site.rows("DELETE FROM coordd.messages WHERE id IN ('a', 'b') RETURNING 1")
    thin = "SELECT coordd.thin_1(%s, %s, 1)", old, months_later(old, 1)
    with site.connect() as importing:
        importing.execute("BEGIN")
        importing.execute("INSERT INTO coordd.events SELECT 4, at, 2, 4, 'd', 'x', 'y', '' "
                          "FROM coordd.events WHERE pos = 3")
        thinning = asyncio.create_task(asyncio.to_thread(site.rows, *thin))

        async def waits() -> bool:
            return bool(site.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                                  "AND datname = current_database()"))

        await _until(waits)
        importing.execute("COMMIT")
        assert await thinning == [(3,)]
    assert site.rows("SELECT pos, message_id FROM coordd.events ORDER BY pos") == [
        (2, "b"), (3, "c"), (4, "d")]


async def test_events_are_kept_where_no_setting_says_else(site: Site) -> None:
    store = await site.server()
    await sample(store)
    site.clock.advance(days=3000)
    before = await everything(store)
    await store.keep_up()
    assert await everything(store) == before


async def test_what_is_imported_into_a_thinned_month_is_kept_and_archived_by_itself(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder, events_months=1)
    now = datetime.now(UTC)
    old = months_later(now, -5).replace(day=3)
    await store.import_([imported("one", old), imported("two", old)])
    await store.mark("one", "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=70)
    await store.keep_up()
    [first] = site.folder.glob(f"events/{old:%Y-%m}-*.jsonl.gz")
    assert [line["message_id"] for line in site.lines(f"events/{first.name}")] == ["one", "two"]
    await store.import_([imported("three", old)])
    assert [message.id for message in await inbox(store)] == ["two", "three"]
    for name in ("two", "three"):
        await store.mark(name, "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=70)
    await store.keep_up()
    first.unlink()
    assert [line["message_id"] for line in site.lines(f"events/{old:%Y-%m}-*.jsonl.gz")] == [
        "three"]
    assert await events(store) == []
    assert await feed(store) == []


async def test_an_archive_that_is_away_keeps_the_events(site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder, events_months=1)
    receipt = await send(store)
    await store.mark(receipt.id, "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=100)
    site.folder.rename(site.folder.with_name("away"))
    with pytest.raises(StoreError, match="No such file"):
        await store.keep_up()
    assert len(await events(store)) == 2
    # The message is forgotten already: who follows the feed hears no more of it.
    assert await feed(store) == []
    site.folder.with_name("away").rename(site.folder)
    await store.keep_up()
    assert await events(store) == []


async def test_a_message_whose_key_is_known_is_not_forgotten(site: Site) -> None:
    store = await site.server(events_months=1)
    claim = Claim("alice", "key", "digest", 1)
    [receipt] = await store.append([draft()], claim)
    await store.mark(receipt.id, "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=100)
    [again] = await store.append([draft()], Claim("alice", "other", "digest", 1))
    site.rows("UPDATE coordd.claims SET at = now() + interval '200 days' RETURNING 1")
    await store.keep_up()
    assert await store.append([draft()], claim) == [receipt]
    site.clock.advance(days=200)
    await store.keep_up()
    assert site.rows("SELECT count(*) FROM coordd.claims") == [(0,)]
    assert site.rows("SELECT id FROM coordd.messages") == [(again.id,)]


# The rest of upkeep.

async def test_keys_older_than_a_day_go(site: Site) -> None:
    store = await site.server()
    for number in range(3):
        await store.append([draft()], Claim("alice", str(number), "d", 1))
    site.clock.advance(hours=23)
    await store.append([draft()], Claim("alice", "young", "d", 1))
    await store.keep_up()
    assert site.rows("SELECT count(*) FROM coordd.claims") == [(4,)]
    site.clock.advance(hours=1, minutes=1)
    await store.keep_up()
    assert site.rows("SELECT key FROM coordd.claims") == [("young",)]


async def test_partitions_are_made_ahead(site: Site) -> None:
    store = await site.server()
    site.clock.advance(days=1000)
    await store.keep_up()
    now = site.clock()
    assert {f"events_{months_later(now, n):%Y_%m}" for n in range(4)} <= site.partitions()
    await send(store)
    assert site.rows("SELECT tableoid::regclass::text FROM coordd.events") == [
        (f"events_{now:%Y_%m}",)]


async def test_an_inbox_whose_expiring_message_was_deleted_may_be_cached_again(site: Site) -> None:
    store = await site.server()
    await send(store)
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    receipt = await send(store, expires_at=soon)
    await store.mark(receipt.id, "bob", "deleted")
    version = await store.version("bob")
    site.clock.advance(hours=2)
    assert await store.version("bob") == 0
    await store.keep_up()
    assert await store.version("bob") == version


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_one_server_does_it_by_itself_and_another_one_when_that_is_gone(
        site: Site, folder: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "ROUND_EVERY_S", 0.05)
    monkeypatch.setattr(upkeep, "EXPIRE_EVERY_S", 0.05)
    monkeypatch.setattr(upkeep, "_TURN_S", 0.5)
    monkeypatch.setattr(archiving, "WAIT_S", 0.0)

    async def gone() -> bool:
        return site.bodies() == 0

    async def indexed() -> bool:
        return bool(site.rows("SELECT FROM coordd.search_blocks"))

    first = await site.server(folder, retention_days=1)
    second = await site.server(folder, retention_days=1)
    receipts = await first.append([draft(body=str(n)) for n in range(8)])
    await _until(indexed)
    holder = site.rows("SELECT holder FROM coordd.upkeep WHERE job = 'turn'")
    for receipt in receipts:
        await first.mark(receipt.id, "bob", "deleted")
    await _until(gone)
    assert site.rows("SELECT holder FROM coordd.upkeep WHERE job = 'turn'") == holder
    doing, other = (first, second) if holder[0][0] == first._upkeep._holder else (second, first)
    await doing.close()
    site.rows("UPDATE coordd.upkeep SET at = now() WHERE job = 'turn' RETURNING 1")
    await send(other)
    site.clock.advance(days=2)
    await _until(gone)
    assert site.rows("SELECT holder FROM coordd.upkeep WHERE job = 'turn'") != holder


async def test_whose_turn_it_is_not_does_nothing(site: Site) -> None:
    first, second = await site.server(), await site.server()
    await first._upkeep._round()
    await sample(first)
    await second._upkeep._round()
    assert site.bodies() == 3
    await first._upkeep._round()
    assert site.bodies() == 2


async def test_few_wait_for_others_to_share_their_file(
        site: Site, folder: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await site.server(folder)
    await sample(store)
    await store._upkeep._round()
    assert site.bodies() == 3
    site.clock.advance(seconds=archiving.WAIT_S + 60)
    await store._upkeep._round()
    assert site.bodies() == 2


async def test_months_change_while_others_send_and_read(
        site: Site, folder: FolderArchive, database_machine: DatabaseMachine) -> None:
    store = await site.server(folder, events_months=1)
    now = datetime.now(UTC)
    old = months_later(now, -3).replace(day=1)
    await store.import_([imported(f"old{n}", old + n * timedelta(seconds=1)) for n in range(2000)])
    for n in range(0, 2000, 4):
        await store.mark(f"old{n}", "bob", "deleted")
    await store.keep_up()
    # Two months on: this one, with what was deleted, is old then, whatever day it is today.
    site.clock.advance(days=(months_later(now, 2).replace(day=15) - now).days)
    stopping = False
    stored = 0

    async def sender() -> None:
        nonlocal stored
        while not stopping:
            await send(store, "dave", body="x")
            stored += 1
            page = await store.events(limit=100, agent="dave", type="SENT", order="newest")
            assert page.events[0].type == "SENT"

    sending = asyncio.create_task(sender())
    try:
        await store.keep_up()
    finally:
        stopping = True
        await sending
    assert len(await inbox(store, "dave")) == stored > 0
    assert len(await events(store, agent="bob", type="SENT")) == 1500
    assert len(await inbox(store)) == 1500


def test_months() -> None:
    assert months_later(datetime(2026, 1, 31, tzinfo=UTC), 1) == datetime(2026, 2, 28, tzinfo=UTC)
    assert months_later(datetime(2026, 12, 1, tzinfo=UTC), 3) == datetime(2027, 3, 1, tzinfo=UTC)
    assert months_later(datetime(2026, 1, 5, tzinfo=UTC), -1) == datetime(2025, 12, 5, tzinfo=UTC)


