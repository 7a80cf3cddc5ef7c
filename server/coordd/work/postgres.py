"""The work queue's tables in Postgres: schema/0002_work.sql.

Every call is one statement. Connections are its own two, so that no request waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import msgspec

from coordd.engines.postgres.database import Readers, Row, run, unbroken
from coordd.engines.postgres.errors import is_lost, translated
from coordd.engines.postgres.feeding import Feeding
from coordd.model import PRIORITIES, PRIORITY_RANK, Priority
from coordd.store import Feed, StoreUnknownError
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

CONNECTIONS: Final = 2
_WRITE_LIMIT_S: Final = 15.0
_READY_MAX: Final = 10_000
_HOURS: Final = 24

_LAST: Final[LiteralString] = "SELECT position FROM coordd.store"
_TOLD: Final[LiteralString] = """
SELECT id, from_agent, subject, priority FROM coordd.messages WHERE id = ANY(%(ids)s)"""

_HOOK: Final[LiteralString] = """
hook.id, hook.kind, hook.target, hook.secret, hook.created_at, hook.since, hook.to_agent,
hook.types, hook.min_rank, hook.failures, coalesce(hook.rest_until > clock_timestamp(), false),
hook.done, hook.failed"""
_HOOKS: Final[LiteralString] = f"""
SELECT {_HOOK}, (SELECT count(*) FROM coordd.work_tasks WHERE hook = hook.id AND state = 0)
              + (SELECT count(*) FROM coordd.work_tasks WHERE hook = hook.id AND state = 1)
  FROM coordd.work_hooks AS hook ORDER BY hook.created_at, hook.id"""
# FOR SHARE: no event comes between the position that is noted and the hook that is seen.
_ADD: Final[LiteralString] = """
WITH store AS (SELECT position FROM coordd.store FOR SHARE)
INSERT INTO coordd.work_hooks (id, kind, target, secret, created_at, since, to_agent, types,
                               min_rank)
SELECT %(id)s, %(kind)s, %(target)s, %(secret)s, %(created_at)s, position, %(to_agent)s,
       %(types)s, %(min_rank)s FROM store
ON CONFLICT (id) DO UPDATE SET id = excluded.id
RETURNING since"""
_REMOVE: Final[LiteralString] = "DELETE FROM coordd.work_hooks WHERE id = %(hook)s RETURNING 1"

_LEAD: Final[LiteralString] = """
UPDATE coordd.work_jobs
   SET holder = %(holder)s, until = clock_timestamp() + make_interval(secs => %(seconds)s)
 WHERE job = 'dispatch'
   AND (holder = %(holder)s OR holder IS NULL OR until <= clock_timestamp())
RETURNING 1"""
_JOB: Final[LiteralString] = "SELECT position, head FROM coordd.work_jobs WHERE job = %(job)s"
_ADVANCE: Final[LiteralString] = """
WITH moved AS (
  UPDATE coordd.work_jobs SET position = %(new)s
   WHERE job = 'dispatch' AND holder = %(holder)s AND until > clock_timestamp()
     AND position = %(old)s
  RETURNING 1
), stored AS (
  INSERT INTO coordd.work_tasks (hook, event, occurrence, state, at, error)
  SELECT hook.id, given.event, given.occurrence, CASE given.dead WHEN '' THEN 0 ELSE 2 END,
         statement_timestamp() + given.nth * interval '1 microsecond', given.dead
    FROM moved, unnest(%(hooks)s::text[], %(events)s::text[], %(occurrences)s::text[],
                       %(deads)s::text[])
                WITH ORDINALITY AS given (hook, event, occurrence, dead, nth)
    JOIN coordd.work_hooks AS hook ON hook.id = given.hook
  ON CONFLICT DO NOTHING)
SELECT count(*) FROM moved"""
_OPEN: Final[LiteralString] = """
(rest_until IS NULL OR rest_until <= clock_timestamp())
 AND (failures = 0 OR NOT EXISTS (SELECT FROM coordd.work_tasks WHERE hook = id AND state = 1))"""
_READY: Final[LiteralString] = f"""
SELECT count(*) FROM (
  SELECT 1 FROM coordd.work_hooks CROSS JOIN LATERAL (
    SELECT 1 FROM coordd.work_tasks WHERE hook = id AND state = 0 AND at <= clock_timestamp()
     LIMIT CASE WHEN failures > 0 THEN 1 ELSE %(limit)s END) AS task
   WHERE {_OPEN} LIMIT %(limit)s) AS found"""
_HAND_OUT: Final[LiteralString] = f"""
WITH picked AS (
  SELECT task.* FROM coordd.work_hooks CROSS JOIN LATERAL (
    SELECT hook, event, at FROM coordd.work_tasks
     WHERE hook = id AND state = 0 AND at <= clock_timestamp()
     ORDER BY at LIMIT CASE WHEN failures > 0 THEN 1 ELSE %(limit)s END) AS task
   WHERE {_OPEN} ORDER BY task.at LIMIT %(limit)s)
