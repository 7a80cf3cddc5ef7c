"""HTTP itself, byte by byte: what clients send by mistake, by age or in bad faith."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from support.raw import Answer, Connection
from support.server import Server, start

SEND = "/api/v1/messages"
BATCH = "/api/v1/messages/batch"


def body_of(sender: str, to: str, text: str = "there") -> bytes:
    return json.dumps({"from_agent": sender, "to_agent": to, "subject": "Hi",
                       "body": text}).encode()


def refused(answer: Answer, status: int, kind: str) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["type"] == f"/problems/{kind}"


def test_a_connection_is_kept(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        for seq in range(1, 4):
            c.post(SEND, body_of(agent, agent))
            answer = c.answer()
            assert json.loads(answer.body)["seq"] == seq
            assert answer.headers["connection"] == "keep-alive"
            assert answer.headers["date"].endswith("GMT")


def test_connection_close_is_heeded(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        c.post(SEND, body_of(agent, agent), "Connection: close")
        assert c.answer().headers["connection"] == "close"
        assert c.closed()


def test_http_1_0_is_answered_and_closed(server: Server) -> None:
    with Connection(server.port) as c:
        c.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert c.answer().status == 200
        assert c.closed()


def test_http_1_0_may_keep_its_connection(server: Server) -> None:
    with Connection(server.port) as c:
        for _ in range(3):
            c.send(b"GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            assert c.answer().headers["connection"] == "keep-alive"


def test_head_is_get_without_the_body(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        for path in ("/health", f"/api/v1/inbox/{agent}", "/docs", "/nope"):
            c.get(path)
            get = c.answer()
            c.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = c.answer(head_only=True)
            assert (head.status, head.headers["content-length"]) == (
                get.status, get.headers["content-length"])
        c.send(f"HEAD /api/v1/inbox/{agent}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert c.answer(head_only=True).headers["content-type"] == "text/event-stream"
        assert c.closed()


def test_pipelined_requests_are_answered_in_their_order(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        body = body_of(agent, agent)
        one = (b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
               b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
               b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n" % (len(body), body))
        c.send(one * 200)
        for seq in range(1, 201):
            assert json.loads(c.answer().body)["seq"] == seq
            assert json.loads(c.answer().body)["status"] == "ok"
            assert c.answer().status == 404


def test_what_is_pipelined_after_close_is_not_answered(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        c.send(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n" + b"GET /nope HTTP/1.1\r\n\r\n")
        assert c.answer().status == 200
        assert c.closed()


def test_nonsense_after_a_request_in_work_does_not_overtake_it(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        body = body_of(agent, agent)
        c.send(b"POST /api/v1/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (
            len(body), body) + b"\0\1\2nonsense\r\n\r\n")
        assert c.answer().status == 200
        refused(c.answer(), 400, "bad-request")
        assert c.closed()


@pytest.mark.parametrize("head", [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5, 5", b"Content-Length: -5", b"Content-Length: +5", b"Content-Length: 0x5",
    b"Content-Length: 99999999999999999999999", b"Content-Length: ",
    b"Transfer-Encoding: gzip, chunked, gzip", b"Transfer-Encoding : chunked", b"Bad Header: x",
    b"X: a\0b", b"X: a\nY", b": x",
])
def test_a_doubtful_head_is_refused_and_closed(server: Server, head: bytes) -> None:
    with Connection(server.port) as c:
        c.send(b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\n")
        refused(c.answer(), 400, "bad-request")
        assert c.closed()


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n\r\n", b"BREW /pot HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\0 HTTP/1.1\r\n\r\n",
])
def test_what_is_no_http_is_refused_and_closed(server: Server, data: bytes) -> None:
    with Connection(server.port) as c:
        c.send(data)
        refused(c.answer(), 400, "bad-request")
        assert c.closed()


def test_a_chunked_body_is_a_body(server: Server, agent: str) -> None:
    body = body_of(agent, agent)
    with Connection(server.port) as c:
        for _ in range(2):
            c.send(b"POST /api/v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(0, len(body), 7):
                piece = body[i:i + 7]
                c.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            c.send(b"0\r\nIdempotency-Key: in a trailer\r\n\r\n")
            assert c.answer().status == 200


def test_a_request_may_come_byte_by_byte(server: Server, agent: str) -> None:
    body = body_of(agent, agent)
    data = b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body), body)
    with Connection(server.port) as c:
        for i in range(len(data)):
            c.send(data[i:i + 1])
        assert c.answer().status == 200


def test_expect_100_continue(server: Server, agent: str) -> None:
    body = body_of(agent, agent)
    with Connection(server.port) as c:
        c.send(b"POST /api/v1/messages HTTP/1.1\r\nContent-Length: %d\r\nExpect: 100-continue"
               b"\r\n\r\n" % len(body))
        assert c.line() == b"HTTP/1.1 100 Continue"
        assert c.line() == b""
        c.send(body)
        assert c.answer().status == 200


def test_expect_with_a_body_that_is_too_large_is_413_at_once(server: Server) -> None:
    with Connection(server.port) as c:
        c.send(b"POST /api/v1/messages HTTP/1.1\r\nContent-Length: 9000000\r\n"
               b"Expect: 100-continue\r\n\r\n")
        refused(c.answer(), 413, "too-large")
        assert c.closed()


def test_an_upgrade_that_is_not_offered_is_a_plain_request(server: Server) -> None:
    with Connection(server.port) as c:
        c.get("/health", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x")
        assert c.answer().status == 200
        assert c.closed()


def test_ten_megabytes_are_413_by_their_length(server: Server) -> None:
    with Connection(server.port) as c:
        c.post(SEND, b" " * 10_000_000)
        refused(c.answer(), 413, "too-large")
        assert c.closed()


def test_ten_megabytes_in_chunks_are_413(server: Server) -> None:
    with Connection(server.port) as c:
        c.send(b"POST /api/v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            c.send(b"f4240\r\n" + b" " * 1_000_000 + b"\r\n")
        refused(c.answer(), 413, "too-large")
        assert c.closed()


def test_eight_mebibytes_are_read(server: Server, agent: str) -> None:
    body = body_of(agent, agent)
    with Connection(server.port) as c:
        c.post(SEND, body + b" " * ((8 << 20) - len(body)))
        assert c.answer().status == 200
        c.post(SEND, body + b" " * ((8 << 20) - len(body) + 1))
        refused(c.answer(), 413, "too-large")


@pytest.mark.parametrize("head", [
    b"X: " + b"x" * 100_000, b"\r\n".join(b"X%d: x" % i for i in range(20_000))])
def test_a_large_head_is_refused(server: Server, head: bytes) -> None:
    with Connection(server.port) as c:
        c.send(b"GET /health HTTP/1.1\r\n" + head + b"\r\n\r\n")
        refused(c.answer(), 400, "bad-request")
        assert c.closed()


def test_a_large_target_is_refused(server: Server) -> None:
    with Connection(server.port) as c:
        c.get("/" + "x" * 100_000)
        refused(c.answer(), 400, "bad-request")


def test_a_large_target_in_two_pieces_is_refused(server: Server) -> None:
    with Connection(server.port) as c:
        c.socket.sendall(b"GET /" + b"x" * 50_000)
        time.sleep(0.3)
        c.socket.sendall(b"x" * 50_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n")
        refused(c.answer(), 400, "bad-request")


@pytest.mark.parametrize("body", [
    b"", b"{", b'{"from_agent":"\xff"}', b"\xff\xfe{\x00}\x00", b"[" * 1_000_000,
    b'{"a":' * 500_000, b"[]", b"null", b'"x"', b"1e999", b"\0",
    b'{"from_agent":"a","to_agent":"b","subject":"s","body":"\\ud800"}',
    b'{"from_agent":"a","to_agent":"b","subject":"s","body":"\\u0000"}',
])
@pytest.mark.parametrize("path", [SEND, BATCH])
def test_a_bad_body_is_told_and_the_connection_lives(server: Server, path: str, body: bytes
                                                     ) -> None:
    with Connection(server.port) as c:
        c.post(path, body)
        answer = c.answer()
        refused(answer, answer.status, "bad-request" if answer.status == 400 else "invalid")
        c.get("/health")
        assert c.answer().status == 200


@pytest.mark.parametrize(("path", "status"), [
    ("/api/v1/inbox/a%2Fb", 422), ("/api/v1/inbox/a%00", 422), ("/api/v1/inbox/..", 422),
    ("/api/v1/inbox/%2e%2e", 422), ("/api/v1/inbox/code%2Fstream", 422),
    ("/api/v1/inbox/%2e%2e%2fstats", 422), ("/api/v1/inbox/a/../b", 404),
    ("/api/v1/../health", 404),
    ("/api/v1/inbox/%ff", 400), ("/api/v1/inbox/%zz", 422), ("/api/v1/inbox/", 404),
    ("/api/v1/inbox/" + "x" * 51, 422), ("/api/v1//stats", 404), ("//health", 404),
    ("/api/v1/messages/a%2Fread", 422), ("/api/v1/agents/%0a", 422), ("/api/v1/stats?x=1", 422),
    ("/api/v1/search?q=%00", 422), ("/api/v1/search?q=%ff", 400), ("/health#x", 404),
    ("http://x/health", 200),
])
def test_odd_paths(server: Server, path: str, status: int) -> None:
    with Connection(server.port) as c:
        c.get(path)
        assert c.answer().status == status


def test_a_wrong_method_is_told_what_is_right(server: Server) -> None:
    with Connection(server.port) as c:
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
            c.send(f"{method} /api/v1/messages HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = c.answer()
            refused(answer, 405, "method-not-allowed")
            assert answer.headers["allow"] == "POST"


def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Server, agent: str) -> None:
    body = body_of(agent, agent)
    for cut in range(1, 200, 7):
        c = Connection(server.port)
        c.send((b"POST /api/v1/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (
            len(body), body))[:cut])
        c.close()
    with Connection(server.port) as c:
        c.get("/health")
        assert c.answer().status == 200


def test_a_client_that_sends_no_more_still_gets_its_answer(server: Server, agent: str) -> None:
    with Connection(server.port) as c:
        c.post(SEND, body_of(agent, agent))
        c.socket.shutdown(1)
        assert c.answer().status == 200
        assert c.closed()


def test_a_client_that_does_not_read_makes_no_memory_grow(tmp_path: Path) -> None:
    with start(tmp_path / "data") as server, Connection(server.port, 4096) as slow:
        with Connection(server.port) as c:
            for _ in range(10):
                c.post(SEND, body_of("a", "slow", "x" * 60_000))
                assert c.answer().status == 200
        before = _resident_mib(server.pid)
        slow.socket.settimeout(1)
        sent = 0
        try:
            for _ in range(2000):
                slow.get("/api/v1/inbox/slow")
                sent += 1
        except TimeoutError:
            pass
        time.sleep(0.5)
        assert _resident_mib(server.pid) - before < 100, f"{sent} requests were sent"
        slow.socket.settimeout(60)
        for _ in range(3):
            assert slow.answer().status == 200


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


@pytest.mark.parametrize(("origin", "host", "status"), [
    ("http://evil.example", "127.0.0.1:8000", 403), ("null", "127.0.0.1:8000", 403),
    ("http://127.0.0.1:9000", "127.0.0.1:8000", 403),
    ("http://127.0.0.1:8000", "127.0.0.1:8000", 200),
])
def test_a_page_of_another_site_may_not_send(server: Server, agent: str, origin: str, host: str,
                                             status: int) -> None:
    with Connection(server.port) as c:
        body = body_of(agent, agent)
        c.send(f"POST {SEND} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
               f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert c.answer().status == status
