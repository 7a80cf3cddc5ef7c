"""talk.py ENDPOINT members N | refused | put KEY VALUE | get KEY VALUE | lost: asks etcd.

Ends with 1 and a line at the first answer that is not as promised. `lost`: this machine's member
has lost its data, as after a change of its disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

CA, PEM = "/etc/etcd/coordctl-ca.pem", "/etc/etcd/coordctl.pem"
ENDPOINT, WHAT, *WORDS = sys.argv[1:]
LIMIT_S = 60


def run(*words: str, shown: bool = True) -> subprocess.CompletedProcess[str]:
    certificate = [f"--cert={PEM}", f"--key={PEM}"] if shown else []
    return subprocess.run(
        ["etcdctl", f"--endpoints={ENDPOINT}", f"--cacert={CA}", *certificate,
         "--dial-timeout=2s", "--command-timeout=4s", *words], capture_output=True, text=True)


def members(count: str) -> None:
    """A member that has just started says where it is reached a moment later."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        done = run("member", "list", "--write-out=json")
        told = json.loads(done.stdout)["members"] if done.returncode == 0 else []
        if len(told) == int(count) and all(member.get("clientURLs") for member in told):
            return
        if time.monotonic() > deadline:
            sys.exit(f"{told} {done.stderr!r}, wanted {count} that have started")
        time.sleep(0.2)


def refused() -> None:
    if (done := run("get", "x", shown=False)).returncode == 0:
        sys.exit(f"without a certificate: {done.stdout!r}")
    plain = subprocess.run(["etcdctl", f"--endpoints={ENDPOINT.replace('https', 'http')}",
                            "--dial-timeout=2s", "--command-timeout=2s", "get", "x"],
                           capture_output=True, text=True)
    if plain.returncode == 0:
        sys.exit("without TLS it answers")


def put(key: str, value: str) -> None:
    began = time.monotonic()
    while run("put", key, value).returncode != 0:  # a new leader is chosen meanwhile
        if time.monotonic() - began > LIMIT_S:
            sys.exit(f"{key} was not written in {LIMIT_S} s")
    print(f"{key} was written after {time.monotonic() - began:.1f} s")


def get(key: str, value: str) -> None:
    """From this member's own copy: it must come to have it."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        done = run("get", key, "--print-value-only", "--consistency=s")
        if done.stdout.strip() == value:
            return
        if time.monotonic() > deadline:
            sys.exit(f"{key}: {done.stdout!r} {done.stderr!r}, wanted {value!r}")
        time.sleep(0.2)


def lost() -> None:
    subprocess.run(["systemctl", "stop", "etcd"], check=True)
    shutil.rmtree("/var/lib/etcd/coordctl")


{"members": members, "refused": refused, "put": put, "get": get, "lost": lost}[WHAT](*WORDS)
