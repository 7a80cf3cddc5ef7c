"""Imports: changes of another store or tool, applied as they are, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from coordd.engines.entries import age, entry_of
from coordd.engines.files import records
from coordd.engines.files.commit import Batch, Listener, answer
from coordd.engines.files.eventslog import line
from coordd.engines.files.index import Index
from coordd.engines.files.reader import Reader
from coordd.engines.files.records import EntryRecord, MarkRecord, Record, SentRecord
from coordd.engines.files.replay import apply, find_row
from coordd.engines.times import text_to_us
from coordd.model import Agent, Core, Event, Group, Token, is_id, is_name, is_subject
from coordd.store import Change, Imported, ImportRefusedError


class Import:
    """Apply changes that the store has not yet."""

    early = False

    __slots__ = ("_changes", "_codes", "_entries", "_fresh", "_index", "_listeners",
                 "_on_gone", "_placed", "_reader", "_result", "_seqs", "future", "messages", "size")

    def __init__(self, index: Index, reader: Reader, listeners: list[Listener],
                 future: asyncio.Future[Imported], changes: Sequence[Change],
                 on_gone: Callable[[int], None]) -> None:
        self._index = index
        self._reader = reader
        self._listeners = listeners
        self._changes = changes
        self._on_gone = on_gone
        self._fresh: dict[str, SentRecord] = {}
        self._codes: set[tuple[str, str, int]] = set()
        self._entries: dict[tuple[str, str], Agent | Group | Token] = {}
        self._seqs: dict[str, int] = {}
        self._placed: list[tuple[int, int, Record]] = []
        self._result = Imported(0, 0)
        self.future = future
        self.messages = len(changes)
        self.size = sum(len(c.message.body or "") for c in changes if c.message) + len(changes)

    def encode(self, batch: Batch) -> None:
        accepted: list[Record] = []
        for number, change in enumerate(self._changes):
            try:
                record = self._record(change)
            except ValueError as error:
                raise ImportRefusedError(number, str(error)) from error
            if record is not None:
                accepted.append(record)
        self._result = Imported(len(accepted), len(self._changes) - len(accepted))
        batch.steps.append(self)
        if not accepted:
            return
        payloads = [records.encode(record) for record in accepted]
        position = batch.position
        for record in accepted:
            position = self._add_lines(batch, record, position)
        begin = batch.add(b"[" + b",\n".join(payloads) + b"]", position - batch.position) + 1
        for record, payload in zip(accepted, payloads, strict=True):
            self._placed.append((begin, len(payload), record))
            begin += len(payload) + 2
        for name, seq in self._seqs.items():
            self._index.box(name).assigned = seq

    def _add_lines(self, batch: Batch, record: Record, position: int) -> int:
        """Add the record's lines for events.log; the position behind its events."""
        if isinstance(record, SentRecord):
            core = record.m
            for name, _ in record.to:
                batch.lines.append(line(Event(position, record.at or core.created_at, "SENT",
                                              core.id, core.from_agent, name, core.subject)))
            return position + len(record.to)
        if isinstance(record, MarkRecord):
            core = self._core(record.id)
            type_ = records.EVENT_NAMES[records.MARK_CODES[record.type]]
            batch.lines.append(line(Event(position, record.at, type_, core.id,  # type: ignore[arg-type]
                                          core.from_agent, record.to, core.subject)))
        return position + 1

    def _core(self, message_id: str) -> Core:
        fresh = self._fresh.get(message_id)
        if fresh is not None:
            return fresh.m
        row = find_row(self._index, message_id)
        assert row is not None
        return self._reader.core(row)

    def _record(self, change: Change) -> Record | None:
        """The change as a record, None where the store has it. Raises ValueError."""
        _check_time(change.at)
        if change.type == "sent":
            return self._sent(change)
        if change.type in records.MARK_CODES:
            return self._mark(change)
        return self._entry(change)

    def _entry(self, change: Change) -> EntryRecord | None:
        """An entry that is older than the one here is one that the store had before it."""
        index = self._index
        known: Agent | Group | Token | None
        entry = entry_of(change)
        if change.type == "agent" and isinstance(entry, Agent):
            name, known = entry.name, index.agents.get(entry.name)
        elif change.type == "group" and isinstance(entry, Group):
            name, known = entry.name, index.groups.get(entry.name)
        elif change.type == "token" and isinstance(entry, Token):
            name, known = entry.keyid, index.tokens.get(entry.keyid)
        else:
            raise ValueError(f"a change of type {change.type} needs {change.type}_entry")
        known = self._entries.get((change.type, name), known)
        if known is not None and (entry == known or age(entry) < age(known)):
            return None
        self._entries[change.type, name] = entry
        return EntryRecord(change.at, change.agent_entry, change.group_entry, change.token_entry)

    def _sent(self, change: Change) -> SentRecord | None:
        core = change.message
        if core is None or not change.deliveries:
            raise ValueError("a change of type sent needs message and deliveries")
        _check_core(core)
        names = [name for name, _ in change.deliveries]
        row = self._reader.find(core.id)
        if row is not None or core.id in self._fresh:
            here = self._fresh[core.id].to if row is None else self._reader.record(row).to
            if {name for name, _ in here} != set(names):
                raise ValueError(f"message {core.id} is here with other recipients")
            return None
        to = []
        for name, seq in change.deliveries:
            if not is_name(name):
                raise ValueError(f"{name!r} is no name of a recipient")
            last = self._seqs.get(name)
            if last is None:
                box = self._index.box_by_name.get(name)
                last = box.assigned if box else 0
            given = seq or last + 1
            if given <= last:
                raise ValueError(f"seq {given} of inbox {name} is not above {last}, its last one")
            self._seqs[name] = given
            to.append((name, given))
        at = change.at if change.at != core.created_at else None
        record = self._fresh[core.id] = SentRecord(to=to, at=at, key=change.claim, m=core)
        return record

    def _mark(self, change: Change) -> MarkRecord | None:
        code = records.MARK_CODES[change.type]
        delivery = (change.id, change.agent, code)
        fresh = self._fresh.get(change.id)
        row = None if fresh is not None else self._reader.delivery(change.id, change.agent)
        if (fresh is None and row is None) or (fresh is not None and change.agent not in {
                name for name, _ in fresh.to}):
            raise ValueError(f"no message {change.id} to {change.agent} is here or before this")
        gone = code in (records.DELETED, records.EXPIRED)
        if delivery in self._codes or (row is not None and self._has_event(row, code)):
            return None
        if gone and row is not None and self._is_recorded_gone(row):
            return None
        self._codes.add(delivery)
        return MarkRecord(change.type, change.at, change.id, change.agent)

    def _has_event(self, row: int, code: int) -> bool:
        return code in (records.READ, records.ACKED) and self._index.has_mark(row, code)

    def _is_recorded_gone(self, row: int) -> bool:
        """Whether the log says that the delivery has gone: a message without a body has gone
        before its event is there.
        """
        index = self._index
        box = index.boxes[index.owners[row]]
        return any(index.rows_at[position] == row
                   and index.types[position] in (records.DELETED, records.EXPIRED)
                   for position in reversed(box.changes))

    def publish(self, base: int) -> None:
        index = self._index
        for offset, size, record in self._placed:
            gone = apply(index, record, base + offset, size)
            if gone is not None:
                self._on_gone(gone)
            if isinstance(record, SentRecord):
                for name, seq in record.to:
                    for listener in self._listeners:
                        listener(name, seq)
        answer(self.future, self._result)


def _check_time(text: str) -> None:
    try:
        text_to_us(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time with an offset from UTC") from error


def _check_core(core: Core) -> None:
    if not is_id(core.id) or not is_id(core.thread_id):
        raise ValueError(f"{core.id!r} or its thread {core.thread_id!r} is no id")
    if not is_name(core.from_agent):
        raise ValueError(f"{core.from_agent!r} is no name of a sender")
    if not is_subject(core.subject):
        raise ValueError(f"the subject of {core.id} holds a control character")
    _check_time(core.created_at)
    if core.expires_at is not None:
        _check_time(core.expires_at)
