"""The process that keeps one coordd running: see supervise.py, whose `run` it is.

A server that dies unasked is started again, after a pause that doubles. Not so one that ends with
exit code 0 (it was asked), with 2 (its settings are wrong), or that never served; and one that
keeps dying early is given up, which the log says.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from coordd.processes import ProcessError, find

BUSY: Final = 3
"""The exit code of a supervisor that finds another one at work."""
WRONG_SETTING: Final = 2
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""A server that has served this long did not die early."""
DEATHS_MAX: Final = 10
"""Early deaths in a row; with the pauses they take about 80 s."""
STOP_LIMIT_S: Final = 120.0
LOG_BYTES_MAX: Final = 8 << 20
LOG_LOOK_S: Final = 60.0
ROTATE_LOOK_S: Final = 3600.0
"""How often logrotate is called; it knows by its own state whether a day has passed."""
ROTATE_LIMIT_S: Final = 300.0

log = logging.getLogger("coordd.supervise")


def lock_of(settings: Path) -> Path:
    """The file that a supervisor of these settings holds a lock on."""
    return settings.with_name(f".{settings.name}.lock")


class Life(NamedTuple):
    """How a server fared. `code` is negative for a signal; `served_s` is 0 if it never served."""

    pid: int
    code: int
    served_s: float

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


class Supervisor:
    """Runs `server` (its argv) until a signal ends it. The log stays below twice LOG_BYTES_MAX."""

    def __init__(self, server: list[str], settings: Path, log_file: Path) -> None:
        self._server = server
        self._log_file = log_file
        self._rotation = settings.with_name("logrotate.conf")
        self._rotated: float | None = None
        self._lock = os.open(lock_of(settings), os.O_RDWR | os.O_CREAT, 0o600)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._stopping = False
        self._hung_up = False

    def run(self) -> int:
        """Supervise; the exit code: 0 asked to end, BUSY, else as the server's last."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return BUSY
        logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                            format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._tell("starting", None)
        name = f"coordd-supervise-{os.getpid()}-{secrets.token_hex(8)}"
        self._ready.bind(f"\0{name}")
        self._environ = os.environ | {"NOTIFY_SOCKET": f"@{name}"}
        signal.set_wakeup_fd(self._wake)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_hangup)
        try:
            self._end_others()
        except ProcessError as error:
            log.error("%s", error)  # noqa: TRY400  the text says it all
            return 1
        return self._serve()

    def _end_others(self) -> None:
        """A server of these settings without a supervisor: one of an earlier version, or one whose
        supervisor was killed. Under the lock nobody else starts one.
        """
        if alone := find(self._server[2:]):
            log.info("coordd (pid %d) runs without a supervisor: it is ended, and started again",
                     alone.pid)
            alone.send(signal.SIGTERM, STOP_LIMIT_S)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_hangup(self, *_: object) -> None:
        self._hung_up = True

    def _tell(self, state: str, pid: int | None) -> None:
        """Write what holds while the lock is held."""
        text = json.dumps({"state": state, "supervisor": os.getpid(), "pid": pid}).encode()
        os.pwrite(self._lock, text.ljust(100) + b"\n", 0)

    def _serve(self) -> int:
        deaths, ever_served = 0, False
        while True:
            self._cap_log()
            life = self._live()
            ever_served = ever_served or life.served_s > 0
            if self._stopping or life.code == 0:
                return max(life.code, 0)
            if life.code == WRONG_SETTING or not ever_served:
                log.error("coordd (pid %d) %s and is not started again", life.pid, life.end)
                return life.code if life.code > 0 else 1
            deaths = 1 if life.served_s >= STEADY_S else deaths + 1
            if deaths >= DEATHS_MAX:
                log.critical("coordd (pid %d) %s. GIVEN UP after %d early deaths in a row: mend "
                             "what the lines above say, then start it", life.pid, life.end, deaths)
                return life.code if life.code > 0 else 1
            pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (deaths - 1))
            log.warning("coordd (pid %d) %s; it is started again in %.1f s", life.pid, life.end,
                        pause_s)
            self._tell("waiting", None)
            self._pause(pause_s)
            if self._stopping:
                return 0

    def _live(self) -> Life:
        """Run the server once, to its end."""
        server = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            self._server, stdin=subprocess.DEVNULL, env=self._environ, start_new_session=True)
        self._tell("starting", server.pid)
        handle = os.pidfd_open(server.pid)
        waits = select.poll()
        for descriptor in (handle, self._ready.fileno(), self._woken):
            waits.register(descriptor, select.POLLIN)
        serving_since: float | None = None
        asked = False
        try:
            while server.poll() is None:
                if self._stopping and not asked:
                    server.terminate()
                    asked = True
                if self._hung_up and serving_since is not None:  # before, it would end it
                    self._hung_up = False
                    server.send_signal(signal.SIGHUP)
                happened = {fd for fd, _ in waits.poll(LOG_LOOK_S * 1000)}
                if self._ready.fileno() in happened:
                    if self._ready.recv(4096) == b"READY=1" and serving_since is None:
                        serving_since = time.monotonic()
                        self._tell("ready", server.pid)
                        self._rotate()
                elif self._woken in happened:
                    os.read(self._woken, 512)
                elif not happened:
                    self._cap_log()
                    self._rotate()
        finally:
            os.close(handle)
        served_s = time.monotonic() - serving_since if serving_since is not None else 0.0
        return Life(server.pid, server.returncode, served_s)

    def _pause(self, seconds: float) -> None:
        """Wait, or until asked to end."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            if select.select([self._woken], [], [], left)[0]:
                os.read(self._woken, 512)

    def _cap_log(self) -> None:
        """Move a full log's lines to NAME.1. The server goes on writing to the same, now empty."""
        try:
            if self._log_file.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self._log_file, self._log_file.with_name(
                    f"{self._log_file.name}.1"))
                os.truncate(self._log_file, 0)
        except OSError as error:
            log.warning("%s can't be shortened: %s", self._log_file, error.strerror)

    def _rotate(self) -> None:
        """Call logrotate where a configuration lies beside the settings: no timer does it here."""
        now = time.monotonic()
        if (self._rotated is not None and now - self._rotated < ROTATE_LOOK_S) or (
                not self._rotation.exists()):
            return
        self._rotated = now
        program = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            log.warning("logrotate is not installed: the events log is not rotated")
            return
        state = self._rotation.with_name("logrotate") / "logrotate.state"
        try:
            done = subprocess.run(  # noqa: S603  found above, no shell
                [program, "--state", str(state), str(self._rotation)], check=False, text=True,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=ROTATE_LIMIT_S)
            if done.returncode != 0:
                log.warning("logrotate: %s", done.stderr.strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("logrotate: %s", error)
