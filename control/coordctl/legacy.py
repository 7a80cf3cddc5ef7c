"""The old file tool's two texts: a message's file and a line of the event log.

Both directions are exact: what `render_*` writes, `parse_*` reads back to the byte. Neither
touches a disk; `legacy_tree` reads a whole tree.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

SENT: Final = "SENT"
READ: Final = "READ"
DELETED: Final = "DELETED"
EVENT_TYPES: Final = (SENT, READ, DELETED)

BODY_BYTES_MAX: Final = 7 * 1024 * 1024
"""A message travels in one request, and a request is at most 8 MiB (docs/api.md)."""

# The rules of docs/api.md. A subject may be longer than 200 characters when it is imported.
_name = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,50}\Z")
_id = re.compile(r"[A-Za-z0-9._:+@=~-]{1,200}\Z")
_control = re.compile(r"[\x00-\x1f\x7f]")

_HEADER: Final = (b"id: ", b"from: ", b"to: ", b"subject: ", b"timestamp: ")
_BODY_LINE: Final = b"body: |\n"


class FormatError(ValueError):
    """Bytes that are none of the old tool's; the text is the reason, for the rejects file."""


class OldMessage(NamedTuple):
    """A `.msg` file. `timestamp` is the text as it stands there."""

    id: str
    from_agent: str
    to_agent: str
    subject: str
    timestamp: str
    body: str


class OldEvent(NamedTuple):
    """A line of `events.log`, in the line's order. `type` is SENT, READ or DELETED."""

    at: str
    type: str
    id: str
    from_agent: str
    to_agent: str
    subject: str


def is_name(text: str) -> bool:
    """Whether an agent may be called `text`."""
    return _name.match(text) is not None


def moment(text: str) -> datetime:
    """The time that `text` says: offsets `+0000`, `-0600`, `-06:00` and `Z`.

    Raises FormatError for anything else, a time without an offset among it.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise FormatError(f"the time {text!r} is none") from None
    if parsed.tzinfo is None:
        raise FormatError(f"the time {text!r} has no offset from UTC")
    return parsed


def _checked(id_: str, from_agent: str, to_agent: str, subject: str, at: str) -> None:
    if not _id.match(id_):
        raise FormatError(f"the id {id_[:210]!r} is not 1-200 of letters, digits and ._:+@=~-")
    for role, name in (("sender", from_agent), ("recipient", to_agent)):
        if not _name.match(name):
            raise FormatError(f"the {role} {name[:60]!r} is not 1-50 of letters, digits and ._-")
    if found := _control.search(subject):
        raise FormatError(f"the subject has a control character, {found[0]!r}")
    moment(at)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8 (byte {error.start})") from None


def parse_message(data: bytes) -> OldMessage:
    """The message in a `.msg` file's bytes. Raises FormatError.

    The header is five lines and ends at the first `body: |`. Of what follows, the first line is
    indented by two spaces and one newline ends it all; everything else is body, to the byte.
    """
    place = 0
    values = []
    for key in _HEADER:
        end = data.find(b"\n", place)
        line = data[place:] if end < 0 else data[place:end]
        if end < 0 or not line.startswith(key):
            raise FormatError(f"the header has no line '{key.decode().strip()}' in its place")
        values.append(_text(line[len(key):], f"the header's '{key.decode().strip()}'"))
        place = end + 1
    if not data.startswith(_BODY_LINE, place):
        raise FormatError("the header does not end with 'body: |'")
    body = data[place + len(_BODY_LINE):]
    if not body.startswith(b"  "):
        raise FormatError("the first line of the body is not indented by two spaces")
    if not body.endswith(b"\n"):
        raise FormatError("the file is cut short: its last byte is no newline")
    body = body[2:-1]
    if len(body) > BODY_BYTES_MAX:
        raise FormatError(f"the body is larger than {BODY_BYTES_MAX // 2**20} MiB")
    if b"\0" in body:
        raise FormatError("the body has a NUL byte")
    id_, from_agent, to_agent, subject, timestamp = values
    _checked(id_, from_agent, to_agent, subject, timestamp)
    return OldMessage(id_, from_agent, to_agent, subject, timestamp, _text(body, "the body"))


def render_message(message: OldMessage) -> bytes:
    """The bytes of a message's file."""
    return (f"id: {message.id}\nfrom: {message.from_agent}\nto: {message.to_agent}\n"
            f"subject: {message.subject}\ntimestamp: {message.timestamp}\n"
            f"body: |\n  {message.body}\n").encode()


def parse_event(line: bytes) -> OldEvent:
    """The event in a line of the log, given without its newline. Raises FormatError.

    Only the first five bars part fields: a subject may hold more of them.
    """
    fields = _text(line, "the line").split("|", 5)
    if len(fields) != 6:
        raise FormatError(f"the line has {len(fields)} of 6 fields")
    event = OldEvent(*fields)
    if event.type not in EVENT_TYPES:
        raise FormatError(f"the type {event.type[:20]!r} is not SENT, READ or DELETED")
    _checked(event.id, event.from_agent, event.to_agent, event.subject, event.at)
    return event


def render_event(event: OldEvent) -> bytes:
    """The line of an event, with its newline."""
    return ("|".join(event) + "\n").encode()
