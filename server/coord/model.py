"""What the server answers, as values. Times are RFC 3339 texts, as the server keeps them."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Priority = Literal["critical", "high", "normal", "low", "info"]
State = Literal["unread", "read", "acknowledged"]
EventType = Literal["SENT", "READ", "ACKED", "DELETED", "EXPIRED"]
Order = Literal["newest", "oldest"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to send. `to_agent`: a name, a group (`@ops`), or several of both."""

    from_agent: str
    to_agent: str | Sequence[str]
    subject: str
    body: str
    priority: Priority | None = None
    thread_id: str | None = None
    in_reply_to: str | None = None
    expires_at: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The request's JSON: what is not told is left to the server."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        if not isinstance(self.to_agent, str):
            told["to_agent"] = list(self.to_agent)
        return told


@dataclass(frozen=True, slots=True)
class Message:
    """A message as one recipient sees it. `seq` is its place in that inbox, from 1.

    `archived`: it is gone and was found in the archive; the state is that before it went.
    """

    id: str
    seq: int
    from_agent: str
    to_agent: str
    subject: str
    body: str
    priority: Priority
    thread_id: str
    in_reply_to: str | None
    created_at: str
    expires_at: str | None
    state: State
    read_at: str | None
    acked_at: str | None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a list. `next_cursor` is None at the end; `last_seq` is the inbox's newest."""

    messages: tuple[Message, ...]
    next_cursor: str | None
    last_seq: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a message went: `seq` is its place in the inbox of `to_agent`."""

    to_agent: str
    seq: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof that a message is durable. `seq` is that of the first delivery."""

    id: str
    seq: int
    thread_id: str
    created_at: str
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log."""

    seq: int
    timestamp: str
    type: EventType
    message_id: str
    from_agent: str
    to_agent: str
    subject: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """A piece of the audit log. `last_seq` is the newest event's."""

    events: tuple[Event, ...]
    next_cursor: str | None
    last_seq: int


@dataclass(frozen=True, slots=True)
class Agent:
    """What an agent says of itself."""

    name: str
    description: str
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Group:
    """A name that stands for its members: a message to `@name` reaches each of them."""

    name: str
    members: tuple[str, ...]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class AgentStats:
    """What one agent has sent and received, ever, and has unread now."""

    sent: int
    received: int
    unread: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts. `events`: by type; `messages`: those not deleted."""

    messages: int
    unread: int
    events: Mapping[str, int]
    agents: Mapping[str, AgentStats]
    size_bytes: int


def build(kind: type[T], answer: Mapping[str, Any], **parts: object) -> T:
    """`kind` from the fields that `answer` has; `parts` are given in place of those.

    Fields of a newer server are passed over. Raises KeyError where one is missing that has no
    default.
    """
    names = [field.name for field in fields(kind)  # type: ignore[arg-type]
             if field.default is MISSING or field.name in answer]
    return kind(**{name: parts[name] if name in parts else answer[name] for name in names})


def receipt(answer: Mapping[str, Any]) -> Receipt:
    """A receipt from its JSON."""
    return build(Receipt, answer,
                 deliveries=tuple(build(Delivery, one) for one in answer["deliveries"]))


def message(answer: Mapping[str, Any]) -> Message:
    """A message from its JSON."""
    return build(Message, answer)


def page(answer: Mapping[str, Any]) -> Page:
    """A page from its JSON."""
    return build(Page, answer, messages=tuple(message(one) for one in answer["messages"]))


def event_page(answer: Mapping[str, Any]) -> EventPage:
    """A page of events from its JSON."""
    return build(EventPage, answer, events=tuple(build(Event, one) for one in answer["events"]))


def agent(answer: Mapping[str, Any]) -> Agent:
    """A registry entry from its JSON."""
    return build(Agent, answer)


def group(answer: Mapping[str, Any]) -> Group:
    """A group from its JSON."""
    return build(Group, answer, members=tuple(answer["members"]))


def stats(answer: Mapping[str, Any]) -> Stats:
    """Counts from their JSON."""
    return build(Stats, answer, agents={name: build(AgentStats, one)
                                        for name, one in answer["agents"].items()})


def receipts(answer: Mapping[str, Any]) -> list[Receipt]:
    """The receipts of a batch from their JSON."""
    return [receipt(one) for one in answer["receipts"]]


def agents(answer: Mapping[str, Any]) -> list[Agent]:
    """The registry from its JSON."""
    return [agent(one) for one in answer["agents"]]


def groups(answer: Mapping[str, Any]) -> list[Group]:
    """The groups from their JSON."""
    return [group(one) for one in answer["groups"]]


def nothing(answer: object) -> None:
    """For calls whose answer says no more than that it was done."""
