"""The site's server process: found, started, stopped.

The server's own supervisor does it: `python -m coordd.supervise`, a command and a line of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from coordctl.errors import CoordctlError
from coordctl.site import Site


class Process(NamedTuple):
    """A running server. `since` is when it began, in this machine's time zone."""

    pid: int
    since: datetime


def _supervise(verb: str, site: Site) -> dict[str, Any]:
    """The answer of the supervisor's command. Raises CoordctlError."""
    done = subprocess.run(  # noqa: S603  our own interpreter, no shell
        # -P: a file in the current folder must not stand in for one of the server's modules.
        [sys.executable, "-P", "-m", "coordd.supervise", verb, "--settings", str(site.settings),
         "--log", str(site.log)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        first, _, details = done.stderr.rstrip().partition("\n")
        raise CoordctlError(first.removeprefix("coordd.supervise: "), details=details,
                            mend="mend that, then coordctl up")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _process(answer: dict[str, Any]) -> Process | None:
    if answer["pid"] is None or answer["since"] is None:
        return None
    return Process(answer["pid"], datetime.fromisoformat(answer["since"]))


def find(site: Site) -> Process | None:
    """The site's server, None where it does not run."""
    return _process(_supervise("status", site))


def is_kept(site: Site) -> bool:
    """Whether the server runs, and something restarts it when it dies."""
    answer = _supervise("status", site)
    kept = answer["supervisor"] is not None or service_manager() == "systemd-user"
    return answer["pid"] is not None and kept


def service_manager() -> str:
    """How a server on this computer is kept running: by systemd's user manager where one answers,
    else by a supervisor of our own.
    """
    if not Path("/run/systemd/system").is_dir() or "XDG_RUNTIME_DIR" not in os.environ:
        return "supervised"
    asked = subprocess.run(["systemctl", "--user", "show-environment"], check=False,  # noqa: S607
                           stdin=subprocess.DEVNULL, capture_output=True)
    return "supervised" if asked.returncode else "systemd-user"


def check_port(site: Site) -> None:
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


def stop(site: Site) -> int | None:
    """End the site's server and what keeps it running, and wait until they have; a pid, or None.

    Under systemd its unit is disabled too: it stays down.
    """
    before = _supervise("status", site)
    if service_manager() == "systemd-user":
        subprocess.run(  # noqa: S603
            ["systemctl", "--user", "disable", "--now", f"coordd-{site.id}.service"],  # noqa: S607
            stdin=subprocess.DEVNULL, capture_output=True, check=False)
    _supervise("stop", site)
    pid: int | None = before["pid"] or before["supervisor"]
    return pid
