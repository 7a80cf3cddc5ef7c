"""Reading and marking: who may see which delivery, pages as JSON, long-polls and streams."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from coordd.auth import Identity
from coordd.hub import Hub, Subscription
from coordd.looks import Looks
from coordd.model import Mark
from coordd.problems import Fault, Problem, invalid, not_found
from coordd.rules import decoder_of
from coordd.store import MessageJson, Page, Store, StoreUnavailableError

STREAM_CHUNK: Final = 100
KEEP_ALIVE_S: Final = 15.0
LOOK_S: Final = 3.0
"""How often who waits looks by itself, where other servers store messages too."""
DELETED_REMEMBERED: Final = 10_000


class _Delivery(msgspec.Struct):
    seq: int
    from_agent: str
    to_agent: str


_decode_delivery: Final[Callable[[msgspec.Raw], _Delivery]] = decoder_of(_Delivery)


def page_json(page: Page) -> bytes:
    """The page as the API has it; messages are JSON already."""
    cursor = msgspec.json.encode(page.next_cursor)
    return b'{"messages":[%b],"next_cursor":%b,"last_seq":%d}' % (
        b",".join(page.messages), cursor, page.last_seq)


class Mailbox:
    """What one may read and mark. An agent's token opens its own; another's is as if not there."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._looks = Looks[Page]()
        self._look_s = LOOK_S if store.shared else KEEP_ALIVE_S
        self._deleted: dict[str, str] = {}
        """Message → recipient, of deletions that named no recipient: their repeats answer alike."""

    def own(self, identity: Identity, agent: str, what: str = "inbox") -> None:
        """Raises Problem (404) where the token is not that agent's."""
        if identity.agent is not None and identity.agent != agent:
            raise not_found(what)

    def party(self, identity: Identity, agent: str | None) -> str | None:
        """Whose history a list shows: `agent`'s, the token's; None is everybody's."""
        if agent is not None:
            self.own(identity, agent, "history")
        return agent if identity.agent is None else identity.agent

    def page(self, agent: str, **query: Any) -> Awaitable[Page]:
        """A page of an inbox, of a look at the store that others share who ask the same now."""
        return self._looks.ask((agent, *query.items()),
                               lambda: self._store.inbox(agent, **query))

    async def wait(self, agent: str, wait_s: float, query: dict[str, Any]) -> bytes:
        """A page; an empty one waits for the first message, `wait_s` at most."""
        deadline = time.monotonic() + wait_s
        with self._hub.subscribe(agent) as subscription:
            while True:
                page = await self.page(agent, **query)
                left_s = deadline - time.monotonic()
                if page.messages or left_s <= 0 or self._hub.closed:
                    return page_json(page)
                await self._news(agent, page, subscription, left_s)

    async def follow(self, agent: str, after: int | None) -> AsyncGenerator[bytes]:
        """Server-Sent Events of an inbox; None: from what arrives from now on.

        Ends when the hub is closed. The caller closes it when the client leaves.
        """
        self._hub.streams += 1
        try:
            with self._hub.subscribe(agent) as subscription:
                if after is None:
                    after = (await self.page(agent, limit=1)).last_seq
                yield b": connected\n\n"
                while not self._hub.closed:
                    page = await self.page(agent, limit=STREAM_CHUNK, order="oldest",
                                           after=after)
                    if page.messages:
                        seqs = [_decode_delivery(raw).seq for raw in page.messages]
                        after = seqs[-1]
                        yield b"".join([b"id: %d\nevent: message\ndata: %b\n\n" % (seq, raw)
                                        for seq, raw in zip(seqs, page.messages, strict=True)])
                    elif not await self._news(agent, page, subscription, KEEP_ALIVE_S):
                        yield b": keep-alive\n\n"
        finally:
            self._hub.streams -= 1

    async def _news(self, agent: str, page: Page, subscription: Subscription, limit_s: float
                    ) -> bool:
        """Whether there may be something new since `page`, within `limit_s`."""
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0:
            if await subscription.wait(min(left_s, self._look_s)):
                return True
            if self._store.shared:
                try:
                    version = await self._store.version(agent)
                except StoreUnavailableError:
                    continue  # who waits may wait for the database as well
                if not version or version != page.version:
                    return True
        return False

    async def message(self, identity: Identity, message_id: str, agent: str | None) -> bytes:
        """A message as `agent` sees it, out of the archive where it is gone and to be found there.
        Raises Problem (404, 422).
        """
        me = identity.agent
        found = (await self._deliveries(message_id)
                 or _opened(await self._store.archived(message_id)))
        seen = [(delivery, raw) for delivery, raw in found
                if me is None or me in (delivery.from_agent, delivery.to_agent)]
        wanted = agent if agent is not None else me
        for delivery, raw in seen:
            if delivery.to_agent == wanted:
                return bytes(raw)
        if agent is not None or not seen:
            raise not_found("message")
        if len(seen) > 1:
            raise _several()
        return bytes(seen[0][1])

    async def mark(self, identity: Identity, message_id: str, agent: str | None, mark: Mark
                   ) -> bytes:
        """Set a delivery's state; the message in it. Raises Problem (403, 404, 422)."""
        me = identity.agent
        recipient = agent if agent is not None else me
        if me is not None and recipient != me:
            raise await self._not_its_recipient(me, message_id)
        if recipient is None:
            recipient = await self._only_recipient(message_id)
            if mark == "deleted":
                self._remember(message_id, recipient)
        marked = await self._store.mark(message_id, recipient, mark)
        if marked is None:
            raise (await self._not_its_recipient(me, message_id) if me is not None
                   else not_found("message"))
        return bytes(marked)

    async def _deliveries(self, message_id: str) -> list[tuple[_Delivery, MessageJson]]:
        return _opened(await self._store.message(message_id))

    async def _only_recipient(self, message_id: str) -> str:
        deliveries = await self._deliveries(message_id)
        if len(deliveries) > 1:
            raise _several()
        if deliveries:
            return deliveries[0][0].to_agent
        if message_id in self._deleted:
            return self._deleted[message_id]
        raise not_found("message")

    def _remember(self, message_id: str, recipient: str) -> None:
        if len(self._deleted) >= DELETED_REMEMBERED:
            self._deleted.pop(next(iter(self._deleted)))
        self._deleted[message_id] = recipient

    async def _not_its_recipient(self, me: str, message_id: str) -> Problem:
        """403 to the sender, who may see the message; 404 to all others."""
        if any(delivery.from_agent == me for delivery, _ in await self._deliveries(message_id)):
            return Problem("forbidden", "only a message's recipient may mark or delete it")
        return not_found("message")


def _opened(found: Sequence[MessageJson]) -> list[tuple[_Delivery, MessageJson]]:
    return [(_decode_delivery(raw), raw) for raw in found]


def _several() -> Problem:
    return invalid([Fault("agent", "the message has several recipients: say whose with "
                                   "?agent=NAME")])
