"""`coordctl up`: bring the site to its level, and say how far it is.

    site.yml ─▶ stage (secrets, release, inventory) ─▶ doctor ─▶ phases ─▶ a new generation

Every step can be cut short and run again: what was made stays, a generation that was not reached
whole stands as such, and Ansible changes only what is not as it should be.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from coordctl import credentials, doctor, phases, process, render, site, stage, standing
from coordctl.ansible.progress import Progress
from coordctl.ansible.run import Event, Playbooks, run
from coordctl.api import Api
from coordctl.cli_options import with_site
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, notes_console, say, waiting
from coordctl.profile import Profile
from coordctl.runs import Run
from coordctl.show import topology_lines
from coordctl.site import Site
from coordctl.site_file import set_scalar
from coordctl.stage import Stage
from coordctl.state import Generation, Marks
from coordctl.topology import Topology


def up(folder: Path, port: int | None, *, yes: bool, resume: bool, level: str | None = None,
       compact: bool = False, newest: bool = False, certificates: bool = False) -> None:
    """Bring the site up; a repeat changes nothing. `level`, `compact`: of a site that stands
    nowhere yet. `newest`: with the newest packages; `certificates`: with new ones of the site's own
    authority. Raises CoordctlError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with site.locked(folder, "up") as lock:
        if (folder / site.SITE_FILE).exists():
            here = Site(folder)
        else:
            here = site.make(folder, port=port)
            note(f"New site {here.folder}")
        _choose(here, level, compact=compact)
        _check_level(here)
        running = _local_preflight(here, port) if here.is_local else None
        profile, topology = here.profile(), here.topology()
        phases.check_kit(profile, phases.of(topology))
        check_messages(here, profile, topology)
        staged = stage.prepare(here)
        if not here.is_local:
            _ask(here, staged, yes=yes)
            _examine(here, staged)
        if certificates:
            credentials.renew(here, staged.topology)
        changed = _provision(here, staged, lock, resume=resume, newest=newest)
    with Api(here.url, here.token(), here.authority) as api:
        if why := api.ready():
            raise CoordctlError(f"it is not ready: {why}", mend="coordctl status")
    if here.is_local:
        _tell_local(here, running)
    else:
        _tell(here, changed)


def _choose(here: Site, level: str | None, *, compact: bool) -> None:
    """Write what is chosen on the way into site.yml. Raises CoordctlError."""
    chosen: dict[str, str] = {} if level in (None, here.file.level) else {"level": str(level)}
    if compact and not here.file.compact:
        chosen["compact"] = "true"
    if not chosen:
        return
    if (standing := here.state.standing()) is not None:
        raise CoordctlError(f"the site stands at level {standing.level} already: its messages are "
                            "where they are", mend=f"coordctl plan --to {level or standing.level}")
    before = (here.folder / site.SITE_FILE).read_text(encoding="utf-8")
    for key, value in chosen.items():
        here.change(partial(set_scalar, key=key, value=value))
    try:
        here.topology()
    except CoordctlError:
        here.change(lambda _: before)
        raise
    for key, value in chosen.items():
        note(f"{key}: {value} → {here.folder / site.SITE_FILE}")


def _check_level(here: Site) -> None:
    standing = here.state.standing()
    if standing is not None and standing.level != here.file.level:
        raise CoordctlError(
            f"the site stands at level {standing.level} and site.yml says {here.file.level}: "
            "its messages are where they are", mend=f"put 'level: {standing.level}' back into "
            f"{here.folder / site.SITE_FILE}; coordctl plan --to {here.file.level} shows the "
            "difference")


def check_messages(here: Site, profile: Profile, topology: Topology) -> None:
    """A store of files is where its machine is: another machine would begin an empty one."""
    standing = here.state.standing()
    if standing is None or profile.stack.store != "files":
        return
    for seat, machine in standing.seats.items():
        before, now = standing.machines.get(machine), topology.seats.get(seat)
        bears = now is not None and "coordd" in topology.roles[now]
        if bears and now is not None and here.address(now) != before:
            raise CoordctlError(
                f"the messages are on {machine} ({before}), and site.yml has {now} "
                f"({here.address(now)}) in its place, which would begin without them",
                mend=f"put {machine}: {{address: {before}}} back into "
                     f"{here.folder / site.SITE_FILE}")


