"""The database machine, one for all tests of a run. Needs root, podman and Debian's archive."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.database import DatabaseMachine
from support.postgres import Databases

FIRST_START_LIMIT_S = 400  # the lab's image may have to be built


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the machine, so that it can be chosen or left out with `-m`. Whichever test
    comes first waits for it.
    """
    for item in items:
        if _needs_the_machine(item):
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
