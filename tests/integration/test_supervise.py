"""`python -m coordd.supervise`: one server a settings file, kept running, ended when asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.ctl import free_port
from support.server import settings_text

LIMIT_S = 60.0


class Supervised:
    """A folder with settings; calls the command on them."""

    def __init__(self, folder: Path) -> None:
        self.settings = folder / "coordd.toml"
        self.log = folder / "coordd.log"
        self.port = free_port()
        self.write()

    def write(self, **settings: object) -> None:
        self.settings.write_text(settings_text(
            data=self.settings.with_name("data"), port=self.port, **settings))

    def arguments(self, verb: str) -> list[str]:
        return [sys.executable, "-P", "-m", "coordd.supervise", verb,
                "--settings", str(self.settings)]

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.arguments(verb), capture_output=True, text=True,
                              timeout=LIMIT_S)

    def __call__(self, verb: str) -> dict[str, Any]:
        done = self.run(verb)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def send(self) -> str:
        answer = httpx.post(f"http://127.0.0.1:{self.port}/api/v1/messages", json={
            "from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def inbox(self) -> list[str]:
        page = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/inbox/chat").json()
        return [message["id"] for message in page["messages"]]

    def wait_for_another(self, pid: int) -> int:
        """The pid of the server that serves after `pid`."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            found = self("status")["pid"]
            if found not in (None, pid):
                self("start")  # comes back when it serves
                return int(found)
        raise AssertionError(self.log.read_text())

    def wait_for_log(self, words: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def has_ended(pid: int) -> bool:
    """A process that has ended and is not collected has no command line."""
    words = Path(f"/proc/{pid}/cmdline")
    return not words.exists() or words.read_bytes() == b""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    made("stop")


def test_start_comes_back_when_it_serves_and_changes_nothing_the_second_time(
        supervised: Supervised) -> None:
    first = supervised("start")
    assert first["changed"]
    sent = supervised.send()
    again = supervised("start")
    assert (again["changed"], again["pid"]) == (False, first["pid"])
    assert supervised("stop")["changed"]
    stopped = supervised("status")
    assert (stopped["pid"], stopped["supervisor"]) == (None, None)
    assert not supervised("stop")["changed"]
    supervised("start")
    assert supervised.inbox() == [sent]


def test_both_are_on_their_own(supervised: Supervised) -> None:
    """They do not end with the terminal, and hold neither its input nor its folder."""
    running = supervised("start")
    for pid in (running["pid"], running["supervisor"]):
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
        assert Path(f"/proc/{pid}/cwd").readlink() == supervised.settings.parent


def test_a_killed_server_is_started_again_with_what_it_acknowledged(
        supervised: Supervised) -> None:
    running = supervised("start")
    sent = supervised.send()
    os.kill(running["pid"], signal.SIGKILL)
    supervised.wait_for_another(running["pid"])
    assert supervised.inbox() == [sent]
    assert supervised("status")["supervisor"] == running["supervisor"]
    assert f"(pid {running['pid']}) was ended by SIGKILL" in supervised.log.read_text()


def test_a_server_whose_supervisor_was_killed_is_taken_over(supervised: Supervised) -> None:
    running = supervised("start")
    sent = supervised.send()
    os.kill(running["supervisor"], signal.SIGKILL)
    assert supervised.inbox() == [sent]  # it serves on
    taken = supervised("start")
    assert taken["changed"]
    assert taken["pid"] != running["pid"]
    assert supervised.inbox() == [sent]
    assert has_ended(running["pid"])


def test_stop_ends_a_server_whose_supervisor_was_killed(supervised: Supervised) -> None:
    running = supervised("start")
    os.kill(running["supervisor"], signal.SIGKILL)
    assert supervised("stop")["changed"]
    assert has_ended(running["pid"])


def test_a_server_that_was_asked_to_end_stays_down(supervised: Supervised) -> None:
    running = supervised("start")
    os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + LIMIT_S
    while supervised("status")["supervisor"] is not None:
        assert time.monotonic() < deadline
    assert supervised("status")["pid"] is None


def test_restart_takes_new_settings(supervised: Supervised) -> None:
    before = supervised("start")
    supervised.port = free_port()
    supervised.write()
    assert not supervised("start")["changed"]
    after = supervised("restart")
    assert after["changed"]
    assert after["supervisor"] != before["supervisor"]
    supervised.send()


def test_a_wrong_setting_is_told_and_not_tried_again(supervised: Supervised) -> None:
    supervised.write(auth="tokens")
    done = supervised.run("start")
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("coordd.supervise: the server ended with exit code 2; its log (")
    assert any("auth = \"tokens\"" in line for line in rest)
    assert supervised("status")["supervisor"] is None


def test_a_port_that_is_taken_is_told(supervised: Supervised) -> None:
    (supervised.settings.parent / "other").mkdir()
    other = Supervised(supervised.settings.parent / "other")
    other.port = supervised.port
    other.write()
    supervised("start")
    done = other.run("start")
    assert done.returncode == 1
    assert f"port {supervised.port}: Address already in use" in done.stderr


def test_six_at_once_start_one_server(supervised: Supervised) -> None:
    racing = [subprocess.Popen(supervised.arguments("start"), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True) for _ in range(6)]
    told = [process.communicate(timeout=LIMIT_S) for process in racing]
    assert [process.returncode for process in racing] == [0] * 6, told
    answers = [json.loads(out) for out, _ in told]
    assert sum(answer["changed"] for answer in answers) == 1
    assert len({(answer["pid"], answer["supervisor"]) for answer in answers}) == 1


def test_a_server_that_keeps_dying_is_given_up_loudly(supervised: Supervised) -> None:
    """With the pauses shortened; the server dies for want of its data folder's disk format."""
    code = ("import sys; from coordd import supervisor, supervise; supervisor.BACKOFF_S = 0.001;"
            "sys.exit(supervise.main(sys.argv[1:]))")
    supervised.write()
    with supervised.log.open("ab") as log, subprocess.Popen(
            [sys.executable, "-P", "-c", code, *supervised.arguments("run")[4:],
             "--log", str(supervised.log)], stderr=log) as supervisor:
        supervised.wait_for_log("listening on")
        pid = supervised("status")["pid"]
        supervised.settings.with_name("data").rename(supervised.settings.with_name("away"))
        supervised.settings.with_name("data").write_text("no folder")
        os.kill(pid, signal.SIGKILL)
        assert supervisor.wait(LIMIT_S) == 1
    text = supervised.log.read_text()
    assert "GIVEN UP after 10 early deaths" in text
    assert text.count("it is started again in") == 9


def test_a_reload_reaches_the_server_and_a_full_log_is_moved(supervised: Supervised) -> None:
    supervised.log.write_bytes(b"old line\n" * (1 << 20))
    supervised("start")
    assert supervised.log.with_name("coordd.log.1").stat().st_size == 9 << 20
    supervised.wait_for_log("listening on")
    assert supervised.log.stat().st_size < 10_000
    supervised.send()
    events = supervised.settings.with_name("data") / "events.log"
    events.rename(events.with_suffix(".log.1"))
    supervised("reload")
    deadline = time.monotonic() + LIMIT_S
    while not (events.exists() and "SENT" in events.read_text()):
        assert time.monotonic() < deadline
        supervised.send()
