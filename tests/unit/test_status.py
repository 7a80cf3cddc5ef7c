"""What `coordctl status` computes, calls wrong and shows, from what machines told."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from coordctl.status.figures import Looks, database, speeds
from coordctl.status.show import picture
from coordctl.status.wrong import problems

NOW = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC)
BUCKET = 'coordd_send_duration_seconds_bucket{le="%s"}'


def metrics(stored: float, *, fast: float = 0, slow: float = 0, hits: float = 0,
            misses: float = 0, failed: float = 0) -> dict[str, float]:
    return {"coordd_messages_stored_total": stored, BUCKET % "0.005": fast,
            BUCKET % "0.1": fast + slow, BUCKET % "+Inf": fast + slow,
            "coordd_cache_hits_total": hits, "coordd_cache_misses_total": misses,
            "requests_2xx": fast + slow, "requests_5xx": failed}


def test_speeds_are_those_between_two_looks_of_all_servers() -> None:
    slow_before = metrics(1000, slow=1000, hits=0, misses=1000)
    one = Looks(slow_before, metrics(1300, fast=290, slow=1010, hits=300, misses=1100), 2.0)
    two = Looks(metrics(0), metrics(100, fast=100), 2.0)
    assert speeds([one, two]) == {
        "throughput_per_s": 200.0, "send_p50_ms": 5.0, "send_p99_ms": 100.0,
        "cache_hit_rate": 0.75, "error_rate": 0.0}


def test_with_few_sends_latency_is_that_since_the_start() -> None:
    before = metrics(1000, slow=1000)
    found = speeds([Looks(before, metrics(1001, fast=1, slow=1000), 1.0)])
    assert (found["throughput_per_s"], found["send_p50_ms"]) == (1.0, 100.0)


def test_a_server_that_was_started_between_the_looks_counts_from_nought() -> None:
    found = speeds([Looks(metrics(1000, slow=1000), metrics(50, fast=50), 1.0)])
    assert found["send_p99_ms"] == 5.0


def test_of_nothing_nothing_is_known() -> None:
    assert set(speeds([]).values()) == {None}
    assert set(speeds([Looks({}, {}, 0.0)]).values()) == {None}


def test_a_latency_beyond_every_bound_is_not_called_small() -> None:
    beyond = {BUCKET % "0.1": 1.0, BUCKET % "+Inf": 100.0}
    assert speeds([Looks({}, beyond, 1.0)])["send_p50_ms"] is None


def leader(at: int = 5000) -> dict[str, Any]:
    return {"is": {"role": "primary", "state": "running", "timeline": 3,
                   "xlog": {"location": at}}}


def replica(at: int = 5000, *, synchronous: bool = True, streams: bool = True) -> dict[str, Any]:
    return {"is": {"role": "replica", "state": "running", "timeline": 3, "sync_standby":
                   synchronous, "replication_state": "streaming" if streams else None,
                   "xlog": {"replayed_location": at,
                            "replayed_timestamp": "2026-11-30 12:00:00.5+00:00"}}}


def test_who_leads_and_how_far_the_others_are() -> None:
    found = database({"db1": replica(4000), "db2": leader(), "db3": {"error": "not reached"}},
                     synchronous=True, now=NOW)
    assert (found["leader"], found["synchronous"]) == ("db2", True)
    rows = {row["machine"]: (row["role"], row["state"], row["lag_bytes"], row["lag_s"])
            for row in found["members"]}
    assert rows == {"db1": ("synchronous", "streaming", 1000, 29.5),
                    "db2": ("leader", "running", None, None),
                    "db3": ("unknown", "not reached", None, None)}


def test_who_has_all_is_not_behind_however_long_nothing_was_written() -> None:
    found = database({"db1": replica(), "db2": leader()}, synchronous=True, now=NOW)
    assert (found["members"][0]["lag_bytes"], found["members"][0]["lag_s"]) == (0, 0.0)


@pytest.mark.parametrize("told", [
    {"db1": replica(), "db2": replica()}, {"db1": leader(), "db2": leader()},
    {"db1": {"error": "x"}, "db2": {"error": "x"}}])
def test_nobody_leads_or_two_say_so(told: dict[str, Any]) -> None:
    found = database(told, synchronous=True, now=NOW)
    assert found["leader"] is None
    assert all(row["lag_bytes"] is None for row in found["members"])


def site(**changes: Any) -> dict[str, Any]:
    """The facts of an organization at which nothing is wrong."""
    def machine(name: str, *roles: str) -> dict[str, Any]:
        return {"name": name, "address": f"192.0.2.{10 + len(name)}", "state": "up",
                "roles": ["machine", *roles], "free": 20 << 30, "free_part": 0.5,
                "memory_part": 0.5, "down": [], "error": None}

    server = {"ready": True, "why": None, "throughput_per_s": 10.5, "send_p50_ms": 5.0,
              "send_p99_ms": 20.0, "cache_hit_rate": 0.93, "error_rate": 0.0, "waiting": 3}
    return {
        "site": "/srv/shop", "level": "organization", "address": "https://192.0.2.11",
        "ready": True, "why": None, "running": None, "pid": None, "since": None,
        "messages": 1234567, "unread": 12, "size": 1 << 30, "version": "0.1.0",
        "release": "0.1.0-6ce5ffa10114", "throughput_per_s": 21.0, "send_p50_ms": 5.0,
        "send_p99_ms": 20.0, "cache_hit_rate": 0.93, "error_rate": 0.0, "unfinished": None,
        "not_ready": None, "machines": [
            machine("lb1", "etcd", "nginx", "logrotate", "exporters", "prometheus"),
            machine("app1", "haproxy", "coordd", "worker", "logrotate", "exporters"),
            machine("app2", "haproxy", "coordd", "worker", "logrotate", "exporters"),
            machine("db1", "etcd", "postgres", "pgbackrest", "pgbouncer", "logrotate", "exporters"),
            machine("db2", "etcd", "postgres", "pgbackrest", "pgbouncer", "logrotate", "exporters"),
            machine("cache1", "redis", "rabbitmq", "logrotate", "exporters")],
        "servers": [{"machine": "app1", **server}, {"machine": "app2", **server}],
        "database": database({"db1": leader(), "db2": replica()}, synchronous=True, now=NOW),
        "queue": {"kind": "rabbitmq", "depth": 0, "lag": 0, "waiting": 0, "dead": 0,
                  "problem": None},
        "backup": {"wanted": "pgbackrest", "machine": "db1", "kind": "pgbackrest full",
                   "at": 1796000000, "age_s": 7300, "size_bytes": 5 << 20, "error": None},
        "alerts": [], "problems": [], **changes}


def wrong(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.what, one.mend) for one in problems(facts, lambda machine: f"ssh {machine}")]


def machines(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [machine | changes.get(machine["name"], {}) for machine in site()["machines"]]


def alert(name: str, machine: str | None = None) -> dict[str, Any]:
    return {"name": name, "severity": "critical", "machine": machine,
            "since": "2026-11-30T11:59:00Z", "summary": f"told of {name}", "next": f"mend {name}"}


def test_nothing_is_wrong() -> None:
    assert wrong(site()) == []


@pytest.mark.parametrize(("changes", "what", "mend"), [
    ({"running": False, "ready": False}, "the server does not run", "coordctl up"),
    ({"unfinished": "r1"}, "the run r1 has not ended well", "coordctl up --resume"),
    ({"ready": False, "not_ready": "no answer"}, "no message can be stored: no answer",
     "coordctl doctor"),
    ({"machines": machines(db2={"error": "no route", "state": "not reached"}),
      "backup": site()["backup"] | {"at": None, "age_s": None, "error": "not reached"}},
     "db2 is not reached: no route", "coordctl doctor"),
    ({"machines": machines(cache1={"down": ["redis-server.service"], "state": "x"})},
     "cache1: not active: redis-server.service", "coordctl up --yes"),
    ({"machines": machines(db1={"free_part": 0.04})}, "db1: only 4% of a disk is free",
     "ssh db1 'du -xh --max-depth=3 / | sort -h | tail -20'"),
    ({"machines": machines(db1={"memory_part": 0.01})}, "db1: only 1% of the memory is free",
     "ssh db1 'ps -eo rss,args --sort=-rss | head -8'"),
    ({"database": database({"db1": replica(), "db2": replica()}, synchronous=True, now=NOW)},
     "nobody leads the database: nothing can be stored", "coordctl up --yes"),
    ({"database": database({"db1": leader(), "db2": leader()}, synchronous=True, now=NOW)},
     "db1 and db2 each say that they lead the database", "coordctl status --watch"),
    ({"database": database({"db1": leader(), "db2": replica(synchronous=False)},
                           synchronous=True, now=NOW)},
     "no synchronous replica: what is acknowledged now is on one machine only",
     "coordctl up --yes"),
    ({"database": database({"db1": leader(1 << 30), "db2": replica(0)}, synchronous=True,
                           now=NOW)},
     "db2: its database is 1024 MiB behind", "ssh db2 journalctl -u patroni -n 30"),
    ({"servers": [site()["servers"][0] | {"ready": False, "why": "no database"}]},
     "app1: its message server cannot store a message: no database",
     "ssh app1 journalctl -u coordd -n 30"),
    ({"queue": site()["queue"] | {"dead": 2}}, "2 dead letters: hooks were told in vain",
     "coordctl hook dead"),
    ({"queue": site()["queue"] | {"lag": 5000}}, "background work is 5,000 pieces behind",
     "coordctl status --watch"),
    ({"backup": site()["backup"] | {"at": None, "age_s": None}}, "there is no backup yet",
     "coordctl backup"),
    ({"backup": site()["backup"] | {"wanted": "nightly", "age_s": 30 * 3600}},
     "the newest backup is 30 hours old", "coordctl backup"),
    ({"alerts": [alert("ClockSkewed", "db1")]}, "told of ClockSkewed", "mend ClockSkewed"),
])
def test_what_is_wrong_is_told_once_with_what_mends_it(changes: dict[str, Any], what: str,
                                                       mend: str) -> None:
    assert wrong(site(**changes)) == [(what, mend)]


def test_a_database_that_shall_be_alone_is_not_called_wrong() -> None:
    assert wrong(site(database=database({"db1": leader()}, synchronous=False, now=NOW))) == []


def test_an_alert_that_status_saw_by_itself_is_not_told_twice() -> None:
    gone = machines(db2={"error": "no route", "state": "not reached"})
    asked = {"db1": leader(), "db2": {"error": "not reached"}}
    facts = site(machines=gone, database=database(asked, synchronous=True, now=NOW), alerts=[
        alert("MachineDown", "db2"), alert("SynchronousStandbyMissing"), alert("WorkDead"),
        alert("MachineDown", "app1")])
    assert [what for what, _ in wrong(facts)] == [
        "db2 is not reached: no route",
        "no synchronous replica: what is acknowledged now is on one machine only",
        "told of WorkDead", "told of MachineDown"]


def drawn(facts: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(picture(facts))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_has_all_of_it_and_fits(width: int) -> None:
    facts = site(alerts=[alert("SynchronousStandbyMissing")], problems=[
        {"what": "no synchronous replica", "mend": "coordctl up --yes", "machine": None}])
    text = drawn(facts, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for words in ("https://192.0.2.11  ready", "1,234,567, 12 unread, 1.0 GiB",
                  "21.0/s, p50 ≤ 5 ms, p99 ≤ 20 ms", "answers 93.0% of the reads", "cache1",
                  "synchronous  streaming  0 B, 0 s", "pgbackrest full, 2 h ago, 5.0 MiB, on db1",
                  "SynchronousStandbyMissing, since", "coordctl up --yes"):
        assert words in text, f"{words}\n{text}"


def test_what_nobody_knows_is_a_dash_and_no_error() -> None:
    lost = machines(**{name: {"error": "x", "state": "not reached", "free": None,
                              "free_part": None, "memory_part": None}
                       for name in ("lb1", "app1", "app2", "db1", "db2", "cache1")})
    nothing = {"ready": False, "why": "not reached", "waiting": None, **speeds([])}
    facts = site(ready=False, not_ready="no answer", machines=lost, messages=None, unread=None,
                 size=None, version=None, queue=None, alerts=None, **speeds([]),
                 servers=[{"machine": "app1", **nothing}],
                 database=database({"db1": {"error": "not reached"}}, synchronous=True, now=NOW),
                 backup={"wanted": "pgbackrest", "machine": "db1", "kind": None, "at": None,
                         "age_s": None, "size_bytes": None, "error": "pgbackrest: no stanza"})
    assert "not ready" in drawn(facts, 80)
    assert ("whether there is a backup is not known: pgbackrest: no stanza"
            in [what for what, _ in wrong(facts)])
    json.dumps(facts)
