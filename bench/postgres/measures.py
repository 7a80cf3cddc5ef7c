"""What is measured of engine postgres, and the bar of each: see docs/bench.md."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench.daemon import BenchError
from bench.figures import percentile, spread
from bench.postgres import bare, flat, importer, push
from bench.postgres.bare import COPY_LOOP, LARGE_LOOP, SMALL_LOOP
from bench.postgres.plan import plan_of
from bench.postgres.stand import INBOX
from bench.results import Limit, Row
from bench.stand import server_cpu, throughput
from bench.workloads import AGENTS
from coordd.engines.postgres import queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.driver import Outcome
    from bench.postgres.stand import PostgresStand

INBOX_RATE: Final = 1000.0
ROOT: Final = Path(__file__).resolve().parents[2]
_BARE_S: Final = 2.0
_MONTH_ASKED: Final = 200


def _bare(stand: PostgresStand, found: dict[str, list[float]], *names: str) -> None:
    """One more repetition of each of those bare loops, in the same database as the servers'."""
    seconds = min(_BARE_S, stand.scale.seconds)
    with stand.connect(stand.store()) as connection:
        loops: dict[str, Callable[[], float]] = {
            LARGE_LOOP: lambda: bare.unnest_per_s(connection, bare.LARGE_FLUSH, seconds),
            SMALL_LOOP: lambda: bare.unnest_per_s(connection, bare.SMALL_FLUSH, seconds),
            COPY_LOOP: lambda: bare.copy_per_s(connection, seconds)}
        for name in names:
            found.setdefault(name, []).append(loops[name]())


def _limits(found: dict[str, list[float]]) -> list[Limit]:
    return [Limit(name, spread(values)) for name, values in found.items()]


def send(stand: PostgresStand) -> None:
    """Single sends: throughput in a closed loop, ten senders against one, then latency in an open
    loop at 70 % of the throughput.
    """
    seconds = stand.scale.seconds
    loops: dict[str, list[float]] = {}
    noop: list[Outcome] = []
    ours: list[Outcome] = []
    ten, one = [], []
    for number in range(stand.scale.rounds):
        stand.say(f"  round {number + 1}, bare loops, no-op, 64 senders, ten, one")
        _bare(stand, loops, SMALL_LOOP, LARGE_LOOP)
        noop.append(stand.server("noop").load("send", 64, seconds=seconds))
        fresh = stand.server("fresh")
        ours.append(fresh.load("send", 64, seconds=seconds))
        ten.append(fresh.load("send", 10, seconds=seconds).messages_per_s)
        one.append(fresh.load("send", 1, seconds=seconds).messages_per_s)
    rate = throughput("ours", ours).value
    row = Row(name="POST /messages, 64 connections", unit="msg/s", ours=rate, bar="≥ 12,000",
              limits=[*_limits(loops), throughput("no-op server", noop)])
    row.passed = rate.median >= 12_000
    stand.rows.append(row)
    stand.rows.append(server_cpu("server CPU for each of those", ours, {"no-op server": noop}))
    row = Row(name="10 concurrent senders (limit: one)", unit="msg/s", ours=spread(ten),
              limits=[Limit("one sender", spread(one))], bar="> 1x")
    row.passed = min(ten) > max(one)
    stand.rows.append(row)

    offered = round(0.7 * rate.median, -2)
    opened = stand.interleaved(
        ["fresh"], lambda each: each.load("send", 64, rate=offered, seconds=seconds))
    stand.latency("POST /messages", "coordd", offered, opened["fresh"])


def batch(stand: PostgresStand) -> None:
    """Batches of 100."""
    loops: dict[str, list[float]] = {}
    noop: list[Outcome] = []
    ours: list[Outcome] = []
    for number in range(stand.scale.rounds):
        stand.say(f"  round {number + 1}, bare loops, no-op, ours")
        _bare(stand, loops, LARGE_LOOP, COPY_LOOP)
        for name, outcomes in (("noop", noop), ("fresh", ours)):
            outcomes.append(stand.server(name).load("batch", 16, seconds=stand.scale.seconds))
    rate = throughput("ours", ours).value
    row = Row(name="POST /messages/batch of 100, 16 connections", unit="msg/s", ours=rate,
              limits=[*_limits(loops), throughput("no-op server", noop)], bar="≥ 50,000")
    row.passed = rate.median >= 50_000
    stand.rows.append(row)
    stand.rows.append(server_cpu("server CPU for each of those", ours, {"no-op server": noop}))


def import_(stand: PostgresStand) -> None:
    """Imports of 5,000 messages into an empty store, in a process of their own; then all of it is
    read again and compared.
    """
    loops: dict[str, list[float]] = {}
    alone, verified = [], []
    for number in range(stand.scale.rounds):
        stand.say(f"  round {number + 1}, bare loops, {stand.scale.imported:,} messages")
        _bare(stand, loops, COPY_LOOP, LARGE_LOOP)
        stand.release()
        outcome = _import(stand)
        alone.append(stand.scale.imported / outcome.imported_s)
        verified.append(stand.scale.imported / (outcome.imported_s + outcome.verified_s))
    row = Row(name="import, 5,000 a commit", unit="msg/s", ours=spread(alone),
              limits=_limits(loops), bar="≥ 80,000")
    row.passed = row.ours.median >= 80_000
    stand.rows.append(row)
    stand.rows.append(Row(name="import, all inboxes read again and compared", unit="msg/s",
                          ours=spread(verified)))


