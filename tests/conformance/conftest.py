from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conformance.engines import Harness
    from coordd.store import Store


@pytest.fixture(params=list(ENGINES))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness = ENGINES[request.param](tmp_path)
    yield harness
    await harness.close()


@pytest.fixture
async def store(engine: Harness) -> Store:
    return await engine.open()
