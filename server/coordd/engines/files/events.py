"""Pages of the audit log: events chosen by the index, their texts and times read from the log.

Positions rise in commit order; times need not, since imports bring old ones and clocks are set. So
a page of a span of time is found by blocks of positions, of each of which the first and the last
moment are known once it was read: most blocks lie outside or inside the span as a whole.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from itertools import islice, takewhile
from typing import Final, NamedTuple

from coordd.engines.cursors import span_of
from coordd.engines.files.index import Index, Mailbox
from coordd.engines.files.reader import Reader
from coordd.engines.files.records import ENTRY, EVENT_CODES, EVENT_NAMES, SENT
from coordd.engines.times import text_to_us, to_us
from coordd.model import Event, Order
from coordd.store import EventPage

_BLOCK: Final = 256
"""Positions whose times are read in one go, a millisecond or so; others run between two."""
_FIRST_US: Final = -(1 << 63)
_LAST_US: Final = (1 << 63) - 1


class _Wanted(NamedTuple):
    """Which events a page is of: from `start` on, upwards or (newest) down to above `above`."""

    box: Mailbox | None
    code: int | None
    newest: bool
    start: int
    above: int


class _Block(NamedTuple):
    """What is known of a block's times (microseconds since 1970) up to a position."""

    known_to: int
    first_us: int = _LAST_US
    last_us: int = _FIRST_US


class Events:
    """The audit log of one store."""

    def __init__(self, index: Index, reader: Reader) -> None:
        self._index = index
        self._reader = reader
        self._blocks: dict[int, _Block] = {}
        self._turn = asyncio.Semaphore(2)

    def page(self, limit: int, agent: str | None, type_: str | None, after: int | None,
             cursor: str | None, order: Order) -> EventPage:
        """See `Store.events`. Without waiting: for pages of any time."""
        last = self._index.position
        wanted = self._wanted(agent, type_, after, cursor, order)
        if wanted is None:
            return EventPage([], None, last)
        found = list(islice(self._positions(wanted, wanted.start), limit + 1))
        return self._page(found, limit, last, newest=wanted.newest)

    async def page_between(self, since: datetime | None, until: datetime | None, limit: int,
                           agent: str | None, type_: str | None, after: int | None,
                           cursor: str | None, order: Order) -> EventPage:
        """See `Store.events`."""
        since_us = _FIRST_US if since is None else to_us(since)
        until_us = _LAST_US if until is None else to_us(until)
        last = self._index.position
        found: list[int] = []
        wanted = self._wanted(agent, type_, after, cursor, order)
        if wanted is None:
            return EventPage([], None, last)
        start = wanted.start
        async with self._turn:
            while len(found) <= limit and (
                    position := next(self._positions(wanted, start), None)) is not None:
                number = position // _BLOCK
                begin, end = number * _BLOCK, (number + 1) * _BLOCK
                block = self._block(number)
                if block.first_us < until_us and block.last_us >= since_us:
                    whole = since_us <= block.first_us and block.last_us < until_us
                    found += [each for each in takewhile(lambda at: begin <= at < end,  # noqa: B023
                                                         self._positions(wanted, position))
                              if whole or since_us <= self._time_us(each) < until_us]
                start = begin - 1 if wanted.newest else end
                await asyncio.sleep(0)
        return self._page(found, limit, last, newest=wanted.newest)

    def _wanted(self, agent: str | None, type_: str | None, after: int | None, cursor: str | None,
                order: Order) -> _Wanted | None:
        """None where there is no such agent. Raises BadCursorError."""
        index = self._index
        newest, above, below = span_of(order, after, cursor)
        box = index.box_by_name.get(agent) if agent is not None else None
        if agent is not None and box is None:
            return None
        start = above + 1
        if newest:
            start = index.position if below is None else min(index.position, below - 1)
        return _Wanted(box, EVENT_CODES[type_] if type_ else None, newest, start, above)

    def _positions(self, wanted: _Wanted, start: int) -> Iterator[int]:
        """The positions of the wanted events, from `start` on, whatever their time."""
        box, code, newest, _, above = wanted
        types = self._index.types
        for position in self._index.event_positions(box, newest=newest, start=start):
            if newest and position <= above:
                return
            kind = types[position]
            if kind == code or (code is None and kind != ENTRY):
                yield position

    def _page(self, found: list[int], limit: int, last: int, *, newest: bool) -> EventPage:
        """A page of `found`, of which more than `limit` show that there is a next page."""
        more = len(found) > limit
        return EventPage([self._event(position) for position in found[:limit]],
                         f"{'b' if newest else 'a'}{found[limit - 1]}" if more else None, last)

    def _event(self, position: int) -> Event:
        index = self._index
        kind = index.types[position]
        row = index.rows_at[position]
        record = self._reader.record(row)
        core = record.m
        at = (record.at or core.created_at) if kind == SENT else self._mark_time(position)
        owner = index.boxes[index.owners[row]].name
        return Event(position, at, EVENT_NAMES[kind], core.id, core.from_agent,  # type: ignore[arg-type]
                     owner, core.subject)

    def _block(self, number: int) -> _Block:
        """A block's times, those of events that came since it was looked at too."""
        begin = number * _BLOCK
        block = self._blocks.get(number) or _Block(begin - 1)
        end = min(begin + _BLOCK - 1, self._index.position)
        if block.known_to < end:
            times = [self._time_us(position) for position in range(block.known_to + 1, end + 1)
                     if self._index.types[position] not in (0, ENTRY)]
            block = self._blocks[number] = _Block(
                end, min([block.first_us, *times]), max([block.last_us, *times]))
        return block

    def _time_us(self, position: int) -> int:
        """When an event happened."""
        if self._index.types[position] == SENT:
            return text_to_us(self._reader.sent_time(self._index.rows_at[position]))
        return text_to_us(self._mark_time(position))

    def _mark_time(self, position: int) -> str:
        return self._reader.mark(bisect_left(self._index.entry_positions, position)).at
