"""The database's cluster, as Patroni tells it, and who leads it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from coordctl import remote, site
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, say, waiting
from coordctl.runs import Run
from coordctl.site import Site

SWITCH_LIMIT_S: Final = 60.0
_CONFIG: Final = "/etc/patroni/coordctl.yml"
_ASK: Final = f"patronictl -c {_CONFIG} list -f json"
_SWITCH: Final = f'patronictl -c {_CONFIG} switchover --force --leader "$1" --candidate "$2" 2>&1'


class Member(NamedTuple):
    """One machine's Postgres. `role`: leader, sync_standby, replica; `lag_bytes`: None where it
    is not known.
    """

    name: str
    role: str
    state: str
    lag_bytes: int | None

    @property
    def leads(self) -> bool:
        """Whether it takes writes."""
        return self.role == "leader" and self.state == "running"

    @property
    def follows(self) -> bool:
        """Whether it has what the leader has."""
        return self.role != "leader" and self.state == "streaming"


def members(here: Site) -> list[Member]:
    """All of them, as the first machine of the database that answers knows them. Raises
    CoordctlError.
    """
    reason = "the site has no database"
    for machine in here.topology().bearers("postgres"):
        answer = remote.run(here, {machine: (_ASK, ())})[machine]
        if answer.code == 0:
            return [_member(row) for row in json.loads(answer.output)]
        reason = f"{machine}: {answer.error.splitlines()[-1] if answer.error else 'no answer'}"
    raise CoordctlError(f"nobody tells who leads the database ({reason})", mend="coordctl doctor")


def _member(row: dict[str, Any]) -> Member:
    lag_mb = row.get("Lag in MB", row.get("Receive Lag"))
    lag = int(float(lag_mb) * (1 << 20)) if isinstance(lag_mb, (int, float)) else None
    role = str(row["Role"]).lower().replace(" ", "_")
    return Member(row["Member"], role, row["State"], lag)


def failover(folder: Path, machine: str | None, *, yes: bool) -> None:
    """Have another machine lead: the one named, else the synchronous replica's. Raises
    CoordctlError.
    """
    here = site.existing(folder)
    with site.locked(here.folder, "failover"):
        found = members(here)
        leader = next((each for each in found if each.leads), None)
        if leader is None:
            raise CoordctlError("nobody leads the database now: Patroni is looking for a leader",
                                mend="coordctl status --watch")
        target = _target(found, machine)
        if target == leader:
            say(f"{leader.name} leads already.")
            return
        note(f"Database: {leader.name} leads → {target.name} leads; writes wait meanwhile")
        confirm("Switch over?", yes=yes)
        record = Run(here.folder, "failover")
        began = time.monotonic()
        with waiting(f"Switching over to {target.name} …"):
            answer = remote.run(here, {leader.name: (_SWITCH, (leader.name, target.name))})
            said = answer[leader.name]
            found = _await_leader(here, target.name)
        if not any(each.leads and each.name == target.name for each in found):
            record.log(f"failed: {leader.name} → {target.name}")
            lines = said.output.strip().splitlines()[-6:]
            raise CoordctlError(f"{target.name} did not take over",
                                details="\n".join(f"  {line}" for line in lines),
                                mend="coordctl status")
        record.log(f"{leader.name} → {target.name}")
        say(f"{target.name} leads the database after {time.monotonic() - began:.0f} s; "
            f"{leader.name} follows it.")


def _target(found: list[Member], machine: str | None) -> Member:
    if machine is None:
        following = [each for each in found if each.follows]
        chosen = next((each for each in following if each.role == "sync_standby"),
                      following[0] if following else None)
        if chosen is None:
            raise CoordctlError("no replica follows the leader: nobody can take over",
                                mend="coordctl status")
        return chosen
    named = next((each for each in found if each.name == machine), None)
    if named is None:
        raise CoordctlError(f"{machine} has no database: {', '.join(x.name for x in found)} have",
                            mend="coordctl status")
    if not (named.leads or named.follows):
        raise CoordctlError(f"{machine} does not follow the leader ({named.state})",
                            mend="coordctl status")
    return named


def _await_leader(here: Site, name: str) -> list[Member]:
    """The members once `name` leads and the others follow, or when the time is up."""
    deadline = time.monotonic() + SWITCH_LIMIT_S
    while True:
        found = members(here)
        if all(each.leads if each.name == name else each.follows for each in found):
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.5)
