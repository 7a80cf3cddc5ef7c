"""Level organization as its operator and its agents meet it: six machines of the lab, all that they
do shared by this computer's cores.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from bench.daemon import drive
from bench.driver import Job, Outcome
from bench.figures import spread
from bench.kit import at_level, bare_site
from bench.results import Limit, Row
from bench.stand import throughput
from bench.workloads import AGENTS, EVERYBODY
from coordctl.api import Api

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.lab import LabSite
    from bench.stand import Stand

MACHINES: Final = 6
AGAIN: Final = 3
RATE: Final = 1000.0
TOKENS_KNOWN_S: Final = 10.0
"""The other server reads new tokens within a few seconds."""
_UNLIMITED: Final = "sizes: {rate_per_s: 0}\n"


def up(stand: Stand) -> None:
    """`coordctl up` on six bare machines, and again with nothing to change. A run before it, on
    machines of its own, fills the cache of packages and builds the release.
    """
    if not stand.has_lab("org-up"):
        return
    stand.say("  filling the cache of packages")
    warm = _bare(stand, "warm")
    warm.provision()
    warm.down()
    site = _bare(stand, "organization")
    stand.say("  coordctl up")
    first = site.provision()[0]
    stand.levels["organization"] = site
    row = Row(name=f"coordctl up to organization, {MACHINES} bare machines", unit="s",
              ours=spread([first]), bar="≤ 360 s", passed=first <= 360)
    stand.rows.append(row)
    again, changed = [], []
    for number in range(AGAIN):
        stand.say(f"  round {number + 1}, coordctl up again")
        seconds, said = site.provision()
        again.append(seconds)
        changed.append("(changed=0)" not in said)
    row = Row(name="coordctl up again, nothing to change", unit="s", ours=spread(again),
              bar="≤ 60 s\nchanged=0")
    row.passed = row.ours.median <= 60 and not any(changed)
    stand.rows.append(row)


def send(stand: Stand) -> None:
    """Single sends and batches through nginx and TLS, two servers, a synchronous replica.

    Limits: an answer that needs no database, through nginx and TLS; one message server, asked from
    its own machine's network without nginx and TLS.
    """
    if not stand.has_lab("org-send"):
        return
    site = organization(stand)
    authority, seconds = site.folder / "ca.crt", stand.scale.seconds
    operator = site.token()
    with Api(f"https://{site.addresses['m1']}", operator, authority) as api:
        tokens = {agent: api.issue(agent)["token"] for agent in AGENTS} | {EVERYBODY: operator}
    time.sleep(TOKENS_KNOWN_S)
    outside = Job(port=443, host=site.addresses["m1"], authority=str(authority), workload="send",
                  connections=64, rate=0.0, seconds=seconds, warm_s=1.0, tokens=tokens)
    alone = replace(outside, host=site.addresses["m2"], port=8000, authority="")
    loads: dict[str, Callable[[], Outcome]] = {
        "singles": lambda: drive(outside),
        "one server": lambda: drive(alone, site.inside("m1")),
        "/health": lambda: drive(replace(outside, workload="health")),
        "batches": lambda: drive(replace(outside, workload="batch", connections=16)),
        "batches, one server": lambda: drive(
            replace(alone, workload="batch", connections=16), site.inside("m1")),
        "opened": lambda: drive(replace(outside, rate=RATE)),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in loads}
    for number in range(stand.scale.rounds):
        for name, load in loads.items():
            stand.say(f"  round {number + 1}, {name}")
            outcomes[name].append(load())
    limits = [throughput("one server, no TLS", outcomes["one server"]),
              Limit("/health, requests/s", spread([one.answers / one.elapsed_s
                                                    for one in outcomes["/health"]]))]
    row = Row(name="POST /messages, 64 connections", unit="msg/s", bar="≥ 3,000",
              ours=throughput("ours", outcomes["singles"]).value, limits=limits)
    row.passed = row.ours.median >= 3000
    stand.rows.append(row)
    row = Row(name="POST /messages/batch of 100, 16 connections", unit="msg/s", bar="≥ 25,000",
              ours=throughput("ours", outcomes["batches"]).value,
              limits=[throughput("one server, no TLS", outcomes["batches, one server"])])
    row.passed = row.ours.median >= 25_000
    stand.rows.append(row)
    stand.latency("POST /messages", "organization: nginx, TLS", RATE, outcomes["opened"],
                  bar="p99 ≤ 100 ms", passed=lambda p99: p99 <= 0.1)


def organization(stand: Stand) -> LabSite:
    """Machines at that level: those that `up` left, or new ones."""
    return at_level(stand, "organization", _bare)


def _bare(stand: Stand, name: str) -> LabSite:
    """Machines on which nothing was done yet, and a site without limits for an agent."""
    site = bare_site(stand, name, "organization", MACHINES)
    with (site.folder / "site.yml").open("a", encoding="utf-8") as file:
        file.write(_UNLIMITED)
    return site


MEASURES: Final = {"org-up": up, "org-send": send}
