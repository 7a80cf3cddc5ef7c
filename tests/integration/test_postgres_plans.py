"""How Postgres does the reads: by an index, and no more of it than a page shows.

The plans are the generic ones, which the engine runs with, on a store of 200,000 messages: BIG has
100,000 unread ones, DONE has 100,000 of which 100 are unread, and their events lie in the six
whole months before this one: a month that has just begun holds too few rows for an index.
Of the threads, id-1 has 20,001 messages and the others have 50.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from coordd.engines.postgres import feeding, importing, queries, search, sending
from support.postgres import Databases

LIMIT = 101  # a page, and one more to know whether there is a next
HIGHEST = (1 << 63) - 1
BIG, DONE = "big", "done"
LARGE = {"messages", "deliveries", "events", "claims"}
RUNS = 3  # of a page: one a state
TYPES = {"senders": "text[]", "keys": "text[]"}  # where the statement leaves it open
FILL = """
SELECT coordd.make_partitions(now() - interval '6 months', now() + interval '1 month');
INSERT INTO coordd.messages (pos, id, from_agent, subject, body, created_at, thread_id, deliveries,
                             priority)
SELECT pos, 'id-' || pos, 'sender-' || pos % 50, 'subject ' || pos, repeat('word ', 20),
       coordd.time_text(now()), CASE WHEN pos % 4 = 0 THEN 'thread-' || pos / 200
                                     WHEN pos % 10 = 3 THEN 'id-1' END, 1, pos % 5
  FROM generate_series(1, 200000) AS pos;
INSERT INTO coordd.deliveries (pos, message, seq, state, priority, to_agent)
SELECT pos, pos, (pos + 1) / 2, CASE WHEN pos % 2 = 0 AND pos % 2000 > 0 THEN 1 ELSE 0 END, pos % 5,
       CASE WHEN pos % 2 = 0 THEN 'done' ELSE 'big' END
  FROM generate_series(1, 200000) AS pos;
INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
SELECT pos, date_trunc('month', now(), 'UTC') - interval '180 days' * (1 - pos / 300000.0),
       (pos + 1) / 2, 5, 'id-' || pos,
       'sender-' || pos % 50, CASE WHEN pos % 2 = 0 THEN 'done' ELSE 'big' END, 'subject ' || pos
  FROM generate_series(1, 200000) AS pos;
INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
SELECT 200000 + n,
       date_trunc('month', now(), 'UTC') - interval '180 days' * (1 - (200000 + n) / 300000.0), n,
       4, 'id-' || 2 * n, 'sender-' || (2 * n) % 50, 'done', 'subject ' || 2 * n
  FROM generate_series(1, 99900) AS n;
INSERT INTO coordd.inboxes (agent, last_seq, received, sent, unread, version) VALUES
  ('big', 100000, 100000, 0, 100000, 1), ('done', 100000, 100000, 0, 100, 1);
INSERT INTO coordd.inboxes (agent, sent)
SELECT 'sender-' || n, 4000 FROM generate_series(0, 49) AS n;
INSERT INTO coordd.claims (sender, key, digest, count, pos, at)
SELECT 'sender-' || pos % 50, 'key-' || pos, 'digest', 1, pos, now()
  FROM generate_series(1, 200000, 4) AS pos;
INSERT INTO coordd.registry_log (pos, kind, name, at, entry)
SELECT 299900 + n, 'agent', 'sender-' || n, coordd.time_text(now()), '{}'
  FROM generate_series(1, 100) AS n;
