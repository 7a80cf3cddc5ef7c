"""Send and read a message, kill the server, read it again; then look for the secrets."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
CREDENTIALS = Path("/etc/coordd/credentials")


def call(method: str, path: str, body: Any = None, token: str = "") -> Any:
    """The JSON that answers; the server may be on its way up."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:8000{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | (
                {"Authorization": f"Bearer {token}"} if token else {}))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def of_unit(key: str) -> str:
    return subprocess.run(["systemctl", "show", "-P", key, "coordd.service"], check=True,
                          capture_output=True, text=True).stdout.strip()


def world_readable_files() -> list[Path]:
    found = []
    for top in ("/etc", "/opt", "/var", "/run", "/tmp", "/home", "/root"):
        for folder, _, names in os.walk(top):
            for path in (Path(folder, name) for name in names):
                try:
                    mode = path.lstat().st_mode
                except OSError:
                    continue
                if stat.S_ISREG(mode) and mode & stat.S_IROTH:
                    found.append(path)
    return found


def main() -> None:
    files = [CREDENTIALS / name for name in ("admin-token", "redis-password")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    token = files[0].read_text().strip()

    sent = call("POST", "/api/v1/messages", {"from_agent": "code", "to_agent": "chat",
                                             "subject": "Hi", "body": "there"})
    assert call("GET", "/api/v1/inbox/chat")["messages"][0]["id"] == sent["id"]
    assert "tokens" in call("GET", "/api/v1/admin/tokens", token=token)

    pid = int(of_unit("MainPID"))
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    while int(of_unit("MainPID")) in (0, pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert call("GET", "/api/v1/inbox/chat")["messages"][0]["id"] == sent["id"]
    assert int(of_unit("NRestarts")) >= 1

    for secret in (file.read_bytes().strip() for file in files):
        check_hidden(secret)


def check_hidden(secret: bytes) -> None:
    """In no argv or environment, no file that all may read, and not in the journal."""
    running = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    for path in (each / name for each in running for name in ("cmdline", "environ")):
        try:
            assert secret not in path.read_bytes(), path
        except (FileNotFoundError, ProcessLookupError):
            continue
    for path in world_readable_files():
        assert secret not in path.read_bytes(), path
    journal = subprocess.run(["journalctl", "--no-pager", "-o", "export"], check=True,
                             capture_output=True).stdout
    assert secret not in journal


if __name__ == "__main__":
    main()
