"""A server killed with SIGKILL fifty times amid its work: nothing lost, doubled or out of order."""

from __future__ import annotations

import random
import time
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

from faults.clients import Address, Follower, Marker, Sender, all_of, shown
from faults.history import INBOXES, Attempt, History, Marked, Place, Shown, problems
from support.server import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS = 50
SEED = 5


@pytest.mark.timeout(600)
def test_fifty_kills_amid_load(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    address, history = Address(), History()
    senders = [Sender(address, history, seed) for seed in range(4)]
    senders.append(Sender(address, history, 4, keys=False))
    others = [*(Follower(address, history, 10, to) for to in INBOXES), Marker(address, history, 20)]
    server = start(tmp_path / "data", segment_bytes=65_536)
    address.port = server.port
    for client in (*senders, *others):
        client.start()
    try:
        for _ in range(KILLS):
            time.sleep(moments.uniform(0.02, 0.4))
            server.kill()
            server = start(tmp_path / "data", segment_bytes=65_536)
            address.port = server.port
        for client in senders:
            client.stopping.set()
        for client in senders:
            client.finish()
        for client in others:
            client.stopping.set()
        for client in others:
            client.finish()
        server.kill()
        server = start(tmp_path / "data", segment_bytes=65_536)
        address.port = server.port
        inboxes = {to: all_of(address, to, shown) for to in INBOXES}
    finally:
        for client in (*senders, *others):
            client.stopping.set()
        server.stop()
        for client in (*senders, *others):
            client.join()
    assert problems(history, inboxes) == []
    outcomes = [attempt.outcome for attempt in history.attempts]
    assert outcomes.count("ok") > 500
    assert outcomes.count("unknown") > 20
    assert history.marks
    assert all(any(places) for followers in history.followed.values() for places in followers)


def good() -> tuple[History, dict[str, list[Shown]]]:
    """A history without a fault: an answer, an unknown that was stored, a retry, a batch."""
    places = [Place(f"a/{n}", f"id-{n}", "bob", n) for n in range(1, 6)]
    history = History(
        [
            Attempt("a", 1, "k1", ("a/1",), 1.0, 2.0, "ok", (places[0],)),
            Attempt("a", 2, "k2", ("a/2",), 3.0, 4.0, "unknown"),
            Attempt("a", 2, "k2", ("a/2",), 5.0, 6.0, "ok", (places[1],)),
            Attempt("a", 3, "k3", ("a/3", "a/4"), 7.0, 8.0, "ok", (places[2], places[3])),
            Attempt("a", 4, "k4", ("a/5",), 9.0, 10.0, "unknown"),
            Attempt("b", 1, None, ("b/1",), 9.0, 10.0, "failed"),
        ],
        {"bob": [places[:4], places[:2]]},
        [Marked("id-1", "bob", "read"), Marked("id-2", "bob", "ack")],
    )
    inbox = [
        Shown("a/1", "id-1", 1, read=True, acked=False),
        Shown("a/2", "id-2", 2, read=False, acked=True),
        *(Shown(f"a/{n}", f"id-{n}", n, read=False, acked=False) for n in range(3, 6)),
    ]
    return history, {"bob": inbox}


def test_the_judge_has_nothing_to_say_of_a_good_history() -> None:
    history, inboxes = good()
    assert problems(history, inboxes) == []
    del inboxes["bob"][4]  # no answer came: it need not be there
    assert problems(history, inboxes) == []


def _swap(inbox: list[Shown], one: int, other: int) -> None:
    inbox[one], inbox[other] = (
        inbox[other]._replace(seq=inbox[one].seq), inbox[one]._replace(seq=inbox[other].seq)
    )


DOCTORED: dict[str, tuple[Callable[[History, list[Shown]], object], str]] = {
    "the last answered message is gone": (lambda h, inbox: inbox.__delitem__(slice(3, 5)), "lost"),
    "a message in the middle is gone": (lambda h, inbox: inbox.__delitem__(0), "lost"),
    "another id": (lambda h, inbox: inbox.__setitem__(0, inbox[0]._replace(id="x")), "lost"),
    "a retry was stored again": (
        lambda h, inbox: inbox.append(inbox[1]._replace(id="id-9", seq=6)), "doubled"),
    "an id was given again": (
        lambda h, inbox: inbox.append(inbox[4]._replace(id="id-1", seq=6)), "id id-1"),
    "two answers to one key": (
        lambda h, inbox: h.attempts.append(Attempt(
            "a", 1, "k1", ("a/1",), 1.0, 2.0, "ok", (Place("a/1", "id-9", "bob", 1),))),
        "two answers"),
    "a refused one is there": (
        lambda h, inbox: inbox.append(Shown("b/1", "id-7", 6, read=False, acked=False)),
        "refused"),
    "half a batch": (lambda h, inbox: inbox.__delitem__(3), "torn"),
    "a sender's order": (lambda h, inbox: _swap(inbox, 3, 4), "out of order"),
    "the order of answers": (
        lambda h, inbox: h.attempts.__setitem__(
            4, Attempt("c", 1, "k4", ("a/5",), 0.1, 0.2, "ok", (Place("a/5", "id-5", "bob", 5),))),
        "after a later one's answer"),
    "a follower skipped": (lambda h, inbox: h.followed["bob"][0].__delitem__(1), "skipped"),
    "a follower was shown one twice": (
        lambda h, inbox: h.followed["bob"][1].append(h.followed["bob"][1][1]), "repeated"),
    "a follower saw what is not there": (
        lambda h, inbox: h.followed["bob"][0].append(Place("z", "id-z", "bob", 5)), "skipped"),
    "a mark is gone": (
        lambda h, inbox: inbox.__setitem__(0, inbox[0]._replace(read=False)), "the read of id-1"),
}


@pytest.mark.parametrize("name", list(DOCTORED))
def test_the_judge_sees(name: str) -> None:
    change, expected = DOCTORED[name]
    history, inboxes = deepcopy(good())
    change(history, inboxes["bob"])
    found = problems(history, inboxes)
    assert any(expected in problem for problem in found), found
