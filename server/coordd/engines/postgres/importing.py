"""Imports: changes of another store or tool, applied as they are, whole or not at all.

    lock of the store ─▶ what is here of the changes ─▶ checks, plan, COPY and counts ─▶ commit

The plan is made in Python, the lock being held, so nothing moves between the look and the write.
There is one COPY a table: of 1,000 rows each they would cost the database a fifth more. The events
go first, while the changes are checked and planned; the deliveries when all of them are, as the
last mark leaves them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, LiteralString

from coordd.engines.entries import ENTRIES, entry_of
from coordd.engines.postgres import copying, queries
from coordd.engines.postgres.arrays import bigints, ints, shorts, texts
from coordd.engines.postgres.database import Connection, Database, Row
from coordd.engines.postgres.errors import is_lost, translated
from coordd.engines.postgres.planning import Plan, name_of
from coordd.engines.times import text_to_us, to_moment
from coordd.model import is_id, is_name
from coordd.store import Change, Imported, StoreUnknownError

_BEGIN: Final[LiteralString] = """
SELECT set_config('lock_timeout', '10s', true),
       set_config('idle_in_transaction_session_timeout', '20s', true)"""
_LOCK: Final[LiteralString] = "SELECT position FROM coordd.store FOR UPDATE"
_PARTITIONS: Final[LiteralString] = """
SELECT coordd.make_partitions(month, month) FROM unnest(%(months)s::timestamptz[]) AS month"""
_NEWEST: Final[LiteralString] = "SELECT max(id) FROM coordd.messages"
_KNOWN: Final[LiteralString] = f"""
SELECT message.id, message.from_agent, message.subject, message.pos, delivery.pos,
       delivery.to_agent, delivery.seq, delivery.state, delivery.read_at, delivery.acked_at
  FROM coordd.messages AS message {queries.DELIVERIES}
 WHERE message.id = ANY(%(ids)s) ORDER BY delivery.pos"""
_LAST_SEQS: Final[LiteralString] = """
SELECT agent, last_seq FROM coordd.inboxes WHERE agent = ANY(%(agents)s)"""
_REGISTRY: Final[LiteralString] = """
SELECT kind, name, entry FROM coordd.registry
  JOIN unnest(%(kinds)s, %(names)s) AS given (kind, name) USING (kind, name)"""

_UPDATE_DELIVERIES: Final[LiteralString] = """
UPDATE coordd.deliveries AS delivery
   SET state = given.state, read_at = given.read_at, acked_at = given.acked_at
  FROM unnest(%(pos)s, %(states)s, %(reads)s, %(ackeds)s)
    AS given (pos, state, read_at, acked_at)
 WHERE delivery.pos = given.pos"""
_INBOXES: Final[LiteralString] = """
INSERT INTO coordd.inboxes AS inbox (agent, last_seq, received, sent, unread, version)
SELECT agent, last_seq, received, sent, unread, coordd.version_at(%(position)s)
  FROM unnest(%(agents)s, %(last_seqs)s, %(received)s, %(sent)s, %(unread)s)
    AS given (agent, last_seq, received, sent, unread)
ON CONFLICT (agent) DO UPDATE SET
  last_seq = greatest(inbox.last_seq, excluded.last_seq),
  received = inbox.received + excluded.received, sent = inbox.sent + excluded.sent,
  unread = inbox.unread + excluded.unread, version = excluded.version"""
_EXPIRIES: Final[LiteralString] = """
UPDATE coordd.inboxes AS inbox SET next_expiry = least(inbox.next_expiry, soonest.expires)
  FROM (SELECT to_agent, min(expires) AS expires FROM coordd.deliveries
         WHERE pos > %(before)s AND expires IS NOT NULL AND state < 3 GROUP BY to_agent) AS soonest
 WHERE inbox.agent = soonest.to_agent"""
_CLAIMS: Final[LiteralString] = """
INSERT INTO coordd.claims (sender, key, digest, count, pos, at)
SELECT * FROM unnest(%(senders)s, %(keys)s, %(digests)s, %(counts)s, %(pos)s, %(at)s::timestamptz[])
ON CONFLICT (sender, key) DO NOTHING"""
_ENTRIES: Final[LiteralString] = """
WITH given AS (
  SELECT * FROM unnest(%(pos)s, %(kinds)s, %(names)s, %(at)s, %(entries)s)
    AS given (pos, kind, name, at, entry)
), logged AS (
  INSERT INTO coordd.registry_log (pos, kind, name, at, entry)
  SELECT pos, kind, name, at, entry FROM given)
