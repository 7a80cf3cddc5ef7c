"""A site's facts: one round of SSH to all machines and a few calls to its address, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from coordctl import process, remote
from coordctl.api import NO_ANSWER, Api
from coordctl.components import UNITS
from coordctl.errors import CoordctlError
from coordctl.profile import Profile
from coordctl.site import Site
from coordctl.status import look
from coordctl.status.figures import Looks, database, speeds
from coordctl.status.wrong import NOT_REACHED, problems
from coordctl.topology import Topology
from coordctl.values import COORDD_PORT, PATRONI_PORT, keeps_backups

CONNECT_S: Final = 3
"""A machine that is dead costs no more."""
ROUND_S: Final = 9.0
CALL_S: Final = 4.0
PROMETHEUS: Final = "http://127.0.0.1:9090"

Parts = Mapping[str, Mapping[str, Any]]
"""What one machine told: see look.py. Empty: it was not reached."""


def gather(here: Site, *, sample_s: float) -> dict[str, Any]:
    """The facts; the keys are those of `coordctl status --format json`, whatever is known."""
    facts: dict[str, Any] = {
        "site": str(here.folder), "level": here.file.level, "address": here.url, "ready": False,
        "why": None, "running": None, "pid": None, "since": None, "messages": None, "unread": None,
        "size": None, "version": None, "release": None, "throughput_per_s": None,
        "send_p50_ms": None, "send_p99_ms": None, "cache_hit_rate": None, "error_rate": None,
        "unfinished": None, "not_ready": None, "machines": None, "servers": None, "database": None,
        "queue": None, "backup": None, "alerts": None}
    if (standing := here.state.current) is not None:
        facts["release"] = standing.release or None
        facts["unfinished"] = None if standing.complete else standing.run
    if here.is_local:
        _local(here, facts, sample_s)
    else:
        _remote(here, facts, sample_s)
    facts["why"] = facts["not_ready"] or (facts["unfinished"] and (
        f"the run {facts['unfinished']} has not ended well: coordctl up --resume goes on"))
    found = problems(facts, lambda machine: remote.login(here, machine))
    facts["problems"] = [{"what": one.what, "mend": one.mend, "machine": one.machine}
                         for one in found]
    return facts


def _local(here: Site, facts: dict[str, Any], sample_s: float) -> None:
    found = process.find(here)
    facts["running"] = found is not None
    if found is None:
        return
    facts |= {"pid": found.pid, "since": found.since.isoformat(" ", "seconds")}
    facts |= _called(here)
    with Api(here.url, here.token(), here.authority, timeout_s=CALL_S, tries=1) as api:
        first, began = api.metrics(), time.monotonic()
        time.sleep(sample_s)
        later = api.metrics() if sample_s else first
    span_s = time.monotonic() - began if sample_s else 0.0
    facts |= speeds([Looks(first, later, span_s)])


def _called(here: Site) -> dict[str, Any]:
    """What the site's address answers."""
    answers: dict[str, Any] = {}
    with Api(here.url, here.token(), here.authority, timeout_s=CALL_S, tries=1) as api:
        why = api.ready()
        answers |= {"ready": not why, "not_ready": why or None}
        if why.startswith(NO_ANSWER):
            return answers
        try:
            stats = api.stats()
            answers |= {"messages": stats["messages"], "unread": stats["unread"],
                        "size": stats["size_bytes"], "version": api.version()}
            if (work := api.work()) is not None:
                answers["queue"] = {
                    "kind": work["queue"], "depth": work["queue_depth"], "lag": work["lag"],
                    "waiting": work["waiting"] + work["queued"], "dead": work["dead"],
                    "problem": work["problem"] or None}
        except CoordctlError as error:
            answers["not_ready"] = answers["not_ready"] or str(error)
    return answers


def _remote(here: Site, facts: dict[str, Any], sample_s: float) -> None:
    topology, profile = here.topology(), here.profile()
    asked = {machine: _asked(here, topology, machine, sample_s) for machine in topology.roles}
    makers = _makers(topology)
    for machine, timers in makers.items():
        asked[machine]["units"] += timers
        asked[machine]["backup"] = None
    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(_called, here)
        answers = remote.run(here, {machine: (_script(), [json.dumps(parts)])
                                    for machine, parts in asked.items()},
                             connect_s=CONNECT_S, limit_s=ROUND_S + sample_s)
        facts |= calls.result()
    told = {machine: _told(answer) for machine, answer in answers.items()}
    facts["machines"] = [
        _machine(here, topology, machine, answers[machine], told[machine]) for machine in told]
    servers = {machine: told[machine] for machine in topology.bearers("coordd")}
    facts["servers"] = [_server(machine, parts) for machine, parts in servers.items()]
    facts |= speeds(looks for parts in servers.values() if (looks := _looks(parts)))
    if members := topology.bearers("postgres"):
        facts["database"] = database(
            {machine: told[machine].get("patroni", {"error": NOT_REACHED})
             for machine in members},
            synchronous=profile.stack.store_nodes > 1, now=datetime.now(UTC))
    if makers:
        facts["backup"] = _backup({machine: told[machine] for machine in makers}, profile)
    for machine in topology.bearers("prometheus"):
        facts["alerts"] = _alerts(told[machine].get("prometheus", {}))


