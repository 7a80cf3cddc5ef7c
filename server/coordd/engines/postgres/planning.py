"""What an import does: decided over what the store has of the same messages and entries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from coordd.engines.entries import ENTRIES, age, entry_of
from coordd.engines.postgres.checks import Checks
from coordd.engines.postgres.commit import EVENT_TYPES
from coordd.engines.postgres.copying import DeliveryRow, EventRow, Fields, MessageRow, head
from coordd.engines.postgres.database import Row
from coordd.engines.times import text_to_us
from coordd.model import PRIORITY_RANK, Agent, Group, Token
from coordd.store import Change, Claim, ImportRefusedError

_SENT: Final = EVENT_TYPES["SENT"]
_DELETED, _EXPIRED, _TO_BE_GONE = 3, 4, 5
_SEQ_MAX: Final = 2**63 - 1
_encode: Final[Callable[[Any], bytes]] = msgspec.json.encode


class Delivery:
    """A delivery that marks speak of, as it is and as the import leaves it."""

    __slots__ = ("acked_at", "expires_us", "head", "message", "pos", "priority", "read_at", "seq",
                 "state", "to_agent")

    def __init__(self, head: bytes, row: DeliveryRow) -> None:
        self.head = head
        (self.pos, self.message, self.seq, self.state, self.priority, self.to_agent,
         self.expires_us, self.read_at, self.acked_at) = row

    def row(self) -> DeliveryRow:
        """To add."""
        return (self.pos, self.message, self.seq, self.state, self.priority, self.to_agent,
                self.expires_us, self.read_at, self.acked_at)


class Counts:
    """How much the store's counts change, and those of agents."""

    def __init__(self) -> None:
        self.messages = 0
        self.events: dict[str, int] = defaultdict(int)
        self.received: Counter[str] = Counter()
        self.sent: dict[str, int] = defaultdict(int)
        self.unread: Counter[str] = Counter()

    @property
    def agents(self) -> list[str]:
        """All that the changes concern, ordered."""
        return sorted({*self.received, *self.sent, *self.unread})


