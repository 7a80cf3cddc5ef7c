"""A store as a list of messages: slow, in memory, and plain enough to be right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordd.model import PRIORITY_RANK, Message
from coordd.store import Claim, Draft, KeyConflictError, Receipt

if TYPE_CHECKING:
    from coordd.model import Mark, Order, Priority


@dataclass
class Delivery:
    """A message in an inbox."""

    draft: Draft
    id: str
    thread_id: str
    created_at: str
    to: str
    seq: int
    read: bool = False
    acked: bool = False
    deleted: bool = False

    @property
    def state(self) -> str:
        return "acknowledged" if self.acked else "read" if self.read else "unread"

    def is_shown_by(self, message: Message) -> bool:
        """Whether `message` is this delivery; its times are the store's own."""
        return (
            (message.id, message.seq, message.to_agent) == (self.id, self.seq, self.to)
            and (message.from_agent, message.subject, message.body)
            == (self.draft.from_agent, self.draft.subject, self.draft.body)
            and (message.priority, message.in_reply_to) == (
                self.draft.priority, self.draft.in_reply_to)
            and (message.thread_id, message.created_at) == (self.thread_id, self.created_at)
            and message.state == self.state
            and (message.read_at is not None) == self.read
            and (message.acked_at is not None) == self.acked
        )


@dataclass
class Model:
    """What the port promises, over a list."""

    deliveries: list[Delivery] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    """(type, message id, recipient)."""
    claims: dict[tuple[str, str], tuple[str, list[Receipt]]] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    sealed: int | None = None
    epoch: int = 0

    def expected(self, drafts: list[Draft]) -> list[list[tuple[str, int]]]:
        """The deliveries that an append of `drafts` must answer."""
        last = {to: self.last_seq(to) for draft in drafts for to in draft.recipients}
        answer = []
        for draft in drafts:
            places = []
            for to in draft.recipients:
                last[to] += 1
                places.append((to, last[to]))
            answer.append(places)
        return answer

    def known(self, claim: Claim | None) -> list[Receipt] | None:
        """The receipts of a claim that was used. Raises KeyConflictError."""
        if claim is None or (claim.sender, claim.key) not in self.claims:
            return None
        digest, receipts = self.claims[claim.sender, claim.key]
        if digest != claim.digest:
            raise KeyConflictError("the key was used before")
        return receipts

    def append(self, drafts: list[Draft], receipts: list[Receipt], claim: Claim | None) -> None:
        for draft, receipt in zip(drafts, receipts, strict=True):
            for to, seq in receipt.deliveries:
                self.deliveries.append(Delivery(
                    draft, receipt.id, receipt.thread_id, receipt.created_at, to, seq))
                self.events.append(("SENT", receipt.id, to))
        if claim is not None:
            self.claims[claim.sender, claim.key] = (claim.digest, receipts)

    def mark(self, message_id: str, agent: str, mark: Mark) -> Delivery | None:
        for each in self.deliveries:
            if (each.id, each.to) == (message_id, agent):
                if each.deleted and mark != "deleted":
                    return None
                name = {"read": "read", "acked": "acked", "deleted": "deleted"}[mark]
                if not getattr(each, name):
                    setattr(each, name, True)
                    self.events.append((mark.upper(), message_id, agent))
                return each
        return None

    def last_seq(self, agent: str) -> int:
        return max((each.seq for each in self.deliveries if each.to == agent), default=0)

    def shown(self) -> list[Delivery]:
        """Deliveries in commit order, without the deleted ones."""
        return [each for each in self.deliveries if not each.deleted]

    def inbox(self, agent: str, *, order: Order, after: int, unread: bool,
              min_priority: Priority | None) -> list[Delivery]:
        rank = PRIORITY_RANK[min_priority or "info"]
        found = [
            each for each in self.shown()
            if each.to == agent and each.seq > after
            and (not unread or each.state == "unread")
            and PRIORITY_RANK[each.draft.priority] <= rank
        ]
        return found[::-1] if order == "newest" else found

    def search(self, query: str, party: str | None) -> list[Delivery]:
        return [
            each for each in reversed(self.shown())
            if party in (None, each.to, each.draft.from_agent)
            and all(word.casefold() in f"{each.draft.subject}\n{each.draft.body}".casefold()
                    for word in query.split())
        ]

    def thread(self, thread_id: str, party: str | None) -> list[Delivery]:
        return [
            each for each in self.shown()
            if each.thread_id == thread_id and party in (None, each.to, each.draft.from_agent)
        ]
