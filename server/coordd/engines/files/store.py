"""The files engine: the store port over one folder.

The folder holds `log/` (the truth), `index.snap` (a cache), `events.log` (the audit log for
people) and `lock`. What each does stands in its module.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from coordd.engines.files import records, recovery, snapshot
from coordd.engines.files.commit import Committer, Listener
from coordd.engines.files.disk import Disk, ensure_folder
from coordd.engines.files.events import Events
from coordd.engines.files.eventslog import EventsLog
from coordd.engines.files.expiry import Expiry
from coordd.engines.files.importing import Import
from coordd.engines.files.index import GONE, Index
from coordd.engines.files.log import Log
from coordd.engines.files.operations import SEALED, PutEntry, Send, SetMark
from coordd.engines.files.pages import Pages
from coordd.engines.files.reader import Reader
from coordd.engines.files.records import EntryRecord
from coordd.engines.files.search import Search
from coordd.engines.files.upkeep import Upkeep
from coordd.model import Agent, Core, Group, Mark, Order, Priority, Token
from coordd.store import (
    AgentStats,
    Change,
    Claim,
    Draft,
    EventPage,
    Feed,
    Imported,
    MessageJson,
    Page,
    Receipt,
    Stats,
    StoreFullError,
    StoreLockedError,
    StoreSealedError,
)

_PROOF_BYTES: Final = 4096


def _wall_clock_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class FilesOptions:
    """How the engine works. `clock_us` gives the time in microseconds since 1970, UTC;
    `on_fatal` is called once when the log can't be written any more.
    """

    segment_bytes: int = 64 << 20
    pending_max: int = 10_000
    pending_bytes_max: int = 64 << 20
    clock_us: Callable[[], int] = _wall_clock_us
    on_fatal: Callable[[BaseException], None] | None = None


class FilesStore:
    """See `coordd.store.Store` for what the methods promise."""

    shared = False

    def __init__(self, folder: Path, options: FilesOptions | None = None,
                 disk: Disk | None = None) -> None:
        self._folder = folder
        self._options = options or FilesOptions()
        self._disk = disk or Disk()
        self._listeners: list[Listener] = []
        self._lock_fd = -1
        self.generation = ""

    # Life.

    async def open(self) -> None:
        self.generation = secrets.token_hex(8)  # versions count from the start of the process
        self._loop = asyncio.get_running_loop()
        ensure_folder(self._disk, self._folder)
        self._take_lock()
        try:
            self._recover()
        except BaseException:
            os.close(self._lock_fd)
            raise
        options = self._options
        self._upkeep = Upkeep(self._folder, self._disk, self._index, self._storage)
        self._committer = Committer(
            self._index, self._storage, self._events_log, self._listeners, options.clock_us,
            options.pending_max, options.pending_bytes_max, options.on_fatal,
            self._upkeep.on_published)
        self._expiry = Expiry(self._index, self._reader, self._committer, options.clock_us,
                              self._upkeep.on_gone)
        self._expiry.run()

    def _take_lock(self) -> None:
        self._lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock_fd, 100, 0).decode(errors="replace").strip()
            os.close(self._lock_fd)
            raise StoreLockedError(f"the data folder {self._folder} is in use by another coordd "
                                   f"({holder or 'starting'})") from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"pid {os.getpid()}\n".encode(), 0)

    def _recover(self) -> None:
        storage = Log(self._folder / "log", self._disk, self._options.segment_bytes)
        events_log = EventsLog(self._folder / "events.log")
        try:
            self._read(storage, events_log)
        except BaseException:
            events_log.close()
            storage.close()
            raise

    def _read(self, storage: Log, events_log: EventsLog) -> None:
        storage.open()
        index, first, start, durable = Index(), 0, storage.segments[0].header_bytes, 0
        saved = snapshot.read(self._folder)
        if saved is not None:
            durable = saved.header.position
            if saved.fits(storage):
                index = saved.restore(storage)
                first = len(saved.header.segments) - 1
                start = saved.header.segments[-1].size
        recovery.replay(index, storage, first, start, durable)
        self._index, self._storage = index, storage
        self._reader = Reader(index, storage, self._options.clock_us)
        self._pages = Pages(index, self._reader)
        self._search = Search(index, storage, self._reader, self._pages)
        self._events = Events(index, self._reader)
        self._events_log = events_log
        events_log.open(self._events)

    async def close(self) -> None:
        self._expiry.stop()
        await self._committer.drain()
        async with self._upkeep.turn:
            await self._committer.close()
            self._storage.trim()
            self._upkeep.save_last_snapshot()
        self._events_log.close()
        self._storage.close()
        os.close(self._lock_fd)

    async def prove(self) -> None:
        if self._index.sealed:
            raise StoreSealedError(SEALED)
        await self._committer.run(self._write_proof)

    def _write_proof(self) -> None:
        """A file of its own each time: its bytes need room that a message would need."""
        path = self._folder / "proof"
        if path.exists():
            self._disk.unlink(path)
        try:
            fd = self._disk.open(path, create=True)
            try:
                self._disk.write(fd, bytes(_PROOF_BYTES), 0)
                self._disk.datasync(fd)
            finally:
                self._disk.close(fd)
                self._disk.unlink(path)
        except OSError as error:
            raise StoreFullError(f"nothing can be stored in {self._folder}: {error.strerror}"
                                 ) from error

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    @property
    def waiting(self) -> int:
        """How many messages wait for their commit."""
        return self._committer.waiting_messages

    def reopen_logs(self) -> None:
        """Write events.log anew under its name, after logrotate has moved the old one."""
        self._upkeep.do(self._committer.run(self._events_log.reopen))

    # Writes.

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        future: asyncio.Future[list[Receipt]] = self._loop.create_future()
        self._committer.submit(
            Send(self._index, self._reader, future, drafts, claim))
        return future

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        self._expiry.run()
        row = self._reader.delivery(message_id, agent)
        if row is None:
            return None
        if self._index.state(row) == GONE:
            return MessageJson(b"{}") if mark == "deleted" else None
        future: asyncio.Future[MessageJson | None] = self._loop.create_future()
        self._committer.submit(SetMark(self._index, self._reader, future, row, message_id, mark,
                                       self._upkeep.on_gone))
        return await asyncio.shield(future)

    async def _put(self, record: Callable[[str], EntryRecord]) -> EntryRecord:
        future: asyncio.Future[EntryRecord] = self._loop.create_future()
        self._committer.submit(PutEntry(self._index, future, record))
        return await asyncio.shield(future)

    async def put_agent(self, name: str, description: str) -> Agent:
        def record(at: str) -> EntryRecord:
            old = self._index.agents.get(name)
            created_at = old.created_at if old else at
            return EntryRecord(at, agent=Agent(name, description, created_at, at))

        entry = (await self._put(record)).agent
        assert entry is not None
        return entry

    async def put_group(self, name: str, members: list[str]) -> Group:
        def record(at: str) -> EntryRecord:
            old = self._index.groups.get(name)
            return EntryRecord(at, group=Group(name, members, old.created_at if old else at, at))

        entry = (await self._put(record)).group
        assert entry is not None
        return entry

    async def put_token(self, token: Token) -> None:
        await self._put(lambda at: EntryRecord(at, token=token))

    async def seal(self, epoch: int) -> int:
        await self._put(lambda at: EntryRecord(at, epoch=epoch, sealed=True))
        return self._index.position

    async def unseal(self, epoch: int) -> None:
        await self._put(lambda at: EntryRecord(at, epoch=epoch, sealed=False))
        self._expiry.run()

    async def sealed(self) -> int | None:
        return self._index.epoch if self._index.sealed else None

    async def import_(self, changes: Sequence[Change]) -> Imported:
        future: asyncio.Future[Imported] = self._loop.create_future()
        self._committer.submit(Import(self._index, self._reader, self._listeners, future, changes,
                                      self._upkeep.on_gone))
        return await asyncio.shield(future)

    # Reads.

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        self._expiry.run()
        return self._pages.inbox(agent, limit, order, after, cursor, unread=unread,
                                 min_priority=min_priority)

    async def version(self, agent: str) -> int:
        self._expiry.run()
        return self._pages.version(agent)

    async def message(self, message_id: str) -> list[MessageJson]:
        self._expiry.run()
        first = self._reader.find(message_id)
        if first is None:
            return []
        return [MessageJson(self._reader.render(row)) for row in self._index.siblings(first)
                if self._index.state(row) != GONE]

    async def archived(self, message_id: str) -> list[MessageJson]:  # noqa: ARG002 - there is none
        return []

    async def sent(self, agent: str, *, limit: int, cursor: str | None = None) -> Page:
        self._expiry.run()
        return self._pages.sent(agent, limit, cursor)

    async def thread(self, thread_id: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        self._expiry.run()
        return self._pages.thread(thread_id, limit, cursor, party)

    async def search(self, query: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        self._expiry.run()
        return await self._search.page(query, limit, cursor, party)

    async def events(self, *, limit: int, agent: str | None = None, type: str | None = None,  # noqa: A002
                     after: int | None = None, since: datetime | None = None,
                     until: datetime | None = None, cursor: str | None = None,
                     order: Order = "oldest") -> EventPage:
        self._expiry.run()
        if since is None and until is None:
            return self._events.page(limit, agent, type, after, cursor, order)
        return await self._events.page_between(since, until, limit, agent, type, after, cursor,
                                               order)

    async def stats(self) -> Stats:
        self._expiry.run()
        index = self._index
        agents = {box.name: AgentStats(len(box.sent), len(box.rows), box.unread)
                  for box in index.boxes if box.sent or box.rows}
        events = {name: index.events[code] for name, code in records.EVENT_CODES.items()}
        unread = sum(box.unread for box in index.boxes)
        return Stats(index.alive, unread, events, agents, self._storage.size_bytes)

    async def agent(self, name: str) -> Agent | None:
        return self._index.agents.get(name)

    async def agents(self) -> list[Agent]:
        return sorted(self._index.agents.values(), key=lambda entry: entry.name)

    async def group(self, name: str) -> Group | None:
        return self._index.groups.get(name)

    async def groups(self) -> list[Group]:
        return sorted(self._index.groups.values(), key=lambda entry: entry.name)

    async def tokens(self) -> list[Token]:
        return list(self._index.tokens.values())

    async def feed(self, after: int, limit: int) -> Feed:
        return self._pages.feed(after, limit)

    @property
    def position(self) -> int:
        """The newest position of the feed."""
        return self._index.position

    def core(self, message_id: str) -> Core | None:
        """A message, deleted or not; None for an unknown id."""
        row = self._reader.find(message_id)
        return None if row is None else self._reader.core(row)

    async def compact(self) -> None:
        """Give back the bytes of deleted and expired messages in all closed segments."""
        await self._upkeep.compact()
