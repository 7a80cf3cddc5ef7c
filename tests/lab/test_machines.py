"""Machines come up, are known to their site, and go without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from coordctl.lab.podman import environment
from support.lab import LAB_CACHE, UP_LIMIT_S, Lab

pytestmark = pytest.mark.timeout(600)


def printed(*argv: str) -> str:
    """What a program prints; podman with the lab's settings, whatever this computer's own are."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60,
                          env=os.environ | environment()).stdout


def traces(lab: Lab) -> dict[str, str]:
    """What a lab has on this computer, kind → the lines that name it; empty kinds left out."""
    all_of = {"containers": printed("podman", "ps", "--all", "--format", "{{.Names}}"),
              "networks": printed("podman", "network", "ls", "--format", "{{.Name}}"),
              "loop devices": printed("losetup", "--all"),
              "mounts": Path("/proc/self/mounts").read_text(encoding="utf-8"),
              "tables": printed("nft", "list", "tables").replace("_", "-"),
              "folders": "\n".join(map(str, (LAB_CACHE / "machines").iterdir()))}
    found = {kind: "\n".join(line for line in text.splitlines() if lab.name in line)
             for kind, text in all_of.items()}
    return {kind: lines for kind, lines in found.items() if lines}


def test_machines_answer_over_ssh_and_have_booted(lab: Lab) -> None:
    machines = lab.machines()
    assert set(machines) >= {"m1", "m2", "m3"}
    for name, row in machines.items():
        assert row["state"] == "running"
        assert lab.on(name, "hostname; systemctl is-system-running") == f"{name}\nrunning"
    assert lab("shell", "m2", "--", "hostname").stdout == "m2\n"
    key = lab.folder / "lab" / "id_ed25519"
    assert key.stat().st_mode & 0o777 == 0o600


def test_each_machine_has_an_identity_of_its_own(lab: Lab) -> None:
    for command in ("cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -f2 -d' '"):
        assert len({lab.on(name, command) for name in ("m1", "m2", "m3")}) == 3


def test_names_resolve_on_every_machine(lab: Lab) -> None:
    machines = lab.machines()
    for name in ("m1", "m3"):
        for other, row in machines.items():
            assert lab.on(name, f"getent ahostsv4 {other} | head -n1").split()[0] == row["address"]


def test_the_site_knows_its_machines(lab: Lab) -> None:
    site = lab.site()
    assert (site["name"], site["level"]) == (lab.name, "team")
    assert site["machines"]["m2"] == {"address": lab.machines()["m2"]["address"],
                                      "key": "lab/id_ed25519"}


def test_up_again_changes_nothing_and_keeps_what_the_operator_wrote(lab: Lab) -> None:
    file = lab.folder / "site.yml"
    site = lab.site()
    site["machines"]["db"] = {"address": "192.0.2.7"}
    file.write_text("# mine\n" + yaml.safe_dump({**site, "level": "individual", "compact": True}),
                    encoding="utf-8")
    kept, known = file.read_bytes(), (lab.folder / "known_hosts").read_bytes()
    before = lab.machines()

    done = lab("up", "--machines", "3")  # nothing changes, so nobody need be asked

    assert "are up: m1, m2, m3" in done.stdout
    assert lab.machines() == before
    assert file.read_bytes() == kept
    assert (lab.folder / "known_hosts").read_bytes() == known


def test_a_lab_grows(lab: Lab) -> None:
    before = lab.machines()
    refused = lab("up", "--machines", "4", code=1)
    assert "make m4" in refused.stderr
    assert "--yes" in refused.stderr

    lab("up", "--machines", "4", "--yes")

    machines = lab.machines()
    assert set(machines) == {*before, "m4"}
    assert {name: machines[name] for name in before} == before
    assert lab.on("m1", "getent hosts m4").split()[0] == machines["m4"]["address"]
    assert lab.on("m4", "getent hosts m1").split()[0] == machines["m1"]["address"]


def test_another_host_key_is_refused(lab: Lab) -> None:
    known = lab.folder / "known_hosts"
    lines = dict(line.split(" ", 1) for line in known.read_text(encoding="utf-8").splitlines())
    address = {name: row["address"] for name, row in lab.machines().items()}
    strange = {**lines, address["m1"]: lines[address["m2"]]}
    known.write_text("".join(f"{a} {k}\n" for a, k in strange.items()), encoding="utf-8")

    assert "Host key verification failed" in lab("shell", "m1", "--", "true", code=255).stderr

    lab("up", "--machines", "1")
    lab.on("m1", "true")


