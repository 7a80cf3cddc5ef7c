"""The log's files: zeros ahead of small commits, and none where they would be damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coordd.engines.files import FilesOptions, FilesStore
from coordd.engines.files.log import STEP_BYTES
from coordd.store import Draft, StoreDamagedError

DRAFT = Draft("code", ("chat",), "Hi", "there")


async def opened(folder: Path, segment_bytes: int = 64 << 20) -> FilesStore:
    store = FilesStore(folder, FilesOptions(segment_bytes=segment_bytes))
    await store.open()
    return store


async def count(folder: Path) -> int:
    store = await opened(folder)
    page = await store.inbox("chat", limit=1000)
    await store.close()
    return len(page.messages)


def segments(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "log").iterdir())]


async def test_zeros_stand_ahead_of_small_commits_while_the_store_is_open(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    for _ in range(3):
        await store.append([DRAFT])
    data, = segments(tmp_path)
    assert len(data) > STEP_BYTES
    assert data.rstrip(b"\0").count(b"\n") == 4
    await store.close()
    closed, = segments(tmp_path)
    assert closed == data.rstrip(b"\0")
    assert await count(tmp_path) == 3


async def test_a_closed_segment_has_none(tmp_path: Path) -> None:
    store = await opened(tmp_path, segment_bytes=1000)
    for _ in range(12):
        await store.append([DRAFT])
    *sealed, active = segments(tmp_path)
    assert len(sealed) > 1
    assert not any(b"\0" in data for data in sealed)
    assert active.endswith(b"\0")
    shutil.copytree(tmp_path, tmp_path.with_name("killed"))
    await store.close()
    assert await count(tmp_path.with_name("killed")) == 12


async def test_a_killed_stores_zeros_are_cut_off(tmp_path: Path) -> None:
    store = await opened(tmp_path / "live")
    await store.append([DRAFT])
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    await store.close()
    again = await opened(tmp_path / "killed")
    data, = segments(tmp_path / "killed")
    assert not data.endswith(b"\0")
    await again.append([DRAFT])
    await again.close()
    assert await count(tmp_path / "killed") == 2


async def test_zeros_in_a_closed_segment_are_damage(tmp_path: Path) -> None:
    store = await opened(tmp_path, segment_bytes=1000)
    for _ in range(9):
        await store.append([DRAFT])
    await store.close()
    (tmp_path / "index.snap").unlink()
    first = min((tmp_path / "log").iterdir())
    with first.open("ab") as file:
        file.write(bytes(100))
    with pytest.raises(StoreDamagedError, match=first.name):
        await FilesStore(tmp_path).open()


async def test_large_commits_reserve_nothing(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.append([Draft("code", ("chat",), "Hi", "x" * 60_000)] * 4)
    data, = segments(tmp_path)
    assert not data.endswith(b"\0")
    await store.close()
