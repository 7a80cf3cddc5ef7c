"""Bringing a lab up and down. Any step can be interrupted; the same command then goes on."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from coordctl.errors import CoordctlError
from coordctl.lab import disk, faults, host, image, machine, network, site_file
from coordctl.lab.machine import Machine
from coordctl.output import confirm, note, progress, say, show_rows
from coordctl.runs import Run
from coordctl.site import locked

MOST_MACHINES: Final = 64


def name_of(folder: Path, given: str | None = None) -> str:
    """The lab's name: the one given, else the one that the site has, else one of its own."""
    return given or site_file.lab_of(folder) or (
        f"lab-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]}")


def up(folder: Path, count: int, level: str, given: str | None, *, yes: bool) -> None:
    """Have machines m1 … m`count` running, and a site that knows them. Raises CoordctlError."""
    host.require_root("up")
    folder = folder.resolve()
    lab = name_of(folder, given)
    if packages := host.missing_packages():
        note(f"The lab needs packages on this computer: {', '.join(packages)}.")
        confirm("Install them?", yes=yes)
        host.install(packages)
    with _sole(folder, lab, "lab up", make=True):
        there = {each.name: each for each in machine.found(lab)}
        for each in there.values():
            if each.site != str(folder):
                raise CoordctlError(f"{lab} is the lab of another site, {each.site}",
                                    mend="coordctl lab up --name ANOTHER")
        names = [f"m{number}" for number in range(1, count + 1)]
        whole = {name: each for name, each in there.items() if each.state != "half-made"}
        fresh = [name for name in names if name not in whole]
        build = bool(fresh) and not image.is_built()
        if asked := _changes(lab, whole, fresh, build=build):
            note(asked)
            confirm("Do it?", yes=yes)
        run = Run(folder, "lab up")
        run.log(asked or f"{lab}: nothing to change")
        if build:
            image.ensure()
        host.make_room()
        subnet = network.ensure(lab, str(folder))
        faults.forget_gone()
        key = site_file.ensure_key(folder)
        site_file.name_lab(folder, lab)
        pool = host.cache() / "packages"
        made_from = image.tag()
        machines = [whole.get(name) or Machine(name, lab, network.address(subnet, name),
                                               there[name].state if name in there else "missing",
                                               str(folder))
                    for name in dict.fromkeys((*names, *whole))]
        for each in whole.values():
            disk.collect_packages(pool, each.folder)

        def start(each: Machine) -> None:
            if each.state in ("half-made", "missing"):
                machine.make(each, made_from, pool, key)
            else:
                machine.bring_up(each, pool)

        _all(f"{lab}: machines on", start, machines)
        network.keep_gateway(lab)
        site_file.know_hosts(folder, {each.address: machine.public_host_key(each)
                                      for each in machines})
        addresses = {each.name: each.address for each in machines}
        site_file.write_site(folder, lab, addresses, level)
        _all(f"{lab}: machines booted", lambda each: machine.settle(each, folder, addresses),
             machines)
        run.log(f"{lab}: {len(machines)} machines are up")
    say(f"{len(machines)} machines of {lab} are up: {names_of(machines)}. "
        f"The site is {folder}")


def down(folder: Path, given: str | None, *, yes: bool) -> None:
    """Remove the lab: machines, disks, network. Raises CoordctlError."""
    host.require_root("down")
    lab = name_of(folder, given)
    with _sole(folder, lab, "lab down"):
        machines = machine.found(lab)
        left = machine.folder_of(lab)
        known = {each.name for each in machines}
        if left.exists():  # of machines that an interrupted run made or removed halfway
            machines += [Machine(each.name, lab, "", "missing", str(folder))
                         for each in sorted(left.iterdir()) if each.name not in known]
        if not machines and network.find(lab) is None and not left.exists():
            say(f"There is no lab {lab}: nothing to remove.")
            return
        note(f"{lab}: {names_of(machines) or 'its network'} and all that is on "
             f"{'its disk' if len(machines) == 1 else 'their disks'} will be removed. "
             "The image and downloaded packages stay.")
        confirm("Remove them?", yes=yes)
        pool = host.cache() / "packages"
        faults.heal(lab, [])
        _all(f"{lab}: machines removed", lambda each: machine.remove(each, pool), machines)
        network.remove(lab)
        if left.exists():
            left.rmdir()
        if folder.exists():
            Run(folder, "lab down").log(f"{lab}: {len(machines)} machines removed")
    say(f"{lab} is removed.")


def status(folder: Path, given: str | None, style: str) -> None:
    """Show the lab's machines."""
    host.require_root("status")
    lab = name_of(folder, given)
    machines = machine.found(lab)
    names = {each.address: each.name for each in machines}
    rows: list[dict[str, Any]] = [
        {"name": each.name, "address": each.address, "state": each.state,
         "since": each.since and each.since.isoformat(timespec="seconds"),
         "faults": faults.of(each, names)} for each in machines]
    if style == "table":
        if not rows:
            say(f"{lab} has no machines: coordctl lab up makes some.")
            return
        rows = [{**row, "faults": ", ".join(row["faults"]) or "-",
                 "since": (row["since"] or "-")[:19].replace("T", " ")} for row in rows]
    show_rows(rows, {"name": "NAME", "address": "ADDRESS", "state": "STATE", "since": "SINCE",
                     "faults": "FAULTS"}, style)


