"""The index: where each message stands in the log and what state its deliveries are in.

It holds numbers, no texts of messages: about 60 bytes a delivery. A row is one delivery; rows are
in commit order, and the rows of one message follow each other. Nothing here reads or writes a
file; everything here can be made again from the log.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cache
from heapq import heappush
from typing import TYPE_CHECKING, Final

from coordd.engines.files import records
from coordd.engines.files.hashindex import HashIndex
from coordd.engines.times import text_to_us, to_text
from coordd.model import Agent, Group, Token

if TYPE_CHECKING:
    from coordd.engines.files.commit import Run

# A delivery's mark is one byte: its state times 8 plus the rank of its priority.
UNREAD: Final = 0
READ: Final = 1
ACKED: Final = 2
GONE: Final = 3
_FIRST_GONE: Final = GONE * 8
_NATIVE_MASK: Final = (1 << 40) - 1


class Mailbox:
    """What the index knows of one agent. `rows`, `sent` and `changes` rise."""

    __slots__ = ("assigned", "changed", "changes", "last_seq", "marks", "name", "number", "rows",
                 "sent", "unread")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.rows = array("I")
        """Deliveries to the agent, by seq."""
        self.marks = bytearray()
        """One mark for each of `rows`."""
        self.sent = array("I")
        """Deliveries of what the agent sent."""
        self.changes = array("Q")
        """Positions of READ, ACKED, DELETED and EXPIRED events that concern the agent."""
        self.last_seq = 0
        self.assigned = 0
        """The last seq given to a message; ahead of `last_seq` while a commit is under way."""
        self.unread = 0
        self.changed = 0
        """How often a delivery's state has changed since the store was opened."""

    @property
    def version(self) -> int:
        """See `Store.version`. What a page shows changes only by a new delivery, which raises
        `last_seq`, or by a state, which raises `changed`; neither ever falls.
        """
        return 1 + self.last_seq + self.changed


@cache
def wanted_marks(*, unread: bool, rank: int) -> re.Pattern[bytes]:
    """Matches the marks of deliveries that are there, at least as urgent as `rank`."""
    states = (UNREAD,) if unread else (UNREAD, READ, ACKED)
    marks = bytes(8 * state + r for state in states for r in range(rank + 1))
    return re.compile(b"[" + re.escape(marks) + b"]")


