"""`coordctl backup` and `restore --to TIME`: the database's, and a backup of the files store's.

A restore to a moment is playbooks/restore.yml: the message servers stop, one machine of the
database is brought to that moment, the others copy it, the message servers go on. It can be cut
short anywhere and run again.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from coordctl import remote, site
from coordctl.ansible.progress import Progress
from coordctl.ansible.run import Playbooks, run
from coordctl.api import Api
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, notes_console, say, waiting
from coordctl.runs import Run
from coordctl.site import Site
from coordctl.values import keeps_backups
from coordctl.vault import SECRETS_FILE

LATEST: Final = "latest"
PLAYBOOKS: Final = ("restore", "postgres")
"""The second brings what the database had at that moment, such as its passwords, to what is right
now.
"""
LIMIT_S: Final = 6 * 3600.0
POLL_S: Final = 1.0
_SOURCE: Final = 'exec python3 /usr/local/lib/coordctl-pgbackrest/restore.py source "$1"'
_START: Final = 'systemctl reset-failed "$1" 2>/dev/null; systemctl start --no-block "$1"'
_STATE: Final = 'systemctl show -P ActiveState "$1"; journalctl -u "$1" -n 5 --no-pager -o cat'


def backup(folder: Path) -> None:
    """Make one now, as the machines' timers do. Raises CoordctlError."""
    here = site.existing(folder)
    topology = here.topology()
    if topology.bearers("pgbackrest"):
        units = {keeps_backups(topology): "coordctl-pgbackrest@incr.service"}
    else:
        units = dict.fromkeys(topology.bearers("backup"), "coordd-backup.service")
    if not units:
        raise CoordctlError(f"level {here.file.level} has no backups",
                            mend="coordctl export FOLDER   (writes all messages to files)")
    with site.locked(here.folder, "backup"):
        record = Run(here.folder, "backup")
        with waiting(f"Backing up on {', '.join(units)} …"):
            for machine, answer in remote.run(here, {
                    machine: (_START, (unit,)) for machine, unit in units.items()}).items():
                if answer.code != 0:
                    raise CoordctlError(f"{machine}: {answer.error}", mend="coordctl doctor")
            for machine, unit in units.items():
                _await(here, machine, unit)
        record.log(f"made on {', '.join(units)}")
    say(f"A new backup is on {', '.join(units)}.")


def _await(here: Site, machine: str, unit: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        answer = remote.run(here, {machine: (_STATE, (unit,))})[machine]
        state, _, said = answer.output.partition("\n")
        if answer.code == 0 and state == "inactive":
            return
        if answer.code == 0 and state == "failed":
            raise CoordctlError(f"{machine}: {unit} failed; its last words:",
                                details="\n".join(f"  {line}" for line in said.splitlines()),
                                mend="coordctl status")
        time.sleep(POLL_S)
    raise CoordctlError(f"{machine}: {unit} has not ended in {LIMIT_S / 3600:.0f} h",
                        mend="coordctl status")


def restore(folder: Path, moment: str, *, yes: bool) -> None:
    """Bring the database to what it was at `moment`, ISO 8601 or `latest`. Raises CoordctlError."""
    here = site.existing(folder)
    topology = here.topology()
    if not topology.bearers("pgbackrest"):
        raise CoordctlError(
            f"the backups of this site ({here.file.name}) are whole files: the message server's "
            "machine restores one", mend="less docs/backup.md   (By hand)")
    when = LATEST if moment == LATEST else _moment(moment).isoformat()
    with site.locked(here.folder, "restore") as lock:
        keeper = keeps_backups(topology)
        answer = remote.run(here, {keeper: (_SOURCE, (when,))})[keeper]
        if answer.code != 0:
            lines = answer.error.splitlines() or ["no answer"]
            raise CoordctlError(f"{keeper}: {lines[-1]}", mend="coordctl backup   (makes one now)"
                                if "no backup yet" in lines[-1] else "coordctl status")
        shown = "its last moment" if when == LATEST else f"{when} (UTC)"
        note(f"Database → as it was at {shown}, from backup {answer.output.split()[0]}")
        note("  message servers stop meanwhile; what was written after that moment is gone from it")
        confirm("Restore it?", yes=yes)
        record = Run(here.folder, "restore")
        record.log(f"to {when}")
        _run(here, when, record, lock)
    with Api(here.url, here.token(), here.authority) as api, waiting("Waiting for the server …"):
        deadline = time.monotonic() + 60
        while why := api.ready():
            if time.monotonic() > deadline:
                raise CoordctlError(f"it is not ready: {why}", mend="coordctl status")
            time.sleep(POLL_S)
    record.log("done")
    say(f"The database is as it was at {shown} (run {record.id}).")


def _moment(text: str) -> datetime:
    """Without an offset it is this computer's time. Raises CoordctlError."""
    try:
        found = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise CoordctlError(f"--to is {text!r}: such as 2026-11-24T02:31, "
                            "2026-11-24T02:31:12+01:00 or latest will do",
                            mend="date --iso-8601=seconds") from None
    if found > datetime.now(UTC):
        raise CoordctlError(f"--to is {text!r}, which has not come yet", mend="date")
    return found


def _run(here: Site, when: str, record: Run, lock: int) -> None:
    work = here.folder / "runs" / record.id
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = work / "restore.yml"
    write_file(told, json.dumps({"restore_to": when}) + "\n")
    progress = Progress(notes_console(), PLAYBOOKS)
    with progress.shown():
        code = run(Playbooks(
            PLAYBOOKS, here.folder / "inventory", here.known_hosts, work / "ansible.log",
            [here.folder / SECRETS_FILE, told], here.vault.key,
            forks=max(5, len(here.topology().roles)), keep=(lock,)), progress.handle)
    if code == 0 and not progress.failures:
        return
    record.log("failed")
    details = [f"  {one.host}: {one.task}: {one.message}" for one in progress.failures]
    raise CoordctlError(
        "the restore has not come to its end; message servers may be stopped",
        details="\n".join([*details, f"  log    {work / 'ansible.log'}"]),
        mend=f"coordctl restore --to {when}")
