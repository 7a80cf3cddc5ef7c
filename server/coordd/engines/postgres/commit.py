"""Group commit: what arrives while one flush is on its way goes with the next.

Sends have a lane and marks have one. In a lane one flush is on its way at a time, so the order of
the calls is the order of every inbox; between lanes and servers the database's lock decides.

A flush whose answer was lost is sent again with the same ids, until it is known to be stored or the
time is up. So a database that is restarted or fails over costs its callers a wait; only when the
time is up they are told that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, LiteralString, Protocol, TypeVar

from psycopg import errors

from coordd.engines.postgres import sending
from coordd.engines.postgres.arrays import shorts, texts
from coordd.engines.postgres.database import Database, Row, run, unbroken
from coordd.engines.postgres.errors import is_lost, translated
from coordd.engines.postgres.rendering import rendered
from coordd.engines.postgres.sending import CLAIMS, SEND, Flush, Send
from coordd.model import Mark
from coordd.store import (
    KeyConflictError,
    MessageJson,
    Receipt,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
    StoreUnknownError,
)

COMMIT_LIMIT_S: Final = 15.0
"""How long a flush is tried: longer than a failover takes. Callers wait no longer than that."""
ANSWER_LIMIT_S: Final = 8.0
"""How long one try may take. The database gives up waiting for its lock before: after two waits,
one for the place behind the lock's holder, one for the holder (lock_timeout is of each)."""
_BARRIER_LIMIT_S: Final = 5.0
_PAUSE_S: Final = 0.1
_GATHER_PART: Final = 3
"""A flush waits at most that part of what the one before it took for as many callers."""
_BATCH_MESSAGES: Final = 4096
_MARKS: Final = 256

EVENT_TYPES: Final = {"EXPIRED": 1, "DELETED": 2, "ACKED": 3, "READ": 4, "SENT": 5}
MARK_TYPES: Final[dict[Mark, int]] = {"read": 4, "acked": 3, "deleted": 2}
GONE_JSON: Final = MessageJson(b"{}")
_MARK: Final[LiteralString] = (
    "SELECT * FROM coordd.mark_1(%(shift)s, %(ids)s, %(agents)s, %(types)s)")
_BARRIER: Final[LiteralString] = """
INSERT INTO coordd.proof (at) VALUES (now())
ON CONFLICT (singleton) DO UPDATE SET at = excluded.at"""

_log = logging.getLogger("coordd.postgres")


class Operation(Protocol):
    """A call that waits for its commit."""

    future: asyncio.Future[Any]
    messages: int
    size: int


O = TypeVar("O", bound=Operation)  # noqa: E741


class SetMark:
    """One caller's mark."""

    __slots__ = ("agent", "future", "mark", "message_id", "messages", "size")

    def __init__(self, message_id: str, agent: str, mark: Mark,
                 future: asyncio.Future[MessageJson | None]) -> None:
        self.message_id = message_id
        self.agent = agent
        self.mark: Mark = mark
        self.future = future
        self.messages = 1
        self.size = 200


class _Lane(Generic[O]):
    """What waits, and the task that flushes it."""

    def __init__(self, flush: Callable[[list[O]], Any], most: int,
                 settle: Callable[[Operation], None]) -> None:
        self.waiting: deque[O] = deque()
        self._flush = flush
        self._most = most
        self._settle = settle
        self.task: asyncio.Task[None] | None = None
        self._expected = 0
        self._gathered = asyncio.Event()

    def add(self, operation: O) -> None:
        self.waiting.append(operation)
        if len(self.waiting) >= self._expected:
            self._gathered.set()
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._run())

    def _take(self) -> list[O]:
        taken, messages = [], 0
        while self.waiting and messages < self._most:
            taken.append(self.waiting.popleft())
            messages += taken[-1].messages
        return taken

    async def _run(self) -> None:
        try:
            while self.waiting:
                taken = self._take()
                began_s = asyncio.get_running_loop().time()
                try:
                    await self._flush(taken)
                except Exception as error:  # noqa: BLE001 - the callers get it
                    if not isinstance(error, StoreError):
                        _log.exception("a flush failed")
                        error = StoreError(f"a flush failed: {error}")
                    if isinstance(error, (StoreBusyError, StoreUnavailableError,
                                          StoreUnknownError)):
                        self._refuse_waiting(error)
                    for operation in taken:
                        fail(operation.future, error)
                finally:
                    for operation in taken:
                        self._settle(operation)
                await self._gather(len(taken), began_s)
        finally:
            self.task = None

    async def _gather(self, answered: int, began_s: float) -> None:
        """Give those who have just been answered, if they are several, a moment to send again: the
        first of them alone would cost a flush, and all others would wait for its end.
        """
        if answered <= 1 or len(self.waiting) >= answered:
            return
        loop = asyncio.get_running_loop()
        self._expected = answered
        self._gathered.clear()
        timer = loop.call_later((loop.time() - began_s) / _GATHER_PART, self._gathered.set)
        await self._gathered.wait()
        timer.cancel()
        self._expected = 0

    def _refuse_waiting(self, error: StoreError) -> None:
        """They have waited while nothing answered: they are told, and may try another server."""
        busy = isinstance(error, StoreBusyError)
        while self.waiting:
            operation = self.waiting.popleft()
            fail(operation.future, error if busy else
                 StoreUnavailableError("the database does not answer"))
            self._settle(operation)