def _local_preflight(here: Site, port: int | None) -> process.Process | None:
    """What runs on this machine; the port that is asked for is set. Raises CoordctlError."""
    found = process.find(here)
    if port is not None and port != here.file.port:
        if found is not None:
            raise CoordctlError(f"the server runs on port {here.file.port} (pid {found.pid})",
                                mend=f"coordctl down && coordctl up --port {port}")
        note(f"Port {here.file.port} → {port} in {here.folder / site.SITE_FILE}")
        here.set_port(port)
    if found is None:
        process.check_port(here)
    return found


def _ask(here: Site, staged: Stage, *, yes: bool) -> None:
    note(f"{here.file.name} → level {staged.profile.name}: {staged.profile.summary}")
    for line in topology_lines(here.state.current, staged.topology, here.address):
        note(f"  {line}")
    changed = len(render.diff(render.read(here.folder / "inventory"), staged.files))
    if changed:
        note(f"  {changed} lines of the inventory differ: coordctl plan shows them")
    confirm("Bring these machines to it?", yes=yes)


def _examine(here: Site, staged: Stage) -> None:
    with waiting("Looking at the machines …"):
        findings = doctor.examine(here, staged.topology, staged.profile)
    if wrong := doctor.errors(findings):
        first = wrong[0]
        raise CoordctlError(
            f"{first.machine}: {first.says}" if len(wrong) == 1 else
            f"{len(wrong)} things keep the machines from it; nothing was changed",
            details="\n".join(f"  {one.machine}: {one.says}\n      mend: {one.mend}"
                              for one in wrong) if len(wrong) > 1 else "",
            mend=f"{first.mend}, then coordctl up" if len(wrong) == 1 else
            "mend those, then coordctl up")


def _provision(here: Site, staged: Stage, lock: int, *, resume: bool, newest: bool) -> int:
    """Run the phases that do not hold; how many tasks changed something. Raises CoordctlError."""
    wanted = phases.hashes(staged.phases, staged.files, staged.variables)
    before = here.state.current
    held = [] if newest else _held(here, wanted, resume=resume)
    if before is not None and before.complete and held == staged.phases:
        render.write(here.folder / "inventory", staged.files)
        note("Every phase holds.")
        return 0
    record = Run(here.folder, "up")
    render.write(here.folder / "inventory", staged.files)
    generation = Generation(
        level=staged.profile.name, seats=staged.topology.seats,
        machines={name: here.address(name) for name in staged.topology.roles}, run=record.id,
        at=datetime.now(UTC).isoformat(timespec="seconds"), release=staged.release,
        phases={phase: wanted[phase] for phase in held},
        watched={phase: before.watched[phase] for phase in held} if before else {},
        marks={phase: before.marks.get(phase, {}) for phase in held} if before else {})
    here.state.begin(generation)
    record.log(f"level {staged.profile.name}, phases {' '.join(staged.phases)}"
               + (f", held {' '.join(held)}" if held else ""))
    progress = Progress(notes_console(), staged.phases, held)
    if held != staged.phases:
        generation = _run(here, staged, generation, wanted, progress, record, lock, newest=newest)
    here.state.update(replace(generation, complete=True))
    record.log(f"done, {progress.changed} changed")
    return progress.changed


def _held(here: Site, wanted: Mapping[str, str], *, resume: bool) -> list[str]:
    """The phases to leave out: the same inputs, and, unless `resume`, what they made stands."""
    before = here.state.current
    if before is None:
        return []
    alike = [phase for phase in phases.holding(wanted, before.phases) if phase in before.watched]
    if here.is_local and not process.is_kept(here):  # no unit of systemd tells of it
        alike = [phase for phase in alike if phase != "coordd"]
    return alike if resume else standing.standing(here, alike, before.watched, before.marks)


