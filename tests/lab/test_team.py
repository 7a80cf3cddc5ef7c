"""Level team, whole, on a real machine: provisioned, used by agents, left as it is by a repeat."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from support.team import Team

_READ_SECRETS = ("import sys, json; from pathlib import Path; from coordctl.site import Site; "
                 "print(json.dumps(Site(Path(sys.argv[1])).vault.read('secrets.yml')))")


def everything(folder: Path) -> list[tuple[Path, str]]:
    """Every file that is left on the controller, as text."""
    return [(file, file.read_bytes().decode("utf-8", "replace"))
            for file in folder.rglob("*") if file.is_file()]


def secrets_of(team: Team) -> dict[str, str]:
    """The site's secrets, in clear."""
    shown = subprocess.run(
        [sys.executable, "-c", _READ_SECRETS, str(team.folder)],
        env=team.lab.env, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] = json.loads(shown.stdout)
    return found


def test_the_plan_showed_all_three_and_changed_nothing(team: Team, planned: str) -> None:
    for words in ("nothing yet → team", "+ m1", "machine, redis, coordd, nginx, logrotate, backup",
                  "Cost and capacity", "write pause", "+++ b/hosts.yml", "On the machine",
                  "redis-server", f"Next:  coordctl --site {team.folder} up"):
        assert words in planned, words
    assert "m1" in planned


def test_agents_send_through_tls_with_their_tokens(team: Team) -> None:
    with team.client(team.token("code")) as code, team.client(team.token("chat")) as chat:
        sent = code.post("/api/v1/messages", json={
            "from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
        assert sent.status_code == 200, sent.text
        inbox = chat.get("/api/v1/inbox/chat").json()
        assert inbox["messages"][0]["id"] == sent.json()["id"]
        assert chat.post(f"/api/v1/messages/{sent.json()['id']}/ack").status_code == 200
        assert chat.get("/api/v1/inbox/chat").json()["messages"][0]["state"] == "acknowledged"
        assert code.get("/api/v1/inbox/chat").status_code == 404
        forged = code.post("/api/v1/messages", json={
            "from_agent": "chat", "to_agent": "code", "subject": "Hi", "body": "x"})
        assert forged.status_code == 403
    with team.client(None) as nobody:
        assert nobody.get("/api/v1/inbox/chat").status_code == 401
        assert nobody.get("/ready").status_code == 200


def test_the_client_of_a_person_trusts_the_sites_authority(team: Team) -> None:
    env = team.lab.env | {"COORD_URL": f"https://{team.address}",
                          "COORD_CA": str(team.folder / "ca.crt"),
                          "COORD_TOKEN": team.token("walker")}

    def coord(*words: str, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(Path(sys.executable).with_name("coord")), *words], text=True,
                              env=env | (more or {}), cwd=team.lab.cwd, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=60)

    sent = coord("send", "walker", "walker", "to me", "hello")
    assert sent.returncode == 0, sent.stderr
    assert "to me" in coord("inbox", "walker").stdout
    assert coord("inbox", "walker", more={"COORD_CA": ""}).returncode != 0


def test_nobody_else_is_trusted_and_only_the_ports_of_the_topology_answer(team: Team) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"https://{team.address}/ready", verify=ssl.create_default_context(),
                  trust_env=False)
    for port in (8000, 6379, 80):
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
            httpx.get(f"http://{team.address}:{port}/ready", timeout=2, trust_env=False)


def test_up_again_changes_nothing(team: Team) -> None:
    done = team("up", "--yes")
    assert "(changed=0)" in done.stdout
    assert "Every phase holds" in team("up", "--yes").stderr
    assert "Every phase holds" in team("up", "--yes", "--resume").stderr


def test_what_holds_is_what_ansible_finds_nothing_to_do_for(team: Team) -> None:
    """The check mode of all phases, whatever `up` would leave out."""
    plan = team.json("plan")
    assert plan["changes"] == []
    assert plan["files"] == []


@pytest.mark.parametrize(("done", "phase"), [
    ("echo '# mine' >>/etc/redis/coordctl.conf", "redis"),
    ("chmod 0644 /etc/coordd/credentials/admin-token", "coordd"),
    ("rm /etc/coordd/credentials/redis-password", "coordd"),
    ("systemctl disable --now coordd-backup.timer", "backup"),
    ("apt-get remove -qq -y --no-autoremove logrotate >/dev/null 2>&1", "logrotate"),
    ("ln -sfn /usr/share/zoneinfo/Asia/Tokyo /etc/localtime", "machine"),
    ("systemctl stop nginx", "nginx"),
])
def test_what_no_longer_stands_is_mended_and_no_other_phase_is_run(team: Team, done: str,
                                                                   phase: str) -> None:
    team("up", "--yes")
    team.on(done)
    mended = team("up", "--yes")
    assert "(changed=0)" not in mended.stdout
    ran = [line.split()[0] for line in mended.stderr.splitlines() if " done: " in line]
    assert ran == [phase]
    assert "(changed=0)" in team("up", "--yes").stdout


