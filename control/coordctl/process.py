"""The site's server process: found, started, stopped.

No pid file is kept, so none can be stale: the process is the one whose command line names the
site's settings file. It is signalled through a descriptor that stays its own, whatever becomes of
its number.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from coordctl.errors import CoordctlError
from coordctl.site import Site

START_LIMIT_S: Final = 120.0
STOP_LIMIT_S: Final = 120.0
LOG_LINES: Final = 8


class Process(NamedTuple):
    """A running server. `since` is when it began, in this machine's time zone."""

    pid: int
    since: datetime


def _arguments(site: Site) -> list[str]:
    # -P: a file in the current folder must not stand in for one of the server's modules.
    return [sys.executable, "-P", "-m", "coordd", "--settings", str(site.settings)]


def _is_server(pid: int, site: Site) -> bool:
    """Whether the process is the site's server, and not one of a container that looks alike."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return (words[2:6] == [os.fsencode(word) for word in _arguments(site)[2:]]
                and os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/")))  # noqa: PTH116
    except OSError:
        return False


def _began(pid: int) -> datetime:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(fields.rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    age_s = uptime_s - ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - age_s).astimezone()


def find(site: Site) -> Process | None:
    """The site's server, None where it does not run."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_server(int(entry.name), site):
            try:
                return Process(int(entry.name), _began(int(entry.name)))
            except OSError:  # it has ended since
                continue
    return None


def _check_port(site: Site) -> None:
    """Raise CoordctlError where another program has the site's port."""
    family = socket.AF_INET6 if ":" in site.file.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((site.file.host, site.file.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CoordctlError(f"host {site.file.host}, port {site.file.port}: "
                                    f"{error.strerror}", mend=f"edit {site.folder / 'site.yml'}"
                                    ) from None
            free = site.file.port + 1 if site.file.port < 65535 else 8001
            raise CoordctlError(f"port {site.file.port} of {site.file.host} is taken by another "
                                "program", mend=f"coordctl up --port {free}") from None


def _last_lines(site: Site, begin: int) -> str:
    """The end of what the server has logged since `begin` (a place in its log, in bytes)."""
    with site.log.open("rb") as log:
        log.seek(max(begin, log.seek(0, os.SEEK_END) - 16384))
        lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return "\n".join(f"  {line}" for line in lines)


def start(site: Site, is_ready: Callable[[], bool]) -> Process:
    """Start the server, detached from this terminal, and wait until it is ready.

    Raises CoordctlError, with the end of its log, where the port is taken, it ends, or it is not
    ready in time (it then runs on: a long recovery is no reason to end it).
    """
    _check_port(site)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORDD_")}
    with site.log.open("ab") as log:
        begin = log.tell()
        server = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            _arguments(site), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=site.folder, env=environ, start_new_session=True, umask=0o077)
    deadline = time.monotonic() + START_LIMIT_S
    while server.poll() is None:
        if is_ready():
            return Process(server.pid, _began(server.pid))
        if time.monotonic() > deadline:
            raise CoordctlError(f"the server (pid {server.pid}) is not ready after "
                                f"{START_LIMIT_S:.0f} s; it goes on trying",
                                details=_last_lines(site, begin), mend="coordctl status")
        time.sleep(0.05)
    raise CoordctlError(f"the server ended with exit code {server.returncode}; its log "
                        f"({site.log}) says:", details=_last_lines(site, begin),
                        mend="mend that, then coordctl up")


@contextmanager
def _handle(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stop(site: Site) -> int | None:
    """End the site's server and wait until it has; its pid, None where none ran."""
    found = find(site)
    if found is None:
        return None
    try:
        with _handle(found.pid) as server:
            # Looked at again now that the number can't pass to another process unseen.
            if not _is_server(found.pid, site):
                return None
            signal.pidfd_send_signal(server, signal.SIGTERM)
            ended = select.poll()
            ended.register(server, select.POLLIN)
            if not ended.poll(STOP_LIMIT_S * 1000):
                raise CoordctlError(f"the server (pid {found.pid}) still runs {STOP_LIMIT_S:.0f} s "
                                    "after SIGTERM", details=_last_lines(site, 0),
                                    mend=f"kill -9 {found.pid}   (what was acknowledged is safe)")
    except ProcessLookupError:
        return None
    return found.pid
