"""`python -m coordd.backup` on real servers: backed up, proved, restored; and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordd.backup import archive, restore
from coordd.backup.calls import BackupError
from coordd.backup.calls import Server as Calls
from support.server import Server, start

LIMIT_S = 110.0
TOKEN = "coord_admin_" + "b" * 32


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return file


@pytest.fixture
def server(tmp_path: Path, token_file: Path) -> Iterator[Server]:
    with start(tmp_path / "data", admin_token_file=token_file) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "backups"
    made.mkdir()
    return made


def backup(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-P", "-m", "coordd.backup", *map(str, words)],
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == code, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def run(server: Server, folder: Path, token_file: Path, *words: object, code: int = 0
        ) -> subprocess.CompletedProcess[str]:
    return backup("run", "--dir", folder, "--url", server.url, "--token-file", token_file,
                  "--free-min-mib", 1, *words, code=code)


def post(server: Server, path: str, body: Any = None) -> Any:
    answer = httpx.post(f"{server.url}/api/v1{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def live(server: Server) -> None:
    """Something of everything."""
    ids = [post(server, "/messages", {"from_agent": "code", "to_agent": "chat", "subject": f"s{n}",
                                      "body": "é\x7f" * n})["id"] for n in range(40)]
    post(server, "/messages", {"from_agent": "code", "to_agent": ["chat", "ops"], "subject": "",
                               "body": "b", "priority": "high"})
    post(server, f"/messages/{ids[0]}/read?agent=chat")
    post(server, f"/messages/{ids[1]}/ack?agent=chat")
    httpx.delete(f"{server.url}/api/v1/messages/{ids[2]}?agent=chat").raise_for_status()
    httpx.put(f"{server.url}/api/v1/agents/chat", json={"description": "talks"}).raise_for_status()
    httpx.post(f"{server.url}/api/v1/messages", headers={"Idempotency-Key": "k"}, json={
        "from_agent": "code", "to_agent": "chat", "subject": "once", "body": "b",
        "expires_at": "2999-01-01T00:00:00Z"}).raise_for_status()


def inbox(server: Server, agent: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.url}/api/v1/inbox/{agent}?limit=500").json()
    messages: list[dict[str, Any]] = answer["messages"]
    return messages


def only(folder: Path) -> Path:
    (file,) = folder.glob("coordd-*.jsonl.gz")
    return file


def test_a_backup_is_proved_and_restores_the_same_store(
        tmp_path: Path, server: Server, folder: Path, token_file: Path) -> None:
    live(server)
    run(server, folder, token_file)
    file = only(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [file.name, file.name.replace(".jsonl.gz", ".json")])
    (row,) = map(json.loads, backup("list", "--dir", folder).stdout.splitlines())
    stats = httpx.get(f"{server.url}/api/v1/stats").json()
    assert (row["messages"], row["events"]) == (stats["messages"], stats["events"])
    assert row["verified_at"]
    assert json.loads(backup("verify", file).stdout)["sha256"] == row["sha256"]

    backup("restore", file, "--data", tmp_path / "restored")
    with start(tmp_path / "restored", admin_token_file=token_file) as restored:
        for agent in ("chat", "ops"):
            assert inbox(restored, agent) == inbox(server, agent)
        operator = {"Authorization": f"Bearer {TOKEN}"}
        feeds = [httpx.get(f"{one.url}/api/v1/admin/feed", headers=operator).json()
                 for one in (server, restored)]
        for feed in feeds:
            for change in feed["changes"]:
                change.pop("pos")  # the seal of the restore has one too
        assert feeds[0]["changes"] == feeds[1]["changes"]
        # It takes messages again, and the retry of an old one is no new one.
        again = {"from_agent": "code", "to_agent": "chat", "subject": "once", "body": "b",
                 "expires_at": "2999-01-01T00:00:00Z"}
        httpx.post(f"{restored.url}/api/v1/messages", headers={"Idempotency-Key": "k"},
                   json=again).raise_for_status()
        assert len(inbox(restored, "chat")) == len(inbox(server, "chat"))


def test_a_server_at_work_is_backed_up_whole(
        server: Server, folder: Path, token_file: Path) -> None:
    """Messages come and are deleted meanwhile."""
    done = threading.Event()

    def work() -> None:
        number = 0
        while not done.is_set():
            sent = post(server, "/messages", {
                "from_agent": "code", "to_agent": "chat", "subject": str(number),
                "body": "b" * 500})
            if number % 3 == 0:
                httpx.delete(f"{server.url}/api/v1/messages/{sent['id']}?agent=chat")
            number += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            run(server, folder, token_file)
    finally:
        done.set()
        worker.join()


def test_an_empty_server_is_backed_up_too(
        tmp_path: Path, server: Server, folder: Path, token_file: Path) -> None:
    run(server, folder, token_file)
    backup("restore", only(folder), "--data", tmp_path / "restored")


def test_a_damaged_backup_is_refused(server: Server, folder: Path, token_file: Path,
                                     tmp_path: Path) -> None:
    live(server)
    run(server, folder, token_file)
    file = only(folder)
    good = file.read_bytes()
    flipped = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
    for bad, why in ((good[:len(good) // 2], "is damaged"), (flipped, "is damaged"),
                     (b"", "is no backup")):
        file.write_bytes(bad)
        assert why in backup("verify", file, code=1).stderr
        backup("restore", file, "--data", tmp_path / "restored", code=1)
        assert not (tmp_path / "restored").exists()


def test_a_backup_that_is_not_what_its_manifest_says_is_refused(
        server: Server, folder: Path, token_file: Path) -> None:
    """Whole in itself, but with a message changed."""
    live(server)
    run(server, folder, token_file)
    file = only(folder)
    lines = gzip.decompress(file.read_bytes()).splitlines()
    lines[1] = lines[1].replace(b'"s0"', b'"S0"')
    end = json.loads(lines[-1])
    end["end"]["sha256"] = hashlib.sha256(b"\n".join([*lines[1:-1], b""])).hexdigest()
    file.write_bytes(gzip.compress(b"\n".join([*lines[:-1], json.dumps(end).encode(), b""])))
    assert "its manifest says otherwise" in backup("verify", file, code=1).stderr


def test_what_comes_back_otherwise_is_named(
        tmp_path: Path, server: Server, folder: Path) -> None:
    """A server restored from one backup, compared with others."""
    def write(name: str) -> Path:
        with Calls(server.url, TOKEN) as calls:
            return archive.write(calls, folder, 1)[0].rename(tmp_path / name)

    def message(subject: str) -> str:
        return str(post(server, "/messages", {"from_agent": "code", "to_agent": "chat",
                                              "subject": subject, "body": "b"})["id"])

    first = message("first")
    short = write("short.gz")
    last = message("last")
    long = write("long.gz")
    lines = gzip.decompress(long.read_bytes())
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(lines.replace(b'"first"', b'"First"')))
    with restore.served(tmp_path / "scratch") as scratch:
        restore.fill(scratch, short, lambda: None)
        restore.compare(scratch, short)
        with pytest.raises(BackupError, match=f"sent {last} as nothing"):
            restore.compare(scratch, long)
        with pytest.raises(BackupError, match=f"change 1 of other.gz .* sent {first} as sent"):
            restore.compare(scratch, other)
    with restore.served(tmp_path / "other-scratch") as scratch:
        restore.fill(scratch, long, lambda: None)
        with pytest.raises(BackupError, match=r"more than the 1 changes of short\.gz"):
            restore.compare(scratch, short)


def test_a_full_disk_leaves_nothing(server: Server, folder: Path, token_file: Path) -> None:
    live(server)
    done = run(server, folder, token_file, "--free-min-mib", 1 << 30, code=1)
    assert "are left on the disk of" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_server_that_does_not_answer_is_told(
        server: Server, folder: Path, token_file: Path) -> None:
    server.stop()
    assert "does not answer" in run(server, folder, token_file, code=1).stderr
    assert list(folder.iterdir()) == []


def test_a_wrong_token_is_told(server: Server, folder: Path, token_file: Path) -> None:
    token_file.write_text(TOKEN + "x")
    assert "answered 401" in run(server, folder, token_file, code=1).stderr
    assert list(folder.iterdir()) == []


def test_the_newest_good_ones_are_kept(server: Server, folder: Path, token_file: Path) -> None:
    for day in range(1, 5):
        (folder / f"coordd-2026010{day}T000000Z.jsonl.gz").write_bytes(b"")
        if day != 2:  # never proved
            (folder / f"coordd-2026010{day}T000000Z.json").write_text("{}")
    (folder / ".coordd-20260101T000000Z.jsonl.gz.tmp").write_bytes(b"of a run that was killed")
    (folder / "somebody's file").write_bytes(b"")
    run(server, folder, token_file, "--keep", 3)
    kept = sorted(path.name for path in folder.iterdir() if path.name.startswith("coordd-"))
    assert len(kept) == 6
    assert kept[0] == "coordd-20260103T000000Z.json"
    assert (folder / "somebody's file").exists()
    assert not list(folder.glob(".*"))


def test_a_restore_into_a_folder_with_messages_is_refused(
        server: Server, folder: Path, token_file: Path) -> None:
    run(server, folder, token_file)
    done = backup("restore", only(folder), "--data", server.data, code=1)
    assert "is not empty" in done.stderr
