"""Real disks that are full or read-only, under a real server. Mounting them takes root."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from faults.clients import Address, Connection, all_of
from support.server import Server, spawn, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_BYTES = 16 << 20
BALLAST_BYTES = 6 << 20
LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def _mount(kind: str, folder: Path) -> None:
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    else:
        image = folder.with_name("image")
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk ({kind}) cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A data folder that is a small disk."""
    folder = tmp_path / "data"
    folder.mkdir()
    _mount(request.param, folder)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Sender:
    """Sends large messages and knows which were acknowledged and which refused."""

    def __init__(self, server: Server) -> None:
        self.address = Address()
        self.address.port = server.port
        self.connection = Connection(self.address)
        self.acked: dict[str, int] = {}
        self.refused: set[str] = set()
        self.statuses: set[int] = set()

    def send(self, subject: str, size: int = 60_000) -> int:
        message = {"from_agent": "code", "to_agent": "chat", "subject": subject, "body": "x" * size}
        status, answer = self.connection.ask("POST", "/api/v1/messages", message)
        if status == 200:
            self.acked[subject] = answer["seq"]
        else:
            self.refused.add(subject)
            self.statuses.add(status)
        return status

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        return self.connection.ask(method, path)

    def inbox(self) -> dict[str, int]:
        return dict(all_of(self.address, "chat", lambda m: (m["subject"], m["seq"])))


def _until(sender: Sender, path: str, status: int) -> None:
    """Ask until this is the status. A proof of readiness may be a second old."""
    deadline = time.monotonic() + LIMIT_S
    while (answer := sender.ask("GET", path))[0] != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


def _fill(sender: Sender, name: str) -> None:
    """Send until not even a small message finds room."""
    for number in range(1000):
        if sender.send(f"{name}-{number}") != 200:
            break
    for number in range(1000):
        if sender.send(f"{name}-small-{number}", size=3000) != 200:
            break
    for number in range(1000):
        if sender.send(f"{name}-tiny-{number}", size=1) != 200:
            break
    assert sender.refused
    assert sender.statuses <= {503, 507}


def test_a_full_disk(data: Path) -> None:
    ballast = data / "ballast"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    server = start(data, segment_bytes=1 << 20)
    try:
        sender = Sender(server)
        _until(sender, "/ready", 200)
        _fill(sender, "first")
        acked = len(sender.acked)
        assert acked > 20
        for number in range(10):
            sender.send(f"again-{number}", size=8000)
        # Reads go on.
        assert sender.inbox() == sender.acked
        assert sender.ask("GET", "/api/v1/stats")[0] == 200
        assert sender.ask("GET", "/api/v1/events?limit=5&order=newest")[0] == 200
        assert sender.ask("GET", "/health")[0] == 200
        _until(sender, "/ready", 503)
        # Killed and started on a full disk it still shows what it has.
        server.kill()
        server = spawn(data, segment_bytes=1 << 20)
        _wait_listening(server)
        sender.address.port = server.port
        assert sender.inbox() == sender.acked
        assert sender.send("still full", size=30_000) in (503, 507)
        # Room again.
        ballast.unlink()
        _until(sender, "/ready", 200)
        assert sender.send("room again") == 200
        assert sender.send("room again, too") == 200
        assert sender.inbox() == sender.acked
        server.kill()
        server = start(data, segment_bytes=1 << 20)
        sender.address.port = server.port
        shown = sender.inbox()
        assert shown == sender.acked
        assert not shown.keys() & sender.refused
        assert sorted(shown.values()) == list(range(1, len(shown) + 1))
        sender.connection.close()
    finally:
        code = server.stop()
    assert code == 0
    assert "Traceback" not in server.log()


def test_a_full_disk_under_concurrent_senders(data: Path) -> None:
    ballast = data / "ballast"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    with start(data, segment_bytes=1 << 20) as server:
        senders = [Sender(server) for _ in range(6)]
        threads = [
            threading.Thread(target=_send_some, args=(sender, f"s{number}", ballast))
            for number, sender in enumerate(senders)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shown = senders[0].inbox()
        for sender in senders:
            sender.connection.close()
    acked = {subject: seq for sender in senders for subject, seq in sender.acked.items()}
    refused = {subject for sender in senders for subject in sender.refused}
    assert shown == acked
    assert refused
    assert not shown.keys() & refused
    assert sorted(shown.values()) == list(range(1, len(shown) + 1))
    with spawn(data, segment_bytes=1 << 20) as server:
        # The disk may be full again.
        _wait_listening(server)
        sender = Sender(server)
        assert sender.inbox() == acked
        sender.connection.close()


def test_the_work_behind_sends_waits_for_room(data: Path) -> None:
    """Messages are served meanwhile, as far as they can be."""
    with start(data) as server:
        sender = Sender(server)
        assert sender.send("kept") == 200
        sender.connection.close()
    for file in data.glob("work.db*"):
        file.unlink()
    ballast = data / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):  # no room is left
        while True:
            file.write(bytes(4096))
    with spawn(data) as server:
        _wait_listening(server)
        sender = Sender(server)
        assert sender.inbox() == {"kept": 1}
        sender.connection.close()
        assert "the work behind sends waits for room on the disk" in server.log()
        ballast.unlink()
        deadline = time.monotonic() + LIMIT_S
        while "the work behind sends goes on" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)


def _send_some(sender: Sender, name: str, ballast: Path) -> None:
    refused = 0
    for number in range(120):
        if sender.send(f"{name}-{number}", size=30_000) != 200:
            refused += 1
            if refused > 20:
                ballast.unlink(missing_ok=True)


def _wait_listening(server: Server) -> None:
    """On a full disk a server is never ready, but it listens."""
    deadline = time.monotonic() + LIMIT_S
    while "listening on" not in server.log():
        assert server.process.poll() is None, server.log()
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.02)
    line = next(line for line in server.log().splitlines() if "listening on" in line)
    server.url = line.split("listening on ")[1].split(",")[0].split()[0]
    server.port = int(server.url.rsplit(":", 1)[1])


def test_a_read_only_data_folder(data: Path) -> None:
    with start(data) as server:
        sender = Sender(server)
        assert sender.send("kept") == 200
        sender.connection.close()
    subprocess.run(["mount", "-o", "remount,ro", str(data)], check=True)
    refused = spawn(data)
    code = refused.process.wait(LIMIT_S)
    subprocess.run(["mount", "-o", "remount,rw", str(data)], check=True)
    log = refused.log()
    assert code == 1
    assert log.startswith("coordd: ")
    assert log.count("\n") == 1, log
    assert str(data) in log
    assert "Read-only file system" in log
    with start(data) as server:
        sender = Sender(server)
        assert sender.inbox() == sender.acked | {"kept": 1}
        sender.connection.close()
