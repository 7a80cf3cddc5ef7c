"""What the parts may know of each other, and what the locks may hold."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def imported(folder: Path) -> set[str]:
    """The top-level names that a package's modules import."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("folder", "unknown"), [
    ("control/coordctl", {"coordd", "coord"}),
    ("server/coordd", {"coordctl", "coord"}),
    ("server/coord", {"coordctl", "coordd"}),
])
def test_the_parts_know_each_other_by_the_api_alone(folder: str, unknown: set[str]) -> None:
    assert not imported(TOP / folder) & unknown


@pytest.mark.parametrize(("lock", "extras"), [
    ("run.txt", ["server", "control"]), ("dev.txt", ["server", "control", "dev"])])
def test_a_lock_holds_versions_and_hashes_alone(lock: str, extras: list[str]) -> None:
    text = (TOP / "lock" / lock).read_text(encoding="utf-8")
    line = re.compile(r"[a-z0-9.-]+==[^\s;]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [odd for odd in text.splitlines() if not line.fullmatch(odd)] == []
    locked = set(re.findall(r"(?m)^([a-z0-9.-]+)==", text))
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in wanted}
    assert names - {"coordctl"} <= locked


def test_the_locks_agree() -> None:
    def pins(lock: str) -> dict[str, str]:
        text = (TOP / "lock" / lock).read_text(encoding="utf-8")
        return dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", text))

    run, dev = pins("run.txt"), pins("dev.txt")
    assert {name: dev[name] for name in run if name in dev} == {
        name: version for name, version in run.items() if name in dev}
