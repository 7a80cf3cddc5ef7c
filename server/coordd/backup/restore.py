"""A restore: a coordd of its own takes a backup into an empty folder. A backup is proved by one."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from coordd.backup import archive
from coordd.backup.archive import Counter, Total
from coordd.backup.calls import BackupError, Server
from coordd.store import Change

START_LIMIT_S: Final = 120.0
STOP_LIMIT_S: Final = 120.0
BATCH_BYTES: Final = 4 << 20
BATCH: Final = 1000

_change_of = msgspec.json.Decoder(Change)
_listening = re.compile(r"listening on (http://\S+),")


@contextmanager
def served(data: Path) -> Iterator[Server]:
    """A coordd on `data` for us alone: on loopback, with tokens, and a token of its own."""
    with tempfile.TemporaryDirectory(prefix="coordd-restore-") as name:
        folder = Path(name)
        token = f"coord_admin_{secrets.token_urlsafe(32)}"
        descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(token)
        settings = {"data": str(data), "port": 0, "auth": "token", "log_level": "info",
                    "admin_token_file": str(folder / "token")}
        # A JSON text is a TOML text, but for DEL, which JSON leaves as it is.
        (folder / "coordd.toml").write_text("".join(
            f"{key} = {json.dumps(value)}\n".replace("\x7f", "\\u007f")
            for key, value in settings.items()), encoding="utf-8")
        environ = {k: v for k, v in os.environ.items()
                   if not k.startswith("COORDD_") and k != "NOTIFY_SOCKET"}
        log = folder / "log"
        with log.open("wb") as out_log:
            process = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
                [sys.executable, "-P", "-m", "coordd", "--settings", str(folder / "coordd.toml")],
                stdin=subprocess.DEVNULL, stdout=out_log, stderr=out_log, env=environ)
        try:
            with Server(_address(process, log), token) as server:
                yield server
        finally:
            process.terminate()
            try:
                code = process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = -9
        if code != 0:
            raise BackupError(f"the restored server ended with exit code {code}: {_last(log)}")


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if found := _listening.search(log.read_text(encoding="utf-8", errors="replace")):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise BackupError(f"no server could be started for the restore: {_last(log)}")


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def fill(server: Server, file: Path, check_room: Callable[[], None]) -> Total:
    """Import all of the backup; the server is sealed then. Raises BackupError."""
    server.seal()
    counter = Counter()
    batch: list[bytes] = []
    size_bytes = 0
    for line in archive.changes(file):
        counter.add(line)
        batch.append(line)
        size_bytes += len(line)
        if size_bytes >= BATCH_BYTES or len(batch) >= BATCH:
            check_room()
            server.import_(batch)
            batch, size_bytes = [], 0
    if batch:
        check_room()
        server.import_(batch)
    return counter.total()


def compare(server: Server, file: Path) -> None:
    """Read the restored feed back beside the backup. Raises BackupError for a difference.

    The order is compared, not the positions: a seal, each store's own, takes one of them.
    """
    restored = (bytes(change) for page in server.feed() for change in page.changes)
    number = 0
    for number, line in enumerate(archive.changes(file), 1):
        found = next(restored, None)
        if found is None or _content(found) != _content(line):
            raise BackupError(f"change {number} of {file.name} comes back otherwise: "
                              f"{_which(line)} as {_which(found) if found else 'nothing'}")
    if next(restored, None) is not None:
        raise BackupError(f"more than the {number} changes of {file.name} come back")


def _content(line: bytes) -> Change:
    change = _change_of.decode(line)
    change.pos = 0
    return change


def _which(line: bytes) -> str:
    """A change without its texts: they are not for a log."""
    change: dict[str, Any] = json.loads(line)
    return f"{change.get('type')} {change.get('id') or (change.get('message') or {}).get('id')}"


def prove(file: Path, free_min_bytes: int) -> tuple[Total, dict[str, Any]]:
    """Restore the backup into a scratch folder beside it, and compare. (total, counts).

    Raises BackupError, OSError.
    """
    with (tempfile.TemporaryDirectory(prefix=".proof-", dir=file.parent) as scratch,
          served(Path(scratch, "data")) as server):
        total = fill(server, file, lambda: archive.check_room(file.parent, free_min_bytes))
        compare(server, file)
        return total, server.stats()


def restore(file: Path, data: Path) -> Total:
    """Make the store of the backup in `data`, which must be empty or missing.

    Raises BackupError, OSError; a restore that failed leaves nothing in it that a server would
    take for whole: the store is sealed until all of it is there.
    """
    if data.exists() and any(data.iterdir()):
        raise BackupError(f"{data} is not empty: a restore needs an empty folder")
    archive.total_of(file)
    with served(data) as server:
        total = fill(server, file, lambda: None)
        compare(server, file)
        server.unseal()
    return total
