"""From the feed to tasks, and from tasks to whoever runs them. One server of a site does it.

It must not be felt by those who send: it reads in small pieces, rests after each while messages
come in, and has its own connections to the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

from coordd.store import Change, StoreError
from coordd.work.ledger import Ledger
from coordd.work.model import (
    MARKS,
    Hook,
    NewTask,
    Occurrence,
    TaskId,
    mark_of,
    occurrences_of,
)
from coordd.work.store import WorkStore

LEASE_S: Final = 10.0
RENEW_S: Final = 3.0
POLL_S: Final = 1.0
"""How soon another server's commits are looked for; one's own wake the dispatcher."""
ROUND_S: Final = 0.25
"""From one round to the next, at least: sends that come meanwhile go into one."""
STEP_S: Final = 1.0
"""How long a round may go on with the feed, or with the ledger."""
PAGE: Final = 200
REST: Final = 4.0
"""How many times as long as a piece of work took it rests, while messages come in."""
FOLD_REST: Final = 2.5
"""As many times longer the ledger rests, for which nobody waits."""
BUSY_ROOM: Final = 25
"""Calls that this process makes in a round, while messages come in."""
HANDED_MAX: Final = 100
"""Tasks handed out at a time."""
BUSY: Final = 20
"""New positions since the round before from which on messages are said to come in."""
READY_MAX: Final = 1000
"""Tasks that wait to be handed out; with more of them the feed has to wait."""
HOOK_WAITING_MAX: Final = 10_000
TOO_MANY: Final = f"more than {HOOK_WAITING_MAX} events wait for this hook"
PAUSE_S: Final = 2.0
FOLD_EVERY_S: Final = 2.0
FOLD_OUTSIDE_EVERY_S: Final = 6.0
"""Longer than a worker is at it: two at once would do the same twice."""
SKIP_EVERY_S: Final = 10.0
"""How often the cursor is moved where there is no hook: it is one more sync of the disk."""

log = logging.getLogger("coordd.work")


class QueueError(Exception):
    """The queue can't be reached, or has not confirmed. The text says which and why."""


class Queue(Protocol):
    """Who runs tasks. Its calls raise QueueError."""

    outside: bool
    """Whether other processes run them; they do the ledger too."""
    lease_s: float
    """After how long a task that was handed out and is not done may be taken for lost."""
    room: int
    """How many tasks may be handed out and not done."""

    async def open(self) -> None:
        """Start what runs here; an outside queue need not be there yet."""

    async def close(self) -> None:
        """Let go, calls under way brought to their end."""

    async def put(self, tasks: Sequence[TaskId]) -> None:
        """Hand tasks out; safe in the queue on return."""

    async def put_fold(self) -> None:
        """Ask for the ledger to be kept up."""

    async def depth(self) -> int:
        """Tasks that nobody has taken yet."""


