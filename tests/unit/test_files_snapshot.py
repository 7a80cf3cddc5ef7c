"""The snapshot beside the log: what it covers, and what makes it useless."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from coordd.engines.files import FilesOptions, FilesStore, snapshot
from coordd.engines.files.disk import Disk
from coordd.store import Draft, StoreDamagedError

DRAFT = Draft("code", ("chat",), "Hi", "there")


async def stored(folder: Path, count: int) -> None:
    store = FilesStore(folder)
    await store.open()
    for _ in range(count):
        await store.append([DRAFT])
    await store.close()


async def bodies(folder: Path) -> int:
    store = FilesStore(folder)
    await store.open()
    page = await store.inbox("chat", limit=100)
    await store.close()
    return len(page.messages)


async def test_a_snapshot_covers_no_bytes_that_the_index_has_not_applied(tmp_path: Path) -> None:
    """The writer's thread is ahead of the index while a commit lands."""
    store = FilesStore(tmp_path / "live")
    await store.open()
    await store.append([DRAFT])
    size = store._storage.active.size
    landing = store.append([DRAFT])
    await asyncio.sleep(0)
    until = time.monotonic() + 10
    while store._storage.active.size == size:  # without giving the loop a turn
        assert time.monotonic() < until
    snapshot.write(tmp_path / "live", Disk(), snapshot.capture(store._index, store._storage))
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    await landing
    await store.close()
    assert await bodies(tmp_path / "killed") == 2


async def test_a_snapshot_that_was_torn_is_ignored(tmp_path: Path) -> None:
    await stored(tmp_path, 3)
    data = (tmp_path / snapshot.NAME).read_bytes()
    for torn in (b"", data[:-1], data[: len(data) // 2], data[:40] + b"x" + data[41:]):
        (tmp_path / snapshot.NAME).write_bytes(torn)
        assert await bodies(tmp_path) == 3


async def test_a_segment_that_ends_before_the_snapshot_says_is_damage(tmp_path: Path) -> None:
    await stored(tmp_path, 3)
    segment, = (tmp_path / "log").iterdir()
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(StoreDamagedError, match="events 3 to 3 are missing"):
        await FilesStore(tmp_path).open()


async def test_snapshots_are_taken_while_the_server_runs(tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordd.engines.files.upkeep._SNAPSHOT_EVENTS", 10)
    store = FilesStore(tmp_path / "live", FilesOptions())
    await store.open()
    for _ in range(12):
        await store.append([DRAFT])
    until = time.monotonic() + 10
    while not (tmp_path / "live" / snapshot.NAME).exists():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    await store.close()
    saved = snapshot.read(tmp_path / "killed")
    assert saved is not None
    assert 0 < saved.header.position <= 12
    assert await bodies(tmp_path / "killed") == 12
