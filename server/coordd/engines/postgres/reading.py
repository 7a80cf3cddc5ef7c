"""Pages, events and counts out of Postgres."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from coordd.engines.cursors import read_cursor, span_of
from coordd.engines.postgres import queries
from coordd.engines.postgres.arrays import shorts, texts
from coordd.engines.postgres.commit import EVENT_TYPES
from coordd.engines.postgres.database import Database, Row
from coordd.engines.postgres.rendering import rendered
from coordd.engines.postgres.replicas import Replicas
from coordd.model import PRIORITY_RANK, Event, Order, Priority
from coordd.store import (
    AgentStats,
    EventPage,
    MessageJson,
    Page,
    Stats,
    inbox_cursor,
)

HIGHEST: Final = (1 << 63) - 1
_TYPE_NAMES: Final = {code: name for name, code in EVENT_TYPES.items()}
_FIRST: Final = "-infinity"
_LAST: Final = "infinity"
"""Of all moments, as Postgres knows them."""
_SIZE_HOLDS_S: Final = 10.0


class Reading:
    """The reads of one store. `shift_us`: see `PostgresOptions`."""

    def __init__(self, database: Database, replicas: Replicas, shift_us: Callable[[], int]
                 ) -> None:
        self._database = database
        self._replicas = replicas
        self._shift_us = shift_us
        self._size = (0, -_SIZE_HOLDS_S)
        self._asked: dict[str, asyncio.Future[int]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def inbox(self, agent: str, limit: int, order: Order, after: int | None,
                    cursor: str | None, *, unread: bool, min_priority: Priority | None) -> Page:
        """See `Store.inbox`. A cursor keeps the order of the page that gave it."""
        newest, above, below = span_of(order, after, cursor)
        rank = PRIORITY_RANK[min_priority] if min_priority else len(PRIORITY_RANK)
        query = queries.INBOX[newest, unread]
        parameters = {"agent": agent, "above": min(above, HIGHEST),
                      "below": HIGHEST if below is None else below, "rank": rank,
                      "limit": limit + 1, "shift": self._shift_us()}
        rows = None
        if self._replicas and (version := await self.version(agent)):
            rows = await self._replicas.inbox(version, query, parameters)
        if rows is None:
            rows = await self._replicas.read(query, parameters)
        if not rows:
            return Page([], None, 0)
        last_seq, version = rows[0][:2]
        self._replicas.saw(version)
        if rows[0][2] is None:
            return Page([], None, last_seq, version)
        messages = [rendered(row[2:]) for row in rows[:limit]]
        next_cursor = None
        if len(rows) > limit:
            next_cursor = inbox_cursor("newest" if newest else "oldest", rows[limit - 1][3])
        return Page(messages, next_cursor, last_seq, version)

    async def version(self, agent: str) -> int:
        """See `Store.version`. Callers at the same time share one look at the database, which
        begins after each of them has asked.
        """
        future = self._asked.get(agent)
        if future is None:
            future = self._asked[agent] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(future)

    async def _ask(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                try:
                    rows = await self._replicas.read(queries.VERSIONS, {
                        "agents": texts(list(asked)), "shift": self._shift_us()})
                except BaseException as error:
                    for future in asked.values():
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # not everybody may wait still
                    if not isinstance(error, Exception):
                        raise
                    continue
                found: dict[str, int] = dict(rows)
                self._replicas.saw(max(found.values(), default=0))
                for agent, future in asked.items():
                    if not future.done():
                        future.set_result(found.get(agent, 0))
        finally:
            self._asking = None

    async def message(self, message_id: str) -> list[MessageJson]:
        """See `Store.message`."""
        rows = await self._replicas.read(queries.MESSAGE, {
            "id": message_id, "shift": self._shift_us()})
        return [rendered(row) for row in rows]

    async def sent(self, agent: str, limit: int, cursor: str | None) -> Page:
        """See `Store.sent`."""
        below = read_cursor(cursor, "b")[1] if cursor is not None else HIGHEST
        rows = await self._replicas.read(queries.SENT, {
            "agent": agent, "below": below, "limit": limit + 1, "shift": self._shift_us()})
        return page_of(rows, limit, "b")

    async def thread(self, thread_id: str, limit: int, cursor: str | None, party: str | None
                     ) -> Page:
        """See `Store.thread`."""
        above = read_cursor(cursor, "a")[1] if cursor is not None else 0
        rows = await self._replicas.read(queries.THREAD, {
            "thread": thread_id, "above": above, "party": party, "limit": limit + 1,
            "shift": self._shift_us()})
        return page_of(rows, limit, "a")

    async def events(self, limit: int, agent: str | None, type_: str | None, after: int | None,
                     since: datetime | None, until: datetime | None, cursor: str | None,
                     order: Order) -> EventPage:
        """See `Store.events`."""
        newest, above, below = span_of(order, after, cursor)
        types = [EVENT_TYPES[type_]] if type_ else list(EVENT_TYPES.values())
        [(last,)] = await self._database.fetch(queries.LAST_EVENT)
        parameters: dict[str, Any] = {
            "types": shorts(types), "above": min(above, HIGHEST),
            "below": HIGHEST if below is None else below,
            "since": since or _FIRST, "until": until or _LAST, "limit": limit + 1}
        if agent is not None:
            parameters["agent"] = agent
        rows = await self._database.fetch(queries.EVENTS[newest, agent is not None], parameters)
        page = EventPage([_event(row) for row in rows[:limit]], None, last)
        if len(rows) > limit:
            page.next_cursor = f"{'b' if newest else 'a'}{rows[limit - 1][0]}"
        return page

    async def stats(self) -> Stats:
        """See `Store.stats`. The size on the disk may be some seconds old."""
        [(messages, unread, *events)] = await self._database.fetch(queries.COUNTS)
        agents = {agent: AgentStats(sent, received, agent_unread) for
                  agent, sent, received, agent_unread
                  in await self._database.fetch(queries.AGENT_COUNTS)}
        size, at = self._size
        if time.monotonic() - at > _SIZE_HOLDS_S:
            [(size,)] = await self._database.fetch(queries.SIZE)
            self._size = (size, time.monotonic())
        names = ("SENT", "READ", "ACKED", "DELETED", "EXPIRED")
        return Stats(messages, unread, dict(zip(names, events, strict=True)), agents, size)


def page_of(rows: Sequence[Row], limit: int, letter: str) -> Page:
    """A page of rows (position, message …), one more than `limit` where there is a next page."""
    cursor = f"{letter}{rows[limit - 1][0]}" if len(rows) > limit else None
    return Page([rendered(row[1:]) for row in rows[:limit]], cursor, 0)


def _event(row: Row) -> Event:
    pos, at, type_, message_id, from_agent, to_agent, subject = row
    return Event(pos, at, _TYPE_NAMES[type_], message_id, from_agent, to_agent, subject)  # type: ignore[arg-type]
