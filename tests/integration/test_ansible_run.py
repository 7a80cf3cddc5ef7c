"""Ansible as a subprocess, for real, on this machine: events, secrets, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coordctl import kit
from coordctl.ansible.progress import Progress
from coordctl.ansible.run import Event, Playbooks, run
from coordctl.vault import SECRETS_FILE, Vault

LIMIT_S = 60
HUSH = "hush-hush-42"
INVENTORY = """all:
  hosts:
    here: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children: {one: {hosts: {here: }}, two: {hosts: {here: }}}
"""
PLAY = "- name: Things\n  hosts: one\n  gather_facts: false\n  tasks:\n"


@pytest.fixture
def kit_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Playbooks]:
    """Makes a kit of other playbooks (name=tasks), and a run of them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    top = tmp_path / "kit"
    (top / "playbooks").mkdir(parents=True)
    (top / "playbooks" / "ansible.cfg").write_text(
        (kit.folder() / "playbooks" / "ansible.cfg").read_text(encoding="utf-8"),
        encoding="utf-8")
    monkeypatch.setattr("coordctl.kit.folder", lambda: top)
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "hosts.yml").write_text(INVENTORY, encoding="utf-8")
    vault = Vault(tmp_path, "test")
    vault.write(SECRETS_FILE, {"vault_secret": HUSH})

    def make(*, check: bool = False, keep: tuple[int, ...] = (), **plays: str) -> Playbooks:
        for name, tasks in plays.items():
            (top / "playbooks" / f"{name}.yml").write_text(PLAY + tasks, encoding="utf-8")
        return Playbooks(list(plays), tmp_path / "inventory", tmp_path / "known_hosts",
                         tmp_path / "log" / "ansible.log", [tmp_path / SECRETS_FILE], vault.key,
                         check=check, keep=keep)

    return make


def copied(to: Path, content: str, more: str = "") -> str:
    return (f"    - name: Copy\n      ansible.builtin.copy:\n        content: \"{content}\"\n"
            f"        dest: {to}\n        mode: '0600'\n{more}")


def followed(playbooks: Playbooks) -> tuple[int, list[Event], Progress]:
    events: list[Event] = []
    progress = Progress(Console(file=None, quiet=True), playbooks.names)

    def handle(event: Event) -> None:
        events.append(event)
        progress.handle(event)

    return run(playbooks, handle), events, progress


def test_phases_in_order_and_a_repeat_changes_nothing(
        kit_of: Callable[..., Playbooks], tmp_path: Path) -> None:
    playbooks = kit_of(first=copied(tmp_path / "a", "1"), second=copied(tmp_path / "b", "2"))
    code, events, progress = followed(playbooks)
    assert (code, progress.changed) == (0, 2)
    assert [event["name"] for event in events if event["event"] == "playbook"] == ["first",
                                                                                   "second"]
    assert [(phase.state, phase.hosts, phase.changed) for phase in progress.phases.values()] == [
        ("done", 1, 1)] * 2
    assert followed(playbooks)[2].changed == 0


def test_check_mode_shows_what_would_change(kit_of: Callable[..., Playbooks], tmp_path: Path
                                            ) -> None:
    code, _, progress = followed(kit_of(check=True, one=copied(tmp_path / "a", "new line")))
    assert code == 0
    assert not (tmp_path / "a").exists()
    assert "+new line" in progress.changes[0]["diff"]


def test_a_failure_names_host_task_place_and_reason_and_stops_the_phases(
        kit_of: Callable[..., Playbooks], tmp_path: Path) -> None:
    fails = ("    - name: Ask\n      ansible.builtin.command:\n"
             "        argv: [sh, -c, 'echo no such luck >&2; exit 3']\n")
    code, _, progress = followed(kit_of(first=fails, second=copied(tmp_path / "b", "2")))
    assert code != 0
    failure, = progress.failures
    assert (failure.host, failure.phase, failure.task) == ("here", "first", "Ask")
    assert "no such luck" in failure.message
    assert failure.place.endswith("first.yml:5")
    assert [phase.state for phase in progress.phases.values()] == ["failed", "waiting"]
    assert not (tmp_path / "b").exists()


