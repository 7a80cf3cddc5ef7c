"""Role coordd on this machine, without systemd and without root's rights: the supervised mode."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.ctl import free_port

pytestmark = pytest.mark.timeout(300)

TOP = Path(__file__).parents[2]
LIMIT_S = 200.0
TOKEN = "coord_admin_" + "r" * 32


class Local:
    """A site's folder that the role is applied to."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.folder = folder
        self.port = free_port()
        self.token = TOKEN

    def variables(self) -> dict[str, Any]:
        return {"coordd_service_manager": "supervised", "coordd_python": sys.executable,
                "coordd_config_dir": str(self.site), "coordd_data_dir": str(self.site / "data"),
                "coordd_admin_token": self.token, "coordd_settings": {"port": self.port},
                "coordd_ready_url": f"http://127.0.0.1:{self.port}/ready",
                "coordd_ready_timeout_s": 20, "ansible_python_interpreter": sys.executable}

    def apply(self, *words: str, code: int = 0, **more: Any) -> tuple[int, str]:
        """(changed, all that Ansible said)."""
        (self.folder / "vars.json").write_text(json.dumps(self.variables() | more))
        (self.folder / "play.yml").write_text(json.dumps([{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "roles": ["coordd"]}]))
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        environ |= {"ANSIBLE_ROLES_PATH": str(TOP / "roles"), "ANSIBLE_INJECT_FACT_VARS": "false",
                    "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                    "ANSIBLE_HOME": str(self.folder / "ansible")}
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,",
             "--diff", "-e", f"@{self.folder / 'vars.json'}", *words,
             str(self.folder / "play.yml")],
            env=environ, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_S)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (code == 0), said
        assert self.token not in said
        found = re.search(r"changed=(\d+)", done.stdout)
        assert found is not None, said
        return int(found[1]), said

    def supervise(self, verb: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-P", "-m", "coordd.supervise", verb, "--settings",
                               str(self.site / "coordd.toml")], capture_output=True, text=True,
                              timeout=LIMIT_S, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    made.site.mkdir(mode=0o700)
    yield made
    if (made.site / "coordd.toml").exists():
        made.supervise("stop")


def test_it_is_brought_up_once_and_restarted_only_for_a_change(local: Local) -> None:
    changed, _ = local.apply("--check")
    assert changed
    assert list(local.site.iterdir()) == []

    local.apply()
    running = local.supervise("status")
    assert httpx.get(local.url("/ready")).status_code == 200
    assert stat.S_IMODE((local.site / "admin.token").stat().st_mode) == 0o600
    operator = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(local.url("/api/v1/admin/tokens"), headers=operator).status_code == 200
    sent = httpx.post(local.url("/api/v1/messages"), json={
        "from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}).json()["id"]

    assert local.apply()[0] == 0
    assert local.supervise("status")["pid"] == running["pid"]

    # Stopped, it is started; and that is the one thing that changes.
    local.supervise("stop")
    assert local.apply()[0] == 1
    assert httpx.get(local.url("/ready")).status_code == 200

    # Another port and another token are one more start; the token is in no diff (`apply` looks).
    running = local.supervise("status")
    local.port = free_port()
    local.token = TOKEN + "2"
    assert local.apply()[0] > 0
    assert local.supervise("status")["pid"] != running["pid"]
    page = httpx.get(local.url("/api/v1/inbox/chat")).json()
    assert [message["id"] for message in page["messages"]] == [sent]

    assert httpx.get(local.url("/api/v1/admin/tokens"), headers=operator).status_code == 401

    # A wrong setting is refused before it is written, and the server is left alone.
    before = local.supervise("status")
    _, said = local.apply(code=1, coordd_settings={"port": "http"})
    assert "will not do" in said
    assert local.supervise("status")["pid"] == before["pid"]


def test_a_run_cut_off_before_the_restart_is_made_good_by_the_next(local: Local) -> None:
    local.apply()
    before = local.supervise("status")
    local.apply("--tags", "coordd_configure", coordd_settings={"port": local.port,
                                                               "rate_burst": 7})
    assert local.supervise("status")["pid"] == before["pid"]
    local.apply(coordd_settings={"port": local.port, "rate_burst": 7})
    assert local.supervise("status")["pid"] != before["pid"]


def test_a_site_of_an_earlier_version_is_taken_over(local: Local) -> None:
    """A bare server runs on the folder, with settings and token of its own making."""
    (local.site / "admin.token").write_text(f"{TOKEN}\n")
    (local.site / "admin.token").chmod(0o600)
    (local.site / "coordd.toml").write_text(
        f'port = {local.port}\ndata = "{local.site / "data"}"\n'
        f'admin_token_file = "{local.site / "admin.token"}"\n')
    with subprocess.Popen([sys.executable, "-P", "-m", "coordd", "--settings",
                           str(local.site / "coordd.toml")], stderr=subprocess.DEVNULL) as bare:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                sent = httpx.post(local.url("/api/v1/messages"), json={
                    "from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"})
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
        local.apply()
        assert bare.wait(LIMIT_S) == 0
    running = local.supervise("status")
    assert running["supervisor"] is not None
    page = httpx.get(local.url("/api/v1/inbox/chat")).json()
    assert [message["id"] for message in page["messages"]] == [sent.json()["id"]]
    os.kill(running["pid"], signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    while local.supervise("status")["pid"] in (None, running["pid"]):
        assert time.monotonic() < deadline
