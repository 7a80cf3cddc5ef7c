"""Messages that expire: hidden at once when their time has come, then stored as events.

A read must not show an expired message, and must not wait or fail because its event could not be
stored yet; so the event follows, as soon as the committer takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from heapq import heappop
from typing import Any, Final

from coordd.engines.files import records
from coordd.engines.files.commit import Committer
from coordd.engines.files.index import GONE, Index
from coordd.engines.files.operations import SetMark
from coordd.engines.files.reader import Reader
from coordd.store import StoreError

_RETRY_S: Final = 1.0
_LONGEST_S: Final = 3600.0


class Expiry:
    """The expiries of one store. `on_gone` is told of each delivery that is hidden."""

    def __init__(self, index: Index, reader: Reader, committer: Committer,
                 clock_us: Callable[[], int], on_gone: Callable[[int], None]) -> None:
        self._index = index
        self._reader = reader
        self._committer = committer
        self._clock_us = clock_us
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Hide what has expired by now. Costs next to nothing when nothing has."""
        due = self._index.expiries
        if not due and not self._index.expiring:
            return
        now = self._clock_us()
        while due and due[0][0] <= now:
            _, row = heappop(due)
            if self._index.state(row) != GONE:
                self._index.set_mark(row, records.EXPIRED, "")
                self._on_gone(row)
                self._index.expiring[row] = False
        if not self._index.sealed:
            self._store()
        self._set_timer(now)

    def _store(self) -> None:
        for row, sent in self._index.expiring.items():
            if sent:
                continue
            future: asyncio.Future[Any] = self._loop.create_future()
            try:
                self._committer.submit(SetMark(self._index, self._reader, future, row,
                                               self._reader.core(row).id, "expired",
                                               self._on_gone))
            except StoreError:
                return  # too much is waiting: the timer comes back
            self._index.expiring[row] = True
            future.add_done_callback(partial(self._stored, row))

    def _stored(self, row: int, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._index.expiring[row] = False
        else:
            del self._index.expiring[row]

    def _set_timer(self, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._index.expiring:
            delay_s = _RETRY_S
        elif self._index.expiries:
            delay_s = min(max((self._index.expiries[0][0] - now) / 1e6, 0.001), _LONGEST_S)
        else:
            return
        self._timer = self._loop.call_later(delay_s, self.run)

    def stop(self) -> None:
        """No event is stored any more."""
        if self._timer is not None:
            self._timer.cancel()
