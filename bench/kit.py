"""The kit's own speed: coordctl's start, rendering, the lab's machines, bringing one to a level."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.daemon import BenchError
from bench.figures import spread
from bench.lab import LabSite, timed
from bench.results import Limit, Row
from coordctl.errors import CoordctlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stand import Stand

ROOT: Final = Path(__file__).resolve().parent.parent
STARTS: Final = 9
"""Repetitions of what takes less than a second."""
MACHINES: Final = 6
AGAIN: Final = 3
_LIST_PACKAGES: Final = r"dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p'"
_PINGS: Final = "as many pings by Ansible"


def start(stand: Stand) -> None:
    """`coordctl --help`: what every command costs before it does anything."""
    command = Path(sys.executable).with_name("coordctl")
    ours, bare = [], []
    for _ in range(STARTS):
        bare.append(timed([sys.executable, "-c", "pass"])[0])
        ours.append(timed([str(command), "--help"])[0])
    row = Row(name="coordctl --help", unit="s", ours=spread(ours),
              limits=[Limit("python -c pass", spread(bare))], bar="≤ 0.3 s")
    row.passed = row.ours.median <= 0.3
    stand.rows.append(row)


def render(stand: Stand) -> None:
    """`coordctl render` of a site that has no inventory yet: enterprise, on 15 machines."""
    example = ROOT / "inventories" / "enterprise" / "site.yml"
    ours, imports = [], []
    for number in range(STARTS):
        site = LabSite(stand.folder / f"enterprise-{number}")
        site.folder.mkdir()
        shutil.copy(example, site.folder)
        imports.append(timed([sys.executable, "-c", "import pydantic, jinja2, yaml"])[0])
        ours.append(site.timed("render")[0])
    row = Row(name="coordctl render, enterprise on 15 machines", unit="s", ours=spread(ours),
              limits=[Limit("pydantic, jinja2, yaml imported", spread(imports))], bar="≤ 1 s")
    row.passed = row.ours.median <= 1
    stand.rows.append(row)


def machines(stand: Stand) -> None:
    """Six machines of the lab, with the image built, from nothing to reachable by SSH."""
    if not stand.has_lab("kit-machines"):
        return
    from coordctl.lab import image
    from coordctl.lab.podman import podman

    def bare(_: int) -> None:
        podman("run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit",
               "nproc=1024:1024", name, "true")

    try:
        name = image.ensure()
        ours, bound = [], []
        for number in range(stand.scale.provisions + 1):
            stand.say(f"  round {number + 1}, {MACHINES} machines up")
            began = time.perf_counter()
            with ThreadPoolExecutor(MACHINES) as pool:
                list(pool.map(bare, range(MACHINES)))
            bound.append(time.perf_counter() - began)
            site = stand.site(f"machines-{number}")
            ours.append(site.up(MACHINES))
            site.down()
    except CoordctlError as error:
        raise BenchError(f"{error}\n{error.details}") from error
    row = Row(name=f"coordctl lab up, {MACHINES} machines", unit="s", ours=spread(ours),
              limits=[Limit(f"podman run true, {MACHINES} times at once", spread(bound))],
              bar="≤ 10 s")
    row.passed = row.ours.median <= 10
    stand.rows.append(row)


def provision(stand: Stand) -> None:
    """`coordctl up` to level team on a bare machine, and once more with nothing to change.

    A run before the timed ones, on a machine of its own, fills the cache of packages and builds the
    release. Limits: apt alone, with the packages that it installed, on a bare machine; Ansible
    alone, with as many tasks as were not skipped, each the module `ping`, on the same machine.
    """
    if not stand.has_lab("kit-provision"):
        return
    stand.say("  filling the cache of packages")
    warm = _bare_team(stand, "team-warm")
    before = set(warm.on(_LIST_PACKAGES)[1].split())
    warm.provision()
    installed = sorted(set(warm.on(_LIST_PACKAGES)[1].split()) - before)
    warm.down()
    if not installed:
        raise BenchError("coordctl up to team installed no package")
    first, apt, pings = [], [], []
    for number in range(stand.scale.provisions):
        stand.say(f"  round {number + 1}, apt alone, Ansible alone, coordctl up")
        bare = stand.site(f"bare-{number}")
        bare.up()
        apt.append(bare.on("DEBIAN_FRONTEND=noninteractive apt-get install -qy "
                           f"--no-install-recommends {' '.join(installed)}")[0])
        bare.down()
        if "team" in stand.levels:
            stand.levels["team"].down()
        team = _bare_team(stand, f"team-{number}")
        first.append(team.provision()[0])
        pings.append(_pings(team))
        stand.levels["team"] = team
    row = Row(name="coordctl up to team, bare machine", unit="s", ours=spread(first), limits=[
        Limit(f"apt-get install, {len(installed)} packages", spread(apt)),
        Limit(_PINGS, spread(pings))], bar="≤ 90 s")
    row.passed = row.ours.median <= 90
    stand.rows.append(row)

    again, pings, changed = [], [], []
    for number in range(AGAIN):
        stand.say(f"  round {number + 1}, coordctl up again, Ansible alone")
        seconds, said = team.provision()
        again.append(seconds)
        changed.append("(changed=0)" not in said)
        pings.append(_pings(team))
    row = Row(name="coordctl up again, nothing to change", unit="s", ours=spread(again),
              limits=[Limit(_PINGS, spread(pings))], bar="≤ 15 s\nchanged=0")
    row.passed = row.ours.median <= 15 and not any(changed)
    stand.rows.append(row)


def team(stand: Stand) -> LabSite:
    """A machine at level team: the one that `provision` left, or a new one."""
    return at_level(stand, "team", _bare_team)


def at_level(stand: Stand, level: str, bare: Callable[[Stand, str], LabSite]) -> LabSite:
    """The site that stands at that level, else a new one, from what `bare` makes."""
    if level not in stand.levels:
        stand.say(f"  bringing machines to level {level}")
        site = bare(stand, level)
        site.provision()
        stand.levels[level] = site
    return stand.levels[level]


def bare_site(stand: Stand, name: str, level: str, machines: int = 1) -> LabSite:
    """Machines on which nothing was done yet, and a site that says `level`."""
    site = stand.site(name)
    site.up(machines)
    site.timed("init", "--level", level, "--yes")
    return site


def _bare_team(stand: Stand, name: str) -> LabSite:
    return bare_site(stand, name, "team")


def _pings(site: LabSite) -> float:
    """Seconds of an Ansible run with as many tasks as the site's last run did and not skipped."""
    log = max((site.folder / "runs").glob("*/ansible.log"))
    # Of a task whose every result was a skip, Ansible's log does not even have the name.
    count = len(re.findall(r"^(?:TASK|RUNNING HANDLER) \[", log.read_text(encoding="utf-8"),
                           re.MULTILINE))
    playbook = site.folder.with_name("pings.yml")
    playbook.write_text("- hosts: m1\n  gather_facts: false\n  tasks:\n"
                        + "    - ansible.builtin.ping:\n" * count, encoding="utf-8")
    known = shlex.quote(str(site.folder / "known_hosts"))
    return timed([sys.executable, "-m", "ansible", "playbook", "-i",
                  str(site.folder / "inventory"), str(playbook)], site.env | {
        "ANSIBLE_CONFIG": str(ROOT / "playbooks" / "ansible.cfg"),
        "ANSIBLE_SSH_COMMON_ARGS": f"-o UserKnownHostsFile={known}"})[0]
