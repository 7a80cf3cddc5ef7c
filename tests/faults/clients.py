"""Clients of servers that suffer: they write down every attempt and try again until answered."""

from __future__ import annotations

import http.client
import json
import random
import select
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from faults.history import Attempt, Marked, Place, Shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.history import History, Outcome

ANSWER_LIMIT_S = 60.0
FINISH_LIMIT_S = 90.0
STREAM_PATIENCE_S = 2.0
REFUSALS = (503, 507)
OF_THE_BALANCER = (502, 504)
UNKNOWN = "/problems/unknown-outcome"


class Address:
    """Where the server that runs now is asked; the port is another one after each start.

    `tls`, `token`: how a whole site is asked, not a server alone.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *,
                 tls: ssl.SSLContext | None = None, token: str | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.refusals = REFUSALS if tls is None else (*REFUSALS, *OF_THE_BALANCER)
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """A new one, which is made at its first request."""
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s,
                                           context=self.tls)


class Connection:
    """A connection that is made anew when it breaks."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http: http.client.HTTPConnection | None = None
        self._port = 0

    def ask(self, method: str, path: str, body: object = None,
            key: str | None = None, **more: str) -> tuple[int, Any]:
        """Status and JSON. Raises OSError or http.client.HTTPException where no answer came."""
        if self._http is None or self._port != self._address.port or self._is_closed():
            self.close()
            self._port = self._address.port
            self._http = self._address.connection(ANSWER_LIMIT_S)
        headers = {"Content-Type": "application/json", **self._address.headers, **more}
        if key:
            headers["Idempotency-Key"] = key
        try:
            self._http.request(
                method, path, None if body is None else json.dumps(body), headers)
            with self._http.getresponse() as response:
                return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            raise

    def _is_closed(self) -> bool:
        """Whether the other side has ended it between two requests, as it may."""
        sock = None if self._http is None else self._http.sock
        return sock is not None and bool(select.select([sock], [], [], 0)[0])

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Client(threading.Thread):
    """A thread that works until it is told to stop; what it raises is raised again by `finish`.

    `pause_s`: how long it rests between two pieces of work.
    `answered_s`: when a request that it began was last answered 200, by the monotonic clock, and
    when that request began. `longest_s`: how long its longest request took, answered or not.
    """

    def __init__(self, address: Address, history: History, seed: int) -> None:
        super().__init__(name=f"{type(self).__name__}-{history.name}{seed}", daemon=True)
        self.address = address
        self.history = history
        self.random = random.Random(seed)
        self.connection = Connection(address)
        self.stopping = threading.Event()
        self.pause_s = 0.0
        self.error: BaseException | None = None
        self.answered_s = 0.0
        self.longest_s = 0.0
        self.refusals: list[tuple[int, str]] = []

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.work()
                if self.pause_s:
                    self.stopping.wait(self.pause_s)
        except BaseException as error:  # noqa: BLE001 - raised again by finish()
            self.error = error
        finally:
            self.close()

    def close(self) -> None:
        """End its connections."""
        self.connection.close()

    def work(self) -> None:
        """One piece of work."""
        raise NotImplementedError

    def ask(self, method: str, path: str, body: object = None, key: str | None = None,
            connection: Connection | None = None, **headers: str) -> tuple[int, Any]:
        """As Connection.ask; the answer is 200 or a refusal that a server may give amid a fault."""
        began = time.monotonic()
        try:
            status, answer = (connection or self.connection).ask(method, path, body, key, **headers)
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        assert status == 200 or status in self.address.refusals, (path, status, answer)
        if status == 200:
            self.answered_s = began
            self.history.answers[type(self).__name__].append(time.monotonic())
        else:
            self.refusals.append((status, answer["type"]))
        return status, answer

    def read(self, path: str, **headers: str) -> Any:
        """The answer to a GET; None where there is none now."""
        try:
            status, answer = self.ask("GET", path, **headers)
        except (OSError, http.client.HTTPException, ValueError):
            time.sleep(0.01)
            return None
        if status == 200:
            return answer
        time.sleep(0.05)
        return None

    def finish(self) -> None:
        """Wait for its end."""
        self.join(FINISH_LIMIT_S)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"{self.name} is never answered"