class Plan:
    """The rows that an import adds and changes. `position`: that of the newest change."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.last_seqs: dict[str, int] = {}
        self.applied = 0
        """Changes, without those that the store had."""
        self.expires = False
        """Whether any of the messages does."""
        self.heard: list[tuple[str, int]] = []
        """Recipients and seqs of the new deliveries."""
        self.messages: list[MessageRow] = []
        self.claims: list[tuple[Claim, int, int]] = []
        self.entries: list[Row] = []
        self.fields = Fields()
        self._checks = Checks()
        self._events: list[EventRow] = []
        self._added: list[DeliveryRow | Delivery] = []
        self._known: dict[str, dict[str, Delivery]] = {}
        self._places: dict[str, tuple[int, bytes]] = {}
        """Of messages that no later change spoke of yet: where its deliveries begin in `_added`,
        and its head. An object for each delivery would take longer than all else of a plan.
        """
        self._begin = position
        self._changed: dict[int, Delivery] = {}
        self._entries: dict[tuple[str, str], Agent | Group | Token] = {}
        self._counts = Counts()

    @property
    def changed(self) -> list[Delivery]:
        """The deliveries of the store that are not as they were."""
        return list(self._changed.values())

    @property
    def deliveries(self) -> Iterator[DeliveryRow]:
        """Those to add, as all changes of the import leave them."""
        return (each if isinstance(each, tuple) else each.row() for each in self._added)

    def know(self, rows: Iterable[Row]) -> None:
        """Take the store's deliveries of messages that the changes speak of."""
        for (message_id, from_agent, subject, message, pos, to_agent, seq, state, read_at,
             acked_at) in rows:
            self._known.setdefault(message_id, {})[to_agent] = Delivery(
                head(message_id, self.fields[from_agent], subject),
                (pos, message, seq, state, 0, to_agent, None, read_at, acked_at))

    def know_entries(self, rows: Iterable[Row]) -> None:
        """Take the registry's entries that the changes speak of."""
        for kind, name, entry in rows:
            self._entries[kind, name] = msgspec.json.decode(entry, type=ENTRIES[kind])

    def take_events(self) -> list[EventRow]:
        """Those that were added since the last time."""
        events, self._events = self._events, []
        return events

    def counts(self) -> Counts:
        """Of all changes."""
        counts = self._counts
        counts.received = Counter([name for name, _ in self.heard])
        counts.events["sent"] = len(self.heard)
        counts.messages += len(self.heard)
        counts.unread.update(counts.received)
        return counts

    def apply(self, changes: Sequence[Change], first: int) -> None:
        """Check and plan changes, of which the first has that place in the import. Raises
        ImportRefusedError.
        """
        number = first
        try:
            for change, us in zip(changes, self._checks.moments(changes), strict=True):
                if change.type == "sent":
                    self.applied += self._sent(change, us)
                elif change.type in ENTRIES:
                    self.applied += self._entry(change)
                else:
                    self.applied += self._mark(change, us)
                number += 1
        except ValueError as error:
            raise ImportRefusedError(number, str(error)) from error

    def _deliveries(self, message_id: str) -> dict[str, Delivery] | None:
        """By recipient, of a message that is in the store or was before in this import."""
        found = self._places.pop(message_id, None)
        if found is None:
            return self._known.get(message_id)
        place, the_head = found
        here = self._known[message_id] = {}
        row = self._added[place]
        assert isinstance(row, tuple)
        for number in range(place, place + row[1] - row[0] + 1):
            row = self._added[number]
            assert isinstance(row, tuple)
            here[row[5]] = self._added[number] = Delivery(the_head, row)
        return here

    def _sent(self, change: Change, us: int) -> bool:
        core = change.message
        assert core is not None
        message_id, sender = core.id, core.from_agent
        if message_id in self._places or message_id in self._known:
            here = self._deliveries(message_id)
            assert here is not None
            if here.keys() != {name for name, _ in change.deliveries}:
                raise ValueError(f"message {message_id} is here with other recipients")
            return False
        at_text = _other_text(change.at)
        rank = PRIORITY_RANK[core.priority]
        expires_us = None
        if core.expires_at is not None:
            expires_us = text_to_us(core.expires_at)
            self.expires = True
        state = _TO_BE_GONE if core.body is None else 0
        the_head = head(message_id, self.fields[sender], core.subject)
        self._places[message_id] = len(self._added), the_head
        last_seqs = self.last_seqs
        count = len(change.deliveries)
        pos = self.position
        self.position = message = pos + count
        for name, seq in change.deliveries:
            last = last_seqs.get(name, 0)
            given = seq or last + 1
            if not last < given <= _SEQ_MAX:
                raise ValueError(f"seq {given} of inbox {name} is not above {last}, its last one"
                                 if given <= last else f"seq {given} is above {_SEQ_MAX}")
            last_seqs[name] = given
            pos += 1
            self._added.append((pos, message, given, state, rank, name, expires_us, None, None))
            self._events.append((pos, us, given, _SENT, the_head, name, at_text))
            self.heard.append((name, given))
            if state:
                self._counts.messages -= 1
                self._counts.unread[name] -= 1
        self._counts.sent[sender] += count
        self.messages.append((message, count, rank, the_head, core))
        if change.claim is not None:
            self.claims.append((change.claim, message, us))
        return True

    def _mark(self, change: Change, us: int) -> bool:
        delivery = (self._deliveries(change.id) or {}).get(change.agent)
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
            self._counts.messages -= state != _TO_BE_GONE
        # An agent whose count stays is one whose version is raised.
        self._counts.unread[delivery.to_agent] -= state == 0
        self.position += 1
        self._events.append((self.position, us, delivery.seq, EVENT_TYPES[change.type.upper()],
                             delivery.head, delivery.to_agent, _other_text(change.at)))
        self._counts.events[change.type] += 1
        if delivery.pos <= self._begin:
            self._changed[delivery.pos] = delivery
        return True

    def _entry(self, change: Change) -> bool:
        """An entry that is older than the one here is one that the store had before it."""
        entry = entry_of(change)
        assert entry is not None
        name = name_of(entry)
        known = self._entries.get((change.type, name))
        if known is not None and (entry == known or age(entry) < age(known)):
            return False
        self._entries[change.type, name] = entry
        self.position += 1
        self.entries.append((self.position, change.type, name, change.at,
                             _encode(entry).decode()))
        return True


def name_of(entry: Agent | Group | Token) -> str:
    """What an entry is known by."""
    return entry.keyid if isinstance(entry, Token) else entry.name


def _other_text(text: str) -> str | None:
    """A time's text where it is not as this server writes it: 2026-01-31T12:00:00.000000Z."""
    ours = text[26:] == "Z" and text[10] == "T" and text[19] == "."
    return None if ours else text
