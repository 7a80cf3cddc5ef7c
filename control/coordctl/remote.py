"""Shell scripts on the site's machines, over SSH or on this one, all machines at once."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from coordctl.ansible.run import known_hosts_option
from coordctl.site import Site
from coordctl.topology import LOCAL

CONNECT_LIMIT_S: Final = 8
LIMIT_S: Final = 40.0


class Answer(NamedTuple):
    """What a script said. `code` 255: SSH itself failed, and `error` says how."""

    code: int
    output: str
    error: str


def ssh_arguments(site: Site, machine: str, connect_s: int = CONNECT_LIMIT_S) -> list[str]:
    """The argv that opens a shell on a machine, without asking anything."""
    told = site.file.machines[machine]
    words = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={connect_s}",
             "-o", known_hosts_option(site.known_hosts),
             "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR",
             "-p", str(told.port)]
    if told.key is not None:
        key = site.folder / Path(told.key).expanduser()
        words += ["-i", str(key), "-o", "IdentitiesOnly=yes"]
    return [*words, f"{told.user}@{told.address}"]


def login(site: Site, machine: str) -> str:
    """What a person types to open a shell on a machine."""
    told = site.file.machines[machine]
    words = ["ssh", *(["-p", str(told.port)] if told.port != 22 else [])]
    if told.key is not None:
        words += ["-i", str(site.folder / Path(told.key).expanduser())]
    return shlex.join([*words, f"{told.user}@{told.address}"])


def run(site: Site, scripts: Mapping[str, tuple[str, Sequence[str]]], *,
        connect_s: int = CONNECT_LIMIT_S, limit_s: float = LIMIT_S) -> dict[str, Answer]:
    """For each machine run its (script, arguments) as root, all at once; nothing is raised."""
    if not scripts:
        return {}
    def one(machine: str) -> Answer:
        script, arguments = scripts[machine]
        return _one(site, machine, script, arguments, connect_s, limit_s)

    with ThreadPoolExecutor(min(len(scripts), 16)) as pool:
        answers = pool.map(one, scripts)
        return dict(zip(scripts, answers, strict=True))


def _one(site: Site, machine: str, script: str, arguments: Sequence[str], connect_s: int,
         limit_s: float) -> Answer:
    words = ["sh", "-s", "--", *arguments]
    if machine != LOCAL:
        if site.file.machines[machine].user != "root":
            words = ["sudo", "-n", *words]
        words = [*ssh_arguments(site, machine, connect_s), shlex.join(words)]
    try:
        done = subprocess.run(words, input=script, text=True, errors="replace",  # noqa: S603
                              capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Answer(255, "", f"no answer in {limit_s:.0f} s")
    except OSError as error:
        return Answer(255, "", f"{words[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout, done.stderr.strip())
