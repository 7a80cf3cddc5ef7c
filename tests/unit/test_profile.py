"""Levels as data: complete, checked, overridden by a site, and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console

from coordctl import kit
from coordctl.checked import load
from coordctl.components import BY_ROLE, COMPONENTS, wanted
from coordctl.errors import CoordctlError
from coordctl.profile import LEVELS, WANTED, Profile, profile, profiles
from coordctl.show import levels_table


def overridden(level: str, stack: dict[str, object], **sizes: object) -> Profile:
    return profile(level).with_overrides(stack, sizes, "site.yml", mend="edit site.yml")


def test_the_four_levels_grow() -> None:
    four = profiles()
    assert [level.name for level in four] == list(LEVELS)
    assert {file.stem for file in kit.PROFILES.glob("*.yml")} == set(LEVELS)
    machines = [sum(level.count(tier) for tier in level.placement) for level in four]
    assert machines == [1, 1, 6, 15]
    peaks = [level.targets.peak_per_s for level in four]
    assert peaks == [24, 20, 1000, 100000]
    assert [level.local for level in four] == [True, False, False, False]


def test_every_role_of_a_level_has_a_machine_and_every_tier_names_roles_that_exist() -> None:
    for level in profiles():
        bearing = {role for tier in level.placement for role in tier.roles}
        assert set(wanted(level.stack)) - {"machine"} <= bearing
        assert bearing <= set(BY_ROLE)


def test_a_role_is_set_up_after_those_that_it_is_reached_by_or_needs() -> None:
    order = [component.role for component in COMPONENTS]
    assert order[0] == "machine"
    assert order.index("redis") < order.index("coordd") < order.index("nginx")
    assert order.index("etcd") < order.index("postgres") < order.index("pgbouncer")


def test_a_choice_of_the_site_goes_before_the_profile() -> None:
    assert overridden("organization", {"message_servers": 3}).stack.message_servers == 3
    assert overridden("team", {}, cache_memory_mb=512).sizes.cache_memory_mb == 512
    with_postgres = overridden("team", {"store": "postgres", "backup": "pgbackrest"})
    assert "postgres" in wanted(with_postgres.stack)
    assert profile("team").stack.store == "files"


@pytest.mark.parametrize(("stack", "said"), [
    ({"stor": "files"}, "stack.stor is no key: did you mean store?"),
    ({"banana": 1}, "stack.banana is no key: store, shards"),
    ({"store": "oracle"}, "stack.store is 'oracle': 'files', 'postgres' or 'sharded-postgres'"),
    ({"message_servers": 0}, "stack.message_servers is 0: a whole number from 1 to 64 will do"),
    ({"message_servers": "3"}, "stack.message_servers is '3': a whole number"),
    ({"message_servers": 2}, "message_servers is 2: the files store has one writer: 1 will do"),
    ({"cache": "redis-cluster"}, "cache_nodes is 1: a Redis Cluster has three nodes at least"),
    ({"access": "open"}, "access is 'open': a load balancer is reached over the network"),
    ({"access": "open", "load_balancers": 0}, "access is 'open': only a level on this computer"),
    ({"backup": "pgbackrest"}, "backup is 'pgbackrest': pgBackRest is for Postgres"),
    ({"store": "postgres"}, "backup is 'nightly': nightly is for the files store"),
])
def test_a_choice_that_can_not_be_is_told_with_what_would_do(stack: dict[str, object], said: str
                                                             ) -> None:
    with pytest.raises(CoordctlError) as raised:
        overridden("team", stack)
    assert said in str(raised.value)
    assert str(raised.value).startswith("site.yml: ")
    assert raised.value.mend == "edit site.yml"


def test_a_profile_takes_no_unknown_key_and_lacks_none(tmp_path: Path) -> None:
    good = yaml.safe_load((kit.PROFILES / "team.yml").read_text(encoding="utf-8"))
    for key in good:
        file = tmp_path / "profile.yml"
        file.write_text(yaml.safe_dump({k: v for k, v in good.items() if k != key}),
                        encoding="utf-8")
        with pytest.raises(CoordctlError, match=f"{key} is missing"):
            load(file, Profile, WANTED)
        file.write_text(yaml.safe_dump(good | {f"{key}x": 1}), encoding="utf-8")
        with pytest.raises(CoordctlError, match=f"{key}x is no key"):
            load(file, Profile, WANTED)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "profile.yml"
    file.write_text("name: team\nname: individual\n", encoding="utf-8")
    with pytest.raises(CoordctlError, match="'name' stands twice"):
        load(file, Profile, WANTED)


def test_an_unknown_level() -> None:
    with pytest.raises(CoordctlError, match="'galaxy' is no level: individual, team"):
        profile("galaxy")


def test_a_profile_is_not_changed() -> None:
    with pytest.raises(ValidationError):
        profile("team").stack.store = "postgres"  # type: ignore[misc]


def test_the_table_of_the_levels_fits_100_columns() -> None:
    console = Console(width=100, file=None, record=True, force_terminal=False)
    with console.capture() as shown:
        console.print(levels_table(profiles()))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 100
    assert all(level in lines[0] for level in LEVELS)
    words = shown.get()
    for figure in ("1,000,000", "10,000, 100,000", "99.99 %", "$2,000-5,000", "rabbitmq x3"):
        assert figure in words
