"""What stands: a file a generation, so that a run that is cut short leaves the one before it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from coordctl.durable import write_file
from coordctl.errors import CoordctlError

Watched = dict[str, dict[str, list[list[str]]]]
"""Phase → machine → what its tasks looked after: [kind, name]."""
Marks = dict[str, dict[str, str]]
"""Phase → machine → hash of how these were."""

FOLDER: Final = "state"
KEPT: Final = 20


@dataclass(frozen=True)
class Generation:
    """One state of the site. `seats`: seat → machine. `phases`: phase → hash of the inputs that
    it was done with; `watched` and `marks`: what it made, see standing.py. `complete`: whether the
    run that wrote it ended well.
    """

    level: str
    seats: dict[str, str]
    machines: dict[str, str]
    run: str
    at: str
    complete: bool = False
    release: str = ""
    phases: dict[str, str] = field(default_factory=dict)
    watched: Watched = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)


class State:
    """The generations of the site in `folder`. Raises CoordctlError for a damaged one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._numbers = sorted(int(file.stem) for file in self._folder.glob("*.json")
                               if file.stem.isdigit())
        self.current = self._read(self._numbers[-1]) if self._numbers else None

    @property
    def number(self) -> int:
        """How many generations there have been."""
        return self._numbers[-1] if self._numbers else 0

    @property
    def seats(self) -> dict[str, str]:
        """Seat → machine of what stands."""
        return self.current.seats if self.current else {}

    def standing(self) -> Generation | None:
        """The newest generation that was reached whole."""
        for number in reversed(self._numbers):
            generation = self._read(number)
            if generation.complete:
                return generation
        return None

    def begin(self, generation: Generation) -> None:
        """Write a new generation, durably, before anything is changed."""
        number = self.number + 1
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._numbers.append(number)
        self.update(generation)
        standing = next((old for old in reversed(self._numbers) if self._read(old).complete), 0)
        for old in self._numbers[:-KEPT]:
            if old != standing:  # what stands is never forgotten, whatever has failed since
                (self._folder / f"{old:06}.json").unlink(missing_ok=True)
                self._numbers.remove(old)

    def update(self, generation: Generation) -> None:
        """Write the newest generation again."""
        write_file(self._folder / f"{self.number:06}.json",
                   json.dumps(asdict(generation), indent=2) + "\n")
        self.current = generation

    def _read(self, number: int) -> Generation:
        file = self._folder / f"{number:06}.json"
        try:
            fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return Generation(**fields)
        except (OSError, ValueError, TypeError) as error:
            raise CoordctlError(f"{file} is damaged: {error}",
                                mend=f"rm {file}   (the one before it is used then), then "
                                     "coordctl up") from None
