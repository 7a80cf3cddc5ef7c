"""Server-Sent Events: nothing skipped, nothing twice, over reconnects and restarts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.conftest import Office
from integration.test_api_messages import message, sent
from support.raw import Connection
from support.server import Server, start


class Stream:
    """A stream that is read frame by frame."""

    def __init__(self, server: Server, agent: str, query: str = "", *headers: str) -> None:
        self.connection = Connection(server.port)
        self.connection.get(f"/api/v1/inbox/{agent}/stream{query}", *headers)
        self.answer = self.connection.answer()
        self._text = b""

    def frame(self) -> bytes:
        """The next frame without its empty line; b"" at the end of the stream."""
        while b"\n\n" not in self._text:
            size = int(self.connection.line() or b"0", 16)
            if size == 0:
                return b""
            self._text += self.connection.exactly(size)
            self.connection.line()
        frame, _, self._text = self._text.partition(b"\n\n")
        return frame

    def event(self) -> tuple[int, dict[str, Any]]:
        """The next message and its id; comments are skipped."""
        while (frame := self.frame()).startswith(b":"):
            pass
        fields = dict(line.split(": ", 1) for line in frame.decode().split("\n"))
        assert fields["event"] == "message"
        return int(fields["id"]), json.loads(fields["data"])

    def close(self) -> None:
        self.connection.close()


def test_a_stream_begins_with_what_arrives_from_now_on(
        server: Server, api: httpx.Client, agent: str, other: str) -> None:
    sent(api, agent, other)
    stream = Stream(server, other)
    assert stream.answer.status == 200
    assert stream.answer.headers["content-type"] == "text/event-stream"
    assert stream.frame() == b": connected"
    receipt = sent(api, agent, other, body="two\nlines")
    seq, seen = stream.event()
    assert (seq, seen["id"], seen["body"]) == (2, receipt["id"], "two\nlines")
    stream.close()


@pytest.mark.parametrize(("query", "headers", "first"), [
    ("?after=0", (), 1), ("?after=3", (), 4), ("", ("Last-Event-ID: 2",), 3),
    ("?after=0", ("Last-Event-ID: 4",), 5),
])
def test_a_stream_resumes(server: Server, api: httpx.Client, agent: str, other: str, query: str,
                          headers: tuple[str, ...], first: int) -> None:
    api.post("/messages/batch", json=[message(agent, other) for _ in range(6)])
    stream = Stream(server, other, query, *headers)
    assert [stream.event()[0] for _ in range(first, 7)] == list(range(first, 7))
    stream.close()


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "9" * 30, "\xe9"])
def test_a_last_event_id_that_is_no_number_is_422(server: Server, agent: str, value: str) -> None:
    answer = httpx.get(f"{server.url}/api/v1/inbox/{agent}/stream",
                       headers={"Last-Event-ID": value.encode("latin-1")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "Last-Event-ID"


def test_a_follower_sees_all_in_order_while_others_send(
        server: Server, api: httpx.Client, agent: str, other: str) -> None:
    seen: list[int] = []
    stream = Stream(server, other, "?after=0")
    for batch in range(20):
        api.post("/messages/batch", json=[message(agent, other) for _ in range(50)])
        if batch % 5 == 2:
            while len(seen) < batch * 50:
                seen.append(stream.event()[0])
            stream.close()
            stream = Stream(server, other, "", f"Last-Event-ID: {seen[-1]}")
    while len(seen) < 1000:
        seen.append(stream.event()[0])
    assert seen == list(range(1, 1001))
    stream.close()


def test_a_slow_reader_misses_nothing(server: Server, api: httpx.Client, agent: str, other: str
                                      ) -> None:
    connection = Connection(server.port, receive_buffer=4096)
    connection.get(f"/api/v1/inbox/{other}/stream?after=0")
    for _ in range(20):
        api.post("/messages/batch", json=[message(agent, other, body="x" * 50_000)] * 20)
    stream = Stream.__new__(Stream)
    stream.connection, stream.answer, stream._text = connection, connection.answer(), b""
    assert [stream.event()[0] for _ in range(400)] == list(range(1, 401))
    stream.close()


def test_a_stream_that_is_left_is_let_go(server: Server, agent: str) -> None:
    streams = [Stream(server, agent) for _ in range(5)]
    for stream in streams:
        assert stream.frame() == b": connected"
    assert _open_streams(server) >= 5
    for stream in streams:
        stream.close()
    for _ in range(600):
        if _open_streams(server) == 0:
            return
        time.sleep(0.05)
    raise AssertionError("streams stay open")


def _open_streams(server: Server) -> int:
    text = httpx.get(f"{server.url}/metrics").text
    return next(int(float(line.split()[1])) for line in text.splitlines()
                if line.startswith("coordd_streams "))


def test_a_stop_ends_streams_and_long_polls_and_exits_0(tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    stream, poll = Stream(server, "code"), Connection(server.port)
    idle = Connection(server.port)
    assert stream.frame() == b": connected"
    poll.get("/api/v1/inbox/code?wait=60")
    time.sleep(0.2)
    assert server.stop() == 0
    assert stream.frame() == b""
    assert poll.answer().status == 200
    assert idle.closed()
    assert "Traceback" not in server.log()
    for connection in (stream.connection, poll, idle):
        connection.close()


def test_a_stream_resumes_over_a_kill(tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    with httpx.Client(base_url=f"{server.url}/api/v1") as api:
        stream = Stream(server, "chat")
        stream.frame()
        sent(api, "code", "chat")
        last, _ = stream.event()
        sent(api, "code", "chat")
    server.kill()
    stream.close()
    with start(tmp_path / "data") as server:
        stream = Stream(server, "chat", "", f"Last-Event-ID: {last}")
        assert stream.event()[0] == 2
        stream.close()


def test_a_stream_of_ones_own_with_a_token(office: Office, agent: str) -> None:
    _, token = office.issue(agent)
    stream = Stream(office.server, agent, "", f"Authorization: Bearer {token}")
    assert stream.frame() == b": connected"
    sent(office.operator, "boss", agent)
    assert stream.event()[1]["from_agent"] == "boss"
    stream.close()
