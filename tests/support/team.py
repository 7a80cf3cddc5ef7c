"""A team site on one machine of the lab, as an operator has it, and its agents' clients."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from support.lab import Lab

UP_LIMIT_S = 500.0


class Team:
    """Runs coordctl for the lab's site."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A coordctl that runs beside the test, in a process group of its own."""
        return subprocess.Popen(
            self.lab.arguments(*words), cwd=self.lab.cwd, env=self.lab.env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.lab.arguments(*words), cwd=self.lab.cwd, env=self.lab.env, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=UP_LIMIT_S)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def interrupt(self, running: subprocess.Popen[str]) -> None:
        """Ctrl-C, as a terminal sends it."""
        os.killpg(running.pid, signal.SIGINT)

    def json(self, *words: str) -> Any:
        """What a command prints with --format json."""
        return json.loads(self(*words, "--format", "json").stdout)

    def on(self, command: str, *, code: int = 0) -> str:
        """What a command prints on the machine."""
        return self.lab.on("m1", command, code=code)

    @property
    def address(self) -> str:
        """The machine's address."""
        address: str = self.lab.site()["machines"]["m1"]["address"]
        return address

    def token(self, agent: str) -> str:
        """A token of an agent, new or rotated."""
        keyids = [row for row in self.json("agent", "list")
                  if row["agent"] == agent and row["revoked_at"] is None]
        words = ("agent", "rotate", agent, "--yes") if keyids else ("agent", "add", agent)
        return self(*words).stdout.strip()

    @contextmanager
    def client(self, token: str | None) -> Iterator[httpx.Client]:
        """A client that trusts the site's authority alone."""
        trusting = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"https://{self.address}", verify=trusting, headers=headers,
                          timeout=60, trust_env=False) as client:
            yield client
