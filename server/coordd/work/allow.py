"""Where webhooks may go: the setting `webhook_allow`, and a connection that keeps to it.

An entry is a host's name, or a network such as 10.1.0.0/16. A named host is reached at addresses of
the internet, or of a network that is listed; a network is reached by any name or none. What is
checked is the address that the connection is then made to, so that a name can't lead elsewhere a
moment later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

_HOST: Final = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)"
                          r"(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")
_TUNNELS: Final = tuple(map(ip_network, (
    "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Addresses of the internet that hold another one, which may be internal."""


class NotAllowedError(Exception):
    """The setting does not allow it. The text names what would."""


def is_entry(text: str) -> bool:
    """Whether `text` may stand in webhook_allow."""
    if _network(text) is not None:
        return True
    return _HOST.match(text.lower()) is not None and not text.rpartition(".")[2].isdigit()


def _network(text: str) -> object:
    try:
        return ip_network(text)
    except ValueError:
        return None


class Allowlist:
    """The entries of the setting."""

    def __init__(self, entries: Sequence[str]) -> None:
        networks = [ip_network(entry) for entry in entries if _network(entry) is not None]
        self._networks = networks
        self._hosts = {entry.lower() for entry in entries if _network(entry) is None}

    def may_name(self, host: str) -> bool:
        """Whether a URL with this host could ever be called; no name is looked up."""
        literal = _literal(host)
        if literal is not None:
            return self._listed(literal)
        return host.lower() in self._hosts or bool(self._networks)

    def good(self, host: str, every: Sequence[Address]) -> list[Address]:
        """Those of a host's addresses that may be called. Raises NotAllowedError where there is
        none.
        """
        named = host.lower() in self._hosts
        good = [address for address in every
                if self._listed(address) or (named and _is_public(address))]
        if not good:
            told = ", ".join(map(str, every))
            if named:
                raise NotAllowedError(f"{host} is at {told}, no address of the internet: a network "
                                      "that holds it is not in webhook_allow")
            raise NotAllowedError(f"{host} ({told}) is not in webhook_allow")
        return good

    def _listed(self, address: Address) -> bool:
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((inner or address) in network for network in self._networks)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