def shell(folder: Path, given: str | None, name: str, command: list[str]) -> None:
    """Become ssh to the machine. `command`: one word is a script, several are an argv. Returns only
    by raising CoordctlError.
    """
    host.require_root(f"shell {name}")
    each = _in_state(name_of(folder, given), name, ("running",))
    terminal = [] if command else ["-t"]
    argv = site_file.ssh(folder, each.address)
    words = command if len(command) < 2 else [shlex.join(command)]
    os.execvp(argv[0], [*argv[:-1], *terminal, argv[-1], *words])  # noqa: S606


def break_one(folder: Path, given: str | None, kind: str, name: str) -> None:
    """Do to one machine what `kind`, a key of faults.ON_ONE, says. Raises CoordctlError."""
    with _breaking(folder, given, f"{kind} {name}") as lab:
        act, wanted, said = faults.ON_ONE[kind]
        act(_in_state(lab, name, wanted))
        if kind == "start":
            network.keep_gateway(lab)
            machines = machine.found(lab)
            addresses = {each.name: each.address for each in machines}
            machine.settle(one(lab, name), folder, addresses)
    say(f"{name} {said}.")


def partition(folder: Path, given: str | None, name: str, other: str, *, one_way: bool) -> None:
    """Cut two machines off from each other, or what one sends from the other. Raises
    CoordctlError.
    """
    with _breaking(folder, given, f"partition {name} {other}") as lab:
        faults.partition(one(lab, name), one(lab, other), one_way=one_way)
    say((f"Nothing that {name} sends reaches {other}" if one_way else
         f"{name} and {other} are cut off from each other") + ": coordctl lab fault heal ends it.")


def slow(folder: Path, given: str | None, name: str, rate_kbytes: int) -> None:
    """Slow one machine's network down. Raises CoordctlError."""
    with _breaking(folder, given, f"slow {name}") as lab:
        faults.slow(_in_state(lab, name, ("running",)), rate_kbytes)
    say(f"{name} sends and takes at most {rate_kbytes} kB/s: coordctl lab fault heal ends it.")


def heal(folder: Path, given: str | None) -> None:
    """End every partition and every slow network. Raises CoordctlError."""
    with _breaking(folder, given, "heal") as lab:
        faults.heal(lab, machine.found(lab))
    say(f"The network of {lab} is whole.")


@contextmanager
def _breaking(folder: Path, given: str | None, words: str) -> Iterator[str]:
    host.require_root(f"fault {words}")
    lab = name_of(folder, given)
    with _sole(folder, lab, f"lab fault {words}"):
        if folder.exists():
            Run(folder, "lab fault").log(f"{lab}: {words}")
        yield lab


def _in_state(lab: str, name: str, wanted: tuple[str, ...]) -> Machine:
    each = one(lab, name)
    if each.state not in wanted:
        raise CoordctlError(f"{name} is {each.state}", mend=_waking(each))
    return each


def one(lab: str, name: str) -> Machine:
    """The lab's machine of that name. Raises CoordctlError where there is none."""
    machines = machine.found(lab)
    for each in machines:
        if each.name == name and each.state != "half-made":
            return each
    raise CoordctlError(f"{lab} has no machine {name!r}: it has {names_of(machines) or 'none'}",
                        mend="coordctl lab status" if machines else "coordctl lab up")


def names_of(machines: Iterable[Machine]) -> str:
    """The machines' names for a person: m1, m2, m3."""
    return ", ".join(each.name for each in machines)


def _waking(each: Machine) -> str:
    return f"coordctl lab fault {'resume' if each.state == 'paused' else 'start'} {each.name}"


def _changes(lab: str, whole: dict[str, Machine], fresh: list[str], *, build: bool) -> str:
    """What `up` will do, for a person; empty where that is nothing."""
    wake = [each.name for each in whole.values() if each.state != "running"]
    what = []
    if build:
        what.append("build the image (a minute or two, once)")
    if fresh:
        what.append(f"make {', '.join(fresh)}")
    if wake:
        what.append(f"switch on {', '.join(wake)}")
    return f"{lab}: {'; '.join(what)}." if what else ""


@contextmanager
def _sole(folder: Path, lab: str, command: str, *, make: bool = False) -> Iterator[None]:
    """Be the only command that changes the site and the lab."""
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.exists():
        with locked(folder, command), host.only_one(lab):
            yield
    else:  # the site was removed by hand
        with host.only_one(lab):
            yield


def _all(what: str, act: Callable[[Machine], None], machines: list[Machine]) -> None:
    """Do one thing to all machines at once; the first error is raised when all have ended."""
    errors: list[Exception] = []
    with progress() as bar, ThreadPoolExecutor(8) as pool:
        row = bar.add_task(what, total=len(machines))
        try:
            for done in as_completed([pool.submit(act, each) for each in machines]):
                if (error := done.exception()) is None:
                    bar.advance(row)
                elif isinstance(error, Exception):
                    errors.append(error)
        except KeyboardInterrupt:  # the programs that run get it too; no further one is started
            pool.shutdown(cancel_futures=True)
            raise
    if errors:
        raise errors[0]
