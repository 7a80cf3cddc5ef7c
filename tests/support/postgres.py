"""Databases with coordd's schema, each a copy of one that was made by the kit's own upgrade."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from coordd.engines.postgres import schema
from coordd.engines.postgres.database import connect, conninfo

from .database import DatabaseMachine


class Databases:
    """Of one machine. The template is made with the first."""

    def __init__(self, machine: DatabaseMachine) -> None:
        self.machine = machine
        self._template: str | None = None

    def new(self) -> str:
        """The name of a new store."""
        if self._template is None:
            template = self.machine.new_database()
            upgrade(self.direct(template))
            self._template = template
        return self.machine.new_database(self._template)

    def drop(self, name: str) -> None:
        """Remove a store, open or not."""
        self.machine.drop_database(name)

    def pooled(self, name: str) -> dict[str, Any]:
        """psycopg's parameters, through pgbouncer."""
        return self._parameters(self.machine.pooled_url(name))

    def direct(self, name: str) -> dict[str, Any]:
        """psycopg's parameters, to Postgres itself."""
        return self._parameters(self.machine.direct_url(name))

    def replica(self, name: str) -> dict[str, Any]:
        """psycopg's parameters, to the machine's replica."""
        return self._parameters(self.machine.replica_url(name))

    def settings(self, name: str, *, pushes: bool = True) -> dict[str, Any]:
        """Those of a coordd on that store; it LISTENs where `pushes`."""
        direct = {"postgres_direct_url": self.machine.direct_url(name)} if pushes else {}
        return {"engine": "postgres", "postgres_url": self.machine.pooled_url(name), **direct,
                "postgres_password_file": self.machine.password_file}

    def _parameters(self, url: str) -> dict[str, Any]:
        password = self.machine.password_file.read_text(encoding="utf-8")
        return conninfo(url, self.machine.user, password, None)


def upgrade(parameters: dict[str, Any]) -> None:
    """Bring a database to the newest schema. For tests that run in no event loop, and those in one.
    """
    failed: list[BaseException] = []

    def run() -> None:
        async def work() -> None:
            async with await connect(parameters) as connection:
                await schema.upgrade(connection)

        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
