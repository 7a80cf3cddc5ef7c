"""A flush of sends: drafts of many callers as columns, and receipts out of one answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, LiteralString

from coordd.engines.postgres.arrays import bigints, ints, names, shorts, texts, texts_or_null
from coordd.engines.postgres.database import Row
from coordd.engines.postgres.queries import DELIVERIES
from coordd.engines.times import text_to_us
from coordd.model import PRIORITY_RANK
from coordd.push import payload_of
from coordd.store import Claim, Draft, Receipt

SEND: Final[LiteralString] = """
SELECT o_at, o_position, o_last_seqs, o_known FROM coordd.send_1(
  %(shift)s, %(notice)s, %(agents)s, %(received)s, %(sent)s,
  %(ids)s, %(senders)s, %(subjects)s, %(bodies)s, %(priorities)s, %(threads)s, %(replies)s,
  %(expires)s, %(expires_us)s, %(counts)s, %(ends)s,
  %(to)s, %(agent_numbers)s, %(nths)s,
  %(to_ids)s, %(to_senders)s, %(to_subjects)s, %(to_priorities)s, %(to_expires_us)s, %(to_ends)s,
  %(claim_senders)s, %(claim_keys)s, %(claim_digests)s, %(claim_counts)s, %(claim_ends)s)"""

_RECEIPTS: Final[LiteralString] = """
SELECT message.id, coalesce(message.thread_id, message.id), message.created_at,
       delivery.to_agent, delivery.seq
  FROM """
RECEIPTS_OF_IDS: Final[LiteralString] = f"""{_RECEIPTS} coordd.messages AS message {DELIVERIES}
 WHERE message.id = ANY(%(ids)s) ORDER BY delivery.pos"""
RECEIPTS_OF_CLAIM: Final[LiteralString] = f"""{_RECEIPTS} (
    SELECT * FROM coordd.messages WHERE pos >= %(pos)s ORDER BY pos LIMIT %(count)s) AS message
 {DELIVERIES}
 ORDER BY delivery.pos"""
CLAIMS: Final[LiteralString] = """
SELECT sender, key, digest, count, pos FROM coordd.claims
  JOIN unnest(%(senders)s, %(keys)s) AS given (sender, key) USING (sender, key)"""

_FAN_OUT: Final = ("to_ids", "to_senders", "to_subjects", "to_priorities", "to_expires_us",
                   "to_ends")
_MESSAGE_BYTES: Final = 400
"""What a message weighs in the queue besides its body."""


class Send:
    """One caller's messages. `twins`: later calls with the same claim, answered with it."""

    __slots__ = ("claim", "drafts", "future", "messages", "size", "twins")

    def __init__(self, drafts: Sequence[Draft], claim: Claim | None,
                 future: asyncio.Future[list[Receipt]]) -> None:
        self.drafts = drafts
        self.claim = claim
        self.future = future
        self.messages = len(drafts)
        self.size = sum([len(d.body) for d in drafts]) + _MESSAGE_BYTES * self.messages
        self.twins: list[Send] = []


