"""servers.py write|watch: which message servers nginx sends requests to.

nginx notices by itself who does not answer a request. `watch` asks each server's /ready besides:
who is not ready twice in a row gets no requests until it is.

coordctl-servers.list  the servers, `address:port` a line: the role's
coordctl-servers.conf  their lines for nginx: written here alone
/run/coordctl-nginx    who is not ready; forgotten when the machine is started again
"""

from __future__ import annotations

import fcntl
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

LIST = Path("/etc/nginx/coordctl-servers.list")
CONF = Path("/etc/nginx/coordctl-servers.conf")
STATE = Path("/run/coordctl-nginx")
INTERVAL_S = 2.0
ANSWER_S = 2.0
FAILURES = 2


def servers() -> list[str]:
    """All of them."""
    return LIST.read_text(encoding="ascii").split()


@contextmanager
def locked() -> Iterator[None]:
    """Be the only one who changes anything."""
    STATE.mkdir(mode=0o755, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_marked(server: str) -> bool:
    """Whether it was not ready."""
    return (STATE / server).exists()


def write() -> bool:
    """Bring nginx' lines to what is marked; whether they changed. Where nobody is ready, all are
    asked: one of them may answer.
    """
    out = {server for server in servers() if is_marked(server)}
    if out == {*servers()}:
        out = set()
    text = "".join(f"server {server} max_fails=2 fail_timeout=2s{' down' * (server in out)};\n"
                   for server in servers())
    if CONF.exists() and CONF.read_text(encoding="ascii") == text:
        return False
    beside = CONF.with_suffix(".new")
    beside.write_text(text, encoding="ascii")
    beside.replace(CONF)
    return True


def mark(server: str, *, ready: bool) -> None:
    """Tell nginx, and the journal."""
    print(f"{server} is ready again" if ready else f"{server} is not ready: it gets no requests",
          flush=True)
    with locked():
        if ready:
            (STATE / server).unlink(missing_ok=True)
        else:
            (STATE / server).touch()
        if write():
            subprocess.run(["systemctl", "reload", "nginx"], check=True)


def is_ready(server: str) -> bool:
    """Whether it can store a message now."""
    host, _, port = server.rpartition(":")
    link = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=ANSWER_S)
    try:
        link.request("GET", "/ready")
        return link.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def watch() -> None:
    """Ask all of them, over and over."""
    failures: dict[str, int] = {}
    with ThreadPoolExecutor() as pool:
        while True:
            everybody = servers()
            for server, ready in zip(everybody, pool.map(is_ready, everybody), strict=True):
                failures[server] = 0 if ready else failures.get(server, 0) + 1
                if ready == is_marked(server) and (ready or failures[server] >= FAILURES):
                    mark(server, ready=ready)
            time.sleep(INTERVAL_S)


def main(command: str) -> None:
    """Run the command."""
    if command == "watch":
        watch()
    with locked():
        print("changed" if write() else "as it was")


if __name__ == "__main__":
    main(*sys.argv[1:])
