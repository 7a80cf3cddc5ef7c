"""What an operator meets on the way: a clear message each, nothing that `up` does not finish."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from support.team import UP_LIMIT_S, Team

STATUS_LIMIT_S = 15.0  # of one that waits for nobody it takes two


@contextmanager
def site_says(team: Team, **fields: object) -> Iterator[None]:
    """site.yml with other fields, for a while."""
    file = team.folder / "site.yml"
    before = file.read_text(encoding="utf-8")
    file.write_text(yaml.safe_dump(yaml.safe_load(before) | fields), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


@contextmanager
def undone(team: Team, do: str, undo: str) -> Iterator[None]:
    team.on(do)
    try:
        yield
    finally:
        team.on(undo)


def test_an_unknown_key(team: Team) -> None:
    with site_says(team, stak={"store": "files"}):
        error = team("up", "--yes", code=1).stderr
    assert "stak is no key: did you mean stack?" in error
    assert f"Next:  edit {team.folder / 'site.yml'}" in error


def test_another_level_is_no_matter_of_up(team: Team) -> None:
    machines = {f"m{number}": {"address": f"10.213.255.{number}"} for number in range(1, 7)}
    with site_says(team, level="organization", machines=machines):
        error = team("up", "--yes", code=1).stderr
    assert "stands at level team and site.yml says organization" in error
    assert "level: team" in error


def test_too_few_machines(team: Team) -> None:
    error = team("plan", "--to", "organization", code=1).stderr
    assert "organization needs 6 machines and the site has 1: 5 more for" in error


def test_a_machine_that_is_not_reached(team: Team) -> None:
    """Nothing answers at that port."""
    machine = {"address": team.address, "port": 2, "key": "lab/id_ed25519"}
    with site_says(team, machines={"m1": machine}):
        error = team("up", "--yes", code=1).stderr
        found = {row["check"]: row for row in json.loads(
            team("doctor", "--format", "json", code=1).stdout)}
    assert f"m1: root@{team.address}, port 2 does not answer" in error
    assert found["reached"]["verdict"] == "error"


def test_another_machine_would_begin_without_the_messages(team: Team) -> None:
    with site_says(team, machines={"m2": {"address": "10.213.255.250"}}):
        error = team("up", "--yes", code=1).stderr
    assert f"the messages are on m1 ({team.address})" in error


def test_status_of_a_machine_that_is_dead_is_told_soon(team: Team) -> None:
    """The kernel of a paused machine still takes connections; nobody answers."""
    team("lab", "fault", "pause", "m1")
    try:
        began = time.monotonic()
        facts = json.loads(team("status", "--format", "json", code=1).stdout)
        assert time.monotonic() - began < STATUS_LIMIT_S
    finally:
        team("lab", "fault", "resume", "m1")
    assert (facts["ready"], facts["machines"][0]["state"]) == (False, "not reached")
    assert any(problem["what"].startswith("m1 is not reached: ") and
               problem["mend"] == "coordctl doctor" for problem in facts["problems"])


def test_a_wrong_key(team: Team, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")],
                   check=True)
    machine = {"address": team.address, "key": str(tmp_path / "key")}
    with site_says(team, machines={"m1": machine}):
        error = team("up", "--yes", code=1).stderr
    assert "refuses the key" in error
    assert "ssh-copy-id" in error


def test_another_host_key(team: Team) -> None:
    known = team.folder / "known_hosts"
    before = known.read_text(encoding="utf-8")
    other = before.split()[2]
    known.write_text(before.replace(other, other[:-8] + "AAAAAAAA"), encoding="utf-8")
    try:
        error = team("up", "--yes", code=1).stderr
    finally:
        known.write_text(before, encoding="utf-8")
    assert "shows another host key" in error
    assert f"ssh-keygen -R {team.address}" in error


def test_a_system_that_is_not_supported(team: Team) -> None:
    with undone(team, "mv /etc/os-release /etc/os-release.away && "
                      "printf 'ID=debian\\nVERSION_ID=\"12\"\\nPRETTY_NAME=\"Debian 12\"\\n' "
                      ">/etc/os-release",
                "rm /etc/os-release; mv /etc/os-release.away /etc/os-release"):
        error = team("up", "--yes", code=1).stderr
    assert "m1: Debian 12 is not supported" in error
    assert "install Debian 13" in error


def test_no_python(team: Team) -> None:
    with undone(team, "mv /usr/bin/python3 /usr/bin/python3.away",
                "mv /usr/bin/python3.away /usr/bin/python3"):
        error = team("up", "--yes", code=1).stderr
    assert "m1: there is no python3" in error
    assert "apt-get install python3" in error


def test_a_full_disk(team: Team) -> None:
    token = team.token("full")
    team("lab", "fault", "fill", "m1")
    try:
        error = team("up", "--yes", code=1).stderr
        assert "MiB are free on /var/lib/coordd" in error
        with team.client(token) as client:
            body = {"from_agent": "full", "to_agent": "full", "subject": "s", "body": "b" * 60000}
            codes = [client.post("/api/v1/messages", json=body).status_code for _ in range(20)]
            assert set(codes) == {200, 507}, codes  # what was set aside is used up first
            assert codes[-1] == 507
            assert client.get("/api/v1/inbox/full").status_code == 200
    finally:
        team("lab", "fault", "free", "m1")
    team("up", "--yes")


def test_a_port_that_is_taken(team: Team) -> None:
    with undone(team, "systemctl stop nginx && systemd-run --unit squatter "
                      "python3 -m http.server 443 && for i in $(seq 50); do "
                      "ss -Hltn 'sport = :443' | grep -q . && break; sleep 0.1; done",
                "systemctl stop squatter; systemctl start nginx"):
        error = team("up", "--yes", code=1).stderr
    assert "443, which nginx needs, is taken by python3 (squatter.service)" in error
    assert "stop squatter.service" in error


def begun(team: Team, words: str) -> subprocess.Popen[str]:
    """An `up` that has come to the task that `words` name."""
    runs = team.folder / "runs"
    before = set(runs.iterdir())
    running = team.start("up", "--yes")
    deadline = time.monotonic() + UP_LIMIT_S
    while time.monotonic() < deadline:
        for run in set(runs.iterdir()) - before:
            log = run / "ansible.log"
            if log.exists() and words in log.read_text(encoding="utf-8"):
                return running
        time.sleep(0.05)
    raise AssertionError(f"{words} did not begin")


def drifted(team: Team) -> None:
    """So that the next `up` has something to do."""
    team.on("rm -rf /etc/redis/coordctl.conf /etc/nginx/coordctl.conf")


def test_two_operators_at_once(team: Team) -> None:
    drifted(team)
    first, second = team.start("up", "--yes"), team.start("up", "--yes")
    told = [running.communicate(timeout=UP_LIMIT_S) for running in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    waited = [error for _, error in told if "Waiting for `coordctl up` (" in error]
    assert len(waited) == 1
    assert "pid " in waited[0]
    assert "since " in waited[0]


def test_ctrl_c_in_the_middle(team: Team) -> None:
    drifted(team)
    running = begun(team, "redis : ")
    team.interrupt(running)
    _, error = running.communicate(timeout=UP_LIMIT_S)
    assert running.returncode == 130
    assert "goes on where this one stopped" in error
    assert "the run" in team.json("status")["why"]
    assert "coordctl up --resume" in team.json("status")["why"]
    team("up", "--yes", "--resume")
    assert "(changed=0)" in team("up", "--yes").stdout


def test_kill_9_in_the_middle(team: Team) -> None:
    drifted(team)
    running = begun(team, "redis : ")
    running.kill()
    running.communicate(timeout=UP_LIMIT_S)
    done = team("up", "--yes")  # waits for what the killed one left running
    assert "(changed=0)" not in done.stdout
    assert "(changed=0)" in team("up", "--yes").stdout
