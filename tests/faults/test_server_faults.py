"""What stops a real server: one line that says where and what to do, and nothing lost.

A wrong setting, a taken port and their likes: tests/integration/test_start.py.
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
from typing import TYPE_CHECKING

import pytest

from faults.clients import Address, Connection, all_of
from support.server import spawn, start

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 60.0
SEGMENT_BYTES = 65_536
MESSAGES = 12


def _address(port: int) -> Address:
    address = Address()
    address.port = port
    return address


def _send(connection: Connection, subject: str, size: int = 15_000) -> int:
    status, _ = connection.ask("POST", "/api/v1/messages", {
        "from_agent": "code", "to_agent": "chat", "subject": subject, "body": "x" * size})
    return status


def _subjects(port: int) -> list[str]:
    return all_of(_address(port), "chat", lambda message: str(message["subject"]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with several segments."""
    folder = tmp_path / "data"
    with start(folder, segment_bytes=SEGMENT_BYTES) as server:
        connection = Connection(_address(server.port))
        for number in range(MESSAGES):
            assert _send(connection, f"m{number}") == 200
        connection.close()
    assert len(list((folder / "log").glob("*.log"))) >= 3
    return folder


def _refused(data: Path, *words: str) -> None:
    """It ends with one line that has all of `words`, and changes nothing in the log."""
    before = {path.name: path.is_file() and path.read_bytes()
              for path in (data / "log").iterdir()}
    server = spawn(data, segment_bytes=SEGMENT_BYTES)
    assert server.process.wait(LIMIT_S) == 1
    log = server.log()
    assert log.startswith("coordd: ")
    assert log.count("\n") == 1, log
    for word in words:
        assert word in log, log
    assert before == {path.name: path.is_file() and path.read_bytes()
                      for path in (data / "log").iterdir()}


def _serves_all(data: Path) -> None:
    with start(data, segment_bytes=SEGMENT_BYTES) as server:
        assert _subjects(server.port) == [f"m{number}" for number in range(MESSAGES)]


def test_a_flipped_byte_in_the_middle(data: Path) -> None:
    path = sorted((data / "log").glob("*.log"))[1]
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 0x10
    path.write_bytes(damaged)
    _refused(data, str(path), "damaged at offset ", "backup")
    path.write_bytes(original)
    _serves_all(data)


def test_a_missing_segment_in_the_middle(data: Path) -> None:
    path = sorted((data / "log").glob("*.log"))[1]
    aside = path.rename(data / "aside")
    _refused(data, "missing", ".log", "backup")
    aside.rename(path)
    _serves_all(data)


def test_an_unreadable_segment(data: Path) -> None:
    """A folder in its place: root may read a file of any mode."""
    path = sorted((data / "log").glob("*.log"))[1]
    aside = path.rename(data / "aside")
    path.mkdir()
    _refused(data, str(path), "can't be read")
    path.rmdir()
    aside.rename(path)
    _serves_all(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read a file of any mode")
def test_a_segment_without_rights(data: Path) -> None:
    path = sorted((data / "log").glob("*.log"))[1]
    path.chmod(0)
    _refused(data, str(path), "can't be read")
    path.chmod(0o600)
    _serves_all(data)


def test_a_log_folder_that_is_gone_after_a_clean_stop(data: Path) -> None:
    aside = data.with_name("aside")
    shutil.move(data / "log", aside)
    server = spawn(data, segment_bytes=SEGMENT_BYTES)
    assert server.process.wait(LIMIT_S) == 1
    assert server.log().count("\n") == 1, server.log()
    assert "missing" in server.log()
    shutil.rmtree(data / "log", ignore_errors=True)
    shutil.move(aside, data / "log")
    _serves_all(data)


def test_a_second_server_does_not_disturb_the_first(data: Path) -> None:
    with start(data, segment_bytes=SEGMENT_BYTES) as first:
        connection = Connection(_address(first.port))
        for number in range(3):
            second = spawn(data, segment_bytes=SEGMENT_BYTES)
            while second.process.poll() is None:
                assert _send(connection, f"meanwhile-{number}", size=10) == 200
            assert second.process.returncode == 1
            assert second.log().count("\n") == 1, second.log()
            assert "in use by another coordd" in second.log()
        connection.close()
        before = _subjects(first.port)
    with start(data, segment_bytes=SEGMENT_BYTES) as again:
        assert _subjects(again.port) == before


def test_a_log_that_cannot_be_written_ends_the_server(data: Path) -> None:
    """No ENOSPC but an error that says nothing of what is on the disk: here a file-size limit."""
    server = start(data, segment_bytes=1 << 20)
    connection = Connection(_address(server.port))
    assert _send(connection, "before", size=10) == 200
    size = max(path.stat().st_size for path in (data / "log").glob("*.log"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + 100, size + 100))
    statuses = [200]
    while statuses[-1] == 200 and len(statuses) < 20:  # zeros that are there already are filled
        try:
            statuses.append(_send(connection, "after", size=60_000))
        except (OSError, http.client.HTTPException):
            statuses.append(0)
    assert statuses[-1] != 200
    assert server.process.wait(LIMIT_S) == 1
    assert "the server ends" in server.log()
    assert "Traceback" not in server.log()
    connection.close()
    with start(data, segment_bytes=1 << 20) as again:
        shown = _subjects(again.port)
        assert shown[: MESSAGES + 1] == [*(f"m{number}" for number in range(MESSAGES)), "before"]
        connection = Connection(_address(again.port))
        assert _send(connection, "and on") == 200
        connection.close()
