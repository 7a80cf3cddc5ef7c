"""Group commit without a timer: what arrives while one commit is on its way goes with the next.

    submit ─▶ waiting ─▶ encode (event loop) ─▶ write + fdatasync (thread) ─▶ publish (event loop)

Exactly one batch is on its way at a time. Seqs and positions are given when a batch is encoded,
so the order in which calls were submitted is the order of every inbox. Nothing is seen, and no
caller is answered, before its batch is durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from coordd.engines.files import frame
from coordd.engines.files.times import to_log_text, to_text
from coordd.store import StoreBusyError, StoreError, StoreFullError

if TYPE_CHECKING:
    from coordd.engines.files.eventslog import EventsLog
    from coordd.engines.files.index import Index
    from coordd.engines.files.log import Log

_BATCH_MESSAGES: Final = 4096
_log = logging.getLogger("coordd.files")


class Batch:
    """Frames on their way to the disk, and what is already promised within them."""

    __slots__ = ("at", "claims", "frames", "id_prefix", "id_salt", "known", "lines", "log_at",
                 "operations", "position", "sealed", "size", "synced")

    def __init__(self, position: int, now_us: int, *, sealed: bool) -> None:
        self.frames: list[bytes] = []
        self.size = 0
        self.synced = position
        self.position = position
        self.at = to_text(now_us)
        self.log_at = to_log_text(now_us)
        ms, us = divmod(now_us, 1000)
        random = int.from_bytes(os.urandom(3), "big")
        # UUID version 7 (RFC 9562): time, 12 bits of microseconds, 22 random bits and, as its
        # counter, the position: an id of our own needs no index.
        high = 0x8000 | random >> 10
        self.id_prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{us * 4096 // 1000:03x}-{high:04x}-"
        self.id_salt = (random & 0xFF) << 40
        self.lines: list[str] = []
        self.claims: dict[str, Operation] = {}
        self.known: set[str] = set()
        """Message ids and `<row>/<code>` marks that this batch brings."""
        self.sealed = sealed
        self.operations: list[Operation] = []

    def add(self, payload: bytes, events: int) -> int:
        """Add a frame; where its payload begins, counted from the batch's begin."""
        data = frame.encode(payload, self.position, self.synced)
        offset = self.size + len(data) - len(payload) - 1
        self.frames.append(data)
        self.size += len(data)
        self.position += events
        return offset


class Operation(Protocol):
    """A call that changes the store. Its future is what the caller awaits."""

    future: asyncio.Future[Any]
    messages: int
    size: int

    def encode(self, batch: Batch) -> None:
        """Add frames to the batch, or nothing. Raises StoreError: nothing was added."""

    def publish(self, base: int) -> None:
        """Show what is durable now; the batch begins at place `base`. Answers the caller."""


class Committer:
    """The one writer of a store."""

    def __init__(self, index: Index, log: Log, events_log: EventsLog, clock_us: Callable[[], int],
                 pending_max: int, pending_bytes_max: int,
                 on_fatal: Callable[[BaseException], None] | None) -> None:
        self._index = index
        self._log = log
        self._events_log = events_log
        self._clock_us = clock_us
        self._pending_max = pending_max
        self._pending_bytes_max = pending_bytes_max
        self._on_fatal = on_fatal
        self._waiting: deque[Operation] = deque()
        self.waiting_messages = 0
        self._waiting_bytes = 0
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: StoreError | None = None
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Queue an operation. Raises StoreBusyError past the bounds, and the fatal error."""
        if self._failure:
            raise self._failure
        if (self.waiting_messages + operation.messages > self._pending_max
                or self._waiting_bytes + operation.size > self._pending_bytes_max):
            raise StoreBusyError(f"{self.waiting_messages} messages wait to be stored")
        self._waiting.append(operation)
        self.waiting_messages += operation.messages
        self._waiting_bytes += operation.size
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._flush)

    async def run(self, job: Callable[[], None]) -> None:
        """Do a piece of disk work in the writer's thread, between two commits.

        Raises what `job` raises.
        """
        if self._failure:
            raise self._failure
        future: asyncio.Future[None] = self._loop.create_future()

        def work() -> None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the caller gets it
                self._loop.call_soon_threadsafe(_fail, future, error)
            else:
                self._loop.call_soon_threadsafe(_finish, future)

        self._jobs.put(work)
        await future

    async def drain(self) -> None:
        """Wait until nothing is waiting or on its way."""
        await self._idle.wait()

    async def close(self) -> None:
        """Commit what is waiting and end the thread."""
        await self.drain()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _flush(self) -> None:
        batch = Batch(self._index.position + 1, self._clock_us(), sealed=self._index.sealed)
        messages = 0
        while self._waiting and messages < _BATCH_MESSAGES:
            operation = self._waiting.popleft()
            messages += operation.messages
            self._waiting_bytes -= operation.size
            try:
                operation.encode(batch)
            except Exception as error:  # noqa: BLE001 - the caller gets it
                _fail(operation.future, error)
            else:
                batch.operations.append(operation)
        self.waiting_messages -= messages
        if not batch.frames:
            self._publish(batch, 0)
            return
        data = b"".join(batch.frames)
        lines = "".join(batch.lines).encode()
        self._jobs.put(lambda: self._commit(batch, data, lines))

    def _commit(self, batch: Batch, data: bytes, lines: bytes) -> None:
        """In the writer's thread."""
        try:
            segment = self._log.append(data, batch.synced)
        except StoreFullError as error:
            self._loop.call_soon_threadsafe(self._refuse, batch, error)
        except OSError as error:
            self._loop.call_soon_threadsafe(self._die, batch, error)
        else:
            base = segment.base + segment.size - len(data)
            self._events_log.write(lines)
            self._loop.call_soon_threadsafe(self._publish, batch, base)

    def _publish(self, batch: Batch, base: int) -> None:
        for operation in batch.operations:
            operation.publish(base)
        self._next()

    def _refuse(self, batch: Batch, error: StoreFullError) -> None:
        for operation in batch.operations:
            _fail(operation.future, error)
        for box in self._index.boxes:
            box.assigned = box.last_seq
        self._next()

    def _next(self) -> None:
        if self._waiting:
            self._flush()
        else:
            self._busy = False
            self._idle.set()

    def _die(self, batch: Batch, error: OSError) -> None:
        """What is on the disk is unknown from here on: no caller may be told that it is there."""
        self._failure = StoreError(f"the log can't be written any more: {error}; coordd must be "
                                   "started again, it reads then what the disk kept")
        _log.critical("%s", self._failure)
        for operation in (*batch.operations, *self._waiting):
            _fail(operation.future, self._failure)
        self._waiting.clear()
        self._idle.set()
        if self._on_fatal:
            self._on_fatal(error)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def answer(future: asyncio.Future[Any], result: object) -> None:
    """Give the caller its result, if it still waits."""
    if not future.done():
        future.set_result(result)
