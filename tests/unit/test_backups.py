"""Backups of the database: where they are kept, and which moments a restore takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coordctl import backups
from coordctl.errors import CoordctlError
from coordctl.site import Site
from coordctl.values import keeps_backups
from support.inventories import EXAMPLES


def site_of(folder: Path, **fields: object) -> Site:
    told = yaml.safe_load((EXAMPLES / "organization" / "site.yml").read_text(encoding="utf-8"))
    (folder / "site.yml").write_text(yaml.safe_dump(told | fields), encoding="utf-8")
    return Site(folder)


@pytest.mark.parametrize("machines", [3, 4, 5, 6])
def test_backups_are_kept_apart_from_the_database(tmp_path: Path, machines: int) -> None:
    here = site_of(tmp_path, compact=machines < 6, machines={
        f"m{number}": {"address": f"192.0.2.{number}"} for number in range(1, machines + 1)})
    assert keeps_backups(here.topology()) not in here.topology().bearers("postgres")


@pytest.mark.parametrize(("moment", "why"), [
    ("tomorrow", "--to is 'tomorrow': such as 2026-11-24T02:31"),
    ("2026-13-01", "--to is '2026-13-01': such as"),
    ("9999-01-01T00:00", "--to is '9999-01-01T00:00', which has not come yet")])
def test_a_moment_that_is_none_is_told(tmp_path: Path, moment: str, why: str) -> None:
    with pytest.raises(CoordctlError) as told:
        backups.restore(site_of(tmp_path).folder, moment, yes=True)
    assert str(told.value).startswith(why)
    assert told.value.mend.startswith("date")


def test_a_files_store_is_restored_by_hand(tmp_path: Path) -> None:
    here = site_of(tmp_path, level="team", machines={"m1": {"address": "192.0.2.1"}})
    with pytest.raises(CoordctlError, match="whole files") as told:
        backups.restore(here.folder, "2026-11-24T02:31", yes=True)
    assert told.value.mend.startswith("less docs/backup.md")


def test_a_level_without_backups_says_so(tmp_path: Path) -> None:
    here = site_of(tmp_path, level="individual", machines={}, domain=None)
    with pytest.raises(CoordctlError, match="individual has no backups"):
        backups.backup(here.folder)
