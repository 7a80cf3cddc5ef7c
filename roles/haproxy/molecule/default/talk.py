#!/usr/bin/python3
"""talk.py ways | record | checks: what a message server does with its ways to the database.

`ways`: each port leads where it should. `record`: write and read until /root/stop is there, do
again what had no answer, and print as JSON how long the longest waits were; whatever was
acknowledged must be there at the end. `checks`: haproxy believes only the Patroni that it should.
Ends with 1 and a line at the first wrong answer.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

KNOWN = json.loads(Path("/root/known.json").read_text(encoding="utf-8"))
STOP = Path("/root/stop")
WRITE, READ, STANDBY, DIRECT, METRICS = 6432, 6433, 6434, 5432, 8405
WRITERS, READERS = 3, 2
CONFIG = Path("/etc/haproxy/coordctl.cfg")


def connect(port: int) -> psycopg.Connection:
    """As message servers do."""
    return psycopg.connect(
        host="127.0.0.1", port=port, dbname="coordd", user="coordd", password=KNOWN["password"],
        sslmode="verify-full", sslrootcert="/root/ca.pem", connect_timeout=4,
        tcp_user_timeout=8000, autocommit=True, prepare_threshold=0)


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


def one(connection: psycopg.Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def ways() -> None:
    replica = "SELECT pg_is_in_recovery()"
    with (connect(WRITE) as write, connect(READ) as read, connect(STANDBY) as standby,
          connect(DIRECT) as direct):
        expect(one(write, replica), False, "6432 leads to a replica")
        expect(one(direct, replica), False, "5432 leads to a replica")
        expect(one(read, replica), True, "6433 leads to a replica")
        expect(one(standby, replica), True, "6434 leads to a replica")
        # A channel needs a connection of one's own.
        direct.execute("LISTEN hints")
        write.execute("SELECT pg_notify('hints', 'hello')")
        hint = next(direct.notifies(timeout=5, stop_after=1), None)
        expect(hint is not None and hint.payload, "hello", "a notification")
        write.execute("DROP TABLE IF EXISTS written")
        write.execute("CREATE TABLE written (writer int, n int, PRIMARY KEY (writer, n))")


class Client(threading.Thread):
    """One connection. `done` of its statements had an answer; the `longest` wait for one."""

    def __init__(self, port: int, number: int, query: str) -> None:
        super().__init__()
        self.port, self.number, self.query = port, number, query
        self.first = self.done = int(time.time()) * 10_000 % 1_000_000_000
        self.longest = 0.0
        self.errors: dict[str, int] = {}
        self.connection: psycopg.Connection | None = None

    def run(self) -> None:
        while not STOP.exists():
            began = time.monotonic()
            while not self.attempt() and time.monotonic() < began + 60:
                time.sleep(0.05)
            self.done += 1
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.01)

    def attempt(self) -> bool:
        try:
            if self.connection is None:
                self.connection = connect(self.port)
            self.connection.execute(self.query, {"writer": self.number, "n": self.done})
        except psycopg.Error as error:
            name = " ".join(str(error).split())[-70:]
            self.errors[name] = self.errors.get(name, 0) + 1
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return False
        return True


def record() -> None:
    writers = [Client(WRITE, number, "INSERT INTO written VALUES (%(writer)s, %(n)s) "
                                     "ON CONFLICT DO NOTHING") for number in range(WRITERS)]
    readers = [Client(READ, number, "SELECT max(n) FROM written WHERE writer = %(writer)s")
               for number in range(READERS)]
    for client in writers + readers:
        client.start()
    for client in writers + readers:
        client.join()
    with connect(WRITE) as connection:
        for writer in writers:
            found = one(connection, "SELECT count(*) FROM written WHERE writer = %s AND n >= %s "
                        "AND n < %s", writer.number, writer.first, writer.done)
            expect(found, writer.done - writer.first, f"rows of writer {writer.number}")
    written = sum(writer.done - writer.first for writer in writers)
    expect(written > 100, True, f"{written} rows")
    print(json.dumps({
        "written": written, "lost": 0,
        "write_gap_s": round(max(writer.longest for writer in writers), 2),
        "read_gap_s": round(max(reader.longest for reader in readers), 2),
        "errors": [client.errors for client in (writers[0], readers[0])]}))


def states(path: str) -> list[str]:
    """What a haproxy says of the servers of `write`."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(b"show stat\n")
        rows = [row.split(",") for row in link.makefile(encoding="ascii")]
    return sorted(f"{row[17]} {row[36]}" for row in rows
                  if row[0] == "write" and row[1] not in {"FRONTEND", "BACKEND"})


def checks() -> None:
    """A second haproxy beside the first, with one thing changed."""
    text = CONFIG.read_text(encoding="utf-8")
    folder = Path(tempfile.mkdtemp())
    strange = folder / "strange.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=strange", "-keyout", folder / "strange.key",
         "-out", strange], check=True, capture_output=True)
    for port in (WRITE, READ, STANDBY, DIRECT, METRICS):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{port + 10_000}")
    text = text.replace("/run/haproxy/coordctl.sock", f"{folder}/socket")
    good = ["DOWN L7STS", "UP L7OK"]
    for what, changed, wanted in (
        ("nothing", text, good),
        ("the authority", text.replace("/etc/haproxy/coordctl-ca.pem", str(strange)),
         ["DOWN L6RSP", "DOWN L6RSP"]),
        ("the members' names", text.replace("verifyhost m", "verifyhost n"),
         ["DOWN L6RSP", "DOWN L6RSP"]),
    ):
        expect(what == "nothing" or changed != text, True, f"{what} is changed")
        file = folder / "haproxy.cfg"
        file.write_text(changed, encoding="utf-8")
        with subprocess.Popen(["haproxy", "-q", "-f", file], stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 10
            found: list[str] = []
            while found != wanted and time.monotonic() < deadline:
                time.sleep(0.5)
                found = states(f"{folder}/socket")
            process.terminate()
        expect(found, wanted, f"checks where {what} is changed")


if __name__ == "__main__":
    {"ways": ways, "record": record, "checks": checks}[sys.argv[1]]()
