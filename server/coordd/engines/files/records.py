"""What stands in a frame's payload: one record a change. `t` tells which.

A record keeps what a `Change` holds, in fewer bytes; texts of other tools stay as they were.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coordd.model import Agent, Core, Group, Mark, Token
from coordd.store import Change, Claim

# One code a position, in Index.types.
SENT: Final = 1
READ: Final = 2
ACKED: Final = 3
DELETED: Final = 4
EXPIRED: Final = 5
ENTRY: Final = 6
"""A registry entry, a token or the seal: no event of the audit log."""

EVENT_NAMES: Final = ("", "SENT", "READ", "ACKED", "DELETED", "EXPIRED")
EVENT_CODES: Final = {name: code for code, name in enumerate(EVENT_NAMES) if name}
MARK_CODES: Final[dict[Mark | str, int]] = {
    "read": READ, "acked": ACKED, "deleted": DELETED, "expired": EXPIRED,
}

CORE_KEY: Final = b',"m":{'
"""What stands before the core in a sent record. No text in it can hold this: its quotes would be
escaped."""


class SentRecord(msgspec.Struct, tag_field="t", tag="sent", omit_defaults=True, kw_only=True,
                 gc=False):
    """A message and its deliveries. `at` stands where it is not the message's `created_at`.
    `m` comes last, so that a page can take it as it is.
    """

    to: list[tuple[str, int]]
    at: str | None = None
    key: Claim | None = None
    m: Core


class _CoreTime(msgspec.Struct, gc=False):
    created_at: str


class _SentTime(msgspec.Struct, gc=False):
    m: _CoreTime
    at: str | None = None


class MarkRecord(msgspec.Struct, tag_field="t", tag="mark", gc=False):
    """A delivery's new state."""

    type: Mark | str
    at: str
    id: str
    to: str


class EntryRecord(msgspec.Struct, tag_field="t", tag="entry", omit_defaults=True, gc=False):
    """One of a registry entry, a token and the seal (`epoch`, `sealed`)."""

    at: str
    agent: Agent | None = None
    group: Group | None = None
    token: Token | None = None
    epoch: int | None = None
    sealed: bool = False


Record = SentRecord | MarkRecord | EntryRecord

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_time_decoder: Final = msgspec.json.Decoder(_SentTime)


def encode(record: Record) -> bytes:
    """A record as JSON."""
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    """The record that `data` holds. Raises msgspec.DecodeError."""
    return _decoder.decode(data)


def sent_time(data: bytes) -> str:
    """When the message of a sent record was sent. Raises msgspec.DecodeError."""
    record = _time_decoder.decode(data)
    return record.at or record.m.created_at


def core_json(data: bytes) -> bytes:
    """The core of a sent record, as JSON without its closing brace."""
    return data[data.index(CORE_KEY) + 5 : -2]


def to_change(record: Record, position: int) -> Change | None:
    """The record as the feed gives it; None for a seal, which is the store's own."""
    if isinstance(record, SentRecord):
        return Change("sent", record.at or record.m.created_at, position, record.m, record.to,
                      record.key)
    if isinstance(record, MarkRecord):
        return Change(record.type, record.at, position, id=record.id, agent=record.to)  # type: ignore[arg-type]
    if record.agent:
        return Change("agent", record.at, position, agent_entry=record.agent)
    if record.group:
        return Change("group", record.at, position, group_entry=record.group)
    if record.token:
        return Change("token", record.at, position, token_entry=record.token)
    return None
