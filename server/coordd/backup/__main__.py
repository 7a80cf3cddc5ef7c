"""`python -m coordd.backup run|verify|restore|list`: see docs/backup.md.

Exit code 0: all of it is done, and proved; 1: it is not, a line on stderr says why; 2: wrong use.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from coordd.backup import archive, restore
from coordd.backup.calls import BackupError, Server

KEEP: Final = 14
FREE_MIN_MIB: Final = 256

log = logging.getLogger("coordd.backup")


def run(folder: Path, url: str, token_file: Path, keep: int, free_min_bytes: int) -> None:
    """Back up, prove, write the manifest, remove what is too old. Raises BackupError, OSError."""
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BackupError(f"{token_file}: {error.strerror}") from None
    began = time.monotonic()
    with _alone(folder), Server(url, token) as server:
        for rest in [*folder.glob(".coordd-*.tmp"), *folder.glob(".proof-*")]:
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        archive.check_room(folder, free_min_bytes)
        before = server.stats()
        file, total = archive.write(server, folder, free_min_bytes)
        log.info("%s: %d changes, %d bytes in %.1f s", file, total.changes, file.stat().st_size,
                 time.monotonic() - began)
        again, counts = restore.prove(file, free_min_bytes)
        if again != total:
            raise BackupError(f"{file} holds {again._asdict()}, not {total._asdict()} as written")
        # Of a server that was at work meanwhile the counts belong to no one position.
        if before == server.stats() and counts != before:
            raise BackupError(f"{file} restored counts {counts}, the server {before}")
        archive.write_manifest(file, {
            "file": file.name, "size_bytes": file.stat().st_size, "messages": counts["messages"],
            "events": counts["events"], **total._asdict(), "version": server.version(),
            "verified_at": datetime.now(UTC).isoformat()})
        gone = archive.prune(folder, keep)
    log.info("%s: proved by a restore: %d messages, position %d, in %.1f s; %d old removed", file,
             counts["messages"], total.position, time.monotonic() - began, len(gone))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BackupError(f"another backup to {folder} is at work") from None
    finally:
        os.close(descriptor)


def listing(folder: Path) -> list[dict[str, Any]]:
    """Each backup's manifest, the oldest first; one that was not proved has a name and a size."""
    rows = []
    for file in archive.backups(folder):
        try:
            rows.append(json.loads(archive.manifest_of(file).read_text(encoding="utf-8")))
        except FileNotFoundError:
            rows.append({"file": file.name, "size_bytes": file.stat().st_size,
                         "verified_at": None})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        if arguments.verb == "run":
            run(arguments.dir, arguments.url, arguments.token_file, arguments.keep,
                arguments.free_min_mib << 20)
        elif arguments.verb == "list":
            for row in listing(arguments.dir):
                sys.stdout.write(json.dumps(row) + "\n")
        elif arguments.verb == "verify":
            total, counts = _verify(arguments.file)
            sys.stdout.write(json.dumps(total._asdict() | {"messages": counts["messages"]}) + "\n")
        else:
            total = restore.restore(arguments.file, arguments.data)
            sys.stdout.write(json.dumps(total._asdict()) + "\n")
    except (BackupError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"coordd.backup: {' '.join(text.split())}\n")
        return 1
    return 0


def _verify(file: Path) -> tuple[archive.Total, dict[str, Any]]:
    """As when it was made: whole, what its manifest says, and restored to the same."""
    archive.total_of(file)  # whole in itself, before a server is given any of it
    total, counts = restore.prove(file, 0)
    manifest = archive.manifest_of(file)
    if manifest.exists():
        said = json.loads(manifest.read_text(encoding="utf-8"))
        if any(said.get(key) != value for key, value in total._asdict().items()):
            raise BackupError(f"{file} holds {total._asdict()}, its manifest says otherwise")
    return total, counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coordd.backup", description="Backups of coordd.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    given = os.environ.get("CREDENTIALS_DIRECTORY", "")
    one = verbs.add_parser("run", help="back up a running server, and prove it by a restore")
    one.add_argument("--dir", type=Path, required=True, help="where the backups lie")
    one.add_argument("--url", default="http://127.0.0.1:8000", help="the server [%(default)s]")
    one.add_argument("--token-file", type=Path, required=not given, metavar="FILE",
                     default=Path(given, "admin-token"), help="holds the operator's token "
                     "[systemd's credential admin-token]")
    one.add_argument("--keep", type=int, default=KEEP, metavar="N",
                     help="good backups to keep [%(default)s]")
    one.add_argument("--free-min-mib", type=int, default=FREE_MIN_MIB, metavar="N",
                     help="what must stay free on the disk [%(default)s]")
    one = verbs.add_parser("verify", help="restore a backup to a scratch folder and compare")
    one.add_argument("file", type=Path)
    one = verbs.add_parser("restore", help="make the store of a backup; its server is stopped")
    one.add_argument("file", type=Path)
    one.add_argument("--data", type=Path, required=True, metavar="DIR", help="an empty folder")
    one = verbs.add_parser("list", help="a line of JSON for each backup, the oldest first")
    one.add_argument("--dir", type=Path, required=True, help="where the backups lie")
    return parser


if __name__ == "__main__":
    sys.exit(main())
