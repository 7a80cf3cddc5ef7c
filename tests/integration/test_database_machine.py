"""The database machine does what tests and bench rely on: its databases, its faults, its replica."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg import errors

from support.database import DatabaseMachine

LIMIT_S = 30.0
POOL_SIZE = 16


@pytest.fixture
def machine(database_machine: DatabaseMachine) -> Iterator[DatabaseMachine]:
    yield database_machine
    database_machine.heal()


@pytest.fixture
def database(machine: DatabaseMachine) -> Iterator[str]:
    """A database with a table `notes`."""
    name = machine.new_database()
    with machine.connect(machine.direct_url(name)) as connection:
        connection.execute("CREATE TABLE notes (text text)")
    yield name
    machine.heal()
    machine.drop_database(name)


def ask(machine: DatabaseMachine, url: str, query: str) -> Any:
    """The one value that a query answers, on a connection of its own."""
    with machine.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def note(machine: DatabaseMachine, url: str, text: str) -> None:
    with machine.connect(url) as connection:
        connection.execute("INSERT INTO notes VALUES (%s)", (text,))


def notes(machine: DatabaseMachine, url: str) -> list[str]:
    with machine.connect(url) as connection:
        return [text for text, in connection.execute("SELECT text FROM notes ORDER BY text")]


def until(act: Callable[[], Any]) -> Any:
    """What `act` returns as soon as the database lets it."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return act()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def recoveries(machine: DatabaseMachine) -> int:
    return int(machine.on("journalctl -u postgresql@17-main | grep -c "
                          "'automatic recovery in progress'; true"))


# Databases and connections

def test_postgres_17_that_keeps_what_it_answers(machine: DatabaseMachine, database: str) -> None:
    def setting(name: str) -> str:
        value: str = ask(machine, machine.direct_url(database), f"SHOW {name}")
        return value

    assert setting("server_version").startswith("17.")
    assert {name: setting(name) for name in (
        "fsync", "full_page_writes", "synchronous_commit", "server_encoding", "max_connections",
        "shared_buffers", "max_wal_size", "wal_level", "password_encryption")} == {
        "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
        "server_encoding": "UTF8", "max_connections": "60", "shared_buffers": "256MB",
        "max_wal_size": "512MB", "wal_level": "replica", "password_encryption": "scram-sha-256"}
    assert ask(machine, machine.direct_url(database), "SELECT datcollate FROM pg_database "
               "WHERE datname = current_database()") == "C.UTF-8"


@pytest.mark.parametrize("url", [DatabaseMachine.direct_url, DatabaseMachine.pooled_url])
def test_only_the_user_with_its_password_comes_in(
        machine: DatabaseMachine, database: str, url: Callable[[DatabaseMachine, str], str]) -> None:
    assert ask(machine, url(machine, database), "SELECT current_user") == machine.user
    with pytest.raises(psycopg.OperationalError, match="(?i)authentication failed"):
        machine.connect(url(machine, database), password="wrong")
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no pg_hba\.conf"):
        machine.connect(url(machine, database), user="postgres")


def test_the_user_owns_its_databases_and_no_more(machine: DatabaseMachine, database: str) -> None:
    with machine.connect(machine.direct_url(database)) as connection:
        assert connection.execute("SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication "
                                  "FROM pg_roles WHERE rolname = current_user").fetchone() == (
            False, True, False, False)
        connection.execute("CREATE SCHEMA mine; CREATE TABLE mine.rows (id int)")


def test_the_password_lies_in_a_file_for_its_owner_alone(machine: DatabaseMachine) -> None:
    password = machine.password_file.read_text()
    assert stat.S_IMODE(machine.password_file.stat().st_mode) == 0o600
    assert len(password) >= 32
    for url in (machine.direct_url("a"), machine.pooled_url("a"), machine.replica_url("a")):
        assert password not in url
        assert machine.user not in url


def test_a_copy_has_what_its_template_had(machine: DatabaseMachine, database: str) -> None:
    note(machine, machine.pooled_url(database), "kept")  # pgbouncer stays connected
    with machine.connect(machine.direct_url(database)):
        copies = [machine.new_database(database) for _ in range(2)]
    note(machine, machine.pooled_url(copies[0]), "its own")

    assert notes(machine, machine.direct_url(copies[0])) == ["its own", "kept"]
    assert notes(machine, machine.direct_url(copies[1])) == ["kept"]
    for copy in copies:
        machine.drop_database(copy)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            machine.connect(machine.direct_url(copy))