UPDATE coordd.work_tasks AS task
   SET state = 1, at = clock_timestamp() + make_interval(secs => %(lease)s)
  FROM picked WHERE task.hook = picked.hook AND task.event = picked.event AND task.state = 0
RETURNING task.hook, task.event"""
_GIVEN: Final[LiteralString] = """
FROM unnest(%(hooks)s::text[], %(events)s::text[]) AS given (hook, event)"""
_PUT_BACK: Final[LiteralString] = f"""
UPDATE coordd.work_tasks AS task
   SET state = 0, busy = NULL, at = clock_timestamp() + make_interval(secs => %(delay)s) {_GIVEN}
 WHERE task.hook = given.hook AND task.event = given.event AND task.state = 1"""
_PUT_BACK_LOST: Final[LiteralString] = """
UPDATE coordd.work_tasks SET
       state = 0, busy = NULL, tries = tries + %(counted)s, at = clock_timestamp(),
       error = CASE WHEN error = '' THEN 'no worker has finished it' ELSE error END
 WHERE state = 1 AND (%(all)s OR at <= clock_timestamp()) RETURNING 1"""

_BEGIN: Final[LiteralString] = f"""
WITH mine AS (
  UPDATE coordd.work_tasks SET busy = clock_timestamp() + make_interval(secs => %(busy)s)
   WHERE hook = %(hook)s AND event = %(event)s AND state < 2
     AND (busy IS NULL OR busy <= clock_timestamp()) RETURNING 1)
SELECT task.occurrence, task.tries, NOT EXISTS (SELECT FROM mine), {_HOOK}, 0
  FROM coordd.work_tasks AS task JOIN coordd.work_hooks AS hook ON hook.id = task.hook
 WHERE task.hook = %(hook)s AND task.event = %(event)s AND task.state < 2"""
_DONE: Final[LiteralString] = f"""
WITH gone AS (
  DELETE FROM coordd.work_tasks AS task USING (SELECT * {_GIVEN}) AS given
   WHERE task.hook = given.hook AND task.event = given.event RETURNING task.hook)
UPDATE coordd.work_hooks AS hook SET done = done + counted.tasks, failures = 0, rest_until = NULL
  FROM (SELECT hook, count(*) AS tasks FROM gone GROUP BY hook) AS counted
 WHERE hook.id = counted.hook"""
_FAILED: Final[LiteralString] = """
WITH tried AS (
  UPDATE coordd.work_tasks SET
    state = CASE WHEN %(wait)s::float8 IS NULL THEN 2 ELSE 0 END, tries = tries + 1,
    busy = NULL, at = clock_timestamp() + make_interval(secs => coalesce(%(wait)s::float8, 0)),
    error = %(error)s
   WHERE hook = %(hook)s AND event = %(event)s AND state < 2 RETURNING 1)
UPDATE coordd.work_hooks SET failed = failed + 1,
  rest_until = CASE WHEN failures = %(seen)s
    THEN clock_timestamp() + make_interval(secs => %(rest)s) ELSE rest_until END,
  failures = CASE WHEN failures = %(seen)s THEN failures + 1 ELSE failures END
 WHERE id = %(hook)s AND EXISTS (SELECT FROM tried)"""
_DEAD: Final[LiteralString] = """
SELECT hook, event, occurrence, tries, error, coordd.time_text(at) FROM coordd.work_tasks
 WHERE state = 2 AND (%(hook)s::text IS NULL OR hook = %(hook)s) ORDER BY at LIMIT %(limit)s"""
_RETRY: Final[LiteralString] = """
WITH anew AS (
  UPDATE coordd.work_tasks SET state = 0, tries = 0, busy = NULL, at = clock_timestamp()
   WHERE state = 2 AND (%(hook)s::text IS NULL OR hook = %(hook)s)
     AND (%(event)s::text IS NULL OR event = %(event)s) RETURNING hook
), rested AS (
  UPDATE coordd.work_hooks SET rest_until = NULL WHERE id IN (SELECT hook FROM anew))
