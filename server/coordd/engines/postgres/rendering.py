"""Rows of deliveries as the API's JSON."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from coordd.model import PRIORITIES, Message
from coordd.store import MessageJson

COLUMNS: Final = ("id", "seq", "from_agent", "to_agent", "subject", "body", "priority",
                  "thread_id", "in_reply_to", "created_at", "expires_at", "state", "read_at",
                  "acked_at")
_State = Literal["unread", "read", "acknowledged"]
_STATES: Final[tuple[_State, ...]] = ("unread", "read", "acknowledged")
_encode: Final = msgspec.json.Encoder().encode


def rendered(row: tuple[Any, ...]) -> MessageJson:
    """A message. `row`: the columns above; priority and state by number, thread_id None where it is
    the message's own id.
    """
    (id_, seq, from_agent, to_agent, subject, body, priority, thread_id, in_reply_to, created_at,
     expires_at, state, read_at, acked_at) = row
    return MessageJson(_encode(Message(
        id_, seq, from_agent, to_agent, subject, body, PRIORITIES[priority], thread_id or id_,
        in_reply_to, created_at, expires_at, _STATES[state], read_at, acked_at)))
