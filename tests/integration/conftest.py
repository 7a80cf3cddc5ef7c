"""Real servers, one a kind for the whole session; tests use agents of their own names."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from coordd.archive import FolderArchive
from support.postgres import Databases
from support.server import Server, start
from support.upkeep import Site

ADMIN_TOKEN = "coord_admin_" + "t" * 32

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def admin_token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("admin") / "token"
    file.write_text(ADMIN_TOKEN)
    file.chmod(0o600)
    return file


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, admin_token_file: Path) -> Iterator[Server]:
    """A coordd without tokens."""
    with start(tmp_path_factory.mktemp("open") / "data",
               admin_token_file=admin_token_file) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, admin_token_file: Path) -> Iterator[Server]:
    """A coordd that asks for tokens."""
    with start(tmp_path_factory.mktemp("token") / "data", auth="token",
               admin_token_file=admin_token_file) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/api/v1", timeout=60) as client:
        yield client


@pytest.fixture
def operator(server: Server) -> Iterator[httpx.Client]:
    with _client(server, ADMIN_TOKEN) as client:
        yield client


@pytest.fixture
def agent() -> str:
    """A name that no other test uses."""
    return f"agent{next(_numbers)}"


@pytest.fixture
def other() -> str:
    return f"other{next(_numbers)}"


def _client(server: Server, token: str) -> httpx.Client:
    return httpx.Client(base_url=f"{server.url}/api/v1", timeout=60,
                        headers={"Authorization": f"Bearer {token}"})


class Office:
    """A server with an operator: hands out clients with tokens, and closes them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients = ExitStack()
        self.operator = self.with_token(ADMIN_TOKEN)

    def issue(self, agent: str) -> tuple[str, str]:
        """(keyid, token)."""
        answer = self.operator.post("/admin/tokens", json={"agent": agent})
        assert answer.status_code == 200, answer.text
        return answer.json()["keyid"], answer.json()["token"]

    def client(self, agent: str) -> httpx.Client:
        return self.with_token(self.issue(agent)[1])

    def with_token(self, token: str) -> httpx.Client:
        return self._clients.enter_context(_client(self.server, token))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()


@pytest.fixture(scope="session")
def office(guarded: Server) -> Iterator[Office]:
    with Office(guarded) as made:
        yield made


@pytest.fixture
async def site(databases: Databases, tmp_path: Path) -> AsyncIterator[Site]:
    """A database of Postgres and an empty folder as its archive."""
    folder = tmp_path / "archive"
    folder.mkdir()
    found = Site(databases, folder)
    yield found
    await found.close()


@pytest.fixture
def folder(site: Site) -> FolderArchive:
    return FolderArchive(site.folder)
