"""One machine of a lab: a container that boots systemd."""

from __future__ import annotations

import io
import resource
import socket
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from coordctl.errors import CoordctlError
from coordctl.lab import disk, host, network, site_file
from coordctl.lab.podman import ADDRESS, LAB, SITE, containers, podman

BOOT_LIMIT_S: Final = 60.0
_OURS: Final = "# coordctl lab"
_SETTLE: Final = (f"grep -v ' {_OURS}$' /etc/hosts > /etc/hosts.new; "
                  "cat >> /etc/hosts.new && mv /etc/hosts.new /etc/hosts && "
                  "{ systemctl is-system-running --wait; true; }")
# Podman's words for a container that has been made but never started.
_HALF_MADE: Final = ("created", "configured", "initialized", "removing", "unknown")


@dataclass(frozen=True)
class Machine:
    """A machine as podman tells of it.

    `state`: running, paused, stopped, half-made by an interrupted run, or missing; `site`: the
    folder of the site that it was made for.
    """

    name: str
    lab: str
    address: str
    state: str
    site: str
    since: datetime | None = None

    @property
    def container(self) -> str:
        """The container's name."""
        return f"{self.lab}-{self.name}"

    @property
    def folder(self) -> Path:
        """Where its disk, package cache and host key lie on this computer."""
        return folder_of(self.lab) / self.name


def folder_of(lab: str) -> Path:
    """The folder of a lab's machines on this computer."""
    return host.cache() / "machines" / lab


def found(lab: str) -> list[Machine]:
    """The lab's machines, in order."""
    rows = containers(f"label={LAB}={lab}")
    machines = [_machine(lab, row) for row in rows]
    return sorted(machines, key=lambda each: (len(each.name), each.name))


def _machine(lab: str, row: Mapping[str, Any]) -> Machine:
    state = {"running": "running", "paused": "paused"}.get(row["State"], "stopped")
    at = row["ExitedAt"] if state == "stopped" else row["StartedAt"]
    if row["State"] in _HALF_MADE:
        state, at = "half-made", 0
    return Machine(row["Names"][0].removeprefix(f"{lab}-"), lab, row["Labels"][ADDRESS], state,
                   row["Labels"][SITE], datetime.fromtimestamp(at, UTC) if at else None)


def make(machine: Machine, image: str, pool: Path, public_key: str) -> None:
    """Make the machine and switch it on. What an interrupted run left of it is removed first."""
    remove(machine, pool)
    folder = machine.folder
    folder.mkdir(mode=0o700, parents=True)
    site_file.make_key(folder / "host_key", machine.name)
    disk.mount(folder)
    disk.offer_packages(pool, folder)
    words = _limits()
    words += [f"--volume={folder / 'disk' / name}:{place}" for name, place in disk.FOLDERS.items()]
    podman("create", "--systemd=always", "--privileged", "--pids-limit=-1", "--shm-size=256m",
           *words, f"--volume={folder / 'archives'}:{disk.ARCHIVES}",
           f"--network={machine.lab}", f"--ip={machine.address}",
           f"--mac-address={network.mac(machine.address)}", "--no-hosts",
           f"--name={machine.container}", f"--hostname={machine.name}",
           "--log-driver=k8s-file", "--log-opt=max-size=1mb",
           f"--label={LAB}={machine.lab}", f"--label={SITE}={machine.site}",
           f"--label={ADDRESS}={machine.address}", image,
           # As a kernel leaves it: units' credentials come by mounts that must be seen outside.
           "/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init")
    host_key = (folder / "host_key").read_bytes()
    podman("cp", "-", f"{machine.container}:/", given=_tar({
        "root/.ssh/authorized_keys": (f"{public_key}\n".encode(), 0o600),
        "etc/ssh/ssh_host_ed25519_key": (host_key, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (f"{public_host_key(machine)}\n".encode(), 0o644)}))
    podman("start", machine.container)


def _limits() -> list[str]:
    """As many files and processes as podman can give: without CAP_SYS_RESOURCE no more than its own
    limits, and it lowers its own to these.
    """
    processes = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    words = []
    for name, kind, most in (("nofile", resource.RLIMIT_NOFILE, 1048576),
                             ("nproc", resource.RLIMIT_NPROC, processes)):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(hard, most)
        words.append(f"--ulimit={name}={limit}:{limit}")
    return words


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def public_host_key(machine: Machine) -> str:
    """The machine's host key as known_hosts has it: its kind and the key, no comment."""
    text = (machine.folder / "host_key.pub").read_text(encoding="utf-8")
    return " ".join(text.split()[:2])


def bring_up(machine: Machine, pool: Path) -> None:
    """Switch on a machine that is off, wake one that is paused; a running one stays as it is."""
    disk.offer_packages(pool, machine.folder)
    if machine.state == "stopped":
        disk.mount(machine.folder)
        podman("start", machine.container)
    elif machine.state == "paused":
        podman("unpause", machine.container)


def settle(machine: Machine, site: Path, addresses: Mapping[str, str]) -> None:
    """Wait until the machine answers over SSH and systemd has booted; tell it the others' names.

    `addresses`: all the lab's machines, name → address, for /etc/hosts. It is one login, since
    each starts a user manager that takes as long as half a boot. Raises CoordctlError.
    """
    deadline = time.monotonic() + BOOT_LIMIT_S
    names = "".join(f"{address} {name} {_OURS}\n" for name, address in addresses.items())
    login = [*site_file.ssh(site, machine.address), _SETTLE]
    said = "no answer on port 22"
    while time.monotonic() < deadline:
        try:
            socket.create_connection((machine.address, 22), timeout=2).close()
        except OSError as error:
            said = f"port 22: {error.strerror or error}"
            time.sleep(0.05)
            continue
        try:
            said = host.run(login, given=names.encode(), timeout_s=BOOT_LIMIT_S).strip()
        except CoordctlError as error:
            said = error.details
        if said == "running":
            return
        if "Permission denied" in said:
            raise CoordctlError(f"{machine.name} does not take the key {site / site_file.KEY}: it "
                                "was made with another one", details=said,
                                mend="coordctl lab down")
        if said in ("degraded", "maintenance"):
            failed = podman("exec", machine.container, "systemctl", "--failed", "--plain",
                            "--no-legend", check=False)
            raise CoordctlError(f"{machine.name} has booted, but systemd says {said}",
                                details=failed.strip(),
                                mend=f"coordctl lab shell {machine.name} -- journalctl -b -p err")
        time.sleep(0.1)
    log = podman("logs", "--tail", "8", machine.container, check=False)
    raise CoordctlError(f"{machine.name} ({machine.address}) has not booted in "
                        f"{BOOT_LIMIT_S:.0f} s: {said}", details=log.strip(),
                        mend=f"podman logs {machine.container}")


def remove(machine: Machine, pool: Path) -> None:
    """Remove the machine, its disk too; the packages that it downloaded stay in the pool."""
    if machine.state != "missing":
        podman("rm", "--force", "--time=0", "--ignore", machine.container)
    if machine.folder.exists():
        disk.unmount(machine.folder)
        disk.collect_packages(pool, machine.folder)
        disk.remove(machine.folder)
