"""What a power loss makes of one write or truncation that was not synced.

Each way takes the file's bytes so far, the call, a source of chance, and one number from 0 to 1
that is the same for all calls of a state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from faults.crashdisk import Call

SECTOR_BYTES: Final = 512


def put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def apply(data: bytearray, call: Call) -> None:
    if call.name == "truncate":
        resize(data, call.offset)
    else:
        put(data, call.offset, call.data)


def resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


def torn(data: bytearray, call: Call, random: Random, last: float) -> None:
    """The first bytes of a write; mostly all of them for a truncation."""
    if call.name == "truncate":
        if last < 0.5:
            resize(data, call.offset)
        return
    size = len(call.data)
    cut = random.choice([
        random.randrange(size + 1) if size else 0,
        random.randrange(size // SECTOR_BYTES + 1) * SECTOR_BYTES - call.offset % SECTOR_BYTES,
        size - 1, size, 1,
    ])
    put(data, call.offset, call.data[: max(cut, 0)])


def sectors(data: bytearray, call: Call, random: Random, last: float) -> None:
    """Any sectors of a write; the size grown over those that are missing, or not."""
    if call.name == "truncate":
        if random.random() < 0.5:
            resize(data, call.offset)
        return
    end = call.offset + len(call.data)
    if last < 0.5 and len(data) < end:
        resize(data, end)
    start = call.offset
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if random.random() < 0.6:
            put(data, start, call.data[start - call.offset : stop - call.offset])
        start = stop


def zeros(data: bytearray, call: Call, random: Random, last: float) -> None:
    """The size only, or zeros in the place of some writes."""
    if call.name == "truncate" or random.random() < 0.5:
        apply(data, call)
    elif len(data) < call.offset + len(call.data):
        resize(data, call.offset + len(call.data))


def dropped(data: bytearray, call: Call, random: Random, last: float) -> None:
    """Nothing of a write but, perhaps, the truncations."""
    if call.name == "truncate" and last < 0.5:
        resize(data, call.offset)


def either(data: bytearray, call: Call, random: Random, last: float) -> None:
    """Each step wholly or not at all, a later one without an earlier one too."""
    if random.random() < 0.5:
        apply(data, call)


LOSSES: Final = (torn, torn, sectors, sectors, zeros, dropped, either)
