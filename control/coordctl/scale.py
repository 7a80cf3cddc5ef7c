"""`coordctl scale coordd=3`: more or fewer message servers, while agents go on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from coordctl import provision, remote, site
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, say, waiting
from coordctl.show import topology_lines
from coordctl.site import Site
from coordctl.site_file import set_choice

CHOICES: Final = {"coordd": "message_servers"}
"""What can be scaled, and the choice of the stack that says how many there are."""
_RETIRE: Final = """
systemctl list-unit-files coordd.service --no-legend | grep -q . || exit 0
systemctl disable --now coordd.service
"""


def scale(folder: Path, what: str, count: int, *, yes: bool) -> None:
    """Change how many there are, and bring the site to it. Raises CoordctlError."""
    here = site.existing(folder)
    key = CHOICES[what]
    with site.locked(here.folder, "scale"):
        before = here.topology()
        had: int = getattr(here.profile().stack, key)
        text = (here.folder / site.SITE_FILE).read_text(encoding="utf-8")
        here.change(partial(set_choice, key=key, value=count))
        try:
            after = here.topology()
            if count == had:
                note(f"There are {had} already.")
            else:
                note(f"{what}: {had} → {count}")
                for line in topology_lines(here.state.current, after, here.address):
                    note(f"  {line}")
            confirm("Bring the site to it?", yes=yes)
        except BaseException:
            here.change(lambda _: text)
            raise
    left = [machine for machine in before.bearers(what) if machine not in after.bearers(what)]
    if left:
        _retire(here, left)
    provision.up(here.folder, None, yes=True, resume=False)


def _retire(here: Site, machines: list[str]) -> None:
    """Stop what is to go, while the database still answers it: it tells the balancer that it takes
    no more requests, and ends those that it has.
    """
    with waiting(f"Stopping coordd on {', '.join(machines)} …"):
        answers = remote.run(here, dict.fromkeys(machines, (_RETIRE, ())))
    for machine, answer in answers.items():
        if answer.code != 0:
            raise CoordctlError(f"{machine}: coordd was not stopped: {answer.error}",
                                mend=f"ssh {here.address(machine)} systemctl disable --now coordd")
    say(f"coordd has stopped on {', '.join(machines)}.")
