"""Reading messages back from the log, by row."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from coordd.engines.files import records
from coordd.engines.files.index import UNREAD, Index, Mailbox
from coordd.engines.files.log import Log
from coordd.engines.files.records import MarkRecord, SentRecord
from coordd.engines.files.replay import claim_text, find_delivery, find_row
from coordd.engines.times import text_to_us
from coordd.model import STATES, Core
from coordd.store import Claim, Receipt, StoreBusyError

_CLAIM_LIFE_US: Final = 24 * 3600 * 1_000_000
_UNREAD_TAIL: Final = b',"state":"unread","read_at":null,"acked_at":null}'
_CACHE_BYTES: Final = 16 << 20
_CACHED_BYTES: Final = 150
"""What an entry of the cache weighs besides its bytes."""


class Reader:
    """The log seen through the index."""

    def __init__(self, index: Index, log: Log, clock_us: Callable[[], int]) -> None:
        self._index = index
        self._log = log
        self._clock_us = clock_us
        # Cores never change, so this cache can't be wrong. It has two halves: when the young one
        # is full it becomes the old one, and what is read from there again is young again.
        self._cores: dict[int, bytes] = {}
        self._cores_before: dict[int, bytes] = {}
        self._cores_bytes = 0

    def record(self, row: int) -> SentRecord:
        """The record that a row stands for."""
        index = self._index
        record = records.decode(self._log.read(index.places[row], index.sizes[row]))
        assert isinstance(record, SentRecord)
        return record

    def sent_time(self, row: int) -> str:
        """When the message of a row was sent, without reading the rest of it."""
        index = self._index
        return records.sent_time(self._log.read(index.places[row], index.sizes[row]))

    def core(self, row: int) -> Core:
        """The message of a row."""
        return self.record(row).m

    def render(self, row: int) -> bytes:
        """A row's delivery as the API's JSON, taken from the log as it is."""
        index = self._index
        box = index.boxes[index.owners[row]]
        return self.render_box(box, [bisect_left(box.rows, row)])[0]

    def render_box(self, box: Mailbox, places: list[int]) -> list[bytes]:
        """As `render`, for deliveries of one mailbox that stand at `places` in it."""
        index, core_of = self._index, self._cores.get
        rows, marks, seqs = box.rows, box.marks, index.seqs
        head = b',"to_agent":"%b","seq":' % box.name.encode()
        found = []
        for place in places:
            row = rows[place]
            core = core_of(row) or self._core_json(row)
            state = marks[place] >> 3
            tail = _UNREAD_TAIL if state == UNREAD else self._tail(row, state)
            found.append(b"%b%b%d%b" % (core, head, seqs[row], tail))
        return found

    def _tail(self, row: int, state: int) -> bytes:
        index = self._index
        return (f',"state":"{STATES[state]}","read_at":{_json_time(index.time(row, "r"))}'
                f',"acked_at":{_json_time(index.time(row, "a"))}}}').encode()

    def _core_json(self, row: int) -> bytes:
        """A message's core, from the cache or the log."""
        core = self._cores_before.get(row)
        if core is None:
            index = self._index
            core = records.core_json(self._log.read(index.places[row], index.sizes[row]))
        self._cores[row] = core
        self._cores_bytes += len(core) + _CACHED_BYTES
        if self._cores_bytes > _CACHE_BYTES // 2:
            self._cores_before, self._cores, self._cores_bytes = self._cores, {}, 0
        return core

    def find(self, message_id: str) -> int | None:
        """The first row of the message with this id, None where there is none."""
        row = find_row(self._index, message_id)
        if row is None or self.core(row).id != message_id:
            return None
        return row

    def delivery(self, message_id: str, agent: str) -> int | None:
        """The row of the message's delivery to `agent`, None where there is none."""
        if self.find(message_id) is None:
            return None
        return find_delivery(self._index, message_id, agent)

    def entry(self, number: int) -> records.Record:
        """The record of an entry."""
        index = self._index
        data = self._log.read(index.entry_places[number], index.entry_sizes[number])
        return records.decode(data)

    def mark(self, number: int) -> MarkRecord:
        """The record of an entry that is a state."""
        record = self.entry(number)
        assert isinstance(record, MarkRecord)
        return record

    def claimed(self, claim: Claim) -> tuple[Claim | None, list[Receipt]]:
        """How a claim's key was used in the last 24 hours, and the receipts given then."""
        index = self._index
        row = index.claims.get(claim_text(claim))
        if row is None:
            return None, []
        record = self.record(row)
        used = record.key
        if used is None or (used.sender, used.key) != (claim.sender, claim.key) or (
                text_to_us(record.m.created_at) < self._clock_us() - _CLAIM_LIFE_US):
            return None, []
        receipts = []
        for _ in range(used.count):
            if row >= len(index.places):
                raise StoreBusyError("the messages of this idempotency key are being imported")
            record = self.record(row)
            receipts.append(Receipt(record.m.id, record.m.thread_id, record.m.created_at,
                                    record.to))
            row += len(record.to)
        return used, receipts


def _json_time(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'
