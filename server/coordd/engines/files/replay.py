"""How a durable record changes the index: the one meaning of a record, at start and at import."""

from __future__ import annotations

from coordd.engines.files import records
from coordd.engines.files.index import Index, Mailbox, native_position
from coordd.engines.files.records import EntryRecord, MarkRecord, Record, SentRecord
from coordd.model import PRIORITY_RANK
from coordd.store import Claim


def claim_text(claim: Claim) -> str:
    """A claim's place in the index. NUL is in no name."""
    return f"{claim.sender}\0{claim.key}"


def find_row(index: Index, message_id: str) -> int | None:
    """The first row of a message. An id that the store has not seen can answer some row: whoever
    did not take the id from the log compares it with that row's.
    """
    row = index.foreign_ids.get(message_id)
    if row is not None:
        return row
    position = native_position(message_id)
    if 0 < position <= index.position and index.types[position] == records.SENT:
        return index.rows_at[position]
    return None


def find_delivery(index: Index, message_id: str, agent: str) -> int | None:
    """The row of a message's delivery to `agent`; as `find_row`."""
    first = find_row(index, message_id)
    if first is None:
        return None
    box = index.box_by_name.get(agent)
    for row in index.siblings(first):
        if box is not None and index.owners[row] == box.number:
            return row
    return None


def apply(index: Index, record: Record, place: int, size: int) -> int | None:
    """Apply the next record of the log, which stands at `place`; the row that has gone by it."""
    if isinstance(record, SentRecord):
        apply_sent(index, record, place, size)
    elif isinstance(record, MarkRecord):
        row = find_delivery(index, record.id, record.to)
        if row is None:
            raise ValueError(f"a record says {record.type} of a message that is not there: "
                             f"{record.id} to {record.to}")
        code = records.MARK_CODES[record.type]
        index.add_entry(code, row, place, size)
        return row if index.set_mark(row, code, record.at) else None
    else:
        index.add_entry(records.ENTRY, 0, place, size)
        apply_entry(index, record)
    return None


def apply_sent(index: Index, record: SentRecord, place: int, size: int) -> int:
    """Apply a sent record; its first row. A message without a body has gone already."""
    core = record.m
    deliveries: list[tuple[Mailbox, int]] = [(index.box(name), seq) for name, seq in record.to]
    row = index.add_message(place, size, index.box(core.from_agent), deliveries,
                            PRIORITY_RANK[core.priority], gone=core.body is None)
    index.add_facts(row, core.id, core.thread_id,
                    core.expires_at if core.body is not None else None,
                    claim_text(record.key) if record.key else None)
    return row


def apply_entry(index: Index, record: EntryRecord) -> None:
    """Put an entry where reads find it."""
    if record.agent is not None:
        index.agents[record.agent.name] = record.agent
    elif record.group is not None:
        index.groups[record.group.name] = record.group
    elif record.token is not None:
        index.tokens[record.token.keyid] = record.token
    elif record.epoch is not None:
        index.epoch = record.epoch
        index.sealed = record.sealed
