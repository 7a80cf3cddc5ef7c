"""join.py NAME PEER_URL: a member without data comes to the cluster that the others are.

The others' addresses are on stdin, one a line. Where none of them answers there is no cluster yet,
and nothing is done. Else the cluster is told of the member, what it knew of an older one of that
name or place is forgotten, and the member is started; `joined` is printed then.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TLS = "/etc/etcd/coordctl.pem"
CA = "/etc/etcd/coordctl-ca.pem"
JOINED = Path("/etc/etcd/coordctl-joined.env")
CONNECT_S = 2.0
HEALTHY_LIMIT_S = 60.0


def etcdctl(endpoints: str, *words: str) -> dict[str, Any]:
    """What etcdctl answers. Raises CalledProcessError."""
    done = subprocess.run(
        ["etcdctl", f"--endpoints={endpoints}", f"--cacert={CA}", f"--cert={TLS}", f"--key={TLS}",
         "--dial-timeout=2s", "--command-timeout=5s", "--write-out=json", *words],
        capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def answering(others: list[str]) -> str | None:
    """One of the others that knows the cluster's members."""
    for other in others:
        place = urlsplit(other)
        try:  # etcdctl alone would go on asking a machine that refuses the connection
            socket.create_connection((place.hostname, place.port), CONNECT_S).close()
            etcdctl(other, "member", "list")
        except (OSError, subprocess.CalledProcessError):
            continue
        return other
    return None


def added(name: str, peer: str, other: str) -> list[dict[str, Any]]:
    """The members, once the cluster has taken this one in. Raises CalledProcessError.

    It refuses for a while after another member's restart: HealthInterval, 5 s, must have passed.
    """
    deadline = time.monotonic() + HEALTHY_LIMIT_S
    while True:
        try:
            for member in etcdctl(other, "member", "list")["members"]:
                if peer in member["peerURLs"] or member.get("name") == name:
                    etcdctl(other, "member", "remove", f"{member['ID']:x}")
            members: list[dict[str, Any]] = etcdctl(
                other, "member", "add", name, f"--peer-urls={peer}")["members"]
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return members


def join(name: str, peer: str, other: str) -> None:
    """Tell the cluster of this member, and start it. Raises CalledProcessError."""
    members = added(name, peer, other)
    cluster = ",".join(f"{member.get('name') or name}={url}"
                       for member in members for url in member["peerURLs"])
    JOINED.write_text(f"ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER={cluster}\n",
                      encoding="ascii")
    for command in (["daemon-reload"], ["stop", "etcd"], ["start", "etcd"]):
        subprocess.run(["systemctl", *command], check=True)
    print("joined", cluster)


def main(name: str, peer: str) -> None:
    """See the module."""
    JOINED.unlink(missing_ok=True)
    other = answering(sys.stdin.read().split())
    if other is None:
        return
    try:
        join(name, peer, other)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} {' '.join(error.cmd[-3:])}: {error.stderr or error.returncode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