INSERT INTO coordd.registry (kind, name, first_pos, entry)
SELECT DISTINCT ON (kind, name) kind, name, min(pos) OVER (PARTITION BY kind, name), entry
  FROM given ORDER BY kind, name, pos DESC
ON CONFLICT (kind, name) DO UPDATE SET entry = excluded.entry"""
_STORE: Final[LiteralString] = """
UPDATE coordd.store SET position = %(position)s, messages = messages + %(messages)s,
  unread = unread + %(unread)s, sent = sent + %(sent)s, read = read + %(read)s,
  acked = acked + %(acked)s, deleted = deleted + %(deleted)s, expired = expired + %(expired)s"""

_FIRST_YEAR: Final = 2000
"""Events of earlier years, and of years to come, go to the default partition."""
_MONTHS_MAX: Final = 600
_PIECE: Final = 250


class Importing:
    """Imports into one store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._months: set[datetime] = set()

    async def apply(self, changes: Sequence[Change]) -> tuple[Imported, list[tuple[str, int]]]:
        """See `Store.import_`; and the new deliveries, for the listeners."""
        try:
            async with self._database.writer() as connection:
                await self._make_partitions(connection, changes)
                async with connection.transaction():
                    await connection.execute(_BEGIN)
                    return await self._apply(connection, changes)
        except Exception as error:
            if is_lost(error):
                raise StoreUnknownError("the connection to the database was lost in an import: "
                                        "import again, what is stored is skipped") from error
            raise translated(error) from error

    async def _make_partitions(self, connection: Connection, changes: Sequence[Change]) -> None:
        months = _months(changes)
        year = datetime.now(UTC).year
        new = sorted(month for month in months - self._months
                     if _FIRST_YEAR <= month.year <= year)
        if new and len(new) + len(self._months) <= _MONTHS_MAX:
            await connection.execute(_PARTITIONS, {"months": new})
            self._months.update(new)

    async def _apply(self, connection: Connection, changes: Sequence[Change]
                     ) -> tuple[Imported, list[tuple[str, int]]]:
        [(position,)] = await _fetch(connection, _LOCK)
        plan = Plan(position)
        await self._look(connection, changes, plan)
        async with connection.cursor() as cursor:
            await copying.copy(cursor, copying.EVENTS, _events(plan, changes))
            await copying.copy(cursor, copying.DELIVERIES, _deliveries(plan))
            await copying.copy(cursor, copying.MESSAGES, _messages(plan))
        if plan.applied:
            await _write(connection, plan, position)
        return Imported(plan.applied, len(changes) - plan.applied), plan.heard

    async def _look(self, connection: Connection, changes: Sequence[Change], plan: Plan) -> None:
        """Give the plan what the store has of what the changes speak of."""
        ids = {change.message.id if change.message else change.id for change in changes
               if change.type not in ENTRIES}
        agents = {name for change in changes for name, _ in change.deliveries}
        text = "".join([*ids, *agents])
        if not text.isascii() or "\0" in text:
            # They are still to be checked; what the store can't have, it isn't asked for.
            ids, agents = set(filter(is_id, ids)), set(filter(is_name, agents))
        if ids:
            [(newest,)] = await _fetch(connection, _NEWEST)
            # Ids begin with their time: mostly, all of the changes' are newer than the store's.
            old = [] if newest is None else [each for each in ids if each <= newest]
            if old:
                plan.know(await _fetch(connection, _KNOWN, {"ids": texts(old)}))
        if agents:
            plan.last_seqs.update(await _fetch(connection, _LAST_SEQS,
                                               {"agents": texts(list(agents))}))
        entries = [(change.type, name_of(entry)) for change in changes
                   if change.type in ENTRIES and (entry := entry_of(change))]
        if entries:
            plan.know_entries(await _fetch(connection, _REGISTRY, {
                "kinds": texts([kind for kind, _ in entries]),
                "names": texts([name for _, name in entries])}))


