"""Clients of a server that dies: they write down every attempt and try again until it answers."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from faults.history import Attempt, Marked, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.history import History, Outcome

INBOXES = ("bob", "carol", "dave")
ANSWER_LIMIT_S = 60.0


class Address:
    """The port of the server that runs now; another one after each start."""

    def __init__(self) -> None:
        self.port = 0


class Connection:
    """A connection that is made anew when it breaks."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http: http.client.HTTPConnection | None = None
        self._port = 0

    def ask(self, method: str, path: str, body: object = None,
            key: str | None = None) -> tuple[int, Any]:
        """Status and JSON. Raises OSError or http.client.HTTPException where no answer came."""
        if self._http is None or self._port != self._address.port:
            self.close()
            self._port = self._address.port
            self._http = http.client.HTTPConnection("127.0.0.1", self._port,
                                                    timeout=ANSWER_LIMIT_S)
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        try:
            self._http.request(
                method, path, None if body is None else json.dumps(body), headers)
            with self._http.getresponse() as response:
                return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            raise

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Client(threading.Thread):
    """A thread that works until it is told to stop; what it raises is raised again by `finish`."""

    def __init__(self, address: Address, history: History, seed: int) -> None:
        super().__init__(name=f"{type(self).__name__}-{seed}")
        self.address = address
        self.history = history
        self.random = random.Random(seed)
        self.connection = Connection(address)
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.work()
        except BaseException as error:  # noqa: BLE001 - raised again by finish()
            self.error = error
        finally:
            self.connection.close()

    def work(self) -> None:
        """One piece of work."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for its end."""
        self.join()
        if self.error is not None:
            raise self.error


class Sender(Client):
    """Sends singles and batches, one after the other, each with its key until it is answered."""

    def __init__(self, address: Address, history: History, seed: int, *, keys: bool = True) -> None:
        super().__init__(address, history, seed)
        self.number = 0
        self.keys = keys

    def work(self) -> None:
        self.number += 1
        count = 1 if self.random.random() < 0.8 else self.random.randint(2, 5)
        subjects = tuple(f"{self.name}/{self.number}/{n}" for n in range(count))
        messages = [
            {"from_agent": "sender", "to_agent": self.random.choice(INBOXES), "subject": subject,
             "body": subject + " é" * self.random.randint(0, 300)}
            for subject in subjects
        ]
        key = f"{self.name}-{self.number}" if self.keys else None
        while self.attempt(messages, subjects, key) == "unknown" and self.keys:
            time.sleep(0.01)

    def attempt(self, messages: list[dict[str, str]], subjects: tuple[str, ...],
                key: str | None) -> Outcome:
        started = time.monotonic()
        places: tuple[Place, ...] = ()
        try:
            if len(messages) == 1:
                status, answer = self.connection.ask("POST", "/api/v1/messages", messages[0], key)
                receipts = [answer]
            else:
                status, answer = self.connection.ask(
                    "POST", "/api/v1/messages/batch", messages, key)
                receipts = answer.get("receipts", [])
        except ConnectionRefusedError:
            # Nobody was there to store it.
            outcome: Outcome = "unknown" if key else "failed"
        except (OSError, http.client.HTTPException, ValueError):
            outcome = "unknown"
        else:
            assert status in (200, 503), (status, answer)
            outcome = "ok" if status == 200 else "failed"
            if status == 200:
                places = tuple(
                    Place(subject, receipt["id"], delivery["to_agent"], delivery["seq"])
                    for subject, receipt in zip(subjects, receipts, strict=True)
                    for delivery in receipt["deliveries"]
                )
        self.history.attempts.append(Attempt(
            self.name, self.number, key, subjects, started, time.monotonic(), outcome, places))
        return outcome


class Follower(Client):
    """Reads an inbox from where it stands, over every restart."""

    def __init__(self, address: Address, history: History, seed: int, to: str) -> None:
        super().__init__(address, history, seed)
        self.to = to
        self.places: list[Place] = []
        history.followed[to].append(self.places)

    def work(self) -> None:
        after = self.places[-1].seq if self.places else 0
        try:
            status, page = self.connection.ask(
                "GET", f"/api/v1/inbox/{self.to}?after={after}&limit=200&wait=1")
        except (OSError, http.client.HTTPException, ValueError):
            time.sleep(0.01)
            return
        assert status == 200, (status, page)
        self.places += [Place(m["subject"], m["id"], self.to, m["seq"]) for m in page["messages"]]


class Marker(Client):
    """Reads and acknowledges messages, each mark until it is answered."""

    def work(self) -> None:
        time.sleep(0.005)
        followed = self.history.followed[self.random.choice(INBOXES)]
        if not followed or not followed[0]:
            return
        place = self.random.choice(followed[0])
        mark = Marked(place.id, place.to, self.random.choice(("read", "ack")))
        path = f"/api/v1/messages/{place.id}/{mark.mark}?agent={place.to}"
        while not self.stopping.is_set():
            try:
                status, answer = self.connection.ask("POST", path)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)
                continue
            assert status in (200, 503), (status, answer)
            if status == 200:
                self.history.marks.append(mark)
                return


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
