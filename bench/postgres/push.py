"""How soon a reader at one server is told what another one has stored."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Final

from bench.daemon import BenchError, Daemon
from bench.figures import percentile, spread
from bench.results import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.postgres.stand import PostgresStand

_SENDS: Final = 200
_PAUSE_S: Final = 0.02
_LIMIT_S: Final = 30.0


def push(stand: PostgresStand) -> None:
    """Sends at one server, one after the other; a stream and a long-poll at another one."""
    for how, cached in (("NOTIFY", False), *([("Redis", True)] if stand.has_redis else [])):
        found: dict[str, list[float]] = {"stream": [], "long-poll": []}
        for turn in range(stand.scale.rounds):
            stand.say(f"  round {turn + 1}, by {how}")
            folders = [stand.folder / f"push-{how}-{turn}-{name}" for name in "ab"]
            for folder in folders:
                folder.mkdir()
            settings = stand.settings(stand.store(), cached=cached)
            with (Daemon("coordd", folders[0], store=settings) as sender,
                  Daemon("coordd", folders[1], store=settings) as reader):
                _wait_for_pushes(reader)
                for kind, watch in (("stream", _stream), ("long-poll", _poll)):
                    found[kind].append(_p99_ms(sender, reader, watch))
        for kind, p99s in found.items():
            stand.rows.append(Row(
                name=f"send at one server to {kind}\nat another, by {how}, p99", unit="ms",
                ours=spread(p99s), bar="≤ 50 ms", passed=spread(p99s).median <= 50))


def _wait_for_pushes(reader: Daemon) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while "coordd_push_connected 1.0" not in _text(reader, "/metrics"):
        if time.monotonic() > deadline:
            raise BenchError("the server does not hear of pushes")
        time.sleep(0.02)


def _text(daemon: Daemon, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=_LIMIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _p99_ms(sender: Daemon, reader: Daemon,
            watch: Callable[[Daemon, int, dict[int, float]], None]) -> float:
    """From the request to send until the reader has the message, the 99th percentile."""
    last = json.loads(_text(reader, "/api/v1/inbox/reader?limit=1"))["last_seq"]
    heard: dict[int, float] = {}
    watcher = threading.Thread(target=watch, args=(reader, last, heard), daemon=True)
    watcher.start()
    time.sleep(0.3)  # until it waits
    connection = http.client.HTTPConnection("127.0.0.1", sender.port, timeout=_LIMIT_S)
    sent: dict[int, float] = {}
    for _ in range(_SENDS):
        began = time.monotonic()
        connection.request("POST", "/api/v1/messages", json.dumps({
            "from_agent": "sender", "to_agent": "reader", "subject": "s", "body": "b"}))
        receipt = json.loads(connection.getresponse().read())
        sent[receipt["seq"]] = began
        time.sleep(_PAUSE_S)
    connection.close()
    watcher.join(_LIMIT_S)
    if sent.keys() - heard.keys():
        raise BenchError("a reader was not told of every message")
    return percentile(sorted((heard[seq] - began) * 1000 for seq, began in sent.items()), 99)


def _stream(reader: Daemon, last: int, heard: dict[int, float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", reader.port, timeout=_LIMIT_S)
    connection.request("GET", f"/api/v1/inbox/reader/stream?after={last}")
    for line in connection.getresponse():
        if line.startswith(b"id: "):
            heard[int(line[4:])] = time.monotonic()
            if len(heard) == _SENDS:
                break
    connection.close()


def _poll(reader: Daemon, last: int, heard: dict[int, float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", reader.port, timeout=_LIMIT_S)
    while len(heard) < _SENDS:
        connection.request(
            "GET", f"/api/v1/inbox/reader?order=oldest&after={last}&wait=20&limit=10")
        page = json.loads(connection.getresponse().read())
        for message in page["messages"]:
            last = message["seq"]
            heard[last] = time.monotonic()
    connection.close()
