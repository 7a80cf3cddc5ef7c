"""Processes of ours: found by their command line, signalled, waited for.

No pid file is kept, so none can be stale: the command line names the settings file. A process is
signalled through a descriptor that stays its own, whatever becomes of its number.
"""

from __future__ import annotations

import os
import select
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple


class ProcessError(Exception):
    """What could not be done. The text's first line says it; further ones show a log's end."""


class Process(NamedTuple):
    """A process that runs."""

    pid: int
    words: list[str]

    def is_there(self) -> bool:
        """Whether it still runs, and is not one of a container that looks alike."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
            root = os.stat(f"/proc/{self.pid}/root")  # noqa: PTH116  Path would resolve the link
            # The interpreter and -P come first.
            return (words[2:2 + len(self.words)] == [os.fsencode(word) for word in self.words]
                    and os.path.samestat(root, os.stat("/")))  # noqa: PTH116
        except OSError:
            return False

    def since(self) -> str | None:
        """When it began, with this machine's time zone; None for one that has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        ticks = int(fields.rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        age_s = uptime_s - ticks / os.sysconf("SC_CLK_TCK")
        return datetime.fromtimestamp(time.time() - age_s).astimezone().isoformat()

    def send(self, number: signal.Signals, limit_s: float = 0) -> None:
        """Signal it, and wait until it has ended where `limit_s` is given.

        Raises ProcessError where it is not ours or does not end.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Looked at again now that the number can't pass to another process unseen.
            if not self.is_there():
                return
            signal.pidfd_send_signal(handle, number)
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            if limit_s and not ended.poll(limit_s * 1000):
                raise ProcessError(f"pid {self.pid} still runs {limit_s:.0f} s after "
                                     f"{number.name}: kill -9 {self.pid} (what was acknowledged "
                                     "is safe)")
        except PermissionError:
            raise ProcessError(f"pid {self.pid} is another user's") from None
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def find(words: list[str]) -> Process | None:
    """A process with these arguments behind its interpreter and -P."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := Process(int(entry.name), words)).is_there():
            return found
    return None
