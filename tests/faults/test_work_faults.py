"""The work behind sends, and kills in the middle of it: whatever was acknowledged is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hooked import Hooked
from support.postgres import Databases
from support.receiver import Receiver, await_


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def _told(receiver: Receiver) -> set[str]:
    return {call.json["message_id"] for call in receiver.calls}


def test_kills_lose_no_event(tmp_path: Path, receiver: Receiver) -> None:
    """At once after the answer: between the commit and the dispatch, between the dispatch and the
    call, in the middle of a call, before its end is stored.
    """
    receiver.delay_s = 0.02
    sent: list[str] = []
    site = Hooked(tmp_path / "data", hook_tries=20)
    site.hook(receiver)
    for wait_s in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
        sent += site.send(*(f"{wait_s} {n}" for n in range(40)))
        time.sleep(wait_s)
        site.kill()
        site.start()
    with site:
        await_(lambda: _told(receiver) >= set(sent))
        assert site.await_idle()["dead"] == 0
        assert _told(receiver) == set(sent)


def test_a_second_server_takes_over_when_the_dispatcher_dies(
        databases: Databases, tmp_path: Path, receiver: Receiver) -> None:
    name = databases.new()
    first = Hooked(tmp_path / "one", hook_tries=20, **databases.settings(name))
    with Hooked(tmp_path / "two", hook_tries=20, **databases.settings(name)) as second:
        first.hook(receiver)
        sent = second.send("a")
        await_(lambda: _told(receiver) == set(sent))
        leads = first.work()["dispatcher"]
        assert leads
        assert leads == second.work()["dispatcher"]
        sent += first.send(*map(str, range(50)))
        first.kill()
        sent += second.send(*map(str, range(50)))
        await_(lambda: _told(receiver) == set(sent))
        assert second.await_idle()["dispatcher"] not in ("", leads)
        assert second.work()["dead"] == 0
    # What was told before is not told again, but for what was under way.
    assert len(receiver.calls) <= len(sent) + 50
    databases.drop(name)


def test_two_servers_tell_of_each_event_once(databases: Databases, tmp_path: Path,
                                             receiver: Receiver) -> None:
    name = databases.new()
    with (Hooked(tmp_path / "one", **databases.settings(name)) as first,
          Hooked(tmp_path / "two", **databases.settings(name)) as second):
        first.hook(receiver)
        sent = [message for _ in range(10) for site in (first, second)
                for message in site.send("a", "b", "c")]
        await_(lambda: len(receiver.calls) >= len(sent))
        first.await_idle()
        assert sorted(call.json["message_id"] for call in receiver.calls) == sorted(sent)
    databases.drop(name)


def test_a_stop_gives_the_lease_to_another_at_once(databases: Databases, tmp_path: Path,
                                                   receiver: Receiver) -> None:
    name = databases.new()
    first = Hooked(tmp_path / "one", **databases.settings(name))
    with Hooked(tmp_path / "two", **databases.settings(name)) as second:
        first.hook(receiver)
        with first:
            first.send("a")
            first.await_idle()
        began_s = time.monotonic()
        second.send("b")
        await_(lambda: len(receiver.calls) == 2)
        assert time.monotonic() - began_s < 5
    databases.drop(name)