def test_a_secret_is_in_no_event_log_argv_or_environment(
        kit_of: Callable[..., Playbooks], tmp_path: Path) -> None:
    quiet = "      no_log: true\n      diff: false\n"
    fails = ("    - name: Fail\n      ansible.builtin.command:\n"
             "        argv: [sh, -c, 'echo {{ vault_secret }}; exit 3']\n" + quiet)
    playbooks = kit_of(one=copied(tmp_path / "a", "{{ vault_secret }}", quiet) + fails)
    code, events, progress = followed(playbooks)
    assert code != 0
    assert (tmp_path / "a").read_text(encoding="utf-8") == HUSH  # it was really there
    assert "hidden" in progress.failures[0].message
    left = json.dumps(events) + playbooks.log.read_text(encoding="utf-8")
    left += " ".join(playbooks.arguments()) + json.dumps(playbooks.environment(3))
    assert HUSH not in left
    # The check can fail: without no_log the same secret is found.
    bare = kit_of(one=fails.replace(quiet, ""))
    _, events, _ = followed(bare)
    assert HUSH in json.dumps(events)


def test_a_machine_that_is_not_reached(kit_of: Callable[..., Playbooks], tmp_path: Path) -> None:
    playbooks = kit_of(one=copied(tmp_path / "a", "1"))
    (tmp_path / "inventory" / "hosts.yml").write_text(
        "all: {children: {one: {hosts: {gone: {ansible_host: 127.0.0.1, ansible_port: 1}}}}}",
        encoding="utf-8")
    code, _, progress = followed(playbooks)
    assert code != 0
    assert progress.failures[0].unreachable
    assert "refused" in progress.failures[0].message.lower()


def slow(started: Path) -> str:
    return (f"    - name: Slow\n      ansible.builtin.command:\n"
            f"        argv: [sh, -c, 'touch {started}; exec sleep 300']\n")


def ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}/cmdline").exists() and
                   Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def sleepers(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word in (entry / "environ").read_bytes().decode(
                    "utf-8", "replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_an_interrupt_ends_the_whole_group(kit_of: Callable[..., Playbooks], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", str(tmp_path))
    playbooks = kit_of(one=slow(tmp_path / "started"))
    seen: list[int] = []

    def handle(event: Event) -> None:
        if event["event"] == "task":
            deadline = time.monotonic() + LIMIT_S
            while not (tmp_path / "started").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            seen.extend(sleepers(f"MARK={tmp_path}"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(playbooks, handle)
    assert len(seen) >= 2
    assert ended(seen)


def test_a_killed_coordctl_holds_the_site_until_its_run_has_ended(
        kit_of: Callable[..., Playbooks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", str(tmp_path))
    kit_of(one=slow(tmp_path / "started"))
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fields: dict[str, Any] = {
        "inventory": str(tmp_path / "inventory"), "key": str(Vault(tmp_path, "test").key)}
    program = (
        "import sys, json, fcntl, os; from pathlib import Path; from coordctl import kit;"
        "top = Path(sys.argv[1]); kit.folder = lambda: top / 'kit';"
        "lock = os.open(top / 'lock', os.O_RDWR); fcntl.flock(lock, fcntl.LOCK_EX);"
        "from coordctl.ansible.run import Playbooks, run; f = json.loads(sys.argv[2]);"
        "run(Playbooks(['one'], Path(f['inventory']), top / 'known', top / 'log2', "
        "[top / 'secrets.yml'], Path(f['key']), keep=(lock,)), lambda event: None)")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path), json.dumps(fields)]
                          ) as child:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running = sleepers(f"MARK={tmp_path}")
        child.send_signal(signal.SIGKILL)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    running.remove(child.pid)
    slow_task = [pid for pid in running
                 if b"sleep\x00300" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert slow_task
    for pid in slow_task:  # the task ends, and Ansible, told by nobody, finds no reader
        os.kill(pid, signal.SIGTERM)
    assert ended(running)
    deadline = time.monotonic() + LIMIT_S  # what they have started since ends after them
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    os.close(lock)
