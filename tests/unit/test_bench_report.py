"""The tables and the plot of a made-up run."""

import pytest
from bench import plot, report
from bench.figures import CURVE, spread
from bench.postgres.bare import COPY_LOOP, LARGE_LOOP, SMALL_LOOP
from bench.results import Latency, Limit, Results, Row, Size


@pytest.fixture
def results():
    curve = {f"{percent:g}": 0.001 * (1 + number) for number, percent in enumerate(CURVE)}
    rows = [
        Row(name="POST /messages, 64 connections", unit="msg/s", ours=spread([21e3, 25e3, 24e3]),
            limits=[Limit("no-op server", spread([40e3, 41e3, 42e3])),
                    Limit("raw uvicorn", spread([44e3])),
                    Limit("fdatasync, each", spread([6e3])),
                    Limit("fdatasync, each 64", spread([260e3]))],
            bar="≥ 20,000\n≥ 0.5x", passed=True),
        Row(name="POST /messages/batch of 100, 16 connections", unit="msg/s",
            ours=spread([240e3]), limits=[Limit("no-op server", spread([500e3]))],
            bar="≥ 250,000", passed=False),
        Row(name="start after losing the index", unit="s", ours=spread([2.5])),
    ]
    latencies = [
        Latency(name="POST /messages", server=server, rate=16_000, curve=curve, late=0.0001,
                p99=spread([0.009, 0.011, 0.01]), bar="p99 ≤ 10 ms", passed=passed)
        for server, passed in (("coordd", True), ("no-op", None))]
    return Results(at="2026-01-01T00:00:00+00:00", machine={"cores": "2"}, quick=True, seconds=60,
                   rows=rows, latencies=latencies)


def test_the_tables_fit_and_say_what_was_missed(results):
    text = report.as_text(results)
    assert max(len(line) for line in text.splitlines()) <= report.WIDTH
    assert "24,000 (21,000-25,000)" in text
    assert "0.59" in text
    assert text.count(" NO ") == 1
    assert results.missed() == ["POST /messages/batch of 100, 16 connections"]


def test_a_row_without_a_bar_is_never_missed(results):
    assert results.rows[2].ratio is None
    assert results.rows[2].passed is None


@pytest.mark.parametrize(("value", "text"), [
    (24123.4, "24,123"), (100, "100"), (24.19, "24.2"), (0.123, "0.12"), (9.999, "10.00")])
def test_numbers(value, text):
    assert report.number(value) == text


def test_the_plot_is_written_for_light_and_dark(results, tmp_path):
    svg, png = plot.draw(results, tmp_path)
    text = svg.read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text
    assert "bar 20,000" in text
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_one_measure_only(results, tmp_path):
    results.rows, results.latencies = results.rows[2:], []
    assert all(path.exists() for path in plot.draw(results, tmp_path))


@pytest.fixture
def of_postgres(results):
    """The same as a run of the other engine's."""
    def size(messages, cost):
        return Size(messages=messages, send=spread([16e3 / cost]), batch=spread([60e3 / cost]),
                    inbox_p50=spread([0.001 * cost]), inbox_p99=spread([0.003 * cost]),
                    stats_p50=spread([0.002 * cost]), size_bytes=messages * 1024)

    send, batch, _ = results.rows
    send.limits += [Limit(SMALL_LOOP, spread([31e3])), Limit(LARGE_LOOP, spread([32e3]))]
    batch.limits = [Limit(LARGE_LOOP, spread([103e3])), Limit(COPY_LOOP, spread([104e3]))]
    results.rows.append(Row(name="import, 5,000 a commit", unit="msg/s", ours=spread([85e3]),
                            limits=[Limit(COPY_LOOP, spread([105e3]))]))
    results.engine = "postgres"
    results.sizes = [size(10_000, 1), size(10_000_000, 3)]
    results.plans = {"events of an agent": "Limit [of it]\n  ->  Index Scan using some_index"}
    return results


def test_the_table_of_sizes_and_the_plan(of_postgres):
    lines = report.as_text(of_postgres).splitlines()
    [row] = [line.split() for line in lines if line.strip().startswith("10,000,000")]
    assert row == ["10,000,000", "5,333", "20,000", "3.00", "9.00", "6.00", "9,766"]
    assert max(len(line) for line in lines) <= report.WIDTH
    at = lines.index("EXPLAIN, events of an agent:")
    assert lines[at + 1:] == ["Limit [of it]", "  ->  Index Scan using some_index"]


def test_the_plot_of_postgres_shows_its_own_limits_once(of_postgres, tmp_path):
    svg, png = plot.draw(of_postgres, tmp_path)
    text = svg.read_text(encoding="utf-8")
    for bar in ("bar 12,000", "bar 50,000", "bar 80,000"):
        assert text.count(f">{bar}<") == 1
    for figure in ("31,000", "32,000", "103,000", "104,000", "105,000"):
        assert text.count(f">{figure}<") == 1
    assert ">a message in a batch<" in text
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_postgres_without_measures(of_postgres, tmp_path):
    of_postgres.rows, of_postgres.latencies, of_postgres.sizes = [], [], []
    assert all(path.exists() for path in plot.draw(of_postgres, tmp_path))
