"""The kit as an installed wheel: what a checkout brings is in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index",
                    "--no-build-isolation", "-w", str(folder), str(TOP)], check=True, timeout=100)
    return next(folder.glob("*.whl"))


def test_the_kit_works_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """Unpacked and used in place of the checkout, it renders the same inventory."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "lib")
    site = tmp_path / "site"
    site.mkdir()
    (site / "site.yml").write_text((TOP / "inventories/team/site.yml").read_text(encoding="utf-8"),
                                   encoding="utf-8")
    program = ("import sys; sys.path.insert(0, sys.argv[1]); from coordctl import kit; "
               "assert str(kit.folder()).startswith(sys.argv[1]), kit.folder(); "
               "from coordctl.cli import main; main(['--site', sys.argv[2], 'render'])")
    done = subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path / "lib"), str(site)],
                          capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for file in (TOP / "inventories/team/inventory").rglob("*.yml"):
        name = file.relative_to(TOP / "inventories/team")
        assert (site / name).read_text(encoding="utf-8") == file.read_text(encoding="utf-8"), name


def test_every_file_that_a_run_reads_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    for folder in ("playbooks", "roles", "templates"):
        for file in (TOP / folder).rglob("*"):
            if file.is_file():
                assert f"coordctl/kit_files/{file.relative_to(TOP)}" in names
    for file in (*(TOP / "control/coordctl").rglob("*.yml"), *(TOP / "server").rglob("*.sql"),
                 TOP / "control/coordctl/probe.sh",
                 *(TOP / "control/coordctl/ansible/plugins").rglob("*.py")):
        parts = file.relative_to(TOP).parts[1:]
        assert "/".join(parts) in names
