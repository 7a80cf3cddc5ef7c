"""talk.py CA ADDRESS PORT whole|both|one|none|limited: asks nginx what it must and must not answer.

`whole`, `both`: both upstreams run, `one`: 9001 gets no requests, `none`: both are dead, `limited`:
a rate limit of five a second and a redirect from port 80. Ends with 1 and a line at the first wrong
answer.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from collections import Counter
from typing import Any

CA, ADDRESS, PORT, PART = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
TRUSTED = ssl.create_default_context(cafile=CA)


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


class Answer:
    """Status, headers and the body, decoded where it is JSON."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.type = response.headers.get_content_type()
        text = response.read()
        self.body: Any = json.loads(text) if self.type.endswith("json") else text

    def expect_problem(self, status: int, name: str, *, retry: bool = False) -> None:
        what = f"problem {name}"
        expect(self.status, status, what)
        expect(self.type, "application/problem+json", what)
        expect(self.body["type"], f"/problems/{name}", what)
        expect(self.body["status"], status, what)
        expect(self.headers.get("Retry-After") is not None, retry, f"{what}, Retry-After")


def connection() -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(ADDRESS, PORT, timeout=20, context=TRUSTED)


def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    link = connection()
    link.request(method, path, body, {name.replace("_", "-"): headers[name] for name in headers})
    answer = Answer(link.getresponse())
    link.close()
    return answer


def raw(request: bytes) -> list[int]:
    """The statuses of all answers to these bytes."""
    with (socket.create_connection((ADDRESS, PORT), timeout=20) as plain,
          TRUSTED.wrap_socket(plain, server_hostname=ADDRESS) as link):
        link.settimeout(3)
        link.sendall(request)
        got = b""
        try:
            while block := link.recv(65536):
                got += block
        except TimeoutError:
            pass
    return [int(line.split()[1]) for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def http2(path: str) -> bytes:
    """The body that HTTP/2 gives, by hand: preface, SETTINGS, one request, frames until its end."""
    context = ssl.create_default_context(cafile=CA)
    context.set_alpn_protocols(["h2", "http/1.1"])

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (len(payload).to_bytes(3, "big") + bytes([kind, flags])
                + stream.to_bytes(4, "big") + payload)

    with (socket.create_connection((ADDRESS, PORT), timeout=20) as plain,
          context.wrap_socket(plain, server_hostname=ADDRESS) as link):
        expect(link.selected_alpn_protocol(), "h2", "the protocol that is agreed on")
        # HPACK (RFC 7541): GET and https are entries of the static table, 4 is :path, 1 :authority.
        block = (b"\x82\x87" + b"\x04" + bytes([len(path)]) + path.encode()
                 + b"\x01" + bytes([len(ADDRESS)]) + ADDRESS.encode())
        link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
                     + frame(1, 0x5, 1, block))
        file, body, ended = link.makefile("rb"), b"", False
        while not ended:
            head = file.read(9)
            payload = file.read(int.from_bytes(head[:3], "big"))
            if head[3] == 0:
                body += payload
            ended = head[3] in {0, 1} and bool(head[4] & 1)
    return body


def balanced() -> None:
    names = Counter(ask("GET", "/name").body for _ in range(40))
    expect(set(names), {9001, 9002}, "upstreams that answer")
    expect(min(names.values()) >= 10, True, f"shares of forty requests {dict(names)}")
    # Fewest connections: while a stream holds one upstream, the other gets the requests.
    held = connection()
    held.request("GET", "/api/v1/inbox/ann/stream")
    stream = held.getresponse()
    names = Counter(ask("GET", "/name").body for _ in range(10))
    expect(len(names), 1, f"shares while a stream is open {dict(names)}")
    ask("POST", "/release")
    stream.read()
    held.close()


def streamed() -> None:
    link = connection()
    link.request("GET", "/api/v1/inbox/ann/stream")
    stream = link.getresponse()
    expect(stream.headers.get_content_type(), "text/event-stream", "a stream")
    expect([stream.readline() for _ in range(4)][2], b"data: first\n", "the event, before the next")
    ask("POST", "/release")
    expect(b"data: second" in stream.read(), True, "the next event")
    link.close()


