"""The lab's image: a bare Debian 13, built here with mmdebstrap, once for each recipe."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coordctl.errors import CoordctlError
from coordctl.lab import host
from coordctl.lab.podman import environment, podman
from coordctl.output import note, waiting

SUITE: Final = "trixie"
NAME: Final = "localhost/coordctl-lab"
BUILD_LIMIT_S: Final = 900.0

# What Debian's installer leaves on a machine with an SSH server and nothing else chosen, less what
# a container has no use for (kernel, boot loader, udev), and python3-apt for Ansible's check mode.
PACKAGES: Final = (
    "systemd", "systemd-sysv", "systemd-timesyncd", "libpam-systemd", "libnss-systemd", "dbus",
    "openssh-server", "python3", "python3-apt", "iproute2", "iputils-ping", "nftables",
    "ca-certificates", "procps", "kmod", "tzdata", "cron", "less")

# Run in turn by mmdebstrap when all packages are installed; $1 is the image's root.
# The kernel is the host's business: units that load modules or change it are masked (one fails in
# a container, and systemd says degraded). apt's timers would take dpkg's lock at any time. Host
# keys and the machine's id are made for each machine. apt keeps what it downloads: the lab shares
# it between machines. dpkg need not sync each file: a machine of the lab whose disk is lost is made
# anew. The last hook tells systemd that what follows an update of /usr is done:
# the first boot need not do it.
HOOKS: Final = (
    ('chroot "$1" systemctl mask systemd-modules-load.service systemd-binfmt.service '
     "proc-sys-fs-binfmt_misc.automount dev-hugepages.mount sys-kernel-config.mount "
     "sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount"),
    'chroot "$1" systemctl disable apt-daily.timer apt-daily-upgrade.timer',
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname && : > "$1"/etc/machine-id',
    'install -d -m 700 "$1"/root/.ssh',
    "printf '127.0.0.1 localhost\\n::1 localhost\\n' > \"$1\"/etc/hosts",
    ("printf 'APT::Keep-Downloaded-Packages \"true\";\\n' "
     '> "$1"/etc/apt/apt.conf.d/90keep-downloads'),
    'echo force-unsafe-io > "$1"/etc/dpkg/dpkg.cfg.d/90unsafe-io',
    ('chroot "$1" sh -c "ldconfig && journalctl --update-catalog && '
     '/usr/lib/systemd/systemd-update-done"'),
)


def sources(apt: Path = Path("/etc/apt"), release: Path = Path("/etc/os-release")) -> list[str]:
    """Lines of sources.list for the image, from this computer's own; none where it has none.

    Only Debian's archive is taken: the stanzas for this computer's own suite, -updates and
    -security, with component main and no other key than the archive's.
    """
    system = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', release.read_text(encoding="utf-8")))
    if system.get("ID") != "debian" or not (codename := system.get("VERSION_CODENAME")):
        return []
    lines: dict[str, None] = {}
    for address, suite, components, key in _stanzas(apt):
        if suite.partition("/")[0].startswith(codename) and "main" in components and (
                not key or "debian-archive" in key):
            pocket = suite.removeprefix(codename)
            if pocket in ("", "-updates", "-security"):
                lines[f"deb {_resolved(address)} {SUITE}{pocket} main"] = None
    return list(lines) if any(line.endswith(f" {SUITE} main") for line in lines) else []


def _resolved(address: str) -> str:
    """An address as a machine can use it: of a list of mirrors kept here, the first."""
    if not address.startswith("mirror+file:"):
        return address
    mirrors = Path(address.removeprefix("mirror+file:")).read_text(encoding="utf-8")
    return mirrors.split()[0]


def _stanzas(apt: Path) -> Iterator[tuple[str, str, list[str], str]]:
    """(address, suite, components, signed-by) of every binary source of apt."""
    folder = apt / "sources.list.d"
    for file in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            if found := re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line):
                options, address, suite, components = found.groups()
                key = re.search(r"signed-by=(\S+)", options or "")
                yield address, suite, components.split(), key[1] if key else ""
    for file in sorted(folder.glob("*.sources")):
        text = re.sub(r"(?m)^#.*\n?", "", file.read_text(encoding="utf-8"))
        for stanza in re.split(r"\n\s*\n", text):
            fields = {key.lower(): value.strip() for key, value
                      in re.findall(r"(?m)^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza)}
            if "deb" in fields.get("types", "").split() and fields.get("enabled") != "no":
                for address in fields.get("uris", "").split():
                    for suite in fields.get("suites", "").split():
                        yield (address, suite, fields.get("components", "").split(),
                               fields.get("signed-by", ""))


def tag() -> str:
    """The image's name: another recipe or other sources, another name."""
    recipe = "\n".join((SUITE, *PACKAGES, *HOOKS, *sources()))
    return f"{NAME}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def is_built() -> bool:
    """Whether the image is there."""
    return bool(podman("image", "ls", "--quiet", tag()).strip())


def ensure() -> str:
    """The image's name; it is built if need be. Raises CoordctlError with the end of the log."""
    name = tag()
    with host.only_one("image"):
        if not is_built():
            _build(name)
            for old in podman("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", NAME).split():
                if old != name:  # one that a lab still uses stays
                    podman("image", "rm", old, check=False)
    return name


def _build(name: str) -> None:
    command = ["timeout", f"{BUILD_LIMIT_S:.0f}", "mmdebstrap", "--variant=apt",
               f"--include={','.join(PACKAGES)}", "--skip=cleanup/apt/lists",
               *(f"--customize-hook={hook}" for hook in HOOKS), SUITE, "-", *sources()]
    fresh = f"{name}-new"
    log = host.cache() / "image.log"
    note(f"Building the image of Debian 13 ({SUITE}); its log is {log}")
    podman("image", "rm", fresh, check=False)  # what an interrupted run left
    reader, writer = os.pipe()
    with waiting("mmdebstrap …") as spinner, log.open("w", encoding="utf-8") as lines:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer,  # noqa: S603
                              stderr=subprocess.PIPE, env=host.environment()) as build:
            os.close(writer)
            importing = ["podman", "--log-level", "error", "import", "-", fresh]
            with subprocess.Popen(importing, stdin=reader,  # noqa: S603
                                  stdout=subprocess.DEVNULL, stderr=lines,
                                  env=host.environment(environment())) as load:
                os.close(reader)  # podman has the only other end: its death ends the build too
                for raw in build.stderr or ():
                    line = raw.decode("utf-8", "replace")
                    lines.write(line)
                    if line.startswith("I: "):
                        spinner.update(f"mmdebstrap: {line[3:].strip()} …")
        if built := build.returncode == 0 == load.returncode:
            podman("tag", fresh, name)
    podman("image", "rm", fresh, check=False)  # the name only, where the image has another
    if not built:
        end = log.read_text(encoding="utf-8").splitlines()[-8:]
        raise CoordctlError("the lab's image could not be built", details="\n".join(end),
                            mend="coordctl lab up")
