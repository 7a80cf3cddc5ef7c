"""Readers at one server hear of what another one stores."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordd.mailbox import LOOK_S
from support.postgres import Databases
from support.redis import RedisServer
from support.server import NotStartedError, start

PAUSE_S = 0.2


class Pair:
    """Two servers on one store."""

    def __init__(self, databases: Databases, folder: Path, **settings: Any) -> None:
        pushes = settings.pop("pushes", True)
        self.name = databases.new()
        found = {**databases.settings(self.name, pushes=pushes), **settings}
        self.servers = [start(folder / name, **found) for name in "ab"]
        self.a, self.b = (httpx.Client(base_url=server.url, timeout=60) for server in self.servers)

    def close(self) -> None:
        for client, server in zip((self.a, self.b), self.servers, strict=True):
            client.close()
            server.stop()

    def send(self, agent: str) -> None:
        answer = self.a.post("/api/v1/messages", json={
            "from_agent": "sender", "to_agent": agent, "subject": "s", "body": "b"})
        assert answer.status_code == 200, answer.text

    def metric(self, name: str, client: httpx.Client | None = None) -> float:
        text = (client or self.b).get("/metrics").text
        found = re.search(rf"^{name}(?:_total)? ([\d.e+]+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not so():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def woken(self, agent: str, send: Callable[[], None] | None = None) -> tuple[int, float]:
        """How many messages a long-poll at B was answered after a send at A, and how long after."""
        found: list[tuple[int, float]] = []
        last = self.b.get(f"/api/v1/inbox/{agent}?limit=1").json()["last_seq"]

        def wait() -> None:
            with httpx.Client(base_url=self.servers[1].url, timeout=60) as client:
                page = client.get(
                    f"/api/v1/inbox/{agent}?order=oldest&after={last}&wait=20").json()
                found.append((len(page["messages"]), time.monotonic()))

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.until(lambda: self.metric("coordd_inbox_waiters") >= 1)
        time.sleep(PAUSE_S)
        sent = time.monotonic()
        (send or (lambda: self.send(agent)))()
        waiter.join(30)
        [(count, at)] = found
        return count, at - sent


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture(params=["notify", "redis"])
def pair(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Pair]:
    settings: dict[str, Any] = {}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        settings = {"cache": "redis", "redis_url": server.url, "pushes": False}
    pair = Pair(databases, tmp_path, **settings)
    pair.until(lambda: pair.metric("coordd_push_connected") == 1)
    yield pair
    pair.close()


def test_a_long_poll_at_another_server_is_woken(pair: Pair) -> None:
    heard = pair.metric("coordd_pushes_heard")
    for _ in range(5):
        count, took_s = pair.woken("bob")
        assert count == 1
        assert took_s < LOOK_S - PAUSE_S, "it was not woken, it has looked by itself"
    assert pair.metric("coordd_pushes_heard") >= heard + 5
    assert pair.metric("coordd_pushes_heard", pair.a) == 0, "a server hears itself"


def test_a_stream_at_another_server_is_woken(pair: Pair) -> None:
    with pair.b.stream("GET", "/api/v1/inbox/bob/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": connected"
        for seq in range(1, 4):
            sent = time.monotonic()
            pair.send("bob")
            assert next(line for line in lines if line.startswith("id: ")) == f"id: {seq}"
            assert time.monotonic() - sent < LOOK_S


def test_more_names_than_a_notification_holds(pair: Pair) -> None:
    names = [f"{number:03d}-" + "n" * 46 for number in range(200)]
    batch = [{"from_agent": "sender", "to_agent": names[first : first + 100], "subject": "s",
              "body": "b"} for first in (0, 100)]

    def send() -> None:
        assert pair.a.post("/api/v1/messages/batch", json=batch).status_code == 200

    count, took_s = pair.woken(names[-1], send=send)
    assert count == 1
    assert took_s < LOOK_S - PAUSE_S


def test_the_connection_for_pushes_is_made_again(databases: Databases, tmp_path: Path) -> None:
    pair = Pair(databases, tmp_path)
    try:
        pair.until(lambda: pair.metric("coordd_push_connected") == 1)
        for _ in range(3):
            databases.machine.terminate_backends(pair.name)
            pair.until(lambda: pair.metric("coordd_push_connected") == 1)
            heard = pair.metric("coordd_pushes_heard")
            assert pair.woken("bob")[0] == 1
            pair.until(lambda heard=heard: pair.metric("coordd_pushes_heard") > heard)
    finally:
        pair.close()


def test_without_pushes_readers_look_by_themselves(databases: Databases, tmp_path: Path) -> None:
    pair = Pair(databases, tmp_path, pushes=False)
    try:
        count, took_s = pair.woken("bob")
        assert count == 1
        assert took_s < 20
        with pair.b.stream("GET", "/api/v1/inbox/bob/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": connected"
            pair.send("bob")
            assert next(line for line in lines if line.startswith("id: ")) == "id: 2"
    finally:
        pair.close()


def test_a_server_says_which_command_makes_the_schema(databases: Databases, tmp_path: Path) -> None:
    name = databases.machine.new_database()
    with pytest.raises(NotStartedError, match="has no schema of coordd: python -m coordd"):
        start(tmp_path / "a", **databases.settings(name))

