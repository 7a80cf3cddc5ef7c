"""What a run needs before Ansible starts: secrets, the release, the rendered inventory."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from coordctl import credentials, phases, render
from coordctl.errors import CoordctlError
from coordctl.output import waiting
from coordctl.profile import Profile
from coordctl.site import Site
from coordctl.topology import Topology
from coordctl.values import Controller, values_of

TARGET_PYTHON: Final = "3.13"
"""Debian 13's."""


class Stage(NamedTuple):
    """All of it, for one level of a site."""

    profile: Profile
    topology: Topology
    phases: list[str]
    files: render.Files
    release: str


def service_manager() -> str:
    """How a server on this computer is kept running: by systemd's user manager where one answers,
    else by a supervisor of our own.
    """
    if not Path("/run/systemd/system").is_dir() or "XDG_RUNTIME_DIR" not in os.environ:
        return "supervised"
    asked = subprocess.run(["systemctl", "--user", "show-environment"], check=False,  # noqa: S607
                           stdin=subprocess.DEVNULL, capture_output=True)
    return "supervised" if asked.returncode else "systemd-user"


def rendered(site: Site) -> render.Files:
    """The inventory of a site. Raises CoordctlError."""
    return _render(site, site.profile(), site.topology())[0]


def prepare(site: Site, level: str | None = None) -> Stage:
    """Compute and make all of it; only secrets and the release's cache are written.

    Raises CoordctlError.
    """
    profile = site.profile(level)
    topology = site.topology(level)
    wanted = phases.of(topology)
    phases.check_kit(profile, wanted)
    credentials.prepare(site, topology)
    files, release = _render(site, profile, topology)
    return Stage(profile, topology, wanted, files, release)


def _render(site: Site, profile: Profile, topology: Topology) -> tuple[render.Files, str]:
    if any(brace in str(site.folder) for brace in ("{{", "{%", "{#")):
        raise CoordctlError(f"the site's folder {site.folder} has braces that Ansible would read",
                            mend="move the site to a folder without them")
    release, wheelhouse = "", ""
    if not site.is_local:
        from coordctl.release import build

        with waiting("Building the release …"):
            built = build(TARGET_PYTHON, platform.machine())
        release, wheelhouse = built.id, str(built.folder)
    controller = Controller(
        site.folder, site.url, service_manager() if site.is_local else "systemd", release,
        wheelhouse)
    return render.render(values_of(site.file, profile, topology, controller)), release
