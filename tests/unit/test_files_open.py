"""Opening a folder that cannot be opened leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordd.engines.files import FilesOptions, FilesStore
from coordd.store import Draft, StoreDamagedError, StoreLockedError


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def filled(folder: Path) -> list[Path]:
    store = FilesStore(folder, FilesOptions(segment_bytes=1000))
    await store.open()
    for _ in range(10):
        await store.append([Draft("code", ("chat",), "Hi", "there")])
    await store.close()
    return sorted((folder / "log").iterdir())


async def test_a_refused_folder_costs_no_descriptor(tmp_path: Path) -> None:
    segments = await filled(tmp_path)
    data = segments[2].read_bytes()
    before = descriptors()
    for damaged in (b"x" + data[1:], data[:-20] + b"x" + data[-19:]):
        segments[2].write_bytes(damaged)
        for _ in range(3):
            with pytest.raises(StoreDamagedError, match=segments[2].name):
                await FilesStore(tmp_path).open()
    assert descriptors() == before


async def test_a_locked_folder_costs_no_descriptor(tmp_path: Path) -> None:
    store = FilesStore(tmp_path)
    await store.open()
    before = descriptors()
    with pytest.raises(StoreLockedError, match=f"pid {os.getpid()}"):
        await FilesStore(tmp_path).open()
    assert descriptors() == before
    await store.close()


async def test_a_strange_file_is_left_alone(tmp_path: Path) -> None:
    await filled(tmp_path)
    strange = tmp_path / "log" / "notes.log"
    strange.write_text("mine")
    store = FilesStore(tmp_path)
    await store.open()
    assert len((await store.inbox("chat", limit=100)).messages) == 10
    await store.close()
    assert strange.read_text() == "mine"
