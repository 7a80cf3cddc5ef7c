"""Two servers over one Postgres, under load, while what they stand on fails.

What is acknowledged is stored, a request with a key once; what has no answer is settled by its key;
seqs are gapless in the order of the commits, and no follower skips; no reader is shown less than
was acknowledged before it asked; and after the fault all go on by themselves.
"""

from __future__ import annotations

import signal
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.clients import Connection, all_of
from faults.siteload import ANSWER_LIMIT_S, Load, await_
from faults.twoservers import Site, gauge, site_of
from support.redis import RedisServer
from support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.postgres import Databases

pytestmark = pytest.mark.timeout(400)

STOPPED_S = 3.0
CLOCK_OFF_S = 300
CLOCKS_AGREE = timedelta(seconds=1)
"""How well this computer's clock and the database machine's do: it is the same."""


@pytest.fixture
def site(databases: Databases, tmp_path: Path) -> Iterator[Site]:
    with site_of(databases, tmp_path) as site:
        yield site


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    site.start()
    load = Load(site, 7)
    load.start()
    load.run()
    yield load
    load.abandon()


def postgres_restarted(site: Site, load: Load) -> None:
    site.machine.restart_postgres("fast")
    load.run(20)
    site.machine.restart_postgres("immediate")


def postgres_killed(site: Site, load: Load) -> None:
    site.machine.kill_postgres()
    load.run(20)
    site.machine.kill_postgres()


def pgbouncer_restarted(site: Site, load: Load) -> None:
    site.machine.restart_pgbouncer("fast")
    load.run(20)
    site.machine.restart_pgbouncer("immediate")


def backends_terminated(site: Site, load: Load) -> None:
    """Again and again, so that flushes are hit in every state."""
    ended = 0
    for _ in range(40):
        ended += site.machine.terminate_backends(site.database)
        time.sleep(load.random.uniform(0, 0.05))
    assert ended > 40


@pytest.mark.parametrize("fault", [
    postgres_restarted, postgres_killed, pgbouncer_restarted, backends_terminated])
def test_a_part_that_is_restarted(site: Site, load: Load,
                                  fault: Callable[[Site, Load], None]) -> None:
    fault(site, load)
    load.resumed()
    load.run()
    assert load.stop() == []
    assert "is tried again" in site.log()


def test_answers_that_are_lost_on_their_way(site: Site) -> None:
    with Relay(site.machine.pooled_url(site.database)) as relay:
        site.more["postgres_url"] = relay.url
        site.start()
        load = Load(site, 7)
        try:
            load.start()
            relay.loss = 0.05
            await_(lambda: relay.lost > 200, load.failed)
            relay.loss = 0.0
            load.resumed()
            load.run()
            assert load.stop() == []
        finally:
            load.abandon()


def test_no_connection_is_left(site: Site, load: Load) -> None:
    with site.machine.exhaust(evict=True):
        began = time.monotonic()
        for client in load.clients:
            client.refusals.clear()
        await_(lambda: all(client.refusals for client in (*load.senders, *load.readers)),
               load.failed, ANSWER_LIMIT_S)
        assert all(attempt.outcome != "ok" for attempt in list(load.history.attempts)
                   if attempt.started > began)
    load.resumed()
    load.run()
    assert load.stop() == []


def test_the_disk_is_full(site: Site, load: Load) -> None:
    site.machine.fill_disk()
    await_(lambda: all(client.refusals for client in load.senders), load.failed)
    load_at = load.acknowledged
    site.machine.free_disk()
    load.resumed()
    load.run()
    assert load.stop() == []
    assert load.acknowledged > load_at


def test_one_server_is_killed(site: Site, load: Load) -> None:
    a, b = site.addresses
    site.servers[0].kill()
    a.port = b.port
    load.resumed()
    load.run()
    assert load.stop() == []


def test_one_server_is_stopped_in_a_flush(site: Site, load: Load) -> None:
    """The other one never waits for it: a write is one statement, which ends without its server."""
    process = site.servers[0].process
    for _ in range(20):
        process.send_signal(signal.SIGSTOP)
        time.sleep(load.random.uniform(0, 0.05))
        process.send_signal(signal.SIGCONT)
        time.sleep(load.random.uniform(0, 0.05))
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    time.sleep(STOPPED_S)
    ended = time.monotonic()
    process.send_signal(signal.SIGCONT)
    load.resumed()
    load.run()
    assert load.stop() == []
    # Those with keys ask the stopped one now and then.
    there = {sender.name for sender in load.senders
             if sender.address is site.addresses[1] and not sender.keys}
    meanwhile = [attempt for attempt in load.history.attempts
                 if attempt.sender in there and began < attempt.started < ended]
    assert len(meanwhile) > 20
    assert all(attempt.outcome == "ok" for attempt in meanwhile)
    assert max(attempt.ended - attempt.started for attempt in meanwhile) < STOPPED_S / 2