class Index:
    """Columns by row, mailboxes by agent, events by position, and the small things whole."""

    def __init__(self) -> None:
        # By row.
        self.positions = array("Q")
        self.places = array("Q")
        self.sizes = array("I")
        self.senders = array("I")
        self.owners = array("I")
        self.seqs = array("Q")
        self.read_at = array("q")
        self.acked_at = array("q")
        self.thread_before = array("I")
        """The row + 1 of the message before in the same thread; 0: none, or a thread's first."""
        # By position, from 1.
        self.types = bytearray(b"\0")
        self.rows_at = array("I", [0])
        # By entry: a record in the log that is no message.
        self.entry_positions = array("Q")
        self.entry_places = array("Q")
        self.entry_sizes = array("I")

        self.boxes: list[Mailbox] = []
        self.box_by_name: dict[str, Mailbox] = {}
        self.foreign_ids = HashIndex()
        """The first row of each message whose id does not tell its position."""
        self.claims = HashIndex()
        self.threads = HashIndex()
        """The last row of each thread that has replies."""
        self.odd_times: dict[str, str] = {}
        """`<row>r` or `<row>a` → a time's text, where `to_text` would write another."""
        self.expiries: list[tuple[int, int]] = []
        """A heap of (time in microseconds, row)."""
        self.expiring: dict[int, bool] = {}
        """Rows that are hidden because they have expired, but whose event is not durable yet;
        whether it is on its way."""
        self.events: list[int] = [0] * len(records.EVENT_NAMES)
        self.alive = 0
        self.agents: dict[str, Agent] = {}
        self.groups: dict[str, Group] = {}
        self.tokens: dict[str, Token] = {}
        self.epoch = 0
        self.sealed = False

    @property
    def position(self) -> int:
        """The last position given."""
        return len(self.types) - 1

    def box(self, name: str) -> Mailbox:
        """The agent's mailbox, made when it is new."""
        box = self.box_by_name.get(name)
        if box is None:
            box = Mailbox(len(self.boxes), name)
            self.boxes.append(box)
            self.box_by_name[name] = box
        return box

    # What a commit changes.

    def add_message(self, place: int, size: int, sender: Mailbox,
                    deliveries: list[tuple[Mailbox, int]], rank: int, *, gone: bool = False) -> int:
        """Add a message's rows; the first one."""
        first = row = len(self.places)
        mark = _FIRST_GONE + rank if gone else rank
        position = len(self.types)
        for box, seq in deliveries:
            self.positions.append(position)
            self.places.append(place)
            self.sizes.append(size)
            self.senders.append(sender.number)
            self.owners.append(box.number)
            self.seqs.append(seq)
            self.read_at.append(0)
            self.acked_at.append(0)
            self.thread_before.append(0)
            self.types.append(records.SENT)
            self.rows_at.append(row)
            box.rows.append(row)
            box.marks.append(mark)
            box.last_seq = seq
            if not gone:
                box.unread += 1
            sender.sent.append(row)
            row += 1
            position += 1
        count = len(deliveries)
        self.events[records.SENT] += count
        if not gone:
            self.alive += count
        return first

    def add_run(self, run: Run, base: int) -> None:
        """Add deliveries that were committed together; `base` is the place of their batch."""
        count = len(run.offsets)
        row, position = len(self.places), len(self.types)
        self.positions.extend(range(position, position + count))
        self.places.extend([base + offset for offset in run.offsets])
        self.sizes.extend(run.sizes)
        self.senders.extend([box.number for box in run.senders])
        self.owners.extend([box.number for box in run.boxes])
        self.seqs.extend(run.seqs)
        self.read_at.frombytes(bytes(8 * count))
        self.acked_at.frombytes(bytes(8 * count))
        self.thread_before.frombytes(bytes(4 * count))
        self.types.extend(bytes((records.SENT,)) * count)
        self.rows_at.extend(range(row, row + count))
        for box, sender, seq, rank in zip(run.boxes, run.senders, run.seqs, run.ranks,
                                          strict=True):
            box.rows.append(row)
            box.marks.append(rank)
            box.last_seq = seq
            box.unread += 1
            sender.sent.append(row)
            row += 1
        self.events[records.SENT] += count
        self.alive += count

    def add_facts(self, row: int, message_id: str, thread_id: str, expires_at: str | None,
                  key: str | None) -> None:
        """Add what only some messages have: an id of another store, a thread, an expiry, a key."""
        if native_position(message_id) != self.positions[row]:
            self.foreign_ids.set(message_id, row)
        if thread_id != message_id:
            before = self.threads.get(thread_id)
            if before is not None:
                self.thread_before[row] = before + 1
            self.threads.set(thread_id, row)
        if expires_at is not None:
            expires_us = text_to_us(expires_at)
            for each in self.siblings(row):
                heappush(self.expiries, (expires_us, each))
        if key is not None:
            self.claims.set(key, row)

    def add_entry(self, code: int, row: int, place: int, size: int) -> None:
        """Add a record that is no message; `row` is the delivery that it is about, or 0."""
        position = len(self.types)
        self.types.append(code)
        self.rows_at.append(row)
        self.entry_positions.append(position)
        self.entry_places.append(place)
        self.entry_sizes.append(size)
        if code != records.ENTRY:
            self.events[code] += 1
            owner = self.boxes[self.owners[row]]
            owner.changes.append(position)
            if self.senders[row] != owner.number:
                self.boxes[self.senders[row]].changes.append(position)

    def set_mark(self, row: int, code: int, at: str) -> bool:
        """Set a delivery's state; whether it has gone by this."""
        box = self.boxes[self.owners[row]]
        place = bisect_left(box.rows, row)
        mark = box.marks[place]
        state, rank = divmod(mark, 8)
        gone = code in (records.DELETED, records.EXPIRED)
        if not gone:
            column, letter = (self.read_at, "r") if code == records.READ else (self.acked_at, "a")
            column[row] = us = text_to_us(at)
            if to_text(us) != at:
                self.odd_times[f"{row}{letter}"] = at
        if state == GONE:
            # A message imported without its body was gone before its other events came.
            return False
        box.changed += 1
        if gone:
            box.marks[place] = _FIRST_GONE + rank
            self.alive -= 1
            box.unread -= state == UNREAD
            return True
        if state == UNREAD:
            box.unread -= 1
        box.marks[place] = 8 * max(state, READ if code == records.READ else ACKED) + rank
        return False

    # What a page asks.

    def state(self, row: int) -> int:
        """UNREAD, READ, ACKED or GONE."""
        box = self.boxes[self.owners[row]]
        return box.marks[bisect_left(box.rows, row)] // 8

    def has_mark(self, row: int, code: int) -> bool:
        """Whether the delivery's state was set so before."""
        if code == records.READ:
            return self.read_at[row] != 0
        if code == records.ACKED:
            return self.acked_at[row] != 0
        return self.state(row) == GONE

    def time(self, row: int, letter: str) -> str | None:
        """When the delivery was read ("r") or acknowledged ("a"), None for never."""
        us = (self.read_at if letter == "r" else self.acked_at)[row]
        if us == 0:
            return None
        return self.odd_times.get(f"{row}{letter}") or to_text(us)

    def siblings(self, row: int) -> range:
        """The rows of the message that `row` belongs to."""
        place = self.places[row]
        first = row
        while first and self.places[first - 1] == place:
            first -= 1
        end = row + 1
        while end < len(self.places) and self.places[end] == place:
            end += 1
        return range(first, end)

    def inbox_places(self, box: Mailbox, *, newest: bool, above: int, below: int | None,
                     wanted: re.Pattern[bytes], limit: int) -> list[int]:
        """Where in `box.rows` deliveries stand that have above < seq < below and a wanted mark;
        at most `limit`.
        """
        seq_of = self.seqs.__getitem__
        low = bisect_right(box.rows, above, key=seq_of) if above > 0 else 0
        high = len(box.rows) if below is None else bisect_left(box.rows, below, key=seq_of)
        found: list[int] = []
        window = limit
        while low < high and len(found) < limit:
            if newest:
                start = max(low, high - window)
                places = [m.start() for m in wanted.finditer(box.marks, start, high)]
                found += reversed(places)
                high = start
            else:
                end = min(high, low + window)
                found += [m.start() for m in wanted.finditer(box.marks, low, end)]
                low = end
            window = min(4 * window, 1 << 16)
        return found[:limit]

    def thread_rows(self, thread_id: str) -> list[int]:
        """The first rows of the messages that say they answer in a thread, newest first. A hash
        in common can bring in another thread's: the reader compares.
        """
        rows: list[int] = []
        row = self.threads.get(thread_id)
        while row is not None:
            rows.append(row)
            row = self.thread_before[row] - 1
            if row < 0:
                break
        return rows

    def event_positions(self, box: Mailbox | None, *, newest: bool, start: int) -> Iterator[int]:
        """Positions from `start` on, upwards or downwards; a mailbox's, or all of them."""
        if box is None:
            yield from range(start, 0, -1) if newest else range(start, self.position + 1)
            return
        yield from _merge_positions(self, box, newest=newest, start=start)


