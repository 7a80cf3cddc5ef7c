"""Whether what a phase made still stands: asked of the machines in one go, without Ansible.

A run of Ansible tells of each file, unit, package and account that its tasks looked after
(`watched`). A script prints how these are; its output's hash, taken when the phase was done, is the
phase's mark. Where the inputs of a phase and its marks are as they were, its tasks would find
nothing to do: a module costs a third of a second a task, this a fraction of one for all.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from coordctl import remote
from coordctl.site import Site
from coordctl.state import Marks, Watched

_BREAK: Final = "# phase "
# A folder's time changes with what is put in it; a unit's invocation with each start.
_SCRIPT: Final = r"""
path() {
    if [ -L "$1" ]; then readlink "$1"
    elif [ -f "$1" ]; then stat -c '%a %U %G %Y' "$1"; sha256sum <"$1"
    elif [ -d "$1" ]; then stat -c '%a %U %G' "$1"
    else echo absent; fi
}
# What has failed is never as it should be: no two marks of it are alike.
unit() { shown systemctl "$1"; }
user_unit() { shown "systemctl --user" "$1"; }
shown() {
    $1 show -p ActiveState,UnitFileState,InvocationID "$2"
    if $1 is-failed -q "$2"; then date +%s%N; fi
}
package() { dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' "$1"; }
user() { getent passwd "$1"; }
group() { getent group "$1"; }
exec 2>&1
"""


def marks(site: Site, watched: Watched) -> Marks:
    """How what is watched stands now; a machine that does not answer has no mark."""
    scripts: dict[str, list[str]] = {}
    for phase, machines in watched.items():
        for machine, facts in machines.items():
            lines = scripts.setdefault(machine, [_SCRIPT])
            lines.append(f"echo {shlex.quote(_BREAK + phase)}")
            lines += [f"{kind} {shlex.quote(name)}" for kind, name in facts]
    answers = remote.run(site, {machine: ("\n".join([*lines, "exit 0", ""]), ())
                                for machine, lines in scripts.items()})
    found: Marks = {phase: {} for phase in watched}
    for machine, answer in answers.items():
        if answer.code != 0:
            continue
        for part in answer.output.split(_BREAK)[1:]:
            phase, _, said = part.partition("\n")
            found[phase][machine] = hashlib.sha256(said.encode()).hexdigest()[:32]
    return found


def standing(site: Site, phases: Iterable[str], watched: Watched, before: Marks) -> list[str]:
    """Those of `phases` that stand on every machine as they did when they were done."""
    asked = {phase: watched[phase] for phase in phases if watched.get(phase)}
    now = marks(site, asked)
    return [phase for phase in asked if now[phase] == before.get(phase)
            and now[phase].keys() == asked[phase].keys()]


def merged(watched: Mapping[str, Mapping[str, Iterable[tuple[str, str]]]]) -> Watched:
    """What events told, each thing once, in order."""
    return {phase: {machine: [list(fact) for fact in dict.fromkeys(facts)]
                    for machine, facts in machines.items()}
            for phase, machines in watched.items()}
