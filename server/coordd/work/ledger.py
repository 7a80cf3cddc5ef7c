"""The chain of messages and the messages of each hour, kept up from the feed in its order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC
from typing import Final

from coordd.model import parse_time
from coordd.store import Change
from coordd.work import chain
from coordd.work.model import Folded, HourCount, Link
from coordd.work.store import WorkStore

PAGE: Final = 100
"""Changes read at a time: a few milliseconds of a process that sends messages too."""
PAGES: Final = 20


class Ledger:
    """Extends the ledger of a site. It may be done by two at once: one of them is refused."""

    def __init__(self, store: WorkStore) -> None:
        self._store = store

    async def extend(self, until_s: float, *, pause: float = 0.0) -> int:
        """Go on to the feed's end, or as far as it gets until then (time.monotonic); the position.
        `pause`: rest that many times as long as a page took. Raises StoreError.
        """
        folded = await self._store.folded()
        while True:
            before = last = folded.position
            links: list[Link] = []
            hours = Counter[str]()
            for _ in range(PAGES):
                started_s = time.monotonic()
                feed = await self._store.feed(folded.position, PAGE)
                new, head = chain.extend(folded, feed.changes)
                links += new
                for change in feed.changes:
                    if change.type == "sent":
                        hours[hour_of(change)] += 1
                folded, last = Folded(feed.cursor, head), feed.last
                if folded.position >= last or time.monotonic() >= until_s:
                    break
                await asyncio.sleep((time.monotonic() - started_s) * pause)
            if folded.position == before:
                return before
            counts = [HourCount(hour, count) for hour, count in sorted(hours.items())]
            if not await self._store.fold(before, folded, links, counts):
                return before
            if folded.position >= last or time.monotonic() >= until_s:
                return folded.position


def hour_of(change: Change) -> str:
    """The hour in UTC in which it was sent: 2026-11-30T15."""
    text = change.at
    if text.endswith("Z"):
        return text[:13]
    try:
        return parse_time(text).astimezone(UTC).isoformat()[:13]
    except (ValueError, OverflowError):  # an import keeps a time as it was
        return text[:13]
