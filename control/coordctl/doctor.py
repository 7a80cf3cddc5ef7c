"""Preflight: what a machine answers, judged against what its roles need; each with its mend."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from coordctl import remote
from coordctl.components import BY_ROLE, UNITS
from coordctl.profile import Profile
from coordctl.remote import Answer
from coordctl.site import Site
from coordctl.topology import LOCAL, Topology

PROBE: Final = Path(__file__).with_name("probe.sh")
SUPPORTED: Final = ("debian", "13")
CLOCK_LIMIT_S: Final = 5
FREE_MB_LEAST: Final = 500
BESIDE: Final = {"rabbitmq": ("epmd.service", "epmd.socket")}
"""Units that have a port of a role beside the role's own."""

Verdict = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """`machine` has (or lacks) what `check` asks. `mend`: what to do, "" where nothing is."""

    machine: str
    check: str
    verdict: Verdict
    says: str
    mend: str = ""


class Facts(NamedTuple):
    """What the probe printed: key → value, and `ports`: port → (program, unit)."""

    values: dict[str, str]
    free_mb: dict[str, int]
    resolves: set[str]
    ports: dict[int, tuple[str, str]]

    @classmethod
    def of(cls, output: str) -> Facts:
        """Read the probe's output."""
        facts = cls({}, {}, set(), {})
        for line in output.splitlines():
            key, _, value = line.partition(" ")
            words = value.split()
            if key == "free_kb" and len(words) == 2 and words[0].isdigit():
                facts.free_mb[words[1]] = int(words[0]) // 1024
            elif key == "resolves":
                facts.resolves.add(value)
            elif key == "port" and len(words) == 3:
                facts.ports[int(words[0])] = (words[1], words[2])
            else:
                facts.values[key] = value
        return facts


def examine(site: Site, topology: Topology, profile: Profile) -> list[Finding]:
    """Ask every machine of the site; nothing is changed on any."""
    script = PROBE.read_text(encoding="utf-8")
    ports = {machine: [port.number for role in roles for port in BY_ROLE[role].ports]
             for machine, roles in topology.roles.items()}
    if site.is_local:
        ports = {machine: [site.file.port] for machine in topology.roles}
    began = time.time()
    answers = remote.run(site, {machine: (script, [str(port) for port in numbers])
                                for machine, numbers in ports.items()})
    findings = []
    for machine, answer in answers.items():
        findings += judge(site, machine, answer, topology, profile, (began, time.time()))
    return findings


def judge(site: Site, machine: str, answer: Answer, topology: Topology, profile: Profile,
          asked: tuple[float, float]) -> list[Finding]:
    """What a machine's answer means. `asked`: when the asking began and ended, by this clock."""
    if answer.code != 0:
        return [_unreached(site, machine, answer)]
    facts = Facts.of(answer.output)
    findings = [Finding(machine, "reached", "ok", f"as {_login(site, machine)}")]
    findings += _system(machine, facts)
    findings += _room(machine, facts, topology, profile)
    findings += _clock(machine, facts, asked)
    if machine != LOCAL:
        findings.append(
            Finding(machine, "names", "ok", "resolve") if "localhost" in facts.resolves else
            Finding(machine, "names", "error", "localhost does not resolve",
                    "add '127.0.0.1 localhost' to its /etc/hosts"))
    findings += _ports(machine, facts, topology)
    return findings


def _login(site: Site, machine: str) -> str:
    if machine == LOCAL:
        return "this computer"
    told = site.file.machines[machine]
    return f"{told.user}@{told.address}"


def _unreached(site: Site, machine: str, answer: Answer) -> Finding:
    told = site.file.machines.get(machine)
    error = answer.error.splitlines()[-1] if answer.error else f"exit code {answer.code}"
    place = f"{_login(site, machine)}, port {told.port if told else 22}"
    low = answer.error.lower()
    if "permission denied" in low:
        key = told.key if told and told.key else "the SSH agent's or ~/.ssh's"
        return Finding(machine, "reached", "error", f"{place} refuses the key ({key})",
                       f"ssh-copy-id {_login(site, machine)}, or set machines.{machine}.key")
    if "host key verification failed" in low or "identification has changed" in low:
        return Finding(machine, "reached", "error",
                       f"{place} shows another host key than when it was first seen",
                       f"if it was set up anew: ssh-keygen -R {told.address if told else machine} "
                       f"-f {site.known_hosts}")
    if "sudo" in low:
        return Finding(machine, "reached", "error", f"{place}: {error}",
                       f"let {told.user if told else 'it'} use sudo without a password")
    return Finding(machine, "reached", "error", f"{place} does not answer: {error}",
                   "is it on, and is the address right in site.yml?")