def _merge_positions(index: Index, box: Mailbox, *, newest: bool, start: int) -> Iterator[int]:
    """Positions of an agent's events, in order, each once (who writes to itself has it twice)."""
    position_of = index.positions.__getitem__
    columns: list[tuple[array[int], bool]] = [(box.rows, True), (box.sent, True),
                                              (box.changes, False)]
    heads: list[int] = []
    for column, by_row in columns:
        key = position_of if by_row else None
        if newest:
            heads.append(bisect_right(column, start, key=key) - 1)
        else:
            heads.append(bisect_left(column, start, key=key))
    step = -1 if newest else 1
    choose = max if newest else min
    while True:
        fronts = [
            (position_of(column[head]) if by_row else column[head])
            for (column, by_row), head in zip(columns, heads, strict=True)
            if 0 <= head < len(column)
        ]
        if not fronts:
            return
        front = choose(fronts)
        yield front
        for i, (column, by_row) in enumerate(columns):
            while 0 <= heads[i] < len(column) and front == (
                    position_of(column[heads[i]]) if by_row else column[heads[i]]):
                heads[i] += step


def native_position(message_id: str) -> int:
    """The position of a message's first event as an id that this engine gave tells it; of any
    other text some number or -1, so the reader compares the id.
    """
    if len(message_id) != 36 or message_id[14] != "7":
        return -1
    try:
        return int(message_id[26:], 16) & _NATIVE_MASK
    except ValueError:
        return -1
