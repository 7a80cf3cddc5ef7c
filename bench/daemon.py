"""The servers that the bench loads: processes of their own, ended by their pid."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from bench.driver import Job, Outcome
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

START_LIMIT_S = 120.0
STOP_LIMIT_S = 120.0
KINDS = ("coordd", "noop", "raw")


class BenchError(Exception):
    """A run that can't be counted; the text says what to look at."""


class Memory(msgspec.Struct, frozen=True):
    """A process's resident memory now, and the most it ever was, in bytes."""

    resident: int
    highest: int


class Daemon:
    """A server on a free port. `kind`: coordd; `noop`, coordd without a store; `raw`, uvicorn.

    `store`: coordd's settings of where the messages are; `data`, a folder, unless told.
    """

    def __init__(self, kind: str, folder: Path, *, data: Path | None = None, store: str = ""
                 ) -> None:
        self.kind = kind
        self.data = data or folder / f"{kind}-data"
        self._store = store or f'data = "{self.data}"\n'
        self._folder = folder
        self._log = folder / f"{kind}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait for /ready; the seconds from the process's start to its first 200."""
        self.port = free_port()
        settings = self._folder / f"{self.kind}.toml"
        settings.write_text(f'port = {self.port}\n{self._store}log_level = "warning"\n',
                            encoding="utf-8")
        argv = {"coordd": ["coordd", "--settings", str(settings)],
                "noop": ["bench.noop_server", "--settings", str(settings)],
                "raw": ["bench.raw_server", str(self.port)]}[self.kind]
        env = {key: value for key, value in os.environ.items() if not key.startswith("COORDD_")}
        with self._log.open("ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen([sys.executable, "-m", *argv], env=env, stdout=log,
                                             stderr=log, stdin=subprocess.DEVNULL)
        while time.perf_counter() - began < START_LIMIT_S:
            if self._process.poll() is not None:
                raise BenchError(f"{self.kind} ended at its start: {self._tail()}")
            try:
                if self.get("/ready")[0] == 200:
                    return time.perf_counter() - began
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.002)
        self.kill()
        raise BenchError(f"{self.kind} isn't ready after {START_LIMIT_S:g} s: {self._tail()}")

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(f"{self.kind} didn't stop in {STOP_LIMIT_S:g} s") from None
        self._process = None
        if code not in (0, -signal.SIGTERM):
            raise BenchError(f"{self.kind} ended with {code}: {self._tail()}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def memory(self) -> Memory:
        """What /proc says of the process now."""
        if self._process is None:
            raise BenchError(f"{self.kind} doesn't run")
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return Memory(*(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the JSON (None where it is none) of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, msgspec.json.decode(body)
        except msgspec.DecodeError:
            return answer.status, None

    def load(self, workload: str, connections: int, **job: Any) -> Outcome:
        """Run the driver in a process of its own. Raises BenchError where an answer isn't 200."""
        described = Job(port=self.port, workload=workload, connections=connections, **job)
        before = self._cpu_s()
        try:
            outcome = drive(described)
        except BenchError as error:
            raise BenchError(f"{error}\n{self.kind}, its log: {self._tail()}") from error
        messages = sum(outcome.statuses.values()) * WORKLOADS[workload][1]
        return msgspec.structs.replace(
            outcome, server_cpu_us=(self._cpu_s() - before) / messages * 1e6)

    def _cpu_s(self) -> float:
        """Processor time of all its threads so far, in the kernel and outside."""
        if self._process is None:
            raise BenchError(f"{self.kind} doesn't run")
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "no log"


def drive(job: Job, inside: Sequence[str] = ()) -> Outcome:
    """Run the driver in a process of its own, which the program `inside` may start where the server
    can be reached. Raises BenchError where an answer isn't 200.
    """
    done = subprocess.run([*inside, sys.executable, "-m", "bench.driver"], capture_output=True,
                          input=msgspec.json.encode(job), check=False,
                          cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise BenchError(done.stderr.decode().strip())
    outcome = msgspec.json.decode(done.stdout, type=Outcome)
    if outcome.failures:
        raise BenchError(f"{job.workload}: answers other than 200: {outcome.statuses}")
    return outcome


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
