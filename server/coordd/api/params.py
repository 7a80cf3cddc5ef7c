"""The parameters that several calls share."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from coordd.http.router import Param
from coordd.model import (
    KEY_LENGTH_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    EventType,
    MessageId,
    Name,
    Order,
    Priority,
)

Time = Annotated[str, Meta(min_length=1, max_length=50, extra_json_schema={"format": "date-time"})]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
CURSOR_LENGTH_MAX: Final = 512

AGENT_PATH: Final = Param("agent", Name, "The agent's name.", required=True)
NAME_PATH: Final = Param("name", Name, "The name.", required=True)
ID_PATH: Final = Param("id", MessageId, "The message's id.", required=True)
THREAD_PATH: Final = Param("id", MessageId, "The thread's id.", required=True)
KEYID_PATH: Final = Param("keyid", Annotated[str, Meta(min_length=1, max_length=64)],
                          "The part of a token between its underscores.", required=True)

LIMIT: Final = Param("limit", Annotated[int, Meta(ge=1, le=PAGE_MAX)], "How many at most.",
                     default=PAGE_DEFAULT, whole=True)
CURSOR: Final = Param("cursor", Annotated[str, Meta(min_length=1, max_length=CURSOR_LENGTH_MAX)],
                      "The `next_cursor` of the page before.")
AFTER: Final = Param("after", Seq, "Only what has a higher `seq`.", whole=True)
SINCE: Final = Param("since", Time, "Only what happened then or later.")
UNTIL: Final = Param("until", Time, "Only what happened before.")
ORDER: Final = Param("order", Order, "Newest or oldest first.")
AGENT_QUERY: Final = Param("agent", Name, "Only what this agent sent or received.")
RECIPIENT: Final = Param("agent", Name, "Whose delivery; without it the token's own, else the "
                                        "only one.")
EVENT_TYPE: Final = Param("type", EventType, "Only events of this type.")
UNREAD: Final = Param("unread", bool, "Only unread messages.", default=False)
MIN_PRIORITY: Final = Param("min_priority", Priority, "Only this priority and more urgent ones.")

KEY: Final = Param(
    "Idempotency-Key",
    Annotated[str, Meta(min_length=1, max_length=KEY_LENGTH_MAX, pattern=r"^[\x21-\x7e]+$")],
    "The same key with the same request within 24 hours answers the same receipt: send it again "
    "where no answer came.")
LAST_EVENT_ID: Final = Param(
    "Last-Event-ID", Seq, "The last `id` that was received; wins over `after`.", whole=True)
EVENTS_ORDER: Final = Param("order", Order, "Newest or oldest first.", default="oldest")