UPDATE coordd.store SET position = 300000;
ANALYZE;
"""
READS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"inbox {newest=} {unread=}": (text, {
        "agent": BIG, "above": 0, "below": HIGHEST, "rank": 5, "limit": LIMIT, "shift": 0})
       for (newest, unread), text in queries.INBOX.items()},
    "version": (queries.VERSIONS, {"agents": [BIG, DONE], "shift": 0}),
    "message": (queries.MESSAGE, {"id": "id-77", "shift": 0}),
    "sent": (queries.SENT, {"agent": "sender-7", "below": HIGHEST, "limit": LIMIT, "shift": 0}),
    "thread": (queries.THREAD, {"thread": "thread-500", "above": 0, "party": None, "limit": LIMIT,
                                "shift": 0}),
    **{f"events {newest=} {of_agent=}": (text, {
        "types": [1, 2, 3, 4, 5], "above": 0, "below": HIGHEST, "since": "0001-01-01",
        "until": "9999-01-01", "limit": LIMIT} | ({"agent": "sender-7"} if of_agent else {}))
       for (newest, of_agent), text in queries.EVENTS.items()},
    "last event": (queries.LAST_EVENT, {}),
    "counts": (queries.COUNTS, {}),
    "agents' counts": (queries.AGENT_COUNTS, {}),
    "store": (queries.STORE, {}),
    "registry": (queries.REGISTRY, {"kind": "agent"}),
    "tokens": (queries.TOKENS, {}),
    "entry": (queries.ENTRY, {"kind": "agent", "name": "x"}),
    "receipts of ids": (sending.RECEIPTS_OF_IDS, {"ids": ["id-5", "id-6"]}),
    "receipts of a claim": (sending.RECEIPTS_OF_CLAIM, {"pos": 5, "count": 2}),
    "import, known": (importing._KNOWN, {"ids": ["id-5", "id-6"]}),
    "claims": (sending.CLAIMS, {"senders": ["sender-1"], "keys": ["key-1"]}),
    "feed, next": (feeding._NEXT, {"after": 100}),
    **{f"feed, {text.split('coordd.')[1].split()[0]}": (text, {"after": 100, "end": 200})
       for text in (feeding._MESSAGES, feeding._DELIVERIES, feeding._SENT_TIMES, feeding._CLAIMS,
                    feeding._MARKS, feeding._ENTRIES)},
    "search, tail": (search._TAIL, {"covered": 0, "end": HIGHEST, "limit": 128}),
    "search, messages": (search._MESSAGES, {"first": 500, "last": 700, "below": HIGHEST,
                                            "party": None, "shift": 0}),
    "search, next block": (search._NEXT_BLOCK, {"covered": 100, "limit": 128}),
}

Node = dict[str, Any]


@pytest.fixture(scope="module")
def connection(databases: Databases) -> Iterator[psycopg.Connection]:
    """To the store, as the engine's role, in a transaction that is undone."""
    name = databases.new()
    machine = databases.machine
    with machine.connect(machine.direct_url(name)) as filling:
        filling.execute(FILL)
        filling.execute("VACUUM")
    connection = machine.connect(machine.direct_url(name))
    # As a migration sets it for the role: a fact of the plans that are looked at here.
    assert connection.execute("SHOW plan_cache_mode").fetchone() == ("force_generic_plan",)
    yield connection
    connection.close()
    databases.drop(name)


def plan(connection: psycopg.Connection, text: str, values: dict[str, Any]) -> list[Node]:
    """The nodes of the statement's generic plan, run."""
    names = list(values)
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", text)
    types = f"({', '.join(TYPES.get(name, 'unknown') for name in names)})" if names else ""
    connection.execute(f"PREPARE looked_at {types} AS {numbered}".encode())
    try:
        arguments = sql.SQL(", ").join(map(sql.Literal, values.values()))
        run = sql.SQL("EXECUTE looked_at({})").format(arguments) if names else sql.SQL(
            "EXECUTE looked_at")
        row = connection.execute(
            sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + run).fetchone()
    finally:
        connection.execute("DEALLOCATE looked_at")
    assert row is not None
    nodes: list[Node] = []
    waiting = [row[0][0]["Plan"]]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting += node.get("Plans", [])
    return nodes


def table_of(node: Node) -> str:
    """What it reads, a partition under its table's name; "" where it reads none."""
    name = str(node.get("Relation Name", ""))
    return "events" if name.startswith("events_") else name


def rows_read(nodes: list[Node], table: str) -> int:
    """How many rows of a table were looked at."""
    return round(sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                      + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
                     for node in nodes if table_of(node) == table))


def shown(nodes: list[Node]) -> list[tuple[Any, ...]]:
    """For a failure's message."""
    return [(node["Node Type"], node.get("Relation Name"), node.get("Index Name"),
             node.get("Index Cond"), node["Actual Rows"], node["Actual Loops"]) for node in nodes]


