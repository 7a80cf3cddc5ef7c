"""Cursors of lists: a direction and a place, never a count."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from coordd.model import Order
from coordd.store import BadCursorError

_CURSOR: Final = re.compile(r"([ab])(\d{1,18})\Z")


def read_cursor(cursor: str, letters: str = "ab") -> tuple[str, int]:
    """A cursor is a direction (a: above, b: below) and a number, a seq or a position.

    Raises BadCursorError.
    """
    match = _CURSOR.match(cursor)
    if match is None or match[1] not in letters:
        raise BadCursorError(f"{cursor!r} is no cursor of this list: take a page's next_cursor")
    return match[1], int(match[2])


class Span(NamedTuple):
    """What a page of a list in either order is of: above < place < below, None for no bound."""

    newest: bool
    above: int
    below: int | None


def span_of(order: Order, after: int | None, cursor: str | None) -> Span:
    """The page's span. A cursor keeps the order of the page that gave it.

    Raises BadCursorError.
    """
    above = max(after or 0, 0)
    if cursor is None:
        return Span(order == "newest", above, None)
    letter, place = read_cursor(cursor)
    if letter == "b":
        return Span(True, above, place)
    return Span(False, max(above, place), None)
