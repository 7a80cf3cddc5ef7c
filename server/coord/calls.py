"""The calls of the API, as requests: what each takes and which path and body it becomes.

Arguments left None are left to the server. Times are RFC 3339 texts or aware datetimes.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from coord.errors import BadCall
from coord.protocol import Call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from coord.model import EventType, NewMessage, Order, Priority

SUBJECT_LENGTH_MAX = 200


def _path(*parts: str, **query: object) -> str:
    told = {name: value for name, value in query.items() if value is not None}
    try:
        path = "".join("/" + quote(part, safe="@") for part in ("api", "v1", *parts))
        return path + ("?" + urlencode(told) if told else "")
    except UnicodeEncodeError as error:
        raise _not_utf8(error) from None


def _body(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeEncodeError) -> BadCall:
    around = error.object[max(0, error.start - 10):error.start + 10]
    return BadCall(f"The text is not UTF-8 (near {around!r}): messages are UTF-8 text.")


def _key(key: str | None) -> str:
    return str(uuid.uuid4()) if key is None else key


def _time(moment: datetime | str | None) -> str | None:
    return moment if moment is None or isinstance(moment, str) else moment.isoformat()


def send(from_agent: str, to_agent: str | Sequence[str], subject: str, body: str, *,
         priority: Priority | None = None, thread_id: str | None = None,
         in_reply_to: str | None = None, expires_at: datetime | str | None = None,
         key: str | None = None) -> Call:
    """Send a message; the receipt says that it is durable.

    `to_agent`: a name, a group (`@ops`), or several of both. `key`: the Idempotency-Key, made here
    unless given; the same key and message answer the first one's receipt.
    """
    key = _key(key)
    told = {"from_agent": from_agent,
            "to_agent": to_agent if isinstance(to_agent, str) else list(to_agent),
            "subject": subject, "body": body, "priority": priority, "thread_id": thread_id,
            "in_reply_to": in_reply_to, "expires_at": _time(expires_at)}
    body_json = _body({name: value for name, value in told.items() if value is not None})
    return Call("POST", _path("messages"), body_json, key, again=f"coord send … --key {key}")


def send_batch(messages: Sequence[NewMessage | Mapping[str, Any]], *, key: str | None = None
               ) -> Call:
    """Send up to 1,000 messages: all of them are durable, or none. Receipts in the same order."""
    from coord.model import NewMessage  # here: the command has no batches and must start fast

    key = _key(key)
    told = [one.as_json() if isinstance(one, NewMessage) else dict(one) for one in messages]
    return Call("POST", _path("messages", "batch"), _body(told), key,
                again=f"send_batch(…, key={key!r})")


def reply(agent: str, message: Mapping[str, Any], body: str, *, priority: Priority | None = None,
          key: str | None = None) -> Call:
    """Answer `message` (its JSON), as its recipient `agent`: to its sender, in its thread."""
    call = send(agent, message["from_agent"], reply_subject(message["subject"]), body,
                priority=priority, in_reply_to=message["id"], key=key)
    return call._replace(again=f"coord reply … --key {call.key}")


def reply_subject(subject: str) -> str:
    """`Re: …`, once, in the length that a subject may have and on one line."""
    plain = "".join(letter if letter >= " " and letter != "\x7f" else " " for letter in subject)
    if plain[:3].lower() != "re:":
        plain = f"Re: {plain}"
    return plain if len(plain) <= SUBJECT_LENGTH_MAX else plain[:SUBJECT_LENGTH_MAX - 1] + "…"


def inbox(agent: str, *, limit: int | None = None, cursor: str | None = None,
          order: Order | None = None, after: int | None = None, unread: bool = False,
          min_priority: Priority | None = None, wait: float | None = None) -> Call:
    """A page of an inbox, newest first. `after`: only seqs above it, oldest first.

    `wait`: seconds (up to 60) that an empty page waits for its first message.
    """
    path = _path("inbox", agent, limit=limit, cursor=cursor, order=order, after=after,
                 unread="true" if unread else None, min_priority=min_priority, wait=wait)
    return Call("GET", path, wait_s=wait or 0.0)


def message(message_id: str, *, agent: str | None = None) -> Call:
    """A message as `agent` sees it; its state stays as it is."""
    return Call("GET", _path("messages", message_id, agent=agent))


def read(message_id: str, *, agent: str | None = None) -> Call:
    """Mark a message as read by its recipient `agent`; the message."""
    return Call("POST", _path("messages", message_id, "read", agent=agent))


def ack(message_id: str, *, agent: str | None = None) -> Call:
    """Acknowledge a message; the message."""
    return Call("POST", _path("messages", message_id, "ack", agent=agent))


def delete(message_id: str, *, agent: str | None = None) -> Call:
    """Delete a message from its recipient's inbox."""
    return Call("DELETE", _path("messages", message_id, agent=agent))


def sent(agent: str, *, limit: int | None = None, cursor: str | None = None) -> Call:
    """What `agent` sent, newest first, a message a recipient."""
    return Call("GET", _path("sent", agent, limit=limit, cursor=cursor))


def thread(thread_id: str, *, limit: int | None = None, cursor: str | None = None) -> Call:
    """A thread, oldest first; empty for an unknown one."""
    return Call("GET", _path("threads", thread_id, limit=limit, cursor=cursor))


def search(query: str, *, agent: str | None = None, limit: int | None = None,
           cursor: str | None = None) -> Call:
    """Messages with every word of `query`, newest first; `agent`: that it sent or received."""
    return Call("GET", _path("search", q=query, agent=agent, limit=limit, cursor=cursor))


def agents() -> Call:
    """The registry of agents, by name."""
    return Call("GET", _path("agents"))


def agent(name: str) -> Call:
    """An agent's entry in the registry."""
    return Call("GET", _path("agents", name))


def put_agent(name: str, description: str) -> Call:
    """Write an agent's entry."""
    return Call("PUT", _path("agents", name), _body({"description": description}))


def groups() -> Call:
    """The groups, by name."""
    return Call("GET", _path("groups"))


def group(name: str) -> Call:
    """A group; `name` is without its `@`."""
    return Call("GET", _path("groups", name))


def put_group(name: str, members: Sequence[str]) -> Call:
    """Write a group; its earlier members are replaced."""
    return Call("PUT", _path("groups", name), _body({"members": list(members)}))


def events(*, agent: str | None = None, type: EventType | None = None,  # noqa: A002  the API's word
           after: int | None = None, since: datetime | str | None = None,
           until: datetime | str | None = None, order: Order | None = None,
           limit: int | None = None, cursor: str | None = None) -> Call:
    """A page of the audit log, oldest first unless `order` is newest; since <= time < until."""
    return Call("GET", _path("events", agent=agent, type=type, after=after, since=_time(since),
                             until=_time(until), order=order, limit=limit, cursor=cursor))


def stats() -> Call:
    """Counts by type, sender and recipient."""
    return Call("GET", _path("stats"))


def ready() -> Call:
    """Prove that the server can store a message now; tried until it can, or the deadline."""
    return Call("GET", "/ready")
