"""Two servers over one database, clients of both amid a fault, and the judge of all they saw."""

from __future__ import annotations

import random
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from faults.clients import (
    INBOXES,
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
from support.server import Server, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.postgres import Databases

ADMIN = "coord_admin_0123456789abcdefghij"
RESUME_LIMIT_S = 30.0
"""How long after the end of a fault everybody has to be answered again."""
ANSWER_LIMIT_S = 25.0
"""How long an answer may take amid a fault, be it a refusal."""


class Site:
    """A new database and two servers over it, A and B. `more`: their settings."""

    def __init__(self, databases: Databases, folder: Path, **more: Any) -> None:
        self.databases = databases
        self.machine = databases.machine
        self.folder = folder
        self.database = databases.new()
        self.more = more
        self.servers: list[Server] = []
        self.addresses = [Address(), Address()]
        (folder / "admin").write_text(ADMIN)
        (folder / "admin").chmod(0o600)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Those of a server."""
        return {
            "engine": "postgres", "postgres_url": self.machine.pooled_url(self.database),
            "postgres_direct_url": self.machine.direct_url(self.database),
            "postgres_user": self.machine.user,
            "postgres_password_file": self.machine.password_file,
            "admin_token_file": self.folder / "admin", **self.more, **more}

    def start(self, count: int = 2, env_of_a: dict[str, str] | None = None) -> None:
        """Start both, or A alone."""
        for number, address in enumerate(self.addresses[:count]):
            env = env_of_a if number == 0 else None
            server = start(self.folder / f"server-{number}", env=env, **self.settings())
            self.servers.append(server)
            address.port = server.port

    def close(self) -> None:
        """Kill what runs, drop the database."""
        for server in self.servers:
            server.kill()
        self.machine.heal()
        self.databases.drop(self.database)

    def log(self) -> str:
        """What the servers wrote."""
        return "".join(server.log() for server in self.servers)

    @property
    def busy(self) -> int:
        """How many statements are under way in the database."""
        with self.machine.connect(self.machine.direct_url(self.database)) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                "state = 'active' AND pid <> pg_backend_pid()").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def site_of(databases: Databases, folder: Path, **more: Any) -> Iterator[Site]:
    """A site, not started yet, closed at the end."""
    site = Site(databases, folder, **more)
    try:
        yield site
    finally:
        site.close()


def gauge(server: Server, name: str) -> float:
    """What a server's metrics say."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=ANSWER_LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


class Load:
    """Clients of both servers."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.history = history = History()
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
            for number, (to, kinds) in enumerate(zip(INBOXES, ways, strict=True))
            for address, kind in zip((a, b), kinds, strict=True)]
        self.feeder = FeedFollower(b, history, 20, ADMIN)
        self.readers = [Reader(a, history, 30), Reader(b, history, 31)]
        self.clients: list[Client] = [
            *self.senders, *self.followers, self.feeder, *self.readers, Marker(a, history, 40)]

    @property
    def acknowledged(self) -> int:
        """How many requests to store were."""
        return sum(attempt.outcome == "ok" for attempt in list(self.history.attempts))

    def start(self) -> None:
        """Begin, until every client has been answered."""
        for client in self.clients:
            client.start()
        self.resumed()

    def run(self, count: int = 60) -> None:
        """Let so many more requests be acknowledged."""
        goal = self.acknowledged + count
        await_(lambda: self.acknowledged >= goal, self.failed)

    def resumed(self, clients: list[Client] | None = None) -> float:
        """Wait until every client was answered what it has asked from now on; how long it took."""
        began = time.monotonic()
        waiting = clients or self.clients
        await_(lambda: all(client.answered_s > began for client in waiting), self.failed)
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
        inboxes = {to: all_of(b, to, shown) for to in INBOXES}
        for follower in self.followers:
            last = len(inboxes[follower.to])
            await_(lambda follower=follower, last=last: follower.after >= last,  # type: ignore[misc]
                   lambda follower=follower: f"{follower.name} lags: {self.failed()}")  # type: ignore[misc]
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.finish()
        slow = [f"{client.name} waited {client.longest_s:.1f} s" for client in self.clients
                if client.longest_s > ANSWER_LIMIT_S]
        return [*self.judge(), *slow, *(f"the log has {word}" for word in ("Traceback", "a defect")
                                        if word in self.site.log())]

    def judge(self) -> list[str]:
        """What is wrong with what is there now."""
        _, b = self.site.addresses
        inboxes = {to: all_of(b, to, shown) for to in INBOXES}
        return [*problems(self.history, inboxes, late=True),
                *feed_problems(self.history, whole_feed(b))]

    def abandon(self) -> None:
        """Tell all to end."""
        for client in self.clients:
            client.stopping.set()


def whole_feed(address: Address) -> list[Any]:
    """All changes of a store."""
    connection = Connection(address)
    changes: list[Any] = []
    cursor, last = 0, 1
    while cursor < last:
        status, feed = connection.ask("GET", f"/api/v1/admin/feed?after={cursor}&limit=5000",
                                      Authorization=f"Bearer {ADMIN}")
        assert status == 200, feed
        changes += feed["changes"]
        cursor, last = feed["cursor"], feed["last"]
    connection.close()
    return changes


def await_(so: Callable[[], bool], otherwise: Callable[[], str],
           limit_s: float = RESUME_LIMIT_S) -> None:
    """Wait until it is so. Raises AssertionError with what `otherwise` says."""
    deadline = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)
