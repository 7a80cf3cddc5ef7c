"""A receiver of webhooks on loopback, and one of e-mail: real servers, their answers told."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

LIMIT_S = 30.0


class Call(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


class Receiver:
    """Answers each POST with `status`; what came stands in `calls`. `port` stays the same when it
    is stopped and started again. `delay_s`: how long it takes to answer.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.status = 200
        self.delay_s = 0.0
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append(Call(self.path, dict(self.headers), body))
                time.sleep(receiver.delay_s)
                self.send_response(receiver.status)
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ids(self, path: str = "/hook") -> list[str]:
        """The ids of the events that came there, in order."""
        return [call.headers["Webhook-Id"] for call in self.calls if call.path == path]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class MailServer:
    """Takes mail: (sender, recipients, text) in `mails`; refuses all while `refuses`."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], str]] = []
        self.refuses = False
        mails, server = self.mails, self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 here")
                sender, to = "", []
                for line in iter(self.rfile.readline, b""):
                    words = line.decode().strip()
                    verb = words[:4].upper()
                    if verb == "MAIL":
                        sender = words[10:].partition(">")[0].lstrip("<")
                    elif verb == "RCPT":
                        if server.refuses:
                            self._say("550 no")
                            continue
                        to.append(words[8:].partition(">")[0].lstrip("<"))
                    elif verb == "DATA":
                        self._say("354 go on")
                        text = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mails.append((sender, to, text.decode()))
                    elif verb == "QUIT":
                        self._say("221 bye")
                        return
                    self._say("250 well")

            def _say(self, text: str) -> None:
                self.wfile.write(text.encode() + b"\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def await_(so: Callable[[], Any], otherwise: str = "it does not come", limit_s: float = LIMIT_S
           ) -> Any:
    """What `so` answers once it is true."""
    deadline = time.monotonic() + limit_s
    while not (answer := so()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
    return answer
