"""Podman, told explicitly what the lab relies on, whatever this computer's defaults are."""

from __future__ import annotations

import json
from typing import Any, Final

from coordctl.durable import write_file
from coordctl.lab import host

# crun refuses hybrid cgroups (v1 + v2); runc runs on all. The event log and the containers' log
# go to files: journald may not be there.
_SETTINGS: Final = """\
[engine]
runtime = "runc"
events_logger = "file"

[network]
network_backend = "netavark"
"""

LAB: Final = "coordctl.lab"  # labels: the lab's name,
SITE: Final = "coordctl.lab.site"  # its site's folder,
ADDRESS: Final = "coordctl.lab.address"  # a machine's address


def podman(*words: str, given: bytes | None = None, timeout_s: float = 60,
           check: bool = True) -> str:
    """Run podman; what it printed. Raises CoordctlError."""
    return host.run(["podman", "--log-level", "error", *words], given=given, timeout_s=timeout_s,
                    check=check, env=environment())


def environment() -> dict[str, str]:
    """What podman must be run with."""
    settings = host.cache() / "containers.conf"
    if not settings.exists() or settings.read_text(encoding="utf-8") != _SETTINGS:
        write_file(settings, _SETTINGS)
    return {"CONTAINERS_CONF": str(settings)}


def containers(*filters: str) -> list[dict[str, Any]]:
    """What `podman ps` tells of all containers that pass the filters, such as label=a=b."""
    words = [word for each in filters for word in ("--filter", each)]
    rows: list[dict[str, Any]] = json.loads(
        podman("ps", "--all", "--format", "json", *words) or "[]")
    return rows


def networks() -> list[dict[str, Any]]:
    """All networks: name, labels, subnets as [{subnet, gateway}], network_interface."""
    # One call: of the names that one tells, another's lab may be gone when the next one asks.
    rows: list[dict[str, Any]] = json.loads(podman("network", "ls", "--format", "json") or "[]")
    return rows
