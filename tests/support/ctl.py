"""`coordctl` as a person runs it: a process of its own, on a site of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

LIMIT_S: Final = 110.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ctl:
    """Runs coordctl for the site `folder`, in the current folder `cwd`."""

    def __init__(self, folder: Path, cwd: Path) -> None:
        self.folder = folder
        self.cwd = cwd
        self.port = free_port()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("COORD", "XDG_"))}
        self.env |= {"HOME": str(cwd), "COLUMNS": "80"}

    def arguments(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "coordctl", "--site", str(self.folder), *words]

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.arguments(*words), cwd=self.cwd, env=self.env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def up(self) -> subprocess.CompletedProcess[str]:
        return self("up", "--port", str(self.port))

    def empty(self, cwd: Path) -> None:
        """Have the site that was up serve an empty store, without provisioning it once more, for
        somebody in the folder `cwd`, which is made.
        """
        cwd.mkdir()
        self.cwd = cwd
        self("down")
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir(0o700)
        subprocess.run([sys.executable, "-P", "-m", "coordd.supervise", "start",
                        "--settings", self.folder / "coordd.toml",
                        "--log", self.folder / "coordd.log"],
                       cwd=self.cwd, env=self.env, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, timeout=LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while not self._ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            self.call("GET", "/ready")
        except OSError:
            return False
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that the site's server answers."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def pages(self, path: str, key: str) -> list[dict[str, Any]]:
        """All of a list, page by page."""
        rows: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.call("GET", f"{path}&limit=500{cursor}")
            rows += page[key]
            if page["next_cursor"] is None:
                return rows
            cursor = f"&cursor={page['next_cursor']}"

    def inbox(self, agent: str) -> list[dict[str, Any]]:
        return self.pages(f"/api/v1/inbox/{agent}?order=oldest", "messages")

    def events(self) -> list[dict[str, Any]]:
        return self.pages("/api/v1/events?order=oldest", "events")