def headers_are_ours() -> None:
    seen = ask("GET", "/echo", X_Forwarded_For="6.6.6.6", Forwarded="for=6.6.6.6",
               X_Forwarded_Host="evil", Authorization="Bearer coord_a_b").body
    expect("6.6.6.6" in json.dumps(seen), False, "a claim of the client is passed on")
    expect("evil" in json.dumps(seen), False, "a claimed host is passed on")
    expect(seen["X-Forwarded-Proto"], "https", "X-Forwarded-Proto")
    expect(seen["Authorization"], "Bearer coord_a_b", "Authorization")
    expect(bool(seen["X-Forwarded-For"]), True, "X-Forwarded-For")
    expect(ask("GET", "/api/v1/search?q=needle").status, 200, "a search")


def limits() -> None:
    expect(ask("POST", "/name", b"x" * (8 << 20)).status, 200, "a body of 8 MiB")
    link = connection()
    link.putrequest("POST", "/name")
    link.putheader("Content-Length", str((8 << 20) + 1))
    link.endheaders()
    Answer(link.getresponse()).expect_problem(413, "too-large")
    link.close()
    ask("GET", "/name", Cookie="x" * 40000).expect_problem(400, "bad-request")


def not_smuggled() -> None:
    host = f"Host: {ADDRESS}\r\n".encode()
    post = b"POST /name HTTP/1.1\r\n" + host
    inner = b"GET /name HTTP/1.1\r\n" + host + b"\r\n"
    expect(raw(post + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"), [200], "a good request")
    for what, head, body in (
            ("length and chunks", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
             b"0\r\n\r\n"),
            ("chunks and length", b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
             b"0\r\n\r\n"),
            ("two lengths", b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{} "),
            ("the same length twice", b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"),
            ("a list of lengths", b"Content-Length: 2, 2\r\n", b"{}"),
            ("a signed length", b"Content-Length: +2\r\n", b"{}"),
            ("a doubled encoding",
             b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
            ("a bad chunk", b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
            ("a space before the colon", b"Content-Length : 2\r\n", b"{}")):
        expect(raw(post + head + b"\r\n" + body + inner), [400], what)
    expect(raw(b"POST /name HTTP/1.1\r\n" + host + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"
               + inner)[:1] in ([400], [501]), True, "an unknown encoding")


def sent_once() -> None:
    """A POST that an upstream got and did not answer is not sent again; a GET is."""
    before = counts()
    ask("POST", "/die", b"{}").expect_problem(502, "unknown-outcome", retry=True)
    expect(sum(counts().values()) - sum(before.values()), 1, "how often a lost POST was sent")
    for _ in range(4):
        expect(ask("GET", "/die-9001").status, 200, "a GET that one upstream loses")


def counts() -> dict[int, int]:
    """How often each upstream died; asked until both have told."""
    found: dict[int, int] = {}
    for _ in range(100):
        answer = ask("GET", "/counts").body
        found[answer[0]] = answer[1]
        if len(found) == 2:
            return found
    sys.exit(f"an upstream does not answer: {found}")


def whole() -> None:
    balanced()
    expect(http2("/name") in {b"9001", b"9002"}, True, "HTTP/2")
    streamed()
    headers_are_ours()
    limits()
    not_smuggled()
    sent_once()


def both() -> None:
    expect({ask("GET", "/name").body for _ in range(40)}, {9001, 9002}, "who answers")


def one() -> None:
    for _ in range(10):
        expect(ask("GET", "/name").body, 9002, "a GET")
        expect(ask("POST", "/name", b"{}").body, 9002, "a POST that reached no one")


def none() -> None:
    ask("GET", "/name").expect_problem(502, "unknown-outcome", retry=True)
    ask("POST", "/name", b"{}").expect_problem(502, "unknown-outcome", retry=True)


def limited() -> None:
    answers = [ask("GET", "/name") for _ in range(60)]
    refused = [answer for answer in answers if answer.status != 200]
    expect(0 < len(refused) < len(answers), True, f"{len(refused)} refused of {len(answers)}")
    refused[0].expect_problem(429, "rate-limited", retry=True)
    plain = http.client.HTTPConnection(ADDRESS, 80, timeout=20)
    plain.request("GET", "/name?a=b")
    redirect = plain.getresponse()
    expect(redirect.status, 308, "a redirect")
    expect(redirect.headers["Location"], f"https://{ADDRESS}:{PORT}/name?a=b", "a redirect")


{"whole": whole, "both": both, "one": one, "none": none, "limited": limited}[PART]()
