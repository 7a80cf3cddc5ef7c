"""Retention, the archive and what upkeep does beside, on a real Postgres behind pgbouncer."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from conformance.engines import Clock
from conformance.reads import counted, draft, events, everything, feed, inbox, send, sent
from coordd.archive import Archive, ArchiveError, FolderArchive
from coordd.engines.postgres import PostgresOptions, PostgresStore, archiving, upkeep
from coordd.engines.postgres.upkeep import Policy, months_later
from coordd.model import Core
from coordd.store import Change, Claim, StoreError, StoreUnavailableError
from support.database import DatabaseMachine
from support.postgres import Databases

DAY = timedelta(days=1)


class Site:
    """A database, its servers and their clock."""

    def __init__(self, databases: Databases, archive: Path) -> None:
        self.clock = Clock()
        self.folder = archive
        self._databases = databases
        self._name = databases.new()
        self._open: list[PostgresStore] = []

    async def server(self, archive: Archive | None = None, *, find: bool = False,
                     **policy: int) -> PostgresStore:
        """One more server on the same messages."""
        store = PostgresStore(PostgresOptions(
            parameters=self._databases.pooled(self._name), pool_size=2, search_block=4,
            shift_us=self.clock.added_us, policy=Policy(**policy), archive=archive,
            archive_find=find))
        await store.open()
        self._open.append(store)
        return store

    def connect(self) -> psycopg.Connection:
        machine = self._databases.machine
        return machine.connect(machine.direct_url(self._name))

    def rows(self, query: Any, *values: Any) -> list[Any]:
        """What the database has."""
        with self.connect() as connection:
            return connection.execute(query, values).fetchall()

    def bodies(self) -> int:
        return int(self.rows("SELECT count(body) FROM coordd.messages")[0][0])

    def partitions(self) -> set[str]:
        return {name for (name,) in self.rows(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid "
            "WHERE inhparent = 'coordd.events'::regclass")}

    def lines(self, pattern: str) -> list[dict[str, Any]]:
        """All lines of the archive's files of that pattern, by their names."""
        return [json.loads(line) for file in sorted(self.folder.glob(pattern))
                for line in gzip.decompress(file.read_bytes()).splitlines()]

    async def close(self) -> None:
        for store in self._open:
            await store.close()
        self._databases.drop(self._name)


