"""Every role's molecule scenarios: create, check mode, converge, idempotence, verify, destroy.

Two run side by side: a scenario mostly waits for its machines. Needs root, podman and Debian's
archive, as the lab does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SCENARIOS: Final = sorted(path.parent for path in ROOT.glob("roles/*/molecule/*/molecule.yml"))
SIDE_BY_SIDE: Final = 2
LIMIT_S: Final = 900.0  # the ways to the database: four roles and four faults, on a busy computer
BIN: Final = Path(sys.executable).parent

Results = dict[str, Future[subprocess.CompletedProcess[str]]]


def name_of(scenario: Path) -> str:
    """The role's name, with the scenario's where that is another than default."""
    role = scenario.parents[1].name
    return role if scenario.name == "default" else f"{role}-{scenario.name}"


def molecule(scenario: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the scenario; its machines are known by `folder`."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
           "MOLECULE_EPHEMERAL_DIRECTORY": str(folder), "NO_COLOR": "1"}
    base = ROOT / ".config" / "molecule" / "config.yml"
    return subprocess.run(
        [BIN / "molecule", "--base-config", base, "test", "--scenario-name", scenario.name],
        cwd=scenario.parents[1], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest,
            tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """All scenarios that this run asks for, begun in the order in which they are waited for."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    asked = [item.callspec.params["scenario"] for item in request.session.items
             if isinstance(item, pytest.Function) and item.module is request.module
             and hasattr(item, "callspec")]
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    try:
        yield {name_of(scenario): pool.submit(molecule, scenario,
                                              tmp_path_factory.mktemp(name_of(scenario)))
               for scenario in asked}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_scenario(scenario: Path, results: Results) -> None:
    done = results[name_of(scenario)].result()
    assert done.returncode == 0, done.stdout


def test_every_role_has_a_scenario() -> None:
    roles = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
    assert {scenario.parents[1].name for scenario in SCENARIOS} == roles
