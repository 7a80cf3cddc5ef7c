"""The phases of a provisioning run, and what each was done with.

A phase is a playbook of the kit, one a role. The hash of a phase's inputs is over all that it
reads: the rendered variables, the machines, the secrets' file, the role's and the playbook's files,
and the release where it installs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from coordctl import kit
from coordctl.errors import CoordctlError
from coordctl.profile import Profile
from coordctl.render import Files
from coordctl.topology import Topology

RELEASE_FILE: Final = "release.yml"
"""The variables that name a release of coordd."""
_RELEASED: Final = "coordd"
"""The phase that reads them."""
_READS_WHAT_IS_MADE_BY: Final = {"worker": "coordd"}
"""Phase → the one before whose release, settings and secrets on the machine it runs with."""


def of(topology: Topology) -> list[str]:
    """The phases of a topology, in order."""
    from coordctl.components import COMPONENTS

    return [component.role for component in COMPONENTS if topology.bearers(component.role)]


def missing(phases: list[str]) -> list[str]:
    """Those whose role the kit does not bring yet."""
    roles = kit.folder() / "roles"
    return [phase for phase in phases if not (roles / phase).is_dir()]


def check_kit(profile: Profile, phases: list[str]) -> None:
    """Raise CoordctlError where the kit does not bring what a phase needs yet."""
    if lacking := missing(phases):
        raise CoordctlError(
            f"level {profile.name} needs the roles {', '.join(lacking)}, which this version of "
            "the kit does not bring yet", mend="coordctl levels   (the smaller ones are whole)")


def hashes(phases: list[str], files: Files, variables: Iterable[Path]) -> dict[str, str]:
    """Phase → hash of its inputs."""
    top = kit.folder()
    more = {file.name: file.read_bytes() for file in variables}
    found: dict[str, str] = {}
    for phase in phases:
        read = {name: text.encode() for name, text in files.items()
                if name in ("hosts.yml", "group_vars/all.yml", f"group_vars/{phase}.yml")
                or name.startswith("host_vars/")}
        read |= {f"-e {name}": text for name, text in more.items()
                 if name != RELEASE_FILE or phase == _RELEASED}
        if (before := _READS_WHAT_IS_MADE_BY.get(phase)) in found:
            read[f"phase {before}"] = found[before].encode()
        for file in (top / "playbooks" / f"{phase}.yml",
                     *sorted((top / "roles" / phase).rglob("*"))):
            if file.is_file() and "molecule" not in file.parts:
                read[str(file.relative_to(top))] = file.read_bytes()
        digest = hashlib.sha256()
        for name in sorted(read):
            digest.update(f"{name}\0{len(read[name])}\0".encode() + read[name])
        found[phase] = digest.hexdigest()[:32]
    return found


def holding(wanted: Mapping[str, str], done: Mapping[str, str]) -> list[str]:
    """The phases that were done with just these inputs."""
    return [phase for phase, digest in wanted.items() if done.get(phase) == digest]
