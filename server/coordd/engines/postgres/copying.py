"""COPY of whole tables' rows in its binary form, packed here: a third of what psycopg's rows take.

Format: the PostgreSQL manual, COPY, "Binary Format": a row is the number of its fields, then each
field's size and bytes. The fields of one width come first, so that they are one pack, and those
that are mostly NULL come last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, LiteralString

from psycopg import AsyncCursor

from coordd.engines.postgres.database import Row
from coordd.model import Core

EventRow = tuple[int, int, int, int, bytes, str, str | None]
"""pos, microseconds since 1970, seq, type, head, recipient, the time's text or None"""
DeliveryRow = tuple[int, int, int, int, int, str, int | None, str | None, str | None]
"""pos, message, seq, state, priority, recipient, expires (microseconds since 1970), read_at,
acked_at"""
MessageRow = tuple[int, int, int, bytes, Core]
"""pos, deliveries, priority, head, message"""

EVENTS: Final[LiteralString] = """
COPY coordd.events (pos, at, seq, type, message_id, from_agent, subject, to_agent, at_text)
  FROM STDIN (FORMAT BINARY)"""
DELIVERIES: Final[LiteralString] = """
COPY coordd.deliveries (pos, message, seq, state, priority, to_agent, expires, read_at, acked_at)
  FROM STDIN (FORMAT BINARY)"""
MESSAGES: Final[LiteralString] = """
COPY coordd.messages (pos, deliveries, priority, id, from_agent, subject, body, created_at,
                      thread_id, in_reply_to, expires_at) FROM STDIN (FORMAT BINARY)"""

_EPOCH_US: Final = 946_684_800_000_000
"""Postgres counts microseconds from the year 2000."""
_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_NULLS: Final = 3 * _NULL
_SIZES: Final = [size.to_bytes(4, "big") for size in range(4096)]
_event: Final = Struct(">hiqiqiqih").pack
_delivery: Final = Struct(">hiqiqiqihih").pack
_message: Final = Struct(">hiqiiih").pack
_time: Final = Struct(">iq").pack


async def copy(cursor: AsyncCursor[Row], command: LiteralString, pieces: Iterator[bytes]) -> None:
    """Send the rows' pieces. A piece is made while the database works on those before it, as far
    as the sockets hold them; without any rows there is no command.
    """
    first = next(filter(None, pieces), None)
    if first is None:
        return
    async with cursor.copy(command) as copying:
        await copying.write(_HEAD + first)
        for piece in pieces:
            await copying.write(piece)
            # It may never have had to wait, and others have requests.
            await asyncio.sleep(0)
        await copying.write(_END)


def sized(text: str) -> bytes:
    """A text as a field."""
    data = text.encode()
    size = len(data)
    return (_SIZES[size] if size < len(_SIZES) else size.to_bytes(4, "big")) + data


class Fields(dict[str, bytes]):
    """Texts as fields, for few different ones."""

    def __missing__(self, text: str) -> bytes:
        data = self[text] = sized(text)
        return data


def head(message_id: str, sender: bytes, subject: str) -> bytes:
    """The fields that a message and its events have in common."""
    return b"".join((sized(message_id), sender, sized(subject)))


def events(rows: Iterable[EventRow], fields: Fields) -> bytes:
    """Rows of EVENTS."""
    parts: list[bytes] = []
    for pos, us, seq, kind, the_head, to, at_text in rows:
        parts += (_event(9, 8, pos, 8, us - _EPOCH_US, 8, seq, 2, kind), the_head, fields[to],
                  _or_null(at_text))
    return b"".join(parts)


def deliveries(rows: Iterable[DeliveryRow], fields: Fields) -> bytes:
    """Rows of DELIVERIES."""
    parts: list[bytes] = []
    for pos, message, seq, state, priority, to, expires_us, read_at, acked_at in rows:
        parts += (_delivery(9, 8, pos, 8, message, 8, seq, 2, state, 2, priority), fields[to])
        if expires_us is None and read_at is None and acked_at is None:
            parts.append(_NULLS)
        else:
            parts += (_NULL if expires_us is None else _time(8, expires_us - _EPOCH_US),
                      _or_null(read_at), _or_null(acked_at))
    return b"".join(parts)


def messages(rows: Iterable[MessageRow]) -> bytes:
    """Rows of MESSAGES."""
    parts: list[bytes] = []
    for pos, count, priority, the_head, core in rows:
        thread = None if core.thread_id == core.id else core.thread_id
        parts += (_message(11, 8, pos, 4, count, 2, priority), the_head, _or_null(core.body),
                  sized(core.created_at))
        if thread is core.in_reply_to is core.expires_at is None:
            parts.append(_NULLS)
        else:
            parts += (_or_null(thread), _or_null(core.in_reply_to), _or_null(core.expires_at))
    return b"".join(parts)


def _or_null(text: str | None) -> bytes:
    return _NULL if text is None else sized(text)
