"""The reads, as statements. Put together from constant pieces; what users give is a parameter.

`%(shift)s` is added to the database's clock (microseconds, 0 but in tests).
"""

from __future__ import annotations

from typing import Final, LiteralString

_NOW: Final[LiteralString] = "(now() + %(shift)s * interval '1 microsecond')"
ALIVE: Final[LiteralString] = (
    f"delivery.state < 3 AND (delivery.expires IS NULL OR delivery.expires > {_NOW})")

SHOWN: Final[LiteralString] = """
message.id, delivery.seq, message.from_agent, delivery.to_agent, message.subject, message.body,
message.priority, message.thread_id, message.in_reply_to, message.created_at, message.expires_at,
delivery.state, delivery.read_at, delivery.acked_at"""

VERSION: Final[LiteralString] = (
    f"CASE WHEN inbox.next_expiry <= {_NOW} THEN 0 ELSE inbox.version END")


def _run(state: LiteralString, order: LiteralString) -> LiteralString:
    return f"""
    (SELECT * FROM coordd.deliveries AS delivery
      WHERE to_agent = %(agent)s AND state = {state} AND seq > %(above)s AND seq < %(below)s
        AND priority <= %(rank)s AND (expires IS NULL OR expires > {_NOW})
      ORDER BY seq {order} LIMIT %(limit)s)"""


def _inbox(order: LiteralString, *, unread: bool) -> LiteralString:
    """Rows (last_seq, version, message …); one with a NULL id for an inbox without a message."""
    runs = _run("0", order)
    if not unread:
        runs = f"{runs} UNION ALL {_run('1', order)} UNION ALL {_run('2', order)}"
    return f"""
SELECT inbox.last_seq, {VERSION}, {SHOWN}
  FROM coordd.inboxes AS inbox
  LEFT JOIN LATERAL (
    SELECT * FROM ({runs}) AS run ORDER BY seq {order} LIMIT %(limit)s) AS delivery ON true
  LEFT JOIN coordd.messages AS message ON message.pos = delivery.message
 WHERE inbox.agent = %(agent)s
 ORDER BY delivery.seq {order}"""


INBOX: Final[dict[tuple[bool, bool], LiteralString]] = {
    (newest, unread): _inbox("DESC" if newest else "ASC", unread=unread)
    for newest in (False, True) for unread in (False, True)}
"""By (newest first, unread only)."""

VERSIONS: Final[LiteralString] = f"""
SELECT inbox.agent, {VERSION} FROM coordd.inboxes AS inbox WHERE agent = ANY(%(agents)s)"""

# OFFSET 0 keeps the look-up one of each message: to the planner, which takes a range between
# unknown values for a two-hundredth of the table, reading all deliveries once looks cheaper.
DELIVERIES: Final[LiteralString] = """
 CROSS JOIN LATERAL (
   SELECT * FROM coordd.deliveries
    WHERE pos > message.pos - message.deliveries AND pos <= message.pos
    ORDER BY pos OFFSET 0) AS delivery"""

MESSAGE: Final[LiteralString] = f"""
SELECT {SHOWN} FROM coordd.messages AS message {DELIVERIES}
 WHERE message.id = %(id)s AND {ALIVE} ORDER BY delivery.pos"""

SENT: Final[LiteralString] = f"""
SELECT delivery.pos, {SHOWN}
  FROM coordd.events AS event
  JOIN coordd.deliveries AS delivery ON delivery.pos = event.pos
  JOIN coordd.messages AS message ON message.pos = delivery.message
 WHERE event.from_agent = %(agent)s AND event.type = 5 AND event.pos < %(below)s AND {ALIVE}
 ORDER BY event.pos DESC LIMIT %(limit)s"""


def _of_thread(messages: LiteralString) -> LiteralString:
    """What is shown of some messages, by place. Both sort keys: by the first the messages come,
    so that reading ends with the page.
    """
    return f"""
    (SELECT delivery.pos, {SHOWN} FROM ({messages}) AS message {DELIVERIES}
      WHERE delivery.pos > %(above)s AND {ALIVE} AND (
        %(party)s::text IS NULL OR message.from_agent = %(party)s OR delivery.to_agent = %(party)s)
      ORDER BY message.pos, delivery.pos LIMIT %(limit)s)"""


_FIRST: Final = _of_thread(
    "SELECT * FROM coordd.messages WHERE id = %(thread)s AND thread_id IS NULL")
_REPLIES: Final = _of_thread(
    "SELECT * FROM coordd.messages WHERE thread_id = %(thread)s AND pos > %(above)s "
    "ORDER BY pos OFFSET 0")
THREAD: Final[LiteralString] = f"{_FIRST} UNION ALL {_REPLIES} ORDER BY 1 LIMIT %(limit)s"

_EVENT: Final[LiteralString] = """
event.pos, coalesce(event.at_text, coordd.time_text(event.at)), event.type, event.message_id,
event.from_agent, event.to_agent, event.subject"""


def _events(order: LiteralString, agent: LiteralString) -> LiteralString:
    """The types' runs, each by its index. `agent`: a condition that the index begins with, or the
    one of the index of all agents.
    """
    return f"""
SELECT event.* FROM unnest(%(types)s::smallint[]) AS wanted (type)
 CROSS JOIN LATERAL (
   SELECT {_EVENT} FROM coordd.events AS event
    WHERE {agent} event.type = wanted.type AND event.pos > %(above)s AND event.pos < %(below)s
      AND event.at >= %(since)s AND event.at < %(until)s
    ORDER BY event.pos {order} LIMIT %(limit)s) AS event"""


def _all_events(order: LiteralString, *, of_agent: bool) -> LiteralString:
    if not of_agent:
        return f"{_events(order, 'event.pos > 0 AND')} ORDER BY pos {order} LIMIT %(limit)s"
    sent = _events(order, "event.from_agent = %(agent)s AND")
    received = _events(order, "event.to_agent = %(agent)s AND event.from_agent <> %(agent)s AND")
    return f"{sent} UNION ALL {received} ORDER BY 1 {order} LIMIT %(limit)s"


EVENTS: Final[dict[tuple[bool, bool], LiteralString]] = {
    (newest, of_agent): _all_events("DESC" if newest else "ASC", of_agent=of_agent)
    for newest in (False, True) for of_agent in (False, True)}
"""By (newest first, of one agent)."""

LAST_EVENT: Final[LiteralString] = "SELECT position FROM coordd.store"

COUNTS: Final[LiteralString] = """
SELECT messages, unread, sent, read, acked, deleted, expired FROM coordd.store"""
AGENT_COUNTS: Final[LiteralString] = """
SELECT agent, sent, received, unread FROM coordd.inboxes WHERE sent > 0 OR received > 0"""
SIZE: Final[LiteralString] = "SELECT pg_database_size(current_database())"

STORE: Final[LiteralString] = "SELECT id, sealed, epoch, position FROM coordd.store"

REGISTRY: Final[LiteralString] = """
SELECT entry FROM coordd.registry WHERE kind = %(kind)s ORDER BY name"""
TOKENS: Final[LiteralString] = """
SELECT entry FROM coordd.registry WHERE kind = 'token' ORDER BY first_pos"""
ENTRY: Final[LiteralString] = """
SELECT entry FROM coordd.registry WHERE kind = %(kind)s AND name = %(name)s"""
