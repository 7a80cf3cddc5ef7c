"""`coordctl plan`: what `up` would do. Nothing is changed on any machine.

Three things, in order: which machine gets which roles, which lines of the inventory differ, and
what Ansible's check mode says would change.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from coordctl import doctor, phases, render, site, stage
from coordctl.ansible.progress import Progress
from coordctl.ansible.run import Event, Playbooks, run
from coordctl.cli_options import with_site
from coordctl.errors import CoordctlError
from coordctl.output import note, notes_console, results_console, say, waiting
from coordctl.profile import Profile
from coordctl.runs import Run
from coordctl.show import cost_text, diff_text, topology_lines
from coordctl.site import Site
from coordctl.stage import Stage


def plan(folder: Path, level: str | None, style: str) -> None:
    """Show it. Raises CoordctlError where it can't be known, after what can be was shown."""
    here = site.existing(folder)
    standing = here.state.standing()
    target = here.profile(level)
    topology = here.topology(level)
    facts: dict[str, Any] = {
        "site": here.file.name, "from": standing.level if standing else None, "to": target.name,
        "topology": topology_lines(standing, topology, here.address),
        "before": _capacity(here.profile(standing.level)) if standing else None,
        "after": _capacity(target), "write_pause": _pause(standing.level if standing else None,
                                                          target)}
    if style == "table":
        _show_head(here, facts, target)
    with site.locked(here.folder, "plan"):
        staged = stage.prepare(here, level)
        facts["files"] = render.diff(render.read(here.folder / "inventory"), staged.files)
        if style == "table":
            _show_files(facts["files"])
        missing = phases.missing(staged.phases)
        changes, failures = ([], []) if missing else _check(here, staged)
    facts["changes"] = [{key: change[key] for key in ("host", "phase", "task")}
                        | {"diff": change.get("diff", "")} for change in changes]
    facts["failures"] = failures
    facts["missing_roles"] = missing
    if style == "table":
        if not missing:
            _show_changes(changes)
    else:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n" if style == "json"
                         else yaml.safe_dump(facts, sort_keys=False))
    phases.check_kit(target, staged.phases)
    if failures:
        first = failures[0]
        raise CoordctlError(f"{first['host']}: the check of {first['phase']} failed at "
                            f"{first['task']}", details=f"  {first['message']}",
                            mend="coordctl doctor")


def _check(here: Site, staged: Stage) -> tuple[list[Event], list[dict[str, Any]]]:
    """Ansible's check mode: what would change, and what failed."""
    record = Run(here.folder, "plan")
    if not staged.profile.local:
        with waiting("Looking at the machines …"):
            findings = doctor.examine(here, staged.topology, staged.profile)
        if wrong := doctor.errors(findings):
            raise CoordctlError(f"{wrong[0].machine}: {wrong[0].says}", mend="coordctl doctor")
    progress = Progress(notes_console(), staged.phases)
    with tempfile.TemporaryDirectory(prefix="coordctl-plan-") as scratch:
        inventory = Path(scratch) / "inventory"
        render.write(inventory, staged.files)
        with progress.shown():
            code = run(Playbooks(
                staged.phases, inventory, here.known_hosts,
                here.folder / "runs" / record.id / "ansible.log", staged.variables,
                here.vault.key, check=True, forks=max(5, len(staged.topology.roles))),
                progress.handle)
    record.log(f"level {staged.profile.name}, exit code {code}, {len(progress.changes)} changes")
    failures = [asdict(failure) for failure in progress.failures]
    if code != 0 and not failures:
        raise CoordctlError(f"Ansible ended with exit code {code}",
                            mend=f"less {here.folder / 'runs' / record.id / 'ansible.log'}")
    return progress.changes, failures


def _capacity(profile: Profile) -> dict[str, Any]:
    return {"level": profile.name, "sustained_per_s": profile.targets.sustained_per_s,
            "peak_per_s": profile.targets.peak_per_s, "send_p99_ms": profile.targets.send_p99_ms,
            "availability_percent": profile.targets.availability_percent,
            "cost_per_month": cost_text(profile)}


def _pause(standing: str | None, target: Profile) -> str:
    if standing is None:
        return "none: nothing stands yet"
    if standing == target.name:
        return "none, but for a restart of coordd (about a second) where it changes"
    return "at the switch, at most 1 s"


def _show_head(here: Site, facts: dict[str, Any], target: Profile) -> None:
    say(f"{here.file.name}: {facts['from'] or 'nothing yet'} → {target.name} ({target.summary})")
    say()
    say("Topology")
    for line in facts["topology"]:
        say(f"  {line}")
    say()
    say("Cost and capacity")
    for words, key in (("a month", "cost_per_month"), ("sustained msg/s", "sustained_per_s"),
                       ("peak msg/s", "peak_per_s"), ("send p99, ms", "send_p99_ms"),
                       ("availability, %", "availability_percent")):
        after = _figure(facts["after"][key])
        before = _figure(facts["before"][key]) if facts["before"] else "-"
        say(f"  {words:<16} {before if before == after else f'{before} → {after}'}")
    say(f"  {'write pause':<16} {facts['write_pause']}")
    say()


def _figure(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,g}"


def _show_files(lines: Sequence[str]) -> None:
    say("Inventory" + ("" if lines else ": as it is"))
    if lines:
        results_console().print(diff_text(lines), soft_wrap=True)
    say()


def _show_changes(changes: Sequence[Event]) -> None:
    say(f"On the machines: {len(changes)} change{'s' * (len(changes) != 1)}")
    for change in changes:
        task = change["task"].rpartition(" : ")[2]
        say(f"  {change['host']}  {change['phase']:<10} {task}")
        if change.get("diff"):
            results_console().print(
                diff_text([f"      {line}" for line in change["diff"].splitlines()]),
                soft_wrap=True)
    note()
    note(with_site("Next:  coordctl up") if changes else "Nothing to do.")
