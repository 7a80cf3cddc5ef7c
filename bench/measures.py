"""What is measured, and the bar of each. Each function adds its rows to the stand."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bench import kit, team
from bench.daemon import BenchError, Daemon
from bench.disk import appends_per_s, read_all_s
from bench.driver import Job
from bench.figures import spread
from bench.results import Limit, Row
from bench.stand import Stand, server_cpu, throughput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INBOX_RATE = 2000.0
MIB = 1024 * 1024


def send(stand: Stand) -> None:
    """Single sends: throughput in a closed loop, then latency in an open one at 70 % of it."""
    seconds = stand.scale.seconds
    servers = ["raw", "noop", "fresh"]
    singles, groups = [], []
    outcomes = stand.interleaved(servers, lambda one: one.load("send", 64, seconds=seconds))
    for _ in range(stand.scale.rounds):
        singles.append(appends_per_s(stand.folder, 1, 1.0))
        groups.append(appends_per_s(stand.folder, 64, 1.0))
    ours = throughput("ours", outcomes["fresh"]).value
    limit = throughput("no-op server", outcomes["noop"])
    row = Row(name="POST /messages, 64 connections", unit="msg/s", ours=ours, limits=[
        limit, throughput("raw uvicorn", outcomes["raw"]),
        Limit("fdatasync, each", spread(singles)),
        Limit("fdatasync, each 64", spread(groups))], bar="≥ 20,000\n≥ 0.5x")
    row.passed = ours.median >= 20_000 and ours.median >= 0.5 * limit.value.median
    stand.rows.append(row)
    stand.rows.append(server_cpu(
        "server CPU for each of those", outcomes["fresh"],
        {"no-op server": outcomes["noop"], "raw uvicorn": outcomes["raw"]}))

    rate = round(0.7 * ours.median, -2)
    opened = stand.interleaved(["noop", "fresh"],
                               lambda one: one.load("send", 64, rate=rate, seconds=seconds))
    stand.latency("POST /messages", "coordd", rate, opened["fresh"], bar="p99 ≤ 10 ms",
                  passed=lambda p99: p99 <= 0.010)
    stand.latency("POST /messages", "no-op", rate, opened["noop"])


def batch(stand: Stand) -> None:
    """Batches of 100."""
    outcomes = stand.interleaved(
        ["noop", "fresh"], lambda one: one.load("batch", 16, seconds=stand.scale.seconds))
    ours = throughput("ours", outcomes["fresh"]).value
    stand.rows.append(Row(
        name="POST /messages/batch of 100, 16 connections", unit="msg/s", ours=ours,
        limits=[throughput("no-op server", outcomes["noop"])], bar="≥ 250,000",
        passed=ours.median >= 250_000))
    stand.rows.append(server_cpu("server CPU for each of those", outcomes["fresh"],
                                 {"no-op server": outcomes["noop"]}))


def senders(stand: Stand) -> None:
    """Ten concurrent senders against one."""
    one, ten = [], []
    seconds = stand.scale.seconds / 2 + 0.5
    fresh = stand.server("fresh")
    for number in range(stand.scale.rounds):
        stand.say(f"  round {number + 1}, one sender and ten")
        one.append(fresh.load("send", 1, seconds=seconds).messages_per_s)
        ten.append(fresh.load("send", 10, seconds=seconds).messages_per_s)
    row = Row(name="10 concurrent senders (limit: one)", unit="msg/s", ours=spread(ten),
              limits=[Limit("one sender", spread(one))], bar="> 1x")
    row.passed = min(ten) > max(one)
    stand.rows.append(row)


def inbox(stand: Stand) -> None:
    """The newest hundred of an inbox, in a small and in a large store."""
    outcomes = stand.interleaved(
        ["noop", "small", "large"],
        lambda one: one.load("inbox", 32, rate=INBOX_RATE, seconds=stand.scale.seconds),
        rounds=stand.scale.rounds + 2)
    for name, kind in (("small", f"{10_000:,} stored"),
                       ("large", f"{stand.scale.messages:,} stored")):
        stand.latency("GET /inbox, newest 100", kind, INBOX_RATE, outcomes[name],
                      bar="p99 ≤ 2 ms", passed=lambda p99: p99 <= 0.002)
    stand.latency("GET /inbox, newest 100", "no-op", INBOX_RATE, outcomes["noop"])
    stand.rows.append(server_cpu("server CPU for a page, large store", outcomes["large"], {
        "no-op server": outcomes["noop"], f"at {10_000:,} stored": outcomes["small"]}))
    small, large = ([outcome.latency_s["99"] * 1000 for outcome in outcomes[name]]
                    for name in ("small", "large"))
    row = Row(name="GET /inbox p99, large store to small", unit="ms", ours=spread(large),
              limits=[Limit(f"at {10_000:,} stored", spread(small))], bar="≤ 1.5x")
    row.passed = row.ratio is not None and row.ratio <= 1.5
    stand.rows.append(row)


def stats(stand: Stand) -> None:
    """The counts of a large store."""
    seconds = stand.scale.seconds
    outcomes = stand.interleaved(
        ["noop", "large"], lambda one: one.load("stats", 4, rate=100.0, seconds=seconds))
    stand.latency("GET /stats", f"{stand.scale.messages:,} events", 100.0, outcomes["large"],
                  bar="p99 ≤ 5 ms", passed=lambda p99: p99 <= 0.005)
    stand.latency("GET /stats", "no-op", 100.0, outcomes["noop"])


def memory(stand: Stand) -> None:
    """Resident memory of the large store's server, after what was asked of it so far."""
    large = stand.server("large").memory()
    noop = stand.server("noop").memory()
    row = Row(name=f"memory, {stand.scale.messages:,} messages", unit="MiB",
              ours=spread([large.resident / MIB]),
              limits=[Limit("no-op server", spread([noop.resident / MIB])),
                      Limit("ours, highest ever", spread([large.highest / MIB]))], bar="≤ 300 MB")
    row.passed = large.resident <= 300e6
    stand.rows.append(row)


