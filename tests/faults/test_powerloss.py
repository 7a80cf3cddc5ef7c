"""The power fails after each call to the disk: every acknowledged message is kept, none invented.

A `kill -9` can't show a missing fsync, since the kernel keeps what was written. Here the engine's
disk is recorded, and what a real disk may have left is built and opened. That the judge can say
no is shown by disks that only pretend to sync.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from coordd.store import StoreError
from faults.crashdisk import Call, Platter, RecordingDisk
from faults.powerloss import FOLDER_PREFIX, SMALL, Client, History, quick_folder, replay, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = 20_260_123


async def session(client: Client, folder: Path) -> None:
    """A life of a store: all that writes, with segments that are soon full."""
    await client.open(folder)
    first = await client.send(["bob"])
    await client.send(["carol"], key="k1")
    await asyncio.gather(*(client.send(["bob"]) for _ in range(6)))
    fan = await client.send(["bob", "carol", "dave"])
    assert first
    assert fan
    await asyncio.gather(
        client.send(*(["bob"] for _ in range(5)), size=200),
        client.send(["bob", "carol"], ["dave"], key="k2"),
        client.mark(first[0].id, "bob", "read"),
        client.send(["carol"]),
        client.put("one"),
    )
    await client.mark(first[0].id, "bob", "acked")
    await client.put("two")
    for number in range(8):
        receipts = await client.send(["bob"], ["carol"], size=400)
        assert receipts
        if number % 2:
            await client.mark(receipts[0].id, "bob", "deleted")
    await client.mark(fan[0].id, "carol", "deleted")
    await client.store.compact()
    await client.send(["bob"])


async def full_disk(client: Client) -> None:
    """No room in the middle of a commit, behind its first whole frame; then room again.

    The first time in a large commit, the second time where zeros are put ahead of small ones.
    """
    client.disk.fill(100_000)
    waiting = [client.send(["bob"], size=60_000, key=f"large-{n}") for n in range(3)]
    assert await asyncio.gather(*waiting) == [None] * 3
    client.disk.fill(1200)
    waiting = [client.send(["bob"], ["dave"], size=150, key=f"full-{n}") for n in range(3)]
    assert await asyncio.gather(*waiting) == [None] * 3
    assert await client.send(["bob"]) is None
    client.disk.free()
    assert await client.send(["bob"])


async def recorded(
    root: Path, pretend: Callable[[Call], bool] = lambda _: False
) -> Client:
    """A whole story: a session, a full disk, a clean stop, a second start, and no stop."""
    client = Client(RecordingDisk(pretend))
    await session(client, root / "data")
    await full_disk(client)
    await client.store.close()
    await client.open(root / "data")
    await client.send(["bob", "carol"], key="k3")
    await asyncio.gather(*(client.send(["bob"], size=300) for _ in range(5)))
    await client.store.close()
    return client


async def test_a_power_loss_at_any_moment_loses_nothing() -> None:
    with quick_folder() as root:
        client = await recorded(root)
        states, wrong = await replay(client.history, client.disk, root, seed=SEED, samples=16)
    assert wrong == []
    assert states > 150


async def test_a_power_loss_while_it_recovers_from_one() -> None:
    with quick_folder() as root:
        client = await recorded(root)
        platter, random = Platter(root), Random(SEED)
        ends = sorted(random.sample(range(20, client.disk.now), 6))
        for calls, call in enumerate(client.disk.trace, 1):
            platter.do(call)
            if calls not in ends:
                continue
            *_, state = platter.after_power_loss(random, samples=3)
            with quick_folder() as second:
                new_root = second / "root"
                disk = RecordingDisk()
                disk.begin_with(state, root, new_root)
                begin = disk.now
                again = Client(disk, _known(client.history, calls))
                await again.open(new_root / "data")
                await again.send(["bob"])
                await asyncio.gather(again.send(["carol"]), again.send(["bob", "dave"]))
                await again.store.close()
                _, wrong = await replay(
                    again.history, disk, new_root, seed=SEED, samples=4, begin=begin
                )
                assert wrong == []


def _known(history: History, calls: int) -> History:
    """The history up to a crash: what was acknowledged by then is so from the first call on."""

    def answer(answered: int | None) -> int | None:
        return 0 if answered is not None and answered <= calls else None

    return History(
        [replace(sent, answered=answer(sent.answered)) for sent in history.sends],
        [replace(mark, answered=answer(mark.answered)) for mark in history.marks],
        [(to, seq, 0) for to, seq, when in history.heard if when <= calls],
        [(text, answer(answered)) for text, answered in history.entries],
    )


async def test_a_kill_and_then_a_power_loss() -> None:
    """A killed server leaves what it wrote to the kernel, which still owes it to the disk."""
    with quick_folder() as root:
        client = await recorded(root)
        risky = [
            calls
            for calls, call in enumerate(client.disk.trace, 1)
            if call.name in ("make_folder", "create", "rename", "truncate", "write")
        ]
        moments = risky[:6] + Random(SEED).sample(risky[6:], 10)
        for calls in moments:
            with quick_folder() as second:
                new_root = second / "root"
                disk = RecordingDisk()
                disk.go_on(client.disk.trace[:calls], root, new_root)
                again = Client(disk, _known(client.history, calls))
                await again.open(new_root / "data")
                await again.send(["bob"])
                await again.send(["carol", "bob"])
                await again.store.close()
                _, wrong = await replay(
                    again.history, disk, new_root, seed=SEED, samples=3, begin=calls
                )
                assert wrong == [], f"killed after call {calls}"


async def test_a_sync_that_failed_is_never_trusted() -> None:
    """The kernel calls the pages clean after a failed sync: a start must write them again."""
    fatal: list[BaseException] = []
    with quick_folder() as root:
        client = Client(RecordingDisk())
        options = SMALL.__class__(segment_bytes=1 << 20, on_fatal=fatal.append)
        await client.open(root / "data", options)
        await client.send(["bob"])
        client.disk.fail_sync(after=1)
        await client.send(["bob"])
        failing = [asyncio.create_task(client.send(["bob"], size=700)) for _ in range(3)]
        for answer in await asyncio.gather(*failing, return_exceptions=True):
            assert isinstance(answer, StoreError)
        assert [type(error) for error in fatal] == [OSError]
        with pytest.raises(StoreError):
            await client.send(["bob"])
        await client.store.close()
        await settle()
        begin = client.disk.now
        await client.open(root / "data", options)
        await client.send(["bob"])
        await client.store.close()
        _, wrong = await replay(
            client.history, client.disk, root, seed=SEED, samples=40, begin=begin
        )
    assert wrong == []
    assert len(fatal) == 1


def _is_sync(call: Call) -> bool:
    return call.name in ("datasync", "write_synced") and call.path.suffix == ".log"


def _is_log_folder_sync(call: Call) -> bool:
    return call.name == "sync_folder" and call.path.name == "log"


def _is_sync_before_rename(call: Call) -> bool:
    return call.name in ("datasync", "write_synced") and call.path.name.endswith(".new")


def _is_sync_above(call: Call) -> bool:
    return call.name == "sync_folder" and call.path.name.startswith(FOLDER_PREFIX)


def _is_truncation(call: Call) -> bool:
    return call.name == "truncate" and call.full


@pytest.mark.parametrize(
    ("pretend", "expected"),
    [
        pytest.param(_is_sync, "lost", id="datasync"),
        pytest.param(_is_log_folder_sync, "lost", id="sync_folder"),
        pytest.param(_is_sync_before_rename, "does not open", id="datasync before rename"),
        pytest.param(_is_sync_above, "lost", id="sync_folder of a new data folder"),
        pytest.param(_is_truncation, "does not open", id="truncate on a full disk"),
    ],
)
async def test_the_judge_sees_a_sync_that_is_missing(
    pretend: Callable[[Call], bool], expected: str
) -> None:
    with quick_folder() as root:
        client = await recorded(root, pretend)
        _, wrong = await replay(
            client.history, client.disk, root, seed=SEED, samples=5, stop_at_first=True
        )
    assert any(expected in problem for problem in wrong), wrong