def test_a_package_is_downloaded_once(lab: Lab) -> None:
    pool, pattern = LAB_CACHE / "packages", "hello_*.deb"
    for place in (pool, *(LAB_CACHE / "machines" / lab.name).glob("*/archives")):
        for package in place.glob(pattern):
            package.unlink()
    for name in ("m1", "m2"):
        lab.on(name, "apt-get -qq update")
    lab.on("m2", "apt-get -qq install --no-download hello 2>/dev/null", code=100)

    lab.on("m1", "apt-get -qq install hello >/dev/null 2>&1")
    lab("up")

    lab.on("m2", "apt-get -qq install --no-download hello >/dev/null 2>&1")
    assert lab.on("m2", "hello") == "Hello, world!"
    assert [package.stat().st_nlink for package in pool.glob(pattern)] >= [3]


def test_no_packet_for_a_machine_that_is_no_more_leaves_this_computer(lab: Lab) -> None:
    done = subprocess.run(["ip", "route", "get", "10.213.255.254"], capture_output=True, text=True,
                          timeout=60)
    assert "No route to host" in done.stderr


def test_two_labs_at_once_and_no_trace_of_them_after(new_lab: Callable[[str], Lab]) -> None:
    labs = [new_lab("one"), new_lab("two")]
    ups = [subprocess.Popen(each.arguments("lab", "up", "--machines", "1", "--yes"), cwd=each.cwd,
                            env=each.env, stdout=subprocess.DEVNULL) for each in labs]
    assert [up.wait(UP_LIMIT_S) for up in ups] == [0, 0]

    addresses = {each.machines()["m1"]["address"] for each in labs}
    assert len(addresses) == 2
    for each in labs:
        assert each.on("m1", "hostname -I").split()[0] in addresses
        assert set(traces(each)) == {"containers", "networks", "loop devices", "mounts", "folders"}

    refused = labs[0]("up", "--name", labs[1].name, "--yes", code=1)
    assert "is the lab of another site" in refused.stderr
    for each in labs:
        assert f"{each.name} is removed" in each("down", "--yes").stdout
        assert traces(each) == {}
        assert "nothing to remove" in each("down").stdout
        assert json.loads(each("status", "--format", "json").stdout) == []


@pytest.mark.parametrize("moment", ["containers", "mounts"])
def test_a_killed_up_is_completed_by_the_next(new_lab: Callable[[str], Lab], moment: str) -> None:
    lab = new_lab("killed")
    up = subprocess.Popen(lab.arguments("lab", "up", "--machines", "2", "--yes"), cwd=lab.cwd,
                          env=lab.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((lab.folder / "lab" / "name").exists() and moment in traces(lab)):
        assert time.monotonic() < deadline
        assert up.poll() is None
    up.send_signal(signal.SIGKILL)
    up.wait()

    lab("up", "--machines", "2", "--yes")

    assert [row["state"] for row in lab.machines().values()] == ["running"] * 2
    lab("down", "--yes")
    assert traces(lab) == {}


def test_a_killed_down_is_completed_by_up(new_lab: Callable[[str], Lab]) -> None:
    lab = new_lab("half")
    lab("up", "--yes")
    lab.on("m1", "touch /root/old")
    printed("podman", "rm", "--force", "--time=0", f"{lab.name}-m1")  # as far as down came

    lab("up", "--yes")

    lab.on("m1", "test ! -e /root/old")
    lab.on("m1", "systemctl is-system-running")


def test_a_site_that_lost_its_key_is_told_so(new_lab: Callable[[str], Lab]) -> None:
    lab = new_lab("keyless")
    lab("up", "--yes")
    (lab.folder / "lab" / "id_ed25519").unlink()

    refused = lab("up", "--yes", code=1)

    assert "m1 does not take the key" in refused.stderr
    assert f"Next:  coordctl --site {lab.folder} lab down" in refused.stderr


def test_what_is_wrong_is_said_with_what_to_type_next(lab: Lab) -> None:
    unknown = lab("shell", "m9", code=1)
    assert "has no machine 'm9'" in unknown.stderr
    assert f"Next:  coordctl --site {lab.folder} lab status" in unknown.stderr
    assert "--yes" in lab("down", code=1).stderr
    assert lab.machines()["m1"]["state"] == "running"
    assert "'A b' is not 1-31 of" in lab("status", "--name", "A b", code=2).stderr
