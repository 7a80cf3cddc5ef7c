"""Who waits for new messages: long-polls and streams, by inbox.

A notification is a hint that carries no data: whoever wakes reads the store from its own cursor.
So none can be lost by waking too often, and to lose none a reader subscribes before it reads.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Hub:
    """Wakes the subscriptions of an inbox; `close` wakes all of them, for good."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Subscription]] = {}
        self.closed = False
        self.streams = 0
        """Streams that are open now, for the metrics."""

    def notify(self, agent: str, _seq: int) -> None:
        """A listener of commits: one look-up where nobody waits."""
        if self._waiting and (waiting := self._waiting.get(agent)):
            for subscription in waiting:
                subscription.wake()

    def notify_all(self) -> None:
        """As `notify`, of every inbox that somebody waits for."""
        for waiting in self._waiting.values():
            for subscription in waiting:
                subscription.wake()

    def subscribe(self, agent: str) -> Subscription:
        """A subscription to that inbox; use it with `with`, read after it is made."""
        return Subscription(self._waiting, agent, closed=self.closed)

    def close(self) -> None:
        """End all waiting, now and later: the server stops."""
        self.closed = True
        self.notify_all()

    @property
    def subscriptions(self) -> int:
        """How many wait now."""
        return sum(map(len, self._waiting.values()))


class Subscription:
    """One waiter. What is notified between two `wait`s ends the second at once."""

    def __init__(self, waiting: dict[str, set[Subscription]], agent: str, *, closed: bool) -> None:
        self._waiting = waiting
        self._agent = agent
        self._event = asyncio.Event()
        if closed:
            self._event.set()

    def wake(self) -> None:
        """End the wait under way, or the next one."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Whether something was notified since the last `wait` returned, within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def __enter__(self) -> Self:
        self._waiting.setdefault(self._agent, set()).add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        waiting = self._waiting[self._agent]
        waiting.discard(self)
        if not waiting:
            del self._waiting[self._agent]