def _asked(here: Site, topology: Topology, machine: str, sample_s: float) -> dict[str, Any]:
    roles = topology.roles[machine]
    asked: dict[str, Any] = {"units": [UNITS[role] for role in roles if role in UNITS],
                             "disk": None}
    if "coordd" in roles:
        asked["coordd"] = {"url": f"http://127.0.0.1:{COORDD_PORT}", "sample_s": sample_s}
    if "postgres" in roles:
        address = here.address(machine)
        asked["patroni"] = (f"https://[{address}]:{PATRONI_PORT}" if ":" in address
                            else f"https://{address}:{PATRONI_PORT}")
    if "prometheus" in roles:
        asked["prometheus"] = PROMETHEUS
    return asked


def _makers(topology: Topology) -> dict[str, list[str]]:
    """The machines that have backups, and the timers that make them."""
    if topology.bearers("pgbackrest"):
        return {keeps_backups(topology): [f"coordctl-pgbackrest@{kind}.timer"
                                          for kind in ("full", "incr")]}
    return {machine: ["coordd-backup.timer"] for machine in topology.bearers("backup")}


def _script() -> str:
    code = Path(look.__file__).read_text(encoding="utf-8")
    return f"exec python3 - \"$@\" <<'END_OF_LOOK'\n{code}\nEND_OF_LOOK\n"


def _told(answer: remote.Answer) -> Parts:
    if answer.code != 0:
        return {}
    try:
        told: Parts = json.loads(answer.output)
    except ValueError:
        return {}
    return told


def _machine(here: Site, topology: Topology, machine: str, answer: remote.Answer, told: Parts
             ) -> dict[str, Any]:
    states = told.get("units", {}).get("is", {})
    down = [unit for unit, state in states.items() if state != "active"]
    disk = told.get("disk", {}).get("is", {})
    error = None
    if not told:
        error = answer.error.splitlines()[-1] if answer.error else f"exit code {answer.code}"
    return {"name": machine, "address": here.address(machine),
            "state": NOT_REACHED if error else
            f"not active: {', '.join(down)}" if down else "up",
            "roles": list(topology.roles[machine]), "free": disk.get("free"),
            "free_part": _part(disk, "free", "total"),
            "memory_part": _part(disk, "memory_free", "memory_total"),
            "down": down, "error": error}


def _part(disk: Mapping[str, Any], some: str, total: str) -> float | None:
    return round(disk[some] / disk[total], 4) if disk.get(total) else None


def _looks(parts: Parts) -> Looks | None:
    found = parts.get("coordd", {}).get("is")
    return None if found is None else Looks(found["first"], found["later"], found["span_s"])


def _server(machine: str, parts: Parts) -> dict[str, Any]:
    looks = _looks(parts)
    part = parts.get("coordd", {})
    why = part.get("error", NOT_REACHED) if looks is None else part["is"]["why"]
    waiting = None if looks is None else looks.later.get("coordd_messages_waiting")
    return {"machine": machine, "ready": not why, "why": why or None,
            **speeds([looks] if looks else []),
            "waiting": None if waiting is None else int(waiting)}


def _backup(told: Mapping[str, Parts], profile: Profile) -> dict[str, Any]:
    """The newest of all machines that make some."""
    rows = [{"machine": machine, **found} for machine, parts in told.items()
            if (found := parts.get("backup", {}).get("is"))]
    errors = [parts["backup"]["error"] if "backup" in parts else NOT_REACHED
              for parts in told.values() if "is" not in parts.get("backup", {})]
    newest: dict[str, Any] = max(rows, key=lambda row: row["at"], default={})
    return {"wanted": profile.stack.backup, "machine": newest.get("machine", next(iter(told))),
            "kind": newest.get("kind"), "at": newest.get("at"),
            "age_s": max(0, int(time.time()) - newest["at"]) if newest else None,
            "size_bytes": newest.get("size"), "error": errors[0] if errors and not rows else None}


def _alerts(part: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Those that fire, the oldest first; None where Prometheus did not answer."""
    if "is" not in part:
        return None
    firing = [{"name": alert["labels"]["alertname"], "severity": alert["labels"].get("severity"),
               "machine": alert["labels"].get("machine"), "since": alert["activeAt"],
               "summary": alert["annotations"].get("summary", ""),
               "next": alert["annotations"].get("next", "")}
              for alert in part["is"] if alert["state"] == "firing"]
    return sorted(firing, key=lambda alert: str(alert["since"]))
