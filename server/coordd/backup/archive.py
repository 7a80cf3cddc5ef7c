"""A backup's files: `coordd-<UTC time>.jsonl.gz`, and beside it a manifest once it is proved.

The first line names the format, the last one counts the changes and holds the SHA-256 over all
lines between: a change each, as the feed gave it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from coordd import __version__
from coordd.backup.calls import BackupError, Server

FORMAT: Final = "coordd-backup-1"
NAME: Final = re.compile(r"coordd-\d{8}T\d{6}Z\.jsonl\.gz")
LEVEL: Final = 6


class Total(NamedTuple):
    """What a backup holds: changes, the position of the last one, SHA-256 over them in order."""

    changes: int
    position: int
    sha256: str


class _Position(msgspec.Struct):
    pos: int


_position_of = msgspec.json.Decoder(_Position)


class Counter:
    """Counts changes as they come by."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._changes = 0
        self._last = b'{"pos":0}'

    def add(self, line: bytes) -> None:
        """Count a change (its JSON without a line end)."""
        self._sha256.update(line + b"\n")
        self._changes += 1
        self._last = line

    def total(self) -> Total:
        """What has come by. Raises BackupError where the last change is none."""
        try:
            position = _position_of.decode(self._last).pos
        except msgspec.MsgspecError as error:
            raise BackupError(f"change {self._changes} is none: {error}") from None
        return Total(self._changes, position, self._sha256.hexdigest())


def check_room(folder: Path, free_min_bytes: int) -> None:
    """Raises BackupError where the disk has less left: the server must go on storing."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < free_min_bytes:
        raise BackupError(f"less than {free_min_bytes >> 20} MiB are left on the disk of {folder}")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(server: Server, folder: Path, free_min_bytes: int) -> tuple[Path, Total]:
    """Write the server's feed to a new file, which is there whole or not at all.

    Raises BackupError, OSError.
    """
    now = datetime.now(UTC)
    file = folder / f"coordd-{now:%Y%m%dT%H%M%SZ}.jsonl.gz"
    beside = folder / f".{file.name}.tmp"
    head = {"format": FORMAT, "server": server.version(), "created_at": now.isoformat()}
    counter = Counter()
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as out:
                out.write(json.dumps(head).encode() + b"\n")
                for page in server.feed():
                    check_room(folder, free_min_bytes)
                    for change in page.changes:
                        line = bytes(change)
                        counter.add(line)
                        out.write(line + b"\n")
                total = counter.total()
                out.write(json.dumps({"end": total._asdict()}).encode() + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
        beside.rename(file)
        sync_folder(folder)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    return file, total


def changes(file: Path) -> Iterator[bytes]:
    """The changes of a backup, checked to the end. Raises BackupError where it is damaged."""
    counter = Counter()
    try:
        with gzip.open(file, "rb") as lines:
            head = json.loads(next(lines, b"{}"))
            if head.get("format") != FORMAT:
                raise BackupError(f"{file} is no backup that coordd {__version__} reads")
            held: bytes | None = None
            for line in lines:
                if held is not None:
                    counter.add(held)
                    yield held
                held = line.removesuffix(b"\n")
            end = json.loads(held or b"{}").get("end")
    except (OSError, EOFError, zlib.error, ValueError, AttributeError) as error:
        raise BackupError(f"{file} is damaged: {error}") from None
    total = counter.total()
    if end != total._asdict():
        raise BackupError(f"{file} is damaged: it ends with {end}, and holds {total._asdict()}")


def total_of(file: Path) -> Total:
    """What a backup holds. Raises BackupError where it is damaged."""
    counter = Counter()
    for line in changes(file):
        counter.add(line)
    return counter.total()


def manifest_of(file: Path) -> Path:
    """The file that says that a backup is good."""
    return file.with_name(file.name.removesuffix(".jsonl.gz") + ".json")


def write_manifest(file: Path, fields: dict[str, Any]) -> None:
    """Write a backup's manifest, whole or not at all. Raises OSError."""
    manifest = manifest_of(file)
    beside = manifest.with_name(f".{manifest.name}.tmp")
    with beside.open("w", encoding="utf-8") as out:
        json.dump(fields, out, indent=2)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    beside.rename(manifest)
    sync_folder(file.parent)


def backups(folder: Path) -> list[Path]:
    """All backups of `folder`, the oldest first."""
    return sorted(entry for entry in folder.iterdir() if NAME.fullmatch(entry.name))


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove the good backups but the newest `keep`, and those that were never proved.

    What was removed. Raises OSError.
    """
    good = [file for file in backups(folder) if manifest_of(file).exists()]
    gone = [file for file in backups(folder) if file not in good] + good[:-keep]
    for file in gone:
        manifest_of(file).unlink(missing_ok=True)
        file.unlink()
    sync_folder(folder)
    return gone
