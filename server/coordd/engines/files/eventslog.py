"""events.log: the audit log as lines of the old file tool, for people, scripts and logrotate.

    TIMESTAMP|TYPE|MESSAGE_ID|FROM|TO|SUBJECT

It follows the log of segments, which has every event durably: a line that a crash took is written
again at the next start. Rotated files are never touched.
"""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from coordd.engines.files.events import Events
from coordd.engines.times import text_to_us, to_log_text
from coordd.model import Event

_BACKLOG_BYTES: Final = 8 << 20
_UNSYNCED_BYTES: Final = 256 << 10
_TAIL_BYTES: Final = 64 << 10
_CHUNK: Final = 1000
_log = logging.getLogger("coordd.files")


def line(event: Event) -> str:
    """An event's line. A time of this server's is written as the old tool does, one of another
    tool's as it was given.
    """
    at = event.timestamp
    if len(at) == 27 and at.endswith("Z"):
        at = to_log_text(text_to_us(at))
    return (f"{at}|{event.type}|{event.message_id}|{event.from_agent}|{event.to_agent}|"
            f"{event.subject}\n")


class EventsLog:
    """Appends to events.log. Lines that find no room wait here and are written later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._backlog = b""
        self._unsynced = 0
        self._given_up = False
        """Whether lines are missing: more must not follow before they are there."""

    def open(self, events: Events) -> None:
        """Open the file and write the events that it lacks."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        size = os.fstat(self._fd).st_size
        whole = _whole_lines(self._fd, size)
        if whole < size:
            os.ftruncate(self._fd, whole)
        last = _last_line(self._path)
        after = _position_of(events, last) if last else 0
        while found := events.page(_CHUNK, None, None, after, None, "oldest").events:
            self.write("".join(map(line, found)).encode())
            after = found[-1].seq

    def write(self, lines: bytes) -> None:
        """Append lines. Never raises: what could not be written waits for the next call, and from
        8 MiB on for the next start.
        """
        if self._given_up or not (lines or self._backlog):
            return
        data = self._backlog + lines
        try:
            done = os.write(self._fd, data)
        except OSError as error:
            if not self._backlog:
                _log.warning("events.log can't be written (%s); no event is lost, its lines are "
                             "written later", error.strerror)
            done = 0
        self._unsynced += done
        if self._unsynced > _UNSYNCED_BYTES:
            # Not for the lines' sake: a sync of the log would wait for what is unsynced here.
            with suppress(OSError):
                os.fdatasync(self._fd)
            self._unsynced = 0
        self._backlog = data[done:]
        if len(self._backlog) > _BACKLOG_BYTES:
            self._given_up, self._backlog = True, b""

    def reopen(self) -> None:
        """Write to the file that has the name now: logrotate has moved the other away."""
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        old, self._fd = self._fd, fd
        os.close(old)

    def close(self) -> None:
        """Let the file go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _whole_lines(fd: int, size: int) -> int:
    """The size without a torn last line."""
    start = max(0, size - _TAIL_BYTES)
    tail = os.pread(fd, size - start, start)
    return start + tail.rfind(b"\n") + 1


def _last_line(path: Path) -> str | None:
    """The last line written: of the file or, where that is empty, of the newest rotated one; None
    where there is none.
    """
    rotated = sorted((p for p in path.parent.glob(f"{path.name}?*") if p.is_file()),
                     key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for each in (path, *rotated):
        lines = _tail(each).splitlines(keepends=True)
        if lines:
            return lines[-1].decode(errors="replace")
    return None


def _tail(path: Path) -> bytes:
    """The file's end, or what a compressed one holds."""
    if path.suffix == ".gz":
        with gzip.open(path) as packed:
            return packed.read()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read()


def _position_of(events: Events, last: str) -> int:
    """The position of the newest event that has this line; 0 where none has."""
    for event in _newest_first(events):
        if line(event) == last:
            return event.seq
    return 0


def _newest_first(events: Events) -> Iterator[Event]:
    cursor: str | None = None
    while True:
        page = events.page(_CHUNK, None, None, None, cursor, "newest")
        yield from page.events
        cursor = page.next_cursor
        if cursor is None:
            return
