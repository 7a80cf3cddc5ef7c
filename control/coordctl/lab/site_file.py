"""What the lab writes into a site: its machines, its key, its machines' host keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from coordctl.durable import write_file
from coordctl.lab import host
from coordctl.site import SITE_FILE, Site, make
from coordctl.site_file import Machine

KEY: Final = "lab/id_ed25519"  # in the site's folder
KNOWN_HOSTS: Final = "known_hosts"
_NAME: Final = "lab/name"


def write_site(folder: Path, lab: str, machines: Mapping[str, str], level: str) -> None:
    """Tell site.yml of the lab's machines (name → address), and of no other with the lab's key.

    What else it says stays.
    """
    told = {name: Machine(address=address, key=KEY) for name, address in machines.items()}
    if (folder / SITE_FILE).exists():
        site = Site(folder)
        others = {name: facts for name, facts in site.file.machines.items()
                  if name in machines or facts.key != KEY}
        if others | told != site.file.machines:
            site.set_machines(others | told)
    else:
        make(folder, level=level, name=lab, machines=told,
             may_hold=r"lab|known_hosts|coordctl\.log|\.known_hosts\.tmp")


def ensure_key(folder: Path) -> str:
    """The public half of the lab's SSH key, which is made if need be."""
    key = folder / KEY
    key.parent.mkdir(mode=0o700, exist_ok=True)
    if not key.exists():
        make_key(key, "coordctl lab")
    return key.with_suffix(".pub").read_text(encoding="utf-8").strip()


def make_key(key: Path, comment: str) -> None:
    """Make an ed25519 key pair, `key` (0600) and `key`.pub; `key` is there last."""
    fresh = key.with_name(f"{key.name}-new")
    for half in (fresh, fresh.with_suffix(".pub")):
        half.unlink(missing_ok=True)
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)])
    fresh.with_suffix(".pub").rename(key.with_suffix(".pub"))
    fresh.rename(key)


def know_hosts(folder: Path, keys: Mapping[str, str]) -> None:
    """Write the machines' host keys (address → "ssh-ed25519 …"); other lines stay."""
    file = folder / KNOWN_HOSTS
    old = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    lines = [line for line in old if line.partition(" ")[0] not in keys]
    lines += [f"{address} {key}" for address, key in keys.items()]
    if lines != old:
        write_file(file, "".join(f"{line}\n" for line in lines))


def lab_of(folder: Path) -> str | None:
    """The name of the lab that the site's machines are of, None where it has none."""
    file = folder / _NAME
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def name_lab(folder: Path, lab: str) -> None:
    """Keep the name of the site's lab."""
    (folder / _NAME).parent.mkdir(mode=0o700, exist_ok=True)
    if lab_of(folder) != lab:
        write_file(folder / _NAME, f"{lab}\n")


def ssh(folder: Path, address: str) -> list[str]:
    """The command that reaches a machine, by its host key alone and the lab's key alone."""
    return ["ssh", "-F", "none", "-i", str(folder / KEY), "-o", "IdentitiesOnly=yes",
            "-o", f'UserKnownHostsFile="{folder / KNOWN_HOSTS}"',
            "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", f"root@{address}"]
