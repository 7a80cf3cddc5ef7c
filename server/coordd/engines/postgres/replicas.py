"""Reads on replicas: pages of inboxes, where a replica has replayed as far as the primary shows.

The primary is asked for the inbox's version, which is a small look-up that many readers share; a
page of a replica serves if it shows that version or a later one. So a replica that lags is never
seen to: it is left out until it has caught up, and one that does not answer until it does again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, LiteralString

from coordd.engines.postgres.database import Database, Readers, Row
from coordd.store import StoreError

_LOOK_S: Final = 1.0
_ANSWER_S: Final = 2.0
_SAMPLES: Final = 600
_POSITION_BITS: Final = 20
"""A version holds its position above so many bits: see coordd.version_at."""
_POSITION: Final[LiteralString] = "SELECT position FROM coordd.store"

_log = logging.getLogger("coordd.postgres")


class Replica:
    """One replica. `position`: how far it had replayed when it was last looked at."""

    def __init__(self, parameters: dict[str, Any], size: int, wait_s: float) -> None:
        self.readers = Readers(parameters, size, min(wait_s, _ANSWER_S))
        self.position = 0
        self.lag_s = 0.0
        self.up = False

    def shows(self, version: int) -> bool:
        """Whether it has what has this version, as far as is known."""
        return self.up and self.position >= version >> _POSITION_BITS


class Replicas:
    """Those of one primary, looked at once a second."""

    def __init__(self, primary: Database, replicas: Iterable[Replica]) -> None:
        self._primary = primary
        self._replicas = list(replicas)
        self._turn = itertools.count()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._task: asyncio.Task[None] | None = None
        self.pages = 0
        """Pages that a replica gave."""
        self.passed = 0
        """Pages that none could give, because it lagged or did not answer."""

    async def open(self) -> None:
        """Begin to look. Replicas that are away do not hinder it."""
        if self._replicas:
            for each in self._replicas:
                await each.readers.pool.open()
            self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """End all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for each in self._replicas:
            await each.readers.pool.close(timeout=2)

    @property
    def usable(self) -> int:
        """How many answer."""
        return sum(each.up for each in self._replicas)

    @property
    def lag_s(self) -> float:
        """The largest lag among those that answer, as it was last measured."""
        return max((each.lag_s for each in self._replicas if each.up), default=0.0)

    def __bool__(self) -> bool:
        return bool(self._replicas)

    async def inbox(self, version: int, query: LiteralString, parameters: dict[str, Any]
                    ) -> list[Row] | None:
        """The rows of an inbox's page that shows `version` or a later one; None: none could."""
        able = [each for each in self._replicas if each.shows(version)]
        if able:
            replica = able[next(self._turn) % len(able)]
            try:
                rows = await replica.readers.fetch(query, parameters, limit_s=_ANSWER_S)
            except (StoreError, OSError) as error:
                _log.warning("a replica is left out: %s", error)
                replica.up = False
            else:
                if rows and rows[0][1] >= version:
                    self.pages += 1
                    return rows
        self.passed += 1
        return None

    async def _look(self) -> None:
        while True:
            try:
                [(position,)] = await self._primary.fetch(_POSITION, limit_s=_ANSWER_S)
                self._samples.append((time.monotonic(), position))
            except (StoreError, OSError):
                pass  # replicas go on with what they have
            await asyncio.gather(*map(self._look_at, self._replicas))
            await asyncio.sleep(_LOOK_S)

    async def _look_at(self, replica: Replica) -> None:
        try:
            [(replica.position,)] = await replica.readers.fetch(_POSITION, limit_s=_ANSWER_S)
        except (StoreError, OSError, ValueError) as error:
            if replica.up:
                _log.warning("a replica does not answer and is left out: %s", error)
            replica.up = False
            return
        replica.up = True
        # How long ago the primary was where the replica is now.
        missing = [at for at, position in self._samples if position > replica.position]
        replica.lag_s = time.monotonic() - missing[0] if missing else 0.0
