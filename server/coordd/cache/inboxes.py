"""How an inbox is kept in Redis: one sorted set, so that it is there as a whole or not at all.

Key: `coordd:v2:<generation>:inbox:<agent>`; v2 is this format's number. Members:

    score 0     the head, `v<version> <last seq> <floor> <messages>`
    score seq   a message's JSON

Each behind eight characters that only this inbox has: another's version may be the same number.
All messages with a seq above the floor are there; 0: the whole inbox. A set that has another
number of messages than its head says, or a member without the inbox's eight characters, was
written by somebody else: it is counted, removed, and never shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from coordd.cache.link import Argument, Command, Link
from coordd.model import Order
from coordd.rules import decoder_of
from coordd.store import MessageJson, Page, inbox_cursor

FORMAT: Final = "v2"
BYTES_MAX: Final = 1 << 20
"""A larger page is not kept."""
LIFE_MS: Final = 3_600_000
"""How long Redis keeps an inbox that does not change, where it has the room."""
SEQ_MAX: Final = 1 << 53
"""Scores are doubles: seqs below it are exact."""
_TAG: Final = 8
_HEAD: Final = re.compile(rb"v(\d+) (\d+) (\d+) (\d+)")


class _Place(msgspec.Struct):
    seq: int


_place: Final[Callable[[MessageJson], _Place]] = decoder_of(_Place)


def seq_of(message: MessageJson) -> int:
    """Its place in the inbox."""
    return _place(message).seq


class Inboxes:
    """The cached inboxes of one store, which is `generation`, known when the store is open.
    `errors` counts content that somebody else wrote.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.generation = ""
        self.errors = 0

    def key(self, agent: str) -> str:
        """The inbox's key in Redis."""
        return f"coordd:{FORMAT}:{self.generation}:inbox:{agent}"

    def tag(self, agent: str) -> bytes:
        """The characters that the members of an inbox begin with."""
        text = f"{self.generation}:{agent}".encode()
        return blake2b(text, digest_size=_TAG // 2).hexdigest().encode()

    def ask(self, agent: str, order: Order, above: int, limit: int) -> asyncio.Future[Any]:
        """Ask Redis for at most `limit` messages with a seq over `above`: a reply for `page`."""
        key, over = self.key(agent), f"({above}"
        if order == "newest":
            wanted: Command = ("ZREVRANGEBYSCORE", key, "+inf", over, "LIMIT", 0, limit)
        else:
            wanted = ("ZRANGEBYSCORE", key, over, "+inf", "LIMIT", 0, limit)
        return self._link.transaction(
            ("ZRANGEBYSCORE", key, "-inf", "(1"), ("ZCARD", key),
            ("ZCOUNT", key, over, "+inf"), wanted)

    def page(self, agent: str, version: int, order: Order, above: int, limit: int, reply: Any
             ) -> Page | None:
        """The page that was asked for, where the reply is content of `version` that reaches far
        enough.
        """
        if reply is None:
            return None
        try:
            return self._page(agent, version, order, above, limit, reply)
        except ValueError:
            self.errors += 1
            self._link.call("UNLINK", self.key(agent))
            return None

    def _page(self, agent: str, version: int, order: Order, above: int, limit: int, reply: Any
              ) -> Page | None:
        """Raises ValueError for what this cache does not write."""
        if not isinstance(reply, list) or [1 for each in reply if isinstance(each, ResponseError)]:
            raise ValueError("another type")
        heads, size, there, members = reply
        if size == 0:
            return None
        tag = self.tag(agent)
        if [1 for member in (*heads, *members) if member[:_TAG] != tag]:
            raise ValueError("another inbox's member")
        head = _HEAD.fullmatch(heads[0], _TAG) if len(heads) == 1 else None
        if head is None or size - 1 != int(head[4]):
            raise ValueError("another head")
        if int(head[1]) != version:
            return None
        if int(head[3]) > above and (order == "oldest" or there <= limit):
            return None
        messages = [MessageJson(member[_TAG:]) for member in members]
        # Decoded here, so that a member that is no message is found out too.
        cursor = None if there <= limit else inbox_cursor(order, seq_of(messages[-1]))
        return Page(messages, cursor, int(head[2]), version)

    def fill(self, agent: str, page: Page, floor: int) -> None:
        """Keep a page that shows all messages above `floor`. Nobody waits for it."""
        if (page.version == 0 or page.last_seq >= SEQ_MAX
                or sum(map(len, page.messages)) > BYTES_MAX):
            return
        key, tag = self.key(agent), self.tag(agent)
        head = f"v{page.version} {page.last_seq} {floor} {len(page.messages)}"
        members: list[Argument] = ["ZADD", key, 0, tag + head.encode()]
        for message in page.messages:
            members += (seq_of(message), tag + bytes(message))
        # No script: Redis would make each message a Lua string first, which takes as long as all
        # the rest. A Redis that is full refuses the transaction as a whole.
        self._link.transaction(("UNLINK", key), tuple(members), ("PEXPIRE", key, LIFE_MS))
