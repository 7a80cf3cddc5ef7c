"""Starting and stopping: what goes wrong is one line, and an exit code that is not 0."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from support.raw import Connection
from support.server import spawn, start

LIMIT_S = 60


def _fails(data: Path, **settings: object) -> tuple[int, str]:
    server = spawn(data, **settings)
    code = server.process.wait(LIMIT_S)
    return code, server.log()


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _one_line(log: str, *words: str) -> None:
    assert log.startswith("coordd: ")
    assert log.count("\n") == 1, log
    for word in words:
        assert word in log


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    code, log = _fails(tmp_path / "data", auth="tokens")
    assert code == 2
    _one_line(log, 'auth = "tokens"', '"open" or "token"')
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_one_line_and_leaves_no_trace(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, log = _fails(tmp_path / "data", port=port)
    assert code == 1
    _one_line(log, f"port {port}", "Address already in use", "set another port")
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    code, log = _fails(tmp_path / "data", host="192.0.2.1")
    assert code == 1
    _one_line(log, "192.0.2.1", "Cannot assign requested address")


def test_a_second_server_on_the_folder_is_one_line(tmp_path: Path) -> None:
    with start(tmp_path / "data") as first:
        server = spawn(tmp_path / "data", env={"COORDD_PORT": "0"})
        code = server.process.wait(LIMIT_S)
        # The second's log has replaced the first's, since both lie beside the folder.
        _one_line(server.log(), "in use by another coordd", str(first.pid))
        assert code == 1
        assert httpx.get(f"{first.url}/health").status_code == 200


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "data")
    server = spawn(tmp_path / "data", env={"COORDD_DATA": folder})
    assert server.process.wait(LIMIT_S) == 1
    _one_line(server.log(), folder)


def test_a_data_path_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    code, log = _fails(tmp_path / "data")
    assert code == 1
    _one_line(log, str(tmp_path / "data"))


def test_a_readable_admin_token_is_one_line(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("coord_admin_" + "x" * 20)
    token.chmod(0o644)
    code, log = _fails(tmp_path / "data", admin_token_file=token)
    assert code == 2
    _one_line(log, "admin_token_file", "chmod 600")
    assert "xxxx" not in log


def test_the_check_and_the_version(tmp_path: Path) -> None:
    file = tmp_path / "coordd.toml"
    file.write_text(f'data = "{tmp_path / "data"}"\n')
    check = [sys.executable, "-m", "coordd", "--settings", str(file), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "coordd: the settings are right\n")
    assert not (tmp_path / "data").exists()
    file.write_text("port = 1\n")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 2
    version = subprocess.run([sys.executable, "-m", "coordd", "--version"], capture_output=True,
                             text=True, check=True).stdout
    assert re.fullmatch(r"coordd \d+\.\d+\.\d+\n", version)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_exits_0_and_keeps_what_was_stored(tmp_path: Path, number: signal.Signals) -> None:
    server = start(tmp_path / "data")
    item = {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}
    assert httpx.post(f"{server.url}/api/v1/messages", json=item).status_code == 200
    server.process.send_signal(number)
    assert server.process.wait(LIMIT_S) == 0
    assert "Traceback" not in server.log()
    with start(tmp_path / "data") as again:
        assert httpx.get(f"{again.url}/api/v1/inbox/chat").json()["last_seq"] == 1


def test_a_stop_answers_what_is_in_work(tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    item = json.dumps({"from_agent": "a", "to_agent": "b", "subject": "", "body": "x"}).encode()
    connections = [Connection(server.port) for _ in range(50)]
    for c in connections:
        c.get("/health")
        c.answer()
    for c in connections:
        c.post("/api/v1/messages", item)
    server.process.send_signal(signal.SIGTERM)
    answered = 0
    for c in connections:
        answered += c.answer().status == 200
        assert c.closed()
        c.close()
    assert server.process.wait(LIMIT_S) == 0
    with start(tmp_path / "data") as again:
        assert httpx.get(f"{again.url}/api/v1/inbox/b").json()["last_seq"] == answered == 50


def test_a_stop_leaves_idle_connections_to_the_client_for_one_more_request(tmp_path: Path) -> None:
    server = start(tmp_path / "data", drain_s=30)
    item = json.dumps({"from_agent": "a", "to_agent": "b", "subject": "", "body": "x"}).encode()
    connections = [Connection(server.port) for _ in range(3)]
    for c in connections:
        c.get("/health")
        c.answer()
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + LIMIT_S
    while _accepts(server.port):
        assert time.monotonic() < deadline, "it still takes connections"
    for c in connections[:2]:
        c.post("/api/v1/messages", item)
        answer = c.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert c.closed()
        c.close()
    assert server.process.poll() is None
    connections[2].close()
    assert server.process.wait(LIMIT_S) == 0


def test_sighup_opens_the_event_log_anew(tmp_path: Path) -> None:
    with start(tmp_path / "data") as server:
        item = {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}
        log = tmp_path / "data" / "events.log"
        httpx.post(f"{server.url}/api/v1/messages", json=item)
        _wait_for(log, "SENT")
        log.rename(log.with_suffix(".log.1"))
        server.process.send_signal(signal.SIGHUP)
        for _ in range(600):
            httpx.post(f"{server.url}/api/v1/messages", json=item)
            if log.exists() and "SENT" in log.read_text():
                return
            time.sleep(0.05)
        raise AssertionError("events.log was not made again")


def _wait_for(file: Path, word: str) -> None:
    for _ in range(600):
        if file.exists() and word in file.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {word} in {file}")


def test_more_than_may_wait_is_503_and_nothing_is_stored(tmp_path: Path) -> None:
    with start(tmp_path / "data", pending_max=10) as server:
        item = {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}
        url = f"{server.url}/api/v1/messages/batch"
        answer = httpx.post(url, json=[item] * 11)
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/overloaded"
        assert answer.headers["retry-after"] == "1"
        assert httpx.post(url, json=[item] * 10).status_code == 200
        assert httpx.get(f"{server.url}/api/v1/inbox/chat").json()["last_seq"] == 10
