"""One run of ansible-playbook: an argv, an environment of our own, events from a pipe.

    playbooks + inventory + the encrypted file's name ─▶ ansible-playbook ─▶ events, a log file

It is a process group of its own, so that Ctrl-C ends it in order: first asked, then told, then
killed. It inherits the site's lock: while it runs, nobody else changes the site, even where this
process was killed; and it ends by itself once nobody reads its events.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from coordctl import folders, kit

Event = dict[str, Any]
"""See plugins/callback/coordctl_events.py."""

GRACE_S: Final = 15.0
PLUGINS: Final = Path(__file__).with_name("plugins")


def known_hosts_option(file: Path) -> str:
    """SSH's option for that file: quoted, since it takes several; % doubled, since it reads it."""
    return f'UserKnownHostsFile="{str(file).replace("%", "%%")}"'


@dataclass(frozen=True)
class Playbooks:
    """What to run. `names`: files of playbooks/, a phase each, without their `.yml`.
    `variables`: files of more variables, encrypted ones among them; `key` opens these.
    `keep`: descriptors that the run inherits. `newest`: packages that are there are updated.
    """

    names: Sequence[str]
    inventory: Path
    known_hosts: Path
    log: Path
    variables: Sequence[Path]
    key: Path
    check: bool = False
    forks: int = 10
    keep: Sequence[int] = field(default=())
    newest: bool = False

    def arguments(self) -> list[str]:
        """The argv. It holds names of files and no secret."""
        words = [sys.executable, "-m", "ansible", "playbook", "-i", str(self.inventory)]
        for file in self.variables:
            words += ["-e", f"@{file}"]
        words += ["--vault-password-file", str(self.key)]
        if self.newest:
            words += ["-e", "coordctl_packages=latest"]
        if self.check:
            words += ["--check", "--diff"]
        playbooks = kit.folder() / "playbooks"
        return [*words, *(str(playbooks / f"{name}.yml") for name in self.names)]

    def environment(self, events: int) -> dict[str, str]:
        """The environment: that of the operator less what would change how Ansible works."""
        cache = folders.cache()
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "COORDD_"))}
        known = f"-o {shlex.quote(known_hosts_option(self.known_hosts))}"
        return ours | {
            "ANSIBLE_CONFIG": str(kit.folder() / "playbooks" / "ansible.cfg"),
            "ANSIBLE_HOME": str(cache / "ansible"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "coordctl_events",
            "ANSIBLE_FORKS": str(self.forks),
            "ANSIBLE_SSH_COMMON_ARGS": f"{known} -o StrictHostKeyChecking=accept-new",
            "ANSIBLE_LOCALHOST_WARNING": "False", "ANSIBLE_NOCOLOR": "1",
            "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8", "COORDCTL_EVENTS_FD": str(events)}


def run(playbooks: Playbooks, handle: Callable[[Event], None]) -> int:
    """Run them in order; `handle` gets each event as it happens. The exit code, 0 for all done.

    Raises OSError where it can't be started; KeyboardInterrupt, once it has ended, for Ctrl-C.
    """
    reader, writer = os.pipe()
    playbooks.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (os.fdopen(reader, encoding="utf-8") as events,
          playbooks.log.open("a", encoding="utf-8") as log):
        playbooks.log.chmod(0o600)
        try:
            child = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
                playbooks.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=playbooks.environment(writer), pass_fds=(writer, *playbooks.keep),
                cwd=kit.folder() / "playbooks", start_new_session=True)
        finally:
            os.close(writer)
        try:
            for event in _events(events):
                handle(event)
            return child.wait()
        except BaseException:
            _end(child)
            raise


def _events(lines: IO[str]) -> Iterator[Event]:
    for line in lines:
        event: Event = json.loads(line)
        yield event


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the whole group: asked first, so that Ansible takes its locks and files away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            child.wait()
        return
