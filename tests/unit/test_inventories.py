"""Rendered inventories: the examples, and what may never stand in one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from coordctl import render
from coordctl.profile import LEVELS
from coordctl.site import Site
from coordctl.values import Controller, values_of
from support.inventories import EXAMPLES, rendered

SECRET = r'""|"\{\{ (vault_[a-z0-9_]+|machine_certificate_key) \}\}"'


@pytest.mark.parametrize("level", LEVELS)
def test_the_examples_are_what_the_templates_render(level: str) -> None:
    """`python tests/support/inventories.py` writes them anew."""
    assert render.read(EXAMPLES / level / "inventory") == rendered(level)


@pytest.mark.parametrize("level", LEVELS)
def test_every_file_is_yaml_and_every_variable_belongs_to_its_group(level: str) -> None:
    for name, text in rendered(level).items():
        fields = yaml.safe_load(text)
        kind, _, group = name.removesuffix(".yml").rpartition("/")
        if kind == "group_vars" and group != "all":
            assert all(key.startswith(f"{group}_") for key in fields), name
        if kind == "host_vars":
            assert all(key.startswith("machine_") for key in fields), name


@pytest.mark.parametrize("level", LEVELS)
def test_a_secret_is_named_and_never_there(level: str) -> None:
    for name, text in rendered(level).items():
        for line in text.splitlines():
            key, _, value = line.strip().partition(": ")
            secret = any(word in key for word in ("token", "password", "cookie", "_key"))
            if secret and "ssh" not in key:
                assert re.fullmatch(SECRET, value), f"{name}: {line}"


@pytest.mark.parametrize("level", ["organization", "enterprise"])
def test_prometheus_asks_for_what_there_is_and_may_reach_it(level: str) -> None:
    files = {name: yaml.safe_load(text) for name, text in rendered(level).items()}
    addresses = {name: fields["ansible_host"]
                 for name, fields in files["hosts.yml"]["all"]["hosts"].items()}
    [asker] = files["hosts.yml"]["all"]["children"]["prometheus"]["hosts"]
    assert files["group_vars/exporters.yml"]["exporters_scrapers"] == [asker]
    asked: dict[str, set[str]] = {}
    for job in files["group_vars/prometheus.yml"]["prometheus_jobs"]:
        for machine in job["machines"]:
            assert machine["address"] == addresses[machine["name"]]
            asked.setdefault(machine["name"], set()).add(job.get("module", ""))
            rules = files[f"host_vars/{machine['name']}.yml"]["machine_firewall_rules"]
            open_ = {rule["port"] for rule in rules if addresses[asker] in rule["from"]}
            assert machine["name"] == asker or job.get("port", 9999) in open_, job
    for name in addresses:
        assert {*files[f"host_vars/{name}.yml"]["machine_watched"]} == asked[name] - {""}


def test_what_no_longer_belongs_is_removed_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    files = rendered("organization")
    assert render.write(folder, files) == sorted(files)
    assert render.write(folder, files) == []
    fewer = rendered("team")
    changed = render.write(folder, fewer)
    assert render.read(folder) == fewer
    assert "host_vars/m6.yml" in changed


def test_the_difference_is_shown_by_line() -> None:
    before = {"a.yml": "x: 1\ny: 2\n", "gone.yml": "z: 1\n"}
    after = {"a.yml": "x: 1\ny: 3\n", "new.yml": "w: 1\n"}
    lines = render.diff(before, after)
    assert {"-y: 2", "+y: 3", "+w: 1", "-z: 1", "+++ /dev/null", "--- /dev/null"} <= set(lines)
    assert render.diff(before, before) == []


def test_a_database_without_a_balancer_is_reached_where_it_listens(tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(yaml.safe_dump({
        "name": "example", "level": "team", "machines": {"m1": {"address": "192.0.2.1"}},
        "stack": {"store": "postgres", "backup": "pgbackrest"}}), encoding="utf-8")
    site = Site(tmp_path)
    values = values_of(site.file, site.profile(), site.topology(), Controller(tmp_path, site.url))
    settings = values["group_vars/coordd.yml"][1]["coordd_settings"]
    assert settings["postgres_url"] == "postgresql://192.0.2.1:5432/coordd"
    assert values["group_vars/postgres.yml"][1]["postgres_clients"] == ["192.0.2.1"]