def test_more_clients_than_the_pool_prepare_statements(
        machine: DatabaseMachine, database: str) -> None:
    clients, rounds = 2 * POOL_SIZE, 25
    together = Barrier(clients)

    def client(number: int) -> set[int]:
        backends = set()
        with machine.connect(machine.pooled_url(database), prepare_threshold=0,
                             autocommit=False) as connection:
            together.wait(LIMIT_S)
            for turn in range(rounds):
                row = connection.execute(
                    # Others' texts differ: a statement of another's under this one's name shows.
                    f"SELECT pg_backend_pid(), %s::int * 1000 + {number}, "
                    "(SELECT count(*) FROM pg_prepared_statements)", (turn,)).fetchone()
                assert row is not None
                assert row[1:2] == (turn * 1000 + number,)
                assert row[2] >= 1
                backends.add(row[0])
                connection.commit()
        return backends

    with ThreadPoolExecutor(clients) as pool:
        backends = set().union(*pool.map(client, range(clients)))
    assert 1 <= len(backends) <= POOL_SIZE


# Faults

@pytest.mark.parametrize(("fault", "recovers"), [
    (DatabaseMachine.restart_postgres, False),
    (lambda machine: machine.restart_postgres("immediate"), True),
    (DatabaseMachine.kill_postgres, True)], ids=["fast", "immediate", "kill"])
def test_postgres_restarts_with_all_that_was_committed(
        machine: DatabaseMachine, database: str, fault: Callable[[DatabaseMachine], None],
        recovers: bool) -> None:
    before = recoveries(machine)
    with machine.connect(machine.pooled_url(database)) as pooled, \
            machine.connect(machine.direct_url(database), autocommit=False) as direct:
        pooled.execute("INSERT INTO notes VALUES ('committed')")
        direct.execute("INSERT INTO notes VALUES ('open')")

        fault(machine)

        with pytest.raises(psycopg.OperationalError):
            direct.execute("COMMIT")
    assert recoveries(machine) - before == int(recovers)
    assert until(lambda: notes(machine, machine.pooled_url(database))) == ["committed"]
    assert machine.new_database()


def test_postgres_stays_down_until_it_is_healed(machine: DatabaseMachine, database: str) -> None:
    note(machine, machine.pooled_url(database), "before")
    machine.stop_postgres()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        machine.connect(machine.direct_url(database))
    with pytest.raises(psycopg.OperationalError):
        notes(machine, machine.pooled_url(database))

    machine.heal()

    assert notes(machine, machine.direct_url(database)) == ["before"]
    assert until(lambda: notes(machine, machine.pooled_url(database))) == ["before"]


def test_a_killed_pgbouncer_loses_its_clients(machine: DatabaseMachine, database: str) -> None:
    with machine.connect(machine.pooled_url(database)) as client:
        client.execute("SELECT 1")
        machine.restart_pgbouncer()
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    note(machine, machine.pooled_url(database), "after")

    machine.stop_pgbouncer()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        machine.connect(machine.pooled_url(database))
    assert notes(machine, machine.direct_url(database)) == ["after"]
    machine.heal()
    assert notes(machine, machine.pooled_url(database)) == ["after"]


def test_pgbouncer_restarts_when_open_transactions_have_ended(
        machine: DatabaseMachine, database: str) -> None:
    with machine.connect(machine.pooled_url(database), autocommit=False) as client, \
            ThreadPoolExecutor(1) as pool:
        client.execute("INSERT INTO notes VALUES ('open')")
        restart = pool.submit(machine.restart_pgbouncer, "fast")
        deadline = time.monotonic() + LIMIT_S
        while machine.on("systemctl is-active pgbouncer; true") != "deactivating":
            assert time.monotonic() < deadline
        client.commit()
        restart.result(LIMIT_S)
    assert notes(machine, machine.pooled_url(database)) == ["open"]


