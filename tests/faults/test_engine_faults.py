"""A disk that is full now and then, and one whose sync fails, amid concurrent senders."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from conformance.reads import draft, everything, inbox, send
from coordd.engines.files import FilesOptions, FilesStore
from coordd.store import Claim, StoreDamagedError, StoreError, StoreFullError, StoreLockedError
from faults.crashdisk import RecordingDisk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(4))
async def test_a_disk_that_is_full_now_and_then(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    disk = RecordingDisk()
    store = FilesStore(tmp_path / "data", FilesOptions(segment_bytes=20_000), disk)
    await store.open()
    refused: list[str] = []

    async def with_key(name: str) -> None:
        """Twice at once, as after a retry, until it is stored."""
        for number in range(12):
            body = f"{name}-{number}"
            claim = Claim(name, str(number), "d", 1)
            while True:
                calls = (store.append([draft(body=body)], claim) for _ in range(2))
                answers = await asyncio.gather(*calls, return_exceptions=True)
                stored = [a for a in answers if not isinstance(a, BaseException)]
                assert all(isinstance(a, StoreFullError) for a in answers if a not in stored)
                if stored:
                    assert all(answer == stored[0] for answer in stored)
                    break
                await asyncio.sleep(0.002)

    async def without(name: str) -> None:
        for number in range(40):
            body = f"{name}-{number}"
            try:
                await store.append([draft(body=body), draft("carol", body=body)])
            except StoreFullError:
                refused.append(body)
                await asyncio.sleep(0.001)

    async def weather() -> None:
        while True:
            disk.fill(random.randrange(3000))
            await asyncio.sleep(random.uniform(0, 0.006))
            disk.free()
            await asyncio.sleep(random.uniform(0, 0.006))

    changing = asyncio.create_task(weather())
    await asyncio.gather(
        *(with_key(f"k{n}") for n in range(4)), *(without(f"w{n}") for n in range(4))
    )
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    disk.free()
    shown = [message.body for message in await inbox(store)]
    expected = {f"k{n}-{m}" for n in range(4) for m in range(12)}
    expected |= {f"w{n}-{m}" for n in range(4) for m in range(40)} - set(refused)
    assert refused
    assert sorted(shown) == sorted(expected)
    assert [m.seq for m in await inbox(store)] == list(range(1, len(shown) + 1))
    assert [m.seq for m in await inbox(store, "carol")] == (
        list(range(1, 4 * 40 - len(refused) + 1)))
    before = await everything(store)
    await store.close()
    again = FilesStore(tmp_path / "data")
    await again.open()
    assert await everything(again) == before
    await again.close()


async def test_a_full_disk_is_said_by_the_proof_too(tmp_path: Path) -> None:
    disk = RecordingDisk()
    store = FilesStore(tmp_path / "data", disk=disk)
    await store.open()
    receipt = await send(store)
    await store.prove()
    disk.fill(0)
    with pytest.raises(StoreFullError):
        await store.prove()
    with pytest.raises(StoreFullError):
        await store.mark(receipt.id, "bob", "read")
    with pytest.raises(StoreFullError):
        await store.put_agent("bob", "builds")
    assert [message.state for message in await inbox(store)] == ["unread"]
    disk.free()
    await store.prove()
    assert await store.mark(receipt.id, "bob", "read") is not None
    await store.close()


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_failed_sync_ends_the_store(tmp_path: Path, after: int) -> None:
    """It is never tried again: the kernel would say yes without having the bytes."""
    fatal: list[BaseException] = []
    disk = RecordingDisk()
    options = FilesOptions(on_fatal=fatal.append)
    store = FilesStore(tmp_path / "data", options, disk)
    await store.open()
    first = await send(store)
    disk.fail_sync(after)
    outcomes: list[bool] = []

    async def sender(number: int) -> None:
        for part in range(5):
            try:
                await store.append([draft(body=f"{number}-{part}")])
                outcomes.append(True)
            except StoreError:
                outcomes.append(False)
            await asyncio.sleep(0)

    await asyncio.gather(*(sender(number) for number in range(5)))
    assert False in outcomes
    assert True not in outcomes[outcomes.index(False):], "a success after the failed sync"
    assert len(fatal) == 1
    assert isinstance(fatal[0], OSError)
    for work in (
        store.mark(first.id, "bob", "read"), store.put_agent("bob", "x"), store.prove(),
        store.seal(1),
    ):
        with pytest.raises(StoreError):
            await work
    assert (await inbox(store))[0].id == first.id
    calls = [call.name for call in disk.trace]
    assert "datasync_failed" in calls
    assert "write_synced" not in calls[calls.index("datasync_failed"):]
    await store.close()
    assert len(fatal) == 1


async def test_a_second_store_on_the_folder(tmp_path: Path) -> None:
    store, second = FilesStore(tmp_path / "data"), FilesStore(tmp_path / "data")
    await store.open()
    with pytest.raises(StoreLockedError):
        await second.open()
    await send(store)
    await store.close()
    await second.open()
    assert len(await inbox(second)) == 1
    await second.close()


async def test_a_store_that_was_refused_can_be_opened_when_mended(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = FilesStore(folder)
    await store.open()
    await send(store)
    await store.close()
    [path] = (folder / "log").glob("*.log")
    original = path.read_bytes()
    path.write_bytes(original[:-3])
    store = FilesStore(folder)
    for _ in range(2):
        with pytest.raises(StoreDamagedError):
            await store.open()
    path.write_bytes(original)
    await store.open()
    assert len(await inbox(store)) == 1
    await store.close()
