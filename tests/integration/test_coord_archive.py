"""Messages out of the archive, as the clients and the command show them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coord import AsyncClient, Client, NotFound
from coordd.archive import FolderArchive
from support.postgres import Databases
from support.server import Server, start
from support.upkeep import Site, sample

LIMIT_S = 60
COORD = str(Path(sys.executable).with_name("coord"))

Gone = tuple[Server, str, str]


@pytest.fixture
async def gone(databases: Databases, site: Site, folder: FolderArchive, tmp_path: Path
               ) -> AsyncIterator[Gone]:
    """A server that searches the archive; the ids of a message that is there, and of one that both
    its recipients have still.
    """
    store = await site.server(folder)
    both, _, stays = await sample(store)
    await store.keep_up()
    with start(tmp_path / "data", **databases.settings(site.name, pushes=False),
               archive_url=f"file://{site.folder}", archive_find=True) as server:
        yield server, both, stays


async def test_the_clients_say_that_a_message_is_archived(gone: Gone) -> None:
    server, both, stays = gone

    def ask() -> None:
        with Client(server.url) as client:
            found = client.message(both, agent="bob")
            assert (found.archived, found.state, found.body) == (True, "read", "naïve \n\"body\"")
            assert found.read_at is not None
            here = client.message(stays)
            assert (here.archived, replace(here, archived=True) == here) == (False, False)
            with pytest.raises(NotFound):
                client.read(both, agent="bob")

    await asyncio.to_thread(ask)
    async with AsyncClient(server.url) as client:
        found = await client.message(both, agent="carol")
        assert (found.archived, found.state, found.seq) == (True, "unread", 1)
        assert not (await client.message(stays)).archived


async def test_coord_read_shows_what_is_archived_as_that(gone: Gone, tmp_path: Path) -> None:
    server, both, stays = gone

    async def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run, [COORD, "--url", server.url, *argv], env={"HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=LIMIT_S, check=False)

    shown = await run("read", "bob", both)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == "Grüße"
    assert lines[1] == "alice to bob · message 1 · read · archived · high"
    assert lines[-2:] == ["naïve ", '"body"']
    answer = json.loads((await run("read", "carol", both, "--json")).stdout)
    assert (answer["id"], answer["state"], answer["archived"]) == (both, "unread", True)

    assert "archived" not in (await run("read", "bob", stays)).stdout
    assert "archived" not in json.loads((await run("read", "bob", stays, "--json")).stdout)
    for argv in (("read", "dave", both), ("read", "bob", "no-such-message"), ("ack", "bob", both)):
        missing = await run(*argv)
        assert (missing.returncode, missing.stdout) == (1, ""), argv
        assert len(missing.stderr.splitlines()) == 1
