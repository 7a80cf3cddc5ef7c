"""What a whole stack may suffer, one thing at a time or two: begun, held for a while, ended."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.organization import Organization

    Where = Callable[[Organization], str]
    Undo = Callable[[], object]
    Begin = Callable[[Organization, str], Undo]

LONGEST_S: Final = 60.0
SKEW: Final = "+300s"


class Fault(NamedTuple):
    """`begin` breaks something on a machine and returns what mends it. `where` chooses the machine.
    `holds`: the range of seconds in between.
    """

    name: str
    where: Where
    begin: Begin
    holds: tuple[float, float]


def _leader(site: Organization) -> str:
    return site.leader


def _replica(site: Organization) -> str:
    return site.replicas[0]


def _bearer(role: str, place: int = 0) -> Where:
    return lambda site: site.bearers(role)[place]


def _lab(kind: str, ends: str) -> Begin:
    """A fault of `coordctl lab fault` on one machine."""
    def begin(site: Organization, machine: str) -> Undo:
        site.fault(kind, machine)
        return lambda: site.fault(ends, machine)
    return begin


def _stopped(unit: str) -> Begin:
    def begin(site: Organization, machine: str) -> Undo:
        site.lab.on(machine, f"systemctl stop {unit}")
        return lambda: site.lab.on(machine, f"systemctl start {unit}")
    return begin


def _killed(unit: str) -> Begin:
    """Its processes end at once; systemd starts it again."""
    def begin(site: Organization, machine: str) -> Undo:
        site.lab.on(machine, f"systemctl kill -s KILL {unit}")
        return lambda: None
    return begin


def _cut_off(*roles: str, one_way: bool = False) -> Begin:
    """From the machines with those roles; `one_way`: it hears them and they do not hear it."""
    def begin(site: Organization, machine: str) -> Undo:
        others = dict.fromkeys(other for role in roles for other in site.bearers(role))
        for other in others:
            if other != machine:
                site.fault("partition", machine, other, *(["--one-way"] if one_way else []))
        return lambda: site.fault("heal")
    return begin


def _skewed(site: Organization, machine: str) -> Undo:
    """The message server's clock is five minutes off, which takes a restart."""
    dropin = "/run/systemd/system/coordd.service.d"
    site.lab.on(machine, (
        f"mkdir -p {dropin}; printf '[Service]\\nEnvironment=FAKETIME={SKEW} "
        "LD_PRELOAD=%s FAKETIME_DONT_FAKE_MONOTONIC=1\\nMemoryDenyWriteExecute=no\\n' "
        f"\"$(ls /usr/lib/*/faketime/libfaketime.so.1)\" >{dropin}/skew.conf; "
        "systemctl daemon-reload; systemctl restart coordd"))
    return lambda: site.lab.on(machine, f"rm -rf {dropin}; systemctl daemon-reload; "
                                        "systemctl restart coordd")


_SHORT: Final = (1.0, 8.0)
_LONG: Final = (1.0, LONGEST_S)
_MEDIUM: Final = (5.0, 25.0)

PARTS: Final = (
    Fault("Redis stopped", _bearer("redis"), _stopped("redis-server"), _SHORT),
    Fault("RabbitMQ stopped", _bearer("rabbitmq"), _stopped("rabbitmq-server"), _SHORT),
    Fault("nginx stopped", _bearer("nginx"), _stopped("nginx"), _SHORT),
    Fault("leader's pgbouncer stopped", _leader, _stopped("pgbouncer"), _SHORT),
    Fault("a server's haproxy killed", _bearer("haproxy"), _killed("haproxy"), _SHORT),
    Fault("a server killed", _bearer("coordd", 1), _killed("coordd"), _SHORT),
    Fault("a server stopped", _bearer("coordd"), _stopped("coordd"), _SHORT),
    Fault("leader's Patroni killed", _leader, _killed("patroni"), _SHORT),
    Fault("a server's clock five minutes off", _bearer("coordd"), _skewed, _SHORT),
)
"""Broken from inside a machine."""
MACHINES: Final = (
    Fault("leader's machine without power", _leader, _lab("kill", "start"), _MEDIUM),
    Fault("replica's machine without power", _replica, _lab("kill", "start"), _MEDIUM),
    Fault("a server's machine without power", _bearer("coordd"), _lab("kill", "start"), _MEDIUM),
    Fault("the cache's machine without power", _bearer("redis"), _lab("kill", "start"), _MEDIUM),
    Fault("the balancer's machine without power", _bearer("nginx"), _lab("kill", "start"), _SHORT),
    Fault("leader paused", _leader, _lab("pause", "resume"), _LONG),
    Fault("replica paused", _replica, _lab("pause", "resume"), _LONG),
    Fault("a server paused", _bearer("coordd", 1), _lab("pause", "resume"), _LONG),
    Fault("the cache paused", _bearer("redis"), _lab("pause", "resume"), _LONG),
    Fault("the balancer paused", _bearer("nginx"), _lab("pause", "resume"), _SHORT),
    Fault("leader cut off from etcd", _leader, _cut_off("etcd"), _MEDIUM),
    Fault("leader cut off from its replica", _leader, _cut_off("postgres"), _MEDIUM),
    Fault("leader cut off from the servers", _leader, _cut_off("coordd"), _MEDIUM),
    Fault("leader not heard", _leader, _cut_off("etcd", "postgres", one_way=True), _MEDIUM),
    Fault("replica not heard", _replica, _cut_off("postgres", one_way=True), _MEDIUM),
    Fault("leader's disk full", _leader, _lab("fill", "free"), _SHORT),
)
"""Broken from outside it."""
ALL: Final = (*PARTS, *MACHINES)
"""In the order in which a pair is begun: a machine that is off takes no command."""
FIRST: Final = MACHINES[0]


def schedule(seed: int) -> Iterator[tuple[Fault, ...]]:
    """Without end: each fault once, the leader's loss first, then pairs. One seed, one order."""
    chance = Random(seed)
    others = [fault for fault in ALL if fault is not FIRST]
    chance.shuffle(others)
    yield from ((fault,) for fault in [FIRST, *others])
    pairs = list(itertools.combinations(ALL, 2))
    while True:
        yield chance.choice(pairs)


def suffer(site: Organization, faults: tuple[Fault, ...], chance: Random, longest_s: float
           ) -> float:
    """Break, hold and mend; how long it was held in seconds. Of two faults of one machine from
    outside the second is left out.
    """
    low = max(fault.holds[0] for fault in faults)
    high = max(fault.holds[1] for fault in faults)
    held_s = chance.uniform(low, max(low, min(longest_s, high)))
    chosen = [(fault, fault.where(site)) for fault in faults]
    broken: set[str] = set()
    with ExitStack() as mends:
        for fault, machine in chosen:
            if fault in MACHINES and machine in broken:
                continue
            if fault in MACHINES:
                broken.add(machine)
            mends.callback(fault.begin(site, machine))
        time.sleep(held_s)
    return held_s