class Flush:
    """The columns of some sends. Its ids stay the same when it is sent again, so that it is stored
    once however often an answer is lost.
    """

    def __init__(self, sends: Sequence[Send], shift_us: int, notice_of: str | None) -> None:
        self.sends = sends
        drafts = [draft for send in sends for draft in send.drafts]
        self.ids = _new_ids(len(drafts))
        self._threads = [d.thread_id for d in drafts]
        senders = [d.from_agent for d in drafts]
        self.to = [name for d in drafts for name in d.recipients]
        self._counts = [1] * len(drafts)
        fans_out = len(self.to) != len(drafts)
        if fans_out:
            self._counts = [len(d.recipients) for d in drafts]
        received: dict[str, int] = {}
        self.nths: list[int] = []
        nths = self.nths
        for name in self.to:
            nth = received.get(name, 0) + 1
            received[name] = nth
            nths.append(nth)
        sent = Counter(senders) if not fans_out else Counter(
            [name for name, count in zip(senders, self._counts, strict=True) for _ in range(count)])
        self.agents = sorted(received.keys() | sent.keys())
        number = {name: place for place, name in enumerate(self.agents, 1)}
        ends = list(accumulate(self._counts))
        expires = [d.expires_at for d in drafts]
        expires_us = None
        if expires.count(None) != len(expires):
            expires_us = bigints([_expiry_us(d) for d in drafts])
        self.parameters: dict[str, Any] = {
            "shift": shift_us,
            "notice": None if notice_of is None else payload_of(notice_of, received),
            "agents": texts(self.agents),
            "received": ints([received.get(name, 0) for name in self.agents]),
            "sent": ints([sent.get(name, 0) for name in self.agents]),
            "ids": texts(self.ids),
            "senders": names(senders),
            "subjects": texts([d.subject for d in drafts]),
            "bodies": texts([d.body for d in drafts]),
            "priorities": shorts([PRIORITY_RANK[d.priority] for d in drafts]),
            "threads": texts_or_null(self._threads),
            "replies": texts_or_null([d.in_reply_to for d in drafts]),
            "expires": texts_or_null(expires),
            "expires_us": expires_us,
            "counts": ints(self._counts),
            "ends": ints(ends),
            "to": names(self.to),
            "agent_numbers": ints([number[name] for name in self.to]),
            "nths": ints(nths),
            **(self._fan_out(drafts, ends, expires=expires_us is not None) if fans_out
               else dict.fromkeys(_FAN_OUT)),
            **self._claims(ends),
        }

    def _fan_out(self, drafts: Sequence[Draft], ends: list[int], *, expires: bool
                 ) -> dict[str, Any]:
        """The messages' columns for each delivery."""
        numbers = [number for number, count in enumerate(self._counts) for _ in range(count)]
        each = [drafts[number] for number in numbers]
        columns = (
            names([self.ids[number] for number in numbers]), names([d.from_agent for d in each]),
            names([d.subject for d in each]), shorts([PRIORITY_RANK[d.priority] for d in each]),
            bigints([_expiry_us(d) for d in each]) if expires else None,
            ints([ends[number] for number in numbers]))
        return dict(zip(_FAN_OUT, columns, strict=True))

    def _claims(self, ends: list[int]) -> dict[str, Any]:
        firsts, first = [], 0
        for send in self.sends:
            if send.claim is not None:
                firsts.append((send.claim, ends[first]))
            first += send.messages
        keys = ("claim_senders", "claim_keys", "claim_digests", "claim_counts", "claim_ends")
        if not firsts:
            return dict.fromkeys(keys)
        claims = [claim for claim, _ in firsts]
        columns = (texts([c.sender for c in claims]), texts([c.key for c in claims]),
                   texts([c.digest for c in claims]), ints([c.count for c in claims]),
                   ints([end for _, end in firsts]))
        return dict(zip(keys, columns, strict=True))

    def claimed(self, places: Sequence[int]) -> list[Send]:
        """The sends of the claims at those places, counted from 1."""
        claiming = [send for send in self.sends if send.claim is not None]
        return [claiming[place - 1] for place in places]

    def receipts(self, at: str, last_seqs: str) -> list[list[Receipt]]:
        """The receipts of each send, from what the database answered."""
        base = dict(zip(self.agents, map(int, last_seqs.split(",")), strict=True))
        places = [(name, base[name] + nth) for name, nth in zip(self.to, self.nths, strict=True)]
        found, message, delivery = [], 0, 0
        for send in self.sends:
            mine = []
            for _ in range(send.messages):
                end = delivery + self._counts[message]
                own = self.ids[message]
                mine.append(Receipt(own, self._threads[message] or own, at,
                                    places[delivery:end]))
                message, delivery = message + 1, end
            found.append(mine)
        return found


def _expiry_us(draft: Draft) -> int | None:
    return None if draft.expires_at is None else text_to_us(draft.expires_at)


def receipts_of(rows: Sequence[Row]) -> list[Receipt]:
    """Receipts out of rows of `RECEIPTS_OF_…`."""
    found: list[Receipt] = []
    for message_id, thread_id, created_at, to_agent, seq in rows:
        if not found or found[-1].id != message_id:
            found.append(Receipt(message_id, thread_id, created_at, []))
        found[-1].deliveries.append((to_agent, seq))
    return found


def _new_ids(count: int) -> list[str]:
    """UUIDs, version 7 (RFC 9562): the time in milliseconds, 12 bits of its microseconds, 22 random
    bits, and a counter from a random number on.
    """
    ms, us = divmod(time.time_ns() // 1000, 1000)
    high = 0x8000 | int.from_bytes(os.urandom(2), "big") >> 2
    first = int.from_bytes(os.urandom(6), "big") >> 1
    prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{us * 4096 // 1000:03x}-{high:04x}-"
    return [f"{prefix}{number:012x}" for number in range(first, first + count)]
