"""What stands, over runs that are cut short; which phases hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordctl import phases
from coordctl.errors import CoordctlError
from coordctl.profile import profile
from coordctl.state import KEPT, Generation, State
from coordctl.topology import place
from support.inventories import rendered

FIRST = Generation(level="team", seats={"all-1": "m1"}, machines={"m1": "192.0.2.7"}, run="r1",
                   at="2026-11-24T00:00:00+00:00")


def test_a_generation_stands_once_it_is_complete(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.standing() is None
    state.begin(FIRST)
    assert (State(tmp_path).standing(), State(tmp_path).seats) == (None, FIRST.seats)
    state.update(replace(FIRST, complete=True))
    state.begin(replace(FIRST, run="r2"))
    after = State(tmp_path)
    assert after.current == replace(FIRST, run="r2")
    assert after.standing() == replace(FIRST, complete=True)
    assert after.number == 2


def test_old_generations_are_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path)
    for number in range(KEPT + 5):
        state.begin(replace(FIRST, run=f"r{number}"))
    assert len(list((tmp_path / "state").iterdir())) == KEPT
    assert State(tmp_path).number == KEPT + 5


def test_what_stands_is_not_forgotten_however_often_a_run_has_failed_since(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.begin(replace(FIRST, complete=True))
    for number in range(2 * KEPT):
        state.begin(replace(FIRST, run=f"r{number}"))
    assert State(tmp_path).standing() == replace(FIRST, complete=True)


def test_a_damaged_generation_is_named(tmp_path: Path) -> None:
    State(tmp_path).begin(FIRST)
    (tmp_path / "state" / "000001.json").write_text("{", encoding="utf-8")
    with pytest.raises(CoordctlError, match=r"000001\.json is damaged"):
        State(tmp_path)


def test_a_phase_holds_until_what_it_reads_changes(tmp_path: Path) -> None:
    topology = place(profile("team"), ["m1"])
    wanted = phases.of(topology)
    files = rendered("team")
    secrets = tmp_path / "secrets.yml"
    secrets.write_text("x", encoding="ascii")
    first = phases.hashes(wanted, files, [secrets])
    assert phases.holding(phases.hashes(wanted, files, [secrets]), first) == wanted
    other = files | {"group_vars/redis.yml": files["group_vars/redis.yml"] + "x: 1\n"}
    held = phases.holding(phases.hashes(wanted, other, [secrets]), first)
    assert held == [phase for phase in wanted if phase != "redis"]
    secrets.write_text("y", encoding="ascii")
    assert phases.holding(phases.hashes(wanted, files, [secrets]), first) == []


def test_a_level_whose_roles_are_not_there_yet_is_refused() -> None:
    topology = place(profile("enterprise"), [f"m{number}" for number in range(15)])
    with pytest.raises(CoordctlError, match=r"level enterprise needs the roles .*keepalived"):
        phases.check_kit(profile("enterprise"), phases.of(topology))


def test_a_worker_runs_with_what_the_message_servers_phase_made(tmp_path: Path) -> None:
    """Another setting of coordd is another input of the phase that restarts workers."""
    files = {"group_vars/coordd.yml": "a: 1\n", "group_vars/redis.yml": "a: 1\n"}
    wanted = ["redis", "coordd", "worker", "nginx"]
    first = phases.hashes(wanted, files, [])
    other = files | {"group_vars/coordd.yml": "a: 2\n"}
    assert phases.holding(phases.hashes(wanted, other, []), first) == ["redis", "nginx"]


def test_a_new_release_is_a_matter_of_servers_and_workers(tmp_path: Path) -> None:
    files = {"group_vars/coordd.yml": "a: 1\n"}
    wanted = ["redis", "coordd", "worker", "nginx"]
    release = tmp_path / phases.RELEASE_FILE
    release.write_text("{}", encoding="ascii")
    first = phases.hashes(wanted, files, [release])
    release.write_text('{"coordd_release": "x"}', encoding="ascii")
    assert phases.holding(phases.hashes(wanted, files, [release]), first) == ["redis", "nginx"]
