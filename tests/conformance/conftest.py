from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from conformance.engines import Harness
    from coordd.store import Store


@pytest.fixture(params=list(ENGINES))
def new_harness(request: pytest.FixtureRequest) -> Callable[[Path], Harness]:
    """Makes the engine's harness in a new folder."""
    make = ENGINES[request.param]
    if request.param.startswith("postgres"):
        databases = request.getfixturevalue("databases")
        return lambda folder: make(folder, lambda: databases)
    return lambda folder: make(folder, lambda: pytest.fail("it needs a database"))


@pytest.fixture
async def engine(new_harness: Callable[[Path], Harness], tmp_path: Path) -> AsyncIterator[Harness]:
    harness = new_harness(tmp_path)
    yield harness
    await harness.close()


@pytest.fixture
async def store(engine: Harness) -> Store:
    return await engine.open()
