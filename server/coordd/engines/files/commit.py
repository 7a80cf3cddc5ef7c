"""Group commit without a timer: what arrives while one commit is on its way goes with the next.

    submit ─▶ encode (event loop) ─▶ write + fdatasync (thread) ─▶ publish (event loop)

One batch is being written at a time; meanwhile the next is filled, and the writer's thread takes
it by itself when the disk is free. Seqs and positions are given when a batch is encoded, so the
order in which calls were submitted is the order of every inbox. Nothing is seen, and no caller is
answered, before its batch is durable. What looks at the index to be encoded waits until nothing is
on its way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from coordd.engines.files import frame
from coordd.engines.times import to_log_text, to_text
from coordd.store import StoreBusyError, StoreError, StoreFullError

if TYPE_CHECKING:
    from coordd.engines.files.eventslog import EventsLog
    from coordd.engines.files.index import Index, Mailbox
    from coordd.engines.files.log import Log, Written

_BATCH_MESSAGES: Final = 4096
_TAKEN_MESSAGES: Final = 16
"""From how many messages on the writer takes the next batch by itself. A smaller one goes when the
event loop comes to it, and has grown by then: syncs cost the processor too."""
Listener = Callable[[str, int], None]
_log = logging.getLogger("coordd.files")


class Run:
    """Deliveries that follow each other in a batch: columns for the index, one entry each."""

    __slots__ = ("boxes", "offsets", "ranks", "senders", "sends", "seqs", "sizes")

    def __init__(self) -> None:
        self.offsets = array("Q")
        """Where the record begins, counted from the batch's begin."""
        self.sizes = array("I")
        self.senders: list[Mailbox] = []
        self.boxes: list[Mailbox] = []
        self.seqs = array("Q")
        self.ranks = bytearray()
        self.sends: list[Operation] = []


class Batch:
    """Frames on their way to the disk, and what is already promised within them."""

    __slots__ = ("_earlier", "at", "claims", "frames", "id_prefix", "id_salt", "known", "lines",
                 "log_at", "messages", "position", "sealed", "size", "steps", "synced")

    def __init__(self, position: int, now_us: int, earlier: list[dict[str, Operation]], *,
                 sealed: bool) -> None:
        self.frames: list[bytes] = []
        self.size = 0
        self.messages = 0
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
        self._earlier = earlier
        self.known: set[str] = set()
        """`<row>/<code>` of the marks that this batch brings."""
        self.sealed = sealed
        self.steps: list[Run | Operation] = []

    def claimed(self, text: str) -> Operation | None:
        """The operation on its way that uses this claim."""
        for claims in (self.claims, *self._earlier):
            if text in claims:
                return claims[text]
        return None

    def run(self) -> Run:
        """The run of deliveries to go on with."""
        if self.steps and isinstance(self.steps[-1], Run):
            return self.steps[-1]
        run = Run()
        self.steps.append(run)
        return run

    def add(self, payload: bytes, events: int) -> int:
        """Add a frame; where its payload begins, counted from the batch's begin."""
        head = frame.head(payload, self.position, self.synced)
        offset = self.size + len(head)
        self.frames += (head, payload, b"\n")
        self.size = offset + len(payload) + 1
        self.position += events
        return offset

    def operations(self) -> list[Operation]:
        """All operations of the batch, in order."""
        found: list[Operation] = []
        for step in self.steps:
            if isinstance(step, Run):
                found += step.sends
            else:
                found.append(step)
        return found


class Operation(Protocol):
    """A call that changes the store. Its future is what the caller awaits."""

    future: asyncio.Future[Any]
    messages: int
    size: int
    early: bool
    """Whether it can be encoded while the batch before it is on its way."""

    def encode(self, batch: Batch) -> None:
        """Add frames and a step to the batch. Raises StoreError: nothing was added."""

    def publish(self, base: int) -> None:
        """Show what is durable now; the batch begins at place `base`. Answers the caller."""


