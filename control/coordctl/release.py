"""A release: what a message-server machine installs, built once here, for its Python and machine.

It is one file, `wheels.tar`: our own server and client as a wheel, the wheels that lock/server.txt
names, and a `requirements.txt` with the hash of each, so that the machine needs no package index.
A release's folder is there whole or not at all, and the same input gives the same id.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from coordctl import folders, kit
from coordctl.durable import sync_folder
from coordctl.errors import CoordctlError

DISTRIBUTION: Final = "coordctl"
PACKAGES: Final = ("coord", "coordd")
"""What of our distribution a server's machine gets. The operator's tool and the roles are not for
it: a change to them is no new release."""
ARCHIVE: Final = "wheels.tar"
MACHINES: Final = ("x86_64", "aarch64")
GLIBC: Final = tuple(range(36, 16, -1))
"""Debian 13 has glibc 2.41: its wheels may ask for any of these 2.x."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class Release(NamedTuple):
    """A built release. `folder` holds ARCHIVE."""

    id: str
    folder: Path


def cache_folder() -> Path:
    """Where releases are kept."""
    return folders.cache() / "releases"


def build(python: str, machine: str) -> Release:
    """The release for machines with this Python ("3.13") and architecture ("x86_64").

    Taken from the cache where it was built before; else its wheels are downloaded. Raises
    CoordctlError.
    """
    if not re.fullmatch(r"3\.[0-9]+", python) or machine not in MACHINES:
        raise CoordctlError(f"there is no release for Python {python} on {machine}: machines have "
                            f"Python 3 and are {' or '.join(MACHINES)}", mend="coordctl doctor")
    name, wheel = own_wheel()
    locked = requirements(python, machine)
    version = importlib.metadata.version(DISTRIBUTION)
    digest = hashlib.sha256("\n".join([python, machine, *locked]).encode() + wheel).hexdigest()
    release = Release(f"{version}-{digest[:12]}", cache_folder() / f"{version}-{digest[:12]}")
    if release.folder.exists():
        os.utime(release.folder)  # in use: not to be pruned
        return release
    prune()
    release.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=release.folder.parent) as beside:
        wheels = Path(beside, "wheels")
        _download(locked, python, machine, wheels)
        (wheels / name).write_bytes(wheel)
        made = Path(beside, "release")
        made.mkdir()
        _pack(wheels, made / ARCHIVE)
        sync_folder(made)
        try:
            made.rename(release.folder)
        except OSError:  # another coordctl was first, with the same
            if not release.folder.exists():
                raise
    sync_folder(release.folder.parent)
    return release


def own_wheel() -> tuple[str, bytes]:
    """Our server and client as a wheel: (file name, content). The same files give the same bytes.

    Made of the packages as they run here, from a checkout or installed alike.
    """
    ours = importlib.metadata.distribution(DISTRIBUTION)
    info = f"{DISTRIBUTION}-{ours.version}.dist-info"
    files = {name: path.read_bytes() for package in PACKAGES for name, path in _sources(package)}
    scripts = sorted(f"{script.name} = {script.value}" for script in ours.entry_points
                     if script.group == "console_scripts" and script.module.split(".")[0]
                     in PACKAGES)
    files |= {
        f"{info}/METADATA": (ours.read_text("METADATA") or "").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: coordctl\nRoot-Is-Purelib: true\n"
                         b"Tag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(["[console_scripts]", *scripts, ""]).encode()}
    record = [f"{name},sha256={_record_hash(content)},{len(content)}"
              for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return f"{DISTRIBUTION}-{ours.version}-py3-none-any.whl", out.getvalue()


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """The package's files: (name in the wheel, path), sorted."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise CoordctlError(f"the package {package} is not installed beside coordctl",
                            mend="make up")
    top = Path(spec.origin).parent
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{package}/{path.relative_to(top).as_posix()}", path


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def requirements(python: str, machine: str) -> list[str]:
    """The lines of lock/server.txt that hold on such a machine: `name==version --hash=… …`.

    pip would ask its own interpreter whether a marker holds; here the machine's counts.
    """
    from packaging.requirements import Requirement

    there = {"implementation_name": "cpython", "os_name": "posix", "platform_machine": machine,
             "platform_python_implementation": "CPython", "platform_system": "Linux",
             "python_full_version": f"{python}.0", "python_version": python,
             "sys_platform": "linux", "extra": ""}
    text = (kit.folder() / "lock" / "server.txt").read_text(encoding="utf-8")
    lines = []
    for entry in text.replace("\\\n", " ").splitlines():
        needed, *hashes = re.split(r"\s+(?=--hash=)", entry.strip())
        requirement = Requirement(needed)
        if requirement.marker is None or requirement.marker.evaluate(there):
            requirement.marker = None
            lines.append(" ".join([str(requirement), *hashes]))
    return lines


def _download(locked: list[str], python: str, machine: str, wheels: Path) -> None:
    wheels.mkdir()
    listed = wheels.with_name("locked.txt")
    listed.write_text("\n".join(locked) + "\n", encoding="utf-8")
    tag = "cp" + python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC]
    done = subprocess.run(  # noqa: S603  our own interpreter, no shell
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
         "--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", python,
         "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none",
         *(word for one in (*platforms, f"manylinux2014_{machine}") for word in
           ("--platform", one)), "--dest", str(wheels), "-r", str(listed)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise CoordctlError(f"the wheels for Python {python} on {machine} can't be downloaded; "
                            "pip says:", details="\n".join(f"  {line}" for line in lines[-8:]),
                            mend="the same command, once that is mended")


def _pack(wheels: Path, archive: Path) -> None:
    """All of `wheels` and a requirements.txt in a tar that depends on nothing else; fsynced."""
    files = sorted(wheels.glob("*.whl"))
    pinned = []
    for wheel in files:
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pinned.append(f"{name}=={version} --hash=sha256:{digest}")
    listing = "\n".join([*pinned, ""]).encode()
    with archive.open("wb") as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            entry = tarfile.TarInfo("requirements.txt")
            entry.size = len(listing)
            tar.addfile(entry, io.BytesIO(listing))
            for wheel in files:
                entry = tarfile.TarInfo(wheel.name)
                entry.size = wheel.stat().st_size
                with wheel.open("rb") as content:
                    tar.addfile(entry, content)
        out.flush()
        os.fsync(out.fileno())


def prune(keep: int = 10) -> None:
    """Remove all but the `keep` releases used last, and what a kill left behind a day ago."""
    folder = cache_folder()
    if not folder.exists():
        return
    for rest in folder.glob(".new-*"):
        if rest.stat().st_mtime < time.time() - 86400:  # a younger one may be at work
            shutil.rmtree(rest, ignore_errors=True)
    releases = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")),
                      key=lambda entry: entry.stat().st_mtime, reverse=True)
    for old in releases[keep:]:
        shutil.rmtree(old, ignore_errors=True)
