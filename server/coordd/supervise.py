"""`python -m coordd.supervise start|stop|restart|reload|status`: coordd where no systemd is.

A supervisor of its own session runs coordd, starts it again when it dies unasked, and ends with it.
`start` comes back once the server serves. Each verb prints a line of JSON,
`{changed, pid, supervisor, since}`; an error is a line on stderr, the end of the log below it, and
exit code 1 (2 for wrong use).

One supervisor a settings file: it holds a lock on `.NAME.lock` beside it for as long as it lives,
and what stands in that file holds for as long.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from coordd.processes import Process, ProcessError, find
from coordd.supervisor import BUSY, STOP_LIMIT_S, Supervisor, lock_of

START_LIMIT_S: Final = 120.0
LOG_LINES: Final = 8


class Place(NamedTuple):
    """What is supervised: `settings` names the server, `log` takes what it says."""

    settings: Path
    log: Path

    @classmethod
    def of(cls, settings: Path, log: Path | None) -> Place:
        """The place with whole paths; the log is coordd.log beside the settings unless told."""
        settings = settings.parent.resolve() / settings.name
        return cls(settings, log.absolute() if log else settings.with_name("coordd.log"))

    def server(self) -> list[str]:
        """The server's arguments behind the interpreter."""
        return ["-m", "coordd", "--settings", str(self.settings)]

    def supervisor(self) -> list[str]:
        """The supervisor's arguments behind the interpreter."""
        return ["-m", "coordd.supervise", "run", "--settings", str(self.settings)]


def _state(place: Place) -> dict[str, Any] | None:
    """What the supervisor says of itself: `{state, supervisor, pid}`; None where none runs."""
    try:
        descriptor = os.open(lock_of(place.settings), os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            state: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        except ValueError:  # it is being written
            return {"state": "starting"}
        # What an earlier supervisor left there may not be overwritten yet.
        if not Process(state["supervisor"], place.supervisor()).is_there():
            return {"state": "starting"}
        return state
    else:
        return None
    finally:
        os.close(descriptor)


def status(place: Place, *, changed: bool = False) -> dict[str, Any]:
    """`{changed, pid, supervisor, since}`; `since` is when the server began."""
    server, supervisor = find(place.server()), find(place.supervisor())
    return {"changed": changed, "pid": server and server.pid,
            "supervisor": supervisor and supervisor.pid, "since": server and server.since()}


def start(place: Place) -> dict[str, Any]:
    """Start the server, detached from this terminal, and wait until it serves.

    One that runs already is left alone; one without a supervisor is ended and gets one. Raises
    ProcessError, with the log's end, where it ends or does not serve in time (it then runs on: a
    long recovery is no reason to end it).
    """
    ours: subprocess.Popen[bytes] | None = None
    begin = place.log.stat().st_size if place.log.exists() else 0
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        state = _state(place)
        if (state is not None and state["state"] == "ready"
                and Process(state["pid"], place.server()).is_there()):
            won = ours is not None and ours.poll() is None
            return status(place, changed=won)
        if state is None and ours is None:
            ours = _spawn(place)
        elif ours is not None and (code := ours.poll()) is not None:
            if code != BUSY:
                raise ProcessError(f"the server ended with exit code {code}; its log "
                                     f"({place.log}) says:\n{_last_lines(place.log, begin)}")
            if state is None:  # the one that was first has ended
                ours = None
        time.sleep(0.02)
    raise ProcessError(f"the server does not serve after {START_LIMIT_S:.0f} s; it goes on "
                         f"trying. Its log ({place.log}) says:\n{_last_lines(place.log, begin)}")


def _spawn(place: Place) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORDD_")}
    with place.log.open("ab") as log:
        os.fchmod(log.fileno(), 0o600)
        # -P: a file in the current folder must not stand in for one of the server's modules.
        return subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            [sys.executable, "-P", *place.supervisor(), "--log", str(place.log)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=place.settings.parent,
            env=environ, start_new_session=True, umask=0o077)


def _last_lines(log: Path, begin: int) -> str:
    """The end of what was logged since `begin` (a place in the log, in bytes)."""
    with log.open("rb") as text:
        size = text.seek(0, os.SEEK_END)
        text.seek(max(begin if begin <= size else 0, size - 16384))
        lines = text.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return "\n".join(f"  {line}" for line in lines)


def _all(place: Place) -> Iterator[Process]:
    """The supervisor and the server, while there are any; the supervisor ends its server."""
    while found := find(place.supervisor()) or find(place.server()):
        yield found


def stop(place: Place) -> dict[str, Any]:
    """End the server and its supervisor, and wait until they have. Raises ProcessError."""
    changed = False
    for process in _all(place):
        process.send(signal.SIGTERM, STOP_LIMIT_S)
        changed = True
    return status(place, changed=changed)


def restart(place: Place) -> dict[str, Any]:
    """Stop, then start. Raises ProcessError."""
    stop(place)
    return start(place) | {"changed": True}


def reload(place: Place) -> dict[str, Any]:
    """Have the server open its logs anew. Raises ProcessError."""
    process = find(place.supervisor()) or find(place.server())
    if process is None:
        raise ProcessError(f"nothing runs for {place.settings}")
    process.send(signal.SIGHUP)
    return status(place, changed=True)


VERBS: Final = {"start": start, "stop": stop, "restart": restart, "reload": reload,
                "status": status}


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(prog="coordd.supervise", description="Keeps coordd running.")
    parser.add_argument("verb", choices=[*VERBS, "run"], metavar="|".join(VERBS))
    parser.add_argument("--settings", type=Path, metavar="FILE", required=True,
                        help="coordd's settings, see docs/settings.md")
    parser.add_argument("--log", type=Path, metavar="FILE",
                        help="where its log goes [coordd.log beside the settings]")
    arguments = parser.parse_args(argv)
    place = Place.of(arguments.settings, arguments.log)
    if arguments.verb == "run":
        return Supervisor([sys.executable, "-P", *place.server()], place.settings, place.log).run()
    try:
        answer = VERBS[arguments.verb](place)
    except ProcessError as error:
        sys.stderr.write(f"coordd.supervise: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"coordd.supervise: {error.filename}: {error.strerror}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
