"""What is wrong with a site, each with the command that mends it: a pure function of its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

FREE_MIN: Final = 0.1
MEMORY_MIN: Final = 0.05
LAG_BYTES_MAX: Final = 64 * 1024 * 1024
BACKUP_HOURS_MAX: Final = 26
WORK_MAX: Final = 1000

NOT_REACHED: Final = "not reached"
"""Of a machine: told once, not for each thing that it was asked for."""

Facts = Mapping[str, Any]


class Problem(NamedTuple):
    """`mend`: a command to type. `alerts`: Prometheus' names for the same thing."""

    what: str
    mend: str
    machine: str | None = None
    alerts: tuple[str, ...] = ()


def problems(facts: Facts, login: Callable[[str], str]) -> list[Problem]:
    """In the order in which to mend them. `login`: a machine → what opens a shell on it."""
    found = [*_site(facts), *_machines(facts, login), *_database(facts, login),
             *_servers(facts, login), *_behind(facts)]
    told = {(name, problem.machine) for problem in found for name in problem.alerts}
    # A finding about no machine is about the site.
    return found + [
        Problem(alert["summary"], alert["next"], alert["machine"], (alert["name"],))
        for alert in facts["alerts"] or ()
        if not {(alert["name"], alert["machine"]), (alert["name"], None)} & told]


def _site(facts: Facts) -> Iterator[Problem]:
    if facts["running"] is False:
        yield Problem("the server does not run", "coordctl up")
        return
    if facts["unfinished"]:
        yield Problem(f"the run {facts['unfinished']} has not ended well", "coordctl up --resume")
    if not facts["ready"]:
        starts = not facts["machines"] or (
            any(machine["down"] for machine in facts["machines"])
            and not any(machine["error"] for machine in facts["machines"]))
        yield Problem(f"no message can be stored: {facts['not_ready'] or 'the reason is not told'}",
                      "coordctl up --yes" if starts else "coordctl doctor", None,
                      ("MessageServerNotReady",))


def _machines(facts: Facts, login: Callable[[str], str]) -> Iterator[Problem]:
    for machine in facts["machines"] or ():
        name = machine["name"]
        if machine["error"]:
            yield Problem(f"{name} is not reached: {machine['error']}", "coordctl doctor", name,
                          ("MachineDown", "ServiceDown"))
            continue
        if machine["down"]:
            yield Problem(f"{name}: not active: {', '.join(machine['down'])}",
                          "coordctl up --yes", name, ("ServiceDown", "ServiceAway", "UnitFailed"))
        if machine["free_part"] is not None and machine["free_part"] < FREE_MIN:
            yield Problem(f"{name}: only {machine['free_part']:.0%} of a disk is free",
                          f"{login(name)} 'du -xh --max-depth=3 / | sort -h | tail -20'", name,
                          ("DiskFilling",))
        if machine["memory_part"] is not None and machine["memory_part"] < MEMORY_MIN:
            yield Problem(f"{name}: only {machine['memory_part']:.0%} of the memory is free",
                          f"{login(name)} 'ps -eo rss,args --sort=-rss | head -8'", name,
                          ("MemoryLow",))


def _database(facts: Facts, login: Callable[[str], str]) -> Iterator[Problem]:
    database = facts["database"]
    if database is None:
        return
    leaders = database["leaders"]
    for member in database["members"]:
        name = member["machine"]
        reached = not next(machine["error"] for machine in facts["machines"]
                           if machine["name"] == name)
        if reached and member["state"] not in ("running", "streaming"):
            yield Problem(f"{name}: its database is {member['state']}",
                          f"{login(name)} journalctl -u patroni -n 30", name, ("ServiceDown",))
        if (member["lag_bytes"] or 0) > LAG_BYTES_MAX:
            yield Problem(f"{name}: its database is {member['lag_bytes'] >> 20} MiB behind",
                          f"{login(name)} journalctl -u patroni -n 30", name, ("ReplicaLags",))
        if member["pending_restart"]:
            yield Problem(f"{name}: its database waits for a restart to take up a setting",
                          "coordctl up --yes", name)
    if len(leaders) > 1:
        yield Problem(f"{' and '.join(leaders)} each say that they lead the database",
                      "coordctl status --watch", None)
    elif not leaders:
        yield Problem("nobody leads the database: nothing can be stored", "coordctl up --yes",
                      None, ("DatabaseWithoutLeader", "EtcdWithoutQuorum"))
    elif database["wanted_synchronous"] and not database["synchronous"]:
        yield Problem("no synchronous replica: what is acknowledged now is on one machine only",
                      "coordctl up --yes", None, ("SynchronousStandbyMissing",))
    if database["paused"]:
        yield Problem("automatic failover is paused",
                      f"{login(database['members'][0]['machine'])} patronictl -c "
                      "/etc/patroni/coordctl.yml resume", None)


def _servers(facts: Facts, login: Callable[[str], str]) -> Iterator[Problem]:
    for server in facts["servers"] or ():
        name = server["machine"]
        asked = not next(machine["error"] or "coordd.service" in machine["down"]
                         for machine in facts["machines"] if machine["name"] == name)
        if asked and server["why"]:
            yield Problem(f"{name}: its message server cannot store a message: {server['why']}",
                          f"{login(name)} journalctl -u coordd -n 30", name,
                          ("MessageServerNotReady", "ServiceDown"))


def _behind(facts: Facts) -> Iterator[Problem]:
    """What is not in the way of a send."""
    if (queue := facts["queue"]) is not None:
        if queue["dead"]:
            letters = "dead letter" if queue["dead"] == 1 else "dead letters"
            yield Problem(f"{queue['dead']:,} {letters}: hooks were told in vain",
                          "coordctl hook dead", None, ("WorkDead",))
        if max(queue["lag"], queue["waiting"]) > WORK_MAX:
            yield Problem(f"background work is {max(queue['lag'], queue['waiting']):,} pieces "
                          "behind", "coordctl status --watch", None, ("WorkLags",))
        if queue["problem"]:
            yield Problem(f"background work is not handed out: {queue['problem']}",
                          "coordctl up --yes")
    if (backup := facts["backup"]) is not None:
        mend = "coordctl backup"
        if backup["at"] is None and backup["error"] != NOT_REACHED:
            yield Problem("there is no backup yet" if not backup["error"] else
                          f"whether there is a backup is not known: {backup['error']}",
                          mend, None, ("BackupTooOld",))
        elif (backup["age_s"] or 0) > BACKUP_HOURS_MAX * 3600:
            yield Problem(f"the newest backup is {backup['age_s'] / 3600:.0f} hours old", mend,
                          None, ("BackupTooOld",))