class Dispatcher:
    """The one of a server. `holder` names it among the others."""

    def __init__(self, store: WorkStore, queue: Queue, holder: str, *, provenance: bool) -> None:
        self._store = store
        self._queue = queue
        self._holder = holder
        self.provenance = provenance
        self._ledger = Ledger(store)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leads = False
        self._lead_until_s = 0.0
        self._last = 0
        self._folded_s = self._skipped_s = 0.0
        self.problem = ""
        """Why nothing is handed out, "" where it is."""

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Hand nothing out any more; the lease is kept for what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def release(self) -> None:
        """Leave the lease to another server."""
        if self._leads:
            try:
                await self._store.lead(self._holder, 0)
            except StoreError as error:
                log.info("the lease of dispatching runs out by itself: %s", error)

    def wake(self, _agent: str = "", _seq: int = 0) -> None:
        """Something was committed or is due: a listener of commits, so the hot path."""
        self._woken.set()

    async def _run(self) -> None:
        told = ""
        while True:
            pause_s = ROUND_S
            try:
                await self._round()
                problem = ""
            except (QueueError, StoreError, OSError) as error:
                problem, pause_s = str(error), PAUSE_S
            except Exception as error:
                log.exception("a defect: dispatching failed")
                problem, pause_s = f"a defect: {type(error).__name__}", PAUSE_S
            if problem != told:
                if problem:
                    log.warning("the work behind sends waits: %s", problem)
                else:
                    log.info("the work behind sends goes on")
            self.problem = told = problem
            await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def _round(self) -> None:
        if not await self._lead():
            return
        before, self._last = self._last, await self._store.last()
        rest = REST if self._last - before >= BUSY else 0.0
        if await self._store.ready() < READY_MAX:
            await self._advance(rest)
        await self._hand_out(busy=rest > 0)
        await self._fold(rest * FOLD_REST)

    async def _lead(self) -> bool:
        """Whether the lease is ours for some seconds more."""
        now_s = time.monotonic()
        if self._leads and now_s < self._lead_until_s - LEASE_S + RENEW_S:
            return True
        led = self._leads
        self._leads = False
        self._leads = await self._store.lead(self._holder, LEASE_S)
        self._lead_until_s = now_s + LEASE_S
        if self._leads and not led:
            log.info("this server dispatches the work behind sends")
            if not self._queue.outside:
                # Whoever ran them before has ended, or has lost its lease.
                await self._store.put_back_lost(all_=True)
        return self._leads

    async def _advance(self, rest: float) -> None:
        """Make tasks of what is new in the feed."""
        # The position first, then the hooks: one that is made meanwhile is for none of what was
        # there before, and what comes after is looked at with it. See `WorkStore.add_hook`.
        last = await self._store.last()
        hooks = await self._store.hooks()
        cursor = await self._store.cursor()
        until_s = time.monotonic() + STEP_S
        if not hooks:
            if cursor < last and until_s - self._skipped_s >= SKIP_EVERY_S:
                self._skipped_s = until_s
                self._leads = await self._store.advance(self._holder, cursor, last, ())
            return
        while cursor < last and time.monotonic() < until_s:
            started_s = time.monotonic()
            feed = await self._store.feed(cursor, PAGE)
            tasks = await self._tasks(hooks, [c for c in feed.changes if c.pos <= last])
            new = min(feed.cursor, last)
            if not await self._store.advance(self._holder, cursor, new, tasks):
                self._leads = False
                return
            cursor = new
            if tasks and await self._store.ready() >= READY_MAX:
                return
            await asyncio.sleep((time.monotonic() - started_s) * rest)

    async def _tasks(self, hooks: Sequence[Hook], changes: Sequence[Change]) -> list[NewTask]:
        found: list[Occurrence] = []
        types = {type_ for hook in hooks for type_ in hook.types}
        every = any(not hook.types for hook in hooks)
        marks = [change for change in changes if change.type in MARKS
                 and (every or MARKS[change.type] in types)]
        told = await self._store.told_of([change.id for change in marks]) if marks else {}
        for change in changes:
            if change.type == "sent":
                found += occurrences_of(change)
            elif change.type in MARKS and change.id in told:
                found.append(mark_of(change, *told[change.id]))
        tasks = []
        for occurrence in found:
            for hook in hooks:
                if hook.wants(occurrence):
                    full = hook.waiting >= HOOK_WAITING_MAX
                    tasks.append(NewTask(hook.id, occurrence, TOO_MANY if full else ""))
                    hook.waiting += not full
        return tasks

    async def _hand_out(self, *, busy: bool) -> None:
        """What is due goes to the queue, which is kept short: the store has the rest."""
        room = min(self._queue.room, BUSY_ROOM) if busy and not self._queue.outside \
            else self._queue.room
        totals = await self._store.totals()
        if totals.queued and (not self._queue.outside or await self._queue.depth() == 0):
            lost = await self._store.put_back_lost()
            if lost:
                log.warning("%d tasks were lost on the way or by a worker, and are handed out "
                            "again", lost)
        if not totals.waiting:
            return
        until_s = time.monotonic() + STEP_S
        while (left := room - totals.queued) > 0 and time.monotonic() < until_s:
            tasks = await self._store.hand_out(min(left, HANDED_MAX), self._queue.lease_s)
            if not tasks:
                return
            try:
                await self._queue.put(tasks)
            except QueueError:
                await self._store.put_back(tasks)
                raise
            if busy:
                return
            totals = await self._store.totals()

    async def _fold(self, rest: float) -> None:
        now_s = time.monotonic()
        every_s = FOLD_OUTSIDE_EVERY_S if self._queue.outside else FOLD_EVERY_S
        if not self.provenance or now_s - self._folded_s < every_s:
            return
        self._folded_s = now_s
        if not self._queue.outside:
            await self._ledger.extend(now_s + STEP_S, pause=rest)
        elif (await self._store.folded()).position < self._last:
            await self._queue.put_fold()
