"""The database's own limits: bare loops of one connection, without any server before it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, LiteralString

from bench.workloads import message
from coordd.engines.postgres.arrays import bigints, register, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

LARGE_FLUSH: Final = 1600
SMALL_FLUSH: Final = 64
COPY_ROWS: Final = 5000
LARGE_LOOP: Final = f"unnest loop, {LARGE_FLUSH:,} a flush"
SMALL_LOOP: Final = f"unnest loop, {SMALL_FLUSH} a flush"
COPY_LOOP: Final = f"COPY loop, {COPY_ROWS:,} a commit"
AT: Final = "2026-01-01T00:00:00.000000Z"

_TABLE: Final[tuple[LiteralString, ...]] = (
    "DROP TABLE IF EXISTS bare",
    """CREATE TABLE bare (
         id text COLLATE "C" PRIMARY KEY, seq bigint NOT NULL, from_agent text COLLATE "C" NOT NULL,
         to_agent text COLLATE "C" NOT NULL, subject text NOT NULL, body text NOT NULL,
         created_at text NOT NULL)""",
    "CREATE INDEX ON bare (to_agent, seq)",
    "CREATE INDEX ON bare (from_agent, seq)",
)
_INSERT: Final[LiteralString] = """
INSERT INTO bare (id, seq, from_agent, to_agent, subject, body, created_at)
SELECT * FROM unnest(%(ids)s, %(seqs)s, %(senders)s, %(to)s, %(subjects)s, %(bodies)s, %(at)s)"""
_COPY: Final[LiteralString] = """
COPY bare (id, seq, from_agent, to_agent, subject, body, created_at) FROM STDIN"""


def unnest_per_s(connection: psycopg.Connection, rows: int, seconds: float) -> float:
    """Messages a second by `INSERT … SELECT FROM unnest`, `rows` a flush, each flush synced.

    The columns that may repeat are encoded before the clock starts.
    """
    register(connection)
    rng = random.Random(0)
    messages = [message(rng) for _ in range(rows)]
    columns = {name: texts([one[key] for one in messages]) for name, key in (
        ("senders", "from_agent"), ("to", "to_agent"), ("subjects", "subject"), ("bodies", "body"))}
    columns["at"] = texts([AT] * rows)

    def flush(first: int) -> None:
        numbers = range(first, first + rows)
        connection.execute(_INSERT, {
            **columns, "ids": texts([_id(number) for number in numbers]),
            "seqs": bigints(numbers)}, prepare=True)

    return _per_s(connection, flush, rows, seconds)


def copy_per_s(connection: psycopg.Connection, seconds: float) -> float:
    """Messages a second by COPY, COPY_ROWS at a time, each time synced."""
    rng = random.Random(0)
    rests = ["\t".join((one["from_agent"], one["to_agent"], one["subject"], one["body"], AT))
             for one in (message(rng) for _ in range(COPY_ROWS))]

    def flush(first: int) -> None:
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write("".join([f"{_id(number)}\t{number}\t{rest}\n"
                                for number, rest in enumerate(rests, first)]))

    return _per_s(connection, flush, COPY_ROWS, seconds)


def _id(number: int) -> str:
    return f"0199b0a0-0000-7000-8000-{number:012x}"


def _per_s(connection: psycopg.Connection, flush: Callable[[int], None], rows: int,
           seconds: float) -> float:
    for statement in _TABLE:
        connection.execute(statement)
    flush(0)
    rounds = 1
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        flush(rounds * rows)
        rounds += 1
    connection.execute("DROP TABLE bare")
    return (rounds - 1) * rows / elapsed
