"""`coordctl update`: the newest packages, and new certificates, while agents go on."""

from __future__ import annotations

from pathlib import Path

from coordctl import provision, remote, site
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, waiting
from coordctl.site import Site


def update(folder: Path, *, certificates: bool, yes: bool) -> None:
    """Update one machine after the other; what has no need of it is left alone. Raises
    CoordctlError.
    """
    here = site.existing(folder)
    if here.is_local:
        raise CoordctlError("the site is on this computer, whose packages are yours to update",
                            mend="coordctl up   (it takes up a new version of the kit)")
    note("What the machines run is brought to Debian's newest, "
         + ("and certificates are made anew, " if certificates else "")
         + "a database's replicas before its leader")
    confirm("Update these machines?", yes=yes)
    _ask_the_archive(here)
    provision.up(here.folder, None, yes=True, resume=False, newest=True, certificates=certificates)


def _ask_the_archive(here: Site) -> None:
    """Have each machine know what is new. Raises CoordctlError."""
    with waiting("Asking the machines' archives what is new …"):
        answers = remote.run(here, dict.fromkeys(here.topology().roles, (
            "DEBIAN_FRONTEND=noninteractive apt-get update -q", ())))
    for machine, answer in answers.items():
        if answer.code != 0:
            raise CoordctlError(f"{machine}: its archive does not answer: {answer.error[-300:]}",
                                mend=f"ssh {here.address(machine)} apt-get update")
