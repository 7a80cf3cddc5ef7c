"""A real RabbitMQ of a test's own, with TLS, its own folder, ports and node name.

It is Debian's package, run as a process of the test; nothing of the machine's own RabbitMQ is used.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from coordctl import pki
from coordd.settings import Settings
from coordd.work.broker import RabbitQueue

from .child import Child
from .redis import free_port

START_LIMIT_S = 100.0
BIN = Path("/usr/lib/rabbitmq/bin")


class RabbitServer(Child):
    """Started by `start`. What its queues hold outlives a `kill`; `forget` takes it away.

    `user` may touch `coordd.*` alone, as a site's may.
    """

    user = "coordd"

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rabbitmq-")
        self.folder = folder = Path(self._temporary.name)
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        password = secrets.token_urlsafe(24)
        self.password_file = self._file("password", password)
        authority = pki.new_authority("test")
        pair = pki.new_server(authority, ["localhost", "127.0.0.1"])
        self.ca_file = self._file("ca.pem", authority.certificate)
        self._file("server.pem", pair.certificate)
        self._file("server.key", pair.key)
        self._file("plugins", "[].")
        self._file("rabbitmq.conf", "\n".join((
            "listeners.tcp = none", f"listeners.ssl.1 = 127.0.0.1:{self.port}",
            f"ssl_options.cacertfile = {folder}/ca.pem",
            f"ssl_options.certfile = {folder}/server.pem",
            f"ssl_options.keyfile = {folder}/server.key", "ssl_options.verify = verify_none",
            f"default_user = {self.user}", f"default_pass = {password}",
            r"default_permissions.configure = ^coordd\..*$",
            r"default_permissions.write = ^(coordd\..*|amq\.default)$",
            r"default_permissions.read = ^coordd\..*$",
            "disk_free_limit.absolute = 50MB", "log.file = false", "log.console = true", "")))
        self.url = f"amqps://127.0.0.1:{self.port}/"
        self._env = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port), "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none", "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data", "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1"}

    def _file(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.touch(0o600)
        file.write_text(text, encoding="utf-8")
        return file

    @property
    def settings(self) -> dict[str, Any]:
        """Those of a coordd that uses it."""
        return {"queue": "rabbitmq", "queue_url": self.url, "queue_user": self.user,
                "queue_password_file": self.password_file, "queue_ca_file": self.ca_file}

    def queue(self) -> RabbitQueue:
        """As coordd has it."""
        return RabbitQueue(Settings(data=Path("unused"), **self.settings))

    def start(self) -> Self:
        """Start it and wait until its port takes connections."""
        log = self.folder / "log.txt"
        with log.open("ab") as out:
            self._process = subprocess.Popen([BIN / "rabbitmq-server"], env=self._env, stdout=out,
                                             stdin=subprocess.DEVNULL, stderr=out, cwd=self.folder)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def forget(self) -> None:
        """Kill it and take away all that it knew: its machine was lost."""
        self.kill()
        subprocess.run(["rm", "-rf", self.folder / "data"], check=True)

    def close(self) -> None:
        """Kill it, end the port mapper that it has started, remove its folder."""
        self.kill()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            done = subprocess.run(["epmd", "-kill"], env=self._env, capture_output=True)
            if b"Killed" in done.stdout or b"Cannot connect" in done.stdout + done.stderr:
                break
            time.sleep(0.2)
        self._temporary.cleanup()


class Worker:
    """A Celery worker of the kit, with a server's settings file."""

    def __init__(self, settings: Path, python: str) -> None:
        self._log = settings.with_suffix(".worker.log")
        env = {k: v for k, v in os.environ.items() if not k.startswith("COORDD_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [python, "-P", "-m", "celery", "-A", "coordd.work.celery_app", "worker"],
                env=env | {"COORDD_SETTINGS": str(settings)}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=settings.parent)

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL, then wait."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM: a warm shutdown; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
