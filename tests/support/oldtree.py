"""Trees of the old file tool for tests: the real one, and small ones made by hand."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from coordctl.legacy import OldEvent, OldMessage, render_event, render_message

ARCHIVE: Final = Path(__file__).parents[1] / "data" / "legacy-tree.tar.gz"
TIME: Final = "2026-11-23T14:32:33+0000"


def unpack(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The real tree, unpacked, and its truth: a row a message, in the order sent."""
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, Debian 12's, has no filters yet; 3.12 and newer warn without one.
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safe)
    text = (folder / "truth.jsonl").read_text(encoding="utf-8")
    return folder / "tree", [json.loads(line) for line in text.split("\n") if line]


def old_id(number: int, sender: str = "code") -> str:
    return f"{TIME}-{sender}-{number:08x}-0000-4000-8000-000000000000"


@dataclass
class Tree:
    """A tree under construction: `send` writes what the old tool wrote."""

    folder: Path
    lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "inbox").mkdir(parents=True)

    def file(self, message: OldMessage) -> Path:
        path = self.folder / "inbox" / message.to_agent / f"{message.id}.msg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(render_message(message))
        return path

    def event(self, kind: str, message: OldMessage, at: str = TIME) -> None:
        self.lines.append(render_event(OldEvent(
            at, kind, message.id, message.from_agent, message.to_agent, message.subject)))

    def send(self, number: int, to: str = "chat", *, at: str = TIME, subject: str = "Hi",
             body: str = "there", logged: bool = True, file: bool = True) -> OldMessage:
        message = OldMessage(old_id(number), "code", to, subject, at, body)
        if logged:
            self.event("SENT", message, at)
        if file:
            self.file(message)
        return message

    def write_log(self, name: str = "events.log", end: bytes = b"") -> None:
        (self.folder / name).write_bytes(b"".join(self.lines) + end)
        self.lines = []

    def everything(self) -> dict[str, bytes]:
        """Every file under the folder: to see that reading changes none."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    found[str(path)] = path.read_bytes()
        return found
