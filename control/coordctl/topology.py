"""Which machine bears which roles: a pure function of profile, machines and what stands already.

    profile + machines + standing seats ─▶ place() ─▶ seats on machines ─▶ roles on machines

A seat is a place of a tier, such as `db-2`. What stands stays: a seat keeps its machine for as
long as both are wanted, so that adding machines or seats moves no messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from coordctl.components import ANYONE, BY_ROLE, wanted
from coordctl.errors import CoordctlError
from coordctl.profile import Profile, Tier

LOCAL: Final = "local"
"""The name of this machine where the site has no others."""


class Rule(NamedTuple):
    """A port that a machine's firewall opens for a role. `sources`: machines; () is anyone."""

    port: int
    role: str
    sources: tuple[str, ...]


class Topology(NamedTuple):
    """`seats`: seat → machine; `roles`: machine → its roles in order, for every machine."""

    seats: dict[str, str]
    roles: dict[str, tuple[str, ...]]

    def bearers(self, role: str) -> list[str]:
        """The machines that bear a role, in the site's order."""
        return [machine for machine, roles in self.roles.items() if role in roles]

    @property
    def spare(self) -> list[str]:
        """Machines that bear nothing."""
        return [machine for machine, roles in self.roles.items() if not roles]

    def rules(self, machine: str) -> list[Rule]:
        """What the machine's firewall must open, beside SSH."""
        rules = []
        for role in self.roles[machine]:
            for port in BY_ROLE[role].ports:
                if ANYONE in port.to:
                    rules.append(Rule(port.number, role, ()))
                    continue
                sources = [other for other, roles in self.roles.items()
                           if other != machine and set(port.to) & set(roles)]
                if sources:
                    rules.append(Rule(port.number, role, tuple(sources)))
        return rules


def place(profile: Profile, machines: Sequence[str], standing: Mapping[str, str] | None = None, *,
          compact: bool = False, mend: str = "coordctl plan") -> Topology:
    """Put the profile's seats on `machines`; those of a local profile are on this one, whatever
    machines there are for another level.

    `standing`: seat → machine of what is there. Raises CoordctlError where machines are missing:
    how many, and for what.
    """
    if profile.local:
        machines = [LOCAL]
    active = wanted(profile.stack)
    _check_borne(profile, active)
    seats: dict[str, str] = {}
    missing: list[str] = []
    wishes = [(tier, _seats(profile, tier, len(machines), compact=compact))
              for tier in profile.placement]
    for _, names in wishes:
        for seat in names:
            there = (standing or {}).get(seat)
            if there is not None and there in machines:
                seats[seat] = there
    for tier, names in wishes:
        for seat in names:
            if seat in seats:
                continue
            machine = _pick(seats, tier.tier, machines, compact=compact)
            if machine is None:
                missing.append(seat)
            else:
                seats[seat] = machine
    if missing:
        needed = sum(len(names) for _, names in wishes)
        raise CoordctlError(
            f"{profile.name} needs {1 if compact else needed} "
            f"machine{'s' * (needed != 1 and not compact)} and the site has {len(machines)}: "
            f"{len(missing) if not compact else 1} more for {', '.join(missing)}"
            + ("" if compact or not machines else ", or compact: true"), mend=mend)
    ordered = {seat: seats[seat] for _, names in wishes for seat in names}
    by_tier = {tier.tier: tier for tier in profile.placement}
    roles = {}
    for machine in machines:
        borne = {role for seat, where in ordered.items() if where == machine
                 for role in by_tier[seat.rpartition("-")[0]].roles}
        if machine == LOCAL:
            borne.discard("machine")
        roles[machine] = tuple(role for role in active if role in borne)
    return Topology(ordered, roles)


def _seats(profile: Profile, tier: Tier, machines: int, *, compact: bool) -> list[str]:
    count = profile.count(tier)
    if compact:
        count = min(count, max(tier.least, machines))
    return [f"{tier.tier}-{number}" for number in range(1, count + 1)]


def _pick(seats: Mapping[str, str], tier: str, machines: Sequence[str], *, compact: bool
          ) -> str | None:
    """The machine for a new seat: a free one, or, compact, the one that it shares best."""
    borne: dict[str, list[str]] = {machine: [] for machine in machines}
    for seat, machine in seats.items():
        borne[machine].append(seat.rpartition("-")[0])
    if not compact:
        return next((machine for machine in machines if not borne[machine]), None)
    # The first of those with the fewest of its own kind, then the fewest of all.
    return min(machines, key=lambda name: (borne[name].count(tier), len(borne[name])),
               default=None)


def _check_borne(profile: Profile, active: Sequence[str]) -> None:
    """Every role of the stack must have a tier that bears it."""
    bearing = {role for tier in profile.placement for role in tier.roles}
    for role in active:
        if role not in bearing and role != "machine":
            raise CoordctlError(
                f"the stack of this site needs {role}, for which level {profile.name} has no "
                "machine: take another choice, or a larger level", mend="coordctl levels")
