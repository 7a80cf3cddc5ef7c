"""What a caller can ask the committer to do; each encodes its records and shows them when durable.

Sends are the hot path: what they do for each message is counted in tenths of a microsecond.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from struct import pack
from typing import Any, Final

from coordd.engines.files import records
from coordd.engines.files.commit import Batch, Run, answer
from coordd.engines.files.index import Index
from coordd.engines.files.reader import Reader
from coordd.engines.files.records import MarkRecord, SentRecord, encode
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

SEALED: Final = ("the store is sealed: its messages are being moved to another store; "
                 "try again, the address stays the same")
_GONE_JSON: Final = MessageJson(b"{}")
_MESSAGE_BYTES: Final = 400
"""What a message weighs in the queue besides its body."""
_COLUMNS_FROM: Final = 8


class Send:
    """Store messages, all or none."""

    __slots__ = ("_claim", "_drafts", "_earlier", "_facts", "_first", "_index", "_reader", "_run",
                 "future", "messages", "receipts", "size")

    early = True

    def __init__(self, index: Index, reader: Reader,
                 future: asyncio.Future[list[Receipt]], drafts: Sequence[Draft],
                 claim: Claim | None) -> None:
        self._index = index
        self._reader = reader
        self._drafts: Sequence[Draft] = drafts
        self._claim = claim
        self._earlier: Send | None = None
        self._run: Run | None = None
        self._first = 0
        self._facts: list[tuple[int, str, str, str | None]] = []
        self.receipts: list[Receipt] = []
        self.future: asyncio.Future[list[Receipt]] = future
        self.messages = len(drafts)
        self.size = sum([len(d.body) for d in drafts]) + _MESSAGE_BYTES * self.messages

    def encode(self, batch: Batch) -> None:
        claim = self._claim
        if claim is not None and self._known(batch, claim):
            batch.steps.append(self)
            return
        if batch.sealed:
            raise StoreSealedError(SEALED)
        run = self._run = batch.run()
        self._first = len(run.offsets)
        plain = self.messages >= _COLUMNS_FROM and claim is None and not [
            1 for d in self._drafts
            if d.thread_id is not None or d.expires_at is not None or len(d.recipients) != 1]
        if plain:
            self._encode_columns(batch, run)
        else:
            self._encode_each(batch, run)
        run.sends.append(self)
        if claim is not None:
            batch.claims[claim_text(claim)] = self
        # Freed now, while the processor has them at hand, and not after the commit.
        self._drafts = ()

    def _encode_each(self, batch: Batch, run: Run) -> None:
        box_of, make_box = self._index.box_by_name.get, self._index.box
        at, log_at, prefix, salt = batch.at, batch.log_at, batch.id_prefix, batch.id_salt
        offsets, seqs, ranks, boxes, senders = (run.offsets, run.seqs, run.ranks, run.boxes,
                                                run.senders)
        sizes, lines, receipts = run.sizes, batch.lines, self.receipts
        claim = self._claim
        payloads: list[bytes] = []
        position, offset = batch.position, 0
        for draft in self._drafts:
            sender, thread_id, expires_at = draft.from_agent, draft.thread_id, draft.expires_at
            message_id = prefix + (salt + position).to_bytes(6, "big").hex()
            if thread_id is not None or expires_at is not None:
                self._facts.append((position - batch.position, message_id,
                                    thread_id or message_id, expires_at))
            thread_id = thread_id or message_id
            to = []
            for name in draft.recipients:
                box = box_of(name) or make_box(name)
                box.assigned = seq = box.assigned + 1
                to.append((name, seq))
                boxes.append(box)
                seqs.append(seq)
                lines.append(f"{log_at}|SENT|{message_id}|{sender}|{name}|{draft.subject}\n")
            core = Core(message_id, sender, draft.subject, draft.body, draft.priority, thread_id,
                        draft.in_reply_to, at, expires_at)
            payload = encode(SentRecord(to=to, key=claim, m=core))
            claim = None  # it stands with the first message
            payloads.append(payload)
            size = len(payload)
            box = box_of(sender) or make_box(sender)
            rank = PRIORITY_RANK[draft.priority]
            for _ in to:
                offsets.append(offset)
                sizes.append(size)
                senders.append(box)
                ranks.append(rank)
            position += len(to)
            offset += size + 2
            receipts.append(Receipt(message_id, thread_id, at, to))
        begin = _add(batch, payloads, position - batch.position)
        first = self._first
        offsets[first:] = array("Q", [begin + start for start in offsets[first:]])

    def _encode_columns(self, batch: Batch, run: Run) -> None:
        """As `_encode_each`, a column at a time: a batch of plain messages in two thirds of the
        time.
        """
        drafts, at, log_at, prefix = self._drafts, batch.at, batch.log_at, batch.id_prefix
        box_of, make_box = self._index.box_by_name.get, self._index.box
        number = batch.id_salt + batch.position
        counters = pack(f">{len(drafts)}Q", *range(number, number + len(drafts))).hex()
        ids = [prefix + counters[end - 12 : end] for end in range(16, len(counters) + 1, 16)]
        names = [d.recipients[0] for d in drafts]
        boxes = [box_of(name) or make_box(name) for name in names]
        seqs = []
        for box in boxes:
            box.assigned = seq = box.assigned + 1
            seqs.append(seq)
        tos = [[pair] for pair in zip(names, seqs, strict=True)]
        payloads = [
            encode(SentRecord(to=to, m=Core(i, d.from_agent, d.subject, d.body, d.priority, i,
                                            d.in_reply_to, at, None)))
            for d, i, to in zip(drafts, ids, tos, strict=True)]
        sizes = [len(payload) for payload in payloads]
        begin = _add(batch, payloads, len(drafts))
        run.offsets.extend(accumulate([begin, *[size + 2 for size in sizes[:-1]]]))
        run.sizes.extend(sizes)
        run.senders += [box_of(d.from_agent) or make_box(d.from_agent) for d in drafts]
        run.boxes += boxes
        run.seqs.extend(seqs)
        run.ranks.extend([PRIORITY_RANK[d.priority] for d in drafts])
        batch.lines.append("".join([
            f"{log_at}|SENT|{i}|{d.from_agent}|{d.recipients[0]}|{d.subject}\n"
            for d, i in zip(drafts, ids, strict=True)]))
        self.receipts = list(map(Receipt, ids, ids, repeat(at), tos))

    def _known(self, batch: Batch, claim: Claim) -> bool:
        """Whether the claim was used. Raises KeyConflictError where for another request."""
        earlier = batch.claimed(claim_text(claim))
        if isinstance(earlier, Send):
            used: Claim | None = earlier._claim
            self._earlier = earlier
        else:
            used, self.receipts = self._reader.claimed(claim)
        if used is None:
            return False
        if used.digest != claim.digest:
            raise KeyConflictError("the idempotency key was used before, for another request")
        return True

    def publish(self, base: int) -> None:  # noqa: ARG002 - its run knows
        # The run holds its sends: let go of it, or only a garbage collection frees them.
        run, self._run = self._run, None
        if self._earlier is not None:
            self.receipts, self._earlier = self._earlier.receipts, None
        elif run is not None and (self._facts or self._claim is not None):
            index = self._index
            first_row = len(index.places) - len(run.offsets)
            for number, message_id, thread_id, expires_at in self._facts:
                index.add_facts(first_row + self._first + number, message_id, thread_id,
                                expires_at, None)
            if self._claim is not None:
                index.claims.set(claim_text(self._claim), first_row + self._first)
        answer(self.future, self.receipts)


def _add(batch: Batch, payloads: list[bytes], events: int) -> int:
    """Add records as one frame; where the first begins. Each other begins two bytes behind the
    one before.
    """
    if len(payloads) == 1:
        return batch.add(payloads[0], events)
    return batch.add(b"[" + b",\n".join(payloads) + b"]", events) + 1


class SetMark:
    """Set the state of one delivery, once."""

    early = False

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
            batch.steps.append(self)
            return
        if batch.sealed:
            raise StoreSealedError(SEALED)
        core = self._reader.core(row)
        owner = index.boxes[index.owners[row]].name
        payload = encode(MarkRecord(self._type, batch.at, self._message_id, owner))
        self._at = batch.at
        self._entry = (batch.add(payload, 1), len(payload))
        batch.known.add(known)
        batch.lines.append(f"{batch.log_at}|{records.EVENT_NAMES[self._code]}|{self._message_id}|"
                           f"{core.from_agent}|{owner}|{core.subject}\n")
        batch.steps.append(self)

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

    early = False

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
        payload = encode(record)
        self._place = (batch.add(payload, 1), len(payload))
        self._apply = record
        batch.steps.append(self)

    def publish(self, base: int) -> None:
        assert self._apply is not None
        offset, size = self._place
        self._index.add_entry(records.ENTRY, 0, base + offset, size)
        apply_entry(self._index, self._apply)
        answer(self.future, self._apply)
