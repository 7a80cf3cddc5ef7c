"""A coordd whose database can't be reached says where, why and what to do, in one line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Databases
from support.redis import free_port
from support.server import Server, spawn

LIMIT_S = 60
SECRET = "not-the-password-7f3a"

Url = Callable[[str], str]


@pytest.fixture(params=["pooled", "direct"])
def url(request: pytest.FixtureRequest, databases: Databases) -> Url:
    """The address of a database, through pgbouncer or not."""
    machine = databases.machine
    return machine.pooled_url if request.param == "pooled" else machine.direct_url


def refusal(server: Server) -> str:
    """What the server ends with, of exit code 1."""
    assert server.process.wait(LIMIT_S) == 1
    log = server.log()
    assert log.startswith("coordd: ")
    assert log.count("\n") == 1, log
    return log.removeprefix("coordd: ").rstrip()


def spawned(databases: Databases, folder: Path, address: str, **settings: Any) -> Server:
    return spawn(folder / "data", **{"engine": "postgres", "postgres_url": address,
                                     "postgres_password_file": databases.machine.password_file,
                                     **settings})


def at(address: str) -> str:
    """The place in the address, as the error has it."""
    return f"the database at {address.removeprefix('postgresql://')} cannot be reached: "


def test_a_port_where_nobody_listens(databases: Databases, tmp_path: Path) -> None:
    address = f"postgresql://127.0.0.1:{free_port()}/messages"
    said = refusal(spawned(databases, tmp_path, address))
    assert said == (f"{at(address)}Connection refused: start Postgres, or its pgbouncer, there, or "
                    "correct postgres_url of the settings")


def test_a_wrong_password(databases: Databases, url: Url, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o600)
    address = url("postgres")
    said = refusal(spawned(databases, tmp_path, address, postgres_password_file=file))
    assert said.startswith(at(address))
    assert "authentication failed" in said
    assert "correct postgres_user and postgres_password_file" in said
    assert SECRET not in said


def test_no_password(databases: Databases, url: Url, tmp_path: Path) -> None:
    address = url("postgres")
    said = refusal(spawned(databases, tmp_path, address, postgres_password_file=None))
    assert said.startswith(f"{at(address)}fe_sendauth: no password supplied: correct postgres_user")


def test_a_database_that_does_not_exist(databases: Databases, url: Url, tmp_path: Path) -> None:
    address = url("nowhere")
    said = refusal(spawned(databases, tmp_path, address))
    assert said.startswith(f'{at(address)}database "nowhere" does not exist: create it there '
                           "(createdb nowhere), then its schema (python -m coordd.schema upgrade")
    assert databases.machine.password_file.read_text() not in said


def test_the_schema_s_command_says_it_too(databases: Databases, tmp_path: Path) -> None:
    address = databases.machine.direct_url("nowhere")
    file = tmp_path / "coordd.toml"
    file.write_text(f'engine = "postgres"\npostgres_url = "{address}"\n'
                    f'postgres_password_file = "{databases.machine.password_file}"\n')
    done = subprocess.run([sys.executable, "-m", "coordd.schema", "show", "--settings", str(file)],
                          capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f'{at(address)}database "nowhere" does not exist' in done.stderr


def test_a_database_that_comes_up_is_waited_for(databases: Databases, tmp_path: Path) -> None:
    machine = databases.machine
    name = databases.new()
    machine.stop_postgres()
    try:
        server = spawned(databases, tmp_path, machine.direct_url(name))
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(1)  # refused at once, it would have ended
    finally:
        machine.start_postgres()
    deadline = time.monotonic() + LIMIT_S
    with server:
        while "listening on" not in server.log():
            assert server.process.poll() is None, server.log()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    databases.drop(name)
