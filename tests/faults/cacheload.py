"""Load on a store behind a cache, and the judge of every answer.

What is known of an inbox grows: by the answers of writes, by hints of commits and by what reads
have shown. A read that begins when something is known has to show it; nothing known is ever
taken back.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from coordd.cache.forward import ForwardingStore
from coordd.model import Message
from coordd.store import Claim, Draft, StoreBusyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from coordd.cache import CachedStore
    from coordd.model import Mark, Order
    from coordd.store import MessageJson, Page, Receipt, Store

INBOXES = ("bob", "carol", "dave", "erin", "frank", "grace")
_decode = msgspec.json.Decoder(Message).decode


class Unhurried(ForwardingStore):
    """A store whose calls take a while, before and after they look: as a database's do. What was
    committed first may be answered last.
    """

    def __init__(self, inner: Store, seed: int) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)

    async def inbox(self, agent: str, **query: Any) -> Page:
        await self._wait()
        page = await self.inner.inbox(agent, **query)
        await self._wait()
        return page

    async def version(self, agent: str) -> int:
        await self._wait()
        version = await self.inner.version(agent)
        await self._wait()
        return version

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        marked = await self.inner.mark(message_id, agent, mark)
        await self._wait()
        return marked

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        return self._answered(self.inner.append(drafts, claim))

    async def _answered(self, sending: Awaitable[list[Receipt]]) -> list[Receipt]:
        receipts = await sending
        await self._wait()
        return receipts

    async def _wait(self) -> None:
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.003, 0.02)))


@dataclass(frozen=True, slots=True)
class Known:
    """What a read must show of a delivery."""

    id: str
    subject: str
    read: bool = False
    acked: bool = False
    deleted: bool = False


@dataclass
class Judge:
    """What is known of one inbox."""

    agent: str
    problems: list[str]
    known: dict[int, Known] = field(default_factory=dict)
    last_seq: int = 0
    may_be_gone: set[int] = field(default_factory=set)
    """Deliveries whose deletion has begun."""

    def sent(self, seq: int, message_id: str, subject: str) -> None:
        old = self.known.get(seq)
        if old is None:
            self.known[seq] = Known(message_id, subject)
        elif (old.id, old.subject) != (message_id, subject):
            self.problem(f"seq {seq} is {old} and {subject}")
        self.last_seq = max(self.last_seq, seq)

    def was_marked(self, seq: int, mark: Mark) -> None:
        old = self.known[seq]
        self.known[seq] = replace(old, read=old.read or mark == "read",
                                  acked=old.acked or mark == "acked",
                                  deleted=old.deleted or mark == "deleted")

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.agent}: {text}")

    async def read(self, store: Store, order: Order, limit: int, after: int | None
                   ) -> list[Message]:
        """A page, judged by what was known when it was asked for."""
        known, last_seq = dict(self.known), self.last_seq
        page = await store.inbox(self.agent, limit=limit, order=order, after=after)
        messages = [_decode(raw) for raw in page.messages]
        self._judge(page, messages, known, last_seq, order, limit, after or 0)
        for message in messages:
            self.sent(message.seq, message.id, message.subject)
            if message.read_at is not None:
                self.was_marked(message.seq, "read")
            if message.acked_at is not None:
                self.was_marked(message.seq, "acked")
        self.last_seq = max(self.last_seq, page.last_seq)
        return messages

    def _judge(self, page: Page, messages: list[Message], known: dict[int, Known], last_seq: int,
               order: Order, limit: int, after: int) -> None:
        asked = f"{order} limit={limit} after={after}"
        seqs = [message.seq for message in messages]
        if seqs != sorted(set(seqs), reverse=order == "newest"):
            self.problem(f"{asked}: out of order: {seqs}")
        if page.last_seq < last_seq:
            self.problem(f"{asked}: last_seq {page.last_seq}, {last_seq} was known")
        if len(seqs) > limit or (page.next_cursor is not None and len(seqs) != limit):
            self.problem(f"{asked}: {len(seqs)} messages, next_cursor {page.next_cursor}")
        low, high = after + 1, max(last_seq, page.last_seq)
        if page.next_cursor is not None:
            low, high = (min(seqs), high) if order == "newest" else (low, max(seqs))
        missing = {seq for seq, each in known.items()
                   if low <= seq <= high and not each.deleted} - set(seqs) - self.may_be_gone
        if missing:
            self.problem(f"{asked}: not shown: {sorted(missing)[:5]} of {len(known)}")
        for message in messages:
            old = known.get(message.seq)
            if message.seq <= after or message.to_agent != self.agent:
                self.problem(f"{asked}: shows {message.to_agent}'s {message.seq}")
            if not message.body.startswith(message.subject):
                self.problem(f"{asked}: another body at {message.seq}")
            if old is not None and (
                    old.deleted or (old.read and message.read_at is None)
                    or (old.acked and message.acked_at is None)):
                self.problem(f"{asked}: {old} is shown as {message.state}")


class Load:
    """Senders, markers, readers and followers of a store while it is `running`. `writer`: another
    server of the same store, by which all is sent and marked and some is read.
    """

    def __init__(self, store: CachedStore, seed: int, body_bytes: int = 100,
                 writer: CachedStore | None = None) -> None:
        self.store = store
        self.writer = writer or store
        self.problems: list[str] = []
        self.judges = {agent: Judge(agent, self.problems) for agent in INBOXES}
        self.reads = 0
        self._random = random.Random(seed)
        self._name = f"load-{seed}"
        self._body_bytes = body_bytes
        self._number = 0
        self._sends: list[tuple[list[Draft], Claim]] = []
        self._stopping = False
        self._hints = {agent: asyncio.Event() for agent in INBOXES}
        store.on_commit(self._hinted)

    def _hinted(self, agent: str, seq: int) -> None:
        judge = self.judges[agent]
        judge.last_seq = max(judge.last_seq, seq)
        self._hints[agent].set()

    async def _send(self) -> None:
        drafts = []
        for _ in range(self._random.choice((1, 1, 1, 3))):
            self._number += 1
            subject = f"s{self._number}."
            to = tuple(self._random.sample(INBOXES, self._random.choice((1, 1, 2))))
            drafts.append(Draft("alice", to, subject, subject + "x" * self._random.randint(
                0, 2 * self._body_bytes)))
        claim = Claim("alice", f"{self._name}-{self._number}", "digest", len(drafts))
        if self._sends and self._random.random() < 0.2:  # a client that tries again
            drafts, claim = self._random.choice(self._sends[-self._random.choice((3, 300)):])
        self._sends.append((drafts, claim))
        sending = asyncio.ensure_future(self.writer.append(drafts, claim))
        if self._random.random() < 0.1:
            await asyncio.sleep(0)
            sending.cancel()  # the client leaves
        try:
            receipts = await sending
        except (StoreBusyError, asyncio.CancelledError):
            return
        for draft, receipt in zip(drafts, receipts, strict=True):
            for to_agent, seq in receipt.deliveries:
                self.judges[to_agent].sent(seq, receipt.id, draft.subject)
        await asyncio.sleep(self._random.choice((0, 0.005, 0.03)))

    async def _mark(self) -> None:
        await asyncio.sleep(self._random.choice((0, 0.005, 0.03)))
        judge = self.judges[self._random.choice(INBOXES)]
        there = [seq for seq, each in judge.known.items()
                 if not each.deleted and seq > judge.last_seq - self._random.choice((3, 100))]
        if not there:
            return
        seq = self._random.choice(there)
        marks: list[Mark] = self._random.sample(("read", "acked", "deleted"),
                                                self._random.choice((1, 1, 2)))
        await asyncio.gather(*(self._mark_one(judge, seq, mark) for mark in marks))

    async def _mark_one(self, judge: Judge, seq: int, mark: Mark) -> None:
        if mark == "deleted":
            judge.may_be_gone.add(seq)
        marking = asyncio.ensure_future(self.writer.mark(judge.known[seq].id, judge.agent, mark))
        if self._random.random() < 0.1:
            await asyncio.sleep(0)
            marking.cancel()
        try:
            marked = await marking
        except (StoreBusyError, asyncio.CancelledError):
            return
        if marked is not None:
            judge.was_marked(seq, mark)

    async def _read(self) -> None:
        judge = self.judges[self._random.choice(INBOXES)]
        order: Order = self._random.choice(("newest", "newest", "newest", "oldest"))
        after = None
        if order == "oldest":
            after = max(0, judge.last_seq - self._random.choice((0, 1, 5, 50, 250)))
        limit = self._random.choice((1, 10, 100, 100, 300))
        # Some pass the cache by: what they have seen no other read may lack.
        server = self._random.choice((self.store, self.writer))
        store = server.inner if self._random.random() < 0.1 else server
        await judge.read(store, order, limit, after)
        self.reads += 1
        await asyncio.sleep(0)

    async def _follow(self, agent: str) -> None:
        judge, seen = self.judges[agent], 0
        while not self._stopping:
            hint = self._hints[agent]
            hint.clear()
            messages = await judge.read(self.store, "oldest", 100, seen)
            self.reads += 1
            if messages:
                seen = messages[-1].seq
            else:
                await _within(hint.wait(), 0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Run the load inside; then every page of the cache is compared with the store's."""
        async with asyncio.TaskGroup() as group:
            for work, count in ((self._send, 2), (self._mark, 3), (self._read, 4)):
                for _ in range(count):
                    group.create_task(self._repeat(work))
            for agent in INBOXES:
                group.create_task(self._follow(agent))
            try:
                yield self
            finally:
                self._stopping = True
        await self._compare()

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self._stopping:
            await work()

    async def _compare(self) -> None:
        store = self.store
        for server in (store, self.writer):
            await until(lambda server=server: not server._refills)
        for judge in self.judges.values():
            for query in ({"limit": 1}, {"limit": 100}, {"limit": 300}, {"limit": 100, "after": 20},
                          {"limit": 50, "order": "oldest", "after": max(0, judge.last_seq - 30)}):
                wanted = await store.inner.inbox(judge.agent, **query)
                for _ in range(3):
                    if await store.inbox(judge.agent, **query) != wanted:
                        judge.problem(f"{query} differs from the store's")

    async def until(self, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
        """Let the load run until `condition` holds."""
        await until(condition, limit_s)

    async def until_read(self, count: int) -> None:
        """Let `count` more reads happen."""
        goal = self.reads + count
        await self.until(lambda: self.reads >= goal)

    async def until_hits(self, count: int) -> None:
        """Let the cache answer `count` more reads."""
        goal = self.store.hits + count
        await self.until(lambda: self.store.hits >= goal)


async def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Wait until `condition` holds. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0.002)


async def _within(waiting: Coroutine[Any, Any, Any], limit_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await waiting
