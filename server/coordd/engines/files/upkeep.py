"""What is done aside from the calls: segments compacted, snapshots of the index taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from coordd.engines.files import compaction, recovery, snapshot
from coordd.engines.files.disk import Disk
from coordd.engines.files.index import Index
from coordd.engines.files.log import Log, Segment
from coordd.store import StoreError

_SNAPSHOT_EVENTS: Final = 200_000
_SNAPSHOT_PAUSE_S: Final = 0.01
_log = logging.getLogger("coordd.files")


class Upkeep:
    """The upkeep of one open store. Its pieces of work run one at a time."""

    def __init__(self, folder: Path, disk: Disk, index: Index, storage: Log) -> None:
        self._folder = folder
        self._disk = disk
        self._index = index
        self._storage = storage
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.turn = asyncio.Lock()
        self._snapshot_position = position = index.position
        self._snapshot_due = position + max(_SNAPSHOT_EVENTS, position // 5)

    def on_gone(self, row: int) -> None:
        """Count a delivery's bytes as dead, and compact when most of a segment is."""
        segment = recovery.count_dead(self._index, self._storage, row)
        if segment is not None and segment is not self._storage.active and (
                2 * segment.dead_bytes > segment.size):
            self.do(self.compact(segment))

    async def compact(self, only: Segment | None = None) -> None:
        """Give back the bytes of deleted and expired messages; of all closed segments that have
        any, or of `only` one.
        """
        async with self.turn:
            storage = self._storage
            done = False
            for segment in storage.segments[:-1]:
                if segment.dead_bytes and (only is None or segment is only):
                    await self._compact(segment)
                    done = True
            if done:
                await self._save_snapshot()

    async def _compact(self, segment: Segment) -> None:
        storage, index = self._storage, self._index
        dead_bytes = segment.dead_bytes
        dead = compaction.dead_places(index, segment)
        new = await asyncio.to_thread(compaction.compact, storage, segment, dead)
        fd = await asyncio.to_thread(storage.replace, segment, new.data)
        compaction.adopt(index, storage, segment, fd, new)
        segment.dead_bytes -= dead_bytes  # what was deleted meanwhile is left

    def on_published(self) -> None:
        """Take a snapshot now and then, so that a start after a kill has little log to read: when
        a fifth more has been stored since the last one, it has cost little in all.
        """
        position = self._index.position
        if position > self._snapshot_due:
            self._snapshot_due = position + max(_SNAPSHOT_EVENTS, position // 5)
            self.do(self._take_snapshot())

    async def _take_snapshot(self) -> None:
        async with self.turn:
            if self._storage.segments:  # not closed meanwhile
                await self._save_snapshot()

    async def _save_snapshot(self) -> None:
        self._snapshot_position = self._index.position
        pieces = snapshot.capture(self._index, self._storage)
        await asyncio.to_thread(self._write_snapshot, pieces, _SNAPSHOT_PAUSE_S)

    def save_last_snapshot(self) -> None:
        """Take a snapshot where there is none of all that is stored. The caller has the turn."""
        if self._index.position > self._snapshot_position or not (
                self._folder / snapshot.NAME).exists():
            self._write_snapshot(snapshot.capture(self._index, self._storage))

    def _write_snapshot(self, pieces: Iterator[bytes], pause_s: float = 0.0) -> None:
        try:
            snapshot.write(self._folder, self._disk, pieces, pause_s)
        except OSError as error:
            _log.warning("index.snap can't be written (%s): the next start reads the log instead",
                         error.strerror)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a piece of upkeep aside. One that finds no room is tried again with the next."""
        async def run() -> None:
            try:
                await work
            except (StoreError, OSError) as error:
                _log.warning("upkeep of %s did not end: %s", self._folder, error)

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
