"""pooler.py: what the pooler's user may do on a database machine, and what it may not.

Its password is in $PASSWORD. Ends with 1 and a line where something is not as promised.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import psycopg2

FORBIDDEN = (
    "SELECT * FROM public.notes", "CREATE TABLE public.x (y int)", "CREATE TEMP TABLE x (y int)",
    "CREATE SCHEMA x", "SELECT * FROM pg_shadow", "SELECT * FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')", "SELECT pg_reload_conf()", "CREATE ROLE x",
    "SET ROLE coordd", "COPY (SELECT 1) TO PROGRAM 'true'", "ALTER SYSTEM SET work_mem = '1MB'",
    "CREATE FUNCTION pooler.x() RETURNS int LANGUAGE sql AS 'SELECT 1'")


def connect(**fields: Any) -> Any:
    link = psycopg2.connect(**{
        "host": "/var/run/postgresql", "dbname": "coordd", "user": "coordd_pooler",
        "password": os.environ["PASSWORD"], **fields})
    link.autocommit = True
    return link


def lookup(link: Any, name: str) -> list[tuple[Any, ...]]:
    with link.cursor() as cursor:
        cursor.execute("SELECT * FROM pooler.user_lookup(%s)", (name,))
        return list(cursor.fetchall())


def main() -> None:
    link = connect()
    ((name, kept),) = lookup(link, "coordd")
    if name != "coordd" or not kept.startswith("SCRAM-SHA-256$"):
        sys.exit(f"user_lookup gives {name!r} and {kept[:14]!r}")
    for other in ("postgres", "replicator", "coordd_pooler", "nobody"):
        if lookup(link, other):
            sys.exit(f"user_lookup tells of {other}")
    for text in FORBIDDEN:
        with link.cursor() as cursor:
            try:
                cursor.execute(text)
            except psycopg2.errors.InsufficientPrivilege:
                continue
            except psycopg2.errors.ReadOnlySqlTransaction:  # on a replica
                continue
            sys.exit(f"it may {text}")
    for fields in ({"password": "wrong"}, {"dbname": "postgres"}, {"user": "replicator"}):
        try:
            connect(**fields)
        except psycopg2.OperationalError:
            continue
        sys.exit(f"let in: {fields}")


main()
