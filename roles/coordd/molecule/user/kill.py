"""The server runs as alice, is killed, and serves again with what it acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LIMIT_S = 60.0


def main_pid() -> int:
    return int(subprocess.run(
        ["runuser", "-u", "alice", "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid()}", "systemctl",
         "--user", "show", "-P", "MainPID", "coordd.service"], check=True, capture_output=True,
        text=True).stdout)


def uid() -> int:
    return Path("/home/alice").stat().st_uid


def call(path: str, body: Any = None) -> Any:
    deadline = time.monotonic() + LIMIT_S
    request = urllib.request.Request(
        f"http://127.0.0.1:8000{path}", data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def main() -> None:
    sent = call("/api/v1/messages", {"from_agent": "code", "to_agent": "chat", "subject": "Hi",
                                     "body": "there"})
    pid = main_pid()
    assert Path(f"/proc/{pid}").stat().st_uid == uid()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    while main_pid() in (0, pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [one["id"] for one in call("/api/v1/inbox/chat")["messages"]] == [sent["id"]]


if __name__ == "__main__":
    main()
