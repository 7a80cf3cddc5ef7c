"""The nouns of the message server, and the rules that a name or a text must keep.

Sizes are in bytes of UTF-8 unless a name says otherwise; times are RFC 3339 texts, kept as given.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

NAME_LENGTH_MAX: Final = 50
SUBJECT_LENGTH_MAX: Final = 200
BODY_BYTES_MAX: Final = 64 * 1024
ID_LENGTH_MAX: Final = 200
KEY_LENGTH_MAX: Final = 200
BATCH_MAX: Final = 1000
PAGE_MAX: Final = 1000
PAGE_DEFAULT: Final = 100
WAIT_MAX_S: Final = 60.0

PRIORITIES: Final = ("critical", "high", "normal", "low", "info")
"""From the most urgent to the least; a message's place in this tuple is its rank."""
PRIORITY_RANK: Final = {name: rank for rank, name in enumerate(PRIORITIES)}
STATES: Final = ("unread", "read", "acknowledged")
EVENT_TYPES: Final = ("SENT", "READ", "ACKED", "DELETED", "EXPIRED")

Priority = Literal["critical", "high", "normal", "low", "info"]
EventType = Literal["SENT", "READ", "ACKED", "DELETED", "EXPIRED"]
Order = Literal["newest", "oldest"]
Mark = Literal["read", "acked", "deleted"]

NAME_PATTERN: Final = r"^(?!\.+$)[A-Za-z0-9._-]{1,50}$"
GROUP_PATTERN: Final = r"^@(?!\.+$)[A-Za-z0-9._-]{1,50}$"
ID_PATTERN: Final = r"^[A-Za-z0-9._:+@=~-]{1,200}$"
"""Ids are text: those of the old file tool hold a time and a sender, ours are UUIDs (version 7)."""
SUBJECT_PATTERN: Final = r"^[^\x00-\x1f\x7f]*$"

_name = re.compile(NAME_PATTERN.replace("$", r"\Z"))
_id = re.compile(ID_PATTERN.replace("$", r"\Z"))
_subject = re.compile(SUBJECT_PATTERN.replace("$", r"\Z"))

# The patterns stand in the JSON schema only: a regular expression a field would cost the hot path
# more than the whole decoding does, so `service` checks each new name once and remembers it.
Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX,
                           extra_json_schema={"pattern": NAME_PATTERN})]
Recipient = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX + 1,
                                extra_json_schema={"pattern": NAME_PATTERN.replace("^", "^@?")})]
MessageId = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX,
                                extra_json_schema={"pattern": ID_PATTERN})]
Subject = Annotated[str, Meta(max_length=SUBJECT_LENGTH_MAX,
                              extra_json_schema={"pattern": SUBJECT_PATTERN})]
Body = Annotated[str, Meta(max_length=BODY_BYTES_MAX)]


def is_name(text: str) -> bool:
    """Whether `text` may name an agent or a group: 1-50 of letters, digits, `.`, `_`, `-`."""
    return _name.match(text) is not None


def is_id(text: str) -> bool:
    """Whether `text` may be a message's or a thread's id."""
    return _id.match(text) is not None


def is_subject(text: str) -> bool:
    """Whether `text` has no control characters: an event is one line (length not judged here)."""
    return _subject.match(text) is not None


class NewMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What an agent posts. `to_agent`: a name, a group (`@ops`) or a list of both."""

    from_agent: Name
    to_agent: Recipient | Annotated[list[Recipient], Meta(min_length=1)]
    subject: Subject
    body: Body
    priority: Priority = "normal"
    thread_id: MessageId | None = None
    in_reply_to: MessageId | None = None
    expires_at: str | None = None


class Core(msgspec.Struct, gc=False):
    """A message without its deliveries: what never changes once it is stored.

    `body` is None where only the event is left: the message was deleted or has expired, and its
    bytes were given back.
    """

    id: str
    from_agent: str
    subject: str
    body: str | None
    priority: Priority
    thread_id: str
    in_reply_to: str | None
    created_at: str
    expires_at: str | None


class Message(msgspec.Struct, gc=False, omit_defaults=True):
    """A message as one recipient sees it. `seq` is its place in that inbox, from 1.

    `archived` stands where it is gone and was found in the archive; the state is that before.
    """

    id: str
    seq: int
    from_agent: str
    to_agent: str
    subject: str
    body: str
    priority: Priority
    thread_id: str
    in_reply_to: str | None
    created_at: str
    expires_at: str | None
    state: Literal["unread", "read", "acknowledged"]
    read_at: str | None
    acked_at: str | None
    archived: bool = False


class Event(msgspec.Struct, gc=False):
    """One line of the audit log. `seq` rises by one an event, over the whole store."""

    seq: int
    timestamp: str
    type: EventType
    message_id: str
    from_agent: str
    to_agent: str
    subject: str


class Agent(msgspec.Struct):
    """An entry of the registry: who an agent says it is. An inbox needs no entry."""

    name: str
    description: str
    created_at: str
    updated_at: str


class Group(msgspec.Struct):
    """A name (without its `@`) that stands for its members when a message is sent."""

    name: str
    members: list[str]
    created_at: str
    updated_at: str


class Token(msgspec.Struct):
    """A credential `coord_<keyid>_<secret>`; of the secret only its SHA-256, in hex, is kept."""

    keyid: str
    agent: str
    secret_sha256: str
    created_at: str
    revoked_at: str | None = None
    admin: bool = False


def now_text() -> str:
    """The time now as RFC 3339, UTC, microseconds, `Z`."""
    return datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_time(text: str) -> datetime:
    """The moment that `text` names: RFC 3339, or the old tool's `+0000` without a colon.

    Raises ValueError for anything else, a time without an offset among it.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return moment


