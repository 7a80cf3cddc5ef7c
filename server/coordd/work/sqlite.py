"""The work queue's tables beside the files engine: `work.db` in the data folder.

One process has it, so there is one dispatcher by nature.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from coordd.model import PRIORITIES, PRIORITY_RANK, Core, Priority
from coordd.store import Feed, StoreDamagedError, StoreError, StoreFullError
from coordd.work.model import (
    DeadTask,
    Folded,
    Hook,
    HourCount,
    Link,
    NewTask,
    Occurrence,
    Task,
    TaskId,
    Totals,
)
from coordd.work.sqlitefile import SqliteFile

log = logging.getLogger("coordd")

NAME: Final = "work.db"
_VERSION: Final = 1
_HOURS: Final = 24
_SCHEMA: Final = """
CREATE TABLE jobs (job TEXT PRIMARY KEY, position INTEGER NOT NULL, head BLOB) WITHOUT ROWID;
CREATE TABLE hooks (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, target TEXT NOT NULL, secret TEXT NOT NULL,
  created_at TEXT NOT NULL, since INTEGER NOT NULL, to_agent TEXT, types TEXT NOT NULL,
  min_rank INTEGER, failures INTEGER NOT NULL DEFAULT 0, rest_until REAL NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE tasks (
  hook TEXT NOT NULL REFERENCES hooks ON DELETE CASCADE, event TEXT NOT NULL,
  occurrence TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
  at REAL NOT NULL, error TEXT NOT NULL DEFAULT '', PRIMARY KEY (hook, event)) WITHOUT ROWID;
CREATE INDEX tasks_due ON tasks (state, hook, at);
CREATE TABLE chain (
  pos INTEGER PRIMARY KEY, message_id TEXT NOT NULL, digest BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE hours (hour TEXT PRIMARY KEY, messages INTEGER NOT NULL) WITHOUT ROWID;
"""
"""As schema/0002_work.sql; times are seconds since 1970."""

_HOOK: Final = ("hook.id, kind, target, secret, created_at, since, to_agent, types, min_rank, "
                "failures, rest_until > :now, done, failed")
_OPEN: Final = ("rest_until <= :now AND (failures = 0 OR NOT EXISTS "
                "(SELECT 1 FROM tasks WHERE hook = id AND state = 1))")
_decode: Final = msgspec.json.Decoder(Occurrence).decode
_encode: Final = msgspec.json.Encoder().encode

class Messages(Protocol):
    """What is needed of the files engine."""

    @property
    def position(self) -> int:
        """The newest there is."""

    def feed(self, after: int, limit: int) -> Awaitable[Feed]:
        """See `Store.feed`."""

    def core(self, message_id: str) -> Core | None:
        """A message, gone or not."""


class FilesWork:
    """See `coordd.work.store.WorkStore`. `messages` is opened before and closed after it."""

    def __init__(self, folder: Path, messages: Messages) -> None:
        self._file = folder / NAME
        self._messages = messages
        self._busy: dict[TaskId, float] = {}
        """Tasks that are begun, until when they are left to who did."""
        self._rows = SqliteFile(self._file, self._prepare)

    async def open(self) -> None:
        """As `WorkStore.open`; without room on the disk the work waits, and messages do not."""
        try:
            await self._rows.open()
        except StoreFullError as error:
            log.warning("the work behind sends waits for room on the disk: %s", error)

    async def close(self) -> None:
        await self._rows.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        [(version,)] = db.execute("PRAGMA user_version")
        last = self._messages.position
        if version == 0:
            db.executescript(
                f"BEGIN; {_SCHEMA} INSERT INTO jobs VALUES ('dispatch', {last:d}, NULL), "
                f"('fold', 0, zeroblob(32)); PRAGMA user_version = {_VERSION}; COMMIT")
        elif version != _VERSION:
            raise StoreError(f"{self._file} is of version {version}, this server knows "
                             f"{_VERSION}: install a newer coordd")
        [(furthest,)] = db.execute("SELECT max(position) FROM jobs")
        if furthest > last:
            raise StoreDamagedError(
                f"{self._file} knows of change {furthest}, and the log ends at {last}: messages "
                "were lost, or the log is an older copy; restore both, or move "
                f"{self._file.name}, with its hooks, out of the folder")

    # The feed.

    async def feed(self, after: int, limit: int) -> Feed:
        return await self._messages.feed(after, limit)

    async def last(self) -> int:
        return self._messages.position

    async def told_of(self, ids: Sequence[str]) -> dict[str, tuple[str, str, Priority]]:
        found = {id_: self._messages.core(id_) for id_ in ids}
        return {id_: (core.from_agent, core.subject, core.priority)
                for id_, core in found.items() if core is not None}

    # Hooks.

    async def hooks(self) -> list[Hook]:
        return [_hook(row) for row in await self._rows.fetch(
            f"SELECT {_HOOK}, (SELECT count(*) FROM tasks WHERE hook = hook.id AND state < 2) "
            "FROM hooks AS hook ORDER BY created_at, id")]

    async def add_hook(self, hook: Hook) -> Hook:
        hook = msgspec.structs.replace(hook, since=self._messages.position)
        rank = None if hook.min_priority is None else PRIORITY_RANK[hook.min_priority]
        await self._rows.fetch(
            "INSERT INTO hooks (id, kind, target, secret, created_at, since, to_agent, types, "
            "min_rank) VALUES (:id, :kind, :target, :secret, :created_at, :since, :to_agent, "
            ":types, :rank) ON CONFLICT DO NOTHING",
            id=hook.id, kind=hook.kind, target=hook.target, secret=hook.secret,
            created_at=hook.created_at, since=hook.since, to_agent=hook.to_agent,
            types=",".join(hook.types), rank=rank)
        return hook

    async def remove_hook(self, hook: str) -> bool:
        return bool(await self._rows.fetch(
            "DELETE FROM hooks WHERE id = :hook RETURNING 1", hook=hook))

    # The dispatcher.

    async def lead(self, holder: str, seconds: float) -> bool:  # noqa: ARG002 - there is one
        return True

    async def cursor(self) -> int:
        [(position,)] = await self._rows.fetch("SELECT position FROM jobs WHERE job = 'dispatch'")
        return int(position)

    async def advance(self, holder: str, old: int, new: int,  # noqa: ARG002 - there is one
                      tasks: Sequence[NewTask]) -> bool:
        now = time.time()
        rows = [(task.occurrence.id, _encode(task.occurrence).decode(), 2 if task.dead else 0,
                 now + nth / 1e6, task.dead, task.hook) for nth, task in enumerate(tasks)]

        def work(db: sqlite3.Connection) -> bool:
            if not db.execute("UPDATE jobs SET position = ? WHERE job = 'dispatch' AND "
                              "position = ? RETURNING 1", (new, old)).fetchall():
                return False
            db.executemany("INSERT INTO tasks (hook, event, occurrence, state, at, error) "
                           "SELECT id, ?, ?, ?, ?, ? FROM hooks WHERE id = ? "
                           "ON CONFLICT DO NOTHING", rows)
            return True

        return await self._rows.whole(work)

    async def ready(self) -> int:
        rows = await self._rows.fetch(
            "SELECT CASE WHEN failures > 0 THEN 1 ELSE (SELECT count(*) FROM tasks WHERE "
            f"state = 0 AND hook = id AND at <= :now) END FROM hooks WHERE {_OPEN}")
        return sum(count for (count,) in rows)

    async def hand_out(self, limit: int, lease_s: float) -> list[TaskId]:
        now = time.time()

        def work(db: sqlite3.Connection) -> list[TaskId]:
            due: list[tuple[float, TaskId]] = []
            for hook, failures in db.execute(f"SELECT id, failures FROM hooks WHERE {_OPEN}",
                                             {"now": now}).fetchall():
                due += [(at, TaskId(hook, event)) for event, at in db.execute(
                    "SELECT event, at FROM tasks WHERE state = 0 AND hook = ? AND at <= ? "
                    "ORDER BY at LIMIT ?", (hook, now, 1 if failures else limit))]
            tasks = [task for _, task in sorted(due)[:limit]]
            db.executemany("UPDATE tasks SET state = 1, at = ? WHERE hook = ? AND event = ?",
                           [(now + lease_s, *task) for task in tasks])
            return tasks

        return await self._rows.whole(work)

    async def put_back(self, tasks: Sequence[TaskId], delay_s: float = 0.0) -> None:
        at = time.time() + delay_s
        self._let_go(tasks)
        await self._rows.whole(lambda db: db.executemany(
            "UPDATE tasks SET state = 0, at = ? WHERE hook = ? AND event = ? AND state = 1",
            [(at, *task) for task in tasks]))

    def _let_go(self, tasks: Sequence[TaskId]) -> None:
        for task in tasks:
            self._busy.pop(task, None)

    async def put_back_lost(self, *, all_: bool = False) -> int:
        if all_:
            self._busy.clear()
        return len(await self._rows.fetch(
            "UPDATE tasks SET state = 0, tries = tries + :counted, at = :now, error = CASE error "
            "WHEN '' THEN 'no worker has finished it' ELSE error END "
            "WHERE state = 1 AND (:all OR at <= :now) RETURNING 1",
            all=all_, counted=0 if all_ else 1))

    # Tasks.

    async def begin(self, task: TaskId, busy_s: float) -> Task | None:
        # No other process can have begun it, so nothing of that need be synced.
        now = time.time()
        mine = now >= self._busy.get(task, 0)
        if mine:
            self._busy[task] = now + busy_s
        rows = await self._rows.fetch(
            f"SELECT occurrence, tries, {_HOOK}, 0 FROM tasks JOIN hooks AS hook "
            "ON hook.id = tasks.hook WHERE tasks.hook = :hook AND event = :event AND state < 2",
            **task._asdict())
        if not rows:
            self._busy.pop(task, None)
            return None
        occurrence, tries, *hook = rows[0]
        return Task(_hook(tuple(hook)), _decode(occurrence), tries, not mine)

    async def done(self, tasks: Sequence[TaskId]) -> None:
        def work(db: sqlite3.Connection) -> None:
            for task in tasks:
                if db.execute("DELETE FROM tasks WHERE hook = ? AND event = ? RETURNING 1",
                              task).fetchall():
                    db.execute("UPDATE hooks SET done = done + 1, failures = 0, rest_until = 0 "
                               "WHERE id = ?", (task.hook,))

        await self._rows.whole(work)
        self._let_go(tasks)

    async def failed(self, task: TaskId, error: str, *, seen: int, wait_s: float | None,
                     rest_s: float) -> None:
        now = time.time()

        def work(db: sqlite3.Connection) -> None:
            if not db.execute(
                    "UPDATE tasks SET state = ?, tries = tries + 1, at = ?, error = ? "
                    "WHERE hook = ? AND event = ? AND state < 2 RETURNING 1",
                    (2 if wait_s is None else 0, now + (wait_s or 0), error, *task)).fetchall():
                return
            db.execute("UPDATE hooks SET failed = failed + 1 WHERE id = ?", (task.hook,))
            db.execute("UPDATE hooks SET failures = failures + 1, rest_until = ? "
                       "WHERE id = ? AND failures = ?", (now + rest_s, task.hook, seen))

        await self._rows.whole(work)
        self._let_go([task])

    async def dead(self, limit: int, hook: str | None = None) -> list[DeadTask]:
        rows = await self._rows.fetch(
            "SELECT hook, event, occurrence, tries, error, at FROM tasks WHERE state = 2 "
            "AND (:hook IS NULL OR hook = :hook) ORDER BY at LIMIT :limit", hook=hook, limit=limit)
        return [_dead((*row[:5], _text(row[5]))) for row in rows]

    async def retry(self, hook: str | None = None, event: str | None = None) -> int:
        def work(db: sqlite3.Connection) -> int:
            anew = db.execute(
                "UPDATE tasks SET state = 0, tries = 0, at = :now WHERE state = 2 AND "
                "(:hook IS NULL OR hook = :hook) AND (:event IS NULL OR event = :event) "
                "RETURNING hook", {"now": time.time(), "hook": hook, "event": event}).fetchall()
            db.executemany("UPDATE hooks SET rest_until = 0 WHERE id = ?", set(anew))
            return len(anew)

        return await self._rows.whole(work)

    # The ledger.

    async def folded(self) -> Folded:
        return Folded(*(await self._rows.fetch(
            "SELECT position, head FROM jobs WHERE job = 'fold'"))[0])

    async def fold(self, old: int, new: Folded, links: Sequence[Link],
                   hours: Sequence[HourCount]) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if not db.execute("UPDATE jobs SET position = ?, head = ? WHERE job = 'fold' AND "
                              "position = ? RETURNING 1", (*new, old)).fetchall():
                return False
            db.executemany("INSERT INTO chain VALUES (?, ?, ?, ?)", links)
            db.executemany("INSERT INTO hours VALUES (?, ?) ON CONFLICT (hour) DO UPDATE SET "
                           "messages = messages + excluded.messages",
                           [(each.hour, each.messages) for each in hours])
            return True

        return await self._rows.whole(work)

    async def links(self, after: int, limit: int) -> list[Link]:
        return [Link(*row) for row in await self._rows.fetch(
            "SELECT pos, message_id, digest, hash FROM chain WHERE pos > :after "
            "ORDER BY pos LIMIT :limit", after=after, limit=limit)]

    async def totals(self) -> Totals:
        [row] = await self._rows.fetch(
            "SELECT (SELECT count(*) FROM hooks), dispatch.position, fold.position, fold.head, "
            "(SELECT count(*) FROM tasks WHERE state = 0), "
            "(SELECT count(*) FROM tasks WHERE state = 1), "
            "(SELECT count(*) FROM tasks WHERE state = 2), "
            "(SELECT coalesce(sum(done), 0) FROM hooks), "
            "(SELECT coalesce(sum(failed), 0) FROM hooks) "
            "FROM jobs AS dispatch, jobs AS fold "
            "WHERE dispatch.job = 'dispatch' AND fold.job = 'fold'")
        hours = await self._rows.fetch("SELECT * FROM hours ORDER BY hour DESC LIMIT :limit",
                                  limit=_HOURS)
        known, cursor, folded, head, waiting, queued, dead, done, failed = row
        return Totals(known, cursor, folded, head.hex(), self._messages.position, waiting, queued,
                      dead, done, failed, "this server",
                      [HourCount(*each) for each in reversed(hours)])


def _dead(row: tuple[Any, ...]) -> DeadTask:
    hook, event, occurrence, tries, error, at = row
    found = _decode(occurrence)
    return DeadTask(hook, event, found.type, found.message_id, found.to_agent, tries, error, at)


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _hook(row: tuple[Any, ...]) -> Hook:
    (id_, kind, target, secret, created_at, since, to_agent, types, rank, failures, rests, done,
     failed, waiting) = row
    return Hook(id_, kind, target, secret, created_at, since, to_agent,
                types.split(",") if types else [],
                None if rank is None else PRIORITIES[rank],
                failures, bool(rests), waiting, done, failed)
