"""What an import does: decided over what the store has of the same messages and entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from coordd.engines.entries import ENTRIES, age, entry_of
from coordd.engines.postgres.commit import EVENT_TYPES
from coordd.engines.postgres.database import Row
from coordd.engines.times import text_to_us, to_moment
from coordd.model import PRIORITY_RANK, Agent, Group, Token
from coordd.store import Change, Claim, ImportRefusedError

_DELETED, _EXPIRED, _TO_BE_GONE = 3, 4, 5
_TEXT_LENGTH: Final = len("2026-01-31T12:00:00.000000Z")
_encode: Final[Callable[[Any], bytes]] = msgspec.json.encode


class Delivery:
    """A delivery as it is, and as the import leaves it."""

    __slots__ = ("acked_at", "expires_us", "from_agent", "message", "pos", "priority", "read_at",
                 "seq", "state", "subject", "to_agent")

    def __init__(self, pos: int, message: int, seq: int, to_agent: str, from_agent: str,
                 subject: str, state: int = 0, *, priority: int = 0, expires_us: int | None = None,
                 read_at: str | None = None, acked_at: str | None = None) -> None:
        self.pos = pos
        self.message = message
        self.seq = seq
        self.to_agent = to_agent
        self.from_agent = from_agent
        self.subject = subject
        self.state = state
        self.priority = priority
        self.expires_us = expires_us
        self.read_at = read_at
        self.acked_at = acked_at


class Rows(NamedTuple):
    """Rows to add. Messages and events: their columns, in the order of the COPY commands."""

    messages: list[Row]
    deliveries: list[Delivery]
    events: list[Row]


class AgentCounts:
    """How much an agent's counts change."""

    __slots__ = ("received", "sent", "unread")

    def __init__(self) -> None:
        self.received = self.sent = self.unread = 0


class Counts:
    """How much the store's counts change."""

    def __init__(self) -> None:
        self.messages = 0
        self.unread = 0
        self.events: dict[str, int] = defaultdict(int)
        self.agents: dict[str, AgentCounts] = defaultdict(AgentCounts)


