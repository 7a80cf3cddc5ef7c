"""The store port with a cache of inboxes. What makes it right:

    Content in Redis that carries version v is what the store showed at version v.

A page from the store tells the version of the very moment that it shows, and only such pages are
written to Redis. A reader asks the store for the present version and is served content of that
version alone: what the store would have answered at a moment of the call, so later than
every write that any server has acknowledged before. A command to Redis may be lost, late, done
twice, undone by a flush, an eviction, a restart from an old dump: then there is no content of the
present version, and that is a miss. Writes have nothing to do for it, clocks and other
servers neither.

Served from Redis: an inbox's newest messages (no cursor, no filter), and what follows a seq. All
else, and whatever Redis has not or does not answer in time, comes from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from coordd.cache.forward import ForwardingStore
from coordd.cache.inboxes import SEQ_MAX, Inboxes, seq_of
from coordd.cache.link import Argument, Link
from coordd.model import Order, Priority
from coordd.store import Claim, Draft, Page, Receipt, Store, StoreError, inbox_cursor

LIMIT_MAX: Final = 300
"""Larger pages are the store's."""
READ_MAX: Final = 100_000
"""Inboxes known to be read; past it all are forgotten, which costs some of them a miss."""


class CachedStore(ForwardingStore):
    """`inner` behind a cache."""

    def __init__(self, inner: Store, link: Link) -> None:
        super().__init__(inner)
        self._link = link
        self._inboxes = Inboxes(link)
        self._read: dict[str, int] = {}
        """How many of its newest messages were asked of an inbox; 0: none since it was refilled."""
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self.hits = 0
        """Reads that were answered from Redis."""
        self.misses = 0
        """Reads of that kind that the store answered."""

    @property
    def connected(self) -> bool:
        """Whether Redis answers."""
        return self._link.up

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """A command to the cache's Redis: see `Link.call`."""
        return self._link.call(*args)

    @property
    def errors(self) -> int:
        """Failures of Redis, refusals by it, and content in it that somebody else wrote."""
        return self._link.errors + self._inboxes.errors

    def counters(self) -> Iterable[tuple[str, str, float]]:
        """For the metrics: (name, help, number)."""
        yield "coordd_cache_hits", "Inbox reads that the cache answered.", self.hits
        yield "coordd_cache_misses", "Inbox reads of its kind that the store answered.", self.misses
        yield "coordd_cache_errors", "Failures of the cache, and what it refused.", self.errors

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """As `counters`."""
        yield "coordd_cache_connected", "Whether the cache answers.", self.connected

    async def open(self) -> None:
        """As the port says. A Redis that is away does not hinder it."""
        await self.inner.open()
        await self.open_cache()

    async def open_cache(self) -> None:
        """The part of `open` behind the inner store's."""
        self._inboxes.generation = self.inner.generation
        await self._link.open()

    async def close(self) -> None:
        """As the port says; refills under way are ended first."""
        self._closing = True
        await asyncio.gather(*self._refills.values(), return_exceptions=True)
        await self.inner.close()
        await self._link.close()

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        """See the port."""
        above = max(after or 0, 0)
        if (cursor is not None or unread or min_priority is not None or limit > LIMIT_MAX
                or above >= SEQ_MAX):
            return await self.inner.inbox(agent, limit=limit, order=order, after=after,
                                          cursor=cursor, unread=unread, min_priority=min_priority)
        if order == "newest" and not above:
            self._note(agent, limit)
        if self._link.up:
            # Both are asked at once: content of a version does not change, so it does not matter
            # which answers first.
            reply = self._inboxes.ask(agent, order, above, limit)
            if version := await self.inner.version(agent):
                found = self._inboxes.page(agent, version, order, above, limit, await reply)
                if found is not None:
                    self.hits += 1
                    return found
        self.misses += 1
        if order == "newest" and not above:
            return await self._newest(agent, limit)
        page = await self.inner.inbox(agent, limit=limit, order=order, after=above or None)
        if page.next_cursor is None and agent not in self._read:
            # Else it would take the place of a page that reaches further.
            self._inboxes.fill(agent, page, above)
        return page

    async def _newest(self, agent: str, limit: int) -> Page:
        """The newest messages from the store, which are kept."""
        # One more than asked for, by which the next reader is told that there is more.
        page = await self.inner.inbox(agent, limit=limit + 1)
        messages = page.messages
        self._inboxes.fill(
            agent, page, 0 if page.next_cursor is None else seq_of(messages[-1]) - 1)
        if len(messages) <= limit:
            return page
        return Page(messages[:limit], inbox_cursor("newest", seq_of(messages[limit - 1])),
                    page.last_seq, page.version)

    # An inbox that is both read and sent to would miss once a send. So the server that sends reads
    # it again for its readers, at most once for each time that one of them has.

    def _note(self, agent: str, limit: int) -> None:
        if len(self._read) >= READ_MAX:
            self._read.clear()
        self._read[agent] = max(limit, self._read.get(agent, 0))

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        """See the port."""
        sending = self.inner.append(drafts, claim)
        read = {to for draft in drafts for to in draft.recipients if self._read.get(to)}
        if not read:
            return sending
        future = asyncio.ensure_future(sending)
        future.add_done_callback(partial(self._sent, read))
        return future

    def _sent(self, agents: Iterable[str], sending: asyncio.Future[list[Receipt]]) -> None:
        if (self._closing or not self._link.up or sending.cancelled()
                or sending.exception() is not None):
            return
        for agent in agents:
            if agent not in self._refills and (limit := self._read.get(agent, 0)):
                self._read[agent] = 0
                self._refills[agent] = asyncio.create_task(self._refill(agent, limit))

    async def _refill(self, agent: str, limit: int) -> None:
        try:
            with suppress(StoreError, OSError):  # who reads the inbox is told
                await self._newest(agent, limit)
        finally:
            del self._refills[agent]
