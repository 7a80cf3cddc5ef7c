"""The port between the service and its engines: what a store of messages promises.

The data's way: drafts → `append` (one commit order for each inbox) → pages, events and the feed.
A store answers only for what it has made durable. Everything that changes a store is a `Change`,
has a position in the feed and is at least one event; reading the feed from 0 and importing it into
an empty store of any engine makes the same store again.

Pages hold messages already encoded as the API's JSON: engines keep JSON or let their database
write it, and nothing in between needs the fields.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from coordd.model import Agent, Core, Event, Group, Mark, Order, Priority, Token

MessageJson = msgspec.Raw
"""A `model.Message`, encoded."""


class Draft(msgspec.Struct, gc=False):
    """A message to store: checked, its recipients known by name, without id, seq and time.

    `recipients` are distinct. `thread_id` None: the message begins a thread, named by its id.
    """

    from_agent: str
    recipients: tuple[str, ...]
    subject: str
    body: str
    priority: Priority = "normal"
    thread_id: str | None = None
    in_reply_to: str | None = None
    expires_at: str | None = None


class Claim(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An idempotency key as one sender used it. `digest` is that of the request, in hex;
    `count` is how many messages the request stored.
    """

    sender: str
    key: str
    digest: str
    count: int


class Receipt(msgspec.Struct, gc=False):
    """A message that is durable. `deliveries`: (recipient, seq), in the draft's order."""

    id: str
    thread_id: str
    created_at: str
    deliveries: list[tuple[str, int]]


class Page(msgspec.Struct, gc=False):
    """A piece of a list of messages. `next_cursor` is None at the end; `last_seq` is the newest
    seq of the inbox (0 in an empty one and for lists that are no inbox). `version`: see
    `Store.version`, of the moment that the page shows.
    """

    messages: list[MessageJson]
    next_cursor: str | None
    last_seq: int
    version: int = 0


def inbox_cursor(order: Order, seq: int) -> str:
    """The `next_cursor` of an inbox's page in that order whose last message has `seq`: the same
    for every engine, so that a page may come from a cache and the next one from the engine.
    """
    return f"{'b' if order == 'newest' else 'a'}{seq}"


class EventPage(msgspec.Struct, gc=False):
    """A piece of the audit log. `last_seq` is the newest event's, of the whole log."""

    events: list[Event]
    next_cursor: str | None
    last_seq: int


class AgentStats(msgspec.Struct, gc=False):
    """What one agent has sent and received, ever, and has unread now."""

    sent: int
    received: int
    unread: int


class Stats(msgspec.Struct):
    """Counts, kept up with every commit. `events`: by type; `messages`: those not deleted."""

    messages: int
    unread: int
    events: dict[str, int]
    agents: dict[str, AgentStats]
    size_bytes: int


