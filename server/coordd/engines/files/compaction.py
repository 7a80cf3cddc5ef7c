"""Giving back the bytes of deleted and expired messages.

A segment is written again with the bodies of dead messages left out: the events, which are kept,
need the rest. The new file replaces the old one by a rename, so a crash leaves one or the other.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import NamedTuple

import msgspec

from coordd.engines.files import frame, records
from coordd.engines.files.index import Index
from coordd.engines.files.log import Log, Segment
from coordd.engines.files.records import SentRecord
from coordd.engines.files.recovery import items


class Compacted(NamedTuple):
    """A segment's new file and where its records stand in it."""

    data: bytes
    places: array[int]
    entry_places: array[int]
    sizes: array[int]


def dead_places(index: Index, segment: Segment) -> set[int]:
    """The places of the segment's messages of which every delivery has gone."""
    dead: set[int] = set()
    row = bisect_left(index.places, segment.base)
    end_row = bisect_left(index.places, segment.base + segment.size)
    while row < end_row:
        rows = index.siblings(row)
        # The event of an expiry that is not durable yet needs the message as it is.
        if all(index.has_mark(each, records.DELETED) and each not in index.expiring
               for each in rows):
            dead.add(index.places[row])
        row = rows.stop
    return dead


def compact(log: Log, segment: Segment, dead: set[int]) -> Compacted:
    """Build the segment's new file. Reads only what does not change; runs in any thread."""
    old = log.load(segment)
    parts = [old[: segment.header_bytes]]
    size = segment.header_bytes
    places, sizes, entry_places = array("Q"), array("I"), array("Q")
    for each in frame.walk(old, segment.header_bytes):
        position = each.position
        payloads: list[bytes] = []
        spans: list[tuple[int, int, int]] = []
        offset = 1
        found = list(items(each))
        for start, item in found:
            payload = item
            record = records.decode(item)
            place = segment.base + each.payload_start + start
            if isinstance(record, SentRecord) and place in dead and record.m.body is not None:
                payload = records.encode(msgspec.structs.replace(
                    record, m=msgspec.structs.replace(record.m, body=None)))
            events = len(record.to) if isinstance(record, SentRecord) else 0
            spans.append((offset, len(payload), events))
            payloads.append(payload)
            offset += len(payload) + 2
        whole = each.payload.startswith(b"[")
        data = b"[" + b",\n".join(payloads) + b"]" if whole else payloads[0]
        parts.append(frame.encode(data, position, each.synced))
        begin = size + len(parts[-1]) - len(data) - 1 - (0 if whole else 1)
        for start, length, events in spans:
            if events:
                places.extend([segment.base + begin + start] * events)
                sizes.extend([length] * events)
            else:
                entry_places.append(segment.base + begin + start)
        size += len(parts[-1])
    return Compacted(b"".join(parts), places, entry_places, sizes)


def adopt(index: Index, log: Log, segment: Segment, fd: int, new: Compacted) -> None:
    """Let the index point into the segment's new file."""
    first = bisect_left(index.places, segment.base)
    index.places[first : first + len(new.places)] = new.places
    index.sizes[first : first + len(new.sizes)] = new.sizes
    first = bisect_left(index.entry_places, segment.base)
    index.entry_places[first : first + len(new.entry_places)] = new.entry_places
    log.adopt(segment, fd, new.data)
