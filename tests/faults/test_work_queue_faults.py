"""Hooks by way of RabbitMQ and Celery workers, and what may happen to either."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordd.work.model import TaskId, event_id
from support.hooked import Hooked
from support.postgres import Databases
from support.rabbitmq import RabbitServer, Worker
from support.receiver import Receiver, await_

SETTLED_S = 6.0
"""How long RabbitMQ takes to have a queue's birth on its disk."""


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    server = RabbitServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def site(databases: Databases, rabbit: RabbitServer, tmp_path: Path) -> Iterator[Hooked]:
    name = databases.new()
    with Hooked(tmp_path / "data", **databases.settings(name), **rabbit.settings) as running:
        yield running
    databases.drop(name)


def worker(site: Hooked) -> Worker:
    return Worker(site.data.parent / f"{site.data.name}.coordd.toml", sys.executable)


def told(receiver: Receiver) -> list[str]:
    return sorted(call.json["message_id"] for call in receiver.calls)


def test_a_worker_runs_what_a_server_would(site: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    site.hook(receiver, min_priority="normal")
    sent = site.send("a", "b", "c")
    site.send("d", priority="low")
    with worker(site) as running:
        await_(lambda: site.work()["failed"])
        receiver.status = 200
        assert site.await_idle()["done"] == 3
        assert set(told(receiver)) == set(sent)
        # The chain is the workers' too.
        await_(lambda: site.work()["chain"]["position"] == site.work()["last"])
        assert len(site.http.get("/admin/work/chain").json()["links"]) == 4
        assert running.stop() == 0
    assert "Traceback" not in running.log(), running.log()
    assert " ERROR " not in running.log(), running.log()


def test_a_task_that_comes_twice_is_done_once(site: Hooked, receiver: Receiver,
                                              rabbit: RabbitServer) -> None:
    """As when the confirmation of the first one was lost."""
    made = site.hook(receiver)
    [message] = site.send("a")
    task = TaskId(made["id"], event_id("SENT", message, "chat"))
    await_(lambda: site.work()["queued"] == 1)

    async def put() -> None:
        queue = rabbit.queue()
        await queue.put([task, task])
        await queue.close()

    asyncio.run(put())
    with worker(site):
        site.await_idle()
        time.sleep(1)
    assert told(receiver) == [message]


def test_a_removed_hook_is_told_of_nothing_that_is_queued(site: Hooked, receiver: Receiver) -> None:
    made = site.hook(receiver)
    site.send("a", "b")
    await_(lambda: site.work()["queued"] == 2)
    assert site.http.delete(f"/admin/hooks/{made['id']}").status_code == 204
    other = site.hook(receiver.url("/other"))
    site.send("c")
    with worker(site):
        await_(lambda: receiver.calls)
        site.await_idle()
    assert [call.path for call in receiver.calls] == ["/other"]
    assert other["id"] != made["id"]


def test_a_killed_worker_loses_nothing(site: Hooked, receiver: Receiver) -> None:
    receiver.delay_s = 0.3
    site.hook(receiver)
    sent = site.send(*map(str, range(60)))
    first = worker(site)
    await_(lambda: len(receiver.calls) > 10)
    first.kill()
    with worker(site):
        await_(lambda: set(told(receiver)) == set(sent))
        assert site.await_idle()["dead"] == 0
    assert len(receiver.calls) <= len(sent) + 16  # what it had in its hands


def test_a_killed_server_loses_nothing(site: Hooked, receiver: Receiver) -> None:
    site.hook(receiver)
    sent: list[str] = []
    with worker(site):
        for wait_s in (0.0, 0.05, 0.2):
            sent += site.send(*(f"{wait_s} {n}" for n in range(30)))
            time.sleep(wait_s)
            site.kill()
            site.start()
        await_(lambda: set(told(receiver)) == set(sent))
        assert site.await_idle(90)["dead"] == 0


@pytest.mark.timeout(300)
def test_while_the_queue_is_away_sends_go_on_and_then_all_is_told(
        site: Hooked, receiver: Receiver, rabbit: RabbitServer) -> None:
    site.hook(receiver)
    sent = site.send("a")
    with worker(site):
        await_(lambda: told(receiver) == sent)
        time.sleep(SETTLED_S)
        rabbit.kill()
        try:
            for n in range(20):
                sent += site.send(*(f"{n} {m}" for m in range(100)))
            state = await_(lambda: (work := site.work())["problem"] and work)
            assert "RabbitMQ" in state["problem"]
            assert state["queue_depth"] is None
            assert state["lag"] + state["waiting"] + state["queued"] >= 2000
            assert len(receiver.calls) == 1
            assert site.work()["lag"] > 0  # the feed waits too
        finally:
            rabbit.start()
        await_(lambda: set(told(receiver)) == set(sent), limit_s=120)
        assert site.await_idle(90)["dead"] == 0


@pytest.mark.timeout(300)
def test_what_a_lost_queue_held_is_handed_out_again(site: Hooked, receiver: Receiver,
                                                    rabbit: RabbitServer) -> None:
    """Its machine is gone with its disk, and a new one has its name."""
    site.hook(receiver)
    sent = site.send("a", "b", "c")
    await_(lambda: site.work()["queued"] == 3)
    rabbit.forget()
    rabbit.start()
    sent += site.send("d")
    with worker(site):
        await_(lambda: set(told(receiver)) == set(sent), limit_s=120)
        site.await_idle(90)
