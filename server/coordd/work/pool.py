"""Tasks run by this process, a few at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from coordd.settings import Settings
from coordd.store import StoreError
from coordd.work.calls import Calls
from coordd.work.model import TaskId
from coordd.work.store import WorkStore

AT_ONCE: Final = 16
"""Calls under way; most of their time they wait."""
DONE_EVERY_S: Final = 0.1
"""How long successes are collected before the store is told of them at once."""
CLOSE_S: Final = 5.0

log = logging.getLogger("coordd.work")


class InProcess:
    """A queue and its workers. `idle` is called when there is room again."""

    outside = False
    room = 200

    def __init__(self, settings: Settings, store: WorkStore, idle: Callable[[], None]) -> None:
        self._store = store
        self._idle = idle
        self._calls = Calls(settings, store)
        self._tasks: deque[TaskId] = deque()
        self._came = asyncio.Semaphore(0)
        self._workers: list[asyncio.Task[None]] = []
        self._telling: list[asyncio.Task[None]] = []
        self._done: list[TaskId] = []
        self._closing = False
        # Much longer than all that may be before a task takes: none is lost within a process.
        self.lease_s = self.room * settings.hook_timeout_s

    async def open(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        self._telling = [asyncio.create_task(self._tell())]

    async def close(self) -> None:
        """What was put and is not begun is left to who dispatches next."""
        self._tasks.clear()
        self._closing = True
        for _ in self._workers:
            self._came.release()
        if self._workers:
            await asyncio.wait(self._workers, timeout=CLOSE_S)
        for task in (*self._workers, *self._telling):
            task.cancel()
        await asyncio.gather(*self._workers, *self._telling, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._flush()
        except (StoreError, TimeoutError) as error:
            log.warning("what was done last is done again: %s", error)

    async def put(self, tasks: Sequence[TaskId]) -> None:
        for task in tasks:
            self._tasks.append(task)
            self._came.release()

    async def put_fold(self) -> None:
        raise NotImplementedError

    async def depth(self) -> int:
        return len(self._tasks)

    async def _work(self) -> None:
        while True:
            await self._came.acquire()
            if self._closing:
                return
            task = self._tasks.popleft()
            try:
                if await self._calls.run(task):
                    self._done.append(task)
            except StoreError as error:
                # The row is there still: it is handed out again.
                log.warning("a task's end could not be stored: %s", error)
            if not self._tasks:
                self._idle()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(DONE_EVERY_S)
            try:
                await self._flush()
            except StoreError as error:
                log.warning("the end of tasks could not be stored yet: %s", error)

    async def _flush(self) -> None:
        done = self._done[:]
        if done:
            await self._store.done(done)
            del self._done[:len(done)]
            self._idle()
