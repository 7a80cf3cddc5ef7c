"""Bytes that were durable and changed: refused with their place, never shown wrong or left out."""

from __future__ import annotations

import asyncio
import re
import shutil
from random import Random
from typing import TYPE_CHECKING

import pytest

from conformance.reads import draft, everything, send
from coordd.engines.files import FilesOptions, FilesStore
from coordd.store import Claim, StoreDamagedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

SMALL = FilesOptions(segment_bytes=3000)
SEED = 7
FLIPS = 150


async def shown(folder: Path) -> dict[str, Any]:
    """Open the store, take all it shows, let it go as a kill would: its files stay as they are."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    store = FilesStore(copy, SMALL)
    await store.open()
    try:
        return await everything(store)
    finally:
        await store.close()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "log").glob("*.log"))


def flip(path: Path, offset: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A store with several segments, stopped cleanly."""
    folder = tmp_path / "data"
    store = FilesStore(folder, SMALL)
    await store.open()
    for number in range(15):
        receipt = await send(store, ["bob", "carol"], body=f"{number} " + "x" * 300)
        await store.mark(receipt.id, "bob", "read")
    await store.append([draft(body="é" * 40) for _ in range(5)], Claim("alice", "k", "d", 5))
    await asyncio.gather(*(store.append([draft()]) for _ in range(4)))
    await store.close()
    assert len(segments(folder)) > 3
    return folder


@pytest.mark.parametrize("snapshot", [True, False], ids=["clean stop", "no index.snap"])
async def test_a_changed_byte_is_refused_with_its_place(folder: Path, snapshot: bool) -> None:
    if not snapshot:
        (folder / "index.snap").unlink()
    before = await shown(folder)
    random = Random(SEED)
    refused = 0
    *middle, last = segments(folder)
    for number in range(FLIPS):
        path = last if snapshot and number % 3 == 0 else random.choice(middle)
        original = path.read_bytes()
        flip(path, random.randrange(len(original)), random.choice([1, 4, 32, 128]))
        with pytest.raises(StoreDamagedError) as caught:
            await shown(folder)
        path.write_bytes(original)
        assert path.name in str(caught.value)
        assert re.search(r"offset \d+", str(caught.value)), caught.value
        refused += 1
    assert refused == FLIPS
    assert await shown(folder) == before


async def test_the_place_is_that_of_the_damaged_line(folder: Path) -> None:
    path = segments(folder)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    start = sum(map(len, lines[:2]))
    flip(path, start + 60)
    with pytest.raises(StoreDamagedError, match=rf"{path.name}.* offset {start}\b"):
        await shown(folder)


async def test_a_last_segment_that_was_cut_after_a_clean_stop(folder: Path) -> None:
    path = segments(folder)[-1]
    original = path.read_bytes()
    for size in {0, 10, len(original) // 2, len(original) - 1}:
        path.write_bytes(original[:size])
        with pytest.raises(StoreDamagedError, match=path.name):
            await shown(folder)
    path.write_bytes(original)
    await shown(folder)


async def test_damage_before_the_last_commit_of_a_killed_server(folder: Path) -> None:
    """Without the snapshot a frame still says what was durable before it was written."""
    store = FilesStore(folder)
    await store.open()
    for _ in range(3):
        await send(store)
    await store.close()
    (folder / "index.snap").unlink()
    path = segments(folder)[-1]
    start = sum(map(len, path.read_bytes().splitlines(keepends=True)[:-2]))
    flip(path, start + 30)
    with pytest.raises(StoreDamagedError, match=rf"{path.name}.* offset {start}\b"):
        await shown(folder)


@pytest.mark.parametrize("which", [0, 1, -2, -1])
async def test_a_segment_that_is_missing(folder: Path, which: int) -> None:
    segments(folder)[which].unlink()
    with pytest.raises(StoreDamagedError, match=r"\.log"):
        await shown(folder)


async def test_a_segment_that_cannot_be_read(folder: Path) -> None:
    path = segments(folder)[1]
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreDamagedError, match=path.name):
        await shown(folder)


async def test_two_segments_changed_places(folder: Path) -> None:
    one, other, *_ = segments(folder)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    with pytest.raises(StoreDamagedError, match=one.name):
        await shown(folder)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-20]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b"\0" * path.stat().st_size), id="zeros"),
        pytest.param(lambda path: path.write_bytes(b"{}\n00000000"), id="another file"),
    ],
)
async def test_the_snapshot_is_a_cache(folder: Path, damage: Callable[[Path], Any]) -> None:
    before = await shown(folder)
    damage(folder / "index.snap")
    assert await shown(folder) == before


async def test_a_changed_byte_of_the_snapshot_changes_nothing(folder: Path) -> None:
    before = await shown(folder)
    path = folder / "index.snap"
    original = path.read_bytes()
    random = Random(SEED)
    for _ in range(60):
        path.write_bytes(original)
        flip(path, random.randrange(len(original)), random.choice([1, 16, 128]))
        assert await shown(folder) == before


async def test_a_snapshot_of_an_earlier_time(folder: Path) -> None:
    old = (folder / "index.snap").read_bytes()
    store = FilesStore(folder, SMALL)
    await store.open()
    for number in range(12):
        await send(store, body=f"later {number} " + "x" * 200)
    before = await everything(store)
    await store.close()
    (folder / "index.snap").write_bytes(old)
    assert await shown(folder) == before
