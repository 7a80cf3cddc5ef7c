"""The store port with a cache of inboxes. What makes it right stands in `book`.

Served from Redis: an inbox's newest messages (no cursor, no filter), and what follows a seq. All
else, and whatever Redis has not or does not answer in time, comes from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from coordd.cache.book import NEVER_US, Book, Inbox
from coordd.cache.forward import ForwardingStore
from coordd.cache.inboxes import BYTES_MAX, MESSAGES_MAX, SEQ_MAX, Entry, Inboxes, Miss
from coordd.cache.link import Link
from coordd.model import Mark, Order, Priority, parse_time
from coordd.rules import decoder_of
from coordd.store import (
    Change,
    Claim,
    Draft,
    Imported,
    KeyConflictError,
    MessageJson,
    Page,
    Receipt,
    Store,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    inbox_cursor,
)

_NOTHING_STORED: Final = (StoreBusyError, StoreFullError, StoreSealedError, KeyConflictError)
_EARLY_US: Final = 2_000_000
"""Content ends that much before its first expiry: else a clock that is set back a little would
bring back what the store has hidden for good.
"""
_DONE: Final = 2

T = TypeVar("T")


class _Facts(msgspec.Struct):
    seq: int
    to_agent: str
    expires_at: str | None


_facts: Final[Callable[[MessageJson], _Facts]] = decoder_of(_Facts)


def _wall_clock_us() -> int:
    return time.time_ns() // 1000


class CachedStore(ForwardingStore):
    """`inner` behind a cache. `clock_us` is the store's: by it messages expire."""

    def __init__(self, inner: Store, link: Link,
                 clock_us: Callable[[], int] = _wall_clock_us) -> None:
        super().__init__(inner)
        self.book = Book()
        self._link = link
        self._inboxes = Inboxes(link, self.book.generation)
        self._clock_us = clock_us
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.hits = 0
        """Reads that were answered from Redis."""
        self.misses = 0
        """Reads of that kind that the store answered."""

    @property
    def connected(self) -> bool:
        """Whether Redis answers."""
        return self._link.up

    @property
    def errors(self) -> int:
        """Failures of Redis, refusals by it, and content in it that somebody else wrote."""
        return self._link.errors + self._inboxes.errors

    def cache_counters(self) -> Iterable[tuple[str, str, float]]:
        """For the metrics: (name, help, number)."""
        yield "coordd_cache_hits", "Inbox reads that the cache answered.", self.hits
        yield "coordd_cache_misses", "Inbox reads of its kind that the store answered.", self.misses
        yield "coordd_cache_errors", "Failures of the cache, and what it refused.", self.errors

    def cache_gauges(self) -> Iterable[tuple[str, str, float]]:
        """As `cache_counters`."""
        yield "coordd_cache_connected", "Whether the cache answers.", self.connected

    async def open(self) -> None:
        """As the port says. A Redis that is away does not hinder it."""
        await self.inner.open()
        await self.open_cache()

    async def open_cache(self) -> None:
        """The part of `open` behind the inner store's."""
        await self._link.open()

    async def close(self) -> None:
        """As the port says; writes under way are ended first."""
        self._closing = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.inner.close()
        await self._link.close()

    # Reads.

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        """See the port."""
        above = max(after or 0, 0)
        if (cursor is not None or unread or min_priority is not None or limit > MESSAGES_MAX
                or above >= SEQ_MAX):
            return await self.inner.inbox(agent, limit=limit, order=order, after=after,
                                          cursor=cursor, unread=unread, min_priority=min_priority)
        inbox = self.book.inbox(agent)
        short = False
        if self._is_readable(inbox):
            version = inbox.version
            found = await self._inboxes.read(agent, version, order, above, limit)
            if isinstance(found, Page):
                self.hits += 1
                return found
            if found is Miss.SHORT:
                short = True
            elif self.book.is_unchanged(inbox, version):
                self.book.forget(inbox)
            inbox = self.book.inbox(agent)
        self.misses += 1
        try:
            return await self._read(inbox, limit, order, above, short=short)
        finally:
            self.book.drop_idle(inbox)

    def _is_readable(self, inbox: Inbox) -> bool:
        if not inbox.cached or not self.book.is_clean(inbox):
            return False
        if inbox.expires_us == NEVER_US:
            return True
        if self._clock_us() < inbox.expires_us - _EARLY_US:
            return True
        self.book.forget(inbox)
        return False

    async def _read(self, inbox: Inbox, limit: int, order: Order, above: int, *, short: bool
                    ) -> Page:
        """A page from the store; it is cached where that tells all from a seq up."""
        agent, version = inbox.agent, inbox.version
        fills = self._link.up and self.book.is_clean(inbox) and (short or not inbox.cached)
        if not fills or order == "oldest" or above:
            page = await self.inner.inbox(agent, limit=limit, order=order, after=above or None)
            if fills and page.next_cursor is None:
                self._fill(inbox, version, page, above)
            return page
        # Some more than asked for: messages will be deleted.
        page = await self.inner.inbox(agent, limit=limit + limit // 4 + 1)
        facts = [_facts(raw) for raw in page.messages]
        self._fill(inbox, version, page, facts[-1].seq - 1 if page.next_cursor is not None else 0)
        if len(facts) <= limit:
            return page
        return Page(page.messages[:limit], inbox_cursor(order, facts[limit - 1].seq),
                    page.last_seq)

    def _fill(self, inbox: Inbox, version: int, page: Page, floor: int) -> None:
        if (not self.book.is_unchanged(inbox, version) or page.last_seq >= SEQ_MAX
                or sum(map(len, page.messages)) > BYTES_MAX):
            return
        entries, expires_us = _entries(page)
        inbox.cached, inbox.expires_us = True, expires_us
        done = self._inboxes.fill(inbox.agent, version, page.last_seq, floor, entries)
        done.add_done_callback(partial(self._written, inbox, version))

    def _written(self, inbox: Inbox, version: int, done: asyncio.Future[Any]) -> None:
        """Redis was given content: forget it where it was not taken."""
        if done.result() != _DONE and inbox.version == version:
            self.book.forget(inbox)
            self.book.drop_idle(inbox)

    # Sends.

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        """See the port."""
        inboxes = self.book.begin_send({to for draft in drafts for to in draft.recipients})
        try:
            sending = asyncio.ensure_future(self.inner.append(drafts, claim))
        except BaseException as error:
            self._unsent(inboxes, error)
            raise
        sending.add_done_callback(partial(self._sent, inboxes))
        return asyncio.shield(sending)

    def _sent(self, inboxes: Iterable[Inbox], sending: asyncio.Future[list[Receipt]]) -> None:
        if sending.cancelled():
            self._unsent(inboxes, asyncio.CancelledError())
        elif (error := sending.exception()) is not None:
            self._unsent(inboxes, error)
        else:
            low: dict[str, int] = {}
            for receipt in sending.result():
                for to, seq in receipt.deliveries:
                    low[to] = min(seq, low.get(to, seq))
            for inbox in inboxes:
                # A known key's receipts may be of other recipients: a group's members of then.
                if not inbox.cached or self._closing or inbox.agent not in low:
                    self.book.forget(inbox)
                    self.book.end_send(inbox)
                    continue
                inbox.low = min(inbox.low, low[inbox.agent])
                inbox.ended += 1
                if inbox.ended == 1:
                    self._task(self._catch_up(inbox))

    def _unsent(self, inboxes: Iterable[Inbox], error: BaseException) -> None:
        for inbox in inboxes:
            if not isinstance(error, _NOTHING_STORED):
                self.book.forget(inbox)
            self.book.end_send(inbox)

    async def _catch_up(self, inbox: Inbox) -> None:
        """Give Redis the messages of sends that have ended, as the store shows them."""
        low, ended, page = NEVER_US, 0, None
        try:
            if inbox.cached:
                low, ended = inbox.low, inbox.ended
                page = await self.inner.inbox(inbox.agent, limit=MESSAGES_MAX, order="oldest",
                                              after=low - 1)
        except (StoreError, OSError):
            pass  # who reads the inbox is told
        finally:
            # What ended meanwhile may be in the page or not: then the content is given up.
            if page is None or page.next_cursor is not None or ended != inbox.ended:
                self.book.forget(inbox)
            ended, inbox.ended, inbox.low = inbox.ended, 0, NEVER_US
            if inbox.cached and page is not None:
                entries, expires_us = _entries(page)
                self._patch(inbox, page.last_seq, [("add", entry) for entry in entries],
                            expires_us)
            self.book.end_send(inbox, ended)

    def _patch(self, inbox: Inbox, last_seq: int, changes: list[tuple[str, Entry]],
               expires_us: int = NEVER_US) -> None:
        versions = self.book.raise_version(inbox)
        if last_seq >= SEQ_MAX:
            inbox.cached = False
            return
        inbox.expires_us = min(inbox.expires_us, expires_us)
        done = self._inboxes.patch(inbox.agent, versions, last_seq, changes)
        done.add_done_callback(partial(self._written, inbox, inbox.version))

    # Other writes. Each has a task of its own, which a caller that leaves does not cancel.

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        """See the port."""
        inbox = self.book.begin_mark(agent)
        return await asyncio.shield(self._task(self._mark(inbox, message_id, agent, mark)))

    async def _mark(self, inbox: Inbox, message_id: str, agent: str, mark: Mark
                    ) -> MessageJson | None:
        try:
            seq = None
            if mark == "deleted" and inbox.cached:
                seq = await self._seq(message_id, agent)
            marked = await self.inner.mark(message_id, agent, mark)
            if marked is not None:
                self._marked(inbox, mark, marked, seq)
        except _NOTHING_STORED:
            raise
        except BaseException:
            self.book.forget(inbox)
            raise
        finally:
            self.book.end_mark(inbox)
        return marked

    def _marked(self, inbox: Inbox, mark: Mark, marked: MessageJson, seq: int | None) -> None:
        if not inbox.cached:
            self.book.raise_version(inbox)
        elif mark != "deleted":
            self._patch(inbox, 0, [("set", Entry(_facts(marked).seq, bytes(marked)))])
        elif seq is not None:
            self._patch(inbox, 0, [("del", Entry(seq, b""))])
        else:
            self.book.forget(inbox)

    async def _seq(self, message_id: str, agent: str) -> int | None:
        for raw in await self.inner.message(message_id):
            facts = _facts(raw)
            if facts.to_agent == agent:
                return facts.seq
        return None

    async def import_(self, changes: Sequence[Change]) -> Imported:
        """See the port. Nothing is cached while an import is under way."""
        self.book.begin_all()
        return await asyncio.shield(self._task(self._import(changes)))

    async def _import(self, changes: Sequence[Change]) -> Imported:
        try:
            return await self.inner.import_(changes)
        finally:
            self.book.end_all()

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _entries(page: Page) -> tuple[list[Entry], int]:
    """The messages with their seqs, and when the first of them expires."""
    entries, expires_us = [], NEVER_US
    for raw in page.messages:
        facts = _facts(raw)
        entries.append(Entry(facts.seq, bytes(raw)))
        if facts.expires_at is not None:
            expires_us = min(expires_us, int(parse_time(facts.expires_at).timestamp() * 1e6))
    return entries, expires_us
