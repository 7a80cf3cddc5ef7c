"""The load driver against a small HTTP server of the test's own, whose behaviour is known."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest
from bench.driver import Driver, DriverError, Job, parse_head
from bench.workloads import AGENTS, WORKLOADS, message

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def _requests(sock):
    """The requests that arrive, one at a time; bodies are read and dropped."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                       if line.startswith(b"content-length:")), 0)
        while len(data) < length:
            data += sock.recv(65536)
        data = data[length:]
        yield head


@contextmanager
def serving(answer):
    """A server that calls `answer(sock, number)` for each request, numbered on its connection."""
    def serve(sock):
        with sock:
            for number, _ in enumerate(_requests(sock)):
                if answer(sock, number) is False:
                    return

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def run(port, **job):
    return Driver(Job(port=port, **{"workload": "send", "connections": 1, "warm_s": 0} | job)).run()


def test_a_counted_run_sends_exactly_so_many():
    served = []
    with serving(lambda sock, number: (served.append(number), sock.sendall(OK))[1]) as port:
        found = run(port, connections=3, count=50)
    assert len(served) == found.answers == 50
    assert found.statuses == {"200": 50}
    assert found.failures == 0
    assert found.messages_per_s == pytest.approx(50 / found.elapsed_s)


def test_a_batch_counts_its_messages():
    with serving(lambda sock, number: sock.sendall(OK)) as port:
        found = run(port, workload="batch", count=4)
    assert found.messages_per_s == pytest.approx(400 / found.elapsed_s)


def test_every_answer_that_is_not_200_is_a_failure():
    def answer(sock, number):
        sock.sendall(OK if number % 5 else
                     b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    with serving(answer) as port:
        found = run(port, count=20)
    assert found.statuses == {"200": 16, "503": 4}
    assert found.failures == 4


def test_an_answer_in_pieces_is_one_answer():
    def answer(sock, number):
        for piece in (OK[:10], OK[10:36], OK[36:-1], OK[-1:]):
            sock.sendall(piece)
            time.sleep(0.002)
    with serving(answer) as port:
        assert run(port, count=5).statuses == {"200": 5}


def test_a_large_answer_and_a_large_request():
    body = b"x" * 3_000_000
    with serving(lambda sock, number: sock.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + body)) as port:
        assert run(port, workload="fill", count=6, connections=2).answers == 6


def test_the_open_loop_counts_the_wait_behind_a_stall():
    """One stall of 0.4 s; 100 requests a second are due, also while it lasts.

    Whoever is due k/100 s after the stall began waits at least 0.4 s - k/100 s. The closed loop
    sends nothing meanwhile and sees one slow answer among hundreds.
    """
    def answer(sock, number):
        if number == 20:
            time.sleep(0.4)
        sock.sendall(OK)

    with serving(answer) as port:
        opened = run(port, rate=100.0, seconds=1.0)
        closed = run(port, count=500)
    assert opened.answers == 100
    # 30 of 100 are due in the stall's first 0.3 s.
    assert opened.latency_s["75"] >= 0.1
    assert opened.latency_s["99"] >= 0.38
    assert closed.latency_s["100"] >= 0.4
    assert closed.latency_s["99.5"] < 0.4


def test_the_open_loop_leaves_no_request_out():
    with serving(lambda sock, number: sock.sendall(OK)) as port:
        found = run(port, connections=4, rate=500.0, seconds=0.5, warm_s=0.2)
    assert found.statuses == {"200": 350}
    assert found.answers == 250
    assert len(found.late_s) > 0


def test_a_server_that_hangs_up_ends_the_run():
    with (serving(lambda sock, number: False) as port,
          pytest.raises(DriverError, match=r"hung up|broke")):
        run(port, count=5)


@pytest.mark.parametrize(("head", "found"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n", (b"200", 12)),
    (b"HTTP/1.1 503 X\r\nServer: y\r\ncontent-length:7\r\nretry-after: 1\r\n", (b"503", 7)),
])
def test_a_head(head, found):
    assert parse_head(head) == found


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"nonsense\r\n"])
def test_a_head_without_a_length(head):
    with pytest.raises(DriverError, match="Content-Length"):
        parse_head(head)


def test_messages_are_of_the_size_and_names_said():
    import random
    rng = random.Random(1)
    for _ in range(200):
        one = message(rng)
        assert one["from_agent"] in AGENTS
        assert one["to_agent"] in AGENTS
        assert one["from_agent"] != one["to_agent"]
        assert 100 <= len(one["body"]) <= 200


@pytest.mark.parametrize("name", WORKLOADS)
def test_connections_send_different_requests(name):
    requests, _ = WORKLOADS[name]
    first, other = requests(0), requests(1)
    one = next(first)
    assert one.startswith((b"POST /api/v1/", b"GET /api/v1/"))
    if name != "stats":
        assert one != next(first)
        assert one != next(other)
