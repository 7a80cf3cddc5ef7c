"""How an inbox is kept in Redis: one sorted set, so that it is there as a whole or not at all.

Key: `coordd:v1:<generation>:inbox:<agent>`; v1 is this format's number. Members:

    score 0     the head, `v<version> <last seq> <floor> <messages> <bytes>`
    score seq   a message's JSON behind eight characters that only this inbox has

All messages with a seq above the floor are there; 0: the whole inbox. A set that has another
number of messages than its head says, or a member without the inbox's eight characters, was
written by somebody else: it is counted, removed, and never shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from coordd.cache.link import Argument, Command, Link
from coordd.model import Order
from coordd.rules import decoder_of
from coordd.store import MessageJson, Page, inbox_cursor

FORMAT: Final = "v1"
MESSAGES_MAX: Final = 300
BYTES_MAX: Final = 1 << 20
LIFE_MS: Final = 3_600_000
"""How long Redis keeps an inbox that does not change, where it has the room."""
SEQ_MAX: Final = 1 << 53
"""Scores are doubles: seqs below it are exact."""
_TAG: Final = 8
_HEAD: Final = re.compile(rb"v(\d+) (\d+) (\d+) (\d+) \d+")


def _script(name: str) -> str:
    return (files("coordd.cache") / name).read_text(encoding="ascii")


_FILL: Final = _script("fill.lua")
_PATCH: Final = _script("patch.lua")


class _Place(msgspec.Struct):
    seq: int


_decode_place: Final[Callable[[MessageJson], _Place]] = decoder_of(_Place)


class Miss(Enum):
    """Why there is no page."""

    ABSENT = "no content of this version"
    SHORT = "the content does not reach far enough"
    BROKEN = "not what this cache writes"
    FAILED = "Redis did not answer"


class Entry(NamedTuple):
    """A message of an inbox."""

    seq: int
    json: bytes


class Inboxes:
    """The cached inboxes of one generation. `errors` counts content that somebody else wrote."""

    def __init__(self, link: Link, generation: str) -> None:
        self._link = link
        self._generation = generation
        self.errors = 0

    def key(self, agent: str) -> str:
        """The inbox's key in Redis."""
        return f"coordd:{FORMAT}:{self._generation}:inbox:{agent}"

    def tag(self, agent: str) -> bytes:
        """The characters that the members of an inbox begin with."""
        text = f"{self._generation}:{agent}".encode()
        return blake2b(text, digest_size=_TAG // 2).hexdigest().encode()

    async def read(self, agent: str, version: int, order: Order, above: int, limit: int
                   ) -> Page | Miss:
        """At most `limit` messages with a seq over `above`, from content of that version."""
        key, over = self.key(agent), f"({above}"
        if order == "newest":
            wanted: Command = ("ZREVRANGEBYSCORE", key, "+inf", over, "LIMIT", 0, limit)
        else:
            wanted = ("ZRANGEBYSCORE", key, over, "+inf", "LIMIT", 0, limit)
        # No script: Redis would make each message a Lua string first, which takes longer than
        # all the rest.
        reply = await self._link.transaction(
            ("ZRANGEBYSCORE", key, "-inf", "(1"), ("ZCARD", key),
            ("ZCOUNT", key, over, "+inf"), wanted)
        if reply is None:
            return Miss.FAILED
        found = self._page(agent, version, order, above, limit, reply)
        if found is Miss.BROKEN:
            self.errors += 1
            self._link.call("UNLINK", key)
        return found

    def _page(self, agent: str, version: int, order: Order, above: int, limit: int, reply: Any
              ) -> Page | Miss:
        if not isinstance(reply, list) or [1 for each in reply if isinstance(each, ResponseError)]:
            return Miss.BROKEN
        heads, size, there, members = reply
        if size == 0:
            return Miss.ABSENT
        head = _HEAD.fullmatch(heads[0]) if len(heads) == 1 else None
        if head is None or size - 1 != int(head[4]):
            return Miss.BROKEN
        if int(head[1]) != version:
            return Miss.ABSENT
        if int(head[3]) > above and (order == "oldest" or there <= limit):
            return Miss.SHORT
        tag = self.tag(agent)
        if [1 for member in members if member[:_TAG] != tag]:
            return Miss.BROKEN
        messages = [MessageJson(member[_TAG:]) for member in members]
        cursor = None if there <= limit else inbox_cursor(order, _decode_place(messages[-1]).seq)
        return Page(messages, cursor, int(head[2]))

    def fill(self, agent: str, version: int, last_seq: int, floor: int, entries: Sequence[Entry]
             ) -> asyncio.Future[Any]:
        """Write all messages above `floor`; replies 2 when it is done."""
        tag = self.tag(agent)
        size = sum(len(entry.json) for entry in entries)
        head = f"v{version} {last_seq} {floor} {len(entries)} {size}"
        args: list[Argument] = ["EVAL", _FILL, 1, self.key(agent), LIFE_MS, head]
        for entry in entries:
            args += (entry.seq, tag + entry.json)
        return self._link.call(*args)

    def patch(self, agent: str, versions: tuple[int, int], last_seq: int,
              changes: Sequence[tuple[str, Entry]]) -> asyncio.Future[Any]:
        """Bring content of the first version to the second; replies 2 when it is done.

        Changes: ("add", message), idempotent; ("set", message), which is there; ("del", of which
        the seq counts).
        """
        tag = self.tag(agent)
        before, now = versions
        args: list[Argument] = ["EVAL", _PATCH, 1, self.key(agent), LIFE_MS, before, now,
                                last_seq, MESSAGES_MAX, 2 * BYTES_MAX]
        for what, entry in changes:
            args += (what, entry.seq, b"" if what == "del" else tag + entry.json)
        return self._link.call(*args)
