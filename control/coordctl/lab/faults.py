"""Faults of a lab's machines: no power, no network, no room.

A partition is dropped on the lab's bridge, in this computer's own network namespace, so that
neither a machine's own firewall (`flush ruleset`) nor its next boot ends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from coordctl.errors import CoordctlError
from coordctl.lab import disk, host
from coordctl.lab.machine import Machine
from coordctl.lab.podman import networks, podman

_CHAIN: Final = "partitions"
_TABLES: Final = "coordctl_"
_MTU_BYTES: Final = 1500


def kill(machine: Machine) -> None:
    """Power off at once: no process ends by itself, what was not synced to the disk is lost."""
    if machine.state != "stopped":
        if machine.state == "paused":  # what is frozen takes no signal
            podman("unpause", machine.container)
        podman("kill", "--signal=KILL", machine.container)
        podman("wait", machine.container)
    disk.lose_power(machine.folder)


def start(machine: Machine) -> None:
    """Switch on."""
    disk.mount(machine.folder)
    if machine.state == "stopped":
        podman("start", machine.container)


def pause(machine: Machine) -> None:
    """Freeze every process: the machine takes connections' packets and answers none."""
    if machine.state == "running":
        podman("pause", machine.container)


def resume(machine: Machine) -> None:
    """Let a paused machine go on."""
    if machine.state == "paused":
        podman("unpause", machine.container)


def partition(one: Machine, other: Machine, *, one_way: bool = False) -> None:
    """Drop every packet between two machines, those of open connections too; `one_way`: only what
    `one` sends.
    """
    ways = [(one, other)] if one_way else [(one, other), (other, one)]
    missing = [(a.address, b.address) for a, b in ways if b.address not in _cut_off(a)]
    if not missing:
        return
    table = _table(one.lab)
    rules = "".join(f"add rule bridge {table} {_CHAIN} ip saddr {a} ip daddr {b} drop\n"
                    for a, b in missing)
    _nft(f"add table bridge {table}\nadd chain bridge {table} {_CHAIN} "
         f"{{ type filter hook forward priority 0; }}\n{rules}")


def slow(machine: Machine, rate_kbytes: int) -> None:
    """Let no more than `rate_kbytes` (1,000 bytes) a second in, nor out. Gone with its next boot.

    A packet waits up to 400 ms in the queue, then the queue drops (tc-tbf(8)).
    """
    burst = max(4 * _MTU_BYTES, rate_kbytes * 1000 // 50)
    for prefix, device in _ends(machine):
        host.run([*prefix, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate",
                  f"{rate_kbytes * 8}kbit", "burst", str(burst), "latency", "400ms"])


def forget_gone() -> None:
    """End the partitions of labs that are no more: another one may get their addresses."""
    with host.only_one("network"):
        there = {_table(network["name"]) for network in networks()}
        listed = json.loads(host.run(["nft", "-j", "list", "tables", "bridge"]))["nftables"]
        for name in [entry["table"]["name"] for entry in listed if "table" in entry]:
            if name.startswith(_TABLES) and name not in there:
                _nft(f"delete table bridge {name}\n")


def heal(lab: str, machines: Iterable[Machine]) -> None:
    """End every partition of the lab and let the machines' networks run at full speed."""
    _nft(f"add table bridge {_table(lab)}\ndelete table bridge {_table(lab)}\n")
    for machine in machines:
        if machine.state != "stopped" and _is_slow(machine):
            for prefix, device in _ends(machine):
                host.run([*prefix, "tc", "qdisc", "del", "dev", device, "root"])


def of(machine: Machine, names: Mapping[str, str]) -> list[str]:
    """The faults that a machine has now, in words, besides its state. `names`: address → name."""
    words = [f"cut off from {names.get(address, address)}" for address in sorted(_cut_off(machine))]
    if machine.state in ("running", "paused") and _is_slow(machine):
        words.append("slow network")
    if disk.is_full(machine.folder):
        words.append("full disk")
    return words


# kind → what does it, the states in which it can be done, what is so then.
ON_ONE: Final[Mapping[str, tuple[Callable[[Machine], None], tuple[str, ...], str]]] = {
    "kill": (kill, ("running", "paused", "stopped"), "is off"),
    "start": (start, ("running", "stopped"), "is up"),
    "pause": (pause, ("running", "paused"), "is paused"),
    "resume": (resume, ("running", "paused"), "runs"),
    "fill": (lambda machine: disk.fill(machine.folder), ("running", "paused", "stopped"),
             "has no room left on its data disk"),
    "free": (lambda machine: disk.free(machine.folder), ("running", "paused", "stopped"),
             "has room on its data disk"),
}


def _table(lab: str) -> str:
    return f"{_TABLES}{lab.replace('-', '_')}"


def _nft(script: str) -> None:
    host.run(["nft", "-f", "-"], given=script.encode())


def _cut_off(machine: Machine) -> set[str]:
    """The addresses that the machine's packets do not reach."""
    shown = host.run(["nft", "--json", "list", "table", "bridge", _table(machine.lab)],
                     check=False)
    cut = set()
    for entry in json.loads(shown or "{}").get("nftables", []):
        sides: list[Any] = [each["match"]["right"] for each in entry.get("rule", {}).get("expr", [])
                            if "match" in each]
        if sides and sides[0] == machine.address:
            cut.add(sides[1])
    return cut


def _ends(machine: Machine) -> list[tuple[list[str], str]]:
    """Both ends of the machine's cable, its own first: (how to get there, the device)."""
    pid = podman("inspect", "--format", "{{.State.Pid}}", machine.container).strip()
    inside = ["nsenter", "--target", pid, "--net"]
    links = json.loads(host.run([*inside, "ip", "-json", "link", "show", "type", "veth"]))
    if not links:
        raise CoordctlError(f"{machine.name} has no network device", mend="coordctl lab up")
    own = links[0]
    for link in json.loads(host.run(["ip", "-json", "link", "show", "type", "veth"])):
        if link["ifindex"] == own["link_index"]:
            return [(inside, own["ifname"]), ([], link["ifname"])]
    raise CoordctlError(f"the cable of {machine.name} was not found", mend="coordctl lab up")


def _is_slow(machine: Machine) -> bool:
    prefix, device = _ends(machine)[0]
    return " tbf " in host.run([*prefix, "tc", "qdisc", "show", "dev", device])
