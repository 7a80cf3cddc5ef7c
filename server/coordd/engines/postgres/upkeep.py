"""What has to be done now and then. Each step is small, may be cut off at any point and may be done
by two at once; that one server at a time does them, which takes turns, only saves work.

expiries             every server, every two seconds
partitions           of the events, made three months ahead
age                  messages older than the retention expire
gone messages        archived, then their bodies given back
forgotten messages   gone since before the oldest month whose events are kept: their rows go
old events           of forgotten messages: archived, then their months' partitions thinned
keys                 idempotency keys older than a day go
search               blocks of messages indexed, in a fifth of the time

A message's events are kept as long as its row is, so that the lists of what was sent, and a move
that copies the feed, have them all.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Any, Final, LiteralString, NamedTuple

from coordd.archive import ArchiveError
from coordd.engines.postgres.archiving import Archiving, Do
from coordd.engines.postgres.database import Connection, Row, connect, run, unbroken
from coordd.engines.postgres.errors import translated
from coordd.engines.postgres.search import Search
from coordd.store import StoreError

EXPIRE_EVERY_S: Final = 2.0
ROUND_EVERY_S: Final = 10.0
JOB_S: Final = 5.0
"""How long one job may go on in a round, pauses among it."""
REST: Final = 4.0
"""How many times as long as a step took it rests: sends come first."""
STEP_LIMIT_S: Final = 15.0
THIN_LIMIT_S: Final = 3600.0
CLOSE_LIMIT_S: Final = 3.0
_TURN_S: Final = 60.0
_THIN_EVERY: Final = timedelta(days=7)
_AHEAD_MONTHS: Final = 3
_RETIRED: Final = 50
"""Deliveries that expire by their age at a time, under the lock that sends wait for."""
_CLAIMS: Final = 1000
_FORGOTTEN: Final = 500
_BEGIN: Final = datetime(1, 1, 1, tzinfo=UTC)

_TAKE_TURN: Final[LiteralString] = "SELECT coordd.take_turn_1(%(holder)s, %(seconds)s)"
_STATE: Final[LiteralString] = """
SELECT clock_timestamp() + %(shift)s * interval '1 microsecond', sealed, position
  FROM coordd.store"""
_MAKE: Final[LiteralString] = "SELECT coordd.make_partitions(%(first)s, %(last)s)"
_MONTHS: Final[LiteralString] = """
SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
 WHERE inhparent = 'coordd.events'::regclass ORDER BY child.relname"""
_RETIRE: Final[LiteralString] = """
SELECT coordd.retire_1(%(shift)s, %(job)s, %(start)s, %(end)s, %(before)s, %(limit)s)"""
_SETTLE: Final[LiteralString] = "SELECT coordd.settle_expiries_1(%(shift)s)"
_DROP_CLAIMS: Final[LiteralString] = "SELECT coordd.drop_claims_1(%(shift)s, %(limit)s)"
_FORGET: Final[LiteralString] = "SELECT coordd.forget_1(%(before)s, %(find)s, %(limit)s)"
_THINNED: Final[LiteralString] = "SELECT position, at FROM coordd.upkeep WHERE job = %(job)s"
_HAS_ORPHANS: Final[LiteralString] = "SELECT coordd.has_orphans_1(%(start)s, %(end)s, %(last)s)"
_THIN: Final[LiteralString] = "SELECT coordd.thin_1(%(start)s, %(end)s, %(last)s)"
_LOOKED: Final[LiteralString] = """
INSERT INTO coordd.upkeep (job, at) VALUES (%(job)s, %(at)s)
ON CONFLICT (job) DO UPDATE SET at = excluded.at"""

_MONTH: Final = re.compile(r"events_(\d{4})_(\d\d)\Z")
_log = logging.getLogger("coordd.postgres")


class Span(NamedTuple):
    """Events of start <= at < end; `name` is their partition's."""

    name: str
    start: datetime
    end: datetime


class Policy(NamedTuple):
    """How long is kept what: days of messages, months of events; 0 is for ever."""

    retention_days: int = 0
    events_months: int = 0


