"""The database machine and the organization, one for all tests of a run. They need root, podman and
Debian's archive.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.database import DatabaseMachine
from support.lab import Lab
from support.organization import MACHINES, Organization
from support.postgres import Databases

FIRST_START_LIMIT_S = 400  # the lab's image may have to be built
TEAM_LIMIT_S = 600  # a machine is provisioned, on a busy computer
ORGANIZATION_LIMIT_S = 1200  # and the minutes for which things are broken

# A suite that a shell began in the background ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without limits for an agent: here one token speaks for all.
_SIZES = "sizes: {rate_per_s: 0}\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=3.0,
                     help="How long tests/faults/test_stack.py breaks things.")
    parser.addoption("--seed", type=int, default=None,
                     help="Repeat the faults of the run that printed it.")
    parser.addoption("--organization", type=Path, default=None, metavar="SITE",
                     help="An organization in the lab that is up already, and is left up.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the machine or the organization, so that it can be chosen or left out with
    `-m`. Whichever test comes first waits for it.
    """
    for item in items:
        if "organization" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.organization)
            item.add_marker(pytest.mark.timeout(
                ORGANIZATION_LIMIT_S + 60 * config.getoption("--minutes")))
        elif "planned_team" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(TEAM_LIMIT_S))
        elif _needs_the_machine(item):
            item.add_marker(pytest.mark.database)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(FIRST_START_LIMIT_S))


def _needs_the_machine(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    params = callspec.params if callspec else {}
    return ("database_machine" in getattr(item, "fixturenames", ())
            or str(params.get("new_harness", "")).startswith("postgres")
            or params.get("stores") == "postgres")


@pytest.fixture(scope="session")
def database_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseMachine]:
    """Started by the first test that needs it. A test that breaks it heals it."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    with DatabaseMachine(tmp_path_factory.mktemp("database")) as machine:
        yield machine


@pytest.fixture(scope="session")
def databases(database_machine: DatabaseMachine) -> Databases:
    """Its databases with coordd's schema."""
    return Databases(database_machine)


@pytest.fixture(scope="session")
def organization(request: pytest.FixtureRequest,
                 tmp_path_factory: pytest.TempPathFactory) -> Iterator[Organization]:
    """Brought up from bare machines by the first test that needs it. A test that breaks it, or
    changes its size, leaves it as it was.
    """
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    if (site := request.config.getoption("--organization")) is not None:
        yield Organization(Lab(site, Path.home()))
        return
    base = tmp_path_factory.mktemp("organization")
    lab = Lab(base / "site", base)
    try:
        lab("up", "--machines", str(MACHINES), "--yes")
        site = Organization(lab)
        with (site.folder / "site.yml").open("a", encoding="utf-8") as file:
            file.write(_SIZES)
        began = time.monotonic()
        assert "is at level organization" in site("up", "--level", "organization", "--yes").stdout
        site.up_s = time.monotonic() - began
        yield site
    finally:
        lab("down", "--yes")
