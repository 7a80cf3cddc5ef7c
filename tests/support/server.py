"""A real coordd in a process of its own, for tests: started, asked, stopped by its pid."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0

_listening = re.compile(r"listening on (http://\S+:(\d+))")


class NotStartedError(Exception):
    """A server that ended, or did not become ready in time; the text is its log."""


def settings_text(**settings: object) -> str:
    """`settings` as TOML: texts, whole numbers and paths; None is left out."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Path | str):
            text = str(value).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{key} = "{text}"')
        elif value is not None:
            lines.append(f"{key} = {str(value).lower()}")
    return "\n".join(lines) + "\n"


@dataclass
class Server:
    """A running coordd. As a context manager it is stopped at the end, killed where it must be."""

    data: Path
    process: subprocess.Popen[bytes]
    log_file: Path
    url: str = ""
    port: int = 0

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def log(self) -> str:
        """All that the server has written to its stderr."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """SIGTERM, then wait; the exit code. A server that is gone already answers its code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, then wait: what a power switch does to the process."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def spawn(data: Path, *, env: dict[str, str] | None = None, **settings: object) -> Server:
    """Start coordd on `data` and return at once; nothing is known yet of how it fares.

    The settings file and the log lie beside the folder `data`. `port` is a free one unless given.
    """
    data.parent.mkdir(parents=True, exist_ok=True)
    file = data.parent / f"{data.name}.coordd.toml"
    file.write_text(settings_text(**{"port": 0, "data": data, **settings}), encoding="utf-8")
    log_file = data.parent / f"{data.name}.coordd.log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COORDD_")}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "coordd", "--settings", str(file)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean | (env or {}))
    return Server(data, process, log_file)


def start(data: Path, *, env: dict[str, str] | None = None, **settings: object) -> Server:
    """Start coordd on `data` and wait until it is ready. Raises NotStartedError with its log."""
    server = spawn(data, env=env, **settings)
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise NotStartedError(f"exit code {server.process.returncode}: {server.log()}")
        if found := _listening.search(server.log()):
            server.url, server.port = found[1], int(found[2])
            if _ready(server.url):
                return server
        time.sleep(0.01)
    server.kill()
    raise NotStartedError(f"not ready after {START_LIMIT_S:.0f} s: {server.log()}")


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
