"""How long agents wait at level organization while a machine or a server is lost."""

from __future__ import annotations

import itertools
import json
import secrets
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx

from bench.daemon import BenchError
from bench.figures import spread
from bench.organization import organization
from bench.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.lab import LabSite
    from bench.stand import Stand

ROUNDS: Final = 3
WRITERS: Final = 8
READERS: Final = 4
ANSWER_LIMIT_S: Final = 5.0
"""After this a client asks again, with its key where it sends."""
SETTLED_LIMIT_S: Final = 120.0
HELD_S: Final = 3.0
"""How long the load runs before a fault and after its end."""


class Asker(threading.Thread):
    """An agent that asks all the time, and asks the same again where it gets no 200."""

    def __init__(self, site: LabSite, number: int, *, writes: bool) -> None:
        super().__init__(daemon=True)
        self.answered: list[float] = []
        """When it got a 200, by the monotonic clock."""
        self.failed: list[tuple[float, str]] = []
        """When it got anything else, and what."""
        self.stopping = threading.Event()
        self._site = site
        self._number = number
        self._writes = writes

    def run(self) -> None:
        """Until `stopping`."""
        trusted = ssl.create_default_context(cafile=str(self._site.folder / "ca.crt"))
        with httpx.Client(base_url=f"https://{self._site.addresses['m1']}", verify=trusted,
                          headers={"Authorization": f"Bearer {self._site.token()}"},
                          timeout=ANSWER_LIMIT_S, trust_env=False) as http:
            while not self.stopping.is_set():
                key = secrets.token_hex(8)
                while not self.stopping.is_set() and not self._ask(http, key):
                    time.sleep(0.05)

    def _ask(self, http: httpx.Client, key: str) -> bool:
        agent = f"outage-{self._number}"
        try:
            if self._writes:
                answer = http.post(
                    "/api/v1/messages", headers={"Idempotency-Key": key},
                    json={"from_agent": agent, "to_agent": agent, "subject": key, "body": "there"})
            else:
                answer = http.get("/api/v1/inbox/outage-0")
        except httpx.TransportError as error:
            self.failed.append((time.monotonic(), repr(error)))
            return False
        if answer.status_code not in {200, 201}:
            self.failed.append((time.monotonic(), answer.text))
            return False
        self.answered.append(time.monotonic())
        return True


def outages(stand: Stand) -> None:
    """The leader's machine is killed, then a message server, each amid writers and readers."""
    if not stand.has_lab("org-outages"):
        return
    site = organization(stand)
    writes, reads, single, refused = [], [], [], []
    for number in range(ROUNDS):
        stand.say(f"  round {number + 1}, the leader's machine")
        leader = _settled(site)
        with _asking(site) as (writers, readers):
            began = time.monotonic()
            site.timed("lab", "fault", "kill", leader)
            _answered(writers, began)
        writes.append(_gap_s(writers, began))
        reads.append(_gap_s(readers, began))
        site.timed("lab", "fault", "start", leader)
        _settled(site)
        stand.say(f"  round {number + 1}, a message server")
        with _asking(site) as (writers, readers):
            began = time.monotonic()
            site.on("systemctl kill -s KILL coordd", machine="m2")
            _answered(writers, began)
        single.append(_gap_s([*writers, *readers], began))
        refused.append(float(sum(len([at for at, _ in asker.failed if at > began])
                                 for asker in (*writers, *readers))))
    row = Row(name="leader's machine killed: no write", unit="s", ours=spread(writes), bar="≤ 15 s")
    row.passed = row.ours.median <= 15
    stand.rows.append(row)
    row = Row(name="leader's machine killed: no read", unit="s", ours=spread(reads), bar="≤ 2 s")
    row.passed = row.ours.median <= 2
    stand.rows.append(row)
    stand.rows.append(Row(name="message server killed: no answer", unit="s", ours=spread(single)))
    asking = WRITERS + READERS
    row = Row(name="message server killed: requests without a 200", unit="requests",
              ours=spread(refused), bar=f"≤ {asking}\nin flight")
    row.passed = row.ours.most <= asking
    stand.rows.append(row)


@contextmanager
def _asking(site: LabSite) -> Iterator[tuple[list[Asker], list[Asker]]]:
    """Writers and readers at work, for HELD_S before and after what is done meanwhile."""
    writers = [Asker(site, number, writes=True) for number in range(WRITERS)]
    readers = [Asker(site, number, writes=False) for number in range(READERS)]
    began = time.monotonic()
    for asker in (*writers, *readers):
        asker.start()
    try:
        _answered([*writers, *readers], began)
        time.sleep(HELD_S)
        yield writers, readers
        time.sleep(HELD_S)
    finally:
        for asker in (*writers, *readers):
            asker.stopping.set()
        for asker in (*writers, *readers):
            asker.join(2 * ANSWER_LIMIT_S)


def _answered(askers: list[Asker], since: float) -> None:
    """Wait until each got a 200 for what it asked after `since`, HELD_S later at the earliest."""
    deadline = since + SETTLED_LIMIT_S
    time.sleep(HELD_S)
    asked = time.monotonic()
    while not all(asker.answered and asker.answered[-1] > asked for asker in askers):
        if time.monotonic() > deadline:
            raise BenchError(f"not answered in {SETTLED_LIMIT_S:g} s: "
                             f"{[asker.failed[-1:] for asker in askers]}")
        time.sleep(0.05)


def _gap_s(askers: list[Asker], since: float) -> float:
    """The longest time in which none of them was answered, from just before `since` on."""
    times = sorted(at for asker in askers for at in asker.answered)
    return max(later - at for at, later in itertools.pairwise(times) if later > since)


def _settled(site: LabSite) -> str:
    """The leader, once a replica follows it synchronously and nothing is wrong."""
    deadline = time.monotonic() + SETTLED_LIMIT_S
    while True:
        try:
            facts: dict[str, Any] = json.loads(site.timed("status", "--format", "json")[1])
            return str(facts["database"]["leader"])
        except BenchError:  # what is wrong yet
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


MEASURES: Final = {"org-outages": outages}
