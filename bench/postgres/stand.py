"""The stand of engine postgres: the database machine, its stores, and the servers before them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.support.database import DatabaseMachine
from tests.support.postgres import Databases
from tests.support.redis import RedisServer

from bench.daemon import BenchError, Daemon
from bench.lab import why_not
from bench.postgres import stores
from bench.stand import Scale, Stand
from bench.workloads import AGENTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psycopg

INBOX: Final = "inbox"
"""The store with all of its messages in one inbox."""


class PostgresScale(Scale, frozen=True):
    """`messages`: in one inbox; `sizes`: of the stores that are compared, rising; `imported`:
    messages of an import.
    """

    sizes: tuple[int, ...]
    imported: int


FULL = PostgresScale(messages=1_000_000, rounds=3, seconds=5.0, provisions=0,
                     sizes=(10_000, 1_000_000, 10_000_000), imported=400_000)
QUICK = PostgresScale(messages=100_000, rounds=3, seconds=1.0, provisions=0,
                      sizes=(10_000, 100_000), imported=50_000)


class PostgresStand(Stand):
    """Servers by name: `noop` and `raw` as ever; `fresh`, on an empty store; `inbox` and
    `inbox-cached`, on the same store, without and with a cache; `of-N`, on a store of N messages.
    Filled stores stay to the end, the servers and the empty stores to the measure's.
    """

    scale: PostgresScale

    def __init__(self, folder: Path, scale: PostgresScale, say: Callable[[str], None]) -> None:
        super().__init__(folder, scale, say)
        self._machine: DatabaseMachine | None = None
        self._databases: Databases | None = None
        self._stores: dict[str, str] = {}
        self._redis: RedisServer | None = None

    @property
    def machine(self) -> DatabaseMachine:
        """Made when it is first asked for. Raises BenchError where there can be none."""
        if self._machine is None:
            if why := why_not():
                raise BenchError(f"engine postgres needs a machine of the lab: {why}")
            self.say("  starting the database machine")
            self._machine = DatabaseMachine(self.folder / "machine", big_disk=True)
            try:
                self._machine.start()
            except AssertionError as error:
                raise BenchError(f"the database machine does not start: {error}") from error
            self._databases = Databases(self._machine)
        return self._machine

    def versions(self) -> dict[str, str]:
        """See Stand."""
        if self._machine is None:
            return {}
        with self._machine.connect(self._machine.direct_url("postgres")) as connection:
            postgres = connection.info.parameter_status("server_version") or "unknown"
        return {"Postgres": postgres.split()[0],
                "pgbouncer": self._machine.on("pgbouncer --version | sed -n 's/^PgBouncer //p'")}

    def store(self, name: str = "fresh") -> str:
        """The database of the store of that name, filled when it is first asked for."""
        found = self._stores.get(name)
        if found is None:
            _ = self.machine
            assert self._databases is not None
            found = self._stores[name] = self._databases.new()
            if name == INBOX:
                self._fill(found, self.scale.messages, "one inbox", AGENTS[:1])
            elif name.startswith("of-"):
                self._fill(found, int(name.removeprefix("of-")), "50 inboxes", AGENTS)
        return found

    def _fill(self, database: str, messages: int, where: str, recipients: tuple[str, ...]) -> None:
        self.say(f"  storing {messages:,} messages in {where}")
        stores.fill(lambda: self.machine.connect(self.machine.direct_url(database)), messages,
                    recipients)
        self.machine.on("runuser -u postgres -- psql -qc CHECKPOINT")

    def settings(self, database: str, *, cached: bool = False) -> str:
        """The settings with which coordd has that store."""
        machine = self.machine
        text = (f'engine = "postgres"\npostgres_url = "{machine.pooled_url(database)}"\n'
                f'postgres_direct_url = "{machine.direct_url(database)}"\n'
                f'postgres_user = "{machine.user}"\n'
                f'postgres_password_file = "{machine.password_file}"\n')
        if cached:
            if self._redis is None:
                self._redis = RedisServer().start()
            text += f'cache = "redis"\nredis_url = "{self._redis.url}"\nredis_user = ""\n'
        return text

    def connect(self, database: str) -> psycopg.Connection:
        """A connection as coordd's are: through pgbouncer, every statement a transaction."""
        return self.machine.connect(self.machine.pooled_url(database))

    @property
    def has_redis(self) -> bool:
        """Whether there can be a cache; says so where there can't."""
        found = shutil.which("redis-server") is not None
        if not found:
            self.say("  the cache is left out: there is no redis-server")
        return found

    def release(self) -> None:
        """End the servers, and drop the store that was empty at first."""
        self._end_servers()
        self._servers.clear()
        if self._databases is not None and (fresh := self._stores.pop("fresh", None)):
            self._databases.drop(fresh)

    def close(self) -> None:
        """See Stand. The machine goes too, with all stores."""
        super().close()
        if self._redis is not None:
            self._redis.close()
        if self._machine is not None:
            self._machine.close()

    def _daemon(self, name: str, folder: Path) -> Daemon:
        if name in {"noop", "raw"}:
            return super()._daemon(name, folder)
        cached = name.endswith("-cached")
        store = self.settings(self.store(name.removesuffix("-cached")), cached=cached)
        return Daemon("coordd", folder, store=store)

    def _prepare(self, name: str, daemon: Daemon) -> None:
        """The stores are filled before their servers start."""
