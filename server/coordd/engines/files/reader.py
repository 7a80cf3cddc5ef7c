"""Reading messages back from the log, by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coordd.engines.files import records
from coordd.engines.files.index import Index
from coordd.engines.files.log import Log
from coordd.engines.files.records import MarkRecord, SentRecord
from coordd.engines.files.replay import claim_text, find_row
from coordd.engines.files.times import text_to_us
from coordd.model import STATES, Core
from coordd.store import Claim, Receipt

_CLAIM_LIFE_US: Final = 24 * 3600 * 1_000_000
_UNREAD_TAIL: Final = ',"to_agent":"%s","seq":%d,"state":"unread","read_at":null,"acked_at":null}'


class Reader:
    """The log seen through the index."""

    def __init__(self, index: Index, log: Log, clock_us: Callable[[], int]) -> None:
        self._index = index
        self._log = log
        self._clock_us = clock_us

    def record(self, row: int) -> SentRecord:
        """The record that a row stands for."""
        index = self._index
        record = records.decode(self._log.read(index.places[row], index.sizes[row]))
        assert isinstance(record, SentRecord)
        return record

    def core(self, row: int) -> Core:
        """The message of a row."""
        return self.record(row).m

    def render(self, row: int) -> bytes:
        """A row's delivery as the API's JSON, taken from the log as it is."""
        index = self._index
        raw = self._log.read(index.places[row], index.sizes[row])
        owner = index.boxes[index.owners[row]]
        state = index.state(row)
        if state == 0:
            tail = _UNREAD_TAIL % (owner.name, index.seqs[row])
        else:
            tail = (f',"to_agent":"{owner.name}","seq":{index.seqs[row]},"state":"{STATES[state]}"'
                    f',"read_at":{_json_time(index.time(row, "r"))}'
                    f',"acked_at":{_json_time(index.time(row, "a"))}}}')
        return records.core_json(raw) + tail.encode()

    def find(self, message_id: str) -> int | None:
        """The first row of the message with this id, None where there is none."""
        row = find_row(self._index, message_id)
        if row is None or self.core(row).id != message_id:
            return None
        return row

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
            record = self.record(row)
            receipts.append(Receipt(record.m.id, record.m.thread_id, record.m.created_at,
                                    record.to))
            row += len(record.to)
        return used, receipts


def _json_time(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'