class Change(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One entry of the feed. Which fields stand depends on `type`:

    sent: `message`, `deliveries` (seq 0 in an import: the store gives the next one), `claim`
    read, acked, deleted, expired: `id`, `agent` (the recipient whose delivery it is)
    agent, group, token: that one of the fields
    `at` is the time of the change, as text; `pos` its place in the feed (ignored in an import).
    A sent change of n deliveries is n events, `pos` that of the last.
    """

    type: Literal["sent", "read", "acked", "deleted", "expired", "agent", "group", "token"]
    at: str
    pos: int = 0
    message: Core | None = None
    deliveries: list[tuple[str, int]] = []
    claim: Claim | None = None
    id: str = ""
    agent: str = ""
    agent_entry: Agent | None = None
    group_entry: Group | None = None
    token_entry: Token | None = None


class Feed(msgspec.Struct):
    """Changes after a cursor. `cursor` is where to go on, `last` the newest position there is."""

    changes: list[Change]
    cursor: int
    last: int


class Imported(msgspec.Struct):
    """What an import did: `applied` changes, and `skipped` ones that the store had already."""

    applied: int
    skipped: int


class StoreError(Exception):
    """A store could not do what it was asked. What was acknowledged before is safe."""


class StoreBusyError(StoreError):
    """More is waiting to be committed than the store's bound. Nothing was stored; try later."""


class StoreFullError(StoreError):
    """There is no room on the store's disk. Nothing was stored."""


class StoreUnavailableError(StoreError):
    """The database can't be reached or does not answer in time. Nothing was stored."""


class StoreUnknownError(StoreError):
    """The answer to a commit was lost: it may be stored or not. The same request with the same
    idempotency key settles it.
    """


class StoreSealedError(StoreError):
    """The store is sealed: it takes imports only. Another store has the messages now."""


class StoreDamagedError(StoreError):
    """Bytes that were durable have changed or are gone. The text names the place."""


class StoreLockedError(StoreError):
    """Another server has this store open."""


class KeyConflictError(StoreError):
    """The idempotency key was used before, for another request."""


class BadCursorError(StoreError):
    """The cursor is none that this store gave."""


class ImportRefusedError(StoreError):
    """A change can't follow what the store holds. `index` is its place in the import."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"change {index}: {reason}")
        self.index = index
        self.reason = reason


class Store(Protocol):
    """What every engine offers. All times are durable before the awaited result is there.

    A caller that is cancelled has cancelled its waiting, never a commit.
    """

    shared: bool
    """Whether other servers write to it too, of whose commits `on_commit` may not tell."""

    @property
    def generation(self) -> str:
        """Names the store for a cache, once it is open: versions of two stores, or of a store
        before and after it was restored, do not mix.
        """

    async def open(self) -> None:
        """Recover and take the lock. Raises StoreLockedError, StoreDamagedError, OSError."""

    async def close(self) -> None:
        """Commit what is waiting, then let go."""

    async def prove(self) -> None:
        """Show that a message could be stored now, by a real durable write.

        Raises StoreFullError, StoreSealedError, StoreBusyError or another StoreError.
        """

    def on_commit(self, listener: Callable[[str, int], None]) -> None:
        """Call `listener(recipient, seq)` after each delivery's commit: a hint, not the data, and
        with several servers perhaps late or never for another one's commit.
        """

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        """Store all of `drafts` or none. Not a coroutine: the order of calls is the order kept.

        With a claim that is known and has the same digest, the earlier call's receipts.
        The awaitable (or the call) raises StoreBusyError, StoreFullError, StoreSealedError,
        KeyConflictError.
        """

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None,
                    unread: bool = False, min_priority: Priority | None = None) -> Page:
        """A page of an inbox, without deleted and expired messages.

        `after`: only seqs above it. A follower reads order="oldest" with after=the last seq seen.
        """

    async def version(self, agent: str) -> int:
        """A number that only the present content of the inbox has: any change to what one of its
        pages would show gives it another, which it never had before. So what was kept of a page
        with the same `version` is what the store would answer now. 0: nothing may be kept.
        """

    async def message(self, message_id: str) -> list[MessageJson]:
        """The deliveries of a message that are not deleted or expired; [] for an unknown id."""

    async def archived(self, message_id: str) -> list[MessageJson]:
        """The deliveries of a message that is in the archive, as they were before they went; [] for
        one that is not to be found there. Raises StoreUnavailableError.
        """

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        """Set a delivery's state, once: a repeat changes nothing and answers the same.

        None where `agent` has no such delivery. After "deleted", and on its repeats, the JSON is
        `{}`. Raises StoreSealedError, StoreBusyError, StoreFullError.
        """

    async def sent(self, agent: str, *, limit: int, cursor: str | None = None) -> Page:
        """What `agent` sent, a message a recipient, newest first."""

    async def thread(self, thread_id: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        """A thread, oldest first; with `party`, only what that agent sent or received."""

    async def search(self, query: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        """Messages whose subject or body has every word of `query`, any case, newest first."""

    async def events(self, *, limit: int, agent: str | None = None, type: str | None = None,  # noqa: A002
                     after: int | None = None, since: datetime | None = None,
                     until: datetime | None = None, cursor: str | None = None,
                     order: Order = "oldest") -> EventPage:
        """The audit log; `agent`: as sender or recipient; `after`: only seqs above it; `since`,
        `until`: only since <= time < until, in moments with an offset from UTC.
        """

    async def stats(self) -> Stats:
        """Counts, in constant time in the number of events."""

    async def put_agent(self, name: str, description: str) -> Agent:
        """Write a registry entry."""

    async def agent(self, name: str) -> Agent | None:
        """A registry entry."""

    async def agents(self) -> list[Agent]:
        """The registry, by name."""

    async def put_group(self, name: str, members: list[str]) -> Group:
        """Write a group; its earlier members are replaced. No members: the group is empty."""

    async def group(self, name: str) -> Group | None:
        """A group."""

    async def groups(self) -> list[Group]:
        """The groups, by name."""

    async def put_token(self, token: Token) -> None:
        """Write a token, or its new state. A revocation is final: an import never takes it back."""

    async def tokens(self) -> list[Token]:
        """All tokens, revoked ones too, in the order made."""

    async def feed(self, after: int, limit: int) -> Feed:
        """Changes after position `after`, oldest first, at most `limit`."""

    async def seal(self, epoch: int) -> int:
        """Refuse all writes but imports from here on, over restarts too; the feed's last position.

        Raises StoreError where `epoch` is below one that the store has seen.
        """

    async def unseal(self, epoch: int) -> None:
        """Take writes again. Raises StoreError where `epoch` is below one the store has seen."""

    async def sealed(self) -> int | None:
        """The epoch of the seal, None where the store takes writes."""

    async def import_(self, changes: Sequence[Change]) -> Imported:
        """Apply changes of another store or tool: ids, times and seqs kept, all durable or none.

        What the store has already (a message by its id, a state) is skipped, so that an import
        that was cut short can be run again. Works on a sealed store. Raises ImportRefusedError.
        """
