"""What a run does, as JSON lines on the descriptor of $COORDCTL_EVENTS_FD.

One object a line; `event` says which:
    playbook  {name}                         a phase begins
    play      {name, hosts: number}
    task      {name, path}
    result    {host, status, task, path, elapsed_s, msg?, diff?}
              status: ok, changed, skipped, failed, unreachable, ignored
    watched   {host, facts: [[kind, name]]}    what the task looked after, see standing.py
    end       {failed: [host], changed: number}    the phase is over

What a task with no_log did is told, but neither its message nor its diff. When the reader is gone
the whole run ends: nobody would see it fail.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: coordctl_events
type: notification
short_description: JSON lines for coordctl
description: Writes what a run does as JSON lines to an inherited descriptor.
"""


_KINDS = {"copy": "path", "template": "path", "file": "path", "systemd_service": "unit",
          "apt": "package", "user": "user", "group": "group"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """See the module."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "coordctl_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        descriptor = os.environ.get("COORDCTL_EVENTS_FD")
        if descriptor is None:
            self.disabled = True
            return
        self._out = os.fdopen(int(descriptor), "w", encoding="utf-8", buffering=1)
        self._began: dict[tuple[str, str], float] = {}
        self._changed = 0

    def _write(self, event: str, **fields: Any) -> None:
        try:
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:
            os.killpg(0, signal.SIGTERM)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._changed = 0
        name = Path(playbook._file_name).stem
        self._write("playbook", name=name)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        hosts = play.get_variable_manager()._inventory.get_hosts(play.hosts)
        self._write("play", name=play.get_name(), hosts=len(hosts))

    def _task(self, task: Any) -> None:
        self._write("task", name=task.get_name().strip(), path=task.get_path() or "")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task(task)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._began[(host.get_name(), task._uuid)] = time.monotonic()

    def _result(self, result: Any, status: str) -> None:
        host = result.host.get_name()
        began = self._began.pop((host, result.task._uuid), None)
        fields: dict[str, Any] = {
            "host": host, "status": status, "task": result.task.get_name().strip(),
            "path": result.task.get_path() or "",
            "elapsed_s": round(time.monotonic() - began, 3) if began else 0.0}
        said = result.result
        hidden = bool(result.task.no_log) or "censored" in said
        if status in ("failed", "unreachable", "ignored"):
            fields["msg"] = ("what it said is hidden, for it may hold a secret" if hidden
                             else self._message(said))
        if status == "changed":
            self._changed += 1
        if not hidden and status == "changed":
            parts = said.get("results") or [said]
            diffs = [self._get_diff(part["diff"]) for part in parts
                     if isinstance(part, dict) and part.get("diff") and part.get("changed")]
            if any(diffs):
                fields["diff"] = "\n".join(diffs).strip("\n")
        self._write("result", **fields)

    @staticmethod
    def _message(said: dict[str, Any]) -> str:
        parts = [str(said.get(key, "")).strip() for key in ("msg", "stderr", "module_stderr")]
        if not any(parts[1:]):
            parts.append(str(said.get("stdout", "")).strip())
        parts += [CallbackModule._message(item) for item in said.get("results") or []
                  if isinstance(item, dict) and item.get("failed")]
        lines = dict.fromkeys(line for part in parts for line in part.splitlines() if line.strip())
        return "\n".join(list(lines)[:40])

    def _watched(self, result: Any) -> None:
        """Names alone, which are told where a task's no_log hides its contents too."""
        args = result.task_fields.get("args") or {}
        kind = _KINDS.get(result.task.action.rpartition(".")[2], "")
        if kind == "unit" and args.get("scope") == "user":
            kind = "user_unit"
        names = args.get("dest") or args.get("path") or args.get("name") or []
        facts = [[kind, str(name)] for name in ([names] if isinstance(names, str) else names)]
        if kind and facts:
            self._write("watched", host=result.host.get_name(), facts=facts)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._watched(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        if "results" not in result.result:
            self._watched(result)
        self._result(result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._result(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._result(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        failed = sorted({host for host in stats.processed
                         if stats.failures.get(host) or stats.dark.get(host)})
        self._write("end", failed=failed, changed=self._changed)
