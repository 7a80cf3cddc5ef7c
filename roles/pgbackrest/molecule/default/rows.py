"""rows.py ADDRESS,ADDRESS WHAT …: a client that writes rows, deletes them, and looks for them.

write FROM TO    writes rows with these numbers; prints the moment after the last one
delete           deletes all of them
now              prints the moment
has N            there are N rows, on every member

The owner's password is in $PASSWORD. Ends with 1 and a line where something is not as promised.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg2

MEMBERS, WHAT, *WORDS = sys.argv[1:]
LIMIT_S = 60.0


def connect(host: str = MEMBERS, attributes: str = "read-write") -> Any:
    link = psycopg2.connect(
        host=host, dbname="coordd", user="coordd", password=os.environ["PASSWORD"],
        sslmode="verify-full", sslrootcert="/root/ca.pem", connect_timeout=3,
        target_session_attrs=attributes)
    link.autocommit = True
    return link


def ask(link: Any, text: str) -> Any:
    with link.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()[0] if cursor.description else None


def write(first: str, last: str) -> None:
    link = connect()
    ask(link, "CREATE TABLE IF NOT EXISTS notes (id bigint PRIMARY KEY)")
    ask(link, f"INSERT INTO notes SELECT * FROM generate_series({int(first)}, {int(last)})")
    now()


def now() -> None:
    """Apart from what is before and after it, on another machine's clock too."""
    time.sleep(1.5)
    print(datetime.now(UTC).isoformat())
    time.sleep(1.5)


def delete() -> None:
    ask(connect(), "DELETE FROM notes")


def has(count: str) -> None:
    for host in MEMBERS.split(","):
        deadline = time.monotonic() + LIMIT_S
        while (found := ask(connect(host, "any"), "SELECT count(*) FROM notes")) != int(count):
            if time.monotonic() > deadline:
                sys.exit(f"{host} has {found} rows, wanted {count}")
            time.sleep(0.5)


{"write": write, "delete": delete, "now": now, "has": has}[WHAT](*WORDS)
