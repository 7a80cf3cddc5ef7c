"""`coordctl status` and `down`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import yaml
from rich.live import Live

from coordctl import process, site
from coordctl.errors import CoordctlError
from coordctl.output import results_console, say, waiting
from coordctl.runs import Run
from coordctl.status.gather import gather
from coordctl.status.show import picture

WATCH_S: Final = 2.0
SAMPLE_S: Final = 1.0


def down(folder: Path) -> None:
    """End the site's server on this machine; a repeat says that nothing runs."""
    here = site.existing(folder)
    if not here.is_local:
        raise CoordctlError(f"the site {here.file.name} stands on other machines "
                            f"({', '.join(here.file.machines)}): down stops what runs on this one",
                            mend="coordctl status   (a lab's machines: coordctl lab down)")
    with site.locked(here.folder, "down"):
        run = Run(here.folder, "down")
        with waiting("Stopping coordd …"):
            pid = process.stop(here)
        if pid is None:
            say(f"Nothing runs for the site {here.folder}.")
            return
        run.log(f"ended pid {pid}")
        say(f"coordd has stopped. The messages stay in {here.data}.")


def status(folder: Path, style: str) -> bool:
    """Show the site's state once; whether its server is ready."""
    here = site.existing(folder)
    facts = gather(here, sample_s=0.0 if here.is_local else SAMPLE_S)
    if style == "table":
        results_console().print(picture(facts), crop=False)
    else:
        _print(facts, style)
    return bool(facts["ready"])


def watch(folder: Path, style: str) -> None:
    """Show it again and again, until Ctrl-C: in place on a terminal, else one after the other."""
    console = results_console()
    if style == "table" and console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                live.update(picture(_now(folder), scrolls=False), refresh=True)
                _rest(began)
    while True:
        began = time.monotonic()
        facts = _now(folder)
        if style == "table":
            console.print(picture(facts), crop=False)
            say()
        else:
            _print(facts, style, indent=None)  # a line each
        sys.stdout.flush()
        _rest(began)


def _now(folder: Path) -> dict[str, Any]:
    """The facts, of a site whose files may have changed meanwhile."""
    return gather(site.existing(folder), sample_s=SAMPLE_S)


def _rest(began: float) -> None:
    time.sleep(max(0.0, WATCH_S - (time.monotonic() - began)))


def _print(facts: dict[str, Any], style: str, *, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(facts, indent=indent) + "\n" if style == "json"
                     else yaml.safe_dump(facts, sort_keys=False, explicit_start=True))
