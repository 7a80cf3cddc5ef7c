"""Postgres and pgbouncer on one machine of the lab, and their faults. Needs root, as the lab does.

The bench has it too, as tests.support.database: modules here that it needs import each other
relatively.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, LiteralString, Self

import psycopg
from psycopg import sql

from .lab import Lab

PORT: Final = 5432
POOLED_PORT: Final = 6432
REPLICA_PORT: Final = 5433
LIMIT_S: Final = 30.0
_SETUP: Final = Path(__file__).with_name("database_setup.sh")
_CONF: Final = "/etc/postgresql/17"
_MAIN: Final = "postgresql@17-main"
_REPLICA: Final = "postgresql@17-replica"
# "too many clients already", "remaining connection slots are reserved for …": libpq has no code.
_REFUSALS: Final = ("too many clients", "connection slots are reserved")

_REMOVE_REPLICA: Final = f"""\
set -eu
cd /
systemctl stop {_REPLICA} 2>/dev/null || :
rm -rf "$DATA/replica" {_CONF}/replica
runuser -u postgres -- psql -qc "SELECT pg_drop_replication_slot(slot_name)
  FROM pg_replication_slots WHERE slot_name = 'replica'" >/dev/null
"""
# A replica may have no smaller max_connections.
_MAKE_REPLICA: Final = f"""\
runuser -u postgres -- pg_basebackup --pgdata "$DATA/replica" --write-recovery-conf \\
  --checkpoint fast --create-slot --slot replica
cp -a {_CONF}/main {_CONF}/replica
sed -i 's|17/main|17/replica|; s|17-main|17-replica|; s|^port = .*|port = {REPLICA_PORT}|' \\
  {_CONF}/replica/postgresql.conf
sed -i 's/^shared_buffers.*/shared_buffers = 64MB/' {_CONF}/replica/conf.d/machine.conf
systemctl start {_REPLICA}
"""
# Postgres refuses while a killed postmaster's children still hold its shared memory.
_START: Final = """\
for attempt in $(seq 200); do
  systemctl start UNIT
  runuser -u postgres -- pg_isready -q -p PORT && exit 0
  sleep 0.05
