"""The feed: every change once, in the order of its position."""

from __future__ import annotations

from typing import Final, LiteralString

import msgspec

from coordd.engines.postgres.database import Readers
from coordd.model import PRIORITIES, Agent, Core, Group, Token
from coordd.store import Change, Claim, Feed

_LAST: Final[LiteralString] = "SELECT position FROM coordd.store"
_NEXT: Final[LiteralString] = """
SELECT min(pos) FROM (
  (SELECT pos FROM coordd.messages WHERE pos > %(after)s ORDER BY pos LIMIT 1)
  UNION ALL (SELECT pos FROM coordd.registry_log WHERE pos > %(after)s ORDER BY pos LIMIT 1)
  UNION ALL
  SELECT event.pos FROM generate_series(1, 4) AS wanted (type)
   CROSS JOIN LATERAL (SELECT pos FROM coordd.events WHERE type = wanted.type AND pos > %(after)s
                         AND pos > 0
                        ORDER BY pos LIMIT 1) AS event) AS each"""
_MESSAGES: Final[LiteralString] = """
SELECT pos, id, from_agent, subject, body, priority, coalesce(thread_id, id), in_reply_to,
       created_at, expires_at, deliveries
  FROM coordd.messages WHERE pos > %(after)s AND pos <= %(end)s ORDER BY pos"""
_DELIVERIES: Final[LiteralString] = """
SELECT message, to_agent, seq FROM coordd.deliveries
 WHERE pos > %(after)s AND pos <= %(end)s ORDER BY pos"""
_SENT_TIMES: Final[LiteralString] = """
SELECT pos, coalesce(at_text, coordd.time_text(at)) FROM coordd.events
 WHERE type = 5 AND pos > %(after)s AND pos <= %(end)s AND pos > 0"""
_CLAIMS: Final[LiteralString] = """
SELECT pos, sender, key, digest, count FROM coordd.claims
 WHERE pos > %(after)s AND pos <= %(end)s"""
_MARKS: Final[LiteralString] = """
SELECT event.pos, event.type, coalesce(event.at_text, coordd.time_text(event.at)),
       event.message_id, event.to_agent
  FROM generate_series(1, 4) AS wanted (type)
 CROSS JOIN LATERAL (SELECT * FROM coordd.events AS event
    WHERE event.type = wanted.type AND event.pos > %(after)s AND event.pos <= %(end)s
      AND event.pos > 0
      -- A forgotten message's events go some time after it.
      AND EXISTS (SELECT FROM coordd.messages WHERE id = event.message_id)) AS event"""
_ENTRIES: Final[LiteralString] = """
SELECT pos, kind, at, entry FROM coordd.registry_log
 WHERE pos > %(after)s AND pos <= %(end)s ORDER BY pos"""

_KINDS: Final = {1: "expired", 2: "deleted", 3: "acked", 4: "read"}
_decode = msgspec.json.decode


class Feeding:
    """Reads the feed of one store."""

    def __init__(self, database: Readers) -> None:
        self._database = database

    async def feed(self, after: int, limit: int) -> Feed:
        """See `Store.feed`. What has a position up to the newest is there: see the schema."""
        after = max(after, 0)
        [(last,)] = await self._database.fetch(_LAST)
        changes: list[Change] = []
        while after < last and len(changes) < limit:
            end = min(after + limit, last)
            found = await self._window(after, end)
            if not found:
                # A message's deliveries may reach further, and old events may have been dropped.
                [(after_gap,)] = await self._database.fetch(_NEXT, {"after": after})
                if after_gap is None:
                    after = last
                    continue
                found = await self._window(after, after_gap)
                end = after_gap
            changes += found
            after = end
        if len(changes) > limit:
            changes = changes[:limit]
        return Feed(changes, changes[-1].pos if len(changes) == limit else min(after, last), last)

    async def _window(self, after: int, end: int) -> list[Change]:
        """All changes with after < pos <= end."""
        span = {"after": after, "end": end}
        fetch = self._database.fetch
        messages = await fetch(_MESSAGES, span)
        changes: list[Change] = []
        if messages:
            # Deliveries of the first message may stand before the window.
            to: dict[int, list[tuple[str, int]]] = {}
            begin = messages[0][0] - messages[0][-1]
            for message, to_agent, seq in await fetch(_DELIVERIES, {**span, "after": begin}):
                to.setdefault(message, []).append((to_agent, seq))
            times: dict[int, str] = dict(await fetch(_SENT_TIMES, span))
            claims = {pos: Claim(*rest) for pos, *rest in await fetch(_CLAIMS, span)}
            for pos, *core, _ in messages:
                core[4] = PRIORITIES[core[4]]
                changes.append(Change("sent", times[pos], pos, message=Core(*core),
                                      deliveries=to[pos], claim=claims.get(pos)))
        changes += [Change(_KINDS[type_], at, pos, id=message_id, agent=agent)  # type: ignore[arg-type]
                    for pos, type_, at, message_id, agent in await fetch(_MARKS, span)]
        changes += [_entry(pos, kind, at, entry)
                    for pos, kind, at, entry in await fetch(_ENTRIES, span)]
        changes.sort(key=lambda change: change.pos)
        return changes


def _entry(pos: int, kind: str, at: str, entry: str) -> Change:
    if kind == "agent":
        return Change("agent", at, pos, agent_entry=_decode(entry, type=Agent))
    if kind == "group":
        return Change("group", at, pos, group_entry=_decode(entry, type=Group))
    return Change("token", at, pos, token_entry=_decode(entry, type=Token))
