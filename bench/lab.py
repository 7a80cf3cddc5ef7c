"""coordctl as an operator runs it, timed: on sites of the bench's own, with machines of the lab.

Only the caches of the user's are shared: the lab's image and packages, and built releases.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from bench.daemon import BenchError
from coordctl import folders
from coordctl.errors import CoordctlError
from coordctl.lab import host, lab, site_file
from coordctl.lab.podman import podman

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_S: Final = 900.0
ROOT: Final = Path(__file__).resolve().parent.parent
_TOKEN: Final = ("import sys; from pathlib import Path; from coordctl.site import Site; "
                 "print(Site(Path(sys.argv[1])).token())")


def why_not() -> str:
    """"" where this computer can have a lab."""
    if os.geteuid() != 0:
        return "the lab needs root"
    if missing := host.missing_packages():
        return f"the lab needs {', '.join(missing)}; coordctl lab up installs them"
    return ""


class LabSite:
    """A site in `folder`, and the operator's home beside it. `is_up`: machines may be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_up = False
        home = folder.with_name(f"{folder.name}-home")
        home.mkdir(parents=True, exist_ok=True)
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("COORD", "XDG_", "ANSIBLE_"))}
        self.env |= {"HOME": str(home), "XDG_CACHE_HOME": str(folders.cache().parent),
                     "COLUMNS": "100"}

    def timed(self, *words: str) -> tuple[float, str]:
        """Run coordctl; the seconds from the process's start to its end, and what it printed.

        Raises BenchError where it fails.
        """
        return timed([sys.executable, "-m", "coordctl", *words, "--site", str(self.folder)],
                     self.env)

    def up(self, machines: int = 1) -> float:
        """Have the lab's machines running: the seconds it takes."""
        self.is_up = True
        return self.timed("lab", "up", "--machines", str(machines), "--yes")[0]

    def down(self) -> None:
        """Remove them. Packages that they fetched stay in the user's cache."""
        self.timed("lab", "down", "--yes")
        self.is_up = False

    def provision(self) -> tuple[float, str]:
        """`coordctl up`: seconds, and what it printed."""
        return self.timed("up", "--yes")

    @property
    def addresses(self) -> dict[str, str]:
        """The machines' addresses by name, from site.yml."""
        told: dict[str, Any] = yaml.safe_load(
            (self.folder / "site.yml").read_text(encoding="utf-8"))
        return {name: machine["address"] for name, machine in told["machines"].items()}

    def on(self, command: str, machine: str = "m1") -> tuple[float, str]:
        """Run a command on a machine: seconds, and what it printed."""
        return timed([*site_file.ssh(self.folder, self.addresses[machine]), command], self.env)

    def inside(self, machine: str = "m1") -> list[str]:
        """The argv that runs a program of this computer's in a machine's network; the program
        follows.
        """
        try:
            container = lab.one(lab.name_of(self.folder), machine).container
            pid = podman("inspect", "--format", "{{.State.Pid}}", container).strip()
        except CoordctlError as error:
            raise BenchError(f"{machine}: {error}") from error
        return ["nsenter", "--target", pid, "--net", "--"]

    def token(self) -> str:
        """The operator's token."""
        return timed([sys.executable, "-c", _TOKEN, str(self.folder)], self.env)[1].strip()


def timed(argv: Sequence[str], env: dict[str, str] | None = None) -> tuple[float, str]:
    """Run a program from the repository's folder: its seconds and its stdout. Raises BenchError."""
    began = time.perf_counter()
    try:
        done = subprocess.run(argv, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(argv)} takes longer than {LIMIT_S:g} s") from None
    seconds = time.perf_counter() - began
    if done.returncode:
        raise BenchError(f"{' '.join(argv)} ended with {done.returncode}:\n"
                         f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, done.stdout
