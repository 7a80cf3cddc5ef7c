"""Faults do what they say, and end."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.lab import LAB_CACHE, Lab

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    """Leaves no fault behind, so that one failed test does not break the next."""
    yield
    for name, row in lab.machines().items():
        if row["state"] == "paused":
            lab("fault", "resume", name)
        if row["state"] == "stopped":
            lab("fault", "start", name)
        if "full disk" in row["faults"]:
            lab("fault", "free", name)
    lab("fault", "heal")


def reaches(lab: Lab, machine: str, other: str) -> bool:
    """Whether `other`'s SSH server greets `machine`."""
    said = lab.on(machine, f"timeout 2 bash -c 'head -c 3 </dev/tcp/{other}/22' 2>/dev/null; true")
    return said == "SSH"


def test_kill_loses_what_was_not_synced_and_start_finds_the_rest(lab: Lab) -> None:
    lab.on("m1", "echo kept > /var/lib/coordd/synced && sync /var/lib/coordd/synced "
                 "/var/lib/coordd && touch /root/installed")
    booted = lab.on("m1", "stat -c %Y /proc/1")
    lab.on("m1", "echo lost > /var/lib/coordd/unsynced")

    lab("fault", "kill", "m1")

    assert lab.machines()["m1"]["state"] == "stopped"
    refused = lab("shell", "m1", code=1)
    assert "m1 is stopped" in refused.stderr
    assert "lab fault start m1" in refused.stderr
    with pytest.raises(OSError):  # noqa: PT011 - refused, unreachable or no answer: it is off
        socket.create_connection((lab.machines()["m1"]["address"], 22), timeout=1)
    lab("fault", "kill", "m1")

    lab("fault", "start", "m1")

    assert lab.on("m1", "cat /var/lib/coordd/synced; systemctl is-system-running") == (
        "kept\nrunning")
    assert "lost" not in lab.on("m1", "cat /var/lib/coordd/unsynced 2>/dev/null; true")
    assert lab.on("m1", "stat -c %Y /proc/1; ls /root/installed") != f"{booted}\n/root/installed"
    assert reaches(lab, "m2", "m1")


def test_up_switches_on_what_is_off_and_wakes_what_is_paused(lab: Lab) -> None:
    lab("fault", "kill", "m1")
    lab("fault", "pause", "m2")
    done = lab("up", "--machines", "3", "--yes")
    assert "switch on m1, m2" in done.stderr
    assert {row["state"] for row in lab.machines().values()} == {"running"}
    lab.on("m1", "true")
    lab.on("m2", "true")


def test_a_paused_machine_is_silent_and_goes_on_where_it_was(lab: Lab) -> None:
    lab.on("m2", "systemd-run --quiet --unit ticks sh -c 'while sleep 0.05; do date +%s.%N; done'")
    address = lab.machines()["m2"]["address"]
    lab("fault", "pause", "m2")
    assert lab.machines()["m2"]["state"] == "paused"

    with socket.create_connection((address, 22), timeout=1) as silent:  # the kernel answers, ...
        silent.settimeout(1)
        with pytest.raises(TimeoutError):
            silent.recv(1)  # ... sshd does not

    lab("fault", "resume", "m2")
    ticks = [float(line) for line in lab.on("m2", "journalctl -u ticks -o cat -n 2000; "
                                                  "systemctl stop ticks").splitlines()
             if line[:1].isdigit()]
    assert max(after - before for before, after in itertools.pairwise(ticks)) > 1


def test_a_partition_drops_every_packet_and_heal_ends_it(lab: Lab) -> None:
    assert reaches(lab, "m1", "m2")
    assert reaches(lab, "m2", "m1")

    lab("fault", "partition", "m1", "m2")
    lab("fault", "partition", "m2", "m1")

    assert not reaches(lab, "m1", "m2")
    assert not reaches(lab, "m2", "m1")
    lab.on("m1", "ping -c1 -W1 m2 >/dev/null", code=1)
    assert reaches(lab, "m1", "m3")
    assert reaches(lab, "m3", "m2")
    assert lab.machines()["m1"]["faults"] == ["cut off from m2"]

    # Neither a machine's own firewall nor its next boot ends it.
    lab.on("m1", "nft flush ruleset")
    lab("fault", "kill", "m2")
    lab("fault", "start", "m2")
    assert reaches(lab, "m3", "m2")
    assert not reaches(lab, "m1", "m2")

    lab("fault", "heal")

    assert reaches(lab, "m1", "m2")
    assert reaches(lab, "m2", "m1")
    assert lab.machines()["m1"]["faults"] == []


def datagram_arrives(lab: Lab, source: str, target: str) -> bool:
    """Whether what `source` sends reaches `target`, whatever of the way back."""
    lab.on(target, "rm -f /run/heard; systemd-run --quiet --collect --unit hears python3 -c "
                   "\"import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
                   "s.bind(('', 7008)); s.settimeout(3); s.recv(1); open('/run/heard', 'w')\"")
    lab.on(source, "python3 -c \"import socket, time\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
                   f"for _ in range(10): s.sendto(b'x', ('{target}', 7008)); time.sleep(0.1)\"")
    return bool(lab.on(target, "while systemctl is-active -q hears; do sleep 0.1; done; "
                               "ls /run/heard 2>/dev/null; true"))


