"""`coordctl init`: a site's folder, before anything stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from coordctl import credentials, site
from coordctl.checked import check
from coordctl.cli_options import with_site
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, say
from coordctl.show import topology_lines
from coordctl.site import Site
from coordctl.site_file import SITE_WANTED, Machine, set_scalar


def init(folder: Path, level: str | None, machines: dict[str, Any], name: str | None,
         domain: str | None, *, yes: bool) -> None:
    """Make the site, or change one that stands nowhere yet. Raises CoordctlError."""
    told = {key: check(fields, Machine, SITE_WANTED, f"--machine {key}",
                       mend="coordctl init --help") for key, fields in machines.items()}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with site.locked(folder, "init"):
        if (folder / site.SITE_FILE).exists():
            here = _change(Site(folder), level, told, name, domain, yes=yes)
        else:
            here = site.make(folder, level=level or "individual", name=name, machines=told)
            if domain:
                here.change(lambda text: set_scalar(text, "domain", domain))
        topology = here.topology()
        made = credentials.prepare(here, topology)
        say(f"Site {here.folder}: level {here.file.level}")
        for line in topology_lines(here.state.current, topology, here.address):
            say(f"  {line}")
        if made:
            say(f"Made: {', '.join(made)}; encrypted with {here.vault.key}")
    note(with_site("Next:  coordctl up" if here.is_local else "Next:  coordctl plan"))


def _change(here: Site, level: str | None, machines: dict[str, Machine], name: str | None,
            domain: str | None, *, yes: bool) -> Site:
    if here.state.standing() is not None:
        raise CoordctlError(f"the site {here.folder} stands at level {here.file.level}",
                            mend=f"coordctl plan --to {level or 'LEVEL'}, or a new site: "
                                 "coordctl init --site NEW_FOLDER")
    wanted = {key: value for key, value in (("level", level), ("name", name), ("domain", domain))
              if value is not None and value != getattr(here.file, key)}
    if wanted or machines:
        for key, value in wanted.items():
            note(f"{key}: {getattr(here.file, key)} → {value}")
        if machines:
            note(f"machines: {', '.join(here.file.machines) or 'none'} → {', '.join(machines)}")
        confirm(f"Change {here.folder / site.SITE_FILE}?", yes=yes or not here.state.number)
    if machines:
        here.set_machines(machines)
    for key, value in wanted.items():
        here.change(partial(set_scalar, key=key, value=value))
    return Site(here.folder)
