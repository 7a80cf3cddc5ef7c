"""Reads on replicas: pages of inboxes, where a replica has replayed as far as the primary shows.

The primary is asked for the inbox's version, which is a small look-up that many readers share; a
page of a replica serves if it shows that version or a later one. So a replica that lags is never
seen to: it is left out until it has caught up, and one that does not answer until it does again.

While the primary does not answer, the synchronous replica stands in for all reads of messages. A
commit that was acknowledged is on its disk, so what it shows once it has replayed all that it has
received is no older. And nothing that this server has shown before is taken back. One that was
itself away is not believed at once: it may not know yet that commits no longer wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, LiteralString

import psycopg

from coordd.engines.postgres.database import Database, Readers, Row, run
from coordd.engines.postgres.errors import is_lost
from coordd.looks import left
from coordd.store import StoreError, StoreUnavailableError

_LOOK_S: Final = 0.5
_AWAY_S: Final = 0.8
"""A primary that has not answered a look in this time is away."""
_ANSWER_S: Final = 2.0
_FREE_S: Final = 0.5
"""How long a reader waits for a connection to the standby, which may have become the leader."""
_PATIENCE_S: Final = 0.2
"""How often a reader that waits for the primary asks whether it is away."""
_STEADY_S: Final = 10.0
"""How long the standby must have answered every look. Patroni reads etcd anew every 2 s."""
_SAMPLES: Final = 600
_POSITION_BITS: Final = 20
"""A version holds its position above so many bits: see coordd.version_at."""
_POSITION: Final[LiteralString] = "SELECT position FROM coordd.store"
# What was received last may be the beginning of a record: then the replay waits for its end, for
# nothing else, and says so to whoever may read it (pg_read_all_stats).
_WHOLE: Final[LiteralString] = """\
SELECT pg_is_in_recovery() AND (pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() OR EXISTS (
    SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
    AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval'))), position
FROM coordd.store"""

Look = Callable[[], Coroutine[Any, Any, None]]

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

    async def whole(self, known: int, query: LiteralString, parameters: dict[str, Any] | None
                    ) -> list[Row] | None:
        """The rows; None where it has not replayed all it received, or not up to `known`. Raises
        StoreError, psycopg.Error, OSError.
        """
        async with (asyncio.timeout(_ANSWER_S),
                    self.readers.pool.connection(_FREE_S) as connection):
            [(replayed, position)] = await run(connection, _WHOLE)
            if not replayed or position < known:
                return None
            return await run(connection, query, parameters)


class Replicas:
    """Those of one primary, looked at twice a second. `standby`: the synchronous one."""

    def __init__(self, primary: Database, replicas: Iterable[Replica],
                 standby: Replica | None = None) -> None:
        self._primary = primary
        self._replicas = list(replicas)
        self._standby = standby
        self._turn = itertools.count()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._looks: list[asyncio.Task[None]] = []
        self.pages = 0
        """Pages that a replica gave."""
        self.passed = 0
        """Pages that none could give, because it lagged or did not answer."""
        self.stood_in = 0
        """Reads that the standby answered because the primary did not."""
        self._known = 0
        self._away = False
        self._steady_s: float | None = None  # since when the standby has answered every look

    async def open(self) -> None:
        """Begin to look. Replicas that are away do not hinder it."""
        for each in self._all():
            await each.readers.pool.open()
        if self._all():
            looks: list[Look] = [self._look_at_primary, self._look_at_standby,
                                 *(partial(self._look_at, each) for each in self._replicas)]
            self._looks = [asyncio.create_task(_again(look)) for look in looks]

    async def close(self) -> None:
        """End all connections."""
        for look in self._looks:
            look.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        for each in self._all():
            await each.readers.pool.close(timeout=2)

    def _all(self) -> list[Replica]:
        return [*self._replicas, *filter(None, [self._standby])]

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

    @property
    def can_stand_in(self) -> bool:
        """Whether the standby has answered for long enough to be believed."""
        return self._steady_s is not None and time.monotonic() - self._steady_s >= _STEADY_S

    def saw(self, version: int) -> None:
        """What has this version was shown."""
        self._known = max(self._known, version >> _POSITION_BITS)

    async def read(self, query: LiteralString, parameters: dict[str, Any] | None = None
                   ) -> list[Row]:
        """What the primary answers, or the standby in its place. Raises StoreError."""
        if self._standby is None:
            return await self._primary.fetch(query, parameters)
        if (rows := await self._stand_in(query, parameters)) is not None:
            return rows
        asking = asyncio.ensure_future(self._primary.fetch(query, parameters))
        try:
            while not (await asyncio.wait({asking}, timeout=_PATIENCE_S))[0]:
                if (rows := await self._stand_in(query, parameters)) is not None:
                    return rows
            try:
                return asking.result()
            except StoreUnavailableError:
                if (rows := await self._stand_in(query, parameters)) is None:
                    raise
                return rows
        finally:
            if not asking.done():
                asking.add_done_callback(left)
                asking.cancel()

    async def _stand_in(self, query: LiteralString, parameters: dict[str, Any] | None
                        ) -> list[Row] | None:
        """What the standby has, if the primary is away and that is all that was acknowledged."""
        if self._standby is None or not self._away or not self.can_stand_in:
            return None
        try:
            rows = await self._standby.whole(self._known, query, parameters)
        except (psycopg.Error, OSError) as error:
            _log.warning("the standby cannot answer for the primary: %r", error)
            if is_lost(error):  # it may lead by now, and the readers behind this one wait
                self._steady_s = None
            return None
        self.stood_in += rows is not None
        return rows

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

    async def _look_at_primary(self) -> None:
        try:
            [(position,)] = await self._primary.fetch(_POSITION, limit_s=_AWAY_S)
            self._samples.append((time.monotonic(), position))
            self._known = max(self._known, position)
            away = False
        except (StoreError, OSError):
            away = True  # replicas go on with what they have
        if away != self._away:
            self._away = away
            _log.warning("the primary does not answer" if away else "the primary answers")

    async def _look_at_standby(self) -> None:
        if self._standby is None:
            return
        try:
            await self._standby.readers.fetch(_POSITION, limit_s=_ANSWER_S)
        except (StoreError, OSError):
            self._steady_s = None
        else:
            self._steady_s = self._steady_s or time.monotonic()

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


async def _again(look: Look) -> None:
    """Each at its own pace: one that waits for its answer holds up no other."""
    while True:
        await look()
        await asyncio.sleep(_LOOK_S)
