"""Reading the log at start: a torn tail is cut off, damage is refused with its place.

After a power loss only what was written behind the last fdatasync can be missing, torn or out of
order, and nobody was told that it is stored. Anything else that cannot be read was durable once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from coordd.engines.files import frame, records
from coordd.engines.files.frame import Frame, crc32c_extend
from coordd.engines.files.index import Index
from coordd.engines.files.log import Log, Segment
from coordd.engines.files.replay import apply
from coordd.store import StoreDamagedError

_MEND = "restore the data folder from a backup"
_JOINT = re.compile(rb"\},\n\{")


def replay(index: Index, log: Log, first: int, start: int, durable: int) -> None:
    """Apply the log from segment number `first` on, there from file offset `start` on.

    `durable`: a position up to which all is known to have been durable. Raises
    StoreDamagedError.
    """
    doubt = start
    for number in range(first, len(log.segments)):
        segment = log.segments[number]
        data = log.load(segment)
        begin = start if number == first else segment.header_bytes
        if begin == segment.header_bytes and segment.first_position != index.position + 1:
            raise StoreDamagedError(
                f"events {index.position + 1} to {segment.first_position - 1} are missing before "
                f"segment {segment.path}; {_MEND}")
        end, doubt = _apply_segment(index, log, segment, data, begin)
        if end < len(data):
            last = number == len(log.segments) - 1
            if not last or index.position < durable or frame.durable_after(
                    data, end, index.position + 1):
                raise StoreDamagedError(f"segment {segment.path} is damaged at offset {end}: "
                                        f"event {index.position + 1} was stored there; {_MEND}")
            log.cut(segment, end)
            data = data[:end]
        segment.crc = segment.shown_crc = crc32c_extend(0, data)
        segment.shown_size = segment.size
    if index.position < durable:
        raise StoreDamagedError(f"events {index.position + 1} to {durable} are missing at the end "
                                f"of {log.active.path}; {_MEND}")
    for box in index.boxes:
        box.assigned = box.last_seq
    # What was not acknowledged but is whole will be shown from now on: make it durable first. It
    # is written again, since a sync that failed has left pages that the kernel calls clean.
    if doubt < len(data):
        log.disk.write(log.active.fd, data[doubt:], doubt)
    log.disk.datasync(log.active.fd)


def _apply_segment(index: Index, log: Log, segment: Segment, data: bytes, start: int
                   ) -> tuple[int, int]:
    """Apply frames up to the first that is not sound; where that is, and where the frames begin
    of which none says that they were durable.
    """
    doubt, synced = start, 0
    for each in frame.walk(data, start):
        if each.synced > synced:
            doubt, synced = each.start, each.synced
        if each.position != index.position + 1:
            raise StoreDamagedError(
                f"segment {segment.path} is damaged at offset {each.start}: event "
                f"{each.position} follows {index.position}; {_MEND}")
        try:
            for offset, payload in items(each):
                gone = apply(index, records.decode(payload),
                             segment.base + each.payload_start + offset, len(payload))
                if gone is not None:
                    count_dead(index, log, gone)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreDamagedError(f"segment {segment.path} is damaged at offset {each.start}: "
                                    f"{error}; {_MEND}") from error
        start = each.end
    return start, doubt


def items(each: Frame) -> Iterator[tuple[int, bytes]]:
    """The records of a frame: offset in the payload, and JSON."""
    payload = each.payload
    if not payload.startswith(b"["):
        yield 0, payload
        return
    start = 1
    for joint in _JOINT.finditer(payload):
        yield start, payload[start : joint.start() + 1]
        start = joint.end() - 1
    yield start, payload[start:-1]


def count_dead(index: Index, log: Log, row: int) -> Segment | None:
    """Note that a delivery has gone; the segment whose bytes can be given back, when it was the
    message's last one.
    """
    if any(not index.has_mark(each, records.DELETED) for each in index.siblings(row)):
        return None
    segment = log.segment_at(index.places[row])
    segment.dead_bytes += index.sizes[row]
    return segment
