"""Level organization, whole, on six machines: brought up from bare ones, repeated, used by agents,
scaled and failed over under load. The seventh machine bears nothing at first.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from coordctl.components import COMPONENTS
from faults.siteload import Load
from support.organization import Organization

SPARE: Final = "m7"
_PROBE: Final = """\
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((host, int(port))) == 0:
            print(target)
"""


@contextmanager
def loaded(site: Organization, seed: int) -> Iterator[Load]:
    """Agents at work; at the end nothing is lost, doubled, out of order or skipped."""
    site.since = time.time()
    load = site.load(str(seed), seed, 60)
    try:
        load.start()
        yield load
        load.resumed()
        load.run()
        assert load.stop() == []
    finally:
        load.abandon()


def no_refusal(load: Load) -> list[str]:
    """What agents were refused or not answered."""
    lost = [attempt for attempt in load.history.attempts if attempt.outcome != "ok"]
    return [*(f"{client.name}: {client.refusals}" for client in load.clients if client.refusals),
            *map(str, lost)]


def test_up_again_changes_nothing(organization: Organization) -> None:
    began = time.monotonic()
    done = organization("up", "--yes")
    organization.say(f"up from bare machines {organization.up_s:.0f} s, "
                     f"again {time.monotonic() - began:.0f} s")
    assert "(changed=0)" in done.stdout


@pytest.mark.long
def test_ansible_itself_finds_nothing_to_change(organization: Organization) -> None:
    plan = organization.json("plan")
    assert plan["changes"] == []
    assert plan["files"] == []


def test_a_commit_is_on_two_machines(organization: Organization) -> None:
    organization.settled()
    said = organization.lab.on(organization.leader, (
        "cd /; runuser -u postgres -- psql -Atqc \"SELECT sync_state, ssl FROM pg_stat_replication "
        "JOIN pg_stat_ssl USING (pid)\"; "
        "runuser -u postgres -- psql -Atqc 'SHOW synchronous_commit'"))
    assert said.splitlines() == ["sync|t", "on"]


def test_each_port_is_closed_to_a_machine_that_has_no_business_there(
        organization: Organization) -> None:
    told = organization.lab.site()["machines"]
    machines = {name: facts["address"] for name, facts in told.items()}
    known = {port.number for component in COMPONENTS for port in component.ports}
    listening = {
        name: {int(line.split()[3].rpartition(":")[2]) for line in
               organization.lab.on(name, "ss -Hltn").splitlines()
               if not line.split()[3].startswith(("127.", "[::1]"))}
        for name in machines}
    assert {5432, 6432, 8008} <= listening[organization.leader]
    targets = {f"{machines[name]}:{port}" for name in machines if name != SPARE
               for port in known | listening[name]}
    allowed = {f"{address}:22" for address in machines.values()}
    allowed |= {f"{machines[name]}:443" for name in organization.bearers("nginx")}
    found = set(organization.lab.on(
        SPARE, f"python3 - {' '.join(sorted(targets))}", given=_PROBE).splitlines())
    assert found == allowed & targets
    # The same question from where there is business finds them open.
    server = organization.bearers("coordd")[0]
    found = set(organization.lab.on(
        server, f"python3 - {machines[organization.leader]}:6432", given=_PROBE).splitlines())
    assert found == {f"{machines[organization.leader]}:6432"}


def test_status_tells_of_the_whole(organization: Organization) -> None:
    organization.settled()
    facts = organization.json("status")
    assert facts["ready"] is True
    assert {machine["state"] for machine in facts["machines"]} == {"up"}


def test_failover_on_purpose(organization: Organization) -> None:
    organization.settled()
    before, to = organization.leader, organization.replicas[0]
    with loaded(organization, 1) as load:
        began = time.monotonic()
        organization("failover", "--yes")
        load.resumed()
        waited = load.history.longest_gap_s("Sender", began)
    organization.say(f"failover on purpose: no write for {waited:.1f} s")
    assert organization.leader == to != before
    organization.settled()


def test_the_leaders_machine_is_killed(organization: Organization) -> None:
    organization.settled()
    leader = organization.leader
    with loaded(organization, 2) as load:
        began = time.monotonic()
        organization.fault("kill", leader)
        load.resumed()
        writes = load.history.longest_gap_s("Sender", began)
        reads = load.history.longest_gap_s("Reader", began)
        organization.say(f"leader killed: no write for {writes:.1f} s, no read for {reads:.1f} s")
        assert organization.leader != leader
        organization.fault("start", leader)
        organization.settled()


def test_a_message_server_is_killed(organization: Organization) -> None:
    """With a retry nobody sees it but by the wait."""
    machine = organization.bearers("coordd")[0]
    with loaded(organization, 3) as load:
        began = time.monotonic()
        organization.lab.on(machine, "systemctl kill -s KILL coordd")
        load.resumed()
        waited = load.history.longest_gap_s("Sender", began)
        organization.say(f"server killed: no write for {waited:.1f} s")
        unanswered = [attempt for attempt in load.history.attempts
                      if attempt.ended > began and attempt.outcome != "ok"]
        # No more than those that were in flight on it.
        assert len(unanswered) <= len(load.senders), unanswered


@pytest.mark.long
@pytest.mark.parametrize("count", [3, 2])
def test_scaled_without_a_failed_request(organization: Organization, count: int) -> None:
    with loaded(organization, 3 + count) as load:
        organization("scale", f"coordd={count}", "--yes")
        load.run()
        assert no_refusal(load) == []
    assert len(organization.bearers("coordd")) == count
    assert (SPARE in organization.bearers("coordd")) == (count == 3)


@pytest.mark.long
def test_a_rolling_restart_of_the_servers(organization: Organization) -> None:
    """What an update of coordd does: each is drained before it is stopped."""
    file = organization.folder / "site.yml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("rate_per_s: 0", "rate_per_s: 0, pending_messages: 19999"),
                    encoding="utf-8")
    try:
        with loaded(organization, 7) as load:
            assert "(changed=0)" not in organization("up", "--yes").stdout
            assert no_refusal(load) == []
    finally:
        file.write_text(text, encoding="utf-8")
        organization("up", "--yes")


def version(site: Organization, machine: str, package: str) -> str:
    """Which one the machine believes to have."""
    return site.lab.on(machine, f"dpkg-query -W -f '${{Version}}' {package}")


def outdate(site: Organization, machine: str, package: str) -> None:
    """Have the machine believe that its `package` is an older one."""
    site.lab.on(machine, (
        f"sed -i '/^Package: {package}$/,/^$/s/^Version: .*/Version: 1.0-1/' /var/lib/dpkg/status"))


def certificate(site: Organization) -> str:
    """What the load balancer shows who connects anew, as PEM."""
    return ssl.get_server_certificate((site.address, 443))


@pytest.mark.long
def test_updated_without_a_failed_request(organization: Organization) -> None:
    """Postgres' and pgbouncer's packages, then a restart of each; all certificates, by a reload."""
    organization.settled()
    packages = ("postgresql-17", "pgbouncer")
    databases = organization.bearers("postgres")
    had = {(machine, package): version(organization, machine, package)
           for machine in databases for package in packages}
    for machine, package in had:
        outdate(organization, machine, package)
    shown = certificate(organization)
    with loaded(organization, 8) as load:
        organization("update", "--certificates", "--yes")
        assert no_refusal(load) == []
    assert {(machine, package): version(organization, machine, package)
            for machine, package in had} == had
    assert certificate(organization) != shown
    organization.settled()
