"""The lab's network: one /24 a lab, out of one private /16 that never leaves this computer."""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Final

from coordctl.errors import CoordctlError
from coordctl.lab import host
from coordctl.lab.podman import LAB, SITE, networks, podman

ALL: Final = ipaddress.IPv4Network("10.213.0.0/16")
FIRST_HOST: Final = 11  # m1's last octet
_LAST_RESORT: Final = "4278198272"  # the metric: any other route wins


def find(lab: str) -> ipaddress.IPv4Network | None:
    """The lab's subnet, None where it has no network yet."""
    network = _of(lab)
    return ipaddress.IPv4Network(network["subnets"][0]["subnet"]) if network else None


def ensure(lab: str, site: str) -> ipaddress.IPv4Network:
    """The lab's subnet; its network is made if need be.

    Of two labs that are made at once each gets a subnet of its own. Names of machines are told by
    /etc/hosts in each, so the network needs no name server. Raises CoordctlError.
    """
    keep_inside()
    with host.only_one("network"):
        if (there := find(lab)) is not None:
            return there
        subnet = _free()
        podman("network", "create", "--subnet", str(subnet), "--disable-dns",
               "--label", f"{LAB}={lab}", "--label", f"{SITE}={site}", lab)
        return subnet


def keep_inside() -> None:
    """Packets to a machine that is no more are refused here, never sent out by another route."""
    host.run(["ip", "route", "replace", "unreachable", str(ALL), "metric", _LAST_RESORT])


def address(subnet: ipaddress.IPv4Network, machine: str) -> str:
    """The address of m1, m2 … in the lab's subnet."""
    return str(subnet.network_address + FIRST_HOST - 1 + int(machine.removeprefix("m")))


def mac(address: str) -> str:
    """A machine's hardware address: the same at every boot.

    With another one, whoever knew the old would send into the void for some 20 s.
    """
    return "02:00:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def keep_gateway(lab: str) -> None:
    """Give this computer's end of the network a hardware address that stays.

    A bridge has the lowest of its machines' links, so it gets another one when that machine goes,
    and for 5 s the others send this computer nothing that arrives. Needs a machine that runs:
    without any there is no bridge.
    """
    if network := _of(lab):
        host.run(["ip", "link", "set", "dev", network["network_interface"],
                  "address", mac(network["subnets"][0]["gateway"])])


def remove(lab: str) -> None:
    """Remove the lab's network, if it is there, and the faults that were set on it."""
    if find(lab) is not None:
        podman("network", "rm", "--force", lab)


def _of(lab: str) -> dict[str, Any] | None:
    """The lab's network, as Podman tells of it."""
    return next((network for network in networks()
                 if network["name"] == lab and network.get("labels", {}).get(LAB) == lab), None)


def _free() -> ipaddress.IPv4Network:
    taken = [ipaddress.ip_network(subnet["subnet"]) for network in networks()
             for subnet in network.get("subnets") or []]
    routes: list[dict[str, Any]] = json.loads(host.run(["ip", "-json", "-4", "route"]) or "[]")
    taken += [ipaddress.ip_network(route["dst"]) for route in routes
              if route["dst"] != "default" and route.get("type") != "unreachable"]
    for subnet in ALL.subnets(new_prefix=24):
        if not any(subnet.overlaps(other) for other in taken if other.version == 4):
            return subnet
    raise CoordctlError(f"every /24 of {ALL} is taken on this computer",
                        mend="podman network ls")
