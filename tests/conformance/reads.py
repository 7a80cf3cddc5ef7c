"""What the tests share: drafts with defaults, whole lists out of pages, all that a store shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordd.model import Event, Message, Priority
from coordd.store import Change, Draft, Receipt, Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from coordd.model import Order
    from coordd.store import MessageJson, Page, Store

_decode = msgspec.json.Decoder(Message).decode


def draft(
    to: str | Sequence[str] = "bob",
    *,
    by: str = "alice",
    subject: str = "subject",
    body: str = "body",
    priority: Priority = "normal",
    thread_id: str | None = None,
    in_reply_to: str | None = None,
    expires_at: str | None = None,
) -> Draft:
    recipients = (to,) if isinstance(to, str) else tuple(to)
    return Draft(
        by, recipients, subject, body, priority, thread_id, in_reply_to, expires_at
    )


async def send(store: Store, to: str | Sequence[str] = "bob", **fields: Any) -> Receipt:
    """One message, durable."""
    [receipt] = await store.append([draft(to, **fields)])
    return receipt


def decoded(messages: Iterable[MessageJson]) -> list[Message]:
    return [_decode(message) for message in messages]


async def walked(page: Callable[[str | None], Awaitable[Page]]) -> list[Message]:
    """All of a list, page by page from its first cursor to its last."""
    found: list[Message] = []
    cursor: str | None = None
    seen: set[str] = set()
    while True:
        piece = await page(cursor)
        found += decoded(piece.messages)
        cursor = piece.next_cursor
        if cursor is None:
            return found
        assert cursor not in seen, f"the cursor {cursor} comes back"
        seen.add(cursor)


async def inbox(
    store: Store, agent: str = "bob", *, limit: int = 1000, order: Order = "oldest",
    after: int | None = None, unread: bool = False, min_priority: Priority | None = None,
) -> list[Message]:
    """All of an inbox, oldest first unless told, `limit` a page."""
    return await walked(
        lambda cursor: store.inbox(
            agent, limit=limit, order=order, after=after, cursor=cursor, unread=unread,
            min_priority=min_priority,
        )
    )


async def sent(store: Store, agent: str, limit: int = 1000) -> list[Message]:
    return await walked(lambda cursor: store.sent(agent, limit=limit, cursor=cursor))


async def thread(
    store: Store, thread_id: str, *, limit: int = 1000, party: str | None = None
) -> list[Message]:
    return await walked(
        lambda cursor: store.thread(thread_id, limit=limit, cursor=cursor, party=party)
    )


async def search(
    store: Store, query: str, *, limit: int = 1000, party: str | None = None
) -> list[Message]:
    return await walked(
        lambda cursor: store.search(query, limit=limit, cursor=cursor, party=party)
    )


async def events(
    store: Store, *, limit: int = 1000, agent: str | None = None, type: str | None = None,  # noqa: A002
    after: int | None = None, since: datetime | None = None, until: datetime | None = None,
    order: Order = "oldest",
) -> list[Event]:
    found: list[Event] = []
    cursor: str | None = None
    while True:
        page = await store.events(
            limit=limit, agent=agent, type=type, after=after, since=since, until=until,
            cursor=cursor, order=order,
        )
        found += page.events
        cursor = page.next_cursor
        if cursor is None:
            return found


async def feed(store: Store, limit: int = 1000) -> list[Change]:
    """All changes there are."""
    found: list[Change] = []
    after = 0
    while True:
        piece = await store.feed(after, limit)
        found += piece.changes
        if piece.cursor >= piece.last:
            return found
        assert piece.cursor > after, f"the feed stands at {after} of {piece.last}"
        after = piece.cursor


def counted(stats: Stats) -> dict[str, Any]:
    """Statistics without the size on disk and without zeros."""
    return {
        "messages": stats.messages,
        "unread": stats.unread,
        "events": {kind: count for kind, count in stats.events.items() if count},
        "agents": {
            name: (entry.sent, entry.received, entry.unread)
            for name, entry in stats.agents.items()
            if entry.sent or entry.received or entry.unread
        },
    }


async def everything(store: Store) -> dict[str, Any]:
    """All that a store shows of its messages, to be compared with another's."""
    changes = await feed(store)
    cores = [change.message for change in changes if change.message is not None]
    names = sorted(
        {core.from_agent for core in cores}
        | {name for change in changes for name, _ in change.deliveries}
    )
    return {
        "inboxes": {name: await inbox(store, name) for name in names},
        "newest": {name: await inbox(store, name, order="newest") for name in names},
        "unread": {name: await inbox(store, name, unread=True) for name in names},
        "last": {name: (await store.inbox(name, limit=1)).last_seq for name in names},
        "messages": {core.id: decoded(await store.message(core.id)) for core in cores},
        "sent": {name: await sent(store, name) for name in names},
        "threads": {core.thread_id: await thread(store, core.thread_id) for core in cores},
        "events": await events(store),
        "stats": counted(await store.stats()),
        "agents": await store.agents(),
        "groups": await store.groups(),
        "tokens": await store.tokens(),
    }
