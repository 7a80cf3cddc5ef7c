"""What a release holds, and that the same input makes the same one."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from coordctl import kit, release
from coordctl.errors import CoordctlError


def test_our_wheel_is_the_same_bytes_each_time_and_holds_no_operators_tool() -> None:
    name, wheel = release.own_wheel()
    assert release.own_wheel() == (name, wheel)
    assert re.fullmatch(r"coordctl-[\d.]+-py3-none-any\.whl", name)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = archive.namelist()
        record = next(one for one in names if one.endswith("/RECORD"))
        assert sorted(line.split(",")[0] for line in archive.read(record).decode().split()
                      ) == sorted(names)
        scripts = archive.read(record.replace("RECORD", "entry_points.txt")).decode()
    assert "coordd/__main__.py" in names
    assert "coord/cli.py" in names
    assert not [one for one in names if one.startswith("coordctl/") or "__pycache__" in one]
    assert "coordd = coordd.__main__:main" in scripts
    assert "coordctl =" not in scripts


def test_requirements_are_those_of_the_machine_not_of_the_controller() -> None:
    new, old = release.requirements("3.13", "x86_64"), release.requirements("3.11", "x86_64")
    assert [line for line in new if line.startswith("async-timeout")] == []
    assert [line for line in old if line.startswith("async-timeout")] != []
    for line in new:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+( --hash=sha256:[0-9a-f]{64})+", line)


def test_every_package_of_the_lock_is_among_them() -> None:
    text = (kit.folder() / "lock" / "server.txt").read_text(encoding="utf-8")
    locked = re.findall(r"(?m)^([a-z0-9.-]+==\S+) \\$", text)
    assert locked
    assert set(locked) <= {line.split()[0] for line in release.requirements("3.13", "x86_64")}


@pytest.mark.parametrize(("python", "machine"), [("3.13", "i686"), ("2.7", "x86_64"),
                                                 ("3.13; x", "x86_64")])
def test_a_machine_that_there_is_no_release_for(python: str, machine: str) -> None:
    with pytest.raises(CoordctlError, match="there is no release"):
        release.build(python, machine)


def test_the_archive_holds_each_wheel_with_its_hash(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a_b-1.0-py3-none-any.whl").write_bytes(b"one")
    (wheels / "c-2.0-py3-none-any.whl").write_bytes(b"two")
    release._pack(wheels, tmp_path / "first.tar")
    os.utime(wheels / "c-2.0-py3-none-any.whl", (1, 1))
    release._pack(wheels, tmp_path / "second.tar")
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
    with tarfile.open(tmp_path / "first.tar") as tar:
        listing = tar.extractfile("requirements.txt")
        assert listing is not None
        assert listing.read().decode().splitlines() == [
            f"a_b==1.0 --hash=sha256:{hashlib.sha256(b'one').hexdigest()}",
            f"c==2.0 --hash=sha256:{hashlib.sha256(b'two').hexdigest()}"]


def test_a_download_that_fails_leaves_no_release(tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds no index at all."""
    for key, value in {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1",
                       "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(CoordctlError, match="can't be downloaded") as caught:
        release.build("3.13", "x86_64")
    assert caught.value.details
    assert list(release.cache_folder().iterdir()) == []


def test_old_releases_and_what_a_kill_left_are_removed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    release.prune()
    for age in range(4):
        (release.cache_folder() / f"0.1.0-{age}").mkdir(parents=True)
        os.utime(release.cache_folder() / f"0.1.0-{age}", (1000 - age, 1000 - age))
    for name, at in ((".new-old", 1), (".new-at-work", None)):
        (release.cache_folder() / name).mkdir()
        os.utime(release.cache_folder() / name, at and (at, at))
    release.prune(keep=2)
    assert {one.name for one in release.cache_folder().iterdir()} == {
        "0.1.0-0", "0.1.0-1", ".new-at-work"}