@pytest.fixture
async def site(databases: Databases, tmp_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path / "archive"
    folder.mkdir()
    found = Site(databases, folder)
    yield found
    await found.close()


@pytest.fixture
def folder(site: Site) -> FolderArchive:
    return FolderArchive(site.folder)


async def sample(store: PostgresStore) -> tuple[str, str, str]:
    """Ids of: one that bob and carol have deleted, one that carol has still, one that stays."""
    both = await send(store, ["bob", "carol"], subject="Grüße", body="naïve \n\"body\"",
                      priority="high")
    await store.mark(both.id, "bob", "read")
    await store.mark(both.id, "bob", "deleted")
    await store.mark(both.id, "carol", "deleted")
    half = await send(store, ["bob", "carol"], body="half")
    await store.mark(half.id, "bob", "deleted")
    stays = await send(store, body="stays")
    return both.id, half.id, stays.id


# Gone messages.

async def test_a_message_that_all_have_deleted_is_archived_and_its_body_given_back(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder)
    both, _, _ = await sample(store)
    before = await everything(store)
    await store.keep_up()
    [line] = site.lines("messages/*/*/*/*.jsonl.gz")
    gone = [event.timestamp for event in before["events"] if event.type == "DELETED"]
    read = next(event.timestamp for event in before["events"] if event.type == "READ")
    assert {name: line[name] for name in ("id", "from_agent", "subject", "body", "priority",
                                          "thread_id", "in_reply_to", "expires_at")} == {
        "id": both, "from_agent": "alice", "subject": "Grüße", "body": "naïve \n\"body\"",
        "priority": "high", "thread_id": both, "in_reply_to": None, "expires_at": None}
    assert line["deliveries"] == [
        {"to_agent": "bob", "seq": 1, "state": "read", "read_at": read, "acked_at": None,
         "gone": "deleted", "gone_at": gone[0]},
        {"to_agent": "carol", "seq": 1, "state": "unread", "read_at": None, "acked_at": None,
         "gone": "deleted", "gone_at": gone[1]}]
    assert site.bodies() == 2
    assert await everything(store) == before


def zgrep(text: str, file: Path) -> str:
    return subprocess.run(["zgrep", text, file], check=True, capture_output=True,
                          encoding="utf-8").stdout


async def test_the_files_are_for_people(site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder)
    both, _, _ = await sample(store)
    await store.keep_up()
    [file] = site.folder.rglob("*.gz")
    assert "Grüße" in zgrep(both, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(site.folder.rglob("*.tmp"))


async def test_a_delivery_that_went_in_an_earlier_step_has_its_time(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder)
    _, half, _ = await sample(store)
    await store.keep_up()
    await store.mark(half, "carol", "acked")
    await store.mark(half, "carol", "deleted")
    await store.keep_up()
    times = {(event.message_id, event.to_agent): event.timestamp
             for event in await events(store, type="DELETED")}
    line = next(line for line in site.lines("messages/*/*/*/*.gz") if line["id"] == half)
    assert [(each["to_agent"], each["state"], each["gone_at"]) for each in line["deliveries"]] == [
        ("bob", "unread", times[half, "bob"]), ("carol", "acknowledged", times[half, "carol"])]
    assert site.bodies() == 1


async def test_without_an_archive_the_body_is_given_back(site: Site) -> None:
    store = await site.server()
    await sample(store)
    before = await everything(store)
    await store.keep_up()
    assert site.bodies() == 2
    assert await everything(store) == before


async def test_many_go_in_many_steps(site: Site, folder: FolderArchive,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "BATCH_EVENTS", 7)
    monkeypatch.setattr(archiving, "_BODIES", 3)
    store = await site.server(folder)
    receipts = await store.append([draft(["bob", "carol"], body=str(n)) for n in range(30)])
    for to in ("bob", "carol"):
        for receipt in receipts[:-1]:
            await store.mark(receipt.id, to, "deleted")
    await store.keep_up()
    lines = site.lines("messages/*/*/*/*.gz")
    assert [(line["id"], line["body"]) for line in lines] == [
        (receipt.id, str(n)) for n, receipt in enumerate(receipts[:-1])]
    assert len(list(site.folder.rglob("*.gz"))) == 5
    assert site.bodies() == 1
    names = {name for (name,) in site.rows("SELECT name FROM coordd.archives")}
    assert names == {str(file.relative_to(site.folder)) for file in site.folder.rglob("*.gz")}


async def test_two_servers_at_once_do_it_once(site: Site, folder: FolderArchive,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "BATCH_EVENTS", 5)
    servers = [await site.server(folder, retention_days=1) for _ in range(2)]
    receipts = await servers[0].append([draft(body=str(n)) for n in range(40)])
    site.clock.advance(days=2)
    await asyncio.gather(*(server.keep_up() for server in servers))
    assert counted(await servers[0].stats())["events"] == {"SENT": 40, "EXPIRED": 40}
    assert site.bodies() == 0
    assert {line["id"] for line in site.lines("messages/*/*/*/*.gz")} == {r.id for r in receipts}


async def test_a_server_that_comes_late_changes_nothing(site: Site) -> None:
    store = await site.server()
    await sample(store)
    await store.keep_up()
    [(position,)] = site.rows("SELECT position FROM coordd.upkeep WHERE job = 'gone'")
    bodies = site.rows("SELECT array_agg(pos) FROM coordd.messages WHERE body IS NOT NULL")[0][0]
    assert site.rows("SELECT coordd.give_back_1(0, 0, 1, %s, 'file', 1)", bodies) == [(False,)]
    assert site.rows("SELECT position FROM coordd.upkeep WHERE job = 'gone'") == [(position,)]
    assert site.rows("SELECT name FROM coordd.archives") == []
    assert site.bodies() == 2


async def test_a_late_server_does_not_replace_a_file_by_a_shorter_one(
        site: Site, folder: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "_BODIES", 2)
    first, late = await site.server(folder), await site.server(folder)
    receipts = await first.append([draft(body=str(n)) for n in range(5)])
    for receipt in receipts:
        await first.mark(receipt.id, "bob", "deleted")
    looks = 0

    async def do(query: LiteralString, parameters: dict[str, Any]) -> list[Any]:
        nonlocal looks
        if query == archiving._BODY:
            looks += 1
            if looks == 2:
                await first.keep_up()
        return await late._database.fetch(query, parameters)

    assert await late._archiving.give_back(do, now=True)
    assert looks == 2
    assert not await late._archiving.give_back(do, now=True)
    assert [line["body"] for line in site.lines("messages/*/*/*/*.gz")] == list("01234")
    assert site.bodies() == 0


async def test_a_late_server_does_not_replace_a_months_file(
        site: Site, folder: FolderArchive) -> None:
    first, late = await site.server(folder, events_months=1), await site.server(folder)
    now = datetime.now(UTC)
    both, _, _ = await sample(first)
    await first.keep_up()
    site.clock.advance(days=100)
    await first.keep_up()
    files = {file: file.read_bytes() for file in site.folder.glob("events/*")}
    assert len(files) == 1
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    [(position,)] = site.rows("SELECT position FROM coordd.store")
    await late._archiving.write_events(late._database.fetch, month, months_later(month, 1), 0,
                                       position)
    assert all(file.read_bytes() == content for file, content in files.items())
    assert any(line["message_id"] == both for line in site.lines("events/*"))


# The archive's faults.

class CutOff(FolderArchive):
    """The server ends when the file is there."""

    async def put(self, name: str, file: Path) -> None:
        await super().put(name, file)
        raise ArchiveError("the server ended here")


async def test_a_crash_after_the_file_and_before_the_bodies_go(
        site: Site, folder: FolderArchive) -> None:
    first = await site.server(CutOff(site.folder))
    both, _, _ = await sample(first)
    with pytest.raises(StoreError):
        await first.keep_up()
    assert site.bodies() == 3
    files = {file: file.read_bytes() for file in site.folder.rglob("*.gz")}
    store = await site.server(folder)
    await store.keep_up()
    assert {file: file.read_bytes() for file in site.folder.rglob("*.gz")} == files
    assert [line["id"] for line in site.lines("messages/*/*/*/*.gz")] == [both]
    assert site.bodies() == 2


async def test_an_archive_that_is_away_keeps_all_and_is_told_once(
        site: Site, folder: FolderArchive, caplog: pytest.LogCaptureFixture) -> None:
    store = await site.server(folder)
    await sample(store)
    site.folder.rename(site.folder.with_name("away"))
    with caplog.at_level(logging.INFO, "coordd.postgres"):
        for _ in range(3):
            with pytest.raises(StoreError, match="No such file"):
                await store.keep_up()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert site.bodies() == 3
        assert not site.folder.exists(), "a mount that is away was written to"
        assert dict_of(store)["coordd_archive_up"] == 0
        site.folder.with_name("away").rename(site.folder)
        await store.keep_up()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert site.bodies() == 2
    assert dict_of(store) == {"coordd_archive_up": 1, "coordd_archived_messages": 1}


def dict_of(store: PostgresStore) -> dict[str, float]:
    return {name: float(value) for name, _, value in
            [*store.gauges(), *store.counters()] if name.startswith("coordd_archive")}


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_a_full_archive_keeps_all_and_leaves_no_part_of_a_file(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder)
    await sample(store)
    with small_disk(site.folder):
        filler = site.folder / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(1 << 20))
        with pytest.raises(StoreError, match="No space left"):
            await store.keep_up()
        assert site.bodies() == 3
        assert [file for file in site.folder.rglob("*") if file.is_file()] == [filler]
        filler.unlink()
        await store.keep_up()
        assert len(site.lines("messages/*/*/*/*.gz")) == 1
    assert site.bodies() == 2


# Found in the archive.

async def test_an_archived_message_is_found_where_the_setting_says_so(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder, find=True)
    both, half, stays = await sample(store)
    before = [event.timestamp for event in await events(store, type="READ")]
    assert await store.archived(both) == []
    await store.keep_up()
    assert await store.message(both) == []
    found = [json.loads(bytes(one)) for one in await store.archived(both)]
    assert [(one["to_agent"], one["seq"], one["state"], one["read_at"], one["archived"])
            for one in found] == [("bob", 1, "read", before[0], True),
                                  ("carol", 1, "unread", None, True)]
    assert found[0]["body"] == "naïve \n\"body\""
    for unknown in (half, stays, "nobody-knows", both[:-1]):
        assert await store.archived(unknown) == []
    silent = await site.server(folder)
    assert await silent.archived(both) == []


async def test_an_archive_that_is_away_is_unavailable_and_a_lost_file_is_not_found(
        site: Site, folder: FolderArchive) -> None:
    store = await site.server(folder, find=True)
    both, _, _ = await sample(store)
    await store.keep_up()
    site.folder.rename(site.folder.with_name("away"))
    with pytest.raises(StoreUnavailableError, match="archive"):
        await store.archived(both)
    site.folder.with_name("away").rename(site.folder)
    [file] = site.folder.rglob("*.gz")
    file.unlink()
    assert await store.archived(both) == []


# Retention.

def imported(name: str, at: datetime, to: str = "bob", *, by: str = "alice") -> Change:
    text = at.isoformat().replace("+00:00", "Z")
    return Change("sent", text, message=Core(name, by, name, f"body of {name}", "normal", name,
                                             None, text, None), deliveries=[(to, 0)])


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
    old = months_later(datetime.now(UTC), -3).replace(day=1)
    await store.import_([imported(f"old{n}", old + n * timedelta(seconds=1)) for n in range(2000)])
    for n in range(0, 2000, 4):
        await store.mark(f"old{n}", "bob", "deleted")
    await store.keep_up()
    site.clock.advance(days=60)
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


