"""What a caller can ask the committer to do; each encodes its records and shows them when durable.

Sends are the hot path: what they do for each message is counted in tenths of a microsecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from coordd.engines.files import records
from coordd.engines.files.commit import Batch, answer
from coordd.engines.files.index import Index, Mailbox
from coordd.engines.files.reader import Reader
from coordd.engines.files.replay import apply_entry, claim_text
from coordd.model import PRIORITY_RANK, Core
from coordd.store import (
    Claim,
    Draft,
    KeyConflictError,
    MessageJson,
    Receipt,
    StoreError,
    StoreSealedError,
)

Listener = Callable[[str, int], None]
SEALED: Final = ("the store is sealed: its messages are being moved to another store; "
                 "try again, the address stays the same")
_GONE_JSON: Final = MessageJson(b"{}")
_MESSAGE_BYTES: Final = 400
"""What a message weighs in the queue besides its body."""
_Placed = tuple[int, int, Mailbox, list[tuple[Mailbox, int]], int]


class Send:
    """Store messages, all or none."""

    __slots__ = ("_claim", "_drafts", "_earlier", "_facts", "_index", "_listeners", "_placed",
                 "_reader", "future", "messages", "receipts", "size")

    def __init__(self, index: Index, reader: Reader, listeners: list[Listener],
                 future: asyncio.Future[list[Receipt]], drafts: Sequence[Draft],
                 claim: Claim | None) -> None:
        self._index = index
        self._reader = reader
        self._listeners = listeners
        self._drafts = drafts
        self._claim = claim
        self._earlier: Send | None = None
        self._placed: list[_Placed] = []
        self._facts: list[tuple[int, str, str, str | None]] = []
        self.future: asyncio.Future[list[Receipt]] = future
        self.receipts: list[Receipt] = []
        self.messages = len(drafts)
        self.size = sum([len(d.body) + _MESSAGE_BYTES for d in drafts])

    def encode(self, batch: Batch) -> None:
        claim = self._claim
        if claim is not None and self._known(batch, claim):
            return
        if batch.sealed:
            raise StoreSealedError(SEALED)
        box_of, make_box = self._index.box_by_name.get, self._index.box
        at, log_at, prefix, salt = batch.at, batch.log_at, batch.id_prefix, batch.id_salt
        position = batch.position
        payloads: list[bytes] = []
        placed: list[_Placed] = []
        lines, receipts = batch.lines, self.receipts
        offset = 1
        for draft in self._drafts:
            sender = draft.from_agent
            message_id = f"{prefix}{salt | position:012x}"
            deliveries = []
            to = []
            for name in draft.recipients:
                box = box_of(name) or make_box(name)
                box.assigned = seq = box.assigned + 1
                deliveries.append((box, seq))
                to.append((name, seq))
                lines.append(f"{log_at}|SENT|{message_id}|{sender}|{name}|{draft.subject}\n")
                position += 1
            thread_id = draft.thread_id
            if thread_id is None:
                thread_id = message_id
            if thread_id != message_id or draft.expires_at is not None:
                self._facts.append((len(placed), message_id, thread_id, draft.expires_at))
            payload = records.encode(records.SentRecord(
                to=to, key=claim if claim is not None and not placed else None,
                m=Core(message_id, sender, draft.subject, draft.body, draft.priority, thread_id,
                       draft.in_reply_to, at, draft.expires_at)))
            payloads.append(payload)
            placed.append((offset, len(payload), box_of(sender) or make_box(sender), deliveries,
                           PRIORITY_RANK[draft.priority]))
            offset += len(payload) + 2
            receipts.append(Receipt(message_id, thread_id, at, to))
        whole = len(payloads) > 1
        data = b"[" + b",\n".join(payloads) + b"]" if whole else payloads[0]
        begin = batch.add(data, position - batch.position)
        shift = begin if whole else begin - 1
        self._placed = [(start + shift, size, box, deliveries, rank)
                        for start, size, box, deliveries, rank in placed]
        if claim is not None:
            batch.claims[claim_text(claim)] = self

    def _known(self, batch: Batch, claim: Claim) -> bool:
        """Whether the claim was used. Raises KeyConflictError where for another request."""
        text = claim_text(claim)
        earlier = batch.claims.get(text)
        if isinstance(earlier, Send) and earlier._claim is not None:
            used: Claim | None = earlier._claim
            self._earlier = earlier
        else:
            used, self.receipts = self._reader.claimed(claim)
        if used is None:
            return False
        if used.digest != claim.digest:
            raise KeyConflictError("the idempotency key was used before, for another request")
        return True

    def publish(self, base: int) -> None:
        index = self._index
        if self._earlier is not None:
            answer(self.future, self._earlier.receipts)
            return
        first_row = len(index.places)
        add = index.add_message
        rows = [add(base + offset, size, sender, deliveries, rank)
                for offset, size, sender, deliveries, rank in self._placed]
        for number, message_id, thread_id, expires_at in self._facts:
            index.add_facts(rows[number], message_id, thread_id, expires_at, None)
        if self._claim is not None and rows:
            index.claims.set(claim_text(self._claim), first_row)
        for _, _, _, deliveries, _ in self._placed:
            for box, seq in deliveries:
                for listener in self._listeners:
                    listener(box.name, seq)
        answer(self.future, self.receipts)


class SetMark:
    """Set the state of one delivery, once."""

    __slots__ = ("_at", "_code", "_entry", "_index", "_message_id", "_on_gone", "_reader", "_row",
                 "_type", "future", "messages", "size")

    def __init__(self, index: Index, reader: Reader, future: asyncio.Future[MessageJson | None],
                 row: int, message_id: str, mark: str, on_gone: Callable[[int], None]) -> None:
        self._index = index
        self._reader = reader
        self._row = row
        self._message_id = message_id
        self._type = mark
        self._code = records.MARK_CODES[mark]
        self._entry: tuple[int, int] | None = None
        self._at = ""
        self._on_gone = on_gone
        self.future = future
        self.messages = 1
        self.size = _MESSAGE_BYTES

    def encode(self, batch: Batch) -> None:
        index, row = self._index, self._row
        known = f"{row}/{self._code}"
        # What has expired is hidden before its event is stored, so it does not look at the state.
        if known in batch.known or (self._code != records.EXPIRED
                                    and (self._is_gone() or index.has_mark(row, self._code))):
            return
        if batch.sealed:
            raise StoreSealedError(SEALED)
        batch.known.add(known)
        self._at = batch.at
        owner = index.boxes[index.owners[row]].name
        payload = records.encode(records.MarkRecord(self._type, batch.at, self._message_id, owner))
        self._entry = (batch.add(payload, 1), len(payload))
        core = self._reader.core(row)
        batch.lines.append(f"{batch.log_at}|{records.EVENT_NAMES[self._code]}|{self._message_id}|"
                           f"{core.from_agent}|{owner}|{core.subject}\n")

    def _is_gone(self) -> bool:
        return self._index.has_mark(self._row, records.DELETED)

    def publish(self, base: int) -> None:
        if self._entry is not None:
            offset, size = self._entry
            self._index.add_entry(self._code, self._row, base + offset, size)
            if self._index.set_mark(self._row, self._code, self._at):
                self._on_gone(self._row)
        if self._is_gone():
            answer(self.future, _GONE_JSON if self._code == records.DELETED else None)
        else:
            answer(self.future, MessageJson(self._reader.render(self._row)))


class PutEntry:
    """Write a registry entry, a token, or the seal."""

    __slots__ = ("_apply", "_index", "_place", "_record", "future", "messages", "size")

    def __init__(self, index: Index, future: asyncio.Future[Any],
                 record: Callable[[str], records.EntryRecord]) -> None:
        self._index = index
        self._apply: records.EntryRecord | None = None
        self._record = record
        self._place = (0, 0)
        self.future = future
        self.messages = 1
        self.size = _MESSAGE_BYTES

    def encode(self, batch: Batch) -> None:
        record = self._record(batch.at)
        if record.epoch is None:
            if batch.sealed:
                raise StoreSealedError(SEALED)
        elif record.epoch < self._index.epoch:
            raise StoreError(f"epoch {record.epoch} is over: the store has seen "
                             f"{self._index.epoch}")
        else:
            batch.sealed = record.sealed
        payload = records.encode(record)
        self._place = (batch.add(payload, 1), len(payload))
        self._apply = record

    def publish(self, base: int) -> None:
        assert self._apply is not None
        offset, size = self._place
        self._index.add_entry(records.ENTRY, 0, base + offset, size)
        apply_entry(self._index, self._apply)
        answer(self.future, self._apply)