def _system(machine: str, facts: Facts) -> list[Finding]:
    findings = []
    system = facts.values.get("os", "unknown 0")
    name = facts.values.get("name", system)
    if machine == LOCAL or tuple(system.split()) == SUPPORTED:
        findings.append(Finding(machine, "system", "ok", name))
    else:
        findings.append(Finding(machine, "system", "error", f"{name} is not supported",
                                "install Debian 13 on it"))
    python = facts.values.get("python", "")
    if not python:
        findings.append(Finding(machine, "Python", "error", "there is no python3",
                                "apt-get install python3 on it"))
    elif tuple(map(int, python.split("."))) < (3, 11):
        findings.append(Finding(machine, "Python", "error", f"{python} is older than 3.11",
                                "install a newer python3 on it"))
    else:
        findings.append(Finding(machine, "Python", "ok", python))
    arch = facts.values.get("arch", "")
    if machine != LOCAL and arch != platform.machine():
        findings.append(Finding(machine, "architecture", "error",
                                f"{arch or 'unknown'}, and this computer builds for "
                                f"{platform.machine()}",
                                f"run coordctl on a computer with {arch or 'the same'}"))
    if machine != LOCAL and facts.values.get("init") != "systemd":
        findings.append(Finding(machine, "init", "error",
                                f"{facts.values.get('init', 'nothing')} runs it, not systemd",
                                "boot it with systemd"))
    return findings


def _room(machine: str, facts: Facts, topology: Topology, profile: Profile) -> list[Finding]:
    tiers = {tier.tier: tier for tier in profile.placement}
    borne = [tiers[seat.rpartition("-")[0]] for seat, where in topology.seats.items()
             if where == machine]
    findings = []
    for folder, free_mb in facts.free_mb.items():
        if free_mb < FREE_MB_LEAST:
            findings.append(Finding(machine, "disk", "error", f"{free_mb} MiB are free on {folder}",
                                    f"make {FREE_MB_LEAST} MiB free there"))
    free_mb = min(facts.free_mb.values(), default=0)
    wanted_mb = max((tier.disk_gb for tier in borne), default=0) * 1024
    if not findings:
        enough = free_mb >= wanted_mb
        findings.append(Finding(
            machine, "disk", "ok" if enough else "warning",
            f"{free_mb / 1024:.1f} GiB free" + ("" if enough else
                                               f", {wanted_mb / 1024:.0f} are advised"),
            "" if enough else "a larger disk before the messages fill it"))
    memory_mb = int(facts.values.get("memory_kb") or 0) // 1024
    wanted_mb = max((tier.memory_mb for tier in borne), default=0)
    enough = memory_mb >= wanted_mb
    findings.append(Finding(
        machine, "memory", "ok" if enough else "warning",
        f"{memory_mb / 1024:.1f} GiB" + ("" if enough else f", {wanted_mb / 1024:.0f} are advised"),
        "" if enough else "more memory before the load of this level"))
    return findings


def _clock(machine: str, facts: Facts, asked: tuple[float, float]) -> list[Finding]:
    began, ended = asked
    its = float(facts.values.get("time") or 0)
    off_s = max(began - 1 - its, its - ended - 1, 0.0)
    if off_s > CLOCK_LIMIT_S:
        return [Finding(machine, "clock", "error", f"{off_s:.0f} s off this computer's",
                        "timedatectl set-ntp true on it, and on this computer")]
    return [Finding(machine, "clock", "ok", "agrees with this computer's")]


def _ports(machine: str, facts: Facts, topology: Topology) -> list[Finding]:
    if machine == LOCAL:
        return []  # the start itself tells, and knows the site's own server
    findings = []
    roles = topology.roles[machine]
    ours = {unit for role in roles for unit in (UNITS.get(role), *BESIDE.get(role, ()))}
    for role in roles:
        for port in BY_ROLE[role].ports:
            program, unit = facts.ports.get(port.number, ("", ""))
            if program and unit not in ours:
                findings.append(Finding(
                    machine, "ports", "error",
                    f"{port.number}, which {role} needs, is taken by {program}"
                    + (f" ({unit})" if unit != "-" else ""),
                    f"stop {unit if unit != '-' else program} on it"))
    return findings or [Finding(machine, "ports", "ok", "free, or ours")]


def errors(findings: list[Finding]) -> list[Finding]:
    """Those that keep `up` from working."""
    return [finding for finding in findings if finding.verdict == "error"]


def rows(findings: list[Finding]) -> list[Mapping[str, str]]:
    """For a table, JSON or YAML."""
    return [finding._asdict() for finding in findings]
