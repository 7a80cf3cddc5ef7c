"""events.log: the old tool's lines, complete over rotations, crashes and full disks."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
from pathlib import Path

import pytest

from coordd.engines.files import FilesStore
from coordd.engines.files.eventslog import EventsLog
from coordd.store import Draft


async def opened(folder: Path) -> FilesStore:
    store = FilesStore(folder)
    await store.open()
    return store


async def send(store: FilesStore, *subjects: str) -> None:
    for subject in subjects:
        await store.append([Draft("code", ("chat",), subject, "body")])


async def written(folder: Path, *wanted: str) -> None:
    """Wait for the lines: they follow the answers."""
    async with asyncio.timeout(30):
        while subjects(folder / "events.log") != list(wanted):  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(0.005)


def subjects(path: Path) -> list[str]:
    return [line.split("|", 5)[5] for line in path.read_text().splitlines()]


async def test_a_line_is_the_old_tools(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await send(store, "a | b ")
    message_id = (await store.append([Draft("code", ("chat",), "", "body")]))[0].id
    await store.mark(message_id, "chat", "read")
    await store.mark(message_id, "chat", "deleted")
    await store.close()
    lines = [line.split("|", 5) for line in (tmp_path / "events.log").read_text().splitlines()]
    assert [line[1] for line in lines] == ["SENT", "SENT", "READ", "DELETED"]
    assert lines[0][5] == "a | b "
    assert lines[3][2:] == [message_id, "code", "chat", ""]
    assert all(len(line[0]) == 24 and line[0].endswith("+0000") for line in lines)


@pytest.mark.parametrize("end", [b"", b"2026-11-23T14:51:21+0000|SENT|torn"])
async def test_lines_that_a_crash_took_are_written_at_the_start(tmp_path: Path, end: bytes
                                                                ) -> None:
    store = await opened(tmp_path)
    await send(store, "1", "2", "3", "4")
    await store.close()
    path = tmp_path / "events.log"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + end)
    await (await opened(tmp_path)).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["events.log.1", "events.log.1.gz", "events.log-20261123"])
async def test_after_a_rotation_no_line_is_lost_or_doubled(tmp_path: Path, name: str) -> None:
    store = await opened(tmp_path)
    path, rotated = tmp_path / "events.log", tmp_path / name
    await send(store, "1", "2")
    path.rename(rotated if not name.endswith(".gz") else tmp_path / "moved")
    await send(store, "3")  # before the server knows
    store.reopen_logs()
    await store.prove()
    await send(store, "4")
    await store.close()
    if name.endswith(".gz"):
        with (tmp_path / "moved").open("rb") as plain, gzip.open(rotated, "wb") as packed:
            shutil.copyfileobj(plain, packed)
        (tmp_path / "moved").unlink()
    assert subjects(path) == ["4"]
    path.write_bytes(b"")
    os.utime(rotated)
    store = await opened(tmp_path)
    await send(store, "5")
    await store.close()
    # What stands behind the rotated file's last line, which is that of "3".
    assert subjects(path) == ["4", "5"]


async def test_without_any_file_all_lines_are_written_again(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await send(store, *map(str, range(1100)))
    await store.close()
    (tmp_path / "events.log").unlink()
    await (await opened(tmp_path)).close()
    assert subjects(tmp_path / "events.log") == [str(number) for number in range(1100)]


async def test_lines_that_find_no_room_come_later(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    log: EventsLog = store._events_log
    await send(store, "1")
    descriptor, log._fd = log._fd, os.open("/dev/full", os.O_WRONLY)
    await send(store, "2", "3")
    await store.prove()
    os.close(log._fd)
    log._fd = descriptor
    await send(store, "4")
    await store.close()
    assert subjects(tmp_path / "events.log") == ["1", "2", "3", "4"]


async def test_too_many_lines_without_room_come_with_the_next_start(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordd.engines.files.eventslog._BACKLOG_BYTES", 100)
    store = await opened(tmp_path)
    log: EventsLog = store._events_log
    await send(store, "1")
    await written(tmp_path, "1")
    descriptor, log._fd = log._fd, os.open("/dev/full", os.O_WRONLY)
    await send(store, "2", "3")
    await store.prove()
    os.close(log._fd)
    log._fd = descriptor
    await send(store, "4")
    await store.close()
    assert subjects(tmp_path / "events.log") == ["1"]
    await (await opened(tmp_path)).close()
    assert subjects(tmp_path / "events.log") == ["1", "2", "3", "4"]
