"""The load driver: one thread, raw sockets, epoll. A process of its own, so that what it measures
shares no interpreter lock with anything.

`python -m bench.driver` reads a `Job` as JSON from stdin and writes an `Outcome` to stdout.

Closed loop (`rate` 0): each connection sends its next request when it has its answer. That finds
the throughput; its latencies flatter, since a stalled server is sent nothing meanwhile.

Open loop (`rate` > 0): requests are due at a fixed rate whether or not the server keeps up. A
latency counts from the moment the request was *due*; where no connection is free it waits and that
counts too. (Coordinated omission: Gil Tene, "How NOT to Measure Latency", 2013.)
"""

from __future__ import annotations

import ctypes
import gc
import select
import socket
import ssl
import sys
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from bench.figures import curve
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE_MAX = 150_000
"""More answers a second than this driver can read: the size of a closed run's latency array."""
PR_SET_TIMERSLACK = 29
DRAIN_S = 20.0
"""How long a run waits for its last answers."""
CONNECT_S = 10.0
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Job(msgspec.Struct, frozen=True):
    """What to send. `count` > 0 ends the run after so many requests, else `seconds` does; the
    first `warm_s` of them are sent but not measured.

    `authority`: the file of the certificate to trust; given, the connections are TLS, and their
    handshakes are over when the run begins. `tokens`: by agent, sent where it is who asks.
    """

    port: int
    workload: str
    connections: int
    seconds: float = 5.0
    rate: float = 0.0
    warm_s: float = 0.5
    count: int = 0
    host: str = "127.0.0.1"
    authority: str = ""
    tokens: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What came back. Times in seconds.

    `answers` in the measured `elapsed_s`; `statuses` counts every answer, warm-up too.
    `latency_s` by percentile (see figures.curve). `late_s`: the same for how long a due request and
    a free connection waited for the driver itself (open loop). `cpu`: the driver's share of one
    core; near 1 the driver, not the server, was the limit. `server_cpu_us`: what a message
    cost the server in all its threads, µs; filled in by whoever knows its process.
    """

    answers: int
    elapsed_s: float
    messages_per_s: float
    statuses: dict[str, int]
    latency_s: dict[str, float]
    late_s: dict[str, float]
    cpu: float
    server_cpu_us: float = 0.0

    @property
    def failures(self) -> int:
        """Answers that were not 200."""
        return sum(count for status, count in self.statuses.items() if status != "200")


class DriverError(Exception):
    """The run can't be counted: the server hung up, was silent or didn't speak HTTP."""


class _Connection:
    """A keep-alive connection, at most one request in flight. Raises OSError where there is none.

    `secure`: the socket where it speaks TLS, else None.
    """

    __slots__ = ("due", "free", "head", "missing", "requests", "secure", "sock", "unsent")

    def __init__(self, job: Job, tls: ssl.SSLContext | None, requests: Iterator[bytes]) -> None:
        self.sock = socket.create_connection((job.host, job.port), timeout=CONNECT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.secure: ssl.SSLSocket | None = None
        if tls is not None:
            self.sock = self.secure = tls.wrap_socket(self.sock, server_hostname=job.host)
        self.sock.setblocking(False)
        self.requests = requests
        self.due = 0  # ns, of the request in flight
        self.free = 0  # ns, since when there is no request in flight
        self.head = b""  # the beginning of an answer whose headers aren't complete
        self.missing = 0  # bytes of the answer's body that are still to come
        self.unsent = b""  # the rest of a request that the socket had no room for


class Driver:
    """One run of a job. Raises DriverError where a connection can't be made."""

    def __init__(self, job: Job) -> None:
        requests, self._messages_each = WORKLOADS[job.workload]
        self._job = job
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        try:
            tls = ssl.create_default_context(cafile=job.authority) if job.authority else None
            made = [_Connection(job, tls, requests(number, job.tokens))
                    for number in range(job.connections)]
        except OSError as error:
            raise DriverError(f"no connection to {job.host}, port {job.port}: {error}") from error
        for connection in made:
            self._connections[connection.sock.fileno()] = connection
            self._epoll.register(connection.sock.fileno(), select.EPOLLIN)
        self._buffer = bytearray(1 << 20)
        self._statuses: dict[bytes, int] = {}
        self._in_flight = 0

    def run(self) -> Outcome:
        """Send, wait for every answer, close. Raises DriverError."""
        gc.collect()
        gc.disable()
        cpu = time.process_time()
        began = time.perf_counter()
        try:
            if self._job.rate:
                latencies, late, elapsed_s = self._open_loop()
            else:
                latencies, elapsed_s = self._closed_loop()
                late = array("q")
        except OSError as error:
            raise DriverError(f"the connection to port {self._job.port} broke: {error}") from error
        finally:
            cpu_share = (time.process_time() - cpu) / (time.perf_counter() - began)
            gc.enable()
            for connection in self._connections.values():
                connection.sock.close()
            self._epoll.close()
        return Outcome(
            answers=len(latencies), elapsed_s=elapsed_s,
            messages_per_s=len(latencies) * self._messages_each / elapsed_s,
            statuses={status.decode(): count for status, count in self._statuses.items()},
            latency_s=curve([ns / 1e9 for ns in sorted(latencies)]),
            late_s=curve([ns / 1e9 for ns in sorted(late)]), cpu=cpu_share)

    def _closed_loop(self) -> tuple[array[int], float]:
        """The latencies in ns, and the measured time in s."""
        job = self._job
        clock = time.perf_counter_ns
        counted = job.count > 0
        room = job.count if counted else int(job.seconds * RATE_MAX)
        latencies = array("q", bytes(8 * room))
        measured = 0
        left = job.count if counted else room
        start = clock()
        warm = start if counted else start + int(job.warm_s * 1e9)
        end = start + int(DRAIN_S * 1000e9) if counted else warm + int(job.seconds * 1e9)
        for connection in self._connections.values():
            if left:
                left -= 1
                self._send(connection, clock())
        last = start
        while self._in_flight:
            for connection in self._answered(clock() + int(DRAIN_S * 1e9)):
                now = clock()
                if warm <= now < end and measured < room:
                    latencies[measured] = now - connection.due
                    measured += 1
                    last = now
                if now < end and left:
                    left -= counted
                    self._send(connection, now)
        elapsed = last - warm if counted else end - warm
        return latencies[:measured], elapsed / 1e9

    def _open_loop(self) -> tuple[array[int], array[int], float]:
        """The latencies and the driver's own delays in ns, and the measured time in s."""
        job = self._job
        clock = time.perf_counter_ns
        interval = 1e9 / job.rate
        warm_count = int(job.rate * job.warm_s)
        total = warm_count + (job.count or int(job.rate * job.seconds))
        latencies = array("q", bytes(8 * (total - warm_count)))
        late = array("q", bytes(8 * (total - warm_count)))
        measured = delays = sent = 0
        # First in, first out: every connection is used in turn and none idles into a timeout.
        idle = deque(self._connections.values())
        start = clock() + 1_000_000
        warm = start + int(warm_count * interval)
        due = start
        while sent < total or self._in_flight:
            now = clock()
            while idle and sent < total and due <= now:
                connection = idle.popleft()
                if due >= warm:
                    late[delays] = now - max(due, connection.free)
                    delays += 1
                self._send(connection, due)
                sent += 1
                due = start + int(sent * interval)
                now = clock()
            until = due if idle and sent < total else now + int(DRAIN_S * 1e9)
            for connection in self._answered(until, give_up=not (idle and sent < total)):
                connection.free = clock()
                if connection.due >= warm:
                    latencies[measured] = connection.free - connection.due
                    measured += 1
                idle.append(connection)
        return latencies[:measured], late[:delays], (total - warm_count) / job.rate

    def _send(self, connection: _Connection, due: int) -> None:
        connection.due = due
        self._in_flight += 1
        self._push(connection, next(connection.requests))

    def _push(self, connection: _Connection, data: bytes) -> None:
        """Send `data`, as much as the socket takes; the rest when it takes more."""
        try:
            sent = connection.sock.send(data)
        except _NOT_NOW:
            sent = 0
        rest = data[sent:] if sent < len(data) else b""
        if bool(rest) != bool(connection.unsent):
            self._epoll.modify(connection.sock.fileno(),
                               select.EPOLLIN | (select.EPOLLOUT if rest else 0))
        connection.unsent = rest

    def _answered(self, until: int, *, give_up: bool = True) -> Iterator[_Connection]:
        """Wait until `until` (ns) for answers; the connections whose answer is complete.

        Raises DriverError where there is none by then, unless `give_up` is off.
        """
        events = self._epoll.poll(0)
        if not events:
            # Epoll itself waits in whole milliseconds; select on its descriptor, in microseconds.
            wait_s = max(until - time.perf_counter_ns(), 0) / 1e9
            if select.select([self._epoll.fileno()], [], [], wait_s)[0]:
                events = self._epoll.poll(0)
            elif give_up:
                raise DriverError(f"no answer from port {self._job.port} for {DRAIN_S:g} s, "
                                  f"{self._in_flight} requests open")
        for fileno, mask in events:
            connection = self._connections[fileno]
            if mask & select.EPOLLOUT:
                self._push(connection, connection.unsent)
            if mask & ~select.EPOLLOUT and (
                    self._read(connection) or (connection.secure and self._read_on(connection))):
                self._in_flight -= 1
                yield connection

    def _read_on(self, connection: _Connection) -> bool:
        """Take what TLS has deciphered already, of which epoll knows nothing."""
        while connection.secure and connection.secure.pending():
            if self._read(connection):
                return True
        return False

    def _read(self, connection: _Connection) -> bool:
        """Take what has come; whether the answer is complete. Only its length is looked at."""
        buffer = self._buffer
        try:
            size = connection.sock.recv_into(buffer)
        except _NOT_NOW:
            return False
        if not size:
            raise DriverError(f"the server on port {self._job.port} hung up")
        if connection.missing:
            connection.missing -= size
        else:
            if connection.head:
                data: bytes | bytearray = connection.head + buffer[:size]
                size = len(data)
            else:
                data = buffer
            end = data.find(b"\r\n\r\n", 0, size)
            if end < 0:
                connection.head = bytes(data[:size])
                return False
            connection.head = b""
            status, length = parse_head(bytes(data[:end + 2]))
            self._statuses[status] = self._statuses.get(status, 0) + 1
            connection.missing = end + 4 + length - size
        if connection.missing < 0:
            raise DriverError("an answer is longer than its Content-Length")
        return connection.missing == 0


def parse_head(head: bytes) -> tuple[bytes, int]:
    """The status and the Content-Length of an answer's head (status line and headers, each with
    its line end). Raises DriverError.
    """
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if not lower.startswith(b"http/1.1 ") or at < 0:
        raise DriverError(f"no HTTP/1.1 answer with a Content-Length: {head[:200]!r}")
    return head[9:12], int(head[at + 17:head.find(b"\r\n", at + 2)])


def main() -> int:
    """Run the job on stdin."""
    # A sleep may end 50 us late unless told otherwise, which would count as latency (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        outcome = Driver(job).run()
    except DriverError as error:
        print(f"bench.driver: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
