"""Search without an index: the log is read backwards in blocks, and most blocks are passed over.

A block whose bytes, in lower case, lack a word of the query holds no hit; only messages of the
other blocks are decoded and compared, without case as Unicode folds it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import Final

import msgspec

from coordd.engines.cursors import read_cursor
from coordd.engines.files.index import GONE, Index
from coordd.engines.files.log import Log
from coordd.engines.files.pages import Pages
from coordd.engines.files.reader import Reader
from coordd.store import MessageJson, Page

_BLOCK_BYTES: Final = 256 << 10


class Search:
    """Searches of one store. A block takes well below a millisecond; others run between two."""

    def __init__(self, index: Index, log: Log, reader: Reader, pages: Pages) -> None:
        self._index = index
        self._log = log
        self._reader = reader
        self._pages = pages
        self._turn = asyncio.Semaphore(2)

    async def page(self, query: str, limit: int, cursor: str | None, party: str | None) -> Page:
        """See `Store.search`."""
        index = self._index
        words = query.casefold().split()
        end = len(index.places)
        if cursor is not None:
            _, position = read_cursor(cursor, "b")
            end = bisect_left(index.positions, position)
        # As the log writes them: quotes and backslashes are escaped there.
        needles = [msgspec.json.encode(word)[1:-1] for word in words if word.isascii()]
        found: list[int] = []
        async with self._turn:
            while end > 0 and len(found) <= limit and words:
                begin = self._block_begin(end)
                if self._may_hold(begin, end, needles):
                    found += self._hits(begin, end, words, party)
                end = begin
                await asyncio.sleep(0)
        messages = [MessageJson(self._reader.render(row)) for row in found[:limit]
                    if index.state(row) != GONE]
        more = len(found) > limit
        return Page(messages, f"b{index.positions[found[limit - 1]]}" if more else None, 0)

    def _block_begin(self, end: int) -> int:
        """The first row of the block of rows that ends before `end`, within one segment."""
        index = self._index
        last = index.places[end - 1]
        segment = self._log.segment_at(last)
        lowest = max(segment.base, last - _BLOCK_BYTES)
        return min(bisect_left(index.places, lowest, 0, end), index.siblings(end - 1).start)

    def _may_hold(self, begin: int, end: int, needles: list[bytes]) -> bool:
        index = self._index
        start = index.places[begin]
        stop = index.places[end - 1] + index.sizes[end - 1]
        data = self._log.read(start, stop - start).lower()
        return all(needle in data for needle in needles)

    def _hits(self, begin: int, end: int, words: list[str], party: str | None) -> list[int]:
        """The rows that match, newest first."""
        index = self._index
        rows = []
        row = end - 1
        while row >= begin:
            siblings = index.siblings(row)
            shown = [each for each in reversed(siblings) if each < end
                     and index.state(each) != GONE and self._pages.is_party(each, party)]
            if shown:
                core = self._reader.core(row)
                text = f"{core.subject}\n{core.body or ''}".casefold()
                if all(word in text for word in words):
                    rows += shown
            row = siblings.start - 1
        return rows
