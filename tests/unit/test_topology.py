"""Which machine bears which roles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordctl.errors import CoordctlError
from coordctl.profile import LEVELS, profile, profiles
from coordctl.topology import LOCAL, place


def names(count: int) -> list[str]:
    return [f"m{number}" for number in range(1, count + 1)]


def test_individual_is_on_this_machine() -> None:
    topology = place(profile("individual"), [])
    assert topology.roles == {LOCAL: ("coordd", "logrotate")}
    assert place(profile("individual"), ["m1"]) == topology  # machines for a later level


def test_team_is_on_one() -> None:
    topology = place(profile("team"), ["m1"])
    assert topology.roles["m1"] == ("machine", "redis", "coordd", "nginx", "logrotate", "backup")
    assert [(rule.port, rule.role, rule.sources) for rule in topology.rules("m1")] == [
        (443, "nginx", ())]


def test_no_two_of_a_kind_share_a_machine() -> None:
    for level, count in (("organization", 6), ("enterprise", 15)):
        topology = place(profile(level), names(count))
        assert len(set(topology.seats.values())) == len(topology.seats) == count


def test_the_votes_of_the_databases_leader_stand_on_three_machines() -> None:
    assert len(place(profile("organization"), names(6)).bearers("etcd")) == 3
    assert len(place(profile("enterprise"), names(15)).bearers("etcd")) == 3


def test_only_those_who_must_reach_a_port_may() -> None:
    topology = place(profile("organization"), names(6))
    cache, = topology.bearers("redis")
    ports = {(rule.port, rule.role): set(rule.sources) for rule in topology.rules(cache)}
    assert ports[6379, "redis"] == set(topology.bearers("coordd"))
    for machine in topology.bearers("postgres"):
        others = {rule.port: rule.sources for rule in topology.rules(machine)}
        assert cache not in others[5432]
    for machine in topology.bearers("coordd"):
        assert {(rule.port, rule.sources) for rule in topology.rules(machine)} == {
            (8000, tuple(topology.bearers("nginx"))), (9999, tuple(topology.bearers("prometheus")))}
    anyone = {(machine, rule.port) for machine in topology.roles
              for rule in topology.rules(machine) if not rule.sources}
    assert anyone == {(machine, 443) for machine in topology.bearers("nginx")}


def test_too_few_machines_say_how_many_and_for_what() -> None:
    with pytest.raises(CoordctlError) as raised:
        place(profile("organization"), names(4), mend="edit site.yml")
    assert str(raised.value) == ("organization needs 6 machines and the site has 4: 2 more for "
                                 "db-2, cache-1, or compact: true")
    assert raised.value.mend == "edit site.yml"
    with pytest.raises(CoordctlError, match="team needs 1 machine and the site has 0: 1 more"):
        place(profile("team"), [])
    with pytest.raises(CoordctlError, match="organization needs 1 machine and the site has 0"):
        place(profile("organization"), [], compact=True)


def test_three_message_servers_take_one_machine_more() -> None:
    three = profile("organization").with_overrides({"message_servers": 3}, {}, "x", mend="")
    with pytest.raises(CoordctlError, match="needs 7 machines and the site has 6: 1 more for"):
        place(three, names(6))
    assert len(place(three, names(7)).bearers("coordd")) == 3


def test_compact_shares_machines_and_keeps_databases_apart_while_it_can() -> None:
    for count in range(2, 7):
        topology = place(profile("organization"), names(count), compact=True)
        assert len(set(topology.bearers("postgres"))) == 2
        assert {"nginx", "coordd", "postgres", "redis"} <= {
            role for roles in topology.roles.values() for role in roles}
    assert place(profile("organization"), ["m1"], compact=True).bearers("postgres") == ["m1"]


def test_what_is_more_than_needed_is_spare() -> None:
    assert place(profile("team"), names(3)).spare == ["m2", "m3"]


def test_a_role_that_the_level_has_no_machine_for() -> None:
    wants = profile("individual").with_overrides(
        {"cache": "redis", "cache_nodes": 1}, {}, "x", mend="")
    with pytest.raises(CoordctlError, match="needs redis, for which level individual has no"):
        place(wants, [])


@given(level=st.sampled_from(LEVELS[1:]), order=st.randoms(), more=st.integers(0, 5),
       compact=st.booleans())
def test_what_stands_stays_when_machines_are_added(level: str, order: object, more: int,
                                                   compact: bool) -> None:
    told = profile(level)
    needed = sum(told.count(tier) for tier in told.placement)
    machines = names(needed)
    before = place(told, machines, compact=compact)
    grown = [*machines, *(f"new{number}" for number in range(more))]
    order.shuffle(grown)  # type: ignore[attr-defined]
    after = place(told, grown, before.seats, compact=compact)
    assert {seat: after.seats[seat] for seat in before.seats} == before.seats


def test_a_machine_that_is_gone_is_replaced_and_nothing_else_moves() -> None:
    told = profile("organization")
    before = place(told, names(6))
    after = place(told, ["m1", "m2", "m3", "m5", "m6", "m7"], before.seats)
    moved = {seat for seat in before.seats if after.seats[seat] != before.seats[seat]}
    assert moved == {"db-1"}
    assert after.seats["db-1"] == "m7"


def test_the_same_input_gives_the_same_topology() -> None:
    for level in profiles():
        machines = [] if level.local else names(15)
        assert place(level, machines) == place(level, machines)
