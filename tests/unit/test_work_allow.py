"""Where webhooks may go."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from coordd.work.allow import Allowlist, NotAllowedError, is_entry

HOST = "hooks.example.org"


def good(entries: list[str], host: str, *addresses: str) -> list[str]:
    return [str(each) for each in Allowlist(entries).good(host, [ip_address(a) for a in addresses])]


@pytest.mark.parametrize("entry", ["hooks.example.org", "HOOKS.slack.com", "localhost", "a-b.c_d",
                                   "10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"])
def test_a_name_or_a_network_is_an_entry(entry: str) -> None:
    assert is_entry(entry)


@pytest.mark.parametrize("entry", ["", "*", "*.example.org", "10.0.0.1/8", "10.0.0", "1.2.3.4.5",
                                   "https://example.org", "a b", "-a.org", "a..b", "x" * 300])
def test_what_is_none(entry: str) -> None:
    assert not is_entry(entry)


def test_without_entries_nobody_is_called() -> None:
    with pytest.raises(NotAllowedError, match=r"hooks\.example\.org \(8\.8\.8\.8\) is not in"):
        good([], HOST, "8.8.8.8")
    assert not Allowlist([]).may_name(HOST)


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1",
    "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    "2001:0:7f00:1::"])
def test_a_name_that_is_allowed_leads_to_no_internal_address(address: str) -> None:
    with pytest.raises(NotAllowedError, match="no address of the internet"):
        good([HOST], HOST, address)


def test_of_several_addresses_only_the_good_ones_are_called() -> None:
    assert good([HOST], HOST, "10.0.0.1", "8.8.8.8", "2600::1") == ["8.8.8.8", "2600::1"]
    assert good([HOST, "10.0.0.0/24"], HOST, "10.0.0.1", "10.0.1.1") == ["10.0.0.1"]


def test_a_network_is_reached_by_any_name_and_by_none() -> None:
    assert good(["10.0.0.0/24"], "other.example.org", "10.0.0.9") == ["10.0.0.9"]
    assert good(["10.0.0.0/24"], "10.0.0.9", "10.0.0.9") == ["10.0.0.9"]
    assert good(["127.0.0.0/8"], HOST, "::ffff:127.0.0.1") == ["::ffff:7f00:1"]
    with pytest.raises(NotAllowedError):
        good(["10.0.0.0/24"], "other.example.org", "8.8.8.8")


def test_what_could_never_be_called_is_known_without_a_look_up() -> None:
    allow = Allowlist([HOST, "10.0.0.0/24"])
    assert allow.may_name(HOST.upper())
    assert allow.may_name("10.0.0.1")
    assert not allow.may_name("10.0.1.1")
    assert not Allowlist([HOST]).may_name("example.org")
    assert not Allowlist([HOST]).may_name("8.8.8.8")
