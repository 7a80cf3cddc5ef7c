"""`coordctl status` and `down`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import yaml

from coordctl import process, remote, site
from coordctl.api import Api
from coordctl.errors import CoordctlError
from coordctl.output import results_console, say, show_facts, show_rows, size, waiting
from coordctl.runs import Run
from coordctl.site import Site
from coordctl.topology import LOCAL

_LABELS: Final = {
    "site": "site", "level": "level", "address": "address", "running": "running", "pid": "pid",
    "since": "since", "ready": "ready", "why": "why not", "messages": "messages",
    "unread": "unread", "size": "size", "throughput_per_s": "messages/s", "send_p99_ms":
    "send p99, ms", "hour": "messages this hour", "cache_hit_rate": "cache hits", "work": "hooks",
    "version": "version", "release": "release"}
_MACHINES: Final = {"name": "MACHINE", "address": "ADDRESS", "state": "STATE",
                    "roles": "ROLES", "free": "FREE"}
_UNITS: Final = {"coordd": "coordd.service", "nginx": "nginx.service",
                 "redis": "redis-server.service", "logrotate": "logrotate.timer",
                 "backup": "coordd-backup.timer", "machine": "coordctl-firewall.service"}
_SCRIPT: Final = """
for unit in "$@"; do echo "$unit $(systemctl is-active "$unit" 2>/dev/null)"; done
df -Pk /var/lib/coordd / 2>/dev/null | tail -n +2 | tr -s ' ' | cut -d ' ' -f 4 | sort -n |
    head -1 | sed 's/^/free_kb /'
"""
WATCH_S: Final = 2.0


def down(folder: Path) -> None:
    """End the site's server on this machine; a repeat says that nothing runs."""
    here = site.existing(folder)
    if not here.is_local:
        raise CoordctlError(f"the site {here.file.name} stands on other machines "
                            f"({', '.join(here.file.machines)}): down stops what runs on this one",
                            mend="coordctl status   (a lab's machines: coordctl lab down)")
    with site.locked(here.folder, "down"):
        run = Run(here.folder, "down")
        with waiting("Stopping coordd …"):
            pid = process.stop(here)
        if pid is None:
            say(f"Nothing runs for the site {here.folder}.")
            return
        run.log(f"ended pid {pid}")
        say(f"coordd has stopped. The messages stay in {here.data}.")


def status(folder: Path, style: str) -> bool:
    """Show the site's state once; whether its server is ready."""
    here = site.existing(folder)
    facts = _facts(here, sample_s=0.0 if here.is_local else 0.5)
    _show(here, facts, style)
    return bool(facts["ready"])


def watch(folder: Path) -> None:
    """Show it again and again, until Ctrl-C."""
    here = site.existing(folder)
    while True:
        facts = _facts(here, sample_s=WATCH_S / 2)
        results_console().clear()
        _show(here, facts, "table")
        time.sleep(WATCH_S / 2)


def _facts(here: Site, *, sample_s: float) -> dict[str, Any]:
    facts: dict[str, Any] = dict.fromkeys(_LABELS)
    facts |= {"site": str(here.folder), "level": here.file.level, "address": here.url,
              "ready": False}
    if here.state.current is not None:
        facts["release"] = here.state.current.release or None
        if not here.state.current.complete:
            facts["why"] = (f"the run {here.state.current.run} has not ended well: "
                            "coordctl up --resume goes on")
    if here.is_local:
        found = process.find(here)
        facts["running"] = found is not None
        if found is None:
            return facts
        facts |= {"pid": found.pid, "since": found.since.isoformat(" ", "seconds")}
    else:
        facts["machines"] = _machines(here)
    with Api(here.url, here.token(), here.authority) as api:
        why = api.ready()
        facts["ready"] = not why
        facts["why"] = why or facts["why"]
        try:
            stats = api.stats()
            facts |= {"messages": stats["messages"], "unread": stats["unread"],
                      "size": stats["size_bytes"], "version": api.version()}
        except CoordctlError as error:
            facts["why"] = facts["why"] or str(error)
            return facts
        first = api.metrics()
        facts |= _rates(first) | _work(api)
        if sample_s:
            time.sleep(sample_s)
            stored = "coordd_messages_stored_total"
            later = api.metrics()
            if stored in first and stored in later:
                facts["throughput_per_s"] = round((later[stored] - first[stored]) / sample_s, 1)
    return facts


