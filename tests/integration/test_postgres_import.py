"""Imports that the database writes in pieces, while the next one is planned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.engines import FilesHarness, PostgresHarness
from conformance.reads import everything, feed
from conformance.test_move import lived_in, sent_change
from coordd.store import Change, ImportRefusedError
from support.postgres import Databases


@pytest.fixture
async def harness(databases: Databases) -> AsyncIterator[PostgresHarness]:
    harness = PostgresHarness(databases)
    yield harness
    await harness.close()


@pytest.mark.parametrize("piece", [1, 2, 7])
async def test_pieces_make_the_same_store(
        harness: PostgresHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr("coordd.engines.postgres.importing._PIECE", piece)
    files = FilesHarness(tmp_path, 1 << 20)
    source = await files.open()
    await lived_in(source)
    changes = await feed(source)
    target = await harness.open()
    imported = await target.import_(changes)
    assert (imported.applied, imported.skipped) == (len(changes), 0)
    assert await everything(target) == await everything(source)
    assert await feed(target) == changes
    assert (await target.import_(changes)).skipped == len(changes)
    await files.close()


async def test_a_later_piece_that_is_refused_leaves_nothing(
        harness: PostgresHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordd.engines.postgres.importing._PIECE", 2)
    store = await harness.open()
    before = await everything(store)
    bad = Change("read", "2026-11-24T00:00:00+0000", id="nowhere", agent="chat")
    with pytest.raises(ImportRefusedError) as caught:
        await store.import_([*(sent_change(f"m{n}") for n in range(5)), bad])
    assert caught.value.index == 5
    assert await everything(store) == before
    assert (await store.import_([sent_change("m0")])).applied == 1
