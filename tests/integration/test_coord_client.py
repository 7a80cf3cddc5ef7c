"""`Client` and `AsyncClient` against real servers: the same calls, and the same promises when the
server is killed or an answer is lost."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coord import (
    AsyncClient,
    Client,
    Invalid,
    KeyConflict,
    NewMessage,
    NotFound,
    Unavailable,
)
from support.server import Server, start

pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 120.0
COORD = str(Path(sys.executable).with_name("coord"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("client") / "data") as running:
        yield running


Do = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
async def do(request: pytest.FixtureRequest, server: Server) -> Any:
    """`await do("send", …)` calls that method of a `Client` or an `AsyncClient`."""
    if request.param == "sync":
        with Client(server.url) as client:
            async def call(name: str, *args: Any, **kwargs: Any) -> Any:
                return getattr(client, name)(*args, **kwargs)
            yield call
    else:
        async with AsyncClient(server.url) as many:
            async def call(name: str, *args: Any, **kwargs: Any) -> Any:
                return await getattr(many, name)(*args, **kwargs)
            yield call


names = (f"agent-{number}" for number in itertools.count())


@pytest.fixture
def agent() -> str:
    return next(names)


async def test_a_messages_life(do: Do, agent: str) -> None:
    receipt = await do("send", "code", agent, "Hi", "there", priority="high")
    assert [(one.to_agent, one.seq) for one in receipt.deliveries] == [(agent, 1)]
    page = await do("inbox", agent)
    (message,) = page.messages
    assert (message.id, message.seq, page.last_seq) == (receipt.id, 1, 1)
    assert (message.body, message.priority, message.state) == ("there", "high", "unread")
    assert await do("message", receipt.id, agent=agent) == message
    assert (await do("read", receipt.id, agent=agent)).state == "read"
    assert (await do("ack", receipt.id, agent=agent)).state == "acknowledged"
    assert (await do("inbox", agent, unread=True)).messages == ()
    assert await do("delete", receipt.id, agent=agent) is None
    assert await do("delete", receipt.id, agent=agent) is None
    with pytest.raises(NotFound) as caught:
        await do("message", receipt.id, agent=agent)
    assert caught.value.problem["type"] == "/problems/not-found"


async def test_a_batch_is_one_call(do: Do, agent: str) -> None:
    receipts = await do("send_batch", [NewMessage("code", agent, f"s{n}", "b") for n in range(20)],
                        key=f"batch-{agent}")
    assert [one.seq for one in receipts] == list(range(1, 21))
    page = await do("inbox", agent, order="oldest", after=5, limit=10)
    assert [one.seq for one in page.messages] == list(range(6, 16))
    rest = await do("inbox", agent, order="oldest", cursor=page.next_cursor, after=5)
    assert [one.seq for one in rest.messages] == list(range(16, 21))
    with pytest.raises(Invalid, match="1"):
        await do("send_batch", [NewMessage("code", agent, "s", "b"),
                                NewMessage("code", agent, "x" * 201, "b")])
    assert (await do("inbox", agent, limit=1)).last_seq == 20


async def test_a_reply_and_its_thread(do: Do, agent: str) -> None:
    other = f"{agent}-other"
    first = await do("send", other, agent, "Question", "?")
    receipt = await do("reply", agent, first.id, "!")
    assert receipt.thread_id == first.thread_id
    (answer,) = (await do("inbox", other)).messages
    assert (answer.subject, answer.in_reply_to) == ("Re: Question", first.id)
    thread = await do("thread", first.thread_id)
    assert [one.id for one in thread.messages] == [first.id, receipt.id]
    assert [one.id for one in (await do("sent", agent)).messages] == [receipt.id]
    found = await do("search", "question", agent=agent)
    assert {one.id for one in found.messages} == {first.id, receipt.id}


async def test_registry_events_and_stats(do: Do, agent: str) -> None:
    entry = await do("put_agent", agent, "tests")
    assert await do("agent", agent) == entry
    assert entry in await do("agents")
    group = await do("put_group", agent, [agent])
    assert group.members == (agent,)
    assert await do("group", agent) == group
    assert group in await do("groups")
    await do("send", "code", f"@{agent}", "to the group", "b")
    events = await do("events", agent=agent, type="SENT", order="newest", limit=1)
    assert events.events[0].subject == "to the group"
    at = datetime.fromisoformat(events.events[0].timestamp)
    span = await do("events", agent=agent, type="SENT", since=at, until=at + timedelta(seconds=9))
    assert events.events[0] in span.events
    assert (await do("events", agent=agent, until=events.events[0].timestamp, order="newest",
                     type="SENT", limit=1)).events != events.events
    stats = await do("stats")
    assert stats.agents[agent].unread == 1
    assert stats.events["SENT"] >= 1
    assert await do("ready") is None


async def test_a_key_belongs_to_one_message(do: Do, agent: str) -> None:
    first = await do("send", "code", agent, "s", "b", key=f"key-{agent}")
    assert await do("send", "code", agent, "s", "b", key=f"key-{agent}") == first
    with pytest.raises(KeyConflict):
        await do("send", "code", agent, "s", "other", key=f"key-{agent}")


async def test_a_long_poll_gets_the_message_that_comes(do: Do, server: Server, agent: str) -> None:
    def later() -> None:
        with Client(server.url) as client:
            client.send("code", agent, "at last", "b")

    timer = threading.Timer(0.5, later)
    timer.start()
    page = await do("inbox", agent, wait=60)
    timer.join()
    assert [one.subject for one in page.messages] == ["at last"]


def test_follow_begins_now_and_goes_on(server: Server, agent: str) -> None:
    with Client(server.url) as reader, Client(server.url) as sender:
        sender.send("code", agent, "before", "b")
        arriving = reader.follow(agent)
        sender.send("code", agent, "after", "b")
        assert next(arriving).subject == "after"
        everything = reader.follow(agent, after=0)
        assert [next(everything).subject for _ in range(2)] == ["before", "after"]


async def test_many_tasks_share_an_async_client(server: Server, agent: str) -> None:
    async with AsyncClient(server.url, connections=16) as client:
        receipts = await asyncio.gather(*(client.send("code", agent, f"s{n}", "b")
                                          for n in range(200)))
        assert sorted(one.seq for one in receipts) == list(range(1, 201))


class LosesAnswers:
    """A proxy before a server: it passes requests on, and of every other connection's first answer
    nothing comes back, as when a network fails at the wrong moment."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for count in itertools.count():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(near, count % 2 == 0), daemon=True).start()

    def _pass(self, near: socket.socket, lose: bool) -> None:
        with near, socket.create_connection(self._target) as far:
            there = threading.Thread(target=_pump, args=(near, far), daemon=True)
            there.start()
            if lose:
                far.recv(1)  # it is stored and answered
                self.lost += 1
                near.shutdown(socket.SHUT_RDWR)
            else:
                _pump(far, near)
            there.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until there is no more, then say so."""
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other side has gone


@pytest.fixture
def lossy(server: Server) -> Iterator[LosesAnswers]:
    proxy = LosesAnswers(server.port)
    yield proxy
    proxy.close()


def test_a_lost_answer_does_not_double_a_message(server: Server, lossy: LosesAnswers, agent: str
                                                 ) -> None:
    for number in range(5):
        with Client(lossy.url) as client:
            client.send("code", agent, f"s{number}", "b")
            client.reply(agent, client.inbox(agent, limit=1).messages[0].id, "r")
    assert lossy.lost == 5
    with Client(server.url) as client:
        subjects = [one.subject for one in client.inbox(agent, order="oldest").messages]
        assert subjects == [f"s{number}" for number in range(5)]


async def test_a_lost_answer_does_not_double_a_message_async(server: Server, lossy: LosesAnswers,
                                                             agent: str) -> None:
    for number in range(5):
        async with AsyncClient(lossy.url) as client:
            await client.send("code", agent, f"s{number}", "b")
    assert lossy.lost == 5
    async with AsyncClient(server.url) as client:
        assert (await client.inbox(agent)).last_seq == 5


def test_the_command_survives_a_lost_answer(server: Server, lossy: LosesAnswers, agent: str
                                            ) -> None:
    done = subprocess.run([COORD, "send", "code", agent, "s", "b", "--url", lossy.url],
                          capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "Trying again" in done.stderr
    assert lossy.lost == 1
    with Client(server.url) as client:
        assert client.inbox(agent).last_seq == 1


def test_a_server_that_answers_nothing_leaves_the_outcome_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, deadline_s=1.0) as client, pytest.raises(Unavailable) as caught:
            client.send("code", "chat", "s", "b", key="the-key")
    assert caught.value.outcome_unknown
    assert caught.value.key == "the-key"
    assert "coord send … --key the-key" in str(caught.value)


def kills(data: Path, times: int, between: Callable[[int], bool]) -> Iterator[Server]:
    """Servers on the same folder and port, each killed (-9) when `between(n)` says so."""
    running = start(data)
    yield running
    for count in range(times):
        while not between(count):
            if running.process.poll() is not None:
                raise AssertionError(running.log())
        running.kill()
        running = start(data, port=running.port)
    yield running


SENDERS, EACH, KILLS = 4, 60, 3


def test_kill_9_loses_and_doubles_nothing_for_threads(tmp_path: Path) -> None:
    sent: list[str] = []
    progress = threading.Condition()

    def part_done(count: int) -> bool:
        with progress:
            return progress.wait_for(
                lambda: len(sent) >= SENDERS * EACH * (count + 1) // (KILLS + 1), 1.0)

    servers = kills(tmp_path / "data", KILLS, part_done)
    url = next(servers).url
    seen: list[tuple[int, str]] = []

    def follow() -> None:
        with Client(url) as client:
            for message in client.follow("chat", after=0, patience_s=PATIENCE_S):
                seen.append((message.seq, message.body))
                if len(seen) == SENDERS * EACH:
                    return

    def send(sender: int) -> None:
        with Client(url, deadline_s=PATIENCE_S) as client:
            for number in range(EACH):
                client.send(f"sender-{sender}", "chat", "s", f"{sender}.{number}")
                with progress:
                    sent.append(f"{sender}.{number}")
                    progress.notify_all()

    threads = [threading.Thread(target=follow),
               *(threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS))]
    for thread in threads:
        thread.start()
    last = next(servers)
    for thread in threads:
        thread.join(PATIENCE_S)
    with last, Client(url) as client:
        assert not any(thread.is_alive() for thread in threads)
        stored = [(one.seq, one.body) for one in client.inbox("chat", order="oldest",
                                                              limit=1000).messages]
    assert sorted(body for _, body in stored) == sorted(sent)
    assert len(stored) == SENDERS * EACH
    assert seen == stored, "the follower saw each message once, in order"
    for sender in range(SENDERS):
        own = [body for _, body in stored if body.startswith(f"{sender}.")]
        assert own == [f"{sender}.{number}" for number in range(EACH)]


async def test_kill_9_loses_and_doubles_nothing_for_tasks(tmp_path: Path) -> None:
    running = start(tmp_path / "data")
    sent: list[str] = []
    seen: list[tuple[int, str]] = []
    async with AsyncClient(running.url, deadline_s=PATIENCE_S) as client:
        async def follow() -> None:
            async for message in client.follow("chat", after=0, patience_s=PATIENCE_S):
                seen.append((message.seq, message.body))
                if len(seen) == SENDERS * EACH:
                    return

        async def send(sender: int) -> None:
            for number in range(EACH):
                await client.send(f"sender-{sender}", "chat", "s", f"{sender}.{number}")
                sent.append(f"{sender}.{number}")

        work = asyncio.gather(follow(), *(send(sender) for sender in range(SENDERS)))
        for count in range(KILLS):
            while len(sent) < SENDERS * EACH * (count + 1) // (KILLS + 1) and not work.done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            running.kill()
            running = await asyncio.to_thread(start, running.data, port=running.port)
        async with asyncio.timeout(PATIENCE_S):
            await work
        page = await client.inbox("chat", order="oldest", limit=1000)
    running.stop()
    stored = [(one.seq, one.body) for one in page.messages]
    assert sorted(body for _, body in stored) == sorted(sent)
    assert seen == stored


def test_watch_goes_on_over_a_restart(tmp_path: Path) -> None:
    running = start(tmp_path / "data")
    with subprocess.Popen([COORD, "watch", "chat", "--after", "0", "--url", running.url],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for number in range(3):
            with Client(running.url) as client:
                client.send("code", "chat", f"s{number}", "b")
            assert watching.stdout.readline().split()[-1] == f"s{number}"
            running.kill()
            running = start(running.data, port=running.port)
        watching.terminate()
        rest, _ = watching.communicate(timeout=PATIENCE_S)
    running.stop()
    assert rest == ""
