"""The nouns of the work queue."""

from __future__ import annotations

import hashlib
from typing import Final, Literal, NamedTuple

import msgspec

from coordd.model import EVENT_TYPES, PRIORITY_RANK, Event, EventType, Priority
from coordd.store import Change

HookKind = Literal["webhook", "slack", "email"]
FIRST_WAIT_MAX_S: Final = 3600.0
REST_MAX_S: Final = 60.0
ERROR_LENGTH_MAX: Final = 300


class Occurrence(msgspec.Struct, gc=False):
    """An event as hooks are told of it: a line of the audit log, its id, the message's priority.

    `id` is the same in every store that the message is moved to: it is made of what happened.
    """

    id: str
    seq: int
    timestamp: str
    type: EventType
    message_id: str
    from_agent: str
    to_agent: str
    subject: str
    priority: Priority


class Hook(msgspec.Struct):
    """Whom to tell of which events. `target`: a URL, or an address of e-mail.

    `types`, `to_agent`, `min_priority` choose; none of a kind chooses all. `since`: events of this
    position and before are not for it. `secret` signs a webhook's requests.
    """

    id: str
    kind: HookKind
    target: str
    secret: str
    created_at: str
    since: int
    to_agent: str | None = None
    types: list[EventType] = []
    min_priority: Priority | None = None
    failures: int = 0
    """Calls that failed since the last that did not."""
    rests: bool = False
    """Whether it is left alone for now, having failed."""
    waiting: int = 0
    """Tasks of it that are not done and not dead."""
    done: int = 0
    failed: int = 0

    def wants(self, found: Occurrence) -> bool:
        """Whether it is to be told."""
        return (found.seq > self.since
                and (not self.types or found.type in self.types)
                and (self.to_agent is None or self.to_agent == found.to_agent)
                and (self.min_priority is None
                     or PRIORITY_RANK[found.priority] <= PRIORITY_RANK[self.min_priority]))


class TaskId(NamedTuple):
    """A task: that this hook is told of that event."""

    hook: str
    event: str


class NewTask(NamedTuple):
    """A task to store. `dead`: why it is not tried at all, "" where it is."""

    hook: str
    occurrence: Occurrence
    dead: str = ""


class Task(NamedTuple):
    """A task as a worker finds it. `busy`: another one has begun it, and may be at it still."""

    hook: Hook
    occurrence: Occurrence
    tries: int
    busy: bool


class DeadTask(msgspec.Struct):
    """A task that was tried as often as the settings say, and why the last try failed."""

    hook: str
    event: str
    type: EventType
    message_id: str
    to_agent: str
    tries: int
    error: str
    failed_at: str


class Link(NamedTuple):
    """A message's place in the chain: see chain.py. `pos` is that of its `sent` change."""

    pos: int
    message_id: str
    digest: bytes
    hash: bytes


class Folded(NamedTuple):
    """How far the ledger is: up to which position, and the hash of the last link."""

    position: int
    head: bytes


class HourCount(msgspec.Struct):
    """Messages of an hour (UTC), such as 2026-11-30T15."""

    hour: str
    messages: int


class Totals(msgspec.Struct):
    """The state of the work of a site, of `hooks` hooks. `cursor`: what is dispatched; `folded`:
    what is in the chain. Counts of tasks: `waiting` for a worker or another try, `queued` (handed
    out), `dead`.
    """

    hooks: int
    cursor: int
    folded: int
    head: str
    last: int
    waiting: int
    queued: int
    dead: int
    done: int
    failed: int
    dispatcher: str
    hours: list[HourCount]

    @property
    def lag(self) -> int:
        """Changes that are not dispatched; without a hook there is nothing to dispatch."""
        return self.last - self.cursor if self.hooks else 0


def event_id(type_: str, message_id: str, to_agent: str) -> str:
    """A delivery is sent, read, acknowledged, deleted, expired once each: that names the event."""
    text = "\n".join((type_, message_id, to_agent))
    return "evt_" + hashlib.sha256(text.encode()).hexdigest()[:32]


def occurrences_of(change: Change) -> list[Occurrence]:
    """The events of a `sent` change, one a delivery."""
    core = change.message
    if core is None:
        return []
    first = change.pos - len(change.deliveries) + 1
    return [Occurrence(event_id("SENT", core.id, to), first + nth, change.at, "SENT", core.id,
                       core.from_agent, to, core.subject, core.priority)
            for nth, (to, _) in enumerate(change.deliveries)]


MARKS: Final[dict[str, EventType]] = {
    name.lower(): name for name in EVENT_TYPES if name != "SENT"}
"""The type of a change → that of its event."""


def mark_of(change: Change, from_agent: str, subject: str, priority: Priority) -> Occurrence:
    """The event of a change of state, with what its message says."""
    type_ = MARKS[change.type]
    return Occurrence(event_id(type_, change.id, change.agent), change.pos, change.at, type_,
                      change.id, from_agent, change.agent, subject, priority)


def event_of(found: Occurrence) -> Event:
    """The line of the audit log."""
    return Event(found.seq, found.timestamp, found.type, found.message_id, found.from_agent,
                 found.to_agent, found.subject)


def wait_s(failures: int, first_s: float, longest_s: float = FIRST_WAIT_MAX_S) -> float:
    """How long to wait after that many failures in a row (from 1): doubled each time."""
    return float(min(first_s * 2 ** min(failures - 1, 30), longest_s))