@pytest.mark.parametrize("name", list(READS))
def test_a_read_goes_by_an_index(connection: psycopg.Connection, name: str) -> None:
    nodes = plan(connection, *READS[name])
    for node in nodes:
        # A partition without a row is read at once.
        if table_of(node) in LARGE and rows_read([node], table_of(node)):
            assert node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan"), (
                shown(nodes))
    # No read of a page looks at more than a few pages' rows, whatever the tables hold.
    assert sum(rows_read(nodes, table) for table in LARGE) <= 20 * LIMIT, shown(nodes)


def test_every_statement_of_the_reads_is_looked_at() -> None:
    looked_at = {text for text, _ in READS.values()}
    wanted = {text for name, value in vars(queries).items() if not name.startswith("_")
              for text in (value.values() if isinstance(value, dict) else [value])
              if isinstance(text, str) and text.lstrip().startswith("SELECT")}
    assert wanted - looked_at == {queries.SIZE}


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("agent", [BIG, DONE])
@pytest.mark.parametrize(("above", "below"), [(0, HIGHEST), (50_000, HIGHEST), (0, 50_000)])
def test_a_page_reads_a_page(connection: psycopg.Connection, agent: str, above: int, below: int,
                             *, newest: bool) -> None:
    nodes = plan(connection, queries.INBOX[newest, False], {
        "agent": agent, "above": above, "below": below, "rank": 5, "limit": LIMIT, "shift": 0})
    assert nodes[0]["Actual Rows"] == LIMIT
    assert rows_read(nodes, "deliveries") <= RUNS * LIMIT + 10, shown(nodes)
    assert rows_read(nodes, "messages") == LIMIT, shown(nodes)


@pytest.mark.parametrize(("above", "party"), [(0, None), (100_000, None), (199_500, None),
                                              (0, BIG)])
def test_a_page_of_a_long_thread_reads_a_page(connection: psycopg.Connection, above: int,
                                              party: str | None) -> None:
    nodes = plan(connection, queries.THREAD, {"thread": "id-1", "above": above, "party": party,
                                              "limit": LIMIT, "shift": 0})
    assert nodes[0]["Actual Rows"] == min(LIMIT, (200_000 - above) // 10 + (above == 0))
    for table in ("messages", "deliveries"):
        assert rows_read(nodes, table) <= LIMIT + 10, shown(nodes)


@pytest.mark.parametrize("newest", [True, False])
def test_the_unread_are_found_among_many_that_are_read(connection: psycopg.Connection, *,
                                                       newest: bool) -> None:
    nodes = plan(connection, queries.INBOX[newest, True], {
        "agent": DONE, "above": 0, "below": HIGHEST, "rank": 5, "limit": LIMIT, "shift": 0})
    assert nodes[0]["Actual Rows"] == 100
    assert rows_read(nodes, "deliveries") == 100, shown(nodes)


@pytest.mark.parametrize("newest", [True, False])
def test_an_agent_s_events_of_a_month_are_of_one_partition(connection: psycopg.Connection, *,
                                                           newest: bool) -> None:
    row = connection.execute(
        "SELECT date_trunc('month', now() - interval '3 months', 'UTC'), "
        "date_trunc('month', now() - interval '2 months', 'UTC')").fetchone()
    assert row is not None
    since, until = row
    nodes = plan(connection, queries.EVENTS[newest, True], {
        "types": [5, 4], "above": 0, "below": HIGHEST, "since": since, "until": until,
        "limit": LIMIT, "agent": "sender-7"})
    assert nodes[0]["Actual Rows"] == LIMIT
    partitions = {node["Relation Name"] for node in nodes if table_of(node) == "events"}
    assert partitions == {f"events_{since:%Y_%m}"}, shown(nodes)
    assert rows_read(nodes, "events") <= 4 * LIMIT, shown(nodes)


def test_a_scan_of_all_would_be_seen(connection: psycopg.Connection) -> None:
    """Such a plan is not let through by what is asked of plans above."""
    with connection.transaction(force_rollback=True):
        connection.execute("DROP INDEX coordd.deliveries_inbox")
        nodes = plan(connection, *READS["inbox newest=True unread=False"])
        assert rows_read(nodes, "deliveries") > 100_000
    nodes = plan(connection, "SELECT * FROM coordd.messages WHERE subject = %(subject)s",
                 {"subject": "subject 7"})
    assert any(node["Node Type"] == "Seq Scan" for node in nodes)