done
systemctl status UNIT; exit 1
"""


class DatabaseMachine:
    """Postgres 17, pgbouncer 1.24 in front of it and, once started, a replica.

    `folder`: where its lab's site is made, a new folder. `big_disk`: the data lie on the machine's
    root file system, with the room of this computer's disk, not on its data disk of 2 GiB; then
    that disk cannot be filled. Durability is Postgres' default: every commit is synced.

    `user` owns its databases and is no superuser; URLs name neither it nor its password. What a
    fault broke, `heal` mends. Methods raise AssertionError where the machine does not do as told,
    and psycopg.Error.
    """

    user: Final = "coordd"

    def __init__(self, folder: Path, *, big_disk: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lab = Lab(folder / "site", folder)
        self.password_file = folder / "password"
        self.address = ""
        self._big_disk = big_disk
        self._password = secrets.token_urlsafe(24)
        self._data = "/srv/postgresql/17" if big_disk else "/var/lib/postgresql/17"
        self._connection: psycopg.Connection | None = None
        self._databases = 0
        self._mends: dict[str, Callable[[], None]] = {}  # what is broken now → what mends it

    def start(self) -> Self:
        """Make the machine, install and start. With the lab's image built and the packages
        cached it takes some 10 s.
        """
        self.password_file.touch(0o600)
        self.password_file.write_text(self._password, encoding="utf-8")
        self.lab("up", "--machines", "1", "--yes")
        self.address = self.lab.site()["machines"]["m1"]["address"]
        variables = {"ADDRESS": self.address, "ROLE": self.user, "PASSWORD": self._password,
                     "DATA": self._data,
                     "MAX_WAL_SIZE": "2GB" if self._big_disk else "512MB",
                     "MAX_SLOT_WAL_KEEP_SIZE": "8GB" if self._big_disk else "256MB"}
        self._script("".join(f"{name}='{value}'\n" for name, value in variables.items())
                     + _SETUP.read_text(encoding="utf-8"))
        self._await_pgbouncer()
        return self

    def close(self) -> None:
        """Remove the machine and all that is on it. Its packages stay in the lab's cache."""
        if self._connection is not None:
            self._connection.close()
        self.lab("down", "--yes")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def on(self, command: str, *, code: int = 0) -> str:
        """What a command prints on the machine, run by root."""
        return self.lab.on("m1", command, code=code)

    # How it is reached

    def direct_url(self, database: str) -> str:
        """Postgres itself."""
        return f"postgresql://{self.address}:{PORT}/{database}"

    def pooled_url(self, database: str) -> str:
        """Through pgbouncer, in transaction mode."""
        return f"postgresql://{self.address}:{POOLED_PORT}/{database}"

    def replica_url(self, database: str) -> str:
        """The replica itself."""
        return f"postgresql://{self.address}:{REPLICA_PORT}/{database}"

    def connect(self, url: str, **options: Any) -> psycopg.Connection:
        """A connection to one of the URLs, in autocommit mode unless told."""
        options = {"user": self.user, "password": self._password, "autocommit": True,
                   "connect_timeout": 10, **options}
        return psycopg.connect(url, **options)

    # Databases

    def new_database(self, template: str | None = None) -> str:
        """The name of a new database, a copy of `template`, whose connections are ended."""
        self._databases += 1
        name = f"test{self._databases}"
        if template is not None:
            self.terminate_backends(template)
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0")))
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, connections or not."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            self.terminate_backends(name)
            # Not WITH (FORCE), which refuses where a worker of Postgres' own vacuums it.
            try:
                self._admin.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            except psycopg.errors.ObjectInUse:  # somebody has come meanwhile
                assert time.monotonic() < deadline, f"{name} is in use"
            else:
                return

    @property
    def _admin(self) -> psycopg.Connection:
        """A kept connection of `user`, made anew where a fault has ended it."""
        if self._connection is not None:
            with suppress(psycopg.OperationalError):
                self._connection.execute("SELECT 1")
                return self._connection
            self._connection.close()
        self._connection = self.connect(self.direct_url("postgres"))
        return self._connection

    # Faults

    def heal(self) -> None:
        """Mend what is broken: all servers run, the disk has room, the replica replays."""
        for mend in list(self._mends.values()):
            mend()

    def restart_postgres(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End connections and transactions and start again; `immediate` (SIGQUIT) does not write
        what is in memory first: the start is a recovery.
        """
        if mode == "immediate":
            self._signal("QUIT", "main")
        else:
            self.on(f"systemctl stop {_MAIN}")
        self.start_postgres()

    def kill_postgres(self) -> None:
        """SIGKILL the postmaster, then start again: with a recovery."""
        self._signal("KILL", "main")
        self.start_postgres()

    def stop_postgres(self) -> None:
        """A fast shutdown; Postgres stays down."""
        self._mends["postgres"] = self.start_postgres
        self.on(f"systemctl stop {_MAIN}")

    def start_postgres(self) -> None:
        """Start Postgres, if it is down, and wait until it takes connections."""
        self._start(_MAIN, PORT)
        self._mends.pop("postgres", None)

    def freeze_primary(self) -> None:
        """SIGSTOP to all its processes: it holds its connections and answers none."""
        self._mends["frozen"] = self.thaw_primary
        self.on(f"systemctl kill --signal=STOP {_MAIN}")

    def thaw_primary(self) -> None:
        """SIGCONT."""
        self.on(f"systemctl kill --signal=CONT {_MAIN}")
        self._mends.pop("frozen", None)

    def restart_pgbouncer(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """`fast` waits for transactions to end, 20 s at most; `immediate` is SIGKILL."""
        if mode == "immediate":
            self.on("systemctl kill --signal=KILL pgbouncer")
        self.on("systemctl restart pgbouncer")
        self._await_pgbouncer()

    def stop_pgbouncer(self) -> None:
        """SIGKILL; it stays down."""
        self._mends["pgbouncer"] = self.start_pgbouncer
        self.on("systemctl kill --signal=KILL pgbouncer; systemctl stop pgbouncer")

    def start_pgbouncer(self) -> None:
        """Start pgbouncer, if it is down, and wait until it takes connections."""
        self.on("systemctl start pgbouncer")
        self._await_pgbouncer()
        self._mends.pop("pgbouncer", None)

    def terminate_backends(self, database: str) -> int:
        """End all connections of a database, in the middle of what they do: how many there were."""
        return self._terminate("datname = %s", database)

    def _terminate(self, where: LiteralString, *values: Any) -> int:
        """End `user`'s connections that pass a condition, but the kept one: how many there were."""
        ended = [pid for pid, _ in self._admin.execute(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
            "backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "AND usename = current_user AND " + where, values)]
        # Postgres' own waits, DROP DATABASE's too, look only every 100 ms.
        self._await(lambda: not self._one(
            self._admin, "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)", ended),
            "connections do not end")
        return len(ended)

    @contextmanager
    def exhaust(self, *, evict: bool = False) -> Iterator[None]:
        """Hold every connection that Postgres has left; `evict`: those that others have, too."""
        admin = self._admin
        room = self._one(admin, "SELECT sum(setting::int * CASE name WHEN 'max_connections' THEN 1 "
                                "ELSE -1 END) FROM pg_settings WHERE name IN ('max_connections', "
                                "'superuser_reserved_connections', 'reserved_connections')")
        deadline = time.monotonic() + LIMIT_S
        with ExitStack() as held:
            ours = [admin.info.backend_pid]
            # One that is only being made, or is ending, counts and cannot be ended: a refusal
            # alone does not say that nobody else has one.
            while len(ours) < room:
                try:
                    connection = self.connect(self.direct_url("postgres"))
                except psycopg.OperationalError as error:
                    if not any(refusal in str(error) for refusal in _REFUSALS):
                        raise
                    if not evict:
                        break
                    assert time.monotonic() < deadline, "others take connections as fast as we do"
                    self._terminate("pid <> ALL (%s)", ours)
                else:
                    held.enter_context(connection)
                    ours.append(connection.info.backend_pid)
            yield

    def fill_disk(self) -> None:
        """Take all room of the data disk: of Postgres' data, its log of writes and its replica."""
        assert not self._big_disk, "the data are not on the data disk"
        self._mends["disk"] = self.free_disk
        self.lab("fault", "fill", "m1")

    def free_disk(self) -> None:
        """Give the room back. Postgres is started if it ended for want of it, its replica too."""
        self.lab("fault", "free", "m1")
        self._mends.pop("disk", None)
        if "postgres" not in self._mends:
            self.start_postgres()
        if self.has_replica and "replica" not in self._mends:
            self._start(_REPLICA, REPLICA_PORT)

    # The replica

    @property
    def has_replica(self) -> bool:
        """Whether there is one, running or not."""
        return self.on(f"test -d {_CONF}/replica && echo yes; true") == "yes"

    def start_replica(self) -> None:
        """Start the replica, made from a copy of what is there if there is none yet. Both read
        from one disk. After a long stop it may have lost its place: `remove_replica` first.
        """
        if self.has_replica:
            self._start(_REPLICA, REPLICA_PORT)
        else:
            data = f"DATA='{self._data}'\n"
            self._script(data + _REMOVE_REPLICA + _MAKE_REPLICA)
        self._mends.pop("replica", None)

    def stop_replica(self) -> None:
        """A fast shutdown; it stays down."""
        self._mends.pop("replay", None)
        self._mends["replica"] = self.start_replica
        self.on(f"systemctl stop {_REPLICA}")

    def remove_replica(self) -> None:
        """Stop the replica and remove its data."""
        for name in ("replica", "replay"):
            self._mends.pop(name, None)
        self._script(f"DATA='{self._data}'\n{_REMOVE_REPLICA}")

    def pause_replay(self) -> None:
        """From the return on the replica receives and shows nothing new."""
        self._mends["replay"] = self.resume_replay
        with self._replica() as replica:
            replica.execute("SELECT pg_wal_replay_pause()")
            self._await(lambda: self._one(replica, "SELECT pg_get_wal_replay_pause_state()")
                        == "paused", "the replica's replay does not pause")

    def resume_replay(self) -> None:
        """Let the replica go on."""
        with self._replica() as replica:
            replica.execute("SELECT pg_wal_replay_resume()")
        self._mends.pop("replay", None)

    def await_replay(self) -> None:
        """Wait until the replica shows all that Postgres has committed."""
        written = self._one(self._admin, "SELECT pg_current_wal_lsn()")
        with self._replica() as replica:
            self._await(lambda: self._one(
                replica, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written),
                "the replica does not catch up")

    def _replica(self) -> psycopg.Connection:
        return self.connect(self.replica_url("postgres"))

    # How it is done

    def _script(self, text: str) -> None:
        self.lab.on("m1", "sh -s", given=text)

    def _start(self, unit: str, port: int) -> None:
        self._script(_START.replace("UNIT", unit).replace("PORT", str(port)))

    def _signal(self, name: str, cluster: str) -> None:
        """Send a signal to a postmaster and wait for its end."""
        self._script(f"read pid < {self._data}/{cluster}/postmaster.pid\nkill -{name} $pid\n"
                     "while kill -0 $pid 2>/dev/null; do sleep 0.01; done")

    def _await_pgbouncer(self) -> None:
        def answers() -> bool:
            with suppress(psycopg.OperationalError), self.connect(self.pooled_url("postgres")):
                return True
            return False

        self._await(answers, "pgbouncer does not answer")

    @staticmethod
    def _one(connection: psycopg.Connection, query: Any, *values: Any) -> Any:
        row = connection.execute(query, values).fetchone()
        assert row is not None
        return row[0]

    @staticmethod
    def _await(so: Callable[[], Any], otherwise: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not so():
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.01)
