"""Postgres arrays in their binary form, a column of a flush each.

psycopg's own list dumpers take a microsecond an element, which at eight columns a message would be
the slowest part of a send. Format: src/backend/utils/adt/arrayfuncs.c, array_recv.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from struct import pack
from typing import Any

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_TEXT, _INT2, _INT4, _INT8 = 25, 21, 23, 20
_NULL = b"\xff\xff\xff\xff"
_SIZES = [size.to_bytes(4, "big") for size in range(4096)]


class Texts(bytes):
    """A `text[]`."""


class Shorts(bytes):
    """A `smallint[]`."""


class Ints(bytes):
    """An `integer[]`."""


class Bigints(bytes):
    """A `bigint[]`."""


def _head(oid: int, count: int, *, nulls: bool = False) -> bytes:
    if not count:
        return pack(">iii", 0, 0, oid)
    return pack(">iiiii", 1, nulls, oid, count, 1)


def texts(values: Sequence[str | None]) -> Texts:
    """The column of those texts; None is NULL."""
    if None in values:
        parts = [_NULL if value is None else _sized(value.encode()) for value in values]
        return Texts(_head(_TEXT, len(values), nulls=True) + b"".join(parts))
    data = [value.encode() for value in values]  # type: ignore[union-attr]
    sizes = list(map(len, data))
    parts = [b""] * (2 * len(data))
    parts[0::2] = (map(_SIZES.__getitem__, sizes) if max(sizes, default=0) < len(_SIZES)
                   else [size.to_bytes(4, "big") for size in sizes])
    parts[1::2] = data
    return Texts(_head(_TEXT, len(values)) + b"".join(parts))


def names(values: Sequence[str]) -> Texts:
    """As `texts`, of few different ones."""
    data = {value: _sized(value.encode()) for value in set(values)}
    return Texts(_head(_TEXT, len(values)) + b"".join(map(data.__getitem__, values)))


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def texts_or_null(values: Sequence[str | None]) -> Texts | None:
    """As `texts`; None, which stands for NULL in every row, where there is no other value."""
    return texts(values) if values.count(None) != len(values) else None


def ints(values: Sequence[int]) -> Ints:
    """The column of those numbers below 2^31."""
    return Ints(_head(_INT4, len(values)) + _words("i", 4, values))


def bigints(values: Sequence[int | None]) -> Bigints:
    """The column of those numbers below 2^63; None is NULL."""
    if any(value is None for value in values):
        parts = [_NULL if value is None else pack(">iq", 8, value) for value in values]
        return Bigints(_head(_INT8, len(values), nulls=True) + b"".join(parts))
    return Bigints(_head(_INT8, len(values)) + b"".join([pack(">iq", 8, v) for v in values]))


def shorts(values: Sequence[int]) -> Shorts:
    """The column of those numbers, few different ones, below 2^15."""
    data = {value: pack(">ih", 2, value) for value in set(values)}
    return Shorts(_head(_INT2, len(values)) + b"".join(map(data.__getitem__, values)))


def _words(kind: str, size: int, values: Sequence[int]) -> bytes:
    words = array(kind, [size]) * (2 * len(values))
    words[1::2] = array(kind, values)
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def _dumper(array_oid: int) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: Any) -> Buffer | None:
            return bytes(obj)

    return ArrayDumper


def register(context: AdaptContext) -> None:
    """Make a connection, or all of psycopg, take these columns as parameters."""
    for kind, oid in ((Texts, 1009), (Shorts, 1005), (Ints, 1007), (Bigints, 1016)):
        context.adapters.register_dumper(kind, _dumper(oid))
