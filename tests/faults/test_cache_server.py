"""A real coordd with its cache in a real Redis: a user of few rights, TLS, faults amid load."""

from __future__ import annotations

import random
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from faults.clients import (
    Address,
    Client,
    Connection,
    Follower,
    Marker,
    Reader,
    Sender,
    all_of,
    shown,
)
from faults.history import INBOXES, History, problems
from support.redis import RedisServer, free_port
from support.server import Server, spawn, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSWORD = "hush-hush-0815"
RIGHTS = ("-@all +ping +multi +exec +unlink +zadd +zcard +zcount +zrangebyscore +zrevrangebyscore "
          "+pexpire")
"""What the cache's user needs, for the role that makes one; the keys: `~coordd:*`."""
LIMIT_S = 30.0


def metrics(server: Server) -> dict[str, float]:
    """Those of the cache."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines
            if line.startswith("coordd_cache_")}


def until(server: Server, condition: Callable[[dict[str, float]], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition(now := metrics(server)):
        assert time.monotonic() < deadline, now
        time.sleep(0.02)


@pytest.mark.timeout(300)
def test_a_server_whose_cache_suffers(tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD + "\n")
    user = f"coordd on >{PASSWORD} ~coordd:* resetchannels {RIGHTS}"
    redis = RedisServer("--user", *user.split()).start()
    server = start(tmp_path / "data", cache="redis", redis_url=redis.url,
                   redis_password_file=password_file, log_level="debug")
    address, history, chance = Address(), History(), random.Random(6)
    address.port = server.port
    readers = [Reader(address, history, seed) for seed in (30, 31)]
    clients: list[Client] = [
        *readers, Sender(address, history, 1), Marker(address, history, 20),
        *(Follower(address, history, 10, to) for to in INBOXES)]
    try:
        for client in clients:
            client.start()
        for _ in range(2):
            for fault in chance.sample((restarted, flushed, paused, filled), 4):
                hits = metrics(server)["coordd_cache_hits_total"]
                fault(server, redis)
                until(server, lambda now, hits=hits: bool(
                    now["coordd_cache_hits_total"] > hits + 20 and now["coordd_cache_connected"]))
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.finish()
        inboxes = {to: all_of(address, to, shown) for to in INBOXES}
        last = metrics(server)
    finally:
        for client in clients:
            client.stopping.set()
        server.stop()
        redis.close()
    assert problems(history, inboxes) == []
    assert all(attempt.outcome == "ok" for attempt in history.attempts)
    assert len(history.attempts) > 100
    assert history.marks
    assert all(reader.reads > 100 for reader in readers)
    assert last["coordd_cache_errors_total"] > 0
    assert PASSWORD not in server.log()
    assert "NOPERM" not in server.log()
    assert "Traceback" not in server.log()
    assert "the cache is lost" in server.log()
    assert "used memory > 'maxmemory'" in server.log()


def restarted(server: Server, redis: RedisServer) -> None:
    redis.kill()
    until(server, lambda now: not now["coordd_cache_connected"])
    time.sleep(0.2)
    redis.start()


def flushed(_server: Server, redis: RedisServer) -> None:
    for _ in range(50):
        redis.ask("FLUSHALL")
        time.sleep(0.005)


def paused(server: Server, redis: RedisServer) -> None:
    redis.pause()
    until(server, lambda now: not now["coordd_cache_connected"])
    redis.resume()


def filled(server: Server, redis: RedisServer) -> None:
    errors = metrics(server)["coordd_cache_errors_total"]
    redis.ask("CONFIG", "SET", "maxmemory", 1)
    until(server, lambda now: now["coordd_cache_errors_total"] > errors)
    redis.ask("CONFIG", "SET", "maxmemory", 0)


def test_without_a_cache_there_is_nothing_to_count(tmp_path: Path) -> None:
    with start(tmp_path / "data") as server:
        assert metrics(server) == {}


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_user_that_redis_refuses(tmp_path: Path, password: str | None) -> None:
    """The server serves; that the cache does not is in its log and its metrics."""
    file = tmp_path / "password"
    file.write_text(password or "")
    redis = RedisServer("--user", *f"coordd on >{PASSWORD} ~* +@all".split(),
                        "--requirepass", "another").start(password="another")
    settings = {"redis_password_file": file} if password else {}
    with start(tmp_path / "data", cache="redis", redis_url=redis.url, **settings) as server:
        assert metrics(server)["coordd_cache_connected"] == 0
        assert "the cache is lost" in server.log()
        connection = Connection(_address(server))
        assert connection.ask("GET", "/api/v1/inbox/bob")[0] == 200
        connection.close()
    redis.close()


def _address(server: Server) -> Address:
    address = Address()
    address.port = server.port
    return address


@pytest.mark.parametrize(("key", "content", "words"), [
    ("redis_password_file", None, "cannot be read"), ("redis_password_file", "\n", "no password"),
    ("redis_ca_file", None, "holds no certificates"),
    ("redis_ca_file", "no certificate", "holds no certificates")])
def test_a_file_that_will_not_do_stops_the_start(tmp_path: Path, key: str, content: str | None,
                                                 words: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    server = spawn(tmp_path / "data", cache="redis", redis_url="rediss://127.0.0.1:1/0",
                   **{key: file})
    assert server.process.wait(LIMIT_S) == 2
    assert server.log().startswith(f'coordd: {key} = "{file}": ')
    assert words in server.log()
    assert server.log().count("\n") == 1


def certificate(folder: Path, name: str) -> None:
    """`<name>.key` and `<name>.crt`, for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
                       critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256()))
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))


def test_over_tls_with_the_right_authority_only(tmp_path: Path) -> None:
    certificate(tmp_path, "ours")
    certificate(tmp_path, "theirs")
    port = free_port()
    redis = RedisServer("--tls-port", str(port), "--tls-cert-file", str(tmp_path / "ours.crt"),
                        "--tls-key-file", str(tmp_path / "ours.key"), "--tls-ca-cert-file",
                        str(tmp_path / "ours.crt"), "--tls-auth-clients", "no").start()
    for name, connected in (("ours", 1), ("theirs", 0)):
        with start(tmp_path / name, cache="redis", redis_url=f"rediss://127.0.0.1:{port}/1",
                   redis_ca_file=tmp_path / f"{name}.crt") as server:
            assert metrics(server)["coordd_cache_connected"] == connected, server.log()
            connection = Connection(_address(server))
            for _ in range(2):
                assert connection.ask("GET", "/api/v1/inbox/bob")[0] == 200
            connection.close()
            assert metrics(server)["coordd_cache_hits_total"] == connected
    assert "CERTIFICATE_VERIFY_FAILED" in server.log()
    redis.close()
