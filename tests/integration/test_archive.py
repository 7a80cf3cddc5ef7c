"""Gone messages on their way to an archive and found there, on a real Postgres behind pgbouncer."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import pytest

from conformance.reads import counted, draft, events, everything
from coordd.archive import ArchiveError, FolderArchive
from coordd.engines.postgres import PostgresStore, archiving
from coordd.engines.postgres.upkeep import months_later
from coordd.store import StoreError, StoreUnavailableError
from support.upkeep import Site, sample

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
