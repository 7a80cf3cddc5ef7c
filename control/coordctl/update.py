"""`coordctl update`: the newest packages, and new certificates, while agents go on."""

from __future__ import annotations

from pathlib import Path

from coordctl import provision, site
from coordctl.errors import CoordctlError
from coordctl.output import note


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
    provision.up(here.folder, None, yes=yes, resume=False, newest=True, certificates=certificates)