class Plan:
    """The rows that an import adds and changes. `position`: that of the newest change."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.last_seqs: dict[str, int] = {}
        self.expires = False
        """Whether any of the messages does."""
        self.claims: list[tuple[Claim, int, int]] = []
        self.entries: list[Row] = []
        self.counts = Counts()
        self._deliveries: dict[str, dict[str, Delivery]] = {}
        self._entries: dict[tuple[str, str], Agent | Group | Token] = {}
        self._rows = Rows([], [], [])
        self._changed: dict[int, Delivery] = {}
        self._begin = position

    @property
    def changed(self) -> list[Delivery]:
        """The deliveries of the store that are not as they were."""
        return list(self._changed.values())

    def know(self, rows: Iterable[Row]) -> None:
        """Take the store's deliveries of messages that the changes speak of."""
        for (message_id, from_agent, subject, message, pos, to_agent, seq, state, read_at,
             acked_at) in rows:
            self._deliveries.setdefault(message_id, {})[to_agent] = Delivery(
                pos, message, seq, to_agent, from_agent, subject, state, read_at=read_at,
                acked_at=acked_at)

    def know_entries(self, rows: Iterable[Row]) -> None:
        """Take the registry's entries that the changes speak of."""
        for kind, name, entry in rows:
            self._entries[kind, name] = msgspec.json.decode(entry, type=ENTRIES[kind])

    def take(self) -> Rows:
        """The rows that were added since the last time. What changes of them is an update then."""
        rows, self._rows = self._rows, Rows([], [], [])
        self._begin = self.position
        return rows

    def apply(self, changes: Sequence[Change], moments: Sequence[int], first: int) -> int:
        """Plan changes, of which the first has that place in the import; how many there were to
        apply. Raises ImportRefusedError.
        """
        applied = 0
        for number, (change, us) in enumerate(zip(changes, moments, strict=True), first):
            try:
                if change.type == "sent":
                    applied += self._sent(change, us)
                elif change.type in ENTRIES:
                    applied += self._entry(change)
                else:
                    applied += self._mark(change, us)
            except ValueError as error:
                raise ImportRefusedError(number, str(error)) from error
        return applied

    def _sent(self, change: Change, us: int) -> bool:
        core = change.message
        assert core is not None
        here = self._deliveries.get(core.id)
        if here is not None:
            if here.keys() != {name for name, _ in change.deliveries}:
                raise ValueError(f"message {core.id} is here with other recipients")
            return False
        at, at_text = _event_time(us, change.at)
        rank = PRIORITY_RANK[core.priority]
        expires_us = None if core.expires_at is None else text_to_us(core.expires_at)
        gone = core.body is None
        message = self.position + len(change.deliveries)
        here = self._deliveries[core.id] = {}
        self.expires = self.expires or expires_us is not None
        counts, last_seqs, rows = self.counts, self.last_seqs, self._rows
        for name, seq in change.deliveries:
            last = last_seqs.get(name, 0)
            given = seq or last + 1
            if given <= last:
                raise ValueError(f"seq {given} of inbox {name} is not above {last}, its last one")
            last_seqs[name] = given
            self.position += 1
            delivery = here[name] = Delivery(
                self.position, message, given, name, core.from_agent, core.subject,
                _TO_BE_GONE if gone else 0, priority=rank, expires_us=expires_us)
            rows.deliveries.append(delivery)
            rows.events.append((self.position, at, given, EVENT_TYPES["SENT"], core.id,
                                core.from_agent, name, core.subject, at_text))
            counts.agents[name].received += 1
            if not gone:
                counts.agents[name].unread += 1
                counts.unread += 1
                counts.messages += 1
        counts.agents[core.from_agent].sent += len(change.deliveries)
        counts.events["sent"] += len(change.deliveries)
        rows.messages.append((
            message, core.id, core.from_agent, core.subject, core.body, core.created_at,
            None if core.thread_id == core.id else core.thread_id, core.in_reply_to,
            core.expires_at, len(change.deliveries), rank))
        if change.claim is not None:
            self.claims.append((change.claim, message, us))
        return True

    def _mark(self, change: Change, us: int) -> bool:
        delivery = self._deliveries.get(change.id, {}).get(change.agent)
        if delivery is None:
            raise ValueError(f"no message {change.id} to {change.agent} is here or before this")
        state = delivery.state
        if change.type == "read":
            if delivery.read_at is not None:
                return False
            delivery.read_at = change.at
            delivery.state = max(state, 1)
        elif change.type == "acked":
            if delivery.acked_at is not None:
                return False
            delivery.acked_at = change.at
            delivery.state = max(state, 2)
        else:
            if state in (_DELETED, _EXPIRED):
                return False
            delivery.state = _DELETED if change.type == "deleted" else _EXPIRED
            self.counts.messages -= state != _TO_BE_GONE
        if state == 0:
            self.counts.unread -= 1
            self.counts.agents[delivery.to_agent].unread -= 1
        else:
            _ = self.counts.agents[delivery.to_agent]  # its version is raised
        self.position += 1
        at, at_text = _event_time(us, change.at)
        kind = change.type.upper()
        self._rows.events.append((self.position, at, delivery.seq, EVENT_TYPES[kind], change.id,
                            delivery.from_agent, delivery.to_agent, delivery.subject, at_text))
        self.counts.events[change.type] += 1
        if delivery.pos <= self._begin:
            self._changed[delivery.pos] = delivery
        return True

    def entry_name(self, change: Change) -> str:
        """What the entry of a change is known by."""
        entry = entry_of(change)
        assert entry is not None
        return entry.keyid if isinstance(entry, Token) else entry.name

    def _entry(self, change: Change) -> bool:
        """An entry that is older than the one here is one that the store had before it."""
        entry = entry_of(change)
        assert entry is not None
        name = self.entry_name(change)
        known = self._entries.get((change.type, name))
        if known is not None and (entry == known or age(entry) < age(known)):
            return False
        self._entries[change.type, name] = entry
        self.position += 1
        self.entries.append((self.position, change.type, name, change.at,
                             _encode(entry).decode()))
        return True


def _event_time(us: int, text: str) -> tuple[datetime, str | None]:
    """The moment, and its text where it is not as this server writes it."""
    ours = len(text) == _TEXT_LENGTH and text[10] == "T" and text[19] == "." and text[26] == "Z"
    return to_moment(us), None if ours else text
