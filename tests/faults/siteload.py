"""Clients of two servers, or of a site whole, amid a fault, and the judge of all that they saw."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Protocol

from faults.clients import (
    Address,
    Client,
    Connection,
    FeedFollower,
    Follower,
    Marker,
    Reader,
    Sender,
    StreamFollower,
    all_of,
    shown,
)
from faults.history import History, feed_problems, problems

if TYPE_CHECKING:
    from collections.abc import Callable

RESUME_LIMIT_S = 30.0
"""How long after the end of a fault everybody has to be answered again."""
ANSWER_LIMIT_S = 25.0
"""How long an answer may take amid a fault, be it a refusal."""


class Servers(Protocol):
    """What a load needs to know. `addresses`: two ways to the same store, A and B."""

    addresses: list[Address]
    admin_token: str
    answer_limit_s: float

    @property
    def busy(self) -> int:
        """How many statements are under way in the database."""

    def log(self) -> str:
        """What the servers wrote."""


class Load:
    """Clients of both servers, who rest for `pause_s` between two requests."""

    def __init__(self, site: Servers, seed: int, *, name: str = "",
                 resume_limit_s: float = RESUME_LIMIT_S, pause_s: float = 0.0) -> None:
        self.site = site
        self.resume_limit_s = resume_limit_s
        self.history = history = History(name=name)
        self.random = random.Random(seed)
        a, b = site.addresses
        # Several at each, so that requests with keys and without share flushes.
        self.senders = [
            Sender(here, history, 10 * number + place, keys=keys, fan_out=place % 2 == 1,
                   other=there if keys else None)
            for number, (here, there) in enumerate(((a, b), (b, a)))
            for place, keys in enumerate((True, True, False, False))]
        ways = [(Follower, StreamFollower), (StreamFollower, Follower), (Follower, StreamFollower)]
        self.followers: list[Follower] = [
            kind(address, history, number, to)
            for number, (to, kinds) in enumerate(zip(history.inboxes, ways, strict=True))
            for address, kind in zip((a, b), kinds, strict=True)]
        self.feeder = FeedFollower(b, history, 20, site.admin_token)
        self.readers = [Reader(a, history, 30), Reader(b, history, 31)]
        self.clients: list[Client] = [
            *self.senders, *self.followers, self.feeder, *self.readers, Marker(a, history, 40)]
        for client in self.clients:
            client.pause_s = pause_s

    @property
    def acknowledged(self) -> int:
        """How many requests to store were."""
        return sum(attempt.outcome == "ok" for attempt in list(self.history.attempts))

    def start(self) -> None:
        """Begin, until every client has been answered."""
        a, _ = self.site.addresses
        self.feeder.begin_at(end_of_feed(a, self.site.admin_token))
        for client in self.clients:
            client.start()
        self.resumed()

    def run(self, count: int = 60) -> None:
        """Let so many more requests be acknowledged."""
        goal = self.acknowledged + count
        await_(lambda: self.acknowledged >= goal, self.failed, self.resume_limit_s)

    def resumed(self, clients: list[Client] | None = None) -> float:
        """Wait until every client was answered what it has asked from now on; how long it took."""
        began = time.monotonic()
        waiting = clients or self.clients
        await_(lambda: all(client.answered_s > began for client in waiting), self.failed,
               self.resume_limit_s)
        return time.monotonic() - began

    def failed(self) -> str:
        """What has gone wrong by now."""
        now = time.monotonic()
        states = [f"{client.name}: {client.error!r}, answered {now - client.answered_s:.1f} s ago"
                  for client in self.clients]
        return "\n".join([*states, self.site.log()[-3000:]])

    def stop(self) -> list[str]:
        """End, and the judge's findings. What followers have not been given yet they wait for."""
        for client in self.senders:
            client.stopping.set()
        for client in self.senders:
            client.finish()
        await_(lambda: self.site.busy == 0, self.failed)
        _, b = self.site.addresses
        inboxes = {to: all_of(b, to, shown) for to in self.history.inboxes}
        for follower in self.followers:
            last = len(inboxes[follower.to])
            await_(lambda follower=follower, last=last: follower.after >= last,  # type: ignore[misc]
                   lambda follower=follower: f"{follower.name} lags: {self.failed()}")  # type: ignore[misc]
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.finish()
        slow = [f"{client.name} waited {client.longest_s:.1f} s" for client in self.clients
                if client.longest_s > self.site.answer_limit_s]
        return [*self.judge(), *slow, *(f"the log has {word}" for word in ("Traceback", "a defect")
                                        if word in self.site.log())]

    def judge(self) -> list[str]:
        """What is wrong with what is there now."""
        _, b = self.site.addresses
        inboxes = {to: all_of(b, to, shown) for to in self.history.inboxes}
        feed = whole_feed(b, self.site.admin_token, self.feeder.began)
        return [*problems(self.history, inboxes, late=True), *feed_problems(self.history, feed)]

    def abandon(self) -> None:
        """Tell all to end."""
        for client in self.clients:
            client.stopping.set()


def whole_feed(address: Address, token: str, after: int = 0) -> list[Any]:
    """All changes of a store after that place."""
    connection = Connection(address)
    changes: list[Any] = []
    cursor, last = after, after + 1
    while cursor < last:
        feed = _feed(connection, token, cursor)
        changes += feed["changes"]
        cursor, last = feed["cursor"], feed["last"]
    connection.close()
    return changes


def end_of_feed(address: Address, token: str) -> int:
    """The place of the newest change of a store."""
    connection = Connection(address)
    last: int = _feed(connection, token, 0, limit=1)["last"]
    connection.close()
    return last


def _feed(connection: Connection, token: str, after: int, limit: int = 5000) -> Any:
    status, feed = connection.ask("GET", f"/api/v1/admin/feed?after={after}&limit={limit}",
                                  Authorization=f"Bearer {token}")
    assert status == 200, feed
    return feed


def await_(so: Callable[[], bool], otherwise: Callable[[], str],
           limit_s: float = RESUME_LIMIT_S) -> None:
    """Wait until it is so. Raises AssertionError with what `otherwise` says."""
    deadline = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)