def test_a_partition_of_one_way_lets_the_other_through(lab: Lab) -> None:
    assert datagram_arrives(lab, "m1", "m2")
    lab("fault", "partition", "m1", "m2", "--one-way")
    assert lab.machines()["m1"]["faults"] == ["cut off from m2"]
    assert lab.machines()["m2"]["faults"] == []
    assert datagram_arrives(lab, "m2", "m1")
    assert not datagram_arrives(lab, "m1", "m2")
    lab("fault", "partition", "m2", "m1")
    assert lab.machines()["m2"]["faults"] == ["cut off from m1"]
    lab("fault", "heal")
    assert datagram_arrives(lab, "m1", "m2")


def test_an_open_connection_falls_silent_too(lab: Lab) -> None:
    lab.on("m2", "systemd-run --quiet --unit echoes python3 -c \"import socket; "
                 "s = socket.create_server(('', 7007)); c = s.accept()[0]\n"
                 "while d := c.recv(1): c.sendall(d)\"")
    lab.on("m1", "systemd-run --quiet --unit asks python3 -uc \"import socket, time; "
                 "time.sleep(0.2); s = socket.create_connection(('m2', 7007), 30); n = 0\n"
                 "while True: s.sendall(b'x'); s.recv(1); n += 1; "
                 "open('/run/answers', 'w').write(str(n)); time.sleep(0.02)\"")
    deadline = time.monotonic() + 30
    while not lab.on("m1", "cat /run/answers 2>/dev/null; true"):
        assert time.monotonic() < deadline, lab.on("m1", "journalctl -u asks -o cat")

    lab("fault", "partition", "m1", "m2")

    assert lab.on("m1", "cat /run/answers; sleep 1") == lab.on("m1", "cat /run/answers")
    lab.on("m1", "systemctl stop asks")
    lab.on("m2", "systemctl stop echoes")


@pytest.mark.parametrize("folder", ["coordd", "postgresql"])
def test_a_full_disk_takes_nothing_and_leaves_this_computer_its_room(lab: Lab, folder: str) -> None:
    image = LAB_CACHE / "machines" / lab.name / "m3" / "disk.img"
    lab("fault", "fill", "m3")
    lab("fault", "fill", "m3")

    assert lab.machines()["m3"]["faults"] == ["full disk"]
    assert image.stat().st_blocks * 512 < 200 * 1024**2
    said = lab("shell", "m3", "--", f"echo words > /var/lib/{folder}/probe", code=1).stderr
    assert "No space left on device" in said
    lab.on("m3", "echo room > /root/elsewhere")

    lab("fault", "free", "m3")

    lab.on("m3", f"dd if=/dev/zero of=/var/lib/{folder}/probe bs=1M count=8 conv=fsync status=none "
                 f"&& rm /var/lib/{folder}/probe")
    assert lab.machines()["m3"]["faults"] == []


def test_this_computer_stays_where_it_is_when_a_machine_goes(lab: Lab) -> None:
    """Else what the others send it is lost until they ask for its hardware address anew."""
    def address() -> str:
        way = subprocess.run(["ip", "-json", "route", "get", lab.machines()["m2"]["address"]],
                             capture_output=True, text=True, check=True)
        return Path("/sys/class/net", json.loads(way.stdout)[0]["dev"], "address").read_text()

    before = address()
    for name in ("m1", "m3"):
        lab("fault", "kill", name)
        assert address() == before
        lab("fault", "start", name)
        assert address() == before


def test_a_slow_network_lets_no_more_than_its_rate_through(lab: Lab) -> None:
    lab("fault", "slow", "m1", "--rate", "100")
    assert lab.machines()["m1"]["faults"] == ["slow network"]
    begun = time.monotonic()
    assert len(lab.on("m1", "head -c 300000 /dev/zero | tr '\\0' x")) == 300_000
    assert time.monotonic() - begun > 2  # 3 s, less the burst

    lab("fault", "heal")
    assert lab.machines()["m1"]["faults"] == []
    assert len(lab.on("m1", "head -c 300000 /dev/zero | tr '\\0' x")) == 300_000


def test_a_fault_that_cannot_be_is_refused(lab: Lab) -> None:
    assert "cut off from itself" in lab("fault", "partition", "m1", "m1", code=2).stderr
    assert "has no machine 'm9'" in lab("fault", "kill", "m9", code=1).stderr
    lab("fault", "pause", "m1")
    refused = lab("fault", "start", "m1", code=1)
    assert "m1 is paused" in refused.stderr
    assert "lab fault resume m1" in refused.stderr
    lab("fault", "resume", "m1")


def test_faults_are_in_the_sites_log(lab: Lab) -> None:
    lab("fault", "heal")
    log = (Path(lab.folder) / "coordctl.log").read_text(encoding="utf-8")
    assert f"lab fault: {lab.name}: heal" in log
