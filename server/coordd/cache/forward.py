"""A store that hands every call on to another: what a decorator of the port begins from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from coordd.model import Agent, Group, Mark, Order, Priority, Token
from coordd.store import (
    Change,
    Claim,
    Draft,
    EventPage,
    Feed,
    Imported,
    MessageJson,
    Page,
    Receipt,
    Stats,
    Store,
)

# ruff: noqa: D102 - the port's docstrings say it


class ForwardingStore:
    """See `coordd.store.Store` for what the methods promise. `inner` is the other store."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.shared = inner.shared

    @property
    def generation(self) -> str:
        return self.inner.generation

    @property
    def waiting(self) -> int | None:
        """How many messages wait for their commit, where the other store counts them."""
        return getattr(self.inner, "waiting", None)

    def reopen_logs(self) -> None:
        """Write logs anew under their names, where the other store has any."""
        reopen: Callable[[], None] | None = getattr(self.inner, "reopen_logs", None)
        if reopen is not None:
            reopen()

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def prove(self) -> None:
        await self.inner.prove()

    def on_commit(self, listener: Callable[[str, int], None]) -> None:
        self.inner.on_commit(listener)

    def append(self, drafts: Sequence[Draft], claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        return self.inner.append(drafts, claim)

    async def inbox(self, agent: str, *, limit: int, order: Order = "newest",
                    after: int | None = None, cursor: str | None = None, unread: bool = False,
                    min_priority: Priority | None = None) -> Page:
        return await self.inner.inbox(agent, limit=limit, order=order, after=after, cursor=cursor,
                                      unread=unread, min_priority=min_priority)

    async def version(self, agent: str) -> int:
        return await self.inner.version(agent)

    async def message(self, message_id: str) -> list[MessageJson]:
        return await self.inner.message(message_id)

    async def archived(self, message_id: str) -> list[MessageJson]:
        return await self.inner.archived(message_id)

    async def mark(self, message_id: str, agent: str, mark: Mark) -> MessageJson | None:
        return await self.inner.mark(message_id, agent, mark)

    async def sent(self, agent: str, *, limit: int, cursor: str | None = None) -> Page:
        return await self.inner.sent(agent, limit=limit, cursor=cursor)

    async def thread(self, thread_id: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        return await self.inner.thread(thread_id, limit=limit, cursor=cursor, party=party)

    async def search(self, query: str, *, limit: int, cursor: str | None = None,
                     party: str | None = None) -> Page:
        return await self.inner.search(query, limit=limit, cursor=cursor, party=party)

    async def events(self, *, limit: int, agent: str | None = None, type: str | None = None,  # noqa: A002
                     after: int | None = None, since: datetime | None = None,
                     until: datetime | None = None, cursor: str | None = None,
                     order: Order = "oldest") -> EventPage:
        return await self.inner.events(limit=limit, agent=agent, type=type, after=after,
                                       since=since, until=until, cursor=cursor, order=order)

    async def stats(self) -> Stats:
        return await self.inner.stats()

    async def put_agent(self, name: str, description: str) -> Agent:
        return await self.inner.put_agent(name, description)

    async def agent(self, name: str) -> Agent | None:
        return await self.inner.agent(name)

    async def agents(self) -> list[Agent]:
        return await self.inner.agents()

    async def put_group(self, name: str, members: list[str]) -> Group:
        return await self.inner.put_group(name, members)

    async def group(self, name: str) -> Group | None:
        return await self.inner.group(name)

    async def groups(self) -> list[Group]:
        return await self.inner.groups()

    async def put_token(self, token: Token) -> None:
        await self.inner.put_token(token)

    async def tokens(self) -> list[Token]:
        return await self.inner.tokens()

    async def feed(self, after: int, limit: int) -> Feed:
        return await self.inner.feed(after, limit)

    async def seal(self, epoch: int) -> int:
        return await self.inner.seal(epoch)

    async def unseal(self, epoch: int) -> None:
        await self.inner.unseal(epoch)

    async def sealed(self) -> int | None:
        return await self.inner.sealed()

    async def import_(self, changes: Sequence[Change]) -> Imported:
        return await self.inner.import_(changes)
