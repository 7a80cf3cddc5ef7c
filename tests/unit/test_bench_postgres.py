"""What the bench's measures of engine postgres rest on."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import bench.__main__ as command
import msgspec
import pytest
from bench.daemon import BenchError
from bench.postgres import importer, measures
from bench.postgres.measures import MEASURES
from bench.postgres.plan import Plan
from bench.postgres.stand import FULL, QUICK, PostgresStand
from click.testing import CliRunner

from coordd.engines.files import FilesStore

ROOT = Path(__file__).resolve().parents[2]


def test_the_docs_name_every_measure():
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    assert [name for name in MEASURES if f"`{name}`" not in text] == []


def test_the_sizes_that_the_issue_wants():
    assert FULL.sizes == (10_000, 1_000_000, 10_000_000)
    assert FULL.messages == 1_000_000
    assert max(QUICK.sizes) <= 1_000_000


def test_without_root_the_run_ends_with_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    stand = PostgresStand(tmp_path, QUICK, print)
    for measure in MEASURES.values():
        with pytest.raises(BenchError, match="machine of the lab: the lab needs root"):
            measure(stand)
        stand.release()
    stand.close()


def test_a_measure_of_another_engine_is_refused():
    for engine, measure in (("postgres", "send"), ("files", "pg-send")):
        done = CliRunner().invoke(command.main, ["--engine", engine, "--only", measure])
        assert done.exit_code == 2
        assert f"--only {measure} is no measure of engine {engine}" in done.output


@pytest.mark.parametrize(("now", "since", "until"), [
    ((2026, 11, 25), (2026, 5, 1), (2026, 6, 1)), ((2026, 6, 30), (2025, 12, 1), (2026, 1, 1)),
    ((2026, 5, 31), (2025, 11, 1), (2025, 12, 1))])
def test_the_month_half_a_year_ago(now, since, until):
    assert measures._month_before(datetime(*now, tzinfo=UTC), 6) == (
        datetime(*since, tzinfo=UTC), datetime(*until, tzinfo=UTC))


def scan(kind, table, loops=1, **more):
    return {"Node Type": kind, "Relation Name": table, "Actual Loops": loops, **more}


def plan(*nodes):
    return Plan({"Node Type": "Limit", "Actual Loops": 1, "Plans": [
        {"Node Type": "Append", "Actual Loops": 1, "Plans": list(nodes)}]}, "")


def test_the_partitions_that_a_plan_read():
    found = plan(scan("Index Scan", "events_2026_05"),
                 scan("Bitmap Heap Scan", "events_2026_05", Plans=[
                     {"Node Type": "Bitmap Index Scan", "Actual Loops": 1}]),
                 scan("Seq Scan", "events_2026_06", loops=0))
    assert found.partitions == {"events_2026_05"}
    assert found.only_indexes


def test_a_plan_that_reads_more():
    found = plan(scan("Index Scan", "events_2026_05"), scan("Seq Scan", "events_other"))
    assert found.partitions == {"events_2026_05", "events_other"}
    assert not found.only_indexes


@pytest.fixture
async def store(tmp_path):
    store = FilesStore(tmp_path)
    await store.open()
    yield store
    await store.close()


async def test_an_import_that_is_whole_is_verified(store):
    given = importer.changes(1200)
    await store.import_(given)
    await importer.verify(store, given)


async def test_a_message_too_few_is_noticed(store):
    given = importer.changes(100)
    await store.import_(given[:-1])
    with pytest.raises(importer.DifferenceError, match="the counts are 99"):
        await importer.verify(store, given)


@pytest.mark.parametrize("field", ["id", "subject", "body", "created_at"])
async def test_an_altered_message_is_noticed(store, field):
    given = importer.changes(100)
    altered = importer.changes(100)
    core = altered[50].message
    old = getattr(core, field)
    setattr(core, field, old[:-2] + ("1Z" if field == "created_at" else "ff"))
    assert getattr(core, field) != old
    await store.import_(altered)
    with pytest.raises(importer.DifferenceError, match=r"the inbox of agent-\d\d differs"):
        await importer.verify(store, given)


async def test_another_order_in_an_inbox_is_noticed(store):
    given = importer.changes(300)
    await store.import_(given[::-1])
    with pytest.raises(importer.DifferenceError, match=r"the inbox of agent-\d\d differs"):
        await importer.verify(store, given)


def test_the_importers_process_says_why_it_fails(tmp_path):
    """Its settings are coordd's: here the files engine's, which it can do as well."""
    import subprocess
    import sys

    settings = tmp_path / "coordd.toml"
    settings.write_text(f'data = "{tmp_path / "data"}"\n', encoding="utf-8")
    job = msgspec.json.encode(importer.Job(str(settings), 2000, each=500))
    argv = [sys.executable, "-m", "bench.postgres.importer"]
    first = subprocess.run(argv, input=job, cwd=ROOT, capture_output=True, check=False)
    assert first.returncode == 0, first.stderr
    assert min(json.loads(first.stdout).values()) > 0
    again = subprocess.run(argv, input=job, cwd=ROOT, capture_output=True, check=False)
    assert again.returncode == 1
    assert b"500 changes were skipped" in again.stderr
