"""The load driver against a small HTTP server of the test's own, whose behaviour is known."""

import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from bench.driver import Driver, DriverError, Job, parse_head
from bench.workloads import AGENTS, READS, WORKLOADS, message

from coordctl import pki

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
def serving(answer, tls=None):
    """A server that calls `answer(sock, number)` for each request, numbered on its connection."""
    def serve(plain):
        try:
            sock = tls.wrap_socket(plain, server_side=True) if tls else plain
        except OSError:
            plain.close()
            return
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


@contextmanager
def serving_tls(answer, folder, *names):
    """The same behind TLS, with a certificate for `names`; yields the port and the authority."""
    authority = pki.new_authority("bench")
    pair = pki.new_server(authority, names or ["127.0.0.1"])
    (folder / "ca.crt").write_text(authority.certificate)
    (folder / "server.pem").write_text(pair.certificate + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")
    with serving(answer, tls) as port:
        yield port, str(folder / "ca.crt")


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


def test_the_same_over_tls(tmp_path):
    served = []
    with serving_tls(lambda sock, number: (served.append(sock.version()), sock.sendall(OK))[1],
                     tmp_path) as (port, authority):
        found = run(port, authority=authority, connections=3, rate=500.0, seconds=0.2)
    assert served == ["TLSv1.3"] * 100
    assert found.statuses == {"200": 100}


def test_a_large_answer_and_a_large_request_over_tls(tmp_path):
    """Of many records each: the answer is read in turns, the request sent in turns."""
    body = b"x" * 3_000_000
    with serving_tls(lambda sock, number: sock.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + body), tmp_path
            ) as (port, authority):
        found = run(port, workload="fill", authority=authority, count=6, connections=2)
    assert found.answers == 6


def test_what_tls_has_deciphered_already_is_read(tmp_path):
    """A record that is longer than the driver's buffer: epoll tells of its beginning alone."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 16000\r\n\r\n"

    class Short(Driver):
        def __init__(self, job):
            super().__init__(job)
            self._buffer = bytearray(1000)

    with serving_tls(lambda sock, number: sock.sendall(head + b"x" * 16_000), tmp_path
                     ) as (port, authority):
        found = Short(Job(port=port, workload="stats", connections=1, count=5,
                          authority=authority)).run()
    assert found.statuses == {"200": 5}


def test_pieces_over_tls(tmp_path):
    def answer(sock, number):
        for piece in (OK[:10], OK[10:36], OK[36:-1], OK[-1:]):
            sock.sendall(piece)
            time.sleep(0.002)
    with serving_tls(answer, tmp_path) as (port, authority):
        assert run(port, authority=authority, count=5).statuses == {"200": 5}


def test_the_handshakes_are_over_before_the_run(tmp_path):
    with serving_tls(lambda sock, number: sock.sendall(OK), tmp_path) as (port, authority):
        driver = Driver(Job(port=port, workload="send", connections=3, count=3,
                            authority=authority))
        made = list(driver._connections.values())
        assert [one.secure.version() for one in made] == ["TLSv1.3"] * 3  # None during it
        driver.run()


def test_a_server_that_the_authority_does_not_know(tmp_path):
    other = tmp_path / "other.crt"
    other.write_text(pki.new_authority("another").certificate)
    with (serving_tls(lambda sock, number: sock.sendall(OK), tmp_path) as (port, _),
          pytest.raises(DriverError, match="certificate verify failed")):
        run(port, authority=str(other), count=1)


def test_a_server_under_another_name(tmp_path):
    with (serving_tls(lambda sock, number: sock.sendall(OK), tmp_path, "192.0.2.1"
                      ) as (port, authority),
          pytest.raises(DriverError, match="IP address mismatch")):
        run(port, authority=authority, count=1)


def test_nobody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(DriverError, match="no connection to"):
            run(reserved.getsockname()[1], count=1)


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
    first, other = requests(0, {}), requests(1, {})
    one = next(first)
    assert one.startswith((b"POST /api/v1/", b"GET /api/v1/", b"GET /health"))
    if name not in {"stats", "health", "one-inbox"}:
        assert one != next(first)
        assert one != next(other)


@pytest.mark.parametrize("name", ["send", "inbox", "mix"])
def test_an_agents_token_goes_with_what_it_asks(name):
    import json
    tokens = {agent: f"token-of-{agent}" for agent in AGENTS}
    requests = WORKLOADS[name][0](3, tokens)
    for _ in range(100):
        head, _, body = next(requests).partition(b"\r\n\r\n")
        agent = (json.loads(body)["from_agent"].encode() if body
                 else head.split(b" ")[1].rpartition(b"/")[2])
        assert head.split(b"\r\n").count(b"Authorization: Bearer token-of-" + agent) == 1


def test_without_tokens_none_is_sent():
    assert b"Authorization" not in next(WORKLOADS["inbox"][0](0, {}))


def test_the_mix_reads_three_times_as_often_as_it_sends_to_the_same_agents():
    import json
    requests = WORKLOADS["mix"][0](0, {})
    some = [next(requests) for _ in range(256)]
    reads = [one.split(b" ")[1].rpartition(b"/")[2] for one in some if one.startswith(b"GET ")]
    sends = [json.loads(one.partition(b"\r\n\r\n")[2])["to_agent"].encode() for one in some
             if one.startswith(b"POST ")]
    assert len(reads) == READS * len(sends) == 192
    assert len(set(reads) & set(sends)) > 25
