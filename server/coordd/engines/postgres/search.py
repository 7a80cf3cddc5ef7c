"""Search: an index of blocks of messages, made behind the commits, and a look at what it passes.

Writing each message's words into an index would cost more than all the rest of a send. So upkeep
takes the messages in blocks and writes one row a block: the groups of three characters that occur
in it. A search reads the newest messages, which no block has yet, as they are, then those blocks
that have all groups of its words, newest first; what it shows it has compared itself, without case
as Unicode folds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final, LiteralString
from zlib import crc32

from coordd.engines.cursors import read_cursor
from coordd.engines.postgres import queries
from coordd.engines.postgres.arrays import Ints, ints
from coordd.engines.postgres.database import Database, Row
from coordd.engines.postgres.reading import HIGHEST, page_of
from coordd.store import Page

BLOCK_MESSAGES: Final = 128
_CANDIDATES: Final = 1000
_LENGTH: Final = 3

_COVERED: Final[LiteralString] = "SELECT coalesce(max(last), 0) FROM coordd.search_blocks"
_BLOCKS: Final[LiteralString] = """
WITH found AS MATERIALIZED (
  SELECT first, last FROM coordd.search_blocks
   WHERE grams @> %(grams)s AND first < %(below)s AND last <= %(covered)s)
SELECT first, last FROM found ORDER BY last DESC LIMIT %(limit)s"""
_MESSAGES: Final[LiteralString] = f"""
SELECT delivery.pos, {queries.SHOWN}
  FROM coordd.messages AS message {queries.DELIVERIES}
 WHERE message.pos >= %(first)s AND message.pos <= %(last)s AND delivery.pos < %(below)s
   AND (%(party)s::text IS NULL OR message.from_agent = %(party)s OR delivery.to_agent = %(party)s)
   AND {queries.ALIVE}
 ORDER BY delivery.pos DESC"""
_TAIL: Final[LiteralString] = """
SELECT min(pos - deliveries) + 1, max(pos) FROM (
  SELECT pos, deliveries FROM coordd.messages WHERE pos > %(covered)s AND pos <= %(end)s
   ORDER BY pos DESC LIMIT %(limit)s) AS tail"""
_NEXT_BLOCK: Final[LiteralString] = """
SELECT pos, subject, body, deliveries FROM coordd.messages WHERE pos > %(covered)s ORDER BY pos
 LIMIT %(limit)s"""
_ADD_BLOCK: Final[LiteralString] = """
INSERT INTO coordd.search_blocks (first, last, grams) VALUES (%(first)s, %(last)s, %(grams)s)
ON CONFLICT (last) DO NOTHING"""
_SUBJECT, _BODY = 5, 6


class Search:
    """Searches of one store, two at a time. `block_messages`: how many a block has."""

    def __init__(self, database: Database, block_messages: int) -> None:
        self._database = database
        self._block_messages = block_messages
        self._turn = asyncio.Semaphore(2)

    async def page(self, query: str, limit: int, cursor: str | None, party: str | None,
                   shift_us: int) -> Page:
        """See `Store.search`."""
        below = read_cursor(cursor, "b")[1] if cursor is not None else HIGHEST
        words = query.casefold().split()
        hits: list[Row] = []
        if not words:
            return Page([], None, 0)
        async with self._turn:
            async for first, last in self._spans(words, below):
                rows = await self._database.fetch(_MESSAGES, {
                    "first": first, "last": last, "below": below, "party": party,
                    "shift": shift_us})
                hits += [row for row in rows if _matches(row, words)]
                if len(hits) > limit:
                    break
        return page_of(hits[: limit + 1], limit, "b")

    async def _spans(self, words: Sequence[str], below: int) -> AsyncGenerator[tuple[int, int]]:
        """Ranges of positions of messages that may hold a hit, newest first. A range begins with
        its first message's first delivery: a page may end between that and the message's last.
        """
        fetch = self._database.fetch
        [(covered,)] = await fetch(_COVERED)
        end = HIGHEST
        while True:
            [(first, last)] = await fetch(_TAIL, {"covered": covered, "end": end,
                                                  "limit": self._block_messages})
            if first is None:
                break
            if first <= below:
                yield first, last
            end = first - 1
        # No block that was added meanwhile: its messages were looked at as they are.
        wanted = _ints_of({gram for word in words for gram in grams(word)})
        end = below
        while True:
            blocks = await fetch(_BLOCKS, {"grams": wanted, "below": end, "covered": covered,
                                           "limit": _CANDIDATES})
            for first, last in blocks:
                yield first, last
            if len(blocks) < _CANDIDATES:
                break
            end = blocks[-1][0]

    async def extend(self) -> bool:
        """Add one block to the index, where there are messages for one; whether there were."""
        [(covered,)] = await self._database.fetch(_COVERED)
        rows = await self._database.fetch(_NEXT_BLOCK, {"covered": covered,
                                                        "limit": self._block_messages})
        if len(rows) < self._block_messages:
            return False
        found = await asyncio.to_thread(_grams_of, rows)
        await self._database.fetch(_ADD_BLOCK, {
            "first": rows[0][0] - rows[0][3] + 1, "last": rows[-1][0], "grams": _ints_of(found)})
        return True


def _matches(row: Row, words: Sequence[str]) -> bool:
    text = f"{row[_SUBJECT]}\n{row[_BODY] or ''}".casefold()
    return all(word in text for word in words)


def grams(text: str) -> set[str]:
    """All groups of three characters that follow each other in it."""
    return {text[start : start + _LENGTH] for start in range(len(text) - _LENGTH + 1)}


def _grams_of(rows: Sequence[Row]) -> set[str]:
    found: set[str] = set()
    for _, subject, body, _ in rows:
        found |= grams(f"{subject}\n{body or ''}".casefold())
    return found


def _ints_of(found: set[str]) -> Ints:
    """The groups as numbers; two that share one cost a look, never a hit."""
    return ints(sorted({crc32(gram.encode("utf-8", "surrogatepass")) - (1 << 31)
                        for gram in found}))
