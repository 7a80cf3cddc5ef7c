from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordd.api.system import Readiness
from coordd.cache.forward import ForwardingStore
from coordd.engines.files import FilesStore
from coordd.problems import Problem
from coordd.store import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    StoreUnavailableError,
    StoreUnknownError,
)

if TYPE_CHECKING:
    from pathlib import Path


class Unproved(ForwardingStore):
    """Its proof fails with `error`."""

    def __init__(self, folder: Path, error: Exception) -> None:
        super().__init__(FilesStore(folder))
        self.error = error

    async def prove(self) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "kind", "retry"), [
    (StoreSealedError("x"), "sealed", "1"), (StoreBusyError("x"), "overloaded", "1"),
    (StoreFullError("x"), "full", None), (StoreUnavailableError("x"), "unavailable", "1"),
    (StoreUnknownError("x"), "unavailable", "1"), (StoreError("x"), "internal", None),
    (OSError("x"), "internal", None)])
async def test_a_proof_that_fails_is_503_with_its_reason(tmp_path: Path, error: Exception,
                                                         kind: str, retry: str | None) -> None:
    with pytest.raises(Problem) as caught:
        await Readiness(Unproved(tmp_path, error)).check()
    assert (caught.value.kind, caught.value.status) == (kind, 503)
    assert dict(caught.value.headers).get("Retry-After") == retry
    assert "x" in caught.value.detail
