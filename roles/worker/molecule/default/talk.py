"""Hooks are told by the worker: once, after a kill of it, and what was sent without a queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT_S = 90.0
TOKEN = "coord_admin_a-token-of-the-scenario"
heard: list[str] = []


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["subject"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def call(method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:8000/api/v1{path}", method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def send(*subjects: str) -> None:
    for subject in subjects:
        call("POST", "/messages", {"from_agent": "code", "to_agent": "chat", "subject": subject,
                                   "body": "there"})


def wait(so: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not so():
        assert time.monotonic() < deadline, f"{otherwise}: {heard} {call('GET', '/admin/work')}"
        time.sleep(0.1)


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True,
                          text=True).stdout.strip()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = call("POST", "/admin/hooks", {
        "kind": "webhook", "target": f"http://127.0.0.1:{server.server_port}/"})["id"]

    send("one")
    wait(lambda: heard == ["one"], "a hook is not told")

    # A worker that is killed comes back by itself.
    os.kill(int(systemctl("show", "-P", "MainPID", "coordd-worker.service")), signal.SIGKILL)
    send("two")
    wait(lambda: "two" in heard, "a killed worker does not come back")

    # Without the queue sends go on; what they bring is told later.
    systemctl("stop", "rabbitmq-server.service")
    send("three", "four")
    wait(lambda: call("GET", "/admin/work")["problem"], "nobody misses the queue")
    systemctl("start", "rabbitmq-server.service")
    wait(lambda: {"three", "four"} <= set(heard), "what was sent without the queue is not told")

    work = call("GET", "/admin/work")
    assert (work["queue"], work["dead"]) == ("rabbitmq", 0), work
    wait(lambda: (now := call("GET", "/admin/work"))["chain"]["position"] == now["last"],
         "the chain is not kept up")
    call("DELETE", f"/admin/hooks/{hook}")
    server.shutdown()


main()
