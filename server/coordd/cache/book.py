"""The dirty marks: which inboxes are being written, and the version that cached content must have.

The invariant that all of the cache rests on:

    While an inbox is clean, content in Redis that carries the inbox's present version is what the
    store would answer.

An inbox is marked dirty before a write is given to the store and clean when the write's outcome
is known and the command that brings Redis up to date is on its way. The end of a write gives the
inbox a version that was never used before. So whatever becomes of a command to Redis (lost, late,
done twice, undone by a flush, an eviction, a restart from an old dump): content is either of
the present version, and right, or of another one, and a miss. Nothing has to be cleaned up for
that, and nobody has to wait for Redis.

The marks are here and not in Redis since a mark there can be flushed or evicted between the
commit and the answer: a reader would then fill in what it read before the commit, and another one
be shown that after a third had seen the new message. A server that dies takes its marks with
it: the next one has another generation, and reads none of the old keys.

This is for one server a store. Several servers that share a cache need versions that the store
gives (a counter beside the inbox's last seq, raised in the same transaction, read before the
cache is asked): `Book` is the one place where versions and the generation come from.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable
from typing import Final

INBOXES_MAX: Final = 100_000
"""Inboxes known at once; past it all are forgotten, which costs a miss each."""
NEVER_US: Final = 1 << 62


class Inbox:
    """What is known of one inbox that is cached, is being written or is being read."""

    __slots__ = ("agent", "cached", "dirty", "ended", "expires_us", "low", "marking", "version")

    def __init__(self, agent: str, version: int) -> None:
        self.agent = agent
        self.version = version
        self.dirty = 0
        """Writes under way."""
        self.marking = 0
        """Those of them that are no sends."""
        self.cached = False
        """Whether Redis was given content of this version. A hint: Redis may have lost it."""
        self.expires_us = NEVER_US
        """When the first of the cached messages expires."""
        self.low = NEVER_US
        """The lowest new seq of the sends that have ended and are not in Redis yet."""
        self.ended = 0
        """How many sends those are; they count as dirty still."""


class Book:
    """The inboxes of one server. `generation` names its keys in Redis."""

    def __init__(self) -> None:
        self.generation = secrets.token_hex(8)
        self._versions = itertools.count(1)
        self._inboxes: dict[str, Inbox] = {}
        self._all_dirty = 0

    def inbox(self, agent: str) -> Inbox:
        """The agent's inbox, made where it is not known."""
        inbox = self._inboxes.get(agent)
        if inbox is None:
            if len(self._inboxes) >= INBOXES_MAX:
                self.forget_all()
            inbox = self._inboxes[agent] = Inbox(agent, next(self._versions))
        return inbox

    # Writes.

    def begin_send(self, agents: Iterable[str]) -> list[Inbox]:
        """Mark the inboxes dirty. Sends may overlap: their messages do not touch each other."""
        inboxes = []
        for agent in agents:
            inbox = self.inbox(agent)
            inbox.dirty += 1
            if inbox.marking:
                inbox.cached = False
            inboxes.append(inbox)
        return inboxes

    def begin_mark(self, agent: str) -> Inbox:
        """Mark the inbox dirty. A mark that is not alone with its inbox spoils the content: which
        of two answers about one message is the later one can't be told.
        """
        inbox = self.inbox(agent)
        if inbox.dirty:
            inbox.cached = False
        inbox.dirty += 1
        inbox.marking += 1
        return inbox

    def end_send(self, inbox: Inbox, count: int = 1) -> None:
        """Take back the dirty marks of `count` sends."""
        inbox.dirty -= count
        self.drop_idle(inbox)

    def end_mark(self, inbox: Inbox) -> None:
        """Take back the dirty mark of `begin_mark`."""
        inbox.marking -= 1
        self.end_send(inbox)

    def raise_version(self, inbox: Inbox) -> tuple[int, int]:
        """The inbox has changed: its version before and now."""
        before, inbox.version = inbox.version, next(self._versions)
        return before, inbox.version

    def forget(self, inbox: Inbox) -> None:
        """Redis has no content for the inbox that is right, or may have none."""
        self.raise_version(inbox)
        inbox.cached = False
        inbox.expires_us = NEVER_US

    def forget_all(self) -> None:
        """As `forget`, for every inbox."""
        for inbox in list(self._inboxes.values()):
            self.forget(inbox)
            self.drop_idle(inbox)

    def drop_idle(self, inbox: Inbox) -> None:
        """Let go of an inbox of which nothing needs to be known."""
        if not inbox.dirty and not inbox.cached and self._inboxes.get(inbox.agent) is inbox:
            del self._inboxes[inbox.agent]

    def begin_all(self) -> None:
        """Mark every inbox dirty, those that are not known too."""
        self._all_dirty += 1

    def end_all(self) -> None:
        """Take back the mark of `begin_all`."""
        self.forget_all()
        self._all_dirty -= 1

    # Reads.

    def is_clean(self, inbox: Inbox) -> bool:
        """Whether no write to the inbox is under way."""
        return not inbox.dirty and not self._all_dirty

    def is_unchanged(self, inbox: Inbox, version: int) -> bool:
        """Whether no write ended or began since the inbox was clean and of `version`."""
        return (self._inboxes.get(inbox.agent) is inbox and inbox.version == version
                and self.is_clean(inbox))
