"""`up`, `down` and `status` of the server on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from coordctl import process, site
from coordctl.api import Api
from coordctl.errors import CoordctlError
from coordctl.output import note, say, show_facts, size, waiting
from coordctl.runs import Run

_LABELS = {"site": "site", "level": "level", "address": "address", "running": "running",
           "pid": "pid", "since": "since", "ready": "ready", "why": "why not",
           "messages": "messages", "unread": "unread", "size": "size", "version": "version"}


def up(folder: Path, port: int | None) -> None:
    """Bring the site up; a repeat says that it runs. Raises CoordctlError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with site.locked(folder, "up"):
        if (folder / site.SITE_FILE).exists():
            here = site.Site(folder)
        else:
            here = site.make(folder, port)
            note(f"New site {here.folder}")
        found = process.find(here)
        if found is None:
            found = _start(here, port)
        elif port is not None and port != here.file.port:
            raise CoordctlError(f"the server runs on port {here.file.port} (pid {found.pid})",
                                mend=f"coordctl down && coordctl up --port {port}")
        else:
            say(f"coordd runs at {here.url} (pid {found.pid}, since {found.since:%F %T}).")
    with Api(here.url, here.token()) as api:
        if why := api.ready():
            raise CoordctlError(f"it is not ready: {why}", mend="coordctl status")


def _start(here: site.Site, port: int | None) -> process.Process:
    if port is not None and port != here.file.port:
        note(f"Port {here.file.port} → {port} in {here.folder / site.SITE_FILE}")
        here.set_port(port)
    here.prepare()
    run = Run(here.folder, "up")
    run.log(f"starting at {here.url}")
    try:
        with Api(here.url, here.token()) as api, waiting(f"Starting coordd at {here.url} …"):
            found = process.start(here, lambda: not api.ready())
    except CoordctlError as error:
        run.log(f"failed: {error}")
        raise
    run.log(f"ready, pid {found.pid}")
    say(f"coordd is ready at {here.url} (pid {found.pid}).")
    say()
    say("Try:")
    prefix = _prefix()
    option = "" if here.file.port == 8000 else f" --url {here.url}"
    say(f'  {prefix}coord send code chat "Hi" "there"{option}')
    say(f"  {prefix}coord inbox chat{option}")
    say(f"  {prefix}coordctl status")
    say()
    say(f"In a browser: {here.url}/docs")
    return found


def _prefix() -> str:
    """What to type before `coord`: nothing where the shell finds it."""
    beside = Path(sys.executable).parent
    if any(Path(entry) == beside for entry in os.environ.get("PATH", "").split(os.pathsep)):
        return ""
    shown = os.path.relpath(beside)
    return f"{beside if shown.startswith('..') else shown}/"


def down(folder: Path) -> None:
    """End the site's server; a repeat says that nothing runs. Raises CoordctlError."""
    here = site.existing(folder)
    with site.locked(here.folder, "down"):
        with waiting("Stopping coordd …"):
            pid = process.stop(here)
        if pid is None:
            say(f"Nothing runs for the site {here.folder}.")
            return
        Run(here.folder, "down").log(f"ended pid {pid}")
        say(f"coordd has stopped. The messages stay in {here.data}.")


def status(folder: Path, style: str) -> bool:
    """Show the site's state; whether its server is ready."""
    here = site.existing(folder)
    found = process.find(here)
    facts: dict[str, Any] = dict.fromkeys(_LABELS)
    facts |= {"site": str(here.folder), "level": here.file.level, "address": here.url,
              "running": found is not None, "ready": False}
    if found is not None:
        facts |= {"pid": found.pid, "since": found.since.isoformat(" ", "seconds")}
        with Api(here.url, here.token()) as api:
            facts["why"] = api.ready() or None
            facts["ready"] = facts["why"] is None
            try:
                stats = api.stats()
                facts |= {"messages": stats["messages"], "unread": stats["unread"],
                          "size": stats["size_bytes"], "version": api.version()}
            except CoordctlError as error:
                facts["why"] = facts["why"] or str(error)
    if style == "table":
        if found is None:
            facts["why"] = "stopped: coordctl up starts it"
        if facts["size"] is not None:
            facts["size"] = size(facts["size"])
        facts["pid"] = facts["pid"] and str(facts["pid"])
        labels = {key: label for key, label in _LABELS.items() if facts[key] is not None}
    else:
        labels = _LABELS
    show_facts(facts, labels, style)
    return bool(facts["ready"])