def _run(here: Site, staged: Stage, generation: Generation, wanted: Mapping[str, str],
         progress: Progress, record: Run, lock: int, *, newest: bool) -> Generation:
    """Run Ansible; the generation with what was done, which is written after each phase."""
    log = here.folder / "runs" / record.id / "ansible.log"
    held = list(generation.phases)
    marks: Marks = {}

    def done() -> Generation:
        ended = [name for name, phase in progress.phases.items() if phase.state == "done"]
        watched = standing.merged({name: progress.watched.get(name, {}) for name in ended})
        return replace(generation, watched=generation.watched | watched,
                       marks=generation.marks | marks,
                       phases=generation.phases | {name: wanted[name] for name in ended})

    def handle(event: Event) -> None:
        progress.handle(event)
        if event["event"] == "end":  # at once: what breaks later is not what the phase made
            ended = done()
            marks.update(standing.marks(here, {
                phase: facts for phase, facts in ended.watched.items()
                if phase not in held and phase not in marks}))
            here.state.update(done())

    try:
        with progress.shown():
            code = run(Playbooks(
                [phase for phase in staged.phases if phase not in held], here.folder / "inventory",
                here.known_hosts, log, staged.variables, here.vault.key,
                forks=max(5, len(staged.topology.roles)), keep=(lock,), newest=newest), handle)
    except KeyboardInterrupt:
        progress.interrupted()
        record.log("interrupted")
        raise
    if code != 0 or progress.failures:
        raise _failed(record, progress, log, code)
    return done()


def _failed(record: Run, progress: Progress, log: Path, code: int) -> CoordctlError:
    if not progress.failures:
        record.log(f"failed: exit code {code}")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        return CoordctlError(f"Ansible ended with exit code {code}; its log ({log}) says:",
                             details="\n".join(f"  {line}" for line in lines),
                             mend="coordctl up --resume")
    # A rescue's last word says more than what it was rescued from.
    host = progress.failures[0].host
    first = [failure for failure in progress.failures if failure.host == host][-1]
    record.log(f"failed: {first.phase} on {first.host}: {first.task}")
    details = [f"  task   {first.task}", f"  at     {first.place}", f"  log    {log}"]
    details[:0] = [f"  {line}" for line in first.message.splitlines()]
    details += [f"  also   {other.host}: {other.task}" for other in progress.failures
                if other is not first]
    what = "can't be reached any more" if first.unreachable else "failed"
    return CoordctlError(f"{first.host}: phase {first.phase} {what}", details="\n".join(details),
                         mend="coordctl up --resume   (goes on with this phase)")


def _tell_local(here: Site, before: process.Process | None) -> None:
    found = process.find(here)
    if found is None:
        raise CoordctlError("the server has ended again", mend="coordctl status")
    if before is not None and before.pid == found.pid:
        say(f"coordd runs at {here.url} (pid {found.pid}, since {found.since:%F %T}).")
        return
    say(f"coordd is ready at {here.url} (pid {found.pid}).")
    say()
    say("Try:")
    prefix = _prefix()
    option = "" if here.file.port == 8000 else f" --url {here.url}"
    say(f'  {prefix}coord send code chat "Hi" "there"{option}')
    say(f"  {prefix}coord inbox chat{option}")
    say(with_site(f"  {prefix}coordctl status"))
    say()
    say(f"In a browser: {here.url}/docs")
    if process.service_manager() == "systemd-user" and not Path(
            "/var/lib/systemd/linger", getpass.getuser()).exists():
        say()
        say("It ends when you log out: loginctl enable-linger keeps it.")


def _tell(here: Site, changed: int) -> None:
    say(f"{here.file.name} is at level {here.file.level}: {here.url} (changed={changed}).")
    if changed == 0:
        return
    say()
    say("Try:")
    if here.authority is not None:
        say(f"  export COORD_URL={here.url} COORD_CA={here.authority}")
    else:
        say(f"  export COORD_URL={here.url}")
    say(with_site("  export COORD_TOKEN=$(coordctl agent add code)"))
    say('  coord send code code "Hi" "there"')
    say(with_site("  coordctl status"))


def _prefix() -> str:
    """What to type before `coord`: nothing where the shell finds it."""
    beside = Path(sys.executable).parent
    if any(Path(entry) == beside for entry in os.environ.get("PATH", "").split(os.pathsep)):
        return ""
    shown = os.path.relpath(beside)
    return f"{beside if shown.startswith('..') else shown}/"
