"""Servers of one database under upkeep, with a clock that a test moves and an archive's folder."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from conformance.engines import Clock
from conformance.reads import send
from coordd.archive import Archive
from coordd.engines.postgres import PostgresOptions, PostgresStore
from coordd.engines.postgres.upkeep import Policy
from coordd.model import Core
from coordd.store import Change

from .postgres import Databases

DAY = timedelta(days=1)


class Site:
    """A database, its servers and their clock."""

    def __init__(self, databases: Databases, archive: Path) -> None:
        self.clock = Clock()
        self.folder = archive
        self._databases = databases
        self.name = databases.new()
        self._open: list[PostgresStore] = []

    async def server(self, archive: Archive | None = None, *, find: bool = False,
                     **policy: int) -> PostgresStore:
        """One more server on the same messages."""
        store = PostgresStore(PostgresOptions(
            parameters=self._databases.pooled(self.name), pool_size=2, search_block=4,
            shift_us=self.clock.added_us, policy=Policy(**policy), archive=archive,
            archive_find=find))
        await store.open()
        self._open.append(store)
        return store

    def connect(self) -> psycopg.Connection:
        machine = self._databases.machine
        return machine.connect(machine.direct_url(self.name))

    def rows(self, query: Any, *values: Any) -> list[Any]:
        """What the database has."""
        with self.connect() as connection:
            return connection.execute(query, values).fetchall()

    def bodies(self) -> int:
        return int(self.rows("SELECT count(body) FROM coordd.messages")[0][0])

    def partitions(self) -> set[str]:
        return {name for (name,) in self.rows(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid "
            "WHERE inhparent = 'coordd.events'::regclass")}

    def lines(self, pattern: str) -> list[dict[str, Any]]:
        """All lines of the archive's files of that pattern, by their names."""
        return [json.loads(line) for file in sorted(self.folder.glob(pattern))
                for line in gzip.decompress(file.read_bytes()).splitlines()]

    async def close(self) -> None:
        for store in self._open:
            await store.close()
        self._databases.drop(self.name)


async def sample(store: PostgresStore) -> tuple[str, str, str]:
    """Ids of: one that bob and carol have deleted, one that carol has still, one that stays."""
    both = await send(store, ["bob", "carol"], subject="Grüße", body="naïve \n\"body\"",
                      priority="high")
    await store.mark(both.id, "bob", "read")
    await store.mark(both.id, "bob", "deleted")
    await store.mark(both.id, "carol", "deleted")
    half = await send(store, ["bob", "carol"], body="half")
    await store.mark(half.id, "bob", "deleted")
    stays = await send(store, body="stays")
    return both.id, half.id, stays.id


def imported(name: str, at: datetime, to: str = "bob", *, by: str = "alice") -> Change:
    text = at.isoformat().replace("+00:00", "Z")
    return Change("sent", text, message=Core(name, by, name, f"body of {name}", "normal", name,
                                             None, text, None), deliveries=[(to, 0)])