def test_what_was_changed_by_hand_is_shown_and_mended(team: Team) -> None:
    team.on("sed -i 's/^maxmemory .*/maxmemory 3mb/' /etc/redis/coordctl.conf")
    plan = team("plan").stdout
    assert "-maxmemory 3mb" in plan
    assert "+maxmemory 256mb" in plan
    assert "(changed=0)" not in team("up", "--yes").stdout


def test_status_tells_of_the_machine_and_the_cache(team: Team) -> None:
    with team.client(team.token("looker")) as looker:
        assert looker.post("/api/v1/messages", json={
            "from_agent": "looker", "to_agent": "looker", "subject": "Hi", "body": "x"}
            ).status_code == 200
        assert looker.get("/api/v1/inbox/looker").status_code == 200
    facts = team.json("status")
    assert (facts["level"], facts["ready"]) == ("team", True)
    assert facts["cache_hit_rate"] is not None
    machine, = facts["machines"]
    assert (machine["name"], machine["state"]) == ("m1", "up")
    assert facts["release"].startswith(facts["version"])
    server, = facts["servers"]
    assert (server["machine"], server["ready"], server["waiting"]) == ("m1", True, 0)
    assert facts["send_p50_ms"] <= facts["send_p99_ms"]
    assert facts["backup"]["wanted"] == "nightly"
    assert (facts["database"], facts["alerts"]) == (None, None)  # a team has neither
    team.on("systemctl stop redis-server")
    try:
        facts = team.json("status")
        assert "not active: redis-server.service" in facts["machines"][0]["state"]
        assert facts["ready"] is True  # a cache may die
        assert {"what": "m1: not active: redis-server.service", "mend": "coordctl up --yes",
                "machine": "m1"} in facts["problems"]
    finally:
        team.on("systemctl start redis-server")


def test_status_is_told_again_and_again_until_ctrl_c(team: Team) -> None:
    with team.start("status", "--watch", "--format", "json") as watching:
        assert watching.stdout is not None
        try:
            told = [json.loads(watching.stdout.readline()) for _ in range(3)]
        finally:
            team.interrupt(watching)
        assert watching.wait(timeout=60) == 130
    assert all(facts["ready"] and facts["throughput_per_s"] is not None for facts in told)


def command_lines() -> set[str]:
    """Those of every process now: the lab's machines share this computer's kernel."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                found.add((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
    return found


def test_no_run_leaves_a_secret_behind(team: Team) -> None:
    secrets = secrets_of(team)
    key_lines = [line for line in secrets["vault_tls_key"].splitlines() if "PRIVATE" not in line]
    hushed = [secrets["vault_admin_token"], secrets["vault_redis_password"], *key_lines]
    team.on("rm /etc/coordd/credentials/* /etc/redis/coordctl.acl /etc/nginx/coordctl.pem")
    running = team.start("up", "--yes")
    seen: set[str] = set()
    while running.poll() is None:
        seen |= command_lines()
        time.sleep(0.01)
    assert running.communicate()[0].count("changed=") == 1
    assert any("ansible" in line for line in seen)
    for secret in hushed:
        assert not [line for line in seen if secret in line]
    for file, text in everything(team.folder):
        for secret in hushed:
            assert secret not in text, file
    # What the machine keeps: secrets are files of root and of nobody else's eyes.
    journal = team.on("journalctl --no-pager -o cat; cat /proc/*/cmdline /proc/*/environ "
                      "2>/dev/null | tr '\\0' '\\n'")
    for secret in hushed:
        assert secret not in journal
    readable = team.on("grep -rlF -e " + secrets["vault_admin_token"] + " -e "
                       + secrets["vault_redis_password"]
                       + " /etc /opt /var/lib /var/log /root /tmp 2>/dev/null || true").split()
    assert readable, "the secrets are on the machine, so the search finds them"
    for name in readable:
        assert team.on(f"stat -c '%a %U' {name}").split()[0].endswith("00"), name


def test_a_backup_is_proved_and_brings_everything_back(team: Team) -> None:
    token = team.token("keeper")
    with team.client(token) as keeper:
        ids = [keeper.post("/api/v1/messages", json={
            "from_agent": "keeper", "to_agent": "keeper", "subject": f"{number}",
            "body": "x" * number}).json()["id"] for number in range(20)]
        keeper.post(f"/api/v1/messages/{ids[3]}/ack")
        before = keeper.get("/api/v1/inbox/keeper").json()
        team.on("systemctl start coordd-backup.service")
        team.on("systemctl stop coordd && rm -rf /var/lib/coordd/* && "
                "newest=$(ls /var/backups/coordd/*.jsonl.gz | tail -1) && cd / && "
                "setpriv --reuid=coordd --regid=coordd --clear-groups "
                "/opt/coordd/current/bin/python -m coordd.backup restore \"$newest\" "
                "--data /var/lib/coordd && "
                "systemctl start coordd")
        after = keeper.get("/api/v1/inbox/keeper").json()
        assert after["messages"] == before["messages"]
        assert after["last_seq"] == before["last_seq"]
