"""Times as microseconds since 1970 (UTC), which compare and take little room, and as texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from coordd.model import parse_time

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def text_to_us(text: str) -> int:
    """Microseconds since 1970 of a time's text. Raises ValueError where it is none."""
    return to_us(parse_time(text))


def to_moment(us: int) -> datetime:
    """The moment so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=us)


def to_text(us: int) -> str:
    """The text that this server writes: RFC 3339, UTC, microseconds, `Z`."""
    return to_moment(us).isoformat(timespec="microseconds")[:-6] + "Z"


def to_log_text(us: int) -> str:
    """The text that the old file tool writes: whole seconds, `+0000`."""
    return to_text(us)[:19] + "+0000"
