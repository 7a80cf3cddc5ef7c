"""Imports that the database writes in pieces, while the next one is planned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.engines import FilesHarness, PostgresHarness
from conformance.reads import decoded, everything, feed
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


@pytest.mark.parametrize("piece", [1, 10])
async def test_the_first_change_that_is_wrong_is_named(
        harness: PostgresHarness, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("coordd.engines.postgres.importing._PIECE", piece)
    store = await harness.open()
    unknown = Change("read", "2026-11-24T00:00:00+0000", id="nowhere", agent="chat")
    no_time = sent_change("b", at="yesterday")
    for changes in ([sent_change("a"), unknown, no_time], [sent_change("a"), no_time, unknown]):
        with pytest.raises(ImportRefusedError) as caught:
            await store.import_(changes)
        assert caught.value.index == 1


@pytest.mark.parametrize("bad", [
    pytest.param(sent_change("b\0"), id="NUL in an id"),
    pytest.param(sent_change("\ud800"), id="surrogate in an id"),
    pytest.param(sent_change("b", ("ch\0t", 0)), id="NUL in a name"),
    pytest.param(sent_change("b", ("chat", 2**63)), id="seq that no bigint holds"),
    pytest.param(Change("read", "2026-11-24T00:00:00+0000", id="a\0", agent="chat"),
                 id="NUL in a mark's id"),
])
async def test_what_the_database_could_not_be_asked_for_is_refused(
        harness: PostgresHarness, bad: Change) -> None:
    store = await harness.open()
    before = await everything(store)
    with pytest.raises(ImportRefusedError) as caught:
        await store.import_([sent_change("a"), bad])
    assert caught.value.index == 1
    assert await everything(store) == before


async def test_ids_older_than_the_newest_are_found_and_added(harness: PostgresHarness) -> None:
    store = await harness.open()
    await store.import_([sent_change("m2"), sent_change("m6")])
    read = Change("read", "2026-11-24T00:00:00+0000", id="m2", agent="chat")
    imported = await store.import_([
        *(sent_change(f"m{n}") for n in (1, 2, 3, 6, 7)), read])
    assert (imported.applied, imported.skipped) == (4, 2)
    page = await store.inbox("chat", limit=10, order="oldest")
    messages = decoded(page.messages)
    assert [each.id for each in messages] == ["m2", "m6", "m1", "m3", "m7"]
    assert [each.state for each in messages] == ["read", *["unread"] * 4]


async def test_marks_of_some_deliveries_of_a_message_that_the_import_adds(
        harness: PostgresHarness, tmp_path: Path) -> None:
    at = "2026-11-24T00:00:00+0000"
    changes = [
        sent_change("a", ("bob", 0), ("chat", 0), ("dave", 0)), sent_change("b", ("bob", 0)),
        sent_change("c", ("bob", 0), ("chat", 0), body=None),
        Change("acked", at, id="a", agent="chat"), Change("deleted", at, id="a", agent="bob"),
        Change("read", at, id="a", agent="chat"), Change("deleted", at, id="c", agent="bob"),
        Change("expired", at, id="c", agent="chat"), Change("deleted", at, id="b", agent="bob")]
    files = await FilesHarness(tmp_path, 1 << 20).open()
    store = await harness.open()
    for each in (files, store):
        assert (await each.import_(changes)).applied == len(changes)
    assert await everything(store) == await everything(files)
    await files.close()
