r"""index.snap: the index beside the log, so that a start need not read every record.

It is a cache. Its first line is a header in JSON, then come the columns as raw bytes, last their
CRC32C. One that is missing, torn, of another version or not of this log is ignored; what it says
was durable is still held against the log.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from coordd.engines.files.disk import Disk
from coordd.engines.files.frame import crc32c_extend
from coordd.engines.files.hashindex import HashIndex
from coordd.engines.files.index import Index, Mailbox
from coordd.engines.files.log import STEP_BYTES, Log
from coordd.model import Agent, Group, Token

NAME: Final = "index.snap"
_VERSION: Final = 1
_COLUMNS: Final = ("positions", "places", "sizes", "senders", "owners", "seqs", "thread_before")
_BY_POSITION: Final = ("rows_at", "entry_positions", "entry_places", "entry_sizes")
_HASHES: Final = ("foreign_ids", "claims", "threads")
Part = Callable[[], Iterator[bytes]]


class SegmentState(msgspec.Struct, array_like=True):
    """A segment as it was when the snapshot was taken."""

    name: str
    base: int
    size: int
    crc: int
    dead_bytes: int


class BoxState(msgspec.Struct, array_like=True):
    """A mailbox; its arrays stand in the parts, one mailbox after the other."""

    name: str
    rows: int
    sent: int
    changes: int
    last_seq: int
    unread: int


class Header(msgspec.Struct):
    """What is small."""

    version: int
    byteorder: str
    position: int
    segments: list[SegmentState]
    boxes: list[BoxState]
    lengths: list[int]
    odd_times: dict[str, str]
    expiries: list[tuple[int, int]]
    expiring: list[int]
    events: list[int]
    alive: int
    agents: dict[str, Agent]
    groups: dict[str, Group]
    tokens: dict[str, Token]
    epoch: int
    sealed: bool


class Snapshot:
    """A snapshot read from its file."""

    def __init__(self, header: Header, parts: list[memoryview]) -> None:
        self.header = header
        self._parts = parts

    def fits(self, log: Log) -> bool:
        """Whether the log begins, byte for byte, as it was when this was taken."""
        states = self.header.segments
        if len(states) > len(log.segments):
            return False
        for number, (state, segment) in enumerate(zip(states, log.segments, strict=False)):
            last = number == len(states) - 1
            if state.name != segment.path.name or segment.size < state.size or (
                    segment.size > state.size and not last):
                return False
            if log.crc_of(segment, state.size) != state.crc:
                return False
        return True

    def restore(self, log: Log) -> Index:
        """The index as it was; the log's segments get their numbers too."""
        header, parts = self.header, iter(self._parts)
        for state, segment in zip(header.segments, log.segments, strict=False):
            segment.base = state.base
            segment.dead_bytes = state.dead_bytes
            segment.crc = segment.shown_crc = state.crc
            segment.shown_size = state.size
        log.rebase(len(header.segments))
        index = Index()
        for name in (*_COLUMNS, "read_at", "acked_at", *_BY_POSITION):
            column: array[int] = getattr(index, name)
            setattr(index, name, array(column.typecode, next(parts).tobytes()))
        index.types = bytearray(next(parts))
        _restore_boxes(index, header.boxes, [next(parts) for _ in range(4)])
        rest = list(parts)
        size = len(rest) // len(_HASHES)
        for number, name in enumerate(_HASHES):
            setattr(index, name, HashIndex.load(rest[number * size : (number + 1) * size]))
        for name in ("odd_times", "expiries", "events", "alive", "agents", "groups", "tokens",
                     "epoch", "sealed"):
            setattr(index, name, getattr(header, name))
        index.expiring = dict.fromkeys(header.expiring, False)
        return index


def _restore_boxes(index: Index, states: list[BoxState], parts: list[memoryview]) -> None:
    rows, marks, sent, changes = parts
    row = mark = sent_at = change = 0
    for number, state in enumerate(states):
        box = Mailbox(number, state.name)
        box.rows = array("I", rows[row : (row := row + 4 * state.rows)].tobytes())
        box.marks = bytearray(marks[mark : (mark := mark + state.rows)])
        box.sent = array("I", sent[sent_at : (sent_at := sent_at + 4 * state.sent)].tobytes())
        box.changes = array("Q", changes[change : (change := change + 8 * state.changes)].tobytes())
        box.last_seq = box.assigned = state.last_seq
        box.unread = state.unread
        index.boxes.append(box)
        index.box_by_name[state.name] = box