class Sender(Client):
    """Sends singles and batches, one after the other, each with its key until it is settled.

    `other`: a server of the same store, to which some of the answered ones are sent once more.
    `fan_out`: some messages have two recipients.
    """

    def __init__(self, address: Address, history: History, seed: int, *, keys: bool = True,
                 other: Address | None = None, fan_out: bool = False) -> None:
        super().__init__(address, history, seed)
        self.number = 0
        self.keys = keys
        self.fan_out = fan_out
        self.other = None if other is None else Connection(other)

    def work(self) -> None:
        self.number += 1
        count = 1 if self.random.random() < 0.8 else self.random.randint(2, 5)
        subjects = tuple(f"{self.name}/{self.number}/{n}" for n in range(count))
        messages = [
            {"from_agent": "sender", "to_agent": self.recipients(), "subject": subject,
             "body": subject + " é" * self.random.randint(0, 300)}
            for subject in subjects
        ]
        key = f"{self.name}-{self.number}" if self.keys else None
        outcomes = {self.attempt(messages, subjects, key)}
        while self.keys and "unknown" in outcomes and "ok" not in outcomes:
            time.sleep(0.01)
            outcomes.add(self.attempt(messages, subjects, key))
        if self.other is not None and "ok" in outcomes and self.random.random() < 0.1:
            self.attempt(messages, subjects, key, self.other)
        if "ok" not in outcomes:
            time.sleep(0.02)

    def close(self) -> None:
        super().close()
        if self.other is not None:
            self.other.close()

    def recipients(self) -> str | list[str]:
        if self.fan_out and self.random.random() < 0.2:
            return self.random.sample(self.history.inboxes, 2)
        return self.random.choice(self.history.inboxes)

    def attempt(self, messages: list[dict[str, Any]], subjects: tuple[str, ...], key: str | None,
                connection: Connection | None = None) -> Outcome:
        started = time.monotonic()
        places: tuple[Place, ...] = ()
        try:
            if len(messages) == 1:
                status, answer = self.ask(
                    "POST", "/api/v1/messages", messages[0], key, connection)
                receipts = [answer]
            else:
                status, answer = self.ask(
                    "POST", "/api/v1/messages/batch", messages, key, connection)
                receipts = answer.get("receipts", [])
        except ConnectionRefusedError:
            # Nobody was there to store it.
            outcome: Outcome = "unknown" if key else "failed"
        except (OSError, http.client.HTTPException, ValueError):
            outcome = "unknown"
        else:
            outcome = "ok" if status == 200 else "failed"
            if status == 200:
                places = tuple(
                    Place(subject, receipt["id"], delivery["to_agent"], delivery["seq"])
                    for subject, receipt in zip(subjects, receipts, strict=True)
                    for delivery in receipt["deliveries"]
                )
            elif answer["type"] == UNKNOWN:
                outcome = "unknown"
        self.history.attempts.append(Attempt(
            self.name, self.number, key, subjects, started, time.monotonic(), outcome, places))
        for place in places:
            self.history.was_answered(place)
        return outcome


class Follower(Client):
    """Reads an inbox from where it stands, over every restart."""

    def __init__(self, address: Address, history: History, seed: int, to: str) -> None:
        super().__init__(address, history, seed)
        self.to = to
        self.places: list[Place] = []
        history.followed[to].append(self.places)

    @property
    def after(self) -> int:
        """The last seq that it was shown."""
        return self.places[-1].seq if self.places else 0

    def work(self) -> None:
        page = self.read(f"/api/v1/inbox/{self.to}?after={self.after}&limit=200&wait=1")
        if page is not None:
            self.show(page["messages"])

    def show(self, messages: list[dict[str, Any]]) -> None:
        self.places += [Place(m["subject"], m["id"], self.to, m["seq"]) for m in messages]