def test_redis_goes_and_comes_back(site: Site) -> None:
    redis = RedisServer().start()
    site.more |= {"cache": "redis", "redis_url": redis.url}
    site.start()
    load = Load(site, 7)

    def cached() -> bool:
        return all(gauge(server, "coordd_cache_connected") for server in site.servers)

    def hit(more: int) -> None:
        """Let the caches of both servers answer so many reads."""
        goals = [gauge(server, "coordd_cache_hits_total") + more for server in site.servers]
        await_(lambda: cached() and all(
            gauge(server, "coordd_cache_hits_total") >= goal
            for server, goal in zip(site.servers, goals, strict=True)), load.failed)

    try:
        load.start()
        hit(20)
        redis.kill()
        await_(lambda: not any(gauge(server, "coordd_cache_connected") for server in site.servers),
               load.failed)
        load.resumed()
        load.run(20)
        redis.start()
        hit(20)
        for _ in range(30):
            redis.ask("FLUSHALL")
            time.sleep(load.random.uniform(0, 0.02))
        redis.pause()
        load.run(20)
        load.resumed()
        redis.resume()
        hit(20)
        site.machine.terminate_backends(site.database)
        hit(20)
        assert load.stop() == []
        assert not any(sender.refusals for sender in load.senders)
    finally:
        load.abandon()
        redis.close()


def test_the_clock_of_one_server_is_off(site: Site) -> None:
    """Times are the database's, and what a message's `expires_at` means is told by its clock."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    site.start(env_of_a={"LD_PRELOAD": str(library), "FAKETIME": f"{CLOCK_OFF_S:+d}s",
                         "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    a, b = (Connection(address) for address in site.addresses)
    with urllib.request.urlopen(f"{site.servers[0].url}/health", timeout=10) as answer:
        there = parsedate_to_datetime(answer.headers["Date"])
    assert abs((there - datetime.now(UTC)).total_seconds() - CLOCK_OFF_S) < 10
    load = Load(site, 7)
    began = datetime.now(UTC)
    try:
        load.start()

        def send(connection: Connection, subject: str, lives_s: float) -> str:
            expires_at = datetime.now(UTC) + timedelta(seconds=lives_s)
            status, answer = connection.ask("POST", "/api/v1/messages", {
                "from_agent": "sender", "to_agent": "late", "subject": subject, "body": "",
                "expires_at": expires_at.isoformat()})
            assert status == 200, answer
            return str(answer["id"])

        def late() -> list[list[str]]:
            """What each server shows in the inbox."""
            pages = [connection.ask("GET", "/api/v1/inbox/late")[1] for connection in (a, b)]
            return [[message["subject"] for message in page["messages"]] for page in pages]

        expiring_at = time.monotonic() + 2
        for number, connection in enumerate((a, b)):
            send(connection, f"long-{number}", 100)
            send(connection, f"short-{number}", 2)
        assert late() == [["short-1", "long-1", "short-0", "long-0"]] * 2
        load.run()
        await_(lambda: late() == [["long-1", "long-0"]] * 2, lambda: str(late()))
        assert 0 <= time.monotonic() - expiring_at < 3
        assert load.stop() == []
        for to in load.history.inboxes:
            messages = all_of(site.addresses[0], to, dict)
            times = [datetime.fromisoformat(message["created_at"]) for message in messages]
            assert times == sorted(times)
            marks = [datetime.fromisoformat(at) for message in messages
                     for at in (message["read_at"], message["acked_at"]) if at]
            assert marks
            assert began - CLOCKS_AGREE < min(times + marks)
            assert max(times + marks) < datetime.now(UTC) + CLOCKS_AGREE
    finally:
        load.abandon()
        a.close()
        b.close()


def test_a_database_that_answers_before_it_has_written_is_found_out(site: Site) -> None:
    """What all of the above rests on: the judge sees what is lost."""
    with site.machine.connect(site.machine.direct_url(site.database)) as connection:
        connection.execute(f"ALTER DATABASE {site.database} SET synchronous_commit = off")
    site.start()
    load = Load(site, 7)
    load.start()
    for _ in range(3):
        load.run()
        site.machine.kill_postgres()
    for client in load.clients:
        client.stopping.set()
    for client in load.clients:
        client.join()
    # Readers see it as well, where one asks in time.
    found = [repr(client.error) for client in load.clients if client.error]
    found += load.judge()
    assert any("lost" in problem for problem in found), found
