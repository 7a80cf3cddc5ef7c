"""Search by the index of blocks: while it grows, over many blocks, with words of any length."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from conformance.engines import PostgresHarness
from conformance.reads import draft, search
from coordd.engines.postgres import PostgresStore
from coordd.engines.postgres.database import Readers
from coordd.engines.postgres.search import Search
from support.postgres import Databases


@pytest.fixture
async def store(databases: Databases) -> AsyncIterator[PostgresStore]:
    harness = PostgresHarness(databases)  # four messages a block
    yield await harness.open()
    await harness.close()


async def fill(store: PostgresStore, bodies: Sequence[str]) -> None:
    await store.append([draft(body=body) for body in bodies])


async def test_a_block_that_is_added_during_a_search_is_not_shown_twice(
        store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index: Search = store._search
    await fill(store, [f"needle {number}" for number in range(10)])
    fetch = Readers.fetch

    async def fetch_and_grow(self: Readers, query: Any, *args: Any, **more: Any) -> Any:
        rows = await fetch(self, query, *args, **more)
        if "max(last)" in query:
            monkeypatch.setattr(Readers, "fetch", fetch)
            while await index.extend():
                pass
        return rows

    monkeypatch.setattr(Readers, "fetch", fetch_and_grow)
    found = await search(store, "needle")
    assert [message.body for message in found] == [f"needle {n}" for n in range(9, -1, -1)]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_a_page_that_ends_within_a_message_of_several_deliveries(
        store: PostgresStore, limit: int) -> None:
    await store.append([draft(["ann", "bob", "cid"], body="needle") for _ in range(9)])
    assert len(await search(store, "needle", limit=limit)) == 27
    await store.keep_up()
    assert len(await search(store, "needle", limit=limit)) == 27


@pytest.mark.parametrize("word", ["needle", "NEEDLE", "eed", "ne", "ä", "Nädel", "日本語"])
@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_words_of_any_length_over_many_blocks(store: PostgresStore, word: str, limit: int
                                                    ) -> None:
    await fill(store, [f"needle Nädel 日本語 {number}" if number % 5 == 0 else "hay"
                       for number in range(50)])
    await store.keep_up()
    found = await search(store, word, limit=limit)
    assert [message.body.rsplit(" ", 1)[1] for message in found] == [
        str(number) for number in range(45, -1, -5)]