def _import(stand: PostgresStand) -> importer.Outcome:
    settings = stand.folder / "import.toml"
    settings.write_text(stand.settings(stand.store()), encoding="utf-8")
    job = importer.Job(str(settings), stand.scale.imported)
    done = subprocess.run([sys.executable, "-m", "bench.postgres.importer"], cwd=ROOT, check=False,
                          input=msgspec.json.encode(job), capture_output=True)
    if done.returncode:
        raise BenchError(f"the import failed: {done.stderr.decode().strip()}")
    return msgspec.json.decode(done.stdout, type=importer.Outcome)


def inbox(stand: PostgresStand) -> None:
    """The newest hundred of one large inbox, from the database and from the cache."""
    servers = ["noop", INBOX, *([f"{INBOX}-cached"] if stand.has_redis else [])]
    outcomes = stand.interleaved(servers, lambda one: one.load(
        "one-inbox", 32, rate=INBOX_RATE, seconds=stand.scale.seconds))
    of = f"{stand.scale.messages:,} in it"
    name = "GET /inbox, newest 100"
    stand.latency(name, f"{of}, cache off", INBOX_RATE, outcomes[INBOX], bar="p99 ≤ 5 ms",
                  passed=lambda p99: p99 <= 0.005)
    if f"{INBOX}-cached" in outcomes:
        stand.latency(name, f"{of}, cache on", INBOX_RATE, outcomes[f"{INBOX}-cached"],
                      bar="p99 ≤ 2 ms", passed=lambda p99: p99 <= 0.002)
    stand.latency(name, "no-op", INBOX_RATE, outcomes["noop"])
    stand.rows.append(server_cpu(
        "server CPU for a page, cache off", outcomes[INBOX],
        {server: outcomes[server] for server in servers if server != INBOX}))


def stats(stand: PostgresStand) -> None:
    """The counts of the largest store; the events of one agent in a month of its year."""
    events = stand.scale.sizes[-1]
    store = f"of-{events}"
    outcomes = stand.interleaved(["noop", store], lambda one: one.load(
        "stats", 4, rate=100.0, seconds=stand.scale.seconds))
    stand.latency("GET /stats", f"{events:,} events", 100.0, outcomes[store], bar="p99 ≤ 10 ms",
                  passed=lambda p99: p99 <= 0.010)
    stand.latency("GET /stats", "no-op", 100.0, outcomes["noop"])
    _month(stand, store, events)


def _month(stand: PostgresStand, store: str, events: int) -> None:
    """The engine's own statement, as coordd's connections run it: prepared, through pgbouncer."""
    agent, (since, until) = AGENTS[7], _month_before(datetime.now(UTC), 6)
    query = queries.EVENTS[True, True]
    values: dict[str, Any] = {
        "types": [1, 2, 3, 4, 5], "above": 0, "below": (1 << 63) - 1, "since": since,
        "until": until, "limit": 101, "agent": agent}
    with stand.connect(stand.store(store)) as connection:
        stand.say(f"  events of {agent} in {since:%Y-%m}")
        p99s, bound = [], []
        for _ in range(stand.scale.rounds):
            p99s.append(_p99_ms(lambda: len(connection.execute(
                query, values, prepare=True).fetchall())))
            bound.append(_p99_ms(lambda: len(connection.execute(
                "SELECT 1", prepare=True).fetchall())))
        plan = plan_of(connection, query, values)
    name = f"events of an agent in a month, {events:,} events, p99"
    row = Row(name=name, unit="ms", ours=spread(p99s), limits=[Limit("SELECT 1", spread(bound))],
              bar="≤ 10 ms, one\npartition,\nindex scans")
    row.passed = (row.ours.median <= 10 and plan.only_indexes
                  and plan.partitions == {f"events_{since:%Y_%m}"})
    stand.rows.append(row)
    stand.plans[name.removesuffix(", p99")] = plan.text


def _month_before(now: datetime, count: int) -> tuple[datetime, datetime]:
    """The beginning and the end of the month that was so many months ago."""
    def begin(number: int) -> datetime:
        return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)

    number = now.year * 12 + now.month - 1 - count
    return begin(number), begin(number + 1)


def _p99_ms(ask: Callable[[], int]) -> float:
    times = []
    for _ in range(_MONTH_ASKED):
        began = time.perf_counter()
        if not ask():
            raise BenchError("the statement found nothing")
        times.append((time.perf_counter() - began) * 1000)
    return percentile(sorted(times), 99)


MEASURES: dict[str, Callable[[PostgresStand], None]] = {
    "pg-send": send, "pg-batch": batch, "pg-import": import_, "pg-inbox": inbox,
    "pg-stats": stats, "pg-push": push.push, "pg-flat": flat.flat,
}
"""In the order in which they run: pg-flat, which adds to the stores, after what only reads them."""
