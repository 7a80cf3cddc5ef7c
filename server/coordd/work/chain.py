r"""The chain of messages: that none was changed, removed or put in between, shown by one hash.

    digest = SHA-256(canonical bytes of the message)
    hash   = SHA-256(hash before + digest), of the first message with 32 zero bytes before

in the order of the feed. The canonical bytes are the JSON array

    [id, from_agent, [[to_agent, seq], …], subject, body, priority, thread_id, in_reply_to,
     created_at, expires_at]

without white space, in UTF-8, only `"`, `\` and control characters escaped: what Python's
json.dumps(…, ensure_ascii=False, separators=(",", ":")) writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from coordd.store import Change
from coordd.work.model import Folded, Link

START: Final = bytes(32)
_encode: Final = msgspec.json.Encoder().encode


def canonical(change: Change) -> bytes:
    """The canonical bytes of the message that a `sent` change brings."""
    core = change.message
    assert core is not None  # noqa: S101 - the caller's choice
    return _encode((core.id, core.from_agent, change.deliveries, core.subject, core.body,
                    core.priority, core.thread_id, core.in_reply_to, core.created_at,
                    core.expires_at))


def extend(folded: Folded, changes: Sequence[Change]) -> tuple[list[Link], bytes]:
    """The links of the messages among `changes`, which follow; and the new head."""
    head = folded.head
    links = []
    for change in changes:
        if change.message is None:
            continue
        digest = hashlib.sha256(canonical(change)).digest()
        head = hashlib.sha256(head + digest).digest()
        links.append(Link(change.pos, change.message.id, digest, head))
    return links, head
