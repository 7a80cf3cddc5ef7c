"""A run: one use of a command that changes something, with an id and a line in the site's log."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

LOG_NAME: Final = "coordctl.log"


class Run:
    """`id` sorts by time and is a safe part of a file's name. Nothing secret is logged."""

    def __init__(self, site: Path, command: str) -> None:
        self._file = site / LOG_NAME
        self._command = command
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"

    def log(self, text: str) -> None:
        """Append a line: time, id, command, text. Raises OSError."""
        line = " ".join(text.split())
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._file.open("a", encoding="utf-8") as log:
            log.write(f"{at} {self.id} {self._command}: {line}\n")
