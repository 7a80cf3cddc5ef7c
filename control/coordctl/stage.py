"""What a run needs before Ansible starts: secrets, the release, the rendered inventory."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Final, NamedTuple

from coordctl import credentials, phases, process, render
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.output import waiting
from coordctl.profile import Profile
from coordctl.site import Site
from coordctl.topology import Topology
from coordctl.values import Controller, values_of
from coordctl.vault import SECRETS_FILE

TARGET_PYTHON: Final = "3.13"
"""Debian 13's."""


class Stage(NamedTuple):
    """All of it, for one level of a site. `variables`: files for Ansible beside the inventory."""

    profile: Profile
    topology: Topology
    phases: list[str]
    files: render.Files
    variables: list[Path]
    release: str


def rendered(site: Site, level: str | None = None) -> render.Files:
    """The inventory of a site, as of another level where one is given. Raises CoordctlError."""
    if any(brace in str(site.folder) for brace in ("{{", "{%", "{#")):
        raise CoordctlError(f"the site's folder {site.folder} has braces that Ansible would read",
                            mend="move the site to a folder without them")
    profile, topology = site.profile(level), site.topology(level)
    manager = process.service_manager() if profile.local else "systemd"
    controller = Controller(site.folder, site.url_of(topology), manager,
                            f"coordd-{site.id}" if manager == "systemd-user" else "coordd")
    return render.render(values_of(site.file, profile, topology, controller))


def prepare(site: Site, level: str | None = None) -> Stage:
    """Compute and make all of it; only secrets and the release are written.

    Raises CoordctlError.
    """
    profile = site.profile(level)
    topology = site.topology(level)
    wanted = phases.of(topology)
    files = rendered(site, level)
    credentials.prepare(site, topology)
    variables = [site.folder / SECRETS_FILE]
    release = ""
    if not profile.local:
        from coordctl.release import build

        with waiting("Building the release …"):
            built = build(TARGET_PYTHON, platform.machine())
        release = built.id
        file = site.folder / phases.RELEASE_FILE
        write_file(file, json.dumps({"coordd_release": built.id,
                                     "coordd_wheelhouse": str(built.folder)}, indent=2) + "\n")
        variables.append(file)
    return Stage(profile, topology, wanted, files, variables, release)