class Upkeep:
    """Of one server. `parameters`: of its connections. `expire` records a part of what has expired
    and answers how much.
    """

    def __init__(self, parameters: dict[str, Any], shift_us: Callable[[], int],
                 expire: Callable[[], Awaitable[int]], search: Search, archiving: Archiving,
                 policy: Policy) -> None:
        self._parameters = parameters
        self._shift_us = shift_us
        self._expire = expire
        self._search = search
        self._archiving = archiving
        self._policy = policy
        self._holder = token_hex(8)
        self._has_turn = False
        self._lock = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to do it by itself."""
        self._tasks = [asyncio.create_task(self._every(seconds, work)) for seconds, work in (
            (EXPIRE_EVERY_S, self._expire_some), (ROUND_EVERY_S, self._round),
            (EXPIRE_EVERY_S, self._index))]

    async def stop(self) -> None:
        """End after the step that is on its way, if it ends soon."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def do_all(self) -> None:
        """Do what is due, now. Raises StoreError, ArchiveError."""
        while await self._expire():
            pass
        async with self._lock:
            await self._jobs(now=True)
        while await self._search.extend():
            pass

    # By itself.

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while not await self._pause(seconds):
            try:
                await work()
            except ArchiveError:
                pass  # it was told when it began
            except (StoreError, OSError) as error:
                _log.warning("upkeep did not end: %s", error)
            except Exception:  # noqa: BLE001 - the next round may do it
                _log.exception("upkeep failed")

    async def _pause(self, seconds: float) -> bool:
        """Wait so long; at once True where the server stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _expire_some(self) -> None:
        await self._expire()

    async def _round(self) -> None:
        self._has_turn = False
        async with self._lock:
            await self._jobs(now=False)

    async def _index(self) -> None:
        if self._has_turn:
            await self._repeat(self._search.extend, now=False)

    async def _repeat(self, step: Callable[[], Awaitable[bool]], *, now: bool) -> bool:
        """Do steps while there are more; whether none is left. Not `now`: with rests between."""
        loop = asyncio.get_running_loop()
        end = loop.time() + JOB_S
        begun = loop.time()
        while await step():
            if now:
                continue
            if await self._pause((loop.time() - begun) * REST) or loop.time() > end:
                return False
            begun = loop.time()
        return True

    # The jobs.

    async def _jobs(self, *, now: bool) -> None:
        """On a connection of its own: a slow archive or a large month is in nobody's way."""
        try:
            connection = await connect(self._parameters)
        except Exception as error:
            raise translated(error) from error
        async with connection:
            do = partial(_do, connection)
            [(has_turn,)] = await do(_TAKE_TURN, {"holder": self._holder, "seconds": _TURN_S})
            self._has_turn = bool(has_turn)
            if not (has_turn or now):
                return
            [(at, sealed, position)] = await do(_STATE, {"shift": self._shift_us()})
            at = at.astimezone(UTC)
            await do(_MAKE, {"first": at, "last": months_later(at, _AHEAD_MONTHS)})
            await self._repeat(partial(self._drop_claims, do), now=now)
            await do(_SETTLE, {"shift": self._shift_us()})
            if sealed:
                # It is being copied, or is the copy of another one that decides.
                return
            spans = await self._spans(do)
            if self._policy.retention_days:
                await self._retire(do, spans, at, now=now)
            await self._repeat(partial(self._archiving.give_back, do, now=now), now=now)
            if self._policy.events_months:
                await self._forget(do, spans, at, position, connection, now=now)

    async def _drop_claims(self, do: Do) -> bool:
        [(dropped,)] = await do(_DROP_CLAIMS, {"shift": self._shift_us(), "limit": _CLAIMS})
        return bool(dropped == _CLAIMS)

    async def _spans(self, do: Do) -> list[Span]:
        """The months that have a partition, the oldest first."""
        found = []
        for (name,) in await do(_MONTHS, {}):
            if match := _MONTH.match(name):
                start = datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)
                found.append(Span(name, start, months_later(start, 1)))
        return found

    async def _retire(self, do: Do, spans: list[Span], at: datetime, *, now: bool) -> None:
        """By months, since within one the order of positions is nearly that of the times, also
        where messages were imported. One that came in late waits for those before it in its month.
        """
        before = at - timedelta(days=self._policy.retention_days)
        for span in _with_gaps(spans):
            if span.start < before:
                await self._repeat(partial(self._retire_some, do, span, before), now=now)

    async def _retire_some(self, do: Do, span: Span, before: datetime) -> bool:
        [(passed,)] = await do(_RETIRE, {
            "shift": self._shift_us(), "job": f"age of {span.name}", "start": span.start,
            "end": span.end, "before": before, "limit": _RETIRED})
        return bool(passed == _RETIRED)

    async def _forget(self, do: Do, spans: list[Span], at: datetime, position: int,
                      connection: Connection, *, now: bool) -> None:
        """`position`: of an event before all this; later ones stay for the next time."""
        oldest = months_later(at, -self._policy.events_months)
        oldest = oldest.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if not await self._repeat(partial(self._forget_some, do, oldest), now=now):
            return
        for span in spans:
            if span.end > oldest:
                break
            job = {"job": f"thin {span.name}"}
            rows = await do(_THINNED, job)
            archived, looked = rows[0] if rows else (0, None)
            if looked is not None and looked > at - _THIN_EVERY:
                continue
            month = {"start": span.start, "end": span.end, "last": position}
            slow = partial(_do, connection, limit_s=THIN_LIMIT_S)
            if (await slow(_HAS_ORPHANS, month))[0][0]:
                await self._archiving.write_events(do, span.start, span.end, archived, position)
                [(left,)] = await slow(_THIN, month)
                _log.info("%s: %d events are kept", span.name, left)
                if not left:
                    continue
            await do(_LOOKED, {**job, "at": at})

    async def _forget_some(self, do: Do, oldest: datetime) -> bool:
        [(forgotten,)] = await do(_FORGET, {
            "before": oldest, "find": self._archiving.find_is_on, "limit": _FORGOTTEN})
        return bool(forgotten == _FORGOTTEN)


def months_later(moment: datetime, months: int) -> datetime:
    """The same time of that many months later; a day that there is not is the month's last one."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    for day in range(moment.day, 0, -1):
        with suppress(ValueError):
            return moment.replace(year=year, month=month + 1, day=day)
    raise AssertionError


def _with_gaps(spans: list[Span]) -> list[Span]:
    """The spans, and what lies before and between them in the partition of all others."""
    found = []
    end = _BEGIN
    for span in spans:
        if span.start > end:
            found.append(Span(f"all before {span.name}", end, span.start))
        found.append(span)
        end = span.end
    return found


async def _do(connection: Connection, query: LiteralString, parameters: dict[str, Any],
              limit_s: float = STEP_LIMIT_S) -> list[Row]:
    try:
        return await unbroken(connection, run(connection, query, parameters), limit_s)
    except Exception as error:
        raise translated(error) from error
