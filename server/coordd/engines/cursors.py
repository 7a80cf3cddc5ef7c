"""Cursors of lists: a direction and a place, never a count."""

from __future__ import annotations

import re
from typing import Final

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
