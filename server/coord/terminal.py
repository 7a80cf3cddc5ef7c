"""Writing for a person: what a terminal may be shown, short times, aligned columns.

On a terminal rich draws; piped, the same rows are plain text, whole and aligned, without its
40 ms of import.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

# C1 and DEL (an escape sequence may begin with one), and what reorders the text around it; then C0.
_RISKY = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_controls = re.compile(rf"[\x00-\x08\x0b-\x1f{_RISKY}]")
_controls_in_line = re.compile(rf"[\x00-\x1f{_RISKY}]")
_controls_in_json = re.compile(rf"[{_RISKY}]")

PRIORITY_STYLES = {"critical": "bold red", "high": "yellow", "low": "dim", "info": "dim"}
STATE_MARKS = {"unread": "●", "read": " ", "acknowledged": "✓"}


def harmless(text: str) -> str:
    r"""`text` with its control characters written out (`\x1b`), lines and tabs kept."""
    return _controls.sub(_written_out, text)


def one_line(text: str) -> str:
    """`text` with all of its control characters written out, line ends too."""
    return _controls_in_line.sub(_written_out, text)


def harmless_json(text: str) -> str:
    """JSON `text` with its control characters as JSON's own escapes: the values stay the same."""
    return _controls_in_json.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def short_time(text: str, now: datetime | None = None) -> str:
    """An RFC 3339 time in at most 12 characters, local: `14:32:05`, `Nov 23 14:32`, `2025-11-23`.

    A text that is no time is shown as it is.
    """
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return one_line(text)
    now = (now or datetime.now(UTC)).astimezone()
    if moment.date() == now.date():
        return f"{moment:%H:%M:%S}"
    return f"{moment:%b %d %H:%M}" if moment.year == now.year else f"{moment:%Y-%m-%d}"


def long_time(text: str, now: datetime | None = None) -> str:
    """A local time in full and, for the last days, how long ago: `2026-11-23 14:32:05, 2 h ago`."""
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return one_line(text)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    told = f"{moment:%Y-%m-%d %H:%M:%S}"
    for unit, size_s, units in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 24), ("d", 86400, 30)):
        if 0 <= seconds < size_s * units:
            return f"{told}, {seconds // size_s:.0f} {unit} ago"
    return told


class Cell(NamedTuple):
    """A text in a table and rich's style for it."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column. `widest`: the most characters on a terminal; the one with `rest` has the others."""

    title: str
    right: bool = False
    widest: int | None = None
    rest: bool = False


def on_terminal() -> bool:
    """Whether a person reads the output as it comes."""
    return sys.stdout.isatty()


def console() -> Console:
    """Rich's console, without its guesses: nothing in a message is markup, an emoji or a number."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, soft_wrap=False)


def line(*cells: Cell, cut: bool = False) -> None:
    """Print the cells in one line, one space between them, in colour on a terminal.

    `cut`: no further than the terminal is wide.
    """
    told = [cell for cell in cells if cell.text]
    if not on_terminal():
        print(" ".join(cell.text for cell in told))  # noqa: T201
        return
    from rich.text import Text

    text = Text(" ").join(Text(cell.text, cell.style) for cell in told)
    if cut:
        console().print(text, no_wrap=True, overflow="ellipsis")
    else:
        console().print(text, soft_wrap=True)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print the rows aligned; on a terminal in its width, piped in full."""
    if on_terminal():
        _draw(columns, rows)
        return
    lines = [[column.title for column in columns], *([cell.text for cell in row] for row in rows)]
    widths = [max(len(texts[at]) for texts in lines) for at in range(len(columns))]
    for texts in lines:
        aligned = (text.rjust(width) if column.right else text.ljust(width)
                   for text, width, column in zip(texts, widths, columns, strict=True))
        print("  ".join(aligned).rstrip())  # noqa: T201


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim",
                  expand=any(column.rest for column in columns))
    for column in columns:
        drawn.add_column(column.title, justify="right" if column.right else "left", no_wrap=True,
                         overflow="ellipsis", max_width=column.widest,
                         ratio=1 if column.rest else None)
    for row in rows:
        drawn.add_row(*(Text(cell.text, cell.style) for cell in row))
    console().print(drawn)
