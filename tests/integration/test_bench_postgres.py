"""What the bench writes straight into the tables is what the API would have left there."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from bench.postgres import bare, importer, stores
from bench.postgres.plan import plan_of

from coordd.engines.postgres import PostgresOptions, PostgresStore, queries
from coordd.engines.postgres.arrays import register, shorts
from coordd.model import Message, parse_time

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = 3000
RECIPIENTS = ("agent-00", "agent-01", "agent-02", "somebody")


@pytest.fixture
def name(databases):
    name = databases.new()
    yield name
    databases.drop(name)


@pytest.fixture
def connect(databases, name):
    machine = databases.machine
    return lambda: machine.connect(machine.direct_url(name))


@pytest.fixture
async def store(databases, name, connect):
    await asyncio.to_thread(stores.fill, connect, MESSAGES, RECIPIENTS)
    store = PostgresStore(PostgresOptions(parameters=databases.pooled(name)))
    await store.open()
    yield store
    await store.close()


async def test_a_filled_store_agrees_with_itself(store):
    stats = await store.stats()
    assert (stats.messages, stats.unread, stats.events["SENT"]) == (MESSAGES,) * 3
    assert sum(agent.sent for agent in stats.agents.values()) == MESSAGES
    ids, times = {}, []
    for agent in RECIPIENTS:
        page = await store.inbox(agent, limit=1000, order="oldest")
        found = [msgspec.json.decode(each, type=Message) for each in page.messages]
        assert [each.seq for each in found] == list(range(1, MESSAGES // 4 + 1))
        assert page.last_seq == stats.agents[agent].received == MESSAGES // 4
        assert page.version == await store.version(agent) > 0
        ids |= {each.id: each for each in found}
        times += [parse_time(each.created_at) for each in found]
    assert len(ids) == MESSAGES
    assert max(times) - min(times) > timedelta(days=360)
    events = await store.events(limit=1000, order="newest")
    assert events.last_seq == MESSAGES
    for event in events.events:
        each = ids[event.message_id]
        assert (event.timestamp, event.from_agent, event.to_agent, event.subject) == (
            each.created_at, each.from_agent, each.to_agent, each.subject)
    feed = await store.feed(0, MESSAGES + 1)
    assert [change.pos for change in feed.changes] == list(range(1, MESSAGES + 1))


async def test_sends_go_on_where_the_fill_ends(store):
    from coordd.store import Draft

    [receipt] = await store.append([Draft("agent-01", ("somebody",), "subject", "body")])
    assert receipt.deliveries == [("somebody", MESSAGES // 4 + 1)]
    assert receipt.id > max([change.message.id for change in (await store.feed(0, 10_000)).changes
                             if change.message.id != receipt.id])


def test_the_events_of_a_month_are_in_one_partition(databases, name, connect):
    stores.fill(connect, MESSAGES)
    middle = datetime.now(UTC) - timedelta(days=180)
    since = middle.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    values = {"types": shorts([1, 2, 3, 4, 5]), "above": 0, "below": 1 << 62, "since": since,
              "until": (since + timedelta(days=32)).replace(day=1), "limit": 101,
              "agent": "agent-07"}
    with connect() as connection:
        register(connection)
        month = plan_of(connection, queries.EVENTS[True, True], values)
        year = plan_of(connection, queries.EVENTS[True, True], {
            **values, "since": since - timedelta(days=85)})
    assert month.partitions == {f"events_{since:%Y_%m}"}
    assert f"events_{since:%Y_%m}" in month.text
    assert len(year.partitions) == 4


def test_the_bare_loops_run_and_leave_nothing(connect):
    with connect() as connection:
        assert bare.unnest_per_s(connection, 16, 0.1) > 0
        assert bare.copy_per_s(connection, 0.1) > 0
        assert connection.execute("SELECT to_regclass('bare')").fetchall() == [(None,)]


def test_the_importers_process_imports_and_verifies(databases, name, tmp_path):
    machine = databases.machine
    settings = tmp_path / "coordd.toml"
    settings.write_text(
        f'engine = "postgres"\npostgres_url = "{machine.pooled_url(name)}"\n'
        f'postgres_user = "{machine.user}"\npostgres_password_file = "{machine.password_file}"\n',
        encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bench.postgres.importer"], cwd=ROOT, capture_output=True,
        input=msgspec.json.encode(importer.Job(str(settings), 600, each=200)), check=False)
    assert done.returncode == 0, done.stderr
    outcome = msgspec.json.decode(done.stdout, type=importer.Outcome)
    assert outcome.imported_s > 0
    assert outcome.verified_s > 0