class Committer:
    """The one writer of a store."""

    def __init__(self, index: Index, log: Log, events_log: EventsLog, listeners: list[Listener],
                 clock_us: Callable[[], int], pending_max: int, pending_bytes_max: int,
                 on_fatal: Callable[[BaseException], None] | None,
                 on_published: Callable[[], None]) -> None:
        self._index = index
        self._log = log
        self._events_log = events_log
        self._listeners = listeners
        self._clock_us = clock_us
        self._pending_max = pending_max
        self._pending_bytes_max = pending_bytes_max
        self._on_fatal = on_fatal
        self._on_published = on_published
        self._waiting: deque[Operation] = deque()
        # Guarded by `_turn`, since the writer's thread takes the open batch by itself.
        self._turn = threading.Lock()
        self._open: Batch | None = None
        """Filled while another batch is being written."""
        self._flying: Batch | None = None
        """Being written; the last one that was encoded but for the open one."""
        self._outstanding: deque[Batch] = deque()
        """Given to the writer, not shown yet."""
        self._scheduled = False
        self.waiting_messages = 0
        self._waiting_bytes = 0
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
        self.waiting_messages += operation.messages
        self._waiting_bytes += operation.size
        if not (operation.early and self._encode_early(operation)):
            self._waiting.append(operation)
            if not (self._outstanding or self._scheduled):
                self._scheduled = True
                self._idle.clear()
                self._loop.call_soon(self._guarded, self._flush)

    def _encode_early(self, operation: Operation) -> bool:
        """Encode while the disk is busy: this processor need not be idle."""
        if self._flying is None or self._waiting:
            return False
        with self._turn:
            flying = self._flying
            if flying is None:
                return False
            if self._open is None:
                self._open = Batch(flying.position, self._clock_us(),
                                   [batch.claims for batch in self._outstanding],
                                   sealed=flying.sealed)
            if self._open.messages >= _BATCH_MESSAGES:
                return False
            self._encode(operation, self._open)
            return True

    def _encode(self, operation: Operation, batch: Batch) -> None:
        try:
            operation.encode(batch)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            self._settle(operation)
            _fail(operation.future, error)
        else:
            batch.messages += operation.messages

    def _settle(self, operation: Operation) -> None:
        self.waiting_messages -= operation.messages
        self._waiting_bytes -= operation.size

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
            del job  # what it holds is not the next wait's to keep

    def _flush(self) -> None:
        """Encode what waits and give it to the writer; nothing is on its way."""
        self._scheduled = False
        batch, self._open = self._open, None
        begun = batch is not None
        while True:
            batch = batch or Batch(self._index.position + 1, self._clock_us(), [],
                                   sealed=self._index.sealed)
            while self._waiting and batch.messages < _BATCH_MESSAGES and (
                    self._waiting[0].early or not begun):
                self._encode(self._waiting.popleft(), batch)
            if batch.frames:
                break
            self._publish(batch, 0)
            if not self._waiting:
                self._idle.set()
                return
            batch, begun = None, False
        self._flying = batch
        self._outstanding.append(batch)
        self._jobs.put(partial(self._commit, batch))

    def _commit(self, batch: Batch) -> None:
        """In the writer's thread: make a batch durable, then take the one behind it."""
        data = b"".join(batch.frames)
        try:
            written = self._log.append(data, batch.synced)
        except StoreFullError as error:
            # The batch behind counts on this one's seqs: `_flying` stays, so nothing is taken.
            self._loop.call_soon_threadsafe(self._guarded, self._refuse, error)
            return
        except OSError as error:
            self._loop.call_soon_threadsafe(self._die, error)
            return
        with self._turn:
            behind = None
            if self._open is not None and self._open.messages >= _TAKEN_MESSAGES:
                behind, self._open = self._open, None
                self._outstanding.append(behind)
                self._jobs.put(partial(self._commit, behind))
            self._flying = behind
        self._loop.call_soon_threadsafe(self._guarded, self._land, written)
        self._events_log.write("".join(batch.lines).encode())

    def _land(self, written: Written) -> None:
        # Nothing else sees the index before it has these bytes: no callback runs in between.
        written.segment.shown_size, written.segment.shown_crc = written.size, written.crc
        self._publish(self._outstanding[0], written.place)
        self._outstanding.popleft()
        if not self._outstanding:
            self._flush()

    def _publish(self, batch: Batch, base: int) -> None:
        for step in batch.steps:
            if isinstance(step, Run):
                self._index.add_run(step, base)
                for listener in self._listeners:
                    for box, seq in zip(step.boxes, step.seqs, strict=True):
                        listener(box.name, seq)
                for send in step.sends:
                    send.publish(base)
            else:
                step.publish(base)
        for operation in batch.operations():
            self._settle(operation)
        self._on_published()

    def _refuse(self, error: StoreFullError) -> None:
        # What was encoded meanwhile counted on this batch's seqs; there is no room for it either.
        for batch in self._unshown():
            for operation in batch.operations():
                self._settle(operation)
                _fail(operation.future, error)
        self._outstanding.clear()
        self._flying = self._open = None
        for box in self._index.boxes:
            box.assigned = box.last_seq
        self._flush()

    def _unshown(self) -> list[Batch]:
        return [*self._outstanding, *([self._open] if self._open else [])]

    def _guarded(self, step: Callable[..., None], *args: object) -> None:
        """Take a step of the commit. A defect in it leaves index and log apart: that is as final
        as a disk that fails.
        """
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, the store must end
            _log.exception("a commit failed")
            self._die(error)

    def _die(self, error: Exception) -> None:
        """What is on the disk is unknown from here on: no caller may be told that it is there."""
        self._failure = StoreError(f"the log can't be written any more: {error}; coordd must be "
                                   "started again, it reads then what the disk kept")
        _log.critical("%s", self._failure)
        for batch in self._unshown():
            for operation in batch.operations():
                _fail(operation.future, self._failure)
        for operation in self._waiting:
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
