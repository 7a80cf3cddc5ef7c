"""Large stores, written straight into the tables: what the API would have left there."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.daemon import BenchError
from bench.workloads import AGENTS, message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

MONTHS: Final = 12
"""The messages' times: evenly over so many months, up to now."""
_CHUNK: Final = 200_000
_VARIANTS: Final = 64

_PREPARE: Final[LiteralString] = f"""
SELECT begin, extract(epoch FROM now() - begin)::float8 * 1e6 / %(messages)s AS step_us,
       coordd.make_partitions(begin, now() + interval '2 months')
  FROM (SELECT now() - interval '{MONTHS} months' AS begin) AS span"""

# One message a row. Its id is as this server makes them: UUID version 7, of its own time.
_ROWS: Final[LiteralString] = """
SELECT number AS pos, at, (number - 1) / %(recipients)s + 1 AS seq,
       substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7000-8000-'
         || lpad(to_hex(number), 12, '0') AS id,
       (%(agents)s::text[])[1 + (number * 7 + number / 50) %% 50] AS from_agent,
       (%(to)s::text[])[1 + (number - 1) %% %(recipients)s] AS to_agent,
       (%(subjects)s::text[])[1 + number %% 64] AS subject,
       (%(bodies)s::text[])[1 + number %% 64] AS body
  FROM generate_series(%(first)s::bigint, %(last)s) AS number
 CROSS JOIN LATERAL (
   SELECT %(begin)s + number * %(step_us)s * interval '1 microsecond' AS at) AS moment
 CROSS JOIN LATERAL (
   SELECT lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms) AS clock"""
_TABLES: Final[tuple[LiteralString, ...]] = (
    f"""INSERT INTO coordd.messages (pos, id, from_agent, subject, body, created_at, deliveries,
          priority)
        SELECT pos, id, from_agent, subject, body, coordd.time_text(at), 1, 2
          FROM ({_ROWS}) AS given ORDER BY pos""",
    f"""INSERT INTO coordd.deliveries (pos, message, seq, priority, to_agent)
        SELECT pos, pos, seq, 2, to_agent FROM ({_ROWS}) AS given ORDER BY pos""",
    f"""INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
        SELECT pos, at, seq, 5, id, from_agent, to_agent, subject
          FROM ({_ROWS}) AS given ORDER BY pos""",
)
# Counted from what is there. The one block keeps upkeep from an index of the fill for searches.
_COUNTS: Final[tuple[LiteralString, ...]] = (
    """INSERT INTO coordd.inboxes (agent, last_seq, received, sent, unread, version)
       SELECT agent, coalesce(received.last_seq, 0), coalesce(received.count, 0),
              coalesce(sent.count, 0), coalesce(received.count, 0),
              coordd.version_at(%(messages)s)
         FROM (SELECT to_agent AS agent, max(seq) AS last_seq, count(*) AS count
                 FROM coordd.deliveries GROUP BY to_agent) AS received
         FULL JOIN (SELECT from_agent AS agent, count(*) AS count
                      FROM coordd.messages GROUP BY from_agent) AS sent USING (agent)""",
    """UPDATE coordd.store SET position = %(messages)s, messages = %(messages)s,
         unread = %(messages)s, sent = %(messages)s""",
    """INSERT INTO coordd.search_blocks (first, last, grams)
       VALUES (1, %(messages)s, ARRAY[]::integer[])""",
)


def fill(connect: Callable[[], psycopg.Connection], messages: int,
         recipients: Sequence[str] = AGENTS) -> None:
    """Fill an empty store, through connections to Postgres itself: one SENT event each, all unread,
    the senders and recipients in turn. Raises BenchError where the tables do not agree.
    """
    rng = random.Random(0)
    texts = [message(rng) for _ in range(_VARIANTS)]
    values: dict[str, Any] = {
        "messages": messages, "agents": list(AGENTS), "to": list(recipients),
        "recipients": len(recipients), "subjects": [text["subject"] for text in texts],
        "bodies": [text["body"] for text in texts]}
    with ExitStack() as stack:
        connections = [stack.enter_context(connect()) for _ in _TABLES]
        for connection in connections:
            # Lost with the machine, if at all; what is measured later is synced.
            connection.execute("SET synchronous_commit = off")
        first = connections[0]
        [(values["begin"], values["step_us"], _)] = first.execute(_PREPARE, values).fetchall()

        def write(number: int) -> None:
            for begin in range(1, messages + 1, _CHUNK):
                span = {"first": begin, "last": min(begin + _CHUNK - 1, messages)}
                connections[number].execute(_TABLES[number], values | span)

        with ThreadPoolExecutor(len(_TABLES)) as pool:
            list(pool.map(write, range(len(_TABLES))))
        for statement in _COUNTS:
            first.execute(statement, values)
        for table in ("messages", "deliveries", "events", "inboxes", "store"):
            first.execute(f"VACUUM (ANALYZE) coordd.{table}".encode())
        _check(first, messages)


def _check(connection: psycopg.Connection, messages: int) -> None:
    found = connection.execute(
        "SELECT (SELECT count(*) FROM coordd.messages), (SELECT count(*) FROM coordd.deliveries), "
        "(SELECT count(*) FROM coordd.events), (SELECT sum(received) FROM coordd.inboxes), "
        "(SELECT sum(sent) FROM coordd.inboxes), (SELECT sum(last_seq) FROM coordd.inboxes), "
        "(SELECT sent FROM coordd.store)").fetchone()
    if found is None or {int(value) for value in found} != {messages}:
        raise BenchError(f"{messages} messages were written, the tables have {found}")
