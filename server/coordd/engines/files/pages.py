"""Pages of messages and the feed: rows chosen by the index, texts read from the log."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from coordd.engines.cursors import read_cursor, span_of
from coordd.engines.files import records
from coordd.engines.files.index import GONE, Index, Mailbox, wanted_marks
from coordd.engines.files.reader import Reader
from coordd.engines.files.records import SENT
from coordd.model import PRIORITY_RANK, Order, Priority
from coordd.store import (
    Change,
    Feed,
    MessageJson,
    Page,
    inbox_cursor,
)

_EMPTY: Final = Mailbox(0, "").version


class Pages:
    """What a store's reads answer, without waiting."""

    def __init__(self, index: Index, reader: Reader) -> None:
        self._index = index
        self._reader = reader

    def _page(self, rows: list[int], limit: int, letter: str) -> Page:
        """A page of `rows`, of which one more than `limit` shows that there is a next page."""
        messages = [MessageJson(self._reader.render(row)) for row in rows[:limit]]
        position = self._index.positions[rows[limit - 1]] if len(rows) > limit else None
        return Page(messages, None if position is None else f"{letter}{position}", 0)

    def inbox(self, agent: str, limit: int, order: Order, after: int | None, cursor: str | None,
              *, unread: bool, min_priority: Priority | None) -> Page:
        """See `Store.inbox`. A cursor keeps the order of the page that gave it."""
        newest, above, below = span_of(order, after, cursor)
        box = self._index.box_by_name.get(agent)
        if box is None:
            return Page([], None, 0, _EMPTY)
        rank = PRIORITY_RANK[min_priority] if min_priority else len(PRIORITY_RANK) - 1
        places = self._index.inbox_places(
            box, newest=newest, above=above, below=below, limit=limit + 1,
            wanted=wanted_marks(unread=unread, rank=rank))
        messages = self._reader.render_box(box, places[:limit])
        next_cursor = None
        if len(places) > limit:
            next_cursor = inbox_cursor("newest" if newest else "oldest",
                                       self._index.seqs[box.rows[places[limit - 1]]])
        return Page([MessageJson(message) for message in messages], next_cursor, box.last_seq,
                    box.version)

    def version(self, agent: str) -> int:
        """See `Store.version`. An agent that is not known has an inbox too: an empty one."""
        box = self._index.box_by_name.get(agent)
        return _EMPTY if box is None else box.version

    def sent(self, agent: str, limit: int, cursor: str | None) -> Page:
        """See `Store.sent`."""
        index = self._index
        box = index.box_by_name.get(agent)
        if box is None:
            return Page([], None, 0)
        end = len(box.sent)
        if cursor is not None:
            _, position = read_cursor(cursor, "b")
            end = bisect_left(box.sent, position, key=index.positions.__getitem__)
        rows = []
        for place in range(end - 1, -1, -1):
            row = box.sent[place]
            if index.state(row) != GONE:
                rows.append(row)
                if len(rows) > limit:
                    break
        return self._page(rows, limit, "b")

    def thread(self, thread_id: str, limit: int, cursor: str | None, party: str | None) -> Page:
        """See `Store.thread`."""
        index = self._index
        above = read_cursor(cursor, "a")[1] if cursor is not None else 0
        firsts = [row for row in index.thread_rows(thread_id)
                  if self._reader.core(row).thread_id == thread_id]
        root = self._reader.find(thread_id)
        if root is not None and self._reader.core(root).thread_id == thread_id:
            firsts.append(root)
        rows = [row for first in sorted(set(firsts)) for row in index.siblings(first)
                if index.positions[row] > above and index.state(row) != GONE
                and self.is_party(row, party)]
        return self._page(rows, limit, "a")

    def is_party(self, row: int, agent: str | None) -> bool:
        """Whether `agent` sent or received the row; None is everybody."""
        if agent is None:
            return True
        box = self._index.box_by_name.get(agent)
        return box is not None and box.number in (self._index.senders[row],
                                                  self._index.owners[row])

    def feed(self, after: int, limit: int) -> Feed:
        """See `Store.feed`."""
        index = self._index
        changes: list[Change] = []
        position = max(after, 0)
        while position < index.position and len(changes) < limit:
            position += 1
            if index.types[position] == SENT:
                rows = index.siblings(index.rows_at[position])
                record: records.Record = self._reader.record(rows.start)
                position = index.positions[rows[-1]]
            else:
                record = self._reader.entry(bisect_left(index.entry_positions, position))
            change = records.to_change(record, position)
            if change is not None:
                changes.append(change)
        return Feed(changes, position, index.position)