class Committer:
    """The sends and marks of one server. `notice_of`: this server's name in the notifications that
    its flushes send; None sends none.
    """

    def __init__(self, database: Database, listeners: list[Callable[[str, int], None]],
                 shift_us: Callable[[], int], pending_max: int, pending_bytes_max: int,
                 notice_of: str | None) -> None:
        self._database = database
        self._listeners = listeners
        self._shift_us = shift_us
        self._pending_max = pending_max
        self._pending_bytes_max = pending_bytes_max
        self._notice_of = notice_of
        self.waiting_messages = 0
        self._waiting_bytes = 0
        self._sends = _Lane(self._flush_sends, _BATCH_MESSAGES, self._settle)
        self._marks = _Lane(self._flush_marks, _MARKS, self._settle)

    def send(self, operation: Send) -> None:
        """Queue a send. Raises StoreBusyError past the bounds."""
        self._enter(operation)
        self._sends.add(operation)

    def mark(self, operation: SetMark) -> None:
        """As `send`."""
        self._enter(operation)
        self._marks.add(operation)

    def _enter(self, operation: Operation) -> None:
        if (self.waiting_messages + operation.messages > self._pending_max
                or self._waiting_bytes + operation.size > self._pending_bytes_max):
            raise StoreBusyError(f"{self.waiting_messages} messages wait to be stored")
        self.waiting_messages += operation.messages
        self._waiting_bytes += operation.size

    def _settle(self, operation: Operation) -> None:
        self.waiting_messages -= operation.messages
        self._waiting_bytes -= operation.size

    async def drain(self) -> None:
        """Wait until nothing is waiting or on its way."""
        while tasks := [task for task in (self._sends.task, self._marks.task) if task]:
            await asyncio.gather(*tasks)

    # Sends.

    async def _flush_sends(self, taken: list[Send]) -> None:
        sends = _without_twins(taken)
        while sends:
            flush = Flush(sends, self._shift_us(), self._notice_of)
            rows = await self._commit(SEND, flush.parameters, flush.ids)
            if rows is None:
                return self._deliver(flush, await self._stored(flush))
            at, _, last_seqs, known = rows[0]
            if known is None:
                return self._deliver(flush, flush.receipts(at, last_seqs))
            repeated = flush.claimed(known)
            await self._answer_repeats(repeated)
            sends = [send for send in sends if send not in repeated]
        return None

    async def _commit(self, query: LiteralString, parameters: dict[str, Any],
                      ids: Sequence[str] = (), limit_s: float = COMMIT_LIMIT_S
                      ) -> list[Row] | None:
        """Run a write until its outcome is known; None: the messages `ids` were stored by a try
        whose answer was lost. Raises StoreError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        in_doubt = False
        while True:
            left_s = deadline - loop.time()
            sent = False
            try:
                async with self._database.writer() as connection:
                    sent = True
                    rows = await unbroken(connection, run(connection, query, parameters),
                                          min(left_s, ANSWER_LIMIT_S))
                return await self._settled(rows, ids) if in_doubt else rows
            except errors.UniqueViolation as error:
                if in_doubt and error.diag.constraint_name == "messages_id":
                    return await self._settled([], ids)
                raise translated(error) from error
            except Exception as error:
                if not is_lost(error):
                    # After a lost answer a refusal says nothing of the try before it.
                    raise (StoreUnknownError(str(error)) if in_doubt and ids
                           else translated(error)) from error
                in_doubt = in_doubt or sent
                if loop.time() + _PAUSE_S >= deadline:
                    raise (StoreUnknownError("the connection to the database was lost") if in_doubt
                           else translated(error)) from error
                _log.warning("a write to the database is tried again: %s",
                             " ".join(str(error).split()))
                await asyncio.sleep(_PAUSE_S)

    async def _settled(self, rows: list[Row], ids: Sequence[str]) -> list[Row] | None:
        """What `_commit` answers where a try before the one that answered `rows` was lost. Keys
        may be known because that one stored them, and all that was with them. What was found done
        is as durable as any once a commit behind it is: of a commit that a second machine did not
        confirm nothing tells.
        """
        with _unknown():
            await self._commit(_BARRIER, {}, limit_s=_BARRIER_LIMIT_S)
            if ids and await self._database.fetch(sending.RECEIPTS_OF_IDS,
                                                  {"ids": texts(ids[:1])}):
                return None
            return rows

    async def _stored(self, flush: Flush) -> list[list[Receipt]]:
        """The receipts of a flush that was found stored."""
        with _unknown():
            rows = await self._database.fetch(sending.RECEIPTS_OF_IDS,
                                              {"ids": texts(flush.ids)})
        receipts = sending.receipts_of(rows)
        found, first = [], 0
        for send in flush.sends:
            found.append(receipts[first : first + send.messages])
            first += send.messages
        return found

    def _deliver(self, flush: Flush, receipts: list[list[Receipt]]) -> None:
        for listener in self._listeners:
            for mine in receipts:
                for receipt in mine:
                    for to, seq in receipt.deliveries:
                        listener(to, seq)
        for send, mine in zip(flush.sends, receipts, strict=True):
            _answer_all(send, send.claim.digest if send.claim else None, mine)

    async def _answer_repeats(self, sends: Sequence[Send]) -> None:
        """Answer sends whose claims the database knows; as durably as they are stored."""
        claims = [send.claim for send in sends if send.claim is not None]
        with _unknown():
            await self._commit(_BARRIER, {}, limit_s=_BARRIER_LIMIT_S)
            rows = await self._database.fetch(CLAIMS, {
                "senders": texts([c.sender for c in claims]),
                "keys": texts([c.key for c in claims])})
            known = {(sender, key): rest for sender, key, *rest in rows}
            for send, claim in zip(sends, claims, strict=True):
                digest, count, pos = known[claim.sender, claim.key]
                receipts = sending.receipts_of(await self._database.fetch(
                    sending.RECEIPTS_OF_CLAIM, {"pos": pos, "count": count}))
                _answer_all(send, digest, receipts)

    # Marks.

    async def _flush_marks(self, taken: list[SetMark]) -> None:
        rows = await self._commit(_MARK, {
            "shift": self._shift_us(), "ids": texts([m.message_id for m in taken]),
            "agents": texts([m.agent for m in taken]),
            "types": shorts([MARK_TYPES[m.mark] for m in taken])})
        assert rows is not None
        for number, gone, message_id, *rest in rows:
            future = taken[number - 1].future
            if gone:
                answer(future, GONE_JSON)
            else:
                answer(future, None if message_id is None else rendered((message_id, *rest)))


@contextmanager
def _unknown() -> Iterator[None]:
    """Behind a commit: whatever fails there does not say that nothing was stored."""
    try:
        yield
    except StoreError as error:
        raise StoreUnknownError(str(error)) from error


def _without_twins(sends: Sequence[Send]) -> list[Send]:
    """The sends, those that repeat another's claim put into its twins."""
    first: dict[tuple[str, str], Send] = {}
    found = []
    for send in sends:
        if send.claim is not None:
            twin = first.setdefault((send.claim.sender, send.claim.key), send)
            if twin is not send:
                twin.twins.append(send)
                continue
        found.append(send)
    return found


def _answer_all(send: Send, digest: str | None, receipts: list[Receipt]) -> None:
    """Answer a send and its twins: the request of that digest was stored with those receipts."""
    for each in (send, *send.twins):
        if each.claim is not None and each.claim.digest != digest:
            fail(each.future, KeyConflictError(
                "the idempotency key was used before, for another request"))
        else:
            answer(each.future, receipts)


def answer(future: asyncio.Future[Any], result: Any) -> None:
    """Give the caller its answer, unless it has left."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """As `answer`."""
    if not future.done():
        future.set_exception(error)
