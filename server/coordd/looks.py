"""Reads that several callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Looks(Generic[V]):
    """Callers who ask the same at the same time share one look. It begins after each of them has
    asked, so it is not older than any of the calls. However many ask, one look a key is under way:
    under load it serves more of them instead of being done more often.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[V]] = {}
        self._next: dict[Hashable, asyncio.Task[V]] = {}

    def ask(self, key: Hashable, look: Callable[[], Coroutine[Any, Any, V]]) -> Awaitable[V]:
        """What `look` finds, or one like it; its errors too. A caller who leaves ends no look."""
        before = self._under_way.get(key)
        if before is None:
            task = self._under_way[key] = self._started(key, look())
        elif key in self._next:
            task = self._next[key]
        else:
            task = self._next[key] = self._started(key, self._after(before, look))
        return asyncio.shield(task)

    def _started(self, key: Hashable, look: Coroutine[Any, Any, V]) -> asyncio.Task[V]:
        task = asyncio.create_task(look)
        # Before any other callback: nobody joins a look that has begun.
        task.add_done_callback(partial(self._done, key))
        return task

    async def _after(self, before: asyncio.Task[V], look: Callable[[], Coroutine[Any, Any, V]]
                     ) -> V:
        await asyncio.wait([before])
        return await look()

    def _done(self, key: Hashable, look: asyncio.Task[V]) -> None:
        left(look)
        following = self._next.pop(key, None)
        if following is None:
            del self._under_way[key]
        else:
            self._under_way[key] = following


def left(task: asyncio.Task[Any]) -> None:
    """A callback of a task whose askers may all have left: its error is no defect then."""
    if not task.cancelled():
        task.exception()
