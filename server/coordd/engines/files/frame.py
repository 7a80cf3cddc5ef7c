r"""Frames: how records stand in a segment, one a line, readable with `less`.

    LENGTH CRC32C POS SYNCED PAYLOAD\n

LENGTH and CRC32C are 8 hex digits each and speak of what follows them up to the newline. POS is
the position of the payload's first event, in decimal. PAYLOAD is a JSON object, or an array of
them that is stored whole or not at all.

SYNCED is what tells a torn tail from damage: every event before that position was durable before
this frame was written. A frame that cannot be read may be cut off only when no later frame says
that it was durable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import google_crc32c

HEAD_BYTES: Final = 18
_HEAD = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ")
_LATER = re.compile(rb"(?:\A|\n)(?=[0-9a-f]{8} [0-9a-f]{8} \d+ \d+ [{\[])")

crc32c_extend = google_crc32c.extend


class Frame(NamedTuple):
    """A frame read from a buffer. Offsets count from the buffer's begin."""

    start: int
    payload_start: int
    end: int
    """One past the newline."""
    position: int
    synced: int
    payload: bytes


def head(payload: bytes, position: int, synced: int) -> bytes:
    """What stands before a payload in its frame; a newline follows it."""
    rest = b"%d %d " % (position, synced)
    return b"%08x %08x %b" % (len(rest) + len(payload),
                              crc32c_extend(crc32c_extend(0, rest), payload), rest)


def encode(payload: bytes, position: int, synced: int) -> bytes:
    """The frame's bytes."""
    return b"%b%b\n" % (head(payload, position, synced), payload)


def decode(buffer: bytes, start: int) -> Frame | None:
    """The frame at `start`, None where there is no whole, undamaged one."""
    head = _HEAD.match(buffer, start)
    if head is None:
        return None
    rest_start = start + HEAD_BYTES
    end = rest_start + int(head[1], 16)
    rest = buffer[rest_start:end]
    if buffer[end : end + 1] != b"\n" or crc32c_extend(0, rest) != int(head[2], 16):
        return None
    position, synced, payload = rest.split(b" ", 2)
    return Frame(start, end - len(payload), end + 1, int(position), int(synced), payload)


def walk(buffer: bytes, start: int) -> Iterator[Frame]:
    """The frames from `start` on, up to the first place that holds none."""
    while (frame := decode(buffer, start)) is not None:
        yield frame
        start = frame.end


def durable_after(buffer: bytes, start: int, position: int) -> bool:
    """Whether a sound frame behind `start` says that `position` was durable before it."""
    for match in _LATER.finditer(buffer, start):
        later = decode(buffer, match.end())
        if later is not None and later.synced > position:
            return True
    return False