def capture(index: Index, log: Log) -> Iterator[bytes]:
    """The snapshot of this moment, in pieces.

    What later commits may change is copied by the call; columns that only grow are copied when
    their piece is taken, from another thread if need be. No compaction may run meanwhile.
    """
    def grown(column: array[int] | bytearray) -> tuple[int, Part]:
        count = len(column)
        width = getattr(column, "itemsize", 1)
        step = STEP_BYTES // width
        # A slice at a time: each copy holds the interpreter's lock.
        return count * width, lambda: (bytes(column[start : min(start + step, count)])
                                       for start in range(0, count, step))

    def copied(data: bytes) -> tuple[int, Part]:
        return len(data), lambda: (data[start : start + STEP_BYTES]
                                   for start in range(0, len(data), STEP_BYTES))

    boxes = list(index.boxes)
    states = [BoxState(b.name, len(b.rows), len(b.sent), len(b.changes), b.last_seq,
                       b.unread) for b in boxes]
    parts = [grown(getattr(index, name)) for name in _COLUMNS]
    parts += [copied(index.read_at.tobytes()), copied(index.acked_at.tobytes())]
    parts += [grown(getattr(index, name)) for name in (*_BY_POSITION, "types")]
    parts += [
        (4 * sum(s.rows for s in states), lambda: (
            bytes(b.rows[: s.rows]) for b, s in zip(boxes, states, strict=True))),
        copied(b"".join([bytes(b.marks) for b in boxes])),
        (4 * sum(s.sent for s in states), lambda: (
            bytes(b.sent[: s.sent]) for b, s in zip(boxes, states, strict=True))),
        (8 * sum(s.changes for s in states), lambda: (
            bytes(b.changes[: s.changes]) for b, s in zip(boxes, states, strict=True))),
    ]
    for name in _HASHES:
        parts += [copied(part) for part in getattr(index, name).dump()]
    header = Header(
        _VERSION, sys.byteorder, index.position,
        [SegmentState(s.path.name, s.base, s.shown_size, s.shown_crc, s.dead_bytes)
         for s in log.segments if s.shown_size],
        states, [length for length, _ in parts], dict(index.odd_times), list(index.expiries),
        list(index.expiring),
        list(index.events), index.alive, dict(index.agents), dict(index.groups),
        dict(index.tokens), index.epoch, index.sealed)
    head = msgspec.json.encode(header) + b"\n"

    def pieces() -> Iterator[bytes]:
        yield head
        for _, part in parts:
            yield from part()

    return pieces()


def write(folder: Path, disk: Disk, pieces: Iterator[bytes], pause_s: float = 0.0) -> None:
    """Write a snapshot and put it in the place of the last one. Raises OSError.

    It is written in small synced steps, `pause_s` apart.
    """
    temporary = folder / (NAME + ".new")
    if temporary.exists():
        disk.unlink(temporary)
    fd = disk.open(temporary, create=True)
    crc = offset = 0
    waiting = bytearray()

    def flush(least: int) -> None:
        nonlocal offset
        while len(waiting) > least:
            step = bytes(waiting[:STEP_BYTES])
            disk.write_synced(fd, step, offset)
            offset += len(step)
            del waiting[:STEP_BYTES]
            if pause_s:
                time.sleep(pause_s)

    try:
        for piece in pieces:
            crc = crc32c_extend(crc, piece)
            waiting += piece
            flush(STEP_BYTES)
        waiting += b"%08x" % crc
        flush(0)
    finally:
        disk.close(fd)
    disk.rename(temporary, folder / NAME)
    disk.sync_folder(folder)


def read(folder: Path) -> Snapshot | None:
    """The folder's snapshot, None where there is none that can be used."""
    try:
        data = (folder / NAME).read_bytes()
        view = memoryview(data)
        if crc32c_extend(0, data[:-8]) != int(bytes(view[-8:]), 16):
            return None
        end = data.index(b"\n")
        header = msgspec.json.decode(view[:end], type=Header)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    if header.version != _VERSION or header.byteorder != sys.byteorder:
        return None
    parts = []
    start = end + 1
    for length in header.lengths:
        parts.append(view[start : start + length])
        start += length
    return Snapshot(header, parts)
