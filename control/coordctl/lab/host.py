"""The computer that bears a lab: what it must have, where things lie, how programs run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from coordctl import folders
from coordctl.errors import CoordctlError
from coordctl.output import note, waiting

# A program, and Debian's package that has it.
NEEDED: Final = {"podman": "podman", "runc": "runc", "netavark": "netavark", "nft": "nftables",
                 "iptables": "iptables", "mmdebstrap": "mmdebstrap", "ssh": "openssh-client",
                 "ip": "iproute2", "tc": "iproute2", "mkfs.ext4": "e2fsprogs"}
_PLACES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/podman",
                  "/usr/libexec/podman")
_LOCKS: Final = Path("/run/lock/coordctl-lab")
_WATCHES: Final = Path("/proc/sys/fs/inotify/max_user_instances")
WATCHES_LEAST: Final = 1024


def require_root(command: str) -> None:
    """Raise CoordctlError for anyone but root: containers with systemd, loop disks, routes."""
    if os.geteuid() != 0:
        raise CoordctlError("the lab's machines are containers that boot systemd, with disks and "
                            "a network of their own: making them takes root",
                            mend=f'sudo env "PATH=$PATH" coordctl lab {command}')


def missing_packages() -> list[str]:
    """The packages that this computer lacks, sorted."""
    path = environment()["PATH"]
    return sorted({package for program, package in NEEDED.items()
                   if shutil.which(program, path=path) is None})


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs are run with: this process's own environment, the system's programs found."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_PLACES))
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **(more or {})}


def install(packages: Sequence[str]) -> None:
    """Install packages through apt-get. Raises CoordctlError with the command that failed."""
    command = ["apt-get", "install", "-qy", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        raise CoordctlError(f"the lab needs {', '.join(packages)}, and there is no apt-get here",
                            mend="install them, then the same command")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with waiting(f"Installing {', '.join(packages)} …"):
        run(["apt-get", "update", "-q"], env=quiet, timeout_s=300, check=False)
        run(command, env=quiet, timeout_s=600,
            mend=f"apt-get update && {' '.join(command)}")


def cache() -> Path:
    """The folder of what the lab keeps on this computer; made if need be."""
    folder = folders.cache() / "lab"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def make_room() -> None:
    """Let root watch as many sets of files as the machines need. A machine's systemd takes seven or
    more, the kernel's 128 are all machines' together, and a unit that gets none fails at boot.
    """
    if int(_WATCHES.read_text(encoding="ascii")) < WATCHES_LEAST:
        # Where this computer is itself a container it may not be ours to change.
        with suppress(OSError):
            _WATCHES.write_text(str(WATCHES_LEAST), encoding="ascii")


@contextmanager
def only_one(what: str) -> Iterator[None]:
    """Be the only lab command on this computer that does `what`; waits for another one's end."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_LOCKS / what, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"Waiting for another coordctl lab ({what}) …")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def run(argv: Sequence[str], *, given: bytes | None = None, env: Mapping[str, str] | None = None,
        timeout_s: float = 60, check: bool = True, mend: str = "") -> str:
    """Run a program to its end; what it printed.

    Raises CoordctlError when it fails (unless not `check`) or takes longer than `timeout_s`.
    """
    try:
        done = subprocess.run(argv, input=given or b"", check=False,  # noqa: S603 - a list, no shell
                              capture_output=True, timeout=timeout_s,
                              env=environment(env))
    except subprocess.TimeoutExpired:
        raise CoordctlError(f"`{' '.join(argv)}` took longer than {timeout_s:.0f} s",
                            mend=mend or "the same command once more") from None
    except FileNotFoundError:
        raise CoordctlError(f"{argv[0]} is not installed", mend="coordctl lab up") from None
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise CoordctlError(f"`{' '.join(argv[:4])} …` failed with code {done.returncode}",
                            details="\n".join(said.splitlines()[-8:]),
                            mend=mend or "the same command once more")
    return done.stdout.decode("utf-8", "replace")
