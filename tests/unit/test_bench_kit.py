"""What the bench's measures of the kit rest on."""

import os
import sys
from pathlib import Path

import pytest
from bench.daemon import BenchError
from bench.lab import LabSite, timed
from bench.measures import MEASURES
from bench.stand import QUICK, Stand

ROOT = Path(__file__).resolve().parents[2]


def test_a_command_is_timed_and_what_it_printed_kept():
    seconds, said = timed([sys.executable, "-c", "import time; time.sleep(0.2); print('done')"])
    assert seconds >= 0.2
    assert said == "done\n"


def test_a_command_that_fails_ends_the_run_with_what_it_said():
    with pytest.raises(BenchError, match=r"ended with 3:\nout\nerr"):
        timed([sys.executable, "-c",
               "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])


def test_a_site_of_the_bench_is_rendered_as_an_operator_would(tmp_path):
    site = LabSite(tmp_path / "site")
    site.folder.mkdir()
    (site.folder / "site.yml").write_text(
        (ROOT / "inventories" / "enterprise" / "site.yml").read_text())
    site.timed("render")
    assert (site.folder / "inventory" / "hosts.yml").exists()
    assert len(site.addresses) == 15


def test_without_root_the_labs_measures_are_left_out_in_one_line_each(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = []
    stand = Stand(tmp_path, QUICK, said.append)
    for name in ("kit-machines", "kit-provision", "kit-inbox"):
        MEASURES[name](stand)
    assert said == [f"  {name} is left out: the lab needs root"
                    for name in ("kit-machines", "kit-provision", "kit-inbox")]
    assert stand.rows == []
    assert stand.latencies == []


def test_the_docs_name_every_measure():
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    assert [name for name in MEASURES if name not in text] == []
