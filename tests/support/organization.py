"""A site at level organization on machines of the lab: its members, its faults, its clients."""

from __future__ import annotations

import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import Final

import yaml

from faults.clients import Address
from faults.siteload import Load

from .team import Team

MACHINES: Final = 7
"""One more than the level needs: it bears nothing until the site is scaled."""
ANSWER_LIMIT_S: Final = 60.0
PAUSE_S: Final = 0.2
"""How long its clients rest: some dozens of requests a second leave time to those who mend it."""
_TOKEN: Final = ("import sys; from pathlib import Path; from coordctl.site import Site; "
                 "print(Site(Path(sys.argv[1])).token())")


class Organization(Team):
    """Runs coordctl for the lab's site, which stands at level organization."""

    answer_limit_s = ANSWER_LIMIT_S
    run = secrets.token_hex(3)
    """Part of its clients' names: a site that stands already remembers those of an earlier run."""
    since = 0.0
    """From when on `log` tells, in seconds since 1970."""
    up_s = 0.0
    """How long `coordctl up` took on bare machines."""

    def bearers(self, role: str) -> list[str]:
        """The machines with a role."""
        hosts = yaml.safe_load((self.folder / "inventory" / "hosts.yml").read_text("utf-8"))
        return list(hosts["all"]["children"][role]["hosts"])

    @property
    def leader(self) -> str:
        """The machine whose database takes writes. Raises AssertionError where none does."""
        for machine in self.bearers("postgres"):
            said = subprocess.run(
                self.lab.arguments("lab", "shell", machine, "--", "runuser", "-u", "postgres",
                                   "--", "psql", "-Atqc", "SELECT pg_is_in_recovery()"),
                cwd=self.lab.cwd, env=self.lab.env, text=True, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=20)
            if said.stdout.strip() == "f":
                return machine
        raise AssertionError("no database takes writes")

    @property
    def replicas(self) -> list[str]:
        """The other machines with a database."""
        leader = self.leader
        return [machine for machine in self.bearers("postgres") if machine != leader]

    def fault(self, kind: str, *words: str) -> None:
        """`coordctl lab fault`."""
        self.lab("fault", kind, *words)

    @cached_property
    def admin_token(self) -> str:
        """The operator's, who speaks for every agent."""
        shown = subprocess.run(
            [sys.executable, "-c", _TOKEN, str(self.folder)],
            env=self.lab.env, capture_output=True, text=True, check=True)
        return shown.stdout.strip()

    @cached_property
    def addresses(self) -> list[Address]:
        """Twice the way that agents go: through the load balancer, by TLS."""
        trusting = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        return [Address(self.address, 443, tls=trusting, token=self.admin_token) for _ in range(2)]

    @property
    def busy(self) -> int:
        """How many statements are under way in the database that takes writes."""
        return int(self.lab.on(self.leader, (
            "cd /; runuser -u postgres -- psql -Atqc \"SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = 'coordd' AND state = 'active' AND usename = 'coordd'\"")))

    def log(self) -> str:
        """What the message servers wrote lately."""
        since = f"--since @{self.since:.0f}" if self.since else ""
        return "".join(
            self.lab.on(machine, f"journalctl -u coordd -o cat --no-pager -n 3000 {since}")
            for machine in self.bearers("coordd"))

    def load(self, name: str, seed: int, resume_limit_s: float) -> Load:
        """Its agents, not at work yet; their names are this run's own."""
        return Load(self, seed, name=f"-{self.run}-{name}", resume_limit_s=resume_limit_s,
                    pause_s=PAUSE_S)

    def say(self, line: str) -> None:
        """Tell a figure, where pytest lets what tests write through (-s)."""
        sys.stdout.write(f"\n{line}")
        sys.stdout.flush()

    def settled(self, limit_s: float = 90.0) -> None:
        """Wait until all is as it should be: a leader, a synchronous replica, all servers."""
        def so() -> bool:
            said = self.lab.on(self.leader, "patronictl -c /etc/patroni/coordctl.yml list -f tsv")
            rows = [line.split("\t") for line in said.splitlines()[1:]]
            return sorted((row[3], row[4]) for row in rows) == [
                ("Leader", "running"), ("Sync Standby", "streaming")]
        until(so, limit_s)


def until(so: Callable[[], bool], limit_s: float) -> None:
    """Wait until it is so, and no exception comes in between. Raises AssertionError."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if so():
                return
            why = "it is not so"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            why = str(error)
        assert time.monotonic() < deadline, why
        time.sleep(0.5)
