"""upstream.py PORT: a message server's outside, as far as nginx can tell, on loopback.

/name says which it is, /echo the headers it got. /die counts the request and closes without an
answer, /counts says [PORT, how many]. A stream gives one event, and the next when /release is
called. While /run/unready-PORT is there, every answer is a 503.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = int(sys.argv[1])
unready = Path(f"/run/unready-{PORT}")
died = 0
released = Path("/run/released")  # of all upstreams: whichever is asked, the stream ends


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        global died
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/die" or (path == "/die-9001" and PORT == 9001):
            died += 1
            self.close_connection = True
            return
        if path.endswith("/stream"):
            self.stream()
            return
        if path == "/release":
            released.touch()
        answers = {"/echo": dict(self.headers), "/counts": [PORT, died], "/release": None}
        body = json.dumps(answers.get(path, PORT)).encode()
        self.send_response(503 if unready.exists() else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - http.server calls them so

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b"id: 1\nevent: message\ndata: first\n\n")
        deadline = time.monotonic() + 30
        while not released.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        released.unlink(missing_ok=True)
        self.wfile.write(b"id: 2\nevent: message\ndata: second\n\n")

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", PORT), Handler).serve_forever()
