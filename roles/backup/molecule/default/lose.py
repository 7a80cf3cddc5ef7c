"""Send, back up, lose the data folder, restore; then what must fail does, and harms nothing."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

PYTHON = "/opt/coordd/current/bin/python"
BACKUPS = Path("/var/backups/coordd")
DATA = Path("/var/lib/coordd")
TOKEN = Path("/etc/coordd/credentials/admin-token").read_text().strip()


def sh(*words: str, code: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def call(method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:8000{path}", method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def send(number: int) -> str:
    sent = call("POST", "/api/v1/messages", {"from_agent": "code", "to_agent": "chat",
                                             "subject": f"s{number}", "body": "é" * number})
    return str(sent["id"])


def seen() -> Any:
    inbox = call("GET", "/api/v1/inbox/chat?limit=500")
    events = call("GET", "/api/v1/events?order=oldest&limit=500")
    return inbox, [{k: v for k, v in event.items() if k != "seq"} for event in events["events"]]


def backups() -> list[Path]:
    return sorted(BACKUPS.glob("coordd-*.jsonl.gz"))


def main() -> None:
    sh("systemctl", "is-active", "coordd-backup.timer")
    ids = [send(number) for number in range(200)]
    call("POST", f"/api/v1/messages/{ids[0]}/read?agent=chat")
    call("POST", f"/api/v1/messages/{ids[1]}/ack?agent=chat")
    call("DELETE", f"/api/v1/messages/{ids[2]}?agent=chat")
    before = seen()

    sh("systemctl", "start", "coordd-backup.service")
    (file,) = backups()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    manifest = json.loads(file.with_name(file.name.replace(".jsonl.gz", ".json")).read_text())
    assert manifest["messages"] == 199, manifest
    assert manifest["verified_at"]

    # All of it is lost, and comes back.
    sh("systemctl", "stop", "coordd.service")
    for entry in DATA.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    as_coordd = ("runuser", "-u", "coordd", "--", PYTHON, "-P", "-m", "coordd.backup")
    sh(*as_coordd, "restore", str(file), "--data", str(DATA))
    sh("systemctl", "start", "coordd.service")
    assert seen() == before
    assert send(1000) not in ids

    # A backup with a byte changed is refused.
    bad = file.with_name("coordd-20000101T000000Z.jsonl.gz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(content)
    shutil.chown(bad, "coordd", "coordd")
    assert "is damaged" in sh(*as_coordd, "verify", str(bad), code=1)
    bad.unlink()

    # On a full disk it fails, leaves nothing there, and the server goes on.
    sh("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700,uid=coordd,gid=coordd", "tmpfs",
       str(BACKUPS))
    sh("systemctl", "start", "coordd-backup.service", code=1)
    assert list(BACKUPS.iterdir()) == []
    sh("umount", str(BACKUPS))
    assert "MiB are left on the disk" in sh("journalctl", "-u", "coordd-backup", "--no-pager")
    send(1001)

    # A server that does not answer: it fails, and what was good stays.
    sh("systemctl", "stop", "coordd.service")
    sh("systemctl", "start", "coordd-backup.service", code=1)
    assert backups() == [file]
    sh("systemctl", "start", "coordd.service")
    sh("systemctl", "start", "coordd-backup.service")
    assert len(backups()) == 2

    assert TOKEN not in sh("journalctl", "--no-pager", "-o", "export")


if __name__ == "__main__":
    main()
