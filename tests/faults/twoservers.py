"""Two servers over one database of their own."""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from faults.clients import Address
from faults.siteload import ANSWER_LIMIT_S
from support.server import Server, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres import Databases

ADMIN = "coord_admin_0123456789abcdefghij"


class Site:
    """A new database and two servers over it, A and B. `more`: their settings."""

    admin_token = ADMIN
    answer_limit_s = ANSWER_LIMIT_S

    def __init__(self, databases: Databases, folder: Path, **more: Any) -> None:
        self.databases = databases
        self.machine = databases.machine
        self.folder = folder
        self.database = databases.new()
        self.more = more
        self.servers: list[Server] = []
        self.addresses = [Address(), Address()]
        (folder / "admin").write_text(ADMIN)
        (folder / "admin").chmod(0o600)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Those of a server."""
        return {
            "engine": "postgres", "postgres_url": self.machine.pooled_url(self.database),
            "postgres_direct_url": self.machine.direct_url(self.database),
            "postgres_user": self.machine.user,
            "postgres_password_file": self.machine.password_file,
            "admin_token_file": self.folder / "admin", **self.more, **more}

    def start(self, count: int = 2, env_of_a: dict[str, str] | None = None) -> None:
        """Start both, or A alone."""
        for number, address in enumerate(self.addresses[:count]):
            env = env_of_a if number == 0 else None
            server = start(self.folder / f"server-{number}", env=env, **self.settings())
            self.servers.append(server)
            address.port = server.port

    def close(self) -> None:
        """Kill what runs, drop the database."""
        for server in self.servers:
            server.kill()
        self.machine.heal()
        self.databases.drop(self.database)

    def log(self) -> str:
        """What the servers wrote."""
        return "".join(server.log() for server in self.servers)

    @property
    def busy(self) -> int:
        """How many statements are under way in the database."""
        with self.machine.connect(self.machine.direct_url(self.database)) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                "state = 'active' AND pid <> pg_backend_pid()").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def site_of(databases: Databases, folder: Path, **more: Any) -> Iterator[Site]:
    """A site, not started yet, closed at the end."""
    site = Site(databases, folder, **more)
    try:
        yield site
    finally:
        site.close()


def gauge(server: Server, name: str) -> float:
    """What a server's metrics say."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=ANSWER_LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