class StreamFollower(Follower):
    """Follows an inbox's events; where they end it goes on from the last one that it was given."""

    def work(self) -> None:
        port = self.address.port
        http_connection = self.address.connection(STREAM_PATIENCE_S)
        try:
            http_connection.request("GET", f"/api/v1/inbox/{self.to}/stream",
                                    headers={"Last-Event-ID": str(self.after),
                                             **self.address.headers})
            with http_connection.getresponse() as response:
                assert response.status == 200 or (
                    response.status in self.address.refusals), response.status
                while not self.stopping.is_set() and response.status == 200 and (
                        port == self.address.port):
                    line = response.readline()
                    if not line.endswith(b"\n"):
                        break
                    self.answered_s = time.monotonic()
                    if line.startswith(b"data: "):
                        self.show([json.loads(line.removeprefix(b"data: "))])
        except (OSError, http.client.HTTPException):
            pass
        finally:
            http_connection.close()
        time.sleep(0.01)


class FeedFollower(Client):
    """Reads the feed of changes, from `began` on."""

    def __init__(self, address: Address, history: History, seed: int, token: str) -> None:
        super().__init__(address, history, seed)
        self._token = token
        self._cursor = self.began = 0
        self.changes: list[Any] = []
        history.fed.append(self.changes)

    def begin_at(self, cursor: int) -> None:
        """Leave out what is there already."""
        self._cursor = self.began = cursor

    def work(self) -> None:
        feed = self.read(f"/api/v1/admin/feed?after={self._cursor}&limit=300",
                         Authorization=f"Bearer {self._token}")
        if feed is not None:
            self.changes += feed["changes"]
            self._cursor = feed["cursor"]
        time.sleep(0.02)


class Reader(Client):
    """Reads newest pages; what was answered before is in them, marks too."""

    def __init__(self, address: Address, history: History, seed: int) -> None:
        super().__init__(address, history, seed)
        self.reads = 0

    def work(self) -> None:
        to = self.random.choice(self.history.inboxes)
        answered = self.history.answered.get(to, 0)
        began = time.monotonic()
        limit = self.random.choice((1, 20, 100))
        page = self.read(f"/api/v1/inbox/{to}?limit={limit}")
        if page is None:
            return
        seqs = [message["seq"] for message in page["messages"]]
        assert page["last_seq"] >= answered, "an answer of before is not shown"
        assert seqs == list(range(page["last_seq"], page["last_seq"] - len(seqs), -1))
        assert len(seqs) == min(limit, page["last_seq"])
        for message in page["messages"]:
            for mark, at in (("read", message["read_at"]), ("ack", message["acked_at"])):
                marked_s = self.history.marked.get(Marked(message["id"], to, mark), began)
                assert marked_s >= began or at is not None, f"a {mark} of before is not shown"
        self.reads += 1
        time.sleep(0.002)


class Marker(Client):
    """Reads and acknowledges messages, each mark until it is answered."""

    def work(self) -> None:
        time.sleep(0.005)
        followed = self.history.followed[self.random.choice(self.history.inboxes)]
        if not followed or not followed[0]:
            return
        # The newest ones too, which readers look at.
        place = self.random.choice(followed[0][-self.random.choice((20, 10_000)):])
        mark = Marked(place.id, place.to, self.random.choice(("read", "ack")))
        path = f"/api/v1/messages/{place.id}/{mark.mark}?agent={place.to}"
        while not self.stopping.is_set():
            try:
                status, _ = self.ask("POST", path)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)
                continue
            if status == 200:
                self.history.marks.append(mark)
                self.history.marked.setdefault(mark, time.monotonic())
                return
            time.sleep(0.02)


def shown(message: dict[str, Any]) -> Shown:
    """A message of a page, for the judge."""
    return Shown(message["subject"], message["id"], message["seq"],
                 message["read_at"] is not None, message["acked_at"] is not None)


def all_of(address: Address, to: str, keep: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """An inbox, oldest first."""
    connection = Connection(address)
    found: list[Any] = []
    path = f"/api/v1/inbox/{to}?order=oldest&limit=1000"
    cursor = ""
    while True:
        status, page = connection.ask("GET", path + cursor)
        assert status == 200, (status, page)
        found += map(keep, page["messages"])
        if page["next_cursor"] is None:
            connection.close()
            return found
        cursor = f"&cursor={page['next_cursor']}"
