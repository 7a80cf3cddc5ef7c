"""One lab for all tests here, and labs of a test's own. Needs root, podman and Debian's archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.lab import Lab
from support.team import Team


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    base = tmp_path_factory.mktemp("lab")
    lab = Lab(base / "site", base)
    try:
        lab("up", "--machines", "3", "--yes")
        yield lab
    finally:
        lab("down", "--yes")


@pytest.fixture
def new_lab(tmp_path: Path, lab: Lab) -> Iterator[Callable[[str], Lab]]:
    """Makes a lab's site by name, down at the end; `lab` has built the image by then."""
    made: list[Lab] = []

    def make(name: str) -> Lab:
        (tmp_path / f"{name}-cwd").mkdir()
        made.append(Lab(tmp_path / name, tmp_path / f"{name}-cwd"))
        return made[-1]

    yield make
    for each in made:
        each("down", "--yes")


@pytest.fixture(scope="session")
def planned_team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Team, str]]:
    """A machine that was brought to level team, and what `plan` had said before."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    base = tmp_path_factory.mktemp("team")
    lab = Lab(base / "site", base)
    try:
        lab("up", "--machines", "1", "--yes")
        team = Team(lab)
        team("init", "--level", "team")
        planned = team("plan")
        assert "is at level team" in team("up", "--yes").stdout
        yield team, planned.stdout + planned.stderr
    finally:
        lab("down", "--yes")


@pytest.fixture
def team(planned_team: tuple[Team, str]) -> Team:
    return planned_team[0]


@pytest.fixture
def planned(planned_team: tuple[Team, str]) -> str:
    return planned_team[1]
