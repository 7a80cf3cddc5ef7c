"""`coordctl up`, `down`, `status` and `agent`, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.ctl import LIMIT_S, Ctl
from support.server import start


@pytest.fixture
def ctl(tmp_path: Path) -> Iterator[Ctl]:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    site = Ctl(tmp_path / "site", cwd)
    yield site
    if (site.folder / "site.yml").exists():
        site("down")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctl]:
    """A site that was brought up once."""
    site = Ctl(tmp_path_factory.mktemp("first") / "site", tmp_path_factory.mktemp("first-cwd"))
    site.up()
    yield site
    site("down")


@pytest.fixture
def standing(first: Ctl, tmp_path: Path) -> Ctl:
    """A site that is up, without messages."""
    first.empty(tmp_path / "cwd")
    return first


def pid_of(ctl: Ctl) -> int:
    return int(json.loads(ctl("status", "--format", "json").stdout)["pid"])


def test_up_makes_a_site_and_down_keeps_its_messages(ctl: Ctl) -> None:
    done = ctl.up()
    assert f"coordd is ready at {ctl.url}" in done.stdout
    for words in ("coord send code chat", "coord inbox chat", "/docs"):
        assert words in done.stdout
    sent = ctl.call("POST", "/api/v1/messages",
                    {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
    pid = pid_of(ctl)

    again = ctl("up")
    assert f"coordd runs at {ctl.url} (pid {pid}, since " in again.stdout

    assert "coordd has stopped" in ctl("down").stdout
    process = Path(f"/proc/{pid}/cmdline")  # empty for one that has ended and is not collected
    assert not process.exists() or process.read_bytes() == b""
    assert "Nothing runs" in ctl("down").stdout
    stopped = json.loads(ctl("status", "--format", "json", code=1).stdout)
    assert (stopped["running"], stopped["ready"], stopped["pid"]) == (False, False, None)

    ctl("up")
    assert [m["id"] for m in ctl.inbox("chat")] == [sent["id"]]


def test_the_site_is_for_its_owner_alone(ctl: Ctl) -> None:
    done = ctl.up()
    token = (ctl.folder / "admin.token").read_text(encoding="utf-8").strip()
    assert token.startswith("coord_admin_")
    assert stat.S_IMODE(ctl.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ctl.folder / "admin.token").stat().st_mode) == 0o600
    assert stat.S_IMODE((ctl.folder / "data").stat().st_mode) == 0o700
    argv = Path(f"/proc/{pid_of(ctl)}/cmdline").read_bytes().decode()
    logs = "".join(p.read_text(encoding="utf-8") for p in ctl.folder.glob("*.log"))
    for text in (argv, logs, done.stdout, done.stderr):
        assert token not in text


def test_the_server_is_on_its_own(standing: Ctl) -> None:
    """It does not end with the terminal, and holds neither its input nor its folder."""
    pid = pid_of(standing)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{pid}/cwd").readlink() == standing.folder


def test_status_in_every_format(standing: Ctl) -> None:
    standing.call("POST", "/api/v1/messages",
             {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
    facts = json.loads(standing("status", "--format", "json").stdout)
    assert facts == yaml.safe_load(standing("status", "--format", "yaml").stdout) | {
        "size": facts["size"]}
    assert (facts["ready"], facts["messages"], facts["unread"]) == (True, 1, 1)
    table = standing("status").stdout
    assert standing.url in table
    assert max(map(len, table.splitlines())) <= 80 + len(str(standing.folder))


def test_a_killed_server_is_started_again_by_itself(standing: Ctl) -> None:
    sent = standing.call("POST", "/api/v1/messages",
                    {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
    pid = pid_of(standing)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    while True:
        done = subprocess.run(standing.arguments("status", "--format", "json"), env=standing.env,
                              cwd=standing.cwd, capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode == 0 and json.loads(done.stdout)["pid"] != pid:
            break
        assert time.monotonic() < deadline, done
    assert [m["id"] for m in standing.inbox("chat")] == [sent["id"]]


def test_a_server_of_an_earlier_version_is_taken_over(standing: Ctl) -> None:
    """It ran without a supervisor; `up` ends it in order and starts a supervised one."""
    sent = standing.call("POST", "/api/v1/messages",
                    {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
    standing("down")
    command = [sys.executable, "-P", "-m", "coordd", "--settings",
               str(standing.folder / "coordd.toml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as bare:
        try:
            deadline = time.monotonic() + LIMIT_S
            while subprocess.run(standing.arguments("status"), env=standing.env,
                                 cwd=standing.cwd, check=False, capture_output=True,
                                 timeout=LIMIT_S).returncode:
                assert time.monotonic() < deadline
            assert "coordd is ready at" in standing("up").stdout
            assert bare.wait(LIMIT_S) == 0
            assert pid_of(standing) != bare.pid
        finally:
            bare.kill()
    assert [m["id"] for m in standing.inbox("chat")] == [sent["id"]]


def test_a_look_alike_is_not_ended(standing: Ctl) -> None:
    standing("down")
    settings = str(standing.folder / "coordd.toml")
    with subprocess.Popen([sys.executable, "-c", "input()", "-m", "coordd", "--settings", settings],
                          stdin=subprocess.PIPE) as other:
        assert "Nothing runs" in standing("down").stdout
        assert other.poll() is None
        other.kill()


def test_a_port_that_is_taken(ctl: Ctl) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ctl.port))
        taken.listen()
        done = ctl("up", "--port", str(ctl.port), code=1)
        assert f"port {ctl.port} of 127.0.0.1 is taken" in done.stderr
        assert f"Next:  coordctl --site {ctl.folder} up --port {ctl.port + 1}" in done.stderr
        assert not (ctl.folder / "data" / "lock").exists()
    ctl.up()


def test_another_port_is_kept(ctl: Ctl) -> None:
    first = Ctl(ctl.folder, ctl.cwd)
    first.up()
    done = ctl("up", "--port", str(ctl.port), code=1)
    assert f" down && coordctl --site {ctl.folder} up --port {ctl.port}" in done.stderr
    ctl("down")
    ctl.up()
    ctl("down")
    assert ctl.url in ctl("up").stdout


def test_a_server_that_ends_shows_its_log(standing: Ctl) -> None:
    """Another server, of other settings, has the data folder."""
    standing("down")
    with start(standing.folder / "data"):
        done = standing("up", code=1)
    assert "phase coordd failed" in done.stderr
    assert "stop the other server, or set another data folder" in done.stderr
    assert f"Next:  coordctl --site {standing.folder} up --resume" in done.stderr
    assert "is ready" in standing("up", "--resume").stdout


def test_the_environment_does_not_change_the_server(ctl: Ctl) -> None:
    ctl.env["COORDD_PORT"] = "1"
    ctl.env["COORDD_NONSENSE"] = "1"
    ctl.up()


def test_a_module_in_the_current_folder_is_not_taken_for_the_servers(ctl: Ctl) -> None:
    ctl.folder.mkdir()
    ctl.up()
    ctl("down")
    (ctl.folder / "msgspec.py").write_text("raise SystemExit(7)\n", encoding="utf-8")
    ctl("up")


def test_four_at_once_start_one_server(ctl: Ctl) -> None:
    racing = [subprocess.Popen(ctl.arguments("up", "--port", str(ctl.port)), cwd=ctl.cwd,
                               env=ctl.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate(timeout=LIMIT_S) for process in racing]
    assert [process.returncode for process in racing] == [0] * 4, told
    assert sum("is ready at" in out for out, _ in told) == 1
    assert sum("runs at" in out for out, _ in told) == 3


def test_a_level_that_cannot_be_is_not_written_down(ctl: Ctl) -> None:
    refused = ctl("up", "--level", "organization", code=1).stderr
    assert "organization needs 6 machines and the site has 0" in refused
    assert yaml.safe_load((ctl.folder / "site.yml").read_text())["level"] == "individual"
    ctl.up()
    refused = ctl("up", "--level", "team", code=1).stderr
    assert "the site stands at level individual already" in refused
    assert "coordctl" in refused.splitlines()[-1]
    assert yaml.safe_load((ctl.folder / "site.yml").read_text())["level"] == "individual"
    assert "coordd runs" in ctl("up", "--level", "individual").stdout


def test_a_folder_of_something_else_is_left_alone(ctl: Ctl) -> None:
    ctl.folder.mkdir(mode=0o755)
    (ctl.folder / "thesis.tex").write_text("x", encoding="utf-8")
    done = ctl("up", code=1)
    assert "thesis.tex" in done.stderr
    assert stat.S_IMODE(ctl.folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("command", [["down"], ["status"], ["agent", "list"], ["import", "."]])
def test_without_a_site_the_next_command_is_named(ctl: Ctl, command: list[str]) -> None:
    done = ctl(*command, code=1)
    assert f"there is no site at {ctl.folder}" in done.stderr
    assert f"Next:  coordctl --site {ctl.folder} up" in done.stderr


def test_agents_get_and_lose_tokens(standing: Ctl) -> None:
    (standing.folder / "coordd.log").stat()
    first = standing("agent", "add", "code").stdout.strip()
    assert first.startswith("coord_")
    assert "agent rotate code" in standing("agent", "add", "code", code=1).stderr
    second = standing("agent", "rotate", "code", "--yes").stdout.strip()
    assert second != first
    rows = json.loads(standing("agent", "list", "--format", "json").stdout)
    assert [row["revoked_at"] is None for row in rows] == [False, True]
    assert "Revoked" in standing("agent", "revoke", "code", "--yes").stdout
    assert "revoked before" in standing("agent", "revoke", "code", "--yes").stdout
    assert "agent list" in standing("agent", "revoke", "none", "--yes", code=1).stderr
    rows = json.loads(standing("agent", "list", "--format", "json").stdout)
    assert all(row["revoked_at"] for row in rows)
    everything = "".join(p.read_text(encoding="utf-8") for p in standing.folder.glob("*.log"))
    for token in (first, second):
        assert token.split("_", 2)[2] not in everything
    assert standing("agent", "add", "a b", code=2).stderr


def test_the_token_that_add_prints_is_one(standing: Ctl) -> None:
    """With tokens on, which is for other levels, on its data."""
    token = standing("agent", "add", "code").stdout.strip()
    standing("down")
    with start(standing.folder / "data", auth="token") as server:
        def status(token: str) -> int:
            request = urllib.request.Request(f"{server.url}/api/v1/inbox/code",
                                             headers={"Authorization": f"Bearer {token}"})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        assert status(token) == 200
        assert status(token + "x") == 401


def test_the_supervisor_has_the_events_log_rotated(standing: Ctl) -> None:
    """As logrotate says that a day has passed; what is sent after that is in the new log."""
    send = {"from_agent": "code", "to_agent": "chat", "subject": "one", "body": "x"}
    standing.call("POST", "/api/v1/messages", send)
    log = standing.folder / "data" / "events.log"
    state = standing.folder / "logrotate" / "logrotate.state"
    standing("down")
    assert "|one" in log.read_text(encoding="utf-8")
    state.write_text(f'logrotate state -- version 2\n"{log}" 2020-1-1-0:0:0\n', encoding="utf-8")
    standing("up")
    deadline = time.monotonic() + LIMIT_S
    while not log.with_name("events.log.1").exists():
        assert time.monotonic() < deadline, (standing.folder / "coordd.log").read_text("utf-8")
        time.sleep(0.05)
    standing.call("POST", "/api/v1/messages", send | {"subject": "two"})
    while not (log.exists() and "|two" in log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "|one" in log.with_name("events.log.1").read_text(encoding="utf-8")
    assert [event["subject"] for event in standing.events()] == ["one", "two"]
