"""`coordd --settings FILE`: start, serve until SIGTERM, exit 0.

An error at the start is one line on stderr; exit code 2 for a wrong setting, 1 for all others.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import secrets
import sys
from pathlib import Path
from socket import socket
from typing import Final, NoReturn

import uvloop

from coordd import __version__, settings
from coordd.daemon import Daemon
from coordd.engines import open_engine
from coordd.http import server as http
from coordd.notify import notify
from coordd.settings import Settings, SettingsError
from coordd.store import StoreDamagedError, StoreError, StoreLockedError, StoreUnavailableError

GC_THRESHOLDS: Final = (100_000, 50, 100)
"""What a request leaves behind is freed by reference counts; cycles are few."""

SWITCH_INTERVAL_S: Final = 0.0003
"""How long the writer's thread, back from the disk, may have to wait for the event loop's. With
Python's 5 ms that wait, not the disk, is the beat of the commits (a tenth of the batches' rate)."""

log = logging.getLogger("coordd")


class StartError(Exception):
    """The server cannot start. The text is one line."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(prog="coordd", description="The message server.")
    parser.add_argument("--settings", type=Path, metavar="FILE",
                        help="a TOML file, see docs/settings.md; COORDD_<KEY> overrides a key")
    parser.add_argument("--check", action="store_true",
                        help="check the settings, start nothing")
    parser.add_argument("--version", action="version", version=f"coordd {__version__}")
    arguments = parser.parse_args(argv)
    try:
        wanted = settings.load(arguments.settings, os.environ)
        if arguments.check:
            # What systemd gives a unit is there only while the unit runs.
            if wanted.admin_token_file and not settings.is_credential(wanted.admin_token_file):
                from coordd.auth import read_admin_secret

                read_admin_secret(wanted.admin_token_file)
            if wanted.cache == "redis" and not (
                    wanted.redis_password_file
                    and settings.is_credential(wanted.redis_password_file)):
                from coordd.cache.address import connections

                connections(wanted)
            if wanted.archive_url and not (
                    wanted.archive_s3_credentials_file
                    and settings.is_credential(wanted.archive_s3_credentials_file)):
                from coordd.archive import open_archive

                open_archive(wanted)
            _check_work(wanted)
            sys.stdout.write("coordd: the settings are right\n")
            return 0
        return run(wanted)
    except SettingsError as error:
        return _failed(error, 2)
    except StartError as error:
        return _failed(error, 1)


def _check_work(wanted: Settings) -> None:
    """Raises SettingsError."""
    if wanted.smtp_host and not (wanted.smtp_password_file
                                 and settings.is_credential(wanted.smtp_password_file)):
        from coordd.work.mail import mailer_of

        mailer_of(wanted)
    if wanted.queue == "rabbitmq" and not (wanted.queue_password_file
                                           and settings.is_credential(wanted.queue_password_file)):
        from coordd.work.broker import make_app

        make_app(wanted)


def _failed(error: Exception, code: int) -> int:
    text = " ".join(str(error).split("\n"))
    sys.stderr.write(f"coordd: {text}\n")
    return code


def run(wanted: Settings) -> int:
    """Serve until a signal ends it. Raises StartError, SettingsError."""
    logging.basicConfig(stream=sys.stderr, level=wanted.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = secrets.token_hex(4)
    daemon = Daemon(wanted, open_engine(wanted, _die, server), server)
    sock = _bound(wanted)
    with sock:
        uvloop.run(_serve(wanted, daemon, sock))
    return 0


def _bound(wanted: Settings) -> socket:
    """The port is taken first, so that a taken one is told before the store is touched."""
    try:
        return http.bind(wanted.host, wanted.port)
    except OSError as error:
        raise StartError(f"cannot listen on {wanted.host} port {wanted.port}: "
                         f"{error.strerror}: set another port or host, or stop the other server"
                         ) from error


async def _serve(wanted: Settings, daemon: Daemon, sock: socket) -> None:
    try:
        await daemon.open()
    except StoreLockedError as error:
        raise StartError(f"{error}: stop the other server, or set another data folder") from error
    except StoreDamagedError as error:
        raise StartError(f"{wanted.data} is damaged: {error}: restore it from a backup") from error
    except StoreUnavailableError as error:
        raise StartError(str(error)) from error
    except (StoreError, OSError) as error:
        reason = str(error) if isinstance(error, StoreError) else (
            f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
        what = f"the data folder {wanted.data}" if wanted.engine == "files" else "the database"
        raise StartError(f"cannot open {what}: {reason}") from error
    server = http.Server(daemon.application, drain_s=wanted.drain_s, on_stop=daemon.hub.close,
                         on_hangup=lambda: _hang_up(daemon))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        sock.listen(http.BACKLOG)
        log.info("coordd %s listening on %s, data in %s", __version__, http.url_of(sock),
                 wanted.postgres_url if wanted.engine == "postgres" else wanted.data)
        notify("READY=1")
        await server.serve(sockets=[sock])
    except OSError as error:
        raise StartError(f"cannot listen on {wanted.host} port {wanted.port}: "
                         f"{error.strerror}") from error
    finally:
        notify("STOPPING=1")
        await daemon.close()
    log.info("stopped")


def _hang_up(daemon: Daemon) -> None:
    """SIGHUP: logrotate has moved the logs."""
    reopen = getattr(daemon.store, "reopen_logs", None)
    if reopen is not None:
        reopen()


def _die(error: BaseException) -> NoReturn:
    """The store cannot keep its promises: end at once, so that nothing more is answered."""
    log.critical("coordd: the store failed and the server ends: %s", error)
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