def _rates(metrics: dict[str, float]) -> dict[str, Any]:
    hits = metrics.get("coordd_cache_hits_total", 0.0)
    looks = hits + metrics.get("coordd_cache_misses_total", 0.0)
    count = metrics.get("coordd_send_duration_seconds_count", 0.0)
    p99_ms = None
    for name, value in metrics.items():
        if name.startswith("coordd_send_duration_seconds_bucket") and value >= 0.99 * count > 0:
            bound = name.partition('le="')[2].partition('"')[0]
            p99_ms = None if bound == "+Inf" else float(bound) * 1000
            break
    return {"cache_hit_rate": round(hits / looks, 3) if looks else None, "send_p99_ms": p99_ms}


def _work(api: Api) -> dict[str, Any]:
    """What runs behind sends, a line of it where something waits or is wrong."""
    try:
        work = api.work()
    except CoordctlError:  # a server of an earlier release has none
        return {}
    told = []
    if work["dead"]:
        told.append(f"{work['dead']:,} given up: coordctl hook dead shows why, coordctl hook retry "
                    "tries anew")
    if work["hooks"] and (behind := work["lag"] + work["waiting"] + work["queued"]):
        told.append(f"{behind:,} events wait")
    if work["problem"]:
        told.append(f"nothing is handed out ({work['problem']})")
    elif work["queue"] != "in-process" and work["queue_depth"] is None:
        told.append("the work queue does not answer")
    hours = work["hours"]
    return {"work": "; ".join(told) or (f"{work['hooks']} told" if work["hooks"] else None),
            "hour": hours[-1]["messages"] if hours else None}


def _machines(here: Site) -> list[dict[str, Any]]:
    topology = here.topology()
    units = {machine: [_UNITS[role] for role in roles if role in _UNITS]
             for machine, roles in topology.roles.items() if machine != LOCAL}
    answers = remote.run(here, {machine: (_SCRIPT, names) for machine, names in units.items()})
    rows = []
    for machine, answer in answers.items():
        said = dict(line.rsplit(" ", 1) for line in answer.output.splitlines() if " " in line)
        down_ = [unit for unit in units[machine] if said.get(unit) != "active"]
        state = ("up" if not down_ else f"not active: {', '.join(down_)}") if answer.code == 0 \
            else "not reached"
        rows.append({"name": machine, "address": here.address(machine), "state": state,
                     "roles": list(topology.roles[machine]),
                     "free": int(said["free_kb"]) * 1024 if said.get("free_kb", "").isdigit()
                     else None})
    return rows


def _show(here: Site, facts: dict[str, Any], style: str) -> None:
    if style != "table":
        sys.stdout.write(json.dumps(facts, indent=2) + "\n" if style == "json"
                         else yaml.safe_dump(facts, sort_keys=False))
        return
    shown = dict(facts)
    if here.is_local and not facts["running"]:
        shown["why"] = "stopped: coordctl up starts it"
    if facts["size"] is not None:
        shown["size"] = size(facts["size"])
    if facts["cache_hit_rate"] is not None:
        shown["cache_hit_rate"] = f"{facts['cache_hit_rate']:.1%}"
    shown["pid"] = facts["pid"] and str(facts["pid"])
    if facts["send_p99_ms"] is not None:
        shown["send_p99_ms"] = f"≤ {facts['send_p99_ms']:g}"
    labels = {key: label for key, label in _LABELS.items() if shown[key] is not None}
    show_facts(shown, labels, style)
    if machines := facts.get("machines"):
        say()
        show_rows([row | {"roles": ", ".join(row["roles"]),
                          "free": None if row["free"] is None else size(row["free"])}
                   for row in machines], _MACHINES, style)
