"""Gone messages and old events on their way to the archive, and found there again.

    events DELETED and EXPIRED ─▶ messages all of whose deliveries are gone ─▶ file ─▶ no body

The file is whole and durable before a body is given back. What is cut off in between is done again:
the file is written anew, under the same name or under one that tells of more events.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Literal, LiteralString

import msgspec

from coordd.archive import Archive, ArchiveError
from coordd.engines.postgres import queries
from coordd.engines.postgres.arrays import bigints, shorts, texts
from coordd.engines.postgres.commit import EVENT_TYPES
from coordd.engines.postgres.database import Database, Row
from coordd.engines.postgres.reading import HIGHEST
from coordd.engines.times import text_to_us, to_us
from coordd.model import PRIORITIES, Event, EventType, Message, Priority
from coordd.store import MessageJson, StoreDamagedError, StoreUnavailableError

Do = Callable[[LiteralString, dict[str, Any]], Awaitable[list[Row]]]
"""Runs a statement on upkeep's own connection. Raises StoreError."""

BATCH_EVENTS: Final = 1000
"""Of one step, and so of one file: some hundred KB, which is what a lookup reads."""
WAIT_S: Final = 3600.0
"""How long fewer than that wait for others to share their file."""
_BODIES: Final = 100
_EVENTS_PAGE: Final = 5000
_LEVEL: Final = 6
_GONE: Final = {3: "deleted", 4: "expired"}
_EVER: Final = {"since": datetime(1, 1, 1, tzinfo=UTC), "until": datetime(9999, 12, 31, tzinfo=UTC)}

_POSITION: Final[LiteralString] = "SELECT position FROM coordd.upkeep WHERE job = 'gone'"
_MESSAGES: Final[LiteralString] = """
SELECT message.pos, message.id, message.from_agent, message.subject, message.priority,
       coalesce(message.thread_id, message.id), message.in_reply_to, message.created_at,
       message.expires_at, message.body IS NOT NULL, delivery.pos, delivery.to_agent, delivery.seq,
       delivery.state, delivery.read_at, delivery.acked_at
  FROM coordd.messages AS message
  JOIN coordd.deliveries AS delivery
    ON delivery.pos > message.pos - message.deliveries AND delivery.pos <= message.pos
 WHERE message.id = ANY(%(ids)s) AND message.gone_at IS NULL
 ORDER BY message.pos, delivery.pos"""
_TIMES: Final[LiteralString] = """
SELECT message.id, delivery.to_agent, event.at
  FROM coordd.deliveries AS delivery
  JOIN coordd.messages AS message ON message.pos = delivery.message
 CROSS JOIN LATERAL (
   SELECT coalesce(at_text, coordd.time_text(at)) AS at FROM coordd.events
    WHERE to_agent = delivery.to_agent AND type = CASE delivery.state WHEN 3 THEN 2 ELSE 1 END
      AND pos > delivery.pos AND message_id = message.id
    ORDER BY pos LIMIT 1) AS event
 WHERE delivery.pos = ANY(%(pos)s)"""
_BODY: Final[LiteralString] = "SELECT pos, body FROM coordd.messages WHERE pos = ANY(%(pos)s)"
_GIVE_BACK: Final[LiteralString] = """
SELECT coordd.give_back_1(%(shift)s, %(after)s, %(last)s, %(messages)s, %(file)s, %(archived)s)"""
_FILE: Final[LiteralString] = """
SELECT file.name
  FROM (SELECT archive FROM coordd.messages WHERE id = %(id)s AND archive IS NOT NULL
        UNION ALL SELECT archive FROM coordd.archived WHERE id = %(id)s) AS found
  JOIN coordd.archives AS file ON file.number = found.archive
 LIMIT 1"""

_log = logging.getLogger("coordd.postgres")
_encode: Final = msgspec.json.Encoder().encode


class _DoneError(Exception):
    """Another server has given the bodies back in the meantime."""


class ArchivedDelivery(msgspec.Struct, gc=False):
    """`state`: what it was before it went, at `gone_at`."""

    to_agent: str
    seq: int
    state: Literal["unread", "read", "acknowledged"]
    read_at: str | None
    acked_at: str | None
    gone: Literal["deleted", "expired"]
    gone_at: str | None