def start(stand: Stand) -> None:
    """From the process's start to /ready, after a kill -9 under load and after a clean stop.

    Every kill's start is from a copy of the same folder: all that was filled in since the server's
    first start, with nothing put away by a stop.
    """
    large, noop = stand.server("large"), stand.server("noop")
    stand.say("  killing the server under load")
    _kill_under_load(large)
    killed = large.data.with_name("killed")
    shutil.copytree(large.data, killed)
    after_kill, after_stop, bare, reading = [], [], [], []
    for number in range(stand.scale.rounds):
        stand.say(f"  round {number + 1}, start after a kill, after a stop, without a store")
        shutil.rmtree(large.data)
        shutil.copytree(killed, large.data)
        subprocess.run(["sync"], check=True)
        after_kill.append(large.start())
        large.stop()
        after_stop.append(large.start())
        large.kill()
        noop.kill()
        bare.append(noop.start())
        reading.append(read_all_s(large.data))
    limits = [Limit("no-op server", spread(bare)), Limit("reading the files", spread(reading))]
    of = f"start, {stand.scale.messages:,} messages, after"
    for name, values, most in ((f"{of} a clean stop", after_stop, 1.0),
                               (f"{of} kill -9", after_kill, 5.0)):
        row = Row(name=name, unit="s", ours=spread(values), limits=limits, bar=f"≤ {most:g} s")
        row.passed = row.ours.median <= most
        stand.rows.append(row)
    rebuilt = _without_sidecar(large, killed)
    if rebuilt is not None:
        stand.rows.append(Row(name=f"{of} losing the index", unit="s", limits=limits,
                              ours=spread([rebuilt])))


def _kill_under_load(daemon: Daemon) -> None:
    job = Job(port=daemon.port, workload="send", connections=64, seconds=60)
    driver = subprocess.Popen([sys.executable, "-m", "bench.driver"], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if driver.stdin is None:
        raise BenchError("the driver has no stdin")
    driver.stdin.write(msgspec.json.encode(job))
    driver.stdin.close()
    time.sleep(1.5)
    daemon.kill()
    driver.wait()


def _without_sidecar(daemon: Daemon, killed: Path) -> float | None:
    """Seconds to the start that has to build the index from the segments; None: no such file."""
    shutil.rmtree(daemon.data)
    shutil.copytree(killed, daemon.data)
    found = False
    for path in daemon.data.rglob("*"):
        if path.is_file() and "index" in path.name:
            path.unlink()
            found = True
    if not found:
        return None
    seconds = daemon.start()
    daemon.kill()
    return seconds


MEASURES: dict[str, Callable[[Stand], None]] = {
    "send": send, "batch": batch, "senders": senders, "inbox": inbox, "stats": stats,
    "memory": memory, "start": start,
    "kit-help": kit.start, "kit-render": kit.render, "kit-machines": kit.machines,
    "kit-provision": kit.provision, "kit-inbox": team.inbox,
}
"""In the order in which they run: memory after the loads, start last of those on the servers, since
it ends one; those of the lab end them all.
"""
