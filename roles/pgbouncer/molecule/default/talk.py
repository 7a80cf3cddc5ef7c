#!/usr/bin/python3
"""talk.py PART: what a client of pgbouncer does, and what nobody may do.

Ends with 1 and a line at the first answer that is not as promised. Long parts end when /root/stop
is there.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

KNOWN = json.loads(Path("/root/known.json").read_text(encoding="utf-8"))
ADDRESS, PORT = KNOWN["address"], 6432
STOP = Path("/root/stop")
POOL_SIZE = 4
CLIENTS = 20


def connect(**different: Any) -> psycopg.Connection:
    options = {"host": ADDRESS, "port": PORT, "dbname": "coordd", "user": "coordd",
               "password": KNOWN["password"], "sslmode": "verify-full",
               "sslrootcert": "/root/ca.pem", "connect_timeout": 5, "autocommit": True,
               "prepare_threshold": 0}
    return psycopg.connect(**(options | different))


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


def one(connection: psycopg.Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def prepared() -> None:
    """More clients than connections to Postgres; each has prepared statements, by its own names."""
    def client(number: int) -> set[int]:
        backends = set()
        with connect() as connection:
            for turn in range(20):
                # Another statement for every client, under the same name as the others'.
                answer = one(connection, f"SELECT %s::int + {number}", turn)
                expect(answer, turn + number, "a prepared statement")
                backends.add(one(connection, "SELECT pg_backend_pid()"))
                with connection.transaction():
                    one(connection, "SELECT %s::text", "a transaction")
        return backends

    with ThreadPoolExecutor(CLIENTS) as pool:
        backends = set().union(*pool.map(client, range(CLIENTS)))
    expect(1 <= len(backends) <= POOL_SIZE, True, f"connections to Postgres: {len(backends)}")
    print(f"{CLIENTS} clients shared {len(backends)} connections")


def refused() -> None:
    """Who may not come in, and why."""
    for what, options, said in (
        ("a wrong password", {"password": "wrong"}, "authentication failed"),
        ("no TLS", {"sslmode": "disable", "sslrootcert": None}, "SSL required"),
        ("an unknown user", {"user": "nobody"}, "no such user"),
        ("a superuser", {"user": "postgres", "password": KNOWN["superuser_password"]},
         "no such user"),
        ("another database", {"dbname": "postgres"}, "authentication failed"),
        ("a certificate of somebody else", {"host": "m3", "hostaddr": ADDRESS}, "does not match"),
        ("a strange authority", {"sslrootcert": "system"}, "certificate verify failed"),
    ):
        try:
            connect(**options)
        except psycopg.OperationalError as error:
            expect(said in str(error), True, f"{what}: {error}")
        else:
            sys.exit(f"{what} is taken")


def stats() -> None:
    """SHOW and nothing else."""
    # The console speaks the simple protocol alone.
    with connect(dbname="pgbouncer", user="stats", password=KNOWN["stats_password"],
                 cursor_factory=psycopg.ClientCursor) as console:
        rows = console.execute("SHOW POOLS").fetchall()
        expect(any(row[:2] == ("coordd", "coordd") for row in rows), True, f"SHOW POOLS: {rows}")
        for command in ("RELOAD", "PAUSE", "SHUTDOWN", "KILL coordd", "SET default_pool_size = 1"):
            try:
                console.execute(command)
            except psycopg.Error as error:
                expect("admin access needed" in str(error), True, f"{command}: {error}")
            else:
                sys.exit(f"stats may {command}")
    for user, password in (("coordd", KNOWN["password"]),):
        try:
            connect(dbname="pgbouncer", user=user, password=password)
        except psycopg.OperationalError:
            continue
        sys.exit(f"{user} may use the console")


def login(password: str) -> None:
    """A password is taken, also for a new connection to Postgres."""
    with connect(password=password) as connection:
        expect(one(connection, "SELECT current_user::text"), "coordd", "who it is")


def serial() -> None:
    """Print the serial number of the certificate that is shown."""
    context = ssl.create_default_context(cafile="/root/ca.pem")
    with socket.create_connection((ADDRESS, PORT), timeout=5) as plain:
        plain.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))  # SSLRequest
        expect(plain.recv(1), b"S", "the answer to SSLRequest")
        with context.wrap_socket(plain, server_hostname=ADDRESS) as link:
            certificate = link.getpeercert()
            assert certificate is not None
            print(certificate["serialNumber"])


def hold() -> None:
    """One connection that nothing may cut."""
    with connect() as connection:
        turns = 0
        while not STOP.exists():
            expect(one(connection, "SELECT %s::int", turns), turns, "an answer")
            turns += 1
            time.sleep(0.02)
    expect(turns > 100, True, f"{turns} answers")
    print(f"{turns} answers on one connection")


def write() -> None:
    """A client that does again what had no answer: each row is there once."""
    with connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS written (n int PRIMARY KEY, at timestamptz)")
        connection.execute("TRUNCATE written")
    acknowledged, again, longest = 0, 0, 0.0
    connection = None
    while not STOP.exists():
        began = time.monotonic()
        while True:
            try:
                if connection is None:
                    connection = connect()
                connection.execute("INSERT INTO written VALUES (%s, now()) ON CONFLICT DO NOTHING",
                                   (acknowledged,))
            except psycopg.OperationalError as error:
                expect(time.monotonic() - began < 20, True, f"still no answer: {error}")
                again += 1
                connection = None
                time.sleep(0.05)
            else:
                break
        acknowledged += 1
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.005)
    with connect() as reader:
        expect(one(reader, "SELECT count(*) FROM written WHERE n < %s", acknowledged),
               acknowledged, "rows that were acknowledged")
    expect(acknowledged > 100, True, f"{acknowledged} rows")
    expect(again > 0, True, f"nothing was cut: {again} times again")
    print(f"{acknowledged} rows, all there; {again} done again; the longest took {longest:.2f} s")


PARTS = {"prepared": prepared, "refused": refused, "stats": stats, "login": login,
         "serial": serial, "hold": hold, "write": write}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
