"""The alert rules: each proved and explained. `promtool`, where it is there, runs their tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
FILES = TOP / "roles/prometheus/files"


def rules() -> list[dict[str, Any]]:
    told = yaml.safe_load((FILES / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in told["groups"] for rule in group["rules"]]


def test_every_alert_has_a_section_that_says_how_grave_it_is() -> None:
    page = (TOP / "docs/alerts.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"(?m)^### (\w+)\n\n(\w+)", page))
    assert sections == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def test_every_alert_says_what_to_type_next() -> None:
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "next"}, rule["alert"]
        assert re.match(r"coordctl |ssh |a larger ", rule["annotations"]["next"]), rule["alert"]


def test_every_alert_is_seen_to_fire() -> None:
    fired = set()
    for file in (FILES / "tests").glob("*.yml"):
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            fired |= {case["alertname"] for case in test["alert_rule_test"]
                      if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.skipif(shutil.which("promtool") is None,
                    reason="the scenario of role prometheus runs them on its machine")
def test_the_rules_pass_their_own_tests() -> None:
    done = subprocess.run(["promtool", "test", "rules", "alerts.yml", "backups.yml"],
                          cwd=FILES / "tests", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
