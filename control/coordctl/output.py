"""What people and scripts are shown: notes on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from coordctl.errors import CoordctlError

FORMATS: Final = ("table", "json", "yaml")

_notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
_results = Console(highlight=False, markup=False, emoji=False)


def notes_console() -> Console:
    """Where notes go: for what draws by itself."""
    return _notes


def results_console() -> Console:
    """Where results go: for what draws by itself."""
    return _results


def note(text: str = "") -> None:
    """A line for the person, on stderr."""
    _notes.print(text, soft_wrap=True)


def say(text: str = "") -> None:
    """A line of the result, on stdout."""
    _results.print(text, soft_wrap=True)


def fail(error: CoordctlError) -> None:
    """Show an error: what is wrong, what shows more, what to type next."""
    _notes.print("Error: ", style="bold red", end="")
    note(str(error))
    if error.details:
        note(error.details)
    if error.mend:
        note(f"Next:  {error.mend}")


def size(size_bytes: int) -> str:
    """A size for people, such as 1.5 MiB."""
    number = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], style: str) -> None:
    """A list in the format asked for. `columns`: key → the table's heading."""
    if style == "json":
        sys.stdout.write(json.dumps([dict(row) for row in rows], indent=2) + "\n")
    elif style == "yaml":
        sys.stdout.write(yaml.safe_dump([dict(row) for row in rows], sort_keys=False))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in columns.values():
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row[key]) for key in columns))
        _results.print(table)


def show_facts(facts: Mapping[str, Any], labels: Mapping[str, str], style: str) -> None:
    """One thing, a fact a line, in the format asked for. `labels`: key → its words."""
    if style == "json":
        sys.stdout.write(json.dumps(dict(facts), indent=2) + "\n")
    elif style == "yaml":
        sys.stdout.write(yaml.safe_dump(dict(facts), sort_keys=False))
    else:
        width = max(map(len, labels.values()))
        for key, label in labels.items():
            say(f"{label:<{width}}  {_cell(facts[key])}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def progress() -> Progress:
    """A bar on stderr; on what is no terminal only its last state."""
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24),
                    MofNCompleteColumn(), TimeElapsedColumn(), console=_notes)


def waiting(text: str) -> Any:
    """A spinner with `text` for as long as the `with` block lasts."""
    if not _notes.is_terminal:
        note(text)
    return _notes.status(text)


def confirm(question: str, *, yes: bool) -> None:
    """Go on where `yes`, or the person at the terminal says so; else raise."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CoordctlError("this changes something and nobody can be asked: "
                            "the input is no terminal", mend="the same command with --yes")
    if not click.confirm(question, err=True):
        raise CoordctlError("nothing was changed")
