"""The requests that the driver sends, as bytes ready for the socket.

A workload gives each connection its own endless iterator. Requests that are sent tens of thousands
of times a second are built before the run and repeated; the fill, whose messages must differ, is
built while it runs.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

AGENTS = tuple(f"agent-{number:02d}" for number in range(50))
EVERYBODY = "*"
"""Whose token may send for any agent, where a load is given tokens."""
VARIANTS = 64
"""How many different requests one connection repeats."""
READS = 3
"""Reads of an inbox for each send in the mix, as in bench/load/locustfile.py."""

_WORDS = ("build deploy review merge test green red branch release rollback latency queue batch "
          "segment replica index cache token inbox thread done waiting please look at the new log "
          "file before noon")
_TEXT = " ".join(random.Random(0).choices(_WORDS.split(), k=10_000))


def message(rng: random.Random) -> dict[str, str]:
    """A message between two of AGENTS; its body has 100-200 bytes."""
    sender, recipient = rng.sample(AGENTS, 2)
    start = rng.randrange(len(_TEXT) - 200)
    return {"from_agent": sender, "to_agent": recipient, "subject": _TEXT[start:start + 30],
            "body": _TEXT[start:start + rng.randrange(100, 201)]}


def post(path: str, value: object, token: str | None = None) -> bytes:
    """A keep-alive POST of `value` as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{_bearer(token)}Content-Length: {len(body)}\r\n\r\n").encode() + body


def get(path: str, token: str | None = None) -> bytes:
    """A keep-alive GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{_bearer(token)}\r\n".encode()


def _bearer(token: str | None) -> str:
    return f"Authorization: Bearer {token}\r\n" if token else ""


def _sent(sent: dict[str, str], tokens: Mapping[str, str]) -> bytes:
    return post("/api/v1/messages", sent, tokens.get(sent["from_agent"]))


def _read(agent: str, tokens: Mapping[str, str]) -> bytes:
    return get(f"/api/v1/inbox/{agent}", tokens.get(agent))


def _send(connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    rng = random.Random(connection)
    return itertools.cycle([_sent(message(rng), tokens) for _ in range(VARIANTS)])


def _sent_together(rng: random.Random, count: int, tokens: Mapping[str, str]) -> bytes:
    return post("/api/v1/messages/batch", [message(rng) for _ in range(count)],
                tokens.get(EVERYBODY))


def _batch(connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    rng = random.Random(connection)
    return itertools.cycle([_sent_together(rng, 100, tokens) for _ in range(8)])


def _fill(connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    rng = random.Random(1_000_000 + connection)
    while True:
        yield _sent_together(rng, 1000, tokens)


def _inbox(connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    first = connection * 7 % len(AGENTS)
    return itertools.cycle([_read(name, tokens) for name in AGENTS[first:] + AGENTS[:first]])


def _one_inbox(_connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    return itertools.repeat(_read(AGENTS[0], tokens))


def _mix(connection: int, tokens: Mapping[str, str]) -> Iterator[bytes]:
    """Sends and READS times as many reads, both of any agent, in a random order."""
    rng = random.Random(2_000_000 + connection)
    requests = [_sent(message(rng), tokens) for _ in range(VARIANTS)]
    requests += [_read(rng.choice(AGENTS), tokens) for _ in range(READS * VARIANTS)]
    rng.shuffle(requests)
    return itertools.cycle(requests)


def _stats(_connection: int, _: Mapping[str, str]) -> Iterator[bytes]:
    return itertools.repeat(get("/api/v1/stats"))


def _health(_connection: int, _: Mapping[str, str]) -> Iterator[bytes]:
    return itertools.repeat(get("/health"))


WORKLOADS: dict[str, tuple[Callable[[int, Mapping[str, str]], Iterator[bytes]], int]] = {
    "send": (_send, 1),
    "batch": (_batch, 100),
    "fill": (_fill, 1000),
    "inbox": (_inbox, 1),
    "one-inbox": (_one_inbox, 1),
    "mix": (_mix, 1),
    "stats": (_stats, 1),
    "health": (_health, 1),
}
"""By name: the requests of a connection (by its number and the agents' tokens), and the messages in
each of them. `batch` and `fill` speak for all agents, with the token of EVERYBODY.
"""