class ArchivedMessage(msgspec.Struct, gc=False):
    """A line of a file of messages."""

    id: str
    from_agent: str
    subject: str
    body: str
    priority: Priority
    thread_id: str
    in_reply_to: str | None
    created_at: str
    expires_at: str | None
    deliveries: list[ArchivedDelivery]


class Archiving:
    """Of one store. `archive` None: bodies are given back and events dropped without one.
    `find`: whether archived messages are to be found.
    """

    def __init__(self, database: Database, archive: Archive | None, shift_us: Callable[[], int], *,
                 find: bool) -> None:
        self._database = database
        self._archive = archive
        self._shift_us = shift_us
        self.find_is_on = find and archive is not None
        self.is_up = True
        self._name = token_hex(3)
        self.messages = 0
        """How many this server has archived."""
        self._turn = asyncio.Semaphore(2)

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """For the metrics: (name, help, number)."""
        if self._archive is not None:
            yield "coordd_archive_up", "Whether the archive took its last file.", self.is_up

    def counters(self) -> Iterable[tuple[str, str, float]]:
        """As `gauges`."""
        if self._archive is not None:
            yield "coordd_archived_messages", "Messages this server archived.", self.messages

    # Messages.

    async def give_back(self, do: Do, *, now: bool) -> bool:
        """One step; whether there is more to do. Not `now`: what would make a small file waits.

        Raises ArchiveError, StoreError.
        """
        rows = await do(_POSITION, {})
        after = rows[0][0] if rows else 0
        events = await do(queries.EVENTS[False, False], {
            **_EVER, "types": shorts([EVENT_TYPES["EXPIRED"], EVENT_TYPES["DELETED"]]),
            "above": after, "below": HIGHEST, "limit": BATCH_EVENTS})
        full = len(events) == BATCH_EVENTS
        if not events or not (now or full or self._archive is None or self._is_ripe(events[0][1])):
            return False
        found = await self._gone(do, events)
        file, archived = None, [(pos, message) for pos, message, has_body in found if has_body]
        if archived and self._archive is not None:
            day = datetime.fromisoformat(events[0][1]).astimezone(UTC)
            file = f"messages/{day:%Y/%m/%d}/{events[0][0]:012}-{events[-1][0]:012}.jsonl.gz"
            try:
                await self._put(file, self._lines(do, archived))
            except _DoneError:
                return True
        await do(_GIVE_BACK, {
            "shift": self._shift_us(), "after": after, "last": events[-1][0],
            "messages": bigints([pos for pos, _, _ in found]), "file": file,
            "archived": len(archived)})
        if file is not None:
            self.messages += len(archived)
        return full

    def _is_ripe(self, at: str) -> bool:
        now_us = to_us(datetime.now(UTC)) + self._shift_us()
        return text_to_us(at) <= now_us - timedelta(seconds=WAIT_S) // timedelta(microseconds=1)

    async def _gone(self, do: Do, events: Sequence[Row]) -> list[tuple[int, ArchivedMessage, bool]]:
        """(position, message without its body, whether it has one), of those that are all gone."""
        rows = await do(_MESSAGES, {"ids": texts(list({event[3] for event in events}))})
        alive = {row[0] for row in rows if row[13] not in _GONE}
        rows = [row for row in rows if row[0] not in alive]
        times: dict[tuple[str, str], str] = {(event[3], event[5]): event[1] for event in events}
        missing = [row[10] for row in rows if (row[1], row[11]) not in times]
        if missing:
            times.update({(message_id, to_agent): at for message_id, to_agent, at
                          in await do(_TIMES, {"pos": bigints(missing)})})
        found: dict[int, tuple[int, ArchivedMessage, bool]] = {}
        for (pos, id_, from_agent, subject, priority, thread_id, in_reply_to, created_at,
             expires_at, has_body, _, to_agent, seq, state, read_at, acked_at) in rows:
            if pos not in found:
                found[pos] = (pos, ArchivedMessage(
                    id_, from_agent, subject, "", PRIORITIES[priority], thread_id,
                    in_reply_to, created_at, expires_at, []), has_body)
            found[pos][1].deliveries.append(ArchivedDelivery(
                to_agent, seq, "acknowledged" if acked_at else "read" if read_at else "unread",
                read_at, acked_at, _GONE[state], times.get((id_, to_agent))))  # type: ignore[arg-type]
        return list(found.values())

    async def _lines(self, do: Do, found: Sequence[tuple[int, ArchivedMessage]]
                     ) -> AsyncIterator[Iterable[Any]]:
        for start in range(0, len(found), _BODIES):
            some = found[start : start + _BODIES]
            bodies: dict[int, str | None] = dict(
                await do(_BODY, {"pos": bigints([pos for pos, _ in some])}))
            for pos, message in some:
                body = bodies.get(pos)
                if body is None:
                    # Their file has it. One of the same name without it would replace that one.
                    raise _DoneError
                message.body = body
            yield [message for _, message in some]

    # Events.

    async def write_events(self, do: Do, start: datetime, end: datetime, above: int, last: int
                           ) -> None:
        """Archive the events of a month, start <= at < end, of above < pos <= last. The file's name
        is nobody else's: another server may have thinned the month since `above` was read.

        Raises ArchiveError, StoreError.
        """
        if self._archive is None:
            return
        page = await self._events(do, start, end, above, last)
        if not page:
            return
        await self._put(f"events/{start:%Y-%m}-{last:012}-{self._name}.jsonl.gz",
                        self._event_lines(do, start, end, page, last))

    async def _event_lines(self, do: Do, start: datetime, end: datetime, page: list[Row], last: int
                           ) -> AsyncIterator[Iterable[Any]]:
        while page:
            yield [Event(pos, at, _TYPES[type_], *rest) for pos, at, type_, *rest in page]
            page = await self._events(do, start, end, page[-1][0], last)

    async def _events(self, do: Do, start: datetime, end: datetime, above: int, last: int
                      ) -> list[Row]:
        return await do(queries.EVENTS[False, False], {
            "types": shorts(list(EVENT_TYPES.values())), "above": above, "below": last + 1,
            "since": start, "until": end, "limit": _EVENTS_PAGE})

    # Files.

    async def _put(self, name: str, lines: AsyncIterator[Iterable[Any]]) -> None:
        """Write a file of JSON lines. One that is the same is the same to the byte."""
        assert self._archive is not None
        with tempfile.TemporaryDirectory(prefix="coordd-archive-") as folder:
            file = Path(folder) / "lines.jsonl.gz"
            try:
                with (file.open("wb") as raw,
                      gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as out):
                    async for some in lines:
                        await asyncio.to_thread(
                            out.write, b"".join([_encode(one) + b"\n" for one in some]))
            except OSError as error:
                raise ArchiveError(f"{file}: {error.strerror}") from error
            try:
                await self._archive.put(name, file)
            except ArchiveError as error:
                if self.is_up:
                    _log.warning("the archive does not take files, nothing is given back until it "
                                 "does: %s", error)
                self.is_up = False
                raise
        if not self.is_up:
            _log.info("the archive takes files again")
        self.is_up = True

    async def find(self, message_id: str) -> list[MessageJson]:
        """The deliveries of an archived message, in the state in which they went; [] where none is
        to be found. Raises StoreError.
        """
        if self._archive is None or not self.find_is_on:
            return []
        rows = await self._database.fetch(_FILE, {"id": message_id})
        if not rows:
            return []
        async with self._turn:
            try:
                data = await self._archive.get(rows[0][0])
            except ArchiveError as error:
                raise StoreUnavailableError(f"the archive does not answer: {error}") from error
            if data is None:
                return []
            try:
                found = await asyncio.to_thread(_line_of, data, message_id)
            except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
                raise StoreDamagedError(f"{rows[0][0]} in the archive: {error}") from error
        return [] if found is None else [_shown(found, each) for each in found.deliveries]


_TYPES: Final[dict[int, EventType]] = {
    code: name for name, code in EVENT_TYPES.items()}  # type: ignore[misc]


def _line_of(data: bytes, message_id: str) -> ArchivedMessage | None:
    """The message of that id out of a file. Ids hold no character that JSON escapes."""
    begin = b'{"id":"%b",' % message_id.encode()
    for line in gzip.decompress(data).splitlines():
        if line.startswith(begin):
            return msgspec.json.decode(line, type=ArchivedMessage)
    return None


def _shown(message: ArchivedMessage, delivery: ArchivedDelivery) -> MessageJson:
    return MessageJson(_encode(Message(
        message.id, delivery.seq, message.from_agent, delivery.to_agent, message.subject,
        message.body, message.priority, message.thread_id, message.in_reply_to,
        message.created_at, message.expires_at, delivery.state, delivery.read_at,
        delivery.acked_at, archived=True)))
