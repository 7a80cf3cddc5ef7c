"""A compact map from texts to row numbers: 64-bit hashes in flat arrays.

A dict of a million texts takes 200 MB, this takes about 20. It is split in shards that grow one
by one, so that growing is never a pause that a request would notice. Two texts with one hash
(a chance of 3e-8 at a million) look alike here: who reads the row compares the text.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Final

_SHARDS: Final = 256
_FIRST_SLOTS: Final = 8


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b: the same in every process, unlike `hash()`."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class _Shard:
    """Open addressing with linear probing. A slot's value is the row + 1; 0 is an empty slot."""

    __slots__ = ("count", "keys", "values")

    def __init__(self, slots: int = _FIRST_SLOTS) -> None:
        self.keys = array("Q", bytes(8 * slots))
        self.values = array("I", bytes(4 * slots))
        self.count = 0

    def slot(self, key: int) -> int:
        keys, values = self.keys, self.values
        mask = len(keys) - 1
        place = key & mask
        while values[place] and keys[place] != key:
            place = (place + 1) & mask
        return place

    def grow(self) -> None:
        old = zip(self.keys, self.values, strict=True)
        bigger = _Shard(2 * len(self.keys))
        for key, value in old:
            if value:
                place = bigger.slot(key)
                bigger.keys[place] = key
                bigger.values[place] = value
        self.keys, self.values = bigger.keys, bigger.values


class HashIndex:
    """Text → row. The last row set for a text is the one it answers."""

    def __init__(self) -> None:
        self._shards = [_Shard() for _ in range(_SHARDS)]

    def get(self, text: str) -> int | None:
        """The row of `text`, None where there is none."""
        key = text_hash(text)
        shard = self._shards[key >> 56]
        value = shard.values[shard.slot(key)]
        return value - 1 if value else None

    def set(self, text: str, row: int) -> None:
        """Let `text` answer `row`."""
        key = text_hash(text)
        shard = self._shards[key >> 56]
        place = shard.slot(key)
        if not shard.values[place]:
            shard.count += 1
            if 3 * shard.count > 2 * len(shard.keys):
                shard.grow()
                place = shard.slot(key)
            shard.keys[place] = key
        shard.values[place] = row + 1

    def dump(self) -> list[bytes]:
        """The tables as bytes, for a snapshot."""
        return [part.tobytes() for shard in self._shards for part in (shard.keys, shard.values)]

    @classmethod
    def load(cls, parts: list[memoryview]) -> HashIndex:
        """What `dump` gave."""
        index = cls()
        for shard, keys, values in zip(index._shards, parts[::2], parts[1::2], strict=True):
            shard.keys = array("Q", keys.tobytes())
            shard.values = array("I", values.tobytes())
            shard.count = len(shard.values) - shard.values.count(0)
        return index