def _months(changes: Sequence[Change]) -> set[datetime]:
    """Of the events. A time that is none is refused later."""
    found = set()
    # Of a text in UTC the month is enough; else it needs the moment.
    for text in {change.at[:8] if change.at[7:8] == "-" and change.at[-1:] == "Z" else change.at
                 for change in changes}:
        with suppress(ValueError, OverflowError):
            us = text_to_us(f"{text}01T00:00:00Z" if len(text) == len("2026-01-") else text)
            found.add(to_moment(us).replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    return found


def _events(plan: Plan, changes: Sequence[Change]) -> Iterator[bytes]:
    """Plan all changes; their events."""
    for first in range(0, len(changes), _PIECE):
        plan.apply(changes[first:first + _PIECE], first)
        yield copying.events(plan.take_events(), plan.fields)


def _deliveries(plan: Plan) -> Iterator[bytes]:
    rows = plan.deliveries
    while piece := list(islice(rows, _PIECE)):
        yield copying.deliveries(piece, plan.fields)


def _messages(plan: Plan) -> Iterator[bytes]:
    for first in range(0, len(plan.messages), _PIECE):
        yield copying.messages(plan.messages[first:first + _PIECE])


async def _write(connection: Connection, plan: Plan, before: int) -> None:
    """What changes of rows that are there, and the counts."""
    async with connection.cursor() as cursor:
        changed = plan.changed
        if changed:
            await cursor.execute(_UPDATE_DELIVERIES, {
                "pos": bigints([each.pos for each in changed]),
                "states": shorts([each.state for each in changed]),
                "reads": texts([each.read_at for each in changed]),
                "ackeds": texts([each.acked_at for each in changed])})
        counts = plan.counts()
        if agents := counts.agents:
            await cursor.execute(_INBOXES, {
                "position": plan.position, "agents": texts(agents),
                "last_seqs": bigints([plan.last_seqs.get(name, 0) for name in agents]),
                "received": ints([counts.received[name] for name in agents]),
                "sent": ints([counts.sent[name] for name in agents]),
                "unread": ints([counts.unread[name] for name in agents])})
        if plan.expires:
            await cursor.execute(_EXPIRIES, {"before": before})
        if plan.claims:
            claims = [claim for claim, _, _ in plan.claims]
            await cursor.execute(_CLAIMS, {
                "senders": texts([c.sender for c in claims]),
                "keys": texts([c.key for c in claims]),
                "digests": texts([c.digest for c in claims]),
                "counts": ints([c.count for c in claims]),
                "pos": bigints([pos for _, pos, _ in plan.claims]),
                "at": [to_moment(us) for _, _, us in plan.claims]})
        if plan.entries:
            await cursor.execute(_ENTRIES, {
                "pos": bigints([row[0] for row in plan.entries]),
                **{name: texts([row[place] for row in plan.entries])
                   for place, name in enumerate(("kinds", "names", "at", "entries"), 1)}})
        await cursor.execute(_STORE, {
            "position": plan.position, "messages": counts.messages,
            "unread": counts.unread.total(),
            **{name: counts.events[name] for name in
               ("sent", "read", "acked", "deleted", "expired")}})


async def _fetch(connection: Connection, query: LiteralString,
                 parameters: dict[str, Any] | None = None) -> list[Row]:
    return await (await connection.execute(query, parameters)).fetchall()