SELECT count(*) FROM anew"""

_FOLD: Final[LiteralString] = """
WITH moved AS (
  UPDATE coordd.work_jobs SET position = %(new)s, head = %(head)s
   WHERE job = 'fold' AND position = %(old)s RETURNING 1
), linked AS (
  INSERT INTO coordd.work_chain (pos, message_id, digest, hash)
  SELECT given.* FROM moved, unnest(%(at)s::bigint[], %(ids)s::text[], %(digests)s::bytea[],
                                    %(hashes)s::bytea[]) AS given
), counted AS (
  INSERT INTO coordd.work_hours AS known (hour, messages)
  SELECT given.* FROM moved, unnest(%(hours)s::text[], %(counts)s::bigint[]) AS given
  ON CONFLICT (hour) DO UPDATE SET messages = known.messages + excluded.messages)
SELECT count(*) FROM moved"""
_LINKS: Final[LiteralString] = """
SELECT pos, message_id, digest, hash FROM coordd.work_chain WHERE pos > %(after)s
 ORDER BY pos LIMIT %(limit)s"""
_TOTALS: Final[LiteralString] = """
SELECT (SELECT count(*) FROM coordd.work_hooks), dispatch.position, fold.position,
       encode(fold.head, 'hex'), store.position,
       (SELECT count(*) FROM coordd.work_tasks WHERE state = 0),
       (SELECT count(*) FROM coordd.work_tasks WHERE state = 1),
       (SELECT count(*) FROM coordd.work_tasks WHERE state = 2),
       (SELECT coalesce(sum(done), 0)::bigint FROM coordd.work_hooks),
       (SELECT coalesce(sum(failed), 0)::bigint FROM coordd.work_hooks),
       CASE WHEN dispatch.until > clock_timestamp() THEN dispatch.holder ELSE '' END
  FROM coordd.work_jobs AS dispatch, coordd.work_jobs AS fold, coordd.store
 WHERE dispatch.job = 'dispatch' AND fold.job = 'fold'"""
_LAST_HOURS: Final[LiteralString] = """
SELECT hour, messages FROM coordd.work_hours ORDER BY hour DESC LIMIT %(limit)s"""

_decode: Final = msgspec.json.Decoder(Occurrence).decode
_encode: Final = msgspec.json.Encoder().encode


class PostgresWork:
    """See `coordd.work.store.WorkStore`. `parameters`: as the engine's."""

    def __init__(self, parameters: dict[str, Any], wait_s: float) -> None:
        self._database = Readers(parameters, CONNECTIONS, wait_s)
        self._feeding = Feeding(self._database)

    async def open(self) -> None:
        try:
            await self._database.pool.open(wait=True, timeout=10)
        except Exception as error:
            await self.close()
            raise translated(error) from error

    async def close(self) -> None:
        await self._database.pool.close(timeout=2)

    async def _write(self, query: LiteralString, **parameters: Any) -> list[Row]:
        sent = False
        try:
            async with self._database.pool.connection() as connection:
                sent = True
                return await unbroken(connection, run(connection, query, parameters),
                                      _WRITE_LIMIT_S)
        except Exception as error:
            if sent and is_lost(error):
                raise StoreUnknownError("the connection to the database was lost") from error
            raise translated(error) from error

    async def feed(self, after: int, limit: int) -> Feed:
        return await self._feeding.feed(after, limit)

    async def last(self) -> int:
        return int((await self._database.fetch(_LAST))[0][0])

    async def told_of(self, ids: Sequence[str]) -> dict[str, tuple[str, str, Priority]]:
        rows = await self._database.fetch(_TOLD, {"ids": list(ids)})
        return {id_: (sender, subject, PRIORITIES[rank])
                for id_, sender, subject, rank in rows}

    async def hooks(self) -> list[Hook]:
        return [_hook(row) for row in await self._database.fetch(_HOOKS)]

    async def add_hook(self, hook: Hook) -> Hook:
        rank = None if hook.min_priority is None else PRIORITY_RANK[hook.min_priority]
        [(since,)] = await self._write(
            _ADD, id=hook.id, kind=hook.kind, target=hook.target, secret=hook.secret,
            created_at=hook.created_at, to_agent=hook.to_agent, types=list(hook.types),
            min_rank=rank)
        return msgspec.structs.replace(hook, since=int(since))

    async def remove_hook(self, hook: str) -> bool:
        return bool(await self._write(_REMOVE, hook=hook))

    async def lead(self, holder: str, seconds: float) -> bool:
        return bool(await self._write(_LEAD, holder=holder, seconds=seconds))

    async def cursor(self) -> int:
        return int((await self._database.fetch(_JOB, {"job": "dispatch"}))[0][0])

    async def advance(self, holder: str, old: int, new: int, tasks: Sequence[NewTask]) -> bool:
        [(moved,)] = await self._write(
            _ADVANCE, holder=holder, old=old, new=new, hooks=[task.hook for task in tasks],
            events=[task.occurrence.id for task in tasks],
            occurrences=[_encode(task.occurrence).decode() for task in tasks],
            deads=[task.dead for task in tasks])
        return bool(moved)

    async def ready(self) -> int:
        return int((await self._database.fetch(_READY, {"limit": _READY_MAX}))[0][0])

    async def hand_out(self, limit: int, lease_s: float) -> list[TaskId]:
        return [TaskId(*row) for row in await self._write(_HAND_OUT, limit=limit, lease=lease_s)]

    async def put_back(self, tasks: Sequence[TaskId], delay_s: float = 0.0) -> None:
        await self._write(_PUT_BACK, delay=delay_s, **_columns(tasks))

    async def put_back_lost(self, *, all_: bool = False) -> int:
        return len(await self._write(_PUT_BACK_LOST, all=all_, counted=0 if all_ else 1))

    async def begin(self, task: TaskId, busy_s: float) -> Task | None:
        rows = await self._write(_BEGIN, **task._asdict(), busy=busy_s)
        if not rows:
            return None
        occurrence, tries, busy, *hook = rows[0]
        return Task(_hook(tuple(hook)), _decode(occurrence), tries, busy)

    async def done(self, tasks: Sequence[TaskId]) -> None:
        await self._write(_DONE, **_columns(tasks))

    async def failed(self, task: TaskId, error: str, *, seen: int, wait_s: float | None,
                     rest_s: float) -> None:
        await self._write(_FAILED, **task._asdict(), error=error, seen=seen, wait=wait_s,
                          rest=rest_s)

    async def dead(self, limit: int, hook: str | None = None) -> list[DeadTask]:
        rows = await self._database.fetch(_DEAD, {"limit": limit, "hook": hook})
        return [_dead(row) for row in rows]

    async def retry(self, hook: str | None = None, event: str | None = None) -> int:
        return int((await self._write(_RETRY, hook=hook, event=event))[0][0])

    async def folded(self) -> Folded:
        position, head = (await self._database.fetch(_JOB, {"job": "fold"}))[0]
        return Folded(position, bytes(head))

    async def fold(self, old: int, new: Folded, links: Sequence[Link],
                   hours: Sequence[HourCount]) -> bool:
        [(moved,)] = await self._write(
            _FOLD, old=old, new=new.position, head=new.head, at=[link.pos for link in links],
            ids=[link.message_id for link in links], digests=[link.digest for link in links],
            hashes=[link.hash for link in links], hours=[each.hour for each in hours],
            counts=[each.messages for each in hours])
        return bool(moved)

    async def links(self, after: int, limit: int) -> list[Link]:
        rows = await self._database.fetch(_LINKS, {"after": after, "limit": limit})
        return [Link(pos, id_, bytes(digest), bytes(hash_)) for pos, id_, digest, hash_ in rows]

    async def totals(self) -> Totals:
        [row] = await self._database.fetch(_TOTALS)
        hours = await self._database.fetch(_LAST_HOURS, {"limit": _HOURS})
        (known, cursor, folded, head, last, waiting, queued, dead, done, failed, holder) = row
        return Totals(known, cursor, folded, head, last, waiting, queued, dead, done, failed,
                      holder, [HourCount(*each) for each in reversed(hours)])


def _columns(tasks: Sequence[TaskId]) -> dict[str, Any]:
    return {"hooks": [task.hook for task in tasks], "events": [task.event for task in tasks]}


def _hook(row: Row) -> Hook:
    (id_, kind, target, secret, created_at, since, to_agent, types, rank, failures, rests, done,
     failed, waiting) = row
    return Hook(id_, kind, target, secret, created_at, since, to_agent, types,
                None if rank is None else PRIORITIES[rank],
                failures, rests, waiting, done, failed)


def _dead(row: Row) -> DeadTask:
    hook, event, occurrence, tries, error, at = row
    found = _decode(occurrence)
    return DeadTask(hook, event, found.type, found.message_id, found.to_agent, tries, error, at)
