"""What a machine's answer means, and what mends it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from coordctl.components import COMPONENTS, UNITS
from coordctl.doctor import PROBE, Facts, Finding, judge
from coordctl.remote import Answer
from coordctl.site import Site, make
from coordctl.site_file import Machine

GOOD = """time 1000
os debian 13
name Debian GNU/Linux 13 (trixie)
arch {arch}
uid 0
python 3.13
init systemd
memory_kb 4000000
free_kb 90000000 /
synchronized yes
resolves localhost
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return make(folder, level="team",
                machines={"m1": Machine(address="192.0.2.7", user="admin", key="k")})


def judged(site: Site, output: str = "", *, error: str = "", code: int = 0,
           **changed: str) -> dict[str, Finding]:
    import platform

    text = output or GOOD.format(arch=platform.machine())
    for old, new in changed.items():
        line = next(line for line in text.splitlines() if line.startswith(old))
        text = text.replace(line, new)
    findings = judge(site, "m1", Answer(code, text, error), site.topology(), site.profile(),
                     (1000.0, 1000.5))
    return {finding.check: finding for finding in findings}


def test_a_fit_machine(site: Site) -> None:
    found = judged(site)
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert {"reached", "system", "Python", "disk", "memory", "clock", "names",
            "ports"} <= set(found)


@pytest.mark.parametrize(("change", "check", "said"), [
    ({"os": "os ubuntu 24.04"}, "system", "is not supported"),
    ({"os": "os debian 12"}, "system", "is not supported"),
    ({"python": "python "}, "Python", "there is no python3"),
    ({"python": "python 3.9"}, "Python", "3.9 is older than 3.11"),
    ({"init": "init sh"}, "init", "sh runs it, not systemd"),
    ({"arch": "arch s390x"}, "architecture", "s390x, and this computer builds for"),
    ({"free_kb": "free_kb 102400 /var/lib"}, "disk", "100 MiB are free on /var/lib"),
    ({"time": "time 900"}, "clock", "99 s off"),
    ({"time": "time 1100"}, "clock", "98 s off"),
    ({"resolves": "resolves nothing"}, "names", "localhost does not resolve"),
    ({"resolves": "resolves localhost\nport 443 apache2 apache2.service"}, "ports",
     "443, which nginx needs, is taken by apache2 (apache2.service)"),
    ({"resolves": "resolves localhost\nport 6379 python3 -"}, "ports",
     "6379, which redis needs, is taken by python3"),
])
def test_what_keeps_a_machine_from_it(site: Site, change: dict[str, str], check: str, said: str
                                      ) -> None:
    finding = judged(site, **change)[check]
    assert finding.verdict == "error"
    assert said in finding.says
    assert finding.mend


def test_every_role_with_a_port_has_a_unit() -> None:
    assert {one.role for one in COMPONENTS if one.ports} <= UNITS.keys()


def test_a_port_of_what_stands_already_is_ours(site: Site) -> None:
    found = judged(site, resolves="resolves localhost\nport 443 nginx nginx.service\n"
                                  "port 8000 python3 coordd.service")
    assert found["ports"].verdict == "ok"


def test_too_little_memory_is_a_warning(site: Site) -> None:
    finding = judged(site, memory_kb="memory_kb 500000")["memory"]
    assert (finding.verdict, finding.says) == ("warning", "0.5 GiB, 1 are advised")


@pytest.mark.parametrize(("error", "said", "mend"), [
    ("admin@192.0.2.7: Permission denied (publickey).", "refuses the key (k)", "ssh-copy-id"),
    ("Host key verification failed.", "shows another host key", "ssh-keygen -R 192.0.2.7"),
    ("ssh: connect to host 192.0.2.7 port 22: No route to host", "does not answer", "is it on"),
    ("sudo: a password is required", "a password is required", "let admin use sudo"),
    ("", "exit code 255", "is it on"),
])
def test_a_machine_that_is_not_reached(site: Site, error: str, said: str, mend: str) -> None:
    found = judged(site, " ", error=error, code=255)
    assert list(found) == ["reached"]
    assert said in found["reached"].says
    assert mend in found["reached"].mend


def test_the_probe_runs_here_and_needs_no_python() -> None:
    script = PROBE.read_text(encoding="utf-8")
    done = subprocess.run(["sh", "-s", "--", "1"], input=script, text=True, capture_output=True,
                          timeout=30, env={"PATH": "/usr/bin:/bin:/usr/sbin"}, check=False)
    facts = Facts.of(done.stdout)
    assert facts.values["os"].split()[0] == "debian"
    assert facts.free_mb["/"] > 0
    assert int(facts.values["memory_kb"]) > 0
    assert facts.ports == {}
