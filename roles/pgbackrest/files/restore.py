"""restore.py source TIME | anchor | rebuild TIME BACKUP TIMELINE | wipe: a restore to a moment.

playbooks/restore.yml runs them in order. TIME is ISO 8601 with its offset from UTC, or `latest`.
    source    on the repository: the newest backup that is older than TIME, and the timeline that
              was written then; fails where there is none
    anchor    on a machine of the database: prints `leads` where it leads, and sends all that was
              written until now to the repository
    rebuild   on one machine, with Patroni stopped on all: the database as it was at TIME, and etcd
              knows nothing of it any more, so that this machine begins anew
    wipe      on the others: nothing is left of theirs, so that they copy it
Any step can be run again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DATA = Path("/var/lib/postgresql/17/main")
BINARIES = "/usr/lib/postgresql/17/bin"
PATRONI = "/etc/patroni/coordctl.yml"
LOG = Path("/var/log/postgresql/coordctl-restore.log")
ARCHIVE_LIMIT_S = 120.0
SETTINGS = re.compile(r"^(recovery_|restore_command|primary_|archive_cleanup_|standby_)")


def run(*words: str, given: str = "", check: bool = True) -> str:
    """What a program prints, run as user postgres. Ends where it fails, unless `check` is false."""
    done = subprocess.run(["runuser", "-u", "postgres", "--", *words], cwd="/", input=given,
                          capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(words[:3])} … ended with {done.returncode}: "
                 f"{done.stdout}{done.stderr}")
    return done.stdout if done.returncode == 0 else ""


def stanza() -> str:
    """What the database is called in the repository."""
    text = Path("/etc/pgbackrest/pgbackrest.conf").read_text(encoding="utf-8")
    return re.findall(r"(?m)^\[([^:\]]+)\]$", text)[-1]


def timeline(wanted: datetime) -> int:
    """The one that was written at that time: each failover and each restore begins another one, and
    its history comes to the archive at once.
    """
    begun = [int(file.stem, 16) for file in archive().glob("*/*.history")
             if datetime.fromtimestamp(file.stat().st_mtime, UTC) <= wanted]
    return max(begun, default=1)


def archive() -> Path:
    """The folder of the repository's archive."""
    text = Path("/etc/pgbackrest/pgbackrest.conf").read_text(encoding="utf-8")
    return Path(re.findall(r"(?m)^repo1-path=(.+)$", text)[0], "archive", stanza())


def source(moment: str) -> None:
    """See the module."""
    told: list[dict[str, Any]] = json.loads(run(
        "pgbackrest", f"--stanza={stanza()}", "--output=json", "info"))[0]["backup"]
    if not told:
        sys.exit("there is no backup yet: systemctl start coordctl-pgbackrest@full makes one")
    ends = {backup["label"]: datetime.fromtimestamp(backup["timestamp"]["stop"], UTC)
            for backup in told}
    wanted = datetime.now(UTC) if moment == "latest" else datetime.fromisoformat(moment)
    if wanted > datetime.now(UTC):
        sys.exit(f"{moment} has not come yet")
    before = [label for label, end in ends.items() if end <= wanted]
    if not before:
        sys.exit(f"no backup is older than {moment}: the oldest one was whole at "
                 f"{min(ends.values()).isoformat()}")
    print(max(before, key=lambda label: ends[label]),
          "latest" if moment == "latest" else timeline(wanted))


def anchor() -> None:
    """See the module."""
    leads = run("psql", "-AtXc", "SELECT NOT pg_is_in_recovery()", check=False).strip() == "t"
    if not leads:
        return
    # A restore needs something that was committed after its moment, to know that it has passed it.
    run("psql", "-AtXc", "SET synchronous_commit = local; SELECT pg_current_xact_id()")
    piece = run("psql", "-AtXc", "SELECT pg_walfile_name(pg_switch_wal())").strip()
    deadline = time.monotonic() + ARCHIVE_LIMIT_S
    while run("psql", "-AtXc", "SELECT last_archived_wal >= "
              f"'{piece}' FROM pg_stat_archiver").strip() != "t":
        if time.monotonic() > deadline:
            sys.exit(f"{piece}, the log of the last writes, has not come to the repository in "
                     f"{ARCHIVE_LIMIT_S:.0f} s: journalctl -u patroni says why")
        time.sleep(0.5)
    print("leads")


def rebuild(moment: str, label: str, line: str) -> None:
    """See the module."""
    target = (["--type=default"] if moment == "latest" else
              ["--type=time", f"--target={datetime.fromisoformat(moment).isoformat(' ')}",
               "--target-action=promote", f"--target-timeline={line}"])
    run(f"{BINARIES}/pg_ctl", "stop", "-D", str(DATA), "-m", "fast", "-w", check=False)
    run("pgbackrest", f"--stanza={stanza()}", "--delta", f"--set={label}", *target, "restore")
    LOG.unlink(missing_ok=True)
    # Nobody is let in until it has arrived: not by the network, and no reader on the way.
    run(f"{BINARIES}/pg_ctl", "start", "-D", str(DATA), "-w", "-t", "86400", "-l", str(LOG), "-o",
        "-c listen_addresses='' -c hot_standby=off")
    while not ready():
        if not run(f"{BINARIES}/pg_ctl", "status", "-D", str(DATA), check=False):
            lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            sys.exit("\n".join(["Postgres ended on the way:", *lines]))
        time.sleep(0.5)
    run(f"{BINARIES}/pg_ctl", "stop", "-D", str(DATA), "-m", "fast", "-w", "-t", "86400")
    forget_target()
    forget_cluster()


def ready() -> bool:
    """Whether it takes writes."""
    return run("psql", "-AtXc", "SELECT pg_is_in_recovery()", check=False).strip() == "f"


def forget_target() -> None:
    """What pgBackRest has told Postgres is for the way here, not for when it follows another."""
    file = DATA / "postgresql.auto.conf"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not SETTINGS.match(line)), encoding="utf-8")
    (DATA / "recovery.signal").unlink(missing_ok=True)


def forget_cluster() -> None:
    """Have etcd forget who led and how far the database was."""
    scope = json.loads(re.findall(r"(?m)^scope: (.+)$",
                                  Path(PATRONI).read_text(encoding="utf-8"))[0])
    run("patronictl", "-c", PATRONI, "remove", scope, given=f"{scope}\nYes I am aware\n")


def wipe() -> None:
    """See the module."""
    run(f"{BINARIES}/pg_ctl", "stop", "-D", str(DATA), "-m", "fast", "-w", check=False)
    shutil.rmtree(DATA, ignore_errors=True)


if __name__ == "__main__":
    os.umask(0o077)
    {"source": source, "anchor": anchor, "rebuild": rebuild, "wipe": wipe}[sys.argv[1]](
        *sys.argv[2:])