def test_backends_of_one_database_end_in_what_they_do(
        machine: DatabaseMachine, database: str) -> None:
    other = machine.new_database()
    with machine.connect(machine.direct_url(database)) as direct, \
            machine.connect(machine.pooled_url(database)) as pooled, \
            machine.connect(machine.direct_url(other)) as spared, ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(each.execute, "SELECT pg_sleep(60)") for each in (direct, pooled)]
        deadline = time.monotonic() + LIMIT_S
        while spared.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND "
                             "wait_event = 'PgSleep'", (database,)).fetchone() != (2,):
            assert time.monotonic() < deadline

        assert machine.terminate_backends(database) == 2

        for each in busy:
            with pytest.raises(psycopg.OperationalError):
                each.result(LIMIT_S)
        assert spared.execute("SELECT 1").fetchone() == (1,)
    assert machine.terminate_backends(database) == 0
    machine.drop_database(other)


def test_a_full_disk_refuses_writes_and_loses_none(
        machine: DatabaseMachine, database: str) -> None:
    machine.fill_disk()
    stored = 0
    with machine.connect(machine.direct_url(database)) as connection, \
            pytest.raises(psycopg.OperationalError) as full:
        while stored < 1000:
            connection.execute("INSERT INTO notes SELECT %s || random() FROM generate_series(1, 500)",
                               (f"{stored:4} " + "x" * 100,))
            stored += 1
    assert isinstance(full.value, errors.DiskFull) or connection.closed

    machine.free_disk()

    assert ask(machine, machine.direct_url(database), "SELECT count(*) FROM notes") == stored * 500
    until(lambda: note(machine, machine.pooled_url(database), "room again"))


def test_postgres_that_ended_for_want_of_room_comes_back_with_it(
        machine: DatabaseMachine, database: str) -> None:
    note(machine, machine.direct_url(database), "before")
    machine.fill_disk()
    with machine.connect(machine.direct_url(database)) as connection, \
            suppress(psycopg.OperationalError):
        # More than is left of the log's files, in a table that needs no new blocks meanwhile.
        for _ in range(3000):
            connection.execute("UPDATE notes SET text = text || %s", ("x" * 20,))
            connection.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 100000))")
    machine.heal()
    assert ask(machine, machine.direct_url(database), "SELECT count(*) FROM notes") == 1


def test_no_connection_is_left(machine: DatabaseMachine, database: str) -> None:
    with machine.connect(machine.pooled_url(database)) as client:
        client.execute("SELECT 1")
        with machine.exhaust():
            with pytest.raises(psycopg.OperationalError, match="connection slots"):
                machine.connect(machine.direct_url(database))
            assert client.execute("SELECT 1").fetchone() == (1,)  # pgbouncer has its connection
        with machine.exhaust(evict=True), pytest.raises(psycopg.OperationalError):
            notes(machine, machine.pooled_url(database))
    assert until(lambda: notes(machine, machine.pooled_url(database))) == []
    assert notes(machine, machine.direct_url(database)) == []


# The replica

def test_a_replica_follows_pauses_and_comes_back(machine: DatabaseMachine, database: str) -> None:
    note(machine, machine.direct_url(database), "1 copied")
    machine.start_replica()
    replica = machine.replica_url(database)
    note(machine, machine.pooled_url(database), "2 followed")
    machine.await_replay()
    assert notes(machine, replica) == ["1 copied", "2 followed"]
    assert ask(machine, replica, "SELECT pg_is_in_recovery()") is True
    with pytest.raises(errors.ReadOnlySqlTransaction):
        note(machine, replica, "refused")

    machine.pause_replay()
    note(machine, machine.direct_url(database), "3 late")
    received = f"'{ask(machine, machine.direct_url(database), 'SELECT pg_current_wal_lsn()')}'"
    deadline = time.monotonic() + LIMIT_S
    while not ask(machine, replica, f"SELECT pg_last_wal_receive_lsn() >= {received}"):
        assert time.monotonic() < deadline
    assert notes(machine, replica) == ["1 copied", "2 followed"]
    machine.resume_replay()
    machine.await_replay()
    assert notes(machine, replica)[2:] == ["3 late"]

    machine.stop_replica()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        machine.connect(replica)
    note(machine, machine.direct_url(database), "4 missed")
    machine.heal()
    machine.await_replay()
    assert notes(machine, replica)[3:] == ["4 missed"]

    machine.kill_postgres()
    note(machine, machine.direct_url(database), "5 after a crash")
    machine.await_replay()
    assert notes(machine, replica)[4:] == ["5 after a crash"]

    machine.remove_replica()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        machine.connect(replica)
    assert not machine.has_replica
