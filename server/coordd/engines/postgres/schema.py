"""The schema's versions: numbered SQL files beside this one, each applied once, in order.

A new version only adds (expand), so that servers of the version before go on; what they need no
longer is taken away a version later (contract). A file's first line says which servers can work
with what it leaves: `-- servers: N` and newer.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import Final, LiteralString, NamedTuple

import psycopg

from coordd.engines.postgres.database import Connection, Row
from coordd.store import StoreError

_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql\Z")
_SERVERS: Final = re.compile(r"-- servers: (\d+)\n")
_LOCK: Final = 0x636F6F7264  # "coord": upgrades run one at a time

_PREPARE: Final[LiteralString] = """
CREATE SCHEMA IF NOT EXISTS coordd;
CREATE TABLE IF NOT EXISTS coordd.migrations (
  version integer PRIMARY KEY, name text NOT NULL, servers integer NOT NULL, sha256 text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now())"""
_APPLIED: Final[LiteralString] = """
SELECT version, servers, sha256 FROM coordd.migrations ORDER BY version"""


class Migration(NamedTuple):
    """A file. `servers`: the oldest schema version that a server may know and work with it."""

    version: int
    name: str
    servers: int
    sql: str

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class SchemaError(StoreError):
    """The database's schema is none that this server works with. The text says what mends it."""


def migrations() -> list[Migration]:
    """All that this server knows, in order."""
    found = []
    for file in files("coordd.engines.postgres").joinpath("schema").iterdir():
        if match := _NAME.match(file.name):
            sql = file.read_text(encoding="utf-8")
            servers = _SERVERS.match(sql)
            assert servers, f"{file.name} does not say which servers it is for"
            found.append(Migration(int(match[1]), match[2], int(servers[1]), sql))
    return sorted(found)


def refusal(applied: list[Row], known: list[Migration]) -> str:
    """Why a server that knows these can't work on a database with those; "" where it can."""
    mend = "python -m coordd.schema upgrade --settings FILE"
    if not applied:
        return f"the database has no schema of coordd: {mend}"
    version, servers, _ = applied[-1]
    newest = known[-1].version
    if version < newest:
        return f"the database's schema is version {version}, this server needs {newest}: {mend}"
    if version > newest and servers > newest:
        return (f"the database's schema is version {version}, for servers from {servers} on, and "
                f"this server knows {newest}: install a newer coordd")
    sums = {row[0]: row[2] for row in applied}
    for each in known:
        if sums.get(each.version) != each.sha256:
            return (f"version {each.version} of the database's schema is another one than this "
                    "server's: install the coordd that made it")
    return ""


async def applied(connection: Connection) -> list[Row]:
    """Rows (version, servers, sha256) of what the database has."""
    try:
        return await (await connection.execute(_APPLIED)).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return []


async def upgrade(connection: Connection) -> list[Migration]:
    """Apply what is missing, each version whole or not at all; those applied. Raises SchemaError
    for a database of a newer or another server.
    """
    known = migrations()
    done = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(_PREPARE)
    for each in known:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            have = await applied(connection)
            if each.version in {row[0] for row in have}:
                continue
            await connection.execute(each.sql, prepare=False)
            await connection.execute(
                "INSERT INTO coordd.migrations (version, name, servers, sha256) "
                "VALUES (%s, %s, %s, %s)", (each.version, each.name, each.servers, each.sha256))
            done.append(each)
    await check(connection)
    return done


async def check(connection: Connection) -> int:
    """The schema's version. Raises SchemaError where this server can't work with it."""
    have = await applied(connection)
    if why := refusal(have, migrations()):
        raise SchemaError(why)
    return int(have[-1][0])
